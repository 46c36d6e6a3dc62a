"""Draw images and maps in rows and columns, with one colour scale for each kind of map."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from d3d.errors import DataError
from d3d.figures import colours

# Width of two columns of the paper. Figures for print have their final size, so that text of 6 pt is printed at 6 pt.
PRINT_WIDTH_IN = 6.9
PRINT_FONT_PT = 6.5
SMALLEST_PT = 6.0
PRINT_DPI = 170  # resolution of a PNG and of pictures in a PDF
PRINT = {"width_in": PRINT_WIDTH_IN, "font_pt": PRINT_FONT_PT}  # options of `grid`


@dataclass(frozen=True)
class Panel:
    """A picture in a grid.

    Attributes:
        array: (h, w, 3) or (h, w); None leaves the place empty.
        kind: "image" (uint8, or float in [0, 1]), "depth", "error" or "uncertainty" (metres; a depth of 0 is white),
            "signed" (metres around 0), "mask", or "share" (grey from 0 to ``limit``).
        limit: upper end of the colours; by default determined from all panels of the kind.
        outline: bool map of any size, drawn as an outline.
        note: short text in the lower left corner.
    """

    title: str
    array: np.ndarray | None
    kind: str = "image"
    limit: float | None = None
    outline: np.ndarray | None = None
    note: str = ""


def signed_error(depth: np.ndarray, gt: np.ndarray) -> np.ndarray:
    """Compute depth minus ground truth, metres; NaN where one of them is unknown."""
    return np.where((gt > 0) & (depth > 0), depth - gt, np.nan)


def contact_sheet(
    images: Sequence[np.ndarray],
    titles: Sequence[str],
    columns: int = 6,
    title: str = "",
    width_in: float = 12.0,
) -> Figure:
    """Draw many images as an overview."""
    panels = list(map(Panel, titles, images))
    return grid([panels[i : i + columns] for i in range(0, len(panels), columns)], title, width_in)


def grid(
    rows: Sequence[Sequence[Panel]],
    title: str = "",
    width_in: float = 12.0,
    font_pt: float = 9.0,
    names: Sequence[str] | None = None,
    notes: str = "",
    unit: str = "",
) -> Figure:
    """Draw panels in rows, with one colour scale and one colour bar for each kind of map.

    Titles that repeat the row above are left out.

    Args:
        rows: rows of panels, which may differ in length.
        width_in: width in inches; the height follows from it.
        names: names of the rows, written vertically on the left.
        notes: explanation at the bottom.
        unit: unit of the colour bars, if it is not metres.

    Raises:
        DataError: no panel has an array.
    """
    panels = [p for row in rows for p in row if p.array is not None]
    if not panels:
        raise DataError("a figure needs at least one panel.")
    columns, first = max(map(len, rows)), panels[0].array
    ranges = _colour_ranges(panels)
    kinds = [kind for kind in ("depth", "uncertainty", "error", "signed") if kind in ranges]
    small = max(SMALLEST_PT, font_pt - 0.5)
    line = 1.35 * font_pt / 72  # inches
    gap, left = 0.04, (0.2 + max(1 + n.count("\n") for n in names)) * line if names else 0.02
    cell_w = (width_in - left - 0.02 - gap * (columns - 1)) / columns
    cell_h = cell_w * first.shape[0] / first.shape[1]
    heads = _head_lines(rows)
    top = (1.7 * line if title else 0) + 0.03
    below = (2.9 * line if kinds else 0.02) + (line if notes else 0)
    height = top + sum(n * line + cell_h + gap + (0.03 if n else 0) for n in heads) + below
    figure = Figure(figsize=(width_in, height))
    if title:
        figure.suptitle(title, fontsize=font_pt + 2, y=1 - 0.3 * line / height, va="top")

    def axes_at(x: float, y: float, w: float, h: float) -> Any:
        """Add axes by the distance of their upper left corner from the upper left corner of the figure, inches."""
        return figure.add_axes((x / width_in, 1 - (y + h) / height, w / width_in, h / height))

    shown: dict[str, Any] = {}
    y = top
    for r, row in enumerate(rows):
        y += heads[r] * line + (0.03 if heads[r] else 0)
        for c, panel in enumerate(row):
            if panel.array is None:
                continue
            axis = axes_at(left + c * (cell_w + gap), y, cell_w, cell_h)
            if heads[r]:
                axis.set_title(panel.title, fontsize=font_pt, pad=2)
            shown.setdefault(panel.kind, _draw(axis, panel, ranges.get(panel.kind), font_pt, cell_w))
        if names and names[r]:
            centred = dict.fromkeys(("ha", "va", "multialignment"), "center")
            at = 0.5 * left / width_in, 1 - (y + cell_h / 2) / height
            figure.text(*at, names[r], fontsize=small, rotation=90, **centred)
        y += cell_h + gap
    for k, kind in enumerate(kinds):
        share = width_in / len(kinds)
        bar_w = min(0.8 * share, 4.0)
        axis = axes_at(k * share + (share - bar_w) / 2, y + 0.02, bar_w, 0.6 * line)
        ends = {"extend": _pointed_ends(panels, kind, ranges[kind]), "extendfrac": 0.03}
        bar = figure.colorbar(shown[kind], cax=axis, orientation="horizontal", **ends)
        bar.set_label(f"{colours.NAMES[kind]} ({unit or colours.UNITS[kind]})", fontsize=small, labelpad=1)
        bar.ax.tick_params(labelsize=max(SMALLEST_PT, font_pt - 1), length=2, pad=1.5)
    if notes:
        figure.text(0.5, 0.3 * line / height, notes, fontsize=small, ha="center")
    return figure


def _head_lines(rows: Sequence[Sequence[Panel]]) -> list[int]:
    """Count the lines of titles above each row; 0 if they repeat the row above."""
    titles = [[p.title for p in row] for row in rows]
    lines = [max(1 + t.count("\n") for t in row) if any(row) else 0 for row in titles]
    return [0 if r and titles[r] == titles[r - 1] else n for r, n in enumerate(lines)]


def _colour_ranges(panels: Sequence[Panel]) -> dict[str, tuple[float, float]]:
    """Return both ends of the colours of each kind of map: from the panels' limit, else from `colours.upper_limit`."""
    ranges = {}
    for kind in {p.kind for p in panels} & set(colours.NAMES):
        same = [p for p in panels if p.kind == kind]
        given = [p.limit for p in same if p.limit is not None]
        ranges[kind] = colours.limits(
            kind, max(given, default=0) or colours.upper_limit((p.array for p in same), kind)
        )
    return ranges


