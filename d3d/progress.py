"""Progress bars and messages for a terminal, a notebook or a log file."""

from __future__ import annotations

import functools
import sys
from collections.abc import Iterable
from typing import Any

from tqdm import tqdm

silent = False  # True in all but one of several processes that share a training


def track(iterable: Iterable[Any] | None = None, what: str = "", first: int = 0, **options: Any) -> tqdm:
    """Return a progress bar with the time left; in a log file it prints one line every half minute.

    Args:
        iterable: the items to iterate over, or None to call ``update`` on the result.
        what: the label.
        first: items that were done before; they do not count for the speed and the time left.
        **options: of tqdm: ``total`` items, if ``iterable`` has no length, and the ``unit``, the name of one item.
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
        print(message, flush=True)


@functools.cache
def say_once(message: str) -> None:
    """As `say`; the same message only once in a process."""
    say(message)
