"""Predict the depth of image and video files. Finished files are skipped, broken files are listed at the end."""

from __future__ import annotations

import math
import shutil
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from functools import partial
from itertools import chain
from pathlib import Path
from threading import Lock
from typing import Any, NamedTuple

import numpy as np

from d3d import __version__, io
from d3d.apply.camera import Camera, camera_of, check_camera
from d3d.apply.inputs import ABOUT, Input, find_inputs
from d3d.apply.results import FOR_IMAGES, FOR_VIDEOS, OUTPUTS, check_outputs, write_outputs
from d3d.datasets.images import HW
from d3d.datasets.photos import read_photo
from d3d.datasets.videos import Frame, frame_count, read_video, video_writer
from d3d.errors import ConfigError, DataError, TasksError, counted
from d3d.figures import colours
from d3d.figures.beside import beside
from d3d.io import atomic, read_json, write_json
from d3d.models import load_model
from d3d.models.base import DepthNetwork, check_size
from d3d.models.hub import digest
from d3d.models.sizes import network_size
from d3d.parallel.distributed import select_device
from d3d.prediction import network_precision, predict, read_depth, write_depth
from d3d.progress import say, track

AXES = "cloud, mesh: metres; x right, y up, z backward; the camera at the origin"
WRITERS = 2  # threads: writing the results of 12 megapixels takes longer than the prediction
SAMPLED = 40  # frames of a video that determine its range of colours


def predict_files(
    paths: Sequence[str | Path],
    model: str,
    out: str | Path,
    *,
    outputs: str | None = None,
    size: str | None = None,
    fov_deg: float | None = None,
    focal_px: float | None = None,
    device: str = "auto",
    precision: str = "float32",
    overwrite: bool = False,
) -> None:
    """Predict the depth of images and videos of any size. Each file gets its own folder of results.

    A folder of results is written completely or not at all. Its `predict.json` records the source file, the network and
    the settings. Finished folders are skipped. An interrupted video resumes after its last frame.

    Args:
        paths: files and folders, see `find_inputs`.
        model: name or path for `d3d.load_model`.
        out: output folder.
        outputs: names of `OUTPUTS`, separated by commas. None: `FOR_IMAGES` and `FOR_VIDEOS`.
        size: "HEIGHTxWIDTH" of the network's input, instead of `network_size`.
        fov_deg: field of view along the longer side of each image, degrees.
        focal_px: focal length of each image, pixels.
        device: "auto", "cpu" or "cuda".
        precision: "float32" or "bf16".
        overwrite: replace results of other files, networks or settings.

    Raises:
        ConfigError: a parameter is wrong; a path is missing; the size of the network's training is unknown and ``size``
            is missing; or ``out`` holds results of other files, networks or settings.
        TasksError: some files could not be read. The results of the other files are finished.
    """
    check_camera(fov_deg, focal_px)
    chosen, size_hw, out = check_outputs(outputs), _size(size), Path(out)
    if out.exists() and not out.is_dir():
        raise ConfigError(f"--out {out} is a file: give a folder.")
    inputs, others = find_inputs(paths, out)
    network = load_model(model).to(select_device(device))
    if network.train_size is None and size_hw is None:
        raise ConfigError(
            f"the size of the training of {model} is unknown (older versions of d3d did not store it): give it with "
            "--size HEIGHTxWIDTH, for example --size 96x128 for profile demo."
        )
    work = _Work(network, str(model), out, chosen, size_hw, fov_deg, focal_px, precision, overwrite)
    waiting = [item for item in inputs if not work.is_finished(item)]
    about = [counted(len(inputs), "file")]
    about += [f"{len(inputs) - len(waiting)} finished before"] if len(waiting) < len(inputs) else []
    about += [f"{others} neither image nor video"] if others else []
    seen = "x".join(map(str, size_hw or network.train_size))
    say(f"predict: {', '.join(about)}; {model} ({network.arch}, at or near {seen}) -> {out}")
    failures = work.run(waiting)
    if failures:
        raise TasksError("predict", len(inputs), failures)


def _size(text: str | None) -> HW | None:
    if text is None:
        return None
    sides = text.lower().split("x")
    if len(sides) != 2 or not all(side.isdecimal() for side in sides):
        raise ConfigError(f"--size {text!r} must be HEIGHTxWIDTH in pixels, for example 96x128.")
    size_hw = int(sides[0]), int(sides[1])
    try:
        check_size(*size_hw)
    except DataError as error:
        raise ConfigError(f"--size {text}: {error}") from None
    return size_hw


