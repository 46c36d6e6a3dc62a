"""Where each stage's artefacts live, and what makes them trustworthy: provenance, skip if done, resume, refuse.

``runs/<name>/<stage>/<arch>[/<labels>]/`` holds ``config.json`` (written first), the artefact,
``provenance.json`` and, last of all, ``DONE``. Everything is written under a temporary name and
renamed, so a killed run leaves no half file that looks whole.
"""

from __future__ import annotations

import contextlib
import os
import platform
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from d3d.errors import BusyError, RunError
from d3d.io import project_root, read_json, remove_left, write_json, writing
from d3d.pipeline.config import Config, stage_config

_PACKAGES = ("d3d", "torch", "torchvision", "timm", "numpy", "open3d", "pyrender", "pillow", "scipy")


def run_folder(config: Config) -> Path:
    """``runs/<name>``; the notebook kernel's working folder never matters.

    The folder that holds the runs is the parameter ``runs_dir``, else the environment variable
    ``D3D_RUNS`` (tests point it to a temporary folder), else ``runs`` in the checkout.
    """
    given = config.runs_dir or os.environ.get("D3D_RUNS")
    base = Path(given).expanduser() if given else project_root() / "runs"
    return base.absolute() / config.run


def stage_folder(config: Config, stage: str, arch: str = "", labels: str = "", path: str = "") -> Path:
    """``runs/<run>/<stage>/<arch>[/<labels>]``, where a stage's artefact is or will be.

    A later round of distillation has a level of its own, ``round2/<stage>/...``, for all but the pretraining and
    what is evaluated. Where the run has a ``base``, and that has finished the very same stage, it is the base's folder.

    Args:
        path: what stands below ``<stage>`` where it is not ``<arch>[/<labels>]``.
    """
    same_in_all = ("pretrain", "evaluate", "rank")
    levels = [] if config.round == 1 or stage in same_in_all else [f"round{config.round}"]
    levels += [stage, path or "/".join(p for p in (arch, labels) if p)]
    folder = run_folder(config).joinpath(*levels)
    if config.base and not (folder / "config.json").is_file():
        theirs = run_folder(replace(config, run=config.base)).joinpath(*levels)
        if (theirs / "DONE").is_file() and not differences(
            stage_config(config, stage, arch, labels), read_json(theirs / "config.json", "config")["config"]
        ):
            return theirs
    return folder


def _git_state() -> dict[str, Any]:
    root = project_root()
    if not (root / ".git").exists():
        return {"git": None}
    try:

        def git(*args: str) -> str:
            return subprocess.run(
                ("git", "-C", str(root), *args), capture_output=True, text=True, check=True, timeout=30
            ).stdout.strip()

        return {"git": git("rev-parse", "HEAD"), "dirty": bool(git("status", "--porcelain"))}
    except (OSError, subprocess.SubprocessError):
        return {"git": None}


def _peak_memory_mb() -> int | None:
    """Largest resident memory of this process so far."""
    try:
        import resource
    except ImportError:  # not on Windows
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return round(peak / (2**20 if sys.platform == "darwin" else 2**10))


def provenance(config: Config, **extra: Any) -> dict[str, Any]:
    """What made an artefact: code, versions, seed, machine, command."""
    versions = {"python": platform.python_version()}
    for package in _PACKAGES:
        with contextlib.suppress(metadata.PackageNotFoundError):
            versions[package] = metadata.version(package)
    device = "cpu"
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        device = torch.cuda.get_device_name()
    return {
        **_git_state(),
        "versions": versions,
        "seed": config.seed,
        "profile": config.profile,
        "machine": {"system": platform.platform(), "cores": os.cpu_count(), "device": device},
        "threads": torch.get_num_threads() if torch is not None else None,
        "peak_memory_mb": _peak_memory_mb(),
        "command": " ".join([Path(sys.argv[0]).name, *sys.argv[1:]]),
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        **extra,
    }


