"""One training by several processes of this machine, started by a program or notebook that is none of them.

The processes read the call from a private folder. Their output appears as this process's, and they end with it.
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
    """Calls a function of a module in each of several new processes that form a group; its arguments are pickled.

    Raises:
        D3DError: as raised in a process; RunError if a process ended otherwise.
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
                # torchrun's report of a failure is for the error below alone
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
                f"a training in {count} processes ended with status {code}. Its last output:\n{tail}"
            )


def _main(private: str) -> int:
    """One process of `call_in_processes`."""
    processes.end_with_parent()
    folder = Path(private)
    # written by the process that started this one
    device, function, arguments = pickle.loads((folder / "call").read_bytes())
    try:
        distributed.begin(device)
        function(*arguments)
    except D3DError as error:
        report = json.dumps([type(error).__name__, str(error)])
        (folder / f"error-{os.environ['RANK']}.json").write_text(report)
        sys.stdout.flush()
        os._exit(2)  # an orderly exit would wait for the other processes, which wait for this one
    distributed.leave()
    return 0


if __name__ == "__main__":
    sys.exit(_main(sys.argv[1]))
