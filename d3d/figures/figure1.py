"""Figure 1a of the paper, measured: the photometric error along a pixel's ray, at the true depth and beyond it.

A diffuse pixel is explained best by its true depth. A highlight is the mirror image of a light: it moves
between the views as if it lay behind the surface, so that the photometric loss is least beyond the truth.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor

from d3d.errors import DataError
from d3d.figures.charts import BLUE, GREEN, ORANGE, PURPLE, VERMILLION
from d3d.figures.panels import PRINT_FONT_PT, PRINT_WIDTH_IN, SMALLEST_PT, draw_outline
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


COLOURS = {"highlight": VERMILLION, "diffuse": BLUE}
LINES = {"highlight": "-", "diffuse": "--"}
TICKS = (0.2, 0.3, 0.5, 0.7, 1, 1.5, 2, 3, 4, 6, 8, 12, 20)
# of the networks, in their order
MARKS = (("s", ORANGE), ("^", GREEN), ("D", PURPLE))


def figure(
    image: np.ndarray,
    errors: np.ndarray,
    depth_hw: np.ndarray,
    highlight: np.ndarray | None = None,
    virtual_hw: np.ndarray | None = None,
    preds: Mapping[str, np.ndarray] | None = None,
    scales: np.ndarray = SCALES,
    title: str = "",
) -> Figure:
    """The premise in three pictures: where the two pixels are, their error along the ray, and that of all pixels.

    Args:
        errors: (n, h, w) from `sweep`.
        depth_hw: true depth, metres.
        highlight: bool (h, w), or None where the data set knows none.
        virtual_hw: depth of the mirror image, metres, 0 where there is none; or None.
        preds: network's name -> predicted depth (h, w), marked on the curves; in the last picture the median of
            predicted over true depth.
    """
    pixels = clearest_pixels(errors, highlight, scales)
    result = Figure(figsize=(PRINT_WIDTH_IN, 2.6 if title else 2.45), layout="constrained")
    if title:
        result.suptitle(title, fontsize=PRINT_FONT_PT + 1)
    left, middle, right = result.subplots(1, 3, width_ratios=(1.2, 1.45, 1.2))
    left.imshow(image, interpolation="none")
    left.set_axis_off()
    if highlight is not None and highlight.any():
        draw_outline(left, highlight, image.shape[:2], PRINT_FONT_PT)
    for name, (y, x) in pixels.items():
        colour, depth, curve = COLOURS[name], float(depth_hw[y, x]), errors[:, y, x]
        left.plot(x, y, "o", color=colour, markeredgecolor="white", markersize=5)
        middle.plot(scales * depth, curve, LINES[name], color=colour, label=f"{name} pixel", linewidth=1.2)
        middle.axvline(depth, color=colour, linewidth=0.8, linestyle=":")
        middle.plot(scales[curve.argmin()] * depth, curve.min(), "v", color=colour, markersize=5)
        if name == "highlight" and virtual_hw is not None and virtual_hw[y, x] > 0:
            middle.axvline(float(virtual_hw[y, x]), color=colour, linewidth=0.8, linestyle="-.")
            middle.plot([], [], color="gray", linestyle="-.", linewidth=0.8, label="its mirror image")
        _mark(middle, preds, lambda pred, y=y, x=x: pred[y, x], scales * depth, curve)
    middle.plot([], [], color="gray", linestyle=":", linewidth=0.8, label="true depth")
    middle.plot([], [], "v", color="gray", markersize=5, label="least error")
    middle.set_xlabel("depth tried along the ray (m)", fontsize=PRINT_FONT_PT)
    middle.set_ylabel("photometric error, Eq. 2", fontsize=PRINT_FONT_PT)
    for name, mask in _kinds(depth_hw, highlight).items():
        mean = np.nanmean(errors[:, mask], axis=1)
        text = f"all {name} pixels: least at {scales[mean.argmin()]:.2f}"
        right.plot(scales, mean, LINES[name], color=COLOURS[name], label=text, linewidth=1.2)
        right.plot(scales[mean.argmin()], mean.min(), "v", color=COLOURS[name], markersize=5)
        _mark(right, preds, lambda pred, mask=mask: np.median((pred / depth_hw)[mask]), scales, mean)
    if preds:
        right.plot([], [], " ", label="networks: median of predicted / true depth")
    right.axvline(1, color="gray", linewidth=0.8, linestyle=":")
    right.set_xlabel("depth tried / true depth", fontsize=PRINT_FONT_PT)
    for (marker, colour), name in zip(MARKS, preds or {}, strict=False):
        middle.plot([], [], marker, color=colour, markeredgecolor="black", markersize=4.5, label=name)
    for axis in (middle, right):
        axis.set_xscale("log")
        low, high = axis.get_xlim()
        axis.set_xticks([t for t in TICKS if low <= t <= high])
        axis.set_xticks([], minor=True)
        axis.xaxis.set_major_formatter("{x:g}")
        axis.tick_params(labelsize=SMALLEST_PT, length=2)
        axis.grid(alpha=0.3)
        where = {"loc": "upper center", "bbox_to_anchor": (0.5, -0.22), "frameon": False}
        axis.legend(fontsize=SMALLEST_PT, ncols=2 if axis is middle else 1, handlelength=2.2, **where)
    return result


def _kinds(depth_hw: np.ndarray, highlight: np.ndarray | None) -> dict[str, np.ndarray]:
    """Which pixels are highlight and which diffuse, where there are any."""
    if highlight is None:
        return {"diffuse": np.ones(depth_hw.shape, bool)}
    return {name: mask for name, mask in (("diffuse", ~highlight), ("highlight", highlight)) if mask.any()}


def _mark(
    axis: Any, preds: Mapping[str, np.ndarray] | None, at: Any, x: np.ndarray, curve: np.ndarray
) -> None:
    """Each network's depth as a mark on a curve, at the curve's end where it lies beyond it."""
    for (marker, colour), pred in zip(MARKS, (preds or {}).values(), strict=False):
        place = float(at(pred))
        axis.plot(
            place,
            np.interp(place, x, curve),
            marker,
            color=colour,
            markeredgecolor="black",
            markeredgewidth=0.5,
            markersize=4.5,
            zorder=3,
        )


def curves(
    errors: np.ndarray, depth_hw: np.ndarray, highlight: np.ndarray | None = None, scales: np.ndarray = SCALES
) -> dict[str, np.ndarray]:
    """The numbers behind `figure`, column by column: factor, each pixel's depth tried and error, and the means."""
    columns = {"factor": scales}
    for name, (y, x) in clearest_pixels(errors, highlight, scales).items():
        columns[f"{name}_pixel_depth_m"] = scales * float(depth_hw[y, x])
        columns[f"{name}_pixel_error"] = errors[:, y, x]
    for name, mask in _kinds(depth_hw, highlight).items():
        columns[f"{name}_mean_error"] = np.nanmean(errors[:, mask], axis=1)
    return columns


