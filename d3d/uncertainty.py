"""How unsure a network is of its depth: what may stand for U in Eq. 3 (section 3.2.3), by name.

The paper takes the ensemble of three architectures and names MC-dropout and regression as alternatives (Table 1,
section 2.3). Here are these, and two that need no further training. Each is a standard deviation in metres, so that
the threshold of Eq. 3 applies; yet their sizes differ, so a threshold is one's own (``threshold_quantile``). Networks
and images in, maps out: what has to be trained for it, and where it is stored, is in `d3d.pipeline.stages.spread`.
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

DROPOUT = 0.2  # of the decoder's channels; Poggi et al. (CVPR 2020) in Monodepth2
PASSES = 8  # with other channels dropped; theirs too
SNAPSHOTS = 4  # weights of the second half of a training, besides the last ones
COLOURS = 4  # colour changes of the augmentation, besides the image as it is and its mirror image


def ensemble_std(depths: Any, ddof: int = 0) -> Any:
    """Uncertainty U: standard deviation over the networks' depths, metres.

    Args:
        depths: (networks, ...) stacked, or a sequence of equal maps; metres.
        ddof: 0 divides by n (numpy's default, taken here), 1 by n - 1: a factor of 1.22 for three
            networks, thus on the threshold too. The paper does not say.
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
    """Spread of several networks' depth: three architectures (the paper's), or snapshots of one training."""
    return ensemble_std([_depth(n, n(images_b3hw, (0,))) for n in networks])


def tta(networks: Sequence[DepthNetwork], images_b3hw: Tensor, seed: int = 0) -> Tensor:
    """Spread over changes that should change nothing: the image, its mirror image, `COLOURS` colour changes.

    They are those that the network was trained with (section 3.3), the same ones for every image.
    """
    (network,) = networks
    rngs = [np.random.default_rng((seed, k)) for k in range(COLOURS)]
    draws = [Augmentation.draw(rng, flip_p=0, jitter_p=1) for rng in rngs]
    views = [images_b3hw, images_b3hw.flip(-1), *(d.colour(images_b3hw) for d in draws)]
    depths = [_depth(network, network(v, (0,))) for v in views]
    depths[1] = depths[1].flip(-1)
    return ensemble_std(depths)


def mcdropout(networks: Sequence[DepthNetwork], images_b3hw: Tensor, seed: int = 0) -> Tensor:
    """Spread over `PASSES` passes with channels of the decoder dropped at random (Gal and Ghahramani, ICML 2016).

    Pass k drops the same channels for every image: it is one thinned network. So a map does not depend on
    which other images are in the batch.

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
            # the passes are the batch: one call draws for all of them
            torch.manual_seed(seed)
            passes = network.decode([f[i : i + 1].expand(PASSES, -1, -1, -1) for f in features])
            result.append(ensemble_std(_depth(network, passes)))
        for module in dropouts:
            module.eval()
    return torch.stack(result)


def regression(networks: Sequence[DepthNetwork], images_b3hw: Tensor, seed: int = 0) -> Tensor:
    """What a second output predicts (Kendall and Gal, NeurIPS 2017; the variant "Self" of Poggi et al., CVPR 2020).

    The log depth is off as by a Laplacian of scale b (`d3d.losses.laplacian_nll`), whose standard deviation is
    sqrt(2) b; in metres that is, to first order, the depth times it. Cut off at the farthest depth.

    Raises:
        DataError: the network has no such output.
    """
    (network,) = networks
    if not network.log_scale:
        raise DataError(
            f"this {network.arch} predicts no scale: train it with create_model(arch, log_scale=True)."
        )
    outputs = network(images_b3hw, (0,))
    std = _depth(network, outputs) * math.sqrt(2) * outputs["log_scale"].float().exp()
    return std.clamp(max=network.max_depth)


def _depth(network: DepthNetwork, outputs: dict[int | str, Tensor]) -> Tensor:
    return disp_to_depth(outputs[0].float(), network.min_depth, network.max_depth)


@dataclass(frozen=True)
class Uncertainty:
    """One way to be unsure.

    Attributes:
        measure: from networks in eval mode, images (B, 3, h, w) in [0, 1] and a seed to the standard deviation
            (B, 1, h, w) in metres.
        networks: which ones it looks at: "ensemble", the three architectures; "teacher", the one whose depth is
            judged; "snapshots" of that one's training; "variant", one that is trained for it.
        options: what else its values depend on; stored with them.
    """

    measure: Callable[[Sequence[DepthNetwork], Tensor, int], Tensor]
    networks: str
    options: dict[str, Any] = field(default_factory=dict)


# Another one is a function and a line. What is trained for a "variant" is in `d3d.pipeline.stages.spread`
UNCERTAINTY: dict[str, Uncertainty] = {
    "ensemble": Uncertainty(ensemble, "ensemble"),
    "mcdropout": Uncertainty(mcdropout, "variant", {"dropout": DROPOUT, "passes": PASSES}),
    "tta": Uncertainty(tta, "teacher", {"colours": COLOURS}),
    "snapshots": Uncertainty(ensemble, "snapshots"),
    "regression": Uncertainty(regression, "variant"),
}


def find_uncertainty(name: str) -> Uncertainty:
    """By its name.

    Raises:
        ConfigError: there is none, with the near misses.
    """
    if name not in UNCERTAINTY:
        raise unknown("uncertainty", name, UNCERTAINTY)
    return UNCERTAINTY[name]


@torch.inference_mode()
def measure(name: str, networks: Sequence[DepthNetwork], images_b3hw: Tensor, seed: int = 0) -> Tensor:
    """How unsure networks are of the depth of images, by a named uncertainty.

    Args:
        networks: as many as it takes (`Uncertainty.networks`); put in eval mode here.
        images_b3hw: float in [0, 1], height and width multiples of 32.
        seed: of what is drawn; not of the ensemble, snapshots and regression.

    Returns:
        standard deviation (B, 1, h, w) in metres.
    """
    device = next(networks[0].parameters()).device
    return find_uncertainty(name).measure([n.eval() for n in networks], images_b3hw.to(device), seed)
