"""Run folders: location, identity and provenance of the artefacts.

``runs/<run>/<stage>/<arch>[/<labels>]/`` holds ``config.json`` (written first), the artefacts, ``provenance.json``
and ``DONE`` (written last). Files are written under a temporary name and then renamed. An interrupted run therefore
leaves no incomplete file under a final name.
"""

from __future__ import annotations

import contextlib
import os
import platform
import re
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from d3d.errors import BusyError, RunError
from d3d.io import project_root, read_json, remove_left, write_json, writing
from d3d.pipeline.settings import Config

_PACKAGES = ("d3d", "torch", "torchvision", "timm", "numpy", "open3d", "pyrender", "pillow", "scipy")
# In an identity: data or weights that are no longer available. It equals every stored value.
UNKNOWN = "unknown"


def run_folder(config: Config, run: str = "") -> Path:
    """Return the folder of the run, or of another run by its name.

    The folder of all runs is the parameter ``runs_dir``, else the environment variable ``D3D_RUNS``, else ``runs`` in
    the checkout.
    """
    given = config.runs_dir or os.environ.get("D3D_RUNS")
    base = Path(given).expanduser() if given else project_root() / "runs"
    return base.absolute() / (run or config.run)


def _git_state() -> dict[str, Any]:
    def git(*args: str) -> str:
        command = ("git", "-C", str(project_root()), *args)
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=30).stdout.strip()

    if (project_root() / ".git").exists():
        with contextlib.suppress(OSError, subprocess.SubprocessError):
            return {"git": git("rev-parse", "HEAD"), "dirty": bool(git("status", "--porcelain"))}
    return {"git": None}


def _peak_memory_mb() -> int | None:
    try:
        import resource
    except ImportError:  # not on Windows
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return round(peak / (2**20 if sys.platform == "darwin" else 2**10))


def provenance(config: Config, **extra: Any) -> dict[str, Any]:
    """Return the provenance of an artefact: code, versions, seed, machine, command."""
    versions = {"python": platform.python_version()}
    for package in _PACKAGES:
        with contextlib.suppress(metadata.PackageNotFoundError):
            versions[package] = metadata.version(package)
    torch = sys.modules.get("torch")
    device = torch.cuda.get_device_name() if torch and torch.cuda.is_available() else "cpu"
    return {
        **_git_state(),
        "versions": versions,
        "seed": config.seed,
        "profile": config.profile,
        "machine": {"system": platform.platform(), "cores": os.cpu_count(), "device": device},
        "threads": torch.get_num_threads() if torch else None,
        "peak_memory_mb": _peak_memory_mb(),
        "command": " ".join([Path(sys.argv[0]).name, *sys.argv[1:]]),
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        **extra,
    }


def differences(ours: Any, theirs: Any, path: str = "") -> list[str]:
    """List the differences of two nested identities, each as "path: theirs there, ours now"."""
    if isinstance(ours, dict) and isinstance(theirs, dict):
        lines = []
        for key in sorted({*ours, *theirs}):
            # paths without the inner levels "needs" and "settings" are easier to read
            below = path if key in ("needs", "settings") else f"{path}.{key}" if path else key
            lines += differences(ours.get(key), theirs.get(key), below)
        return lines
    return [] if ours in (theirs, UNKNOWN) else [f"{path}: {theirs!r} there, {ours!r} now"]


def _first_causes(lines: list[str]) -> list[str]:
    """Drop repeated differences: a change of data appears in every stage that depends on it."""
    causes = {re.sub(r"^(\S*/[^.\s]*\.)+", "", line): line for line in reversed(lines)}
    return list(reversed(causes.values()))


def is_done(folder: Path) -> bool:
    """Whether a stage's folder is finished."""
    return (folder / "DONE").is_file()


def outputs(folder: Path) -> dict[str, str]:
    """Map the artefacts of a finished stage to their sha256."""
    return read_json(folder / "DONE", "outputs")["outputs"]


