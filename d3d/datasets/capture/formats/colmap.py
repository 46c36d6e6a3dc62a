"""Read COLMAP models with pycolmap: `sparse/0/{cameras,images,points3D}.bin` or `.txt`, or `dense/`."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np

from d3d.datasets.capture.description import Capture, Convention, Frame, Given, Lens
from d3d.datasets.capture.files import IMAGE_FOLDERS, frame_id, inside
from d3d.datasets.capture.formats import colmap_process
from d3d.datasets.capture.lenses import HALF, pycolmap
from d3d.errors import ConfigError, DataError, counted

FILES = "cameras.bin and images.bin (or .txt) in sparse/0, sparse, dense/sparse, text or the folder itself; images/"
SIGNS = tuple(f"**/{name}.{ending}" for name in ("cameras", "images") for ending in ("bin", "txt"))
_FOLDERS = ("dense/sparse", "dense/0/sparse", "sparse", "colmap/sparse", "text", "colmap/text", "colmap", ".")
_LONGEST_S, _LONGEST_S_PER_MB = 20, 2  # time limit, because some damaged files keep pycolmap busy for hours


def models_in(root: Path) -> list[Path]:
    """Find the models of one reconstruction: `sparse/0`, `sparse/1`, ...; an empty list if there is none."""
    for folder in (root / name for name in _FOLDERS):
        if _is_model(folder):
            return [folder]
        if folder.is_dir() and folder.name == "sparse":
            numbered = [p for p in sorted(folder.iterdir()) if p.name.isdecimal() and _is_model(p)]
            if numbered:
                return numbered
    return []


def _is_model(folder: Path) -> bool:
    return any(
        all((folder / f"{name}.{ending}").is_file() for name in ("cameras", "images"))
        for ending in ("bin", "txt")
    )


def found(root: Path) -> bool:
    return bool(models_in(root))


def read(root: Path, given: Given) -> Capture:
    """Read the largest model, with the depth of its sparse points.

    Raises:
        ConfigError: pycolmap is not installed, or the user gives intrinsics.
        DataError: a model cannot be read, or has no image with a pose.
    """
    if given.intrinsics is not None:
        raise ConfigError(
            f"--intrinsics {given.intrinsics}: the COLMAP model in {root} has its own intrinsics, which belong to its "
            "poses. Leave out --intrinsics. If they are wrong, reconstruct the model again with the right camera."
        )
    folders = models_in(root)
    pycolmap()  # raises an error if it is missing
    models = [_read_model(folder) for folder in folders]
    sizes = [len(model["images"]) for model in models]
    largest = int(np.argmax(sizes))
    model, folder, notes = models[largest], folders[largest], []
    if len(models) > 1:
        others = sum(sizes) - sizes[largest]
        notes.append(
            f"COLMAP made {len(models)} models that do not share a frame of reference. The largest, {folder.name}, "
            f"has {counted(sizes[largest], 'image')}. {counted(others, 'image')} of other models must be left out. "
            "Film with more overlap to join them."
        )
    if not sizes[largest]:
        raise DataError(
            f"{folder} has no image with a pose: COLMAP registered no image. Film with more overlap."
        )
    lenses = {number: _lens(camera, str(folder)) for number, camera in model["cameras"].items()}
    images, frames = _image_folder(root, folder), []
    for image in model["images"]:
        path, matrix = inside(images, image["name"], str(folder)), np.array(image["pose"])
        name, lens = frame_id(image["name"]), lenses[image["camera"]]
        frames.append(Frame(name, path, lens, matrix, point_depth=image["point_depth"]))
    return Capture(frames, Convention("world-to-camera"), notes=notes)


def _read_model(folder: Path) -> dict[str, Any]:
    size_mb = sum(p.stat().st_size for p in folder.iterdir() if p.is_file()) / 1e6
    longest_s = _LONGEST_S + _LONGEST_S_PER_MB * size_mb
    command = [sys.executable, colmap_process.__file__, str(folder)]
    try:
        done = subprocess.run(command, capture_output=True, timeout=longest_s, stdin=subprocess.DEVNULL)
        found = json.loads(done.stdout)
        reason = found.get("error")
    except subprocess.TimeoutExpired:
        reason = f"pycolmap did not finish within {longest_s:.0f} s"
    except ValueError:  # the process ended without JSON
        reason = "pycolmap crashed"
    if reason:
        raise DataError(f"{folder}: this COLMAP model is damaged or incomplete ({reason}). Export it again.")
    return found


def _image_folder(root: Path, model: Path) -> Path:
    """Find the folder of the images: beside the model for `dense/`, else in the capture."""
    for base in dict.fromkeys((model.parent, model.parent.parent, root)):
        for name in IMAGE_FOLDERS:
            if base.is_relative_to(root) and (base / name).is_dir():
                return base / name
    return root


def _lens(camera: dict[str, Any], where: str) -> Lens:
    K = np.array(camera["K"])
    K[:2, 2] -= HALF
    pinhole, params = Lens.of(K, tuple(camera["size_hw"]), where), tuple(camera["params"])
    model = camera["model"] if params else ""
    return Lens(pinhole.fx, pinhole.fy, pinhole.cx, pinhole.cy, pinhole.size_hw, model, params)
