"""The networks of the paper (3.1, 4.1): Monodepth2, HR-Depth and MonoViT behind one call.

`create_model(arch)` builds one; `model(image_b3hw)` returns `{scale: disp_b1hw}`. A new architecture is one
file with a `DepthNetwork` in it and one line in `_REGISTRY`.
"""

from __future__ import annotations

from pathlib import Path

import torch

from d3d.errors import ConfigError, unknown
from d3d.models.base import DepthNetwork
from d3d.models.checkpoints import is_d3d_weights, load_model, load_weights, read_metadata, save_weights
from d3d.models.hrdepth import HRDepth
from d3d.models.monodepth2 import Monodepth2
from d3d.models.monovit import MonoViT
from d3d.models.public import convert_public_state, load_public_checkpoint

__all__ = [
    "ARCHITECTURES",
    "DepthNetwork",
    "convert_public_state",
    "create_model",
    "load_model",
    "load_public_checkpoint",
    "load_weights",
    "read_metadata",
    "save_weights",
]

_REGISTRY: dict[str, type[DepthNetwork]] = {
    "monodepth2": Monodepth2,
    "hrdepth": HRDepth,
    "monovit": MonoViT,
}

ARCHITECTURES = tuple(_REGISTRY)


def create_model(
    arch: str,
    pretrained: bool = True,
    weights: str | Path | None = None,
    *,
    init_depth_m: float | None = None,
    drop_path: float | None = None,
    dropout: float = 0.0,
    log_scale: bool = False,
    min_depth: float = 0.1,
    max_depth: float = 10.0,
) -> DepthNetwork:
    """Builds a network, in training mode and channels-last memory (faster on a CPU and in half precision).

    Args:
        arch: one of `ARCHITECTURES`.
        pretrained: start the encoder from ImageNet. Without a network, or for MonoViT, whose weights no
            library offers, the encoder stays random and one warning is logged. Ignored if `weights` is given.
        weights: a local file: ImageNet weights of the encoder (.pth or .safetensors, in torchvision's, timm's
            or MPViT's naming), or a whole network that `save_weights` wrote.
        init_depth_m: what the untrained network should predict, in metres; None leaves the heads' biases as
            they are, near 0.2 m. See `DepthNetwork.init_depth`.
        drop_path: stochastic depth of the last transformer block; None means the published 0.2. MonoViT only.
        dropout: channel dropout of the decoder, for the uncertainty "mcdropout"; see `DepthNetwork.use_dropout`.
        log_scale: also predict how far the depth may be off, for "regression"; see `DepthNetwork.use_log_scale`.
        min_depth, max_depth: the range in metres that disparities 1 and 0 stand for.

    Raises:
        ConfigError: unknown `arch`, a range, depth or probability that makes no sense, `drop_path` where there is none.
        DataError: `weights` cannot be read or is of another network.
    """
    if arch not in _REGISTRY:
        raise unknown("arch", arch, ARCHITECTURES)
    if not 0 < min_depth < max_depth:
        raise ConfigError(f"0 < min_depth < max_depth must hold, not {min_depth} and {max_depth} metres.")
    options = {}
    if drop_path is not None:
        if arch != "monovit":
            raise ConfigError(f"drop_path is for monovit; {arch} has no transformer blocks to drop.")
        if not 0 <= drop_path < 1:
            raise ConfigError(f"drop_path={drop_path} must be in [0, 1).")
        options["drop_path"] = drop_path
    model = _REGISTRY[arch](pretrained=pretrained and weights is None, **options)
    model.min_depth, model.max_depth = float(min_depth), float(max_depth)
    if dropout:
        model.use_dropout(dropout)
    if log_scale:
        model.use_log_scale()
    if init_depth_m is not None:
        model.init_depth(init_depth_m)
    if weights is not None:
        if is_d3d_weights(weights):
            load_weights(model, weights)
        else:
            model.load_encoder(weights)
    return model.to(memory_format=torch.channels_last)
