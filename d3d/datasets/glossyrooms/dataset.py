"""GlossyRooms: rendered rooms with glossy surfaces, exact depth and poses, and masks of highlights. Ships with d3d.

Each room is one archive. The package `glossyrooms` renders the rooms; `format` describes the files.
"""

from __future__ import annotations

import hashlib
import io
import struct
import zipfile
import zlib
from collections import Counter
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import Field, PositiveInt, field_validator, model_validator

from d3d.datasets.dataset import Dataset, require_root
from d3d.datasets.glossyrooms import format as layout
from d3d.datasets.images import decode_image
from d3d.datasets.records import Record, numbers, parse, read_bytes
from d3d.datasets.scene import HW, FrameList, Scene
from d3d.errors import ConfigError, DataError
from d3d.io import project_root

NAME = layout.NAME
HOW_TO_GET = (
    "The shipped rooms are in data/glossyrooms of the repository: check it out again. "
    "data/README.md says how to make other rooms."
)

_LOCAL_HEADER = struct.Struct("<4s22xHH")  # zip member: signature, lengths of name and extra field
_MAX_DESCRIPTION = 2**26  # bytes of scene.json: a deflated file may claim any size
_Span = tuple[int, int, int]  # content of a zip member: offset, bytes, CRC-32


class _Versioned(Record):
    format: Any = Field(None, validate_default=True)

    @field_validator("format")
    @classmethod
    def _version(cls, value: Any) -> Any:
        if value != layout.FORMAT:
            reads = f"this version of d3d reads format {layout.FORMAT}"
            raise ValueError(f"format {value!r}, but {reads}. Update d3d, or make the data again")
        return value


class _Room(Record):
    """Entry of a room in the manifest."""

    name: str
    split: Literal["train", "val", "test"]
    file: str
    bytes: int
    sha256: str
    frames: int
    depth: bool

    @model_validator(mode="after")
    def _inside_the_folder(self) -> _Room:
        if not layout.SAFE_NAME.fullmatch(self.name) or self.file != f"{self.split}/{self.name}.zip":
            raise ValueError(
                f"name {self.name!r}, split {self.split!r} and file {self.file!r} do not match. The file of a room is "
                "<split>/<name>.zip; a name has letters, digits, '_', '-', '.'"
            )
        return self


class _Manifest(_Versioned):
    name: str
    size_hw: tuple[PositiveInt, PositiveInt]
    rooms: list[_Room]

    @model_validator(mode="after")
    def _rooms_of_this_set(self) -> _Manifest:
        if self.name != NAME:
            raise ValueError(f"this is the manifest of data set {self.name!r}, not of {NAME!r}")
        if not self.rooms:
            raise ValueError("there is no room")
        name, count = Counter(room.name for room in self.rooms).most_common(1)[0]
        if count > 1:
            raise ValueError(f"room {name!r} appears twice")
        return self


class _Shares(Record):
    highlight: list[Any]
    mirror: list[Any]


class _Description(_Versioned):
    """Content of scene.json."""

    name: str
    split: str
    size_hw: tuple[int, int]
    seed: int
    K: Any
    frame_ids: list[str]
    world_T_cam: Any
    shares: _Shares
    spec: dict[str, Any]

    @field_validator("frame_ids")
    @classmethod
    def _names_of_files(cls, ids: list[str]) -> list[str]:
        if not all(map(layout.SAFE_NAME.fullmatch, ids)) or len(set(ids)) != len(ids):
            raise ValueError("frame_ids must be unique names of letters, digits, '_', '-' and '.'")
        return ids


