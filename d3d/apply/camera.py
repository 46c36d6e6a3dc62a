"""Choose the camera of an image: given by the user, read from EXIF data, or assumed."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from d3d.datasets.images import HW
from d3d.errors import ConfigError
from d3d.geometry import scale_intrinsics
from d3d.models.base import DepthNetwork
from d3d.models.sizes import network_size

ASSUMED_FOV_DEG = 60.0  # if the camera of the training is also unknown


@dataclass(frozen=True)
class Camera:
    """A camera without distortion. Its principal point is the centre of the image.

    Attributes:
        focal_px: focal length, pixels.
        source: "given", "EXIF" or "assumed".
    """

    focal_px: float
    source: str

    def fov_deg(self, image_hw: HW) -> float:
        """Compute the field of view along the longer side of the image, degrees."""
        return math.degrees(2 * math.atan(max(image_hw) / 2 / self.focal_px))

    def K_at(self, image_hw: HW, to_hw: HW) -> np.ndarray:
        """Compute the intrinsics (3, 3) of the image resized to ``to_hw``, pixel centres at integers."""
        h, w = image_hw
        K = np.array([[self.focal_px, 0, (w - 1) / 2], [0, self.focal_px, (h - 1) / 2], [0, 0, 1]])
        return scale_intrinsics(K, image_hw, to_hw)


def check_camera(fov_deg: float | None, focal_px: float | None) -> None:
    """Check the camera options; raises ConfigError if both are given or a value is out of range."""
    if fov_deg is not None and focal_px is not None:
        raise ConfigError("--fov and --focal-px exclude each other: give one of them.")
    if fov_deg is not None and not 1 <= fov_deg <= 170:
        raise ConfigError(f"--fov {fov_deg:g} must be an angle from 1 to 170 degrees.")
    if focal_px is not None and not 0 < focal_px < math.inf:
        raise ConfigError(f"--focal-px {focal_px:g} must be a positive number of pixels.")


def camera_of(
    model: DepthNetwork, image_hw: HW, fov_deg: float | None, focal_px: float | None, noted_px: float | None
) -> Camera:
    """Choose the camera: given by the user, else from EXIF data, else the camera of the network's training.

    Args:
        image_hw: height and width of the image.
        fov_deg: field of view along the longer side, given by the user, degrees.
        focal_px: focal length given by the user, pixels.
        noted_px: focal length from EXIF data, pixels.
    """
    if fov_deg is not None:
        focal_px = _focal(image_hw, fov_deg)
    if focal_px is not None:
        return Camera(focal_px, "given")
    if noted_px is not None:
        return Camera(noted_px, "EXIF")
    if model.train_focal_px is None:
        return Camera(_focal(image_hw, ASSUMED_FOV_DEG), "assumed")
    # resized to the network's input, an image of this camera has the focal length of the training
    stretch = math.sqrt(math.prod(image_hw) / math.prod(network_size(model, image_hw)))
    return Camera(math.sqrt(math.prod(model.train_focal_px)) * stretch, "assumed")


def _focal(image_hw: HW, fov_deg: float) -> float:
    return max(image_hw) / 2 / math.tan(math.radians(fov_deg) / 2)
