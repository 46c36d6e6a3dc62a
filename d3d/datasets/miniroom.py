"""miniroom: small rooms with glossy floors, rendered on the fly; no download, exact depth and poses.

A room is a box with furniture (axis-aligned boxes), textured procedurally and lit by windows and
lamps. Diffuse light is baked once into texels; a frame is one ray per sub-pixel plus, on the floor and
on table tops, one mirror ray weighted by Fresnel's reflectance. So a lit window is seen in the floor
where physics puts it: as a virtual image behind the floor, which moves with the camera as if it were
that far away. That is the phenomenon of the paper (Fig. 1), at toy size.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from scipy import ndimage

from d3d.datasets.scene import HW, Dataset, Scene
from d3d.errors import ConfigError

TEXEL_M = 0.015
FOV_X_DEG = 62.0  # a phone's or a Kinect's
F0 = 0.04  # reflectance at normal incidence of n = 1.5: varnish, polished stone, plastic
EXPOSURE = 1.5
ROUGHNESS = 0.008
VAL_SEED = 50000
_ROOM = 0  # index of the room among the boxes; rays leave it, they enter all others


@dataclass
class _Room:
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
        return slice(self.offset[face], self.offset[face] + self.width[face] * self.height[face])

    def trace(self, origin: np.ndarray, direction: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """First hits of rays (3, n) that start inside the room: distance (n,) in units of direction, face (n,)."""
        inverse = 1 / np.where(np.abs(direction) < 1e-9, np.float32(1e-9), direction)
        base = -origin * inverse
        lo, hi = self.lo[:, :, None].astype(np.float32), self.hi[:, :, None].astype(np.float32)
        t = np.maximum(lo[_ROOM] * inverse + base, hi[_ROOM] * inverse + base).min(axis=0)
        box = np.zeros(t.shape, np.int64)
        for b in range(1, len(lo)):
            t0, t1 = lo[b] * inverse + base, hi[b] * inverse + base
            enter, leave = np.minimum(t0, t1).max(axis=0), np.maximum(t0, t1).min(axis=0)
            hit = (enter < leave) & (enter > 1e-4) & (enter < t)
            t = np.where(hit, enter, t)
            box[hit] = b
        near_corner = np.where((direction > 0) ^ (box == _ROOM), self.lo.T[:, box], self.hi.T[:, box])
        distance = near_corner.astype(np.float32) * inverse + base
        axis = np.where(box == _ROOM, distance.argmin(axis=0), distance.argmax(axis=0))
        positive = np.take_along_axis(direction, axis[None], axis=0)[0] > 0
        return t, box * 6 + axis * 2 + (positive ^ (box != _ROOM))

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
            rows, cols = np.arange(h) + self.rng.integers(512), np.arange(w) // stretch + self.rng.integers(512)
            total += weight * octave[np.ix_(rows % 512, cols % 512)]
        return total

    def color(self, low: float, high: float) -> np.ndarray:
        return self.rng.uniform(low, high, 3).astype(np.float32)

    def plain(self, h: int, w: int, base: np.ndarray, contrast: float = 1.0) -> np.ndarray:
        tint = self.noise(h, w, (0, 0, 0.1, 0.1))[..., None] * self.rng.uniform(-1, 1, 3)
        return base * (1 + contrast * self.noise(h, w, (0.12, 0.16, 0.14, 0.1))[..., None] + tint)

    def planks(self, h: int, w: int, base: np.ndarray) -> np.ndarray:
        wide, long = int(self.rng.integers(8, 13)), int(self.rng.integers(50, 80))
        row = np.arange(h)[:, None] // wide
        col = (np.arange(w)[None] + row * 37) // long
        shade = self.rng.uniform(0.55, 1.45, (h // wide + 1, (w + (h // wide + 1) * 37) // long + 1))[row, col]
        gap = (np.arange(h)[:, None] % wide == 0) | ((np.arange(w)[None] + row * 37) % long == 0)
        shade = shade * (1 + self.noise(h, w, (0.15, 0.12, 0.1, 0.05), stretch=4)) * np.where(gap, 0.4, 1)
        return base * shade[..., None]

    def tiles(self, h: int, w: int, base: np.ndarray) -> np.ndarray:
        side = int(self.rng.integers(18, 26))
        row, col = np.arange(h)[:, None] // side, np.arange(w)[None] // side
        shade = self.rng.uniform(0.6, 1.4, (h // side + 1, w // side + 1))[row, col]
        shade = shade * (1 + self.noise(h, w, (0.15, 0.18, 0.12, 0.0)))
        joint = (np.arange(h)[:, None] % side == 0) | (np.arange(w)[None] % side == 0)
        return base * np.where(joint, 0.35, shade)[..., None]

    def pictures(self, albedo: np.ndarray, count: int) -> None:
        h, w = albedo.shape[:2]
        for _ in range(count):
            ph, pw = self.rng.integers(20, 45, 2)
            if h > ph + 60 and w > pw + 10:
                y, x = self.rng.integers(40, h - ph - 10), self.rng.integers(5, w - pw - 5)
                art = self.color(0.05, 0.8) + self.noise(ph, pw, (0.1, 0.3, 0.5, 0))[..., None] * self.color(-0.5, 0.5)
                albedo[y : y + ph, x : x + pw] = 0.06  # frame
                albedo[y + 2 : y + ph - 2, x + 2 : x + pw - 2] = art[2:-2, 2:-2].clip(0.03, 0.85)


def _build(seed: int) -> _Room:
    """Furnishes, paints and lights a room."""
    rng = np.random.default_rng([seed, 1])
    W, D, H = _room_size(seed)
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
    room = _Room(lo, hi, glossy)
    painter = _Painter(rng)
    irradiance_of = _light(room, rng)
    for face in range(6 * len(lo)):
        _paint(room, painter, face, irradiance_of(face))
    return room


def _room_size(seed: int) -> tuple[float, float, float]:
    rng = np.random.default_rng([seed, 0])
    return rng.uniform(5.0, 5.6), rng.uniform(4.4, 4.9), 2.6


# Lights: (face of the room, centre along the wall as a fraction, width m, bottom m, top m, radiance, panes)
_LIGHTS = ((3, 0.55, 1.9, 0.85, 2.15, 14.0, 3), (2, 0.45, 1.5, 0.9, 2.1, 12.0, 2), (0, 0.4, 0.5, 1.3, 1.8, 14.0, 1),
           (1, 0.6, 0.6, 1.2, 1.7, 14.0, 1))  # fmt: skip


def _light(room: _Room, rng: np.random.Generator):
    """Puts windows and lamps on the walls; returns a function face -> irradiance over pi (h, w, 3) of its texels."""
    samples, normals, powers = [], [], []
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
        sky = 0.55 + 0.45 * (v - bottom) / (top - bottom) + 0.35 * _noise(rng, 6.0)[:h, :w]
        tint = np.array([0.95, 1.0, 1.05]) if panes > 1 else np.array([1.1, 1.0, 0.8])
        glow = strength * sky.clip(0.2, 1.2)[..., None] * tint
        room.emits[room.texels(face)] = emits.ravel()
        room.radiance[0, room.texels(face)] = np.where(emits[..., None], glow, 0).reshape(-1, 3)
        n = np.zeros(3)
        n[axis] = 1 - 2 * side
        for a in (1 / 6, 1 / 2, 5 / 6):
            for b in (1 / 6, 1 / 2, 5 / 6):
                point = np.zeros(3)
                point[axis], point[1 - axis], point[2] = room.hi[0, axis] * side, left + a * width, bottom + b * (top - bottom)
                samples.append(point)
                normals.append(n)
                powers.append(glow[emits].mean(axis=0) * (width * (top - bottom) / 9) / np.pi)

    def irradiance(face: int) -> np.ndarray:
        box, axis, side = face // 6, face % 6 // 2, face % 2
        u_axis, v_axis = (1 if axis == 0 else 0), (1 if axis == 2 else 2)
        size = room.hi[box] - room.lo[box]
        nu, nv = (max(2, round(size[k] / 0.2)) for k in (u_axis, v_axis))
        points = np.zeros((3, nv, nu))
        points[u_axis] = room.lo[box, u_axis] + (np.arange(nu) + 0.5) / nu * size[u_axis]
        points[v_axis] = (room.lo[box, v_axis] + (np.arange(nv) + 0.5) / nv * size[v_axis])[:, None]
        outwards = (2 * side - 1) * (-1 if box == _ROOM else 1)
        points[axis] = (room.hi if side else room.lo)[box, axis] + 2e-3 * outwards
        p = points.reshape(3, -1)
        light = np.full((p.shape[1], 3), 0.22 + 0.06 * (axis == 2) * outwards)
        for sample, normal, power in zip(samples, normals, powers, strict=True):
            d = (sample - 1e-3 * -normal)[:, None] - p
            r2 = (d**2).sum(axis=0)
            cosines = (d[axis] * outwards).clip(0) * (-normal @ d).clip(0) / r2
            seen = np.flatnonzero(cosines > 0)
            if len(seen):
                t, _ = room.trace(p[:, seen].astype(np.float32), d[:, seen].astype(np.float32))
                lit = seen[t > 0.995]
                light[lit] += (cosines[lit] / np.maximum(r2[lit], 0.15))[:, None] * power
        zoom = (room.height[face] / nv, room.width[face] / nu, 1)
        return ndimage.zoom(light.reshape(nv, nu, 3), zoom, order=1, mode="nearest", grid_mode=True)

    return irradiance


def _paint(room: _Room, painter: _Painter, face: int, irradiance: np.ndarray) -> None:
    """Fills a face's texels with albedo x irradiance, lights excepted."""
    h, w = int(room.height[face]), int(room.width[face])
    box, axis = face // 6, face % 6 // 2
    if box == _ROOM and axis == 2 and face % 2 == 0:
        floor = painter.planks if painter.rng.random() < 0.5 else painter.tiles
        albedo = floor(h, w, painter.color(0.16, 0.26) + np.float32(0.05) * np.array([2, 1, 0], np.float32))
    elif box == _ROOM:
        albedo = painter.plain(h, w, painter.color(0.35, 0.6), 0.9)
        if axis < 2:
            painter.pictures(albedo, 7)
    elif room.glossy[box] or painter.rng.random() < 0.4:
        albedo = painter.planks(h, w, painter.color(0.12, 0.3) + np.float32(0.06) * np.array([2, 1, 0], np.float32))
    else:
        albedo = painter.plain(h, w, painter.color(0.08, 0.6), 1.4)
    texels = room.texels(face)
    diffuse = (albedo.clip(0.03, 0.85) * irradiance).reshape(-1, 3)
    room.radiance[0, texels] = np.where(room.emits[texels, None], room.radiance[0, texels], diffuse)
    sharp = room.radiance[0, texels].reshape(h, w, 3)
    room.radiance[1, texels] = ndimage.gaussian_filter(sharp, (1.5, 1.5, 0), mode="nearest").reshape(-1, 3)


