"""Uncertainty-guided depth fusion (section 3.2.3). Eq. 3 is `fuse`; the label strategies of Table 6 are `STRATEGIES`.

Depth is z-depth in metres. `fuse`, `choose` and `ensemble_std` take numpy arrays and torch tensors of any shape.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from d3d.errors import DataError, unknown
from d3d.geometry import backproject, inside, pixel_grid, project, sample, transform
from d3d.uncertainty import UNCERTAINTY
from d3d.uncertainty import ensemble_std as ensemble_std  # also a name of this module


def fuse(pred: Any, proj: Any, uncertainty: Any, threshold_m: float = 0.4) -> Any:
    """Eq. 3: the label L is P where U >= alpha, and D elsewhere. Where P has no surface, L is D. All in metres.

    Args:
        pred: D, depth predicted by the network that is distilled.
        proj: P, depth projected from that network's own mesh; 0 where no surface is hit.
        uncertainty: U.
        threshold_m: alpha_uncer.
    """
    return choose(pred, proj, uncertainty >= threshold_m)


def choose(pred: Any, proj: Any, use_proj: Any) -> Any:
    """The projected depth where ``use_proj`` and a surface is hit; the predicted depth elsewhere.

    Raises:
        DataError: the maps differ in size.
    """
    shapes = [tuple(depth.shape) for depth in (pred, proj, use_proj)]
    if len(set(shapes)) > 1:
        raise DataError(f"maps differ in size: {', '.join(map(str, shapes))}.")
    where = torch.where if isinstance(pred, Tensor) else np.where
    return where(use_proj & (proj > 0), proj, pred)


def inconsistent(
    pred_b1hw: Tensor,
    source_preds_sb1hw: Tensor,
    K_b33: Tensor,
    source_T_target_sb44: Tensor,
    max_pixels: float = 1.0,
    max_relative: float = 0.01,
) -> Tensor:
    """True (B, 1, H, W) for pixels that fail the three-view consistency check of MVSNet (section 4.3, "mv").

    A target pixel is projected into a source with its own depth, takes the source's depth there, and is
    projected back. It must pass this check against every source.

    Args:
        pred_b1hw, source_preds_sb1hw: depth of the target and of the sources, metres.
        K_b33: intrinsics of all views.
        source_T_target_sb44: maps points from the target's frame to each source's.
        max_pixels: the pixel must come back closer than this to where it began.
        max_relative: the depth it comes back with must differ by less than this share of its own depth.
    """
    h, w = pred_b1hw.shape[-2:]
    start = pixel_grid(h, w, pred_b1hw)[:2].reshape(2, h, w)
    points = backproject(pred_b1hw, K_b33)
    failed = torch.zeros_like(pred_b1hw, dtype=torch.bool)
    for source_pred, source_T_target in zip(source_preds_sb1hw, source_T_target_sb44, strict=True):
        pixels, z = project(transform(source_T_target, points), K_b33)
        seen = backproject(sample(source_pred, pixels), K_b33, pixels)
        again, z_again = project(transform(torch.linalg.inv(source_T_target), seen), K_b33)
        distance = (again - start).pow(2).sum(dim=1, keepdim=True).sqrt()
        relative = (z_again - pred_b1hw).abs() / pred_b1hw
        visible = (z > 1e-6) & inside(pixels, (h, w))
        failed |= ~(visible & (distance < max_pixels) & (relative < max_relative))
    return failed


@dataclass(frozen=True)
class LabelInputs:
    """The inputs of a label strategy for one target frame: depth in metres, maps (h, w)."""

    pred: np.ndarray
    proj: np.ndarray
    uncertainty: np.ndarray | None = None
    source_preds: np.ndarray | None = None  # (2, h, w), with K and source_T_target (2, 4, 4)
    K: np.ndarray | None = None
    source_T_target: np.ndarray | None = None
    threshold_m: float = 0.4
    truth: np.ndarray | None = None  # 0 where there is none
    highlight: np.ndarray | None = None  # bool
    device: str = "cpu"  # for strategies that compute with torch


def _inconsistent(i: LabelInputs) -> np.ndarray:
    arrays = (i.pred, i.source_preds, i.K, i.source_T_target)
    pred, sources, K, poses = (torch.tensor(a, dtype=torch.float64, device=i.device) for a in arrays)
    failed = inconsistent(pred[None, None], sources[:, None, None], K[None], poses[:, None])
    return failed[0, 0].cpu().numpy()


@dataclass(frozen=True)
class Strategy:
    """A label strategy: one of Table 6, or one beyond the paper."""

    use_proj: Callable[[LabelInputs], np.ndarray]  # the pixels that take the projected depth, bool (h, w)
    needs: frozenset[str] = frozenset()  # "uncertainty", "sources" (with K and poses), "truth"
    uncertainty: str = "ensemble"  # one of `UNCERTAINTIES`
    shrink: int = 1  # the student is trained at this fraction of the sides, and tested at full size
    other: Callable[[LabelInputs], np.ndarray] = lambda i: i.proj  # the depth in place of the projected depth
    threshold_quantile: float | None = (
        None  # the threshold as a quantile of the uncertainty; None: the run's threshold
    )
    mesh: Mapping[str, Any] = field(
        default_factory=dict
    )  # in place of the run's fusion settings; {}: the run's mesh

    def training_size(self, size_hw: tuple[int, int]) -> tuple[int, int]:
        """Height and width of the student's training images: multiples of 32, at least 64, for the networks."""
        if self.shrink == 1:
            return size_hw
        h, w = (max(64, round(x / self.shrink / 32) * 32) for x in size_hw)
        return h, w


