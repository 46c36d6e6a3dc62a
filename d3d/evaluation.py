"""Scores of stored depth: per-image metrics and their means (section 4); `d3d.tables` makes tables of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pandas as pd

from d3d.datasets.scene import FrameList, Scene
from d3d.errors import DataError
from d3d.metrics import METRICS, depth_metrics
from d3d.parallel.tasks import advance
from d3d.progress import track

_ARCH_NAMES = {"monodepth2": "Monodepth2", "hrdepth": "HR-Depth", "monovit": "MonoViT"}
SELF_SUPERVISED = "self-supervised"

Row = dict[str, Any]  # of a table of scores, by its columns


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
    with track(what=what, total=sum(map(len, frames)), unit="image") as bar:
        for scene, wanted in zip(scenes, frames, strict=True):
            rows += score_scene(depth, scene, wanted, scale, min_depth, max_depth)
            bar.update(len(wanted))
    return to_frame(rows, [s.name for s in scenes])


def score_scene(
    depth: Callable[[Scene, int], np.ndarray],
    scene: Scene,
    frames: Sequence[int],
    scale: str,
    min_depth: float,
    max_depth: float,
) -> list[Row]:
    """The rows of `score` of one scene; none where no frame has ground truth."""
    rows = []
    for i in frames:
        advance()
        gt = scene.depth(i)
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
                about = {"scene": scene.name, "frame": scene.frame_ids[i], "pixels": pixels, "count": count}
                rows.append({**about, **metrics})
    return rows


def to_frame(rows: Sequence[Row], scenes: Sequence[str]) -> pd.DataFrame:
    """The rows of all scenes as a table.

    Raises:
        DataError: there are none; names the scenes.
    """
    if not rows:
        names = ", ".join(scenes[:3])
        raise DataError(f"nothing to score: no ground-truth depth in the frames of {names}.")
    return pd.DataFrame(rows)


def summary(per_image: pd.DataFrame, pixels: str = "all") -> pd.Series:
    """Mean over images of each metric (the paper's way), and ``images``, their number."""
    part = per_image[per_image["pixels"] == pixels]
    means = part[list(METRICS)].mean()
    means["images"] = len(part)
    return means


def on_list(per_image: pd.DataFrame, frames: FrameList) -> pd.DataFrame:
    """The rows of `score` that are of these (scene, frame)."""
    return per_image[[key in frames for key in zip(per_image["scene"], per_image["frame"], strict=True)]]
