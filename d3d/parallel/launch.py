"""Run a training in several new processes of this machine, from a program or a notebook.

The processes read the call from a private folder. This process prints their output. They end with this process.
"""

from __future__ import annotations

import json
import os
import pickle
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from subprocess import PIPE, STDOUT
from typing import Any

import torch

from d3d import errors
from d3d.errors import D3DError, RunError
from d3d.parallel import distributed, processes

_TORCHRUN = (sys.executable, "-m", "torch.distributed.run", "--standalone")
_SIGNS_OF_FAILURE = ("torch/distributed/elastic", "ChildFailedError")


def call_in_processes(count: int, device: str, function: Callable[..., Any], *arguments: Any) -> None:
    """Call a function of a module in each process of a new group. Its arguments are pickled.

    Args:
        count: number of processes.
        device: "cpu", "cuda" or "auto".

    Raises:
        D3DError: the error that a process raised.
        RunError: a process ended without such an error.
    """
    with tempfile.TemporaryDirectory(prefix="d3d-") as private:
        folder = Path(private)
        (folder / "call").write_bytes(pickle.dumps((device, function, arguments)))
        command = [*_TORCHRUN, f"--nproc-per-node={count}", "-m", "d3d.parallel.launch", private]
        threads = {"OMP_NUM_THREADS": str(max(1, torch.get_num_threads() // count))}
        process = processes.start(command, os.environ | threads, stdout=PIPE, stderr=STDOUT)
        tail, failed = "", False
        try:
            while text := process.stdout.read1(65536).decode(errors="replace"):
                tail = (tail + text)[-2000:]
                # do not print torchrun's report of a failure; the error below contains it
                failed = failed or any(sign in text for sign in _SIGNS_OF_FAILURE)
                if not failed:
                    print(text, end="", flush=True)
            code = process.wait()
        finally:
            process.terminate()
            process.stdin.close()
            process.wait()
        if reports := sorted(folder.glob("error-*.json")):
            kind, message = json.loads(reports[0].read_text())
            raise getattr(errors, kind)(message)
        if code:
            raise RunError(
                f"a training in {count} processes ended with status {code}. The end of its output:\n{tail}"
            )


def _main(private: str) -> int:
    """Run one process of `call_in_processes`."""
    processes.end_with_parent()
    folder = Path(private)
    # the starting process wrote this file
    device, function, arguments = pickle.loads((folder / "call").read_bytes())
    try:
        distributed.begin(device)
        function(*arguments)
    except D3DError as error:
        report = json.dumps([type(error).__name__, str(error)])
        (folder / f"error-{os.environ['RANK']}.json").write_text(report)
        sys.stdout.flush()
        os._exit(2)  # an orderly exit would be a deadlock: the other processes wait for this process
    distributed.leave()
    return 0


if __name__ == "__main__":
    sys.exit(_main(sys.argv[1]))
