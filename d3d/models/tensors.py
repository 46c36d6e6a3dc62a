"""Read files of tensors and check names and shapes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from d3d.errors import DataError

Shapes = Mapping[str, Sequence[int]]
Tensors = Mapping[str, Tensor]


def read_tensors(path: str | Path) -> dict[str, Tensor]:
    """Read the `plain_tensors` of a .pth, .pt, .bin or .safetensors file on the CPU.

    Raises:
        DataError: the file is missing, truncated, or does not hold named tensors.
    """
    path = Path(path)
    if not path.is_file():
        raise DataError(f"no checkpoint at {path}.")
    safe = path.suffix == ".safetensors"
    try:  # weights_only: a checkpoint from the web must not run code
        content = load_file(path) if safe else torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # both libraries raise many kinds of errors for a damaged file
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        kind = "safetensors file" if safe else "PyTorch checkpoint"
        raise DataError(f"{path} is not a readable {kind}, perhaps truncated: {reason}") from error
    if not isinstance(content, Mapping):
        raise DataError(f"{path} holds a {type(content).__name__}, not a state dict of tensors by name.")
    tensors = plain_tensors(content)
    if not tensors:
        raise DataError(f"{path} holds no tensors.")
    return tensors


def plain_tensors(state: Mapping[str, object]) -> dict[str, Tensor]:
    """Keep the tensors of a state dict, and remove the prefix "module." of DataParallel.

    Unwraps a state dict under "model", "state_dict" or "model_state_dict".
    """
    wrapped = (state.get(wrapper) for wrapper in ("model", "state_dict", "model_state_dict"))
    state = next((inner for inner in wrapped if isinstance(inner, Mapping)), state)
    return {str(name).removeprefix("module."): t for name, t in state.items() if isinstance(t, Tensor)}


def checked(shapes: Shapes, tensors: Tensors, where: str) -> dict[str, Tensor]:
    """Compare names and shapes of tensors with the required ``shapes``; ``where`` names the file.

    A missing `num_batches_tracked` of BatchNorm becomes 0: old files lack it, and d3d does not use it.

    Raises:
        DataError: tensors are missing, unexpected, or have a wrong shape. The message names the first four.
    """
    counters = {n: torch.zeros(s, dtype=torch.long) for n, s in shapes.items() if n.endswith("_tracked")}
    tensors = counters | dict(tensors)
    missing = [name for name in shapes if name not in tensors]
    wrong = [
        f"{name} (expected {tuple(shape)}, got {tuple(tensors[name].shape)})"
        for name, shape in shapes.items()
        if name in tensors and tuple(tensors[name].shape) != tuple(shape)
    ]
    extra = [name for name in tensors if name not in shapes]
    for names, fault in ((missing, "{} missing"), (wrong, "wrong shape of {}"), (extra, "{} not expected")):
        if names:
            more = f" and {len(names) - 4} more" if len(names) > 4 else ""
            raise DataError(f"{where}: {fault.format(', '.join(names[:4]) + more)}.")
    return tensors
