"""Write, read and check lists of frames to score separately (section 4.1).

The paper's lists of ScanNet frames with reflective surfaces are not public. The parameter ``lists`` of the evaluation
takes your own lists, for example lists made with the package `d3d.lists`. A file is named ``<split>_<Name>.txt``. It
has one line "scene frame" per frame; "#" begins a comment.
"""

from __future__ import annotations

import itertools
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from d3d.datasets.dataset import Dataset
from d3d.datasets.scene import FrameList, Scene
from d3d.errors import ConfigError, DataError, counted, did_you_mean
from d3d.io import atomic
from d3d.progress import say_once

_NAME = re.compile(r"[A-Za-z][A-Za-z0-9-]*", re.ASCII)
HOW_TO_GIVE = "Give a folder with files <split>_<Name>.txt, one such file, or Name=file (or several)."


def write_list(path: Path, frames: Iterable[tuple[str, str]], header: Mapping[str, object]) -> Path:
    """Write sorted (scene, frame) pairs below lines "# key: value".

    Raises:
        DataError: there is no frame, or a name cannot be written.
    """
    path, frames = Path(path), sorted(set(frames))
    if not frames:
        raise DataError(f"{path}: not written, because no frame was chosen.")
    for name in itertools.chain(*frames):
        if len(name.split()) != 1 or "#" in name:
            raise DataError(f"{path}: not written: {name!r} has a space or '#', which a list cannot hold.")
    lines = [f"# {key}: {' '.join(str(value).split())}" for key, value in header.items()]
    lines += [f"{scene} {frame}" for scene, frame in frames]
    with atomic(path) as temporary:
        temporary.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def read_list(path: Path, scenes: Sequence[Scene] | None = None, where: str = "the data set") -> FrameList:
    """Read the (scene, frame) pairs of a list file.

    Args:
        scenes: scenes of the list's split. Each line is checked against them and returned in the spelling of the data
            set ("000012" for "12"). None: only the form is checked.
        where: name of these scenes, for messages.

    Raises:
        DataError: the file cannot be read, has no frame, or has wrong lines. The message quotes the first wrong line
            with near misses and counts the others by kind.
    """
    path = Path(path)
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        beside = sorted(p.name for p in path.parent.glob("*.txt")) if path.parent.is_dir() else []
        raise DataError(f"{path}: there is no such list.{did_you_mean(path.name, beside)}") from None
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
            kind, text = "unknown scene", f"{where} has no scene {scene!r}.{did_you_mean(scene, known)}"
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
    """Return the indices of a scene's frames that are on a list, also if the list was read without scenes."""
    spelled = _Frames(scene)
    wanted = {spelled.find(frame) for name, frame in frames if name == scene.name}
    return [i for i, frame in enumerate(scene.frame_ids) if frame in wanted]


class _Frames:
    """The frames of a scene by id, and by number if every id ends in a different number."""

    def __init__(self, scene: Scene) -> None:
        self.name, self.ids, self.left_out = scene.name, frozenset(scene.frame_ids), scene.left_out
        # "000012", or "frame-000012" in 7-Scenes
        numbers = {int(m[0]): i for i in scene.frame_ids if (m := re.search(r"[0-9]+$", i))}
        self.by_number = numbers if len(numbers) == len(self.ids) else {}

    def find(self, frame: str) -> str | None:
        """Return the data set's spelling of a frame; None for an unknown frame."""
        if frame in self.ids:
            return frame
        return self.by_number.get(int(frame)) if frame.isdecimal() else None

    def missing(self, frame: str) -> str:
        """Return why a frame is missing, or the nearest frames."""
        ids = sorted(self.ids)
        why = self.left_out.get(frame) or self.left_out.get(str(int(frame)) if frame.isdecimal() else "")
        if why:
            return f"scene {self.name!r} leaves frame {frame!r} out: {why.rstrip('.')}."
        text = f"scene {self.name!r} has no frame {frame!r}, but {len(ids)} from {ids[0]!r} to {ids[-1]!r}"
        if frame.isdecimal() and self.by_number:
            near = sorted(self.by_number, key=lambda n: abs(n - int(frame)))[:2]
            return f"{text}. Nearest: {', '.join(self.by_number[n] for n in sorted(near))}."
        return f"{text}.{did_you_mean(frame, ids)}"


def given_files(given: str, split: str) -> dict[str, Path]:
    """Parse the parameter ``lists`` and return {name of the list: file}.

    Args:
        given: a folder with files ``<split>_<Name>.txt`` (files of other splits are ignored), a file of this name, or
            "Name=file". Several "Name=file" are separated by commas.

    Raises:
        ConfigError: ``given`` has another form, or the name of a list is invalid.
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
        what = "is not a folder" if path.suffix != ".txt" else f"is not named {prefix}<Name>.txt"
        raise ConfigError(f"lists = {given!r} {what}. {HOW_TO_GIVE}")
    for name, path in files.items():
        check_name(name, split, f" ({path})")
    return files


def check_name(name: str, split: str, where: str = "") -> None:
    """Check the name of a list, which becomes part of tables and file names; raises ConfigError if it is invalid."""
    if not _NAME.fullmatch(name) or name.lower() == split.lower():
        rule = "use letters, digits and '-', begin with a letter, and do not use the name of the split"
        raise ConfigError(f"lists: {name!r}{where} cannot be a list's name: {rule}.")


def with_given(dataset: Dataset, given: str, split: str, every: int = 1) -> Dataset:
    """Return the data set with the user's lists, which are checked. They replace lists of the same name.

    Args:
        given: value of the parameter ``lists``, see `given_files`.
        every: every Nth frame of a scene is evaluated. Other frames on a list are not scored.

    Raises:
        ConfigError: as `given_files`.
        DataError: as `read_list`; or no frame of a list is evaluated.
    """
    where = f"split {split!r} of data set {dataset.name!r}"
    scenes = dataset.scenes(split)
    evaluated = {(s.name, s.frame_ids[i]) for s in scenes for i in s.every(every)}
    checked = {}
    for name, path in given_files(given, split).items():
        checked[name] = read_list(path, scenes, where)
        left, rule = checked[name] & evaluated, f"evaluated with eval_every = {every}; 1 evaluates all."
        of_all = f"of its {len(checked[name]):,} frames"
        if not left:
            raise DataError(f"{path}: none {of_all} is {rule}")
        if left != checked[name]:
            say_once(f"{path}: {counted(len(left), f'{of_all} is', f'{of_all} are')} {rule}")
    return dataset.with_lists(split, checked)
