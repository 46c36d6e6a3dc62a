"""A scene with an exactly known answer: a polished floor that mirrors a panel of lamps above it."""

from __future__ import annotations

import numpy as np

from d3d.datasets import Scene

CAMERA_M = 1.4  # above the floor
LAMPS_M = 1.4  # above the floor, thus as far below it in the mirror
MIRROR_RATIO = 1 + LAMPS_M / CAMERA_M  # depth of the mirror image / depth of the floor, at every pixel
PITCH = np.deg2rad(35)
PANEL_M = ((1.0, 2.8), (2.6, 5.0))  # extent of the lamps in x and z; the first frames see a part of it


class PolishedFloor(Scene):
    """A scene with exact depth, poses, highlight masks and depth of the mirror image; every pixel sees the floor.

    The camera walks to the right in steps of 7 cm and looks ahead and down. World: x right, y down, z ahead,
    metres, the floor at y = 0. Lamps outshine the floor they are mirrored in, so that only they are seen there.
    Both are smooth functions of the point, averaged over each pixel.
    """

    def __init__(self, frames: int = 12) -> None:
        c, s = np.cos(PITCH), np.sin(PITCH)
        poses = np.tile(np.eye(4), (frames, 1, 1))
        poses[:, :3, :3] = [[1, 0, 0], [0, c, s], [0, -s, c]]
        poses[:, 0, 3] = 0.07 * np.arange(frames)
        poses[:, 1, 3] = -CAMERA_M
        super().__init__("floor", [f"{i:03d}" for i in range(frames)], poses, (64, 96), has_depth=True)

    def virtual_depth(self, i: int) -> np.ndarray:
        """Return the depth of the lamps' mirror image in metres, 0 at pixels that do not show it."""
        depth, _, in_lamps = self._look(i)
        return np.where(_is_lit(*in_lamps), MIRROR_RATIO * depth, 0)

    def _read_K(self, i: int) -> np.ndarray:
        return np.array([[80, 0, 47.5], [0, 80, 31.5], [0, 0, 1]])

    def _read_depth(self, i: int) -> np.ndarray:
        return self._look(i)[0]

    def _read_highlight_mask(self, i: int) -> np.ndarray:
        return _is_lit(*self._look(i)[2])

    def _read_image(self, i: int) -> np.ndarray:
        total = np.zeros((*self.size_hw, 3))
        for dy in (-0.375, -0.125, 0.125, 0.375):
            for dx in (-0.375, -0.125, 0.125, 0.375):
                _, on_floor, in_lamps = self._look(i, dx, dy)
                lit = _is_lit(*in_lamps)[..., None]
                total += np.where(lit, _texture(*in_lamps, 2), 0.5 * _texture(*on_floor, 1))
        return (255 * (total / 16).clip(0, 1) + 0.5).astype(np.uint8)

    def _look(self, i: int, dx: float = 0, dy: float = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return z-depth (h, w) of the floor, (x, z) where rays meet the floor and the plane of the mirrored lamps."""
        y, x = np.indices(self.size_hw)
        rays = np.linalg.inv(self._read_K(i)) @ np.stack((x.ravel() + dx, y.ravel() + dy, np.ones(x.size)))
        pose = self.world_T_cams[i]
        right, down, ahead = (pose[:3, :3] @ rays).reshape(3, *self.size_hw)
        depth = CAMERA_M / down
        across = np.stack((right, ahead)) * depth
        start = pose[[0, 2], 3][:, None, None]
        return depth, start + across, start + MIRROR_RATIO * across


def _is_lit(x: np.ndarray, z: np.ndarray) -> np.ndarray:
    (left, right), (near, far) = PANEL_M
    return (left < x) & (x < right) & (near < z) & (z < far)


def _texture(x: np.ndarray, z: np.ndarray, seed: int) -> np.ndarray:
    """(h, w, 3) around 0.5: waves of 15 to 60 cm in all directions, ``seed`` times as long."""
    rng = np.random.default_rng(seed)
    waves = 2 * np.pi / (seed * rng.uniform(0.15, 0.6, 24))
    angles, phases = rng.uniform(0, 2 * np.pi, 24), rng.uniform(0, 2 * np.pi, (24, 3))
    along = np.cos(angles) * x[..., None] + np.sin(angles) * z[..., None]
    return 0.5 + 0.06 * np.sin((waves * along)[..., None] + phases).sum(axis=2)
