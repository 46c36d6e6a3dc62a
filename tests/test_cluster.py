"""Scenes as tasks: in this process, on a local cluster, and on a scheduler of dask's command line that is killed."""

import hashlib
import os
import signal
import subprocess
import sys
import threading
import time
import types
from dataclasses import replace
from pathlib import Path

import pytest

from d3d.errors import ConfigError, DataError, RunError, TasksError, WriteError
from d3d.parallel import tasks as cluster
from d3d.parallel.tasks import advance, check_scheduler, own_cores, run_tasks
from d3d.pipeline.config import make_config
from d3d.pipeline.stages import identity_of

pytest.importorskip("distributed")

HERE = Path(__file__).resolve().parent


# tasks: of this module, which workers import


def square(i):
    return i * i


def whose(i):
    return os.getpid()


def picky(i):
    advance(3)
    if i % 4 == 1:
        raise DataError(f"frame {i} is damaged")
    return i


def count_to(folder, name, ends):
    """Raise an error until the given number of calls. A folder counts the calls."""
    tries = len(list(folder.glob(f"{name}-*")))
    (folder / f"{name}-{tries}").touch()
    if tries < ends:
        raise OSError(f"try {tries}")
    return tries


def die_once(folder, name):
    """Kill the worker at the first call, as the kernel does when memory runs out."""
    if name == "2" and not (folder / "died").exists():
        (folder / "died").touch()
        os.kill(os.getpid(), signal.SIGKILL)
    (folder / f"{name}.txt").write_text(name)
    return name


def die_always(name):
    if name == "2":
        os.kill(os.getpid(), signal.SIGKILL)
    return name


def full_disk(i):
    raise WriteError("depth.png cannot be written: the disk is full.")


def slow(folder, name, seconds):
    time.sleep(seconds)
    (folder / f"{name}.txt").write_text(name)
    return name


