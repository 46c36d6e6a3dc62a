"""Figure 1a of the paper, measured: the photometric error along a pixel's ray, at the true depth and beyond it.

A diffuse pixel is explained best by its true depth. A highlight is the mirror image of a light: it moves
between the views as if it lay behind the surface, so that the photometric loss is least beyond the truth.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor

from d3d.errors import DataError
from d3d.geometry import warp
from d3d.losses import minimum_reprojection, photometric_error

# depth tried / true depth: the truth itself and what lies around it
SCALES = np.sort(np.append(np.geomspace(0.5, 3.0, 60), 1.0))
BORDER = 2  # pixels at the image's edge whose windows are not their own


@dataclass(frozen=True)
class Reprojection:
    """The sources of a triple seen from the target (Eq. 1) and how they differ from it (Eq. 2).

    Attributes:
        warped: (s, h, w, 3) float in [0, 1].
        errors: (s, h, w) photometric error, border padded as in training.
        valid: (s, h, w) bool, whether the source sees the point.
    """

    warped: np.ndarray
    errors: np.ndarray
    valid: np.ndarray

    @property
    def minimum(self) -> np.ndarray:
        """(h, w) minimum over the sources that see the point; NaN where none does."""
        least = minimum_reprojection(
            [torch.from_numpy(np.where(self.valid, self.errors, np.inf))[i] for i in range(len(self.errors))]
        )
        return np.where(self.valid.any(axis=0), least.numpy(), np.nan)


def _tensor(image: np.ndarray) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1))).float()[None] / 255


def reproject(
    target: np.ndarray,
    sources: Sequence[np.ndarray],
    depth_hw: np.ndarray,
    K_33: np.ndarray,
    source_T_target_s44: np.ndarray,
) -> Reprojection:
    """Warps the sources into the target's view through a depth of the target, and compares (Eq. 1, 2).

    Args:
        target: uint8 (h, w, 3).
        sources: uint8 (h, w, 3) each.
        depth_hw: depth of the target, metres, > 0 everywhere.
        source_T_target_s44: maps points of the target's camera frame to each source's.
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


def sweep(
    target: np.ndarray,
    sources: Sequence[np.ndarray],
    depth_hw: np.ndarray,
    K_33: np.ndarray,
    source_T_target_s44: np.ndarray,
    scales: np.ndarray = SCALES,
) -> np.ndarray:
    """Minimum reprojection error (n, h, w) with the true depth multiplied by each of n factors.

    Every pixel thus moves along its own ray, and its neighbours with it. NaN where no source sees the point.
    """
    return np.stack(
        [reproject(target, sources, depth_hw * s, K_33, source_T_target_s44).minimum for s in scales]
    )


def clearest_pixels(
    errors: np.ndarray, highlight: np.ndarray | None = None, scales: np.ndarray = SCALES
) -> dict[str, tuple[int, int]]:
    """The pixels (row, column) that show the effect best: "highlight", where there is one, and "diffuse".

    Diffuse: where the error's valley at the truth has the steepest sides. Highlight: where the least error
    along the ray lies farthest under that at the truth.
    """
    inside = np.isfinite(errors).all(axis=0)
    inside[:BORDER] = inside[-BORDER:] = inside[:, :BORDER] = inside[:, -BORDER:] = False
    at_truth = errors[np.abs(scales - 1).argmin()]
    usable = np.where(inside, errors, 0)
    diffuse = inside if highlight is None else inside & ~highlight
    result = {}
    if highlight is not None and (inside & highlight).any():
        gain = np.where(inside & highlight, at_truth - usable.min(axis=0), -np.inf)
        result["highlight"] = tuple(map(int, np.unravel_index(gain.argmax(), gain.shape)))
    if diffuse.any():
        sides = [usable[np.abs(scales - s).argmin()] for s in (0.85, 1.18)]
        gain = np.where(diffuse, np.minimum(*sides) - at_truth, -np.inf)
        result["diffuse"] = tuple(map(int, np.unravel_index(gain.argmax(), gain.shape)))
    if not result:
        raise DataError("no pixel is seen by a source at every depth tried: are poses and intrinsics right?")
    return result


