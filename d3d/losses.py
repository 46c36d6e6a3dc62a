"""Losses of the paper: photometric error with minimum reprojection (Eq. 1, 2), smoothness, log depth (Eq. 4).

`LOSSES` names the photometric loss and, beyond the paper, the triplet losses of Choi et al. (ICLR 2025).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from d3d.errors import DataError, unknown
from d3d.geometry import disp_to_depth, inverse, warp
from d3d.kernels import SSIM_C1, SSIM_C2, Target, minimum_photometric_error

# The names of pretraining losses: the paper's, the one of Choi et al., and the latter without the gradient of E+ on its
# mask
LOSSES = ("photometric", "triplet", "triplet-stop")


def _at_least_float32(x: Tensor) -> Tensor:
    return x.to(torch.promote_types(x.dtype, torch.float32))


def ssim(a_bchw: Tensor, b_bchw: Tensor) -> Tensor:
    """Compute the structural similarity of images in [0, 1]; (B, C, H, W) in [-1, 1].

    The window is 3x3 with reflection padding. Most libraries use a Gaussian window: their values differ by 0.006 to
    0.03.
    """
    n = a_bchw.shape[1]
    # on a CPU, one pooling of five stacked maps is a third faster than five calls
    maps = torch.cat((a_bchw, b_bchw, a_bchw * a_bchw, b_bchw * b_bchw, a_bchw * b_bchw), dim=1)
    means = F.avg_pool2d(F.pad(maps, (1, 1, 1, 1), mode="reflect"), 3, stride=1)
    mu_a, mu_b, aa, bb, ab = means.split(n, dim=1)
    mu_ab, mu_aa, mu_bb = mu_a * mu_b, mu_a * mu_a, mu_b * mu_b
    numerator = (2 * mu_ab + SSIM_C1) * (2 * (ab - mu_ab) + SSIM_C2)
    denominator = (mu_aa + mu_bb + SSIM_C1) * (aa - mu_aa + bb - mu_bb + SSIM_C2)
    return numerator / denominator


def photometric_error(a_b3hw: Tensor, b_b3hw: Tensor, alpha: float = 0.85) -> Tensor:
    """Compute Eq. 2, `alpha/2 (1 - SSIM(a, b)) + (1 - alpha) |a - b|`, averaged over the channels; (B, 1, H, W).

    The images are in [0, 1]. The computation uses float32 also under autocast, because the variances of SSIM cancel in
    half precision.

    Raises:
        DataError: the images differ in shape.
    """
    if a_b3hw.shape != b_b3hw.shape:
        raise DataError(f"images differ in shape: {tuple(a_b3hw.shape)} and {tuple(b_b3hw.shape)}.")
    with torch.autocast(device_type=a_b3hw.device.type, enabled=False):
        a, b = _at_least_float32(a_b3hw), _at_least_float32(b_b3hw)
        dissimilarity = ((1 - ssim(a, b)) / 2).clamp(0, 1)
        error = alpha * dissimilarity + (1 - alpha) * (a - b).abs()
    return error.mean(dim=1, keepdim=True)


def minimum_reprojection(errors: Sequence[Tensor]) -> Tensor:
    """Take the minimum of the photometric errors (B, 1, H, W) over the sources. It ignores occluded sources."""
    return torch.stack(tuple(errors)).amin(dim=0)


def smoothness(disp_b1hw: Tensor, image_b3hw: Tensor) -> Tensor:
    """Compute the edge-aware smoothness of section 3.1 (Monodepth2), a scalar.

    `mean |dx d*| e^-|dx I| + mean |dy d*| e^-|dy I|`

    d* is the sigmoid disparity divided by its mean over the image: shrinking the disparity does not reduce the loss.
    The image I is in [0, 1], at the size of the disparity.
    """
    disp = _at_least_float32(disp_b1hw)
    disp = disp / (disp.mean(dim=(2, 3), keepdim=True) + 1e-7)
    image = image_b3hw.to(disp.dtype)
    weight_x, weight_y = (torch.exp(-image.diff(dim=d).abs().mean(1, keepdim=True)) for d in (3, 2))
    # slices, not diff: the result of a training depends on the order in which autograd adds gradients
    grad_x = (disp[..., 1:] - disp[..., :-1]).abs()
    grad_y = (disp[..., 1:, :] - disp[..., :-1, :]).abs()
    return (grad_x * weight_x).mean() + (grad_y * weight_y).mean()


def _photometric_term(target_b3hw: Tensor, bound_b1hw: Tensor | None = None) -> Callable[[Tensor], Tensor]:
    """Return the photometric term of one scale, a function from warped sources (S, B, 3, H, W) to a scalar.

    A CPU uses the faster version of `d3d.kernels`; a GPU and torch.compile use the plain version. ``bound_b1hw`` is an
    upper bound of the minimum over the sources.
    """
    if target_b3hw.device.type == "cpu" and not torch.compiler.is_compiling():
        target = Target(_at_least_float32(target_b3hw))
        return lambda warped: minimum_photometric_error(warped, target, bound_b1hw)

    def plain(warped_sb3hw: Tensor) -> Tensor:
        target = target_b3hw.repeat(len(warped_sb3hw), 1, 1, 1)  # one SSIM for all sources
        errors = photometric_error(warped_sb3hw.flatten(0, 1), target)
        error = minimum_reprojection(errors.chunk(len(warped_sb3hw)))
        return (error if bound_b1hw is None else torch.minimum(error, bound_b1hw)).mean()

    return plain


def triplet_errors(
    target_b3hw: Tensor, warped_sb3hw: Tensor, crossed_sb3hw: Tensor, bound_b1hw: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Compute E+ and E- of triplet mining (Choi et al., ICLR 2025, arXiv 2502.14573), (B, 1, H, W) each.

    E+ is the photometric error of the target and the warped source. E- is the error between the two synthesised views:
    the source warped into the target's view, and the target warped into the source's view. Both views show the same
    pixel of two cameras, so E- is small where the predicted disparity is small, as at the mirror image of a far light.

    The descriptions do not say how several sources are combined. Here each pixel takes the source with the least E+
    (minimum reprojection), and E- of the same source.

    Args:
        warped_sb3hw: sources warped into the target's view.
        crossed_sb3hw: the target warped into the view of each source.
        bound_b1hw: optional upper bound of E+ (automasking).
    """
    s, warped = len(warped_sb3hw), warped_sb3hw.flatten(0, 1)
    positive = photometric_error(warped, target_b3hw.repeat(s, 1, 1, 1)).unflatten(0, (s, -1))
    negative = photometric_error(warped, crossed_sb3hw.flatten(0, 1)).unflatten(0, (s, -1))
    nearest = positive.argmin(dim=0, keepdim=True)
    positive, negative = (errors.gather(0, nearest)[0] for errors in (positive, negative))
    return positive if bound_b1hw is None else torch.minimum(positive, bound_b1hw), negative


