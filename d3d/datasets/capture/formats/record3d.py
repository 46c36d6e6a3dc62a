"""Read Record3D exports: `metadata` with K and poses, and `rgbd/` or `EXR_RGBD/`.

Poses are camera-to-world with ARKit's axes (OpenGL), in metres.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from d3d.datasets.capture.description import Capture, Convention, Frame, Given, Lens
from d3d.datasets.capture.files import images_in, parse_lens, read_json_object
from d3d.datasets.capture.formats.tum import quaternion_poses
from d3d.datasets.images import HW
from d3d.errors import DataError, counted

FILES = "metadata (JSON), and rgbd/, EXR_RGBD/ or rgb/ and depth/; or a .r3d file"
SIGNS = ("metadata", "EXR_RGBD/metadata*")
_METADATA = ("metadata", "metadata.json", "EXR_RGBD/metadata", "EXR_RGBD/metadata.json")
_IMAGES = ("rgbd", "EXR_RGBD/rgb", "EXR_RGBD", "rgb")
_DEPTHS = (("rgbd", ".depth"), ("EXR_RGBD/depth", ".exr"), ("EXR_RGBD", ".exr"), ("depth", ".exr"))


def _metadata(root: Path) -> Path | None:
    return next((root / name for name in _METADATA if (root / name).is_file()), None)


def found(root: Path) -> bool:
    return _metadata(root) is not None and any((root / name).is_dir() for name in _IMAGES)


def read(root: Path, given: Given) -> Capture:
    """Read the frames. Image N has pose N, and numbers may be missing. Raises DataError for invalid metadata."""
    path = _metadata(root)
    about = read_json_object(path)
    size_hw, depth_hw = _size(about, "h", "w"), _size(about, "dh", "dw")
    poses = _array(about, "poses", 7, path)
    matrices = quaternion_poses(poses[:, :4], poses[:, 4:], str(path))
    if given.intrinsics is not None:
        lenses = [parse_lens(given.intrinsics, root)] * len(poses)
    else:
        lenses = _lenses(about, len(poses), size_hw, path)
    folder = next(root / name for name in _IMAGES if (root / name).is_dir())
    frames, left_out = [], {}
    for image in images_in(folder):
        number = int(image.stem) if image.stem.isdecimal() else -1
        if not 0 <= number < len(poses):
            left_out[image.stem] = (
                f"{path} has {counted(len(poses), 'pose')}, but none with number {image.stem}"
            )
            continue
        candidates = (root / name / f"{image.stem}{suffix}" for name, suffix in _DEPTHS)
        depth = next((p for p in candidates if p.is_file()), None)
        frames.append(Frame(image.stem, image, lenses[number], matrices[number], depth, float(number)))
    return Capture(frames, Convention(axes="opengl"), True, depth_hw=depth_hw, left_out=left_out)


def _size(about: dict[str, Any], height: str, width: str) -> HW | None:
    size = about.get(height), about.get(width)
    usable = all(isinstance(n, int | float) and 0 < n < 2**16 for n in size)
    return (int(size[0]), int(size[1])) if usable else None


def _array(about: dict[str, Any], name: str, columns: int, path: Path) -> np.ndarray:
    try:
        values = np.array(about[name], dtype=np.float64)
        if values.ndim != 2 or values.shape[1] != columns or not len(values):
            raise ValueError(f"shape {values.shape}")
        return values
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise DataError(
            f"{path}: {name} is not a list of rows with {columns} numbers ({error!r}). Export again."
        ) from None


def _lenses(about: dict[str, Any], n: int, size_hw: HW | None, path: Path) -> list[Lens]:
    """Read the intrinsics of each frame; without them, the common matrix K for all frames."""
    if about.get("perFrameIntrinsicCoeffs"):
        values = _array(about, "perFrameIntrinsicCoeffs", 4, path)
        if len(values) == n:
            Ks = [np.array([[fx, 0, cx], [0, fy, cy], [0, 0, 1]]) for fx, fy, cx, cy in values]
            return [Lens.of(K, size_hw, f"{path}, frame {i}") for i, K in enumerate(Ks)]
    try:
        K = np.array(about["K"], dtype=np.float64).reshape(3, 3).T  # column by column
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise DataError(f"{path}: no matrix K of 9 numbers ({error!r}). Export again.") from None
    return [Lens.of(K, size_hw, str(path))] * n
