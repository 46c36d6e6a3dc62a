"""`Scene` of a capture: applies conventions, scale, undistortion, orientation and size for all formats."""

from __future__ import annotations

import contextlib
import copy
import hashlib
import json
import os
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import count
from pathlib import Path

import numpy as np
from PIL import Image

from d3d.datasets.capture.depth import depth_size, read_depth
from d3d.datasets.capture.description import Capture, Convention, Frame, Lens
from d3d.datasets.capture.files import natural, refuse_heic
from d3d.datasets.capture.lenses import Plan, at_size, pinhole_of, turned_pose
from d3d.datasets.images import HW, decode_image, resize_image
from d3d.datasets.photos import FORMATS, MAX_PIXELS, rgb
from d3d.datasets.scene import Scene
from d3d.errors import DataError, WriteError, counted
from d3d.geometry import check_poses
from d3d.io import atomic, cache_folder

_TURNS = {
    3: 2,
    6: 3,
    8: 1,
}  # EXIF's orientation -> quarter turns counter-clockwise that make the image upright
_ORIENTATION = 0x0112
_CACHE_FROM = 4  # an image with this many times the requested pixels is cached at the requested size


@dataclass
class _Opened:
    """A frame whose image has a readable header.

    Attributes:
        transpose: whether EXIF's orientation is applied before the plan, as the intrinsics belong to the upright image.
        other_turns: the plan's quarter turns if the poses belong to the other of the two images, stored or upright;
            those of the plan if the size of the intrinsics decides.
    """

    frame: Frame
    plan: Plan
    transpose: bool
    other_turns: int


class CaptureScene(Scene):
    """The frames of a capture in the order of time.

    Attributes:
        capture: the result of the reader.
        convention: convention of the capture's matrices.
        metres_per_unit: scale of the positions.
        relative: whether the scale is arbitrary; lengths are then not in metres.
    """

    metres_per_unit, relative = 1.0, False

    def __init__(self, name: str, capture: Capture, convention: Convention) -> None:
        """Open the header of every image. A frame with a missing or broken image is left out.

        Raises:
            DataError: no frame is left, intrinsics belong to another size, or a pose is invalid.
        """
        opened, left_out = open_frames(capture)
        self.capture, self.convention, self._opened = capture, convention, opened
        self.frames = frames = [o.frame for o in opened]
        size_hw, depth_hw = opened[0].plan.size_hw, _depth_hw(capture, opened)
        has_depth = depth_hw is not None
        check_poses([f.matrix for f in frames], lambda i: str(frames[i].image))
        self._Ks = np.stack([o.plan.K() for o in opened])
        self.one_K = bool((self._Ks == self._Ks[0]).all())
        super().__init__(
            name,
            [f.id for f in frames],
            self.poses_in(convention),
            size_hw,
            has_depth,
            depth_hw,
            left_out=left_out,
        )

    def scaled(self, metres_per_unit: float, relative: bool) -> CaptureScene:
        """Return the scene at another scale."""
        result = copy.copy(self)
        result.__dict__.pop("_digest", None)
        result.metres_per_unit, result.relative = metres_per_unit, relative
        result.world_T_cams = result.poses_in(self.convention)
        return result

    def poses_in(self, convention: Convention, other_exif: bool = False) -> np.ndarray:
        """Compute the poses (n, 4, 4) under another convention, at this scene's scale.

        Args:
            other_exif: whether the poses belong to the other of the two images, stored or turned upright by EXIF,
                wherever the sizes do not decide.
        """
        poses = convention.world_T_cams(np.stack([o.frame.matrix for o in self._opened]))
        turns = [o.other_turns if other_exif else o.plan.turns for o in self._opened]
        poses = np.stack([turned_pose(p, t) for p, t in zip(poses, turns, strict=True)])
        poses[:, :3, 3] *= self.metres_per_unit
        return poses

    def point_depths(self) -> np.ndarray:
        """Return the median depth (n,) of each frame's sparse points, at this scene's scale; NaN if unknown."""
        depths = [np.nan if o.frame.point_depth is None else o.frame.point_depth for o in self._opened]
        return np.array(depths) * self.metres_per_unit

    def _read_resized(self, i: int, size_hw: HW) -> np.ndarray | None:
        """Undistort and resize a large or distorted image once, and keep the result in the user's cache."""
        opened, (h, w) = self._opened[i], self._opened[i].plan.lens.size_hw
        if not opened.plan.lens.model and h * w < _CACHE_FROM * size_hw[0] * size_hw[1]:
            return None
        path = cache_folder() / "captures" / self._key(opened, size_hw)
        try:
            return np.array(decode_image(path, ("PNG",), size_hw, ("RGB",)))
        except (FileNotFoundError, ValueError):
            image = resize_image(self.image(i), size_hw)
        # lossless: JPEG of quality 95 adds a quarter to the error of the check (E34)
        with contextlib.suppress(WriteError), atomic(path) as temporary:  # a full cache costs time only
            Image.fromarray(image).save(temporary, "PNG")
        return image

    def _key(self, opened: _Opened, size_hw: HW) -> str:
        """Return the path of the cached file. It depends on the image file, the plan and the size."""
        path = opened.frame.image.absolute()
        try:
            stat = path.stat()
        except OSError as error:
            raise DataError(f"{path} can no longer be read ({error}).") from None
        about = [str(path), stat.st_size, stat.st_mtime_ns, repr(opened.plan), opened.transpose, size_hw]
        digest = hashlib.sha256(json.dumps(about).encode()).hexdigest()
        return os.path.join(digest[:2], f"{digest[2:34]}.png")

    def _read_image(self, i: int) -> np.ndarray:
        opened = self._opened[i]
        return opened.plan.image(_decoded(opened, self._where(i)))

    def _read_K(self, i: int) -> np.ndarray:
        return self._Ks[i]

    def _read_depth(self, i: int) -> np.ndarray | None:
        opened, path = self._opened[i], self._opened[i].frame.depth
        if path is None or not path.is_file():
            return None
        # a map of floating-point numbers is in metres
        raw = read_depth(path, _per_metre(self.capture, path), self.capture.depth_hw, self._where(i))
        return opened.plan.depth(raw, self.depth_hw)


