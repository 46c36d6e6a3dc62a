"""Lists of frames that are scored apart (section 4.1): written, read, and checked against a data set.

The paper's lists of ScanNet frames with reflective surfaces are not public. A list of your own, perhaps made with
the package `d3d.lists`, is given to the evaluation by the parameter ``lists``. A file is named
``<split>_<Name>.txt``; it has one line "scene frame" per frame, and "#" begins a comment.
"""

from __future__ import annotations

import difflib
import itertools
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from d3d.datasets.dataset import Dataset
from d3d.datasets.scene import FrameList, Scene
from d3d.errors import ConfigError, DataError
from d3d.io import atomic
from d3d.progress import say_once

_NAME = re.compile(r"[A-Za-z][A-Za-z0-9-]*", re.ASCII)
HOW_TO_GIVE = "Give a folder with files <split>_<Name>.txt, one such file, or Name=file (or several)."


def write_list(path: Path, frames: Iterable[tuple[str, str]], header: Mapping[str, object]) -> Path:
    """Writes sorted (scene, frame) pairs below "# key: value" lines; raises DataError for none or a wrong name."""
    path, frames = Path(path), sorted(set(frames))
    if not frames:
        raise DataError(f"{path}: not written, as no frame was chosen.")
    for name in itertools.chain(*frames):
        if len(name.split()) != 1 or "#" in name:
            raise DataError(f"{path}: not written: {name!r} has a space or '#' and could not be read back.")
    lines = [f"# {key}: {' '.join(str(value).split())}" for key, value in header.items()]
    lines += [f"{scene} {frame}" for scene, frame in frames]
    with atomic(path) as temporary:
        temporary.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def read_list(path: Path, scenes: Sequence[Scene] | None = None, where: str = "the data set") -> FrameList:
    """The (scene, frame) pairs of a list file.

    Args:
        scenes: of the list's split; each line is checked against them and returned in the data set's spelling
            ("000012" for "12"). None: only the form is checked.
        where: names these scenes in errors.

    Raises:
        DataError: the file cannot be read, has no frame, or has wrong lines; quotes the first with its near misses,
            and counts the others by kind.
    """
    path = Path(path)
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        beside = sorted(p.name for p in path.parent.glob("*.txt")) if path.parent.is_dir() else []
        raise DataError(f"{path}: there is no such list{_near(path.name, beside)}") from None
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: not readable as a list of frames ({error}).") from None
    known = None if scenes is None else {scene.name: _Frames(scene) for scene in scenes}
    seen: dict[tuple[str, str], int] = {}
    wrong: list[tuple[str, str]] = []  # kind of error, message
    for number, line in enumerate(lines, 1):
        words = line.split("#")[0].split()
        if not words:
            continue
        scene, frame = words if len(words) == 2 else ("", "")
        spelled = known[scene].find(frame) if known is not None and scene in known else frame
        if not scene:
            kind, text = "malformed line", "not a scene and a frame."
        elif known is not None and scene not in known:
            kind, text = "unknown scene", f"{where} has no scene {scene!r}{_near(scene, known)}"
        elif spelled is None:
            kind, text = "unknown frame", known[scene].missing(frame)
        elif (scene, spelled) in seen:
            kind, text = "duplicate", f"line {seen[scene, spelled]} has this frame already."
        else:
            seen[scene, spelled] = number
            continue
        wrong.append((kind, f"{path}, line {number}: {line.strip()!r}: {text}"))
    if wrong:
        kinds = Counter(kind for kind, _ in wrong)
        counts = ", ".join(f"{n} {kind}{'s' if n > 1 else ''}" for kind, n in kinds.items())
        more = f" In all {len(wrong)} lines are wrong: {counts}." if len(wrong) > 1 else ""
        raise DataError(wrong[0][1] + more)
    if not seen:
        raise DataError(f"{path}: the list is empty: no line has a scene and a frame.")
    return frozenset(seen)


def indices_on(frames: FrameList, scene: Scene) -> list[int]:
    """Indices of a scene's frames that are on a list; the list may have been read without the scenes."""
    spelled = _Frames(scene)
    wanted = {spelled.find(frame) for name, frame in frames if name == scene.name}
    return [i for i, frame in enumerate(scene.frame_ids) if frame in wanted]


