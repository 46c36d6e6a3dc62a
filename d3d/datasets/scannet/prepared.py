"""Read ScanNet prepared by `python -m d3d prepare scannet`: only the needed frames, at the size of the network.

    settings.json                   settings of the preparation; written first
    manifest.json                   list of scenes; written last, when all scenes are complete
    scans/<scene>/                  scenes of train and val; scans_test/<scene>/ for test
        color/N.jpg, depth/N.png, pose/N.txt, intrinsic/intrinsic_{color,depth}.txt    like the official exporter
        frames.json                 poses, sizes and checksums: opens the scene without listing its folder

N is the number of a frame in the video. Depth is in millimetres, at its own size, and only stored for scored frames.
"""

from __future__ import annotations

import io
import zlib
from collections import defaultdict
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import ConfigDict, Field, PositiveInt, model_validator

from d3d.datasets.dataset import Dataset
from d3d.datasets.images import decode_image, rgb_array
from d3d.datasets.records import R, Record, numbers, parse, read_bytes
from d3d.datasets.scannet.lists import SPLITS, is_whole
from d3d.datasets.scene import Scene
from d3d.errors import DataError

NAME = "scannet"
FORMAT = 1
MANIFEST = "manifest.json"
INDEX = "frames.json"
SETTINGS = "settings.json"
SUFFIXES = {"color": "jpg", "depth": "png", "pose": "txt"}
_AGAIN = "Run `python -m d3d prepare scannet` with the same arguments again: it adds the missing files."
_MAX_JSON = 2**28

_Whole = Annotated[int, Field(ge=0, lt=2**53)]
_Size = tuple[PositiveInt, PositiveInt]
_Sum = tuple[_Whole, _Whole]
_Pose = Annotated[list[float], Field(min_length=16, max_length=16)]
_Name = Annotated[str, Field(pattern=r"^scene[0-9]{4}_[0-9]{2}$")]
_Split = Literal["train", "val", "test"]


class _Source(Record):
    layout: str
    frames: _Whole
    size_hw: _Size


class _Triples(Record):
    found: _Whole
    tried: _Whole
    dropped: dict[str, int]


class _Index(Record):
    """Content of frames.json."""

    format: Literal[1]
    scene: _Name
    split: _Split
    source: _Source
    size_hw: _Size
    depth_hw: _Size | None
    K: Any
    registration_px: Annotated[float, Field(ge=0)] | None
    numbers: list[_Whole]
    world_T_cam: list[_Pose]
    color: list[_Sum]
    depth: list[_Sum | None]
    left_out: dict[str, list[_Whole]]
    corrupt: dict[str, str]
    listed: list[_Whole]
    triples: _Triples | None

    @model_validator(mode="after")
    def _fits(self) -> _Index:
        lists = (self.numbers, set(self.numbers), self.world_T_cam, self.color, self.depth)
        if len(set(map(len, lists))) != 1:
            raise ValueError("a frame has no unique number, no pose or no checksum")
        if self.depth_hw is None and any(self.depth):
            raise ValueError("the size of depth is missing")
        return self


class _Scene(Record):
    model_config = ConfigDict(extra="allow")

    name: _Name
    split: _Split
    frames: int


class _Settings(Record):
    model_config = ConfigDict(extra="allow")

    eval_every: PositiveInt = 1


class _Manifest(Record):
    name: Literal["scannet"]
    format: Literal[1]
    settings: _Settings = _Settings()
    scenes: list[_Scene]


def scene_folder(root: Path, split: str, name: str) -> Path:
    """Return the folder of a prepared scene, named like in ScanNet's release."""
    return root / ("scans_test" if split == "test" else "scans") / name


def frame_path(folder: Path, kind: str, frame: str) -> Path:
    """Return the path of the "color", "depth" or "pose" file of a frame."""
    return folder / kind / f"{frame}.{SUFFIXES[kind]}"