def triplet_margin(difference_b1hw: Tensor, factor: float = 0.0) -> Tensor:
    """Compute the adaptive margin of triplet mining, `Q1 + factor (Q3 - Q1)` of E- - E+ in each image, (B, 1, 1, 1).

    The descriptions say that the margin follows from the quartiles Q1 and Q3, and not how. A factor of -1.5 gives
    Tukey's lower fence, the usual bound of outliers; 0 is the first quartile, 1 the third. The margin has no gradient.
    """
    # one quantile at a time: a tensor of both levels would make a GPU wait
    q1, q3 = (torch.quantile(difference_b1hw.detach().flatten(1), q, dim=1) for q in (0.25, 0.75))
    return (q1 + factor * (q3 - q1))[:, None, None, None]


def triplet_loss(
    positive_b1hw: Tensor, negative_b1hw: Tensor, factor: float = 0.0, stop: bool = False
) -> tuple[Tensor, Tensor]:
    """Compute the triplet loss (B, 1, H, W), and its mask of reflective pixels, bool (B, 1, H, W).

    A pixel is reflective if `E- - E+ <= delta` (`triplet_margin`). Its loss is `max(0, E+ - E- + delta)`. The loss of
    other pixels is E+.

    Args:
        positive_b1hw, negative_b1hw: E+ and E- of `triplet_errors`.
        factor: factor of the margin.
        stop: stop the gradient of E+ on the mask. There it still pulls depth towards the mirror image.
    """
    difference = negative_b1hw - positive_b1hw
    margin = triplet_margin(difference, factor)
    mask = difference.detach() <= margin
    pulled = positive_b1hw.detach() if stop else positive_b1hw
    return torch.where(mask, (pulled - negative_b1hw + margin).clamp(min=0), positive_b1hw), mask


