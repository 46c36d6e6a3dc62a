"""7-Scenes (Microsoft, non-commercial): handheld Kinect v1 sequences, 640x480.

    <root>/<scene>/seq-NN/frame-NNNNNN.{color.png, depth.png, pose.txt}     color.jpg is read too

or the official zips, which are unpacked once (`d3d.datasets.sevenscenes.files`). Raw depth and poses belong to the
depth camera. Both are moved to the colour camera, so that image, depth and pose agree. If the folder has the depth
rendered by Brachmann and Rother, it is the ground truth.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, lru_cache, partial
from pathlib import Path

import numpy as np

from d3d.datasets.dataset import Dataset, require_root
from d3d.datasets.images import first_size, read_color, read_depth_png, read_image_file
from d3d.datasets.records import read_matrix
from d3d.datasets.scene import Scene
from d3d.datasets.sevenscenes.files import check_space, find_sequences, official_split, rendered_depth
from d3d.errors import ConfigError, DataError
from d3d.geometry import check_pose
from d3d.progress import say

HOW_TO_GET = (
    "Get it from Microsoft Research's page 'RGB-D Dataset 7-Scenes' (non-commercial terms), and give the folder with "
    "chess.zip, fire.zip, ..., or with chess/, fire/, ..., as root."
)

COLOR_K = np.array([[525.0, 0, 320.0], [0, 525.0, 240.0], [0, 0, 1]])
DEPTH_K = np.array([[585.0, 0, 320.0], [0, 585.0, 240.0], [0, 0, 1]])

# 7-Scenes states no extrinsics. d3d uses a nominal Kinect v1: parallel axes, x in the colour camera is x in the depth
# camera minus 2.5 cm. Median distance from depth edges to image edges in 23 frames of RedKitchen, measured in
# tests/test_sevenscenes.py: 5.7 px unregistered; 2.2 px with 2.5 or 2.0 cm, 3.4 with 0, 2.7 with 1.0, 2.5 with 3.0, 4.0
# with the wrong sign; 3.3 px with the extrinsics of another Kinect that public set-up scripts use.
COLOR_T_DEPTH = np.eye(4)
COLOR_T_DEPTH[0, 3] = -0.025

# The paper's 13 sequences, chosen by DeepVideoMVS. All belong to the official training split, the only split with
# rendered depth (vislearn/dsacstar, issue 6)
TEST_SEQUENCES = (
    "chess/seq-01", "chess/seq-02", "fire/seq-01", "fire/seq-02", "heads/seq-02", "office/seq-01", "office/seq-03",
    "pumpkin/seq-03", "pumpkin/seq-06", "redkitchen/seq-01", "redkitchen/seq-07", "stairs/seq-02", "stairs/seq-06",
)  # fmt: skip
RENDERED = "rendered depth (Brachmann and Rother)"
SENSOR = "sensor depth registered to colour"


class SevenScenesSequence(Scene):
    """A sequence. Depth is rendered from a model, or measured by the sensor and registered to colour."""

    one_K = True

    def __init__(self, folder: Path, name: str, rendered: Callable[[str], Path] | None = None) -> None:
        """Read poses and the size of colour. Frames with a missing or broken pose are left out (`corrupt`).

        Args:
            rendered: function from the id of a frame to the file of its rendered depth; None without rendered depth.
        """
        self.folder, self._rendered, self.rendered = folder, rendered, rendered is not None
        files, scene = sorted(folder.glob("frame-*.color.*")), f"scene {name!r}"
        colors = {path.name.split(".")[0]: path for path in files if path.suffix in (".png", ".jpg")}
        if not colors:
            raise DataError(f"{scene}: {folder} has no frame-NNNNNN.color.png or .color.jpg.")
        poses, corrupt = {}, {}
        for number, frame in enumerate(colors):
            try:
                where = f"{scene}, {frame}"
                poses[number] = check_pose(read_matrix(folder / f"{frame}.pose.txt", where), where)
            except DataError as error:  # leaves out only this frame
                corrupt[frame] = str(error)
        if not poses:
            raise DataError(f"{scene}: no pose in {folder} can be read: {next(iter(corrupt.values()))}")
        world_T_cams = np.stack(list(poses.values())) @ np.linalg.inv(COLOR_T_DEPTH)
        has_depth = self.rendered or any((folder / f"{frame}.depth.png").exists() for frame in colors)
        size_hw = first_size(colors.values(), scene)
        ids = [frame for frame in colors if frame not in corrupt]
        self._colors = [colors[frame] for frame in ids]
        numbers = list(poses) if corrupt else None
        super().__init__(name, ids, world_T_cams, size_hw, has_depth, numbers=numbers, left_out=corrupt)
        self.corrupt = corrupt

    def _read_image(self, i: int) -> np.ndarray:
        return read_color(self._colors[i], self._where(i))

    def _read_K(self, i: int) -> np.ndarray:
        if self.size_hw == (480, 640):
            return COLOR_K
        # intrinsics are stated for this size only
        raise DataError(
            f"{self._where(i)}: no intrinsics K for colour of {self.size_hw}, only of (480, 640)."
        )

    def _read_depth(self, i: int) -> np.ndarray | None:
        frame = self.frame_ids[i]
        path = self.folder / f"{frame}.depth.png" if self._rendered is None else self._rendered(frame)
        if not path.exists():
            return None
        if self._rendered is not None:
            return read_rendered(path, self._where(i))
        raw = read_depth_png(path, self._where(i))
        if raw.shape != self.size_hw:
            sizes = f"{raw.shape}; 7-Scenes' is as large as its colour, {self.size_hw}"
            raise DataError(f"{self._where(i)}: the depth map has shape {sizes}.")
        return register_depth(np.where(raw == 65535, 0, raw).astype(np.float32) / 1000)


def read_rendered(path: Path, where: str) -> np.ndarray:
    """Read depth rendered by Brachmann and Rother (DSAC++, CVPR 2018), float32 (H, W) in metres, 0 = invalid.

    The authors rendered the mesh of a TSDF volume with the poses of 7-Scenes (vislearn/dsacstar, issue 6) and
    registered the depth to colour (vislearn/LessMore, issue 13). d3d uses it unchanged, like DeepVideoMVS (D52). Files
    hold millimetres as 16-bit or 32-bit numbers.

    Raises:
        DataError: the file has another format.
    """
    image = read_image_file(path, where, ("TIFF",))
    if image.mode not in ("F", "I", "I;16", "I;16B", "I;16L"):
        raise DataError(f"{where}: {path} is not a grey TIFF of depth (it has mode {image.mode}).")
    millimetres = np.asarray(image).astype(np.float32)
    # 65535 and more is invalid, like in sensor depth; comparisons with NaN are false
    return np.where((millimetres > 0) & (millimetres < 65535), millimetres, np.float32(0)) / np.float32(1000)


def register_depth(depth_m: np.ndarray) -> np.ndarray:
    """Move a depth map (H, W) of the depth camera, metres, 0 = invalid, into the colour camera.

    Each point fills one pixel. This closes surfaces, because neighbours in depth are 0.9 px apart in colour; they are
    more than a pixel apart only on surfaces steeper than 75 degrees.

    Returns:
        Float32 (H, W) z-depth in the colour camera. A pixel with several points takes the nearest.
    """
    h, w = depth_m.shape
    # colour pixel = infinity * z + offset, in homogeneous coordinates
    infinity = _pixels_at_infinity(h, w)
    offset = (COLOR_K @ COLOR_T_DEPTH[:3, 3]).astype(np.float32)
    z = np.asarray(depth_m, np.float32).ravel()
    z_color = infinity[2] * z + offset[2]
    with np.errstate(divide="ignore", invalid="ignore"):  # invalid pixels have z = 0 and are masked below
        x = (infinity[0] * z + offset[0]) / z_color + np.float32(0.5)
        y = (infinity[1] * z + offset[1]) / z_color + np.float32(0.5)
        valid = (z > 0) & (z_color > 0) & (x >= 0) & (x < w) & (y >= 0) & (y < h)
    # x and y are not negative, so that truncation rounds x - 0.5 to the nearest pixel
    pixel = y[valid].astype(np.int32) * w + x[valid].astype(np.int32)
    registered = np.full(h * w, np.inf, np.float32)
    np.minimum.at(registered, pixel, z_color[valid])
    registered[np.isinf(registered)] = 0
    return registered.reshape(h, w)


@lru_cache(maxsize=2)
def _pixels_at_infinity(h: int, w: int) -> np.ndarray:
    """Compute the homogeneous colour pixels (3, h*w), float32, of the depth camera's pixels at infinite depth."""
    rows, cols = np.divmod(np.arange(h * w), w)
    M = COLOR_K @ COLOR_T_DEPTH[:3, :3] @ np.linalg.inv(DEPTH_K)
    return (M @ np.stack((cols, rows, np.ones_like(cols)))).astype(np.float32)