def checksum(content: bytes) -> list[int]:
    """Compute length and CRC-32, which identify the file of a frame."""
    return [len(content), zlib.crc32(content)]


class PreparedScene(Scene):
    """A prepared scene. Reading a file compares it with its checksum."""

    one_K = True

    def __init__(self, folder: Path, name: str) -> None:
        self.folder = folder
        self.index = index = read_index(folder, name)
        self._K = numbers(index["K"], (3, 3), f"{folder / INDEX}, K")
        super().__init__(
            name,
            [str(number) for number in index["numbers"]],
            np.array(index["world_T_cam"]).reshape(-1, 4, 4),
            index["size_hw"],
            has_depth=index["depth_hw"] is not None,
            depth_hw=index["depth_hw"],
            numbers=index["numbers"],
            left_out={str(n): reason for reason, of in index["left_out"].items() for n in of},
        )

    def _read_image(self, i: int) -> np.ndarray:
        return rgb_array(self._read("color", i))

    def _read_depth(self, i: int) -> np.ndarray | None:
        if self.index["depth"][i] is None:  # a training frame, or no depth in the source
            return None
        return np.asarray(self._read("depth", i)).astype(np.float32) / 1000

    def _read(self, kind: str, i: int):
        path = frame_path(self.folder, kind, self.frame_ids[i])
        formats, size_hw = (["JPEG"], self.size_hw) if kind == "color" else (["PNG"], self.depth_hw)
        try:
            content = path.read_bytes()
            if checksum(content) != list(self.index[kind][i]):
                raise ValueError("changed: its checksum differs")
            return decode_image(io.BytesIO(content), formats, size_hw)
        except (OSError, ValueError) as error:
            raise DataError(
                f"{self._where(i)}: {path} cannot be read, or is {error}. Delete {self.folder}. {_AGAIN}"
            ) from error


def is_prepared(root: Path) -> bool:
    """Return whether a folder holds prepared ScanNet, complete or not."""
    return (root / SETTINGS).is_file()


def open_prepared(root: Path) -> Dataset:
    """Open a prepared folder; raises DataError if the manifest or, on first use, a scene is damaged."""
    manifest = read_manifest(root)
    names: dict[str, list[str]] = defaultdict(list)
    for scene in manifest["scenes"]:
        if scene["frames"]:  # a scene without triples keeps no frame
            names[scene["split"]].append(scene["name"])

    def scenes(split: str) -> list[Scene]:
        return [PreparedScene(scene_folder(root, split, name), name) for name in names[split]]

    def whole(split: str, every: int) -> bool:
        return is_whole(split, sum(s["split"] == split for s in manifest["scenes"]), every)

    splits = {split: partial(scenes, split) for split in SPLITS if split in names}
    return Dataset(NAME, splits, verified=True, whole=whole, prepared=manifest["settings"])


def read_manifest(root: Path) -> dict[str, Any]:
    """Read the manifest of a prepared folder; raises DataError if it is damaged or missing."""
    if not (root / MANIFEST).is_file():
        raise DataError(f"{root}: the preparation is not finished, {MANIFEST} is missing. {_AGAIN}")
    return _read(_Manifest, root / MANIFEST)


def read_index(folder: Path, name: str) -> dict[str, Any]:
    """Read the index of a prepared scene without opening its frames; raises DataError if it is damaged or missing."""
    index = _read(_Index, folder / INDEX, f"Delete {folder}. ")
    if index["scene"] != name:
        raise DataError(f"{folder / INDEX} is not the index of scene {name!r}. {_AGAIN}")
    return index


def _read(kind: type[R], path: Path, advice: str = "") -> dict[str, Any]:
    if not path.exists():
        raise DataError(f"{path} is missing. {_AGAIN}")
    advice += _AGAIN
    return parse(kind, read_bytes(path, advice, _MAX_JSON), str(path), advice).model_dump()
