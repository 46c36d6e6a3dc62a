"""How well each uncertainty finds what Eq. 3 should replace, what that makes of the label, and what it costs.

Measured on the training frames that ship with truth and a mask of highlights, which no network is scored on.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from d3d import figures, fusion
from d3d.datasets import Scene
from d3d.errors import DataError
from d3d.geometry import nearest_depth
from d3d.metrics import depth_metrics
from d3d.pipeline import stages
from d3d.pipeline.config import Config
from d3d.pipeline.scenes import TrainingScene, training_scenes
from d3d.pipeline.stages import chain, spread
from d3d.prediction import DepthStore
from d3d.progress import track

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
class ScoredFrame:
    """One frame; maps (h, w) at the network's size, truth and mask at their own; metres.

    Attributes:
        scores: name -> uncertainty, or whatever else may find what is wrong.
        gt: true depth, 0 where there is none.
        highlight: bool, of gt's size.
    """

    pred: np.ndarray
    proj: np.ndarray
    scores: dict[str, np.ndarray]
    gt: np.ndarray
    highlight: np.ndarray

    def targets(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Pixels with truth (h, w), and of these, (n,) each, which are a highlight and an over-estimated one."""
        size_hw = self.pred.shape
        gt, highlight = nearest_depth(self.gt, size_hw), nearest_depth(self.highlight, size_hw)
        over = highlight & (self.pred - gt > OVER * gt)
        known = gt > 0
        return known, highlight[known], over[known]


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
    stores = _stores(config, arch, names)
    predicted, projected = stages.predict(config, arch), stages.project(config, arch)
    rooms = _rooms(config)
    chosen = [(s.scene, i) for s in rooms for i in s.targets[:: max(1, len(s.targets) // frames)]]
    seen = []
    for scene, i in track(chosen, what="compare", unit="frame"):
        pred, proj = predicted.read_of(scene, i), projected.read_of(scene, i)
        scores = {name: store.read_of(scene, i) for name, store in stores.items()}
        # where there is no mesh nothing can be replaced
        scores |= zip(REFERENCES, (pred, np.where(proj > 0, pred - proj, -np.inf)), strict=True)
        seen.append(ScoredFrame(pred, proj, scores, scene.depth(i), scene.highlight_mask(i)))
    d = config.data
    measure = partial(
        depth_metrics, scale=config.evaluation.scale, min_depth=d.min_depth, max_depth=d.max_depth
    )
    result = compare_frames(seen, share, measure)
    costs = pd.DataFrame({name: spread.cost(config, name, arch) for name in stores}).T
    return replace(result, table=result.table.join(costs))


def _stores(config: Config, arch: str, names: Sequence[str]) -> dict[str, DepthStore]:
    names = tuple(names) or available(config, arch)
    if not names:
        raise DataError(
            f"this run has no uncertainty of {arch} yet: name those to compute, as names=('tta',)."
        )
    return {name: stages.uncertainty(config, name, arch) for name in names}


def _rooms(config: Config) -> list[TrainingScene]:
    """The training scenes with true depth and a mask of highlights."""
    rooms = [
        s
        for s in training_scenes(config)
        if s.scene.has_depth and s.scene.highlight_mask(s.targets[0]) is not None
    ]
    if not rooms:
        raise DataError(
            f"no training frame of {config.data.dataset} has both true depth and a mask of highlights."
        )
    return rooms


def compare_frames(
    frames: Sequence[ScoredFrame],
    share: float = 0.3,
    measure: Callable[..., dict[str, float]] = depth_metrics,
) -> Comparison:
    """`compare` on given frames, without the costs; every frame has the same scores.

    Args:
        measure: as `d3d.metrics.depth_metrics`.
    """
    parts = [f.targets() for f in frames]
    wanted = [np.concatenate([p[k] for p in parts]) for k in (1, 2)]
    rows, curves = [], []
    for name in frames[0].scores:
        scores = np.concatenate([f.scores[name][p[0]] for f, p in zip(frames, parts, strict=True)])
        row = {"uncertainty": name}
        for target, column, positive in zip(TARGETS, ("ap_highlight", "ap_over"), wanted, strict=True):
            recall, precision = precision_recall(scores, positive)
            row[column] = average_precision(recall, precision)
            # evenly in recall: thousands of thresholds draw the same line
            some = np.unique(np.searchsorted(recall, np.linspace(0, 1, _POINTS)))
            curve = {"recall": recall[some], "precision": precision[some]}
            curves.append(pd.DataFrame({"uncertainty": name, "target": target, **curve}))
        row["threshold_m"] = float(np.quantile(scores, 1 - share, method="higher"))
        use_projs = [f.scores[name] >= row["threshold_m"] for f in frames]
        rows.append(row | _sq_rel(frames, use_projs, measure))
    labels = {
        "pred": _sq_rel(frames, [np.zeros(f.pred.shape, bool) for f in frames], measure),
        "proj": _sq_rel(frames, [np.ones(f.pred.shape, bool) for f in frames], measure),
    }
    return Comparison(
        pd.DataFrame(rows).set_index("uncertainty"),
        pd.concat(curves, ignore_index=True),
        {target: float(p.mean()) for target, p in zip(TARGETS, wanted, strict=True)},
        pd.DataFrame(labels).T,
        share,
        len(frames),
    )


def _sq_rel(
    frames: Sequence[ScoredFrame], use_projs: list[np.ndarray], measure: Callable
) -> dict[str, float]:
    """Sq Rel of the labels that take P at these pixels, metres; means over the frames, as everywhere."""
    rows = []
    for f, use in zip(frames, use_projs, strict=True):
        label = fusion.choose(f.pred, f.proj, use)
        masks = {"sq_rel": None, "sq_rel_highlight": f.highlight, "sq_rel_diffuse": ~f.highlight}
        rows.append({name: measure(label, f.gt, mask)["sq_rel"] for name, mask in masks.items()})
    return pd.DataFrame(rows).mean().to_dict()


def figure(result: Comparison, title: str = "", **size: float) -> Figure:
    """Precision over recall of each uncertainty, for highlights and for those that are over-estimated.

    Args:
        **size: ``width_in`` and ``font_pt``, for another medium than print.
    """
    ap = result.table[["ap_highlight", "ap_over"]]
    return figures.precision_recall(result.curves, ap, result.chance, REFERENCES, title, **size)


def maps_figure(config: Config, arch: str = "", names: Sequence[str] = (), **size: float) -> Figure:
    """Each uncertainty as a map, of the training frame with most over-estimated highlight; names as in `compare`."""
    arch = arch or config.arch
    stores, predicted = _stores(config, arch, names), stages.predict(config, arch)

    def over(at: tuple[Scene, int]) -> int:
        scene, i = at
        pred, nothing = predicted.read_of(scene, i), np.zeros(0)
        frame = ScoredFrame(pred, nothing, {}, scene.depth(i), scene.highlight_mask(i))
        return np.count_nonzero(frame.targets()[2])

    rooms = _rooms(config)
    scene, i = max(
        ((s.scene, i) for s in rooms for i in s.targets[:: max(1, len(s.targets) // 20)]), key=over
    )
    pred, size_hw = predicted.read_of(scene, i), config.data.size_hw
    off = figures.signed_error(pred, nearest_depth(scene.depth(i), size_hw))
    maps = {name: store.read_of(scene, i) for name, store in stores.items()}
    title = f"{scene.name}, frame {scene.frame_ids[i]}"
    highlight = scene.highlight_mask(i, size_hw)
    return figures.uncertainty_maps(scene.image(i, size_hw), off, maps, highlight, title, **size)
