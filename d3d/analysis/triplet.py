"""How well the mask of triplet mining finds highlights, beside an uncertainty and the distance (E41).

Choi et al. (ICLR 2025) take the pixels with a small E- - E+ as reflective (`d3d.losses.triplet_loss`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from d3d.analysis.labels import evenly_at_least, training_scenes
from d3d.analysis.uncertainty import OVER, average_precision, precision_recall
from d3d.datasets.samples import TripleSamples
from d3d.geometry import disp_to_depth, inverse, nearest_depth, warp
from d3d.losses import triplet_errors, triplet_loss
from d3d.models.base import DepthNetwork
from d3d.pipeline.config import Config
from d3d.progress import track
from d3d.uncertainty import measure

FACTORS = {"Q1 - 1.5 IQR": -1.5, "Q1": 0.0, "Q3": 1.0}  # margins of the mask
SHARE = 0.25  # share of the pixels that "tta" and the distance mark, as the margin Q1


@dataclass(frozen=True)
class MaskFrame:
    """A triple with the truth of its target, at the network's size.

    Attributes:
        sample: an item of `TripleSamples`, not augmented.
        gt: (h, w) metres, 0 where unknown.
        highlight: bool (h, w).
    """

    sample: Mapping[str, Tensor]
    gt: np.ndarray
    highlight: np.ndarray


def frames_with_truth(config: Config, count: int = 26) -> Iterator[MaskFrame]:
    """Read about ``count`` targets of each training scene with ground truth and a highlight mask.

    Raises:
        DataError: there is no such scene.
    """
    size_hw = config.data.size_hw
    for s in training_scenes(config, truth=True, highlights=True):
        samples = TripleSamples([s.scene], [s.triples], size_hw, augment=False)
        for k in evenly_at_least(range(len(samples)), count):
            i = int(s.triples.indices[k][0])
            if (gt := s.scene.depth(i)) is not None:
                highlight = nearest_depth(s.scene.highlight_mask(i), size_hw).astype(bool)
                yield MaskFrame(samples[0, k], nearest_depth(gt, size_hw), highlight)


@torch.no_grad()
def errors_of(network: DepthNetwork, sample: Mapping[str, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
    """Compute E+ and E- of a triple as in training, and the depth of its target in metres: (1, 1, h, w) each."""
    target, sources, poses = sample["target"][None], sample["sources"], sample["source_T_target"]
    depth = disp_to_depth(network(target, (0,))[0].float(), network.min_depth, network.max_depth)
    s = len(sources)
    K, depths, targets = (x.expand(s, *x.shape[1:]) for x in (sample["K"][None], depth, target))
    warped, crossed = warp(sources, depths, K, poses)[0], warp(targets, depths, K, inverse(poses))[0]
    return *triplet_errors(target, warped[:, None], crossed[:, None]), depth


def mask_quality(network: DepthNetwork, frames: Sequence[MaskFrame]) -> pd.DataFrame:
    """Measure how well triplet masks, the uncertainty "tta" and the distance find highlights.

    Returns:
        One row for each mask: ``share`` of marked pixels; ``precision``, ``recall`` and ``ap`` (average precision of
        its score) for highlights; the same with the suffix ``_over`` for highlights whose depth is more than a quarter
        too far. The row "chance" has the share of the pixels to find. NaN if there is no pixel to find.
    """
    scores: dict[str, list[np.ndarray]] = {"E- - E+": [], "tta": [], "distance D": []}
    masks: dict[str, list[np.ndarray]] = {name: [] for name in FACTORS}
    highlight, over = [], []
    for frame in track(list(frames), what="masks", unit="frame"):
        positive, negative, depth = errors_of(network, frame.sample)
        known, pred = frame.gt > 0, depth[0, 0].numpy()
        with torch.no_grad():
            uncertainty = measure("tta", [network], frame.sample["target"][None], 0)
        # the smaller the difference, the more suspect the pixel
        maps = (positive - negative, uncertainty, depth)
        for name, values in zip(scores, maps, strict=True):
            scores[name].append(values[0, 0].numpy()[known])
        for name, factor in FACTORS.items():
            masks[name].append(triplet_loss(positive, negative, factor)[1][0, 0].numpy()[known])
        highlight.append(frame.highlight[known])
        over.append((frame.highlight & (pred - frame.gt > OVER * frame.gt))[known])
    targets = {"": np.concatenate(highlight), "_over": np.concatenate(over)}
    ranked = {name: np.concatenate(parts) for name, parts in scores.items()}
    found = {f"triplet, {name}": ("E- - E+", np.concatenate(parts)) for name, parts in masks.items()}
    found |= {
        name: (name, ranked[name] >= np.quantile(ranked[name], 1 - SHARE)) for name in ("tta", "distance D")
    }
    rows = {name: _row(ranked[score], mask, targets) for name, (score, mask) in found.items()}
    chance = {
        f"{column}{suffix}": wanted.mean()
        for suffix, wanted in targets.items()
        for column in ("precision", "ap")
    }
    return pd.DataFrame.from_dict({**rows, "chance": chance}, orient="index").rename_axis("mask")


def _row(scores: np.ndarray, mask: np.ndarray, targets: Mapping[str, np.ndarray]) -> dict[str, float]:
    row = {"share": mask.mean()}
    for suffix, wanted in targets.items():
        hits = np.count_nonzero(mask & wanted)
        row[f"precision{suffix}"] = hits / mask.sum() if mask.any() else np.nan
        row[f"recall{suffix}"] = hits / wanted.sum() if wanted.any() else np.nan
        row[f"ap{suffix}"] = average_precision(*precision_recall(scores, wanted)) if wanted.any() else np.nan
    return row