def _pointed_ends(panels: Sequence[Panel], kind: str, ends: tuple[float, float]) -> str:
    """Return the ends of a colour bar that values of the panels exceed."""
    values = np.concatenate([p.array[np.isfinite(p.array)] for p in panels if p.kind == kind])
    above, below = (values > ends[1]).any(), kind == "signed" and (values < ends[0]).any()
    return ("neither", "max", "min", "both")[above + 2 * below]


def _draw(axis: Any, panel: Panel, ends: tuple[float, float] | None, font_pt: float, width_in: float) -> Any:
    axis.set_axis_off()
    array, options = panel.array, {}
    if panel.kind in ("mask", "share"):
        options = {"cmap": "gray", "vmin": 0, "vmax": 1 if panel.kind == "mask" else panel.limit}
    elif ends is not None:
        array = colours.without_missing(array, panel.kind)
        options = {"cmap": colours.colormap(panel.kind), "vmin": ends[0], "vmax": ends[1]}
    # a PDF stores a small array pixel by pixel ("none"), and reduces a large array to the resolution of print
    small = array.shape[1] <= PRINT_DPI * width_in
    picture = axis.imshow(array, interpolation="none" if small else "antialiased", **options)
    if panel.outline is not None:
        draw_outline(axis, panel.outline, array.shape[:2], font_pt)
    if panel.note:
        box = {"facecolor": "white", "alpha": 0.85, "linewidth": 0, "pad": 1.2}
        size = max(SMALLEST_PT, font_pt - 1)
        axis.text(0.02, 0.03, panel.note, fontsize=size, transform=axis.transAxes, bbox=box)
    return picture


def draw_outline(axis: Any, mask: np.ndarray, size_hw: tuple[int, int], font_pt: float) -> None:
    """Outline a mask on a picture of this size: white with black edges, visible on any colour."""
    from matplotlib import patheffects

    if not mask.any():
        return
    # pixel centres of the mask in pixels of the picture
    y, x = ((np.arange(n) + 0.5) * size / n - 0.5 for n, size in zip(mask.shape, size_hw, strict=True))
    lines = axis.contour(x, y, mask, levels=[0.5], colors="white", linewidths=0.07 * font_pt)
    lines.set(path_effects=[patheffects.withStroke(linewidth=0.17 * font_pt, foreground="black")])


def style(
    axis: Any, title: str = "", xlabel: str = "", ylabel: str = "", font_pt: float = PRINT_FONT_PT
) -> None:
    """Add title and labels with this font size, smaller ticks, and a faint grid."""
    axis.set_title(title, fontsize=font_pt)
    axis.set_xlabel(xlabel, fontsize=font_pt)
    axis.set_ylabel(ylabel, fontsize=font_pt)
    axis.tick_params(labelsize=max(SMALLEST_PT, font_pt - 1), length=2)
    axis.grid(alpha=0.3)
