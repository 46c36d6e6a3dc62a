"""Read folders like ScanNet's export, with any names: images, one pose file for each frame, intrinsics, depth."""

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
    number_in,
    rows,
    square,
    to_floats,
    unmatched,
)
from d3d.errors import DataError

FILES = "a folder of poses (pose/ or another name, one file of 16 or 12 numbers a frame), images/, K.txt or intrinsic/"
SIGNS = ("*pose*/*.txt", "extrinsic*/*.txt")


def _poses(root: Path) -> Path | None:
    """Find the folder whose first text file holds a pose. Folders of intrinsics do not count."""
    folders = [p for p in sorted(root.iterdir()) if p.is_dir() and "intrinsic" not in p.name.lower()]
    return next((p for p in sorted(folders, key=lambda p: "pose" not in p.name.lower()) if _is_pose(p)), None)


def _is_pose(folder: Path) -> bool:
    first = next((p for p in sorted(folder.iterdir()) if p.suffix == ".txt" and p.is_file()), None)
    if first is None or first.stat().st_size > 4096:
        return False
    words = first.read_bytes().replace(b",", b" ").split()
    try:
        return len([float(w) for w in words]) in (12, 16)
    except ValueError:
        return False


def found(root: Path) -> bool:
    return _poses(root) is not None


def read(root: Path, given: Given) -> Capture:
    """Match images, poses and depth maps by the names of their files, or by the last number in the names.

    Raises:
        DataError: no folder of images, or no intrinsics.
    """
    of_poses, lens = _poses(root), find_lens(root, given.intrinsics)
    of_depth = folder_of(root, DEPTH_FOLDERS)
    folder = folder_of(root, IMAGE_FOLDERS)
    if folder is None:
        others = [p for p in sorted(root.iterdir()) if p.is_dir() and p not in (of_poses, of_depth)]
        folder = next((p for p in others if images_in(p)), None)
    if folder is None:
        raise DataError(f"{root} has poses in {of_poses.name}/, but no folder of images. Add images/.")
    poses = keyed(p for p in of_poses.iterdir() if p.suffix == ".txt")
    depths = keyed(p for p in of_depth.iterdir() if p.is_file()) if of_depth else {}
    frames, left_out = [], {}
    for image in images_in(folder):
        name, number = frame_id(image.relative_to(folder).as_posix()), number_in(image.stem)
        pose = poses.get(image.stem) or poses.get(number)
        if pose is None:
            left_out[name] = f"{of_poses.name}/ has no pose for {image.stem}"
            continue
        try:
            matrix = square(to_floats((w for row in rows(pose) for w in row), str(pose)), str(pose))
        except DataError as error:  # only this frame is left out
            left_out[name] = str(error)
            continue
        frames.append(Frame(name, image, lens, matrix, depths.get(image.stem) or depths.get(number)))
    notes = unmatched(of_depth, [f.depth for f in frames])
    return Capture(frames, metric=True, left_out=left_out, notes=notes)
