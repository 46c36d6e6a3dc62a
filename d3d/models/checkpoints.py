"""Checkpoints: one .safetensors file per network. Metadata hold its architecture, depth range and training images.

The weights are float32, or packed to a half or a quarter of the bytes (`packing`).
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import nn

from d3d.errors import DataError, unknown
from d3d.io import atomic
from d3d.models.packing import pack, unpack
from d3d.models.tensors import checked, read_tensors

if TYPE_CHECKING:  # base imports this module
    from d3d.models.base import DepthNetwork

FORMAT = "d3d"
FORMAT_VERSION = 2  # 2: the weights may be packed
PLAIN_VERSION = 1  # version of a file without packed weights: older versions of d3d can read it
_OF_TRAINING = {"train_size": int, "train_focal_px": float}  # pairs of numbers; older files lack them


def save_weights(model: nn.Module, path: str | Path, stored_as: str = "float32") -> Path:
    """Write weights, architecture and depth range of a network to a .safetensors file, atomically.

    Args:
        model: network of `create_model`, also if wrapped by DistributedDataParallel or torch.compile.
        path: file that ends in .safetensors; its folder is created.
        stored_as: "float32", "float16", or "int8" (8 bits per weight with one scale per channel), see `packing.pack`.

    Returns:
        The path.

    Raises:
        DataError: the path does not end in .safetensors, or `packing.pack` refuses a weight.
    """
    path = Path(path)
    if path.suffix != ".safetensors":
        raise DataError(f"the name of a file of weights must end in .safetensors, not {path.name!r}.")
    for wrapper in ("module", "_orig_mod"):
        model = getattr(model, wrapper, model)
    # safetensors refuses channels-last strides
    tensors = {name: t.detach().cpu().contiguous() for name, t in model.state_dict().items()}
    metadata = {
        "format": FORMAT,
        "format_version": str(PLAIN_VERSION if stored_as == "float32" else FORMAT_VERSION),
        "arch": model.arch,
        "min_depth": repr(model.min_depth),
        "max_depth": repr(model.max_depth),
    }
    # only if set, so that the file of a plain network stays the same byte for byte
    metadata |= {k: repr(v) for k in ("dropout", "log_scale") if (v := getattr(model, k, None))}
    metadata |= {k: " ".join(map(repr, v)) for k in _OF_TRAINING if (v := getattr(model, k, None))}
    # not save_file: a killed process would leave its temporary file behind
    content = _in_order(save(pack(tensors, stored_as), metadata=metadata))
    with atomic(path) as temporary:
        temporary.write_bytes(content)
    return path


def _in_order(content: bytes) -> bytes:
    """Sort the header of a safetensors file, so that equal weights give equal bytes and hashes.

    The library writes metadata in random order.
    """
    end = 8 + int.from_bytes(content[:8], "little")
    header = json.loads(content[8:end])
    text = json.dumps(header, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()
    return content if len(text) > end - 8 else content[:8] + text.ljust(end - 8) + content[end:]


def is_d3d_weights(path: str | Path) -> bool:
    """Return whether the file is a readable checkpoint of `save_weights`."""
    return _metadata(path).get("format") == FORMAT


def read_metadata(path: str | Path) -> dict[str, Any]:
    """Read the metadata of a checkpoint.

    Returns:
        arch; min_depth and max_depth in metres; dropout; log_scale; format_version; train_size (height, width) and
        train_focal_px (fx, fy), both None if unknown.

    Raises:
        DataError: the file is missing, truncated, not a checkpoint of `save_weights`, or from a newer version of d3d.
    """
    metadata = _metadata(path)
    if metadata.get("format") != FORMAT:
        if Path(path).suffix == ".safetensors":
            read_tensors(path)  # names a missing or broken file
        raise DataError(
            f"{path} is not a d3d checkpoint (a .safetensors file of save_weights). For the published encoder.pth"
            " and depth.pth use load_public_checkpoint, for ImageNet weights create_model(arch, weights=FILE)."
        )
    metadata = {"dropout": "0", "log_scale": "False"} | metadata
    try:
        values = {
            "arch": metadata["arch"],
            **{name: float(metadata[name]) for name in ("min_depth", "max_depth", "dropout")},
            "log_scale": metadata["log_scale"] == "True",
            "format_version": int(metadata["format_version"]),
            **{name: _pair(metadata.get(name), kind) for name, kind in _OF_TRAINING.items()},
        }
    except KeyError as error:
        raise DataError(f"{path}: the metadata lacks {error}.") from error
    except ValueError as error:
        raise DataError(f"{path}: the metadata is damaged ({error}).") from error
    version, low, high, dropout = (values[k] for k in ("format_version", "min_depth", "max_depth", "dropout"))
    if version > FORMAT_VERSION:
        raise DataError(f"{path} has format version {version}: update d3d, it reads up to {FORMAT_VERSION}.")
    if not 0 < low < high < math.inf or not 0 <= dropout < 1:
        raise DataError(f"{path}: a depth of {low} to {high} m or a dropout of {dropout} is impossible.")
    return values


def read_network(path: str | Path, networks: Mapping[str, type[DepthNetwork]]) -> DepthNetwork:
    """Build the network of a checkpoint on the CPU, in eval mode.

    Args:
        path: file of `save_weights`.
        networks: name -> class of the networks to accept.

    Raises:
        DataError: the file cannot be read or does not fit; see `load_weights`.
        ConfigError: the file holds another network.
    """
    about = read_metadata(path)
    if about["arch"] not in networks:
        raise unknown("arch", about["arch"], networks)
    model = networks[about["arch"]]()
    if about["dropout"]:
        model.use_dropout(about["dropout"])
    if about["log_scale"]:
        model.use_log_scale()
    return load_weights(model, path).to(memory_format=torch.channels_last).eval()


def load_weights(model: DepthNetwork, path: str | Path) -> DepthNetwork:
    """Load a checkpoint of `save_weights` into a network in place: weights, depth range, size and focal length.

    Raises:
        DataError: the file is not a d3d checkpoint, holds another architecture, or its tensors do not fit.
    """
    metadata = read_metadata(path)
    if metadata["arch"] != model.arch:
        raise DataError(f"{path} holds {metadata['arch']!r} weights, but the model is {model.arch!r}.")
    shapes = {name: t.shape for name, t in model.state_dict().items()}
    model.load_state_dict(checked(shapes, unpack(read_tensors(path), str(path)), str(path)))
    for name in ("min_depth", "max_depth", *_OF_TRAINING):
        setattr(model, name, metadata[name])
    return model


def _pair(text: str | None, kind: type) -> tuple | None:
    if text is None:
        return None
    first, second = map(kind, text.split())
    if not (0 < first < math.inf and 0 < second < math.inf):
        raise ValueError(f"{text!r} are not two positive numbers")
    return first, second


def _metadata(path: str | Path) -> dict[str, str]:
    if Path(path).suffix != ".safetensors":
        return {}
    try:
        with safe_open(path, framework="pt") as file:
            return file.metadata() or {}
    except (SafetensorError, OSError):
        return {}
