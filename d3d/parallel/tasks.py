"""Run a function for each scene, in one process or on the workers of dask.distributed. One scene is one task.

A task writes its results completely or not at all, so a lost or repeated task does no harm. The place where tasks run
does not change results and is not part of a configuration.
"""

from __future__ import annotations

import atexit
import contextlib
import importlib.util
import logging
import os
import queue
import re
import signal
import sys
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from d3d import __version__
from d3d.errors import ConfigError, D3DError, RunError, TasksError, WriteError, unknown
from d3d.progress import say, track

SCHEDULERS = ("auto", "local", "none")
WORTH_S = 30.0  # "auto" starts processes, which takes 5 s, if the remaining tasks need more than this time
LOST_S = 30.0  # a scheduler is lost if it does not answer within this time
ASK_S = 10.0  # interval between queries of the workers, whose number may change
SPARE = (
    8  # waiting tasks, besides two per worker: an adaptive cluster grows if tasks wait, but each needs memory
)

_ONE_THREAD = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
_NEEDS_DASK = "scenes on several processes or machines need dask: pip install 'd3d[scale]'"

Tasks = Mapping[str, tuple]


def check_scheduler(name: str) -> str:
    """Check the name, address or file name of a scheduler and return it; raises ConfigError if it is invalid."""
    if name in SCHEDULERS or "://" in name or name.endswith(".json"):
        return name
    error = unknown("scheduler", name, SCHEDULERS)
    raise ConfigError(f"{error} Or give an address (tcp://host:8786) or a scheduler file (scheduler.json).")


def run_tasks(
    function: Callable[..., Any],
    tasks: Tasks,
    *,
    what: str,
    scheduler: str = "local",
    workers: int = 0,
    retries: int = 2,
    sizes: Mapping[str, int] | None = None,
    unit: str = "scene",
) -> dict[str, Any]:
    """Call a function for each task and collect the results.

    A configuration error or a full disk stops the whole stage. Tasks with other d3d errors are not retried. Tasks with
    any other error and tasks of a lost worker are retried. One error at the end lists the failed tasks.

    Args:
        function: function of a module (not of a notebook or `__main__`), called with the arguments of a task.
        tasks: task name (name of a scene) -> arguments. They should be small: they are sent to another process.
        what: label for progress and messages ("project/monodepth2").
        scheduler: "none" runs the tasks in this process, in order. "local" uses processes of this machine and keeps
            them for later calls. "auto" starts like "none" and continues like "local" if the tasks need more than
            `WORTH_S`, dask is installed and the machine has several cores. Otherwise the address of a dask scheduler
            ("tcp://host:8786") or its scheduler file.
        workers: number of processes for "local"; 0 means one per core, or OMP_NUM_THREADS.
        retries: number of further attempts for a task. For lost workers, a scheduler other than "local" uses dask's
            setting ``distributed.scheduler.allowed-failures``.
        sizes: task name -> size, if progress counts units smaller than tasks; see `advance`.
        unit: name of the unit of progress.

    Returns:
        Task name -> result, in the order of ``tasks``.

    Raises:
        TasksError: some of several tasks failed. The error of a single task is raised unchanged.
        ConfigError: dask is not installed, or no scheduler answers at the address.
        RunError: the scheduler is lost. Results of finished tasks stay.
    """
    check_scheduler(scheduler)
    workers = workers or own_cores()
    work = _Work(function, tasks, what, retries, sizes, unit)
    if scheduler == "auto" and (workers < 2 or _why_no_processes()):
        scheduler = "none"
    with work.bar:
        if scheduler in ("none", "auto"):
            work.run_here(WORTH_S if scheduler == "auto" else None)
        if work.left and scheduler in ("local", "auto"):
            _run_locally(work, workers)
        elif work.left:
            with _connected(scheduler) as client:
                work.run_on(client)
    if work.failures:
        first = next(iter(work.failures.values()))
        if len(tasks) == 1:
            raise first
        failed = [name for name in tasks if name in work.failures]
        raise TasksError(what, len(tasks), {name: _reason(work.failures[name]) for name in failed}) from first
    return {name: work.results[name] for name in tasks}


def _run_locally(work: _Work, workers: int) -> None:
    with contextlib.ExitStack() as unless_done:
        unless_done.callback(close)  # after an error no task may write any more
        try:
            work.run_on(local_client(workers, work.retries))
        except _Lost:
            close()
            say(f"[{work.what}] the local cluster is lost: starting a new one")
            work.run_on(local_client(workers, work.retries))
        unless_done.pop_all()