def self_supervised_loss(
    disps: dict[int, Tensor],
    target_b3hw: Tensor,
    sources_sb3hw: Tensor,
    K_b33: Tensor,
    source_T_target_sb44: Tensor,
    *,
    smoothness_weight: float = 1e-3,
    automask: bool = False,
    min_depth: float = 0.1,
    max_depth: float = 10.0,
    loss: str = "photometric",
    margin: float = 0.0,
) -> tuple[Tensor, dict[str, Tensor]]:
    """Compute the pretraining loss of section 3.1: Eq. 1 and 2 with minimum reprojection, plus smoothness.

    Each disparity scale is upsampled bilinearly to full size and converted to depth. This depth warps the sources. The
    photometric term is the minimum over the sources, averaged over pixels and scales. The smoothness of scale s has
    weight smoothness_weight / 2^s.

    Args:
        disps: scale -> sigmoid disparity (B, 1, H / 2^s, W / 2^s).
        target_b3hw: target images in [0, 1], without colour jitter.
        sources_sb3hw: source images in [0, 1], without colour jitter.
        K_b33: intrinsics at this size.
        source_T_target_sb44: poses as in `d3d.geometry.warp`.
        smoothness_weight: weight of the smoothness at scale 0.
        automask: bound the error by the error of the unwarped sources (Monodepth2). Off by default: the paper only
            names minimum reprojection and smoothness.
        min_depth, max_depth: depth at disparity 1 and 0, metres.
        loss: one of `LOSSES`. A triplet loss replaces the photometric term by `triplet_loss`. It also warps the target
            into the sources' views, with the target's depth and the inverse poses: the depth of the sources is not
            predicted. It has no fast version for a CPU.
        margin: factor of `triplet_margin`.

    Returns:
        The loss (scalar); its detached parts "photometric" and "smoothness". For a triplet loss "photometric" is the
        mean of E+, and two further parts are "triplet" and "reflective", the share of pixels in the mask.

    Raises:
        ConfigError: the loss is unknown.
    """
    if loss not in LOSSES:
        raise unknown("loss", loss, LOSSES)
    s, b, _, h, w = sources_sb3hw.shape
    # all sources in one batch: one warp per scale
    sources, poses, K = sources_sb3hw.flatten(0, 1), source_T_target_sb44.flatten(0, 1), K_b33.repeat(s, 1, 1)
    unwarped = None
    if automask:
        # 1e-5: pixels without texture take the warped image
        unwarped = minimum_reprojection([photometric_error(x, target_b3hw) for x in sources_sb3hw]) + 1e-5
    if loss == "photometric":
        photometric_term = _photometric_term(target_b3hw, unwarped)
    parts: dict[str, Tensor] = {}
    total = smooth = 0.0
    for scale, disp in disps.items():
        disp = full = _at_least_float32(disp)
        image = target_b3hw
        if disp.shape[-2:] != (h, w):
            full = F.interpolate(disp, (h, w), mode="bilinear", align_corners=False)
            image = F.interpolate(target_b3hw, disp.shape[-2:], mode="area")
        depths = disp_to_depth(full, min_depth, max_depth).repeat(s, 1, 1, 1)
        warped = warp(sources, depths, K, poses)[0].unflatten(0, (s, b))
        if loss == "photometric":
            term = photometric_term(warped)
            found = {"photometric": term}
        else:
            crossed = warp(target_b3hw.repeat(s, 1, 1, 1), depths, K, inverse(poses))[0].unflatten(0, (s, b))
            errors = triplet_errors(target_b3hw, warped, crossed, unwarped)
            triplets, mask = triplet_loss(*errors, margin, stop=loss == "triplet-stop")
            term = triplets.mean()
            found = {"photometric": errors[0].mean(), "triplet": term, "reflective": mask.to(term).mean()}
        total = total + term / len(disps)
        for name, value in found.items():
            parts[name] = parts.get(name, 0.0) + value.detach() / len(disps)
        smooth = smooth + smoothness(disp, image) / (2**scale * len(disps))
    return total + smoothness_weight * smooth, parts | {"smoothness": smooth.detach()}


