"""Show a data set before any training (section 4.1): scenes, ground truth, triples."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from d3d.analysis.labels import evenly_at_least
from d3d.datasets import Scene
from d3d.datasets.glossyrooms.format import MATERIALS
from d3d.errors import DataError
from d3d.figures.colours import BLUE, VERMILLION, YELLOW, rgb
from d3d.figures.frames import frame_of
from d3d.figures.panels import Panel, contact_sheet, grid
from d3d.geometry import nearest_depth, relative_pose
from d3d.pipeline import scenes
from d3d.pipeline.config import Config

# Data set -> scene and frame of the running example. Here the method works: the views disagree about the reflection,
# and their mean is the floor.
EXAMPLES = {"glossyrooms": ("train-0018", "000038")}
MATERIAL_COLOURS = {
    name: rgb(colour)
    for name, colour in (("matt", "#CDCDCD"), ("glossy", BLUE), ("mirror", VERMILLION), ("light", YELLOW))
}


def overview(config: Config) -> pd.DataFrame:
    """Count scenes, frames, frames with true depth, and frames on each list; one row per split."""
    dataset = scenes.dataset(config)
    rows = []
    for split in dataset.splits:
        found = dataset.scenes(split)
        numbers = {"split": split, "scenes": len(found), "frames": sum(map(len, found))}
        numbers["with depth"] = sum(len(s) for s in found if s.has_depth)
        rows.append(numbers | {name: len(frames) for name, frames in dataset.lists(split).items()})
    return pd.DataFrame(rows).set_index("split").astype("Int64")


def one_frame_per_scene(config: Config) -> Figure:
    """Draw the middle frame of each scene, at most 12 scenes per split."""
    dataset = scenes.dataset(config)
    shown = [s for split in dataset.splits for s in dataset.scenes(split)[:12]]
    images = [s.image(len(s) // 2) for s in shown]
    columns = min(len(shown), 3 if len(shown) <= 9 else 6)
    return contact_sheet(images, [s.name for s in shown], columns, width_in=min(8, 2.8 * columns))


def ground_truth(scene: Scene, i: int) -> Figure:
    """Draw a frame at its own size with its true depth, and with materials and mirror images if available.

    The mirror images of lights are outlined in the image. The last picture shows their apparent depth.
    """
    materials, virtual = (getattr(scene, name, None) for name in ("material", "virtual_depth"))
    depth = scene.depth(i)
    panels = [Panel("image", scene.image(i), outline=scene.highlight_mask(i))]
    if depth is not None:
        panels.append(Panel("depth", depth, "depth"))
    if materials is not None and (codes := materials(i)) is not None:
        palette = np.array([MATERIAL_COLOURS[name] for name in MATERIALS], np.uint8)
        panels.append(Panel("matt grey, glossy blue, mirror red, light yellow", palette[codes]))
    if depth is not None and virtual is not None:
        seen = virtual(i)
        panels.append(Panel("depth of what is seen", np.where(seen > 0, seen, depth), "depth"))
    return grid([panels], f"{scene.name}, frame {scene.frame_ids[i]}", width_in=3.2 * len(panels))


@dataclass(frozen=True)
class TripleExample:
    """A training triple and the ground truth of its target: maps (h, w) at the network's size, depth in metres."""

    scene: Scene
    row: np.ndarray  # frame indices [target, backward source, forward source]
    index: int  # index of the triple in the scene
    target: np.ndarray
    sources: list[np.ndarray]
    K: np.ndarray
    source_T_target: np.ndarray
    gt: np.ndarray | None
    highlight: np.ndarray | None
    virtual: np.ndarray | None  # depth of the mirror images of lights, 0 elsewhere

    @property
    def name(self) -> str:
        return f"{self.scene.name}, frame {self.scene.frame_ids[self.row[0]]}"

    @property
    def true_depth(self) -> np.ndarray:
        """Ground truth with holes filled from the nearest pixel, for pictures only."""
        from scipy.ndimage import distance_transform_edt

        if self.gt is None or not (self.gt > 0).any():
            raise DataError(f"{self.name}: this picture needs ground-truth depth, which is missing.")
        nearest = distance_transform_edt(self.gt <= 0, return_distances=False, return_indices=True)
        return self.gt[tuple(nearest)]


def example_triple(config: Config) -> TripleExample:
    """Choose the running example (`EXAMPLES`), or `most_highlight_triple` if the run has no such frame."""
    name, frame = EXAMPLES.get(config.data.dataset, ("", ""))
    for s in scenes.training_scenes(config):
        if s.scene.name == name:
            ids = [s.scene.frame_ids[i] for i in s.targets]
            if frame in ids:
                return _triple(config, s, ids.index(frame))
    return most_highlight_triple(config)


def most_highlight_triple(config: Config) -> TripleExample:
    """Choose the triple with most highlight in its target. Without masks, take the middle triple of the first scene."""
    found = scenes.training_scenes(config)
    s, j, most = found[0], len(found[0].triples) // 2, 0.0
    for candidate in found[:10]:
        for k in evenly_at_least(range(len(candidate.triples)), 30):
            mask = candidate.scene.highlight_mask(candidate.targets[k])
            if mask is not None and mask.mean() > most:
                s, j, most = candidate, k, mask.mean()
    return _triple(config, s, j)


def _triple(config: Config, s: scenes.TrainingScene, j: int) -> TripleExample:
    """Read the j-th triple of a scene and its ground truth."""
    size_hw, row = config.data.size_hw, s.triples.indices[j]
    target, *sources = map(int, row)
    poses = s.scene.world_T_cams
    virtual = getattr(s.scene, "virtual_depth", None)
    shown, images = frame_of(config, s.scene, target, {}), [s.scene.image(i, size_hw) for i in sources]
    source_T_target = np.stack([relative_pose(poses[i], poses[target]) for i in sources])
    mirrored = None if virtual is None else nearest_depth(virtual(target), size_hw)
    geometry = s.scene.K(target, size_hw), source_T_target
    return TripleExample(s.scene, row, j, shown.image, images, *geometry, shown.gt, shown.highlight, mirrored)


def dropped_targets(config: Config) -> pd.DataFrame:
    """Count targets, triples and the reasons for dropped targets (section 4.1)."""
    triples = [s.triples for s in scenes.training_scenes(config)]
    reasons = sum((Counter(t.dropped) for t in triples), Counter())
    counts = {"targets looked at": sum(t.targets_tried for t in triples)}
    counts["training triples"] = sum(map(len, triples))
    counts |= {f"dropped: {reason}": count for reason, count in reasons.most_common()}
    return pd.DataFrame({"count": counts}).rename_axis("")


def warped_sources(
    target: np.ndarray,
    sources: Sequence[np.ndarray],
    warped: Sequence[np.ndarray],
    errors: Sequence[np.ndarray],
    title: str = "",
) -> Figure:
    """Draw Eq. 1 and 2 on a triple: each source, warped into the target's view, its error, and the minimum."""
    top = float(np.percentile(np.stack(errors), 99))
    rows = []
    for name, source, seen, error in zip(("backward", "forward"), sources, warped, errors, strict=True):
        images = [Panel(f"source, {name}", source), Panel(f"source, {name}, warped", seen)]
        rows.append([*images, Panel("photometric error", error, "share", top)])
    minimum = Panel("minimum reprojection", np.minimum(*errors), "share", top)
    return grid([*rows, [Panel("target", target), Panel("", None), minimum]], title, width_in=8.5)
