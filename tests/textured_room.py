"""A camera in a box with textured walls, rendered exactly: images for structure from motion, with known poses."""

from __future__ import annotations

import numpy as np
from PIL import Image
from scipy.ndimage import gaussian_filter, map_coordinates

SIZE_HW = (240, 320)
K = np.array([[260.0, 0, 159.5], [0, 260.0, 119.5], [0, 0, 1]])
HALF_M = 2.0  # from the middle of the box to each wall
_TEXELS = 700


def _texture(rng):
    """Return a texture (n, n) with spots of several sizes, so that SIFT finds features at every distance."""
    layers = [
        gaussian_filter(rng.standard_normal((_TEXELS, _TEXELS)), s, mode="wrap") * s for s in (1.5, 4, 12)
    ]
    return np.clip(128 + 110 * sum(layers), 0, 255)


def walls():
    rng = np.random.default_rng(0)
    return [_texture(rng) for _ in range(6)]


def pose(centre, yaw_deg, pitch_deg=0.0):
    """Camera-to-world (4, 4), OpenCV axes; y points down."""
    a, b = np.radians((yaw_deg, pitch_deg))
    turn = np.array([[np.cos(a), 0, np.sin(a)], [0, 1, 0], [-np.sin(a), 0, np.cos(a)]])
    nod = np.array([[1, 0, 0], [0, np.cos(b), -np.sin(b)], [0, np.sin(b), np.cos(b)]])
    world_T_cam = np.eye(4)
    world_T_cam[:3, :3], world_T_cam[:3, 3] = turn @ nod, centre
    return world_T_cam


def walk(count):
    """Poses of a camera that moves sideways on an arc and turns a little."""
    s = np.linspace(-1, 1, count)
    return [pose((0.9 * x, 0.1 * np.sin(3 * x), -0.8 + 0.3 * x * x), 8 * x, 3 * np.cos(2 * x)) for x in s]


def turn(count):
    """Poses of a camera that only turns."""
    return [pose((0.1, 0, -0.5), yaw) for yaw in np.linspace(-30, 30, count)]


def render(world_T_cam, textures):
    """The image of a camera, uint8 (240, 320, 3)."""
    h, w = SIZE_HW
    y, x = np.mgrid[:h, :w].reshape(2, -1)
    rays = world_T_cam[:3, :3] @ np.linalg.inv(K) @ np.stack((x, y, np.ones(h * w)))
    centre = world_T_cam[:3, 3][:, None]
    with np.errstate(divide="ignore"):
        far = (np.sign(rays) * HALF_M - centre) / rays  # to the wall of each axis
    axis = far.argmin(axis=0)
    points = centre + rays * far.min(axis=0)
    grey = np.empty(h * w)
    for k in range(6):
        here = (axis == k // 2) & ((rays[k // 2] > 0) == (k % 2 == 1))
        on_wall = np.delete(points, k // 2, axis=0)[:, here]
        texel = (on_wall + HALF_M) / (2 * HALF_M) * (_TEXELS - 1)
        grey[here] = map_coordinates(textures[k], texel, order=1)
    image = np.rint(grey).astype(np.uint8).reshape(h, w)
    return np.repeat(image[..., None], 3, axis=2)


def write(folder, images, suffix=".png"):
    folder.mkdir(parents=True, exist_ok=True)
    for i, image in enumerate(images):
        Image.fromarray(image).save(folder / f"IMG_{i + 1}{suffix}")
    return folder
