"""Write each notebook's .ipynb from its .py, run it, and keep the outputs that are the same on every machine.

    python scripts/notebooks.py                          every notebook, with profile ready
    python scripts/notebooks.py notebooks/03_fuse.py --profile demo --run demo
    python scripts/notebooks.py --no-run                 write the .ipynb only; unchanged cells keep their outputs

The script removes injected cells, progress bars, widgets, interactive meshes and paths of this machine.
"""

from __future__ import annotations

import argparse
import base64
import io
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import jupytext
import nbformat
from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
# Two or more folders from the root of the file system, but not "m/s", "</td>" or an address with a scheme
ABSOLUTE_PATH = re.compile(r"(?<![\w./<>~:\\-])/(?:[\w.+-]+/)+[\w.+-]*")

# Resolution of the committed pictures: legible, and small enough for the repository
DPI = 110
MOST_BYTES = 160_000  # of a picture; a larger one gets 256 colours


def pair(source: Path) -> Path:
    """Write the .ipynb beside a .py; unchanged cells keep their outputs."""
    target = source.with_suffix(".ipynb")
    command = [sys.executable, "-m", "jupytext", "--quiet", "--to", "ipynb", "--update", str(source)]
    subprocess.run(command, check=True, cwd=ROOT)
    return target


def tidy(notebook: nbformat.NotebookNode, folders: dict[str, str] | None = None) -> nbformat.NotebookNode:
    """Remove everything that differs between machines and runs. The notebook is changed in place.

    Args:
        notebook: the notebook.
        folders: absolute folder -> its replacement in outputs.
    """
    notebook.cells = [c for c in notebook.cells if "injected-parameters" not in c.metadata.get("tags", [])]
    kept = notebook.metadata.get("kernelspec"), notebook.metadata.get("jupytext")
    notebook.metadata.clear()
    notebook.metadata.update(kernelspec=kept[0], language_info={"name": "python"})
    if kept[1]:
        kept[1].get("text_representation", {}).pop("jupytext_version", None)
        notebook.metadata["jupytext"] = kept[1]
    count = 0
    for number, cell in enumerate(notebook.cells):
        cell["id"] = f"cell-{number:02d}"
        tags = cell.metadata.get("tags")
        cell.metadata.clear()
        if tags:
            cell.metadata["tags"] = tags
        if cell.cell_type != "code":
            continue
        if cell.execution_count is not None:
            count += 1
            cell.execution_count = count
        outputs = [_tidy_output(o, cell.execution_count, folders or {}) for o in cell.outputs if _wanted(o)]
        cell.outputs = _joined(outputs)
    return notebook


def _wanted(output: nbformat.NotebookNode) -> bool:
    if output.output_type == "stream":
        return output.name != "stderr"  # progress bars and the like
    return "application/vnd.jupyter.widget-view+json" not in output.get("data", {})


def _joined(outputs: list[nbformat.NotebookNode]) -> list[nbformat.NotebookNode]:
    """Join consecutive printed outputs, since their split varies between runs."""
    result: list[nbformat.NotebookNode] = []
    for output in outputs:
        if result and output.output_type == result[-1].output_type == "stream":
            result[-1].text += output.text
        else:
            result.append(output)
    return result


def _tidy_output(
    output: nbformat.NotebookNode, count: int | None, folders: dict[str, str]
) -> nbformat.NotebookNode:
    def clean(text: str) -> str:
        for folder, name in sorted(folders.items(), key=lambda f: -len(f[0])):
            text = text.replace(folder, name)
        return re.sub(r" at 0x[0-9a-f]+", "", text)

    if output.output_type == "stream":
        output.text = clean(output.text)
    elif "data" in output:
        for kind, value in output.data.items():
            if kind.startswith("text/"):
                output.data[kind] = clean(value)
            elif kind == "image/png":
                output.data[kind] = _smaller(value)
        if output.output_type == "execute_result":
            output.execution_count = count
    return output


def _smaller(png_base64: str) -> str:
    """Remove the alpha channel of a picture and compress it well."""
    buffer = io.BytesIO()
    with Image.open(io.BytesIO(base64.b64decode(png_base64))) as image:
        if image.mode == "P":
            return png_base64  # already reduced: doing it again would degrade the picture
        picture = image.convert("RGB")
        if len(png_base64) > MOST_BYTES:  # photographs and maps: 256 colours, dithered
            picture = picture.quantize(256, Image.Quantize.FASTOCTREE, dither=Image.Dither.FLOYDSTEINBERG)
        picture.save(buffer, format="PNG", optimize=True)
    return base64.b64encode(buffer.getvalue()).decode()


def texts(notebook: nbformat.NotebookNode) -> list[str]:
    """Return all text of a notebook: sources, and outputs other than pictures."""
    result = []
    for cell in notebook.cells:
        result.append(cell.source)
        for output in cell.get("outputs", []):
            result.append(output.get("text", ""))
            result += [v for k, v in output.get("data", {}).items() if k.startswith("text/")]
            result += output.get("traceback", [])
    return result


def execute(path: Path, parameters: dict[str, str | int]) -> float:
    """Run a notebook and write its tidied outputs into it; return the time in seconds.

    Raises:
        papermill.PapermillExecutionError: a cell failed; the notebook is unchanged.
        SystemExit: the outputs contain a path of this machine.
    """
    import papermill

    start = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        out, style = Path(folder) / path.name, Path(folder) / "matplotlibrc"
        style.write_text(f"figure.dpi: {DPI}\n")
        os.environ["MATPLOTLIBRC"] = str(style)  # the kernel inherits it
        papermill.execute_notebook(
            path, out, parameters, progress_bar=False, cwd=path.parent, kernel_name="python3"
        )
        notebook = nbformat.read(out, as_version=4)
    seconds = time.monotonic() - start
    tidy(notebook, {f"{ROOT}/": "", str(ROOT): ".", str(Path.home()): "~"})
    left = {match for text in texts(notebook) for match in ABSOLUTE_PATH.findall(text)}
    if left:
        sys.exit(f"{path}: paths of this machine in the outputs: {', '.join(sorted(left))}")
    nbformat.validate(notebook)
    nbformat.write(notebook, path)
    return seconds


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("sources", nargs="*", type=Path, help="the .py files (default: all in notebooks/)")
    parser.add_argument("--profile", help="profile of the outputs (default: ready)")
    parser.add_argument("--run", help="name of the run")
    parser.add_argument("--no-run", action="store_true", help="write the .ipynb without running it")
    arguments = parser.parse_args()
    sources = [s.resolve() for s in arguments.sources] or sorted((ROOT / "notebooks").glob("[0-9]*.py"))
    parameters = {k: v for k in ("profile", "run") if (v := getattr(arguments, k))}
    os.environ.setdefault("PYDEVD_DISABLE_FILE_VALIDATION", "1")
    for source in sources:
        path = pair(source)
        if arguments.no_run:
            nbformat.write(tidy(nbformat.read(path, as_version=4)), path)
        else:
            seconds = execute(path, parameters)
            print(f"{path.name}: {seconds:.0f} s, {path.stat().st_size / 1000:.0f} KB", flush=True)
    for source in sources:
        cells = jupytext.read(source).cells, nbformat.read(source.with_suffix(".ipynb"), as_version=4).cells
        if [c.source for c in cells[0]] != [c.source for c in cells[1]]:
            sys.exit(f"{source.name} and its .ipynb differ after the run.")


if __name__ == "__main__":
    main()
