"""Monodepth2: a U-Net on ResNet-18 (Godard et al., ICCV 2019); section 4.1."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from d3d.models.layers import ConvBlock, DispHead, upsample
from d3d.models.resnet import ResNetDepth

WIDTHS = (16, 32, 64, 128, 256)  # channels of the decoder from level 0 (full size) to level 4 (1/16)


class UNetDecoder(nn.Module):
    """U-Net decoder. Each level, from coarse to fine: convolve, up-sample, concatenate the encoder's feature, convolve.

    The result of level i has 1/2**i of the image's height and width. Levels 3 to 0 have a disparity head.
    """

    def __init__(self, encoder_channels: Sequence[int]) -> None:
        super().__init__()
        below = (*WIDTHS[1:], encoder_channels[-1])  # channels of the next coarser level
        skip = (0, *encoder_channels[:-1])
        self.reduce = nn.ModuleList(ConvBlock(below[i], WIDTHS[i]) for i in range(5))
        self.fuse = nn.ModuleList(ConvBlock(WIDTHS[i] + skip[i], WIDTHS[i]) for i in range(5))
        self.heads = nn.ModuleList(DispHead(WIDTHS[i]) for i in range(4))

    def forward(self, features: Sequence[Tensor], scales: Sequence[int]) -> dict[int, Tensor]:
        disps = {}
        x = features[-1]
        for level in range(4, min(scales) - 1, -1):
            x = upsample(self.reduce[level](x))
            if level > 0:
                x = torch.cat((x, features[level - 1]), 1)
            x = self.fuse[level](x)
            if level in scales:
                disps[level] = self.heads[level](x)
        return dict(sorted(disps.items()))


class Monodepth2(ResNetDepth):
    """ResNet-18 encoder and `UNetDecoder`; 14.3 million parameters."""

    arch = "monodepth2"
    decoder_type = UNetDecoder
