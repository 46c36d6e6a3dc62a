"""7-Scenes (Microsoft, non-commercial): handheld Kinect v1 sequences, 640x480.

    <root>/<scene>/seq-NN/frame-NNNNNN.{color.png, depth.png, pose.txt}     color.jpg is read too

Raw depth is seen by the depth camera, and the poses are that camera's. Both are moved to the colour
camera here, once, so that image, depth and pose agree in everything downstream.
"""

from __future__ import annotations

import functools
from pathlib import Path

import numpy as np

from d3d.datasets.scene import Dataset, Scene, read_color, read_depth_png, read_image_file, require_root
from d3d.errors import ConfigError, DataError
from d3d.geometry import check_pose

HOW_TO_GET = (
    "Get it from Microsoft Research's page 'RGB-D Dataset 7-Scenes' (non-commercial terms), unpack each scene's "
    "zip and the seq-NN.zip in it, and give the folder that holds chess/, fire/, ... as root."
)

COLOR_K = np.array([[525.0, 0, 320.0], [0, 525.0, 240.0], [0, 0, 1]])
DEPTH_K = np.array([[585.0, 0, 320.0], [0, 585.0, 240.0], [0, 0, 1]])

# 7-Scenes states no extrinsics. Nominal Kinect v1: parallel axes, a point's x in the colour camera is its
# x in the depth camera minus 2.5 cm. Checked on a RedKitchen sequence by the median distance from depth
# edges to image edges (as tests/test_sevenscenes.py measures it), 23 frames: 5.7 px unregistered, 2.2 px
# with 2.5 and with 2.0 cm; 3.4 with none, 2.7 with 1.0, 2.5 with 3.0, 4.0 with the wrong sign. The extrinsics
# that public set-up scripts take from the calibration of another Kinect give 3.3 px here.
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
        first = read_image_file(self._colors[0], f"scene {name!r}, {next(iter(colors))}")
        has_depth = any((folder / f"{frame}.depth.png").exists() for frame in colors)
        super().__init__(name, tuple(colors), world_T_cams, (first.height, first.width), has_depth)

    def _read_image(self, i: int) -> np.ndarray:
        return read_color(self._colors[i], self._where(i))

    def _read_K(self, i: int) -> np.ndarray:
        if self.size_hw != (480, 640):
            # only these are stated; a resized copy of the data would be silently off
            raise DataError(
                f"{self._where(i)}: no intrinsics K for colour of {self.size_hw}; 7-Scenes has 480x640."
            )
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
        the nearest. A footprint of one pixel closes the surface: colour has the shorter focal length, so
        that neighbours in depth are 0.9 px apart in colour, and more than one only on surfaces steeper
        than 75 degrees. (On the real sequence some 40 pinholes a frame.)
    """
    h, w = depth_m.shape
    # (3, h*w) colour pixel of each depth pixel at infinity; colour = infinity * z + offset, homogeneous
    infinity = _pixels_at_infinity(h, w)
    offset = (COLOR_K @ COLOR_T_DEPTH[:3, 3]).astype(np.float32)
    z = np.asarray(depth_m, np.float32).ravel()
    z_color = infinity[2] * z + offset[2]
    with np.errstate(divide="ignore", invalid="ignore"):  # invalid pixels have z = 0 and are masked below
        x = (infinity[0] * z + offset[0]) / z_color + np.float32(0.5)
        y = (infinity[1] * z + offset[1]) / z_color + np.float32(0.5)
        valid = (z > 0) & (z_color > 0) & (x >= 0) & (x < w) & (y >= 0) & (y < h)
    # x and y are not negative here, so that truncation rounds x - 0.5 to the nearest pixel
    pixel = y[valid].astype(np.int32) * w + x[valid].astype(np.int32)
    registered = np.full(h * w, np.inf, np.float32)
    np.minimum.at(registered, pixel, z_color[valid])
    registered[np.isinf(registered)] = 0
    return registered.reshape(h, w)


@functools.lru_cache(maxsize=2)
def _pixels_at_infinity(h: int, w: int) -> np.ndarray:
    """Homogeneous colour pixels (3, h*w), float32, at which the depth camera's pixels look at infinity."""
    rows, cols = np.divmod(np.arange(h * w), w)
    M = COLOR_K @ COLOR_T_DEPTH[:3, :3] @ np.linalg.inv(DEPTH_K)
    return (M @ np.stack((cols, rows, np.ones_like(cols)))).astype(np.float32)


def open_sevenscenes(root: str | Path | None, val_block: tuple[float, float] = (0.8, 1.0)) -> Dataset:
    """7-Scenes: "train" and "val" are contiguous blocks of every sequence, "test" the paper's sequences.

    Single frames of a video taken at random have near copies of themselves on both sides, hence
    contiguous blocks. "test" holds whole sequences, also those that "train" and "val" are cut from:
    score on it only networks that were trained elsewhere, as the paper does.

    Args:
        root: the folder with the scenes' folders.
        val_block: start and stop of the "val" block as fractions of each sequence; where it lies in the
            middle, "train" is what lies before and after it, as one scene: it is one room, and section 3.2.2
            fuses all its views into one mesh. A triple across the gap is as true as any other.

    Raises:
        ConfigError: val_block is not two fractions in order.
        DataError: no folder, or no sequence in it.
    """
    start, stop = val_block if len(val_block) == 2 else (1, 0)
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
    """Cuts the block between two fractions out of a scene: (the scene without it, the block), in lists.

    A list is empty where nothing is left: a sequence too short for a block of one frame has none.
    """
    n = len(scene)
    first, last = round(start * n), round(stop * n)
    if 0 < first < last < n:
        train = [scene.subset([*range(first), *range(last, n)], f"{scene.name}.without-{first}-{last - 1}")]
    else:
        train = [scene.block(a, b) for a, b in ((0, first), (last, n)) if b > a]
    return train, [scene.block(first, last)] if last > first else []


def _read_pose(path: Path, where: str) -> np.ndarray:
    """A 4x4 text file as float64, checked before it is multiplied with anything."""
    try:
        pose = np.array(path.read_text().split(), dtype=np.float64).reshape(4, 4)
    except FileNotFoundError:
        raise DataError(f"{where}: {path} is missing.") from None
    except ValueError as error:
        raise DataError(f"{where}: {path} does not hold 16 numbers ({error}).") from error
    return check_pose(pose, where)
