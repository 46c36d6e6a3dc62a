"""Tables as CSV, Markdown and LaTeX, and for a terminal."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from d3d import io
from d3d.metrics import HIGHER_IS_BETTER, METRICS
from d3d.pipeline.settings import UNTRAINED
from d3d.tables.differences import differences
from d3d.tables.intervals import CONFIDENCE
from d3d.tables.paper import dataset_name
from d3d.tables.scores import Scores
from d3d.tables.tables2to6 import LAYOUTS, Table, paper_table

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


MARKDOWN = _Style("**{}**", "*{}*", "{} ± {}", "–")
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


def printed_cells(frame: pd.DataFrame, style: _Style, ablation: bool = False) -> pd.DataFrame:
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
    names, cells = _first_heads(ablation), printed_cells(frame, MARKDOWN, ablation)
    blocks = []
    for name, part in frame.groupby("set", sort=False):
        lines = [markdown_line(row) for row in cells.loc[part.index].to_numpy()]
        if part["beyond"].any():
            lines.insert((~part["beyond"]).sum(), f"| *{BEYOND}* |" + " |" * (cells.shape[1] - 1))
        lines = markdown_head([*names, *(_HEADS[m][0] for m in METRICS)], len(names)) + lines
        blocks.append(f"{name} ({part['images'].max()} images)\n\n" + "\n".join(lines) + "\n")
    return "\n".join(blocks)


def markdown_line(cells: Iterable[str]) -> str:
    """A row of a Markdown table."""
    return f"| {' | '.join(cells)} |"


def markdown_head(names: Sequence[str], left: int) -> list[str]:
    """Header and rule of a Markdown table, the first ``left`` columns aligned left, the others right."""
    return [markdown_line(names), "| --- " * left + "| ---: " * (len(names) - left) + "|"]


def latex(table: Table) -> str:
    """A table as ``table*`` for booktabs, in blocks as in the paper; comments list what it lacks."""
    ablation = LAYOUTS[table.key].ablation
    names, cells = _first_heads(ablation), printed_cells(table.frame, _LATEX, ablation)
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
    caption = f"{escape(table.caption)}. Best of a network's trainings bold, second best underlined."
    label = f"{'paper' if table.key.isdigit() else ''}{table.key}"
    return _latex_table(table.missing, caption, label, "l" * left + "c" * len(METRICS), body)


def _latex_table(missing: Iterable[str], caption: str, label: str, columns: str, body: Iterable[str]) -> str:
    """The frame of a ``table*`` for booktabs around its rows; the caption is escaped."""
    text = [
        "% Needs \\usepackage{booktabs} and \\usepackage{graphicx}.",
        *(f"% missing: {line}" for line in missing),
        r"\begin{table*}",
        r"\centering",
        f"\\caption{{{caption}}}",
        f"\\label{{tab:{label}}}",
        r"\resizebox{\linewidth}{!}{%",
        f"\\begin{{tabular}}{{{columns}}}",
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

    ``differences`` has the intervals. Files of a table that has nothing to show any more are removed. Table 6 is of the
    given network.
    """
    paths = []
    tables = {f"{'table' if key.isdigit() else ''}{key}": paper_table(scores, key, arch) for key in LAYOUTS}
    formats = dict.fromkeys(tables, (csv, markdown, latex))
    frame = differences(scores)
    tables["differences"] = None if frame.empty else frame
    formats["differences"] = (differences_csv, differences_markdown, differences_latex)
    for name, table in tables.items():
        for suffix, make in zip(("csv", "md", "tex"), formats[name], strict=True):
            path = folder / f"{name}.{suffix}"
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


def differences_csv(frame: pd.DataFrame) -> str:
    """The rows of `differences` with four significant digits."""
    return frame.to_csv(index=False, float_format="%.4g", lineterminator="\n")


def percent(row: pd.Series) -> str:
    """The relative change with its interval and mark: ``-45 % [-57, -33] *``."""
    if pd.isna(row["change"]):
        return "–"
    # round to an integer first: there is no -0
    value, low, high = (
        "" if pd.isna(row[name]) else f"{round(100 * row[name]):+d}"
        for name in ("change", "change_low", "change_high")
    )
    if not low:
        return f"{value} % (one room)"
    mark = "" if not row["excludes_zero"] else " *" if row["n"] > 1 else " (*)"
    return f"{value} % [{low}, {high}]{mark}"


def interval_note(frame: pd.DataFrame) -> str:
    """What brackets and marks mean (D94)."""
    text = (
        f"In brackets: {100 * CONFIDENCE:.0f} % interval of a paired bootstrap over rooms and seeds (D94), without a "
        "correction for the number of comparisons; * excludes zero."
    )
    single = " With one seed, (*): the interval is that of these networks, not of other seeds."
    return text + single * bool((frame["n"] == 1).any())


def _differences_rows(frame: pd.DataFrame) -> Iterable[tuple[str, list[list[str]]]]:
    """Sq Rel of `differences`: the title of each set of images, and its printed rows."""
    frame = frame[frame["metric"] == "sq_rel"]
    for name, part in frame.groupby("set", sort=False):
        rows = []
        for _, r in part.iterrows():
            bounds = (
                ""
                if pd.isna(r["difference_low"])
                else f" [{r['difference_low']:+.3f}, {r['difference_high']:+.3f}]"
            )
            means = [f"{r['before']:.3f}", f"{r['after']:.3f}", f"{r['difference']:+.3f}{bounds}"]
            rows.append([r["architecture"], r["training"], r["against"], r["seeds"], *means, percent(r)])
        counts = ", ".join(
            f"{k} {word}" for k, word in ((part["rooms"].max(), "rooms"), (part["images"].max(), "images"))
        )
        yield f"{name} ({counts})", rows


_DIFFERENCE_HEADS = (
    "Architecture",
    "Training",
    "Against",
    "Seeds",
    "Before",
    "After",
    "Difference (m)",
    "Change",
)


def _differences_caption(frame: pd.DataFrame) -> str:
    dataset, profile = frame[["dataset", "profile"]].iloc[0]
    return f"Differences between trainings, Sq Rel in metres, {dataset_name(dataset)}, profile {profile}"


def differences_markdown(frame: pd.DataFrame) -> str:
    """Sq Rel of `differences` as Markdown, in blocks; the other metrics are in the CSV file."""
    parts = [f"**{_differences_caption(frame)}.** {interval_note(frame)}\n"]
    for title, rows in _differences_rows(frame):
        lines = [*markdown_head(_DIFFERENCE_HEADS, 4), *map(markdown_line, rows)]
        parts.append(f"{title}\n\n" + "\n".join(lines) + "\n")
    return "\n".join(parts)


def differences_latex(frame: pd.DataFrame) -> str:
    """Sq Rel of `differences` as ``table*`` for booktabs, in blocks."""
    body: list[str] = []
    for title, rows in _differences_rows(frame):
        body += [
            r"\midrule" if body else r"\toprule",
            f"\\multicolumn{{{len(_DIFFERENCE_HEADS)}}}{{c}}{{{escape(title)}}} \\\\ \\midrule",
            f"{' & '.join(map(escape, _DIFFERENCE_HEADS))} \\\\ \\midrule",
            *(re.sub(r"(?<![\w-])-(?=\d)", "$-$", f"{' & '.join(map(escape, row))} \\\\") for row in rows),
        ]
    caption = f"{escape(_differences_caption(frame))}. {escape(interval_note(frame))}"
    return _latex_table([], caption, "differences", "l" * 4 + "c" * 4, body)
