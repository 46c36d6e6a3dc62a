"""Eq. 2, the minimum over the sources and the gradient of both in one pass: what a CPU trains with.

Left to autograd, the photometric error of four scales is most of a small network's training step on a CPU: some forty
maps of the size of all warped images are written to memory and read back. Here the gradient with respect to the
warped images is worked out together with the error, a few images at a time, and is all that is kept. The result is
that of `d3d.losses.photometric_error` and `minimum_reprojection`, which say the same in the paper's terms and which
a GPU runs (tested against each other in float64).
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx, once_differentiable

SSIM_C1 = 0.01**2
SSIM_C2 = 0.03**2

# Everything below is in sums over the 3x3 box instead of means: both factors of SSIM's fraction, above and below the
# line, then are 81 times as large, and so are its constants.
_C1, _C2 = 81 * SSIM_C1, 81 * SSIM_C2
_CHUNK = 4  # images: their maps stay in the cache, and the processes of a step need a fraction of the memory


class Target:
    """A batch of target images (B, 3, H, W) with what SSIM wants of them: the same for all scales and sources."""

    def __init__(self, image_b3hw: Tensor) -> None:
        self.image = image_b3hw
        self.image_9 = 9 * image_b3hw
        self.sum = _box(image_b3hw)
        self.sum2_c = self.sum * self.sum + _C1
        self.variance_c = 9 * _box(image_b3hw * image_b3hw) + (_C1 + _C2)


def least_error(
    warped_sb3hw: Tensor, target: Target, bound_b1hw: Tensor | None = None, alpha: float = 0.85
) -> Tensor:
    """Mean over the pixels of the least of the sources' photometric errors; a scalar.

    Differentiable, once, with respect to the warped images.

    Args:
        warped_sb3hw: each source warped into the target's view (S, B, 3, H, W), of the target's type.
        bound_b1hw: an error that is offered to the minimum, too, and carries no gradient (automasking).
        alpha: weight of the structural part.
    """
    return _LeastError.apply(warped_sb3hw, target, bound_b1hw, alpha)


class _LeastError(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: FunctionCtx, warped_sb3hw: Tensor, target: Target, bound_b1hw: Tensor | None, alpha: float
    ) -> Tensor:
        sources, batch, channels, h, w = warped_sb3hw.shape
        weights = alpha / channels, (1 - alpha) / channels
        total = warped_sb3hw.new_zeros(())
        gradient = torch.empty_like(warped_sb3hw, memory_format=torch.contiguous_format)
        for first in range(0, batch, _CHUNK):
            part = slice(first, first + _CHUNK)
            errors, slopes = zip(
                *(_error(warped_sb3hw[s, part], target, part, weights) for s in range(sources)), strict=True
            )
            errors = torch.stack(errors)
            least = errors.amin(dim=0)
            share = (errors == least).to(errors.dtype)
            if sources > 1:  # equal errors share the gradient, as with Tensor.amin
                share /= share.sum(dim=0)
            if bound_b1hw is not None:
                bound = bound_b1hw[part, 0]
                share *= least <= bound
                least = torch.minimum(least, bound)
            total += least.sum()
            for s in range(sources):
                gradient[s, part] = _gradient(
                    warped_sb3hw[s, part], target.image_9[part], slopes[s], share[s].unsqueeze(1), weights
                )
        n = batch * h * w
        ctx.save_for_backward(gradient.mul_(1 / n))
        return total / n

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, upstream: Tensor) -> tuple[Tensor, None, None, None]:
        (gradient,) = ctx.saved_tensors
        return gradient * upstream, None, None, None


def _error(
    a: Tensor, target: Target, part: slice, weights: tuple[float, float]
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """Eq. 2 of some images (B, H, W), and its slopes: by the sums of a, a b and a a, and the sign of a - b.

    SSIM is never outside [-1, 1] but by rounding, where its slope is zero: there is nothing to clamp.
    """
    sum_a, sum_b = _box(a), target.sum[part]
    product = sum_a * sum_b
    below1 = torch.addcmul(target.sum2_c[part], sum_a, sum_a)
    below2 = torch.add(target.variance_c[part], _box(a * a), alpha=9).sub_(below1)
    above1 = product + _C1 / 2
    above2 = _box(a * target.image_9[part]).sub_(product).add_(_C2 / 2)
    below = below1 * below2
    by_ab = above1.div_(below)
    quarter = by_ab * above2  # of SSIM
    by_product = above2.div_(below).sub_(by_ab)
    by_aa = quarter / below2
    by_squares = by_aa - torch.div(quarter, below1, out=below1)
    by_a = by_product.mul_(sum_b).addcmul_(by_squares, sum_a, value=2)
    difference = a - target.image[part]
    structure, colour = weights
    error = quarter.mul_(-2 * structure).add_(structure / 2).add_(difference.abs(), alpha=colour).sum(dim=1)
    return error, (by_a, by_ab, by_aa, difference.sign_())


def _gradient(
    a: Tensor, b_9: Tensor, slopes: tuple[Tensor, ...], share: Tensor, weights: tuple[float, float]
) -> Tensor:
    """From the slopes of `_error` and each pixel's share (B, 1, H, W) in the loss to the gradient by a."""
    by_a, by_ab, by_aa, sign = slopes
    structure, colour = weights
    quarter = _box_transposed(by_a.mul_(share))
    quarter.addcmul_(a, _box_transposed(by_aa.mul_(share)), value=-18)
    quarter.addcmul_(b_9, _box_transposed(by_ab.mul_(share)))
    return sign.mul_(share).mul_(colour).add_(quarter, alpha=-2 * structure)


def _box(x: Tensor) -> Tensor:
    """Sum over a 3x3 window with reflection padding: ten times as fast as pooling, which is not vectorised."""
    for dim in (-2, -1):
        n = x.shape[dim]
        y = torch.empty_like(x)
        inner = y.narrow(dim, 1, n - 2)
        torch.add(x.narrow(dim, 0, n - 2), x.narrow(dim, 2, n - 2), out=inner)
        inner += x.narrow(dim, 1, n - 2)
        for end, beside in ((0, 1), (n - 1, n - 2)):
            torch.add(x.select(dim, end), x.select(dim, beside), alpha=2, out=y.select(dim, end))
        x = y
    return x


def _box_transposed(x: Tensor) -> Tensor:
    """The transpose of `_box`, a linear map: takes the gradient by its result to the gradient by its argument."""
    for dim in (-1, -2):
        n = x.shape[dim]
        y = torch.empty_like(x)
        inner = y.narrow(dim, 1, n - 2)
        torch.add(x.narrow(dim, 0, n - 2), x.narrow(dim, 2, n - 2), out=inner)
        inner += x.narrow(dim, 1, n - 2)
        for end, beside in ((0, 1), (n - 1, n - 2)):
            torch.add(x.select(dim, end), x.select(dim, beside), out=y.select(dim, end))
            y.select(dim, beside).add_(x.select(dim, end))
        x = y
    return x