def log_depth_loss(
    pred: Tensor, label: Tensor, mask: Tensor | None = None, count: Tensor | None = None
) -> Tensor:
    """Compute Eq. 4, the mean of `|log F - log L|` over the pixels with a label, a scalar.

    Labels must not contain NaN: `datasets.samples` refuses it, because a check here would make a GPU wait.

    Args:
        pred: predicted depth F > 0, metres, any shape.
        label: pseudo-label L of the same shape, metres; 0 means no label.
        mask: optional bool, pixels to use. Pixels without a label are never used.
        count: divisor of the sum (scalar), for a part of a batch; by default the number of pixels used.

    Raises:
        DataError: the shapes differ.
    """
    mask, difference = _log_difference(pred, label, mask)
    return _masked_mean(difference, mask, count)


def laplacian_nll(
    pred: Tensor, log_scale: Tensor, label: Tensor, mask: Tensor | None = None, count: Tensor | None = None
) -> Tensor:
    """Compute Eq. 4 with a predicted scale b: the mean of `|log F - log L| / b + log 2b`, a scalar.

    This is the negative log-likelihood of a Laplacian distribution of the log depth (Kendall and Gal, NeurIPS 2017).
    Poggi et al. (CVPR 2020) train it on the depth of a teacher. The minimum lies at `b = mean |log F - log L|`.

    Args:
        log_scale: log b, same shape as ``pred``. The other arguments and the errors are those of `log_depth_loss`.
    """
    mask, difference = _log_difference(pred, label, mask)
    if log_scale.shape != pred.shape:
        raise DataError(f"prediction {tuple(pred.shape)} and scale {tuple(log_scale.shape)} differ in shape.")
    log_b = torch.where(mask, log_scale.to(difference.dtype), 0)
    nll = difference * torch.exp(-log_b) + log_b + math.log(2)
    return _masked_mean(torch.where(mask, nll, 0), mask, count)


def _log_difference(pred: Tensor, label: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
    """Return the mask of the pixels with a label, and |log F - log L|, which is 0 outside the mask."""
    if pred.shape != label.shape:
        raise DataError(f"prediction {tuple(pred.shape)} and label {tuple(label.shape)} differ in shape.")
    mask = label > 0 if mask is None else mask & (label > 0)
    dtype = torch.promote_types(pred.dtype, torch.float32)
    # log(1) for both depths without a label, so that no NaN reaches the gradient
    log_pred, log_label = (torch.log(torch.where(mask, depth.to(dtype), 1)) for depth in (pred, label))
    return mask, (log_pred - log_label).abs()


def _masked_mean(values: Tensor, mask: Tensor, count: Tensor | None) -> Tensor:
    return values.sum() / (mask.sum() if count is None else count).clamp(min=1)
