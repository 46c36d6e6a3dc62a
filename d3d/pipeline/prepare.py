"""Prepare ScanNet: `python -m d3d prepare scannet --root FOLDER --out FOLDER`.

The command first reads all poses and selects the frames of the triples. It estimates the disk space from a sample of
frames. Then it prepares the scenes, on this machine or a cluster. If you repeat the command, it skips finished scenes.
`open_dataset("scannet", out)` then gives the same triples as the whole video.
"""

from __future__ import annotations

import argparse
import hashlib
import shutil
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock, Timeout

from d3d.datasets.dataset import require_root
from d3d.datasets.lists import given_files, read_list
from d3d.datasets.scannet import prepared
from d3d.datasets.scannet.dataset import FOLDERS, HOW_TO_GET, NAME, SceneSource, find_scenes, refuse_sparse
from d3d.datasets.scannet.lists import SCENE_NAME, SPLITS, split_scenes
from d3d.datasets.scannet.prepare import BLOCK, Job, Settings, prepare_scene, summary, survey
from d3d.errors import BusyError, ConfigError, DataError, RunError, counted, unknown
from d3d.io import read_json, write_json
from d3d.parallel.tasks import run_tasks
from d3d.pipeline.runs import differences
from d3d.progress import say

PAPER_TRIPLES = 45_539
_SAMPLED_SCENES, _SAMPLED_FRAMES = 12, 3
_MARGIN = 1.1  # for larger frames and for folders
_ALIGNED_PX = 3.0  # the colour and depth cameras of ScanNet agree to about one pixel of depth


def prepare_scannet(
    root: str | Path,
    out: str | Path,
    settings: Settings | None = None,
    *,
    splits: Sequence[str] = tuple(SPLITS),
    split_lists: str | Path | None = None,
    lists: str | None = None,
    without: Sequence[str] = (),
    max_corrupt: float = 0.01,
    scheduler: str = "auto",
    workers: int = 0,
) -> dict[str, Any]:
    """Write the needed frames of ScanNet, print a report, and return the manifest.

    Args:
        root: the folder with the scenes, in any layout of `d3d.datasets.scannet.dataset`.
        out: the folder to write; finished scenes in it are skipped.
        settings: by default the paper's.
        split_lists: as for `open_scannet`.
        lists: as for `given_files`.
        without: names of scenes to leave out.
        max_corrupt: largest tolerated share of unreadable frames in a scene.
        scheduler, workers: as for `run_tasks`.

    Raises:
        ConfigError: an invalid argument.
        DataError: the data cannot be found or read, or a list is wrong.
        BusyError: another process uses the folder.
        RunError: the folder has other settings or cannot be written; the disk is too small; or some scenes failed.
            The other scenes are completed before the error.
    """
    settings = (settings or Settings()).checked()
    # absolute, because workers may have another working directory
    root, out = (Path(path).expanduser().absolute() for path in (require_root(NAME, root, HOW_TO_GET), out))
    if not 0 <= max_corrupt <= 1:
        raise ConfigError(f"max_corrupt = {max_corrupt!r} must be a share between 0 and 1.")
    inputs = {(root / folder).resolve() for folder in FOLDERS}
    if out.resolve() in inputs or prepared.is_prepared(root):
        raise ConfigError(
            f"--root {root} and --out {out}: the first must hold the original data, the second must be another folder."
        )
    sources = _sources(root, splits, split_lists, without)
    refuse_sparse(sources.get("train", {}).values())
    listed = _listed(lists, sources)
    jobs = {
        name: Job(source, split, listed.get(name, ()), out, settings, max_corrupt)
        for split, of_split in sources.items()
        for name, source in of_split.items()
    }
    where = {"scheduler": scheduler, "workers": workers}
    lock = _lock(out)
    try:
        _check_settings(out, settings)
        sizes = _survey(jobs, out, where)
        if sizes:
            (out / prepared.MANIFEST).unlink(missing_ok=True)  # until all scenes are there again
        tasks = {name: (jobs[name],) for name in sizes}
        made = run_tasks(prepare_scene, tasks, what="prepare", sizes=sizes, unit="frame", **where)
        manifest = _manifest(out, settings, jobs, made)
        write_json(out / prepared.MANIFEST, manifest)
    finally:
        lock.release()
    for line in (*report(manifest, sources), f"prepared: {out}"):
        say(line)
    return manifest


