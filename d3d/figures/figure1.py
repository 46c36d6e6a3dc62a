"""Figure 1: photometric error along the ray of a pixel (1a), and the depth of trained networks on this ray (1b)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from d3d import evaluation
from d3d.analysis.photometric import SCALES, clearest_pixels, photometric_error_along_ray
from d3d.figures.colours import BLUE, GREEN, ORANGE, PURPLE, SKY_BLUE, VERMILLION
from d3d.figures.dataset import TripleExample, example_triple
from d3d.figures.files import FigureWithTable
from d3d.figures.needs import require_pretrained
from d3d.figures.panels import PRINT_FONT_PT, PRINT_WIDTH_IN, SMALLEST_PT, draw_outline, style
from d3d.metrics import pixel_masks
from d3d.pipeline import stages
from d3d.pipeline.config import Config

COLOURS = {"highlight": VERMILLION, "diffuse": BLUE}
LINES = {"highlight": "-", "diffuse": "--"}
TICKS = (0.2, 0.3, 0.5, 0.7, 1, 1.5, 2, 3, 4, 6, 8, 12, 20)
# One for each network, in their order
MARKERS = (("s", ORANGE), ("^", GREEN), ("D", PURPLE), ("P", SKY_BLUE))


def make_a(config: Config) -> FigureWithTable:
    """Make Figure 1a: the photometric error along the rays of a highlight and a diffuse pixel. Needs no training."""
    example = example_triple(config)
    errors = errors_of(example)
    return FigureWithTable(draw_example(example, errors, config.data.dataset), curves(example, errors))


def make_b(config: Config) -> FigureWithTable:
    """Make Figure 1b: the curves of Figure 1a with the depth of the trained networks."""
    require_pretrained(config)
    example = example_triple(config)
    errors, target = errors_of(example), int(example.row[0])
    preds = {
        evaluation.arch_name(a): stages.predict(config, a).read_of(example.scene, target)
        for a in config.networks
    }
    figure = draw_example(example, errors, config.data.dataset, preds)
    return FigureWithTable(figure, marked_depths(example, errors, preds))


def errors_of(example: TripleExample) -> np.ndarray:
    """Compute `photometric_error_along_ray` for a triple with ground truth."""
    return photometric_error_along_ray(
        example.target, example.sources, example.true_depth, example.K, example.source_T_target
    )


def draw_example(
    example: TripleExample,
    errors: np.ndarray,
    dataset: str = "",
    preds: Mapping[str, np.ndarray] | None = None,
) -> Figure:
    """Draw the two clearest pixels, their errors along the ray, and the mean errors of all pixels.

    Args:
        errors: (n, h, w) from `errors_of`.
        dataset: name for the title.
        preds: network -> predicted depth (h, w), metres. It is marked on the curves. The last picture marks the median
            of predicted / true depth.
    """
    truth, marks = example.true_depth, marked_depths(example, errors, preds).set_index(["pixels", "depth"])
    result = Figure(figsize=(PRINT_WIDTH_IN, 2.6), layout="constrained")
    result.suptitle(f"{dataset}: {example.name}" if dataset else example.name, fontsize=PRINT_FONT_PT + 1)
    left, middle, right = result.subplots(1, 3, width_ratios=(1.2, 1.45, 1.2))
    left.imshow(example.target, interpolation="none")
    left.set_axis_off()
    if example.highlight is not None:
        draw_outline(left, example.highlight, example.target.shape[:2], PRINT_FONT_PT)
    for name, (y, x) in clearest_pixels(errors, example.highlight).items():
        left.plot(x, y, "o", color=COLOURS[name], markeredgecolor="white", markersize=5)
        depths = marks.loc[f"{name} pixel", "depth_m"].to_dict()
        _curve(middle, name, f"{name} pixel", SCALES * truth[y, x], errors[:, y, x], depths)
        middle.axvline(depths["true"], color=COLOURS[name], linewidth=0.8, linestyle=":")
        if "mirror image" in depths:
            middle.axvline(depths["mirror image"], color=COLOURS[name], linewidth=0.8, linestyle="-.")
            middle.plot([], [], color="gray", linestyle="-.", linewidth=0.8, label="its mirror image")
    middle.plot([], [], color="gray", linestyle=":", linewidth=0.8, label="true depth")
    middle.plot([], [], "v", color="gray", markersize=5, label="least error")
    style(middle, "", "depth tried along the ray (m)", "photometric error, Eq. 2")
    for name, mask in _masks(example).items():
        factors = marks.loc[f"all {name} pixels", "factor"].to_dict()
        label = f"all {name} pixels: least at {factors['least error']:.2f}"
        _curve(right, name, label, SCALES, np.nanmean(errors[:, mask], axis=1), factors)
    if preds:
        right.plot([], [], " ", label="networks: median of predicted / true depth")
    right.axvline(1, color="gray", linewidth=0.8, linestyle=":")
    style(right, "", "depth tried / true depth")
    for (marker, colour), name in zip(MARKERS, preds or {}, strict=False):
        middle.plot([], [], marker, color=colour, markeredgecolor="black", markersize=4.5, label=name)
    for axis, columns in ((middle, 2), (right, 1)):
        axis.set_xscale("log")
        low, high = axis.get_xlim()
        axis.set_xticks([t for t in TICKS if low <= t <= high])
        axis.set_xticks([], minor=True)
        axis.xaxis.set_major_formatter("{x:g}")
        where = {"loc": "upper center", "bbox_to_anchor": (0.5, -0.22), "frameon": False}
        axis.legend(fontsize=SMALLEST_PT, ncols=columns, handlelength=2.2, **where)
    return result


def _curve(
    axis: Any, name: str, label: str, x: np.ndarray, errors: np.ndarray, depths: Mapping[str, float]
) -> None:
    """Draw an error along the ray. Mark its minimum and the depth of each network."""
    axis.plot(x, errors, LINES[name], color=COLOURS[name], label=label, linewidth=1.2)
    axis.plot(depths["least error"], errors.min(), "v", color=COLOURS[name], markersize=5)
    networks = [d for n, d in depths.items() if n not in ("true", "least error", "mirror image")]
    look = {"markeredgecolor": "black", "markeredgewidth": 0.5, "markersize": 4.5, "zorder": 3}
    for (marker, colour), depth in zip(MARKERS, networks, strict=False):
        axis.plot(depth, np.interp(depth, x, errors), marker, color=colour, **look)


def _masks(example: TripleExample) -> dict[str, np.ndarray]:
    """Return masks of diffuse and highlight pixels. Without masks in the data set, all pixels are diffuse."""
    everything = np.ones(example.target.shape[:2], bool)
    masks = pixel_masks(everything, ~everything if example.highlight is None else example.highlight)
    return {kind: masks[kind] for kind in ("diffuse", "highlight") if kind in masks}


def curves(example: TripleExample, errors: np.ndarray) -> pd.DataFrame:
    """Return the numbers of Figure 1a: factor, depth and error of the two pixels, and the mean errors."""
    columns = {"factor": SCALES}
    for name, (y, x) in clearest_pixels(errors, example.highlight).items():
        columns[f"{name}_pixel_depth_m"] = SCALES * float(example.true_depth[y, x])
        columns[f"{name}_pixel_error"] = errors[:, y, x]
    for name, mask in _masks(example).items():
        columns[f"{name}_mean_error"] = np.nanmean(errors[:, mask], axis=1)
    return pd.DataFrame(columns)


def marked_depths(
    example: TripleExample, errors: np.ndarray, preds: Mapping[str, np.ndarray] | None = None
) -> pd.DataFrame:
    """Return the depths marked in Figure 1b: for the two pixels, and medians over all pixels of their kind.

    Returns:
        Rows of pixels ("highlight pixel", "all highlight pixels", ...), depth ("true", "least error", "mirror image" or
        a network), depth_m (for single pixels) and factor (depth / true depth).
    """
    truth, areas = example.true_depth, []
    virtual = np.zeros_like(truth) if example.virtual is None else example.virtual
    for kind, (y, x) in clearest_pixels(errors, example.highlight).items():
        pixel = np.zeros(truth.shape, bool)
        pixel[y, x] = True
        areas.append((f"{kind} pixel", kind, pixel, float(truth[y, x])))
    areas += [(f"all {kind} pixels", kind, mask, np.nan) for kind, mask in _masks(example).items()]
    rows = []
    for pixels, kind, mask, true_m in areas:
        factors = {} if np.isnan(true_m) else {"true": 1.0}
        factors["least error"] = float(SCALES[np.nanmean(errors[:, mask], axis=1).argmin()])
        mirrored = mask & (virtual > 0)
        if kind == "highlight" and mirrored.any():
            factors["mirror image"] = float(np.median((virtual / truth)[mirrored]))
        for network, pred in (preds or {}).items():
            factors[network] = float(np.median((pred / truth)[mask]))
        rows += [(pixels, depth, factor * true_m, factor) for depth, factor in factors.items()]
    return pd.DataFrame(rows, columns=["pixels", "depth", "depth_m", "factor"])
