"""Stages that work scene by scene, on one process or many: dask.distributed, one scene a task.

A task is a module-level function of small arguments that writes its scene's artefact whole or not at all, so that
a task that is lost, or runs twice, leaves what one undisturbed task leaves. Nothing here changes a result: where
tasks run is no part of a stage's configuration.
"""

from __future__ import annotations

import atexit
import contextlib
import importlib.util
import itertools
import logging
import os
import queue
import re
import signal
import sys
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from d3d.errors import ConfigError, D3DError, RunError, TasksError, WriteError, unknown
from d3d.progress import say, track

SCHEDULERS = ("auto", "local", "none")
# "auto" starts processes where the scenes left would take longer than this here, by the last one's pace:
# two processes are there after 5 s (docs/decisions.md), and take work off each other only then
WORTH_S = 30.0
# A scheduler that does not answer for so long is gone
LOST_S = 30.0
# How often a scheduler is asked for its workers, which may come and go
ASK_S = 10.0
# Tasks in flight beyond two a worker: what an adaptive cluster grows by, and few enough that memory stays flat
SPARE = 8

_NEEDS_DASK = "scenes on several processes or machines need dask: pip install 'd3d[scale]'"

Tasks = Mapping[str, tuple]


def check_scheduler(name: str) -> str:
    """A scheduler's name or address as given, if it can be one.

    Raises:
        ConfigError: neither of `SCHEDULERS`, nor an address, nor a scheduler file.
    """
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
    """Calls a function for each task, wherever the scheduler has room, and collects what it returns.

    An error of d3d's own says that another try would not help, and one in a parameter or a full disk ends all at
    once. Any other error, and a worker that was lost, is tried again. What fails in spite of it is listed at the
    end, when all other tasks are done. How often a lost worker's task is tried again is the scheduler's to say
    (dask's ``distributed.scheduler.allowed-failures``); a local one's is told ``retries``.

    Args:
        function: of a module, not of a notebook or `__main__`; called with a task's arguments.
        tasks: name (a scene's) to arguments; they travel to another process, so let them be small.
        what: for progress and messages ("project/monodepth2").
        scheduler: "none": in this process, in order. "local": processes of this machine, kept for later calls and
            closed with this process. "auto": in this process as long as that takes less than `WORTH_S`, then
            as "local", where dask is installed and more than one core is ours. Else the address of a dask
            scheduler ("tcp://host:8786"), or its scheduler file.
        workers: processes of "local"; 0 is one a core, or as many as OMP_NUM_THREADS gives this process threads.
        retries: further tries of a task.
        sizes: of tasks, by name, where progress counts something smaller; see `advance`.
        unit: what progress counts.

    Returns:
        name to result, in the order of ``tasks``.

    Raises:
        TasksError: some tasks failed. Where there was only one task, its own error.
        ConfigError: dask is not installed, or no scheduler answers at the address.
        RunError: the scheduler went away; what is finished stays.
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
    work.check()
    return {name: work.results[name] for name in tasks}


def _run_locally(work: _Work, workers: int) -> None:
    try:
        try:
            work.run_on(local_client(workers, work.retries))
        except _Lost:
            close()
            say(f"[{work.what}] the local cluster was lost: starting another")
            work.run_on(local_client(workers, work.retries))
    except BaseException:
        close()  # what still runs there must not write behind the back of who comes next
        raise


def own_cores() -> int:
    """Cores that this process may use: OMP_NUM_THREADS, which a pool sets for each of its own, or the machine's."""
    given = os.environ.get("OMP_NUM_THREADS", "")
    if given.isdigit() and int(given) > 0:
        return int(given)
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


_current: _Work | None = None  # the work whose task runs in this process


def advance(n: int = 1) -> None:
    """Moves progress on from within a task; heard only where that runs in the process that asked for it."""
    if _current is not None:
        _current.moved(n)


