"""Which scenes of ScanNet are in which split: the official lists, fetched once, or a user's own."""

from __future__ import annotations

import hashlib
import os
import re
from pathlib import Path

from d3d.errors import DataError

URL = "https://raw.githubusercontent.com/ScanNet/ScanNet/master/Tasks/Benchmark/"
_TIMEOUT_S = 20
_MAX_BYTES = 2**20
SCENE_NAME = re.compile(r"scene\d{4}_\d{2}", re.ASCII)

# split -> scenes in the official list, its sha256
SPLITS: dict[str, tuple[int, str]] = {
    "train": (1201, "96acca299b7855f02824c496b19077904d80996e7ced1bb9f0dac98f7dd4d0c8"),
    "val": (312, "d75d4971c3fa7128c643695840e279042c212ef904fe933bd00cf9918c61b083"),
    "test": (100, "0214c6a3b1ee516ad653393b0321e7c0394c7662a4b3702eac1ddd7fbc00f7e0"),
}


# The paper scores "the complete official val set (312 scenes)" and does not say how densely: every 10th frame, as its
# training targets, is the reading taken here
PAPER_EVERY = 10


def is_whole(split: str, scenes: int, every: int) -> bool:
    """Whether so many scenes, with every Nth frame scored, are the split that the paper scores."""
    return scenes == SPLITS[split][0] and PAPER_EVERY % every == 0


def list_name(split: str) -> str:
    """The file name of a split's list."""
    return f"scannetv2_{split}.txt"


def split_scenes(folder: Path, required: bool = False) -> dict[str, list[str]]:
    """The scenes of each split.

    Args:
        folder: where lists may lie; those there are taken as they are, official or not.
        required: whether it is an error if there is none; otherwise the official ones are fetched, or read from
            the folder where they were kept (``D3D_CACHE``, or ``~/.cache/d3d``).

    Raises:
        DataError: a list is malformed, or cannot be had; says what to do.
    """
    given = {split: folder / list_name(split) for split in SPLITS if (folder / list_name(split)).is_file()}
    if given:
        return {split: _parse(_read(path), str(path)) for split, path in given.items()}
    if required:
        raise DataError(f"{folder} has none of ScanNet's lists of splits ({list_name('train')}, ...).")
    return {split: _parse(official_list(split), list_name(split)) for split in SPLITS}


def official_list(split: str) -> bytes:
    """The official list of a split, of the right sha256; from the network only the first time.

    Raises:
        DataError: it is neither kept nor to be had from the network, or is not what it should be.
    """
    from d3d.io import atomic

    kept = Path(os.environ.get("D3D_CACHE") or Path.home() / ".cache" / "d3d") / "scannet" / list_name(split)
    if kept.is_file():
        content = _read(kept)
        if _is_official(split, content):
            return content
    content = _fetch(split)
    if not _is_official(split, content):
        raise DataError(
            f"{URL}{list_name(split)} has changed: its sha256 is {hashlib.sha256(content).hexdigest()}, the official "
            f"list's {SPLITS[split][1]}. Give a folder with the lists you want (split_lists)."
        )
    try:
        with atomic(kept) as temporary:
            temporary.write_bytes(content)
    except OSError:
        pass  # it serves this time; the next time it is fetched again
    return content


def _is_official(split: str, content: bytes) -> bool:
    return hashlib.sha256(content).hexdigest() == SPLITS[split][1]


def _fetch(split: str) -> bytes:
    from urllib.request import urlopen

    try:
        with urlopen(URL + list_name(split), timeout=_TIMEOUT_S) as answer:
            return answer.read(_MAX_BYTES)
    except (OSError, ValueError) as error:
        raise DataError(
            f"ScanNet's list of its {split} split cannot be fetched from {URL} ({error}). Without a network: put "
            f"{', '.join(map(list_name, SPLITS))} from the public repository ScanNet/ScanNet, folder Tasks/Benchmark, "
            f"beside the scenes, or give their folder (split_lists)."
        ) from error


def _read(path: Path) -> bytes:
    try:
        with open(path, "rb") as f:
            return f.read(_MAX_BYTES)
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error}).") from error


def _parse(content: bytes, where: str) -> list[str]:
    """The scenes of a list, one a line."""
    names: dict[str, None] = {}
    for number, line in enumerate(content.decode("utf-8", "replace").splitlines(), 1):
        name = line.strip()
        if not name:
            continue
        if not SCENE_NAME.fullmatch(name):
            raise DataError(
                f"{where}, line {number}: {name[:80]!r} is not the name of a scene (scene0000_00)."
            )
        if name in names:
            raise DataError(f"{where}, line {number}: {name!r} is there twice.")
        names[name] = None
    if not names:
        raise DataError(f"{where}: the list is empty.")
    return list(names)
