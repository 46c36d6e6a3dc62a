"""7-Scenes (Microsoft, non-commercial): handheld Kinect v1 sequences, 640x480.

    <root>/<scene>/seq-NN/frame-NNNNNN.{color.png, depth.png, pose.txt}     color.jpg is read too

Raw depth is seen by the depth camera, and the poses are that camera's. Both are moved to the colour
camera here, once, so that image, depth and pose agree in everything downstream.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from d3d.datasets.scene import Dataset, Scene, read_color, read_depth_png, read_png_or_jpeg, require_root
from d3d.errors import ConfigError, DataError

HOW_TO_GET = (
    "Get it from Microsoft Research's page 'RGB-D Dataset 7-Scenes' (non-commercial terms), unpack each scene's "
    "zip and the seq-NN.zip in it, and give the folder that holds chess/, fire/, ... as root."
)

COLOR_K = np.array([[525.0, 0, 320.0], [0, 525.0, 240.0], [0, 0, 1]])
DEPTH_K = np.array([[585.0, 0, 320.0], [0, 585.0, 240.0], [0, 0, 1]])

# 7-Scenes states no extrinsics. Kinect v1 mounts the colour camera 2.5 cm beside the depth camera with
# parallel axes, as seen from behind to the left of it in x of the image: a point's x in colour is its x
# in depth minus 2.5 cm.
COLOR_T_DEPTH = np.eye(4)
COLOR_T_DEPTH[0, 3] = -0.025

# The 13 sequences that the paper evaluates on.
TEST_SEQUENCES = (
    "chess/seq-01", "chess/seq-02", "fire/seq-01", "fire/seq-02", "heads/seq-02", "office/seq-01", "office/seq-03",
    "pumpkin/seq-03", "pumpkin/seq-06", "redkitchen/seq-01", "redkitchen/seq-07", "stairs/seq-02", "stairs/seq-06",
)  # fmt: skip


class SevenScenesSequence(Scene):
    """One sequence. Raises DataError where a pose is missing or broken, or there is no frame."""

    def __init__(self, folder: Path, name: str) -> None:
        self.folder = folder
        colors: dict[str, Path] = {}
        for path in sorted(folder.glob("frame-*.color.*")):
            if path.suffix in (".png", ".jpg"):
                colors[path.name.split(".")[0]] = path
        self._colors = list(colors.values())
        if not colors:
            raise DataError(f"scene {name!r}: {folder} has no frame-NNNNNN.color.png or .color.jpg.")
        poses = [_read_pose(folder / f"{frame}.pose.txt", f"scene {name!r}, {frame}") for frame in colors]
        world_T_cams = np.stack(poses) @ np.linalg.inv(COLOR_T_DEPTH)
        first = read_png_or_jpeg(self._colors[0], f"scene {name!r}, {next(iter(colors))}")
        has_depth = any((folder / f"{frame}.depth.png").exists() for frame in colors)
        super().__init__(name, tuple(colors), world_T_cams, (first.height, first.width), has_depth)

    def _read_image(self, i: int) -> np.ndarray:
        return read_color(self._colors[i], self._where(i))

    def _read_K(self, i: int) -> np.ndarray:
        if self.size_hw != (480, 640):
            # only these are stated; a resized copy of the data would be silently off
            raise DataError(f"{self._where(i)}: no intrinsics K for colour of {self.size_hw}; 7-Scenes has 480x640.")
        return COLOR_K

    def _read_depth(self, i: int) -> np.ndarray:
        """Sensor depth registered to colour.

        Hook: the rendered depth of Brachmann and Rother, which the paper evaluates against, is already
        that of the colour camera. A sequence that reads it overrides this method alone and returns the
        file's millimetres / 1000 without `register_depth`.
        """
        raw = read_depth_png(self.folder / f"{self.frame_ids[i]}.depth.png", self._where(i))
        if raw.shape != self.size_hw:
            raise DataError(
                f"{self._where(i)}: the depth map has shape {raw.shape}; 7-Scenes' is as large as its colour, "
                f"{self.size_hw}."
            )
        return register_depth(np.where(raw == 65535, 0, raw).astype(np.float32) / 1000)


def register_depth(depth_m: np.ndarray) -> np.ndarray:
    """Moves a depth map of the depth camera into the colour camera.

    Args:
        depth_m: (H, W) metres, 0 = invalid.

    Returns:
        float32 (H, W) z-depth in the colour camera, metres, 0 = invalid; of several points in one pixel
        the nearest.
    """
    h, w = depth_m.shape
    rows, cols = np.nonzero(depth_m > 0)
    z = depth_m[rows, cols].astype(np.float32)
    color_T_pixel = COLOR_K @ COLOR_T_DEPTH[:3, :3] @ np.linalg.inv(DEPTH_K)
    M, offset = color_T_pixel.astype(np.float32), (COLOR_K @ COLOR_T_DEPTH[:3, 3]).astype(np.float32)
    p = [(M[k, 0] * cols + M[k, 1] * rows + M[k, 2]) * z + offset[k] for k in range(3)]
    x = np.rint(p[0] / p[2]).astype(np.int64)
    y = np.rint(p[1] / p[2]).astype(np.int64)
    inside = (x >= 0) & (x < w) & (y >= 0) & (y < h) & (p[2] > 0)
    registered = np.full(h * w, np.inf, np.float32)
    np.minimum.at(registered, (y * w + x)[inside], p[2][inside].astype(np.float32))
    registered[np.isinf(registered)] = 0
    return registered.reshape(h, w)


def open_sevenscenes(root: str | Path | None, val_block: tuple[float, float] = (0.8, 1.0)) -> Dataset:
    """7-Scenes: "train" and "val" are contiguous blocks of every sequence, "test" the paper's sequences.

    Single frames of a video taken at random have near copies of themselves on both sides, hence
    contiguous blocks. "test" holds whole sequences, also those that "train" and "val" are cut from:
    score on it only networks that were trained elsewhere, as the paper does.

    Args:
        root: the folder with the scenes' folders.
        val_block: start and stop of the "val" block as fractions of each sequence; where it lies in the
            middle, "train" has the block before and the block after it as two scenes.

    Raises:
        ConfigError: val_block is not two fractions in order.
        DataError: no folder, or no sequence in it.
    """
    start, stop = val_block
    if not 0 <= start < stop <= 1:
        raise ConfigError(f"val_block must be fractions 0 <= start < stop <= 1, got {val_block}.")
    folder = require_root("7scenes", root, HOW_TO_GET)
    sequences = sorted(f"{path.parent.name}/{path.name}" for path in folder.glob("*/seq-*") if path.is_dir())
    if not sequences:
        raise DataError(f"data set '7scenes': {folder} holds no <scene>/seq-NN. {HOW_TO_GET}")
    opened: dict[str, Scene] = {}  # train, val and test share a sequence's poses

    def sequence(name: str) -> Scene:
        if name not in opened:
            opened[name] = SevenScenesSequence(folder / name, name.replace("/", "-"))
        return opened[name]

    def train() -> list[Scene]:
        return [part for name in sequences for part in cut_block(sequence(name), start, stop)[0]]

    def val() -> list[Scene]:
        return [part for name in sequences for part in cut_block(sequence(name), start, stop)[1]]

    splits = {"train": train, "val": val}
    test = [name for name in TEST_SEQUENCES if name in sequences]
    if test:
        splits["test"] = lambda: [sequence(name) for name in test]
    return Dataset("7scenes", splits)


def cut_block(scene: Scene, start: float, stop: float) -> tuple[list[Scene], list[Scene]]:
    """Cuts the block between two fractions out of a scene: (the one or two scenes around it, the block).

    A sequence too short for a block of one frame has none.
    """
    n = len(scene)
    first, last = round(start * n), round(stop * n)
    around = [scene.block(a, b) for a, b in ((0, first), (last, n)) if b > a]
    return around, [scene.block(first, last)] if last > first else []


def _read_pose(path: Path, where: str) -> np.ndarray:
    """A 4x4 text file as float64; whether it is a pose is checked with all the others by `Scene`."""
    try:
        return np.array(path.read_text().split(), dtype=np.float64).reshape(4, 4)
    except FileNotFoundError:
        raise DataError(f"{where}: {path} is missing.") from None
    except ValueError as error:
        raise DataError(f"{where}: {path} does not hold 16 numbers ({error}).") from error
