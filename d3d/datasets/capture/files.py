"""Files that several formats of captures share: images, camera matrices, lists of numbers."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from d3d.datasets.capture.description import Lens
from d3d.datasets.photos import SUFFIXES
from d3d.errors import DataError, counted

IMAGE_FOLDERS = ("images", "image", "rgb", "color", "colour", "frames", "results")
DEPTH_FOLDERS = ("depth", "depths", "depth_images", "results")
_K_FILES = (
    *("K.txt", "intrinsics.txt", "intrinsic.txt", "camera_intrinsic.json", "intrinsics.json"),
    *(
        "intrinsic/intrinsic_color.txt",
        "intrinsics/intrinsic_color.txt",
        "intrinsic/K.txt",
        "intrinsics/K.txt",
    ),
    *("cam_params.json", "../cam_params.json"),
)
_HEIC = (".heic", ".HEIC", ".heif", ".HEIF")
_MAX_NUMBERS = 2**26  # bytes of a file of numbers
_NO_K = (
    "Give them with --intrinsics: a file of the 3x3 camera matrix, or fx,fy,cx,cy in pixels of the images."
)


def natural(name: str) -> tuple:
    """Return a sort key for natural order: frame_9 before frame_10."""
    return tuple((int(p), "") if p.isdecimal() else (-1, p) for p in re.split(r"(\d+)", name))


def images_in(folder: Path) -> list[Path]:
    """Find the image files in a folder and its subfolders, in natural order.

    Raises:
        DataError: the folder holds HEIC images that are not converted (see `refuse_heic`).
    """
    files = [p for p in folder.rglob("*") if not _is_hidden(p.relative_to(folder))]
    found = [p for p in files if p.suffix.lower() in SUFFIXES]
    converted = {p.with_suffix("") for p in found}
    refuse_heic(p for p in files if p.with_suffix("") not in converted)
    return sorted(found, key=lambda p: natural(p.relative_to(folder).as_posix()))


def _is_hidden(path: Path) -> bool:
    """Tell whether a program's own files are there: thumbnails, and macOS' attributes in archives."""
    return any(part.startswith(".") or part == "__MACOSX" for part in path.parts)


def refuse_heic(images: Iterable[Path]) -> None:
    """Raise DataError if an image is a HEIC file, or if an image is missing and a HEIC file has its name."""
    heic = set()
    for path in images:
        others = [] if path.is_file() else [path.with_suffix(suffix) for suffix in _HEIC]
        heic |= {p for p in (path, *others) if p.suffix in _HEIC and p.is_file()}
    if heic:
        raise DataError(
            f"{counted(len(heic), 'image is a HEIC file', 'images are HEIC files')}, for example {min(heic)}. d3d does "
            "not read HEIC. Convert to JPEG with the same names, for example by `heif-convert IMG_1.HEIC IMG_1.jpg`. "
            "New photos: set the phone to JPEG (iPhone: Settings > Camera > Formats > Most Compatible)."
        )


def folder_of(root: Path, names: Iterable[str]) -> Path | None:
    """Find the first folder with one of these names, ignoring case."""
    there = {p.name.lower(): p for p in sorted(root.iterdir(), reverse=True) if p.is_dir()}
    return next((there[name] for name in names if name in there), None)


def number_in(stem: str) -> int | None:
    """Return the last number in a file's name, or None."""
    numbers = re.findall(r"\d+", stem)
    return int(numbers[-1]) if numbers and len(numbers[-1]) < 19 else None


def keyed(paths: Iterable[Path]) -> dict[str | int | None, Path]:
    """Index files by the stem of their name and by the last number in it."""
    paths = sorted(paths)
    return {number_in(p.stem): p for p in paths} | {p.stem: p for p in paths}


def unmatched(folder: Path | None, depths: Iterable[Path | None]) -> list[str]:
    """Return a line for the user if a folder has depth maps, but none matches the name of an image."""
    if folder is None or any(depths) or not any(p.is_file() for p in folder.iterdir()):
        return []
    return [
        f"{folder}: no depth map has the name or the number of an image. The capture is read without depth."
    ]


def frame_id(name: str) -> str:
    """Make a frame's id, valid as a file name, from the path of its image below the folder of images."""
    parts = Path(name.replace("\\", "/")).with_suffix("").parts
    return "__".join(p for p in parts if p.strip("./")) or "frame"


def without_common_folder(names: Iterable[str]) -> list[str]:
    """Remove the common parent folder from the paths of images."""
    paths = [Path(name.replace("\\", "/")) for name in names]
    common = os.path.commonpath([p.parent for p in paths])
    return [p.relative_to(common).as_posix() for p in paths]


def inside(root: Path, name: str, where: str) -> Path:
    """Resolve a path in a file of a capture. Raises DataError if it lies outside the capture's folder."""
    path = Path(name)
    if path.is_absolute() or ".." in path.parts or "\0" in name:
        raise DataError(
            f"{where} names {name!r}, which lies outside of the folder {root}. Correct the path in the file."
        )
    return root / path