class _Frames:
    """A scene's frames by id and, where every id ends in a different number, by number."""

    def __init__(self, scene: Scene) -> None:
        self.name, self.ids, self.left_out = scene.name, frozenset(scene.frame_ids), scene.left_out
        # "000012", and "frame-000012" as 7-Scenes has it
        numbers = {int(m[0]): i for i in scene.frame_ids if (m := re.search(r"[0-9]+$", i))}
        self.by_number = numbers if len(numbers) == len(self.ids) else {}

    def find(self, frame: str) -> str | None:
        """The data set's spelling of a frame; None if there is no such frame."""
        if frame in self.ids:
            return frame
        return self.by_number.get(int(frame)) if frame.isdecimal() else None

    def missing(self, frame: str) -> str:
        """Why a frame is not there, or which frames are near it."""
        ids = sorted(self.ids)
        why = self.left_out.get(frame) or self.left_out.get(str(int(frame)) if frame.isdecimal() else "")
        if why:
            return f"scene {self.name!r} leaves frame {frame!r} out: {why.rstrip('.')}."
        text = f"scene {self.name!r} has no frame {frame!r}, but {len(ids)} from {ids[0]!r} to {ids[-1]!r}"
        if frame.isdecimal() and self.by_number:
            near = sorted(self.by_number, key=lambda n: abs(n - int(frame)))[:2]
            return f"{text}. Nearest: {', '.join(self.by_number[n] for n in sorted(near))}."
        return text + _near(frame, ids)


def _near(name: str, choices: Iterable[str]) -> str:
    """The end of a sentence: the near misses, if any."""
    near = difflib.get_close_matches(name, list(choices), n=3, cutoff=0.5)
    return f". Did you mean {' or '.join(repr(n) for n in near)}?" if near else "."


def given_files(given: str, split: str) -> dict[str, Path]:
    """The files of the parameter ``lists``, by the names of the lists.

    ``given`` is a folder with files ``<split>_<Name>.txt`` (those of other splits are ignored), one such file, or
    "Name=file", several of them with commas between.

    Raises:
        ConfigError: none of these, or an invalid name of a list.
        DataError: the folder has no list of this split.
    """
    prefix, path = f"{split}_", Path(given).expanduser()
    if re.match(r"[^/\\]*=", given):
        files = {}
        for part in re.split(r",(?=[^,/\\]*=)", given):
            name, file = map(str.strip, part.split("=", 1))
            if name in files:
                raise ConfigError(f"lists = {given!r}: {name!r} is given twice.")
            files[name] = Path(file).expanduser()
    elif path.is_dir():
        files = {p.stem.removeprefix(prefix): p for p in sorted(path.glob(f"{prefix}*.txt"))}
        if not files:
            there = ", ".join(sorted(p.name for p in path.glob("*.txt"))[:6]) or "no .txt file at all"
            none = f"no file {prefix}<Name>.txt for split {split!r}"
            raise DataError(f"lists = {given!r}: {none}; there: {there}.")
    elif path.name.startswith(prefix) and path.suffix == ".txt":
        files = {path.stem.removeprefix(prefix): path}
    else:
        what = "is no folder" if path.suffix != ".txt" else f"is not named {prefix}<Name>.txt"
        raise ConfigError(f"lists = {given!r} {what}. {HOW_TO_GIVE}")
    for name, path in files.items():
        check_name(name, split, f" ({path})")
    return files


def check_name(name: str, split: str, where: str = "") -> None:
    """Raises ConfigError where a list of this name could not stand in a table or in a file's name."""
    if not _NAME.fullmatch(name) or name.lower() == split.lower():
        rule = "it takes letters, digits and '-', begins with a letter and is not the split's own"
        raise ConfigError(f"lists: {name!r}{where} cannot be a list's name: {rule}.")


def with_given(dataset: Dataset, given: str, split: str, every: int = 1) -> Dataset:
    """The data set with a user's lists of a split beside, or instead of, its own; all are checked now.

    Args:
        every: every Nth frame of a scene is evaluated; other frames of a list are left out of its scores.

    Raises:
        ConfigError: as `given_files`.
        DataError: as `read_list`, or no frame of a list is evaluated.
    """
    where = f"split {split!r} of data set {dataset.name!r}"
    scenes = dataset.scenes(split)
    evaluated = {(s.name, s.frame_ids[i]) for s in scenes for i in s.every(every)}
    checked = {}
    for name, path in given_files(given, split).items():
        checked[name] = read_list(path, scenes, where)
        left, rule = checked[name] & evaluated, f"evaluated with eval_every = {every}; 1 evaluates all."
        if not left:
            raise DataError(f"{path}: none of its {len(checked[name])} frames is {rule}")
        if left != checked[name]:
            say_once(f"{path}: {len(left)} of its {len(checked[name])} frames are {rule}")
    return dataset.with_lists(split, checked)
