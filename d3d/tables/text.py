"""A table of the paper as CSV, Markdown and LaTeX, and the README's summary of several."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from d3d import io
from d3d.errors import DataError
from d3d.metrics import HIGHER_IS_BETTER, METRICS
from d3d.tables.paper import LAYOUTS, Table, dataset_name, paper_table
from d3d.tables.scores import Scores

BEGIN, END = "<!-- results:begin -->", "<!-- results:end -->"

_HEADS = {
    "abs_rel": ("Abs Rel ↓", r"Abs Rel $\downarrow$"),
    "sq_rel": ("Sq Rel ↓", r"Sq Rel $\downarrow$"),
    "rmse": ("RMSE ↓", r"RMSE $\downarrow$"),
    "rmse_log": ("RMSE log ↓", r"RMSE log $\downarrow$"),
    "a1": ("δ < 1.25 ↑", r"$\delta < 1.25 \uparrow$"),
    "a2": ("δ < 1.25² ↑", r"$\delta < 1.25^2 \uparrow$"),
    "a3": ("δ < 1.25³ ↑", r"$\delta < 1.25^3 \uparrow$"),
}
BEYOND = "beyond the paper"


def head(column: str) -> str:
    """A metric's name with an arrow to where it is better; any other column's name."""
    return _HEADS[column][0] if column in _HEADS else column.capitalize()


def ranks(values: pd.Series, higher: bool) -> pd.Series:
    """1 for the best, 2 for the second best, 0 for the rest, as printed with three decimals.

    Equal values share a rank: two best leave no second. Where all are equal none is marked, and of two values there is
    no second best.
    """
    printed = values.map(lambda v: float(f"{v:.3f}"))
    place = printed.rank(method="min", ascending=not higher)
    last = 2 if printed.count() > 2 else 1
    return place.where(place <= last, 0).fillna(0).astype(int) * int(printed.nunique() > 1)


def marks(frame: pd.DataFrame) -> pd.DataFrame:
    """`ranks` of our rows within each set and network, a column a metric; 0 in the paper's rows.

    A row of fewer seeds than the others has no rank: one lucky seed must not beat the mean of three.
    """
    result = pd.DataFrame(0, index=frame.index, columns=list(METRICS))
    ours = frame[frame["source"] == "ours"]
    for _, part in ours.groupby(["set", "architecture"], sort=False):
        part = part[part["n"] == part["n"].max()]
        for metric in METRICS:
            result.loc[part.index, metric] = ranks(part[metric], metric in HIGHER_IS_BETTER)
    return result


def csv(table: Table) -> str:
    """The tidy frame with six significant digits."""
    return table.frame.to_csv(index=False, float_format="%.6g", lineterminator="\n")


def markdown(table: Table) -> str:
    """A Markdown table for each set of images under the caption; best bold, second best in italics."""
    marked = marks(table.frame)
    parts = [
        f"**{table.caption}.** Of a network's trainings (over the same seeds) best bold, second best in italics.\n"
    ]
    for name, part in table.frame.groupby("set", sort=False):
        first = "Training label" if LAYOUTS[table.key].ablation else "Architecture | Training"
        lines = [f"| {first} | {' | '.join(map(head, METRICS))} |"]
        columns = lines[0].count("|") - 1
        lines.append("| --- " * (columns - len(METRICS)) + "| ---: " * len(METRICS) + "|")
        before = False
        for at, row in part.iterrows():
            if row["beyond"] and not before:
                before = True
                lines.append(f"| *{BEYOND}* |" + " |" * (columns - 1))
            cells = [_cell(row, m, marked.loc[at, m], *_MARKDOWN) for m in METRICS]
            lines.append(f"| {' | '.join([*_names(table, row), *cells])} |")
        parts.append(f"{name} ({part['images'].max()} images)\n\n" + "\n".join(lines) + "\n")
    if table.missing:
        parts.append("– is not there:\n\n" + "".join(f"- {line}\n" for line in table.missing))
    return "\n".join(parts)


_MARKDOWN = ("**{}**", "*{}*", "{} ± {}", "–")
_LATEX = (r"\textbf{{{}}}", r"\underline{{{}}}", r"{} {{\scriptsize$\pm$ {}}}", "--")


def _cell(row: pd.Series, metric: str, mark: int, best: str, second: str, plus_minus: str, none: str) -> str:
    """A mean with its spread; the mark is on the mean alone."""
    if pd.isna(row[metric]):
        return none
    text = f"{row[metric]:.3f}"
    text = {1: best, 2: second}.get(mark, "{}").format(text)
    spread = row[f"{metric}_std"]
    return text if pd.isna(spread) else plus_minus.format(text, f"{spread:.3f}")


def _names(table: Table, row: pd.Series) -> list[str]:
    """The first cells of a row: network (not in an ablation) and training, with whose and of how many seeds."""
    training = row["training"]
    if row["source"] != "ours":
        training += f" ({row['source']})"
    elif 0 < row["n"] < table.frame["n"].max():
        training += f" (n = {row['n']})"
    return [training] if LAYOUTS[table.key].ablation else [row["architecture"], training]


def latex(table: Table) -> str:
    """A ``table*`` for booktabs: a block each set of images, as in the paper; what is missing in comments."""
    marked = marks(table.frame)
    ablation = LAYOUTS[table.key].ablation
    names = ["Training label"] if ablation else ["Architecture", "Training"]
    columns = len(names) + len(METRICS)
    body: list[str] = []
    for name, part in table.frame.groupby("set", sort=False):
        body.append(r"\midrule" if body else r"\toprule")
        body.append(
            f"{' & '.join(names)} & \\multicolumn{{{len(METRICS)}}}{{c}}{{{escape(name)}}} \\\\"
            f" \\cmidrule(l){{{len(names) + 1}-{columns}}}"
        )
        body.append(f"{'& ' * len(names)}{' & '.join(_HEADS[m][1] for m in METRICS)} \\\\")
        last, before = "", False
        for at, row in part.iterrows():
            cells = [escape(n) for n in _names(table, row)]
            if row["beyond"] and not before:
                before = True
                body += [r"\midrule", f"\\multicolumn{{{columns}}}{{l}}{{\\emph{{{BEYOND}}}}} \\\\"]
            if row["architecture"] != last:
                body.append(r"\midrule") if not before else None
            elif not ablation:
                cells[0] = ""
            last = row["architecture"]
            cells += [_cell(row, m, marked.loc[at, m], *_LATEX) for m in METRICS]
            body.append(f"{' & '.join(cells)} \\\\")
    body.append(r"\bottomrule")
    note = "Best of a network's trainings bold, second best underlined"
    text = [
        "% Needs \\usepackage{booktabs} and \\usepackage{graphicx}.",
        *(f"% missing: {line}" for line in table.missing),
        r"\begin{table*}",
        r"\centering",
        f"\\caption{{{escape(table.caption)}. {note}.}}",
        f"\\label{{tab:{'paper' if table.key.isdigit() else ''}{table.key}}}",
        r"\resizebox{\linewidth}{!}{%",
        f"\\begin{{tabular}}{{{'l' * len(names)}{'c' * len(METRICS)}}}",
        *body,
        r"\end{tabular}}",
        r"\end{table*}",
    ]
    return "\n".join(text) + "\n"


def escape(text: str) -> str:
    """Plain text for LaTeX."""
    special = {
        **{c: f"\\{c}" for c in "&%$#_{}"},
        "~": r"\textasciitilde{}",
        "^": r"\textasciicircum{}",
        "\\": r"\textbackslash{}",
        "<": "$<$",
        ">": "$>$",
        "±": r"$\pm$",
        "–": "--",
    }
    return "".join(special.get(c, c) for c in text)


def write_tables(scores: Scores, folder: Path, arch: str = "monodepth2") -> list[Path]:
    """Every table of which something was evaluated, as ``table2.csv``, ``.md`` and ``.tex`` to ``table6``, ``mirror``.

    Args:
        scores: from `gather` or `read`.
        folder: made where it is not there; a table of which nothing is there any more is removed.
        arch: the network of Table 6.

    Returns:
        the files written.
    """
    paths = []
    for key in LAYOUTS:
        table = paper_table(scores, key, arch)
        stem = f"table{key}" if key.isdigit() else key
        for suffix, make in (("csv", csv), ("md", markdown), ("tex", latex)):
            path = folder / f"{stem}.{suffix}"
            if table is None:
                path.unlink(missing_ok=True)
                continue
            with io.atomic(path) as temporary:
                temporary.write_text(make(table), encoding="utf-8")
            paths.append(path)
    return paths


def readme_block(folder: Path, metric: str = "sq_rel") -> str:
    """One metric of Tables 2 to 4 side by side, from their CSVs: networks and trainings down, sets of images across.

    Raises:
        DataError: the tables are not there.
    """
    frames = [
        pd.read_csv(p, dtype={"list": str}) for n in (2, 3, 4) if (p := folder / f"table{n}.csv").is_file()
    ]
    if not frames:
        raise DataError(
            f"no table2.csv to table4.csv in {folder}: `python -m d3d tables --stored` writes them."
        )
    frame = pd.concat(frames, ignore_index=True)
    frame = frame[frame["source"] == "ours"].fillna({"list": ""})
    # of a training that is in no set there is nothing to say; val comes before test, a split before its lists
    frame = frame[frame.groupby(["architecture", "training"])["n"].transform("max") > 0]
    frame = frame.sort_values("split", key=lambda c: c.map({"val": 0, "test": 1}), kind="stable")
    marked = marks(frame)
    cells = pd.DataFrame(
        {
            "row": list(zip(frame["architecture"], frame["training"], strict=True)),
            "column": (frame["list"] + " " + frame["split"].str.capitalize()).str.strip(),
            "text": [_cell(row, metric, marked.loc[at, metric], *_MARKDOWN) for at, row in frame.iterrows()],
            "images": frame["images"],
        }
    )
    counts = cells.groupby("column", sort=False)["images"].max().astype(int)
    lines = ["| network | training | " + " | ".join(f"{c} ({n})" for c, n in counts.items()) + " |"]
    lines.append("| --- | --- |" + " ---: |" * len(counts))
    order = frame.sort_index()
    for key in dict.fromkeys(zip(order["architecture"], order["training"], strict=True)):
        row = cells[cells["row"] == key].set_index("column")["text"]
        lines.append(f"| {' | '.join([*key, *(row.get(c, _MARKDOWN[-1]) for c in counts.index)])} |")
    first = frame.iloc[0]
    seeds = sorted({s for seeds in frame["seeds"].dropna() for s in str(seeds).split()}, key=int)
    spread = f", mean ± sample standard deviation over seeds {', '.join(seeds)}" if len(seeds) > 1 else ""
    if spread and (
        alone := sorted({str(s) for n, s in zip(frame["n"], frame["seeds"], strict=True) if n == 1})
    ):
        spread += f" (without ±: seed {', '.join(alone)} alone)"
    caption = (
        f"{head(metric)[:-2]} on {dataset_name(first['dataset'])} (in brackets, how many images), profile "
        f"`{first['profile']}`{spread}. Best of a network bold, second best in italics."
    )
    return f"{caption}\n\n" + "\n".join(lines) + "\n"


def write_readme(path: Path, block: str) -> None:
    """Puts text between the two markers of a file; what stands around them stays as it is.

    Raises:
        DataError: the file does not have each marker once, the begin before the end.
    """
    text = path.read_text(encoding="utf-8")
    if text.count(BEGIN) != 1 or text.count(END) != 1 or text.index(BEGIN) > text.index(END):
        raise DataError(f"{path} must have {BEGIN} and below it {END}, each once.")
    before, rest = text.split(BEGIN)
    after = rest.split(END)[1]
    with io.atomic(path) as temporary:
        temporary.write_text(f"{before}{BEGIN}\n\n{block.strip()}\n\n{END}{after}", encoding="utf-8")
