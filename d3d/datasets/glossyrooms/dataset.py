"""GlossyRooms: rendered rooms with glossy surfaces, which ship with d3d; exact depth and poses, highlights marked.

One archive a room, read here; `glossyrooms` renders them and says what the files hold.
"""

from __future__ import annotations

import hashlib
import io
import json
import struct
import zipfile
import zlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from d3d.datasets.glossyrooms.format import (
    FORMAT,
    HIGHLIGHT,
    LISTED_SPLITS,
    LISTS,
    MATERIAL_BITS,
    NAME,
    SAFE_NAME,
    SPLITS,
    mask_is_valid,
)
from d3d.datasets.scene import HW, Dataset, FrameList, Scene, require_root
from d3d.errors import ConfigError, DataError

HOW_TO_GET = (
    "The rooms that ship are in data/glossyrooms of the repository: check it out again. "
    "data/README.md says how to make others."
)

_LOCAL_HEADER = struct.Struct("<4s22xHH")  # of a zip member: signature, lengths of name and extra field
_MAX_DESCRIPTION = 2**26  # bytes of scene.json: a deflated one may claim any
_Span = tuple[int, int, int]  # of a member's content in the archive: offset, bytes, CRC-32


@dataclass(frozen=True)
class _Room:
    """A room as the manifest has it."""

    name: str
    split: str
    path: Path
    bytes: int
    sha256: str
    frames: int
    depth: bool