class GlossyRoom(Scene):
    """A rendered room.

    Opening reads checksum, poses and table of contents of the archive. No file stays open, so that several processes,
    forked or pickled, can use a room.

    Attributes:
        seed: seed of the generator.
        spec: contents of the room.
        shares: "highlight" and "mirror" -> (n,) share of each frame's pixels.
    """

    one_K = True

    def __init__(self, folder: Path, room: _Room, size_hw: HW, frames: int | None = None) -> None:
        """Open the archive of a room, with all or the first ``frames`` frames.

        Raises:
            DataError: the archive is missing, damaged, does not match the manifest, or is not a room of this format.
        """
        self.path = folder / room.file
        self._archive = f"room {room.name!r}, {self.path}"
        content = _read_checked(self.path, room, self._archive)
        self._members, description = _unzip(content, self._archive)
        where = f"{self._archive}, scene.json"
        scene = parse(_Description, description, where, HOW_TO_GET)
        for key, value in {"name": room.name, "split": room.split, "size_hw": size_hw}.items():
            if (found := getattr(scene, key)) != value:
                raise DataError(f"{where}: {key} is {found!r}, but the manifest has {value!r}.")
        ids = scene.frame_ids
        if len(ids) != room.frames:
            raise DataError(f"{where}: {len(ids)} frames, but the manifest has {room.frames}.")
        self.shares = {
            kind: numbers(values, (len(ids),), f"{where}, shares, {kind}")[:frames]
            for kind, values in scene.shares
        }
        self.seed, self.spec = scene.seed, scene.spec
        self._K = numbers(scene.K, (3, 3), f"{where}, K")
        poses = numbers(scene.world_T_cam, (len(ids), 4, 4), f"{where}, world_T_cam")
        kinds = ("color", "depth", "mask", "virtual") if room.depth else ("color",)
        for member in (_member(kind, i) for kind in kinds for i in ids):
            if member not in self._members:
                raise DataError(f"{self._archive}: {member} is missing. Make the archive again. {HOW_TO_GET}")
        self._all_frame_ids = frozenset(ids)
        super().__init__(room.name, ids[:frames], poses[:frames], size_hw, room.depth)

    def virtual_depth(self, i: int) -> np.ndarray | None:
        """Read the z-depth (H, W) of the mirror images of lights, metres; None if the room has no depth.

        It is 0 without a highlight and on curved surfaces, where mirror images have no simple position.
        """
        return self._read_metres("virtual", self._index(i)) if self.has_depth else None

    def material(self, i: int) -> np.ndarray | None:
        """Read the material of each pixel, uint8 (H, W) index in `format.MATERIALS`; None if the room has no depth."""
        return self._read_mask(self._index(i)) & layout.MATERIAL_BITS if self.has_depth else None

    def _read_image(self, i: int) -> np.ndarray:
        return self._read_picture("color", i, "RGB")

    def _read_depth(self, i: int) -> np.ndarray:
        return self._read_metres("depth", i)

    def _read_highlight_mask(self, i: int) -> np.ndarray | None:
        return self._read_mask(i) & layout.HIGHLIGHT > 0 if self.has_depth else None

    def _read_metres(self, kind: str, i: int) -> np.ndarray:
        return self._read_picture(kind, i, "I;16").astype(np.float32) / 1000

    def _read_mask(self, i: int) -> np.ndarray:
        mask = self._read_picture("mask", i, "L")
        if not layout.mask_is_valid(mask):
            raise DataError(f"{self._where(i)}: the mask in {self.path} has a value that is no material.")
        return mask

    def _read_picture(self, kind: str, i: int, mode: str) -> np.ndarray:
        """Read a picture of a frame as an array. Its size is checked before decoding."""
        member = _member(kind, self.frame_ids[i])
        content = io.BytesIO(self._read(member))
        try:
            image = decode_image(content, ["JPEG" if kind == "color" else "PNG"], self.size_hw, [mode])
        except ValueError as error:
            raise DataError(f"{self._where(i)}: {member} in {self.path} is {error}. {HOW_TO_GET}") from error
        return np.array(image)  # a copy: PIL's own buffer is read-only

    def _read(self, member: str) -> bytes:
        offset, size, crc = self._members[member]
        try:
            with open(self.path, "rb") as file:
                file.seek(offset)
                content = file.read(size)
        except OSError as error:
            raise DataError(f"{self._archive}: cannot be read any more ({error}).") from error
        if len(content) != size or zlib.crc32(content) != crc:
            raise DataError(f"{self._archive}: {member} is damaged, or the file has changed meanwhile.")
        return content


def _member(kind: str, frame: str) -> str:
    return f"{kind}/{frame}.{'jpg' if kind == 'color' else 'png'}"


