"""What a reader of a capture returns: frames with their files, lenses and matrices, as the files have them.

`d3d.datasets.capture.scene` makes a `Scene` of it: it applies conventions, scale and undistortion in one place.
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
    """How the matrices of a capture are to be read."""

    poses: Poses = "camera-to-world"
    axes: Axes = "opencv"

    def world_T_cams(self, matrices: np.ndarray) -> np.ndarray:
        """Camera-to-world matrices with OpenCV axes, of matrices (n, 4, 4) in this convention."""
        result = np.linalg.inv(matrices) if self.poses == "world-to-camera" else matrices
        return result @ np.diag([1.0, -1, -1, 1]) if self.axes == "opengl" else result


@dataclass(frozen=True)
class Lens:
    """Intrinsics of an image in pixels, pixel centres at integers, and perhaps a distortion.

    Attributes:
        size_hw: size of the image that they belong to; None where the capture does not say.
        model, params: a camera with distortion: the name of COLMAP's model and all of its parameters in COLMAP's
            convention (centre of the first pixel at 0.5, 0.5); "" for a pinhole.
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
        """The lens of a camera matrix (3, 3); raises DataError where it is none."""
        K = np.asarray(K, dtype=np.float64)
        usable = K.shape == (3, 3) and np.isfinite(K).all() and K[0, 0] > 0 and K[1, 1] > 0
        if not usable or np.abs(K[[1, 2, 2], [0, 0, 1]]).max() > 1e-6 or abs(K[0, 1]) > 1e-3 * K[0, 0]:
            raise DataError(
                f"{where}: not the 3x3 matrix of a camera, fx 0 cx, 0 fy cy, 0 0 1: {K.tolist()}."
            )
        if size_hw is not None:
            (h, w), (cx, cy) = size_hw, K[:2, 2]
            if not (-w <= cx <= 2 * w and -h <= cy <= 2 * h):
                raise DataError(
                    f"{where}: the principal point ({cx:g}, {cy:g}) lies far outside of the image of {w}x{h} pixels."
                )
        return cls(K[0, 0], K[1, 1], K[0, 2], K[1, 2], size_hw)


@dataclass
class Frame:
    """An image of a capture that has a pose; neither the image nor the depth map need exist."""

    id: str
    image: Path
    lens: Lens
    matrix: np.ndarray  # (4, 4), in the capture's convention and unit
    depth: Path | None = None
    time_s: float | None = None
    point_depth: float | None = None  # median depth of the sparse points that it sees, in the capture's unit


@dataclass
class Capture:
    """A capture as its files describe it.

    Attributes:
        metric: whether the unit of the matrices is the metre.
        depth_scale: stored values of depth per metre.
        depth_hw: size of depth files that do not state theirs (`.depth`); else None.
        left_out: frame id -> why it is no frame of the capture.
        notes: lines to tell the user, such as which of several models was taken.
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
    """What the user says about a capture; None where the files decide."""

    intrinsics: str | None = None
    depth_scale: float | None = None
