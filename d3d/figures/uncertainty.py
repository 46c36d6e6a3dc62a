"""How well uncertainties find what Eq. 3 should replace, as curves and as maps of one frame."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from d3d.figures.panels import PRINT_FONT_PT, PRINT_WIDTH_IN, SMALLEST_PT, Panel, grid

# Okabe and Ito's colours, each with a line of its own: told apart in grey print and by the colour-blind
_STYLES = (
    ("#0072B2", "-"),
    ("#D55E00", "--"),
    ("#009E73", "-."),
    ("#E69F00", (0, (5, 1, 1, 1, 1, 1))),
    ("#CC79A7", (0, (9, 1.5))),
    ("#56B4E9", (0, (7, 2, 2, 2))),
)
_REFERENCE_STYLES = (("gray", (0, (1, 1))), ("black", (0, (1, 2))))


def precision_recall(
    curves: Any,
    average_precision: Any,
    chance: Mapping[str, float],
    references: Sequence[str] = (),
    title: str = "",
    width_in: float = PRINT_WIDTH_IN,
    font_pt: float = PRINT_FONT_PT,
) -> Figure:
    """Precision over recall: of the pixels that an uncertainty finds, how many should be found, and how many of these.

    Args:
        curves: data frame with uncertainty, target, recall, precision.
        average_precision: data frame by uncertainty, a column for each target in the order of ``chance``.
        chance: target -> precision of finding by chance, drawn as a line.
        references: names among the uncertainties that are none; drawn in grey and black.
    """
    small = max(SMALLEST_PT, font_pt - 1)
    names = list(dict.fromkeys(curves["uncertainty"]))
    own = [n for n in names if n not in references]
    styles = dict(zip(own, _STYLES, strict=False)) | dict(zip(references, _REFERENCE_STYLES, strict=False))
    figure = Figure(figsize=(width_in, 0.56 * width_in), layout="constrained")
    if title:
        figure.suptitle(title, fontsize=font_pt + 2)
    for axis, column, (target, share) in zip(
        figure.subplots(1, len(chance), squeeze=False)[0],
        average_precision.columns,
        chance.items(),
        strict=True,
    ):
        of = curves[curves["target"] == target]
        for name in sorted(names, key=lambda n: -average_precision.loc[n, column]):
            part, (colour, line) = of[of["uncertainty"] == name], styles[name]
            axis.plot(
                part["recall"],
                part["precision"],
                color=colour,
                linestyle=line,
                linewidth=1.2,
                label=f"{name}: {average_precision.loc[name, column]:.3f}",
            )
        axis.axhline(share, color="lightgray", linewidth=1, zorder=0, label=f"chance: {share:.3f}")
        axis.set_title(f"finding {target} pixels", fontsize=font_pt + 1)
        axis.set_xlabel("recall: share of these that are found", fontsize=font_pt)
        axis.set_ylabel("precision", fontsize=font_pt)
        axis.tick_params(labelsize=small)
        axis.set(xlim=(0, 1), ylim=(0, None))
        axis.grid(alpha=0.3)
        # below: curves may run anywhere
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


def uncertainty_maps(
    image: np.ndarray,
    off: np.ndarray,
    maps: Mapping[str, np.ndarray],
    highlight: np.ndarray | None = None,
    title: str = "",
    width_in: float = PRINT_WIDTH_IN,
    font_pt: float = PRINT_FONT_PT,
) -> Figure:
    """One frame: its image, how far the predicted depth is off, and each uncertainty on a scale of its own.

    Args:
        off: predicted depth minus truth (h, w), metres, NaN where unknown.
        maps: name -> uncertainty (h, w), metres; drawn up to its 98th percentile, which is written on it.
        highlight: bool, outlined.
    """
    panels = [
        Panel("image, highlights", image, outline=highlight),
        Panel("D − truth", off, "signed", 1.0, highlight),
    ]
    for name, values in maps.items():
        top = max(float(np.percentile(values, 98)), 1e-3)
        # shares of its own top: sizes differ, and it is where they are large that counts
        panels.append(
            Panel(name, np.clip(values / top, 0, 1), "share", 1.0, highlight, f"white: {top:.2f} m")
        )
    columns = 4
    rows = [panels[k : k + columns] for k in range(0, len(panels), columns)]
    return grid(rows, title, width_in, font_pt)
