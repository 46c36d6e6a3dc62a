"""Load the published checkpoints of Monodepth2, HR-Depth and MonoViT (encoder.pth and depth.pth)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from d3d.errors import ConfigError, DataError, unknown
from d3d.models.base import DepthNetwork
from d3d.models.naming import PUBLISHED
from d3d.models.registry import NETWORKS
from d3d.models.tensors import plain_tensors, read_tensors

State = Mapping[str, object]
Source = str | Path | State


def load_public_checkpoint(
    model: DepthNetwork, encoder: Source, decoder: Source | None = None
) -> DepthNetwork:
    """Load a published checkpoint into a network of the same architecture, in place.

    Args:
        model: network of `create_model`.
        encoder: encoder.pth or its state dict; without `decoder`, a folder with encoder.pth and depth.pth.
        decoder: depth.pth or its state dict.

    Returns:
        The network.

    Raises:
        ConfigError: this architecture has no published checkpoint.
        DataError: a file is missing, unreadable, belongs to another architecture, or does not fit.
    """
    _require_published(model.arch)
    if decoder is None:
        if isinstance(encoder, Mapping) or not Path(encoder).is_dir():
            raise DataError("pass encoder= and decoder=, or one folder that holds encoder.pth and depth.pth.")
        encoder, decoder = Path(encoder) / "encoder.pth", Path(encoder) / "depth.pth"
    model.load_state_dict(_convert(model, encoder, decoder))
    return model


def convert_public_state(arch: str, encoder_state: State, decoder_state: State) -> dict[str, Tensor]:
    """Convert the two state dicts of a published checkpoint to the state dict of `create_model(arch)`.

    Args:
        arch: "monodepth2", "hrdepth" or "monovit".
        encoder_state, decoder_state: results of `torch.load`. Entries other than tensors are ignored.

    Raises:
        ConfigError: `arch` is unknown or has no published checkpoint.
        DataError: the tensors belong to another architecture, are missing, are unexpected, or have a wrong shape.
    """
    if arch not in NETWORKS:
        raise unknown("arch", arch, NETWORKS)
    _require_published(arch)
    with torch.device("meta"):  # shapes only
        model = NETWORKS[arch]()
    return _convert(model, encoder_state, decoder_state)


def _require_published(arch: str) -> None:
    if arch not in PUBLISHED:
        raise ConfigError(
            f"{arch} has no published checkpoint; {', '.join(PUBLISHED)} have. For ImageNet weights of the encoder use "
            "create_model(weights=FILE), for a network trained with d3d load_model(FILE)."
        )


def _convert(model: DepthNetwork, *sources: Source) -> dict[str, Tensor]:
    converted = {}
    for part, source in zip(("encoder", "decoder"), sources, strict=True):
        if isinstance(source, Mapping):
            tensors, where = plain_tensors(source), f"the {part}'s state dict"
        else:
            tensors, where = read_tensors(source), str(source)
        converted |= model.from_public(part, tensors, where)
    return converted
