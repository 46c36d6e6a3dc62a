"""Find the images and videos of a command line, and name a folder of results for each."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from d3d.datasets import photos, videos
from d3d.errors import ConfigError

ABOUT = "predict.json"  # marks a folder of results


class Input(NamedTuple):
    """An image or video file."""

    path: Path
    name: str  # path of its results inside the output folder

    @property
    def is_video(self) -> bool:
        return self.path.suffix.lower() in videos.SUFFIXES


def find_inputs(paths: Sequence[str | Path], out: Path) -> tuple[list[Input], int]:
    """Find images and videos: the given files, and the files in the given folders and their subfolders.

    A name is the path of the file relative to the folder that holds all inputs. If the inputs have only the root folder
    in common, names are the shortest ends of the paths that differ. A name has no suffix, unless two files differ only
    in their suffix.

    Args:
        paths: files and folders. Files of a folder are sorted.
        out: the output folder. It is not searched, and neither are folders with a `predict.json`: they hold results.

    Returns:
        the files in order, each once; the number of other files in the folders.

    Raises:
        ConfigError: a path is missing, or there is neither an image nor a video.
    """
    if missing := [str(p) for p in paths if not Path(p).exists()]:
        raise ConfigError(f"there is no file or folder {', '.join(missing)}.")
    given = [Path(os.path.abspath(p)) for p in paths]
    found: dict[Path, Path] = {}  # file -> path relative to the parent of its argument
    others = 0
    for path in given:
        if not path.is_dir():
            found.setdefault(path, Path(path.name))
            continue
        for file in _files_in(path, Path(os.path.abspath(out))):
            if file.suffix.lower() in photos.SUFFIXES | videos.SUFFIXES:
                found.setdefault(file, file.relative_to(path.parent))
            else:
                others += 1
    if not found:
        raise ConfigError(
            f"no image or video in {', '.join(map(str, paths))}, but {others} other files. Suffixes of images: "
            f"{' '.join(sorted(photos.SUFFIXES))}; of videos: {' '.join(sorted(videos.SUFFIXES))}."
        )
    base = Path(os.path.commonpath([p if p.is_dir() else p.parent for p in given]))
    if base == base.parent:
        files = _shortest_ends(found)
    else:
        files = [path.relative_to(base) for path in found]
    plain = Counter(file.with_suffix("") for file in files)
    folders = {folder for file in files for folder in file.parents}
    inputs = {}
    for path, file in zip(found, files, strict=True):
        name = file.with_suffix("")
        if plain[name] > 1 or name in folders:  # kitchen.jpg beside kitchen.mp4 or beside a folder kitchen
            name = file.with_name(f"{file.stem}_{file.suffix[1:]}")
        if name in inputs:
            raise ConfigError(
                f"{path} and {inputs[name]} would have the same folder of results: rename one of them."
            )
        inputs[name] = path
    return [Input(path, name.as_posix()) for name, path in inputs.items()], others


def _shortest_ends(ends: Mapping[Path, Path]) -> list[Path]:
    """Lengthen equal ends of absolute paths by the folder before them, until all ends differ."""
    lengths = {path: len(end.parts) for path, end in ends.items()}
    while True:
        ends = {path: Path(*path.parts[1:][-n:]) for path, n in lengths.items()}
        number = Counter(ends.values())
        if len(number) == len(ends):
            return [*ends.values()]
        lengths = {path: n + (number[ends[path]] > 1) for path, n in lengths.items()}


def _files_in(folder: Path, out: Path) -> Iterator[Path]:
    for at, folders, files in os.walk(folder):
        if ABOUT in files:  # results of an earlier command
            folders.clear()
            continue
        folders[:] = sorted(f for f in folders if not f.startswith(".") and Path(at, f) != out)
        yield from (Path(at, file) for file in sorted(files) if not file.startswith("."))
