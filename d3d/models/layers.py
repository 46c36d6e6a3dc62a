"""Layers shared by several networks."""

from __future__ import annotations

import math
from collections import OrderedDict

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import FunctionCtx, once_differentiable


def elu(x: Tensor) -> Tensor:
    """Compute ELU for any shape. On a CPU, exp in float32 is five times as fast as torch's version with expm1."""
    return _ELU.apply(x) if x.device.type == "cpu" and not torch.compiler.is_compiling() else F.elu(x)


class _ELU(torch.autograd.Function):
    @staticmethod
    def forward(ctx: FunctionCtx, x: Tensor) -> Tensor:
        # exp(x) - 1 has an error of 6e-8, the last digit of float32 at 1; it is at least x, so the maximum is ELU
        negative = x.clamp(max=0).to(torch.promote_types(x.dtype, torch.float32)).exp_().sub_(1)
        result = torch.maximum(x, negative.to(x.dtype))
        ctx.save_for_backward(result)
        return result

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, upstream: Tensor) -> Tensor:
        (result,) = ctx.saved_tensors
        return torch.ops.aten.elu_backward(upstream, 1, 1, 1, True, result)


class Conv3x3(nn.Conv2d):
    """3x3 convolution with bias and reflection padding: (b, in, h, w) -> (b, out, h, w)."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__(in_channels, out_channels, 3, padding=1, padding_mode="reflect")

    def forward(self, x: Tensor) -> Tensor:
        if self.out_channels > 1 or x.device.type != "cpu" or torch.compiler.is_compiling():
            return super().forward(x)
        return _ToOneChannel.apply(F.pad(x, (1, 1, 1, 1), mode="reflect"), self.weight, self.bias)


class _ToOneChannel(torch.autograd.Function):
    """3x3 convolution to one channel on a CPU, without padding: one matrix product and a sum of nine shifted maps.

    oneDNN's kernels parallelise over output channels. With one channel they take three times as long.
    """

    @staticmethod
    def forward(ctx: FunctionCtx, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        b, c, h, w = x.shape
        pixels = x.permute(0, 2, 3, 1).reshape(-1, c)  # no copy in channels-last memory
        kernel = weight.reshape(c, 9)
        ctx.save_for_backward(pixels, kernel)
        ctx.shape = x.shape
        maps = (kernel.t() @ pixels.t()).view(9, b, h, w)
        result = bias.expand(b, h - 2, w - 2).clone()
        for k in range(9):
            result += maps[k, :, k // 3 : h - 2 + k // 3, k % 3 : w - 2 + k % 3]
        return result[:, None]

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, upstream: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        pixels, kernel = ctx.saved_tensors
        b, c, h, w = ctx.shape
        shifted = pixels.new_zeros(9, b, h, w)
        for k in range(9):
            shifted[k, :, k // 3 : h - 2 + k // 3, k % 3 : w - 2 + k % 3] = upstream[:, 0]
        shifted = shifted.view(9, -1)
        grad_x = (shifted.t() @ kernel.t()).view(b, h, w, c).permute(0, 3, 1, 2)
        return grad_x, (shifted @ pixels).t().reshape(1, c, 3, 3), upstream.sum().view(1)


class ConvBlock(nn.Module):
    """`Conv3x3` and ELU without normalisation, the block of all decoders.

    `dropout` is the identity or channel dropout, see `DepthNetwork.use_dropout`.
    """

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.conv = Conv3x3(in_channels, out_channels)
        self.activation = elu
        self.dropout: nn.Module = nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return self.dropout(self.activation(self.conv(x)))


class Depthwise(nn.Conv2d):
    """Depthwise convolution: (b, c, h, w) -> (b, c, h / stride, w / stride), with the dtype of the input.

    On a CPU it computes in float32 also under autocast: in bfloat16, oneDNN's gradient takes 1.3 to 2 times as long,
    and ten times as long with a stride.
    """

    def __init__(self, channels: int, kernel: int, stride: int = 1, bias: bool = True) -> None:
        super().__init__(channels, channels, kernel, stride, kernel // 2, groups=channels, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        if x.device.type != "cpu" or not torch.is_autocast_enabled("cpu"):
            return super().forward(x)
        with torch.autocast("cpu", enabled=False):
            return super().forward(x.to(self.weight.dtype)).to(x.dtype)


class DispHead(nn.Module):
    """3x3 convolution to one channel and sigmoid: features (b, c, h, w) -> disparity (b, 1, h, w) in (0, 1)."""

    def __init__(self, in_channels: int) -> None:
        super().__init__()
        self.conv = Conv3x3(in_channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        # Full precision costs little with one channel. Far depths have logits of -3 to -5, where steps of bfloat16 are
        # 0.016 to 0.03, or 2 % of the depth
        with torch.autocast(x.device.type, enabled=False):
            return torch.sigmoid(self.conv(x.to(self.conv.weight.dtype)))


class DispScaleHead(DispHead):
    """`DispHead` with a second map log b; b is the scale of the error of the log depth (Kendall and Gal, 2017)."""

    START = 0.1  # b before training, a tenth of the depth; with b = 1 a short training does not converge

    def __init__(self, in_channels: int) -> None:
        super().__init__(in_channels)
        self.log_scale = Conv3x3(in_channels, 1)
        nn.init.constant_(self.log_scale.bias, math.log(self.START))

    def forward(self, x: Tensor) -> Tensor:
        disp = super().forward(x)
        with torch.autocast(x.device.type, enabled=False):
            return torch.cat((disp, self.log_scale(x.to(disp.dtype))), 1)


def named(**layers: nn.Module) -> nn.Sequential:
    """Chain layers under the given names."""
    return nn.Sequential(OrderedDict(layers))


def conv_bn(width: int, out: int, kernel: int = 1, stride: int = 1, act: bool = True) -> nn.Sequential:
    """Bias-free convolution, BatchNorm, Hardswish if `act`: (b, width, h, w) -> (b, out, h / stride, w / stride)."""
    conv = nn.Conv2d(width, out, kernel, stride, kernel // 2, bias=False)
    return named(conv=conv, bn=nn.BatchNorm2d(out), act=nn.Hardswish() if act else nn.Identity())


class Residual(nn.Sequential):
    """Chain of named layers with a residual connection: the input is added to the result."""

    def __init__(self, **layers: nn.Module) -> None:
        super().__init__(OrderedDict(layers))

    def forward(self, x: Tensor) -> Tensor:
        return x + super().forward(x)


class SqueezeExcite(nn.Module):
    """Channel attention: mean over the image -> c // 16 -> c, both without bias -> sigmoid -> scale (b, c, h, w)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.squeeze = nn.Linear(channels, channels // 16, bias=False)
        self.excite = nn.Linear(channels // 16, channels, bias=False)

    def weights(self, x: Tensor) -> Tensor:
        """Compute the factor of each channel: (b, c, h, w) -> (b, c) in (0, 1)."""
        # The mean as a matrix product: the gradient of `mean` is an expanded tensor. The sum of gradients would be
        # contiguous instead of channels-last, which slows down additions and convolutions.
        b, c, h, w = x.shape
        pixels = x.permute(0, 2, 3, 1).reshape(b, h * w, c)
        mean = torch.bmm(pixels.new_ones(b, 1, h * w), pixels)[:, 0] / (h * w)
        return torch.sigmoid(self.excite(F.relu(self.squeeze(mean))))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.weights(x)[:, :, None, None]


class DropPath(nn.Module):
    """Stochastic depth: in training, drop the residual branch of a sample (b, ...) with probability `p`."""

    def __init__(self, p: float) -> None:
        super().__init__()
        self.p = p

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or self.p == 0:
            return x
        keep = x.new_empty((x.shape[0],) + (1,) * (x.ndim - 1)).bernoulli_(1 - self.p)
        return x * keep.div_(1 - self.p)


def upsample(x: Tensor) -> Tensor:
    """Up-sample by two with nearest neighbours: (b, c, h, w) -> (b, c, 2h, 2w)."""
    return F.interpolate(x, scale_factor=2, mode="nearest")
