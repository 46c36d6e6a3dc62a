"""What a data set holds, before any training (section 4.1): its scenes, what is known of a frame, its triples."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from d3d import figures
from d3d.datasets import Scene
from d3d.datasets.glossyrooms.format import MATERIALS
from d3d.errors import DataError
from d3d.geometry import nearest_depth, relative_pose
from d3d.pipeline import scenes
from d3d.pipeline.config import Config

# of the materials that GlossyRooms tells apart; told apart by the colour-blind too
MATERIAL_COLOURS = {
    "matt": (205, 205, 205),
    "glossy": (0, 114, 178),
    "mirror": (213, 94, 0),
    "light": (240, 228, 66),
}


def overview(config: Config) -> pd.DataFrame:
    """One row a split: scenes, frames, frames with true depth, and images on each list that the data set has."""
    dataset = scenes.dataset(config)
    rows = []
    for split in dataset.splits:
        found = dataset.scenes(split)
        lists = {name: len(frames) for name, frames in dataset.lists(split).items()}
        with_depth = sum(len(s) for s in found if s.has_depth)
        frames = sum(map(len, found))
        rows.append(
            {"split": split, "scenes": len(found), "frames": frames, "with depth": with_depth, **lists}
        )
    return pd.DataFrame(rows).set_index("split").astype("Int64")


def one_frame_a_scene(config: Config, most: int = 12, columns: int = 3) -> Figure:
    """The middle frame of each scene of every split, at most so many scenes a split."""
    dataset = scenes.dataset(config)
    shown = [s for split in dataset.splits for s in dataset.scenes(split)[:most]]
    images = [s.image(len(s) // 2) for s in shown]
    columns = min(len(shown), columns if len(shown) <= 9 else 2 * columns)
    return figures.contact_sheet(images, [s.name for s in shown], columns, width_in=min(12, 2.8 * columns))


def what_is_known(scene: Scene, i: int) -> Figure:
    """A frame at its native size, its true depth, and where the data set knows them materials and mirror images.

    The mirror images of lights are outlined in the image; in the last picture they are as far away as they appear.
    """
    materials, virtual = (getattr(scene, name, None) for name in ("material", "virtual_depth"))
    highlight, depth = scene.highlight_mask(i), scene.depth(i)
    panels = [figures.Panel("image", scene.image(i), outline=highlight)]
    if depth is not None:
        panels.append(figures.Panel("depth", depth, "depth"))
    if materials is not None and (codes := materials(i)) is not None:
        palette = np.array([MATERIAL_COLOURS[name] for name in MATERIALS], np.uint8)
        panels.append(figures.Panel("matt grey, glossy blue, mirror red, light yellow", palette[codes]))
    if depth is not None and virtual is not None:
        seen = virtual(i)
        panels.append(figures.Panel("depth of what is seen", np.where(seen > 0, seen, depth), "depth"))
    return figures.grid([panels], f"{scene.name}, frame {scene.frame_ids[i]}", width_in=3.2 * len(panels))


@dataclass(frozen=True)
class TripleExample:
    """A training triple and all that is known of its target; maps (h, w) at the network's size, depth in metres."""

    scene: Scene
    row: np.ndarray  # frame indices [target, backward source, forward source]
    index: int  # which of the scene's triples
    target: np.ndarray
    sources: list[np.ndarray]
    K: np.ndarray
    source_T_target: np.ndarray
    gt: np.ndarray | None
    highlight: np.ndarray | None
    virtual: np.ndarray | None

    @property
    def name(self) -> str:
        return f"{self.scene.name}, frame {self.scene.frame_ids[self.row[0]]}"

    @property
    def true_depth(self) -> np.ndarray:
        """Ground truth with its holes filled by the nearest pixel: for pictures only, never for scores."""
        from scipy.ndimage import distance_transform_edt

        if self.gt is None or not (self.gt > 0).any():
            raise DataError(f"{self.name}: no ground-truth depth, which this picture needs.")
        nearest = distance_transform_edt(self.gt <= 0, return_distances=False, return_indices=True)
        return self.gt[tuple(nearest)]


def example_triple(config: Config) -> TripleExample:
    """The triple whose target shows most highlight; the first scene's middle one where nobody knows highlights."""
    size_hw = config.data.size_hw
    found = scenes.training_scenes(config)
    chosen, most = (found[0], len(found[0].triples) // 2), 0
    for s in found[:10]:
        for j in range(0, len(s.triples), max(1, len(s.triples) // 30)):
            mask = s.scene.highlight_mask(s.targets[j])
            if mask is None:
                break
            if mask.mean() > most:
                chosen, most = (s, j), mask.mean()
    s, j = chosen
    row = s.triples.indices[j]
    target, *sources = map(int, row)
    poses = s.scene.world_T_cams
    virtual = getattr(s.scene, "virtual_depth", None)
    return TripleExample(
        s.scene,
        row,
        j,
        s.scene.image(target, size_hw),
        [s.scene.image(i, size_hw) for i in sources],
        s.scene.K(target, size_hw),
        np.stack([relative_pose(poses[i], poses[target]) for i in sources]),
        nearest_depth(s.scene.depth(target), size_hw),
        s.scene.highlight_mask(target, size_hw),
        None if virtual is None else nearest_depth(virtual(target), size_hw),
    )


def dropped_targets(config: Config) -> pd.DataFrame:
    """How many targets there are, how many became triples, and why the others fell out (section 4.1)."""
    found = scenes.training_scenes(config)
    reasons = Counter()
    for s in found:
        reasons.update(s.triples.dropped)
    rows = [
        ("targets looked at", sum(s.triples.targets_tried for s in found)),
        ("training triples", sum(len(s.triples) for s in found)),
        *((f"dropped: {reason}", count) for reason, count in reasons.most_common()),
    ]
    return pd.DataFrame(rows, columns=["", "count"]).set_index("")
