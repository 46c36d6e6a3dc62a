"""Find the files of 7-Scenes: official zips, unpacked folders, and rendered depth::

<root>/chess.zip                                      holds chess/seq-01.zip, ..., chess/TrainSplit.txt, TestSplit.txt
<root>/chess/seq-01.zip                               holds seq-01/frame-NNNNNN.{color.png, depth.png, pose.txt}
<root>/chess/seq-01/
<root>/[depth/]7scenes_chess/train/depth/seq01_frame-NNNNNN.pose.depth.tiff
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath

from d3d.datasets.archives import list_zip, need_space, read_member, unpack_member, unpack_zip
from d3d.datasets.records import read_bytes
from d3d.errors import DataError

_SCENE = re.compile(r"[A-Za-z0-9_-]+")
_SEQUENCE = re.compile(r"seq-\d+")
_SPLIT_LINE = re.compile(r"sequence ?(\d{1,3})")

# the archive of Brachmann and Rother is unpacked in <root>, or in <root>/depth (hloc)
_RENDERED_IN = (".", "depth", "rendered_depth")


@dataclass(frozen=True)
class Sequence:
    """A sequence, unpacked or not."""

    folder: Path  # folder of the frames; need not exist yet
    archive: Path | None = None  # zip to unpack; None: the folder exists
    inner: str = ""  # zip with the frames inside the archive; "": the archive holds the frames
    packed_bytes: int = 0  # size of `inner` or of the archive; PNGs do not grow by unpacking

    def unpacked(self) -> Path:
        """Unpack the sequence if necessary; return its folder. Errors: see `d3d.datasets.archives.unpack_zip`."""
        if self.archive is None or self.folder.exists():
            return self.folder
        if not self.inner:
            return unpack_zip(self.archive, self.folder, _frames_below(self.archive, self.folder.name))
        self.folder.parent.mkdir(parents=True, exist_ok=True)
        copy = unpack_member(self.archive, self.inner, self.folder.parent / f".{self.folder.name}.zip")
        unpack_zip(copy, self.folder, _frames_below(copy, self.folder.name))
        copy.unlink(missing_ok=True)
        return self.folder


def find_sequences(root: Path) -> dict[str, Sequence]:
    """Find all sequences by name ("chess/seq-01"). Folders take precedence over archives. Errors: see `list_zip`."""
    found: dict[str, Sequence] = {}
    for folder in root.glob("*/seq-*"):
        if folder.is_dir() and _SEQUENCE.fullmatch(folder.name):
            found[f"{folder.parent.name}/{folder.name}"] = Sequence(folder)
    for archive in root.glob("*/seq-*.zip"):
        if _SEQUENCE.fullmatch(archive.stem):
            packed = Sequence(archive.with_suffix(""), archive, packed_bytes=archive.stat().st_size)
            found.setdefault(f"{archive.parent.name}/{archive.stem}", packed)
    for archive in root.glob("*.zip"):
        if not _SCENE.fullmatch(archive.stem):
            continue
        for member, size in list_zip(archive).items():
            path = PurePosixPath(member)
            if path.suffix == ".zip" and _SEQUENCE.fullmatch(path.stem):
                sequence, inner = path.stem, (member, size)
            elif path.name.endswith(".pose.txt") and _SEQUENCE.fullmatch(path.parent.name):
                sequence, inner = path.parent.name, ()  # `unpack_zip` adds the sizes up
            else:
                continue
            packed = Sequence(root / archive.stem / sequence, archive, *inner)
            found.setdefault(f"{archive.stem}/{sequence}", packed)
    return dict(sorted(found.items()))


def check_space(root: Path, sequences: Iterable[Sequence]) -> None:
    """Check that the disk has room to unpack all sequences; raises DataError otherwise."""
    sizes = [s.packed_bytes for s in sequences if s.archive is not None and not s.folder.exists()]
    if sizes:
        # the inner zip stays beside its frames until they are complete
        need_space(root, sum(sizes) + max(sizes), f"{len(sizes)} sequences of 7-Scenes")


def _frames_below(archive: Path, sequence: str) -> str:
    """Find the folder of an archive with the frames of a sequence; raises DataError if there is none or several."""
    poses = [path for path in map(PurePosixPath, list_zip(archive)) if path.name.endswith(".pose.txt")]
    folders = {str(path.parent) for path in poses if path.parent.name in (sequence, "")}
    if len(folders) != 1:
        kind = "several folders" if folders else "no folder"
        raise DataError(f"{archive}: {kind} in it with frames of {sequence}.")
    below = folders.pop()
    return "" if below == "." else below


def official_split(root: Path, scene: str, name: str) -> list[str]:
    """Read the sequences ("chess/seq-01") in TrainSplit.txt or TestSplit.txt of a scene; [] if the file is missing."""
    file, archive = f"{name}Split.txt", root / f"{scene}.zip"
    path, listed = root / scene / file, []
    if path.is_file():
        listed = read_split(read_bytes(path), str(path))
    elif archive.is_file():
        for member in list_zip(archive):
            if PurePosixPath(member).name == file:
                listed = read_split(read_member(archive, member), f"{archive}, {member}")
    return [f"{scene}/{sequence}" for sequence in listed]


def read_split(content: bytes, where: str) -> list[str]:
    """Parse the sequences ("seq-01") of a split file with lines "sequence1"; raises DataError for other lines."""
    try:
        lines = content.decode("ascii").split("\n")
    except ValueError as error:
        raise DataError(f"{where}: not readable as a list of sequences ({error}).") from error
    sequences = []
    for number, line in enumerate(map(str.strip, lines), 1):
        if match := _SPLIT_LINE.fullmatch(line):
            sequences.append(f"seq-{int(match[1]):02d}")
        elif line:
            raise DataError(
                f"{where}, line {number}: {line[:80]!r} is not a sequence, for example sequence1."
            )
    if len(set(sequences)) != len(sequences):
        raise DataError(f"{where}: a sequence appears twice.")
    return sequences


def rendered_depth(root: Path, name: str) -> Callable[[str], Path] | None:
    """Return a function from the id of a frame to the file of its rendered depth; None without rendered depth."""
    scene, _, sequence = name.partition("/")
    stem = sequence.replace("-", "")
    for parent in _RENDERED_IN:
        for split in ("train", "test", "training"):
            folder = root / parent / f"7scenes_{scene}" / split / "depth"
            if any(folder.glob(_rendered_file(folder, stem, "*").name)):
                return partial(_rendered_file, folder, stem)
    return None


def _rendered_file(folder: Path, stem: str, frame: str) -> Path:
    return folder / f"{stem}_{frame}.pose.depth.tiff"
