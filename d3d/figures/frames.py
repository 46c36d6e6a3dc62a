"""Choose frames for figures, read their results from a run, and score them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pandas as pd

from d3d.analysis.labels import evenly_at_least, sq_rel_by_pixels, training_scenes
from d3d.datasets import Scene
from d3d.datasets.scene import FrameList
from d3d.errors import DataError
from d3d.geometry import nearest_depth
from d3d.metrics import pixel_masks, resize_depth
from d3d.pipeline import stages
from d3d.pipeline.config import Config


@dataclass(frozen=True)
class Frame:
    """A row of a figure: image, ground truth, and depth maps (h, w) to compare; metres, 0 where unknown.

    Attributes:
        highlight: bool map of any size, or None if the data set has no masks.
        medians_m: name of a depth map -> median error in metres, written on its error map.
    """

    name: str
    image: np.ndarray
    gt: np.ndarray | None = None
    highlight: np.ndarray | None = None
    depths: Mapping[str, np.ndarray] = field(default_factory=dict)
    medians_m: Mapping[str, float] = field(default_factory=dict)


def notes(frames: Sequence[Frame]) -> str:
    """Explain the numbers on the error maps; empty if there are no numbers."""
    if not any(f.medians_m for f in frames):
        return ""
    known = any(f.highlight is not None for f in frames)
    return f"Numbers: median error {'on highlights' if known else 'of all pixels'}. Outlined: highlights."


def filled(pred: np.ndarray, proj: np.ndarray) -> np.ndarray:
    """Fill projected depth with predicted depth where the mesh has no surface, as in a label."""
    return np.where(proj > 0, proj, pred)


def frame_of(config: Config, scene: Scene, i: int, depths: Mapping[str, np.ndarray]) -> Frame:
    """Make a row of a figure from frame i at the network's size."""
    size_hw = config.data.size_hw
    gt, highlight = nearest_depth(scene.depth(i), size_hw), scene.highlight_mask(i, size_hw)
    name = f"{scene.name}, frame {scene.frame_ids[i]}"
    return Frame(name, scene.image(i, size_hw), gt, highlight, depths)


def scored_frame(
    config: Config,
    scene: Scene,
    i: int,
    depths: Mapping[str, np.ndarray],
    name: str = "",
    column: str = "median_error_m",
) -> tuple[Frame, list[dict[str, Any]]]:
    """Make a row of a figure, and score its depth maps on all, highlight and diffuse pixels.

    Scores use the size of the ground truth, as in an evaluation. The pictures are smaller.

    Args:
        name: first line of the row's name.
        column: score to write on the error maps; the score of the highlights, if they are known.

    Returns:
        The frame; rows of row, scene, frame, panel (name of a depth map) and, with ground truth, pixels, count, sq_rel,
        median_error_m and median_absolute_error_m.
    """
    gt, highlight = scene.depth(i), scene.highlight_mask(i)
    lines = [line for line in (name, scene.name, scene.frame_ids[i]) if line]
    about = {"row": " ".join(lines), "scene": scene.name, "frame": scene.frame_ids[i]}
    masks = {} if gt is None else pixel_masks(gt > 0, highlight)
    rows: list[dict[str, Any]] = []
    medians = {}
    for panel, depth in depths.items():
        if gt is None:
            rows.append({**about, "panel": panel})
        sq_rel = sq_rel_by_pixels(config, depth, gt, highlight)
        for kind, mask in masks.items():
            off = (resize_depth(depth, gt.shape) - gt)[mask]
            scores = {"count": off.size, "sq_rel": sq_rel[kind], "median_error_m": float(np.median(off))}
            scores["median_absolute_error_m"] = float(np.median(np.abs(off)))
            rows.append({**about, "panel": panel, "pixels": kind, **scores})
            if kind == ("highlight" if "highlight" in masks else "all"):
                medians[panel] = scores[column]
    return replace(frame_of(config, scene, i, depths), name="\n".join(lines), medians_m=medians), rows


