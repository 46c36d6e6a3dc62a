"""Read ScanNet's .sens files (version 4) frame by frame.

    header   version, name, intrinsics and extrinsics of both cameras, codecs, sizes, depth unit, number of frames
    frame    camera-to-world pose, two timestamps, two lengths, a colour image and a depth map of these lengths
    ...      after the last frame: data of an inertial sensor, which d3d does not read

All numbers are little endian. Before reading or allocating, every length is compared with the rest of the file and with
the largest image of the stated size.
"""

from __future__ import annotations

import contextlib
import io
import os
import struct
import zlib
from array import array
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np

from d3d.datasets.images import MAX_PIXELS, decode_image, rgb_array
from d3d.datasets.scene import HW
from d3d.errors import DataError, counted

VERSION = 4
COLOR_CODECS = {-1: "unknown", 0: "raw", 1: "png", 2: "jpeg"}
DEPTH_CODECS = {-1: "unknown", 0: "raw", 1: "zlib", 2: "occi"}

START = struct.Struct("<IQ")  # version, length of the name after it
CAMERAS = struct.Struct("<64f2i4If")  # four matrices, codecs, colour w h, depth w h, depth units per metre
COUNT = struct.Struct("<Q")
FRAME = struct.Struct("<16f4Q")  # world_T_cam, times of colour and depth, bytes of colour and depth

_MAX_NAME = 4096
_MAX_FRAMES = 2**20  # nearly ten hours at 30 per second; their headers take 109 MB
_SLACK = 2**16  # bytes of a compressed image besides its pixels: headers and tables
_COPY_AGAIN = "Download or copy the file again."


@dataclass(frozen=True)
class SensHeader:
    """Header of a file."""

    name: str  # name of the sensor
    color_K: np.ndarray  # (3, 3) float64 at the native size, pixel centres at integers
    depth_K: np.ndarray
    color_extrinsic: np.ndarray  # (4, 4) float64; the identity in ScanNet
    depth_extrinsic: np.ndarray
    color_codec: str
    depth_codec: str
    color_hw: HW
    depth_hw: HW
    depth_shift: float  # depth units per metre; 1000 in ScanNet
    frames: int


@dataclass(frozen=True)
class SensFrame:
    """A frame as stored, compressed.

    Attributes:
        world_T_cam: (4, 4) float64 camera-to-world, metres. Not checked: after lost tracking it is -inf or zero.
    """

    index: int
    world_T_cam: np.ndarray
    color_time: int  # microseconds of the sensor's clock
    depth_time: int
    color: bytes
    depth: bytes
    header: SensHeader
    where: str

    def image(self) -> np.ndarray:
        """Decode colour, uint8 (H, W, 3) RGB.

        Raises:
            DataError: the image is broken, its size differs from the header, or its codec is unknown.
        """
        codec, (h, w) = self.header.color_codec, self.header.color_hw
        if codec == "raw":
            _expect(self.color, h * w * 3, f"{self.where}: raw colour of {w}x{h}")
            return np.frombuffer(self.color, np.uint8).reshape(h, w, 3).copy()
        if codec == "unknown":
            raise DataError(f"{self.where}: the compression of colour is unknown. {_COPY_AGAIN}")
        try:
            image = decode_image(io.BytesIO(self.color), [codec.upper()], (h, w))
        except ValueError as error:
            raise DataError(f"{self.where}: colour is {error}. {_COPY_AGAIN}") from error
        return rgb_array(image)

    def depth_units(self) -> np.ndarray:
        """Decode depth as stored, uint16 (h, w), ``depth_shift`` units per metre, 0 = invalid.

        Raises:
            DataError: depth is broken, its size differs from the header, or its codec is not supported.
        """
        codec, (h, w) = self.header.depth_codec, self.header.depth_hw
        size, what = h * w * 2, f"{self.where}: depth of {w}x{h}"
        if codec not in ("raw", "zlib"):
            raise DataError(
                f"{self.where}: depth is compressed by {codec!r}, which only the capturing program reads; ScanNet's "
                f"release uses 'zlib'. Export the file again with zlib or raw depth."
            )
        content = self.depth
        if codec == "zlib":
            inflate = zlib.decompressobj()
            try:
                # stop one byte after the expected size, in case of a decompression bomb
                content = inflate.decompress(self.depth, size + 1)
            except zlib.error as error:
                raise DataError(f"{what}: not zlib data ({error}). {_COPY_AGAIN}") from error
            if len(content) == size and not inflate.eof:
                raise DataError(f"{what}: the compressed data end too early. {_COPY_AGAIN}")
        _expect(content, size, what)
        return np.frombuffer(content, "<u2").reshape(h, w).astype(np.uint16)

    def depth_m(self) -> np.ndarray:
        """Decode depth, float32 (h, w) metres, 0 = invalid. Errors are those of `depth_units`."""
        return self.depth_units().astype(np.float32) / np.float32(self.header.depth_shift)


