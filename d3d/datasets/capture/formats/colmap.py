"""COLMAP: `sparse/0/{cameras,images,points3D}.bin` or `.txt`, or `dense/` with undistorted images; read by pycolmap."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from d3d.datasets.capture.description import Capture, Convention, Frame, Given, Lens
from d3d.datasets.capture.files import IMAGE_FOLDERS, frame_id, inside
from d3d.datasets.capture.lenses import pycolmap
from d3d.errors import DataError

FILES = "cameras.bin and images.bin (or .txt) in sparse/0, sparse, dense/sparse, text or the folder itself; images/"
_FOLDERS = ("dense/sparse", "dense/0/sparse", "sparse", "colmap/sparse", "text", "colmap/text", "colmap", ".")
_HALF = 0.5  # COLMAP's centre of the first pixel


def models_in(root: Path) -> list[Path]:
    """The folders of the models of one reconstruction: `sparse/0`, `sparse/1`, ...; empty without any."""
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
    """The largest of the models, with the depth of its sparse points.

    Raises:
        ConfigError: pycolmap is not installed.
        DataError: a model cannot be read, or has no image with a pose.
    """
    folders = models_in(root)
    models = [_read_model(folder) for folder in folders]
    sizes = [model.num_reg_images() for model in models]
    largest = int(np.argmax(sizes))
    model, folder, notes = models[largest], folders[largest], []
    if len(models) > 1:
        others = sum(sizes) - sizes[largest]
        notes.append(
            f"COLMAP made {len(models)} models that do not share a frame of reference. The largest, {folder.name}, has "
            f"{sizes[largest]} images; the other {others} images are not used. Film with more overlap to join them."
        )
    if not sizes[largest]:
        raise DataError(f"{folder} has no image with a pose: COLMAP registered none. Film with more overlap.")
    images = _image_folder(root, folder)
    frames = [_frame(model, image, images) for image in model.images.values() if image.has_pose]
    return Capture(frames, Convention("world-to-camera"), notes=notes)


def _read_model(folder: Path) -> Any:
    try:
        return pycolmap().Reconstruction(folder)
    except MemoryError:
        raise
    except Exception as error:  # pycolmap raises errors of many kinds
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise DataError(f"{folder}: pycolmap cannot read this model ({reason}). Export it again.") from None


def _image_folder(root: Path, model: Path) -> Path:
    """The folder that names of images refer to: beside the model for `dense/`, else in the capture."""
    for base in dict.fromkeys((model.parent, model.parent.parent, root)):
        for name in IMAGE_FOLDERS:
            if base.is_relative_to(root) and (base / name).is_dir():
                return base / name
    return root


def _frame(model: Any, image: Any, images: Path) -> Frame:
    camera = model.cameras[image.camera_id]
    K = camera.calibration_matrix()
    lens = Lens(
        *(float(v) for v in (K[0, 0], K[1, 1], K[0, 2] - _HALF, K[1, 2] - _HALF)),
        size_hw=(camera.height, camera.width),
        model="" if camera.is_undistorted() else camera.model_name,
        params=() if camera.is_undistorted() else tuple(map(float, camera.params)),
    )
    matrix = np.vstack((image.cam_from_world().matrix(), (0, 0, 0, 1)))
    seen = [model.points3D[p.point3D_id].xyz for p in image.points2D if p.has_point3D()]
    depth = float(np.median(np.array(seen) @ matrix[2, :3] + matrix[2, 3])) if seen else None
    path = inside(images, image.name, "the COLMAP model")
    return Frame(frame_id(image.name), path, lens, matrix, point_depth=depth)
