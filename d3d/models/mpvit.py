"""MPViT-small (Lee et al., CVPR 2022) as a five-level encoder with the two changes of MonoViT.

The code follows the published description. Unlike in the classification network, the second convolution of the stem
keeps the resolution and the first patch embedding halves it. The features therefore have strides 2, 4, 8, 16 and 32
(MonoViT, Zhao et al., 3DV 2022).

Tensors are (b, c, h, w) in channels-last memory, so that the view (b, h*w, c) for attention needs no copy.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from d3d.models.layers import Depthwise, DropPath, Residual, conv_bn, named

CHANNELS = (64, 128, 216, 288, 288)  # channels of the five features: the stem, then four stages
PATHS = (2, 3, 3, 3)
LAYERS = (1, 3, 6, 3)
HEADS = 8
MLP_RATIO = 4
_WINDOWS = ((3, 2), (5, 3), (7, 3))  # size of a relative position window, number of its heads


def patch_embed(channels: int, stride: int) -> nn.Sequential:
    """Separable 3x3 convolution, BatchNorm, Hardswish. Chains of two or three cover patches of 5x5 and 7x7."""
    depthwise = Depthwise(channels, 3, stride, bias=False)
    return named(depthwise=depthwise, pointwise=conv_bn(channels, channels))


class RelativePosition(nn.Module):
    """Convolutional relative position encoding: the query times a depthwise convolution of the values."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        width = channels // HEADS
        self.splits = [heads * width for _, heads in _WINDOWS]
        self.convs = nn.ModuleList(Depthwise(heads * width, size) for size, heads in _WINDOWS)

    def forward(self, q: Tensor, v: Tensor) -> Tensor:
        """Encode query and value maps (b, c, h, w), with the heads side by side in c -> (b, c, h, w)."""
        near = [conv(part) for conv, part in zip(self.convs, v.split(self.splits, 1), strict=True)]
        return q * torch.cat(near, 1)


