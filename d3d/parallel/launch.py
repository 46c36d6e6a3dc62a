"""One training by many processes of this machine, started from a program or notebook that is none of them itself.

The order is handed over in a private folder; what the processes say is said here; they end when this process does.
"""

from __future__ import annotations

import json
import os
import pickle
import sys
import tempfile
import threading
from pathlib import Path
from subprocess import PIPE
from typing import IO, Any

import torch

from d3d import errors
from d3d.errors import D3DError, RunError
from d3d.parallel import distributed, processes


def train_in_processes(count: int, device: str, *arguments: Any) -> None:
    """Trains in so many processes on this machine, which end with this one; what they say is said here.

    Args:
        count: number of processes, at least 2.
        device: "cpu", "cuda" or "auto".
        *arguments: of `d3d.training.train_here`; they are pickled.

    Raises:
        D3DError: as the training raised it; RunError if a process ended otherwise.
    """
    with tempfile.TemporaryDirectory(prefix="d3d-") as private:
        folder = Path(private)
        (folder / "order").write_bytes(pickle.dumps((device, arguments)))
        torchrun = [
            sys.executable,
            "-m",
            "torch.distributed.run",
            "--standalone",
            f"--nproc-per-node={count}",
        ]
        environment = {**os.environ, "OMP_NUM_THREADS": str(max(1, torch.get_num_threads() // count))}
        process = processes.start(
            [*torchrun, "-m", "d3d.parallel.launch", private], environment, stdout=PIPE, stderr=PIPE
        )
        tail: list[str] = []
        relays = [
            threading.Thread(target=_relay, args=(process.stdout, sys.stdout, None)),
            threading.Thread(target=_relay, args=(process.stderr, sys.stderr, tail)),
        ]
        for relay in relays:
            relay.start()
        try:
            code = process.wait()
        finally:
            process.terminate()
            process.stdin.close()
            for relay in relays:
                relay.join()
        reports = sorted(folder.glob("error-*.json"))
        if reports:
            report = json.loads(reports[0].read_text())
            raise getattr(errors, report["type"])(report["message"])
        if code:
            last = "".join(tail)[-2000:]
            raise RunError(
                f"a training in {count} processes ended with status {code}. Its last words:\n{last}"
            )


def _relay(source: IO[bytes], sink: Any, tail: list[str] | None) -> None:
    """Hands on what a process says, as it says it; torchrun's own report of a failure is kept for the error alone."""
    own = False
    while text := source.read1(65536).decode(errors="replace"):
        own = own or "torch/distributed/elastic" in text or "ChildFailedError" in text
        if not own:
            sink.write(text)
            sink.flush()
        if tail is not None:
            tail[:] = [*tail[-20:], text]


def _main(private: str) -> int:
    """One process of `train_in_processes`."""
    processes.end_with_parent()
    from d3d.training import train_here

    folder = Path(private)
    order = (folder / "order").read_bytes()  # written by the process that started this one
    wanted, arguments = pickle.loads(order)
    number = os.environ["RANK"]
    try:
        distributed.begin(wanted)
        train_here(*arguments)
    except D3DError as error:
        report = {"type": type(error).__name__, "message": str(error)}
        (folder / f"error-{number}.json").write_text(json.dumps(report))
        sys.stdout.flush()
        os._exit(2)  # the others wait for this one in vain, and so would an orderly end
    distributed.leave()
    return 0


if __name__ == "__main__":
    sys.exit(_main(sys.argv[1]))
