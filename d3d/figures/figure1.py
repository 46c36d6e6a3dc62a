"""Figure 1: the photometric error along a pixel's ray (1a), and the depth that trained networks predict there (1b)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from d3d import evaluation
from d3d.analysis.photometric import SCALES, clearest_pixels, photometric_error_along_ray
from d3d.figures.colours import BLUE, GREEN, ORANGE, PURPLE, VERMILLION
from d3d.figures.dataset import TripleExample, example_triple
from d3d.figures.files import FigureWithTable
from d3d.figures.needs import require_pretrained
from d3d.figures.panels import PRINT_FONT_PT, PRINT_WIDTH_IN, SMALLEST_PT, draw_outline
from d3d.metrics import pixel_masks
from d3d.pipeline import stages
from d3d.pipeline.config import ENSEMBLE, Config

COLOURS = {"highlight": VERMILLION, "diffuse": BLUE}
LINES = {"highlight": "-", "diffuse": "--"}
TICKS = (0.2, 0.3, 0.5, 0.7, 1, 1.5, 2, 3, 4, 6, 8, 12, 20)
# One for each network, in their order
MARKERS = (("s", ORANGE), ("^", GREEN), ("D", PURPLE))


def make_a(config: Config) -> FigureWithTable:
    """Figure 1a: the photometric error along the rays of a highlight and a diffuse pixel. Needs no training."""
    example = example_triple(config)
    errors = errors_of(example)
    table = curves(errors, example.true_depth, example.highlight)
    return FigureWithTable(draw_example(example, errors, config.data.dataset), pd.DataFrame(table))


def make_b(config: Config) -> FigureWithTable:
    """Figure 1b: the same curves, and on them the depth that the three trained networks predict."""
    require_pretrained(config)
    example = example_triple(config)
    errors, target = errors_of(example), int(example.row[0])
    preds = {
        evaluation.arch_name(arch): stages.predict(config, arch).read_of(example.scene, target)
        for arch in ENSEMBLE
    }
    table = marked_depths(errors, example.true_depth, example.highlight, example.virtual, preds)
    figure = draw_example(example, errors, config.data.dataset, preds)
    return FigureWithTable(figure, pd.DataFrame(table))


def errors_of(example: TripleExample) -> np.ndarray:
    """`photometric_error_along_ray` of a triple with ground truth."""
    return photometric_error_along_ray(
        example.target, example.sources, example.true_depth, example.K, example.source_T_target
    )


def draw_example(
    example: TripleExample,
    errors: np.ndarray,
    dataset: str = "",
    preds: Mapping[str, np.ndarray] | None = None,
) -> Figure:
    """`draw` for a triple, with its name as title."""
    title = f"{dataset}: {example.name}" if dataset else example.name
    known = example.true_depth, example.highlight, example.virtual
    return draw(example.target, errors, *known, preds, title=title)


def draw(
    image: np.ndarray,
    errors: np.ndarray,
    depth_hw: np.ndarray,
    highlight: np.ndarray | None = None,
    virtual_hw: np.ndarray | None = None,
    preds: Mapping[str, np.ndarray] | None = None,
    scales: np.ndarray = SCALES,
    title: str = "",
) -> Figure:
    """Three pictures: the two clearest pixels, their errors along the ray, and the mean error of all pixels.

    Args:
        errors: (n, h, w) from `photometric_error_along_ray`.
        depth_hw: true depth, metres.
        highlight: bool (h, w), or None if the data set has no mask.
        virtual_hw: depth of the mirror image, metres, 0 where there is none; or None.
        preds: network's name -> predicted depth (h, w), marked on the curves. The last picture marks the median of
            predicted over true depth.
    """
    known = depth_hw, highlight, virtual_hw
    marks = pd.DataFrame(marked_depths(errors, *known, preds, scales)).set_index(["pixels", "depth"])
    result = Figure(figsize=(PRINT_WIDTH_IN, 2.6 if title else 2.45), layout="constrained")
    if title:
        result.suptitle(title, fontsize=PRINT_FONT_PT + 1)
    left, middle, right = result.subplots(1, 3, width_ratios=(1.2, 1.45, 1.2))
    left.imshow(image, interpolation="none")
    left.set_axis_off()
    if highlight is not None and highlight.any():
        draw_outline(left, highlight, image.shape[:2], PRINT_FONT_PT)
    for name, (y, x) in clearest_pixels(errors, highlight, scales).items():
        left.plot(x, y, "o", color=COLOURS[name], markeredgecolor="white", markersize=5)
        depths = marks.loc[f"{name} pixel", "depth_m"].to_dict()
        _curve(middle, name, f"{name} pixel", scales * depth_hw[y, x], errors[:, y, x], depths)
        for depth, style in (("true", ":"), ("mirror image", "-.")):
            if depth in depths:
                middle.axvline(depths[depth], color=COLOURS[name], linewidth=0.8, linestyle=style)
        if "mirror image" in depths:
            middle.plot([], [], color="gray", linestyle="-.", linewidth=0.8, label="its mirror image")
    middle.plot([], [], color="gray", linestyle=":", linewidth=0.8, label="true depth")
    middle.plot([], [], "v", color="gray", markersize=5, label="least error")
    middle.set_xlabel("depth tried along the ray (m)", fontsize=PRINT_FONT_PT)
    middle.set_ylabel("photometric error, Eq. 2", fontsize=PRINT_FONT_PT)
    for name, mask in _masks(depth_hw, highlight).items():
        factors = marks.loc[f"all {name} pixels", "factor"].to_dict()
        label = f"all {name} pixels: least at {factors['least error']:.2f}"
        _curve(right, name, label, scales, np.nanmean(errors[:, mask], axis=1), factors)
    if preds:
        right.plot([], [], " ", label="networks: median of predicted / true depth")
    right.axvline(1, color="gray", linewidth=0.8, linestyle=":")
    right.set_xlabel("depth tried / true depth", fontsize=PRINT_FONT_PT)
    for (marker, colour), name in zip(MARKERS, preds or {}, strict=False):
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


def _curve(
    axis: Any, name: str, label: str, x: np.ndarray, errors: np.ndarray, depths: Mapping[str, float]
) -> None:
    """An error along the ray; its minimum and the depth of each network are marked on it."""
    axis.plot(x, errors, LINES[name], color=COLOURS[name], label=label, linewidth=1.2)
    axis.plot(depths["least error"], errors.min(), "v", color=COLOURS[name], markersize=5)
    networks = [d for n, d in depths.items() if n not in ("true", "least error", "mirror image")]
    look = {"markeredgecolor": "black", "markeredgewidth": 0.5, "markersize": 4.5, "zorder": 3}
    for (marker, colour), depth in zip(MARKERS, networks, strict=False):
        axis.plot(depth, np.interp(depth, x, errors), marker, color=colour, **look)


def _masks(depth_hw: np.ndarray, highlight: np.ndarray | None) -> dict[str, np.ndarray]:
    """The diffuse and the highlight pixels; all are diffuse if the data set has no mask."""
    everything = np.ones(depth_hw.shape, bool)
    masks = pixel_masks(everything, ~everything if highlight is None else highlight)
    return {kind: masks[kind] for kind in ("diffuse", "highlight") if kind in masks}


def curves(
    errors: np.ndarray, depth_hw: np.ndarray, highlight: np.ndarray | None = None, scales: np.ndarray = SCALES
) -> dict[str, np.ndarray]:
    """The columns behind Figure 1a: the factor, depth and error of each of the two pixels, and the mean errors."""
    columns = {"factor": scales}
    for name, (y, x) in clearest_pixels(errors, highlight, scales).items():
        columns[f"{name}_pixel_depth_m"] = scales * float(depth_hw[y, x])
        columns[f"{name}_pixel_error"] = errors[:, y, x]
    for name, mask in _masks(depth_hw, highlight).items():
        columns[f"{name}_mean_error"] = np.nanmean(errors[:, mask], axis=1)
    return columns


def marked_depths(
    errors: np.ndarray,
    depth_hw: np.ndarray,
    highlight: np.ndarray | None = None,
    virtual_hw: np.ndarray | None = None,
    preds: Mapping[str, np.ndarray] | None = None,
    scales: np.ndarray = SCALES,
) -> list[dict[str, Any]]:
    """The depths that Figure 1b marks: of the two pixels, and medians over all pixels of their kind.

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
            {"pixels": f"{name} pixel", "depth": depth, "depth_m": metres, "factor": metres / truth}
            for depth, metres in found.items()
        ]
    for name, mask in _masks(depth_hw, highlight).items():
        found = {"least error": float(scales[np.nanmean(errors[:, mask], axis=1).argmin()])}
        if name == "highlight" and virtual_hw is not None and (virtual_hw[mask] > 0).any():
            found["mirror image"] = float(np.median((virtual_hw / depth_hw)[mask & (virtual_hw > 0)]))
        found |= {n: float(np.median((pred / depth_hw)[mask])) for n, pred in (preds or {}).items()}
        rows += [{"pixels": f"all {name} pixels", "depth": d, "factor": f} for d, f in found.items()]
    return rows