class _Seen(NamedTuple):
    """Size of an image, size of the network's input, and camera."""

    image_hw: HW
    network_hw: HW
    camera: Camera


STARTED = "started.json"  # in the folder of an unfinished video


@dataclass
class _Work:
    network: DepthNetwork
    model: str
    out: Path
    outputs: tuple[str, ...] | None
    size_hw: HW | None
    fov_deg: float | None
    focal_px: float | None
    precision: str
    overwrite: bool

    def __post_init__(self) -> None:
        self.digest, self.lock, self.told = digest(self.network), Lock(), False

    def outputs_of(self, item: Input) -> tuple[str, ...]:
        return self.outputs or (FOR_VIDEOS if item.is_video else FOR_IMAGES)

    def made_with(self, item: Input) -> dict[str, Any]:
        """Return everything that identifies the results of a file."""
        return {
            "source": item.path.name,
            "source_sha256": io.sha256(item.path),
            "network_sha256": self.digest,
            "outputs": sorted(self.outputs_of(item)),
            "size_hw": list(self.size_hw) if self.size_hw else None,
            "fov_deg": self.fov_deg,
            "focal_px": self.focal_px,
            "precision": self.precision,
        }

    def is_finished(self, item: Input) -> bool:
        """Return whether a file is finished; raises ConfigError if its folder holds other results."""
        folder = self.out / item.name
        if not folder.exists():
            return False
        if not (folder / ABOUT).is_file():
            raise ConfigError(f"{folder} exists, but holds no {ABOUT}: choose another --out.")
        about = read_json(folder / ABOUT, "made_with", "bytes")
        found, wanted = about["made_with"], self.made_with(item)
        if found == wanted:
            return about["bytes"] == _bytes_in(folder)  # if a result was deleted or cut, all are made again
        if not self.overwrite:
            differences = [f"{k} {found.get(k)} is now {v}" for k, v in wanted.items() if found.get(k) != v]
            raise ConfigError(
                f"{folder} holds other results: {'; '.join(differences)}. Choose another --out, or --overwrite."
            )
        return False

    def run(self, items: Sequence[Input]) -> dict[str, str]:
        """Make the results of files; return path -> error message of the failed files."""
        failures: dict[str, str] = {}
        videos = [item for item in items if item.is_video]
        with track(what="predict", total=len(items), unit="file") as bar, ThreadPoolExecutor(WRITERS) as pool:
            waiting = {pool.submit(self.image, item): item for item in items if not item.is_video}
            try:
                for result, item in chain(
                    ((future.result, waiting[future]) for future in as_completed(waiting)),
                    ((partial(self.video, item, pool), item) for item in videos),
                ):
                    try:
                        result()
                    except (DataError, MemoryError) as error:
                        failures[str(item.path)] = (
                            str(error).removeprefix(f"{item.path}: ") or "out of memory"
                        )
                    bar.update()
            finally:
                pool.shutdown(cancel_futures=True)  # a full disk or Ctrl-C ends all files
        return failures

    def image(self, item: Input) -> None:
        photo = read_photo(item.path)
        seen = self.seen(photo.image.shape[:2], photo.focal_px)
        depth = self.depth(photo.image, seen)
        with atomic(self.out / item.name) as temporary:
            temporary.mkdir()
            outputs = self.outputs_of(item)
            write_outputs(outputs, lambda name: temporary / OUTPUTS[name], photo.image, depth, seen.camera)
            self.finish(item, temporary, seen, self.made_with(item))

    def video(self, item: Input, pool: ThreadPoolExecutor) -> None:
        """Write the frames one by one into a temporary folder, and rename it after the last frame."""
        outputs, folder = self.outputs_of(item), self.out / item.name
        unfinished, made_with = folder.with_name(f".{folder.name}.unfinished"), self.made_with(item)
        started = unfinished / STARTED
        if unfinished.exists() and (not started.is_file() or read_json(started) != made_with):
            shutil.rmtree(unfinished)
        write_json(started, made_with)
        for name in {"depth", *outputs} - {"picture"}:
            (unfinished / name).mkdir(exist_ok=True)
        count = frame_count(item.path)
        frames = track(read_video(item.path), f"  {item.path.name}", total=count, unit="frame")
        pending: deque[Future[None]] = deque()
        for i, frame in enumerate(frames):
            seen = self.seen(frame.image.shape[:2], None)
            if _depth_file(unfinished, i).is_file():
                continue
            depth = self.depth(frame.image, seen)
            pending.append(pool.submit(_write_frame, unfinished, i, outputs, frame.image, depth, seen.camera))
            if len(pending) > WRITERS:
                pending.popleft().result()
        for future in pending:
            future.result()
        if "picture" in outputs:
            _write_video(item.path, unfinished)
        if "depth" not in outputs:
            shutil.rmtree(unfinished / "depth")
        self.finish(item, unfinished, seen, made_with)
        started.unlink()
        unfinished.replace(folder)

    def seen(self, image_hw: HW, noted_px: float | None) -> _Seen:
        """Choose the camera of an image and the size of the network's input."""
        camera = camera_of(self.network, image_hw, self.fov_deg, self.focal_px, noted_px)
        known = camera.source != "assumed" and self.network.train_focal_px is not None
        size_hw = self.size_hw or network_size(self.network, image_hw, camera.focal_px if known else None)
        if camera.source == "assumed" and not self.told:
            self.told = True
            say(
                "predict: a camera is unknown. Its focal length is assumed to be that of the training: a field of view "
                f"of {camera.fov_deg(image_hw):.0f} degrees along the longer side of {image_hw[1]}x{image_hw[0]}. If "
                "this is wrong, clouds and meshes are distorted: give --fov or --focal-px."
            )
        return _Seen(image_hw, size_hw, camera)

    def depth(self, image: np.ndarray, seen: _Seen) -> np.ndarray:
        with self.lock, network_precision(self.network, self.precision):
            return predict(self.network, image, size_hw=seen.network_hw)

    def finish(self, item: Input, folder: Path, seen: _Seen, made_with: dict[str, Any]) -> None:
        """Write `predict.json`, the last file of a folder, and remove the replaced results."""
        about = {
            "made_with": made_with,
            "bytes": _bytes_in(folder),
            "model": self.model,
            "image_hw": list(seen.image_hw),
            "network_hw": list(seen.network_hw),
            "camera": seen.camera.source,
            "focal_px": round(seen.camera.focal_px, 3),
            "fov_deg": round(seen.camera.fov_deg(seen.image_hw), 3),
            "axes": AXES,
            "d3d": __version__,
        }
        write_json(folder / ABOUT, about)
        old = self.out / item.name
        if (old / ABOUT).is_file():
            shutil.rmtree(old)


