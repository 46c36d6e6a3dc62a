"""The configuration of `python -m d3d room`: what the path holds, the size of the images, the start of the networks."""

from __future__ import annotations

import importlib.util
import math
from dataclasses import replace
from pathlib import Path
from shlex import quote
from typing import Any

from d3d.datasets import photos, videos
from d3d.datasets.capture.files import images_in
from d3d.datasets.capture.formats import FORMATS, refuse_damaged, there_is
from d3d.datasets.capture.scale import Scale
from d3d.datasets.capture.scene import scene_name
from d3d.errors import ConfigError, DataError, flags, unknown
from d3d.models.shipped import read_manifest, shipped_file
from d3d.models.sizes import fitting_size
from d3d.parallel.distributed import select_device
from d3d.pipeline import config as parameters_of
from d3d.pipeline.posecheck import captured, require_poses
from d3d.pipeline.profiles import PROFILES
from d3d.pipeline.runs import run_folder
from d3d.pipeline.scenes import dataset
from d3d.pipeline.settings import Config
from d3d.pipeline.stages.trainings import TEACHER
from d3d.progress import say
from d3d.room.motion import find_poses

PROFILE = "room"
MOST_TARGETS = 300  # frames; of more frames, every 2nd, 3rd, ... is a target
IMAGENET, SHIPPED, SAME = "imagenet", "shipped", "same"
STUDENT_STARTS = (SAME, TEACHER)
# Options that describe the files of a capture with poses
_OF_POSED = ("format", "axes", "poses", "intrinsics", "depth_scale")


def make_config(
    path: str | Path, *, start: str = IMAGENET, student_start: str = TEACHER, **parameters: Any
) -> Config:
    """Make the configuration of a room. Finds and checks the poses first.

    Args:
        path: folder of a capture; a `.r3d` file; or a video or a folder of images, whose poses are then found.
        start: initial weights of the teacher: "imagenet", "shipped" (the student of the network that ships with d3d),
            or the name of a network that ships.
        student_start: initial weights of the student: the "teacher" itself, or the "same" as the teacher's start.
        **parameters: further parameters of `d3d.pipeline.config.make_config`. By default the run is named
            ``room-<name of the capture>``, images have the shape of the capture's, and at most `MOST_TARGETS` frames
            are targets.

    Raises:
        ConfigError: a parameter is wrong, or there is no such file or folder.
        DataError: the path holds neither a capture nor images; the poses cannot be found, or do not explain the images.
    """
    _require_packages()
    source = Path(path).expanduser()
    if not source.exists():
        raise ConfigError(f"there is no file or folder {path}.")
    given = {name: value for name, value in parameters.items() if value is not None}
    if student_start not in STUDENT_STARTS:
        raise unknown("student_start", student_start, STUDENT_STARTS)
    run = given.pop("run", None) or f"room-{_name(source)}"
    fixed = {"profile": PROFILE, "dataset": "capture", "run": run}
    for name in {*fixed, "root", "recipe", "teachers"} & given.keys():
        raise ConfigError(f"{name} = {given[name]!r}: a room has its own {name}.")
    arch = given.get("arch", PROFILES[PROFILE].arch)
    if start != IMAGENET:
        if "weights" in given:
            raise ConfigError(f"start = {start!r} and weights = {given['weights']!r}: set one of them.")
        given["weights"] = str(shipped_file(_shipped_name(start, arch)))

    def configured(root: Path, **more: Any) -> Config:
        return parameters_of.make_config(**{**fixed, **given, "root": str(root), **more})

    first = configured(source, bounds="paper")  # opens nothing yet
    select_device(first.device)  # an error now, not after the poses
    root = _posed(source, first)
    first = configured(root, bounds="paper")
    require_poses(first)
    scene = captured(first)
    targets = len(dataset(first).scenes("train")[0])
    config = configured(
        root,
        **_size(first, given, scene.size_hw),
        **({} if "every" in given else {"every": max(1, math.ceil(targets / MOST_TARGETS))}),
    )
    if scene.relative and "scale" not in given:
        config = replace(config, evaluation=replace(config.evaluation, scale="median"))
    if student_start == TEACHER:
        config = replace(config, distill=replace(config.distill, weights=TEACHER))
    return config


def _name(source: Path) -> str:
    return scene_name(source if source.is_dir() else source.with_suffix(""))


def _shipped_name(start: str, arch: str) -> str:
    """The name of a network that ships, for the option ``start``."""
    fitting = [name for name, network in read_manifest().networks.items() if network.arch == arch]
    name = f"{arch}-distilled" if start == SHIPPED else start
    if name not in fitting:
        shipped = (SHIPPED,) if f"{arch}-distilled" in fitting else ()
        raise unknown(f"start of {arch}", start, (IMAGENET, *shipped, *fitting))
    return name


def _size(config: Config, given: dict[str, Any], image_hw: tuple[int, int]) -> dict[str, int]:
    """Height and width of the network's input: as many pixels as in the profile, in the shape of the images."""
    h, w = image_hw
    if "height" in given or "width" in given:
        height = given.get("height") or max(64, round(given["width"] * h / w / 32) * 32)
        return {"height": height, "width": given.get("width") or max(64, round(height * w / h / 32) * 32)}
    height, width = fitting_size(math.prod(config.data.size_hw), w / h)
    return {"height": height, "width": width}


def _posed(source: Path, config: Config) -> Path:
    """The capture of a path. Poses of a video or of images are found first, in ``poses`` of the run.

    Raises:
        ConfigError: an option describes files that the path does not have, or is wrong.
        DataError: the path holds neither a capture nor images, or a damaged capture.
    """
    suffix = source.suffix.lower()
    if source.is_file() and suffix == ".r3d":
        return source
    if source.is_file() and suffix not in videos.SUFFIXES:
        of_one = f" Depth of a single image: `python -m d3d predict {quote(str(source))}`."
        raise DataError(
            f"{source} is neither a folder, nor a .r3d file, nor a video ({' '.join(sorted(videos.SUFFIXES))})."
            f"{of_one if suffix in photos.SUFFIXES else ''} Unpack an archive first."
        )
    if source.is_dir():
        if config.capture.format or any(known.found(source) for known in FORMATS.values()):
            return source
        refuse_damaged(source)
        if not images_in(source):
            video = next((p for p in sorted(source.iterdir()) if p.suffix.lower() in videos.SUFFIXES), None)
            of_video = f" For the video: `python -m d3d room {quote(str(video))}`." if video else ""
            raise DataError(
                f"{source} holds neither a capture with camera poses nor images. {there_is(source)}{of_video} Give a "
                "video, a folder of images, or a capture in one of the formats of docs/room.md."
            )
    c = config.capture
    if given := [name for name in _OF_POSED if getattr(c, name) is not None]:
        raise ConfigError(
            f"{flags(given)}: {source} has no camera poses, and COLMAP finds poses and intrinsics from the images "
            f"alone. Leave out {'this option' if len(given) == 1 else 'these options'}."
        )
    Scale.of(c.metres_per_unit, c.distance, c.camera_height)  # an error now, not after minutes
    say(f"{source} has no camera poses: finding them first.")
    return find_poses(source, run_folder(config) / "poses" / _name(source))


def _require_packages() -> None:
    """Raise a ConfigError before hours of work, if a package for the results is missing."""
    for package, extra in (("open3d", "fusion"), ("trimesh", "fusion"), ("av", "video")):
        if importlib.util.find_spec(package) is None:
            raise ConfigError(f"a room needs {package}: pip install 'd3d[{extra}]'.")
