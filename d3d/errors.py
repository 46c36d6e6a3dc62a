"""Errors that say what is wrong, where, and what to do."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping


class D3DError(Exception):
    """Base class of every error that d3d raises on purpose."""


class ConfigError(D3DError, ValueError):
    """A parameter is unknown, of the wrong type, or out of range."""


class DataError(D3DError, ValueError):
    """A file, pose, image, depth map or checkpoint is missing, damaged or unsuitable."""


class RunError(D3DError, RuntimeError):
    """A run's folder cannot be used: it has another configuration, is in use, or is incomplete."""


class WriteError(RunError):
    """A file cannot be written: the disk is full or read-only, or permission is missing."""


class BusyError(RunError):
    """Another process is using this folder."""


class TasksError(RunError):
    """Some tasks of a stage failed; all others are done.

    Attributes:
        failures: name of a task -> its error message.
    """

    def __init__(self, what: str, number: int, failures: Mapping[str, str]):
        self.failures = dict(failures)
        super().__init__(what, number, self.failures)

    def __str__(self) -> str:
        what, number, failures = self.args
        listed = "\n  ".join(f"{name}: {reason}" for name, reason in failures.items())
        return (
            f"{what}: {len(failures)} of {number} failed, the others are done. Fix the causes and repeat the command: "
            f"it computes only what is missing.\n  {listed}"
        )


def unknown(kind: str, name: object, choices: Iterable[str]) -> ConfigError:
    """Return a `ConfigError` for an unknown name of a kind ("arch", "profile"), with near misses and all choices."""
    choices = sorted(choices)
    near = difflib.get_close_matches(str(name), choices, n=3, cutoff=0.5)
    hint = f" Did you mean {' or '.join(repr(n) for n in near)}?" if near else ""
    return ConfigError(f"unknown {kind} {name!r}.{hint} Choose from: {', '.join(choices)}.")