def _path(seed: int, frames: int) -> np.ndarray:
    """Handheld walk round the room that looks at its middle and down at the floor: (frames, 4, 4) world_T_cam.

    Steps of 6 to 7.2 cm and rotations under 3 degrees make neighbours the sources of a triple; round after
    round the same floor is seen from all sides, as fusion needs it.
    """
    rng = np.random.default_rng([seed, 2])
    W, D, _ = _room_size(seed)
    phase, turn = rng.uniform(0, 2 * np.pi, 4), rng.choice([-1.0, 1.0])
    k = np.arange(frames)
    angle = np.linspace(0, frames * 0.08, 40 * frames)  # fine, and longer than what is walked
    wobble = 1 + 0.05 * np.sin(2.3 * angle + phase[0])
    curve = np.stack(
        (
            W / 2 + (W / 2 - 0.95) * wobble * np.cos(turn * angle + phase[1]),
            D / 2 + (D / 2 - 0.85) * wobble * np.sin(turn * angle + phase[1]),
            1.45 + 0.06 * np.sin(1.7 * angle + phase[2]),
        )
    )
    walked = np.append(0, np.cumsum(np.linalg.norm(np.diff(curve), axis=0)))
    at = np.append(0, np.cumsum(0.066 + 0.006 * np.sin(0.7 * k[1:] + phase[3])))
    position = np.stack([np.interp(at, walked, c) for c in curve], axis=1)
    wanted = np.unwrap(np.arctan2(D / 2 - position[:, 1], W / 2 - position[:, 0]))
    yaw = wanted.copy()
    for i in range(1, frames):  # a hand turns no faster than the triple rule allows
        yaw[i] = yaw[i - 1] + np.clip(wanted[i] - yaw[i - 1], -np.deg2rad(2.3), np.deg2rad(2.3))
    pitch = np.deg2rad(28 + 2.5 * np.sin(0.16 * k + phase[0]))
    roll = np.deg2rad(1.2 * np.sin(0.21 * k + phase[2]))
    forward = np.stack((np.cos(pitch) * np.cos(yaw), np.cos(pitch) * np.sin(yaw), -np.sin(pitch)), axis=1)
    right = np.stack((np.sin(yaw), -np.cos(yaw), 0 * yaw), axis=1)
    down = np.cross(forward, right)
    c, s = np.cos(roll)[:, None], np.sin(roll)[:, None]
    poses = np.tile(np.eye(4), (frames, 1, 1))
    poses[:, :3, :3] = np.stack((c * right + s * down, c * down - s * right, forward), axis=2)
    poses[:, :3, 3] = position
    return poses


