"""Unpack downloaded zip archives once, safely and completely.

Frames are not read from the archive: 7-Scenes deflates one archive inside another, and reading a frame would mean
inflating everything before it.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import stat
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from filelock import FileLock

from d3d.errors import DataError, counted
from d3d.progress import say

# Images and depth maps are already compressed: an archive of them unpacks to little more than its size. Deflate can
# expand a thousandfold
MAX_RATIO = 100
MAX_MEMBERS = 1_000_000
_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
_CHUNK = 2**20
_SPARE_BYTES = 2**28  # bytes that stay free on the disk
_DRIVE = re.compile(r"[A-Za-z]:")

_Members = dict[str, zipfile.ZipInfo]


def list_zip(archive: Path) -> dict[str, int]:
    """List the files in a zip archive after checking that they are safe to unpack: name -> bytes.

    Raises:
        DataError: the archive is not a zip archive, is damaged, or claims to unpack to more than `MAX_RATIO` times its
            size; or a member has an absolute name, leads out of the folder, is a link or a device, appears twice, is
            encrypted, or is compressed by another method than deflate.
    """
    with _opened(archive) as (_, members):
        return {name: info.file_size for name, info in members.items()}


def read_member(archive: Path, name: str, at_most: int = 2**20) -> bytes:
    """Read a small file in an archive.

    Raises:
        DataError: as `list_zip`; or the file is missing or has more than ``at_most`` bytes.
    """
    with _opened(archive) as (opened, members):
        info = _find(members, archive, name)
        if info.file_size > at_most:
            raise DataError(f"{archive}: {name} has {info.file_size:,} bytes, more than {at_most:,}.")
        return b"".join(_content(opened, info, archive))


def unpack_member(archive: Path, name: str, to: Path) -> Path:
    """Unpack one file of an archive atomically, unless it exists. Errors are those of `unpack_zip`."""
    if not to.exists():
        with _opened(archive) as (opened, members), _writing(to):
            info = _find(members, archive, name)
            need_space(to.parent, info.file_size, str(archive))
            _write(opened, info, archive, to)
    return to


def unpack_zip(archive: Path, folder: Path, below: str = "") -> Path:
    """Unpack an archive to a folder. The folder appears when it is complete; an existing folder stays unchanged.

    After an interruption, the next call unpacks the missing files. A concurrent call waits.

    Args:
        below: folder of the archive ("seq-01") to unpack, which is removed from the names; "" unpacks all files.

    Raises:
        DataError: as `list_zip`; or ``below`` is empty, a member is damaged, the disk has too little room, or the
            folder cannot be written.
    """
    if not folder.exists():
        with _writing(folder):
            folder.parent.mkdir(parents=True, exist_ok=True)
            with FileLock(folder.parent / f".{folder.name}.lock"):
                if not folder.exists():
                    _unpack(archive, folder, f"{below}/" if below else "")
    return folder


def need_space(folder: Path, size: int, what: str) -> None:
    """Check that the disk of a folder, which need not exist, has room for ``size`` bytes; raises DataError if not."""
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    if size + _SPARE_BYTES > free:
        raise DataError(
            f"{what}: unpacking takes {size / 1e9:.2f} GB, but {folder} has {free / 1e9:.2f} GB left (and "
            f"{_SPARE_BYTES / 1e9:.2f} should stay free). Make room, or unpack it elsewhere and give that folder."
        )


def _unpack(archive: Path, folder: Path, prefix: str) -> None:
    part = folder.parent / f".{folder.name}.part"
    with _opened(archive) as (opened, members):
        chosen = {part / n.removeprefix(prefix): i for n, i in members.items() if n.startswith(prefix)}
        if not chosen:
            raise DataError(f"{archive}: there is nothing{f' below {prefix}' if prefix else ''} in it.")
        # files of an earlier call may belong to another archive or be damaged: keep only files with the right checksum
        missing = {path: info for path, info in chosen.items() if not _is_there(path, info)}
        size = sum(info.file_size for info in missing.values())
        need_space(folder.parent, size, str(archive))
        say(f"unpacking {counted(len(missing), 'file')}, {size / 1e6:,.0f} MB, to {folder}")
        for path, info in missing.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            _write(opened, info, archive, path)
        for left in part.rglob("*"):
            if left not in chosen and (left.is_file() or left.is_symlink()):
                left.unlink()
        if hasattr(os, "sync"):
            os.sync()  # the folder's new name must not reach the disk before its files
        part.replace(folder)


@contextlib.contextmanager
def _opened(archive: Path) -> Iterator[tuple[zipfile.ZipFile, _Members]]:
    try:
        opened = zipfile.ZipFile(archive)
    except FileNotFoundError:
        raise DataError(f"{archive} is missing.") from None
    except MemoryError:
        raise
    except Exception as error:  # zipfile raises errors of many kinds
        raise DataError(f"{archive}: not a zip archive, or damaged ({error}). Download it again.") from error
    with opened:
        yield opened, _members(opened, archive)


def _find(members: _Members, archive: Path, name: str) -> zipfile.ZipInfo:
    if name not in members:
        raise DataError(f"{archive}: there is no {name} in it.")
    return members[name]


def _members(opened: zipfile.ZipFile, archive: Path) -> _Members:
    """Check all members of an archive; return the files by name, in the order of their positions."""
    infos = sorted(opened.infolist(), key=lambda info: info.header_offset)
    if len(infos) > MAX_MEMBERS:
        raise DataError(
            f"{archive}: {len(infos):,} members are more than {MAX_MEMBERS:,}: not an archive of frames."
        )
    members, seen = {}, set()
    for info in infos:
        name, where = _safe_name(info.filename, archive), f"{archive}: {info.filename!r}"
        kind = stat.S_IFMT(info.external_attr >> 16)  # 0: the system of origin has no such attribute
        if info.is_dir() and kind in (0, stat.S_IFDIR):
            continue
        if kind not in (0, stat.S_IFREG):
            raise DataError(f"{where} is a link or a device. Nothing was unpacked.")
        if info.flag_bits & 1 or info.compress_type not in _METHODS:
            raise DataError(f"{where} is encrypted, or compressed by another method than deflate.")
        # file systems that ignore case would overwrite one member with the other
        if name.casefold() in seen:
            raise DataError(f"{where} appears twice. Nothing was unpacked.")
        seen.add(name.casefold())
        members[name] = info
    total, size = sum(info.file_size for info in members.values()), archive.stat().st_size
    # compare with the size of the archive, not with packed sizes: several members may claim the same bytes
    if total > MAX_RATIO * size:
        raise DataError(
            f"{archive}: it claims to unpack to {total:,} bytes, {total / max(size, 1):,.0f} times its size. Frames "
            f"do not; nothing was unpacked."
        )
    return members


def _safe_name(name: str, archive: Path) -> str:
    """Return the name of a member with slashes, if it stays inside the unpacked folder on any system."""
    path = PurePosixPath(name)
    stays = path.parts and not path.is_absolute() and ".." not in path.parts and not _DRIVE.match(name)
    if not stays or any(c in name for c in "\\\0\n") or any(len(p.encode()) > 200 for p in path.parts):
        raise DataError(
            f"{archive}: the name {name[:80]!r} may lead out of its folder. Nothing was unpacked."
        )
    return path.as_posix()


def _content(opened: zipfile.ZipFile, info: zipfile.ZipInfo, archive: Path) -> Iterator[bytes]:
    """Yield the content of a member in pieces; `zipfile` checks size and checksum."""
    try:
        with opened.open(info) as packed:
            while piece := packed.read(_CHUNK):
                yield piece
    except (MemoryError, GeneratorExit):
        raise
    except Exception as error:  # zipfile and zlib raise errors of many kinds
        why = f"is damaged or truncated ({error}). Download it again."
        raise DataError(f"{archive}: {info.filename} {why}") from error


def _write(opened: zipfile.ZipFile, info: zipfile.ZipInfo, archive: Path, to: Path) -> None:
    temporary = to.with_name(f".{to.name}.new")
    temporary.unlink(missing_ok=True)
    try:
        with open(temporary, "xb") as file:
            file.writelines(_content(opened, info, archive))
            if file.tell() != info.file_size:
                raise DataError(f"{archive}: {info.filename} is truncated. Download it again.")
        temporary.replace(to)
    finally:
        temporary.unlink(missing_ok=True)


def _is_there(path: Path, info: zipfile.ZipInfo) -> bool:
    """Return whether a file (not a link) has the size and checksum of a member."""
    try:
        if path.is_symlink() or not path.is_file() or path.stat().st_size != info.file_size:
            return False
        return zlib.crc32(path.read_bytes()) == info.CRC
    except OSError:
        return False


@contextlib.contextmanager
def _writing(to: Path) -> Iterator[None]:
    """Convert an OSError to a DataError that says what to do."""
    try:
        yield
    except OSError as error:
        raise DataError(
            f"{to} cannot be written ({error}). Unpack the archive by hand into another folder, and give that folder."
        ) from error
