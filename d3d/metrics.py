"""Compute the seven depth metrics of Eigen et al. for one image (section 4.1)."""

from __future__ import annotations

import numpy as np

from d3d.errors import ConfigError, DataError, rounded

METRICS = ("abs_rel", "sq_rel", "rmse", "rmse_log", "a1", "a2", "a3")
HIGHER_IS_BETTER = frozenset(("a1", "a2", "a3"))
# kinds of pixels: all pixels with ground truth, highlights, other pixels
PIXELS = ("all", "highlight", "diffuse")
# how each prediction is aligned to its truth, see `depth_metrics`
SCALES = ("none", "median", "affine", "affine-disparity")


def resize_depth(depth_hw: np.ndarray, size_hw: tuple[int, int]) -> np.ndarray:
    """Resize a predicted depth map (metres) bilinearly to the size (h, w) of the ground truth.

    For dense predictions only: bilinear interpolation would blend the holes of a sensor with their neighbours.
    """
    if depth_hw.shape == tuple(size_hw):
        return depth_hw
    import torch

    depth_11hw = torch.from_numpy(np.ascontiguousarray(depth_hw, dtype=np.float32))[None, None]
    resized = torch.nn.functional.interpolate(depth_11hw, tuple(size_hw), mode="bilinear")
    return resized[0, 0].numpy()


def pixel_masks(known: np.ndarray, highlight: np.ndarray | None) -> dict[str, np.ndarray]:
    """Split the known pixels by kind (`PIXELS`) into masks (h, w). Empty masks are left out.

    Args:
        known: bool (h, w), pixels with ground truth.
        highlight: bool (h, w), or None if the data set has no masks.
    """
    masks = {"all": known}
    if highlight is not None:
        masks |= {"highlight": highlight & known, "diffuse": ~highlight & known}
    return {kind: mask for kind, mask in masks.items() if mask.any()}


def align(
    pred: np.ndarray,
    gt: np.ndarray,
    scale: str = "none",
    min_depth: float = 0.1,
    max_depth: float = 10.0,
    disparity: bool = False,
) -> np.ndarray:
    """Resize the prediction to the size (H, W) of the truth, align and clamp it; float64, metres.

    See `depth_metrics` for the arguments and errors.
    """
    if scale not in SCALES:
        raise ConfigError(f"scale must be one of {', '.join(map(repr, SCALES))}, got {scale!r}.")
    if disparity and scale != "affine-disparity":
        raise ConfigError(f"disparity is scored with scale 'affine-disparity' only, not with {scale!r}.")
    valid = gt > 0
    aligned = resize_depth(np.asarray(pred), gt.shape).astype(np.float64)
    if bad := np.count_nonzero(~np.isfinite(aligned[valid])):
        raise DataError(
            f"the prediction has {bad} pixels that are not finite, but have truth. Give every pixel a depth, such as "
            "its neighbour's."
        )
    if scale == "none" or not valid.any():
        return aligned.clip(min_depth, max_depth)
    if scale == "median":
        median = np.median(aligned[valid])
        if median <= 0:
            raise DataError(
                f"the predicted depth has median {rounded(median, 6)} m over the pixels with ground truth: it cannot "
                f"be scaled to the median of the truth. Look at the network's depth, or score with scale 'none'."
            )
        return (aligned * (np.median(gt[valid]) / median)).clip(min_depth, max_depth)
    if scale == "affine":
        a, b = fit_line(aligned[valid], gt[valid])
        return (a * aligned + b).clip(min_depth, max_depth)
    if not disparity:
        if bad := np.count_nonzero(aligned[valid] <= 0):
            raise DataError(
                f"the predicted depth is not positive at {bad} pixels with ground truth: it has no disparity there."
            )
        aligned = 1 / np.where(valid, aligned, 1)
    a, b = fit_line(aligned[valid], 1 / gt[valid])
    return 1 / (a * aligned + b).clip(1 / max_depth, 1 / min_depth)


def fit_line(x: np.ndarray, y: np.ndarray) -> tuple[float, float]:
    """Fit y = a x + b by least squares.

    If all x are equal, every line through the mean of y has the least error. The result is then a = 0 and b = mean(y).

    Args:
        x, y: (n,) values, n > 0.
    """
    x, y = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)
    # differences from the mean: sums of squares would lose digits if x varies little
    dx = x - x.mean()
    spread = dx @ dx
    # the mean of equal numbers may differ from them in the last digits
    constant = spread <= x.size * (4 * np.finfo(np.float64).eps * np.abs(x).max()) ** 2
    a = 0.0 if constant else float(dx @ (y - y.mean()) / spread)
    return a, float(y.mean() - a * x.mean())


def depth_metrics(
    pred: np.ndarray,
    gt: np.ndarray,
    mask: np.ndarray | None = None,
    scale: str = "none",
    min_depth: float = 0.1,
    max_depth: float = 10.0,
    disparity: bool = False,
) -> dict[str, float]:
    """Compute the seven metrics of one image. They are NaN if the mask is empty.

    The prediction is clamped, which keeps log(pred) finite and bounds the weight of far pixels. The truth is not: every
    pixel with gt > 0 counts, because the paper names no range of depths. The scripts for KITTI (Eigen et al.,
    Monodepth2) leave out the pixels whose truth lies outside min_depth .. max_depth. Sq Rel (metres, like RMSE) divides
    the squared error by gt, not by its square, as is usual in the field.

    Args:
        pred: predicted depth (h, w), metres. It is resized bilinearly to the size of ``gt``.
        gt: ground-truth depth (H, W), metres, 0 where unknown.
        mask: bool (H, W), pixels to count among the pixels with gt > 0. It does not change the scale.
        scale: alignment of the prediction to the truth, over all pixels with gt > 0:

            - "none": absolute depth (ScanNet).
            - "median": relative depth (7-Scenes), multiplied by median(gt) / median(pred).
            - "affine": a * pred + b, with the least squared error in depth.
            - "affine-disparity": 1 / (a / pred + b), with the least squared error in disparity 1 / gt, as MiDaS and
              Depth Anything are usually scored.
        min_depth, max_depth: range of the aligned prediction, metres.
        disparity: ``pred`` holds disparity, known up to scale and shift, instead of depth; for "affine-disparity" only.

    Raises:
        DataError: ``mask`` and ``gt`` differ in size; the prediction is not finite at a pixel with truth; ``scale`` is
            "median" and the median of the prediction is not positive; or ``scale`` is "affine-disparity" and a depth
            at a pixel with truth is not positive.
        ConfigError: ``scale`` is unknown, or does not fit ``disparity``.
    """
    gt = np.asarray(gt, dtype=np.float64)
    if mask is not None and mask.shape != gt.shape:
        raise DataError(f"mask {mask.shape} and ground truth {gt.shape} differ in size.")
    aligned = align(pred, gt, scale, min_depth, max_depth, disparity)
    count = gt > 0 if mask is None else mask & (gt > 0)
    g, p = gt[count], aligned[count]
    if g.size == 0:
        return dict.fromkeys(METRICS, float("nan"))
    ratio = np.maximum(p / g, g / p)
    error = p - g
    return {
        "abs_rel": float(np.mean(np.abs(error) / g)),
        "sq_rel": float(np.mean(error**2 / g)),
        "rmse": float(np.sqrt(np.mean(error**2))),
        "rmse_log": float(np.sqrt(np.mean((np.log(p) - np.log(g)) ** 2))),
        **{f"a{k}": float(np.mean(ratio < 1.25**k)) for k in (1, 2, 3)},
    }
