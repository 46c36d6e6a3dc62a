"""ScanNet v2 (non-commercial): handheld scans of rooms, colour 1296x968 (a few scenes 640x480), depth 640x480.

Reads the released scenes and the usual layouts, also in the same folder:

    <scene>.sens, or <scene>/<scene>.sens                                         as released
    <scene>/{color/N.jpg, depth/N.png, pose/N.txt}, intrinsic/intrinsic_color.txt      the official exporter's
    <scene>/sensor_data/frame-NNNNNN.{color.jpg, depth.png, pose.txt}, intrinsic/ as above      SimpleRecon's
    <scene>/{color/NNNNNN.jpg, depth/, pose/}, intrinsics_color.txt      scannet_frames_25k: every 100th frame
    prepared by `python -m d3d prepare scannet` (d3d.datasets.scannet.prepared)

Scenes are in the root, or in its ``scans`` and ``scans_test``. The id of a frame is its number in the video ("120").
"""

from __future__ import annotations

import contextlib
import math
import re
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from d3d.datasets.dataset import Dataset, require_root
from d3d.datasets.images import first_size, read_color, read_depth_png
from d3d.datasets.records import read_matrix
from d3d.datasets.scannet.lists import SCENE_NAME, SPLITS, is_whole, split_scenes
from d3d.datasets.scannet.prepared import is_prepared, open_prepared
from d3d.datasets.scannet.sens import SensFile
from d3d.datasets.scene import HW, Scene
from d3d.errors import DataError
from d3d.geometry import ROTATION_TOLERANCE
from d3d.progress import track

NAME = "scannet"
HOW_TO_GET = (
    "Agree to ScanNet's terms of use (non-commercial research, http://www.scan-net.org), download the .sens files "
    "with the script that you receive, and give the folder with scans/ or with the scenes as root."
)
FOLDERS = (".", "scans", "scans_test")
_INTRINSICS = ("intrinsic/intrinsic_{}.txt", "intrinsics_{}.txt", "intrinsic_{}.txt")


class _Layout(NamedTuple):
    """File names in the folder of a scene; {} is the number as written in the name of the colour image."""

    folder: str
    color: str
    depth: str
    pose: str


_EXPORTED = _Layout("color", r"(\d{1,9})\.(jpg|png)", "depth/{}.png", "pose/{}.txt")
_FRAME = "sensor_data/frame-{}"
_LAYOUTS = {
    "exported": _EXPORTED,
    "frames_25k": _EXPORTED,
    "sensor_data": _Layout(
        "sensor_data", r"frame-(\d{1,9})\.color\.(jpg|png)", f"{_FRAME}.depth.png", f"{_FRAME}.pose.txt"
    ),
}


@dataclass(frozen=True)
class SceneSource:
    """A scene on disk: its name, layout ("sens" or one of `_LAYOUTS`), and file or folder."""

    name: str
    layout: str
    path: Path

    def open(self) -> ScanNetScene:
        """Open the scene and read all its poses; raises DataError if it cannot be read."""
        if self.layout == "sens":
            return SensScene(self.path, self.name)
        return FolderScene(self.path, self.name, self.layout)


class ScanNetScene(Scene):
    """A scene of ScanNet. Frames without a valid pose are left out; the other frames keep their numbers.

    The released depth is aligned with colour: both extrinsics are the identity, and colour resized to the size of depth
    has the intrinsics of depth to 0.5 %. `depth` is therefore not resampled. The evaluation resizes the prediction to
    the depth, as is usual on ScanNet.
    """

    one_K = True
    video_frames: int
    invalid: dict[str, list[int]]  # reason -> numbers of the frames left out
    depth_K: np.ndarray | None  # (3, 3) intrinsics of depth at its own size; None if unknown
    registration_px: float | None  # result of `registration_px`; None if unknown

    def _keep(self, name: str, numbers: Iterable[int], poses: Iterable, color_hw: HW, **scene: Any) -> None:
        """Open the frames with a valid pose. A pose can be a DataError; such a frame is left out, too."""
        kept, valid, invalid, corrupt = [], [], defaultdict(list), {}
        for number, pose in zip(numbers, poses, strict=True):
            if isinstance(pose, DataError):
                invalid["pose cannot be read"].append(number)
                corrupt[str(number)] = str(pose)
            elif fault := pose_fault(pose):
                invalid[fault].append(number)
            else:
                kept.append(number)
                valid.append(pose)
        self.invalid, self.video_frames = dict(invalid), len(kept) + sum(map(len, invalid.values()))
        if not kept:
            reasons = "; ".join(f"{len(n)} x {reason}" for reason, n in invalid.items()) or "no frame at all"
            raise DataError(f"scene {name!r}: no frame has a valid pose ({reasons}).")
        left_out = {str(number): reason for reason, n in invalid.items() for number in n}
        super().__init__(
            name, [*map(str, kept)], np.stack(valid), color_hw, numbers=kept, left_out=left_out, **scene
        )
        self.corrupt = corrupt


