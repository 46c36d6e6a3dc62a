"""The notebooks: pairs agree, outputs are clean, every notebook runs, and a wrong parameter is an error.

nbval runs the committed notebooks with --nbval-lax: an exception in any cell fails, and outputs are
compared in the cells marked ``# NBVAL_CHECK_OUTPUT`` alone. Those print a sentence that must hold by
construction for any profile and data set (the numbers behind it are asserted, with a tolerance, in
the cell itself). Pictures, tables and timings are not compared: they change with the machine.
"""

from __future__ import annotations

import ast
import base64
import io
import shutil
import subprocess
import sys
import tokenize
from pathlib import Path

import jupytext
import nbformat
import numpy as np
import pytest
from helpers import load_script, notebook_environment
from PIL import Image

from d3d.pipeline.config import PARAMETERS, make_config
from d3d.room.notebook import shipped_capture

REPO = Path(__file__).resolve().parent.parent
FOLDER = REPO / "notebooks"
NAMES = (
    "00_data",
    "01_pretrain",
    "02_project",
    "03_fuse",
    "04_distill",
    "05_evaluate",
    "06_sevenscenes",
    "07_ablation",
    "08_figures",
    "09_reflection_list",
    "10_uncertainty",
    "11_your_room",
)
MAX_BYTES = 1_500_000  # of a notebook with its pictures: they are legible, and the repository stays small

script = load_script("notebooks")

every_notebook = pytest.mark.parametrize("name", NAMES)


def read(name: str) -> nbformat.NotebookNode:
    return nbformat.read(FOLDER / f"{name}.ipynb", as_version=4)


def code(notebook: nbformat.NotebookNode) -> list[nbformat.NotebookNode]:
    return [c for c in notebook.cells if c.cell_type == "code"]


def parameter_cells(notebook: nbformat.NotebookNode) -> list[nbformat.NotebookNode]:
    return [c for c in notebook.cells if "parameters" in c.metadata.get("tags", [])]


def test_every_notebook_is_listed_here() -> None:
    found = {p.stem for p in FOLDER.glob("*.py")} | {p.stem for p in FOLDER.glob("*.ipynb")} - {"out"}
    assert found == set(NAMES)


@every_notebook
def test_the_pair_agrees(name: str) -> None:
    source, notebook = jupytext.read(FOLDER / f"{name}.py"), read(name)
    kinds = [(c.cell_type, c.source, c.metadata.get("tags", [])) for c in source.cells]
    assert [(c.cell_type, c.source, c.metadata.get("tags", [])) for c in notebook.cells] == kinds, (
        f"notebooks/{name}.ipynb is not what its .py gives: run `make notebooks`"
    )


@every_notebook
def test_the_title_says_what_a_reader_must_know(name: str) -> None:
    title = read(name).cells[0]
    assert title.cell_type == "markdown"
    for word in (f"# {name[:2]} ", "**Paper** section", "**In:**", "**Out:**", "**Time**", "GPU"):
        assert word in title.source, word
    assert f"`papermill {name}.ipynb out.ipynb -p " in title.source


@every_notebook
def test_one_parameters_cell_of_annotated_literals_with_help(name: str) -> None:
    notebook = read(name)
    (cell,) = parameter_cells(notebook)
    first, second = code(notebook)[:2]
    assert cell is first
    assert f"cfg = d3d.{'room' if name == '11_your_room' else 'config'}.resolve(globals())" in second.source
    values = {}
    for statement, line in zip(ast.parse(cell.source).body, cell.source.splitlines(), strict=True):
        assert isinstance(statement, ast.AnnAssign), line
        comments = [
            t.string
            for t in tokenize.generate_tokens(io.StringIO(line).readline)
            if t.type == tokenize.COMMENT
        ]
        assert comments, f"{line}: papermill shows the trailing comment as help"
        values[statement.target.id] = ast.literal_eval(statement.value)
        assert statement.annotation.id == PARAMETERS[statement.target.id].type.__name__, line
    assert {"profile", "dataset", "root", "seed", "run"} <= set(values)
    assert name == "00_data" or "arch" in values
    if name == "11_your_room":
        values |= {"dataset": "capture", "root": str(shipped_capture())}
    make_config(**values)


@every_notebook
def test_nothing_of_this_machine_is_left(name: str) -> None:
    notebook = read(name)
    assert not any("injected-parameters" in c.metadata.get("tags", []) for c in notebook.cells)
    assert set(notebook.metadata) == {"kernelspec", "language_info", "jupytext"}
    assert not any(set(c.metadata) - {"tags"} for c in notebook.cells)
    for text in script.texts(notebook):
        assert not script.ABSOLUTE_PATH.findall(text), text
    streams = [o.name for c in code(notebook) for o in c.outputs if o.output_type == "stream"]
    assert "stderr" not in streams
    assert (FOLDER / f"{name}.ipynb").stat().st_size < MAX_BYTES


@every_notebook
def test_it_was_run_from_top_to_bottom(name: str) -> None:
    cells = code(read(name))
    assert [c.execution_count for c in cells] == list(range(1, len(cells) + 1))
    outputs = [o for c in cells for o in c.outputs]
    assert not any(o.output_type == "error" for o in outputs)
    pictures = sum("image/png" in o.get("data", {}) for o in outputs)
    assert pictures >= 2
    for cell in cells:
        if "NBVAL_CHECK_OUTPUT" in cell.source:
            assert cell.outputs, "nbval compares nothing where there is no output"
    assert any("NBVAL_CHECK_OUTPUT" in c.source for c in cells)


