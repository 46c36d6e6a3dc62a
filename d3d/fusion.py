"""Uncertainty-guided depth fusion (section 3.2.3) and the label strategies of Table 6.

Everything works alike on numpy arrays and torch tensors of any shape.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from d3d.errors import DataError, unknown
from d3d.geometry import backproject, project
from d3d.uncertainty import UNCERTAINTY
from d3d.uncertainty import ensemble_std as ensemble_std  # a name of this module, too


def choose(pred: Any, proj: Any, use_proj: Any) -> Any:
    """Projected depth where ``use_proj`` and the mesh is hit, predicted depth elsewhere."""
    if not (pred.shape == proj.shape == use_proj.shape):
        raise DataError(
            f"maps differ in size: {tuple(pred.shape)}, {tuple(proj.shape)}, {tuple(use_proj.shape)}."
        )
    where = torch.where if isinstance(pred, Tensor) else np.where
    return where(use_proj & (proj > 0), proj, pred)


def fuse(pred: Any, proj: Any, uncertainty: Any, threshold_m: float = 0.4) -> Any:
    """Eq. 3: projected depth where the uncertainty is at least the threshold, predicted depth elsewhere.

    Args:
        pred: D, depth predicted by the network that is distilled, metres.
        proj: P, depth projected from that network's own mesh, metres; 0 where nothing is hit (D is taken).
        uncertainty: U, metres.
        threshold_m: alpha_uncer, metres.
    """
    return choose(pred, proj, uncertainty >= threshold_m)


def inconsistent(
    pred_b1hw: Tensor,
    source_preds_sb1hw: Tensor,
    K_b33: Tensor,
    source_T_target_sb44: Tensor,
    max_pixels: float = 1.0,
    max_relative: float = 0.01,
) -> Tensor:
    """Pixels that fail the three-view consistency check of MVSNet (section 4.3, "mv"); bool (B, 1, H, W).

    A target pixel goes through its depth into a source, takes the source's depth there, and comes back. It
    passes a source if it lands within ``max_pixels`` of where it began and the depth it comes back with
    differs by less than ``max_relative``; it must pass every source.
    """
    b, _, h, w = pred_b1hw.shape
    points = backproject(pred_b1hw, K_b33)
    y, x = torch.meshgrid(
        torch.arange(h, dtype=pred_b1hw.dtype, device=pred_b1hw.device),
        torch.arange(w, dtype=pred_b1hw.dtype, device=pred_b1hw.device),
        indexing="ij",
    )
    start = torch.stack((x, y))
    failed = torch.zeros_like(pred_b1hw, dtype=torch.bool)

    def move(T_b44: Tensor, p_b3hw: Tensor) -> Tensor:
        return (T_b44[:, :3, :3] @ p_b3hw.flatten(2) + T_b44[:, :3, 3:]).reshape(b, 3, h, w)

    for source_pred, source_T_target in zip(source_preds_sb1hw, source_T_target_sb44, strict=True):
        pixels, z = project(move(source_T_target, points), K_b33)
        px, py = pixels[:, 0], pixels[:, 1]
        inside = (z[:, 0] > 1e-6) & (px >= 0) & (px <= w - 1) & (py >= 0) & (py <= h - 1)
        grid = (
            torch.stack((px * (2 / (w - 1)) - 1, py * (2 / (h - 1)) - 1), dim=-1)
            .nan_to_num(nan=2.0)
            .clamp(-2, 2)
        )
        sampled = F.grid_sample(source_pred, grid, mode="bilinear", padding_mode="border", align_corners=True)
        # the source pixel (px, py) at its own depth, back in the target
        ones = torch.ones_like(px)
        rays = torch.linalg.inv(K_b33) @ torch.stack((px, py, ones), dim=1).flatten(2)
        back = move(torch.linalg.inv(source_T_target), rays.reshape(b, 3, h, w) * sampled)
        again, z_again = project(back, K_b33)
        distance = (again - start).pow(2).sum(dim=1).sqrt()
        relative = (z_again[:, 0] - pred_b1hw[:, 0]).abs() / pred_b1hw[:, 0]
        passed = inside & (distance < max_pixels) & (relative < max_relative)
        failed |= ~passed[:, None]
    return failed


@dataclass(frozen=True)
class LabelInputs:
    """What a label strategy may look at, for one target frame; depth in metres, maps (h, w)."""

    pred: np.ndarray
    proj: np.ndarray
    uncertainty: np.ndarray | None = None
    source_preds: np.ndarray | None = None  # (2, h, w)
    K: np.ndarray | None = None
    source_T_target: np.ndarray | None = None  # (2, 4, 4)
    threshold_m: float = 0.4
    truth: np.ndarray | None = None  # 0 where there is none
    highlight: np.ndarray | None = None  # bool
    device: str = "cpu"  # where a rule that is much arithmetic does it


def _pred(i: LabelInputs) -> np.ndarray:
    return np.zeros(i.pred.shape, bool)


def _proj(i: LabelInputs) -> np.ndarray:
    return np.ones(i.pred.shape, bool)


def _diff(i: LabelInputs) -> np.ndarray:
    return i.pred - i.proj > 0.25 * i.proj


def _mv(i: LabelInputs) -> np.ndarray:
    def tensor(array: np.ndarray) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(array, dtype=np.float64)).to(i.device)

    failed = inconsistent(
        tensor(i.pred)[None, None],
        tensor(i.source_preds)[:, None, None],
        tensor(i.K)[None],
        tensor(i.source_T_target)[:, None],
    )
    return failed[0, 0].cpu().numpy()


def _uncer(i: LabelInputs) -> np.ndarray:
    return i.uncertainty >= i.threshold_m


def _signed(i: LabelInputs) -> np.ndarray:
    # a reflection is seen behind the surface: where the mesh is farther than the prediction, it is the mesh that errs
    return (i.uncertainty >= i.threshold_m) & (i.pred > i.proj)


def _highlight(i: LabelInputs) -> np.ndarray:
    return i.highlight


@dataclass(frozen=True)
class Strategy:
    """A label rule: one of Table 6, or one beyond the paper.

    Attributes:
        use_proj: which pixels take the projected depth, bool (h, w).
        needs: what it looks at beside ``pred`` and ``proj``: "uncertainty" (with ``threshold_m``),
            "sources" (``source_preds``, ``K``, ``source_T_target``), "truth" (``truth``, ``highlight``).
        uncertainty: which one, of `UNCERTAINTIES`.
        shrink: the student is trained at this fraction of the image's sides and tested at the full size.
        other: the depth that takes the place of the projected one.
    """

    use_proj: Callable[[LabelInputs], np.ndarray]
    needs: frozenset[str] = frozenset()
    uncertainty: str = "ensemble"
    shrink: int = 1
    other: Callable[[LabelInputs], np.ndarray] = lambda i: i.proj

    def training_size(self, size_hw: tuple[int, int]) -> tuple[int, int]:
        """The student's image size in training: multiples of 32, and at least 64, as the networks need it."""
        if self.shrink == 1:
            return size_hw
        h, w = (max(64, round(x / self.shrink / 32) * 32) for x in size_hw)
        return h, w


