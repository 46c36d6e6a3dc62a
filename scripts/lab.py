"""Open JupyterLab on copies of the notebooks, so that running them does not change the checkout.

    python scripts/lab.py                        copies in lab/, then JupyterLab
    python scripts/lab.py --no-open              make the copies only
    python scripts/lab.py -- --port 9000         options of JupyterLab

The folder `lab` lies beside `notebooks`, so relative links work in both. A copy that you changed is kept. To get the
current notebook again, delete its copy.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from pathlib import Path

import nbformat

ROOT = Path(__file__).resolve().parents[1]
SOURCE = "d3d_source"  # metadata of a copy: the cells it was copied with


def copy_notebooks(source: Path, target: Path) -> list[str]:
    """Copy the notebooks of a folder, without the pairing with .py files.

    Args:
        source: folder of the committed notebooks.
        target: folder of the copies; created if necessary.

    Returns:
        the names of the copies that the user changed and that were kept although the notebook is a newer one.
    """
    target.mkdir(exist_ok=True)
    kept = []
    for path in sorted(source.glob("[0-9]*.ipynb")):
        notebook, copy = nbformat.read(path, as_version=4), target / path.name
        cells = [c.source for c in notebook.cells]
        if copy.exists():
            old = nbformat.read(copy, as_version=4)
            original = old.metadata.get(SOURCE)
            if original == cells:
                continue  # the copy is of this notebook; its outputs and edits stay
            if [c.source for c in old.cells] != original:
                kept.append(path.name)
                continue
        notebook.metadata.pop("jupytext", None)  # else saving writes a .py file beside the copy
        notebook.metadata[SOURCE] = cells
        nbformat.write(notebook, copy)
    return kept


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--no-open", action="store_true", help="make the copies only")
    parser.add_argument("options", nargs="*", help="options of JupyterLab, after --")
    arguments = parser.parse_args()
    target = ROOT / "lab"
    for name in copy_notebooks(ROOT / "notebooks", target):
        print(
            f"lab/{name}: your changed copy is kept, but notebooks/{name} is newer. Delete the copy to get it."
        )
    print(f"copies of the notebooks: {target.relative_to(ROOT)}/")
    if not arguments.no_open:
        # passive: waiting threads give up their core, so that a busy machine is not slowed down further
        environment = {"OMP_WAIT_POLICY": "passive", **os.environ}
        command = [sys.executable, "-m", "jupyterlab", *arguments.options, str(target)]
        sys.exit(subprocess.run(command, cwd=ROOT, env=environment).returncode)


if __name__ == "__main__":
    main()