def open_sevenscenes(root: str | Path | None, val_block: tuple[float, float] = (0.8, 1.0)) -> Dataset:
    """Open 7-Scenes. "train" and "val" are contiguous blocks of every sequence, "test" holds the paper's sequences.

    The blocks are contiguous because neighbouring frames of a video are near copies. "test" holds whole sequences,
    which overlap with "train" and "val": only score networks on it if they were trained on other data, as in the paper.
    With TrainSplit.txt and TestSplit.txt, "official-train" and "official-test" are Microsoft's splits. The first use of
    a split unpacks its archives.

    Args:
        root: folder with the folders or zips of the scenes, and optionally the rendered depth.
        val_block: start and stop of the "val" block as fractions of each sequence. If the block lies in the middle,
            "train" is the rest as one scene, because it shows one room, fused into one mesh (section 3.2.2).

    Raises:
        ConfigError: val_block is not two increasing fractions.
        DataError: the folder is missing or has no sequence, or an archive cannot be unpacked.
    """
    start, stop = val_block if len(val_block) == 2 else (1, 0)
    if not 0 <= start < stop <= 1:
        raise ConfigError(f"val_block must be fractions 0 <= start < stop <= 1, got {val_block}.")
    folder = require_root("7scenes", root, HOW_TO_GET)
    sequences = find_sequences(folder)
    if not sequences:
        raise DataError(f"data set '7scenes': {folder} holds no <scene>/seq-NN or <scene>.zip. {HOW_TO_GET}")
    rendered = {name: rendered_depth(folder, name) for name in sequences}

    @cache  # train, val and test share a sequence's poses
    def sequence(name: str) -> Scene:
        return SevenScenesSequence(sequences[name].unpacked(), name.replace("/", "-"), rendered[name])

    def blocks(k: int) -> list[Scene]:
        check_space(folder, sequences.values())
        return [part for name in sequences for part in cut_block(sequence(name), start, stop)[k]]

    whole = {"test": [name for name in TEST_SEQUENCES if name in sequences]}
    scenes = sorted({name.partition("/")[0] for name in sequences})
    for split in ("Train", "Test"):
        listed = [name for scene in scenes for name in official_split(folder, scene, split)]
        whole[f"official-{split.lower()}"] = [name for name in listed if name in sequences]

    def make(split: str) -> list[Scene]:
        names, missing = whole[split], [name for name in TEST_SEQUENCES if name not in sequences]
        if split == "test" and missing:
            say(f"7-Scenes: {len(names)} of the paper's 13 sequences are here, not {', '.join(missing)}")
        check_space(folder, [sequences[name] for name in names])
        return [sequence(name) for name in names]

    def truth(split: str) -> str:
        names = whole.get(split, sequences)
        count = sum(rendered[name] is not None for name in names)
        if count in (0, len(names)):
            return RENDERED if count else SENSOR
        return f"{RENDERED} of {count} sequences, {SENSOR} of {len(names) - count}"

    def whole_split(split: str, every: int) -> bool:
        return split != "test" or (every == 1 and len(whole["test"]) == len(TEST_SEQUENCES))

    splits = {"train": partial(blocks, 0), "val": partial(blocks, 1)}
    splits |= {s: partial(make, s) for s, names in whole.items() if names}
    return Dataset("7scenes", splits, truth=truth, whole=whole_split)


def cut_block(scene: Scene, start: float, stop: float) -> tuple[list[Scene], list[Scene]]:
    """Cut the block between two fractions out of a scene; return [the rest], [the block]. Both may be empty."""
    n = len(scene)
    first, last = round(start * n), round(stop * n)
    block = [scene.block(first, last)] if last > first else []
    if 0 < first < last < n:
        rest = [*range(first), *range(last, n)]
        return [scene.subset(rest, f"{scene.name}.without-{first}-{last - 1}")], block
    return [scene.block(a, b) for a, b in ((0, first), (last, n)) if b > a], block
