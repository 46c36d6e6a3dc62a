"""Small files of weights: 8 bits a weight with a scale for each output channel, or half precision.

Only tensors with two or more dimensions are packed: the kernels of convolutions and linear layers, 99.8 % of all
weights. Biases, norms and counters stay as they are. A packed network is unpacked to float32 when it is loaded.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from d3d.errors import DataError, unknown

STORED_AS = ("float32", "float16", "int8")
SCALE = ".scale"  # <name>.scale (out,) float32 belongs to the int8 tensor <name> (out, ...)
_LARGEST = 127  # not 128: the same steps on both sides of 0, so that 0 stays 0


def pack(tensors: Mapping[str, Tensor], stored_as: str) -> dict[str, Tensor]:
    """Return the tensors of a state dict as they are stored: "float32" (as they are), "float16" or "int8".

    A weight w of output channel c is stored as round(w / scale[c]), with scale[c] the largest magnitude of the channel
    divided by 127. Its error is at most scale[c] / 2.

    Raises:
        ConfigError: unknown `stored_as`.
        DataError: a weight is not finite, or too large for float16.
    """
    if stored_as not in STORED_AS:
        raise unknown("stored_as", stored_as, STORED_AS)
    packed = {}
    for name, tensor in tensors.items():
        if stored_as == "float32" or tensor.ndim < 2 or not tensor.is_floating_point():
            packed[name] = tensor
            continue
        half = tensor.to(torch.float16)
        if not (tensor if stored_as == "int8" else half).isfinite().all():
            raise DataError(f"{name} has weights that {stored_as} cannot hold: not finite, or too large.")
        if stored_as == "float16":
            packed[name] = half
        else:
            packed[name], packed[name + SCALE] = _to_int8(tensor.float())
    return packed


def _to_int8(weights: Tensor) -> tuple[Tensor, Tensor]:
    scale = weights.flatten(1).abs().amax(1) / _LARGEST
    steps = weights / _per_channel(scale.clamp(min=torch.finfo(torch.float32).tiny), weights)
    return steps.round().clamp(-_LARGEST, _LARGEST).to(torch.int8), scale


def unpack(tensors: Mapping[str, Tensor], where: str) -> dict[str, Tensor]:
    """Return the tensors of `pack` as float32; others as they are.

    Args:
        where: the file, for messages.

    Raises:
        DataError: the scales of an int8 tensor are missing, of another shape, negative or not finite.
    """
    unpacked = {name: t.float() if t.dtype == torch.float16 else t for name, t in tensors.items()}
    for name, steps in tensors.items():
        if steps.dtype != torch.int8:
            continue
        scale = unpacked.pop(name + SCALE, None)
        channels = tuple(steps.shape[:1])
        if scale is None or scale.dtype != torch.float32 or tuple(scale.shape) != channels:
            raise DataError(f"{where}: {name} needs {name}{SCALE}, float32 of shape {channels}.")
        if not (scale.isfinite() & (scale >= 0)).all():
            raise DataError(f"{where}: {name}{SCALE} is damaged: a scale must be finite and at least 0.")
        unpacked[name] = steps.float() * _per_channel(scale, steps)
    return unpacked


def _per_channel(scale: Tensor, like: Tensor) -> Tensor:
    return scale.reshape(-1, *[1] * (like.ndim - 1))
