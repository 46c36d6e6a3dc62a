"""Progress with time left, for a terminal, a notebook and a log file alike."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import Any

from tqdm import tqdm

silent = False  # of several processes that do one thing, one speaks


def track(
    iterable: Iterable[Any] | None = None,
    what: str = "",
    total: int | None = None,
    unit: str = "it",
    first: int = 0,
) -> tqdm:
    """A progress bar with time left; in a log file one line every half minute instead of a redrawn one.

    Args:
        first: how many of ``total`` were done before: shown, but not taken for the rate and the time left.
    """
    terminal = sys.stderr.isatty()
    return tqdm(
        iterable,
        desc=what,
        total=total,
        initial=first,
        unit=unit,
        mininterval=0.3 if terminal else 30.0,
        ncols=100,
        ascii=not terminal,
        leave=terminal,
        disable=silent,
        delay=0 if terminal else 5,
        file=sys.stderr,
    )


def say(message: str) -> None:
    """One line for the user, at once (a log file is otherwise buffered)."""
    if not silent:
        print(message, flush=True)
