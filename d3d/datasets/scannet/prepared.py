"""Prepared ScanNet, as `python -m d3d prepare scannet` leaves it: frames at the network's size, only those needed.

    settings.json                   how it is made; written first
    manifest.json                   its scenes; written last, when all of them are there
    scans/<scene>/                  of train and val; scans_test/<scene>/ of test
        color/N.jpg, depth/N.png, pose/N.txt, intrinsic/intrinsic_{color,depth}.txt    as the official exporter's
        frames.json                 poses, sizes and checksums: opens the scene without listing its folder

N is a frame's number in the video. Depth, in millimetres and at its own size, is there only where scores need it.
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
_AGAIN = "Run `python -m d3d prepare scannet` with the same arguments again; it makes anew what is missing."
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
    """The content of frames.json."""

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
            raise ValueError("frames without a number of their own, a pose or a checksum")
        if self.depth_hw is None and any(self.depth):
            raise ValueError("depth without a size")
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
    """The folder of a prepared scene, as in ScanNet's own release."""
    return root / ("scans_test" if split == "test" else "scans") / name


def frame_path(folder: Path, kind: str, frame: str) -> Path:
    """A frame's "color", "depth" or "pose" file in a scene's folder."""
    return folder / kind / f"{frame}.{SUFFIXES[kind]}"


def checksum(content: bytes) -> list[int]:
    """Length and CRC-32 of a frame's file, which identify it."""
    return [len(content), zlib.crc32(content)]


class PreparedScene(Scene):
    """A prepared scene; each file is compared with its checksum when it is read."""

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
        if self.index["depth"][i] is None:  # a frame that is trained on, or that the source has no depth of
            return None
        return np.asarray(self._read("depth", i)).astype(np.float32) / 1000

    def _read(self, kind: str, i: int):
        path = frame_path(self.folder, kind, self.frame_ids[i])
        formats, size_hw = (["JPEG"], self.size_hw) if kind == "color" else (["PNG"], self.depth_hw)
        try:
            content = path.read_bytes()
            if checksum(content) != list(self.index[kind][i]):
                raise ValueError("not what was written: its checksum is another")
            return decode_image(io.BytesIO(content), formats, size_hw)
        except (OSError, ValueError) as error:
            raise DataError(
                f"{self._where(i)}: {path} cannot be read, or is {error}. Delete {self.folder}. {_AGAIN}"
            ) from error


def is_prepared(root: Path) -> bool:
    """Whether a folder is one of prepared ScanNet, finished or not."""
    return (root / SETTINGS).is_file()


def open_prepared(root: Path) -> Dataset:
    """The data set in a prepared folder; raises DataError where the manifest or a scene asked for is damaged."""
    manifest = read_manifest(root)
    names: dict[str, list[str]] = defaultdict(list)
    for scene in manifest["scenes"]:
        if scene["frames"]:  # no frame is kept of a scene without a triple
            names[scene["split"]].append(scene["name"])

    def scenes(split: str) -> list[Scene]:
        return [PreparedScene(scene_folder(root, split, name), name) for name in names[split]]

    def whole(split: str, every: int) -> bool:
        return is_whole(split, sum(s["split"] == split for s in manifest["scenes"]), every)

    splits = {split: partial(scenes, split) for split in SPLITS if split in names}
    return Dataset(NAME, splits, verified=True, whole=whole, prepared=manifest["settings"])


def read_manifest(root: Path) -> dict[str, Any]:
    """The manifest of a prepared folder; raises DataError where it is damaged, or not there yet."""
    if not (root / MANIFEST).is_file():
        raise DataError(f"{root}: the preparation is not finished, {MANIFEST} is missing. {_AGAIN}")
    return _read(_Manifest, root / MANIFEST)


def read_index(folder: Path, name: str) -> dict[str, Any]:
    """The index of a prepared scene, without opening its frames; raises DataError where missing or damaged."""
    index = _read(_Index, folder / INDEX, f"Delete {folder}. ")
    if index["scene"] != name:
        raise DataError(f"{folder / INDEX}: not the index of scene {name!r}. {_AGAIN}")
    return index


def _read(kind: type[R], path: Path, advice: str = "") -> dict[str, Any]:
    if not path.exists():
        raise DataError(f"{path} is missing. {_AGAIN}")
    advice += _AGAIN
    return parse(kind, read_bytes(path, advice, _MAX_JSON), str(path), advice).model_dump()
