"""Colours of depth, errors and uncertainty: table, range and unit for each kind of map.

Figures (matplotlib) and the viewer (PIL) use these functions.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable

import numpy as np
from matplotlib import colormaps
from matplotlib.colors import Colormap

# The lightness of viridis and similar colour maps increases evenly: legible in grey print and for colour-blind readers.
COLOURS = {"depth": "viridis", "error": "magma", "uncertainty": "inferno", "signed": "RdBu_r"}
NAMES = {name: name for name in COLOURS} | {"signed": "too near (blue) / too far (red)"}
UNITS = dict.fromkeys(COLOURS, "m")
SIGNED_LIMIT_M = 1.0  # larger errors take the last colour

# The palette of Okabe and Ito for colour-blind readers. Curves also differ in line style.
BLUE, VERMILLION, ORANGE, GREEN = "#0072B2", "#D55E00", "#E69F00", "#009E73"
PURPLE, SKY_BLUE, YELLOW = "#CC79A7", "#56B4E9", "#F0E442"


def limits(kind: str, top: float) -> tuple[float, float]:
    """Return the lower and upper end of the colours of a kind, given the upper end."""
    return (-top if kind == "signed" else 0.0), top


def uncertainty_limit(threshold_m: float) -> float:
    """Return the upper end of the colours of uncertainty. The threshold has the colour at a quarter of the scale."""
    return max(4 * threshold_m, 1e-3)


def without_missing(array: np.ndarray, kind: str) -> np.ndarray:
    """Convert a map to float with NaN for missing values (not finite, or depth 0)."""
    array = np.asarray(array, dtype=float)
    with np.errstate(invalid="ignore"):
        valid = np.isfinite(array) & ((array > 0) | (kind != "depth"))
    return np.where(valid, array, np.nan)


def upper_limit(maps: Iterable[np.ndarray | None], kind: str = "depth") -> float:
    """Return the common upper end of the colours of several maps: the largest 98th percentile."""
    values = [without_missing(m, kind) for m in maps if m is not None]
    tops = [np.percentile(np.abs(v[np.isfinite(v)]), 98) for v in values if np.isfinite(v).any()]
    return float(max([*tops, 1e-3]))


def colormap(kind: str) -> Colormap:
    """Return the colour map of a kind. Missing values are white."""
    return colormaps[COLOURS[kind]].with_extremes(bad="white")


@functools.cache
def table(kind: str) -> np.ndarray:
    """Return the 256 colours of a kind, uint8 (256, 3)."""
    return (colormap(kind)(np.arange(256))[:, :3] * 255).round().astype(np.uint8)


def coloured(array: np.ndarray, kind: str, top: float) -> np.ndarray:
    """Colour a map (h, w) as uint8 (h, w, 3). Faster than matplotlib, for pictures that follow a slider."""
    low, high = limits(kind, top)
    values = without_missing(array, kind)
    index = np.nan_to_num((values - low) * (255.999 / (high - low))).clip(0, 255).astype(np.uint8)
    result = table(kind)[index]
    result[np.isnan(values)] = 255
    return result


def rgb(colour: str) -> tuple[int, int, int]:
    """Convert a colour like "#0072B2" to three numbers from 0 to 255."""
    return tuple(bytes.fromhex(colour[1:]))
