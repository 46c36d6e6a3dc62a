"""Run all notebooks with papermill: 01 to 05 for each architecture, then 00 and 06 to 11 once.

    python scripts/papermill_all.py --archs every --profile laptop
    python scripts/papermill_all.py --archs hrdepth,lite -p seed 1

The executed copies are in `runs/<run>/notebooks/`, for example `04_distill-hrdepth.ipynb`, with an `index.html`. If the
command is interrupted, repeat it: a finished copy is kept unless its notebook or its parameters changed, and the stages
in the notebooks are never computed twice.
"""

from __future__ import annotations

import argparse
import hashlib
import html
import json
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import nbformat

ROOT = Path(__file__).resolve().parents[1]
PER_ARCH = ("01", "02", "03", "04", "05")
DONE = (
    "d3d_finished"  # metadata of an executed copy: identity of its notebook and parameters, and its seconds
)


class Job(NamedTuple):
    """One execution of a notebook."""

    source: Path
    target: Path
    parameters: dict[str, Any]

    @property
    def identity(self) -> str:
        """Digest of the notebook's cells and of the parameters."""
        cells = [(c.cell_type, c.source) for c in nbformat.read(self.source, as_version=4).cells]
        return hashlib.sha256(json.dumps([cells, self.parameters], sort_keys=True).encode()).hexdigest()

    @property
    def seconds(self) -> float | None:
        """The time of a finished execution of this notebook with these parameters, else None."""
        if not self.target.exists():
            return None
        done = nbformat.read(self.target, as_version=4).metadata.get(DONE, {})
        return done.get("seconds") if done.get("identity") == self.identity else None


def plan(folder: Path, out: Path, archs: Sequence[str], parameters: dict[str, Any]) -> list[Job]:
    """Return the executions in their order.

    Args:
        folder: folder of the notebooks.
        out: folder of the executed copies.
        archs: architectures; the first one is that of the notebooks that run once.
        parameters: further parameters of every notebook.
    """
    sources = sorted(folder.glob("[0-9]*.ipynb"))
    several = [s for s in sources if s.name[:2] in PER_ARCH]
    jobs = [
        Job(s, out / f"{s.stem}-{arch}.ipynb", parameters | {"arch": arch}) for arch in archs for s in several
    ]
    for s in (s for s in sources if s not in several):
        jobs.append(Job(s, out / s.name, parameters | _own(s, archs, parameters)))
    return jobs


def _own(source: Path, archs: Sequence[str], parameters: dict[str, Any]) -> dict[str, Any]:
    """Return the own parameters of a notebook that runs once; None stands for its default."""
    if source.name.startswith("00"):
        return {}
    if not source.name.startswith("11"):
        return {"arch": archs[0]}
    # a capture has its own recipe and another run; its default network is quick to train
    dropped = {"recipe", "labels", "base"} | (
        {"dataset", "root"} if parameters.get("dataset") != "capture" else set()
    )
    own = {"arch": "lite", **dict.fromkeys(dropped & parameters.keys())}
    return own | ({"run": f"{parameters['run']}-room"} if "run" in parameters else {})


def execute(job: Job) -> float:
    """Execute one notebook, and write the copy only when it is finished; return the time in seconds.

    Raises:
        papermill.PapermillExecutionError: a cell failed. The copy is beside the target, as `<name>.failed.ipynb`.
    """
    import papermill

    start = time.monotonic()
    temporary = job.target.with_suffix(".failed.ipynb")  # its name until it has finished
    papermill.execute_notebook(
        job.source,
        temporary,
        job.parameters,
        progress_bar=False,
        cwd=job.source.parent,
        kernel_name="python3",
    )
    seconds = time.monotonic() - start
    notebook = nbformat.read(temporary, as_version=4)
    notebook.metadata[DONE] = {"identity": job.identity, "seconds": round(seconds, 1)}
    nbformat.write(notebook, temporary)
    temporary.replace(job.target)
    return seconds


def write_index(out: Path, jobs: Sequence[Job]) -> Path:
    """Write `index.html`, which links the executed copies as web pages; return its path."""
    from nbconvert import HTMLExporter

    rows = []
    for job in jobs:
        seconds, name = job.seconds, job.target.name
        page = job.target.with_suffix(".html")
        if seconds is not None and (not page.exists() or page.stat().st_mtime < job.target.stat().st_mtime):
            page.write_text(HTMLExporter().from_filename(str(job.target))[0], encoding="utf-8")
        link = f'<a href="{page.name}">{html.escape(name)}</a>' if seconds is not None else html.escape(name)
        state = "not finished" if seconds is None else f"{seconds:.0f} s"
        rows.append(f"<tr><td>{link}</td><td>{job.parameters.get('arch', '')}</td><td>{state}</td></tr>")
    path = out / "index.html"
    path.write_text(
        "<!doctype html><meta charset='utf-8'><title>Executed notebooks</title>"
        "<style>body{font:16px sans-serif;margin:2em}td,th{padding:.2em 1em;text-align:left}</style>"
        f"<h1>Executed notebooks of run {html.escape(out.parent.name)}</h1>"
        f"<table><tr><th>notebook</th><th>network</th><th>time</th></tr>{''.join(rows)}</table>\n",
        encoding="utf-8",
    )
    return path


def run(jobs: Sequence[Job], out: Path) -> Path:
    """Execute what is not finished, saying how long is left; return the index page."""
    out.mkdir(parents=True, exist_ok=True)
    left = [job for job in jobs if job.seconds is None]
    print(f"{len(jobs)} notebooks, {len(jobs) - len(left)} of them finished", flush=True)
    times: list[float] = []
    for number, job in enumerate(left, 1):
        ahead = (
            f", about {sum(times) / len(times) * (len(left) - number + 1) / 60:.0f} min left" if times else ""
        )
        print(f"[{number}/{len(left)}] {job.target.name}{ahead}", flush=True)
        try:
            times.append(execute(job))
        finally:
            index = write_index(out, jobs)
        print(f"    {times[-1]:.0f} s", flush=True)
    return write_index(out, jobs) if not left else index


def main() -> None:
    """Run the command line."""
    from d3d.errors import D3DError, unknown
    from d3d.models import ARCHITECTURES
    from d3d.pipeline.config import NOTEBOOK_PROFILE, make_config
    from d3d.pipeline.runs import run_folder

    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--archs", default="every", metavar="A,B", help="architectures, or every (default)")
    parser.add_argument("--profile", default=os.environ.get("D3D_PROFILE") or NOTEBOOK_PROFILE)
    parser.add_argument(
        "-p",
        "--parameter",
        nargs=2,
        action="append",
        default=[],
        metavar=("NAME", "VALUE"),
        help="as papermill's",
    )
    arguments = parser.parse_args()
    try:
        archs = ARCHITECTURES if arguments.archs == "every" else tuple(arguments.archs.split(","))
        for arch in archs:
            if arch not in ARCHITECTURES:
                raise unknown("arch", arch, ARCHITECTURES)
        from papermill.cli import _resolve_type

        parameters = {name: _resolve_type(value) for name, value in arguments.parameter}
        parameters["profile"] = arguments.profile
        out = run_folder(make_config(arch=archs[0], **parameters)) / "notebooks"
    except D3DError as error:
        sys.exit(f"error: {error}")
    os.environ.setdefault("PYDEVD_DISABLE_FILE_VALIDATION", "1")
    print(run(plan(ROOT / "notebooks", out, archs, parameters), out))


if __name__ == "__main__":
    main()
