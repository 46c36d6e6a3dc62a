"""The seven depth metrics of Eigen et al., per image, as the paper reports them (section 4.1)."""

from __future__ import annotations

import numpy as np

from d3d.errors import ConfigError, DataError

METRICS = ("abs_rel", "sq_rel", "rmse", "rmse_log", "a1", "a2", "a3")
HIGHER_IS_BETTER = frozenset(("a1", "a2", "a3"))


def resize_depth(depth_hw: np.ndarray, size_hw: tuple[int, int]) -> np.ndarray:
    """A predicted depth map resized bilinearly to the ground truth's size (h, w), metres.

    Meant for predictions, which are dense: bilinear would blend a sensor's holes into their neighbours.
    """
    if depth_hw.shape == tuple(size_hw):
        return depth_hw
    import torch

    t = torch.from_numpy(np.ascontiguousarray(depth_hw, dtype=np.float32))[None, None]
    return torch.nn.functional.interpolate(t, tuple(size_hw), mode="bilinear", align_corners=False)[
        0, 0
    ].numpy()


def depth_metrics(
    pred: np.ndarray,
    gt: np.ndarray,
    mask: np.ndarray | None = None,
    scale: str = "none",
    min_depth: float = 0.1,
    max_depth: float = 10.0,
) -> dict[str, float]:
    """The seven metrics of one image.

    Args:
        pred: predicted depth (h, w), metres; resized bilinearly to ``gt`` if it is of another size.
        gt: ground-truth depth (H, W), metres, 0 where there is none.
        mask: optional bool (H, W): pixels to count, on top of gt > 0.
        scale: "none" for absolute depth (ScanNet), "median" for relative depth (7-Scenes): the
            prediction is multiplied by median(gt) / median(pred) of this image's pixels.
        min_depth: predictions (after scaling) are clamped to min_depth .. max_depth, metres.

    Returns:
        abs_rel, sq_rel (metres), rmse (metres), rmse_log, a1, a2, a3. All NaN when no pixel counts. Note
        that the field's Sq Rel divides the squared error by gt, not by its square.

    Raises:
        DataError: mask of another size, or a prediction that is not finite.
        ConfigError: unknown ``scale``.
    """
    if scale not in ("none", "median"):
        raise ConfigError(f"scale must be 'none' or 'median', got {scale!r}.")
    gt = np.asarray(gt, dtype=np.float64)
    if mask is not None and mask.shape != gt.shape:
        raise DataError(f"mask {mask.shape} and ground truth {gt.shape} differ in size.")
    pred = resize_depth(np.asarray(pred), gt.shape)
    count = gt > 0 if mask is None else mask & (gt > 0)
    g, p = gt[count], pred[count].astype(np.float64)
    if g.size == 0:
        return dict.fromkeys(METRICS, float("nan"))
    if not np.isfinite(p).all():
        raise DataError(f"the prediction has {np.count_nonzero(~np.isfinite(p))} pixels that are not finite.")
    if scale == "median":
        p = p * (np.median(g) / np.median(p))
    p = p.clip(min_depth, max_depth)
    ratio = np.maximum(p / g, g / p)
    error = p - g
    return {
        "abs_rel": float(np.mean(np.abs(error) / g)),
        "sq_rel": float(np.mean(error**2 / g)),
        "rmse": float(np.sqrt(np.mean(error**2))),
        "rmse_log": float(np.sqrt(np.mean((np.log(p) - np.log(g)) ** 2))),
        "a1": float(np.mean(ratio < 1.25)),
        "a2": float(np.mean(ratio < 1.25**2)),
        "a3": float(np.mean(ratio < 1.25**3)),
    }
