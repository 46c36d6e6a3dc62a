"""Read `transforms.json` of nerfstudio and instant-ngp: camera-to-world poses, OpenGL axes."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np

from d3d.datasets.capture.description import Capture, Convention, Frame, Given, Lens
from d3d.datasets.capture.files import (
    frame_id,
    inside,
    json_number,
    json_scale,
    parse_lens,
    read_json_object,
    square,
    without_common_folder,
)
from d3d.datasets.photos import SUFFIXES
from d3d.errors import DataError

FILES = "transforms.json, and the images that it names"
SIGNS = ("transforms*.json", "nerfstudio/transforms*.json")
_NAMES = ("transforms.json", "transforms_train.json", "nerfstudio/transforms.json")


def _path(root: Path) -> Path | None:
    return next((root / name for name in _NAMES if (root / name).is_file()), None)


def found(root: Path) -> bool:
    return _path(root) is not None


def read(root: Path, given: Given) -> Capture:
    """Read the frames of the file, in its order. Raises DataError for an invalid entry."""
    path = _path(root)
    whole = read_json_object(path)
    listed = whole.get("frames")
    if not isinstance(listed, list) or not listed:
        raise DataError(f'{path} has no list "frames". Export it again.')
    lens = None if given.intrinsics is None else parse_lens(given.intrinsics, root)
    frames = []
    for k, entry in enumerate(listed):
        where = f"{path}, frame {k}"
        if not isinstance(entry, dict) or not isinstance(entry.get("file_path"), str):
            raise DataError(f"{where}: no file_path. Export it again.")
        image = _existing(path.parent, entry["file_path"], where)
        of_depth = entry.get("depth_file_path")
        depth = inside(path.parent, of_depth, where) if isinstance(of_depth, str) else None
        matrix = square(_numbers(entry.get("transform_matrix"), f"{where}: transform_matrix"), where)
        frames.append(Frame("", image, lens or _lens({**whole, **entry}, where), matrix, depth))
    for frame, name in zip(frames, without_common_folder(e["file_path"] for e in listed), strict=True):
        frame.id = frame_id(name)
    scale = json_scale(whole, "depth_unit_scale_factor", str(path))
    # a capture with depth comes from a device, and its poses are in metres, too
    metric = any(f.depth is not None for f in frames)
    return Capture(frames, Convention(axes="opengl"), metric, depth_scale=1 / (scale or 0.001))


def _existing(folder: Path, name: str, where: str) -> Path:
    """Find the image of a path: as written, with a suffix added, or without its first folders.

    Returns:
        the image, or the path as written if no image exists.
    """
    path = inside(folder, name, where)
    below = [folder / Path(*Path(name).parts[k:]) for k in range(1, len(Path(name).parts))]
    candidates = [path, *below, *(folder / "images" / p.name for p in (path,))]
    for candidate in candidates:
        if candidate.is_file():
            return candidate
        for suffix in sorted(SUFFIXES):
            if (longer := candidate.with_name(candidate.name + suffix)).is_file():
                return longer
    return path


def _numbers(value: Any, where: str) -> np.ndarray:
    try:
        return np.array(value, dtype=np.float64).ravel()
    except (TypeError, ValueError, OverflowError):
        raise DataError(f"{where} is not a matrix of numbers. Export it again.") from None


def _lens(of: dict[str, Any], where: str) -> Lens:
    """Read the intrinsics of a frame. ``of`` holds its own values over those of the file."""
    w, h, fx, fy, cx, cy = (json_number(of, k, where) for k in ("w", "h", "fl_x", "fl_y", "cx", "cy"))
    size_hw = (round(h), round(w)) if w and h else None
    if fx is None and w and (angle := json_number(of, "camera_angle_x", where)):
        if not 1e-3 < angle < math.pi - 1e-3:
            raise DataError(
                f"{where}: camera_angle_x is {angle:g}, but an angle of view lies between 0 and pi."
            )
        fx = 0.5 * w / math.tan(0.5 * angle)
    if fx is None or (size_hw is None and (cx is None or cy is None)):
        raise DataError(
            f"{where}: no intrinsics (fl_x, cx, cy, or camera_angle_x, and w, h). Give them with --intrinsics."
        )
    fy = fx if fy is None else fy
    cx, cy = w / 2 if cx is None else cx, h / 2 if cy is None else cy
    k1, k2, k3, k4, p1, p2 = (json_number(of, k, where) or 0.0 for k in ("k1", "k2", "k3", "k4", "p1", "p2"))
    # most of these files come from COLMAP, where the centre of the first pixel is at 0.5
    K = np.array([[fx, 0, cx - 0.5], [0, fy, cy - 0.5], [0, 0, 1]])
    pinhole = Lens.of(K, size_hw, where)
    if not any((k1, k2, k3, k4, p1, p2)) and not _fisheye(of):
        return pinhole
    if _fisheye(of):
        model, params = "OPENCV_FISHEYE", (fx, fy, cx, cy, k1, k2, k3, k4)
    elif k4:
        raise DataError(f"{where}: k4 = {k4} without a fisheye lens is not supported. Undistort the images.")
    else:
        model, params = "FULL_OPENCV", (fx, fy, cx, cy, k1, k2, p1, p2, k3, 0.0, 0.0, 0.0)
    return Lens(pinhole.fx, pinhole.fy, pinhole.cx, pinhole.cy, size_hw, model, params)


def _fisheye(of: dict[str, Any]) -> bool:
    return bool(of.get("is_fisheye")) or "FISHEYE" in str(of.get("camera_model", "")).upper()
