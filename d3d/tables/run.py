"""The table of one run: all that it has evaluated on one split, by list of images, and what was gained."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pandas as pd

from d3d.datasets.scene import FrameList
from d3d.evaluation import arch_name, on_list, summary, training_name
from d3d.metrics import HIGHER_IS_BETTER, METRICS
from d3d.tables.paper import APART, PAPER_SPLITS, of_the_paper, paper_tables
from d3d.tables.text import head


def table(
    results: Mapping[tuple[str, str], pd.DataFrame],
    dataset: str,
    split: str,
    lists: Mapping[str, FrameList] | None = None,
    pixels: str = "all",
) -> pd.DataFrame:
    """One tidy table: our rows, with the paper's under them where data set and images are the paper's.

    Args:
        results: (arch, labels) -> per-image metrics from `score`; labels "" is self-supervised.
        lists: `Dataset.lists` of the split; the whole split comes first, as "Val" or "Test". A list of
            which no image was scored has no row.

    Returns:
        columns list, architecture, training, source ("ours" or "paper"), images, the seven metrics.
    """
    rows = []
    for name, frames in {split.capitalize(): None, **(lists or {})}.items():
        own = split if frames is None else f"{name.lower()}_{split}"
        theirs = _paper_rows(dataset, own)
        for (arch, labels), per_image in results.items():
            key = {"list": name, "architecture": arch_name(arch), "training": training_name(labels)}
            means = summary(per_image if frames is None else on_list(per_image, frames), pixels)
            if means["images"]:
                rows.append({**key, "source": "ours", **means})
                if not of_the_paper(own, means["images"]):
                    continue
                same = (theirs["architecture"] == key["architecture"]) & (
                    theirs["training"] == key["training"]
                )
                rows += [
                    {**key, "source": "paper", **row[list(METRICS)]} for _, row in theirs[same].iterrows()
                ]
    columns = ["list", "architecture", "training", "source", "images", *METRICS]
    result = pd.DataFrame(rows, columns=columns)
    return result.astype({"images": "Int64", **dict.fromkeys(METRICS, float)})


def _paper_rows(dataset: str, split: str) -> pd.DataFrame:
    """The paper's rows of a split (not those of Table 6, the ablation); none unless it is the paper's own."""
    if (dataset, split) not in PAPER_SPLITS:
        return pd.DataFrame(columns=["architecture", "training", *METRICS])
    paper = paper_tables()
    return paper[(paper["split"] == PAPER_SPLITS[dataset, split]) & (paper["table"] < 6)]


def gains(frame: pd.DataFrame, metric: str = "sq_rel") -> pd.DataFrame:
    """Change of each distilled student against the self-taught one, as the paper states it (section 4.2).

    Args:
        frame: from `table`.

    Returns:
        columns architecture, training, source, list, change (-0.5: half the error of self-teaching).
    """
    key = ["list", "architecture", "source"]
    taught = frame[frame["training"] == training_name("pred")]
    students = frame[~frame["training"].isin([training_name("pred"), training_name("")])]
    both = students.merge(taught, on=key, suffixes=("", "_taught"))
    both["change"] = both[metric] / both[f"{metric}_taught"] - 1
    return both[["architecture", "training", "source", "list", "change"]]


_PRINTED = {"abs_rel": "Abs Rel", "sq_rel": "Sq Rel", "rmse": "RMSE"}


def printed(frame: pd.DataFrame) -> str:
    """A `table` for a terminal: a row a training, three columns a list of images, what was gained below."""
    names = list(dict.fromkeys(frame["list"]))
    text = _block(frame, [n for n in names if n not in APART])
    changes = gains(frame)
    changes = changes[~changes["list"].isin(APART)]
    text += "\n" if len(changes) else ""
    for (arch, training, source), part in changes.groupby(["architecture", "training", "source"], sort=False):
        values = ", ".join(f"{n} {100 * c:+.1f} %" for n, c in zip(part["list"], part["change"], strict=True))
        whose = "" if source == "ours" else f" ({source})"
        text += f"Sq Rel of {training} against {training_name('pred')}, {arch}{whose}: {values}\n"
    for name in names:
        if name in APART:
            text += f"\nApart: {APART[name]}\n\n{_block(frame, [name])}"
    return text


def _block(frame: pd.DataFrame, lists: Sequence[str]) -> str:
    """Some lists' columns of `printed`, side by side, as Markdown, aligned."""
    head = ["architecture", "training"]
    count = {n: frame[(frame["list"] == n) & (frame["source"] == "ours")]["images"].max() for n in lists}
    head += [
        f"{n} ({count[n]}): {m}" if k == 0 else m for n in lists for k, m in enumerate(_PRINTED.values())
    ]
    values = frame.set_index(["architecture", "training", "source", "list"])
    lines = [head]
    for key in dict.fromkeys(k[:3] for k in values.index if k[3] in lists):
        arch, training, source = key
        cells = [arch, training if source == "ours" else f"{training} ({source})"]
        for name in lists:
            there = (*key, name) in values.index
            cells += [f"{values.loc[(*key, name), m]:.3f}" if there else "–" for m in _PRINTED]
        lines.append(cells)
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    lines.insert(1, ["-" * w if k < 2 else "-" * (w - 1) + ":" for k, w in enumerate(widths)])
    return "".join(
        "| "
        + " | ".join(
            c.ljust(w) if k < 2 else c.rjust(w) for k, (c, w) in enumerate(zip(line, widths, strict=True))
        )
        + " |\n"
        for line in lines
    )


def by_pixels(results: dict[str, pd.DataFrame]) -> pd.DataFrame:
    """Means over all, highlight and diffuse pixels of each training; only "all" where the set has no mask.

    Args:
        results: labels ("" is self-supervised) -> per-image metrics from `score`.
    """
    kinds = [
        k for k in ("all", "highlight", "diffuse") if any((r["pixels"] == k).any() for r in results.values())
    ]
    rows = [
        {"pixels": kind, "training": training_name(labels), **summary(per_image, kind)}
        for kind in kinds
        for labels, per_image in results.items()
    ]
    return pd.DataFrame(rows).astype({"images": int})


def to_markdown(frame: pd.DataFrame) -> str:
    """The table as Markdown with three decimals; the best of our rows of a list and architecture in bold."""
    lines = ["| " + " | ".join(head(c) for c in frame.columns) + " |", "|" + " --- |" * len(frame.columns)]
    ours = frame[frame["source"] == "ours"] if "source" in frame else frame
    key = [c for c in ("list", "architecture") if c in frame]
    best = {}
    for where, group in ours.groupby(key):
        if len(group) > 1:
            for metric in METRICS:
                values = group[metric].round(3)
                best[*where, metric] = values.max() if metric in HIGHER_IS_BETTER else values.min()
    for _, row in frame.iterrows():
        cells = []
        for column in frame.columns:
            value = row[column]
            if column in METRICS:
                text = "–" if pd.isna(value) else f"{value:.3f}"
                is_ours = row.get("source", "ours") == "ours"
                if is_ours and best.get((*row[key], column)) == round(value, 3):
                    text = f"**{text}**"
            else:
                text = "–" if pd.isna(value) else str(value)
            cells.append(text)
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"
