"""Reading and writing files: atomic writes, JSON, hashes. Needs neither torch nor a configuration."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from d3d.errors import D3DError, RunError, WriteError


@contextlib.contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """A temporary path beside ``path`` that takes its name only if the block ends without an error.

    For a file or, if the block makes one, a folder. The temporary keeps the suffix, which some writers look at.
    Where several write the same folder at once (a task whose worker was thought lost), the first one's stays.
    """
    path = Path(path)
    temporary = temporary_beside(path)
    try:
        with writing(path):  # while the temporary is there: a full disk is full because of it
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
    """A context in which a full disk or a read-only folder is an error that says so, whatever library meets it.

    Raises:
        WriteError: ``path`` cannot be written for such a reason.
    """
    try:
        yield
    except D3DError:
        raise
    except Exception as error:  # torch and safetensors have kinds of their own for a full disk
        why = _why_not_written(Path(path), error)
        if why is None:
            raise
        raise WriteError(
            f"{path} cannot be written: {why}. What was finished before is kept; the same command goes on from there."
        ) from error


_REFUSALS = {
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "the quota of this disk is used up",
    errno.EROFS: "it is on a disk that is mounted read-only",
    errno.EACCES: "you have no permission to write there; name another folder (runs_dir=...)",
    errno.EPERM: "you have no permission to write there; name another folder (runs_dir=...)",
}


def _why_not_written(path: Path, error: BaseException) -> str | None:
    there = next(p for p in (path.parent, *path.parent.parents) if p.exists())
    free = shutil.disk_usage(there).free
    of_system = error
    while of_system is not None and not isinstance(of_system, OSError):
        of_system = of_system.__cause__ or of_system.__context__
    if isinstance(of_system, OSError) and of_system.errno in _REFUSALS:
        # a frame that cannot be read is not a folder that cannot be written
        named = of_system.filename
        if (
            named is None
            or not isinstance(named, str)
            or Path(named).absolute().is_relative_to(there.absolute())
        ):
            left = f" ({free / 2**20:.1f} MB are free)" if of_system.errno == errno.ENOSPC else ""
            return _REFUSALS[of_system.errno] + left
    full = free < 2**16 or os.strerror(errno.ENOSPC) in str(error)
    return f"{_REFUSALS[errno.ENOSPC]} ({free / 2**20:.1f} MB are free)" if full else None


def temporary_beside(path: Path) -> Path:
    # no process id: another machine may have the same one
    return path.parent / f".{uuid.uuid4().hex[:12]}.part-{path.name}"


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def remove_left(folder: Path) -> None:
    """Removes what killed writers left; one that still lives, on another machine, cannot give it its name any more."""
    for left in list(folder.rglob(".*.part-*")):
        mine = temporary_beside(left.with_name("left"))
        with contextlib.suppress(FileNotFoundError):
            left.rename(mine)
            _remove(mine)


def write_json(path: Path, value: Any) -> None:
    """Writes JSON atomically."""
    with atomic(path) as temporary:
        temporary.write_text(json.dumps(value, indent=1, sort_keys=True) + "\n")


def read_json(path: Path, *keys: str) -> dict[str, Any]:
    """Reads a JSON object.

    Args:
        keys: that it must have.

    Raises:
        RunError: missing, damaged, or not such an object; names the file.
    """
    try:
        value = json.loads(path.read_bytes())
        if not isinstance(value, dict):
            raise ValueError(f"it holds a {type(value).__name__}, not an object")
        if lacking := [key for key in keys if key not in value]:
            raise ValueError(f"it lacks {', '.join(lacking)}")
    except (OSError, ValueError, RecursionError) as error:
        raise RunError(
            f"{path}: not readable as JSON ({error}). Delete the folder {path.parent} and run again."
        ) from None
    return value


def sha256(path: Path) -> str:
    """Hex digest of a file's content."""
    with open(path, "rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()
