"""The recorded runs: every training and evaluation behind the results in the README, by several processes.

``python -m d3d record --profile laptop --processes 2``. Finished work is skipped, interrupted work resumes. The
processes share the work through the locks of the stages' folders: start more of them on any machine that sees the
folder of the runs, or stop any of them.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

from d3d.errors import BusyError, ConfigError, RunError
from d3d.parallel.processes import start as start_process
from d3d.pipeline import graph, runs, stages
from d3d.pipeline.config import Config
from d3d.pipeline.stages.trainings import trained
from d3d.progress import say

# Table 6, and one rule beyond it
ABLATION = ("pred", "uncer", "diff", "proj", "mv", "proj_lowres", "signed")
SPLITS = ("val", "test")


@dataclass(frozen=True)
class Job:
    """The training of one network (labels "": the self-supervised one) and its evaluation on each split."""

    config: Config
    arch: str
    labels: str = ""

    @property
    def name(self) -> str:
        config = self.config
        rounds = f", round {config.round}" if config.round > 1 else ""
        return f"{config.run}: {self.arch} {self.labels or 'self-supervised'}{rounds}"

    def _evaluations(self) -> list[Config]:
        e = self.config.evaluation
        return [replace(self.config, evaluation=replace(e, split=split)) for split in SPLITS]

    @property
    def done(self) -> bool:
        """Whether the scores of every split are there."""
        return all(stages.is_finished(c, "evaluate", self.arch, self.labels) for c in self._evaluations())

    @property
    def ready(self) -> bool:
        """Whether the trainings that this one learns from are finished."""
        needs = graph.all_needs(self.config, trained(self.config, self.arch, self.labels))
        trainings = [key for key in needs if key.stage in ("pretrain", "distill")]
        return all(graph.finished(self.config, key) for key in trainings)

    def run(self) -> None:
        """Compute what is missing; a `BusyError` if another process computes it, or something that it needs."""
        for config in self._evaluations():
            stages.evaluate(config, self.arch, self.labels)


def plan(configs: Sequence[Config], students: Sequence[str] = ()) -> list[Job]:
    """Everything that is recorded, the most important first.

    The first seed has students of each network, every label of Table 6 with the first one, and a second round of
    distillation if the whole ensemble has students; the other seeds have the first network's self-teaching, 3D
    distillation and Table 6.

    Args:
        configs: one for each seed.
        students: networks that get students; by default the profile's.
    """
    first, *others = configs
    students = students or first.students
    main = students[0]

    def seed(config: Config, students: Sequence[str]) -> list[Job]:
        taught = [Job(config, arch, labels) for arch in students for labels in ABLATION[:2]]
        return [Job(config, arch) for arch in dict.fromkeys((*config.ensemble, *students))] + taught

    def ablation(config: Config) -> list[Job]:
        return [Job(config, main, labels) for labels in ABLATION[2:]]

    jobs = seed(first, students) + ablation(first)
    for config in others:
        jobs += seed(config, (main,))
    if set(first.ensemble) <= set(students):
        jobs.append(Job(replace(first, round=2), main, first.labels))
    return jobs + [job for config in others for job in ablation(config)]


def work(jobs: Sequence[Job], wait_s: float = 10.0) -> None:
    """Do jobs until all are done, by this process or by others.

    Raises:
        RunError: jobs failed; all other jobs were done first.
    """
    failed: dict[str, str] = {}
    while todo := [j for j in jobs if j.name not in failed and not j.done]:
        for job in todo:
            if job.done or not job.ready:
                continue
            start = time.monotonic()
            try:
                job.run()
            except BusyError:
                continue
            except Exception as error:  # the other jobs go on
                failed[job.name] = f"{type(error).__name__}: {error}"
                say(f"[record] {job.name} FAILED: {failed[job.name]}")
                continue
            left = sum(not j.done for j in jobs)
            say(f"[record] {job.name}: {time.monotonic() - start:.0f} s, {left} of {len(jobs)} left")
            break  # a more important job may be ready now
        else:
            if all(j.name in failed or j.done or not j.ready for j in jobs) and failed:
                break  # the rest waits for the jobs that failed
            time.sleep(wait_s)  # other processes do all that could be done
    if failed:
        lines = "\n  ".join(f"{name}: {why}" for name, why in failed.items())
        raise RunError(
            f"{len(failed)} of {len(jobs)} recorded runs failed:\n  {lines}\nRepeat the command to try again."
        )


def work_in_processes(jobs: Sequence[Job], arguments: Sequence[str], processes: int) -> None:
    """Start processes of the same command, each with one job at a time, and report their progress.

    Each gets its share of the cores: on a CPU, trainings side by side finish sooner than one after the other.

    Args:
        arguments: of ``python -m d3d``, without the number of processes.

    Raises:
        RunError: a process ended with an error; its log is named.
    """
    if processes < 1:
        raise ConfigError(f"processes = {processes} must be at least 1.")
    folder = runs.run_folder(jobs[0].config).parent
    folder.mkdir(parents=True, exist_ok=True)
    threads = str(max(1, (os.cpu_count() or 1) // processes))
    environment = {**os.environ, "OMP_NUM_THREADS": threads, "OMP_WAIT_POLICY": "passive"}
    command = [sys.executable, "-m", "d3d", *arguments, "--processes", "1"]
    logs = [folder / f"record-{k}.log" for k in range(processes)]
    say(f"[record] {processes} processes of {threads} threads; their output is in {folder}/record-*.log")
    workers = []
    for log in logs:
        with open(log, "a") as file:
            workers.append(start_process(command, environment, stdout=file, stderr=subprocess.STDOUT))
    try:
        _report(jobs, workers)
    finally:
        for worker in workers:
            worker.terminate()
    codes = [w.wait() for w in workers]
    bad = [str(log) for log, code in zip(logs, codes, strict=True) if code not in (0, -15)]
    if bad:
        raise RunError(f"{len(bad)} of {processes} processes failed; see {', '.join(bad)}.")


def _report(jobs: Sequence[Job], workers: Sequence[subprocess.Popen], every_s: float = 5.0) -> None:
    start = time.monotonic()
    shown = before = sum(j.done for j in jobs)
    while any(worker.poll() is None for worker in workers):
        time.sleep(every_s)
        done = sum(j.done for j in jobs)
        if done > shown:
            minutes = (time.monotonic() - start) / 60
            # trainings differ by a factor of three: a rough guess is better than none
            left = minutes / (done - before) * (len(jobs) - done)
            say(f"[record] {done} of {len(jobs)} done, {minutes:.0f} min, about {left:.0f} min left")
            shown = done
