"""Compute per-image depth metrics and their means (section 4)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import chain
from typing import Any

import numpy as np
import pandas as pd

from d3d.datasets.scene import FrameList, Scene
from d3d.errors import DataError
from d3d.metrics import METRICS, align, depth_metrics, pixel_masks
from d3d.parallel.tasks import advance
from d3d.progress import track

_ARCH_NAMES = {"monodepth2": "Monodepth2", "hrdepth": "HR-Depth", "monovit": "MonoViT", "lite": "Lite"}
_TRAINING_NAMES = {"": "Self-Supervised", "pred": "Self-Teaching", "uncer": "3D Distillation"}
SELF_SUPERVISED = "self-supervised"

Row = dict[str, Any]  # column -> value
DepthOf = Callable[[Scene, int], np.ndarray]  # (scene, frame index) -> depth (h, w), metres


def arch_name(arch: str) -> str:
    """Return the paper's spelling of a network's name; other names are returned unchanged."""
    return _ARCH_NAMES.get(arch, arch)


def training_name(labels: str) -> str:
    """Return the paper's name of a training: "" self-supervised, "pred" self-teaching, "uncer" 3D distillation."""
    return _TRAINING_NAMES.get(labels, f"Distillation ({labels})")


def score(
    depth: DepthOf, scenes: Sequence[Scene], frames: Sequence[Sequence[int]], **how: Any
) -> pd.DataFrame:
    """Compute the metrics of several scenes as one table.

    Args:
        frames: frame indices of each scene.
        **how: options of `score_scene`.

    Raises:
        DataError: no frame has ground truth, or a prediction cannot be scored.
    """
    pairs = track(list(zip(scenes, frames, strict=True)), "score", unit="scene")
    return to_frame({scene.name: score_scene(depth, scene, wanted, **how) for scene, wanted in pairs})


def score_scene(
    depth: DepthOf,
    scene: Scene,
    frames: Sequence[int],
    scale: str = "none",
    min_depth: float = 0.1,
    max_depth: float = 10.0,
    disparity: bool = False,
) -> list[Row]:
    """Compute the metrics of a scene's frames against its ground truth.

    Args:
        depth: function that returns the predicted depth of a frame. A depth of 0 is clamped to ``min_depth``.
        frames: frame indices.
        scale: alignment of each image, see `metrics.depth_metrics`. All pixels of an image have the same alignment.
        min_depth, max_depth: range of the prediction, metres.
        disparity: ``depth`` returns disparity, see `metrics.depth_metrics`.

    Returns:
        One row per image and kind of pixels: scene, frame, pixels ("all"; also "highlight" and "diffuse" if the data
        set has masks), count (number of pixels), the seven metrics. A frame without ground truth has no row.

    Raises:
        DataError: a prediction cannot be scored.
    """
    rows = []
    for i in frames:
        advance()
        gt = scene.depth(i)
        if gt is None or not (gt > 0).any():
            continue
        try:
            aligned = align(depth(scene, i), gt, scale, min_depth, max_depth, disparity)
        except DataError as error:
            raise DataError(f"{scene.name}, frame {scene.frame_ids[i]}: {error}") from error
        for pixels, mask in pixel_masks(gt > 0, scene.highlight_mask(i)).items():
            metrics = depth_metrics(aligned, gt, mask, "none", min_depth, max_depth)
            about = {"scene": scene.name, "frame": scene.frame_ids[i], "pixels": pixels}
            rows.append(about | {"count": int(np.count_nonzero(mask))} | metrics)
    return rows


def to_frame(rows: Mapping[str, Sequence[Row]]) -> pd.DataFrame:
    """Join the rows of several scenes into one table.

    Args:
        rows: scene name -> rows of `score_scene`.

    Raises:
        DataError: there is no row.
    """
    table = pd.DataFrame(chain.from_iterable(rows.values()))
    if table.empty:
        raise DataError(f"nothing to score: no ground-truth depth in the frames of {', '.join([*rows][:3])}.")
    return table


def in_split(per_image: pd.DataFrame) -> pd.Series:
    """Mark the rows whose frame belongs to the split. The other frames were scored because a list names them."""
    return per_image.get("in_split", pd.Series(True, index=per_image.index)).astype(bool)


def on_list(rows: pd.DataFrame, frames: FrameList) -> np.ndarray:
    """Mark the rows whose (scene, frame) is on a list."""
    return np.array([key in frames for key in zip(rows["scene"], rows["frame"], strict=True)], dtype=bool)


def select(per_image: pd.DataFrame, pixels: str = "all", frames: FrameList | None = None) -> pd.DataFrame:
    """Select the rows of a kind of pixels (`PIXELS`) and of a list of frames. None: the frames of the split."""
    part = per_image[per_image["pixels"] == pixels]
    return part[in_split(part) if frames is None else on_list(part, frames)]


def summary(per_image: pd.DataFrame, pixels: str = "all", frames: FrameList | None = None) -> pd.Series:
    """Average each metric over images, as the paper does.

    Args:
        per_image: table of `score`.
        pixels, frames: see `select`.

    Returns:
        Means of the metrics, and ``images``, the number of images.
    """
    part = select(per_image, pixels, frames)
    return pd.Series({**part[list(METRICS)].mean(), "images": len(part)}, dtype=float)