def open_glossyrooms(
    root: str | Path | None = None, rooms: int | None = None, frames: int | None = None
) -> Dataset:
    """Open GlossyRooms: splits "train", "val" and "test", with lists of frames by highlights and mirrors.

    Args:
        root: folder with ``manifest.json``; None: the shipped rooms.
        rooms: open only the first rooms of each split.
        frames: keep only the first frames of each room.

    Raises:
        ConfigError: an option is out of range.
        DataError: the folder or its manifest is invalid. Invalid rooms raise it on first use of their split.
    """
    for option, value in {"rooms": rooms, "frames": frames}.items():
        if value is not None and (type(value) is not int or value < 1):
            raise ConfigError(f"{NAME}: {option} must be None or a number from 1 up, not {value!r}.")
    folder = require_root(NAME, project_root() / "data" / NAME if root is None else root, HOW_TO_GET)
    path = folder / "manifest.json"
    manifest = parse(_Manifest, read_bytes(path, HOW_TO_GET), str(path), HOW_TO_GET)
    of_split = {split: [room for room in manifest.rooms if room.split == split] for split in layout.SPLITS}

    def make(split: str) -> list[Scene]:
        return [GlossyRoom(folder, room, manifest.size_hw, frames) for room in of_split[split][:rooms]]

    def lists(split: str) -> dict[str, FrameList]:
        opened = {room.name: room for room in dataset.scenes(split)}
        names = [room.name for room in of_split[split]]
        return {n: _read_list(folder / "lists" / f"{split}_{n}.txt", names, opened) for n in layout.LISTS}

    splits = {split: partial(make, split) for split in layout.SPLITS if of_split[split]}
    listed = {split: partial(lists, split) for split in layout.LISTED_SPLITS if split in splits}
    # verified: opening a room compares its archive with the sha256 in the manifest
    dataset = Dataset(NAME, splits, listed, verified=True, licence="CC0-1.0")
    return dataset


def _read_list(path: Path, names: list[str], opened: dict[str, GlossyRoom]) -> FrameList:
    """Read the frames of a list in the opened rooms. Frames that an option cuts off are left out."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read ({error}). {HOW_TO_GET}") from error
    pairs = [tuple(line.split()) for line in lines]
    for number, (line, pair) in enumerate(zip(lines, pairs, strict=True), 1):
        where = f"{path}, line {number}: {line!r}"
        if len(pair) != 2:
            raise DataError(f"{where} is not a room and a frame.")
        name, frame = pair
        if name not in names:
            raise DataError(f"{where}: the manifest has no such room in this split.")
        if name in opened and frame not in opened[name]._all_frame_ids:
            raise DataError(f"{where}: the room has no such frame.")
    return frozenset((n, frame) for n, frame in pairs if n in opened and frame in opened[n].frame_ids)


def _read_checked(path: Path, room: _Room, where: str) -> bytes:
    """Read an archive and compare it with the manifest; raises DataError if it differs."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DataError(f"{where}: cannot be read ({error}). {HOW_TO_GET}") from error
    if (size := len(content)) != room.bytes:
        raise DataError(f"{where}: {size} bytes, but the manifest has {room.bytes}: truncated? {HOW_TO_GET}")
    if hashlib.sha256(content).hexdigest() != room.sha256:
        raise DataError(f"{where}: damaged, its sha256 differs from the manifest. {HOW_TO_GET}")
    return content


def _unzip(archive: bytes, where: str) -> tuple[dict[str, _Span], bytes]:
    """Return the position of each picture in a zip archive, which stores them uncompressed, and scene.json."""
    members, description = {}, None
    try:
        with zipfile.ZipFile(io.BytesIO(archive)) as parsed:
            for info in parsed.infolist():
                if info.filename == "scene.json":  # the only deflated member: numbers as text
                    if info.file_size > _MAX_DESCRIPTION:
                        raise DataError(f"{where}: scene.json would have {info.file_size} bytes.")
                    description = parsed.read(info)
                    continue
                if info.compress_type != zipfile.ZIP_STORED or info.flag_bits & 1:
                    raise DataError(f"{where}: {info.filename} is compressed or encrypted, not stored.")
                signature, *lengths = _LOCAL_HEADER.unpack_from(archive, info.header_offset)
                if signature != b"PK\3\4":
                    raise DataError(f"{where}: damaged, {info.filename} is not where the archive says.")
                start = info.header_offset + _LOCAL_HEADER.size + sum(lengths)
                members[info.filename] = (start, info.file_size, info.CRC)
    except DataError:
        raise
    except Exception as error:  # zipfile and zlib raise errors of many kinds
        raise DataError(f"{where}: not a zip archive, or damaged ({error}). {HOW_TO_GET}") from error
    if description is None:
        raise DataError(f"{where}: scene.json is missing. {HOW_TO_GET}")
    return members, description