class GlossyRoom(Scene):
    """One rendered room.

    Opening reads the archive once, for its checksum, poses and table of contents. Frames are read when
    asked for; no file stays open, so that a room can be used by several processes, forked or pickled.

    Attributes:
        seed: of the generator.
        shares: "highlight" and "mirror" -> (n,) share of each frame's pixels.
        spec: what is in the room.
    """

    one_K = True

    def __init__(self, room: _Room, size_hw: HW, frames: int | None = None) -> None:
        """Opens a room's archive.

        Args:
            room: its entry in the manifest.
            size_hw: of the data set's images.
            frames: keeps the first so many; None: all.

        Raises:
            DataError: the archive is missing, damaged, not the manifest's, or not a room of this format.
        """
        self.path = room.path
        self._archive = f"room {room.name!r}, {room.path}"
        content = _read_checked(room, self._archive)
        self._members = _table_of_contents(content, self._archive)
        scene = _parse_json(_description(content, self._archive), f"{self._archive}, scene.json")
        _check_format(scene, f"{self._archive}, scene.json")
        where = f"{self._archive}, scene.json"
        for key, value in {"name": room.name, "split": room.split, "size_hw": list(size_hw)}.items():
            if scene.get(key) != value:
                raise DataError(f"{where}: {key} is {scene.get(key)!r}, but the manifest has {value!r}.")
        ids = _field(scene, "frame_ids", list, where)
        if not all(isinstance(i, str) and SAFE_NAME.fullmatch(i) for i in ids) or len(set(ids)) != len(ids):
            raise DataError(
                f"{where}: frame_ids must be different names of letters, digits, '_', '-' and '.'."
            )
        if len(ids) != room.frames:
            raise DataError(f"{where}: {len(ids)} frames, but the manifest has {room.frames}.")
        shares = _field(scene, "shares", dict, where)
        self.shares = {
            kind: _numbers(_field(shares, kind, list, where), (len(ids),), f"{where}, shares, {kind}")[
                :frames
            ]
            for kind in ("highlight", "mirror")
        }
        self.seed = _field(scene, "seed", int, where)
        self.spec = _field(scene, "spec", dict, where)
        self._K = _numbers(scene.get("K"), (3, 3), f"{where}, K")
        poses = _numbers(scene.get("world_T_cam"), (len(ids), 4, 4), f"{where}, world_T_cam")
        kinds = {"color": "jpg"} | ({"depth": "png", "mask": "png", "virtual": "png"} if room.depth else {})
        for member in (f"{kind}/{i}.{suffix}" for kind, suffix in kinds.items() for i in ids):
            if member not in self._members:
                raise DataError(f"{self._archive}: {member} is missing. Make the archive again. {HOW_TO_GET}")
        self._all_frame_ids = frozenset(ids)
        super().__init__(room.name, ids[:frames], poses[:frames], size_hw, room.depth)

    def virtual_depth(self, i: int) -> np.ndarray | None:
        """Z-depth (H, W) at which the mirror image of a light appears, metres; None where the room has no depth.

        0 at pixels that are no highlight, and on curved surfaces, where mirror images are not so simply found.
        """
        return self._read_millimetres("virtual", self._index(i)) if self.has_depth else None

    def material(self, i: int) -> np.ndarray | None:
        """Uint8 (H, W), the place of each pixel's material in `format.MATERIALS`; None where the room has no depth."""
        return self._read_mask(self._index(i)) & MATERIAL_BITS if self.has_depth else None

    def _read_image(self, i: int) -> np.ndarray:
        return self._read_picture("color", i, "JPEG", "RGB")

    def _read_K(self, i: int) -> np.ndarray:
        return self._K

    def _read_depth(self, i: int) -> np.ndarray:
        return self._read_millimetres("depth", i)

    def _read_highlight_mask(self, i: int) -> np.ndarray | None:
        return self._read_mask(i) & HIGHLIGHT > 0 if self.has_depth else None

    def _read_millimetres(self, kind: str, i: int) -> np.ndarray:
        return self._read_picture(kind, i, "PNG", "I;16").astype(np.float32) / 1000

    def _read_mask(self, i: int) -> np.ndarray:
        mask = self._read_picture("mask", i, "PNG", "L")
        if not mask_is_valid(mask):
            raise DataError(
                f"{self._where(i)}: the mask in {self.path} has values that stand for no material."
            )
        return mask

    def _read_picture(self, kind: str, i: int, file_format: str, mode: str) -> np.ndarray:
        """A frame's picture as an array; checked to be of the scene's size before anything is decoded."""
        member = f"{kind}/{self.frame_ids[i]}.{'jpg' if file_format == 'JPEG' else 'png'}"
        content = self._read(member)
        where = f"{self._where(i)}: {member} in {self.path}"
        try:
            with Image.open(io.BytesIO(content), formats=[file_format]) as image:
                h, w = self.size_hw
                if (image.size, image.mode) == ((w, h), mode):
                    return np.array(image)  # a copy: PIL's own buffer is read-only
                wrong = f"has {image.width}x{image.height} pixels of mode {image.mode} instead of {w}x{h} of {mode}"
        except Exception as error:  # PIL's decoders raise whatever they stumble over
            raise DataError(f"{where} is not a {file_format} image ({error}). {HOW_TO_GET}") from error
        raise DataError(f"{where} {wrong}.")

    def _read(self, member: str) -> bytes:
        offset, size, _ = self._members[member]
        try:
            with open(self.path, "rb") as f:
                f.seek(offset)
                content = f.read(size)
        except OSError as error:
            raise DataError(f"{self._archive}: cannot be read any more ({error}).") from error
        return self._intact(member, content)

    def _intact(self, member: str, content: bytes) -> bytes:
        _, size, crc = self._members[member]
        if len(content) != size or zlib.crc32(content) != crc:
            raise DataError(
                f"{self._archive}: {member} is damaged, or the file has changed since it was opened."
            )
        return content


