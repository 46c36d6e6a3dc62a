"""Choose frames of a video, or of a folder of images, for structure from motion, and write them as JPEG files.

A frame is chosen if it is sharp and if the view has changed since the last chosen frame. Memory is constant: frames
are read one by one.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from d3d.datasets import photos
from d3d.datasets.capture.files import frame_id, images_in
from d3d.datasets.images import resize_image
from d3d.datasets.videos import frame_count, read_video
from d3d.errors import DataError, counted
from d3d.io import atomic, read_json, write_json
from d3d.progress import say, track

FEWEST = 10  # frames that structure from motion needs
MIN_MOTION = 0.02  # of the longest side, between chosen frames: less is mostly noise of the pose
_LONGEST = 640  # pixels of the images that sharpness is measured on; motion is measured at half of it
_TILE = 64  # pixels; motion of up to half a tile between two frames is measured
_ANCHOR = 8  # pixels of motion after which the next frames are compared with a later frame
_FLAT = 3.0  # standard deviation of the grey values of a tile without texture
_MIDDLE = (
    0.3  # a frame is taken from the middle 60 % of its interval of motion, so that neighbours are not close
)
_QUALITY = 95  # of JPEG


class View(NamedTuple):
    """Measurements of one frame."""

    sharpness: float  # mean squared gradient of grey values
    motion: float  # path of the image since the first frame, as a fraction of the longest side


def measure(images: Iterable[np.ndarray]) -> Iterator[View]:
    """Measure sharpness and motion of consecutive images, uint8 (H, W, 3), longest side about 640 pixels.

    Motion is the median shift of tiles against an earlier frame, the anchor. The anchor changes only after some pixels
    of motion: noise and the shake of a hand do not add up while the camera stands still. Tiles also see forward motion,
    where the mean shift is zero.
    """
    anchor: np.ndarray | None = None
    path = 0.0
    for image in images:
        grey = image.astype(np.float32).mean(axis=2)
        sharpness = float(np.mean(np.diff(grey, axis=0) ** 2) + np.mean(np.diff(grey, axis=1) ** 2))
        h, w = (n // 2 * 2 for n in grey.shape)
        small = grey[:h, :w].reshape(h // 2, 2, w // 2, 2).mean(axis=(1, 3))
        tiles = _spectra(small)
        if anchor is None or anchor.shape != tiles.shape:
            anchor = tiles
        shift = _median_shift(anchor, tiles)
        yield View(sharpness, (path + shift) / max(small.shape))
        if shift >= _ANCHOR:
            path, anchor = path + shift, tiles


def _spectra(grey: np.ndarray) -> np.ndarray:
    """Spectra of the tiles of an image, complex (n, 64, 33); zero for a tile without texture."""
    padding = [(0, max(0, _TILE - n)) for n in grey.shape]
    grey = np.pad(grey, padding, mode="edge")
    rows, cols = (n // _TILE for n in grey.shape)
    tiles = grey[: rows * _TILE, : cols * _TILE].reshape(rows, _TILE, cols, _TILE)
    tiles = tiles.swapaxes(1, 2).reshape(-1, _TILE, _TILE)
    tiles = tiles - tiles.mean(axis=(1, 2), keepdims=True)
    tiles[tiles.std(axis=(1, 2)) < _FLAT] = 0
    window = np.hanning(_TILE).astype(np.float32)
    return np.fft.rfft2(tiles * window[:, None] * window)


def _median_shift(a: np.ndarray, b: np.ndarray) -> float:
    """Median length of the shift of textured tiles, pixels, by phase correlation; 0 without a textured tile."""
    product = np.conj(a) * b
    textured = np.abs(product).max(axis=(1, 2)) > 0
    if not textured.any():
        return 0.0
    product = product[textured]
    # the phase alone would weight noise in high frequencies like the image in low ones
    y, x = np.fft.fftfreq(_TILE)[:, None], np.fft.rfftfreq(_TILE)
    low = np.exp(-(x**2 + y**2) / (2 * 0.15**2))
    peak = np.fft.irfft2(product / (np.abs(product) + 1e-6) * low, s=(_TILE, _TILE)).reshape(len(product), -1)
    best = np.stack(np.unravel_index(peak.argmax(axis=1), (_TILE, _TILE)))
    return float(np.median(np.hypot(*((best + _TILE // 2) % _TILE - _TILE // 2))))


def choose(views: Sequence[View], most: int) -> list[int]:
    """Choose the sharpest view of each interval of motion; return their numbers in order.

    All intervals are equal and about `MIN_MOTION` long or longer, so that there are at most ``most`` of them. Frames of
    a camera that stands still share one interval.
    """
    motion = np.array([v.motion for v in views])
    count = min(most, max(1, round(motion[-1] / MIN_MOTION)))
    place = motion / (motion[-1] or 1) * count
    number = np.minimum(place.astype(int), count - 1)
    margin = np.abs(place - number - 0.5) > _MIDDLE
    # sharpest first; views near the borders of an interval last
    order = np.lexsort((-np.array([v.sharpness for v in views]), margin, number))
    first = np.unique(number[order], return_index=True)[1]
    return sorted(int(order[k]) for k in first)


class Photo(NamedTuple):
    """A frame to write: its name, and what it is taken from."""

    name: str
    source: str | int  # path in the folder of images, or number in the video


def recorded_images(source: Path) -> list[Path]:
    """Find the images of one recording in a folder, in natural order.

    Raises:
        DataError: no image, or images in several folders.
    """
    paths = images_in(source)
    if not paths:
        raise DataError(f"{source} holds no image. Name a video, or a folder of images.")
    folders = Counter(path.parent for path in paths)
    if len(folders) > 1:
        listed = ", ".join(f"{p} ({counted(n, 'image')})" for p, n in sorted(folders.items())[:6])
        raise DataError(
            f"{source} holds images in {len(folders)} folders: {listed}{', ...' * (len(folders) > 6)}. Two recordings "
            "do not join: give the folder of one. If it is one recording, move its images into one folder."
        )
    return paths


def write_frames(source: Path, folder: Path, most: int) -> dict[str, Any]:
    """Choose frames and write them into ``folder/images``; an interrupted call resumes.

    Returns:
        what `frames.json` holds: ``frames``, a list of [name, source, focal length in pixels or None] in the order of
        the recording; ``read``, the number of frames or images in the source; ``left_out``, path -> error of an
        unreadable image.

    Raises:
        DataError: the source cannot be read, or has fewer than `FEWEST` frames.
    """
    done = folder / "frames.json"
    if done.is_file():
        return read_json(done, "frames", "read", "left_out")
    images = folder / "images"
    images.mkdir(exist_ok=True)
    result = (_write_photos if source.is_dir() else _write_video)(
        source, images, folder / "choice.json", most
    )
    if len(result["frames"]) < FEWEST:
        raise DataError(_too_few(source, result))
    write_json(done, result)
    return result


def _too_few(source: Path, result: dict[str, Any]) -> str:
    taken, read = len(result["frames"]), result["read"]
    if read >= FEWEST and not source.is_dir():
        return (
            f"{source}: the image moves too little: only {taken} of {read} frames differ. At least {FEWEST} are "
            "needed. Film with light, while you walk through the room."
        )
    there = counted(taken, "readable image" if source.is_dir() else "frame")
    reason = next((f" The first error: {e}" for e in result["left_out"].values()), "")
    advice = "Add images." if source.is_dir() else "Film longer."
    return f"{source} has {there}, but at least {FEWEST} are needed.{reason} {advice}"


def _write_video(source: Path, images: Path, choice: Path, most: int) -> dict[str, Any]:
    count = frame_count(source)
    if not choice.is_file():
        small = (
            f.image for f in track(read_video(source, _LONGEST), "Choose frames", total=count, unit="frame")
        )
        views = list(measure(small))
        chosen = choose(views, most) if len(views) >= FEWEST else [*range(len(views))]
        write_json(choice, {"chosen": chosen, "read": len(views)})
    known = read_json(choice, "chosen", "read")
    frames = {number: f"frame_{number:06d}.jpg" for number in known["chosen"]}
    missing = {n for n, name in frames.items() if not (images / name).is_file()}
    if missing:
        # the frames after the last missing one are not decoded
        with track(None, "Write frames", total=max(missing) + 1, unit="frame") as bar:
            for number, frame in enumerate(read_video(source)):
                if number in missing:
                    _write(images / frames[number], frame.image)
                bar.update()
                if number == max(missing):
                    break
    return {"frames": [[f, n, None] for n, f in frames.items()], "read": known["read"], "left_out": {}}


def _write_photos(source: Path, images: Path, choice: Path, most: int) -> dict[str, Any]:
    paths = recorded_images(source)
    left_out: dict[str, str] = {}

    def readable(wanted: Iterable[Path], what: str) -> Iterator[tuple[Path, photos.Photo]]:
        for path in track(wanted, what, unit="image"):
            try:
                yield path, photos.read_photo(path)
            except DataError as error:  # costs only this image
                left_out[path.relative_to(source).as_posix()] = str(error)

    if len(paths) > most and not choice.is_file():
        good, views = [], []

        def small() -> Iterator[np.ndarray]:
            for path, photo in readable(paths, "Choose images"):
                good.append(path.relative_to(source).as_posix())
                yield reduced(photo.image)

        views = list(measure(small()))
        write_json(choice, {"chosen": [good[k] for k in choose(views, most)] if views else []})
    if choice.is_file():
        wanted = [source / name for name in read_json(choice, "chosen")["chosen"]]
    else:
        wanted = paths
    numbers, frames = {path: k for k, path in enumerate(paths)}, []
    for path, photo in readable(wanted, "Write images"):
        file = path.relative_to(source).as_posix()
        # the number keeps the order and makes names unique; COLMAP's list of pairs needs names without blanks
        name = f"{numbers[path]:05d}_{'_'.join(frame_id(file).split())}.jpg"
        if not (images / name).is_file():
            _write(images / name, photo.image)
        frames.append([name, file, photo.focal_px])
    for file, error in left_out.items():
        say(f"{file} is left out: {error}")
    return {"frames": frames, "read": len(paths), "left_out": left_out}


def reduced(image: np.ndarray) -> np.ndarray:
    """An image (H, W, 3) with a longest side of at most 640 pixels."""
    scale = min(1.0, _LONGEST / max(image.shape[:2]))
    return resize_image(image, tuple(max(1, round(n * scale)) for n in image.shape[:2]))


def _write(path: Path, image: np.ndarray) -> None:
    with atomic(path) as temporary:
        Image.fromarray(image).save(temporary, quality=_QUALITY)
