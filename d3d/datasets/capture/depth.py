"""Read the depth maps of captures in metres: PNG, TIFF, EXR, NumPy and Record3D's LZFSE files."""

from __future__ import annotations

import ctypes
import math
from pathlib import Path

import numpy as np

from d3d.datasets.images import HW, MAX_PIXELS, read_image_file
from d3d.datasets.records import read_bytes
from d3d.errors import ConfigError, DataError
from d3d.io import load_arrays

_DECODE_BUFFER = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_char_p, ctypes.c_size_t, ctypes.c_void_p)
_INVALID = 65535  # stored by sensors at pixels without a measurement


def read_depth(path: Path, per_metre: float, depth_hw: HW | None, where: str) -> np.ndarray:
    """Read a depth map in metres, float32 (h, w), 0 = invalid.

    Args:
        path: the file.
        per_metre: stored values per metre.
        depth_hw: size of a file without a size of its own (`.depth`).
        where: name of the frame for messages.

    Raises:
        ConfigError: the package that reads this kind of file is missing.
        DataError: the file is broken.
    """
    suffix = path.suffix.lower()
    if suffix == ".exr":
        stored = _exr(path, where)
    elif suffix == ".depth":
        stored = _lzfse(path, depth_hw, where)
    elif suffix == ".npy":
        stored = _npy(path, where)
    else:
        image = read_image_file(path, where, ("PNG", "TIFF", "PPM"))
        if image.mode not in ("I;16", "I;16B", "I;16L", "I", "F"):
            raise DataError(f"{where}: {path} is not a depth map of 16 bits or more (mode {image.mode}).")
        stored = np.asarray(image).astype(np.float32)
        stored[stored == _INVALID] = 0
    with np.errstate(invalid="ignore"):
        return np.where(np.isfinite(stored) & (stored > 0), stored, 0).astype(np.float32) / np.float32(
            per_metre
        )


def _exr(path: Path, where: str) -> np.ndarray:
    try:
        import OpenEXR
    except ImportError:
        raise ConfigError("EXR files need OpenEXR: pip install 'd3d[capture]'") from None
    try:
        with OpenEXR.File(str(path)) as file:
            channels = file.channels()
            name = next(
                (n for n in ("Z", "R", "Y", "RGB", "RGBA", "V") if n in channels), next(iter(channels))
            )
            pixels = np.asarray(channels[name].pixels, dtype=np.float32)
    except MemoryError:
        raise
    except Exception as error:  # the package raises errors of many kinds
        raise DataError(
            f"{where}: {path} is truncated or not an EXR image ({error}). Copy it again."
        ) from None
    return pixels[..., 0] if pixels.ndim == 3 else pixels


def _lzfse(path: Path, depth_hw: HW | None, where: str) -> np.ndarray:
    try:
        import lzfse

        # not lzfse.decompress: it allocates what a file claims, and for some damaged files all memory
        decode = ctypes.CDLL(lzfse.__file__).lzfse_decode_buffer
    except (ImportError, OSError, AttributeError):
        raise ConfigError("depth of Record3D needs lzfse: pip install 'd3d[capture]'") from None
    if depth_hw is None or math.prod(depth_hw) > MAX_PIXELS:
        raise DataError(f"{where}: the size of {path.name} is not known (dw and dh in metadata).")
    packed, pixels = (
        read_bytes(path),
        np.empty(math.prod(depth_hw) + 1, np.float32),
    )  # one more shows a larger map
    decode.restype, decode.argtypes = ctypes.c_size_t, _DECODE_BUFFER
    size = decode(pixels.ctypes.data, pixels.nbytes, packed, len(packed), None)
    if size != pixels.nbytes - pixels.itemsize:
        raise DataError(f"{where}: {path} is not a depth map of {depth_hw[1]}x{depth_hw[0]}. Copy it again.")
    return pixels[:-1].reshape(depth_hw)


def _npy(path: Path, where: str) -> np.ndarray:
    stored = load_arrays(path, MAX_PIXELS).get("")
    if stored is None or stored.ndim != 2 or stored.dtype.kind not in "fiu":
        what = "an .npz file" if stored is None else f"shape {stored.shape} of {stored.dtype}"
        raise DataError(f"{where}: {path} is not a depth map ({what}). Copy it again.")
    return stored.astype(np.float32)


def depth_size(path: Path, depth_hw: HW | None, where: str) -> HW:
    """Return height and width of a depth map. Errors: see `read_depth`."""
    return read_depth(path, 1.0, depth_hw, where).shape
