"""Compare uncertainties: precision and recall for highlight pixels, errors of the labels, and cost.

The comparison uses training frames with ground truth and highlight masks, not the evaluated split.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd

from d3d import fusion
from d3d.analysis.labels import (
    SQ_REL_COLUMNS,
    evenly_at_least,
    metric_options,
    metrics_by_pixels,
    training_scenes,
)
from d3d.datasets import Scene
from d3d.errors import DataError
from d3d.geometry import nearest_depth
from d3d.pipeline import stages
from d3d.pipeline.config import Config
from d3d.prediction import DepthStore
from d3d.progress import track

OVER = 0.25  # a depth is over-estimated if it exceeds the truth by more than 25 %, the bound of the metric a1
TARGETS = ("highlight", "over-estimated highlight")
REFERENCES = ("distance D", "mesh, D − P")  # scores without an uncertainty
_CURVE_POINTS = 200


def precision_recall(scores: np.ndarray, positive: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Compute precision and recall of "score >= t" for each distinct score t, from the highest to the lowest.

    Args:
        scores: (n,).
        positive: bool (n,), the pixels to find.

    Returns:
        Recall and precision, (m,) each.

    Raises:
        DataError: the shapes differ, a score is NaN, or there is no positive pixel.
    """
    if scores.shape != positive.shape or scores.ndim != 1:
        raise DataError(f"scores {scores.shape} and pixels to find {positive.shape} must be (n,) each.")
    if np.isnan(scores).any():
        raise DataError(f"{np.count_nonzero(np.isnan(scores))} scores are not a number.")
    if not positive.any():
        raise DataError("there is no positive pixel: precision and recall are undefined.")
    order = np.argsort(-scores, kind="stable")
    ranked = scores[order]
    last = np.flatnonzero(np.append(ranked[1:] != ranked[:-1], True))  # the last pixel of each score
    found = np.cumsum(positive[order])[last]
    return found / found[-1], found / (last + 1)


def average_precision(recall: np.ndarray, precision: np.ndarray) -> float:
    """Compute the area under a precision-recall curve. A random order gives the share of positive pixels."""
    return float(np.sum(np.diff(recall, prepend=0.0) * precision))


@dataclass(frozen=True)
class Comparison:
    """The result of `compare`.

    Attributes:
        table: one row for each uncertainty, then `REFERENCES`: average precision for each of `TARGETS` (ap_highlight,
            ap_over), the threshold in metres, Sq Rel of the label at this threshold by kind of pixel, additional
            trainings, and seconds of training and prediction.
        curves: uncertainty, target, recall, precision.
        chance: target -> share of positive pixels, the average precision of a random order.
        labels: Sq Rel by kind of pixel of the labels "pred" and "proj".
        frames: number of frames.
    """

    table: pd.DataFrame
    curves: pd.DataFrame
    chance: dict[str, float]
    labels: pd.DataFrame
    frames: int


