"""HR-Depth: a dense grid of skip connections on ResNet-18 (Lyu et al., AAAI 2021); section 4.1."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from d3d.models.layers import ConvBlock, DispHead, SqueezeExcite, upsample
from d3d.models.resnet import ResNetDepth

# Row (level, 0 is the finest) and column (depth) of the grid's nodes "rc", in the order of computation
NODES = [(row, column) for column in range(1, 5) for row in range(5 - column)]
# The input of each scale's head; "final" is node 04 up-sampled once more
_HEAD_NODES = ("final", "04", "13", "22")


class DenseNode(nn.Module):
    """Concatenate tensors of one size, reduce channels (1x1 convolution without bias), `ConvBlock`; (b, out, h, w)."""

    def __init__(self, in_channels: int, out_channels: int, narrow: bool) -> None:
        super().__init__()
        width = 2 * out_channels if narrow else in_channels
        self.narrow = nn.Conv2d(in_channels, width, 1, bias=False) if narrow else nn.Identity()
        self.block = ConvBlock(width, out_channels)

    def forward(self, inputs: Sequence[Tensor]) -> Tensor:
        return self.block(self.narrow(torch.cat(inputs, 1)))


class AttentionNode(nn.Module):
    """Concatenate tensors of one size, scale the channels, 1x1 convolution, ReLU; (b, out, h, w)."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.attention = SqueezeExcite(in_channels)
        self.conv = nn.Conv2d(in_channels, out_channels, 1)

    def forward(self, inputs: Sequence[Tensor]) -> Tensor:
        x = torch.cat(inputs, 1)
        b, c, h, w = x.shape
        # scale the weights of the 1x1 convolution instead of the map, which is a hundred times larger
        kernels = self.conv.weight.flatten(1) * self.attention.weights(x)[:, None]
        pixels = x.permute(0, 2, 3, 1).reshape(b, h * w, c)
        y = torch.baddbmm(self.conv.bias, pixels, kernels.mT)
        return F.relu(y.view(b, h, w, -1).permute(0, 3, 1, 2), inplace=True)


class DenseDecoder(nn.Module):
    """The grid of HR-Depth (a UNet++), also the second half of MonoViT's decoder.

    Column 0 holds the encoder's features. Node rc joins all nodes to its left in row r with node (r+1)(c-1) after
    halving its channels and up-sampling it. The last node of each row is an `AttentionNode`.

    The published checkpoints contain four unused convolutions (X_00_Conv_0 and X_01/02/03_Conv_0). They are left out
    here, so that every parameter gets a gradient.
    """

    def __init__(self, encoder_channels: Sequence[int]) -> None:
        super().__init__()
        self.reduce = nn.ModuleDict()  # "rc" -> block that halves the channels of node rc before up-sampling
        self.nodes = nn.ModuleDict()
        width = {f"{row}0": channels for row, channels in enumerate(encoder_channels)}
        for row, column in NODES:
            node, below = f"{row}{column}", f"{row + 1}{column - 1}"
            up = encoder_channels[row + 1] // 2
            self.reduce[below] = ConvBlock(width[below], up)
            joined = up + sum(width[f"{row}{c}"] for c in range(column))
            width[node] = encoder_channels[row] if row > 0 else encoder_channels[0] // 2
            if row + column == 4:
                self.nodes[node] = AttentionNode(joined, width[node])
            else:
                self.nodes[node] = DenseNode(joined, width[node], narrow=column >= 2)
        finest = width["04"] // 2
        self.reduce["04"] = ConvBlock(width["04"], finest)
        self.final = ConvBlock(finest, finest)
        self.heads = nn.ModuleList(DispHead(c) for c in (finest, *(width[n] for n in _HEAD_NODES[1:])))

    def forward(self, features: Sequence[Tensor], scales: Sequence[int]) -> dict[int, Tensor]:
        x = {f"{row}0": feature for row, feature in enumerate(features)}
        for row, column in NODES:
            node, below = f"{row}{column}", f"{row + 1}{column - 1}"
            up = upsample(self.reduce[below](x[below]))
            x[node] = self.nodes[node]([up, *(x[f"{row}{c}"] for c in range(column))])
        if 0 in scales:
            x["final"] = self.final(upsample(self.reduce["04"](x["04"])))
        return {scale: self.heads[scale](x[_HEAD_NODES[scale]]) for scale in scales}


class HRDepth(ResNetDepth):
    """ResNet-18 encoder and `DenseDecoder`; 14.1 million parameters."""

    arch = "hrdepth"
    decoder_type = DenseDecoder
