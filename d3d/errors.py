"""Error classes. A message says what is wrong, where, and what to do."""

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
    """The folder of a run cannot be used: it has another configuration, is in use, or is incomplete."""


class WriteError(RunError):
    """A file cannot be written: the disk is full or read-only, or permission is missing."""


class BusyError(RunError):
    """Another process is using this folder."""


class TasksError(RunError):
    """Some tasks of a stage failed; the other tasks are done.

    Attributes:
        failures: task name -> error message.
    """

    def __init__(self, what: str, number: int, failures: Mapping[str, str]):
        self.failures = dict(failures)
        super().__init__(what, number, self.failures)

    def __str__(self) -> str:
        what, number, failures = self.args
        if number == 1:
            ((name, reason),) = failures.items()
            return f"{what} failed for {name}: {reason}"
        listed = "\n  ".join(f"{name}: {reason}" for name, reason in failures.items())
        others = ", the others are done" if len(failures) < number else ""
        return (
            f"{what}: {len(failures)} of {number} failed{others}. Fix the causes and repeat the command: it computes "
            f"only the missing results.\n  {listed}"
        )


def unknown(kind: str, name: object, choices: Iterable[str]) -> ConfigError:
    """Make a `ConfigError` for an unknown name, with near misses and all choices.

    Args:
        kind: what the name stands for ("arch", "profile").
        name: the unknown name.
        choices: the known names.
    """
    choices = sorted(choices)
    return ConfigError(
        f"unknown {kind} {name!r}.{did_you_mean(name, choices)} Choose from: {', '.join(choices)}."
    )


def did_you_mean(name: object, choices: Iterable[str]) -> str:
    """Return " Did you mean 'a' or 'b'?" with the choices closest to a name, or "" without a close choice.

    Args:
        choices: names, or a dictionary of names and the texts to show in their place.
    """
    near = difflib.get_close_matches(str(name), list(choices), n=3, cutoff=0.5)
    if isinstance(choices, dict):
        near = [choices[n] for n in near]
    return f" Did you mean {' or '.join(map(repr, near))}?" if near else ""
