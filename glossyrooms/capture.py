"""Write a room as a capture in COLMAP's format: ``python -m glossyrooms.capture test-0004 --out FOLDER``.

The folder looks like the output of COLMAP for a video of the room: ``images/`` and ``sparse/0/``, in an unknown scale.
The truth stays in the room's archive, so the result on a capture can be judged (`truth_of`). The same room gives the
same bytes.
"""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from d3d.datasets import Scene, open_dataset
from d3d.datasets.glossyrooms.dataset import GlossyRoom
from d3d.errors import ConfigError, unknown
from d3d.io import atomic, read_json, write_json
from d3d.progress import say
from glossyrooms import command
from glossyrooms.archive import read_room

SOURCE = "glossyroom.json"  # the room that a capture shows; no other program writes a file of this name
METRES_PER_UNIT = 0.6
_POINTS_EVERY = (10, 24)  # frames, pixels: a grid of points in some frames
_SAME_M = 0.02  # a point is seen where the depth of the frame differs by less
_HALF = 0.5  # COLMAP: the centre of the first pixel is at (0.5, 0.5)


def find_room(name: str, root: str | Path | None = None) -> GlossyRoom:
    """Open a room by its name.

    Args:
        name: such as "test-0004".
        root: folder of the set; None: the rooms that ship.

    Raises:
        ConfigError: no such room.
        DataError: the folder or the archive is invalid.
    """
    dataset = open_dataset("glossyrooms", root)
    rooms = {room.name: room for split in dataset.splits for room in dataset.scenes(split)}
    if name not in rooms:
        raise unknown("room", name, rooms)
    return rooms[name]


def truth_of(capture: str | Path, root: str | Path | None = None) -> Scene | None:
    """Return the room of a capture that `write_capture` made: the same frames with true depth in metres, and masks.

    Args:
        capture: folder of the capture.
        root: folder of the set; None: the rooms that ship.

    Returns:
        The room; None for any other capture, because nobody knows its true depth.

    Raises:
        ConfigError: the set has no such room.
        DataError: the room's archive is invalid.
    """
    path = Path(capture) / SOURCE
    return find_room(read_json(path, "room")["room"], root) if path.is_file() else None


def write_capture(room: GlossyRoom, out: Path, metres_per_unit: float = METRES_PER_UNIT) -> Path:
    """Write a room as COLMAP does: the images byte for byte, and a binary model.

    A room without depth gets a model without points. An error leaves no partial folder.

    Args:
        room: the room.
        out: folder of the capture.
        metres_per_unit: positions are divided by this number.

    Returns:
        ``out``.

    Raises:
        ConfigError: the folder is not empty, or the scale is not a positive number.
        DataError: the room's archive is damaged.
    """
    if not 0 < metres_per_unit < np.inf:
        raise ConfigError(f"metres_per_unit = {metres_per_unit!r} must be greater than 0.")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ConfigError(f"{out} already exists. Delete it, or choose another folder with --out.")
    _, members = read_room(room.path, pictures=True)
    names = [f"{frame}.jpg" for frame in room.frame_ids]
    with atomic(out) as folder:
        (folder / "images").mkdir(parents=True)
        for name in names:
            (folder / "images" / name).write_bytes(members[f"color/{name}"])
        write_model(
            folder / "sparse" / "0",
            room.size_hw,
            room.K(0),
            names,
            scaled(room.world_T_cams, 1 / metres_per_unit),
            *(points_of(room, 1 / metres_per_unit) if room.has_depth else ((), ())),
        )
        write_json(folder / SOURCE, {"room": room.name, "metres_per_unit": metres_per_unit})
    return out


def scaled(world_T_cams: np.ndarray, factor: float) -> np.ndarray:
    """Return poses (n, 4, 4) with their positions multiplied by a factor."""
    poses = np.array(world_T_cams, np.float64)
    poses[:, :3, 3] *= factor
    return poses