def open_glossyrooms(
    root: str | Path | None = None, rooms: int | None = None, frames: int | None = None
) -> Dataset:
    """The rendered rooms "train", "val" and "test", with lists of frames that show highlights, or none, or mirrors.

    Args:
        root: the folder with ``manifest.json``; None: the one that ships.
        rooms: at most so many rooms a split, the first ones.
        frames: at most the first so many frames a room.

    Raises:
        ConfigError: an option out of range.
        DataError: the folder, its manifest or, once a split is asked for, a room is not as it should be.
    """
    for option, value in {"rooms": rooms, "frames": frames}.items():
        if value is not None and (type(value) is not int or value < 1):
            raise ConfigError(f"{NAME} needs {option} to be None or a number from 1 up, got {value!r}.")
    if root is None:
        from d3d.pipeline.runs import project_root

        root = project_root() / "data" / NAME
    folder = require_root(NAME, root, HOW_TO_GET)
    size_hw, listed = _read_manifest(folder)

    def make(split: str) -> list[Scene]:
        of_split = [room for room in listed if room.split == split]
        return [GlossyRoom(room, size_hw, frames) for room in of_split[:rooms]]

    def lists(split: str) -> dict[str, FrameList]:
        names = {room.name for room in listed if room.split == split}
        files = {name: folder / "lists" / f"{split}_{name}.txt" for name in LISTS}
        return {name: _read_list(path, names, dataset.scenes(split)) for name, path in files.items()}

    splits = [split for split in SPLITS if any(room.split == split for room in listed)]
    dataset = Dataset(
        NAME,
        {split: lambda split=split: make(split) for split in splits},
        {split: lambda split=split: lists(split) for split in splits if split in LISTED_SPLITS},
        verified=True,  # each archive against the manifest's sha256, whenever a room is opened
    )
    return dataset


def _read_manifest(folder: Path) -> tuple[HW, list[_Room]]:
    """The size of the images and the rooms of a data set; every name is one that stays inside the folder."""
    path = folder / "manifest.json"
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error}). {HOW_TO_GET}") from error
    manifest = _parse_json(content, str(path))
    _check_format(manifest, str(path))
    if manifest.get("name") != NAME:
        raise DataError(f"{path}: the manifest of data set {manifest.get('name')!r}, not of {NAME!r}.")
    size = _field(manifest, "size_hw", list, str(path))
    if len(size) != 2 or not all(type(x) is int and x > 0 for x in size):
        raise DataError(f"{path}: size_hw must be two numbers of pixels, not {size}.")
    rooms = []
    for k, entry in enumerate(_field(manifest, "rooms", list, str(path))):
        where = f"{path}, room {k}"
        if not isinstance(entry, dict):
            raise DataError(f"{where}: not an object with name, split, file and so on.")
        name, split, file = (_field(entry, key, str, where) for key in ("name", "split", "file"))
        if split not in SPLITS or not SAFE_NAME.fullmatch(name) or file != f"{split}/{name}.zip":
            raise DataError(
                f"{where}: name {name!r}, split {split!r} and file {file!r} do not fit together. A room's file is "
                f"<split>/<name>.zip, the split one of {', '.join(SPLITS)}, a name letters, digits, '_', '-', '.'."
            )
        numbers = (_field(entry, "bytes", int, where), _field(entry, "sha256", str, where))
        counts = (_field(entry, "frames", int, where), _field(entry, "depth", bool, where))
        rooms.append(_Room(name, split, folder / file, *numbers, *counts))
    twice = [name for name, count in Counter(room.name for room in rooms).items() if count > 1]
    if twice or not rooms:
        raise DataError(f"{path}: {f'room {twice[0]!r} is there twice' if twice else 'there is no room'}.")
    return (size[0], size[1]), rooms


