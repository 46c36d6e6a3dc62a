"""Pack weights into small files: 8 bits per weight with one scale per output channel, or half precision.

Only kernels with many weights per output channel are packed (94 to 99.9 % of all weights). Biases, norms, depthwise
convolutions and counters stay unchanged. Loading unpacks all weights to float32.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from d3d.errors import DataError, unknown

STORED_AS = ("float32", "float16", "int8")
SCALE = ".scale"  # <name>.scale (out,) float32 belongs to the int8 tensor <name> (out, ...)
_LARGEST = 127  # not 128: the steps are symmetric around 0, so that 0 stays 0
_MANY = (
    64  # least number of weights per output channel; packing fewer saves little (a depthwise kernel has 9)
)


def pack(tensors: Mapping[str, Tensor], stored_as: str) -> dict[str, Tensor]:
    """Pack the tensors of a state dict as "float32" (unchanged), "float16" or "int8".

    An int8 weight of output channel c is a whole number of steps of scale[c], the largest magnitude of the channel
    divided by 127. Weights are rounded up or down so that the sum of each k x k kernel is exact to half a step. For
    1 x 1 kernels and linear layers this holds for the sum of the channel. Features are smooth and mostly positive:
    errors of single weights cancel, but an error of the sum shifts the depth. This rounding changes the depth 2 to 6
    times less than rounding each weight to the nearest step (E30).

    Raises:
        ConfigError: `stored_as` is unknown.
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
            raise DataError(f"{name} cannot be stored as {stored_as}: a weight is not finite or too large.")
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
    """Convert packed tensors to float32; other tensors stay unchanged.

    Args:
        where: file name, for messages.

    Raises:
        DataError: the scales of an int8 tensor are missing, negative, not finite, or have a wrong shape.
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
