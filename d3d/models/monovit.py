"""MonoViT: MPViT-small and HR-Depth's grid (Zhao et al., 3DV 2022); section 4.1."""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from d3d.models import mpvit, naming
from d3d.models.base import DepthNetwork
from d3d.models.hrdepth import DenseDecoder
from d3d.models.layers import SqueezeExcite
from d3d.models.resnet import CHANNELS as GRID_CHANNELS  # the grid was designed for ResNet-18


class Adapter(nn.Module):
    """Channel attention, 3x3 convolution with zero padding, ReLU: (b, in, h, w) -> (b, out, h, w), the grid's width."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.attention = SqueezeExcite(in_channels)
        self.conv = nn.Conv2d(in_channels, out_channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.conv(self.attention(x)), inplace=True)


class MonoViTDecoder(nn.Module):
    """Adapters on features 1 to 4, then `DenseDecoder`; feature 0, the stem, enters the grid as it is."""

    def __init__(self) -> None:
        super().__init__()
        self.adapters = nn.ModuleList(map(Adapter, mpvit.CHANNELS[1:], GRID_CHANNELS[1:]))
        self.grid = DenseDecoder(GRID_CHANNELS)

    @property
    def heads(self) -> nn.ModuleList:
        """The disparity heads, finest first."""
        return self.grid.heads

    def forward(self, features: Sequence[Tensor], scales: Sequence[int]) -> dict[int, Tensor]:
        """Five features, finest first -> {scale: disp_b1hw} of `scales`, finest first."""
        adapted = [adapt(x) for adapt, x in zip(self.adapters, features[1:], strict=True)]
        return self.grid([features[0], *adapted], scales)


class MonoViT(DepthNetwork):
    """MPViT-small encoder and `MonoViTDecoder`; 27.8 million parameters.

    Args:
        drop_path: stochastic depth of the encoder's last block, 0.2 as published.
    """

    arch = "monovit"
    encoder_kind = naming.MPVIT_SMALL

    def __init__(self, drop_path: float = 0.2) -> None:
        super().__init__()
        self.encoder = mpvit.MPViT(drop_path)
        self.decoder = MonoViTDecoder()
