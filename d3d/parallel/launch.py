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


def call_in_processes(count: int, device: str, function: Callable[..., Any], *arguments: Any) -> None:
    """Calls a function in each of several new processes that form a group.

    Args:
        count: number of processes.
        device: "cpu", "cuda" or "auto".
        function: of a module; it and its arguments are pickled.

    Raises:
        D3DError: as raised in a process; RunError if a process ended otherwise.
    """
    with tempfile.TemporaryDirectory(prefix="d3d-") as private:
        folder = Path(private)
        (folder / "call").write_bytes(pickle.dumps((device, function, arguments)))
        torchrun = (
            sys.executable,
            "-m",
            "torch.distributed.run",
            "--standalone",
            f"--nproc-per-node={count}",
        )
        environment = {**os.environ, "OMP_NUM_THREADS": str(max(1, torch.get_num_threads() // count))}
        process = processes.start(
            [*torchrun, "-m", "d3d.parallel.launch", private], environment, stdout=PIPE, stderr=STDOUT
        )
        tail: list[str] = []
        try:
            failed = False
            while text := process.stdout.read1(65536).decode(errors="replace"):
                tail = [*tail[-20:], text]
                # torchrun's report of a failure is for the error below alone
                failed = failed or "torch/distributed/elastic" in text or "ChildFailedError" in text
                if not failed:
                    sys.stdout.write(text)
                    sys.stdout.flush()
            code = process.wait()
        finally:
            process.terminate()
            process.stdin.close()
            process.wait()
        reports = sorted(folder.glob("error-*.json"))
        if reports:
            report = json.loads(reports[0].read_text())
            raise getattr(errors, report["type"])(report["message"])
        if code:
            raise RunError(
                f"a training in {count} processes ended with status {code}. Its last output:\n{''.join(tail)[-2000:]}"
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
        report = {"type": type(error).__name__, "message": str(error)}
        (folder / f"error-{os.environ['RANK']}.json").write_text(json.dumps(report))
        sys.stdout.flush()
        os._exit(2)  # an orderly exit would wait for the other processes, which wait for this one
    distributed.leave()
    return 0


if __name__ == "__main__":
    sys.exit(_main(sys.argv[1]))