def marks(
    errors: np.ndarray,
    depth_hw: np.ndarray,
    highlight: np.ndarray | None = None,
    virtual_hw: np.ndarray | None = None,
    preds: Mapping[str, np.ndarray] | None = None,
    scales: np.ndarray = SCALES,
) -> list[dict[str, Any]]:
    """The depths that `figure` marks, one row each: of the two pixels, and medians over all pixels of their kind.

    Returns:
        rows of pixels ("highlight pixel", "all highlight pixels", ...), depth ("true", "least error", "mirror
        image" or a network's name), depth_m (of a single pixel) and factor (over the true depth).
    """
    rows = []
    for name, (y, x) in clearest_pixels(errors, highlight, scales).items():
        truth = float(depth_hw[y, x])
        found = {"true": truth, "least error": truth * float(scales[errors[:, y, x].argmin()])}
        if name == "highlight" and virtual_hw is not None and virtual_hw[y, x] > 0:
            found["mirror image"] = float(virtual_hw[y, x])
        found |= {network: float(pred[y, x]) for network, pred in (preds or {}).items()}
        rows += [
            {"pixels": f"{name} pixel", "depth": what, "depth_m": depth, "factor": depth / truth}
            for what, depth in found.items()
        ]
    for name, mask in _kinds(depth_hw, highlight).items():
        found = {"least error": float(scales[np.nanmean(errors[:, mask], axis=1).argmin()])}
        if name == "highlight" and virtual_hw is not None and (virtual_hw[mask] > 0).any():
            seen = mask & (virtual_hw > 0)
            found["mirror image"] = float(np.median((virtual_hw / depth_hw)[seen]))
        found |= {n: float(np.median((pred / depth_hw)[mask])) for n, pred in (preds or {}).items()}
        rows += [{"pixels": f"all {name} pixels", "depth": w, "factor": f} for w, f in found.items()]
    return rows
