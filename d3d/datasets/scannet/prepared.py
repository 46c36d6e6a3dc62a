"""What `python -m d3d prepare scannet` leaves: ScanNet at the network's size, only the frames that are needed.

    settings.json                   how it is made; written first
    manifest.json                   its scenes; written last, when all of them are there
    scans/<scene>/                  of train and val; scans_test/<scene>/ of test
        color/N.jpg, depth/N.png, pose/N.txt, intrinsic/intrinsic_{color,depth}.txt    as the official exporter's
        frames.json                 poses, sizes and checksums: what opens the scene without listing its folder

N is a frame's number in the video. Depth, in millimetres, is only there where it is needed for scores; it keeps its own
size.
"""

from __future__ import annotations

import io
import json
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from d3d.datasets.images import decode_image, rgb_array
from d3d.datasets.scannet.lists import SCENE_NAME, SPLITS, is_whole
from d3d.datasets.scene import Dataset, Scene
from d3d.errors import DataError

NAME = "scannet"
FORMAT = 1
MANIFEST = "manifest.json"
INDEX = "frames.json"
SETTINGS = "settings.json"
_AGAIN = "Run `python -m d3d prepare scannet` with the same arguments again; it makes anew what is missing."
_MAX_JSON = 2**28


def scene_folder(root: Path, split: str, name: str) -> Path:
    """Where a prepared scene is, as in ScanNet's own release."""
    return root / ("scans_test" if split == "test" else "scans") / name


def checksum(content: bytes) -> list[int]:
    """What a frame's file is recognised by: its length and CRC-32."""
    return [len(content), zlib.crc32(content)]


class PreparedScene(Scene):
    """A prepared scene; each file is compared with its checksum when it is read."""

    one_K = True

    def __init__(self, folder: Path, name: str) -> None:
        self.folder = folder
        self.index = index = read_index(folder, name)
        self._K = np.array(index["K"])
        self._files = {
            "color": index["color"],
            "depth": index["depth"],
        }
        super().__init__(
            name,
            [str(number) for number in index["numbers"]],
            np.array(index["world_T_cam"]).reshape(-1, 4, 4),
            tuple(index["size_hw"]),
            has_depth=index["depth_hw"] is not None,
            depth_hw=None if index["depth_hw"] is None else tuple(index["depth_hw"]),
            numbers=index["numbers"],
            left_out={str(n): reason for reason, numbers in index["left_out"].items() for n in numbers},
        )

    def _read_image(self, i: int) -> np.ndarray:
        return rgb_array(self._read("color", i))

    def _read_K(self, i: int) -> np.ndarray:
        return self._K

    def _read_depth(self, i: int) -> np.ndarray | None:
        if self._files["depth"][i] is None:  # a frame that is trained on
            return None
        return np.asarray(self._read("depth", i)).astype(np.float32) / 1000

    def _read(self, kind: str, i: int):
        suffix, formats, size_hw = (
            ("jpg", ["JPEG"], self.size_hw) if kind == "color" else ("png", ["PNG"], self.depth_hw)
        )
        path = self.folder / kind / f"{self.frame_ids[i]}.{suffix}"
        try:
            content = path.read_bytes()
            if checksum(content) != self._files[kind][i]:
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
    """The data set in a prepared folder.

    Raises:
        DataError: the manifest or, once a split is asked for, a scene is not as it was written.
    """
    manifest = read_manifest(root)
    names: dict[str, list[str]] = {}
    for scene in manifest["scenes"]:
        if scene["frames"]:  # of a scene without a triple none is kept
            names.setdefault(scene["split"], []).append(scene["name"])

    def scenes(split: str) -> list[Scene]:
        return [PreparedScene(scene_folder(root, split, name), name) for name in names[split]]

    order = [split for split in SPLITS if split in names]
    return Dataset(
        NAME,
        {split: lambda split=split: scenes(split) for split in order},
        verified=True,
        whole=lambda split, every: is_whole(
            split, sum(s["split"] == split for s in manifest["scenes"]), every
        ),
        prepared=manifest.get("settings"),
    )