def own_cores() -> int:
    """Return the number of cores for this process: OMP_NUM_THREADS (set by pools), else all available cores."""
    given = os.environ.get("OMP_NUM_THREADS", "")
    if given.isdigit() and int(given) > 0:
        return int(given)
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


_current: _Work | None = None  # the work whose task runs in this process


def advance(n: int = 1) -> None:
    """Advance the progress bar from within a task. No effect in a worker process."""
    if _current is not None:
        _current.advance(n)


class _Work:
    """The remaining tasks, and the results and failures of the other tasks."""

    def __init__(self, function, tasks: Tasks, what: str, retries: int, sizes, unit: str):
        self.function, self.what, self.retries = function, what, retries
        self.left = dict(tasks)
        self.sizes = dict.fromkeys(self.left, 1) if sizes is None else sizes
        self.results: dict[str, Any] = {}
        self.failures: dict[str, BaseException] = {}
        self.bar = track(what=what, total=sum(self.sizes[name] for name in self.left), unit=unit)
        self._advanced = 0  # progress of the task that runs in this process

    def advance(self, n: int) -> None:
        self._advanced += n
        self.bar.update(n)

    def ended(self, name: str, outcome: Any) -> None:
        """Store the result or error of a task; raise an error that concerns all tasks."""
        if isinstance(outcome, (ConfigError, WriteError)):  # a wrong parameter, a full disk
            raise outcome
        (self.failures if isinstance(outcome, BaseException) else self.results)[name] = outcome
        del self.left[name]
        self.advance(self.sizes[name] - self._advanced)
        self._advanced = 0

    def run_here(self, worth_s: float | None) -> None:
        """Run the tasks in this process, in order, until the remaining tasks would need more than ``worth_s``."""
        for name in list(self.left):
            start = time.monotonic()
            self.ended(name, self._outcome(name))
            # estimated from the last task: the first task also loads a network and opens shared files
            if worth_s is not None and (time.monotonic() - start) * len(self.left) > worth_s:
                return

    def _outcome(self, name: str) -> Any:
        """Run a task in this process; return its result, or its error after the last attempt."""
        global _current
        outer, _current = _current, self
        try:
            for _ in range(self.retries):
                with contextlib.suppress(Exception):
                    return _call(self.function, self.left[name])
                self.advance(-self._advanced)
            return _call(self.function, self.left[name])
        except Exception as error:
            return error
        finally:
            _current = outer

    def run_on(self, client) -> None:
        """Run the tasks on the workers of a cluster; raises RunError if the scheduler is lost."""
        # one group name for all tasks: the scheduler holds tasks of a group back until a worker has room
        group = f"{self.what}-{uuid.uuid4().hex}"
        ended: queue.SimpleQueue = queue.SimpleQueue()
        futures: dict[Any, str] = {}
        waiting = iter(list(self.left.items()))
        room, asked, lost = 0, float("-inf"), False
        try:
            while True:
                if time.monotonic() - asked > ASK_S:
                    room, asked = self._room(client), time.monotonic()
                while len(futures) < room and (task := next(waiting, None)) is not None:
                    name, arguments = task
                    call = (_call, self.function, arguments, __version__)
                    future = client.submit(*call, key=(group, name), retries=self.retries, pure=False)
                    futures[future] = name
                    future.add_done_callback(ended.put)
                if not futures:
                    return
                try:
                    future = ended.get(timeout=ASK_S)
                except queue.Empty:
                    continue
                if future.status not in ("finished", "error"):
                    raise TimeoutError(f"a task is {future.status}")
                # the result is still at its worker
                get = future.exception if future.status == "error" else future.result
                self.ended(futures.pop(future), get(LOST_S))
        except Exception as error:
            lost = isinstance(error, TimeoutError) or client.status != "running"
            if lost and not isinstance(error, D3DError):
                raise _Lost(
                    f"the dask scheduler at {client.scheduler.address} is lost. Finished scenes stay: start it again, "
                    f"and repeat the command."
                ) from error
            raise
        finally:
            if not lost:  # cancel would wait for a lost scheduler
                client.cancel(list(futures))

    def _room(self, client) -> int:
        """Return how many tasks may be in flight; raises TimeoutError if the scheduler does not answer."""
        if client.cluster is not None:
            client.cluster.sync(_replace_lost, client.cluster, callback_timeout=LOST_S)
        threads = client.sync(client.scheduler.ncores, callback_timeout=LOST_S)
        if not threads:
            say(f"[{self.what}] the scheduler has no worker: waiting for one")
        return 2 * sum(threads.values()) + SPARE


