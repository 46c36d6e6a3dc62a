"""Processes that this one starts and that must not outlive it."""

from __future__ import annotations

import os
import subprocess
import threading
from collections.abc import Mapping, Sequence
from typing import Any

_ENDS_WITH_STDIN = "D3D_ENDS_WITH_STDIN"


def start(
    command: Sequence[str], environment: Mapping[str, str] | None = None, **options: Any
) -> subprocess.Popen:
    """Starts a program of d3d that calls `end_with_parent`; so do the processes which that starts in turn.

    Args:
        environment: by default this process's.
        **options: of `subprocess.Popen`.
    """
    # nothing is ever written to its standard input: it closes when this process ends, however it ends
    env = {**(os.environ if environment is None else environment), _ENDS_WITH_STDIN: "1"}
    return subprocess.Popen(command, stdin=subprocess.PIPE, env=env, **options)


def end_with_parent() -> None:
    """Lets a process of `start` end when the one that started it does, which after a kill could not end it."""
    if os.environ.pop(_ENDS_WITH_STDIN, None):

        def watch() -> None:
            while os.read(0, 4096):  # not sys.stdin: Python could not end while a thread waits for that
                pass
            os._exit(1)

        threading.Thread(target=watch, daemon=True).start()