def _read_list(path: Path, names: set[str], rooms: Sequence[GlossyRoom]) -> FrameList:
    """The frames of a list that are in the rooms opened; those that an option has cut off fall out.

    Raises:
        DataError: the file is missing, or a line names no room and frame; says which line.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read ({error}). {HOW_TO_GET}") from error
    opened = {room.name: room for room in rooms}
    kept = {name: frozenset(room.frame_ids) for name, room in opened.items()}
    frames = set()
    for number, line in enumerate(lines, 1):
        where = f"{path}, line {number}: {line!r}"
        words = line.split()
        if len(words) != 2:
            raise DataError(f"{where} is not a room and a frame.")
        name, frame = words
        if name not in names:
            raise DataError(f"{where}: the manifest has no such room in this split.")
        if name in opened and frame not in opened[name]._all_frame_ids:
            raise DataError(f"{where}: the room has no such frame.")
        if frame in kept.get(name, ()):
            frames.add((name, frame))
    return frozenset(frames)


def _read_checked(room: _Room, where: str) -> bytes:
    """An archive's content, exactly as the manifest has it."""
    try:
        size = room.path.stat().st_size
        if size != room.bytes:
            raise DataError(
                f"{where}: {size} bytes, but the manifest has {room.bytes}: truncated? {HOW_TO_GET}"
            )
        content = room.path.read_bytes()
    except OSError as error:
        raise DataError(f"{where}: cannot be read ({error}). {HOW_TO_GET}") from error
    if hashlib.sha256(content).hexdigest() != room.sha256:
        raise DataError(f"{where}: damaged, its sha256 is not the manifest's. {HOW_TO_GET}")
    return content


def _table_of_contents(archive: bytes, where: str) -> dict[str, _Span]:
    """Where the content of each picture lies in a zip archive, which stores them as they are."""
    members = {}
    try:
        with zipfile.ZipFile(io.BytesIO(archive)) as parsed:
            for info in parsed.infolist():
                if info.filename == "scene.json":
                    continue  # the one member that is deflated: numbers as text
                if info.compress_type != zipfile.ZIP_STORED or info.flag_bits & 1:
                    raise DataError(f"{where}: {info.filename} is compressed or encrypted, not stored.")
                signature, *lengths = _LOCAL_HEADER.unpack_from(archive, info.header_offset)
                if signature != b"PK\3\4":
                    raise DataError(f"{where}: damaged, {info.filename} is not where the archive says.")
                start = info.header_offset + _LOCAL_HEADER.size + sum(lengths)
                members[info.filename] = (start, info.file_size, info.CRC)
    except (zipfile.BadZipFile, NotImplementedError, OSError, ValueError, LookupError, struct.error) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"{where}: not a zip archive, or damaged ({error}). {HOW_TO_GET}") from error
    return members


def _description(archive: bytes, where: str) -> bytes:
    """The content of scene.json."""
    try:
        with zipfile.ZipFile(io.BytesIO(archive)) as parsed:
            info = parsed.getinfo("scene.json")
            if info.file_size > _MAX_DESCRIPTION:
                raise DataError(f"{where}: scene.json would have {info.file_size} bytes.")
            return parsed.read(info)
    except KeyError:
        raise DataError(f"{where}: scene.json is missing. {HOW_TO_GET}") from None
    except DataError:
        raise
    except Exception as error:  # zipfile and zlib raise whatever they stumble over
        raise DataError(f"{where}: damaged, scene.json cannot be read ({error}). {HOW_TO_GET}") from error


def _parse_json(content: bytes, where: str) -> dict[str, Any]:
    try:
        value = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{where}: not readable as JSON ({error}). {HOW_TO_GET}") from error
    if not isinstance(value, dict):
        raise DataError(f"{where}: JSON, but not an object.")
    return value


def _check_format(record: dict[str, Any], where: str) -> None:
    if record.get("format") != FORMAT:
        raise DataError(
            f"{where}: format {record.get('format')!r}, but this version of d3d reads format {FORMAT}. Update d3d, "
            "or make the data again."
        )


def _field(record: dict[str, Any], key: str, kind: type, where: str) -> Any:
    value = record.get(key)
    if type(value) is not kind:  # not isinstance: true is no number
        raise DataError(f"{where}: {key!r} must be of type {kind.__name__}, not {value!r:.80}.")
    return value


def _numbers(value: Any, shape: tuple[int, ...], where: str) -> np.ndarray:
    """A nested list as a float64 array of the given shape."""
    try:
        array = np.array(value, dtype=np.float64)
    except (ValueError, TypeError, OverflowError) as error:
        raise DataError(f"{where}: not numbers ({error}).") from error
    if array.shape != shape:
        raise DataError(f"{where}: numbers of shape {array.shape} instead of {shape}.")
    return array
