"""Start child processes that end with their parent."""

from __future__ import annotations

import os
import subprocess
import threading
from collections.abc import Mapping, Sequence
from typing import Any

_ENDS_WITH_STDIN = "D3D_ENDS_WITH_STDIN"


def start(
    command: Sequence[str], environment: Mapping[str, str] = os.environ, **options: Any
) -> subprocess.Popen:
    """Start a d3d program that calls `end_with_parent`; ``options`` are options of `Popen`."""
    # nobody writes to this pipe: it closes when this process ends for any reason
    env = {**environment, _ENDS_WITH_STDIN: "1"}
    return subprocess.Popen(command, stdin=subprocess.PIPE, env=env, **options)


def end_with_parent() -> None:
    """Make this process end when its parent, which called `start`, ends or is killed."""
    if os.environ.pop(_ENDS_WITH_STDIN, None):

        def watch() -> None:
            while os.read(0, 4096):  # not sys.stdin: Python cannot exit while a thread waits for it
                pass
            os._exit(1)

        threading.Thread(target=watch, daemon=True).start()
