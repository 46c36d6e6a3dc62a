"""`make lab` keeps what a user changed; `make papermill` resumes, and runs nothing twice."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from helpers import load_script

lab, every = load_script("lab"), load_script("papermill_all")


def notebook(path: Path, *sources: str) -> Path:
    cells = [nbformat.v4.new_code_cell(s, id=f"c{k}") for k, s in enumerate(sources)]
    metadata = {
        "kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"},
        "jupytext": {"formats": "ipynb,py"},
    }
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata=metadata), path)
    return path


def sources(path: Path) -> list[str]:
    return [c.source for c in nbformat.read(path, as_version=4).cells]


def test_copies_for_the_lab_keep_what_a_user_changed(tmp_path) -> None:
    source, target = tmp_path / "notebooks", tmp_path / "lab"
    source.mkdir()
    first, second = notebook(source / "00_a.ipynb", "1"), notebook(source / "01_b.ipynb", "1")
    assert lab.copy_notebooks(source, target) == []
    assert "jupytext" not in nbformat.read(target / first.name, as_version=4).metadata
    edited = nbformat.read(target / first.name, as_version=4)
    edited.cells[0].source = "mine"
    nbformat.write(edited, target / first.name)
    assert lab.copy_notebooks(source, target) == [], "nothing is newer yet"
    notebook(first, "2")
    notebook(second, "2")
    assert lab.copy_notebooks(source, target) == ["00_a.ipynb"]
    assert (sources(target / first.name), sources(target / second.name)) == (["mine"], ["2"])


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setattr(every, "PER_ARCH", ("01",))
    folder = tmp_path / "notebooks"
    folder.mkdir()
    for name in ("00_a", "01_b", "02_c"):
        text = "open('count', 'a').write('x')"
        path = notebook(folder / f"{name}.ipynb", "arch = None", text)
        content = nbformat.read(path, as_version=4)
        content.cells[0].metadata["tags"] = ["parameters"]
        nbformat.write(content, path)
    return folder


def test_each_network_once_then_resumed(folder, tmp_path, capsys) -> None:
    out = tmp_path / "r" / "notebooks"
    jobs = every.plan(folder, out, ["lite", "hrdepth"], {})
    names = ["01_b-lite.ipynb", "01_b-hrdepth.ipynb", "00_a.ipynb", "02_c.ipynb"]
    assert [j.target.name for j in jobs] == names
    assert [j.parameters.get("arch") for j in jobs] == ["lite", "hrdepth", None, "lite"]
    index = every.run(jobs, out).read_text()
    assert all(f'<a href="{name.replace("ipynb", "html")}">' in index for name in names)
    assert "min left" in capsys.readouterr().out
    assert (folder / "count").read_text() == "xxxx"
    every.run(jobs, out)
    assert "4 of them finished" in capsys.readouterr().out
    assert (folder / "count").read_text() == "xxxx"
    every.run(every.plan(folder, out, ["lite"], {"seed": 1}), out)
    assert (folder / "count").read_text() == "xxxxxxx", "other parameters are another result"


def test_the_notebook_of_a_capture_has_its_own_data_run_and_network(folder, tmp_path) -> None:
    (folder / "11_d.ipynb").write_bytes((folder / "02_c.ipynb").read_bytes())

    def parameters(**given):
        return every.plan(folder, tmp_path, ["hrdepth"], given)[-1].parameters

    assert parameters(seed=1) == {"seed": 1, "arch": "lite"}
    other = parameters(dataset="7scenes", root="kitchen", recipe="robust", run="r")
    assert other == {"dataset": None, "root": None, "recipe": None, "run": "r-room", "arch": "lite"}
    assert parameters(dataset="capture", root="mine")["root"] == "mine"


def test_a_failed_notebook_is_not_taken_for_a_finished_one(folder, tmp_path) -> None:
    import papermill

    notebook(folder / "02_c.ipynb", "1 / 0")
    out = tmp_path / "r" / "notebooks"
    jobs = every.plan(folder, out, ["lite"], {})
    with pytest.raises(papermill.PapermillExecutionError):
        every.run(jobs, out)
    assert "not finished" in (out / "index.html").read_text()
    assert not (out / "02_c.ipynb").exists()
    assert (out / "02_c.failed.ipynb").exists()


@pytest.mark.parametrize("given", [None, "active"])
def test_waiting_threads_are_passive_unless_the_user_says_otherwise(given) -> None:
    kept = {k: v for k, v in os.environ.items() if k != "OMP_WAIT_POLICY"}
    command = [sys.executable, "-c", "import os, d3d; print(os.environ['OMP_WAIT_POLICY'])"]
    environment = kept | ({"OMP_WAIT_POLICY": given} if given else {})
    said = subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout
    assert said.strip() == (given or "passive")