def _sources(
    root: Path, splits: Sequence[str], split_lists: str | Path | None, without: Sequence[str]
) -> dict[str, dict[str, SceneSource]]:
    """Return the scenes to prepare, by split and name."""
    found = find_scenes(root)
    for kind, names, known in (("split", splits, SPLITS), ("scene to leave out", without, found)):
        if wrong := [name for name in names if name not in known]:
            raise unknown(kind, wrong[0], known)
    if not found:
        raise DataError(f"{root} holds no scene of ScanNet. {HOW_TO_GET}")
    scenes = split_scenes(root, split_lists)
    result = {
        split: {n: found[n] for n in scenes.get(split, ()) if n in found and n not in without}
        for split in splits
    }
    if not any(result.values()):
        raise DataError(f"{root}: none of its {len(found)} scenes is in the lists of {', '.join(splits)}.")
    for split, of_split in result.items():
        listed = scenes.get(split, ())
        missing = [name for name in listed if name not in found]
        if missing or not of_split:
            names = (
                f": missing {', '.join(missing[:3])}{', ...' if len(missing) > 3 else ''}" if missing else ""
            )
            say(f"{split}: found {len(of_split)} of the {len(listed)} scenes on the list{names}")
    return {split: of_split for split, of_split in result.items() if of_split}


def _listed(lists: str | None, sources: Mapping[str, Mapping]) -> dict[str, tuple[int, ...]]:
    """Return the frame numbers on the user's lists, by scene."""
    if lists is None:
        return {}
    files: set[Path] = set()
    for split in ("val", "test"):
        try:
            files.update(given_files(lists, split).values())
        except (ConfigError, DataError):
            if split == "test" and not files:  # lists of one split are enough
                raise
    evaluated = {name for split in ("val", "test") for name in sources.get(split, ())}
    result: dict[str, set[int]] = defaultdict(set)
    for path in sorted(files):
        absent = Counter()
        for scene, frame in read_list(path):
            if not SCENE_NAME.fullmatch(scene) or not frame.isdecimal():
                wrong = f"{path}: {scene!r} {frame!r}"
                raise DataError(
                    f"{wrong} is not a scene and a frame of ScanNet. Write, for example: scene0704_00 120."
                )
            if scene in evaluated:
                result[scene].add(int(frame))
            else:
                absent[scene] += 1
        if absent:
            say(
                f"{path}: {counted(absent.total(), 'frame belongs', 'frames belong')} to scenes that are not "
                f"prepared ({', '.join(absent)})"
            )
    return {scene: tuple(sorted(numbers)) for scene, numbers in result.items()}


