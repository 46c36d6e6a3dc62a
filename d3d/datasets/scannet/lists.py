"""Which scenes of ScanNet belong to which split: the official lists, downloaded once, or the user's own."""

from __future__ import annotations

import os
import re
import tempfile
from pathlib import Path

import pooch

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

# The paper scores "the complete official val set (312 scenes)" and does not state its step between frames. Every
# 10th frame, as for training targets, is the reading taken here.
PAPER_EVERY = 10


def is_whole(split: str, scenes: int, every: int) -> bool:
    """Whether this number of scenes, with every Nth frame scored, is the split that the paper scores."""
    return scenes == SPLITS[split][0] and PAPER_EVERY % every == 0


def list_name(split: str) -> str:
    """The file name of a split's list."""
    return f"scannetv2_{split}.txt"


def split_scenes(root: Path, folder: str | Path | None = None) -> dict[str, list[str]]:
    """The scenes of each split.

    Args:
        root: the folder of the data set; lists that lie there are used, official or not.
        folder: the folder of the lists, instead of ``root``; None: ``root``, else the official lists, downloaded once
            to ``D3D_CACHE`` (default ``~/.cache/d3d``).

    Raises:
        DataError: a list is malformed or cannot be found or downloaded; says what to do.
    """
    given = root if folder is None else Path(folder)
    paths = {split: given / list_name(split) for split in SPLITS}
    if there := {split: path for split, path in paths.items() if path.is_file()}:
        return {split: _parse(_read(path), str(path)) for split, path in there.items()}
    if folder is not None:
        raise DataError(f"{folder} has none of ScanNet's lists of splits ({list_name('train')}, ...).")
    return {split: _parse(official_list(split), list_name(split)) for split in SPLITS}


def official_list(split: str) -> bytes:
    """The official list of a split, checked by its SHA-256; downloaded where the cache does not have it.

    Raises:
        DataError: it cannot be downloaded, or has changed.
    """
    cache = Path(os.environ.get("D3D_CACHE") or Path.home() / ".cache" / "d3d") / "scannet"
    try:
        return _retrieve(split, cache)
    except OSError:  # the cache cannot be written: the list is downloaded each time
        with tempfile.TemporaryDirectory() as folder:
            return _retrieve(split, Path(folder))


def _retrieve(split: str, folder: Path) -> bytes:
    """A list from a folder, downloaded there first if need be; raises OSError where it cannot be written."""
    import requests  # takes longer to import than the rest; needed for downloads alone

    url, name = URL + list_name(split), list_name(split)
    pooch.get_logger().setLevel("WARNING")
    try:
        downloader = pooch.HTTPDownloader(timeout=_TIMEOUT_S)
        return _read(
            Path(pooch.retrieve(url, f"sha256:{SPLITS[split][1]}", name, folder, downloader=downloader))
        )
    except ValueError as error:
        raise DataError(
            f"{url} has changed ({error}). Put the lists that you want beside the scenes: "
            f"{', '.join(map(list_name, SPLITS))}."
        ) from error
    except requests.RequestException as error:
        raise DataError(
            f"ScanNet's list of its {split} split cannot be downloaded from {URL} ({error}). Without a network: put "
            f"{', '.join(map(list_name, SPLITS))} from the public repository ScanNet/ScanNet, folder Tasks/Benchmark, "
            f"beside the scenes."
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
            raise DataError(f"{where}, line {number}: {name!r} appears twice.")
        names[name] = None
    if not names:
        raise DataError(f"{where}: the list is empty.")
    return list(names)
