"""The recorded runs: the plan and its order, locks between processes, and failures that stop no other job."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest

from d3d import io, tables
from d3d.cli import _configs, main
from d3d.commands import without
from d3d.errors import BusyError, ConfigError, RunError
from d3d.pipeline import graph, record, stages
from d3d.pipeline.config import ENSEMBLE, make_config
from d3d.pipeline.graph import Key


@pytest.fixture
def configs(tmp_path):
    return [make_config(profile="laptop", seed=s, runs_dir=str(tmp_path)) for s in (0, 1, 2)]


class FakeJob:
    """A job of the interface that `work` uses."""

    def __init__(self, name, needs=(), fails=None, busy=0):
        self.name, self.needs, self.fails, self.busy = name, needs, fails, busy
        self.done, self.order = False, None

    @property
    def ready(self):
        return all(n.done for n in self.needs)

    def run(self):
        if self.busy:
            self.busy -= 1
            raise BusyError("somebody else is at it")
        if self.fails:
            raise self.fails
        self.done = True
        self.order.append(self.name)


def doing(*jobs):
    order = []
    for job in jobs:
        job.order = order
    record.work(jobs, wait_s=0.001)
    return order


def test_the_plan_has_every_training_of_the_tables_once(configs):
    jobs = record.plan(configs)
    assert len({j.name for j in jobs}) == len(jobs)
    place = {(j.config.seed, j.arch, j.labels, j.config.round): k for k, j in enumerate(jobs)}
    cells = {
        (s, a, labels, 1)
        for s in (0, 1, 2)
        for a in (*ENSEMBLE, "lite")
        for labels in ("", "pred", "uncer", "robust")
    }
    ablation = {(s, "monodepth2", labels, 1) for s in (0, 1, 2) for labels in record.ABLATION}
    assert set(place) == cells | ablation | {(0, "monodepth2", "uncer", 2)}
    assert {*record.TAUGHT, *record.ABLATION} >= set(tables.ABLATION)
    for (seed, arch, labels, _), k in place.items():
        assert not labels or place[seed, arch, "", 1] < k, "teachers come before their students"
    assert max(place[cell] for cell in cells) < min(place[cell] for cell in ablation)
    # all seeds of the first student, then of lite, then the other students
    taught = [j.arch for j in jobs if j.labels in record.TAUGHT and j.config.round == 1]
    assert taught == [a for a in ("monodepth2", "lite", "hrdepth", "monovit") for _ in range(9)]


def test_the_students_of_the_plan_can_be_chosen(configs):
    jobs = record.plan(configs[:1], ("lite",))
    assert [(j.arch, j.labels) for j in jobs] == [
        *((a, "") for a in ("lite", *ENSEMBLE)),
        *(("lite", labels) for labels in (*record.TAUGHT, *record.ABLATION)),
    ]
    demo = record.plan([make_config(profile="demo")])
    assert {j.arch for j in demo if j.labels} == {"monodepth2", "lite"}
    assert {j.config.round for j in demo} == {1}  # not the whole ensemble has students


@pytest.mark.parametrize(
    ("words", "students"),
    [
        ([], {"monodepth2", "lite"}),
        (["--arch", "hrdepth"], {"hrdepth"}),
        (["--archs", "lite,monovit"], {"lite", "monovit"}),
    ],
)
def test_the_command_has_the_students_that_it_names(words, students, monkeypatch, tmp_path):
    planned = []
    monkeypatch.setattr(record, "work", planned.extend)
    monkeypatch.setattr("d3d.parallel.processes.end_with_parent", lambda: None)
    assert main(["record", "--profile", "demo", "--runs-dir", str(tmp_path), *words]) == 0
    assert {j.arch for j in planned if j.labels} == students


def test_what_was_waited_for_is_done_next():
    teacher = FakeJob("teacher", busy=1)
    student = FakeJob("student", needs=(teacher,))
    assert doing(student, FakeJob("other"), teacher) == ["other", "teacher", "student"]


def test_a_failure_costs_only_what_waits_for_it():
    broken = FakeJob("broken", fails=ValueError("no such room"))
    other = FakeJob("other")
    with pytest.raises(RunError, match=r"1 of 3 recorded runs failed:\n  broken: ValueError: no such room"):
        doing(broken, FakeJob("waits", needs=(broken,)), other)
    assert other.done


def test_a_student_is_ready_when_every_teacher_of_its_uncertainty_is(configs):
    job = record.Job(configs[0], "monodepth2", "uncer")
    assert not job.ready
    for arch in ENSEMBLE:
        folder = stages.stage_folder(configs[0], "pretrain", arch)
        io.write_json(
            folder / "config.json",
            {"identity": stages.identity_of(configs[0], "pretrain", arch), "inputs": {}},
        )
        io.write_json(folder / "DONE", {"outputs": {"weights.safetensors": arch}})
        alone = record.Job(configs[0], "monodepth2", "pred").ready
        assert alone == (stages.stage_folder(configs[0], "pretrain", "monodepth2") / "DONE").is_file()
    assert job.ready
    assert not record.Job(replace(configs[0], round=2), "monodepth2", "uncer").ready


def test_a_folder_in_use_is_busy_and_not_a_failure(configs):
    inside, leave = threading.Event(), threading.Event()

    def hold():
        with graph.open_stage(configs[0], Key("pretrain", "hrdepth")):
            inside.set()
            leave.wait(30)

    holder = threading.Thread(target=hold)
    holder.start()
    try:
        assert inside.wait(30)
        with (
            pytest.raises(BusyError, match="in use"),
            graph.open_stage(configs[0], Key("pretrain", "hrdepth")),
        ):
            pass
    finally:
        leave.set()
        holder.join()


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="needs Linux's list of a process' children")
def test_processes_end_when_the_command_is_killed(tmp_path):
    command = ["record", "--profile", "smoke", "--seeds", "0", "--processes", "2", "--runs-dir"]
    arguments = [sys.executable, "-m", "d3d", *command, str(tmp_path)]
    with subprocess.Popen(arguments, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        children: list[int] = []
        deadline = time.monotonic() + 120
        while len(children) < 2:
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.05)
            path = Path(f"/proc/{process.pid}/task/{process.pid}/children")
            children = [int(pid) for pid in path.read_text().split()]
        while not list(tmp_path.glob("*/pretrain/*/config.json")):  # they are at work
            assert time.monotonic() < deadline
            time.sleep(0.05)
        process.kill()
    while any(_alive(pid) for pid in children):
        assert time.monotonic() < deadline, "a process went on alone"
        time.sleep(0.05)


def _alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def test_seeds_name_their_runs_and_nothing_else_may(capsys):
    assert main(["record", "--profile", "smoke", "--seeds", "0,1", "--run", "x"]) == 2
    assert "each seed has its own run" in capsys.readouterr().err
    several = _configs({"profile": "smoke", "run": "twice{seed}", "base": "once{seed}"}, "0,3")
    assert [(c.seed, c.run, c.base) for c in several] == [(0, "twice0", "once0"), (3, "twice3", "once3")]
    assert [c.run for c in _configs({"profile": "smoke"}, "1")] == ["glossyrooms-smoke-seed1"]
    assert main(["record", "--profile", "smoke", "--seeds", "0,one"]) == 2
    assert "whole numbers" in capsys.readouterr().err
    with pytest.raises(ConfigError, match="at least 1"):
        record.work_in_processes([], [], 0)
    assert without(["record", "--processes", "2", "--seeds=0"], "--processes") == ["record", "--seeds=0"]
    assert without(["record", "--processes=2", "--seeds", "0"], "--processes") == ["record", "--seeds", "0"]