COLOURS = {"highlight": "tab:red", "diffuse": "tab:blue"}


def figure(
    image: np.ndarray,
    errors: np.ndarray,
    depth_hw: np.ndarray,
    highlight: np.ndarray | None = None,
    virtual_hw: np.ndarray | None = None,
    scales: np.ndarray = SCALES,
    title: str = "",
) -> Figure:
    """The premise in three pictures: where the two pixels are, their error along the ray, and that of all pixels.

    Args:
        errors: (n, h, w) from `sweep`.
        depth_hw: true depth, metres.
        highlight: bool (h, w), or None where the data set knows none.
        virtual_hw: depth of the mirror image, metres, 0 where there is none; or None.
    """
    pixels = clearest_pixels(errors, highlight, scales)
    result = Figure(figsize=(12, 3.3), layout="constrained")
    if title:
        result.suptitle(title, fontsize=11)
    left, middle, right = result.subplots(1, 3, width_ratios=(1.25, 1.4, 1.2))
    left.imshow(image)
    left.set_axis_off()
    if highlight is not None and highlight.any():
        left.contour(highlight, levels=[0.5], colors="tab:red", linewidths=0.8)
    for name, (y, x) in pixels.items():
        left.plot(x, y, "o", color=COLOURS[name], markeredgecolor="white", markersize=8)
        depth, curve = float(depth_hw[y, x]), errors[:, y, x]
        middle.plot(scales * depth, curve, color=COLOURS[name], label=f"{name} pixel")
        middle.axvline(depth, color=COLOURS[name], linewidth=1, linestyle=":")
        middle.plot(scales[curve.argmin()] * depth, curve.min(), "v", color=COLOURS[name])
        if name == "highlight" and virtual_hw is not None and virtual_hw[y, x] > 0:
            middle.axvline(float(virtual_hw[y, x]), color=COLOURS[name], linewidth=1, linestyle="--")
            middle.plot([], [], color="gray", linestyle="--", label="mirror image")
    middle.plot([], [], color="gray", linestyle=":", label="true depth")
    middle.set_xlabel("depth tried along the ray (m)")
    middle.set_ylabel("photometric error, Eq. 2")
    kinds = {
        "diffuse": np.ones(depth_hw.shape, bool) if highlight is None else ~highlight,
        "highlight": highlight,
    }
    for name, mask in kinds.items():
        if mask is not None and mask.any():
            mean = np.nanmean(errors[:, mask], axis=1)
            text = f"all {name} pixels: least at {scales[mean.argmin()]:.2f}"
            right.plot(scales, mean, color=COLOURS[name], label=text)
            right.plot(scales[mean.argmin()], mean.min(), "v", color=COLOURS[name])
    right.axvline(1, color="gray", linewidth=1, linestyle=":")
    right.set_xlabel("depth tried / true depth")
    for axis in (middle, right):
        axis.set_xscale("log")
        axis.xaxis.set_major_formatter("{x:g}")
        axis.xaxis.set_minor_formatter("{x:g}")
        axis.tick_params(labelsize=7, which="both")
        axis.grid(alpha=0.3)
        axis.legend(fontsize=7)
    return result


def curves(
    errors: np.ndarray, depth_hw: np.ndarray, highlight: np.ndarray | None = None, scales: np.ndarray = SCALES
) -> dict[str, np.ndarray]:
    """The numbers behind `figure`, column by column: factor, each pixel's depth tried and error, and the means."""
    columns = {"factor": scales}
    for name, (y, x) in clearest_pixels(errors, highlight, scales).items():
        columns[f"{name}_pixel_depth_m"] = scales * float(depth_hw[y, x])
        columns[f"{name}_pixel_error"] = errors[:, y, x]
    kinds = {
        "diffuse": np.ones(depth_hw.shape, bool) if highlight is None else ~highlight,
        "highlight": highlight,
    }
    for name, mask in kinds.items():
        if mask is not None and mask.any():
            columns[f"{name}_mean_error"] = np.nanmean(errors[:, mask], axis=1)
    return columns
