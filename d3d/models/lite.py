"""Lite, a small network beyond the paper: EfficientNet-Lite0 (Tan and Le, 2019) with Monodepth2's decoder."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from d3d.models.base import DepthNetwork
from d3d.models.layers import Depthwise
from d3d.models.monodepth2 import UNetDecoder
from d3d.models.naming import EFFICIENTNET_LITE0

CHANNELS = (16, 24, 40, 112, 320)


class _DepthwiseSame(Depthwise):
    """`Depthwise` with TensorFlow's padding "SAME": an odd row or column is added below or to the right."""

    def __init__(self, conv: nn.Conv2d) -> None:
        (kernel, _), (stride, _) = conv.kernel_size, conv.stride
        super().__init__(conv.in_channels, kernel, stride, bias=False)
        self.weight = conv.weight
        self.border = None
        if stride > 1:  # for even height and width
            self.padding, lacking = (0, 0), kernel - stride
            self.border = (lacking // 2, lacking - lacking // 2) * 2

    def forward(self, x: Tensor) -> Tensor:
        if self.border is None:
            return super().forward(x)
        return super().forward(F.pad(x, self.border))


def efficientnet_lite0() -> nn.Module:
    """Build EfficientNet-Lite0 without classifier: normalised image (b, 3, h, w) -> five features at strides 2 to 32.

    The features have `CHANNELS` channels. Height and width are multiples of 32.
    """
    # imported here: timm takes longer to import than the rest of d3d
    import timm

    encoder = timm.create_model(
        "tf_efficientnet_lite0", pretrained=False, features_only=True, out_indices=(0, 1, 2, 3, 4)
    )
    for block in list(encoder.modules()):
        if isinstance(getattr(block, "conv_dw", None), nn.Conv2d):
            block.conv_dw = _DepthwiseSame(block.conv_dw)
    return encoder


class Lite(DepthNetwork):
    """EfficientNet-Lite0 encoder and `UNetDecoder`; 5.2 million parameters."""

    arch = "lite"
    encoder_kind = EFFICIENTNET_LITE0
    mean, std = 0.5, 0.5

    def __init__(self) -> None:
        super().__init__()
        self.encoder = efficientnet_lite0()
        self.decoder = UNetDecoder(CHANNELS)
