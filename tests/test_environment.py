"""A notebook in the wrong environment says which one it runs in, what is missing there, and what to do."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import jupytext
import pytest

import d3d
from d3d.environment import REQUIRED

REPO = Path(__file__).resolve().parent.parent
NOTEBOOKS = sorted((REPO / "notebooks").glob("[0-9]*.py"))


def test_this_environment_has_everything() -> None:
    d3d.check_environment()


def test_every_dependency_is_looked_for() -> None:
    project = tomllib.loads((REPO / "pyproject.toml").read_text())["project"]
    names = {re.match(r"[\w-]+", line)[0].lower() for line in project["dependencies"]}
    imported = {"pillow": "PIL"}
    assert {imported.get(name, name.replace("-", "_")) for name in names} <= set(REQUIRED)


def test_missing_packages_are_named_with_the_python_that_runs(monkeypatch) -> None:
    whole = importlib.util.find_spec
    missing = ("matplotlib", "pandas")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name in missing else whole(name))
    with pytest.raises(ModuleNotFoundError, match="which lacks matplotlib, pandas") as caught:
        d3d.check_environment()
    assert sys.executable in str(caught.value)
    assert "papermill -k d3d" in str(caught.value)


def _first_code(notebook: Path) -> str:
    """The first cell after the parameters, which no package is imported before."""
    parameters, first = [c for c in jupytext.read(notebook).cells if c.cell_type == "code"][:2]
    assert "parameters" in parameters.metadata["tags"]
    return first.source


@pytest.mark.parametrize("with_d3d", [False, True], ids=["nothing", "only d3d"])
def test_a_notebook_in_a_bare_python_says_what_to_do(with_d3d: bool, tmp_path: Path) -> None:
    """A Python without its packages, as that of another environment's kernel; with d3d in its path, or without."""
    code = tmp_path / "cell.py"
    code.write_text(_first_code(NOTEBOOKS[0]))
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    if with_d3d:
        environment["PYTHONPATH"] = str(REPO)
    result = subprocess.run(
        [sys.executable, "-S", str(code)], env=environment, cwd=tmp_path, capture_output=True, text=True
    )
    last = result.stderr.strip().splitlines()[-1]
    assert last.startswith("ModuleNotFoundError: ")
    if with_d3d:
        assert sys.executable in last
        assert "lacks torch" in last
        assert "papermill -k" in last
    else:
        assert "No module named 'd3d'" in last
