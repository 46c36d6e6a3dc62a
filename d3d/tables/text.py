"""Tables as CSV, Markdown and LaTeX, for a terminal and for the README."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from d3d import io
from d3d.errors import DataError
from d3d.metrics import HIGHER_IS_BETTER, METRICS
from d3d.pipeline.settings import UNTRAINED
from d3d.tables.paper import dataset_name
from d3d.tables.scores import Scores
from d3d.tables.tables2to6 import LAYOUTS, Table, paper_table

BEGIN, END = "<!-- results:begin -->", "<!-- results:end -->"
BEYOND = "beyond the paper"

_HEADS = {
    "abs_rel": ("Abs Rel ↓", r"Abs Rel $\downarrow$"),
    "sq_rel": ("Sq Rel ↓", r"Sq Rel $\downarrow$"),
    "rmse": ("RMSE ↓", r"RMSE $\downarrow$"),
    "rmse_log": ("RMSE log ↓", r"RMSE log $\downarrow$"),
    "a1": ("δ < 1.25 ↑", r"$\delta < 1.25 \uparrow$"),
    "a2": ("δ < 1.25² ↑", r"$\delta < 1.25^2 \uparrow$"),
    "a3": ("δ < 1.25³ ↑", r"$\delta < 1.25^3 \uparrow$"),
}


class _Style(NamedTuple):
    """How a format writes numbers."""

    best: str
    second: str
    spread: str  # a mean with its spread
    none: str  # no number


_MARKDOWN = _Style("**{}**", "*{}*", "{} ± {}", "–")
_LATEX = _Style(r"\textbf{{{}}}", r"\underline{{{}}}", r"{} {{\scriptsize$\pm$ {}}}", "--")


def ranks(values: pd.Series, higher: bool) -> pd.Series:
    """Rank values as printed with three decimals: 1 for the best, 2 for the second best, 0 for the others.

    Equal values share a rank: two best leave no second. If all are equal, none is marked. Of two values none is
    second best.
    """
    printed = values.map(lambda v: float(f"{v:.3f}"))
    last = 0 if printed.nunique() < 2 else min(printed.count() - 1, 2)
    place = printed.rank(method="min", ascending=not higher)
    return place.where(place <= last, 0).astype(int)


def marks(frame: pd.DataFrame) -> pd.DataFrame:
    """`ranks` of our rows within each set, network and alignment, a column a metric; 0 in the paper's rows.

    A profile that does not learn has no ranks. A row of fewer seeds than the others has no rank: one lucky seed must
    not beat the mean of three.
    """
    result = pd.DataFrame(0, index=frame.index, columns=list(METRICS))
    ours = frame[(frame["source"] == "ours") & ~frame["profile"].isin(UNTRAINED)]
    for _, part in ours.groupby(["set", "architecture", "scale"], sort=False):
        part = part[part["n"] == part["n"].max()]
        for metric in METRICS:
            result.loc[part.index, metric] = ranks(part[metric], metric in HIGHER_IS_BETTER)
    return result


def _cells(frame: pd.DataFrame, style: _Style, ablation: bool = False) -> pd.DataFrame:
    """The printed cells of each row: network (not in an ablation), training, and the metrics.

    A training has its source, and the number of its seeds where that is not the usual one.
    """
    usual = frame["n"].max()
    cells = frame[["training"] if ablation else ["architecture", "training"]].copy()
    cells["training"] += [
        f" ({source})" if source != "ours" else f" (n = {n})" if 0 < n < usual else ""
        for source, n in zip(frame["source"], frame["n"], strict=True)
    ]
    marked, forms = marks(frame), {0: "{}", 1: style.best, 2: style.second}
    for m in METRICS:
        cells[m] = style.none
        for at, value, spread in frame[[m, f"{m}_std"]].dropna(subset=m).itertuples():
            text = forms[marked.loc[at, m]].format(f"{value:.3f}")  # the mark is on the mean alone
            cells.loc[at, m] = text if pd.isna(spread) else style.spread.format(text, f"{spread:.3f}")
    return cells


def _first_heads(ablation: bool) -> list[str]:
    return ["Training label"] if ablation else ["Architecture", "Training"]


def csv(table: Table) -> str:
    """The rows of a table with six significant digits."""
    return table.frame.to_csv(index=False, float_format="%.6g", lineterminator="\n")


def markdown(table: Table) -> str:
    """A table as Markdown: its caption, then a block for each set of images; best bold, second best in italics."""
    note = "Of a network's trainings (over the same seeds) best bold, second best in italics."
    text = f"**{table.caption}.** {note}\n\n{to_markdown(table.frame, LAYOUTS[table.key].ablation)}"
    if table.missing:
        text += "\n– is not there:\n\n" + "".join(f"- {line}\n" for line in table.missing)
    return text


def to_markdown(frame: pd.DataFrame, ablation: bool = False) -> str:
    """The rows of `table` or `make_table` as Markdown: a block for each set of images.

    In an ablation the rows are labels of one network, whose name is left out.
    """
    names, cells = _first_heads(ablation), _cells(frame, _MARKDOWN, ablation)
    blocks = []
    for name, part in frame.groupby("set", sort=False):
        lines = [markdown_line(row) for row in cells.loc[part.index].to_numpy()]
        if part["beyond"].any():
            lines.insert((~part["beyond"]).sum(), f"| *{BEYOND}* |" + " |" * (cells.shape[1] - 1))
        lines = _markdown_head([*names, *(_HEADS[m][0] for m in METRICS)], len(names)) + lines
        blocks.append(f"{name} ({part['images'].max()} images)\n\n" + "\n".join(lines) + "\n")
    return "\n".join(blocks)


def markdown_line(cells: Iterable[str]) -> str:
    """A row of a Markdown table."""
    return f"| {' | '.join(cells)} |"


def _markdown_head(names: Sequence[str], left: int) -> list[str]:
    """Header and rule of a Markdown table, the first ``left`` columns aligned left, the others right."""
    return [markdown_line(names), "| --- " * left + "| ---: " * (len(names) - left) + "|"]


def latex(table: Table) -> str:
    """A table as ``table*`` for booktabs, in blocks as in the paper; comments list what it lacks."""
    ablation = LAYOUTS[table.key].ablation
    names, cells = _first_heads(ablation), _cells(table.frame, _LATEX, ablation)
    left, columns = len(names), cells.shape[1]
    cells.iloc[:, :left] = cells.iloc[:, :left].map(escape)
    heads = " & ".join(_HEADS[m][1] for m in METRICS)
    body: list[str] = []
    for name, part in table.frame.groupby("set", sort=False):
        span = f"\\multicolumn{{{len(METRICS)}}}{{c}}{{{escape(name)}}}"
        body += [
            r"\midrule" if body else r"\toprule",
            f"{' & '.join(names)} & {span} \\\\ \\cmidrule(l){{{left + 1}-{columns}}}",
            f"{'& ' * left}{heads} \\\\",
        ]
        starts = (
            part["architecture"] != part["architecture"].shift()
        )  # a network's rows, and those beyond the paper
        beyond = part["beyond"] & ~part["beyond"].shift(fill_value=False)
        for at, line in cells.loc[part.index].iterrows():
            if beyond[at]:
                body += [r"\midrule", f"\\multicolumn{{{columns}}}{{l}}{{\\emph{{{BEYOND}}}}} \\\\"]
            elif starts[at]:
                body.append(r"\midrule")
            elif not ablation:
                line["architecture"] = ""
            body.append(f"{' & '.join(line)} \\\\")
    text = [
        "% Needs \\usepackage{booktabs} and \\usepackage{graphicx}.",
        *(f"% missing: {line}" for line in table.missing),
        r"\begin{table*}",
        r"\centering",
        f"\\caption{{{escape(table.caption)}. Best of a network's trainings bold, second best underlined.}}",
        f"\\label{{tab:{'paper' if table.key.isdigit() else ''}{table.key}}}",
        r"\resizebox{\linewidth}{!}{%",
        f"\\begin{{tabular}}{{{'l' * left}{'c' * len(METRICS)}}}",
        *body,
        r"\bottomrule",
        r"\end{tabular}}",
        r"\end{table*}",
    ]
    return "\n".join(text) + "\n"


_ESCAPED = {c: f"\\{c}" for c in "&%$#_{}"} | {"<": "$<$", ">": "$>$", "±": r"$\pm$", "–": "--"}
_ESCAPED |= {
    c: rf"\text{name}{{}}" for c, name in zip("~^\\", ("asciitilde", "asciicircum", "backslash"), strict=True)
}


def escape(text: str) -> str:
    """Escape plain text for LaTeX."""
    return text.translate(str.maketrans(_ESCAPED))


def write_tables(scores: Scores, folder: Path, arch: str = "monodepth2") -> list[Path]:
    """Write every table of which something was evaluated: ``table2.csv``, ``.md``, ``.tex`` to ``table6``, ``mirror``.

    Files of a table that has nothing to show any more are removed. Table 6 is of the given network.
    """
    paths = []
    for key in LAYOUTS:
        table = paper_table(scores, key, arch)
        for suffix, make in (("csv", csv), ("md", markdown), ("tex", latex)):
            path = folder / f"{'table' if key.isdigit() else ''}{key}.{suffix}"
            if table is None:
                path.unlink(missing_ok=True)
            else:
                write_text(path, make(table))
                paths.append(path)
    return paths


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically."""
    with io.atomic(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def readme_block(folder: Path) -> str:
    """Sq Rel of Tables 2 to 4 side by side: networks and trainings down, sets of images across.

    Args:
        folder: holds the CSV files of `write_tables`; a `DataError` says that they are not there.
    """
    paths = [path for n in (2, 3, 4) if (path := folder / f"table{n}.csv").is_file()]
    if not paths:
        raise DataError(f"no table2.csv to table4.csv in {folder}: run `python -m d3d tables --stored`.")
    frame = pd.concat([pd.read_csv(p, dtype={"list": str, "seeds": str}) for p in paths], ignore_index=True)
    frame = frame[frame["source"] == "ours"].fillna({"list": ""})
    # only trainings that were evaluated on some set
    frame = frame[frame.groupby(["architecture", "training"])["n"].transform("max") > 0]
    frame["text"] = _cells(frame, _MARKDOWN)["sq_rel"]
    frame["column"] = (frame["list"] + " " + frame["split"].str.capitalize()).str.strip()
    # val comes before test, a split before its lists
    ordered = frame.sort_values("split", key=lambda c: c.map({"val": 0, "test": 1}), kind="stable")
    counts = ordered.groupby("column", sort=False)["images"].max().astype(int)
    lines = _markdown_head(["network", "training", *(f"{c} ({n})" for c, n in counts.items())], 2)
    for key, part in frame.groupby(["architecture", "training"], sort=False):
        texts = part.set_index("column")["text"].reindex(counts.index, fill_value=_MARKDOWN.none)
        lines.append(markdown_line([*key, *texts]))
    seeds = sorted({s for seeds in frame["seeds"].dropna() for s in seeds.split()}, key=int)
    spread = f", mean ± sample standard deviation over seeds {', '.join(seeds)}" if len(seeds) > 1 else ""
    alone = sorted(set(frame[frame["n"] == 1]["seeds"]))
    if spread and alone:
        spread += f" (without ±: seed {', '.join(alone)} alone)"
    first = frame.iloc[0]
    caption = f"Sq Rel on {dataset_name(first['dataset'])} (in brackets, how many images), profile "
    caption += f"`{first['profile']}`{spread}. Best of a network bold, second best in italics."
    return "\n".join([caption, "", *lines, ""])


def write_readme(path: Path, block: str) -> None:
    """Put text between the two markers of a file; a `DataError` if it does not have each once, in this order."""
    text = path.read_text(encoding="utf-8")
    if text.count(BEGIN) != 1 or text.count(END) != 1 or text.index(BEGIN) > text.index(END):
        raise DataError(f"{path} must have {BEGIN} and below it {END}, each once.")
    before, after = text.partition(BEGIN)[0], text.partition(END)[2]
    write_text(path, f"{before}{BEGIN}\n\n{block.strip()}\n\n{END}{after}")
