"""How well each uncertainty finds what Eq. 3 should replace, what that makes of the label, and what it costs.

Measured on the training frames that ship with truth and a mask of highlights, which no network is scored on.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from d3d import figures, fusion, stages
from d3d.config import Config
from d3d.errors import DataError
from d3d.geometry import nearest_depth
from d3d.metrics import depth_metrics
from d3d.progress import track
from d3d.scenes import TrainingScene, training_scenes
from d3d.stages import chain, spread
from d3d.stages.labels import uncertainty

OVER = 0.25  # a depth is over-estimated that is a quarter farther than the truth: where the metric a1 ends
TARGETS = ("highlight", "over-estimated highlight")
REFERENCES = ("distance D", "mesh, D − P")  # no uncertainties: what one has anyway
_POINTS = 200  # of a stored curve


def precision_recall(scores: np.ndarray, positive: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Precision and recall of "score >= t" for every t among the scores, from the highest on.

    Pixels of one score are found together, so that ties give no credit for their order.

    Args:
        scores: (n,), higher means more likely.
        positive: bool (n,), what should be found.

    Returns:
        recall and precision, (m,) each, m the number of different scores.

    Raises:
        DataError: shapes differ, a score is not a number, or nothing is to be found.
    """
    if scores.shape != positive.shape or scores.ndim != 1:
        raise DataError(f"scores {scores.shape} and what is to be found {positive.shape} must be (n,) each.")
    if np.isnan(scores).any():
        raise DataError(f"{np.count_nonzero(np.isnan(scores))} scores are not a number.")
    if not positive.any():
        raise DataError("there is nothing to find: precision and recall mean nothing.")
    order = np.argsort(-scores, kind="stable")
    ranked = scores[order]
    last = np.append(np.flatnonzero(ranked[1:] != ranked[:-1]), len(ranked) - 1)  # of each score
    found = np.cumsum(positive[order])[last]
    return found / found[-1], found / (last + 1)


def average_precision(recall: np.ndarray, precision: np.ndarray) -> float:
    """Area under the steps of a precision-recall curve: precision, weighed by how much recall each step adds.

    Chance has the share of what is to be found; 1 means that all of it comes first.
    """
    return float(np.sum(np.diff(recall, prepend=0.0) * precision))


@dataclass(frozen=True)
class Comparison:
    """What `compare` found.

    Attributes:
        table: a row an uncertainty, then the `REFERENCES`: average precision for each of `TARGETS` (ap_highlight,
            ap_over), the threshold in metres that takes ``share`` of the pixels, Sq Rel of the label it gives (all,
            highlight and other pixels), trainings beyond the network itself and seconds of these and of the prediction.
        curves: uncertainty, target, recall, precision.
        chance: target -> share of the pixels that are to be found, the average precision of chance.
        labels: Sq Rel (all, highlight and other pixels) of the labels "pred" and "proj", for comparison.
        share, frames: the share of pixels that take the projected depth, and how many frames were looked at.
    """

    table: pd.DataFrame
    curves: pd.DataFrame
    chance: dict[str, float]
    labels: pd.DataFrame
    share: float
    frames: int


@dataclass(frozen=True)
class _Frame:
    """One frame at the network's size, and the truth and mask at their own."""

    pred: np.ndarray
    proj: np.ndarray
    scores: dict[str, np.ndarray]
    gt: np.ndarray
    highlight: np.ndarray
    targets: dict[str, np.ndarray]
    known: np.ndarray


def available(config: Config, arch: str = "") -> tuple[str, ...]:
    """The uncertainties that this run has."""
    arch = arch or config.arch
    return tuple(
        name
        for name in fusion.UNCERTAINTIES
        if chain.outputs(config, "uncertainty", "" if name == "ensemble" else arch, name) is not None
    )


