"""Read tensor files and load them into modules, with errors that name the tensors that do not fit."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from d3d.errors import DataError


def read_tensors(path: str | Path) -> dict[str, Tensor]:
    """Read the tensors of a .pth, .pt, .bin or .safetensors file, on the CPU.

    A state dict wrapped under "model", "state_dict" or "model_state_dict" is unwrapped, the "module." prefix
    of DataParallel is removed, and entries that are not tensors (height, width, use_stereo) are left out.

    Raises:
        DataError: the file is missing, truncated, or does not hold tensors by name.
    """
    path = Path(path)
    if not path.is_file():
        raise DataError(f"no checkpoint at {path}.")
    kind = "safetensors file" if path.suffix == ".safetensors" else "PyTorch checkpoint"
    try:
        if path.suffix == ".safetensors":
            content = load_file(path)
        else:  # weights_only: a checkpoint from the web must not be able to run code
            content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # both libraries raise many kinds of errors for a damaged file
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise DataError(f"{path} is not a readable {kind}, perhaps truncated: {reason}") from error
    if not isinstance(content, Mapping):
        raise DataError(f"{path} holds a {type(content).__name__}, not a state dict of tensors by name.")
    tensors = plain_tensors(content)
    if not tensors:
        raise DataError(f"{path} holds no tensors.")
    return tensors


def plain_tensors(state: Mapping[str, object]) -> dict[str, Tensor]:
    """Unwrap a state dict, remove "module." prefixes, and keep only the tensors."""
    for wrapper in ("model", "state_dict", "model_state_dict"):
        if isinstance(state.get(wrapper), Mapping):
            state = state[wrapper]
            break
    return {str(name).removeprefix("module."): t for name, t in state.items() if isinstance(t, Tensor)}


def check_tensors(expected: Mapping[str, Iterable[int]], tensors: Mapping[str, Tensor], where: str) -> None:
    """Compare names and shapes of tensors.

    Args:
        expected: the shape of every required tensor, by name.
        tensors: the tensors to check.
        where: the file, for the message.

    Raises:
        DataError: tensors are missing, have the wrong shape, or are not expected; names the first few.
    """
    missing = [name for name in expected if name not in tensors]
    if missing:
        raise DataError(f"{where}: {_some(missing)} missing.")
    wrong = [
        f"{name} (expected {tuple(shape)}, got {tuple(tensors[name].shape)})"
        for name, shape in expected.items()
        if tuple(tensors[name].shape) != tuple(shape)
    ]
    if wrong:
        raise DataError(f"{where}: wrong shape of {_some(wrong)}.")
    extra = [name for name in tensors if name not in expected]
    if extra:
        raise DataError(f"{where}: {_some(extra)} not expected.")


def check_and_load(module: nn.Module, tensors: Mapping[str, Tensor], where: str) -> None:
    """Load tensors into a module after `check_tensors`; the module keeps its dtype and device.

    BatchNorm's `num_batches_tracked` may be missing: old files lack it, and nothing here reads it.
    """
    state = module.state_dict()
    counters = {name: t for name, t in state.items() if name.endswith("num_batches_tracked")}
    tensors = counters | dict(tensors)
    check_tensors({name: t.shape for name, t in state.items()}, tensors, where)
    module.load_state_dict(tensors, strict=True)


def _some(names: list[str], most: int = 4) -> str:
    shown = ", ".join(names[:most])
    more = len(names) - most
    return shown + (f" and {more} more" if more > 0 else "")
