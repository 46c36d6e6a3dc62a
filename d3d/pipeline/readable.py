"""Find unreadable frames before a training: decode each needed frame once.

Otherwise one truncated image could end a long training. ``runs/<run>/frames/<split>/<digest>/unreadable.csv`` lists
the unreadable frames; the digest is that of the needed frames. `d3d.pipeline.scenes` leaves the listed frames out. Data
sets with verified frames (`Dataset.verified`) are not checked.
"""

from __future__ import annotations

import csv
import hashlib
import json
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from d3d import io
from d3d.datasets import Scene
from d3d.datasets.images import HW
from d3d.datasets.scene import digest_of
from d3d.errors import BusyError, D3DError, DataError, RunError
from d3d.parallel.tasks import advance, run_tasks
from d3d.pipeline import runs
from d3d.pipeline.settings import Config
from d3d.progress import say

# the folder for the frames of a training; each evaluated split has a folder too
TRAINING = "training"
UNREADABLE = "unreadable.csv"
_COLUMNS = ("scene", "frame", "reason")

# scene -> frame id -> reason
Unreadable = Mapping[str, Mapping[str, str]]
# scenes with the indices of their frames
Frames = Sequence[tuple[Scene, Sequence[int]]]


def unreadable(config: Config, split: str, needed: Frames, depth: bool = False) -> Unreadable:
    """Return the unreadable frames of a split, by scene. Frames are decoded only if an earlier check has not done so.

    If a check failed because of too many unreadable frames, the next check decodes only these again.

    Args:
        split: `TRAINING`, or the name of the evaluated split.
        depth: whether to read the ground truth too.

    Raises:
        DataError: more than ``max_bad_share`` of the frames are unreadable, or intrinsics are missing.
        RunError: the list of unreadable frames was changed after the check.
    """
    folder = check_folder(config, split, needed, depth)
    identity = {"frames": folder.name}
    while not runs.is_done(folder):
        try:
            with runs.open_folder(folder, config, identity, {}) as opened:
                if not opened.done:
                    _check(config, opened, needed, depth)
        except BusyError:  # another process of this run decodes the same frames
            time.sleep(1)
    listed = folder / UNREADABLE
    bad = read_unreadable(listed)
    if runs.outputs(folder).get(UNREADABLE) != io.sha256(listed):
        raise RunError(f"{listed} was changed after the check. Delete its folder to check again.")
    return bad


def check_folder(config: Config, split: str, needed: Frames, depth: bool = False) -> Path:
    """Return the folder for the check of the given frames. If the run's base has finished the check: its folder."""
    scenes, frames = [s for s, _ in needed], [f for _, f in needed]
    about = [digest_of(scenes, frames), depth, {s.name: dict(s.corrupt) for s in scenes if s.corrupt}]
    digest = hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()[:16]
    own, theirs = (runs.run_folder(config, run) / "frames" / split / digest for run in ("", config.base))
    return theirs if config.base and runs.is_done(theirs) and not own.exists() else own


def _check(config: Config, opened: runs.StageFolder, needed: Frames, depth: bool) -> None:
    # frames with an unreadable pose are in `Scene.corrupt`, not among the scene's frames
    number = sum(len(frames) + len(scene.corrupt) for scene, frames in needed)
    # a capture keeps its images at the size of the network: what is undistorted here is not undistorted again
    size_hw = config.data.size_hw if config.data.dataset == "capture" else None
    kept = opened.folder.parent / "scenes"  # shared with the checks of other frames of this split
    tasks = {
        scene.name: (scene, list(frames), depth, kept / f"{scene.name.replace('/', '__')}.json", size_hw)
        for scene, frames in needed
    }
    sizes = {scene.name: len(frames) for scene, frames in needed}
    what, workers = f"frames/{opened.folder.parent.name}", config.scene_workers
    say(f"{what}: decoding each of {number:,} once")
    found = run_tasks(
        check_scene, tasks, what=what, sizes=sizes, unit="frame", scheduler=config.scheduler, workers=workers
    )
    bad = {s.name: reasons for s, _ in needed if (reasons := {**s.corrupt, **found[s.name]})}
    count = sum(map(len, bad.values()))
    listed = opened.folder / UNREADABLE
    write_unreadable(listed, bad)
    if count > config.max_bad_share * number:
        raise DataError(
            f"{count:,} of {number:,} frames cannot be read, more than max_bad_share = {config.max_bad_share:g} "
            f"allows. {listed} lists them with reasons. Copy them again and repeat the command (only these frames "
            f"are decoded again), or raise max_bad_share to leave them out."
        )
    if count:
        say(f"{count:,} of {number:,} frames cannot be read; {listed} lists the frames left out")
    opened.finish({UNREADABLE: io.sha256(listed)}, frames=number, unreadable=count)


def check_scene(
    scene: Scene, frames: Sequence[int], depth: bool, path: Path, size_hw: HW | None = None
) -> dict[str, str]:
    """Decode frames of a scene; a task of `run_tasks`.

    Args:
        frames: indices of the frames.
        depth: whether to decode the ground truth too.
        path: JSON file of the result. If it exists, only its unreadable frames are decoded again.
        size_hw: size of the decoded images; None: their own.

    Returns:
        frame id -> reason, for each unreadable frame.
    """
    ids = [scene.frame_ids[i] for i in frames]
    digest = hashlib.sha256(json.dumps([ids, depth]).encode()).hexdigest()
    before, reasons = None, {}
    with suppress(RunError):  # a damaged result is made again in a minute
        stored = io.read_json(path, "frames_sha256", "unreadable")
        if stored["frames_sha256"] == digest:
            before = stored["unreadable"]
    for i, frame in zip(frames, ids, strict=True):
        if before is None or frame in before:
            try:
                scene.image(i, size_hw)
                if depth:
                    scene.depth(i)
            except D3DError as error:
                reasons[frame] = str(error)
        advance()
    io.write_json(path, {"frames_sha256": digest, "unreadable": reasons})
    return reasons


def write_unreadable(path: Path, bad: Unreadable) -> None:
    """Write scene, frame and reason as CSV, atomically."""
    with io.atomic(path) as temporary, open(temporary, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(_COLUMNS)
        writer.writerows((scene, *row) for scene, rows in bad.items() for row in rows.items())


def read_unreadable(path: Path) -> Unreadable:
    """Read a list written by `write_unreadable`; a `DataError` if it is missing or malformed."""
    bad: dict[str, dict[str, str]] = defaultdict(dict)
    try:
        with open(path, newline="", encoding="utf-8") as file:
            columns, *rows = csv.reader(file, strict=True)
        if tuple(columns) != _COLUMNS:
            raise ValueError(f"its columns are {', '.join(columns)}")
        for scene, frame, reason in rows:
            bad[scene][frame] = reason
    except (OSError, ValueError, csv.Error) as error:
        raise DataError(
            f"{path}: not a list of {', '.join(_COLUMNS)} ({error}). Delete its folder."
        ) from error
    return dict(bad)
