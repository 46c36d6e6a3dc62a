"""Decode and resize image files."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image

from d3d.errors import DataError

MAX_PIXELS = 2**25  # 8K video fits. A file of 100 bytes can claim 60000x60000 pixels: do not allocate them
HW = tuple[int, int]


class TooLargeError(ValueError):
    """An image has more pixels than the limit."""

    def __init__(self, pixels: str, limit: int):
        super().__init__(
            f"too large: it has {pixels} pixels, the limit is {limit / 1e6:.1f} megapixels. Reduce its height and width"
        )


def resize_image(image: np.ndarray, size_hw: HW | None) -> np.ndarray:
    """Resize a uint8 image (H, W, 3) with antialiasing. An image of that size, or ``size_hw=None``, is not copied.

    Bilinear sampling without antialiasing aliases fine texture differently in each view. The photometric error of a
    correct warp would then be large. PIL keeps the image's borders fixed, as `geometry.scale_intrinsics` assumes.
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
    """Open and fully decode an image file.

    Args:
        file: path or open file.
        formats: PIL's names of the accepted formats.
        size_hw: required height and width; None accepts any size.
        modes: PIL's names of the accepted modes; empty accepts any mode.
        max_pixels: largest number of pixels; a larger image is not decoded.

    Raises:
        FileNotFoundError: the file does not exist.
        TooLargeError: the image has more than ``max_pixels`` pixels.
        ValueError: the file is truncated, or has another format, size or mode.
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
    except Image.DecompressionBombError:  # PIL refuses the file before it tells the size
        raise TooLargeError(f"more than {2 * Image.MAX_IMAGE_PIXELS}", max_pixels) from None
    except Exception as error:  # PIL's decoders raise errors of many kinds
        raise ValueError(f"truncated or not an image ({error})") from error
    raise TooLargeError(f"{image.width}x{image.height}", max_pixels)


def read_image_file(path: Path, where: str, formats: Sequence[str] = ("PNG", "JPEG")) -> Image.Image:
    """Open and decode the image file of a frame.

    Args:
        where: scene and frame, for messages.

    Raises:
        DataError: `decode_image` refuses the file.
    """
    try:
        return decode_image(path, formats)
    except FileNotFoundError:
        raise DataError(f"{where}: {path} is missing.") from None
    except TooLargeError as error:
        raise DataError(f"{where}: {path} is {error}.") from error
    except ValueError as error:
        raise DataError(f"{where}: {path} is {error}. Copy it again.") from error


def first_size(paths: Iterable[Path], where: str) -> HW:
    """Read height and width from the header of the first valid image file.

    Raises:
        DataError: no file is an image.
    """
    faults = []
    for path in paths:
        try:
            with Image.open(path, formats=("PNG", "JPEG")) as image:
                return image.height, image.width
        except Exception as error:  # PIL's decoders raise errors of many kinds
            faults.append(f"{path} is not an image ({error})")
    raise DataError(
        f"{where}: no image is readable. The first of {len(faults):,}: {faults[0]}. Copy them again."
    )


def read_color(path: Path, where: str) -> np.ndarray:
    """Read a colour image file as uint8 (H, W, 3) RGB. Errors are those of `read_image_file`."""
    return rgb_array(read_image_file(path, where))


def rgb_array(image: Image.Image) -> np.ndarray:
    """Convert a decoded image to a writable uint8 array (H, W, 3) RGB."""
    # convert() would copy an RGB image once more
    return np.array(image if image.mode == "RGB" else image.convert("RGB"))


def read_depth_png(path: Path, where: str) -> np.ndarray:
    """Read a 16-bit depth PNG as uint16 (H, W), in the units of the file.

    Raises:
        DataError: the file cannot be read, has 8 bits, or has colour.
    """
    image = read_image_file(path, where)
    if image.mode not in ("I;16", "I;16B", "I"):
        raise DataError(f"{where}: {path} is not a 16-bit grey depth png (it has mode {image.mode}).")
    return np.asarray(image).astype(np.uint16)
