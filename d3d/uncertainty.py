"""Uncertainties by name: the choices for U in Eq. 3 (section 3.2.3).

The paper uses the ensemble of three architectures. It names MC-dropout and regression as alternatives (Table 1,
section 2.3). "tta" and "snapshots" need no further training. Each uncertainty is a standard deviation in metres.
Typical values differ, so each uncertainty needs its own threshold (``threshold_quantile``).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from d3d.datasets.augment import Augmentation
from d3d.errors import DataError, unknown
from d3d.geometry import disp_to_depth
from d3d.models.base import DepthNetwork

DROPOUT = 0.2  # drop probability of a decoder channel; Poggi et al. (CVPR 2020)
PASSES = 8  # passes with dropout; Poggi et al.
SNAPSHOTS = 4  # checkpoints from the second half of a training, besides the last checkpoint
COLOURS = 4  # colour changes, besides the image and its mirror image


def ensemble_std(depths: Any, ddof: int = 0) -> Any:
    """Compute the uncertainty U, the standard deviation over the depths of the networks, metres.

    Args:
        depths: stacked maps (networks, ...), or a sequence of maps of one size, metres.
        ddof: 0 divides by n, 1 by n - 1. The paper does not state the divisor. For three networks both results differ
            by a factor of 1.22, and so do suitable thresholds.

    Raises:
        DataError: fewer than two maps, or maps of different sizes.
    """
    if isinstance(depths, (list, tuple)):
        shapes = {tuple(d.shape) for d in depths}
        if len(shapes) != 1:
            raise DataError(f"depth maps of an ensemble must be of one size, got {sorted(shapes)}.")
        depths = torch.stack(list(depths)) if isinstance(depths[0], Tensor) else np.stack(depths)
    if len(depths) < 2:
        raise DataError("an ensemble needs the depth of at least two networks.")
    return depths.std(dim=0, correction=ddof) if isinstance(depths, Tensor) else depths.std(axis=0, ddof=ddof)


def ensemble(networks: Sequence[DepthNetwork], images_b3hw: Tensor, seed: int = 0) -> Tensor:
    """Compute the standard deviation over several networks: three architectures, or snapshots of a training."""
    return ensemble_std([_depth(n, n(images_b3hw, (0,))) for n in networks])


def tta(networks: Sequence[DepthNetwork], images_b3hw: Tensor, seed: int = 0) -> Tensor:
    """Compute the standard deviation over test-time augmentation: image, mirror image, `COLOURS` colour changes.

    The colour changes are those of the training (section 3.3), with the same draws for every image.
    """
    (network,) = networks
    rngs = [np.random.default_rng((seed, k)) for k in range(COLOURS)]
    draws = [Augmentation.draw(rng, flip_p=0, jitter_p=1) for rng in rngs]
    views = [images_b3hw, images_b3hw.flip(-1), *(d.colour(images_b3hw) for d in draws)]
    depths = [_depth(network, network(v, (0,))) for v in views]
    depths[1] = depths[1].flip(-1)
    return ensemble_std(depths)


def mcdropout(networks: Sequence[DepthNetwork], images_b3hw: Tensor, seed: int = 0) -> Tensor:
    """Compute the standard deviation over `PASSES` passes with decoder dropout (Gal and Ghahramani, ICML 2016).

    Pass k drops the same channels for every image: a map does not depend on the other images of the batch.

    Raises:
        DataError: the network has no dropout.
    """
    (network,) = networks
    dropouts = [m for m in network.modules() if isinstance(m, nn.Dropout2d)]
    if not dropouts:
        raise DataError(f"this {network.arch} has no dropout: train it with create_model(arch, dropout=p).")
    features, result = network.features(images_b3hw), []
    with torch.random.fork_rng():
        for module in dropouts:
            module.train()
        for i in range(len(images_b3hw)):
            # the passes form the batch: one call draws the dropout of all passes
            torch.manual_seed(seed)
            passes = network.decode([f[i : i + 1].expand(PASSES, -1, -1, -1) for f in features])
            result.append(ensemble_std(_depth(network, passes)))
        for module in dropouts:
            module.eval()
    return torch.stack(result)


def regression(networks: Sequence[DepthNetwork], images_b3hw: Tensor, seed: int = 0) -> Tensor:
    """Compute the predicted uncertainty (Kendall and Gal, NeurIPS 2017; variant "Self" of Poggi et al., CVPR 2020).

    The error of the log depth follows a Laplacian of scale b (`d3d.losses.laplacian_nll`), so its standard
    deviation is sqrt(2) b. To first order, the standard deviation of the depth is sqrt(2) b times the depth, in
    metres. It is clamped to the maximum depth.

    Raises:
        DataError: the network does not predict a scale.
    """
    (network,) = networks
    if not network.log_scale:
        raise DataError(f"this {network.arch} predicts no scale: use create_model(arch, log_scale=True).")
    outputs = network(images_b3hw, (0,))
    std = _depth(network, outputs) * math.sqrt(2) * outputs["log_scale"].float().exp()
    return std.clamp(max=network.max_depth)


def _depth(network: DepthNetwork, outputs: dict[int | str, Tensor]) -> Tensor:
    return disp_to_depth(outputs[0].float(), network.min_depth, network.max_depth)


@dataclass(frozen=True)
class Uncertainty:
    """A named uncertainty and its networks.

    Attributes:
        measure: function of networks, images and a seed.
        networks: "ensemble" (several architectures), "teacher" (the network that predicts the depth), "snapshots"
            (checkpoints of the teacher's training), or "variant" (a network trained for this uncertainty).
        options: settings that determine the values; stored with them.
    """

    measure: Callable[[Sequence[DepthNetwork], Tensor, int], Tensor]
    networks: str
    options: dict[str, Any] = field(default_factory=dict)


# A new uncertainty is one function and one line. The pipeline trains a "variant"
UNCERTAINTY: dict[str, Uncertainty] = {
    "ensemble": Uncertainty(ensemble, "ensemble"),
    "mcdropout": Uncertainty(mcdropout, "variant", {"dropout": DROPOUT, "passes": PASSES}),
    "tta": Uncertainty(tta, "teacher", {"colours": COLOURS}),
    "snapshots": Uncertainty(ensemble, "snapshots"),
    "regression": Uncertainty(regression, "variant"),
}


def find_uncertainty(name: str) -> Uncertainty:
    """Return an uncertainty by name; raises ConfigError for an unknown name."""
    if name not in UNCERTAINTY:
        raise unknown("uncertainty", name, UNCERTAINTY)
    return UNCERTAINTY[name]


@torch.inference_mode()
def measure(name: str, networks: Sequence[DepthNetwork], images_b3hw: Tensor, seed: int = 0) -> Tensor:
    """Compute a named uncertainty of the depth of images: a standard deviation (B, 1, h, w) in metres.

    Args:
        name: one of `UNCERTAINTY`.
        networks: see `Uncertainty.networks`. They are set to eval mode.
        images_b3hw: float in [0, 1], height and width multiples of 32.
        seed: seed of the random draws of "tta" and "mcdropout".

    Raises:
        ConfigError: the name is unknown.
        DataError: the network has no dropout ("mcdropout") or no scale output ("regression").
    """
    device = next(networks[0].parameters()).device
    return find_uncertainty(name).measure([n.eval() for n in networks], images_b3hw.to(device), seed)
