"""Tables 2 to 6 of the paper from per-image scores, and the scores stored in the repository.

    scores = tables.gather([make_config(profile="laptop", seed=s) for s in (0, 1, 2)])    # from runs, or
    scores = tables.read(Path("results/glossyrooms-laptop"))                              # from the repository
    tables.write_tables(scores, Path("out"))

Tables show a row of the paper beside ours only for the paper's set of images (`paper.paper_rows`).
"""

from d3d._lazy import submodules
from d3d.tables.differences import differences
from d3d.tables.from_runs import gather, of_run, predicted_table, run_table
from d3d.tables.pages import MARKER, differences_block, page_with_blocks, readme_block, write_pages
from d3d.tables.paper import ABLATION, label_name, paper_tables
from d3d.tables.run import by_pixels, gains, improvement, printed, table
from d3d.tables.scores import Evaluation, Scores
from d3d.tables.store import export, read, results_folder
from d3d.tables.tables2to6 import LAYOUTS, Table, make_table, missing, paper_table
from d3d.tables.text import escape, latex, markdown, to_markdown, write_tables

__all__ = [
    "ABLATION",
    "LAYOUTS",
    "MARKER",
    "Evaluation",
    "Scores",
    "Table",
    "by_pixels",
    "differences",
    "differences_block",
    "escape",
    "export",
    "gains",
    "improvement",
]
__all__ += ["gather", "label_name", "latex", "make_table", "markdown", "missing", "of_run", "paper_table"]
__all__ += [
    "page_with_blocks",
    "paper_tables",
    "predicted_table",
    "printed",
    "read",
    "readme_block",
    "results_folder",
    "run_table",
    "table",
]
__all__ += ["to_markdown", "write_pages", "write_tables"]

__getattr__ = submodules(__name__, __path__)
