"""Lists of the scenes in each split of ScanNet: the official lists, downloaded once, or the user's lists."""

from __future__ import annotations

import re
import tempfile
from pathlib import Path

import pooch

from d3d.datasets.records import read_bytes
from d3d.errors import DataError
from d3d.io import cache_folder

URL = "https://raw.githubusercontent.com/ScanNet/ScanNet/master/Tasks/Benchmark/"
LIST = "scannetv2_{}.txt"
_TIMEOUT_S = 20
_MAX_BYTES = 2**20
SCENE_NAME = re.compile(r"scene\d{4}_\d{2}", re.ASCII)

# split -> scenes in the official list, its sha256
SPLITS: dict[str, tuple[int, str]] = {
    "train": (1201, "96acca299b7855f02824c496b19077904d80996e7ced1bb9f0dac98f7dd4d0c8"),
    "val": (312, "d75d4971c3fa7128c643695840e279042c212ef904fe933bd00cf9918c61b083"),
    "test": (100, "0214c6a3b1ee516ad653393b0321e7c0394c7662a4b3702eac1ddd7fbc00f7e0"),
}

# The paper scores "the complete official val set (312 scenes)" and does not state the step between frames. d3d takes
# every 10th frame, as for training targets.
PAPER_EVERY = 10


def is_whole(split: str, scenes: int, every: int) -> bool:
    """Return whether this number of scenes, with every Nth frame scored, is the split of the paper."""
    return scenes == SPLITS[split][0] and PAPER_EVERY % every == 0


def split_scenes(root: Path, folder: str | Path | None = None) -> dict[str, list[str]]:
    """Read the scenes of each split.

    Args:
        root: folder of the data set.
        folder: folder with the lists. None: the lists in ``root``, or the official lists, which are downloaded once to
            ``D3D_CACHE`` (default ``~/.cache/d3d``).

    Raises:
        DataError: a list is malformed, or cannot be found or downloaded.
    """
    given = root if folder is None else Path(folder)
    paths = {split: given / LIST.format(split) for split in SPLITS}
    if there := {split: path for split, path in paths.items() if path.is_file()}:
        return {
            split: _parse(read_bytes(path, at_most=_MAX_BYTES), str(path)) for split, path in there.items()
        }
    if folder is not None:
        raise DataError(f"{folder} has none of ScanNet's lists of splits ({LIST.format('train')}, ...).")
    return {split: _parse(official_list(split), LIST.format(split)) for split in SPLITS}


def official_list(split: str) -> bytes:
    """Get the official list of a split; raises DataError if the download fails or its SHA-256 has changed."""
    cache = cache_folder() / "scannet"
    try:
        return _retrieve(split, cache)
    except OSError:  # the cache cannot be written: download the list each time
        with tempfile.TemporaryDirectory() as folder:
            return _retrieve(split, Path(folder))


def _retrieve(split: str, folder: Path) -> bytes:
    import requests  # imported here: slow to import, and only needed for downloads

    name, names = LIST.format(split), ", ".join(map(LIST.format, SPLITS))
    url, digest = URL + name, f"sha256:{SPLITS[split][1]}"
    pooch.get_logger().setLevel("WARNING")
    downloader = pooch.HTTPDownloader(timeout=_TIMEOUT_S)
    try:
        return read_bytes(Path(pooch.retrieve(url, digest, name, folder, downloader=downloader)))
    except ValueError as error:
        raise DataError(
            f"{url} has changed ({error}). Put your own lists beside the scenes: {names}."
        ) from error
    except requests.RequestException as error:
        raise DataError(
            f"ScanNet's list of its {split} split cannot be downloaded from {URL} ({error}). Without a network: put "
            f"{names} from the public repository ScanNet/ScanNet, folder Tasks/Benchmark, beside the scenes."
        ) from error


def _parse(content: bytes, where: str) -> list[str]:
    """Parse a list with one scene per line."""
    names: list[str] = []
    for number, name in enumerate(map(str.strip, content.decode("utf-8", "replace").splitlines()), 1):
        if not name:
            continue
        if not SCENE_NAME.fullmatch(name):
            raise DataError(
                f"{where}, line {number}: {name[:80]!r} is not the name of a scene (scene0000_00)."
            )
        if name in names:
            raise DataError(f"{where}, line {number}: {name!r} appears twice.")
        names.append(name)
    if not names:
        raise DataError(f"{where}: the list is empty.")
    return names