class SensScene(ScanNetScene):
    """A scene in a .sens file."""

    def __init__(self, path: Path, name: str) -> None:
        self._file = file = SensFile(path)
        h = file.header
        self._K, self.depth_K, self.registration_px = h.color_K, h.depth_K, None
        cameras = h.color_K, h.color_hw, h.depth_K, h.depth_hw
        with contextlib.suppress(np.linalg.LinAlgError):
            color_T_depth = np.linalg.inv(h.color_extrinsic) @ h.depth_extrinsic
            self.registration_px = registration_px(*cameras, color_T_depth)
        self._keep(name, range(len(file)), file.poses(), h.color_hw, has_depth=True, depth_hw=h.depth_hw)

    def _read_image(self, i: int) -> np.ndarray:
        return self._file.frame(self._numbers[i], depth=False).image()

    def _read_depth(self, i: int) -> np.ndarray | None:
        frame = self._file.frame(self._numbers[i], color=False)
        return frame.depth_m() if frame.depth else None  # 0 bytes: no depth was recorded


class FolderScene(ScanNetScene):
    """A scene of single files, in one of the layouts."""

    def __init__(self, folder: Path, name: str, layout: str) -> None:
        self.folder, self._layout, where = folder, _LAYOUTS[layout], f"scene {name!r}"
        found: dict[int, re.Match[str]] = {}
        for path in sorted((folder / self._layout.folder).iterdir()):
            if match := re.fullmatch(self._layout.color, path.name, re.ASCII):
                other = found.setdefault(int(match[1]), match)[0]
                if other != path.name:
                    raise DataError(f"{where}: {other} and {path.name} in {path.parent} are the same frame.")
        self._stems = {number: match[1] for number, match in found.items()}
        self._colors = {n: folder / self._layout.folder / match[0] for n, match in found.items()}
        numbers = sorted(found)
        if not numbers:
            raise DataError(f"{where}: {folder / self._layout.folder} has no colour image.")
        poses = [self._pose(number) for number in numbers]
        color_hw = first_size((self._colors[number] for number in numbers), where)
        self._K = _intrinsics(folder, "color", where)
        has_depth = any(self._depth(number).exists() for number in numbers)
        depth_hw = first_size(filter(Path.exists, map(self._depth, numbers)), where) if has_depth else None
        self.registration_px, self.depth_K = None, _intrinsics(folder, "depth", where)
        if depth_hw is not None and self._K is not None and self.depth_K is not None:
            self.registration_px = registration_px(self._K, color_hw, self.depth_K, depth_hw)
        self._keep(name, numbers, poses, color_hw, has_depth=has_depth, depth_hw=depth_hw)

    def _depth(self, number: int) -> Path:
        return self.folder / self._layout.depth.format(self._stems[number])

    def _pose(self, number: int) -> np.ndarray | DataError | None:
        path = self.folder / self._layout.pose.format(self._stems[number])
        try:
            return read_matrix(path, f"frame {number}") if path.exists() else None
        except DataError as error:  # leaves out only this frame
            return error

    def _read_image(self, i: int) -> np.ndarray:
        return read_color(self._colors[int(self._numbers[i])], self._where(i))

    def _read_depth(self, i: int) -> np.ndarray | None:
        path = self._depth(int(self._numbers[i]))
        return read_depth_png(path, self._where(i)).astype(np.float32) / 1000 if path.exists() else None


def pose_fault(world_T_cam: np.ndarray | None) -> str:
    """Return why a pose cannot be used, or "" for a valid pose. None means a missing pose."""
    if world_T_cam is None:
        return "no pose"
    rotation = world_T_cam[:3, :3]
    with np.errstate(all="ignore"):  # squares may overflow
        off = np.abs(rotation @ rotation.T - np.eye(3)).max()
        faults = {
            "pose not finite (tracking lost)": not np.isfinite(world_T_cam).all(),
            "pose all zero": not world_T_cam.any(),
            "pose not a rotation": not off <= ROTATION_TOLERANCE or np.linalg.det(rotation) < 0,
            "pose not a rigid motion": np.abs(world_T_cam[3] - (0, 0, 0, 1)).max() > 1e-6,
        }
    return next((fault for fault, found in faults.items() if found), "")