# A new strategy is one function and one line.
STRATEGIES: dict[str, Strategy] = {
    "pred": Strategy(_pred),
    "proj": Strategy(_proj),
    "proj_lowres": Strategy(_proj, shrink=3),
    "diff": Strategy(_diff),
    "mv": Strategy(_mv, needs=frozenset({"sources"})),
    "uncer": Strategy(_uncer, needs=frozenset({"uncertainty"})),
    "signed": Strategy(_signed, needs=frozenset({"uncertainty"})),
}

# What no rule can know, for experiments: P, or the truth, exactly where a highlight is seen. Only a data set with depth
# and masks of its training frames has them.
ORACLES: dict[str, Strategy] = {
    "oracle_proj": Strategy(_highlight, needs=frozenset({"truth"})),
    "oracle_truth": Strategy(_highlight, needs=frozenset({"truth"}), other=lambda i: i.truth),
}

# What may stand for U in a strategy that looks at it
UNCERTAINTIES = tuple(UNCERTAINTY)

# Every name of labels: a strategy, one with another uncertainty than the paper's, as "uncer-tta", or an oracle
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
    """A strategy by the name of its labels, as "uncer" or "uncer-tta".

    Raises:
        ConfigError: there is none, with the near misses.
    """
    if name not in LABELS:
        raise unknown("label strategy", name, LABELS)
    base, _, uncertainty = name.partition("-")
    strategy = {**STRATEGIES, **ORACLES}[base]
    return replace(strategy, uncertainty=uncertainty) if uncertainty else strategy


def make_label(strategy: str, inputs: LabelInputs) -> np.ndarray:
    """The pseudo-label (h, w) in metres by a named strategy.

    Raises:
        ConfigError: unknown strategy, with the near misses.
        DataError: the label has a value that is not finite and positive.
    """
    rule = find_strategy(strategy)
    label = choose(inputs.pred, rule.other(inputs), rule.use_proj(inputs))
    bad = ~(np.isfinite(label) & (label > 0))
    if bad.any():
        raise DataError(f"{np.count_nonzero(bad)} label pixels are not finite and positive.")
    return label
