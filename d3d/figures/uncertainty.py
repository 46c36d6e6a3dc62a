"""Draw precision and recall of the pixels found by each uncertainty, and maps of the uncertainties."""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure

from d3d.analysis.uncertainty import REFERENCES, Comparison, ScoredFrame, frames_to_compare, stored
from d3d.datasets import Scene
from d3d.figures.colours import BLUE, GREEN, ORANGE, PURPLE, SKY_BLUE, VERMILLION
from d3d.figures.frames import frame_of
from d3d.figures.labels import signed_error_panel
from d3d.figures.panels import PRINT_FONT_PT, PRINT_WIDTH_IN, SMALLEST_PT, Panel, grid, style
from d3d.pipeline import stages
from d3d.pipeline.config import Config

_STYLES = (
    *((BLUE, "-"), (VERMILLION, "--"), (GREEN, "-."), (ORANGE, (0, (5, 1, 1, 1, 1, 1)))),
    *((PURPLE, (0, (9, 1.5))), (SKY_BLUE, (0, (7, 2, 2, 2)))),
)
_REFERENCE_STYLES = (("gray", (0, (1, 1))), ("black", (0, (1, 2))))


def precision_recall(
    result: Comparison, width_in: float = PRINT_WIDTH_IN, font_pt: float = PRINT_FONT_PT
) -> Figure:
    """Draw precision over recall of each uncertainty, for highlights and for over-estimated highlights."""
    small = max(SMALLEST_PT, font_pt - 1)
    names = [n for n in result.table.index if n not in REFERENCES]
    styles = dict(zip(names, _STYLES, strict=False)) | dict(zip(REFERENCES, _REFERENCE_STYLES, strict=True))
    figure = Figure(figsize=(width_in, 0.56 * width_in), layout="constrained")
    axes = figure.subplots(1, len(result.chance), squeeze=False)[0]
    for axis, column, target in zip(axes, ("ap_highlight", "ap_over"), result.chance, strict=True):
        curves = result.curves.set_index(["target", "uncertainty"]).loc[target]
        for name, precision in result.table[column].sort_values(ascending=False, kind="stable").items():
            part, (colour, line) = curves.loc[name], styles[name]
            look = {"color": colour, "linestyle": line, "linewidth": 1.2}
            axis.plot(part["recall"], part["precision"], label=f"{name}: {precision:.3f}", **look)
        chance = result.chance[target]
        axis.axhline(chance, color="lightgray", linewidth=1, zorder=0, label=f"chance: {chance:.3f}")
        style(axis, f"finding {target} pixels", "recall: share of these that are found", "precision", font_pt)
        axis.set(xlim=(0, 1), ylim=(0, None))
        # below the axes: no place among the curves is free for certain
        where = {"loc": "upper center", "bbox_to_anchor": (0.5, -0.16), "frameon": False, "handlelength": 3.5}
        axis.legend(title="average precision", title_fontsize=small, fontsize=small, ncols=2, **where)
    return figure


def maps(
    config: Config, arch: str = "", width_in: float = PRINT_WIDTH_IN, font_pt: float = PRINT_FONT_PT
) -> Figure:
    """Draw each uncertainty of a run on its own scale, on the training frame with most over-estimated highlight.

    White is the 98th percentile of the uncertainty, which is written on the map.
    """
    arch = arch or config.arch
    stores, predicted = stored(config, arch), stages.predict(config, arch)

    def over_estimated(at: tuple[Scene, int]) -> int:
        scene, i = at
        pred = predicted.read_of(scene, i)
        frame = ScoredFrame(pred, np.zeros(0), {}, scene.depth(i), scene.highlight_mask(i))
        return np.count_nonzero(frame.targets()[2])

    scene, i = max(frames_to_compare(config, 20), key=over_estimated)
    frame = frame_of(config, scene, i, {"D": predicted.read_of(scene, i)})
    panels = [
        Panel("image, highlights", frame.image, outline=frame.highlight),
        signed_error_panel("D − truth", frame, "D"),
    ]
    for name, store in stores.items():
        values = store.read_of(scene, i)
        top = max(float(np.percentile(values, 98)), 1e-3)
        share = np.clip(values / top, 0, 1)
        panels.append(Panel(name, share, "share", 1.0, frame.highlight, f"white: {top:.2f} m"))
    rows = [panels[k : k + 4] for k in range(0, len(panels), 4)]
    return grid(rows, frame.name, width_in, font_pt)
