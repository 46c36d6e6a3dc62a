"""Scores of stored depth: per-image metrics, their means, and tables beside the paper's (section 4)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from d3d.datasets.scene import FrameList, Scene
from d3d.errors import DataError
from d3d.metrics import HIGHER_IS_BETTER, METRICS, depth_metrics
from d3d.progress import track
from d3d.runs import project_root

_ARCH_NAMES = {"monodepth2": "Monodepth2", "hrdepth": "HR-Depth", "monovit": "MonoViT"}
SELF_SUPERVISED = "self-supervised"

# Lists of images that no other number may hide or be hidden by, and why
APART = {"Mirror": "images of mirrors, which the paper leaves unsolved"}


def arch_name(arch: str) -> str:
    """The paper's spelling of a network's name; any other network's name as it is."""
    return _ARCH_NAMES.get(arch, arch)


def training_name(labels: str) -> str:
    """The paper's word for a training: "" is self-supervised, "pred" self-teaching, "uncer" 3D distillation."""
    return {"": "Self-Supervised", "pred": "Self-Teaching", "uncer": "3D Distillation"}.get(
        labels, f"Distillation ({labels})"
    )


def score(
    depth: Callable[[Scene, int], np.ndarray],
    scenes: Sequence[Scene],
    frames: Sequence[Sequence[int]],
    *,
    scale: str = "none",
    min_depth: float = 0.1,
    max_depth: float = 10.0,
    what: str = "score",
) -> pd.DataFrame:
    """Per-image metrics of stored depth against the scenes' ground truth.

    Args:
        depth: function of (scene, frame index) that returns depth (h, w) in metres; 0 counts as wrong
            as any other value, clamped to ``min_depth``.
        frames: frame indices of each scene.
        scale: "none" or "median", as `metrics.depth_metrics`.

    Returns:
        one row an image and kind of pixels: scene, frame, pixels ("all"; "highlight" and "diffuse" where
        the set has a mask), count, the seven metrics.

    Raises:
        DataError: no image has ground truth.
    """
    rows = []
    bar = track(what=what, total=sum(map(len, frames)), unit="image")
    for scene, wanted in zip(scenes, frames, strict=True):
        for i in wanted:
            gt = scene.depth(i)
            bar.update()
            if gt is None or not (gt > 0).any():
                continue
            masks: dict[str, np.ndarray | None] = {"all": None}
            highlight = scene.highlight_mask(i)
            if highlight is not None:
                masks |= {"highlight": highlight, "diffuse": ~highlight}
            pred = depth(scene, i)
            for pixels, mask in masks.items():
                count = int(np.count_nonzero(gt > 0 if mask is None else mask & (gt > 0)))
                if count:
                    metrics = depth_metrics(pred, gt, mask, scale, min_depth, max_depth)
                    rows.append(
                        {
                            "scene": scene.name,
                            "frame": scene.frame_ids[i],
                            "pixels": pixels,
                            "count": count,
                            **metrics,
                        }
                    )
    bar.close()
    if not rows:
        names = ", ".join(s.name for s in scenes[:3])
        raise DataError(f"nothing to score: no ground-truth depth in the frames of {names}.")
    return pd.DataFrame(rows)


def summary(per_image: pd.DataFrame, pixels: str = "all") -> pd.Series:
    """Mean over images of each metric (the paper's way), and ``images``, their number."""
    part = per_image[per_image["pixels"] == pixels]
    means = part[list(METRICS)].mean()
    means["images"] = len(part)
    return means


def paper_tables(path: Path | None = None) -> pd.DataFrame:
    """The paper's Tables 2 to 6, transcribed: table, split, architecture, training, the seven metrics.

    Raises:
        DataError: the file is not there.
    """
    path = path or project_root() / "data" / "paper_tables.csv"
    if not path.is_file():
        raise DataError(f"{path} is missing: it ships with the repository, in data/.")
    return pd.read_csv(path)


# (data set, split) -> the paper's name of that split. Only these may stand beside the paper's figures.
# A list of images of a split is a split of the paper's: "Reflection" of "val" is "reflection_val".
PAPER_SPLITS = {
    ("scannet", "val"): "ScanNet Val Set",
    ("scannet", "test"): "ScanNet Test Set",
    ("scannet", "reflection_val"): "ScanNet-Reflection Val Set",
    ("scannet", "reflection_test"): "ScanNet-Reflection Test Set",
    ("scannet", "noreflection_val"): "ScanNet-NoReflection Val Set",
    ("7scenes", "test"): "7-Scenes",
}


def on_list(per_image: pd.DataFrame, frames: FrameList) -> pd.DataFrame:
    """The rows of `score` that are of these (scene, frame)."""
    return per_image[[key in frames for key in zip(per_image["scene"], per_image["frame"], strict=True)]]


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
        theirs = _paper_rows(dataset, split if frames is None else f"{name.lower()}_{split}")
        for (arch, labels), per_image in results.items():
            key = {"list": name, "architecture": arch_name(arch), "training": training_name(labels)}
            means = summary(per_image if frames is None else on_list(per_image, frames), pixels)
            if means["images"]:
                rows.append({**key, "source": "ours", **means})
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
    lines = ["| " + " | ".join(_head(c) for c in frame.columns) + " |", "|" + " --- |" * len(frame.columns)]
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


def _head(column: str) -> str:
    names = {
        "abs_rel": "Abs Rel ↓",
        "sq_rel": "Sq Rel ↓",
        "rmse": "RMSE ↓",
        "rmse_log": "RMSE log ↓",
        "a1": "δ<1.25 ↑",
        "a2": "δ<1.25² ↑",
        "a3": "δ<1.25³ ↑",
    }
    return names.get(column, column.capitalize())
