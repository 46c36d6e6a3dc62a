"""The photometric error along a pixel's ray (Eq. 1 and 2, Figure 1a).

The error of a diffuse pixel is smallest at its true depth. A highlight is the mirror image of a light behind the
surface, and moves between the views like a point at this distance. Its error is smallest beyond the true depth.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from d3d.errors import DataError
from d3d.geometry import warp
from d3d.losses import minimum_reprojection, photometric_error

# factors of the true depth, including 1
SCALES = np.sort(np.append(np.geomspace(0.5, 3.0, 60), 1.0))
BORDER = 2  # pixels at the edge of the image, where the window of SSIM is padded


@dataclass(frozen=True)
class Reprojection:
    """The sources of a triple warped into the target's view (Eq. 1), and their errors (Eq. 2)."""

    warped: np.ndarray  # (s, h, w, 3) float in [0, 1]
    errors: np.ndarray  # (s, h, w) photometric error, padded at the border as in training
    valid: np.ndarray  # (s, h, w) bool, whether the source sees the point

    @property
    def minimum(self) -> np.ndarray:
        """(h, w) minimum error over the sources with a valid projection; NaN without such a source."""
        errors = torch.from_numpy(np.where(self.valid, self.errors, np.inf))
        return np.where(self.valid.any(axis=0), minimum_reprojection(list(errors)).numpy(), np.nan)


def _tensor(array: np.ndarray) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(array, dtype=np.float32))[None]


def _image_tensor(image: np.ndarray) -> Tensor:
    return _tensor(image.transpose(2, 0, 1)) / 255


def reproject(
    target: np.ndarray,
    sources: Sequence[np.ndarray],
    depth_hw: np.ndarray,
    K_33: np.ndarray,
    source_T_target_s44: np.ndarray,
) -> Reprojection:
    """Warp the sources into the target's view with the target's depth, and compare them with the target (Eq. 1, 2).

    Args:
        target, sources: uint8 (h, w, 3) each.
        depth_hw: depth of the target, metres, > 0 everywhere.
        source_T_target_s44: maps points from the target's camera frame to each source's camera frame.

    Raises:
        DataError: a pixel has no depth.
    """
    depth = _tensor(depth_hw)[None]
    if not bool((depth > 0).all()):
        raise DataError(f"{int((depth <= 0).sum())} pixels have no depth: fill them before warping.")
    views = []
    for source, pose in zip(sources, source_T_target_s44, strict=True):
        image, seen = warp(_image_tensor(source), depth, _tensor(K_33), _tensor(pose))
        error = photometric_error(image, _image_tensor(target))
        views.append((image[0].permute(1, 2, 0).clip(0, 1), error[0, 0], seen[0, 0]))
    return Reprojection(*(torch.stack(maps).numpy() for maps in zip(*views, strict=True)))


def photometric_error_along_ray(
    target: np.ndarray,
    sources: Sequence[np.ndarray],
    depth_hw: np.ndarray,
    K_33: np.ndarray,
    source_T_target_s44: np.ndarray,
    scales: np.ndarray = SCALES,
) -> np.ndarray:
    """Compute the minimum reprojection error (n, h, w) with the true depth multiplied by each of n factors.

    Each pixel moves along its ray, together with its neighbours. The error is NaN if no source sees the point.
    """
    return np.stack(
        [reproject(target, sources, depth_hw * s, K_33, source_T_target_s44).minimum for s in scales]
    )


def clearest_pixels(errors: np.ndarray, highlight: np.ndarray | None = None) -> dict[str, tuple[int, int]]:
    """Choose the clearest example of a "highlight" pixel, if there is one, and of a "diffuse" pixel.

    The diffuse pixel has the sharpest minimum at the true depth. The highlight pixel has the largest difference between
    the error at the true depth and the minimum along the ray.

    Returns:
        (row, column) by name.

    Raises:
        DataError: no pixel is visible at every depth.
    """
    inside = np.isfinite(errors).all(axis=0)
    inside[:BORDER] = inside[-BORDER:] = inside[:, :BORDER] = inside[:, -BORDER:] = False
    usable = np.where(inside, errors, 0)
    below, at_truth, above = (usable[np.abs(SCALES - s).argmin()] for s in (0.85, 1, 1.18))
    lit = np.zeros_like(inside) if highlight is None else highlight
    gains = {
        "highlight": (inside & lit, at_truth - usable.min(axis=0)),
        "diffuse": (inside & ~lit, np.minimum(below, above) - at_truth),
    }
    result = {
        name: tuple(map(int, np.unravel_index(np.where(mask, gain, -np.inf).argmax(), gain.shape)))
        for name, (mask, gain) in gains.items()
        if mask.any()
    }
    if not result:
        raise DataError("no pixel is visible in a source at every depth: check the poses and intrinsics.")
    return result
