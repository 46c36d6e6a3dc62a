"""ResNet-18, the encoder of Monodepth2 and HR-Depth, from timm."""

from __future__ import annotations

from torch import nn

from d3d.models.base import DepthNetwork
from d3d.models.naming import RESNET18

CHANNELS = (64, 64, 128, 256, 512)


def resnet18() -> nn.Module:
    """Build ResNet-18 without classifier: normalised image (b, 3, h, w) -> five features at strides 2 to 32.

    The features are relu(bn1(conv1)) and the outputs of layer1 to layer4, with `CHANNELS` channels.
    """
    # imported here: timm takes longer to import than the rest of d3d
    import timm

    # the baselines start from torchvision's ResNet, which has no zero_init_last; it is timm's default
    options = {"features_only": True, "out_indices": (0, 1, 2, 3, 4), "zero_init_last": False}
    return timm.create_model("resnet18.tv_in1k", pretrained=False, **options)


class ResNetDepth(DepthNetwork):
    """Base class of depth networks with a ResNet-18 encoder and a decoder `decoder_type(CHANNELS)`."""

    encoder_kind = RESNET18
    mean, std = 0.45, 0.225
    decoder_type: type[nn.Module]

    def __init__(self) -> None:
        super().__init__()
        self.encoder = resnet18()
        self.decoder = self.decoder_type(CHANNELS)
