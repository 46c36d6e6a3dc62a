"""The images and videos that a command line names, and a folder of results for each."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from d3d.datasets import photos, videos
from d3d.errors import ConfigError

ABOUT = "predict.json"  # in each folder of results


class Input(NamedTuple):
    """A file, and its name: the path of its results inside the folder of all results."""

    path: Path
    name: str

    @property
    def is_video(self) -> bool:
        return self.path.suffix.lower() in videos.SUFFIXES


def find_inputs(paths: Sequence[str | Path], out: Path) -> tuple[list[Input], int]:
    """Find the images and videos among files and, sorted, in folders and their subfolders.

    A name is the path from the folder that holds all inputs, without the suffix unless two files differ only there.

    Args:
        out: a folder that is not searched, as folders with a `predict.json`: they hold pictures of earlier results.

    Returns:
        the files in order, each once; and the number of other files in the folders.

    Raises:
        ConfigError: a path is missing, or there is neither an image nor a video.
    """
    if missing := [str(p) for p in paths if not Path(p).exists()]:
        raise ConfigError(f"there is no file or folder {', '.join(missing)}.")
    given = [Path(os.path.abspath(p)) for p in paths]
    found: dict[Path, None] = {}
    others = 0
    for path in given:
        if not path.is_dir():
            found[path] = None
            continue
        for file in _files_in(path, Path(os.path.abspath(out))):
            if file.suffix.lower() in photos.SUFFIXES | videos.SUFFIXES:
                found[file] = None
            else:
                others += 1
    if not found:
        raise ConfigError(
            f"no image or video in {', '.join(map(str, paths))}, but {others} other files. Suffixes of images: "
            f"{' '.join(sorted(photos.SUFFIXES))}; of videos: {' '.join(sorted(videos.SUFFIXES))}."
        )
    base = os.path.commonpath([p if p.is_dir() else p.parent for p in given])
    files = [path.relative_to(base) for path in found]
    plain = Counter(file.with_suffix("") for file in files)
    folders = {folder for file in files for folder in file.parents}
    inputs = {}
    for path, file in zip(found, files, strict=True):
        name = file.with_suffix("")
        if plain[name] > 1 or name in folders:  # kitchen.jpg beside kitchen.mp4 or a folder kitchen
            name = file.with_name(f"{file.stem}_{file.suffix[1:]}")
        if name in inputs:
            raise ConfigError(
                f"{path} and {inputs[name]} would have one folder of results: rename one of them."
            )
        inputs[name] = path
    return [Input(path, name.as_posix()) for name, path in inputs.items()], others


def _files_in(folder: Path, out: Path) -> Iterator[Path]:
    for at, folders, files in os.walk(folder):
        if ABOUT in files:  # results of an earlier command
            folders.clear()
            continue
        folders[:] = sorted(f for f in folders if not f.startswith(".") and Path(at, f) != out)
        yield from (Path(at, file) for file in sorted(files) if not file.startswith("."))
