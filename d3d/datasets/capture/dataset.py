"""Data set `capture`: one folder with images and poses in any format of `d3d.datasets.capture.formats`."""

from __future__ import annotations

import hashlib
from pathlib import Path
from shlex import quote

import numpy as np

from d3d.datasets.archives import unpack_zip
from d3d.datasets.capture.description import Axes, Convention, Given, Poses
from d3d.datasets.capture.formats import FORMATS, find_format
from d3d.datasets.capture.scale import Scale, find_scale
from d3d.datasets.capture.scene import CaptureScene, left_out_lines, scene_name
from d3d.datasets.dataset import Dataset, require_root
from d3d.datasets.scene import Scene
from d3d.datasets.sevenscenes.dataset import cut_block
from d3d.datasets.videos import SUFFIXES as VIDEOS
from d3d.errors import ConfigError, DataError, counted
from d3d.io import cache_folder
from d3d.progress import say

NAME = "capture"
HOW_TO_GET = "docs/room.md lists the formats, and how to export your capture to one of them."
FEWEST = 10  # frames


def open_capture(
    root: str | Path | None,
    format: str | None = None,
    axes: Axes | None = None,
    poses: Poses | None = None,
    intrinsics: str | None = None,
    depth_scale: float | None = None,
    metres_per_unit: float | None = None,
    distance: tuple[str, str, str] | None = None,
    camera_height: float | None = None,
    val_block: tuple[float, float] = (0.45, 0.6),
) -> Dataset:
    """Open a capture as a data set with the splits "train", "val" and "all".

    With depth, "val" is a block in the middle of the video, and "train" is the rest as one scene. Without depth nothing
    can be scored, so "train" has all frames.

    Args:
        root: the folder of the capture.
        format: name in `FORMATS`; None finds the format by the files.
        axes, poses: convention of the matrices, if it differs from the format's.
        intrinsics: file with the camera matrix, or "fx,fy,cx,cy", for formats without intrinsics.
        depth_scale: stored depth values per metre.
        metres_per_unit, distance, camera_height: the scale, see `d3d.datasets.capture.scale.Scale`; give at most one.
        val_block: start and stop of "val" as fractions of the video.

    Raises:
        ConfigError: an invalid option.
        DataError: no format or several formats fit, or the capture cannot be read.
    """
    folder = capture_folder(root)
    for option, value, choices in (("axes", axes, ("opencv", "opengl")), ("poses", poses, Poses.__args__)):
        if value is not None and value not in choices:
            raise ConfigError(f"{option} = {value!r} must be {' or '.join(choices)}.")
    scale = Scale.of(metres_per_unit, distance, camera_height)
    scene = open_scene(folder, format, axes, poses, Given(intrinsics, depth_scale), scale)
    start, stop = val_block

    def split(name: str) -> list[Scene]:
        if name == "all" or (name == "train" and not scene.has_depth):
            return [scene]
        if not scene.has_depth:
            raise DataError(
                f"capture {scene.name!r} has no depth, so nothing can be scored. All its frames are used for training."
            )
        return cut_block(scene, start, stop)[name == "val"]

    return Dataset(
        NAME,
        {name: (lambda name=name: split(name)) for name in ("train", "val", "all")},
        unit="relative units" if scene.relative else "metres",
    )


def capture_folder(root: str | Path | None) -> Path:
    """Return the folder of a capture. A Record3D file (`.r3d`) is unpacked once, to the user's cache.

    Raises:
        DataError: no such folder or file, a video, or an archive that is unsafe or damaged.
    """
    path = None if root is None else Path(root).expanduser()
    if path is None or not path.is_file():
        return require_root(NAME, path, HOW_TO_GET)
    if path.suffix.lower() in VIDEOS:
        raise DataError(
            f"{path} is a video without poses. `python -m d3d room {quote(str(path))}` finds them first."
        )
    if path.suffix.lower() != ".r3d":
        raise DataError(f"{path} is not a folder and not a .r3d file. {HOW_TO_GET}")
    about = f"{path.absolute()} {path.stat().st_size} {path.stat().st_mtime_ns}"
    digest = hashlib.sha256(about.encode()).hexdigest()[:16]
    return unpack_zip(path, cache_folder() / "captures" / digest / path.stem)


def open_scene(
    folder: Path,
    format: str | None,
    axes: Axes | None,
    poses: Poses | None,
    given: Given,
    scale: Scale,
) -> CaptureScene:
    """Open the capture as one scene, and print what was found."""
    name = find_format(folder, format)
    capture = FORMATS[name].read(folder, given)
    convention = Convention(poses or capture.convention.poses, axes or capture.convention.axes)
    if given.depth_scale is not None:
        capture.depth_scale = given.depth_scale
    scene = CaptureScene(scene_name(folder), capture, convention)
    if len(scene) < FEWEST:
        raise DataError(
            f"{folder}: only {counted(len(scene), 'frame has', 'frames have')} an image and a pose; "
            f"a training needs at least {FEWEST}. " + " ".join(left_out_lines(scene.left_out))
        )
    if len(scene) > 1 and np.ptp(scene.world_T_cams[:, :3, 3], axis=0).max() == 0:
        raise DataError(
            f"{folder}: all poses are at one place. A training needs a camera that moves: export the poses again."
        )
    metres, relative, how = find_scale(scene, scale)
    scene = scene.scaled(metres, relative)
    height, width = scene.size_hw
    depth = "with depth" if scene.has_depth else "no depth"
    say(f"capture {scene.name}: format {name}, {len(scene)} frames of {width}x{height}, {depth}; {how}")
    for line in (*capture.notes, *left_out_lines(scene.left_out)):
        say(line)
    return scene