class _Work:
    """Tasks that are left, results and failures of the others."""

    def __init__(self, function, tasks: Tasks, what: str, retries: int, sizes, unit: str):
        self.function, self.what, self.retries = function, what, retries
        self.left = dict(tasks)
        self.order = tuple(self.left)
        self.sizes = dict.fromkeys(self.left, 1) if sizes is None else sizes
        self.results: dict[str, Any] = {}
        self.failures: dict[str, BaseException] = {}
        self.tries: Counter[str] = Counter()
        self.bar = track(what=what, total=sum(self.sizes[name] for name in self.left), unit=unit)
        self._moved = 0

    def moved(self, n: int) -> None:
        self._moved += n
        self.bar.update(n)

    def _ended(self, name: str) -> None:
        del self.left[name]
        self.bar.update(self.sizes[name] - self._moved)
        self._moved = 0

    def succeeded(self, name: str, result: Any) -> None:
        self.results[name] = result
        self._ended(name)

    def failed(self, name: str, error: BaseException) -> bool:
        """Whether the task is to be tried again."""
        if isinstance(error, (ConfigError, WriteError)):  # as true of the next scene as of this one
            raise error
        self.bar.update(-self._moved)
        self._moved = 0
        self.tries[name] += 1
        if not isinstance(error, D3DError) and not _killed(error) and self.tries[name] <= self.retries:
            return True
        self.failures[name] = error
        self._ended(name)
        return False

    def check(self) -> None:
        """Raises what has failed."""
        if not self.failures:
            return
        first = next(iter(self.failures.values()))
        if len(self.order) == 1:
            raise first
        listed = {name: _reason(self.failures[name]) for name in self.order if name in self.failures}
        raise TasksError(self.what, len(self.order), listed) from first

    def run_here(self, worth_s: float | None) -> None:
        """Calls the tasks in this process, in order; stops where the others would take longer than ``worth_s``."""
        global _current
        for name, arguments in list(self.left.items()):
            start = time.monotonic()
            again = True
            while again:
                outer, _current = _current, self
                try:
                    result = self.function(*arguments)
                except Exception as error:
                    again = self.failed(name, error)
                else:
                    again = False
                    self.succeeded(name, result)
                finally:
                    _current = outer
            # the last one's pace: the first one also loads a network, and opens files that later ones share
            if worth_s is not None and (time.monotonic() - start) * len(self.left) > worth_s:
                return

    def run_on(self, client) -> None:
        """Has a cluster's workers call the tasks.

        Raises:
            RunError: the scheduler is lost.
        """
        from d3d import __version__

        # one name for all: the scheduler keeps tasks of a group back until a worker has room for one
        group = f"{self.what}-{uuid.uuid4().hex}"
        numbers = itertools.count()
        ended: queue.SimpleQueue = queue.SimpleQueue()
        futures: dict[Any, str] = {}
        waiting = iter(list(self.left.items()))

        def submit(name: str, arguments: tuple) -> None:
            key = (group, next(numbers))
            future = client.submit(_call, self.function, arguments, __version__, key=key, pure=False)
            futures[future] = name
            future.add_done_callback(ended.put)

        room, asked, lost = 0, float("-inf"), False
        try:
            while True:
                if time.monotonic() - asked > ASK_S:
                    room, asked = _room(client, self.what), time.monotonic()
                while len(futures) < room and (task := next(waiting, None)) is not None:
                    submit(*task)
                if not futures:
                    return
                try:
                    future = ended.get(timeout=ASK_S)
                except queue.Empty:
                    continue
                name = futures.pop(future)
                try:  # what a task returned is still with its worker, and the scheduler knows with which
                    result = future.result(LOST_S) if future.status == "finished" else None
                    error = future.exception(LOST_S) if future.status == "error" else None
                except TimeoutError:
                    raise _lost(client) from None
                if future.status == "finished":
                    self.succeeded(name, result)
                elif future.status == "error":
                    if self.failed(name, error):
                        submit(name, self.left[name])
                else:
                    raise _lost(client)
        except Exception as error:
            lost = isinstance(error, _Lost) or client.status != "running"
            if lost and not isinstance(error, D3DError):
                raise _lost(client) from error
            raise
        finally:
            if not lost:  # a scheduler that is gone would be waited for
                client.cancel(list(futures))


