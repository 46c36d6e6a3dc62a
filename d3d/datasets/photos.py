"""Read photographs of any common format and orientation, and their focal length from EXIF data."""

from __future__ import annotations

import math
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageOps

from d3d.datasets.images import TooLargeError, decode_image
from d3d.errors import DataError

FORMATS = {  # PIL's name -> suffixes of files
    "JPEG": (".jpg", ".jpeg", ".jpe", ".mpo"),
    "PNG": (".png",),
    "WEBP": (".webp",),
    "TIFF": (".tif", ".tiff"),
    "BMP": (".bmp",),
    "PPM": (".ppm", ".pgm"),
    "GIF": (".gif",),
}
SUFFIXES = frozenset(suffix for suffixes in FORMATS.values() for suffix in suffixes)
MAX_PIXELS = 2**26  # cameras of phones have 50 million
_DIAGONAL_35MM = math.hypot(36, 24)
_MM_OF_UNIT = {2: 25.4, 3: 10.0, 4: 1.0}  # EXIF's FocalPlaneResolutionUnit


class Photo(NamedTuple):
    """An upright photograph and its focal length in pixels (None if unknown)."""

    image: np.ndarray  # uint8 (H, W, 3) RGB
    focal_px: float | None


def read_photo(path: str | Path) -> Photo:
    """Read an image file as RGB (see `rgb`), turned upright by its EXIF orientation.

    Raises:
        DataError: the file is missing, truncated, in none of the `FORMATS`, or has more than `MAX_PIXELS` pixels.
    """
    try:
        image = decode_image(Path(path), tuple(FORMATS), max_pixels=MAX_PIXELS)
        return Photo(rgb(image), focal_px(image))
    except FileNotFoundError:
        raise DataError(f"{path} is missing.") from None
    except TooLargeError as error:
        raise DataError(f"{path} is {error}.") from None
    except ValueError as error:
        raise DataError(f"{path}: {error}. Copy it again, or convert it to JPEG or PNG.") from None


def rgb(image: Image.Image) -> np.ndarray:
    """Convert a PIL image to uint8 (H, W, 3) RGB.

    Turns the image upright by EXIF, reduces 16 bits to 8, repeats grey, and puts transparent pixels on white.

    Raises:
        DataError: the image has 32-bit pixels of an unknown range.
    """
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith(("I", "F")):  # PIL would clip to 255 instead
        pixels = np.asarray(image)
        if image.mode == "F" or pixels.min() < 0 or pixels.max() > 65535:
            raise DataError(
                f"the range of an image of mode {image.mode} is unknown: store 8 or 16 bits per value"
            )
        return np.repeat((pixels >> 8).astype(np.uint8)[..., None], 3, axis=2)
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return np.array(image.convert("RGB"))


def focal_px(image: Image.Image) -> float | None:
    """Compute the focal length in pixels from EXIF data; None if the data do not tell. The image must not be cropped.

    Uses the 35 mm equivalent focal length along the diagonal. If it is missing, uses the focal length and the
    resolution of the sensor.
    """
    exif = image.getexif().get_ifd(0x8769)
    diagonal = math.hypot(*image.size)
    if film_mm := _number(exif.get(0xA405)):  # FocalLengthIn35mmFilm
        return film_mm / _DIAGONAL_35MM * diagonal
    focal_mm, density, unit = (_number(exif.get(tag)) for tag in (0x920A, 0xA20E, 0xA210))
    if not focal_mm or not density or unit not in _MM_OF_UNIT:
        return None
    # the resolution belongs to the picture as the camera stored it; a smaller copy keeps the tag
    stored = math.hypot(*(_number(exif.get(tag)) or 0 for tag in (0xA002, 0xA003)))
    return focal_mm * density / _MM_OF_UNIT[unit] * (diagonal / stored if stored else 1)


def _number(value: object) -> float | None:
    """Convert an EXIF value to a positive number, or None: cameras write 0 or 0/0 for unknown values."""
    try:
        number = float(value)
    except (TypeError, ValueError, ZeroDivisionError):
        return None
    return number if 0 < number < math.inf else None