def registration_px(
    color_K: np.ndarray,
    color_hw: HW,
    depth_K: np.ndarray,
    depth_hw: HW,
    color_T_depth: np.ndarray | None = None,
) -> float | None:
    """Compute the largest offset between depth and colour at the corners, in pixels of depth, for points at 2 m.

    Colour is resized to the size of depth. Returns None if a matrix cannot be inverted.
    """
    h, w = depth_hw
    corners = np.array([[0, 0, 1], [w - 1, 0, 1], [0, h - 1, 1], [w - 1, h - 1, 1]], dtype=np.float64).T
    try:
        with np.errstate(all="ignore"):
            points = np.linalg.inv(depth_K) @ corners * 2.0
            if color_T_depth is not None:
                points = color_T_depth[:3, :3] @ points + color_T_depth[:3, 3:]
            seen = color_K @ points
            x, y = seen[:2] / seen[2]
            x, y = (x + 0.5) * w / color_hw[1] - 0.5, (y + 0.5) * h / color_hw[0] - 0.5
            off = float(np.hypot(x - corners[0], y - corners[1]).max())
    except np.linalg.LinAlgError:
        return None
    return off if np.isfinite(off) else None


def find_scenes(root: Path) -> dict[str, SceneSource]:
    """Find the scenes in a folder by name. A .sens file takes precedence over other layouts of the scene."""
    found: dict[str, SceneSource] = {}
    for path in (path for folder in FOLDERS for path in sorted((root / folder).glob("*"))):
        source = _source(path)
        if source is not None and (source.name not in found or source.layout == "sens"):
            found[source.name] = source
    return found


def _source(path: Path) -> SceneSource | None:
    name = path.name.removesuffix(".sens")
    if not SCENE_NAME.fullmatch(name):
        return None
    sens = path if path.suffix == ".sens" else path / f"{name}.sens"
    if sens.is_file():
        return SceneSource(name, "sens", sens)
    sparse = (path / "intrinsics_color.txt").is_file()
    for layout in ("sensor_data", "frames_25k" if sparse else "exported"):
        if (path / _LAYOUTS[layout].folder).is_dir():
            return SceneSource(name, layout, path)
    return None


def open_scannet(root: str | Path | None, split_lists: str | Path | None = None) -> Dataset:
    """Open ScanNet. The splits "train", "val" and "test" hold the scenes of the official lists that are in the folder.

    A prepared folder opens in seconds. For other folders, the first use of a split reads all its poses.

    Args:
        root: folder with the scenes.
        split_lists: folder with ``scannetv2_{train,val,test}.txt``. None: the lists in ``root``, or the official lists,
            which are downloaded once. A prepared folder knows its splits.

    Raises:
        DataError: the folder is missing or has no scene, or the lists cannot be found. On first use of a split: a scene
            cannot be read, or "train" consists of scannet_frames_25k, whose frames are too far apart for triples.
    """
    folder = require_root(NAME, root, HOW_TO_GET)
    if is_prepared(folder):
        return open_prepared(folder)
    found = find_scenes(folder)
    if not found:
        raise DataError(f"data set {NAME!r}: {folder} holds no scene of ScanNet. {HOW_TO_GET}")
    listed = split_scenes(folder, split_lists)
    splits = {split: [name for name in listed.get(split, ()) if name in found] for split in SPLITS}
    if not any(splits.values()):
        some = f"{len(found)} scenes in {folder} ({', '.join(list(found)[:3])}, ...)"
        raise DataError(f"data set {NAME!r}: the lists of splits contain none of the {some}.")

    def scenes(split: str) -> list[Scene]:
        sources = [found[name] for name in splits[split]]
        if split == "train":
            refuse_sparse(sources)
        return [source.open() for source in track(sources, what=f"poses of {split}", unit="scene")]

    def whole(split: str, every: int) -> bool:
        sparse = any(found[name].layout == "frames_25k" for name in splits[split])
        return is_whole(split, len(splits[split]), math.lcm(every, 100) if sparse else every)

    return Dataset(NAME, {s: partial(scenes, s) for s in SPLITS if splits[s]}, whole=whole)


def refuse_sparse(sources: Iterable[SceneSource]) -> None:
    """Check that no training scene comes from scannet_frames_25k; raises DataError otherwise."""
    if count := sum(source.layout == "frames_25k" for source in sources):
        raise DataError(
            f"{count} scenes of the train split are from scannet_frames_25k, every 100th video frame: too sparse "
            f"for triples, whose frames are 5 to 10 cm apart. Use them for evaluation only (eval_dataset=scannet, "
            f"eval_root=...). For training get the .sens files. {HOW_TO_GET}"
        )


def _intrinsics(folder: Path, camera: str, where: str) -> np.ndarray | None:
    """Read K (3, 3) of "color" or "depth" at the native size; None if the file is missing."""
    for path in (folder / name.format(camera) for name in _INTRINSICS):
        if path.is_file():
            return read_matrix(path, where)[:3, :3]
    return None
