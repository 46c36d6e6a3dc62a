"""Recorded runs: all trainings and evaluations behind the results in the README.

``python -m d3d record --profile laptop --processes 2`` runs them in two processes. Finished work is skipped,
interrupted work resumes. The processes share the work through locks in the folders of the stages. You can start more
processes on any machine with access to the folder of the runs, and stop any of them.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

from d3d.errors import BusyError, ConfigError, RunError, counted
from d3d.parallel.processes import start as start_process
from d3d.pipeline import graph, runs, stages
from d3d.pipeline.config import Config
from d3d.pipeline.stages.trainings import trained
from d3d.progress import say

# labels of the students in Tables 2 to 4, then the other labels of Table 6 and "signed"
TAUGHT = ("pred", "uncer", "robust")
ABLATION = ("diff", "proj", "mv", "proj_lowres", "signed")
SPLITS = ("val", "test")


@dataclass(frozen=True)
class Job:
    """The training of one network (labels "": self-supervised) and its evaluation on each split."""

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
        """Whether the scores of every split are finished."""
        return all(stages.is_finished(c, "evaluate", self.arch, self.labels) for c in self._evaluations())

    @property
    def ready(self) -> bool:
        """Whether all trainings that this job depends on are finished."""
        needs = graph.all_needs(self.config, trained(self.config, self.arch, self.labels))
        trainings = [key for key in needs if key.stage in ("pretrain", "distill")]
        return all(graph.finished(self.config, key) for key in trainings)

    def run(self) -> None:
        """Compute the missing results; a `BusyError` if another process computes one of them."""
        for config in self._evaluations():
            stages.evaluate(config, self.arch, self.labels)


def plan(configs: Sequence[Config], students: Sequence[str] = ()) -> list[Job]:
    """List the recorded jobs, the most important first.

    Tables 2 to 4 get every seed in every cell: first of the first student, then of `lite`, then of the other students.
    Table 6 follows, of the first student, and a second round of distillation if the whole ensemble has students.

    Args:
        configs: one configuration for each seed.
        students: architectures of the students; by default the profile's and `lite`.
    """
    first = configs[0]
    students = students or tuple(dict.fromkeys((first.students[0], "lite", *first.students)))
    main = students[0]
    jobs = [
        Job(config, *training)
        for arch in students
        for config in configs
        for training in (
            # the ensemble's uncertainty needs all its networks
            *((a,) for a in dict.fromkeys((arch, *config.ensemble))),
            *((arch, labels) for labels in TAUGHT),
        )
    ]
    jobs += [Job(config, main, labels) for config in configs for labels in ABLATION]
    if set(first.ensemble) <= set(students):
        jobs.append(Job(replace(first, round=2), main, first.labels))
    return list({job.name: job for job in jobs}.values())


def work(jobs: Sequence[Job], wait_s: float = 10.0) -> None:
    """Run jobs until all are finished, by this process or by others.

    Args:
        wait_s: pause in seconds while other processes run all remaining jobs.

    Raises:
        RunError: some jobs failed. The other jobs are finished before the error.
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
            except Exception as error:  # reported at the end; the other jobs still run
                failed[job.name] = f"{type(error).__name__}: {error}"
                say(f"[record] {job.name} FAILED: {failed[job.name]}")
                continue
            left = sum(not j.done for j in jobs)
            say(f"[record] {job.name}: {time.monotonic() - start:.0f} s, {left} of {len(jobs)} left")
            break  # a more important job may be ready now
        else:
            if all(j.name in failed or j.done or not j.ready for j in jobs) and failed:
                break  # the remaining jobs depend on failed jobs
            time.sleep(wait_s)  # other processes run all jobs that are ready
    if failed:
        lines = "\n  ".join(f"{name}: {why}" for name, why in failed.items())
        raise RunError(
            f"{len(failed)} of {len(jobs)} recorded runs failed:\n  {lines}\nRepeat the command to try again."
        )


def work_in_processes(jobs: Sequence[Job], arguments: Sequence[str], processes: int) -> None:
    """Start several processes of the same command, and report their progress.

    The processes share the cores equally. On a CPU, parallel trainings finish sooner than consecutive trainings.

    Args:
        arguments: arguments of ``python -m d3d``, without the number of processes.

    Raises:
        RunError: a process failed; the message names its log.
    """
    if processes < 1:
        raise ConfigError(f"processes = {processes} must be at least 1.")
    folder = runs.run_folder(jobs[0].config).parent
    folder.mkdir(parents=True, exist_ok=True)
    threads = str(max(1, (os.cpu_count() or 1) // processes))
    environment = {**os.environ, "OMP_NUM_THREADS": threads, "OMP_WAIT_POLICY": "passive"}
    command = [sys.executable, "-m", "d3d", *arguments, "--processes", "1"]
    logs = [folder / f"record-{k}.log" for k in range(processes)]
    working = f"{counted(processes, 'process', 'processes')} with {counted(int(threads), 'thread')} each"
    say(f"[record] {working}; their output: {folder}/record-*.log")
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
    ended = (0, -signal.SIGTERM, 128 + signal.SIGTERM)  # the command line ends itself after SIGTERM
    bad = [str(log) for log, code in zip(logs, codes, strict=True) if code not in ended]
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
            # a rough estimate: the durations of trainings differ by a factor of three
            left = minutes / (done - before) * (len(jobs) - done)
            say(f"[record] {done} of {len(jobs)} done, {minutes:.0f} min, about {left:.0f} min left")
            shown = done