class FactorisedAttention(nn.Module):
    """Attention with linear cost in the number of tokens: q (softmax(k)^T v) / sqrt(d) + relative position."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.scale = (channels // HEADS) ** -0.5
        self.qkv = nn.Linear(channels, 3 * channels)
        self.project = nn.Linear(channels, channels)

    def forward(self, tokens: Tensor, size_hw: tuple[int, int], relative: RelativePosition) -> Tensor:
        """(b, h*w, c) -> (b, h*w, c)."""
        b, n, c = tokens.shape
        q, k, v = self.qkv(tokens).view(b, n, 3, c).unbind(2)

        def heads(x: Tensor) -> Tensor:  # (b, n, c) -> (b, heads, n, d)
            return x.reshape(b, n, HEADS, c // HEADS).transpose(1, 2)

        def image(x: Tensor) -> Tensor:  # (b, n, c) -> (b, c, h, w)
            return x.view(b, *size_hw, c).permute(0, 3, 1, 2)

        # float32: softmax over tens of thousands of tokens gives weights below the smallest normal float16. This is a
        # few per cent of the block's work.
        with torch.autocast(tokens.device.type, enabled=False):
            high = torch.promote_types(k.dtype, torch.float32)
            context = heads(k.to(high).softmax(1)).transpose(2, 3) @ heads(v.to(high))
        attended = (heads(q) @ (context * self.scale).to(q.dtype)).transpose(1, 2).reshape(b, n, c)
        position = relative(image(q), image(v)).permute(0, 2, 3, 1).reshape(b, n, c)
        return self.project(attended + position)


class Block(nn.Module):
    """Position encoding, attention and a two-layer perceptron, both with a residual and stochastic depth."""

    def __init__(self, channels: int, drop_path: float) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(channels, eps=1e-6)
        self.attention = FactorisedAttention(channels)
        self.norm2 = nn.LayerNorm(channels, eps=1e-6)
        hidden = MLP_RATIO * channels
        self.mlp = nn.Sequential(nn.Linear(channels, hidden), nn.GELU(), nn.Linear(hidden, channels))
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor, position: Residual, relative: RelativePosition) -> Tensor:
        """(b, c, h, w) -> the same shape, channels-last."""
        b, c, h, w = x.shape
        tokens = position(x).permute(0, 2, 3, 1).reshape(b, h * w, c)
        tokens = tokens + self.drop_path(self.attention(self.norm1(tokens), (h, w), relative))
        tokens = tokens + self.drop_path(self.mlp(self.norm2(tokens)))
        return tokens.view(b, h, w, c).permute(0, 3, 1, 2)


class TransformerPath(nn.Module):
    """Transformer encoder of one path, (b, c, h, w). All blocks share both position encodings.

    The path owns the shared modules and passes them to the blocks, so that each tensor has one name in the state dict.
    (The public checkpoints repeat them under every block.)
    """

    def __init__(self, channels: int, drop_paths: Sequence[float]) -> None:
        super().__init__()
        self.position = Residual(conv=Depthwise(channels, 3))  # position encoding
        self.relative = RelativePosition(channels)
        self.blocks = nn.ModuleList(Block(channels, p) for p in drop_paths)

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = block(x, self.position, self.relative)
        return x


def local_branch(channels: int) -> Residual:
    """Build the local branch of a stage: 1x1, depthwise 3x3 and 1x1 convolution with a residual connection."""
    return Residual(
        enter=conv_bn(channels, channels),
        depthwise=Depthwise(channels, 3, bias=False),
        bn=nn.BatchNorm2d(channels),
        act=nn.Hardswish(),
        leave=conv_bn(channels, channels, act=False),
    )


class Stage(nn.Module):
    """One level of the encoder, (b, c, h, w) -> (b, out, h/2, w/2).

    It concatenates a local branch and `paths` transformers, each after its patch embedding. `drop_paths` holds the drop
    probability of each transformer block; all paths share it.
    """

    def __init__(self, channels: int, out_channels: int, paths: int, drop_paths: Sequence[float]) -> None:
        super().__init__()
        self.embeds = nn.ModuleList(patch_embed(channels, 2 if path == 0 else 1) for path in range(paths))
        self.local = local_branch(channels)
        self.paths = nn.ModuleList(TransformerPath(channels, drop_paths) for _ in range(paths))
        self.join = conv_bn((paths + 1) * channels, out_channels)

    def forward(self, x: Tensor) -> Tensor:
        branches = []
        for embed, path in zip(self.embeds, self.paths, strict=True):
            x = embed(x)
            branches += [path(x)] if branches else [self.local(x), path(x)]
        return self.join(torch.cat(branches, 1))


class MPViT(nn.Module):
    """MPViT-small with features at strides 2, 4, 8, 16 and 32; 22.6 million parameters.

    Stochastic depth grows linearly from 0 in the first block to `drop_path` in the last.
    """

    def __init__(self, drop_path: float = 0.2) -> None:
        super().__init__()
        self.stem = nn.Sequential(conv_bn(3, 32, kernel=3, stride=2), conv_bn(32, CHANNELS[0], kernel=3))
        rates = iter(drop_path * layer / (sum(LAYERS) - 1) for layer in range(sum(LAYERS)))
        drop_paths = [list(itertools.islice(rates, layers)) for layers in LAYERS]
        self.stages = nn.ModuleList(map(Stage, CHANNELS, CHANNELS[1:], PATHS, drop_paths))
        self.apply(_init)

    def forward(self, image_b3hw: Tensor) -> list[Tensor]:
        """Encode an image in [0, 1], not normalised, into five features with `CHANNELS` channels, finest first."""
        features = [self.stem(image_b3hw)]
        for stage in self.stages:
            features.append(stage(features[-1]))
        return features


def _init(module: nn.Module) -> None:
    """Initialise linear layers with small weights, and convolutions for ReLU (Kaiming)."""
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        nn.init.zeros_(module.bias)
    elif isinstance(module, nn.Conv2d):
        nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        if module.bias is not None:
            nn.init.zeros_(module.bias)
