"""Helpers of several test files: scripts as modules, processes, and the environment of a notebook's kernel."""

from __future__ import annotations

import importlib.util
import os
import subprocess
from pathlib import Path
from types import ModuleType

REPO = Path(__file__).resolve().parent.parent


def load_script(name: str) -> ModuleType:
    """Import a file of scripts/, which is not a package."""
    spec = importlib.util.spec_from_file_location(name, REPO / "scripts" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def notebook_environment(runs_dir: str | Path) -> dict[str, str]:
    """Return the environment in which a test runs a notebook over a folder of runs, at profile smoke.

    The kernel sets its own matplotlib backend; the tests' Agg would hide the pictures from the notebook.
    """
    kept = {name: value for name, value in os.environ.items() if name != "MPLBACKEND"}
    return {**kept, "D3D_RUNS": str(runs_dir), "D3D_PROFILE": "smoke"}


def children_of(pid: int) -> list[int]:
    """Return the process ids of a process' children."""
    found = subprocess.run(["ps", "-o", "pid=", "--ppid", str(pid)], capture_output=True, text=True)
    return [int(p) for p in found.stdout.split()]


def is_alive(pid: int) -> bool:
    """Return whether a process runs; a zombie does not."""
    found = subprocess.run(["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, text=True)
    return bool(found.stdout.strip()) and not found.stdout.strip().startswith("Z")
