"""Convert camera images to the pinhole images that d3d's geometry needs.

Each lens has a `Plan`: it undistorts an image, turns it upright, resizes it and crops it to the scene's size.
"""

from __future__ import annotations

import functools
import math
import signal
import threading
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from d3d.datasets.capture.description import Lens
from d3d.datasets.images import HW, resize_image
from d3d.errors import ConfigError, DataError
from d3d.geometry import sample, scale_intrinsics

_MAX_ANGLE_DEG = (
    75.0  # between the axis and the middle of an edge; beyond this angle a pinhole image is mostly blur
)
HALF = 0.5  # COLMAP's coordinate of the centre of the first pixel


def pycolmap() -> Any:
    """Import pycolmap and silence its log. Raises ConfigError if it is not installed."""
    try:
        import pycolmap
    except ImportError:
        raise ConfigError(
            "COLMAP's files and lens distortion need pycolmap: pip install 'd3d[capture]'"
        ) from None
    pycolmap.logging.minloglevel = pycolmap.logging.Level.FATAL.value
    if threading.current_thread() is threading.main_thread():
        # pycolmap's handler prints a trace of C++ when somebody stops this process
        signal.signal(signal.SIGTERM, signal.getsignal(signal.SIGTERM))
    return pycolmap


def pinhole_of(lens: Lens, where: str) -> Lens:
    """Choose the pinhole lens of the undistorted image: without blank pixels, at the scale of the image's centre.

    Args:
        lens: the lens of the stored image. A pinhole lens is returned unchanged.
        where: name of the image for messages.

    Raises:
        DataError: the image size of a distorted lens is unknown, or its field of view is too wide for a pinhole.
    """
    return _undistorted(lens, where) if lens.model else lens


@functools.lru_cache(maxsize=4096)
def _undistorted(lens: Lens, where: str) -> Lens:
    if lens.size_hw is None:
        raise DataError(
            f"{where}: the lens has distortion, but no image size (w, h). Add the size, or undistort the images."
        )
    (h, w), camera = lens.size_hw, _camera(lens)
    edges = np.array([[0, h / 2], [w, h / 2], [w / 2, 0], [w / 2, h]], dtype=np.float64)
    rays = camera.cam_ray_from_img(edges)
    angles = np.degrees(np.arccos(np.clip(rays[:, 2], -1, 1)))
    # at large angles, COLMAP's inverse of a distortion may return the ray of another pixel
    back = np.abs(camera.img_from_cam(rays) - edges).max()
    if not (angles.max() <= _MAX_ANGLE_DEG and back < 1):  # not: NaN where there is no ray
        raise DataError(
            f"{where}: its lens ({lens.model}) sees more than {_MAX_ANGLE_DEG:g} degrees from its axis. A pinhole "
            "image cannot show this. Undistort the images with a smaller field of view (COLMAP's image_undistorter)."
        )
    new = pycolmap().undistort_camera(pycolmap().UndistortCameraOptions(), camera)
    K = new.calibration_matrix()
    result = Lens(K[0, 0], K[1, 1], K[0, 2] - HALF, K[1, 2] - HALF, (new.height, new.width))
    pixels = _source_pixels(lens, result, (new.height, new.width))[:, [0, -1], :][:, :, [0, -1]]
    if not np.isfinite(pixels).all():
        raise DataError(
            f"{where}: the distortion of {lens.model} folds the image. Calibrate the camera again."
        )
    return result


def _camera(lens: Lens) -> Any:
    h, w = lens.size_hw
    try:
        camera = pycolmap().Camera.create_from_model_name(1, lens.model, max(lens.fx, 1.0), w, h)
        camera.params = list(lens.params)
        if not camera.verify_params() or not np.isfinite(lens.params).all():
            raise ValueError(f"invalid parameters {lens.params}")
    except (ValueError, RuntimeError, TypeError) as error:
        raise DataError(f"camera model {lens.model!r}: {error}.") from None
    return camera


def _source_pixels(lens: Lens, pinhole: Lens, size_hw: HW) -> np.ndarray:
    """Compute the position of each pinhole pixel in the distorted image: x, y (2, h, w), centres at integers."""
    h, w = size_hw
    y, x = np.mgrid[:h, :w].reshape(2, -1)
    rays = np.stack(((x - pinhole.cx) / pinhole.fx, (y - pinhole.cy) / pinhole.fy, np.ones(h * w)), axis=1)
    pixels = _camera(lens).img_from_cam(rays) - HALF
    return pixels.T.reshape(2, h, w)


