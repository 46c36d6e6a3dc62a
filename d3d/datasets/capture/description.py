"""The result of a reader of captures: frames with files, lenses and matrices as stored.

`d3d.datasets.capture.scene` makes a `Scene` from it, and applies conventions, scale and undistortion.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np

from d3d.datasets.images import HW
from d3d.errors import DataError

Axes = Literal["opencv", "opengl"]
Poses = Literal["camera-to-world", "world-to-camera"]


class Convention(NamedTuple):
    """Convention of the matrices of a capture: direction and axes."""

    poses: Poses = "camera-to-world"
    axes: Axes = "opencv"

    def world_T_cams(self, matrices: np.ndarray) -> np.ndarray:
        """Convert matrices (n, 4, 4) of this convention to camera-to-world matrices with OpenCV axes."""
        result = np.linalg.inv(matrices) if self.poses == "world-to-camera" else matrices
        return result @ np.diag([1.0, -1, -1, 1]) if self.axes == "opengl" else result


@dataclass(frozen=True)
class Lens:
    """Intrinsics of an image in pixels, pixel centres at integers, with an optional distortion.

    Attributes:
        size_hw: size of the image that the intrinsics belong to; None if unknown.
        model, params: for a lens with distortion, the name and the parameters of COLMAP's camera model (centre of the
            first pixel at 0.5, 0.5); "" for a pinhole.
    """

    fx: float
    fy: float
    cx: float
    cy: float
    size_hw: HW | None = None
    model: str = ""
    params: tuple[float, ...] = ()

    @property
    def K(self) -> np.ndarray:
        return np.array([[self.fx, 0, self.cx], [0, self.fy, self.cy], [0, 0, 1]], dtype=np.float64)

    @classmethod
    def of(cls, K: np.ndarray, size_hw: HW | None, where: str) -> Lens:
        """Make a lens from a camera matrix (3, 3). Raises DataError if the matrix is invalid."""
        K = np.asarray(K, dtype=np.float64)
        usable = K.shape == (3, 3) and np.isfinite(K).all() and K[0, 0] > 0 and K[1, 1] > 0
        if not usable or np.abs(K[[1, 2, 2], [0, 0, 1]]).max() > 1e-6 or abs(K[0, 1]) > 1e-3 * K[0, 0]:
            raise DataError(f"{where}: not a 3x3 camera matrix (fx 0 cx, 0 fy cy, 0 0 1): {K.tolist()}.")
        if size_hw is not None:
            if not all(1 <= n < 2**16 for n in size_hw):
                raise DataError(
                    f"{where}: (height, width) = {size_hw} is not the size of an image in pixels."
                )
            (h, w), (cx, cy) = size_hw, K[:2, 2]
            if not (-w <= cx <= 2 * w and -h <= cy <= 2 * h):
                raise DataError(
                    f"{where}: the principal point ({cx:g}, {cy:g}) lies far outside of the image of {w}x{h} pixels."
                )
        return cls(K[0, 0], K[1, 1], K[0, 2], K[1, 2], size_hw)


@dataclass
class Frame:
    """An image of a capture with a pose. The files of image and depth need not exist."""

    id: str
    image: Path
    lens: Lens
    matrix: np.ndarray  # (4, 4), in the capture's convention and unit
    depth: Path | None = None
    time_s: float | None = None
    point_depth: float | None = None  # median depth of the frame's sparse points, in the capture's unit


@dataclass
class Capture:
    """A capture as its files describe it.

    Attributes:
        metric: whether the unit of the matrices is the metre.
        depth_scale: stored depth values per metre.
        depth_hw: size of depth files without a size of their own (`.depth`); else None.
        left_out: frame id -> reason, for images without a usable pose.
        notes: messages for the user, for example which of several models was taken.
    """

    frames: list[Frame]
    convention: Convention = Convention()  # noqa: RUF009 (a named tuple)
    metric: bool = False
    depth_scale: float = 1000.0
    depth_hw: HW | None = None
    left_out: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Given:
    """The user's options for a reader; None leaves the decision to the files."""

    intrinsics: str | None = None
    depth_scale: float | None = None