def differences(ours: Any, theirs: Any, path: str = "") -> list[str]:
    """The leaves in which two nested configurations differ, as "path: theirs -> ours"."""
    if isinstance(ours, dict) and isinstance(theirs, dict):
        lines = []
        for key in sorted({*ours, *theirs}):
            lines += differences(ours.get(key), theirs.get(key), f"{path}.{key}" if path else key)
        return lines
    return [] if ours == theirs else [f"{path}: {theirs!r} there, {ours!r} now"]


class Stage:
    """One stage's folder, held by one process at a time. Use `open_stage`."""

    def __init__(self, folder: Path, config: Config, what: dict[str, Any], inputs: Mapping[str, str]):
        self.folder = folder
        self.config = config
        self.inputs = dict(inputs)
        self._what = what
        self._start = time.monotonic()
        # as of now: during the hours of a training the checkout may be moved to another commit
        self._code = {} if self.done else _git_state()

    @property
    def done(self) -> bool:
        return (self.folder / "DONE").is_file()

    @property
    def outputs(self) -> dict[str, str]:
        """Name -> sha256 of the finished stage's artefacts: the next stage's inputs."""
        return read_json(self.folder / "DONE", "outputs")["outputs"]

    def _check(self) -> None:
        path = self.folder / "config.json"
        if not path.is_file():
            if self.folder.is_dir() and any(not p.name.startswith(".") for p in self.folder.iterdir()):
                raise RunError(
                    f"{self.folder} holds files but no config.json: not a run of d3d. Name another run."
                )
            write_json(path, {"config": self._what, "inputs": self.inputs})
            return
        stored = read_json(path)
        lines = differences(self._what, stored.get("config"))
        if lines:
            shown = "\n  ".join(lines[:12]) + (f"\n  and {len(lines) - 12} more" if len(lines) > 12 else "")
            raise RunError(
                f"{self.folder} belongs to a run of another configuration:\n  {shown}\n"
                f"Give this run a name of its own (run=...), or delete that folder to compute it anew."
            )
        if stored.get("inputs") != self.inputs:
            raise RunError(
                f"{self.folder} was made from other inputs than those there now (an earlier stage was computed "
                f"anew). Delete that folder to compute it from the present ones."
            )

    def finish(self, outputs: Mapping[str, str], **extra: Any) -> None:
        """Writes the provenance and then DONE; ``outputs`` maps artefact names to sha256."""
        seconds = round(time.monotonic() - self._start, 1)
        write_json(
            self.folder / "provenance.json",
            provenance(self.config, inputs=self.inputs, seconds=seconds, **self._code, **extra),
        )
        write_json(self.folder / "DONE", {"outputs": dict(outputs), "seconds": seconds})


@contextlib.contextmanager
def open_stage(
    config: Config,
    stage: str,
    arch: str = "",
    labels: str = "",
    inputs: Mapping[str, str] | None = None,
    path: str = "",
) -> Iterator[Stage]:
    """Opens ``runs/<run>/<stage>/<arch>[/<labels>]`` for this process alone.

    Args:
        inputs: name -> sha256 of what earlier stages left; another set than the stored one is refused.
        path: the folder below ``<stage>`` where it is not ``<arch>[/<labels>]``.

    Raises:
        RunError: the folder belongs to another configuration, to other inputs, or to a running process.
    """
    folder = stage_folder(config, stage, arch, labels, path)
    lock = FileLock(folder / ".lock")
    try:
        with writing(folder / ".lock"):
            folder.mkdir(parents=True, exist_ok=True)
            lock.acquire(timeout=0)
    except RunError:
        if not (folder / "DONE").is_file():  # a finished stage may be read where nobody can write
            raise
    except Timeout:
        raise BusyError(
            f"{folder} is in use by another process. Wait for it, or give this run another name."
        ) from None
    try:
        result = Stage(folder, config, stage_config(config, stage, arch, labels), inputs or {})
        result._check()
        if not result.done:
            remove_left(folder)
        yield result
    finally:
        lock.release()
