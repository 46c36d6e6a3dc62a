"""Walls of a room with their windows and doors."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from glossyrooms import textures
from glossyrooms.furniture import matt, wooden
from glossyrooms.mesh import LIGHT, MATT, Builder, Material
from glossyrooms.textures import hsv

REVEAL_M = 0.14  # depth of a window in its wall


@dataclass
class Wall:
    """A wall in its own frame: x along it, y into the room, z up."""

    x: float
    y: float
    yaw: float
    length: float
    taken: list[tuple[float, float]]
    doors: list[tuple[float, float]]

    def free(self, rng: np.random.Generator, width: float, both: bool = True) -> float | None:
        """Find a centre along the wall with ``width`` free, or None; also clear of windows if ``both`` is true."""
        for _ in range(24):
            if self.length < width + 0.1:
                return None
            s = rng.uniform(width / 2 + 0.05, self.length - width / 2 - 0.05)
            busy = self.taken + (self.doors if both else [])
            if all(s + width / 2 < low or s - width / 2 > high for low, high in busy):
                return float(s)
        return None


def draw_openings(rng: np.random.Generator, wall: Wall, H: float) -> list[tuple[float, float, float, float]]:
    """Return windows as (left, right, bottom, top) along the wall; one wall in five has floor-length windows."""
    if rng.random() < 0.5:
        spans = [(0.5 - rng.uniform(0.2, 0.33), 0.5 + rng.uniform(0.2, 0.33))]
    else:
        spans = [
            (rng.uniform(0.10, 0.16), rng.uniform(0.36, 0.45)),
            (rng.uniform(0.55, 0.64), rng.uniform(0.84, 0.9)),
        ]
    low = 0.12 if rng.random() < 0.2 else rng.uniform(0.7, 1.0)
    high = min(H - 0.15, rng.uniform(2.0, 2.4))
    result = [(a * wall.length, b * wall.length, low, high) for a, b in spans]
    # low furniture may stand below the sill of a window, tall furniture may not
    (wall.taken if low < 0.5 else wall.doors).extend((a - 0.1, b + 0.1) for a, b, _, _ in result)
    return result


def add_wall(
    b: Builder, length: float, H: float, openings: list[tuple[float, float, float, float]], material: Material
) -> None:
    """Add the surface of a wall around its windows."""
    facing, at = (0, 1, 0), 0.0
    for left, right, low, high in openings:
        b.patch((at, 0, 0), (left - at, 0, 0), (0, 0, H), facing, material)
        b.patch((left, 0, 0), (right - left, 0, 0), (0, 0, low), facing, material)
        b.patch((left, 0, high), (right - left, 0, 0), (0, 0, H - high), facing, material)
        at = right
    b.patch((at, 0, 0), (length - at, 0, 0), (0, 0, H), facing, material)


def add_window(b: Builder, opening: tuple[float, float, float, float], radiance: float) -> None:
    """Add reveal, frame, mullions, sill, and the outdoors behind them as an area light."""
    rng, (left, right, low, high) = b.rng, opening
    w, h, y = right - left, high - low, -REVEAL_M
    white = Material("frame", MATT, textures.speckle(rng, hsv(0.1, 0.05, rng.choice([0.9, 0.9, 0.35])), 0.03))
    b.patch((left, y, low), (w, 0, 0), (0, -y, 0), (0, 0, 1), white)
    b.patch((left, y, high), (w, 0, 0), (0, -y, 0), (0, 0, -1), white)
    b.patch((left, y, low), (0, -y, 0), (0, 0, h), (1, 0, 0), white)
    b.patch((right, y, low), (0, -y, 0), (0, 0, h), (-1, 0, 0), white)
    view = Material("outdoors", LIGHT, textures.outdoors(rng, radiance))
    b.patch((left, y, low), (w, 0, 0), (0, 0, h), (0, 1, 0), view, cell_m=5)
    t, deep = 0.05, y + 0.05
    for x in (left, right - t):
        b.box((x, y + 0.01, low), (x + t, deep, high), white, bottom=True)
    for z in (low, high - t):
        b.box((left, y + 0.01, z), (right, deep, z + t), white, bottom=True)
    bars = max(1, round(w / rng.uniform(0.5, 0.9)))
    for k in range(1, bars):
        x = left + k * w / bars
        b.box((x - 0.025, y + 0.01, low), (x + 0.025, deep, high), white, bottom=True)
    if rng.random() < 0.6:
        z = low + h * rng.uniform(0.55, 0.72)
        b.box((left, y + 0.01, z - 0.02), (right, deep, z + 0.02), white, bottom=True)
    if low > 0.5:
        b.box((left - 0.06, -0.01, low - 0.035), (right + 0.06, 0.09, low), white, bottom=True)


def add_door(b: Builder, wall: Wall) -> None:
    s = wall.free(b.rng, 1.0)
    if s is None:
        return
    wall.taken.append((s - 0.6, s + 0.6))
    leaf, frame = wooden(b.rng) if b.rng.random() < 0.6 else matt(b.rng), matt(b.rng, hsv(0.1, 0.05, 0.85))
    with b.at(wall.x, wall.y, 0, wall.yaw), b.at(s, 0):
        b.box((-0.43, 0, 0), (0.43, 0.03, 2.02), leaf)
        for low, high in (
            ((-0.5, 0, 0), (-0.43, 0.05, 2.09)),
            ((0.43, 0, 0), (0.5, 0.05, 2.09)),
            ((-0.43, 0, 2.02), (0.43, 0.05, 2.09)),
        ):
            b.box(low, high, frame, bottom=True)
        b.box((0.32, 0.03, 1.0), (0.40, 0.07, 1.02), matt(b.rng, hsv(0.1, 0.1, 0.6)), bottom=True)