@pytest.fixture(scope="module", autouse=True)
def _importable():
    """Let workers find this module: they are separate processes and use PYTHONPATH."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join((str(HERE), os.environ.get("PYTHONPATH", ""))))
        yield
    cluster.close()


def test_in_this_process_in_order():
    assert run_tasks(square, {str(i): (i,) for i in range(4)}, what="t", scheduler="none") == {
        "0": 0, "1": 1, "2": 4, "3": 9,
    }  # fmt: skip
    assert set(run_tasks(whose, {"a": (0,)}, what="t", scheduler="none").values()) == {os.getpid()}
    assert run_tasks(square, {}, what="t", scheduler="none") == {}


@pytest.mark.parametrize("scheduler", ["none", "local"])
def test_what_fails_is_listed_when_all_others_are_done(scheduler):
    tasks = {f"scene{i}": (i,) for i in range(8)}
    with pytest.raises(TasksError, match=r"2 of 8 failed") as caught:
        run_tasks(picky, tasks, what="t", scheduler=scheduler, workers=2, sizes=dict.fromkeys(tasks, 5))
    assert caught.value.failures == {f"scene{i}": f"frame {i} is damaged" for i in (1, 5)}
    with pytest.raises(DataError, match="frame 1 is damaged"):
        run_tasks(picky, {"scene1": (1,)}, what="t", scheduler=scheduler, workers=2)


@pytest.mark.parametrize("scheduler", ["none", "local"])
def test_another_error_than_our_own_is_tried_again(scheduler, tmp_path):
    tasks = {name: (tmp_path, name, ends) for name, ends in (("never", 0), ("twice", 2))}
    assert run_tasks(count_to, tasks, what="t", scheduler=scheduler, workers=2) == {"never": 0, "twice": 2}
    tasks = {"a": (tmp_path, "a", 9), "b": (tmp_path, "b", 0)}
    with pytest.raises(TasksError) as caught:
        run_tasks(count_to, tasks, what="t", scheduler=scheduler, workers=2, retries=1)
    assert caught.value.failures == {"a": "OSError: try 1"}


def test_a_local_cluster_is_kept_and_its_lost_worker_replaced(tmp_path):
    tasks = {str(i): (tmp_path, str(i)) for i in range(6)}
    before = set(run_tasks(whose, {str(i): (i,) for i in range(20)}, what="t", workers=2).values())
    assert run_tasks(die_once, tasks, what="t", workers=2) == {str(i): str(i) for i in range(6)}
    assert {p.stem for p in tmp_path.glob("*.txt")} == set(tasks)
    after = set(run_tasks(whose, {str(i): (i,) for i in range(20)}, what="t", workers=2).values())
    assert os.getpid() not in before | after
    assert len(before & after) == 1  # one lives, one was replaced


def test_a_worker_that_starts_slowly_is_replaced(tmp_path, monkeypatch):
    """dask gives up a worker whose new process starts too slowly. With all workers given up, a stage waited forever."""
    import dask

    monkeypatch.setattr(cluster, "ASK_S", 0.3)
    with dask.config.set({"distributed.deploy.lost-worker-timeout": "0.1s"}):
        run_tasks(die_once, {str(i): (tmp_path, str(i)) for i in range(6)}, what="t", workers=2)
        nannies = cluster.local_client(2).cluster.workers
        _when(
            lambda: len([n for n in nannies.values() if n.status.name == "running"]) == 2,
            (done := threading.Event()).set,
        )
        tasks = {str(i): (tmp_path, str(i), 0.2) for i in range(60)}
        run_tasks(slow, tasks, what="t", workers=2)
        assert done.wait(1)


def test_a_task_that_always_costs_its_worker_is_listed():
    with pytest.raises(TasksError, match="1 of 5 failed") as caught:
        run_tasks(die_always, {str(i): (str(i),) for i in range(5)}, what="t", workers=2, retries=1)
    assert "worker was lost" in caught.value.failures["2"]


def test_auto_takes_other_processes_only_where_that_pays(monkeypatch):
    tasks = {str(i): (i,) for i in range(6)}
    assert set(run_tasks(whose, tasks, what="t", scheduler="auto", workers=2).values()) == {os.getpid()}
    monkeypatch.setattr(cluster, "WORTH_S", 0.0)
    whoses = run_tasks(whose, tasks, what="t", scheduler="auto", workers=2)
    assert whoses.pop("0") == os.getpid()
    assert os.getpid() not in whoses.values()
    assert set(run_tasks(whose, tasks, what="t", scheduler="auto", workers=1).values()) == {os.getpid()}
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    assert own_cores() == 1


def test_a_scheduler_has_a_known_name_or_an_address():
    for name in ("auto", "local", "none", "tcp://login:8786", "tls://login:8786", "/shared/scheduler.json"):
        assert check_scheduler(name) == name
    with pytest.raises(ConfigError, match="Did you mean 'local'"):
        make_config(scheduler="lokal")
    with pytest.raises(ConfigError, match="there is no scheduler file"):
        run_tasks(square, {"a": (1,)}, what="t", scheduler="nowhere.json")


def test_no_scheduler_at_the_address_is_an_error(monkeypatch):
    monkeypatch.setattr(cluster, "LOST_S", 0.5)
    with pytest.raises(ConfigError, match=r"no dask scheduler answers at tcp://127\.0\.0\.1:9"):
        run_tasks(square, {"a": (1,)}, what="t", scheduler="tcp://127.0.0.1:9")


def test_where_scenes_are_worked_on_does_not_change_a_stage():
    a, b = make_config(), make_config(scheduler="tcp://login:8786", scene_workers=7)
    for stage in ("predict", "project", "uncertainty", "fuse", "evaluate"):
        assert identity_of(
            a, stage, "monodepth2", "uncer" if stage != "uncertainty" else "ensemble"
        ) == identity_of(b, stage, "monodepth2", "uncer" if stage != "uncertainty" else "ensemble")


@pytest.mark.parametrize("scheduler", ["none", "local"])
def test_a_full_disk_ends_all_at_once(scheduler):
    with pytest.raises(WriteError, match="the disk is full"):
        run_tasks(full_disk, {str(i): (i,) for i in range(50)}, what="t", scheduler=scheduler, workers=2)


def test_processes_are_not_started_where_they_would_run_the_script_again(tmp_path, monkeypatch):
    script = types.ModuleType("__main__")
    script.__file__ = str(tmp_path / "mine.py")
    monkeypatch.setitem(sys.modules, "__main__", script)
    cluster.close()
    monkeypatch.setattr(cluster, "WORTH_S", 0.0)
    tasks = {str(i): (i,) for i in range(3)}
    Path(script.__file__).write_text("import d3d\n")
    with pytest.raises(ConfigError, match=r"put its commands under `if __name__ == '__main__':`"):
        run_tasks(whose, tasks, what="t", workers=2)
    assert set(run_tasks(whose, tasks, what="t", scheduler="auto", workers=2).values()) == {os.getpid()}
    Path(script.__file__).write_text("if __name__ == '__main__':\n    import d3d\n")
    assert cluster._why_no_processes() == ""


@pytest.mark.slow
def test_stages_leave_the_same_bytes_wherever_their_scenes_are_worked_on(tmp_path):
    pytest.importorskip("open3d")
    from d3d.pipeline import stages

    def config(run, **parameters):
        of = make_config(
            profile="smoke", runs_dir=str(tmp_path), run=run, steps=1, labels="uncer-tta", **parameters
        )
        return replace(of, data=replace(of.data, options={"rooms": 3, "frames": 18}))

    stages.pretrain(config("pretrained"))
    written = {}
    for scheduler in ("none", "local"):
        of = config(scheduler, base="pretrained", scheduler=scheduler, scene_workers=2)
        stages.fuse(of)
        stages.evaluate(of)
        folder = tmp_path / scheduler
        written[scheduler] = {
            str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest()
            for p in folder.rglob("*")
            if p.suffix in (".png", ".npz", ".csv") or p.name == "index.json"
        }
    stages_there = {name.split("/")[0] for name in written["none"]}
    assert stages_there == {"predict", "project", "uncertainty", "fuse", "evaluate"}
    assert sum(name.startswith("project/") and name.endswith("index.json") for name in written["none"]) == 3
    assert written["local"] == written["none"]


class Machines:
    """A scheduler and workers of dask's command line, here on one machine."""

    def __init__(self, folder: Path):
        self.file = folder / "scheduler.json"
        self.scheduler = self._start("scheduler", "--host", "127.0.0.1", "--port", "0", "--no-dashboard")
        self.workers = [self.worker() for _ in range(2)]

    def worker(self):
        return self._start("worker", "--nthreads", "1", "--no-nanny", "--no-dashboard", "--host", "127.0.0.1")

    def _start(self, what, *options):
        command = (sys.executable, "-m", "dask", what, "--scheduler-file", str(self.file), *options)
        return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def run(self, function, tasks):
        deadline = time.monotonic() + 60
        while not self.file.is_file() and time.monotonic() < deadline:
            time.sleep(0.1)
        return run_tasks(function, tasks, what="t", scheduler=str(self.file))

    def stop(self):
        for process in (self.scheduler, *self.workers):
            process.kill()
            process.wait()


