"""Files of depth that any method predicted: find them by the names of frames, read and check them.

A file is a 16-bit PNG in millimetres, or a ``.npy`` or ``.npz`` file of one array. It is named ``<scene>/<frame>``.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np

from d3d import io
from d3d.datasets.images import HW, MAX_PIXELS
from d3d.datasets.scene import Scene
from d3d.errors import DataError, counted
from d3d.prediction import read_depth
from d3d.progress import track

SUFFIXES = (".png", ".npy", ".npz")
# Networks squeeze images a little: those of profile smoke see 4:3 as 3:2 (1.125). 4:3 and 16:9 differ by 1.33
MAX_STRETCH = 1.15


@dataclass(frozen=True)
class DepthFiles:
    """The predicted depth of some frames.

    Attributes:
        files: (scene, frame id) -> file.
        disparity: whether the files hold disparity instead of depth in metres.
    """

    files: Mapping[tuple[str, str], Path]
    disparity: bool = False

    def read_of(self, scene: Scene, i: int) -> np.ndarray:
        """Read the prediction of frame i: depth (h, w) in metres, or disparity.

        Raises:
            DataError: the file is not a prediction.
        """
        return read_array(self.files[scene.name, scene.frame_ids[i]], self.disparity)

    def digest(self) -> str:
        """Return the sha256 of all files and their frames."""
        total = hashlib.sha256()
        for (scene, frame), path in sorted(self.files.items()):
            total.update(f"{scene}\0{frame}\0{path.suffix.lower()}\0{io.sha256(path)}\n".encode())
        return total.hexdigest()

    def check(self, scenes: Sequence[Scene]) -> None:
        """Read every file, and compare its shape with the images.

        Raises:
            DataError: files are not predictions of their frames. The message names the first and counts the others.
        """
        scene_of, wrong = {s.name: s for s in scenes}, []
        for (scene, _), path in track(self.files.items(), "check predictions", unit="frame"):
            try:
                _check_shape(path, read_array(path, self.disparity).shape, scene_of[scene].depth_hw)
            except DataError as error:
                wrong.append(str(error))
        if wrong:
            more = f" {counted(len(wrong) - 1, 'more file is', 'more files are')} wrong." if wrong[1:] else ""
            raise DataError(f"{wrong[0]}{more} Nothing was scored.")


def find_files(
    folder: Path, scenes: Sequence[Scene], frames: Sequence[Sequence[int]], disparity: bool = False
) -> DepthFiles:
    """Find the predictions of frames in a folder. The scene's folder may be left out if there is one scene.

    Args:
        frames: frame indices of each scene.
        disparity: whether the files hold disparity.

    Raises:
        DataError: the folder does not exist; predictions are missing, or a frame has several. The message names the
            first frame and counts the others.
    """
    folder = Path(folder).expanduser()
    if not folder.is_dir():
        raise DataError(f"there is no folder {folder} with predictions.")
    found: dict[tuple[str, str], Path] = {}
    missing: list[str] = []
    for scene, wanted in zip(scenes, frames, strict=True):
        for frame in (scene.frame_ids[i] for i in wanted):
            names = list(_names(scene.name, frame, alone=len(scenes) == 1))
            there = [path for name in names if (path := folder / name).is_file()]
            if len(there) > 1:
                both = " and ".join(map(str, there[:2]))
                raise DataError(f"{scene.name}, frame {frame} has two predictions, {both}: remove one.")
            if there:
                found[scene.name, frame] = there[0]
            else:
                missing.append(f"{scene.name}, frame {frame} has no prediction: none of {', '.join(names)}")
    if missing:
        of, total = len(missing) - 1, len(missing) + len(found)
        rest = f"more of the {total:,} frames"
        more = f"; {counted(of, f'{rest} has none', f'{rest} have none')}" if of else ""
        raise DataError(f"{missing[0]} is in {folder}{more}. {_there_is(folder)} Nothing was scored.")
    return DepthFiles(found, disparity)


def _there_is(folder: Path) -> str:
    """Describe what the folder, and its first folder, hold."""
    text = []
    for place in (folder, *islice(sorted(p for p in folder.iterdir() if p.is_dir()), 1)):
        names = sorted(f"{p.name}/" if p.is_dir() else p.name for p in place.iterdir())
        more = f" and {len(names) - 4} more" if names[4:] else ""
        text.append(f"{place} holds {', '.join(names[:4]) or 'no file'}{more}.")
    return " ".join(text)


def _names(scene: str, frame: str, alone: bool) -> Iterator[str]:
    """Yield the possible names of a frame's file, relative to the folder of predictions."""
    # d3d's own depth has "__" in place of a slash (`DepthStore`)
    folders = dict.fromkeys((f"{scene}/", f"{scene.replace('/', '__')}/", *([""] if alone else [])))
    for folder in folders:
        yield from (f"{folder}{frame}{suffix}" for suffix in SUFFIXES)


def read_array(path: Path, disparity: bool = False) -> np.ndarray:
    """Read a prediction (h, w) from a file.

    Args:
        disparity: the file holds disparity: finite numbers of any size. By default depth in metres.

    Returns:
        float32 for a PNG, else the type of the file: a float or an integer.

    Raises:
        DataError: the file cannot be read; it does not hold one array (h, w) of numbers; or no number is finite (for
            depth: finite and positive).
    """
    if path.suffix.lower() == ".png":
        if disparity:
            raise DataError(f"{path}: a PNG holds depth in millimetres. Store disparity as .npy or .npz.")
        try:
            array = read_depth(path)
        except DataError:
            raise DataError(
                f"{path} is not readable as a 16-bit grey PNG of depth in millimetres. Write it again, or use .npy."
            ) from None
    else:
        array = _numbers(path)
    array = array[0] if array.ndim == 3 and array.shape[0] == 1 else array
    if array.ndim != 2 or not array.size:
        raise DataError(
            f"{path} has an array of shape {array.shape}: a prediction has shape (height, width)."
        )
    if array.dtype.kind not in "fiu":
        raise DataError(f"{path} has numbers of type {array.dtype}: store depth in metres as float32.")
    usable = np.isfinite(array) if disparity else np.isfinite(array) & (array > 0)
    if not usable.any():
        raise DataError(f"{path} predicts nothing: no value is finite{'' if disparity else ' and positive'}.")
    return array


def _numbers(path: Path) -> np.ndarray:
    """Load the one array of a ``.npy`` or ``.npz`` file."""
    arrays = io.load_arrays(path, MAX_PIXELS)
    if len(arrays) == 1:
        return next(iter(arrays.values()))
    listed = f" ({', '.join([*arrays][:4])})" if arrays else ""
    raise DataError(f"{path} has {len(arrays)} arrays{listed}: store one array, the depth.")


def _check_shape(path: Path, shape: HW, image_hw: HW) -> None:
    """Compare the aspect ratio of a prediction with that of the images."""
    stretch = (shape[1] / shape[0]) / (image_hw[1] / image_hw[0])
    if max(stretch, 1 / stretch) > MAX_STRETCH:
        raise DataError(
            f"{path} has {shape[1]}x{shape[0]} pixels (width x height), and the image has the aspect ratio of "
            f"{image_hw[1]}x{image_hw[0]}. Resize the prediction to the shape of the whole image."
        )
