"""Tables 2 to 6 of the paper from stored scores, in three formats; and the scores' way into the repository.

    scores = tables.gather([make_config(profile="laptop", seed=s) for s in (0, 1, 2)])    # runs, or
    scores = tables.read(Path("results/glossyrooms-laptop"))                              # what ships
    tables.write_tables(scores, Path("out"))

A row of the paper stands beside ours only where data set and images are the paper's (`PAPER_SPLITS`).
"""

from d3d._lazy import submodules
from d3d.tables.paper import (
    ABLATION,
    APART,
    LAYOUTS,
    PAPER_SPLITS,
    TRAININGS,
    Table,
    label_name,
    make_table,
    missing,
    paper_table,
    paper_tables,
    set_name,
)
from d3d.tables.run import by_pixels, gains, printed, table, to_markdown
from d3d.tables.scores import Evaluation, Scores, over_seeds
from d3d.tables.store import export, gather, of_run, read, results_folder
from d3d.tables.text import csv, escape, latex, markdown, readme_block, write_readme, write_tables

__all__ = [
    "ABLATION",
    "APART",
    "LAYOUTS",
    "PAPER_SPLITS",
    "TRAININGS",
    "Evaluation",
    "Scores",
    "Table",
    "by_pixels",
    "csv",
    "escape",
    "export",
    "gains",
    "gather",
    "label_name",
    "latex",
    "make_table",
    "markdown",
    "missing",
    "of_run",
    "over_seeds",
    "paper_table",
    "paper_tables",
    "printed",
    "read",
    "readme_block",
    "results_folder",
    "set_name",
    "table",
    "to_markdown",
    "write_readme",
    "write_tables",
]

__getattr__ = submodules(__name__, __path__)