@dataclass(frozen=True)
class ScoredFrame:
    """The maps of one frame in metres: (h, w) at the network's size; ground truth and mask (H, W) at full size."""

    pred: np.ndarray
    proj: np.ndarray
    scores: dict[str, np.ndarray]  # name -> uncertainty, or another map with high values for suspect pixels
    gt: np.ndarray  # 0 where unknown
    highlight: np.ndarray  # bool

    def targets(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return the pixels with ground truth (h, w); among these n, highlights and over-estimated highlights (n,)."""
        size_hw = self.pred.shape
        gt, highlight = nearest_depth(self.gt, size_hw), nearest_depth(self.highlight, size_hw)
        over = highlight & (self.pred - gt > OVER * gt)
        known = gt > 0
        return known, highlight[known], over[known]


def available(config: Config, arch: str = "") -> tuple[str, ...]:
    """List the uncertainties that this run has computed."""
    arch = arch or config.arch
    return tuple(n for n in fusion.UNCERTAINTIES if stages.is_finished(config, "uncertainty", arch, n))


def compare(config: Config, arch: str = "", frames: int = 26, names: Sequence[str] = ()) -> Comparison:
    """Compare uncertainties: detection of (over-estimated) highlights, errors of the labels, and cost.

    Uncertainties differ in scale. For each, the threshold is chosen so that the same share of pixels takes P.

    Args:
        frames: approximate number of target frames of each scene with ground truth and mask.
        names: names in `d3d.fusion.UNCERTAINTIES`; missing ones are computed. By default the run's uncertainties.

    Raises:
        DataError: no training frame has ground truth and a highlight mask, or the run has no uncertainty.
    """
    arch = arch or config.arch
    stores = stored(config, arch, names)
    predicted, projected = stages.predict(config, arch), stages.project(config, arch)
    scored = []
    for scene, i in track(frames_to_compare(config, frames), what="compare", unit="frame"):
        pred, proj = predicted.read_of(scene, i), projected.read_of(scene, i)
        scores = {name: store.read_of(scene, i) for name, store in stores.items()}
        # -inf: without a surface there is no projected depth
        scores |= zip(REFERENCES, (pred, np.where(proj > 0, pred - proj, -np.inf)), strict=True)
        scored.append(ScoredFrame(pred, proj, scores, scene.depth(i), scene.highlight_mask(i)))
    result = compare_frames(scored, **metric_options(config))
    costs = pd.DataFrame({name: stages.uncertainty_cost(config, name, arch) for name in stores}).T
    return replace(result, table=result.table.join(costs))


def stored(config: Config, arch: str, names: Sequence[str] = ()) -> dict[str, DepthStore]:
    """Return uncertainties by name, computed if missing; by default the run's uncertainties."""
    names = tuple(names) or available(config, arch)
    if not names:
        raise DataError(
            f"this run has no uncertainty of {arch}. Name uncertainties to compute, such as names=('tta',)."
        )
    return {name: stages.uncertainty(config, name, arch) for name in names}


def frames_to_compare(config: Config, count: int) -> list[tuple[Scene, int]]:
    """Select about ``count`` target frames of each training scene with ground truth and highlight masks."""
    found = training_scenes(config, truth=True, highlights=True)
    return [
        (s.scene, i) for s in found for i in evenly_at_least(s.targets, count) if s.scene.depth(i) is not None
    ]


def compare_frames(frames: Sequence[ScoredFrame], share: float = 0.3, **options: Any) -> Comparison:
    """Compare uncertainties on given frames, without the costs. All frames must have the same scores.

    Args:
        share: share of pixels with P, the most uncertain pixels.
        **options: options of `d3d.metrics.depth_metrics`.
    """
    known, *found = zip(*(f.targets() for f in frames), strict=True)
    wanted = dict(zip(TARGETS, map(np.concatenate, found), strict=True))

    def sq_rel(use_projs: Sequence[np.ndarray]) -> dict[str, float]:
        rows = []
        for f, use_proj in zip(frames, use_projs, strict=True):
            label = fusion.choose(f.pred, f.proj, use_proj)
            by_kind = metrics_by_pixels(label, f.gt, f.highlight, **options)
            rows.append({SQ_REL_COLUMNS[kind]: metrics["sq_rel"] for kind, metrics in by_kind.items()})
        return pd.DataFrame(rows).mean().to_dict()

    rows, curves = {}, []
    for name in frames[0].scores:
        scores = np.concatenate([f.scores[name][mask] for f, mask in zip(frames, known, strict=True)])
        row = rows[name] = {}
        for column, (target, positive) in zip(("ap_highlight", "ap_over"), wanted.items(), strict=True):
            recall, precision = precision_recall(scores, positive)
            row[column] = average_precision(recall, precision)
            # a few points, evenly spaced in recall, draw the same line as thousands of thresholds
            kept = np.unique(np.searchsorted(recall, np.linspace(0, 1, _CURVE_POINTS)))
            curve = {"recall": recall[kept], "precision": precision[kept]}
            curves.append(pd.DataFrame({"uncertainty": name, "target": target, **curve}))
        row["threshold_m"] = float(np.quantile(scores, 1 - share, method="higher"))
        row |= sq_rel([f.scores[name] >= row["threshold_m"] for f in frames])
    labels = {
        "pred": sq_rel([np.zeros(f.pred.shape, bool) for f in frames]),
        "proj": sq_rel([np.ones(f.pred.shape, bool) for f in frames]),
    }
    return Comparison(
        pd.DataFrame.from_dict(rows, orient="index").rename_axis("uncertainty"),
        pd.concat(curves, ignore_index=True),
        {target: float(positive.mean()) for target, positive in wanted.items()},
        pd.DataFrame(labels).T,
        len(frames),
    )
