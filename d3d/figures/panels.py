"""Images and maps in rows and columns, with one colour scale for each kind of map."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from d3d.errors import DataError
from d3d.figures import colours

# The width of two columns of the paper. Figures for print are drawn at their final size: 6 pt of text are 6 pt.
PRINT_WIDTH_IN = 6.9
PRINT_FONT_PT = 6.5
SMALLEST_PT = 6.0
PRINT_DPI = 170  # of a PNG, and of the pictures in a PDF
PRINT = {"width_in": PRINT_WIDTH_IN, "font_pt": PRINT_FONT_PT}  # options of `grid`
_POINTS_PER_INCH = 72


@dataclass(frozen=True)
class Panel:
    """One picture of a grid.

    Attributes:
        array: (h, w, 3) or (h, w); None leaves the place empty.
        kind: "image" (uint8, or float in [0, 1]), "depth", "error" or "uncertainty" (metres; a depth of 0 is white),
            "signed" (metres around 0), "mask", or "share" (grey from 0 to ``limit``).
        limit: upper end of the colours; by default from all panels of the kind.
        outline: bool map of any size, drawn as a line around its pixels.
        note: a few characters in the lower left corner.
    """

    title: str
    array: np.ndarray | None
    kind: str = "image"
    limit: float | None = None
    outline: np.ndarray | None = None
    note: str = ""


def signed_error(depth: np.ndarray, gt: np.ndarray) -> np.ndarray:
    """Depth minus ground truth, metres; NaN where either is unknown."""
    return np.where((gt > 0) & (depth > 0), depth - gt, np.nan)


def _limit(panels: Sequence[Panel], kind: str) -> float:
    """Upper end of the colours of a kind: the given limit, or that of `colours.upper_limit`."""
    given = [p.limit for p in panels if p.kind == kind and p.limit is not None]
    return max(given) if given else colours.upper_limit((p.array for p in panels if p.kind == kind), kind)


def contact_sheet(
    images: Sequence[np.ndarray],
    titles: Sequence[str],
    columns: int = 6,
    title: str = "",
    width_in: float = 12.0,
) -> Figure:
    """Many images at a glance."""
    panels = [Panel(t, i) for t, i in zip(titles, images, strict=True)]
    return grid([panels[i : i + columns] for i in range(0, len(panels), columns)], title, width_in)


def grid(
    rows: Sequence[Sequence[Panel]],
    title: str = "",
    width_in: float = 12.0,
    font_pt: float = 9.0,
    names: Sequence[str] | None = None,
    notes: str = "",
) -> Figure:
    """Panels in rows, with one colour scale and one colour bar for each kind of map.

    Titles are left out where the row above has the same.

    Args:
        rows: the panels; rows may differ in length.
        width_in: width of the figure, inches; the height follows from it.
        font_pt: size of the panels' titles.
        names: the name of each row, written vertically at its left.
        notes: an explanation at the bottom.

    Raises:
        DataError: no panel has an array.
    """
    panels = [p for row in rows for p in row]
    if not any(p.array is not None for p in panels):
        raise DataError("a figure needs at least one panel.")
    columns = max(len(row) for row in rows)
    first = next(p.array for p in panels if p.array is not None)
    drawn = {p.kind for p in panels if p.array is not None}
    kinds = [kind for kind in ("depth", "uncertainty", "error", "signed") if kind in drawn]
    small = max(SMALLEST_PT, font_pt - 0.5)
    line = 1.35 * font_pt / _POINTS_PER_INCH
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
        """Axes placed by the distance of their upper left corner from that of the figure, inches."""
        return figure.add_axes((x / width_in, 1 - (y + h) / height, w / width_in, h / height))

    shown: dict[str, Any] = {}
    y = top
    for r, row in enumerate(rows):
        y += heads[r] * line + (0.03 if heads[r] else 0)
        for c, panel in enumerate(row):
            if panel.array is None:
                continue
            axis = axes_at(left + c * (cell_w + gap), y, cell_w, cell_h)
            axis.set_axis_off()
            if heads[r]:
                axis.set_title(panel.title, fontsize=font_pt, pad=2)
            shown.setdefault(panel.kind, _draw(axis, panel, panels, font_pt, cell_w))
        if names and names[r]:
            centred = dict.fromkeys(("ha", "va", "multialignment"), "center")
            at = 0.5 * left / width_in, 1 - (y + cell_h / 2) / height
            figure.text(*at, names[r], fontsize=small, rotation=90, **centred)
        y += cell_h + gap
    share = width_in / max(1, len(kinds))
    for k, kind in enumerate(kinds):
        bar_w = min(0.8 * share, 4.0)
        axis = axes_at(k * share + (share - bar_w) / 2, y + 0.02, bar_w, 0.6 * line)
        ends = {"extend": _extend(panels, kind), "extendfrac": 0.03}
        bar = figure.colorbar(shown[kind], cax=axis, orientation="horizontal", **ends)
        bar.set_label(f"{colours.NAMES[kind]} ({colours.UNITS[kind]})", fontsize=small, labelpad=1)
        bar.ax.tick_params(labelsize=max(SMALLEST_PT, font_pt - 1), length=2, pad=1.5)
    if notes:
        figure.text(0.5, 0.3 * line / height, notes, fontsize=small, ha="center")
    return figure


def _head_lines(rows: Sequence[Sequence[Panel]]) -> list[int]:
    """Lines of titles above each row: none where the row above has the same titles."""
    result = []
    for r, row in enumerate(rows):
        titles = [p.title for p in row]
        again = r > 0 and titles == [p.title for p in rows[r - 1]]
        result.append(0 if again or not any(titles) else max(1 + t.count("\n") for t in titles))
    return result


def _extend(panels: Sequence[Panel], kind: str) -> str:
    """The ends of a colour bar that are pointed, since a panel has values beyond them."""
    low, high = colours.limits(kind, _limit(panels, kind))
    arrays = [p.array[np.isfinite(p.array)] for p in panels if p.kind == kind and p.array is not None]
    above = any((a > high).any() for a in arrays)
    below = kind == "signed" and any((a < low).any() for a in arrays)
    return {(True, True): "both", (True, False): "max", (False, True): "min"}.get((above, below), "neither")


def _draw(axis: Any, panel: Panel, panels: Sequence[Panel], font_pt: float, width_in: float) -> Any:
    options: dict[str, Any] = {}
    array = panel.array
    if panel.kind in ("mask", "share"):
        options = {"cmap": "gray", "vmin": 0, "vmax": 1 if panel.kind == "mask" else panel.limit}
    elif panel.kind != "image":
        low, high = colours.limits(panel.kind, _limit(panels, panel.kind))
        array = colours.without_missing(array, panel.kind)
        options = {"cmap": colours.colormap(panel.kind), "vmin": low, "vmax": high}
    # a small array goes into a PDF pixel by pixel ("none"), a large one is reduced to the resolution of print
    small = array.shape[1] <= PRINT_DPI * width_in
    picture = axis.imshow(array, interpolation="none" if small else "antialiased", **options)
    if panel.outline is not None and panel.outline.any():
        draw_outline(axis, panel.outline, array.shape[:2], font_pt)
    if panel.note:
        box = {"facecolor": "white", "alpha": 0.85, "linewidth": 0, "pad": 1.2}
        small = max(SMALLEST_PT, font_pt - 1)
        axis.text(0.02, 0.03, panel.note, fontsize=small, transform=axis.transAxes, bbox=box)
    return picture


def draw_outline(
    axis: Any, mask: np.ndarray, size_hw: tuple[int, int] | None = None, font_pt: float = 9.0
) -> None:
    """Draw a line around the pixels of a mask: white with black edges, visible on any colour.

    Args:
        size_hw: size of the picture below; by default the size of the mask.
    """
    from matplotlib import patheffects

    h, w = mask.shape
    height, width = size_hw or mask.shape
    x, y = (np.arange(w) + 0.5) * width / w - 0.5, (np.arange(h) + 0.5) * height / h - 0.5
    lines = axis.contour(x, y, mask, levels=[0.5], colors="white", linewidths=0.07 * font_pt)
    casing = patheffects.withStroke(linewidth=0.17 * font_pt, foreground="black")
    lines.set(path_effects=[casing])
