"""Read captures of Open3D and Redwood: `trajectory.log` has blocks of three numbers and a 4x4 matrix.

The matrices are camera-to-world, in metres.
"""

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
    keyed,
    rows,
    square,
    to_floats,
)
from d3d.errors import DataError, counted

FILES = (
    "trajectory.log (or another .log), images (color/, rgb/, image/), perhaps depth/, camera_intrinsic.json"
)
SIGNS = ("trajectory.log", "scene/trajectory.log")


def _path(root: Path) -> Path | None:
    logs = [root / "trajectory.log", root / "scene" / "trajectory.log", *sorted(root.glob("*.log"))]
    return next((p for p in logs if p.is_file() and _looks_right(p)), None)


def _looks_right(path: Path) -> bool:
    """Tell whether the file begins with a block, because other programs write .log files, too."""
    with open(path, "rb") as file:
        head = file.read(4096).splitlines()[:5]
    return [len(line.split()) for line in head] == [3, 4, 4, 4, 4]


def found(root: Path) -> bool:
    return _path(root) is not None


def read(root: Path, given: Given) -> Capture:
    """Read the blocks. The first number of a block is the index of its image in natural order.

    Raises:
        DataError: a block is invalid, or its number has no image.
    """
    path, lens = _path(root), find_lens(root, given.intrinsics)
    folder = folder_of(root, IMAGE_FOLDERS) or root
    images, lines, depths = images_in(folder), rows(path), {}
    if of_depth := folder_of(root, DEPTH_FOLDERS):
        depths = keyed(p for p in of_depth.rglob("*") if p.is_file())
    if len(lines) % 5 or any(len(line) != (3 if k % 5 == 0 else 4) for k, line in enumerate(lines)):
        raise DataError(f"{path}: not blocks of 3 numbers and a 4x4 matrix. Export it again.")
    frames = []
    for k in range(0, len(lines), 5):
        where = f"{path}, pose {k // 5}"
        number = to_floats(lines[k], where)[0]
        if not (float(number).is_integer() and 0 <= number < len(images)):
            raise DataError(
                f"{where} belongs to image {number:.0f}, but {folder} has {counted(len(images), 'image')}."
            )
        matrix = square(to_floats((w for line in lines[k + 1 : k + 5] for w in line), where), where)
        image = images[int(number)]
        name = frame_id(image.relative_to(folder).as_posix())
        frames.append(Frame(name, image, lens, matrix, depths.get(image.stem) or depths.get(int(number))))
    return Capture(frames, metric=True)
