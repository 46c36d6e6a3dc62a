"""Published checkpoints of Monodepth2, HR-Depth and MonoViT: encoder.pth and depth.pth in their authors' naming."""

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
    """Load a published checkpoint into a network of its architecture, in place; returns the network.

    Args:
        model: from `create_model`.
        encoder: encoder.pth, or its state dict; without `decoder`, a folder with encoder.pth and depth.pth.
        decoder: depth.pth, or its state dict.

    Raises:
        ConfigError: nobody has published a checkpoint of this architecture.
        DataError: a file is missing or unreadable, of another architecture, or does not fit; names which.
    """
    _require_published(model.arch)
    if decoder is None:
        if isinstance(encoder, Mapping) or not Path(encoder).is_dir():
            raise DataError("pass encoder= and decoder=, or one folder that holds encoder.pth and depth.pth.")
        encoder, decoder = Path(encoder) / "encoder.pth", Path(encoder) / "depth.pth"
    model.load_state_dict(_convert(model, encoder, decoder))
    return model


def convert_public_state(arch: str, encoder_state: State, decoder_state: State) -> dict[str, Tensor]:
    """Translate the two state dicts of a published checkpoint into one that `create_model(arch)` takes.

    Args:
        arch: "monodepth2", "hrdepth" or "monovit".
        encoder_state, decoder_state: as `torch.load` returns them; entries that are no tensors are ignored.

    Raises:
        ConfigError: unknown `arch`, or one of which nobody has published a checkpoint.
        DataError: another architecture, or missing, misshapen or unexpected tensors, by their public names.
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
            f"{arch} has no published checkpoint (there are some of {', '.join(PUBLISHED)}). ImageNet weights of its "
            "encoder: create_model(weights=FILE). A network that d3d has trained: load_model(FILE)."
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
