"""Uncertainty-guided depth fusion (section 3.2.3). Eq. 3 is `fuse`; the label strategies of Table 6 are `STRATEGIES`.

Depth is z-depth in metres. `fuse`, `choose` and `ensemble_std` take numpy arrays and torch tensors of any shape.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from d3d.errors import DataError, unknown
from d3d.geometry import backproject, inside, pixel_grid, project, sample, transform
from d3d.uncertainty import UNCERTAINTY
from d3d.uncertainty import ensemble_std as ensemble_std  # also a name of this module


def fuse(pred: Any, proj: Any, uncertainty: Any, threshold_m: float = 0.4) -> Any:
    """Eq. 3: the label L is P where U >= alpha, and D elsewhere. Where P has no surface, L is D.

    Args:
        pred: D, depth predicted by the network that is distilled, metres.
        proj: P, depth projected from that network's own mesh, metres; 0 where no surface is hit.
        uncertainty: U, metres.
        threshold_m: alpha_uncer, metres.

    Returns:
        L, metres.

    Raises:
        DataError: the maps differ in size.
    """
    return choose(pred, proj, uncertainty >= threshold_m)


def choose(pred: Any, proj: Any, use_proj: Any) -> Any:
    """The projected depth where ``use_proj`` and a surface is hit; the predicted depth elsewhere.

    Raises:
        DataError: the maps differ in size.
    """
    if not (pred.shape == proj.shape == use_proj.shape):
        raise DataError(
            f"maps differ in size: {tuple(pred.shape)}, {tuple(proj.shape)}, {tuple(use_proj.shape)}."
        )
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
    """Pixels that fail the three-view consistency check of MVSNet (section 4.3, "mv").

    A target pixel is projected into a source with its own depth, takes the source's depth there, and is
    projected back. It must pass this check against every source.

    Args:
        pred_b1hw: depth of the target, metres.
        source_preds_sb1hw: depth of the sources, metres.
        K_b33: intrinsics of all views.
        source_T_target_sb44: maps points from the target's frame to each source's.
        max_pixels: the pixel must come back closer than this to where it began.
        max_relative: the depth it comes back with must differ by less than this share of its own depth.

    Returns:
        bool (B, 1, H, W), True for pixels that fail.
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
    source_preds: np.ndarray | None = None  # (2, h, w)
    K: np.ndarray | None = None
    source_T_target: np.ndarray | None = None  # (2, 4, 4)
    threshold_m: float = 0.4
    truth: np.ndarray | None = None  # 0 where there is none
    highlight: np.ndarray | None = None  # bool
    device: str = "cpu"  # for strategies that compute with torch


def _inconsistent(i: LabelInputs) -> np.ndarray:
    def tensor(array: np.ndarray) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(array, dtype=np.float64)).to(i.device)

    failed = inconsistent(
        tensor(i.pred)[None, None],
        tensor(i.source_preds)[:, None, None],
        tensor(i.K)[None],
        tensor(i.source_T_target)[:, None],
    )
    return failed[0, 0].cpu().numpy()


@dataclass(frozen=True)
class Strategy:
    """A label strategy: one of Table 6, or one beyond the paper.

    Attributes:
        use_proj: returns the pixels that take the projected depth, bool (h, w).
        needs: inputs beside ``pred`` and ``proj``: "uncertainty" (with ``threshold_m``), "sources"
            (``source_preds``, ``K``, ``source_T_target``), "truth" (``truth``, ``highlight``).
        uncertainty: the uncertainty that is used, one of `UNCERTAINTIES`.
        shrink: the student is trained at this fraction of the image's sides and tested at the full size.
        other: returns the depth that is used in place of the projected depth.
    """

    use_proj: Callable[[LabelInputs], np.ndarray]
    needs: frozenset[str] = frozenset()
    uncertainty: str = "ensemble"
    shrink: int = 1
    other: Callable[[LabelInputs], np.ndarray] = lambda i: i.proj

    def training_size(self, size_hw: tuple[int, int]) -> tuple[int, int]:
        """Height and width of the student's training images: multiples of 32, at least 64, for the networks."""
        if self.shrink == 1:
            return size_hw
        h, w = (max(64, round(x / self.shrink / 32) * 32) for x in size_hw)
        return h, w


# A new strategy is one line, and a function if its rule is long.
STRATEGIES: dict[str, Strategy] = {
    "pred": Strategy(lambda i: np.zeros(i.pred.shape, bool)),
    "proj": Strategy(lambda i: np.ones(i.pred.shape, bool)),
    "proj_lowres": Strategy(lambda i: np.ones(i.pred.shape, bool), shrink=3),
    "diff": Strategy(lambda i: i.pred - i.proj > 0.25 * i.proj),
    "mv": Strategy(_inconsistent, needs=frozenset({"sources"})),
    "uncer": Strategy(lambda i: i.uncertainty >= i.threshold_m, needs=frozenset({"uncertainty"})),
    # a reflection is seen behind the surface: where the mesh is farther than the prediction, the mesh is wrong
    "signed": Strategy(
        lambda i: (i.uncertainty >= i.threshold_m) & (i.pred > i.proj), needs=frozenset({"uncertainty"})
    ),
}

# Upper bounds for experiments: the mesh, or the truth, exactly on highlights. They need a data set with ground-truth
# depth and highlight masks of its training frames.
ORACLES: dict[str, Strategy] = {
    "oracle_proj": Strategy(lambda i: i.highlight, needs=frozenset({"truth"})),
    "oracle_truth": Strategy(lambda i: i.highlight, needs=frozenset({"truth"}), other=lambda i: i.truth),
}

UNCERTAINTIES = tuple(UNCERTAINTY)

# Every value of the option `labels`: a strategy, a strategy with another uncertainty than the paper's ("uncer-tta"),
# or an oracle
LABELS = (
    *STRATEGIES,
    *(
        f"{name}-{uncertainty}"
        for name, strategy in STRATEGIES.items()
        if "uncertainty" in strategy.needs
        for uncertainty in UNCERTAINTIES
        if uncertainty != "ensemble"
    ),
    *ORACLES,
)


def find_strategy(name: str) -> Strategy:
    """Return the strategy of a name in `LABELS`, such as "uncer" or "uncer-tta".

    Raises:
        ConfigError: unknown name, with the near misses.
    """
    if name not in LABELS:
        raise unknown("label strategy", name, LABELS)
    base, _, uncertainty = name.partition("-")
    strategy = {**STRATEGIES, **ORACLES}[base]
    return replace(strategy, uncertainty=uncertainty) if uncertainty else strategy


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
