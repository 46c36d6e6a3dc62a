"""Scores of stored depth: per-image metrics, their means, and tables beside the paper's (section 4)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from d3d.datasets.scene import Scene
from d3d.errors import DataError
from d3d.metrics import HIGHER_IS_BETTER, METRICS, depth_metrics
from d3d.progress import track
from d3d.runs import project_root

_ARCH_NAMES = {"monodepth2": "Monodepth2", "hrdepth": "HR-Depth", "monovit": "MonoViT"}
SELF_SUPERVISED = "self-supervised"


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
PAPER_SPLITS = {
    ("scannet", "val"): "ScanNet Val Set",
    ("scannet", "test"): "ScanNet Test Set",
    ("scannet", "reflection_val"): "ScanNet-Reflection Val Set",
    ("scannet", "reflection_test"): "ScanNet-Reflection Test Set",
    ("scannet", "noreflection_val"): "ScanNet-NoReflection Val Set",
    ("7scenes", "test"): "7-Scenes",
}


def table(
    results: dict[tuple[str, str], pd.DataFrame], dataset: str, split: str, pixels: str = "all"
) -> pd.DataFrame:
    """One table: our rows, with the paper's under them where data set and split are the paper's.

    Args:
        results: (arch, labels) -> per-image metrics from `score`; labels "" is self-supervised.

    Returns:
        columns architecture, training, source ("ours" or "paper"), images, the seven metrics.
    """
    paper = None
    if (dataset, split) in PAPER_SPLITS:
        paper = paper_tables()
        paper = paper[(paper["split"] == PAPER_SPLITS[dataset, split]) & (paper["table"] < 6)]
    rows = []
    for (arch, labels), per_image in results.items():
        name, training = arch_name(arch), training_name(labels)
        rows.append(
            {"architecture": name, "training": training, "source": "ours", **summary(per_image, pixels)}
        )
        if paper is not None:
            same = paper[(paper["architecture"] == name) & (paper["training"] == training)]
            rows += [
                {"architecture": name, "training": training, "source": "paper", **row[list(METRICS)]}
                for _, row in same.iterrows()
            ]
    result = pd.DataFrame(rows, columns=["architecture", "training", "source", "images", *METRICS])
    return result.astype({"images": "Int64", **dict.fromkeys(METRICS, float)})


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
    """The table as Markdown with three decimals; the best of our rows of an architecture in bold."""
    lines = ["| " + " | ".join(_head(c) for c in frame.columns) + " |", "|" + " --- |" * len(frame.columns)]
    ours = frame[frame["source"] == "ours"] if "source" in frame else frame
    best = {}
    for arch, group in ours.groupby("architecture"):
        if len(group) > 1:
            for metric in METRICS:
                values = group[metric].round(3)
                best[arch, metric] = values.max() if metric in HIGHER_IS_BETTER else values.min()
    for _, row in frame.iterrows():
        cells = []
        for column in frame.columns:
            value = row[column]
            if column in METRICS:
                text = "–" if pd.isna(value) else f"{value:.3f}"
                is_ours = row.get("source", "ours") == "ours"
                if is_ours and best.get((row["architecture"], column)) == round(value, 3):
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
