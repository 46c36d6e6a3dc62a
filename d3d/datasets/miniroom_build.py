"""The rooms of miniroom: furniture, paint and baked light, and where a ray meets them."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from scipy import ndimage

TEXEL_M = 0.015
ROOM = 0  # index of the room among the boxes; rays leave it, they enter all others


@dataclass
class Room:
    """Geometry, baked radiance and materials; index [texel] is over all faces' texels one after another.

    Attributes:
        lo, hi: (b, 3) corners of the boxes in metres, z up; box 0 is the room itself.
        glossy: (b,) whether the upward face (of box 0: the floor) mirrors.
        offset, width, height: (b * 6,) where the texels of face box * 6 + axis * 2 + side start, and how many.
        radiance: (2, texels, 3): as it is, and blurred for rays that see many texels at once.
        emits: (texels,) whether a texel is a light.
    """

    lo: np.ndarray
    hi: np.ndarray
    glossy: np.ndarray
    offset: np.ndarray = field(init=False)
    width: np.ndarray = field(init=False)
    height: np.ndarray = field(init=False)
    radiance: np.ndarray = field(init=False)
    emits: np.ndarray = field(init=False)

    def __post_init__(self) -> None:
        size = np.ceil((self.hi - self.lo) / TEXEL_M).astype(np.int64).clip(1)
        axis = np.tile(np.repeat(np.arange(3), 2), len(size))
        box = np.repeat(np.arange(len(size)), 6)
        self.width = size[box, np.where(axis == 0, 1, 0)]
        self.height = size[box, np.where(axis == 2, 1, 2)]
        ends = np.cumsum(self.width * self.height)
        self.offset = ends - self.width * self.height
        self.radiance = np.zeros((2, ends[-1], 3), np.float32)
        self.emits = np.zeros(ends[-1], bool)

    def texels(self, face: int) -> slice:
        """Where a face's texels are in `radiance` and `emits`."""
        return slice(self.offset[face], self.offset[face] + self.width[face] * self.height[face])

    def trace(self, origin: np.ndarray, direction: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """First hits of rays (3, n) that start inside the room: distance (n,) in units of direction, face (n,)."""
        inverse = 1 / np.where(np.abs(direction) < 1e-9, np.float32(1e-9), direction)
        base = -origin * inverse
        lo, hi = self.lo[:, :, None].astype(np.float32), self.hi[:, :, None].astype(np.float32)
        x, y, z = np.maximum(lo[ROOM] * inverse + base, hi[ROOM] * inverse + base)
        t = np.minimum(np.minimum(x, y), z)
        box = np.zeros(t.shape, np.int64)
        for b in range(1, len(lo)):
            t0, t1 = lo[b] * inverse + base, hi[b] * inverse + base
            # row by row: numpy's reduction over an axis of three takes half of the whole time
            x, y, z = np.minimum(t0, t1)
            enter = np.maximum(np.maximum(x, y), z)
            x, y, z = np.maximum(t0, t1, out=t1)
            leave = np.minimum(np.minimum(x, y), z)
            hit = (enter < leave) & (enter > 1e-4) & (enter < t)
            np.copyto(t, enter, where=hit)
            box[hit] = b
        near_corner = np.where((direction > 0) ^ (box == ROOM), self.lo.T[:, box], self.hi.T[:, box])
        distance = near_corner.astype(np.float32) * inverse + base
        axis = np.where(box == ROOM, distance.argmin(axis=0), distance.argmax(axis=0))
        positive = np.take_along_axis(direction, axis[None], axis=0)[0] > 0
        return t, box * 6 + axis * 2 + (positive ^ (box != ROOM))

    def lookup(self, face: np.ndarray, points: np.ndarray) -> np.ndarray:
        """Texel index (n,) of points (3, n) on faces (n,)."""
        box, axis = face // 6, face % 6 // 2
        u_axis, v_axis = np.where(axis == 0, 1, 0), np.where(axis == 2, 1, 2)
        n = np.arange(len(face))
        u = ((points[u_axis, n] - self.lo[box, u_axis]) * (1 / TEXEL_M)).astype(np.int64)
        v = ((points[v_axis, n] - self.lo[box, v_axis]) * (1 / TEXEL_M)).astype(np.int64)
        u, v = np.clip(u, 0, self.width[face] - 1), np.clip(v, 0, self.height[face] - 1)
        return self.offset[face] + v * self.width[face] + u


def _noise(rng: np.random.Generator, sigma: float) -> np.ndarray:
    """Periodic noise (512, 512) with features of about 2.5 sigma texels, zero mean, unit deviation."""
    noise = ndimage.gaussian_filter(rng.standard_normal((512, 512)).astype(np.float32), sigma, mode="wrap")
    return noise / noise.std()


class _Painter:
    """Paints albedo on faces: coarse to fine noise everywhere, so that every patch can be matched."""

    def __init__(self, rng: np.random.Generator) -> None:
        self.rng = rng
        self.octaves = [_noise(rng, sigma) for sigma in (2.0, 4.0, 9.0, 25.0)]

    def noise(self, h: int, w: int, weights: tuple[float, ...], stretch: int = 1) -> np.ndarray:
        total = np.zeros((h, w), np.float32)
        for octave, weight in zip(self.octaves, weights, strict=True):
            rows, cols = (
                np.arange(h) + self.rng.integers(512),
                np.arange(w) // stretch + self.rng.integers(512),
            )
            total += weight * octave[np.ix_(rows % 512, cols % 512)]
        return total

    def color(self, low: float, high: float) -> np.ndarray:
        return self.rng.uniform(low, high, 3).astype(np.float32)

    def brown(self) -> np.ndarray:
        return self.rng.uniform(0.14, 0.32) * self.rng.uniform((1.1, 0.9, 0.5), (1.3, 1.0, 0.9)).astype(
            np.float32
        )

    def plain(self, h: int, w: int, base: np.ndarray, contrast: float = 1.0) -> np.ndarray:
        return base * (1 + contrast * self.noise(h, w, (0.16, 0.18, 0.1, 0.06))[..., None])

    def boards(
        self, h: int, w: int, base: np.ndarray, wide: int, long: int, shift: int, stretch: int
    ) -> np.ndarray:
        """Rows of planks (shifted, grain stretched along them) or tiles, each of its own shade, with dark joints."""
        v, u = np.arange(h)[:, None], np.arange(w)[None]
        u = u + v // wide * shift
        shade = self.rng.uniform(0.55, 1.45, (h // wide + 1, (w + (h // wide + 1) * shift) // long + 1))
        grain = 1 + self.noise(h, w, (0.15, 0.14, 0.1, 0.0), stretch)
        joint = np.where((v % wide == 0) | (u % long == 0), 0.4, 1)
        return base * (shade[v // wide, u // long] * grain * joint)[..., None]

    def wood(self, h: int, w: int, base: np.ndarray) -> np.ndarray:
        return self.boards(h, w, base, int(self.rng.integers(8, 13)), int(self.rng.integers(50, 80)), 37, 4)

    def tiles(self, h: int, w: int, base: np.ndarray) -> np.ndarray:
        side = int(self.rng.integers(18, 26))
        return self.boards(h, w, base, side, side, 0, 1)

    def pictures(self, albedo: np.ndarray, count: int) -> None:
        h, w = albedo.shape[:2]
        for _ in range(count):
            ph, pw = self.rng.integers(20, 45, 2)
            if h > ph + 60 and w > pw + 10:
                y, x = self.rng.integers(40, h - ph - 10), self.rng.integers(5, w - pw - 5)
                noise = self.noise(ph, pw, (0.1, 0.3, 0.5, 0))[..., None]
                art = self.color(0.05, 0.8) + noise * self.color(-0.5, 0.5)
                albedo[y : y + ph, x : x + pw] = 0.06  # frame
                albedo[y + 2 : y + ph - 2, x + 2 : x + pw - 2] = art[2:-2, 2:-2].clip(0.03, 0.85)


def build(seed: int) -> Room:
    """Furnishes, paints and lights a room."""
    rng = np.random.default_rng([seed, 1])
    W, D, H = room_size(seed)
    boxes: list[tuple[np.ndarray, np.ndarray, bool]] = [(np.zeros(3), np.array([W, D, H]), True)]

    def add(x: float, y: float, z: float, dx: float, dy: float, dz: float, glossy: bool = False) -> None:
        boxes.append((np.array([x, y, z]), np.array([x + dx, y + dy, z + dz]), glossy))

    tw, td = rng.uniform(0.9, 1.3), rng.uniform(0.6, 0.85)
    tx, ty = W / 2 - tw / 2 + rng.uniform(-0.3, 0.3), D / 2 - td / 2 + rng.uniform(-0.2, 0.2)
    add(tx, ty, 0.66, tw, td, 0.05, glossy=True)
    for x in (tx + 0.03, tx + tw - 0.10):
        for y in (ty + 0.03, ty + td - 0.10):
            add(x, y, 0, 0.07, 0.07, 0.66)
    for _ in range(3):  # books and boxes on the table
        add(tx + rng.uniform(0.05, tw - 0.35), ty + rng.uniform(0.05, td - 0.3), 0.71, *rng.uniform(0.12, 0.28, 2),
            rng.uniform(0.04, 0.22))  # fmt: skip
    add(0, D - rng.uniform(1.2, 1.7), 0, 0.45, 1.1, rng.uniform(1.5, 2.0))  # cupboard
    add(W - 0.5, rng.uniform(0.1, 0.4), 0, 0.5, rng.uniform(1.2, 1.8), 0.8, glossy=True)  # sideboard
    sofa = rng.uniform(0.2, 0.8)
    add(sofa, 0, 0, 1.5, 0.7, 0.4)
    add(sofa, 0, 0.4, 1.5, 0.2, 0.35)
    add(W - rng.uniform(1.0, 1.6), D - 0.35, 0, 0.8, 0.35, rng.uniform(0.5, 0.9))  # shelf
    for _ in range(2):  # clutter on the floor, off the middle
        add(rng.choice([0.55, W - 0.95]) + rng.uniform(-0.05, 0.05), rng.uniform(0.9, D - 1.8), 0,
            *rng.uniform(0.2, 0.4, 3))  # fmt: skip
    lo, hi, glossy = (np.array(column) for column in zip(*boxes, strict=True))
    room = Room(lo, hi, glossy)
    painter = _Painter(rng)
    irradiance_of = _light(room, rng)
    for box in range(len(lo)):
        color = painter.color(0.35, 0.6) if box == ROOM else painter.color(0.08, 0.6)
        wooden = box != ROOM and (box <= 5 or glossy[box] or rng.random() < 0.4)  # 1 to 5: the table
        for face in range(6 * box, 6 * box + 6):
            _paint(room, painter, face, irradiance_of(face), None if wooden else color)
    return room


def room_size(seed: int) -> tuple[float, float, float]:
    """Extent of a room in x, y and z (up), metres."""
    rng = np.random.default_rng([seed, 0])
    return rng.uniform(5.0, 5.6), rng.uniform(4.4, 4.9), 2.6


# Lights: (face of the room, centre along the wall as a fraction, width m, bottom m, top m, radiance, panes)
_LIGHTS = ((3, 0.55, 1.7, 0.95, 2.1, 14.0, 3), (2, 0.45, 1.3, 0.95, 2.05, 14.0, 2), (0, 0.4, 0.5, 1.3, 1.8, 14.0, 1),
           (1, 0.6, 0.6, 1.2, 1.7, 14.0, 1))  # fmt: skip


def _light(room: Room, rng: np.random.Generator) -> Callable[[int], np.ndarray]:
    """Puts windows and lamps on the walls; returns a function face -> irradiance over pi (h, w, 3) of its texels."""
    lamps: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []  # 9 points a light, normal, power over pi
    for face, where, width, bottom, top, strength, panes in _LIGHTS:
        axis, side = face // 2, face % 2
        h, w = room.height[face], room.width[face]
        length = w * TEXEL_M
        left = np.clip(where + rng.uniform(-0.08, 0.08), 0, 1) * length - width / 2
        v, u = (np.arange(h)[:, None] + 0.5) * TEXEL_M, (np.arange(w)[None] + 0.5) * TEXEL_M
        inside = (u > left) & (u < left + width) & (v > bottom) & (v < top)
        pane_u, pane_v = (u - left) / width * panes % 1 * width / panes, np.abs(v - (bottom + top) / 2)
        mullion = (panes > 1) & ((pane_u < 0.04) | (pane_u > width / panes - 0.04) | (pane_v < 0.03))
        emits = inside & ~mullion
        sky = 0.6 + 0.4 * (v - bottom) / (top - bottom) + 0.2 * _noise(rng, 8.0)[:h, :w]
        tint = np.array([0.95, 1.0, 1.05]) if panes > 1 else np.array([1.1, 1.0, 0.8])
        glow = strength * sky.clip(0.2, 1.2)[..., None] * tint
        room.emits[room.texels(face)] = emits.ravel()
        room.radiance[0, room.texels(face)] = np.where(emits[..., None], glow, 0).reshape(-1, 3)
        inwards = np.zeros(3)
        inwards[axis] = 1 - 2 * side
        for a, b in itertools.product((1 / 6, 1 / 2, 5 / 6), repeat=2):
            point = np.zeros(3)
            point[axis], point[1 - axis] = room.hi[0, axis] * side, left + a * width
            point[2] = bottom + b * (top - bottom)
            lamps.append((point, inwards, glow[emits].mean(axis=0) * width * (top - bottom) / 9 / np.pi))
    lamp, normal, power = (np.stack(column) for column in zip(*lamps, strict=True))  # each (lamps, 3)

    def irradiance(face: int) -> np.ndarray:
        box, axis, side = face // 6, face % 6 // 2, face % 2
        u_axis, v_axis = (1 if axis == 0 else 0), (1 if axis == 2 else 2)
        size = room.hi[box] - room.lo[box]
        nu, nv = (max(2, round(size[k] / 0.2)) for k in (u_axis, v_axis))
        points = np.zeros((3, nv, nu))
        points[u_axis] = room.lo[box, u_axis] + (np.arange(nu) + 0.5) / nu * size[u_axis]
        points[v_axis] = (room.lo[box, v_axis] + (np.arange(nv) + 0.5) / nv * size[v_axis])[:, None]
        outwards = (2 * side - 1) * (-1 if box == ROOM else 1)
        points[axis] = (room.hi if side else room.lo)[box, axis] + 2e-3 * outwards
        p = points.reshape(3, -1)
        d = lamp.T[:, :, None] - p[:, None]  # (3, lamps, points)
        r2 = (d**2).sum(axis=0)
        reaches = (d[axis] * outwards).clip(0) * np.einsum("lk,kln->ln", -normal, d).clip(0) / r2
        reaches /= np.maximum(r2, 0.15)  # a lamp is not a point: no more light than from 0.4 m
        at_lamp, at_point = np.nonzero(reaches)
        if len(at_lamp):
            start, towards = p[:, at_point].astype(np.float32), d[:, at_lamp, at_point].astype(np.float32)
            reaches[at_lamp, at_point] *= (
                room.trace(start, towards)[0] > 0.995
            )  # nothing before the lamp itself
        light = 0.15 + 0.04 * (axis == 2) * outwards + reaches.T @ power
        zoom = (room.height[face] / nv, room.width[face] / nu, 1)
        return ndimage.zoom(light.reshape(nv, nu, 3), zoom, order=1, mode="nearest", grid_mode=True)

    return irradiance


def _paint(
    room: Room, painter: _Painter, face: int, irradiance: np.ndarray, color: np.ndarray | None
) -> None:
    """Fills a face's texels with albedo x irradiance, lights excepted; no colour: wood."""
    h, w = int(room.height[face]), int(room.width[face])
    box, axis = face // 6, face % 6 // 2
    if box == ROOM and face % 6 == 4:
        floor = painter.wood if painter.rng.random() < 0.5 else painter.tiles
        albedo = floor(h, w, painter.brown())
    elif color is None:
        albedo = painter.wood(h, w, painter.brown())
    else:
        albedo = painter.plain(h, w, color, 0.9 if box == ROOM else 1.4)
        if box == ROOM and axis < 2:
            painter.pictures(albedo, 7)
    texels = room.texels(face)
    sharp = room.radiance[0, texels]  # a view: the lights are in it already
    diffuse = (albedo.clip(0.03, 0.85) * irradiance).reshape(-1, 3)
    np.copyto(sharp, diffuse, where=~room.emits[texels, None], casting="same_kind")
    blurred = ndimage.gaussian_filter(sharp.reshape(h, w, 3), (1.5, 1.5, 0), mode="nearest")
    room.radiance[1, texels] = blurred.reshape(-1, 3)
