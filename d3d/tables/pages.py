"""Blocks of README.md and docs/results.md that ``python -m d3d tables --stored --readme`` makes from results/."""

from __future__ import annotations

import re
from pathlib import Path

import pandas as pd

from d3d.errors import DataError
from d3d.evaluation import training_name
from d3d.tables.paper import RECOMMENDED, TRAININGS, dataset_name
from d3d.tables.text import (
    MARKDOWN,
    interval_note,
    markdown_head,
    markdown_line,
    percent,
    printed_cells,
    write_text,
)

# the marker before a block of a page: its kind (`BLOCKS`) and the folder in results/
MARKER = re.compile(r"<!-- (\w+) ([\w-]+):begin -->")
PAGES = ("README.md", "docs/results.md", "docs/rivals.md")


def readme_block(folder: Path) -> str:
    """Sq Rel of Tables 2 to 4 side by side: networks and trainings down, sets of images across.

    Args:
        folder: holds the CSV files of `write_tables`; a `DataError` says that they are not there.
    """
    return _sq_rel(_rows(folder))


def rivals_block(folder: Path) -> str:
    """The table of `readme_block` for the networks that were also trained with another loss (docs/rivals.md).

    Args:
        folder: FOLDER/tables of the paper's loss. The results of other losses lie in FOLDER-<loss>.
    """
    results, name = folder.parent.parent, folder.parent.name
    others = [_rows(other / "tables") for other in sorted(results.glob(f"{name}-*"))]
    if not others:
        raise DataError(
            f"no results of another loss in {results / name}-<loss>: store them with `python -m d3d tables --loss NAME "
            "--export`."
        )
    for frame in others:
        frame["training"] += ", " + frame["profile"].str.partition(" --")[2].str.replace(" --", ", ")
    plain, rival = _rows(folder), pd.concat(others)
    both = plain[plain["architecture"].isin(rival["architecture"])]
    return _sq_rel(pd.concat([both, rival], ignore_index=True))


def _rows(folder: Path) -> pd.DataFrame:
    """Our rows of Tables 2 to 4, without trainings that were evaluated on no set."""
    paths = [path for n in (2, 3, 4) if (path := folder / f"table{n}.csv").is_file()]
    if not paths:
        raise DataError(f"no table2.csv to table4.csv in {folder}: run `python -m d3d tables --stored`.")
    frame = pd.concat([pd.read_csv(p, dtype={"list": str, "seeds": str}) for p in paths], ignore_index=True)
    frame = frame[frame["source"] == "ours"].fillna({"list": ""})
    return frame[frame.groupby(["architecture", "training"])["n"].transform("max") > 0]


def _sq_rel(frame: pd.DataFrame) -> str:
    """The table of `readme_block`."""
    frame = frame.copy()
    frame["text"] = printed_cells(frame, MARKDOWN)["sq_rel"]
    frame["column"] = (frame["list"] + " " + frame["split"].str.capitalize()).str.strip()
    # val comes before test, a split before its lists
    ordered = frame.sort_values("split", key=lambda c: c.map({"val": 0, "test": 1}), kind="stable")
    counts = ordered.groupby("column", sort=False)["images"].max().astype(int)
    lines = markdown_head(["network", "training", *(f"{c} ({n})" for c, n in counts.items())], 2)
    for key, part in frame.groupby(["architecture", "training"], sort=False):
        texts = part.set_index("column")["text"].reindex(counts.index, fill_value=MARKDOWN.none)
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


def differences_block(folder: Path) -> str:
    """Relative changes in Sq Rel over the pooled rooms: networks and trainings of Tables 2 to 5 down, sets across.

    Args:
        folder: holds ``differences.csv`` of `write_tables`; a `DataError` says that it is not there.
    """
    path = folder / "differences.csv"
    if not path.is_file():
        raise DataError(f"no {path}: run `python -m d3d tables --stored`.")
    frame = pd.read_csv(path, dtype={"list": str, "seeds": str}).fillna({"list": ""})
    main = frame["training"].isin([training_name(labels) for labels in (*TRAININGS, RECOMMENDED)])
    frame = frame[main & (frame["metric"] == "sq_rel") & (frame["split"] == "val+test")].copy()
    whole = frame["pixels"].map({"all": "all images", "highlight": "highlights"})
    frame["set"] = frame["list"].where(frame["list"] != "", whole)
    sets = frame.groupby("set", sort=False)[["rooms", "images"]].max()
    heads = [f"{name} ({s['rooms']} rooms, {s['images']} images)" for name, s in sets.iterrows()]
    lines = markdown_head(["network", "training", "against", "seeds", *heads], 4)
    keys = ["architecture", "training", "against", "seeds"]
    for key, part in frame.groupby(keys, sort=False):
        texts = part.set_index("set").apply(percent, axis=1).reindex(sets.index, fill_value="–")
        lines.append(markdown_line([*key, *texts]))
    first = frame.iloc[0]
    caption = (
        f"Change of Sq Rel, validation and test rooms of {dataset_name(first['dataset'])} together, profile "
    )
    caption += f"`{first['profile']}`. {interval_note(frame)}"
    return "\n".join([caption, "", *lines, ""])


BLOCKS = {"results": readme_block, "differences": differences_block, "rivals": rivals_block}


def page_with_blocks(path: Path, results: Path) -> str:
    """The text of a page with the stored tables between its markers.

    A block is from ``<!-- KIND FOLDER:begin -->`` to ``<!-- KIND FOLDER:end -->``. KIND is a key of `BLOCKS`.

    Args:
        results: holds FOLDER/tables, from `write_tables`.

    Raises:
        DataError: the page has no block, an unknown block, or a marker without its partner; or a table is missing.
    """
    text = path.read_text(encoding="utf-8")
    found = [(m[1], m[2]) for m in MARKER.finditer(text)]
    for kind, folder in found or [("results", "FOLDER")]:
        begin, end = (f"<!-- {kind} {folder}:{word} -->" for word in ("begin", "end"))
        if text.count(begin) != 1 or text.count(end) != 1 or text.index(begin) > text.index(end):
            raise DataError(f"{path} must have {begin} and below it {end}, each once.")
        if kind not in BLOCKS:
            raise DataError(f"{path}: {begin} names an unknown block. Known: {', '.join(BLOCKS)}.")
        before, after = text.partition(begin)[0], text.partition(end)[2]
        block = BLOCKS[kind](results / folder / "tables").strip()
        text = f"{before}{begin}\n\n{block}\n\n{end}{after}"
    return text


def write_pages(root: Path) -> list[Path]:
    """Put the stored tables into the `PAGES` of the checkout; see `page_with_blocks` for the errors."""
    pages = {root / name: page_with_blocks(root / name, root / "results") for name in PAGES}
    for path, text in pages.items():
        write_text(path, text)
    return list(pages)
