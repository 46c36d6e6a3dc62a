"""A pytest plugin that fails a session if a file of the checkout was written, changed or removed.

Tests write to temporary folders only. A test that writes into the checkout could leave something in the user's
`runs/` that a later run takes for a finished stage.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

# Folders of the tools, which may write into them at any time
IGNORED = frozenset(
    {".git", ".venv", "__pycache__", ".pytest_cache", ".hypothesis", ".ruff_cache", ".ipynb_checkpoints"}
)
SHOWN = 20

Snapshot = dict[str, tuple[int, int]]


def snapshot(folder: Path) -> Snapshot:
    """Every file and folder below ``folder``, as a relative path, with its size and its time of change [ns].

    A folder counts only as being there: its size and time, given as 0, follow from its files.
    """
    found: Snapshot = {}
    for parent, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if name not in IGNORED]
        relative = Path(parent).relative_to(folder)
        found |= {f"{relative / name}/": (0, 0) for name in folders}
        for name in files:
            status = os.lstat(os.path.join(parent, name))
            found[str(relative / name)] = status.st_size, status.st_mtime_ns
    return found


def differences(before: Snapshot, after: Snapshot) -> list[str]:
    """Return one line for each path that was created, changed or removed."""
    made = [f"made: {path}" for path in after.keys() - before.keys()]
    removed = [f"removed: {path}" for path in before.keys() - after.keys()]
    both = before.keys() & after.keys()
    return sorted(made + removed + [f"changed: {path}" for path in both if before[path] != after[path]])


class UnchangedCheckout:
    """Compare the checkout before and after a session. With pytest-xdist, only the controller needs this."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.found: list[str] = []

    def pytest_sessionstart(self) -> None:
        self.before = snapshot(self.folder)

    # Last: pytest-xdist ends its workers in this hook
    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        self.found = differences(self.before, snapshot(self.folder))
        if self.found and session.exitstatus in (pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED):
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        if not self.found:
            return
        terminalreporter.section("the checkout has changed", red=True)
        terminalreporter.line(
            f"Files in {self.folder} were written while the tests ran. Tests may write to temporary folders only "
            "(tmp_path). If another program wrote the files, run the tests again."
        )
        for line in self.found[:SHOWN]:
            terminalreporter.line(f"  {line}")
        if len(self.found) > SHOWN:
            terminalreporter.line(f"  and {len(self.found) - SHOWN} more")
