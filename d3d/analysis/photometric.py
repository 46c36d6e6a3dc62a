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
    """The sources of a triple warped into the target's view (Eq. 1), and their errors (Eq. 2)."""

    warped: np.ndarray  # (s, h, w, 3) float in [0, 1]
    errors: np.ndarray  # (s, h, w) photometric error, padded at the border as in training
    valid: np.ndarray  # (s, h, w) bool, whether the source sees the point

    @property
    def minimum(self) -> np.ndarray:
        """(h, w) minimum over the sources that see the point; NaN where no source does."""
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
    """Warp the sources into the target's view by the target's depth, and compare them with it (Eq. 1, 2).

    Args:
        target, sources: uint8 (h, w, 3) each.
        depth_hw: depth of the target, metres, > 0 everywhere.
        source_T_target_s44: maps points from the target's camera frame to that of each source.

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
    """Minimum reprojection error (n, h, w) with the true depth multiplied by each of n factors.

    Each pixel thus moves along its ray, together with its neighbours. NaN where no source sees the point.
    """
    return np.stack(
        [reproject(target, sources, depth_hw * s, K_33, source_T_target_s44).minimum for s in scales]
    )


def clearest_pixels(errors: np.ndarray, highlight: np.ndarray | None = None) -> dict[str, tuple[int, int]]:
    """The (row, column) of the pixels that show the effect best: "highlight", if there is one, and "diffuse".

    Diffuse: the pixel whose minimum at the true depth has the steepest sides. Highlight: the pixel whose minimum
    along the ray lies farthest below the error at the true depth.

    Raises:
        DataError: no pixel is seen at every depth tried.
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
        raise DataError("no pixel is seen by a source at every depth tried: are poses and intrinsics right?")
    return result
