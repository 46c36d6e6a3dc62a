"""The photometric error along a pixel's ray, at the true depth and beyond it (Eq. 1 and 2, Figure 1a).

The error of a diffuse pixel is smallest at its true depth. A highlight is the mirror image of a light: between the
views it moves as if it lay behind the surface, and its error is smallest there, beyond the true depth.
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

# The factors that the true depth is multiplied by; 1 is among them
SCALES = np.sort(np.append(np.geomspace(0.5, 3.0, 60), 1.0))
BORDER = 2  # pixels at the edge of the image, where the window of SSIM is padded


@dataclass(frozen=True)
class Reprojection:
    """The sources of a triple warped into the target's view (Eq. 1), and their errors (Eq. 2).

    Attributes:
        warped: (s, h, w, 3) float in [0, 1].
        errors: (s, h, w) photometric error, padded at the border as in training.
        valid: (s, h, w) bool, whether the source sees the point.
    """

    warped: np.ndarray
    errors: np.ndarray
    valid: np.ndarray

    @property
    def minimum(self) -> np.ndarray:
        """(h, w) minimum over the sources that see the point; NaN where no source does."""
        errors = torch.from_numpy(np.where(self.valid, self.errors, np.inf))
        return np.where(self.valid.any(axis=0), minimum_reprojection(list(errors)).numpy(), np.nan)


def _tensor(image: np.ndarray) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1))).float()[None] / 255


def reproject(
    target: np.ndarray,
    sources: Sequence[np.ndarray],
    depth_hw: np.ndarray,
    K_33: np.ndarray,
    source_T_target_s44: np.ndarray,
) -> Reprojection:
    """Warp the sources into the target's view by the target's depth, and compare them with it (Eq. 1, 2).

    Args:
        target: uint8 (h, w, 3).
        sources: uint8 (h, w, 3) each.
        depth_hw: depth of the target, metres, > 0 everywhere.
        source_T_target_s44: maps points from the target's camera frame to that of each source.

    Raises:
        DataError: a pixel has no depth.
    """
    depth = torch.from_numpy(np.ascontiguousarray(depth_hw, dtype=np.float32))[None, None]
    if not bool((depth > 0).all()):
        raise DataError(f"{int((depth <= 0).sum())} pixels have no depth: fill them before warping.")
    K = torch.from_numpy(np.asarray(K_33)).float()[None]
    warped, errors, valid = [], [], []
    for source, pose in zip(sources, source_T_target_s44, strict=True):
        image, seen = warp(_tensor(source), depth, K, torch.from_numpy(np.asarray(pose)).float()[None])
        warped.append(image[0].numpy().transpose(1, 2, 0).clip(0, 1))
        errors.append(photometric_error(image, _tensor(target))[0, 0].numpy())
        valid.append(seen[0, 0].numpy())
    return Reprojection(np.stack(warped), np.stack(errors), np.stack(valid))


def photometric_error_along_ray(
    target: np.ndarray,
    sources: Sequence[np.ndarray],
    depth_hw: np.ndarray,
    K_33: np.ndarray,
    source_T_target_s44: np.ndarray,
    scales: np.ndarray = SCALES,
) -> np.ndarray:
    """Minimum reprojection error (n, h, w) with the true depth multiplied by each of n factors.

    Each pixel thus moves along its ray, together with its neighbours. NaN where no source sees the point.
    """
    return np.stack(
        [reproject(target, sources, depth_hw * s, K_33, source_T_target_s44).minimum for s in scales]
    )


def clearest_pixels(
    errors: np.ndarray, highlight: np.ndarray | None = None, scales: np.ndarray = SCALES
) -> dict[str, tuple[int, int]]:
    """The (row, column) of the pixels that show the effect best: "highlight", if there is one, and "diffuse".

    Diffuse: the pixel whose minimum at the true depth has the steepest sides. Highlight: the pixel whose minimum
    along the ray lies farthest below the error at the true depth.

    Raises:
        DataError: no pixel is seen at every depth tried.
    """
    inside = np.isfinite(errors).all(axis=0)
    inside[:BORDER] = inside[-BORDER:] = inside[:, :BORDER] = inside[:, -BORDER:] = False
    at_truth = errors[np.abs(scales - 1).argmin()]
    usable = np.where(inside, errors, 0)
    below, above = (usable[np.abs(scales - s).argmin()] for s in (0.85, 1.18))
    gains = {"diffuse": (inside, np.minimum(below, above) - at_truth)}
    if highlight is not None:
        gains = {
            "highlight": (inside & highlight, at_truth - usable.min(axis=0)),
            "diffuse": (inside & ~highlight, gains["diffuse"][1]),
        }
    result = {
        name: tuple(map(int, np.unravel_index(np.where(mask, gain, -np.inf).argmax(), gain.shape)))
        for name, (mask, gain) in gains.items()
        if mask.any()
    }
    if not result:
        raise DataError("no pixel is seen by a source at every depth tried: are poses and intrinsics right?")
    return result
