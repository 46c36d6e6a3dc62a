"""The uncertainties by name: the choices for U in Eq. 3 (section 3.2.3).

The paper uses the ensemble of three architectures, and names MC-dropout and regression as alternatives (Table 1,
section 2.3). "tta" and "snapshots" need no further training. Each uncertainty is a standard deviation in metres; their
sizes differ, so each needs a threshold of its own (``threshold_quantile``).
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

DROPOUT = 0.2  # probability that a channel of the decoder is dropped; Poggi et al. (CVPR 2020)
PASSES = 8  # passes with dropout; Poggi et al.
SNAPSHOTS = 4  # checkpoints from the second half of a training, besides the last one
COLOURS = 4  # colour changes, besides the image itself and its mirror image


def ensemble_std(depths: Any, ddof: int = 0) -> Any:
    """Uncertainty U: the standard deviation over the networks' depths, metres.

    Args:
        depths: (networks, ...) stacked, or a sequence of maps of one size.
        ddof: 0 divides by n, 1 by n - 1. The paper does not say which; for three networks they differ by a factor
            of 1.22, as does the threshold.

    Raises:
        DataError: fewer than two maps, or maps of different sizes.
    """
    if isinstance(depths, (list, tuple)):
        shapes = {tuple(d.shape) for d in depths}
        if len(shapes) != 1:
            raise DataError(f"depth maps of an ensemble must be of one size, got {sorted(shapes)}.")
        depths = torch.stack(list(depths)) if isinstance(depths[0], Tensor) else np.stack(depths)
    if len(depths) < 2:
        raise DataError("an ensemble needs at least two networks' depth.")
    return depths.std(dim=0, correction=ddof) if isinstance(depths, Tensor) else depths.std(axis=0, ddof=ddof)


def ensemble(networks: Sequence[DepthNetwork], images_b3hw: Tensor, seed: int = 0) -> Tensor:
    """Spread of the depth of several networks: the three architectures, or snapshots of one training."""
    return ensemble_std([_depth(n, n(images_b3hw, (0,))) for n in networks])


def tta(networks: Sequence[DepthNetwork], images_b3hw: Tensor, seed: int = 0) -> Tensor:
    """Spread over test-time augmentation: the image, its mirror image, and `COLOURS` colour changes.

    The augmentation is that of the training (section 3.3), with the same draws for every image.
    """
    (network,) = networks
    rngs = [np.random.default_rng((seed, k)) for k in range(COLOURS)]
    draws = [Augmentation.draw(rng, flip_p=0, jitter_p=1) for rng in rngs]
    views = [images_b3hw, images_b3hw.flip(-1), *(d.colour(images_b3hw) for d in draws)]
    depths = [_depth(network, network(v, (0,))) for v in views]
    depths[1] = depths[1].flip(-1)
    return ensemble_std(depths)


def mcdropout(networks: Sequence[DepthNetwork], images_b3hw: Tensor, seed: int = 0) -> Tensor:
    """Spread over `PASSES` passes with dropout in the decoder (Gal and Ghahramani, ICML 2016).

    Pass k drops the same channels for every image, so a map does not depend on the other images of the batch.

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
            # the passes are the batch: one call draws the dropout of all of them
            torch.manual_seed(seed)
            passes = network.decode([f[i : i + 1].expand(PASSES, -1, -1, -1) for f in features])
            result.append(ensemble_std(_depth(network, passes)))
        for module in dropouts:
            module.eval()
    return torch.stack(result)


def regression(networks: Sequence[DepthNetwork], images_b3hw: Tensor, seed: int = 0) -> Tensor:
    """The predicted uncertainty (Kendall and Gal, NeurIPS 2017; the variant "Self" of Poggi et al., CVPR 2020).

    The error of the log depth follows a Laplacian of scale b (`d3d.losses.laplacian_nll`), so its standard
    deviation is sqrt(2) b. To first order, the standard deviation of the depth is sqrt(2) b times the depth, in
    metres. It is clamped to the maximum depth.

    Raises:
        DataError: the network has no such output.
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
    """A named uncertainty, and the networks that it uses.

    `networks` is "ensemble", several architectures; "teacher", the network whose depth is judged; "snapshots",
    checkpoints of the teacher's training; or "variant", a network trained for it.
    """

    measure: Callable[[Sequence[DepthNetwork], Tensor, int], Tensor]  # of networks, images and a seed
    networks: str
    options: dict[str, Any] = field(default_factory=dict)  # determine its values; stored with them


# A new uncertainty is one function and one line; the training of a "variant" belongs to the pipeline
UNCERTAINTY: dict[str, Uncertainty] = {
    "ensemble": Uncertainty(ensemble, "ensemble"),
    "mcdropout": Uncertainty(mcdropout, "variant", {"dropout": DROPOUT, "passes": PASSES}),
    "tta": Uncertainty(tta, "teacher", {"colours": COLOURS}),
    "snapshots": Uncertainty(ensemble, "snapshots"),
    "regression": Uncertainty(regression, "variant"),
}


def find_uncertainty(name: str) -> Uncertainty:
    """Return a named uncertainty; raises ConfigError for an unknown name."""
    if name not in UNCERTAINTY:
        raise unknown("uncertainty", name, UNCERTAINTY)
    return UNCERTAINTY[name]


@torch.inference_mode()
def measure(name: str, networks: Sequence[DepthNetwork], images_b3hw: Tensor, seed: int = 0) -> Tensor:
    """Compute a named uncertainty of the depth of images: its standard deviation (B, 1, h, w) in metres.

    Args:
        name: one of `UNCERTAINTY`.
        networks: those that it needs (`Uncertainty.networks`); put in eval mode here.
        images_b3hw: float in [0, 1], height and width multiples of 32.
        seed: for the random draws of "tta" and "mcdropout".

    Raises:
        ConfigError: unknown name.
        DataError: the network lacks what this uncertainty needs.
    """
    device = next(networks[0].parameters()).device
    return find_uncertainty(name).measure([n.eval() for n in networks], images_b3hw.to(device), seed)
