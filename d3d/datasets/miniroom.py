"""miniroom: small rooms with glossy floors, rendered on the fly; no download, exact depth and poses.

A room is a box with furniture (axis-aligned boxes), textured procedurally and lit by windows and
lamps. Diffuse light is baked once into texels; a frame is one ray per sub-pixel plus, on the floor and
on table tops, one mirror ray weighted by Fresnel's reflectance. So a lit window is seen in the floor
where physics puts it: as a virtual image behind the floor, which moves with the camera as if it were
that far away. That is the phenomenon of the paper (Fig. 1), at toy size.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from d3d.datasets.miniroom_build import ROOM, TEXEL_M, Room, build, room_size
from d3d.datasets.scene import HW, Dataset, Scene
from d3d.errors import ConfigError

FOV_X_DEG = 62.0  # a phone's or a Kinect's
F0 = 0.04  # reflectance at normal incidence of n = 1.5: varnish, polished stone, plastic
EXPOSURE = 1.1
ROUGHNESS = 0.008
VAL_SEED = 50000


def _path(seed: int, frames: int) -> np.ndarray:
    """Handheld walk round the room that looks at its middle and down at the floor: (frames, 4, 4) world_T_cam.

    Steps of 6 to 7.2 cm and rotations under 3 degrees make neighbours the sources of a triple; round after
    round the same floor is seen from all sides, as fusion needs it.
    """
    rng = np.random.default_rng([seed, 2])
    W, D, _ = room_size(seed)
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
        super().__init__(
            name, [f"{i:06d}" for i in range(frames)], _path(seed, frames), size_hw, has_depth=True
        )
        self.seed = seed
        self._room: Room | None = None
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

    def virtual_depth(self, i: int) -> np.ndarray:
        """Z-depth (H, W) at which the mirror image in a glossy surface appears, metres; 0 on any other surface.

        A mirror ray of length t from a surface at depth d comes as if from a point at d + t straight on.
        """
        depth = self._render(i)[1].reshape(-1)
        h, w = self.size_hw
        pose, room = self.world_T_cams[i], self._room
        y, x = np.mgrid[:h, :w].reshape(2, -1)
        rays = np.linalg.inv(self._K) @ np.stack((x, y, np.ones_like(x)))
        direction = (pose[:3, :3] @ rays).astype(np.float32)
        origin = pose[:3, 3:].astype(np.float32)
        _, face = room.trace(origin, direction)
        mirrors = np.flatnonzero(room.glossy[face // 6] & (face % 6 == np.where(face // 6 == ROOM, 4, 5)))
        result = np.zeros(h * w, np.float32)
        if len(mirrors):
            bounced = direction[:, mirrors] * np.array([[1], [1], [-1]], np.float32)
            t, _ = room.trace((origin + depth * direction)[:, mirrors], bounced)
            result[mirrors] = depth[mirrors] + t
        return result.reshape(h, w)

    def _render(self, i: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Image, exact z-depth at the pixel centres, highlight mask."""
        if self._room is None:
            self._room = build(self.seed)
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
        up = np.where(face // 6 == ROOM, 4, 5)
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
