"""Error classes. A message says what is wrong, where, and what to do."""

from __future__ import annotations

import difflib
import re
import sys
from collections.abc import Iterable, Mapping
from decimal import Decimal


class D3DError(Exception):
    """Base class of every error that d3d raises on purpose."""

    def __str__(self) -> str:
        return for_reader(super().__str__())


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
            return for_reader(f"{what} failed for {name}: {reason}")
        listed = "\n  ".join(f"{name}: {reason}" for name, reason in failures.items())
        others = ", the others are done" if len(failures) < number else ""
        return for_reader(
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


def counted(number: int, one: str, several: str | None = None) -> str:
    """Write a number with its noun: "1 frame", "1,613 frames".

    Args:
        one, several: the words after 1, and after any other number; by default with an "s".
    """
    return f"{number:,} {one if number == 1 else several or f'{one}s'}"


def rounded(value: float, digits: int = 3) -> str:
    """Write a number with some significant digits and without an exponent: "3,070", "0.00012"."""
    return f"{Decimal(f'{value:.{digits}g}'):,f}"


def flags(names: Iterable[str]) -> str:
    """Write names of parameters as options of the command line: "--max-depth-m, --axes"."""
    return ", ".join(f"--{name.replace('_', '-')}" for name in names)


def for_reader(message: str) -> str:
    """Write options of the command line as parameters if the reader is in a notebook: --min-depth-m as min_depth_m.

    Commands in backticks stay as they are.
    """
    shell = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    if shell is None:
        return message

    def parameter(found: re.Match[str]) -> str:
        command, no, name = found.groups()
        return command or name.replace("-", "_") + (" = False" if no else "")

    return re.sub(r"(`[^`]*`)|(?<![\w-])--(no-)?([a-z][a-z-]*[a-z])", parameter, message)
