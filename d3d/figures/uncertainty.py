"""Figures of uncertainties: precision and recall of the pixels that each one finds, and their maps on one frame."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure

from d3d.analysis.uncertainty import REFERENCES, Comparison, ScoredFrame, frames_to_compare, stored
from d3d.datasets import Scene
from d3d.figures.colours import BLUE, GREEN, ORANGE, PURPLE, SIGNED_LIMIT_M, SKY_BLUE, VERMILLION
from d3d.figures.panels import PRINT_FONT_PT, PRINT_WIDTH_IN, SMALLEST_PT, Panel, grid, signed_error
from d3d.geometry import nearest_depth
from d3d.pipeline import stages
from d3d.pipeline.config import Config

_STYLES = (
    (BLUE, "-"),
    (VERMILLION, "--"),
    (GREEN, "-."),
    (ORANGE, (0, (5, 1, 1, 1, 1, 1))),
    (PURPLE, (0, (9, 1.5))),
    (SKY_BLUE, (0, (7, 2, 2, 2))),
)
_REFERENCE_STYLES = (("gray", (0, (1, 1))), ("black", (0, (1, 2))))


def precision_recall(
    result: Comparison,
    title: str = "",
    width_in: float = PRINT_WIDTH_IN,
    font_pt: float = PRINT_FONT_PT,
) -> Figure:
    """Precision over recall of each uncertainty, for highlights and for over-estimated highlights."""
    small = max(SMALLEST_PT, font_pt - 1)
    names = [n for n in result.table.index if n not in REFERENCES]
    styles = dict(zip(names, _STYLES, strict=False)) | dict(zip(REFERENCES, _REFERENCE_STYLES, strict=True))
    figure = Figure(figsize=(width_in, 0.56 * width_in), layout="constrained")
    if title:
        figure.suptitle(title, fontsize=font_pt + 2)
    axes = figure.subplots(1, len(result.chance), squeeze=False)[0]
    for axis, column, target in zip(axes, ("ap_highlight", "ap_over"), result.chance, strict=True):
        curves = result.curves[result.curves["target"] == target]
        for name, precision in result.table[column].sort_values(ascending=False, kind="stable").items():
            part, (colour, line) = curves[curves["uncertainty"] == name], styles[name]
            look = {"color": colour, "linestyle": line, "linewidth": 1.2}
            axis.plot(part["recall"], part["precision"], label=f"{name}: {precision:.3f}", **look)
        chance = result.chance[target]
        axis.axhline(chance, color="lightgray", linewidth=1, zorder=0, label=f"chance: {chance:.3f}")
        axis.set_title(f"finding {target} pixels", fontsize=font_pt + 1)
        axis.set_xlabel("recall: share of these that are found", fontsize=font_pt)
        axis.set_ylabel("precision", fontsize=font_pt)
        axis.tick_params(labelsize=small)
        axis.set(xlim=(0, 1), ylim=(0, None))
        axis.grid(alpha=0.3)
        # below the axes: no place among the curves is free for certain
        axis.legend(
            fontsize=small,
            title="average precision",
            title_fontsize=small,
            handlelength=3.5,
            ncols=2,
            loc="upper center",
            bbox_to_anchor=(0.5, -0.16),
            frameon=False,
        )
    return figure


def maps(
    config: Config,
    arch: str = "",
    names: Sequence[str] = (),
    width_in: float = PRINT_WIDTH_IN,
    font_pt: float = PRINT_FONT_PT,
) -> Figure:
    """Each uncertainty as a map on a scale of its own, on the training frame with most over-estimated highlight.

    White is the 98th percentile of the uncertainty, which is written on its map.

    Args:
        names: as in `d3d.analysis.uncertainty.compare`.
    """
    arch, size_hw = arch or config.arch, config.data.size_hw
    stores, predicted = stored(config, arch, names), stages.predict(config, arch)

    def over_estimated(at: tuple[Scene, int]) -> int:
        scene, i = at
        pred = predicted.read_of(scene, i)
        frame = ScoredFrame(pred, np.zeros(0), {}, scene.depth(i), scene.highlight_mask(i))
        return np.count_nonzero(frame.targets()[2])

    scene, i = max(frames_to_compare(config, 20), key=over_estimated)
    highlight = scene.highlight_mask(i, size_hw)
    off = signed_error(predicted.read_of(scene, i), nearest_depth(scene.depth(i), size_hw))
    panels = [
        Panel("image, highlights", scene.image(i, size_hw), outline=highlight),
        Panel("D − truth", off, "signed", SIGNED_LIMIT_M, highlight),
    ]
    for name, store in stores.items():
        values = store.read_of(scene, i)
        top = max(float(np.percentile(values, 98)), 1e-3)
        share = np.clip(values / top, 0, 1)
        panels.append(Panel(name, share, "share", 1.0, highlight, f"white: {top:.2f} m"))
    rows = [panels[k : k + 4] for k in range(0, len(panels), 4)]
    return grid(rows, f"{scene.name}, frame {scene.frame_ids[i]}", width_in, font_pt)