class MiniRoom(Scene):
    """One rendered room; frames are rendered when first asked for and kept in memory."""

    def __init__(self, seed: int, frames: int, size_hw: HW, name: str) -> None:
        super().__init__(name, [f"{i:06d}" for i in range(frames)], _path(seed, frames), size_hw, has_depth=True)
        self.seed = seed
        self._room: _Room | None = None
        self._frames: dict[int, tuple[np.ndarray, np.ndarray, np.ndarray]] = {}
        h, w = self.size_hw
        focal = w / 2 / np.tan(np.deg2rad(FOV_X_DEG / 2))
        self._K = np.array([[focal, 0, (w - 1) / 2], [0, focal, (h - 1) / 2], [0, 0, 1]])

    def _read_K(self, i: int) -> np.ndarray:
        return self._K

    def _read_image(self, i: int) -> np.ndarray:
        return self._render(i)[0].copy()

    def _read_depth(self, i: int) -> np.ndarray:
        return self._render(i)[1].copy()

    def _read_highlight_mask(self, i: int) -> np.ndarray:
        return self._render(i)[2].copy()

    def _render(self, i: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Image, exact z-depth at the pixel centres, highlight mask."""
        if self._room is None:
            self._room = _build(self.seed)
        if i not in self._frames:
            h, w = self.size_hw
            pose = self.world_T_cams[i]
            radiance = np.zeros((h * w, 3), np.float32)
            for dx, dy in ((-0.25, -0.25), (0.25, -0.25), (-0.25, 0.25), (0.25, 0.25)):
                radiance += 0.25 * self._shade(pose, dx, dy)[0]
            image = (255 * (1 - np.exp(-EXPOSURE * radiance)) ** (1 / 2.2) + 0.5).astype(np.uint8)
            _, depth, mask = self._shade(pose, 0, 0)
            self._frames[i] = image.reshape(h, w, 3), depth.reshape(h, w), mask.reshape(h, w)
        return self._frames[i]

    def _shade(self, pose: np.ndarray, dx: float, dy: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Radiance (n, 3), z-depth (n,) and highlight mask (n,) of rays through the pixels' centres + (dx, dy)."""
        room, (h, w) = self._room, self.size_hw
        y, x = np.mgrid[:h, :w].reshape(2, -1).astype(np.float32)
        rays = np.linalg.inv(self._K) @ np.stack((x + dx, y + dy, np.ones_like(x)))
        direction = (pose[:3, :3] @ rays).astype(np.float32)  # z = 1 in the camera, so t is z-depth
        origin = pose[:3, 3:].astype(np.float32)
        depth, face = room.trace(origin, direction)
        hit = origin + depth * direction
        length = np.sqrt((direction**2).sum(axis=0))
        cosine = np.abs(np.take_along_axis(direction, (face % 6 // 2)[None], axis=0)[0]) / length
        footprint = depth * length / (2 * self._K[0, 0] * np.maximum(cosine, 0.05))
        radiance = room.radiance[(footprint > 2 * TEXEL_M).astype(np.int64), room.lookup(face, hit)]
        up = np.where(face // 6 == _ROOM, 4, 5)
        mirrors = np.flatnonzero(room.glossy[face // 6] & (face % 6 == up))
        mask = np.zeros(h * w, bool)
        if len(mirrors):
            bounced = direction[:, mirrors] * np.array([[1], [1], [-1]], np.float32)
            # a slightly rough varnish: the four sub-pixels' mirrors are tilted a little, each its own way
            bounced[:2] += ROUGHNESS * 4 * np.array([[dx], [dy]], np.float32) * length[mirrors]
            start = hit[:, mirrors]
            t, seen = room.trace(start, bounced)
            texel = room.lookup(seen, start + t * bounced)
            fresnel = F0 + (1 - F0) * (1 - cosine[mirrors]) ** 5
            mixed = (1 - fresnel)[:, None] * radiance[mirrors] + fresnel[:, None] * room.radiance[1, texel]
            radiance[mirrors] = mixed
            mask[mirrors] = room.emits[texel]
        return radiance, depth, mask


def open_miniroom(
    root: str | Path | None = None,
    seed: int = 0,
    frames: int = 60,
    size_hw: HW = (96, 128),
    rooms: tuple[int, int] = (1, 1),
) -> Dataset:
    """Rendered rooms, the same for the same options on every machine; "val" rooms are never in "train".

    Args:
        root: must be None; there is nothing to read.
        seed: of the first room; the others count up from it.
        frames: a room. A round of the room takes about 150.
        size_hw: of the images.
        rooms: how many rooms in "train" and in "val".

    Raises:
        ConfigError: an option out of range.
    """
    if root is not None:
        raise ConfigError(f"data set 'miniroom' is rendered, it takes no root (got {root}).")
    if seed < 0 or frames < 1 or min(rooms) < 1 or min(size_hw) < 8:
        raise ConfigError(
            f"miniroom needs seed >= 0, frames >= 1, at least one room a split and 8x8 pixels; got seed={seed}, "
            f"frames={frames}, rooms={rooms}, size_hw={size_hw}."
        )

    def make(first: int, count: int) -> list[Scene]:
        return [MiniRoom(s, frames, size_hw, f"miniroom-{s:05d}") for s in range(first, first + count)]

    # far apart: more training rooms must not run into the val rooms, and val must not change with their number
    return Dataset(
        "miniroom", {"train": lambda: make(seed, rooms[0]), "val": lambda: make(seed + VAL_SEED, rooms[1])}
    )
