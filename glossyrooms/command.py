"""Run a command of this package: print its time, report its errors, and return its exit status."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable

from d3d.errors import D3DError
from d3d.progress import say


def run(work: Callable[[], None]) -> int:
    """Call ``work`` and return the exit status.

    Returns:
        0 for success; 1 after an error of d3d, which is printed as one line; 130 if the user stopped the command.
    """
    start = time.monotonic()
    try:
        work()
        say(f"({time.monotonic() - start:.0f} s)")
    except D3DError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("stopped. Finished rooms are kept: repeat the command to continue.", file=sys.stderr)
        return 130
    return 0