def read_manifest(root: Path) -> dict[str, Any]:
    """The manifest of a prepared folder, its names and splits checked.

    Raises:
        DataError: the preparation is not finished, or the manifest is not as it was written.
    """
    path = root / MANIFEST
    if not path.is_file():
        raise DataError(f"{root}: the preparation is not finished, {MANIFEST} is missing. {_AGAIN}")
    manifest = _read_json(path)
    scenes = manifest.get("scenes")
    right = isinstance(scenes, list) and isinstance(manifest.get("settings", {}), dict)
    if manifest.get("name") != NAME or manifest.get("format") != FORMAT or not right:
        raise DataError(f"{path}: not a manifest of prepared ScanNet of format {FORMAT}. {_AGAIN}")
    for scene in scenes:
        keys = ("name", "split", "frames")
        name, split, frames = (scene.get(k) if isinstance(scene, dict) else None for k in keys)
        if str(split) not in SPLITS or not SCENE_NAME.fullmatch(str(name)) or type(frames) is not int:
            raise DataError(f"{path}: {str(scene)[:80]} is no scene with name, split and frames. {_AGAIN}")
    return manifest


def read_index(folder: Path, name: str) -> dict[str, Any]:
    """The index of a prepared scene, checked as far as that goes without opening its frames.

    Raises:
        DataError: it is missing, or not as `d3d.pipeline.prepare` writes it.
    """
    path = folder / INDEX
    index = _read_json(path)
    if index.get("format") != FORMAT or index.get("scene") != name:
        raise DataError(f"{path}: not the index of scene {name!r} of format {FORMAT}. {_AGAIN}")
    try:
        good = _is_index(index)
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError):
        good = False
    if not good:
        raise DataError(f"{path}: damaged, it does not have what an index has. Delete {folder}. {_AGAIN}")
    return index


def _is_index(index: dict[str, Any]) -> bool:
    """Whether an index has what it should; where it lacks a key or a value is of another kind it may also raise."""

    def whole(*values: Any) -> bool:
        return all(type(value) is int and 0 <= value < 2**53 for value in values)

    numbers, depth_hw = index["numbers"], index["depth_hw"]
    sums = [*index["color"], *(depth for depth in index["depth"] if depth is not None)]
    poses, K = (np.array(index[key], dtype=np.float64) for key in ("world_T_cam", "K"))
    return (
        whole(*numbers, *index["listed"], index["source"]["frames"])
        and len(set(numbers)) == len(numbers) == len(index["color"]) == len(index["depth"])
        and poses.size == 16 * len(numbers)
        and K.shape == (3, 3)
        and all(
            len(size) == 2 and whole(*size) and min(size) > 0
            for size in (index["size_hw"], [1, 1] if depth_hw is None else depth_hw)
        )
        and all(len(pair) == 2 and whole(*pair) for pair in sums)
        and (depth_hw is not None or not any(index["depth"]))
        and all(whole(*of) for of in index["left_out"].values())
        and index["split"] in SPLITS
        and isinstance(index["corrupt"], dict)
        and (index["triples"] is None or whole(index["triples"]["found"], index["triples"]["tried"]))
        and (index["registration_px"] is None or index["registration_px"] >= 0)
    )


def _read_json(path: Path) -> dict[str, Any]:
    try:
        if path.stat().st_size > _MAX_JSON:
            raise ValueError(f"{path.stat().st_size} bytes")
        value = json.loads(path.read_bytes())
        if not isinstance(value, dict):
            raise ValueError("not an object")
    except FileNotFoundError:
        raise DataError(f"{path} is missing. {_AGAIN}") from None
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{path}: not readable as JSON ({error}). {_AGAIN}") from error
    return value