def points_of(room: GlossyRoom, factor: float) -> tuple[np.ndarray, list[list[tuple[int, np.ndarray]]]]:
    """Choose points on the room's surfaces, with the frames that see them.

    COLMAP finds points where several images show the same spot. These are back-projected from the true depth instead,
    on a grid of pixels. Highlights are left out, because COLMAP does not recognise a spot under them.

    Args:
        room: a room with depth.
        factor: positions are multiplied by it.

    Returns:
        Points (n, 3); for each point the frames that see it, with its pixel (2,) there, first pixel at (0, 0).
    """
    frames_every, pixels_every = _POINTS_EVERY
    (h, w), K = room.size_hw, room.K(0)
    cams_T_world = np.linalg.inv(room.world_T_cams)
    lit = [room.highlight_mask(i) for i in range(len(room))]
    depths = [np.where(lit[i], 0, room.depth(i)) for i in range(len(room))]
    y, x = np.mgrid[pixels_every // 2 : h : pixels_every, pixels_every // 2 : w : pixels_every].reshape(2, -1)
    rays = np.linalg.inv(K) @ np.stack((x, y, np.ones_like(x)))
    points, seen = [], []
    for i in range(0, len(room), frames_every):
        usable = depths[i][y, x] > 0
        in_cam = np.vstack((rays * depths[i][y, x], np.ones_like(x)))[:, usable]
        for point in (room.world_T_cams[i] @ in_cam).T:
            track = []
            for j, cam_T_world in enumerate(cams_T_world):
                pixel = K @ (cam_T_world @ point)[:3]
                if pixel[2] <= 0:
                    continue
                u, v = np.rint(pixel[:2] / pixel[2]).astype(int)
                if 0 <= u < w and 0 <= v < h and abs(depths[j][v, u] - pixel[2]) < _SAME_M:
                    track.append((j, pixel[:2] / pixel[2]))
            if len(track) > 1:
                points.append(point[:3] * factor)
                seen.append(track)
    return np.array(points), seen


def write_model(
    folder: Path,
    size_hw: tuple[int, int],
    K: np.ndarray,
    names: Sequence[str],
    world_T_cams: np.ndarray,
    points: Sequence[np.ndarray] = (),
    seen: Sequence[Sequence[tuple[int, np.ndarray]]] = (),
) -> None:
    """Write a binary COLMAP model with one pinhole camera, by pycolmap.

    Args:
        folder: of ``cameras.bin``, ``images.bin``, ``points3D.bin``, ``rigs.bin`` and ``frames.bin``; it is created.
        size_hw: size of the images.
        K: (3, 3) intrinsics, pixel centres at integers.
        names: names of the n image files.
        world_T_cams: (n, 4, 4) poses.
        points: positions (3,) in the world.
        seen: for each point (frame, pixel (2,)) of the frames that see it.

    Raises:
        ConfigError: pycolmap is not installed.
    """
    try:
        import pycolmap
    except ImportError:
        raise ConfigError("COLMAP's files need pycolmap: pip install 'd3d[capture]'.") from None
    (h, w), n = size_hw, len(names)
    params = [K[0, 0], K[1, 1], K[0, 2] + _HALF, K[1, 2] + _HALF]
    camera = pycolmap.Camera(model="PINHOLE", width=w, height=h, params=params, camera_id=1)
    model = pycolmap.Reconstruction()
    model.add_camera_with_trivial_rig(camera)
    pixels: list[list[np.ndarray]] = [[] for _ in range(n)]
    tracks = []
    for track in seen:
        elements = []
        for i, pixel in track:
            elements.append(pycolmap.TrackElement(i + 1, len(pixels[i])))
            pixels[i].append(pixel + _HALF)
        tracks.append(pycolmap.Track(elements))
    for i, pose in enumerate(world_T_cams):
        image = pycolmap.Image(names[i], np.array(pixels[i]).reshape(-1, 2), camera_id=1, image_id=i + 1)
        cam_from_world = pycolmap.Rigid3d(np.linalg.inv(pose)[:3])
        model.add_image_with_trivial_frame(image, cam_from_world)
    for point, track in zip(points, tracks, strict=True):
        model.add_point3D(point, track)
    folder.mkdir(parents=True)
    model.write_binary(folder)


def parser() -> argparse.ArgumentParser:
    """Return the parser of this command's options."""
    result = argparse.ArgumentParser(prog="python -m glossyrooms.capture", description=__doc__)
    result.add_argument("room", help="name of a room, such as test-0004")
    result.add_argument("--out", required=True, help="folder of the capture")
    result.add_argument("--root", help="folder of the set (default: the rooms that ship)")
    result.add_argument(
        "--metres-per-unit",
        type=float,
        default=METRES_PER_UNIT,
        help="positions are divided by this number (default: %(default)s)",
    )
    return result


def main(argv: list[str] | None = None) -> int:
    """Write the capture; return the exit status, see `command.run`."""
    a = parser().parse_args(argv)

    def work() -> None:
        room = find_room(a.room, a.root)
        out = write_capture(room, Path(a.out), a.metres_per_unit)
        size = sum(p.stat().st_size for p in out.rglob("*") if p.is_file()) / 1e6
        points = "with points" if room.has_depth else "without points, because this room ships without depth"
        say(f"{out}: {len(room)} images and poses of {room.name}, {points}, {size:.1f} MB. Open it with")
        say(f"python -m d3d check {shlex.quote(str(out))}")

    return command.run(work)


if __name__ == "__main__":
    sys.exit(main())
