"""ResNet-18, the encoder of Monodepth2 and HR-Depth, from timm."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from torch import nn

from d3d.errors import DataError
from d3d.models.base import DepthNetwork
from d3d.models.naming import RESNET18, recognise
from d3d.models.tensors import check_and_load, read_tensors

NAME = "resnet18.tv_in1k"
CHANNELS = (64, 64, 128, 256, 512)


def resnet18() -> nn.Module:
    """ResNet-18 without its classifier: image (b, 3, h, w), normalised -> five features at strides 2 to 32.

    The features are relu(bn1(conv1)) and the outputs of layer1 to layer4, with `CHANNELS` channels.
    """
    # timm takes longer to import than the rest of d3d together, hence here.
    import timm

    # timm's default, zero_init_last, is not in torchvision's ResNet, which the baselines start from.
    return timm.create_model(
        NAME, pretrained=False, features_only=True, out_indices=(0, 1, 2, 3, 4), zero_init_last=False
    )


class ResNetDepth(DepthNetwork):
    """A depth network with the ResNet-18 encoder.

    Args:
        decoder: builds the decoder from the channels of the five features.
    """

    encoder_kind = RESNET18
    mean, std = 0.45, 0.225

    def __init__(self, decoder: Callable[[Sequence[int]], nn.Module]) -> None:
        super().__init__()
        self.encoder = resnet18()
        self.decoder = decoder(CHANNELS)

    def load_encoder(self, path: str | Path) -> None:
        """Load a local ResNet-18 file in torchvision's, timm's or Monodepth2's naming.

        The classifier (`fc`) is left out on purpose: nothing here uses it.

        Raises:
            DataError: the file cannot be read, or does not hold a ResNet-18.
        """
        tensors = read_tensors(path)
        if (found := recognise(tensors)) not in (None, RESNET18):
            raise DataError(f"{path} looks like a {found}, not a {RESNET18}.")
        tensors = {name.removeprefix("encoder."): t for name, t in tensors.items()}
        tensors = {name: t for name, t in tensors.items() if not name.startswith("fc.")}
        check_and_load(self.encoder, tensors, where=str(path))
