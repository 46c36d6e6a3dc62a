"""Read TUM RGB-D: `rgb.txt`, `depth.txt` and `groundtruth.txt`, associated by time stamps; depth / 5000."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from scipy.spatial.transform import Rotation

from d3d.datasets.capture.description import Capture, Frame, Given, Lens
from d3d.datasets.capture.files import find_lens, frame_id, inside, rows, to_floats
from d3d.errors import DataError

FILES = "rgb.txt and groundtruth.txt, perhaps depth.txt"
SIGNS = ("groundtruth.txt", "rgb.txt")
MOST_S = 0.02  # largest difference of time stamps of an image and its pose or depth
# The benchmark's calibrations of its three cameras, without distortion: depth is registered to such images
PRESETS = {
    "fr1": (517.3, 516.5, 318.6, 255.3),
    "fr2": (520.9, 521.0, 325.1, 249.7),
    "fr3": (535.4, 539.2, 320.1, 247.6),
}
_SIZE_HW = (480, 640)


def found(root: Path) -> bool:
    return (root / "rgb.txt").is_file() and (root / "groundtruth.txt").is_file()


def read(root: Path, given: Given) -> Capture:
    """Read the images that have a pose within 20 ms. Raises DataError for an invalid line."""
    if given.intrinsics in PRESETS:
        lens = Lens(*PRESETS[given.intrinsics], size_hw=_SIZE_HW)
    else:
        lens = _lens(root, given)
    times, images = _listed(root, "rgb.txt")
    pose_times, matrices = _trajectory(root / "groundtruth.txt")
    depth_times, depths = _listed(root, "depth.txt") if (root / "depth.txt").is_file() else (np.array([]), [])
    frames, left_out = [], {}
    for time, name in zip(times, images, strict=True):
        pose, depth = _nearest(pose_times, time), _nearest(depth_times, time)
        if pose is None:
            left_out[frame_id(Path(name).name)] = f"no pose within {MOST_S * 1000:g} ms of {time:.3f} s"
            continue
        of_depth = None if depth is None else inside(root, depths[depth], f"{root}/depth.txt")
        image = inside(root, name, f"{root}/rgb.txt")
        frames.append(Frame(frame_id(image.name), image, lens, matrices[pose], of_depth, float(time)))
    return Capture(frames, metric=True, depth_scale=5000.0, left_out=left_out)


def _lens(root: Path, given: Given) -> Lens:
    try:
        return find_lens(root, given.intrinsics)
    except DataError as error:
        raise DataError(f"{error} For the benchmark's own cameras: --intrinsics fr1, fr2 or fr3.") from None


def _listed(root: Path, name: str) -> tuple[np.ndarray, list[str]]:
    lines = rows(root / name)
    if not lines or any(len(line) != 2 for line in lines):
        raise DataError(f"{root / name}: each line must hold a time stamp and the name of a file.")
    return to_floats((line[0] for line in lines), str(root / name)), [line[1] for line in lines]


def _trajectory(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Read time stamps (n,) and camera-to-world matrices (n, 4, 4) from lines t tx ty tz qx qy qz qw."""
    lines = rows(path)
    if not lines or any(len(line) != 8 for line in lines):
        raise DataError(f"{path}: each line must hold 8 numbers, t tx ty tz qx qy qz qw.")
    values = to_floats((w for line in lines for w in line), str(path)).reshape(-1, 8)
    return values[:, 0], quaternion_poses(values[:, 4:], values[:, 1:4], str(path))


def quaternion_poses(xyzw: np.ndarray, positions: np.ndarray, where: str) -> np.ndarray:
    """Convert quaternions (scalar last) and positions to matrices (n, 4, 4). Raises DataError for a zero quaternion."""
    lengths = np.linalg.norm(xyzw, axis=1)
    if len(bad := np.flatnonzero(~(np.isfinite(lengths) & (lengths > 1e-6)))):
        raise DataError(f"{where}: the quaternion of pose {bad[0]} is zero or not finite. Remove that pose.")
    poses = np.tile(np.eye(4), (len(xyzw), 1, 1))
    poses[:, :3, :3], poses[:, :3, 3] = Rotation.from_quat(xyzw).as_matrix(), positions
    return poses


def _nearest(times: np.ndarray, time: float) -> int | None:
    """Return the index of the nearest time stamp within `MOST_S`, or None."""
    if not len(times):
        return None
    i = int(np.abs(times - time).argmin())
    return i if abs(times[i] - time) <= MOST_S else None
