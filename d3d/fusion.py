"""Uncertainty-guided depth fusion (section 3.2.3): Eq. 3 (`fuse`) and the label strategies of Table 6 (`STRATEGIES`).

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
    """Compute the label L of Eq. 3: P where U >= alpha and P has a surface, D elsewhere.

    Args:
        pred: predicted depth D of the teacher, metres.
        proj: projected depth P from the teacher's mesh, metres; 0 where no surface is hit.
        uncertainty: U, metres.
        threshold_m: alpha_uncer, metres.
    """
    return choose(pred, proj, uncertainty >= threshold_m)


def choose(pred: Any, proj: Any, use_proj: Any) -> Any:
    """Take the projected depth where ``use_proj`` is true and a surface is hit, the predicted depth elsewhere.

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
    """Find the pixels that fail the three-view consistency check of MVSNet (section 4.3, "mv").

    A target pixel is projected into a source, takes the source's depth there, and is projected back. It must return
    to its position and its depth for every source.

    Args:
        pred_b1hw, source_preds_sb1hw: depth of the target and of the sources, metres.
        K_b33: intrinsics of all views.
        source_T_target_sb44: maps points from the target's frame to the source's frame.
        max_pixels: upper bound (excluded) of the distance between start and return, pixels.
        max_relative: upper bound (excluded) of the relative difference in depth.

    Returns:
        Bool (B, 1, H, W), true for inconsistent pixels.
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
    """The inputs of a label strategy for one target frame: maps (h, w), depth in metres."""

    pred: np.ndarray
    proj: np.ndarray
    uncertainty: np.ndarray | None = None
    source_preds: np.ndarray | None = None  # (2, h, w), with K and source_T_target (2, 4, 4)
    K: np.ndarray | None = None
    source_T_target: np.ndarray | None = None
    threshold_m: float = 0.4
    truth: np.ndarray | None = None  # 0 where unknown
    highlight: np.ndarray | None = None  # bool
    device: str = "cpu"  # for strategies that compute with torch


def _inconsistent(i: LabelInputs) -> np.ndarray:
    arrays = (i.pred, i.source_preds, i.K, i.source_T_target)
    pred, sources, K, poses = (torch.tensor(a, dtype=torch.float64, device=i.device) for a in arrays)
    failed = inconsistent(pred[None, None], sources[:, None, None], K[None], poses[:, None])
    return failed[0, 0].cpu().numpy()


@dataclass(frozen=True)
class Strategy:
    """A label strategy of Table 6, or a strategy beyond the paper."""

    use_proj: Callable[[LabelInputs], np.ndarray]  # pixels that take the projected depth, bool (h, w)
    needs: frozenset[str] = frozenset()  # "uncertainty", "sources" (with K and poses), "truth"
    uncertainty: str = "ensemble"  # one of `UNCERTAINTIES`
    shrink: int = 1  # divisor of height and width in the student's training; it is tested at full size
    other: Callable[[LabelInputs], np.ndarray] = lambda i: i.proj  # the depth in place of the projected depth
    # the threshold as a quantile of the uncertainty; None: the threshold of the run
    threshold_quantile: float | None = None
    # replaces fusion settings of the run; {}: the mesh of the run
    mesh: Mapping[str, Any] = field(default_factory=dict)

    def training_size(self, size_hw: tuple[int, int]) -> tuple[int, int]:
        """Return height and width of the student's training images: multiples of 32, at least 64."""
        if self.shrink == 1:
            return size_hw
        h, w = (max(64, round(x / self.shrink / 32) * 32) for x in size_hw)
        return h, w


_UNCERTAINTY, _SOURCES, _TRUTH = (frozenset({need}) for need in ("uncertainty", "sources", "truth"))


def _uncertain_and_nearer(i: LabelInputs) -> np.ndarray:
    # a reflection lies behind the surface: if the mesh is farther than the prediction, the mesh is wrong
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
    # the recommended recipe: fuse certain depth only (E29 of docs/experiments.md)
    "robust": Strategy(
        _uncertain_and_nearer,
        _UNCERTAINTY,
        uncertainty="tta",
        threshold_quantile=0.8,
        mesh={"certain": 0.7, "views": 40},
    ),
}

# recipe -> labels of the student
RECIPES = {"paper": "uncer", "robust": "robust"}

# Upper bounds for experiments: the mesh or the truth exactly on highlights. They need ground-truth depth and highlight
# masks of the training frames.
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

# The values of the option `labels`: strategies, strategies with another uncertainty ("uncer-tta"), and oracles
LABELS = tuple(_BY_LABEL)


def find_strategy(name: str) -> Strategy:
    """Return a strategy of `LABELS` by name.

    Raises:
        ConfigError: the name is unknown.
    """
    if name not in LABELS:
        raise unknown("label strategy", name, LABELS)
    return _BY_LABEL[name]


def make_label(strategy: str, inputs: LabelInputs) -> np.ndarray:
    """Compute the pseudo-label (h, w) in metres by a named strategy.

    Raises:
        ConfigError: the strategy is unknown.
        DataError: a value of the label is not finite and positive.
    """
    rule = find_strategy(strategy)
    label = choose(inputs.pred, rule.other(inputs), rule.use_proj(inputs))
    bad = ~(np.isfinite(label) & (label > 0))
    if bad.any():
        raise DataError(f"{np.count_nonzero(bad)} label pixels are not finite and positive.")
    return label
