"""Frames that cannot be read, found before hours are spent: each that is needed is decoded once.

One truncated image among thousands would otherwise end a training whenever its turn comes. What is bad is listed in
``runs/<run>/frames/<split>/unreadable.csv`` and left out by everything downstream; more of it than a
stated share is an error. A data set whose frames are verified already (`Dataset.verified`) has no such stage.
"""

from __future__ import annotations

import csv
import hashlib
import json
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from d3d import io
from d3d.datasets import Scene
from d3d.errors import BusyError, D3DError, DataError, RunError
from d3d.parallel.tasks import advance, run_tasks
from d3d.pipeline import runs
from d3d.pipeline.config import Config
from d3d.pipeline.stages.chain import outputs
from d3d.progress import say

TRAINING = "training"  # the folder of what a training needs; what is evaluated has one a split
UNREADABLE = "unreadable.csv"
_COLUMNS = ("scene", "frame", "reason")

# scene -> frame id -> why it cannot be read
Unreadable = Mapping[str, Mapping[str, str]]


def unreadable(
    config: Config,
    split: str,
    needed: Callable[[], Sequence[tuple[Scene, Sequence[int]]]],
    depth: bool = False,
    made_from: Mapping[str, str] | None = None,
) -> Unreadable:
    """The frames of a split that cannot be read, by scene; decodes what nobody has decoded yet.

    A check that was killed goes on with the scenes that are left; one that ended with too many bad frames decodes
    those again, and those alone.

    Args:
        split: the stage's folder, `TRAINING` or the name of what is evaluated.
        needed: makes (scene, indices of its frames); called only where something is left to be done.
        depth: whether ground truth is needed, too.
        made_from: name -> sha256 of what else, besides the configuration, determines which frames are needed.

    Raises:
        DataError: more than ``max_bad_share`` of the frames are bad; names the list.
        RunError: the check in the run's folder is of another configuration, or of other frames; or its list is not
            what it left.
    """
    while made_from or outputs(config, "frames", labels=split) is None:
        try:
            with runs.open_stage(config, "frames", labels=split, inputs=made_from) as stage:
                if not stage.done:
                    _check(config, stage, needed(), depth)
                break
        except BusyError:  # another process of this run decodes the very same frames
            time.sleep(1)
    listed = runs.stage_folder(config, "frames", labels=split) / UNREADABLE
    bad = read_unreadable(listed)
    if (outputs(config, "frames", labels=split) or {}).get(UNREADABLE) != io.sha256(listed):
        raise RunError(f"{listed} is not the list that the check left. Delete its folder to check anew.")
    return bad


def inputs(config: Config, split: str = TRAINING) -> dict[str, str]:
    """What a stage that leaves frames out was made from: the list's sha256; nothing where no frame was bad."""
    left = outputs(config, "frames", labels=split) or {}
    listed = runs.stage_folder(config, "frames", labels=split) / UNREADABLE
    return {f"frames/{k}": v for k, v in left.items()} if left and read_unreadable(listed) else {}


def _check(
    config: Config, stage: runs.Stage, needed: Sequence[tuple[Scene, Sequence[int]]], depth: bool
) -> None:
    # a frame whose pose cannot be read is none of the scene's
    number = sum(len(frames) + len(scene.corrupt) for scene, frames in needed)
    tasks = {
        scene.name: (scene, list(frames), depth, stage.folder / "scenes" / f"{_file_name(scene.name)}.json")
        for scene, frames in needed
    }
    what = f"frames/{stage.folder.name}: decoding each of {number:,} once"
    say(what)
    sizes = {scene.name: len(frames) for scene, frames in needed}
    where = {"scheduler": config.scheduler, "workers": config.scene_workers}
    found = run_tasks(check_scene, tasks, what=what.split(":")[0], sizes=sizes, unit="frame", **where)
    bad = {s.name: reasons for s, _ in needed if (reasons := {**s.corrupt, **found[s.name]})}
    count = sum(map(len, bad.values()))
    listed = stage.folder / UNREADABLE
    write_unreadable(listed, bad)
    if count > config.max_bad_share * number:
        raise DataError(
            f"{count:,} of {number:,} frames cannot be read, more than max_bad_share = {config.max_bad_share:g} "
            f"allows: the list, with reasons, is {listed}. Copy them again and run the same once more (only these "
            f"are decoded again), or set max_bad_share higher to leave them out."
        )
    if count:
        say(f"{count:,} of {number:,} frames cannot be read and are left out: the list is {listed}")
    stage.finish({UNREADABLE: io.sha256(listed)}, frames=number, unreadable=count)


def check_scene(scene: Scene, frames: Sequence[int], depth: bool, path: Path) -> dict[str, str]:
    """Decodes frames of one scene; a task of `run_tasks`.

    Args:
        frames: their indices.
        depth: whether ground truth is decoded, too.
        path: where the result is kept as JSON; of an earlier one only the bad frames are decoded again.

    Returns:
        frame id -> reason of those that cannot be read.
    """
    ids = [scene.frame_ids[i] for i in frames]
    digest = hashlib.sha256(json.dumps([ids, depth]).encode()).hexdigest()
    before = _read_result(path, digest)
    reasons = {}
    for i, frame in zip(frames, ids, strict=True):
        if before is None or frame in before:
            try:
                scene.image(i)
                if depth:
                    scene.depth(i)
            except D3DError as error:
                reasons[frame] = str(error)
        advance()
    io.write_json(path, {"frames_sha256": digest, "unreadable": reasons})
    return reasons


def _read_result(path: Path, digest: str) -> dict[str, str] | None:
    """What an earlier check of the same frames left, or None."""
    if not path.is_file():
        return None
    try:
        stored = io.read_json(path)
    except RunError:
        return None  # it costs a minute to make, and nobody could say what else to do with it
    if not isinstance(stored, dict) or stored.get("frames_sha256") != digest:
        return None
    return stored.get("unreadable")


def write_unreadable(path: Path, bad: Unreadable) -> None:
    """Writes scene, frame and reason as CSV, whole or not at all."""
    with io.atomic(path) as temporary, open(temporary, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(_COLUMNS)
        writer.writerows((scene, *row) for scene, rows in bad.items() for row in rows.items())


def read_unreadable(path: Path) -> Unreadable:
    """The list that `write_unreadable` wrote.

    Raises:
        DataError: missing, or not such a list.
    """
    bad: dict[str, dict[str, str]] = {}
    try:
        with open(path, newline="", encoding="utf-8") as file:
            rows = list(csv.reader(file, strict=True))
    except (OSError, ValueError, csv.Error) as error:
        raise DataError(f"{path}: not readable as a list of frames ({error}). Delete its folder.") from error
    if not rows or tuple(rows[0]) != _COLUMNS or any(len(row) != len(_COLUMNS) for row in rows):
        raise DataError(f"{path}: not a list of {', '.join(_COLUMNS)}. Delete its folder.")
    for scene, frame, reason in rows[1:]:
        bad.setdefault(scene, {})[frame] = reason
    return bad


def _file_name(scene: str) -> str:
    return scene.replace("/", "__")