def _lock(out: Path) -> FileLock:
    """Lock the folder for this process."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        lock = FileLock(out / ".lock")
        lock.acquire(timeout=0)
    except Timeout:
        raise BusyError(f"{out} is in use by another process. Wait for it, or give another folder.") from None
    except OSError as error:
        raise RunError(f"{out} cannot be written ({error}). Give another folder.") from error
    return lock


def _check_settings(out: Path, settings: Settings) -> None:
    """Check the settings of the folder, and remove temporary files of an interrupted call.

    Raises:
        RunError: the folder has other settings or other contents.
    """
    path, ours = out / prepared.SETTINGS, {"name": NAME, "format": prepared.FORMAT, **_plain(settings)}
    if path.is_file():
        if lines := differences(ours, read_json(path)):
            listed = "\n  ".join(lines)
            raise RunError(f"{out} was prepared with other settings:\n  {listed}\nGive another folder.")
    elif any(not entry.name.startswith(".") for entry in out.iterdir()):
        raise RunError(f"{out} holds files, but no prepared ScanNet. Give an empty folder.")
    else:
        write_json(path, ours)
    for left in (*out.glob("scans/.*.part-*"), *out.glob("scans_test/.*.part-*")):
        shutil.rmtree(left, ignore_errors=True)


def _plain(settings: Settings) -> dict[str, Any]:
    return {key: list(v) if isinstance(v, tuple) else v for key, v in asdict(settings).items()}


def _survey(jobs: Mapping[str, Job], out: Path, where: Mapping[str, Any]) -> dict[str, int]:
    """Return the number of frames of each unfinished scene; a `RunError` if the disk is too small."""
    names = list(jobs)
    sampled = {names[k] for k in np.linspace(0, len(names) - 1, _SAMPLED_SCENES).astype(int)}
    tasks = {name: (jobs[name], _SAMPLED_FRAMES if name in sampled else 0) for name in names}
    found = run_tasks(survey, tasks, what="poses and triples", **where)
    left = {name: s for name, s in found.items() if not s["done"]}
    if len(left) < len(names):
        say(f"{len(names) - len(left)} of {len(names)} scenes are already prepared")
    colors, depths = (sum(s[key] for s in left.values()) for key in ("colors", "depths"))
    if not colors:
        return dict.fromkeys(left, 0)
    if not any(
        s["bytes"]["color"] for s in left.values()
    ):  # the sampled scenes are finished or without triples
        some = max(left, key=lambda name: left[name]["colors"])
        left[some] = survey(jobs[some], _SAMPLED_FRAMES)
    color, depth = (
        np.mean([size for s in left.values() for size in s["bytes"][kind]] or [0])
        for kind in ("color", "depth")
    )
    need = _MARGIN * (colors * (color + BLOCK) + depths * depth)  # a block for the file of the pose
    free = shutil.disk_usage(out).free
    say(
        f"{counted(len(left), 'scene')} to prepare: {counted(colors, 'frame')}, {depths} of them with depth; "
        f"about {need / 1e9:.2f} GB (frames of {color / 1e3:.0f} kB, depth of {depth / 1e3:.0f} kB), "
        f"{free / 1e9:.1f} GB free"
    )
    if need > free:
        raise RunError(
            f"{out}: the disk has {free / 1e9:.2f} GB free, and about {need / 1e9:.2f} GB are needed. Nothing was "
            f"written. Give a folder on another disk, fewer splits, or a smaller size."
        )
    return {name: s["colors"] for name, s in left.items()}


def _manifest(out: Path, settings: Settings, jobs: Iterable[str], made: Mapping[str, dict]) -> dict[str, Any]:
    """Return the manifest of the folder, with the scenes of earlier calls."""
    entries = dict(made)
    for folder in (*out.glob("scans/scene*"), *out.glob("scans_test/scene*")):
        name = folder.name
        if name not in entries and SCENE_NAME.fullmatch(name) and (folder / prepared.INDEX).is_file():
            index = prepared.read_index(folder, name)
            if prepared.scene_folder(out, index["split"], name) == folder:
                entries[name] = summary(index)
    if missing := sorted(set(jobs) - set(entries)):
        names = ", ".join(missing[:3])
        raise RunError(
            f"{out}: {counted(len(missing), 'scene is', 'scenes are')} missing ({names}). Repeat the command."
        )
    scenes = [entries[name] for name in sorted(entries)]
    return {"name": NAME, "format": prepared.FORMAT, "settings": _plain(settings), "scenes": scenes}


def report(manifest: Mapping[str, Any], sources: Mapping[str, Iterable[str]]) -> list[str]:
    """Describe the manifest: contents of each split, omitted frames with reasons, our triples and the paper's."""
    lines = []
    for split in SPLITS:
        scenes = [scene for scene in manifest["scenes"] if scene["split"] == split]
        if not scenes:
            continue
        left_out = sum((Counter(scene["left_out"]) for scene in scenes), Counter())
        keys = ("video_frames", "frames", "with_depth", "bytes")
        video, kept, with_depth, size = (sum(scene[key] for scene in scenes) for key in keys)
        lines.append(
            f"{split}: {counted(len(scenes), 'scene')}, {counted(video, 'video frame')}, {kept} kept, "
            f"{with_depth} of them with depth, {size / 1e9:.2f} GB"
        )
        lines += [f"    left out {count}: {reason}" for reason, count in left_out.most_common()]
        for s in scenes:
            lines += [f"        {s['name']} {frame}: {why}" for frame, why in s["corrupt"].items()]
            if s["listed_left_out"]:
                numbers = ", ".join(map(str, s["listed_left_out"]))
                lines.append(f"    on a list, but unusable for scoring: {s['name']} {numbers}")
        if split == "train":
            lines += _triples(scenes, manifest["settings"], sources.get("train", ()))
    off = [(s["registration_px"], s["name"]) for s in manifest["scenes"] if s["registration_px"] is not None]
    if off:
        worst, name = max(off)
        lines.append(f"depth and resized colour are misaligned by at most {worst:.1f} depth pixels ({name})")
    if apart := [name for px, name in off if px > _ALIGNED_PX]:
        names = ", ".join(apart[:6])
        lines.append(f"    more than {_ALIGNED_PX:g} in {counted(len(apart), 'scene')}: {names}; check them")
    return lines


