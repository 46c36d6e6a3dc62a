"""Pose lists: `poses.txt` with 16 or 12 numbers a line, `K.txt`, and a folder of images, perhaps one of depth."""

from __future__ import annotations

from pathlib import Path

from d3d.datasets.capture.description import Capture, Frame, Given
from d3d.datasets.capture.files import (
    DEPTH_FOLDERS,
    IMAGE_FOLDERS,
    find_lens,
    folder_of,
    frame_id,
    images_in,
    rows,
    square,
    to_floats,
)
from d3d.errors import DataError

FILES = "poses.txt with 16 or 12 numbers a line, K.txt, and images/ (rgb/, color/)"
_NAMES = ("poses.txt", "pose.txt", "poses_c2w.txt")


def _path(root: Path) -> Path | None:
    return next((root / name for name in _NAMES if (root / name).is_file()), None)


def found(root: Path) -> bool:
    return _path(root) is not None


def read(root: Path, given: Given) -> Capture:
    """Line by line: an image in natural order, or the image that the line's first word names.

    Raises:
        DataError: another number of poses than of images, or a line that is no pose.
    """
    path, lens = _path(root), find_lens(root, given.intrinsics)
    folder = folder_of(root, IMAGE_FOLDERS) or root
    images = images_in(folder)
    lines = rows(path)
    named = bool(lines) and len(lines[0]) in (13, 17)
    if not named and len(lines) != len(images):
        raise DataError(
            f"{path} has {len(lines)} poses, but {folder} has {len(images)} images. Begin each line with its image's "
            f"name, or remove what is too much."
        )
    depths = depth_files(root, folder)
    frames = []
    for k, words in enumerate(lines):
        where = f"{path}, pose {k}"
        image = folder / words[0] if named else images[k]
        matrix = square(to_floats(words[named:], where), where)
        name = image.relative_to(folder).as_posix()
        frames.append(Frame(frame_id(name), image, lens, matrix, depths.get(frame_id(name))))
    return Capture(frames, metric=True)


def depth_files(root: Path, images: Path) -> dict[str, Path]:
    """The depth maps of a capture by the id of their frame; empty without a folder of depth."""
    folder = folder_of(root, DEPTH_FOLDERS)
    if folder is None or folder == images:
        return {}
    found = [p for p in folder.rglob("*") if p.suffix.lower() in (".png", ".exr", ".tif", ".tiff", ".npy")]
    return {frame_id(p.relative_to(folder).as_posix()): p for p in found}