class SensFile:
    """A .sens file with access to frames by index and in order.

    Opening only reads the header. Positions of frames are found by reading the frame headers one by one, up to the
    requested frame. No file stays open, so that several processes, forked or pickled, can use it.

        for frame in SensFile("scene0000_00.sens"):
            frame.world_T_cam, frame.image(), frame.depth_m()
    """

    def __init__(self, path: str | Path) -> None:
        """Read the header; raises DataError if the file is missing, has another version, or an invalid header."""
        self.path = Path(path)
        with self._open() as file:
            self._size = os.fstat(file.fileno()).st_size
            self.header = self._read_header(file)
            self._next = file.tell()  # position of the first frame whose header was not read yet
        self._headers = bytearray()
        self._contents = array("Q")  # position of each frame's colour

    def __len__(self) -> int:
        """Number of frames in the header; a truncated file has fewer (`whole_frames`)."""
        return self.header.frames

    def __repr__(self) -> str:
        (h, w), (dh, dw) = self.header.color_hw, self.header.depth_hw
        return f"<SensFile {self.path.name}: {counted(len(self), 'frame')}, colour {w}x{h}, depth {dw}x{dh}>"

    def __iter__(self) -> Iterator[SensFrame]:
        with self._open() as file:
            for i in range(len(self)):
                self._find(i + 1, file)
                yield self._frame(i, file)

    def frame(self, i: int, *, color: bool = True, depth: bool = True) -> SensFrame:
        """Read frame i.

        Args:
            color, depth: whether to read colour and depth; otherwise they are empty.

        Raises:
            IndexError: the frame does not exist.
            DataError: the file is damaged, or truncated at or before this frame.
        """
        if not 0 <= i < len(self):
            raise IndexError(f"{self.path} has {counted(len(self), 'frame')}, there is no frame {i}.")
        with self._open() as file:
            self._find(i + 1, file)
            return self._frame(i, file, color, depth)

    def poses(self) -> np.ndarray:
        """Read world_T_cam of all frames, (n, 4, 4) float64, as stored; raises DataError if the file is damaged."""
        with self._open() as file:
            self._find(len(self), file)
        headers = np.frombuffer(self._headers, "<f4").reshape(len(self), -1)
        return headers[:, :16].reshape(-1, 4, 4).astype(np.float64)

    def whole_frames(self) -> int:
        """Count the complete frames; fewer than `len` if the file is truncated."""
        with contextlib.suppress(DataError), self._open() as file:
            self._find(len(self), file)
        return len(self._contents)

    def _open(self) -> BinaryIO:
        try:
            # a larger buffer would read kilobytes around each frame header
            return open(self.path, "rb", buffering=FRAME.size)
        except FileNotFoundError:
            raise DataError(f"{self.path} is missing.") from None
        except OSError as error:
            raise DataError(f"{self.path}: cannot be opened ({error}).") from error

    def _read(self, file: BinaryIO, count: int, what: str) -> bytes:
        """Read exactly ``count`` bytes. The caller has compared them with the rest of the file."""
        try:
            content = file.read(count)
        except OSError as error:
            raise DataError(f"{self.path}: {what} cannot be read ({error}).") from error
        if len(content) != count:
            raise DataError(f"{self.path}: {what} is cut off. {_COPY_AGAIN}")
        return content

    def _read_header(self, file: BinaryIO) -> SensHeader:
        version, length = START.unpack(self._read(file, START.size, "the header"))
        if version != VERSION:
            raise DataError(
                f"{self.path}: not a .sens file of version {VERSION}; its first number is {version}."
            )
        if length > min(_MAX_NAME, self._size):
            raise DataError(f"{self.path}: damaged, the sensor's name would have {length} bytes.")
        name = self._read(file, length, "the sensor's name").decode("utf-8", "replace")
        values = CAMERAS.unpack(self._read(file, CAMERAS.size, "the header"))
        matrices = np.array(values[:64]).reshape(4, 4, 4)
        color_codec, depth_codec, color_w, color_h, depth_w, depth_h, shift = values[64:]
        (frames,) = COUNT.unpack(self._read(file, COUNT.size, "the header"))
        color_K, depth_K = matrices[::2, :3, :3]
        for what, codec, known, w, h, K in (
            ("colour", color_codec, COLOR_CODECS, color_w, color_h, matrices[0]),
            ("depth", depth_codec, DEPTH_CODECS, depth_w, depth_h, matrices[2]),
        ):
            if codec not in known:
                raise DataError(f"{self.path}: damaged, {what} has a compression of number {codec}.")
            if not 0 < w * h <= MAX_PIXELS:
                raise DataError(f"{self.path}: damaged, {what} would have {w}x{h} pixels.")
            if not np.isfinite(K).all() or K[0, 0] <= 0 or K[1, 1] <= 0:
                raise DataError(f"{self.path}: damaged, the intrinsics of {what} are {K[:3, :3].tolist()}.")
        if not 0 < shift < np.inf:
            raise DataError(f"{self.path}: damaged, a metre would have {shift} units of depth.")
        if not 0 < frames <= _MAX_FRAMES:
            raise DataError(f"{self.path}: damaged or empty, the file would have {frames} frames.")
        codecs = COLOR_CODECS[color_codec], DEPTH_CODECS[depth_codec]
        sizes = (color_h, color_w), (depth_h, depth_w)
        return SensHeader(name, color_K, depth_K, matrices[1], matrices[3], *codecs, *sizes, shift, frames)

    def _find(self, stop: int, file: BinaryIO) -> None:
        """Find the positions of the frames before ``stop``."""
        at, h = self._next, self.header
        most = [h.color_hw[0] * h.color_hw[1] * 4 + _SLACK, h.depth_hw[0] * h.depth_hw[1] * 2 + _SLACK]
        for i in range(len(self._contents), stop):
            if at + FRAME.size > self._size:
                raise self._truncated(i, FRAME.size, self._size - at, "header")
            file.seek(at)
            header = self._read(file, FRAME.size, f"frame {i}'s header")
            sizes = FRAME.unpack(header)[-2:]
            for what, size, limit in zip(("colour", "depth"), sizes, most, strict=True):
                if size > limit:
                    raise DataError(
                        f"{self.path}: damaged at frame {i}: its {what} would have {size} bytes, more than an image "
                        f"of this size needs. {counted(i, 'frame')} before it can be read. {_COPY_AGAIN}"
                    )
            at += FRAME.size
            if at + sum(sizes) > self._size:
                raise self._truncated(i, sum(sizes), self._size - at, "colour and depth")
            self._headers += header
            self._contents.append(at)
            at = self._next = at + sum(sizes)

    def _truncated(self, i: int, size: int, there: int, what: str) -> DataError:
        return DataError(
            f"{self.path}: truncated at frame {i} of {len(self)}: its {what} has {there} instead of {size} bytes. "
            f"{counted(i, 'frame')} before it can be read. {_COPY_AGAIN}"
        )

    def _frame(self, i: int, file: BinaryIO, color: bool = True, depth: bool = True) -> SensFrame:
        *pose, color_time, depth_time, color_bytes, depth_bytes = FRAME.unpack_from(
            self._headers, i * FRAME.size
        )
        at, contents = self._contents[i], []
        for start, size in ((at, color_bytes * color), (at + color_bytes, depth_bytes * depth)):
            file.seek(start)
            contents.append(self._read(file, size, f"frame {i}"))
        world_T_cam, where = np.array(pose, dtype=np.float64).reshape(4, 4), f"{self.path}, frame {i}"
        return SensFrame(i, world_T_cam, color_time, depth_time, *contents, self.header, where)


def _expect(content: bytes, size: int, what: str) -> None:
    if len(content) != size:
        more = "more than" if len(content) > size else f"{len(content)} of"
        raise DataError(f"{what}: {more} the {size} bytes it should have. {_COPY_AGAIN}")
