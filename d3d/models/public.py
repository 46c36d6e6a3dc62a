"""Published checkpoints of Monodepth2, HR-Depth and MonoViT: encoder.pth and depth.pth in their authors' naming."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from d3d.errors import DataError, unknown
from d3d.models import naming
from d3d.models.base import DepthNetwork
from d3d.models.registry import NETWORKS
from d3d.models.tensors import check_and_load, plain_tensors, read_tensors

Source = str | Path | Mapping[str, object]


def load_public_checkpoint(
    model: DepthNetwork, encoder: Source, decoder: Source | None = None
) -> DepthNetwork:
    """Load a published checkpoint into a network, in place.

    Args:
        model: from `create_model`, of the checkpoint's architecture.
        encoder: encoder.pth, or its state dict; without `decoder`, a folder with encoder.pth and depth.pth.
        decoder: depth.pth, or its state dict.

    Returns:
        The model.

    Raises:
        DataError: a file is missing or unreadable, of another architecture, or does not fit; names which.
    """
    if decoder is None:
        if isinstance(encoder, Mapping) or not Path(encoder).is_dir():
            raise DataError("pass encoder= and decoder=, or one folder that holds encoder.pth and depth.pth.")
        encoder, decoder = Path(encoder) / "encoder.pth", Path(encoder) / "depth.pth"
    tensors, where = _convert(model.arch, encoder, decoder)
    check_and_load(model, tensors, where)
    return model


def convert_public_state(
    arch: str, encoder_state: Mapping[str, object], decoder_state: Mapping[str, object]
) -> dict[str, Tensor]:
    """Translate the two state dicts of a published checkpoint into one of ours.

    Args:
        arch: "monodepth2", "hrdepth" or "monovit".
        encoder_state, decoder_state: as `torch.load` returns them; entries that are no tensors are ignored.

    Returns:
        A state dict that `create_model(arch).load_state_dict` takes.

    Raises:
        ConfigError: unknown `arch`.
        DataError: another architecture, or missing, misshapen or unexpected tensors, by their public names.
    """
    return _convert(arch, encoder_state, decoder_state)[0]


def _convert(arch: str, *sources: Source) -> tuple[dict[str, Tensor], str]:
    """The tensors of an encoder and a decoder by our names, and where they come from, for messages."""
    if arch not in NETWORKS:
        raise unknown("arch", arch, NETWORKS)
    with torch.device("meta"):  # shapes only
        state = NETWORKS[arch]().state_dict()
    converted, places = {}, []
    for part, source in zip(("encoder", "decoder"), sources, strict=True):
        kind = NETWORKS[arch].encoder_kind if part == "encoder" else f"{arch} decoder"
        shapes = {name: t.shape for name, t in state.items() if name.startswith(part)}
        is_state = isinstance(source, Mapping)
        places.append(f"the {part}'s state dict" if is_state else str(source))
        tensors = plain_tensors(source) if is_state else read_tensors(source)
        converted |= naming.translate(arch, kind, shapes, tensors, places[-1])
    return converted, " and ".join(places)