@dataclass(frozen=True)
class ExampleFrame:
    """A target frame and its results in a run: maps (h, w) at the network's size, metres."""

    scene: Scene
    index: int
    image: np.ndarray
    gt: np.ndarray | None
    highlight: np.ndarray | None
    preds: dict[str, np.ndarray]  # network of the ensemble, or the run's own -> predicted depth
    projs: dict[str, np.ndarray]  # network -> projected depth
    uncertainty: np.ndarray  # standard deviation over the ensemble

    @property
    def frame(self) -> str:
        return self.scene.frame_ids[self.index]


def example_frame(config: Config, scene_name: str = "", frame: str = "") -> ExampleFrame:
    """Read a target frame and its results in a run.

    The default is the frame with the largest share of uncertain pixels (at or above the threshold). If highlights are
    known, only pixels on highlights count. If a scene has ground truth, only such scenes are considered.

    Raises:
        DataError: the scene or the frame is unknown.
    """
    uncertain, threshold = stages.uncertainty(config), stages.threshold(config, "uncer")
    found = stages.training_scenes(config)
    if frame:
        scene = next((s.scene for s in found if s.scene.name == scene_name), None)
        if scene is None or frame not in scene.frame_ids:
            raise DataError(f"no training scene {scene_name!r} with a frame {frame!r}.")
        index = scene.frame_ids.index(frame)
    else:

        def share(candidate: tuple[Scene, int]) -> float:
            use = uncertain.read_of(*candidate) >= threshold
            highlight = candidate[0].highlight_mask(candidate[1], use.shape)
            return float((use if highlight is None else use & highlight).mean())

        among = [s for s in found if s.scene.has_depth] or found
        scene, index = max(((s.scene, i) for s in among for i in evenly_at_least(s.targets, 60)), key=share)
    preds, projs = (
        {arch: stage(config, arch).read_of(scene, index) for arch in config.networks}
        for stage in (stages.predict, stages.project)
    )
    shown = frame_of(config, scene, index, preds)
    return ExampleFrame(
        scene, index, shown.image, shown.gt, shown.highlight, preds, projs, uncertain.read_of(scene, index)
    )


def reflective_targets(config: Config, count: int = 3) -> list[tuple[Scene, int]]:
    """Choose the training frames with ground truth and most highlight, one per room, sorted by room.

    Only the true masks determine the choice, not the output of a network.

    Raises:
        DataError: no training scene has ground truth and masks.
    """
    best = []
    for s in training_scenes(config, truth=True, highlights=True):
        shares = [s.scene.highlight_mask(i).mean() for i in s.targets]
        best.append((max(shares), s.scene, s.targets[np.argmax(shares)]))
    chosen = sorted(best, key=lambda b: -b[0])[:count]
    return sorted(((scene, i) for _, scene, i in chosen), key=lambda c: c[0].name)


def reflective_frames(per_image: pd.DataFrame, among: FrameList | None, count: int) -> list[tuple[str, str]]:
    """Choose the (scene, frame) with most highlight from an evaluated split, spread over scenes, sorted by name.

    Without masks, choose the frames with the largest error. At least five evaluated frames lie between two
    chosen frames of a scene.

    Args:
        per_image: from `d3d.evaluation.score`, of the self-supervised network.
        among: choose from these frames; None, or if none of them is evaluated: from all.
    """
    whole = per_image[per_image["pixels"] == "all"].set_index(["scene", "frame"])
    highlight = per_image[per_image["pixels"] == "highlight"].set_index(["scene", "frame"])
    share = whole["sq_rel"] if highlight.empty else (highlight["count"] / whole["count"]).fillna(0)
    number = dict(zip(whole.index, whole.groupby(level=0, sort=False).cumcount(), strict=True))
    best = share.sort_values(ascending=False, kind="stable").index
    best = [key for key in best if among is None or key in among] or list(best)
    chosen: list[tuple[str, str]] = []
    for per_scene in range(count):  # one frame of each scene, then a second one, ...
        for scene, frame in best:
            same = [number[s, f] for s, f in chosen if s == scene]
            near = any(abs(n - number[scene, frame]) <= 5 for n in same)
            if len(chosen) < count and len(same) <= per_scene and not near:
                chosen.append((scene, frame))
    return sorted(chosen)
