"""Read pose lists: 16 or 12 numbers in each line, `K.txt`, a folder of images, and an optional folder of depth.

NICE-SLAM and Replica name the list `traj.txt` and store images and depth together in `results/`.
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
    inside,
    json_scale,
    keyed,
    number_in,
    read_json_object,
    rows,
    square,
    to_floats,
    unmatched,
)
from d3d.errors import DataError, counted

FILES = "poses.txt or traj.txt with 16 or 12 numbers a line, K.txt, and images/ (rgb/, color/)"
SIGNS = ("*poses*.txt", "traj*.txt")
_NAMES = ("poses.txt", "pose.txt", "poses_c2w.txt", "traj.txt")


def _path(root: Path) -> Path | None:
    return next((root / name for name in _NAMES if (root / name).is_file()), None)


def found(root: Path) -> bool:
    return _path(root) is not None


def read(root: Path, given: Given) -> Capture:
    """Read one pose from each line. Its image is the next in natural order, or the image named by the first word.

    Raises:
        DataError: the numbers of poses and images differ, or a line is not a pose.
    """
    path, lens = _path(root), find_lens(root, given.intrinsics)
    folder = folder_of(root, IMAGE_FOLDERS) or root
    images = [p for p in images_in(folder) if not p.name.startswith("depth")]
    lines = rows(path)
    named = bool(lines) and len(lines[0]) in (13, 17)
    if not named and len(lines) != len(images):
        raise DataError(
            f"{path} has {counted(len(lines), 'pose')}, but {folder} has {counted(len(images), 'image')}. "
            "Begin each line with the name of its image, or remove the surplus poses or images."
        )
    of_depth = folder_of(root, DEPTH_FOLDERS)
    depths = keyed(p for p in of_depth.rglob("*") if p.is_file() and _is_depth(p, folder)) if of_depth else {}
    frames = []
    for k, words in enumerate(lines):
        where = f"{path}, pose {k}"
        image = inside(folder, words[0], where) if named else images[k]
        matrix = square(to_floats(words[named:], where), where)
        name = frame_id(image.relative_to(folder).as_posix())
        depth = depths.get(image.stem) or depths.get(number_in(image.stem))
        frames.append(Frame(name, image, lens, matrix, depth))
    notes = [] if of_depth == folder else unmatched(of_depth, [f.depth for f in frames])
    return Capture(frames, metric=True, depth_scale=_depth_scale(root), notes=notes)


def _is_depth(path: Path, images: Path) -> bool:
    return path.parent != images or path.name.startswith("depth")


def _depth_scale(root: Path) -> float:
    """Return the stored values per metre: from Replica's `cam_params.json`, else 1000."""
    for path in (root / "cam_params.json", root.parent / "cam_params.json"):
        if path.is_file():
            camera = read_json_object(path).get("camera")
            if isinstance(camera, dict) and (scale := json_scale(camera, "scale", str(path))) is not None:
                return scale
    return 1000.0
