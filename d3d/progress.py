"""Progress bars and messages for a terminal, a notebook or a log file."""

from __future__ import annotations

import functools
import sys
from collections.abc import Iterable
from typing import Any

from tqdm import tqdm

from d3d.errors import for_reader

silent = False  # True in all processes of a distributed training except the first


def track(iterable: Iterable[Any] | None = None, what: str = "", first: int = 0, **options: Any) -> tqdm:
    """Make a progress bar with the time left. In a log file it prints a line every half minute.

    Args:
        iterable: items to iterate over; None to call ``update`` on the result.
        what: label.
        first: number of items done before; they do not count for speed and time left.
        **options: of tqdm, for example ``total`` (number of items) and ``unit`` (name of an item).
    """
    terminal = sys.stderr.isatty()
    return tqdm(
        iterable,
        desc=what,
        initial=first,
        mininterval=0.3 if terminal else 30.0,
        ncols=100,
        ascii=not terminal,
        leave=terminal,
        disable=silent,
        delay=0 if terminal else 5,
        file=sys.stderr,
        **options,
    )


def say(message: str) -> None:
    """Print one line for the user, without buffering."""
    if not silent:
        print(for_reader(message), flush=True)


@functools.cache
def say_once(message: str) -> None:
    """Print a line like `say`, but each message only once per process."""
    say(message)