_UNCERTAINTY, _SOURCES, _TRUTH = (frozenset({need}) for need in ("uncertainty", "sources", "truth"))


def _uncertain_and_nearer(i: LabelInputs) -> np.ndarray:
    # a reflection is seen behind the surface: where the mesh is farther than the prediction, the mesh is wrong
    return (i.uncertainty >= i.threshold_m) & (i.pred > i.proj)


# A new strategy is one line, and a function if its rule is long.
STRATEGIES: dict[str, Strategy] = {
    "pred": Strategy(lambda i: np.zeros(i.pred.shape, bool)),
    "proj": Strategy(lambda i: np.ones(i.pred.shape, bool)),
    "proj_lowres": Strategy(lambda i: np.ones(i.pred.shape, bool), shrink=3),
    "diff": Strategy(lambda i: i.pred - i.proj > 0.25 * i.proj),
    "mv": Strategy(_inconsistent, _SOURCES),
    "uncer": Strategy(lambda i: i.uncertainty >= i.threshold_m, _UNCERTAINTY),
    "signed": Strategy(_uncertain_and_nearer, _UNCERTAINTY),
    # the recommended recipe: only depth that the network is sure of is fused (E29 of docs/experiments.md)
    "robust": Strategy(
        _uncertain_and_nearer,
        _UNCERTAINTY,
        uncertainty="tta",
        threshold_quantile=0.8,
        mesh={"certain": 0.7, "views": 40},
    ),
}

# What a user chooses by one name: the labels of the student. The paper's recipe is Eq. 3.
RECIPES = {"paper": "uncer", "robust": "robust"}

# Upper bounds for experiments: the mesh, or the truth, exactly on highlights. They need a data set with ground-truth
# depth and highlight masks of its training frames.
ORACLES: dict[str, Strategy] = {
    "oracle_proj": Strategy(lambda i: i.highlight, _TRUTH),
    "oracle_truth": Strategy(lambda i: i.highlight, _TRUTH, other=lambda i: i.truth),
}

UNCERTAINTIES = tuple(UNCERTAINTY)

_OTHER_UNCERTAINTIES = {
    f"{name}-{other}": replace(strategy, uncertainty=other)
    for name, strategy in STRATEGIES.items()
    if "uncertainty" in strategy.needs
    for other in UNCERTAINTIES
    if other != strategy.uncertainty
}
_BY_LABEL = STRATEGIES | _OTHER_UNCERTAINTIES | ORACLES

# Every value of the option `labels`: a strategy, a strategy with another uncertainty than the paper's ("uncer-tta"),
# or an oracle
LABELS = tuple(_BY_LABEL)


def find_strategy(name: str) -> Strategy:
    """Return the strategy of a name in `LABELS`, such as "uncer-tta"; raises ConfigError for an unknown name."""
    if name not in LABELS:
        raise unknown("label strategy", name, LABELS)
    return _BY_LABEL[name]


def make_label(strategy: str, inputs: LabelInputs) -> np.ndarray:
    """Compute the pseudo-label (h, w) in metres by a named strategy.

    Raises:
        ConfigError: unknown strategy, with the near misses.
        DataError: a value of the label is not finite and positive.
    """
    rule = find_strategy(strategy)
    label = choose(inputs.pred, rule.other(inputs), rule.use_proj(inputs))
    bad = ~(np.isfinite(label) & (label > 0))
    if bad.any():
        raise DataError(f"{np.count_nonzero(bad)} label pixels are not finite and positive.")
    return label
