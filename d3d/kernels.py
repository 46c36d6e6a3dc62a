"""Fast CPU versions of the photometric loss and of Adam.

`minimum_photometric_error` computes `losses.photometric_error` (Eq. 2), `losses.minimum_reprojection` and the mean over
the pixels in one pass. Autograd would store about forty maps of the size of all warped images. This module computes the
gradient together with the error, a few images at a time, and keeps only the gradient. The tests compare both versions
in float64. A GPU uses the plain version of `d3d.losses`. `Adam` (section 3.3) runs on CPUs and GPUs.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx, once_differentiable
from torch.optim.adam import adam

SSIM_C1 = 0.01**2
SSIM_C2 = 0.03**2

# The code below uses sums over the 3x3 window instead of means. Each factor of SSIM and its constants are therefore
# 81 = 9 * 9 times as large.
_C1, _C2 = 81 * SSIM_C1, 81 * SSIM_C2
_CHUNK = 4  # images at a time, so that their maps stay in the cache


class Target:
    """Target images y (B, 3, H, W) and the terms of SSIM that depend on y only."""

    def __init__(self, image_b3hw: Tensor) -> None:
        self.y = image_b3hw
        self.y_9 = 9 * image_b3hw
        self.sum_y = _sum_window(image_b3hw)
        self.luminance = self.sum_y * self.sum_y + _C1  # part of L
        self.luminance_contrast = 9 * _sum_window(image_b3hw * image_b3hw) + (_C1 + _C2)  # part of L + C


def minimum_photometric_error(
    warped_sb3hw: Tensor, target: Target, bound_b1hw: Tensor | None = None, alpha: float = 0.85
) -> Tensor:
    """Compute the mean over the pixels of the minimum photometric error of all sources (Eq. 2), a scalar.

    Differentiable once, with respect to the warped images.

    Args:
        warped_sb3hw: sources warped into the target's view, (S, B, 3, H, W), with the dtype of the target.
        target: target images.
        bound_b1hw: upper bound of the minimum, without gradient (automasking).
        alpha: weight of the SSIM term.
    """
    return _MinimumPhotometricError.apply(warped_sb3hw, target, bound_b1hw, alpha)


class _MinimumPhotometricError(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: FunctionCtx, warped_sb3hw: Tensor, target: Target, bound_b1hw: Tensor | None, alpha: float
    ) -> Tensor:
        sources, batch, channels, height, width = warped_sb3hw.shape
        # weights of the SSIM and the L1 term; Eq. 2 averages over the channels
        weights = alpha / channels, (1 - alpha) / channels
        total = warped_sb3hw.new_zeros(())
        gradient = torch.empty_like(warped_sb3hw, memory_format=torch.contiguous_format)
        for first in range(0, batch, _CHUNK):
            chunk = slice(first, first + _CHUNK)
            images = warped_sb3hw[:, chunk]
            found = [_photometric_error(x, target, chunk, weights) for x in images]
            errors = torch.stack([error for error, _ in found])  # (S, b, H, W)
            minimum = errors.amin(dim=0)
            # derivative of the minimum: 1 for the smallest error, 0 for the other errors
            selected = (errors == minimum).to(errors.dtype)
            if sources > 1:  # equal errors share the gradient like in Tensor.amin
                selected /= selected.sum(dim=0)
            if bound_b1hw is not None:
                bound = bound_b1hw[chunk, 0]
                selected *= minimum <= bound
                minimum = torch.minimum(minimum, bound)
            total += minimum.sum()
            for s, (_, gradient_of) in enumerate(found):
                gradient[s, chunk] = gradient_of(selected[s].unsqueeze(1))
        pixels = batch * height * width
        ctx.save_for_backward(gradient.mul_(1 / pixels))
        return total / pixels

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, upstream: Tensor) -> tuple[Tensor, None, None, None]:
        (gradient,) = ctx.saved_tensors
        return gradient * upstream, None, None, None


def _photometric_error(
    x: Tensor, target: Target, chunk: slice, weights: tuple[float, float]
) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
    """Compute Eq. 2 of images x and targets y, (b, H, W), and return a function for its gradient (callable once).

    The formulas use sums over the 3x3 window. Both factors of the numerator are halved:

        l = sum(x) sum(y) + C1/2                      L = sum(x)^2 + sum(y)^2 + C1
        c = 9 sum(x y) - sum(x) sum(y) + C2/2         C = 9 sum(x x) - sum(x)^2 + 9 sum(y y) - sum(y)^2 + C2
        S = l c / (L C) = SSIM / 4

    SSIM needs no clamp: only rounding can move it out of [-1, 1].
    """
    sum_x, sum_y = _sum_window(x), target.sum_y[chunk]
    sum_x_sum_y = sum_x * sum_y
    L = torch.addcmul(target.luminance[chunk], sum_x, sum_x)
    C = torch.add(target.luminance_contrast[chunk], _sum_window(x * x), alpha=9).sub_(L)
    l = sum_x_sum_y + _C1 / 2  # noqa: E741
    c = _sum_window(x * target.y_9[chunk]).sub_(sum_x_sum_y).add_(_C2 / 2)
    LC = L * C
    l_LC = l.div_(LC)  # dS/dc: the derivative by 9 sum(x y); c / (L C) is dS/dl
    S = l_LC * c
    d_sum_x_sum_y = c.div_(LC).sub_(l_LC)  # dS/dl - dS/dc
    S_C = S / C  # -dS/dC: the derivative by 9 sum(x x), with the opposite sign
    d_sum_x_squared = S_C - torch.div(S, L, out=L)  # dS/dL - dS/dC
    # sum(x) is in the product sum(x) sum(y) and in the square sum(x)^2
    d_sum_x = d_sum_x_sum_y.mul_(sum_y).addcmul_(d_sum_x_squared, sum_x, value=2)
    difference = x - target.y[chunk]
    weight_ssim, weight_l1 = weights
    # weight_ssim (1 - SSIM) / 2 + weight_l1 |x - y|, summed over the channels
    error = S.mul_(-2 * weight_ssim).add_(weight_ssim / 2).add_(difference.abs(), alpha=weight_l1).sum(dim=1)
    sign = difference.sign_()

    def gradient(upstream_b1hw: Tensor) -> Tensor:
        """Apply the chain rule down to x, (b, C, H, W). Overwrites the stored derivatives.

        A pixel of x contributes to nine windows, so the derivative of a window sum uses the transposed sum. The inner
        derivative is 1 for sum(x), 9 y for 9 sum(x y) and 18 x for 9 sum(x x).
        """
        d_S = _sum_window_transposed(d_sum_x.mul_(upstream_b1hw))
        d_S.addcmul_(x, _sum_window_transposed(S_C.mul_(upstream_b1hw)), value=-18)
        d_S.addcmul_(target.y_9[chunk], _sum_window_transposed(l_LC.mul_(upstream_b1hw)))
        return sign.mul_(upstream_b1hw).mul_(weight_l1).add_(d_S, alpha=-2 * weight_ssim)

    return error, gradient


def _sum_window(x: Tensor) -> Tensor:
    """Sum over a 3x3 window with reflection padding. Ten times as fast as pooling, which is not vectorised."""
    return _sum3(_sum3(x, -2), -1)


def _sum_window_transposed(x: Tensor) -> Tensor:
    """Apply the transpose of `_sum_window`: map the gradient of the result to the gradient of the argument."""
    return _sum3(_sum3(x, -1, transposed=True), -2, transposed=True)


def _sum3(x: Tensor, dim: int, transposed: bool = False) -> Tensor:
    """Sum three neighbours along one dimension with reflection padding, or apply the transpose of this linear map."""
    n = x.shape[dim]
    result = torch.empty_like(x)
    inner = result.narrow(dim, 1, n - 2)
    torch.add(x.narrow(dim, 0, n - 2), x.narrow(dim, 2, n - 2), out=inner)
    inner += x.narrow(dim, 1, n - 2)
    for end, beside in ((0, 1), (n - 1, n - 2)):
        # the padding repeats the neighbour of the border pixel, so it counts twice in the sum
        at_end, at_beside = x.select(dim, end), x.select(dim, beside)
        torch.add(at_end, at_beside, alpha=1 if transposed else 2, out=result.select(dim, end))
        if transposed:
            result.select(dim, beside).add_(at_end)
    return result


class Adam(torch.optim.Adam):
    """Adam with torch's fused kernel on one-dimensional views of all tensors.

    Its state dict and the state dict of `torch.optim.Adam` are interchangeable. torch's default Adam reads and writes
    each tensor a dozen times. Without the views, the fused kernel copies non-contiguous tensors on a CPU. On a GPU it
    refuses gradients whose strides differ from the weights (some 1x1 convolutions).
    """

    @torch.no_grad()
    def step(self, closure: Callable[[], Tensor] | None = None) -> None:
        """Update all parameters with a gradient. A closure is not supported."""
        if closure is not None:
            raise NotImplementedError("Adam.step takes no closure: compute the gradient before the step.")
        for group in self.param_groups:
            group["fused"] = True  # also after loading a state of torch's Adam
            for parameter in group["params"]:
                self._align_state(parameter)
            tensors, steps = ([], [], [], []), []  # parameters, gradients, first and second moments
            self._init_group(group, *tensors, [], steps)
            flat = [[_flat(t, p) for t, p in zip(kind, tensors[0], strict=True)] for kind in tensors]
            settings = {name: group[name] for name in ("lr", "weight_decay", "eps", "maximize")}
            beta1, beta2 = group["betas"]
            adam(*flat, [], steps, fused=True, amsgrad=False, beta1=beta1, beta2=beta2, **settings)

    def _align_state(self, parameter: Tensor) -> None:
        """Move a loaded state to the parameter's device and memory layout."""
        state = self.state[parameter]
        for name in state.keys() & {"exp_avg", "exp_avg_sq"}:
            state[name] = _like(state[name], parameter)
        if "step" in state:
            state["step"] = state["step"].to(parameter.device)


def _like(tensor: Tensor, parameter: Tensor) -> Tensor:
    """Return the tensor in the parameter's memory layout; copies it only if the layouts differ."""
    strides = zip(parameter.shape, tensor.stride(), parameter.stride(), strict=True)
    same = all(a == b for n, a, b in strides if n > 1)
    return tensor if same else torch.empty_like(parameter).copy_(tensor)


def _flat(tensor: Tensor, parameter: Tensor) -> Tensor:
    """Return the tensor's values in the order of the parameter's memory, (n,)."""
    return _like(tensor, parameter).as_strided((tensor.numel(),), (1,))