def _bytes_in(folder: Path) -> dict[str, int]:
    """Return the size of each result in a folder; a folder of frames counts as one result."""
    results = [p for p in folder.iterdir() if p.name not in (ABOUT, STARTED)]
    return {
        p.name: sum(f.stat().st_size for f in (p.rglob("*") if p.is_dir() else [p]) if f.is_file())
        for p in results
    }


def _depth_file(folder: Path, i: int) -> Path:
    return folder / "depth" / f"{i:06}.png"


def _write_frame(
    folder: Path, i: int, outputs: Sequence[str], image: np.ndarray, depth: np.ndarray, camera: Camera
) -> None:
    kinds = {"depth", *outputs} - {"picture"}

    def path_of(name: str) -> Path:
        return folder / name / f"{i:06}{Path(OUTPUTS[name]).suffix}"

    with atomic(_depth_file(folder, i)) as temporary:  # written last: it marks a finished frame
        write_outputs(kinds - {"depth"}, path_of, image, depth, camera)
        write_depth(temporary, depth)


def _write_video(path: Path, folder: Path) -> None:
    """Write a video of the frames beside their depth, with one range of colours for all frames."""
    files = sorted((folder / "depth").iterdir())
    sampled = files[:: math.ceil(len(files) / SAMPLED)]
    top = colours.upper_limit(read_depth(file)[::8, ::8] for file in sampled)
    with atomic(folder / "picture.mp4") as temporary, video_writer(temporary) as add:
        frames = track(read_video(path), f"  {path.name}, picture", total=len(files), unit="frame")
        for i, frame in enumerate(frames):
            add(Frame(beside(frame.image, read_depth(_depth_file(folder, i)), top), frame.time_s))