def _triples(scenes: Sequence[Mapping], settings: Mapping[str, Any], names: Iterable[str]) -> list[str]:
    """Describe the number of triples beside the paper's."""
    found, tried = (sum(s["triples"][key] for s in scenes) for key in ("found", "tried"))
    with_triples = sum(s["triples"]["found"] > 0 for s in scenes)
    lines = [
        f"    {counted(found, 'triple')} of {counted(tried, 'target')}, in {counted(with_triples, 'scene')}"
    ]
    dropped = sum((Counter(s["triples"]["dropped"]) for s in scenes), Counter())
    lines += [f"        dropped {count}: {reason}" for reason, count in dropped.most_common()]
    digest = hashlib.sha256("".join(f"{name}\n" for name in names).encode()).hexdigest()
    rule = ("every", "translation_m", "max_rotation_deg")
    same_rule = all(settings[key] == _plain(Settings())[key] for key in rule)
    if digest == SPLITS["train"][1] and same_rule:
        lines.append(f"    the paper has {PAPER_TRIPLES} triples: ours are {found / PAPER_TRIPLES - 1:+.2%}")
    else:
        whole = f"for all {SPLITS['train'][0]} scenes of the official train split and the paper's rule"
        here = (
            f"this folder has {counted(len(scenes), 'scene')}"
            if same_rule
            else "this folder uses another rule"
        )
        lines.append(f"    the paper's {PAPER_TRIPLES} triples are {whole}; {here}")
    return lines


def run(arguments: Sequence[str]) -> None:
    """Run ``python -m d3d prepare scannet`` with the given arguments; a `ConfigError` for an unknown option."""
    about = __doc__.split("\n\n")[1]
    parser = argparse.ArgumentParser("python -m d3d prepare scannet", description=about, allow_abbrev=False)
    add = parser.add_argument
    add("--root", required=True, help="folder with scans/, or with the scenes: .sens files or exported ones")
    add("--out", required=True, help="folder to write; finished scenes in it are skipped")
    for field in fields(Settings):
        default, flag = field.default, f"--{field.name.replace('_', '-')}"
        kind = {"type": float, "nargs": 2} if isinstance(default, tuple) else {"type": type(default)}
        if isinstance(default, bool):
            add(flag, action="store_true", help="also keep the depth of training targets")
        else:
            add(flag, default=default, help=f"default {default}", **kind)
    add("--splits", default=",".join(SPLITS), help="splits, separated by commas; default all")
    add("--split-lists", help="folder of scannetv2_<split>.txt; default: beside the scenes, or downloaded")
    add("--lists", help="lists of frames to score: a folder, a file, or Name=file (docs/lists.md)")
    add("--without", default="", help="scenes to leave out, separated by commas")
    add(
        "--max-corrupt",
        type=float,
        default=0.01,
        help="largest tolerated share of unreadable frames in a scene",
    )
    add("--scheduler", default="auto", help="auto, none, local, or a dask scheduler (docs/clusters.md)")
    add("--workers", type=int, default=0, help="processes; 0: one per core")
    values, rest = parser.parse_known_args(list(arguments))
    if rest:
        known = [action.dest.replace("_", "-") for action in parser._actions]
        raise unknown("option", rest[0].split("=")[0].lstrip("-"), known)
    given = vars(values)
    settings = {field.name: given.pop(field.name) for field in fields(Settings)}
    settings["translation_m"] = tuple(settings["translation_m"])
    given["splits"] = given["splits"].split(",")
    given["without"] = [name for name in given["without"].split(",") if name]
    prepare_scannet(given.pop("root"), given.pop("out"), Settings(**settings), **given)