@dataclass(frozen=True)
class Plan:
    """Conversion of the images of one lens to images of the scene.

    Attributes:
        lens: lens of the image as it is read.
        pinhole: lens of the undistorted image.
        turns: counter-clockwise quarter turns that make the image upright.
        size_hw: size of the scene's images.
    """

    lens: Lens
    pinhole: Lens
    turns: int
    size_hw: HW

    @property
    def turned_hw(self) -> HW:
        h, w = self.pinhole.size_hw
        return (w, h) if self.turns % 2 else (h, w)

    @property
    def scaled_hw(self) -> HW:
        """Size after resizing and before cropping; it covers the scene's size."""
        (h, w), (H, W) = self.turned_hw, self.size_hw
        scale = max(H / h, W / w)
        return max(H, round(h * scale)), max(W, round(w * scale))

    @property
    def corner(self) -> tuple[int, int]:
        """Row and column of the upper left corner of the cropped part."""
        (h, w), (H, W) = self.scaled_hw, self.size_hw
        return (h - H) // 2, (w - W) // 2

    def K(self) -> np.ndarray:
        """Return the intrinsics (3, 3) of the scene's image."""
        K, (h, w) = self.pinhole.K, self.pinhole.size_hw
        for _ in range(self.turns):
            K, (h, w) = turned_K(K, w), (w, h)
        K = scale_intrinsics(K, self.turned_hw, self.scaled_hw)
        K[0, 2] -= self.corner[1]
        K[1, 2] -= self.corner[0]
        return K

    def image(self, raw: np.ndarray) -> np.ndarray:
        """Convert an image as it is read to the scene's image, uint8 (H, W, 3)."""
        if self.lens.model:
            raw = _sampled(raw, _map(self.lens, self.pinhole))
        image = np.rot90(raw, self.turns)
        image = resize_image(np.ascontiguousarray(image), self.scaled_hw)
        (top, left), (h, w) = self.corner, self.size_hw
        return np.ascontiguousarray(image[top : top + h, left : left + w])

    def depth(self, raw: np.ndarray, depth_hw: HW) -> np.ndarray:
        """Convert a depth map as it is read to the scene's depth (``depth_hw``). The map may be smaller than the image.

        Each pixel takes the nearest pixel of the map, because averaging would invent surfaces.
        """
        y, x = (np.arange(n) + 0.5 for n in depth_hw)
        (h, w), (H, W), (top, left) = self.scaled_hw, self.size_hw, self.corner
        y, x = (y / depth_hw[0] * H + top) / h, (x / depth_hw[1] * W + left) / w  # of the turned image, 0..1
        v, u = np.broadcast_arrays(y[:, None], x[None])
        for _ in range(self.turns):
            u, v = 1 - v, u
        if self.lens.model:
            (ph, pw), (rh, rw) = self.pinhole.size_hw, self.lens.size_hw
            of = _map(self.lens, self.pinhole)
            rows, cols = (np.minimum((a * n).astype(int), n - 1) for a, n in ((v, ph), (u, pw)))
            u, v = (of[0, rows, cols] + 0.5) / rw, (of[1, rows, cols] + 0.5) / rh
        rows, cols = (np.clip((a * n).astype(int), 0, n - 1) for a, n in zip((v, u), raw.shape, strict=True))
        return raw[rows, cols]


def turned_K(K: np.ndarray, width: int) -> np.ndarray:
    """Return the intrinsics (3, 3) after `numpy.rot90`, a counter-clockwise quarter turn of an image of this width."""
    return np.array([[K[1, 1], 0, K[1, 2]], [0, K[0, 0], width - 1 - K[0, 2]], [0, 0, 1]])


def turned_pose(world_T_cam: np.ndarray, turns: int) -> np.ndarray:
    """Return the pose (4, 4) of a camera after its image was turned counter-clockwise by quarter turns."""
    # after one turn the new x axis is the old y axis, the new y axis the old -x axis
    quarter = np.array([[0.0, -1, 0, 0], [1, 0, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]])
    return world_T_cam @ np.linalg.matrix_power(quarter, turns % 4)


@functools.lru_cache(maxsize=8)  # a map of 4K takes 66 MB
def _map(lens: Lens, pinhole: Lens) -> np.ndarray:
    return _source_pixels(lens, pinhole, pinhole.size_hw).astype(np.float32)


def _sampled(image: np.ndarray, pixels: np.ndarray) -> np.ndarray:
    image_b3hw = torch.from_numpy(image).permute(2, 0, 1)[None].float()
    sampled = sample(image_b3hw, torch.from_numpy(pixels)[None])[0]
    return sampled.round().clamp(0, 255).to(torch.uint8).permute(1, 2, 0).numpy()


def at_size(lens: Lens, size_hw: HW, where: str) -> Lens:
    """Scale a lens to another image size of the same aspect ratio.

    Raises:
        DataError: the aspect ratio differs; or the lens has no size, and its principal point is far from the centre of
            the image.
    """
    h, w = size_hw
    if lens.size_hw is None:
        if not (0.3 < (lens.cx + 0.5) / w < 0.7 and 0.3 < (lens.cy + 0.5) / h < 0.7):
            raise DataError(
                f"{where}: the image is {w}x{h}, but the principal point of its intrinsics is at ({lens.cx:g}, "
                f"{lens.cy:g}), far from the centre. They belong to images of another size. Give intrinsics for this "
                "size with --intrinsics."
            )
        return replace(lens, size_hw=size_hw)
    H, W = lens.size_hw
    if lens.size_hw == size_hw:
        return lens
    if abs(math.log((w / h) / (W / H))) > 0.01:
        raise DataError(
            f"{where}: the image is {w}x{h}, but its intrinsics belong to {W}x{H}, another shape. Give "
            "intrinsics for this size with --intrinsics, or use the images that the intrinsics belong to."
        )
    K, params = scale_intrinsics(lens.K, (H, W), (h, w)), lens.params
    if lens.model:
        camera = _camera(lens)
        camera.rescale(w, h)
        params = tuple(map(float, camera.params))
    return Lens(K[0, 0], K[1, 1], K[0, 2], K[1, 2], size_hw, lens.model, params)
