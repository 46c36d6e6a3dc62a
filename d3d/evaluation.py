"""Compute per-image depth metrics and their means (section 4); `d3d.tables` makes tables of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pandas as pd

from d3d.datasets.scene import FrameList, Scene
from d3d.errors import DataError
from d3d.metrics import METRICS, align, depth_metrics, pixel_masks
from d3d.parallel.tasks import advance
from d3d.progress import track

_ARCH_NAMES = {"monodepth2": "Monodepth2", "hrdepth": "HR-Depth", "monovit": "MonoViT"}
_TRAINING_NAMES = {"": "Self-Supervised", "pred": "Self-Teaching", "uncer": "3D Distillation"}
SELF_SUPERVISED = "self-supervised"

Row = dict[str, Any]  # of a table of scores, by its columns


def arch_name(arch: str) -> str:
    """The paper's spelling of a network's name; any other network's name as it is."""
    return _ARCH_NAMES.get(arch, arch)


def training_name(labels: str) -> str:
    """The paper's word for a training: "" is self-supervised, "pred" self-teaching, "uncer" 3D distillation."""
    return _TRAINING_NAMES.get(labels, f"Distillation ({labels})")


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
    """Compute the metrics of each image against the scenes' ground truth.

    Args:
        depth: function of (scene, frame index) that returns depth (h, w) in metres. A depth of 0 is scored like any
            other wrong value, clamped to ``min_depth``.
        frames: frame indices of each scene.
        scale: "none" or "median", see `metrics.depth_metrics`. One scale an image, the same for every kind of pixel.

    Returns:
        one row for each image and kind of pixel: scene, frame, pixels ("all"; "highlight" and "diffuse" where the
        data set has a mask), count (pixels), the seven metrics. A frame without ground truth has no row.

    Raises:
        DataError: no image has ground truth, or a prediction cannot be scored.
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
    """Compute the rows of `score` for one scene; an empty list if no frame has ground truth."""
    rows = []
    for i in frames:
        advance()
        gt = scene.depth(i)
        if gt is None or not (gt > 0).any():
            continue
        about = {"scene": scene.name, "frame": scene.frame_ids[i]}
        try:
            aligned = align(depth(scene, i), gt, scale, min_depth, max_depth)
        except DataError as error:
            raise DataError(f"{scene.name}, frame {scene.frame_ids[i]}: {error}") from error
        for pixels, mask in pixel_masks(gt > 0, scene.highlight_mask(i)).items():
            metrics = depth_metrics(aligned, gt, mask, "none", min_depth, max_depth)
            rows.append({**about, "pixels": pixels, "count": int(np.count_nonzero(mask)), **metrics})
    return rows


def to_frame(rows: Sequence[Row], scenes: Sequence[str]) -> pd.DataFrame:
    """Make one table of the rows of all scenes.

    Raises:
        DataError: there are no rows; names the scenes.
    """
    if not rows:
        names = ", ".join(scenes[:3])
        raise DataError(f"nothing to score: no ground-truth depth in the frames of {names}.")
    return pd.DataFrame(rows)


def in_split(per_image: pd.DataFrame) -> pd.Series:
    """Tell the frames of the split itself (True) from those that are scored because they are on a list (False).

    A prepared folder holds both. The column ``in_split`` says which is which; without it all are the split's own.
    """
    return per_image.get("in_split", pd.Series(True, index=per_image.index)).astype(bool)


def summary(per_image: pd.DataFrame, pixels: str = "all", frames: FrameList | None = None) -> pd.Series:
    """Average each metric over images, as the paper does.

    Args:
        per_image: from `score`.
        pixels: "all", "highlight" or "diffuse".
        frames: the (scene, frame) of a list. None: the whole split, without frames that are on a list only.

    Returns:
        the mean of each metric, and ``images``, the number of images.
    """
    part = per_image[per_image["pixels"] == pixels]
    if frames is None:
        part = part[in_split(part)]
    else:
        part = part[[key in frames for key in zip(part["scene"], part["frame"], strict=True)]]
    means = part[list(METRICS)].mean()
    means["images"] = len(part)
    return means
