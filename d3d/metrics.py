"""The seven depth metrics of Eigen et al. for one image (section 4.1)."""

from __future__ import annotations

import numpy as np

from d3d.errors import ConfigError, DataError

METRICS = ("abs_rel", "sq_rel", "rmse", "rmse_log", "a1", "a2", "a3")
HIGHER_IS_BETTER = frozenset(("a1", "a2", "a3"))
# The kinds of pixels: all with ground truth, those of highlights, and the others
PIXELS = ("all", "highlight", "diffuse")


def resize_depth(depth_hw: np.ndarray, size_hw: tuple[int, int]) -> np.ndarray:
    """Resize a predicted depth map (metres) bilinearly to the ground truth's size (h, w).

    For predictions only, which are dense: bilinear interpolation would blend a sensor's holes into their neighbours.
    """
    if depth_hw.shape == tuple(size_hw):
        return depth_hw
    import torch

    depth_11hw = torch.from_numpy(np.ascontiguousarray(depth_hw, dtype=np.float32))[None, None]
    resized = torch.nn.functional.interpolate(depth_11hw, tuple(size_hw), mode="bilinear")
    return resized[0, 0].numpy()


def pixel_masks(known: np.ndarray, highlight: np.ndarray | None) -> dict[str, np.ndarray]:
    """Masks (h, w) of the known pixels by kind (`PIXELS`). A kind without a pixel is left out.

    ``highlight`` is None if the data set has no such mask.
    """
    masks = {"all": known}
    if highlight is not None:
        masks |= {"highlight": highlight & known, "diffuse": ~highlight & known}
    return {kind: mask for kind, mask in masks.items() if mask.any()}


def align(
    pred: np.ndarray, gt: np.ndarray, scale: str = "none", min_depth: float = 0.1, max_depth: float = 10.0
) -> np.ndarray:
    """Return the prediction as it is scored, float64 metres: at the truth's size (H, W), scaled, then clamped.

    See `depth_metrics` for the arguments and errors.
    """
    if scale not in ("none", "median"):
        raise ConfigError(f"scale must be 'none' or 'median', got {scale!r}.")
    valid = gt > 0
    aligned = resize_depth(np.asarray(pred), gt.shape).astype(np.float64)
    if bad := np.count_nonzero(~np.isfinite(aligned[valid])):
        raise DataError(f"the prediction has {bad} pixels that are not finite.")
    if scale == "median" and valid.any():
        median = np.median(aligned[valid])
        if median <= 0:
            raise DataError(
                f"the median of the predicted depth is {median:g} m over the pixels with ground truth: it cannot be "
                f"scaled to the median of the truth. Look at the network's depth, or score with scale 'none'."
            )
        aligned *= np.median(gt[valid]) / median
    return aligned.clip(min_depth, max_depth)


def depth_metrics(
    pred: np.ndarray,
    gt: np.ndarray,
    mask: np.ndarray | None = None,
    scale: str = "none",
    min_depth: float = 0.1,
    max_depth: float = 10.0,
) -> dict[str, float]:
    """Compute the seven metrics of one image; all are NaN if no pixel counts.

    The prediction is clamped: this keeps log(pred) finite and bounds the weight of a few far pixels. The truth is
    not: every pixel with gt > 0 counts, as the paper names no range of depths. The scripts for KITTI (Eigen et al.,
    Monodepth2) leave out the pixels whose truth lies outside min_depth .. max_depth. As everywhere in the field,
    Sq Rel (metres, like RMSE) divides the squared error by gt, not by its square.

    Args:
        pred: predicted depth (h, w), metres. It is resized bilinearly to the size of ``gt``.
        gt: ground-truth depth (H, W), metres, 0 where there is none.
        mask: bool (H, W), the pixels to count, on top of gt > 0. It has no influence on the scale.
        scale: "none" for absolute depth (ScanNet), "median" for relative depth (7-Scenes). "median" multiplies the
            prediction by median(gt) / median(pred), both over all pixels of the image with gt > 0.
        min_depth, max_depth: the clamp of the scaled prediction, metres.

    Raises:
        DataError: mask and ``gt`` differ in size, the prediction is not finite where there is truth, or its median
            is not positive and ``scale`` is "median".
        ConfigError: unknown ``scale``.
    """
    gt = np.asarray(gt, dtype=np.float64)
    if mask is not None and mask.shape != gt.shape:
        raise DataError(f"mask {mask.shape} and ground truth {gt.shape} differ in size.")
    aligned = align(pred, gt, scale, min_depth, max_depth)
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