def stored_identity(folder: Path) -> dict[str, Any]:
    """Read the identity of the result in a stage's folder."""
    return read_json(folder / "config.json", "identity", "inputs")["identity"]


class StageFolder:
    """A stage's folder, locked by one process. Use `open_folder` to open it."""

    def __init__(self, folder: Path, config: Config, identity: dict[str, Any], inputs: Mapping[str, str]):
        self.folder = folder
        self.config = config
        self.inputs = dict(inputs)
        self._identity = identity
        self._start = time.monotonic()
        # recorded at the start: the checkout may change during a long training
        self._code = {} if self.done else _git_state()

    @property
    def done(self) -> bool:
        return is_done(self.folder)

    @property
    def outputs(self) -> dict[str, str]:
        return outputs(self.folder)

    def check(self) -> None:
        """Write the identity into an empty folder, or compare it with the stored identity.

        Raises:
            RunError: the folder holds another result, or was made from other artefacts.
        """
        path = self.folder / "config.json"
        if not path.is_file():
            if self.folder.is_dir() and any(not p.name.startswith(".") for p in self.folder.iterdir()):
                raise RunError(
                    f"{self.folder} holds files but no config.json: it is not a stage of d3d. "
                    "Give this run another name."
                )
            write_json(path, {"identity": self._identity, "inputs": self.inputs})
            return
        stored = read_json(path)
        if "identity" not in stored:
            raise RunError(
                f"{path} was written by an earlier version of d3d, or is damaged. Give this run another name "
                f"(--run NAME; in Python run=...), or delete {self.folder}."
            )
        if lines := _first_causes(differences(self._identity, stored["identity"])):
            shown = "\n  ".join(lines[:12]) + (f"\n  and {len(lines) - 12} more" if len(lines) > 12 else "")
            raise RunError(
                f"{self.folder} holds another result:\n  {shown}\n"
                "Give this run another name (--run NAME; in Python run=...), or delete the folder to compute the "
                "result again."
            )
        made_from = stored.get("inputs", {})
        # the inputs of a finished stage may be deleted, but not replaced
        if any(made_from.get(k) != v for k, v in self.inputs.items()) or (
            not self.done and made_from != self.inputs
        ):
            raise RunError(
                f"{self.folder} was made from other inputs: an earlier stage was computed again. Delete the folder to "
                f"compute it from the new inputs."
            )

    def finish(self, outputs: Mapping[str, str], **extra: Any) -> None:
        """Write the provenance with ``extra``, then DONE with ``outputs``, the sha256 of each artefact."""
        seconds = round(time.monotonic() - self._start, 1)
        about = provenance(self.config, inputs=self.inputs, seconds=seconds, **self._code, **extra)
        write_json(self.folder / "provenance.json", about)
        write_json(self.folder / "DONE", {"outputs": dict(outputs), "seconds": seconds})


@contextlib.contextmanager
def open_folder(
    folder: Path, config: Config, identity: dict[str, Any], inputs: Mapping[str, str]
) -> Iterator[StageFolder]:
    """Open and lock a stage's folder.

    Args:
        identity: identity of the result (`d3d.pipeline.graph.identity`).
        inputs: name -> sha256 of the artefacts that the stage reads.

    Raises:
        RunError: the folder holds another result, or was made from other inputs.
        BusyError: another process uses the folder.
    """
    lock = FileLock(folder / ".lock")
    try:
        with writing(folder / ".lock"):
            folder.mkdir(parents=True, exist_ok=True)
            lock.acquire(timeout=0)
    except RunError:
        if not is_done(folder):  # a finished stage may be read-only
            raise
    except Timeout:
        raise BusyError(
            f"{folder} is in use by another process. Wait for it, or give this run another name."
        ) from None
    try:
        result = StageFolder(folder, config, identity, inputs)
        result.check()
        if not result.done:
            remove_left(folder)
        yield result
    finally:
        lock.release()
