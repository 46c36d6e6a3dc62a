"""Read and write files: atomic writes, JSON, numpy arrays, hashes."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import math
import os
import shutil
import uuid
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from d3d.errors import D3DError, DataError, RunError, WriteError


@contextlib.contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside ``path`` and rename it to ``path`` if the block succeeds.

    The block makes a file or a folder. The temporary path keeps the suffix of ``path``. If several processes write the
    same folder, the first result stays. Errors are those of `writing`.
    """
    path = Path(path)
    temporary = temporary_beside(path)
    try:
        with writing(path):  # reports the free space before the temporary file is removed
            path.parent.mkdir(parents=True, exist_ok=True)
            yield temporary
            if temporary.is_file():
                with open(temporary, "rb") as f:
                    os.fsync(f.fileno())
            try:
                os.replace(temporary, path)
            except OSError as error:
                if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                    raise
    finally:
        _remove(temporary)


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """Convert errors about a full disk, a read-only disk or missing permission to a `WriteError` with ``path``."""
    try:
        yield
    except D3DError:
        raise
    except Exception as error:  # torch and safetensors raise their own errors for a full disk
        why = _why_not_written(Path(path), error)
        if why is None:
            raise
        raise WriteError(
            f"{path} cannot be written: {why}. Finished results are kept: repeat the command to continue."
        ) from error


_ELSEWHERE = "name another folder (--runs-dir or --out; in Python runs_dir=...)"
_REFUSALS = {
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "the quota of this disk is used up",
    errno.ENOTDIR: "a part of this path is a file, not a folder; " + _ELSEWHERE,
    errno.EROFS: "it is on a disk that is mounted read-only; " + _ELSEWHERE,
    errno.EACCES: "you have no permission to write there; " + _ELSEWHERE,
}
_REFUSALS[errno.EPERM] = _REFUSALS[errno.EACCES]


def _why_not_written(path: Path, error: BaseException) -> str | None:
    there = next(p for p in path.parents if p.exists())
    free = shutil.disk_usage(there).free
    left = f" ({free / 2**20:.1f} MB are free)"
    of_system = error
    while of_system is not None and not isinstance(of_system, OSError):
        of_system = of_system.__cause__ or of_system.__context__
    if isinstance(of_system, OSError) and of_system.errno in _REFUSALS:
        # an error about another file, for example an unreadable frame, does not concern this path
        named = of_system.filename
        if not isinstance(named, str) or Path(named).absolute().is_relative_to(there.absolute()):
            return _REFUSALS[of_system.errno] + left * (of_system.errno == errno.ENOSPC)
    full = os.strerror(errno.ENOSPC) in str(error) or (free < 2**16 and not isinstance(of_system, OSError))
    return _REFUSALS[errno.ENOSPC] + left if full else None


def temporary_beside(path: Path) -> Path:
    # not the process id: two machines can have the same
    return path.parent / f".{uuid.uuid4().hex[:12]}.part-{path.name}"


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    elif path.exists():  # to remove a missing file on a read-only disk is an error of its own
        path.unlink(missing_ok=True)


def remove_left(folder: Path) -> None:
    """Remove the temporary files of killed writers. A running writer can no longer rename its file."""
    for left in list(folder.rglob(".*.part-*")):
        mine = temporary_beside(left.with_name("left"))
        with contextlib.suppress(FileNotFoundError):
            left.rename(mine)
            _remove(mine)


def write_json(path: Path, value: Any) -> None:
    """Write JSON atomically."""
    with atomic(path) as temporary:
        temporary.write_text(json.dumps(value, indent=1, sort_keys=True) + "\n")


def read_json(path: Path, *keys: str) -> dict[str, Any]:
    """Read a JSON object with the given keys.

    Raises:
        RunError: the file is missing, damaged, not a JSON object, or lacks a key.
    """
    try:
        value = json.loads(path.read_bytes())
        if not isinstance(value, dict):
            raise ValueError(f"it holds a {type(value).__name__}, not an object")
        if lacking := [key for key in keys if key not in value]:
            raise ValueError(f"it lacks {', '.join(lacking)}")
    except (OSError, ValueError, RecursionError) as error:
        raise RunError(
            f"{path} is not readable as JSON ({error}). Delete the folder {path.parent} and run again."
        ) from None
    return value


def load_arrays(path: Path, at_most: int) -> dict[str, np.ndarray]:
    """Load the array of a ``.npy`` file, under the name "", or the arrays of an ``.npz`` file. Unpickles nothing.

    Args:
        at_most: largest number of values in an array. A larger array is not allocated.

    Raises:
        DataError: the file is missing, damaged, of another kind, or holds other things than numbers.
    """
    try:
        with open(path, "rb") as file:
            begin = file.read(len(np.lib.format.MAGIC_PREFIX))
            file.seek(0)
            if begin == np.lib.format.MAGIC_PREFIX:
                return {"": _read_array(file, os.fstat(file.fileno()).st_size, at_most)}
            if not begin.startswith(b"PK"):
                raise ValueError("it does not begin as a .npy or .npz file does")
            with zipfile.ZipFile(file) as archive:
                members = [info for info in archive.infolist() if info.filename.endswith(".npy")]
                return {
                    info.filename.removesuffix(".npy"): _read_array(
                        archive.open(info), info.file_size, at_most
                    )
                    for info in members
                }
    except MemoryError:
        raise
    except Exception as error:  # numpy, zipfile and zlib raise errors of many kinds
        raise DataError(f"{path} is not readable as a numpy array ({error}). Write it again.") from None


def _read_array(file: BinaryIO, size: int, at_most: int) -> np.ndarray:
    """Read an array from a file of ``size`` bytes. `np.load` would first allocate what the header claims."""
    version = np.lib.format.read_magic(file)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, columns_first, dtype = read(file)
    count = math.prod(shape)
    if dtype.kind not in "fiubc":
        raise ValueError(f"it holds values of type {dtype}, not numbers")
    if not 0 <= count <= at_most:
        raise ValueError(f"its header claims an array of shape {shape}; {at_most:,} values are the most")
    content = file.read(min(size, count * dtype.itemsize))
    return np.frombuffer(content, dtype, count).reshape(shape, order="F" if columns_first else "C").copy()


def cache_folder() -> Path:
    """The folder of the user's cache: the environment variable ``D3D_CACHE``, else ``~/.cache/d3d``."""
    return Path(os.environ.get("D3D_CACHE") or Path.home() / ".cache" / "d3d")


def project_root() -> Path:
    """Return the checkout that contains this package, or the working folder for an installed package."""
    root = Path(__file__).resolve().parents[1]
    return root if (root / "pyproject.toml").is_file() else Path.cwd()


def sha256(path: Path) -> str:
    """Return the hex digest of a file's content."""
    with open(path, "rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()