class _Lost(RunError):
    """The scheduler went away."""


def _call(function: Callable[..., Any], arguments: tuple, version: str) -> Any:
    """A task as a worker sees it."""
    from d3d import __version__

    if version != __version__:
        raise ConfigError(
            f"this worker has d3d {__version__}, but its tasks come from d3d {version}: install one version on all "
            f"machines."
        )
    return function(*arguments)


def _killed(error: BaseException) -> bool:
    return type(error).__name__ == "KilledWorker"  # by name: dask may not be installed


def _reason(error: BaseException) -> str:
    if _killed(error):
        return "its worker was lost every time (killed, out of memory, or the machine went down)"
    return str(error) if isinstance(error, D3DError) else f"{type(error).__name__}: {error}"


def _lost(client) -> _Lost:
    return _Lost(
        f"the dask scheduler at {client.scheduler.address} is gone. Scenes that are finished stay: start it again, "
        f"and run the same once more."
    )


def _room(client, what: str) -> int:
    """How many tasks may be in flight."""
    try:
        threads = client.sync(client.scheduler.ncores, callback_timeout=LOST_S)
    except TimeoutError:
        raise _lost(client) from None
    if not threads:
        say(f"[{what}] the scheduler has no worker: waiting for one")
    return 2 * sum(threads.values()) + SPARE


@contextlib.contextmanager
def _connected(scheduler: str) -> Iterator[Any]:
    """A client of a scheduler that somebody else has started."""
    try:
        import distributed
    except ImportError:
        raise ConfigError(f"{_NEEDS_DASK}, or set scheduler to 'none'.") from None
    where = {"scheduler_file": scheduler} if scheduler.endswith(".json") else {"address": scheduler}
    if "scheduler_file" in where and not Path(scheduler).is_file():
        raise ConfigError(f"there is no scheduler file {scheduler}. See docs/clusters.md.")
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
        with contextlib.suppress(Exception):
            client.close(timeout=5)


_local: tuple[int, int, Any] | None = None  # process, workers and client of the local cluster


def local_client(workers: int, retries: int = 2):
    """The client of this process's cluster of processes of one thread each; started where it is not there."""
    global _local
    if _local is not None:
        pid, size, client = _local
        if pid == os.getpid() and size == workers and client.status == "running":
            client.cluster.scheduler.allowed_failures = retries
            return client
        close()
    if reason := _why_no_processes():
        raise ConfigError(f"{reason}, or set scheduler to 'none'.")
    import dask
    import distributed

    # a spare task must not wait at a busy worker, and be lost with it
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
            env={
                "OMP_NUM_THREADS": "1",
                "OPENBLAS_NUM_THREADS": "1",
                "MKL_NUM_THREADS": "1",
                "OMP_WAIT_POLICY": "passive",
            },
        )
    client = distributed.Client(cluster, timeout=LOST_S, set_as_default=False)
    _local = os.getpid(), workers, client
    return client


def dask_setup(worker) -> None:
    """Called by dask in each process of the local cluster: Ctrl-C reaches all, and is the first one's to answer."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


@atexit.register
def close() -> None:
    """Ends the processes of the local cluster, if there are any; the next call that needs them starts others."""
    global _local
    if _local is None:
        return
    (pid, _, client), _local = _local, None
    if pid == os.getpid():  # not in a process forked from it
        for opened in (client, client.cluster):
            with contextlib.suppress(Exception):
                opened.close(timeout=5)


def _why_no_processes() -> str:
    """What has to be done before processes can be started here; "" where they can."""
    if importlib.util.find_spec("distributed") is None:
        return _NEEDS_DASK
    # a new process imports the script that started it, which must not start everything once more
    main = sys.modules["__main__"]
    script = getattr(main, "__file__", None)
    if main.__spec__ is None and script is not None:
        try:
            source = Path(script).read_text(errors="replace")
        except OSError:  # standard input
            source = ""
        if not re.search(r"""__name__\s*==\s*["']__main__["']""", source):
            return f"processes import {script} again: keep what it does under `if __name__ == '__main__':`"
    return ""
