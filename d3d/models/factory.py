"""Build networks by name: untrained, from ImageNet weights, or from a checkpoint."""

from __future__ import annotations

from pathlib import Path

import torch

from d3d.errors import ConfigError, DataError, did_you_mean, unknown
from d3d.models.base import DepthNetwork
from d3d.models.checkpoints import is_d3d_weights, load_weights, read_network
from d3d.models.hub import HUB_WEIGHTS, Card, digest
from d3d.models.initial import find_initial_weights
from d3d.models.registry import NETWORKS
from d3d.models.shipped import available, networks_folder, read_card, shipped_file

WEIGHTS = "weights.safetensors"  # of a training


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
    """Build a network in training mode and channels-last memory (faster on a CPU and in half precision).

    Args:
        arch: one of `ARCHITECTURES`.
        pretrained: start the encoder from ImageNet weights, or from random values if they cannot be found; see
            `find_initial_weights`.
        weights: local file to use instead: ImageNet weights of the encoder (named as by torchvision, timm or MPViT), or
            a network of `save_weights`. For a folder or several files see `given_files`.
        init_depth_m: depth in metres that the untrained network predicts. None keeps the biases of the heads, which
            give about 0.2 m. See `DepthNetwork.init_depth`.
        drop_path: stochastic depth of the last transformer block, MonoViT only. None means the published 0.2.
        dropout: channel dropout of the decoder, for the uncertainty "mcdropout"; see `DepthNetwork.use_dropout`.
        log_scale: add the output for the uncertainty "regression"; see `DepthNetwork.use_log_scale`.
        min_depth, max_depth: depth in metres at disparity 1 and 0.

    Raises:
        ConfigError: `arch` is unknown; a depth or probability is out of range; `drop_path` is given for a network
            without transformer blocks.
        DataError: `weights` cannot be read, or holds another network.
    """
    if arch not in NETWORKS:
        raise unknown("arch", arch, NETWORKS)
    if not 0 < min_depth < max_depth:
        raise ConfigError(f"need 0 < min_depth < max_depth, got {min_depth} and {max_depth} metres.")
    options = {}
    if drop_path is not None:
        if arch != "monovit":
            raise ConfigError(f"drop_path is for monovit; {arch} has no transformer blocks to drop.")
        if not 0 <= drop_path < 1:
            raise ConfigError(f"drop_path={drop_path} must be in [0, 1).")
        options["drop_path"] = drop_path
    initial = find_initial_weights(arch, pretrained and weights is None, weights)
    if weights is not None and initial.path is None:
        raise DataError(initial.note)
    model = NETWORKS[arch](**options)
    model.min_depth, model.max_depth = float(min_depth), float(max_depth)
    if dropout:
        model.use_dropout(dropout)
    if log_scale:
        model.use_log_scale()
    if init_depth_m is not None:
        model.init_depth(init_depth_m)
    if initial.path is not None and is_d3d_weights(initial.path):
        load_weights(model, initial.path)
    elif initial.path is not None:
        model.load_encoder(initial.path)
    return model.to(memory_format=torch.channels_last)


def load_model(name_or_path: str | Path) -> DepthNetwork:
    """Load a trained network on the CPU, in eval mode.

    A plain name, such as "lite-distilled", is first looked up among the shipped networks (`available`), then as a path.
    "./lite-distilled" and a `Path` are always paths.

    Args:
        name_or_path: name of a shipped network, .safetensors file of `save_weights`, folder of a finished training, or
            folder of `save_pretrained`.

    Raises:
        ConfigError: the name is unknown, or this version of d3d does not know the architecture.
        DataError: the checkpoint is missing, damaged, or does not fit (see `load_weights`).
    """
    if not isinstance(name_or_path, str | Path) or not str(name_or_path).strip():
        raise ConfigError(f"load_model needs a name or a path, not {name_or_path!r}. {_PATHS}")
    if isinstance(name_or_path, str) and not {"/", "\\", "."} & set(name_or_path):
        names = available()
        if name_or_path in names:
            model = read_network(shipped_file(name_or_path), NETWORKS)
            model.card = Card(read_card(name_or_path), digest(model))
            return model
        if not Path(name_or_path).exists():
            nothing = f"unknown network {name_or_path!r}: {networks_folder()} holds no network."
            raise ConfigError(f"{unknown('network', name_or_path, names) if names else nothing} {_PATHS}")
    path = Path(name_or_path)
    if path.is_dir():
        files = [path / name for name in (WEIGHTS, HUB_WEIGHTS) if (path / name).is_file()]
        if not files:
            raise DataError(f"{path} holds no {WEIGHTS}. {_PATHS}")
        path = files[0]
    elif not path.exists():
        raise DataError(f"there is no file or folder {str(name_or_path)!r}.{_near(path)} {_PATHS}")
    return read_network(path, NETWORKS)


def _near(path: Path) -> str:
    """Suggest the shipped networks and the neighbouring files and folders whose names are close to a missing path."""
    beside = path.parent.iterdir() if path.parent.is_dir() else ()
    files = {p.stem: str(p) for p in beside if p.is_dir() or p.suffix in (".safetensors", ".pth")}
    # by the name without folder and suffix: these are alike for all files
    return did_you_mean(path.stem, {name: name for name in available()} | files)


_PATHS = (
    "Give a name of `d3d.models.available()`, a file that ends in .safetensors, or the folder of a finished training, "
    "such as runs/<run>/pretrain/<arch> or runs/<run>/distill/<arch>/<labels>. A repository of the hub: "
    "DepthNetwork.from_pretrained. The published encoder.pth and depth.pth: load_public_checkpoint."
)