class _Lost(RunError):
    """The scheduler is lost."""


def _call(function: Callable[..., Any], arguments: tuple, version: str = __version__) -> Any:
    """Run a task; return its result or its d3d error, which dask must not retry."""
    try:
        if version != __version__:
            raise ConfigError(
                f"this worker has d3d {__version__}, but its tasks come from d3d {version}: install the same version "
                f"on all machines."
            )
        return function(*arguments)
    except D3DError as error:
        return error


def _reason(error: BaseException) -> str:
    if type(error).__name__ == "KilledWorker":
        return "its worker was lost in every attempt (killed, out of memory, or the machine went down)"
    return str(error) if isinstance(error, D3DError) else f"{type(error).__name__}: {error}"


@contextlib.contextmanager
def _connected(scheduler: str) -> Iterator[Any]:
    """Connect to a running scheduler."""
    if importlib.util.find_spec("distributed") is None:
        raise ConfigError(f"{_NEEDS_DASK}, or set scheduler to 'none'.")
    import distributed

    in_file = scheduler.endswith(".json")
    if in_file and not Path(scheduler).is_file():
        raise ConfigError(f"there is no scheduler file {scheduler}. See docs/clusters.md.")
    where = {"scheduler_file" if in_file else "address": scheduler}
    try:
        client = distributed.Client(**where, timeout=LOST_S, set_as_default=False)
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"no dask scheduler answers at {scheduler} ({error}). Start one (docs/clusters.md), or set scheduler to "
            f"one of {', '.join(SCHEDULERS)}."
        ) from error
    try:
        yield client
    finally:
        _close(client)


_local: tuple[int, int, Any] | None = None  # process, workers and client of the local cluster


def local_client(workers: int, retries: int = 2):
    """Return the client of this process's local cluster; start the cluster if necessary (one thread per process)."""
    global _local
    if _local is not None:
        *started, client = _local
        if started == [os.getpid(), workers] and client.status == "running":
            client.cluster.scheduler.allowed_failures = retries
            return client
        close()
    if reason := _why_no_processes():
        raise ConfigError(f"{reason}, or set scheduler to 'none'.")
    import dask
    import distributed

    # 1.0: a waiting task must not be assigned to a busy worker and be lost with it
    settings = {"worker-saturation": 1.0, "allowed-failures": retries}
    with dask.config.set({f"distributed.scheduler.{name}": value for name, value in settings.items()}):
        cluster = distributed.LocalCluster(
            n_workers=workers,
            threads_per_worker=1,
            processes=True,
            host="127.0.0.1",
            dashboard_address="127.0.0.1:0",
            scheduler_kwargs={"dashboard": False},
            silence_logs=logging.CRITICAL,
            preload=[__name__],
            env=dict.fromkeys(_ONE_THREAD, "1") | {"OMP_WAIT_POLICY": "passive"},
        )
    client = distributed.Client(cluster, timeout=LOST_S, set_as_default=False)
    _local = os.getpid(), workers, client
    return client


async def _replace_lost(cluster) -> None:
    """Start the missing processes of a local cluster.

    dask gives up a killed worker if its new process needs more than 15 s to start, or is killed while it starts.
    """
    for name, nanny in list(cluster.workers.items()):
        if nanny.status.name in ("closed", "failed"):
            del cluster.workers[name]
    cluster.scale(len(cluster.worker_spec))


def dask_setup(worker) -> None:
    """Ignore Ctrl-C in each process of the local cluster (called by dask). The first process handles it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


@atexit.register
def close() -> None:
    """End the processes of the local cluster. The next call that needs them starts new processes."""
    global _local
    if _local is None:
        return
    (pid, _, client), _local = _local, None
    if pid == os.getpid():  # not in a forked process
        _close(client, client.cluster)


def _close(*opened) -> None:
    for each in opened:
        with contextlib.suppress(Exception):
            each.close(timeout=5)


def _why_no_processes() -> str:
    """Return why processes cannot be started and what to do, or ""."""
    if importlib.util.find_spec("distributed") is None:
        return _NEEDS_DASK
    # a new process imports the script that started it, and must not run the whole script again
    main, source = sys.modules["__main__"], ""
    script = getattr(main, "__file__", None)
    if main.__spec__ is None and script is not None:
        with contextlib.suppress(OSError):  # the script comes from standard input
            source = Path(script).read_text(errors="replace")
        if not re.search(r"""__name__\s*==\s*["']__main__["']""", source):
            return f"new processes import {script} again: put its commands under `if __name__ == '__main__':`"
    return ""
