"""Photographs as people have them: any format and orientation, with the focal length that the camera noted (EXIF)."""

from __future__ import annotations

import math
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageOps

from d3d.datasets.images import decode_image
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
    """An upright photograph, and its focal length in pixels or None."""

    image: np.ndarray  # uint8 (H, W, 3) RGB
    focal_px: float | None


def read_photo(path: str | Path) -> Photo:
    """Read an image file: upright by its EXIF orientation, in RGB (see `rgb`).

    Raises:
        DataError: the file is missing, truncated, not an image of one of `FORMATS`, or larger than `MAX_PIXELS`.
    """
    try:
        image = decode_image(Path(path), tuple(FORMATS), max_pixels=MAX_PIXELS)
        return Photo(rgb(image), focal_px(image))
    except FileNotFoundError:
        raise DataError(f"{path} is missing.") from None
    except ValueError as error:
        raise DataError(f"{path}: {error}. Copy it again, or convert it to JPEG or PNG.") from None


def rgb(image: Image.Image) -> np.ndarray:
    """An image of PIL as uint8 (H, W, 3): upright, 16 bits reduced to 8, grey repeated, transparency on white.

    Raises:
        DataError: 32-bit pixels whose range is unknown.
    """
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith(("I", "F")):  # PIL would clip to 255 instead
        pixels = np.asarray(image)
        if image.mode == "F" or pixels.min() < 0 or pixels.max() > 65535:
            raise DataError(
                f"an image of mode {image.mode}, whose range is unknown: store 8 or 16 bits a value"
            )
        return np.repeat((pixels >> 8).astype(np.uint8)[..., None], 3, axis=2)
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return np.array(image.convert("RGB"))


def focal_px(image: Image.Image) -> float | None:
    """The focal length in pixels by the EXIF data of an image that was not cropped; None if they do not tell.

    The focal length that a 35 mm camera would need for the same angle along the diagonal; or else the focal length
    and the resolution of the sensor.
    """
    exif = image.getexif().get_ifd(0x8769)
    diagonal = math.hypot(*image.size)
    if film_mm := _number(exif.get(0xA405)):  # FocalLengthIn35mmFilm
        return film_mm / _DIAGONAL_35MM * diagonal
    focal_mm, density, unit = (_number(exif.get(tag)) for tag in (0x920A, 0xA20E, 0xA210))
    if not focal_mm or not density or unit not in _MM_OF_UNIT:
        return None
    # the resolution is that of the picture as the camera stored it; a smaller copy keeps the tag
    stored = math.hypot(*(_number(exif.get(tag)) or 0 for tag in (0xA002, 0xA003)))
    return focal_mm * density / _MM_OF_UNIT[unit] * (diagonal / stored if stored else 1)


def _number(value: object) -> float | None:
    """A positive number of EXIF data, or None: cameras write 0 or 0/0 for unknown."""
    try:
        number = float(value)
    except (TypeError, ValueError, ZeroDivisionError):
        return None
    return number if 0 < number < math.inf else None
