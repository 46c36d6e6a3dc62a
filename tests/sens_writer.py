"""Write ScanNet's .sens files with all codecs, from given frames."""

from __future__ import annotations

import io
import zlib
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image

from d3d.datasets.scannet.sens import CAMERAS, COLOR_CODECS, COUNT, DEPTH_CODECS, FRAME, START, VERSION
from d3d.geometry import scale_intrinsics

IDENTITY = np.eye(4)


def matrix(K_33: np.ndarray) -> np.ndarray:
    """Return the intrinsics as ScanNet's 4x4 matrix."""
    result = np.eye(4)
    result[:3, :3] = K_33
    return result


@dataclass
class SensWriter:
    """Write one file frame by frame. The number of frames is written at the end."""

    path: Path
    color_hw: tuple[int, int]
    depth_hw: tuple[int, int]
    color_K: np.ndarray
    depth_K: np.ndarray
    color_codec: str = "jpeg"
    depth_codec: str = "zlib"
    depth_shift: float = 1000.0
    name: str = "StructureSensor"
    color_extrinsic: np.ndarray = field(default_factory=lambda: IDENTITY)
    depth_extrinsic: np.ndarray = field(default_factory=lambda: IDENTITY)

    def __enter__(self) -> SensWriter:
        number = [{v: k for k, v in codecs.items()} for codecs in (COLOR_CODECS, DEPTH_CODECS)]
        matrices = (matrix(self.color_K), self.color_extrinsic, matrix(self.depth_K), self.depth_extrinsic)
        name = self.name.encode()
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._file = open(self.path, "wb")
        self._file.write(START.pack(VERSION, len(name)) + name)
        self._file.write(
            CAMERAS.pack(
                *np.concatenate([m.ravel() for m in matrices]),
                number[0][self.color_codec],
                number[1][self.depth_codec],
                *self.color_hw[::-1],
                *self.depth_hw[::-1],
                self.depth_shift,
            )
        )
        self._count_at, self.frames = self._file.tell(), 0
        self._file.write(COUNT.pack(0))
        return self

    def __exit__(self, *_: object) -> None:
        self._file.write(COUNT.pack(0))  # no frames of the inertial sensor
        self._file.seek(self._count_at)
        self._file.write(COUNT.pack(self.frames))
        self._file.close()

    def add(
        self, image: np.ndarray | bytes, depth_units: np.ndarray | bytes, world_T_cam: np.ndarray
    ) -> None:
        """Add a frame. Bytes are stored unchanged."""
        color = image if isinstance(image, bytes) else encode_color(image, self.color_codec)
        depth = depth_units if isinstance(depth_units, bytes) else encode_depth(depth_units, self.depth_codec)
        time = self.frames * 33_333
        self._file.write(FRAME.pack(*np.ravel(world_T_cam), time, time + 7, len(color), len(depth)))
        self._file.write(color + depth)
        self.frames += 1


def encode_color(image: np.ndarray, codec: str) -> bytes:
    if codec == "raw":
        return image.tobytes()
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, format=codec, **({"quality": 90} if codec == "jpeg" else {}))
    return buffer.getvalue()


def encode_depth(depth_units: np.ndarray, codec: str) -> bytes:
    raw = depth_units.astype("<u2").tobytes()
    return zlib.compress(raw) if codec == "zlib" else raw


# of 48x36
SMALL_K = np.array([[40.0, 0, 23.5], [0, 40.0, 17.5], [0, 0, 1]])


def walk(n: int, step_m: float = 0.02) -> np.ndarray:
    """Return poses (n, 4, 4) that move along x by one step for each frame, without rotation."""
    poses = np.tile(np.eye(4), (n, 1, 1))
    poses[:, 0, 3] = np.arange(n) * step_m
    return poses


def write_small(
    path: Path, poses: Iterable[np.ndarray], color_hw=(36, 48), depth_hw=(18, 24), **options
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Write a file of small frames, each with another grey value, with aligned depth. Return (image, depth units)."""
    rng = np.random.default_rng(0)
    written = []
    Ks = (scale_intrinsics(SMALL_K, (36, 48), size_hw) for size_hw in (color_hw, depth_hw))
    with SensWriter(path, color_hw, depth_hw, *Ks, **options) as file:
        for i, pose in enumerate(poses):
            image = np.full((*color_hw, 3), (7 * i) % 250, np.uint8)
            image[: color_hw[0] // 2] //= 2
            depth = rng.integers(400, 6000, depth_hw).astype(np.uint16)
            depth[0, 0] = 0
            file.add(image, depth, pose)
            written.append((image, depth))
    return written
