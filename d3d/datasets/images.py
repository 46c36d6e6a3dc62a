"""Image files of frames: decoded whole or refused with a reason, and resized."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image

from d3d.errors import DataError

# A file of a hundred bytes may claim 60000x60000 pixels and have them allocated: 8K video has a little less than this
MAX_PIXELS = 2**25
HW = tuple[int, int]


def resize_image(image: np.ndarray, size_hw: HW | None) -> np.ndarray:
    """Antialiased resize of a uint8 (H, W, 3) image; the image itself where the size is the same.

    Point or plain bilinear sampling aliases fine texture, differently in each view, and the photometric error of a
    correct warp is then no longer small. PIL keeps the image's borders fixed, as `geometry.scale_intrinsics` assumes;
    the reducing gap takes a cheap box step first where the reduction is large.
    """
    if size_hw is None or tuple(size_hw) == image.shape[:2]:
        return image
    size = (size_hw[1], size_hw[0])
    return np.array(Image.fromarray(image).resize(size, Image.Resampling.LANCZOS, reducing_gap=3.0))


def decode_image(
    file: Path | BinaryIO,
    formats: Sequence[str],
    size_hw: HW | None = None,
    modes: Sequence[str] = (),
    max_pixels: int = MAX_PIXELS,
) -> Image.Image:
    """A fully decoded image of one of PIL's formats, and of the size and PIL's modes, where these are given.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is truncated, of another format, size or mode, or claims more than ``max_pixels``.
    """
    try:
        with Image.open(file, formats=formats) as image:
            if size_hw is not None and (image.height, image.width) != tuple(size_hw):
                raise ValueError(f"{image.width}x{image.height} instead of {size_hw[1]}x{size_hw[0]}")
            if modes and image.mode not in modes:
                raise ValueError(f"mode {image.mode} instead of {' or '.join(modes)}")
            if image.width * image.height <= max_pixels:
                image.load()  # PIL decodes lazily: without this a truncated file fails later, far from its name
                return image
    except (FileNotFoundError, MemoryError):
        raise
    except Exception as error:  # PIL's decoders raise errors of many kinds
        raise ValueError(f"truncated or not an image ({error})") from error
    raise ValueError(f"not an image: it claims {image.width}x{image.height} pixels, more than {max_pixels}")


def read_image_file(path: Path, where: str, formats: Sequence[str] = ("PNG", "JPEG")) -> Image.Image:
    """As `decode_image` for a frame's file; raises DataError that names ``where`` (scene and frame) and the file."""
    try:
        return decode_image(path, formats)
    except FileNotFoundError:
        raise DataError(f"{where}: {path} is missing.") from None
    except ValueError as error:
        raise DataError(f"{where}: {path} is {error}. Copy it again.") from error


def first_size(paths: Iterable[Path], where: str) -> HW:
    """Height and width by the header of the first valid image file; raises DataError where no file is an image."""
    faults = []
    for path in paths:
        try:
            with Image.open(path, formats=("PNG", "JPEG")) as image:
                return image.height, image.width
        except Exception as error:  # PIL's decoders raise errors of many kinds
            faults.append(f"{path} is not an image ({error})")
    raise DataError(f"{where}: none of {len(faults)} images can be read: {faults[0]}. Copy them again.")


def read_color(path: Path, where: str) -> np.ndarray:
    """A colour image file as uint8 (H, W, 3) RGB; raises DataError."""
    return rgb_array(read_image_file(path, where))


def rgb_array(image: Image.Image) -> np.ndarray:
    """A decoded image as uint8 (H, W, 3) RGB that may be written to, unlike PIL's own buffer."""
    # converting what is RGB already would only be another copy, of megabytes at ScanNet's size
    return np.array(image if image.mode == "RGB" else image.convert("RGB"))


def read_depth_png(path: Path, where: str) -> np.ndarray:
    """A 16-bit depth png as uint16 (H, W), units as stored; raises DataError, also where it has 8 bits or colour."""
    image = read_image_file(path, where)
    if image.mode not in ("I;16", "I;16B", "I"):
        raise DataError(f"{where}: {path} is not a 16-bit grey depth png (it has mode {image.mode}).")
    return np.asarray(image).astype(np.uint16)
