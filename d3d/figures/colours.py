"""Colours of depth, errors and uncertainty: one table, one range and one unit for each kind of map.

Figures (matplotlib) and the viewer (PIL) colour their maps with these functions.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable

import numpy as np
from matplotlib import colormaps
from matplotlib.colors import Colormap

# The lightness of viridis and its relatives rises evenly: legible in grey print and to the colour-blind.
COLOURS = {"depth": "viridis", "error": "magma", "uncertainty": "inferno", "signed": "RdBu_r"}
NAMES = {name: name for name in COLOURS} | {"signed": "too near (blue) / too far (red)"}
UNITS = dict.fromkeys(COLOURS, "m")
SIGNED_LIMIT_M = 1.0  # larger errors have the last colour

# The palette of Okabe and Ito, which the colour-blind can tell apart. Curves differ in line style as well.
BLUE, VERMILLION, ORANGE, GREEN = "#0072B2", "#D55E00", "#E69F00", "#009E73"
PURPLE, SKY_BLUE, YELLOW = "#CC79A7", "#56B4E9", "#F0E442"


def limits(kind: str, top: float) -> tuple[float, float]:
    """Lower and upper end of the colours of a kind, from its upper end."""
    return (-top if kind == "signed" else 0.0), top


def uncertainty_limit(threshold_m: float) -> float:
    """Upper end of the colours of uncertainty: the threshold has the colour in the middle."""
    return max(2 * threshold_m, 1e-3)


def without_missing(array: np.ndarray, kind: str) -> np.ndarray:
    """The map as float, NaN where it has no value: not finite, or a depth of 0."""
    array = np.asarray(array, dtype=float)
    with np.errstate(invalid="ignore"):
        valid = np.isfinite(array) & ((array > 0) | (kind != "depth"))
    return np.where(valid, array, np.nan)


def upper_limit(maps: Iterable[np.ndarray | None], kind: str = "depth") -> float:
    """Upper end of the colours that maps share: the largest of their 98th percentiles."""
    values = [without_missing(m, kind) for m in maps if m is not None]
    tops = [np.percentile(np.abs(v[np.isfinite(v)]), 98) for v in values if np.isfinite(v).any()]
    return float(max([*tops, 1e-3]))


def colormap(kind: str) -> Colormap:
    """The colours of a kind, white where a map has no value."""
    return colormaps[COLOURS[kind]].with_extremes(bad="white")


@functools.cache
def table(kind: str) -> np.ndarray:
    """The 256 colours of a kind, uint8 (256, 3)."""
    return (colormap(kind)(np.arange(256))[:, :3] * 255).round().astype(np.uint8)


def coloured(array: np.ndarray, kind: str, top: float) -> np.ndarray:
    """A map (h, w) as colours, uint8 (h, w, 3): faster than matplotlib, for pictures that follow a slider."""
    low, high = limits(kind, top)
    values = without_missing(array, kind)
    index = np.nan_to_num((values - low) * (255.999 / (high - low))).clip(0, 255).astype(np.uint8)
    result = table(kind)[index]
    result[np.isnan(values)] = 255
    return result


def rgb(colour: str) -> tuple[int, int, int]:
    """A colour like "#0072B2" as three numbers from 0 to 255."""
    return tuple(bytes.fromhex(colour[1:]))