@every_notebook
def test_the_outputs_are_results(name: str) -> None:
    """The committed outputs are those of profile ready, whose networks are trained."""
    printed = "".join(
        o.get("text", "") for c in code(read(name)) for o in c.outputs if o.output_type == "stream"
    )
    assert "profile ready: " in printed, "run `make notebooks` without D3D_PROFILE"
    assert "not trained" not in printed


def test_absolute_paths_are_seen_and_rates_are_not() -> None:
    find = script.ABSOLUTE_PATH.findall
    assert find("saved " + "/" + "home/someone/runs/x.png")
    assert not find(
        "5.3 images/s, </td>, https://a.org/b/c, ../shared/data/7scenes, runs/<run>/fuse/x, $D/P/L$"
    )


def test_a_tidy_notebook_has_no_injected_cell_bars_or_widgets() -> None:
    new = nbformat.v4
    home, kernel = "/" + "home/someone", {"name": "python3", "display_name": "Python 3"}
    bar = new.new_output("stream", name="stderr", text="10%|#    |")
    widget = new.new_output(
        "display_data", {"application/vnd.jupyter.widget-view+json": {}, "text/plain": "x"}
    )
    line = new.new_output("stream", name="stdout", text=f"{home}/runs/a at 0x7f00aa\n")
    cells = [
        new.new_code_cell("a = 1", metadata={"tags": ["injected-parameters"]}, execution_count=1),
        new.new_code_cell("b", execution_count=2, outputs=[bar, widget, line], metadata={"papermill": {}}),
    ]
    notebook = new.new_notebook(cells=cells, metadata={"kernelspec": kernel, "papermill": {}})
    (cell,) = script.tidy(notebook, {home: "~"}).cells
    assert cell.execution_count == 1
    assert [o.text for o in cell.outputs] == ["~/runs/a\n"]
    assert not cell.metadata
    assert "papermill" not in notebook.metadata


def test_a_picture_is_reduced_once() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (300, 300, 3), np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(noise).save(buffer, format="PNG")
    first = script._smaller(base64.b64encode(buffer.getvalue()).decode())
    assert len(first) < len(base64.b64encode(buffer.getvalue())) / 2
    assert script._smaller(first) == first


def run(command: list[str], runs_dir: Path, cwd: Path) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-m", *command],
        cwd=cwd,
        env=notebook_environment(runs_dir),
        capture_output=True,
        text=True,
        timeout=600,
    )


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (("archh", "hrdepth"), "unknown parameter 'archh'. Did you mean 'arch'"),
        (("arch", "resnet"), "unknown arch 'resnet'"),
        (("profile", "smok"), "Did you mean 'smoke'"),
    ],
    ids=lambda v: "-".join(v) if isinstance(v, tuple) else "",
)
def test_a_wrong_parameter_fails_with_a_clear_message(
    wrong: tuple[str, str], said: str, tmp_path: Path
) -> None:
    out = tmp_path / "out.ipynb"
    result = run(["papermill", "04_distill.ipynb", str(out), "-p", *wrong], tmp_path / "runs", FOLDER)
    assert result.returncode != 0
    assert said in result.stderr
    assert not (tmp_path / "runs").exists(), "it must fail before anything is computed"


@pytest.mark.slow
def test_distill_from_nothing_then_every_notebook(tmp_path: Path) -> None:
    """04 computes every stage it needs; nbval then runs all notebooks over the same folder, computing nothing twice."""
    runs_dir, out = tmp_path / "runs", tmp_path / "out.ipynb"
    result = run(["papermill", "04_distill.ipynb", str(out), "-p", "arch", "hrdepth"], runs_dir, FOLDER)
    assert result.returncode == 0, result.stderr
    said = "".join(script.texts(nbformat.read(out, as_version=4)))
    for arch in ("monodepth2", "hrdepth", "monovit"):
        assert f"[pretrain/{arch}] is missing: computing it first" in said
        assert f"[pretrain/{arch}] took" in said
    (folder,) = runs_dir.iterdir()
    assert (folder / "distill" / "hrdepth" / "uncer" / "DONE").is_file()

    # another worker, or a user, may have the checkout's notebooks open: run copies, in a folder named alike
    copies = tmp_path / "notebooks"
    copies.mkdir()
    for name in NAMES:
        shutil.copy(FOLDER / f"{name}.ipynb", copies)
    options = [
        "-q",
        "--nbval-lax",
        "--nbval-cell-timeout=240",
        "-p",
        "no:dash",
        "-p",
        "no:cacheprovider",
        "-p",
        "no:xdist",
    ]
    result = run(["pytest", *options, *[f"{n}.ipynb" for n in NAMES]], runs_dir, copies)
    assert result.returncode == 0, result.stdout + result.stderr
    room = runs_dir / "room-capture-smoke-seed0"
    assert sorted(runs_dir.iterdir()) == [folder, room], (
        "a notebook ran another profile than its parameters cell says"
    )
    assert (room / "room" / "index.html").is_file()
    assert {p.name for p in folder.iterdir()} >= {
        "pretrain",
        "predict",
        "project",
        "uncertainty",
        "fuse",
        "distill",
    }
    assert (folder / "tables" / "val.md").is_file()
