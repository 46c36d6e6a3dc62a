"""Child processes that end when the process that started them ends."""

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
    """Starts a d3d program that calls `end_with_parent`, as do those that it starts; ``options`` are of `Popen`."""
    # nobody writes to this pipe: it closes when this process ends, however it ends
    env = {**environment, _ENDS_WITH_STDIN: "1"}
    return subprocess.Popen(command, stdin=subprocess.PIPE, env=env, **options)


def end_with_parent() -> None:
    """Ends this process when the one that started it with `start` ends, even if that was killed."""
    if os.environ.pop(_ENDS_WITH_STDIN, None):

        def watch() -> None:
            while os.read(0, 4096):  # not sys.stdin: Python could not end while a thread waits for it
                pass
            os._exit(1)

        threading.Thread(target=watch, daemon=True).start()