@pytest.fixture(scope="module")
def machines(tmp_path_factory):
    started = Machines(tmp_path_factory.mktemp("machines"))
    yield started
    started.stop()


def _when(condition, then):
    """Call a function as soon as a condition holds."""

    def wait():
        while not condition():
            time.sleep(0.02)
        then()

    threading.Thread(target=wait, daemon=True).start()


def test_a_machine_lost_in_the_middle(machines, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    tasks = {str(i): (out, str(i), 0.1) for i in range(20)}
    _when(lambda: len(list(out.iterdir())) >= 4, machines.workers[0].kill)
    assert list(machines.run(slow, tasks)) == list(tasks)
    assert {p.stem for p in out.iterdir()} == set(tasks)
    machines.workers.append(machines.worker())


def test_a_scheduler_that_does_not_answer_is_gone(machines, tmp_path, monkeypatch):
    monkeypatch.setattr(cluster, "LOST_S", 120.0)  # a busy machine starts slowly
    monkeypatch.setattr(cluster, "ASK_S", 0.2)
    tasks = {str(i): (tmp_path, str(i), 0.1) for i in range(100)}

    def stop():
        monkeypatch.setattr(cluster, "LOST_S", 2.0)
        machines.scheduler.send_signal(signal.SIGSTOP)

    _when(lambda: len(list(tmp_path.iterdir())) >= 4, stop)
    try:
        with pytest.raises(RunError, match="is lost"):
            machines.run(slow, tasks)
    finally:
        machines.scheduler.send_signal(signal.SIGCONT)
    assert 4 <= len(list(tmp_path.iterdir())) < 100


def test_a_scheduler_that_goes_away_is_an_error_and_what_is_done_stays(machines, tmp_path, monkeypatch):
    monkeypatch.setattr(cluster, "LOST_S", 2.0)
    out = tmp_path / "out"
    out.mkdir()
    tasks = {str(i): (out, str(i), 0.1) for i in range(100)}
    _when(lambda: len(list(out.iterdir())) >= 4, machines.scheduler.kill)
    start = time.monotonic()
    with pytest.raises(RunError, match=r"the dask scheduler at tcp://127\.0\.0\.1:\d+ is lost"):
        machines.run(slow, tasks)
    assert time.monotonic() - start < 60
    assert 4 <= len(list(out.iterdir())) < 100
