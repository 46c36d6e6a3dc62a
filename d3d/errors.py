"""Errors that a user can act on: what was wrong, where, and what to do about it."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping


class D3DError(Exception):
    """Base class of every error that d3d raises on purpose."""


class ConfigError(D3DError, ValueError):
    """A parameter is unknown, of the wrong type, or out of range."""


class DataError(D3DError, ValueError):
    """A file, pose, image, depth map or checkpoint is not what it should be."""


class RunError(D3DError, RuntimeError):
    """A run's folder cannot be used: another configuration, another process, a half state."""


class WriteError(RunError):
    """A machine refuses to write: its disk is full, or read-only, or the folder another's."""


class BusyError(RunError):
    """Another process is at work in this folder just now."""


class TasksError(RunError):
    """Some scenes of a stage failed, and all others are done.

    Attributes:
        failures: scene to what was wrong with it.
    """

    def __init__(self, what: str, number: int, failures: Mapping[str, str]):
        self.failures = dict(failures)
        self._arguments = (what, number, self.failures)
        listed = "\n  ".join(f"{name}: {reason}" for name, reason in self.failures.items())
        super().__init__(
            f"{what}: {len(self.failures)} of {number} failed, the others are done. Mend these and run the same "
            f"again, which does only what is missing:\n  {listed}"
        )

    def __reduce__(self):
        return type(self), self._arguments


def unknown(kind: str, name: object, choices: Iterable[str]) -> ConfigError:
    """A `ConfigError` for an unknown name that names the near misses and all choices.

    Args:
        kind: what the name should be one of, in the singular ("arch", "profile").
        name: what was given.
        choices: the valid names.
    """
    choices = sorted(choices)
    near = difflib.get_close_matches(str(name), choices, n=3, cutoff=0.5)
    hint = f" Did you mean {' or '.join(repr(n) for n in near)}?" if near else ""
    return ConfigError(f"unknown {kind} {name!r}.{hint} Choose from: {', '.join(choices)}.")