def _per_metre(capture: Capture, path: Path) -> float:
    return 1.0 if path.suffix.lower() in (".exr", ".depth") else capture.depth_scale


def _decoded(opened: _Opened, where: str) -> np.ndarray:
    """Decode the image that the intrinsics belong to: as stored, or turned upright by EXIF."""
    path = opened.frame.image
    try:
        image = decode_image(path, tuple(FORMATS), max_pixels=MAX_PIXELS)
    except FileNotFoundError:
        raise DataError(f"{where}: {path} is missing.") from None
    except ValueError as error:
        raise DataError(f"{where}: {path} is {error}. Copy it again.") from error
    if not opened.transpose:
        image.getexif().pop(_ORIENTATION, None)
    array = rgb(image)
    if array.shape[:2] != opened.plan.lens.size_hw:
        raise DataError(f"{where}: {path} has changed its size to {array.shape[1]}x{array.shape[0]}.")
    return array


def open_frames(capture: Capture) -> tuple[list[_Opened], dict[str, str]]:
    """Return the frames with a readable image in the order of time, and the reason for each other frame.

    Raises:
        DataError: no frame is left, images are HEIC files, or intrinsics belong to images of another shape.
    """
    refuse_heic(f.image for f in capture.frames)
    frames = sorted(capture.frames, key=lambda f: (f.time_s is None, f.time_s or 0.0, natural(f.id)))
    names, taken = {f.id for f in frames}, set()
    left_out, headers = dict(capture.left_out), []
    for frame in frames:
        if frame.id in taken:  # 1.jpg beside 1.png
            frame.id = next(new for k in count(2) if (new := f"{frame.id}_{k}") not in taken | names)
        taken.add(frame.id)
        header = _header(frame.image)
        if isinstance(header, str):
            left_out[frame.id] = header
        elif not np.isfinite(frame.matrix).all():
            left_out[frame.id] = "the pose is not finite (tracking lost)"
        else:
            headers.append((frame, *header))
    if not headers:
        first = next(iter(left_out.items()), ("", "it lists no frame"))
        raise DataError(
            f"no image of this capture has a pose and can be read: {len(left_out)} are left out. The first is "
            f"{first[0]!r}: {first[1]}."
        )
    plans = []
    for frame, stored_hw, orientation in headers:
        lens, transpose, turns, other = _oriented(frame, stored_hw, orientation)
        plans.append((frame, lens, pinhole_of(lens, str(frame.image)), turns, transpose, other))
    # the most frequent size; on a tie the largest
    sizes = Counter((p.size_hw[::-1] if turns % 2 else p.size_hw) for _, _, p, turns, *_ in plans)
    size_hw = max(sizes, key=lambda s: (sizes[s], s))
    opened = [_Opened(f, Plan(lens, p, turns, size_hw), *more) for f, lens, p, turns, *more in plans]
    return opened, left_out


