"""Build a network by name: an untrained one, one from ImageNet weights, or one from a checkpoint."""

from __future__ import annotations

from pathlib import Path

import torch

from d3d.errors import ConfigError, DataError, unknown
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
    """Build a network, in training mode and channels-last memory (faster on a CPU and in half precision).

    Args:
        arch: one of `ARCHITECTURES`.
        pretrained: start the encoder from ImageNet weights, or from random values if they cannot be found; see
            `find_initial_weights`.
        weights: a local file, used instead: ImageNet weights of the encoder (in torchvision's, timm's or MPViT's
            naming), or a whole network that `save_weights` wrote; a folder or several files, see `given_files`.
        init_depth_m: the depth that the untrained network predicts, metres; None leaves the biases of the
            heads as they are, near 0.2 m. See `DepthNetwork.init_depth`.
        drop_path: stochastic depth of the last transformer block; None means the published 0.2. MonoViT only.
        dropout: channel dropout of the decoder, for the uncertainty "mcdropout"; see `DepthNetwork.use_dropout`.
        log_scale: add the output of the uncertainty "regression"; see `DepthNetwork.use_log_scale`.
        min_depth, max_depth: depth in metres at disparity 1 and 0.

    Raises:
        ConfigError: unknown `arch`; a depth range, depth or probability out of range; `drop_path` for a
            network without transformer blocks.
        DataError: `weights` cannot be read, or holds another network.
    """
    if arch not in NETWORKS:
        raise unknown("arch", arch, NETWORKS)
    if not 0 < min_depth < max_depth:
        raise ConfigError(f"0 < min_depth < max_depth must hold, not {min_depth} and {max_depth} metres.")
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
    """Build a trained network, on the CPU, in eval mode.

    A plain name, such as "lite-distilled", is first looked up among the networks that ship (`available`), then as a
    path. "./lite-distilled" and a `Path` are always paths.

    Args:
        name_or_path: the name of a network that ships; a .safetensors file of `save_weights`; the folder of a finished
            training of a run; or a folder that `save_pretrained` wrote.

    Raises:
        ConfigError: an unknown name, with near misses; or a network that this version of d3d does not know.
        DataError: there is no such checkpoint, it is damaged, or it does not fit (see `load_weights`).
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
            nothing = f"unknown network {name_or_path!r}: {networks_folder()} holds none."
            raise ConfigError(f"{unknown('network', name_or_path, names) if names else nothing} {_PATHS}")
    path = Path(name_or_path)
    if path.is_dir():
        files = [path / name for name in (WEIGHTS, HUB_WEIGHTS) if (path / name).is_file()]
        if not files:
            raise DataError(f"{path} holds no {WEIGHTS}. {_PATHS}")
        path = files[0]
    elif not path.exists() and not path.suffix:
        raise DataError(f"there is no network {str(name_or_path)!r}. {_PATHS}")
    return read_network(path, NETWORKS)


_PATHS = (
    "Give a name of `d3d.models.available()`, a .safetensors file, or the folder of a finished training, such as "
    "runs/<run>/pretrain/<arch> or runs/<run>/distill/<arch>/<labels>. A repository of the hub: "
    "DepthNetwork.from_pretrained. The published encoder.pth and depth.pth: load_public_checkpoint."
)
