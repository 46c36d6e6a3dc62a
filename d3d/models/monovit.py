"""MonoViT: MPViT-small and HR-Depth's grid (Zhao et al., 3DV 2022); section 4.1."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from d3d.models import mpvit, naming
from d3d.models.base import DepthNetwork
from d3d.models.hrdepth import DenseDecoder
from d3d.models.layers import SqueezeExcite, named
from d3d.models.resnet import CHANNELS as GRID_CHANNELS  # the grid was designed for ResNet-18


def adapter(in_channels: int, out_channels: int) -> nn.Sequential:
    """Map an encoder feature to the width of the grid: channel attention, 3x3 convolution with zero padding, ReLU."""
    attention = SqueezeExcite(in_channels)
    conv = nn.Conv2d(in_channels, out_channels, 3, padding=1)
    return named(attention=attention, conv=conv, act=nn.ReLU(inplace=True))


class MonoViTDecoder(nn.Module):
    """Adapters on features 1 to 4, then `DenseDecoder`. Feature 0, the stem, enters the grid unchanged."""

    def __init__(self) -> None:
        super().__init__()
        self.adapters = nn.ModuleList(map(adapter, mpvit.CHANNELS[1:], GRID_CHANNELS[1:]))
        self.grid = DenseDecoder(GRID_CHANNELS)

    @property
    def heads(self) -> nn.ModuleList:
        """The disparity heads, finest first."""
        return self.grid.heads

    def forward(self, features: Sequence[Tensor], scales: Sequence[int]) -> dict[int, Tensor]:
        adapted = [adapt(x) for adapt, x in zip(self.adapters, features[1:], strict=True)]
        return self.grid([features[0], *adapted], scales)


class MonoViT(DepthNetwork):
    """MPViT-small encoder and `MonoViTDecoder`; 27.8 million parameters. For `drop_path` see `mpvit.MPViT`."""

    arch = "monovit"
    encoder_kind = naming.MPVIT_SMALL

    def __init__(self, drop_path: float = 0.2) -> None:
        super().__init__()
        self.encoder = mpvit.MPViT(drop_path)
        self.decoder = MonoViTDecoder()