def _header(path: Path) -> tuple[HW, int] | str:
    """Return the stored size and EXIF orientation of an image file, or the reason why it cannot be used."""
    if not path.is_file():
        return f"{path} is missing"
    try:
        with Image.open(path, formats=tuple(FORMATS)) as image:
            return (image.height, image.width), int(image.getexif().get(_ORIENTATION, 1))
    except Exception as error:  # PIL's decoders raise errors of many kinds
        return f"{path} is not an image ({error})"


def _oriented(frame: Frame, stored_hw: HW, orientation: int) -> tuple[Lens, bool, int, int]:
    """Decide whether the poses belong to the stored image or to the image turned upright by EXIF.

    COLMAP ignores EXIF's orientation; other programs apply it. For a quarter turn, the shape of the intrinsics decides,
    or the principal point if they have no size. For a half turn or a square image nothing decides: d3d takes the stored
    image, as COLMAP does, and the check of the poses tries the other reading.

    Returns:
        the lens of the image; whether EXIF's orientation is applied before the lens; the quarter turns after it;
        these turns under the other reading.
    """
    turns, where, lens = _TURNS.get(orientation, 0), str(frame.image), frame.lens
    (h, w), (lens_h, lens_w) = stored_hw, lens.size_hw or (lens.cy, lens.cx)
    same_shape = (h - w) * (lens_h - lens_w)  # positive: both lie or both stand
    if turns % 2 and same_shape < 0:
        return at_size(lens, (w, h), where), True, 0, 0
    return at_size(lens, stored_hw, where), False, turns, turns if turns % 2 and same_shape > 0 else 0


def _depth_hw(capture: Capture, opened: list[_Opened]) -> HW | None:
    """Compute the size of the scene's depth from the depth files and the crop of the images; None without depth."""
    for o in opened:
        path = o.frame.depth
        if path is None or not path.is_file():
            continue
        try:
            dh, dw = depth_size(path, capture.depth_hw, str(path))
        except DataError:
            continue  # concerns this frame only; reading its depth raises the error
        (h, w), (H, W) = o.plan.lens.size_hw, o.plan.size_hw
        if (dh, dw) == (h, w):
            return H, W
        if o.plan.turns % 2:
            h, w, dh, dw = w, h, dw, dh
        return max(1, round(H * dh / h)), max(1, round(W * dw / w))
    return None


def scene_name(root: Path) -> str:
    """Make a scene name from a folder, valid as a file name."""
    name = root.resolve().name.strip(". ")
    return "".join("_" if c in '/\\:*?"<>|\0' else c for c in name) or "capture"


def left_out_lines(left_out: Mapping[str, str]) -> list[str]:
    """Describe the frames that are left out: their number and the first reason."""
    if not left_out:
        return []
    frame, why = next(iter(left_out.items()))
    return [f"{counted(len(left_out), 'frame is', 'frames are')} left out, for example {frame!r}: {why}"]