def read_text(path: Path) -> str:
    """Read a text file of a capture. Raises DataError if it is missing, huge, or not text."""
    try:
        if (size := path.stat().st_size) > _MAX_NUMBERS:
            raise DataError(f"{path} has {size:,} bytes, more than a list of poses needs.")
        return path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise DataError(f"{path} is missing.") from None
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read as text ({error}).") from None


def read_json_object(path: Path) -> dict:
    """Read a JSON object from a file. Raises DataError if the file holds anything else."""
    text = read_text(path)
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path} is not JSON ({error}). Export it again.") from None
    if not isinstance(value, dict):
        raise DataError(f"{path} holds a {type(value).__name__}, not a JSON object. Export it again.")
    return value


def json_number(of: dict[str, Any], name: str, where: str) -> float | None:
    """Return a finite number of a JSON object, or None if it is missing. Raises DataError for anything else."""
    value = of.get(name)
    if value is None:
        return None
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not number or not abs(value) < 1e300:  # a whole number of JSON may be larger than any float
        raise DataError(f"{where}: {name} is {value!r}, not a number.")
    return float(value)


def json_scale(of: dict[str, Any], name: str, where: str) -> float | None:
    """Return a scale, a positive number, or None if it is missing. Raises DataError for anything else."""
    value = json_number(of, name, where)
    if value is not None and not 1e-9 <= value <= 1e9:
        raise DataError(f"{where}: {name} is {value:g}; a scale must be a positive number, from 1e-9 to 1e9.")
    return value


def rows(path: Path) -> list[list[str]]:
    """Split the lines of a text file into words at blanks and commas, without comments and blank lines."""
    lines = (line.partition("#")[0].replace(",", " ").split() for line in read_text(path).splitlines())
    return [line for line in lines if line]


def to_floats(words: Iterable[str], where: str) -> np.ndarray:
    """Convert words to float64. Raises DataError if a word is not a number."""
    try:
        return np.array([float(w) for w in words], dtype=np.float64)
    except ValueError as error:
        raise DataError(f"{where}: not a number ({error}).") from None


def square(values: np.ndarray, where: str) -> np.ndarray:
    """Make a pose (4, 4) from 16 numbers, or from the 12 of its first three rows. Raises DataError otherwise."""
    if values.size == 12:
        values = np.append(values, (0, 0, 0, 1))
    if values.size != 16:
        raise DataError(f"{where}: {counted(values.size, 'number')}, but a pose has 16 (4x4) or 12 (3x4).")
    return values.reshape(4, 4)


def find_lens(root: Path, given: str | None) -> Lens:
    """Find the intrinsics of all images: given by the user, or in a file of the capture. Raises DataError if none."""
    if given is not None:
        return parse_lens(given, root)
    for name in _K_FILES:
        if (path := root / name).is_file():
            return read_lens(path)
    raise DataError(f"{root} has no intrinsics ({', '.join(_K_FILES[:5])}, ...). {_NO_K}")


def parse_lens(given: str, root: Path) -> Lens:
    """Read the intrinsics that the user gives: a file, or fx,fy,cx,cy."""
    for path in (Path(given).expanduser(), root / given):
        if path.is_file():
            return read_lens(path)
    values = given.split(",")
    if len(values) != 4:
        raise DataError(f"--intrinsics {given!r} is neither a file nor four numbers fx,fy,cx,cy. {_NO_K}")
    fx, fy, cx, cy = to_floats(values, f"--intrinsics {given!r}")
    return Lens.of(np.array([[fx, 0, cx], [0, fy, cy], [0, 0, 1]]), None, f"--intrinsics {given!r}")


def read_lens(path: Path) -> Lens:
    """Read intrinsics from a file: a matrix (3x3 or 4x4), four numbers fx fy cx cy, or JSON of Open3D or Replica."""
    if path.suffix == ".json":
        return _json_lens(path)
    values = to_floats((w for row in rows(path) for w in row), str(path))
    if values.size == 4:
        fx, fy, cx, cy = values
        values = np.array([fx, 0, cx, 0, fy, cy, 0, 0, 1])
    if values.size == 16:
        values = values.reshape(4, 4)[:3, :3].ravel()
    if values.size != 9:
        raise DataError(
            f"{path}: {counted(values.size, 'number')}, but a camera matrix has 9 (3x3). Or write fx fy cx cy."
        )
    return Lens.of(values.reshape(3, 3), None, str(path))


def _json_lens(path: Path) -> Lens:
    value = read_json_object(path)
    value = value.get("camera", value)
    try:
        if "intrinsic_matrix" in value:  # Open3D's: column by column
            K = np.array(value["intrinsic_matrix"], dtype=np.float64).reshape(3, 3).T
            size_hw = (int(value["height"]), int(value["width"]))
        else:
            fx, fy, cx, cy = (float(value[k]) for k in ("fx", "fy", "cx", "cy"))
            K = np.array([[fx, 0, cx], [0, fy, cy], [0, 0, 1]])
            size_hw = (int(value["h"]), int(value["w"])) if "w" in value else None
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise DataError(f"{path}: no intrinsic_matrix and no fx, fy, cx, cy ({error!r}).") from None
    return Lens.of(K, size_hw, str(path))
