"""The ResNet-18 encoder of Monodepth2 and HR-Depth, from timm, with ImageNet weights where there are any."""

from __future__ import annotations

import functools
import logging
import threading
import urllib.request
from pathlib import Path

from torch import nn

from d3d.errors import DataError

logger = logging.getLogger(__name__)

# timm's plain "resnet18" is another training recipe; the paper's baselines used torchvision's weights.
NAME = "resnet18.tv_in1k"
CHANNELS = (64, 64, 128, 256, 512)
_HUB_REPO = f"timm/{NAME}"
_TORCHVISION_FILE = "resnet18-f37072fd.pth"  # the same weights, where torchvision keeps them
_PROBE_SECONDS = 4.0


def resnet18(pretrained: bool = True) -> nn.Module:
    """ResNet-18 without its classifier: image (b, 3, h, w), normalised -> five features at strides 2 to 32.

    The features are relu(bn1(conv1)) and the outputs of layer1 to layer4, with `CHANNELS` channels.

    Args:
        pretrained: start from ImageNet. Looks for the file in the caches of the Hugging Face hub and of
            torch.hub, then asks the hub. Where none of them has it, the encoder keeps its random
            initialisation and one warning says so.
    """
    # timm takes longer to import than the rest of d3d together, hence here.
    import timm

    def build(pretrained: bool) -> nn.Module:
        # zero_init_last is timm's habit; torchvision's ResNet, which the baselines start from, has it not.
        return timm.create_model(
            NAME, pretrained=pretrained, features_only=True, out_indices=(0, 1, 2, 3, 4), zero_init_last=False
        )

    if not pretrained:
        return build(False)
    cached = _cached_file()
    if cached is not None:
        encoder = build(False)
        load_imagenet_file(encoder, cached)
        return encoder
    reason = _hub_unreachable()
    if reason is None:
        try:
            return build(True)
        except Exception as error:  # whatever a hub client, a proxy or a full disk may raise
            reason = f"{type(error).__name__}: {error}"
    say_random_init(
        f"no ImageNet weights for ResNet-18: not cached, and the model hub cannot be used ({reason}). The "
        "encoder starts from random values, which trains worse. Pass weights=FILE to load a local "
        f"{_TORCHVISION_FILE} or model.safetensors of {_HUB_REPO}, or pretrained=False to silence this."
    )
    return build(False)


def load_imagenet_file(encoder: nn.Module, path: str | Path) -> None:
    """Loads a local ResNet-18 file in torchvision's or timm's naming into `resnet18()`, in place.

    The classifier (`fc`) is left out on purpose: nothing here uses it.

    Args:
        path: .pth or .safetensors. An `encoder.pth` of Monodepth2 or HR-Depth is taken as well.

    Raises:
        DataError: the file cannot be read, or does not hold a ResNet-18.
    """
    from d3d.models.tensors import check_and_load, read_tensors

    tensors = {name.removeprefix("encoder."): t for name, t in read_tensors(path).items()}
    tensors = {name: t for name, t in tensors.items() if not name.startswith("fc.")}
    if "layer1.0.conv3.weight" in tensors or "layer1.2.conv1.weight" in tensors:
        raise DataError(f"{path} holds a deeper ResNet than 18 layers.")
    check_and_load(encoder, tensors, where=str(path))


@functools.cache
def say_random_init(message: str) -> None:
    """Logs a warning, each message once a process."""
    logger.warning(message)


def _cached_file() -> str | None:
    import torch
    from huggingface_hub import try_to_load_from_cache

    for name in ("model.safetensors", "pytorch_model.bin"):
        found = try_to_load_from_cache(_HUB_REPO, name)
        if isinstance(found, str):
            return found
    found = Path(torch.hub.get_dir()) / "checkpoints" / _TORCHVISION_FILE
    return str(found) if found.is_file() else None


def _hub_unreachable() -> str | None:
    """Why the model hub cannot be reached, or None if it answers.

    The hub's client retries for a minute before it gives up; one request of our own answers in seconds. It
    runs in a daemon thread because looking up a name can outlast any socket timeout.
    """
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        return "HF_HUB_OFFLINE is set"
    url = f"{constants.ENDPOINT}/{_HUB_REPO}/resolve/main/config.json"
    answer: list[str | None] = []

    def ask() -> None:
        try:
            request = urllib.request.Request(url, method="HEAD", headers={"User-Agent": "d3d"})
            with urllib.request.urlopen(request, timeout=_PROBE_SECONDS):
                answer.append(None)
        except Exception as error:
            answer.append(f"{type(error).__name__}: {error}")

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(_PROBE_SECONDS + 1)
    return answer[0] if answer else f"no answer within {_PROBE_SECONDS + 1:g} s"
