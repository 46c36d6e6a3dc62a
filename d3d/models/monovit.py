"""MonoViT: MPViT-small and HR-Depth's grid (Zhao et al., 3DV 2022); section 4.1."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch.nn.functional as F
from torch import Tensor, nn

from d3d.models import mpvit, naming
from d3d.models.base import DepthNetwork
from d3d.models.hrdepth import DenseDecoder
from d3d.models.layers import SqueezeExcite
from d3d.models.tensors import check_and_load, read_tensors

GRID_CHANNELS = (64, 64, 128, 256, 512)
"""Channels of the decoder's grid: those of ResNet-18, for which it was designed."""


class Adapter(nn.Module):
    """Channel attention, 3x3 convolution with zero padding, ReLU: an encoder feature -> the grid's width."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.attention = SqueezeExcite(in_channels)
        self.conv = nn.Conv2d(in_channels, out_channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """(b, in, h, w) -> (b, out, h, w)."""
        return F.relu(self.conv(self.attention(x)), inplace=True)


class MonoViTDecoder(nn.Module):
    """Adapters on features 1 to 4, then `DenseDecoder`; feature 0, the stem, enters the grid as it is."""

    def __init__(self) -> None:
        super().__init__()
        self.adapters = nn.ModuleList(
            Adapter(mpvit.CHANNELS[level], GRID_CHANNELS[level]) for level in range(1, 5)
        )
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

    def load_encoder(self, path: str | Path) -> None:
        """Load ImageNet weights of MPViT-small from a local file in the public naming.

        The classifier (`cls_head`) is left out on purpose.

        Raises:
            DataError: the file cannot be read, or does not hold an MPViT-small.
        """
        shapes = {f"encoder.{name}": t.shape for name, t in self.encoder.state_dict().items()}
        tensors = naming.translate(self.arch, self.encoder_kind, shapes, read_tensors(path), where=str(path))
        tensors = {name.removeprefix("encoder."): t for name, t in tensors.items()}
        check_and_load(self.encoder, tensors, where=str(path))
