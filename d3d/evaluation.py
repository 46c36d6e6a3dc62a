"""Compute per-image depth metrics and their means (section 4); `d3d.tables` makes tables of them."""

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

Row = dict[str, Any]  # of a table of scores, by its columns
DepthOf = Callable[[Scene, int], np.ndarray]  # (scene, frame index) -> depth (h, w), metres


def arch_name(arch: str) -> str:
    """The paper's spelling of a network's name; any other network's name as it is."""
    return _ARCH_NAMES.get(arch, arch)


def training_name(labels: str) -> str:
    """The paper's word for a training: "" is self-supervised, "pred" self-teaching, "uncer" 3D distillation."""
    return _TRAINING_NAMES.get(labels, f"Distillation ({labels})")


def score(
    depth: DepthOf, scenes: Sequence[Scene], frames: Sequence[Sequence[int]], **how: Any
) -> pd.DataFrame:
    """As `score_scene`, for several scenes and the frame indices of each; a `DataError` if there is no row."""
    pairs = track(list(zip(scenes, frames, strict=True)), "score", unit="scene")
    return to_frame({scene.name: score_scene(depth, scene, wanted, **how) for scene, wanted in pairs})


def score_scene(
    depth: DepthOf,
    scene: Scene,
    frames: Sequence[int],
    scale: str = "none",
    min_depth: float = 0.1,
    max_depth: float = 10.0,
) -> list[Row]:
    """Compute the metrics of a scene's frames against its ground truth.

    Args:
        depth: a depth of 0 is scored like any other wrong value, clamped to ``min_depth``.
        scale: "none" or "median", see `metrics.depth_metrics`. One scale an image, the same for every kind of pixel.

    Returns:
        one row for each image and kind of pixel: scene, frame, pixels ("all"; "highlight" and "diffuse" where the
        data set has a mask), count (pixels), the seven metrics. A frame without ground truth has no row.

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
            aligned = align(depth(scene, i), gt, scale, min_depth, max_depth)
        except DataError as error:
            raise DataError(f"{scene.name}, frame {scene.frame_ids[i]}: {error}") from error
        for pixels, mask in pixel_masks(gt > 0, scene.highlight_mask(i)).items():
            metrics = depth_metrics(aligned, gt, mask, "none", min_depth, max_depth)
            about = {"scene": scene.name, "frame": scene.frame_ids[i], "pixels": pixels}
            rows.append(about | {"count": int(np.count_nonzero(mask))} | metrics)
    return rows


def to_frame(rows: Mapping[str, Sequence[Row]]) -> pd.DataFrame:
    """Make one table of the rows of each scene, given by the scenes' names; a `DataError` if there are none."""
    table = pd.DataFrame(chain.from_iterable(rows.values()))
    if table.empty:
        raise DataError(f"nothing to score: no ground-truth depth in the frames of {', '.join([*rows][:3])}.")
    return table


def in_split(per_image: pd.DataFrame) -> pd.Series:
    """Tell the frames of the split itself from those scored because of a list; all are its own without ``in_split``."""
    return per_image.get("in_split", pd.Series(True, index=per_image.index)).astype(bool)


def on_list(rows: pd.DataFrame, frames: FrameList) -> np.ndarray:
    """Tell which rows with a scene and a frame are of a list."""
    return np.array([key in frames for key in zip(rows["scene"], rows["frame"], strict=True)], dtype=bool)


def summary(per_image: pd.DataFrame, pixels: str = "all", frames: FrameList | None = None) -> pd.Series:
    """Average each metric of `score` over images, as the paper does; ``images`` is their number.

    Args:
        pixels: a kind of `PIXELS`.
        frames: the (scene, frame) of a list. None: the whole split, without frames that are on a list only.
    """
    part = per_image[per_image["pixels"] == pixels]
    part = part[in_split(part) if frames is None else on_list(part, frames)]
    return pd.Series({**part[list(METRICS)].mean(), "images": len(part)}, dtype=float)
