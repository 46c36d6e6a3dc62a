"""Small files of weights: 8 bits a weight with a scale for each output channel, or half precision.

Only kernels with many weights for each output channel are packed, 94 to 99.9 % of all weights. Biases, norms, depthwise
convolutions and counters stay as they are. A packed network is unpacked to float32 when it is loaded.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from d3d.errors import DataError, unknown

STORED_AS = ("float32", "float16", "int8")
SCALE = ".scale"  # <name>.scale (out,) float32 belongs to the int8 tensor <name> (out, ...)
_LARGEST = 127  # not 128: the same steps on both sides of 0, so that 0 stays 0
_MANY = (
    64  # weights of an output channel: fewer are not worth their error, such as the 9 of a depthwise kernel
)


def pack(tensors: Mapping[str, Tensor], stored_as: str) -> dict[str, Tensor]:
    """Return the tensors of a state dict as they are stored: "float32" (as they are), "float16" or "int8".

    A weight of output channel c is stored as a whole number of steps of scale[c], the largest magnitude of the channel
    divided by 127. Steps are rounded up or down, such that the sum of each k x k kernel is met to half a step, or
    that of the whole channel for 1 x 1 kernels and linear layers. Features are smooth and mostly positive, so that a
    wrong sum shifts depth where errors of single weights cancel: 2 to 6 times less change of depth than with each
    weight rounded by itself (E30).

    Raises:
        ConfigError: unknown `stored_as`.
        DataError: a weight is not finite, or too large for float16.
    """
    if stored_as not in STORED_AS:
        raise unknown("stored_as", stored_as, STORED_AS)
    packed = {}
    for name, tensor in tensors.items():
        if (
            stored_as == "float32"
            or not tensor.is_floating_point()
            or tensor.ndim < 2
            or tensor[0].numel() < _MANY
        ):
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
    steps = weights.double() / _per_channel(scale.clamp(min=torch.finfo(torch.float32).tiny), weights)
    spatial = weights.ndim == 4 and weights[0, 0].numel() > 1
    kernels = steps.flatten(2 if spatial else 1)
    down = kernels.floor()
    above = kernels - down
    number_up = above.sum(-1, keepdim=True).round()
    rank = above.argsort(dim=-1, descending=True, stable=True).argsort(dim=-1)
    rounded = down + (rank < number_up)
    return rounded.clamp(-_LARGEST, _LARGEST).reshape(weights.shape).to(torch.int8), scale


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