def compare(
    config: Config, arch: str = "", frames: int = 26, names: Sequence[str] = (), share: float = 0.3
) -> Comparison:
    """How well uncertainties find highlights, and those of them whose depth is over-estimated; labels; cost.

    Their sizes differ, so labels are compared where each takes the projected depth at the same share of the pixels.

    Args:
        frames: of each room with truth and a mask at most about so many target frames are looked at.
        names: of `d3d.fusion.UNCERTAINTIES`, computed where they are missing; by default those that are there.
        share: of the pixels, those with the largest uncertainty.

    Raises:
        DataError: no training frame has truth and a mask of highlights, or no uncertainty is there.
    """
    arch = arch or config.arch
    names = tuple(names) or available(config, arch)
    if not names:
        raise DataError(
            f"this run has no uncertainty of {arch} yet: name those to compute, as names=('tta',)."
        )
    rooms = [s for s in training_scenes(config) if _known(s)]
    if not rooms:
        raise DataError(
            f"no training frame of {config.data.dataset} has both true depth and a mask of highlights."
        )
    stores = {name: uncertainty(config, name, arch) for name in names}
    predicted, projected = stages.predict(config, arch), stages.project(config, arch)
    chosen = [(s.scene, i) for s in rooms for i in s.targets[:: max(1, len(s.targets) // frames)]]
    seen = []
    for scene, i in track(chosen, what="compare", unit="frame"):
        pred, proj = predicted.read_of(scene, i), projected.read_of(scene, i)
        scores = {name: store.read_of(scene, i) for name, store in stores.items()}
        # where there is no mesh nothing can be replaced
        scores |= zip(REFERENCES, (pred, np.where(proj > 0, pred - proj, -np.inf)), strict=True)
        gt, highlight = nearest_depth(scene.depth(i), pred.shape), scene.highlight_mask(i, pred.shape)
        over = highlight & (pred - gt > OVER * gt)
        targets = dict(zip(TARGETS, (highlight, over), strict=True))
        seen.append(_Frame(pred, proj, scores, scene.depth(i), scene.highlight_mask(i), targets, gt > 0))
    return _compared(config, arch, names, seen, share)


def _known(s: TrainingScene) -> bool:
    return s.scene.has_depth and s.scene.highlight_mask(s.targets[0]) is not None


def _compared(
    config: Config, arch: str, names: Sequence[str], seen: list[_Frame], share: float
) -> Comparison:
    def pooled(maps: list[np.ndarray]) -> np.ndarray:
        return np.concatenate([m[f.known] for m, f in zip(maps, seen, strict=True)])

    positive = {target: pooled([f.targets[target] for f in seen]) for target in TARGETS}
    rows, curves = [], []
    for name in (*names, *REFERENCES):
        scores = pooled([f.scores[name] for f in seen])
        row = {"uncertainty": name}
        for target, column in zip(TARGETS, ("ap_highlight", "ap_over"), strict=True):
            recall, precision = precision_recall(scores, positive[target])
            row[column] = average_precision(recall, precision)
            # evenly in recall: thousands of thresholds draw the same line
            some = np.unique(np.searchsorted(recall, np.linspace(0, 1, _POINTS)))
            curves.append(
                pd.DataFrame(
                    {
                        "uncertainty": name,
                        "target": target,
                        "recall": recall[some],
                        "precision": precision[some],
                    }
                )
            )
        row["threshold_m"] = float(np.quantile(scores, 1 - share, method="higher"))
        row |= _sq_rel(config, seen, [f.scores[name] >= row["threshold_m"] for f in seen])
        if name in names:
            row |= spread.cost(config, name, arch)
        rows.append(row)
    ends = {"pred": False, "proj": True}
    labels = [
        {"labels": k, **_sq_rel(config, seen, [np.full(f.pred.shape, v) for f in seen])}
        for k, v in ends.items()
    ]
    return Comparison(
        pd.DataFrame(rows).set_index("uncertainty"),
        pd.concat(curves, ignore_index=True),
        {target: float(p.mean()) for target, p in positive.items()},
        pd.DataFrame(labels).set_index("labels"),
        share,
        len(seen),
    )


def _sq_rel(config: Config, seen: list[_Frame], use_projs: list[np.ndarray]) -> dict[str, float]:
    """Sq Rel of the labels that take P at these pixels, metres; means over the frames, as everywhere."""
    d, rows = config.data, []
    for f, use in zip(seen, use_projs, strict=True):
        label = fusion.choose(f.pred, f.proj, use)
        masks = {"sq_rel": None, "sq_rel_highlight": f.highlight, "sq_rel_diffuse": ~f.highlight}
        rows.append(
            {
                name: depth_metrics(label, f.gt, mask, config.evaluation.scale, d.min_depth, d.max_depth)[
                    "sq_rel"
                ]
                for name, mask in masks.items()
            }
        )
    return pd.DataFrame(rows).mean().to_dict()


def figure(result: Comparison, title: str = "") -> Figure:
    """Precision over recall of each uncertainty, for highlights and for those that are over-estimated."""
    return figures.precision_recall(
        result.curves, result.table[["ap_highlight", "ap_over"]], result.chance, REFERENCES, title
    )
