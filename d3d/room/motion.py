"""Camera poses of a video or of images without poses: structure from motion with COLMAP (pycolmap, extra ``capture``).

The steps are SIFT features, matches of pairs of frames, and incremental mapping. Each step runs in a process of its
own (`d3d.room.motion_process`). The folder keeps the results of finished steps:

    source.json    identity of the source and settings
    images/        chosen frames (`d3d.room.frames`); frames.json lists them
    database.db    features and matches
    sparse/0/      the largest model, in COLMAP's format
    report.json    what was found, and the time of each step
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
import shutil
import sqlite3
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from PIL import Image

from d3d.datasets.capture.lenses import pycolmap
from d3d.datasets.videos import SUFFIXES
from d3d.errors import BusyError, ConfigError, DataError, RunError
from d3d.io import read_json, remove_left, sha256, write_json, writing
from d3d.parallel.processes import start
from d3d.progress import say, track
from d3d.room import motion_process
from d3d.room.frames import FEWEST, recorded_images, write_frames
from d3d.room.turning import turned_share

SETTINGS = {
    "lens": "SIMPLE_RADIAL",  # one focal length and one distortion: more parameters need more parallax
    "longest": 1600,  # pixels of the images that features are found in
    "most_features": 8000,  # of an image
    "neighbours": 10,  # frames after each frame that it is matched with; then 16, 32, 64, ... frames after it
    "places": 60,  # frames spread over the recording that are all matched with each other, to close loops
    "seed": 0,
}
FEW_REGISTERED = 0.6  # of the frames: below this the report warns
_FEWEST_FEATURES = 100  # median of an image
_MOST_TURNED = 0.9  # share of the matches that a camera which only turns explains
_POLL_S = 0.5
HOW_TO_FILM = (
    "Film again: move sideways and slowly, so that neighbouring frames overlap by more than half; switch all lamps "
    "on; keep furniture and other texture in view."
)


def find_poses(source: str | Path, folder: str | Path, most_frames: int = 300) -> Path:
    """Find the camera poses of a video or of images, and write a capture of format colmap.

    A finished folder of the same source and settings is reused. An interrupted call resumes.

    Args:
        source: a video, or a folder of images without poses.
        folder: the result. `open_dataset("capture", folder)` reads it.
        most_frames: largest number of frames to use.

    Returns:
        ``folder``.

    Raises:
        ConfigError: pycolmap or PyAV is not installed; ``folder`` lies in the source; ``most_frames`` is too small.
        DataError: the source cannot be read, has images in several folders or fewer than ten frames, shows too little
            texture, or was filmed by a camera that only turned; or no frame is registered.
        RunError: the folder holds something else, or pycolmap stopped.
        BusyError: another process uses the folder.
    """
    source, folder = Path(source), Path(folder)
    pycolmap()  # raises an error where it is missing
    if most_frames < FEWEST:
        raise ConfigError(f"most_frames is {most_frames}, but at least {FEWEST} frames are needed.")
    if folder.absolute().is_relative_to(source.absolute()):
        raise ConfigError(f"{folder} lies in the source {source}. Name a folder outside of it.")
    identity = _identity(source, most_frames)
    with _locked(folder, identity):
        report = folder / "report.json"
        if report.is_file():
            say(f"{folder}: poses of {source.name} are already there.")
            return folder
        remove_left(folder)
        _find(source, folder, most_frames)
    return folder


def _identity(source: Path, most_frames: int) -> dict[str, Any]:
    about: dict[str, Any] = {"name": source.name, "settings": {**SETTINGS, "most_frames": most_frames}}
    if source.is_dir():
        files = {p.relative_to(source).as_posix(): p.stat() for p in recorded_images(source)}
        listed = json.dumps([(name, s.st_size, s.st_mtime_ns) for name, s in files.items()])
        return {**about, "images": len(files), "digest": hashlib.sha256(listed.encode()).hexdigest()}
    if not source.is_file():
        raise DataError(f"{source} is missing.")
    if source.suffix.lower() not in SUFFIXES:
        raise DataError(
            f"{source} is no video with a known suffix ({' '.join(sorted(SUFFIXES))}). Name a video, or a folder of "
            "images."
        )
    return {**about, "size": source.stat().st_size, "sha256": sha256(source)}


@contextlib.contextmanager
def _locked(folder: Path, identity: dict[str, Any]) -> Iterator[None]:
    about, lock = folder / "source.json", FileLock(folder / ".lock")
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise BusyError(
            f"{folder} is in use by another process. Wait for it, or name another folder."
        ) from None
    try:
        if about.is_file():
            stored = read_json(about)
            if stored != identity:
                differ = ", ".join(
                    k for k in sorted({*stored, *identity}) if stored.get(k) != identity.get(k)
                )
                raise RunError(
                    f"{folder} holds the poses of another source or of other settings ({differ} differ; it was made "
                    f"from {stored.get('name')}). Name another folder, or delete this one."
                )
        elif any(p.name != ".lock" for p in folder.iterdir()):
            raise RunError(f"{folder} holds other files. Name a new folder.")
        else:
            write_json(about, identity)
        yield
    finally:
        lock.release()


def _find(source: Path, folder: Path, most_frames: int) -> None:
    seconds, used = {}, {}
    database, images = folder / "database.db", folder / "images"
    settings = {**SETTINGS, "threads": _threads()}

    def step(name: str, table: str, total: int, **arguments: Any) -> dict[str, Any]:
        begin = time.monotonic()
        given = {"database": str(database), "settings": settings, **arguments}
        result = _run(name, folder, table, total, given)
        seconds[name] = round(time.monotonic() - begin, 1)
        used[name] = {k: result.pop(k) for k in ("cpu_s", "memory_mb")}
        return result

    begin = time.monotonic()
    frames = write_frames(source, folder, most_frames)
    seconds["frames"] = round(time.monotonic() - begin, 1)
    names = [name for name, *_ in frames["frames"]]
    say(f"{source.name}: {len(names)} of {frames['read']} frames chosen")
    step("features", "descriptors", len(names), images=str(images), groups=_groups(images, frames["frames"]))
    counts = _query(database, "SELECT rows FROM keypoints ORDER BY rows")
    median = counts[len(counts) // 2][0] if counts else 0
    if median < _FEWEST_FEATURES:
        raise DataError(
            f"{source}: half of the frames show fewer than {_FEWEST_FEATURES} details (median {median}): they are "
            f"blurred, dark or without texture. {HOW_TO_FILM}"
        )
    listed = pairs(len(names))
    (folder / "pairs.txt").write_text("".join(f"{names[i]} {names[j]}\n" for i, j in listed))
    step("matches", "two_view_geometries", len(listed), pairs=str(folder / "pairs.txt"))
    turned = turned_share(database)
    if turned > _MOST_TURNED:
        raise DataError(
            f"{source}: the camera only turned, or filmed one flat surface ({turned:.0%} of the matches show no "
            "parallax). Without parallax there is no depth. Film while you walk sideways through the room."
        )
    shutil.rmtree(folder / "models", ignore_errors=True)  # of an interrupted call
    (folder / "models").mkdir()
    found = step("model", "", len(names), images=str(images), models=str(folder / "models"))
    if not found["models"]:
        overlapping = _query(database, "SELECT count(*) FROM two_view_geometries WHERE rows > 0")[0][0]
        raise DataError(
            f"{source}: no frame is registered; {overlapping} of {len(listed)} pairs of frames overlap. {HOW_TO_FILM}"
        )
    (folder / "sparse").mkdir(exist_ok=True)
    shutil.rmtree(folder / "sparse" / "0", ignore_errors=True)
    (folder / "models" / "largest").rename(folder / "sparse" / "0")
    shutil.rmtree(folder / "models")
    report = {"frames": len(names), "registered": found["models"][0], **found, "read": frames["read"]}
    report |= {"left_out": frames["left_out"], "median_features": median, "pairs": len(listed)}
    report |= {"turned_share": turned, "seconds": seconds, "used": used}
    write_json(folder / "report.json", report)
    for line in summary(report):
        say(line)


def summary(report: dict[str, Any]) -> list[str]:
    """Lines for the user about a report."""
    share, models = report["registered"] / report["frames"], report["models"]
    lines = [
        f"{report['registered']} of {report['frames']} frames registered ({share:.0%}), mean reprojection error "
        f"{report['error_px']:.2f} pixels, {report['points']:,} points",
        "seconds: " + ", ".join(f"{name} {s:.0f}" for name, s in report["seconds"].items()),
    ]
    if len(models) > 1 and share < 1:  # otherwise the others hold copies of some frames
        lines.append(
            f"COLMAP made {len(models)} models that do not join ({', '.join(map(str, models))} frames). The largest is "
            "used."
        )
    if share < FEW_REGISTERED:
        lines.append(f"Warning: only {share:.0%} of the frames have a pose. {HOW_TO_FILM}")
    return lines


def pairs(count: int) -> list[tuple[int, int]]:
    """Pairs of frames to match: neighbours, frames at distances of powers of two, and places of the whole recording."""
    neighbours = SETTINGS["neighbours"]
    far = [2**k for k in range(count.bit_length()) if 2**k > neighbours]
    found = {(i, i + d) for d in [*range(1, neighbours + 1), *far] for i in range(count - d)}
    spread = range(0, count, math.ceil(count / SETTINGS["places"]))
    return sorted(found | {(i, j) for i in spread for j in spread if i < j})


def _groups(images: Path, frames: list[list[Any]]) -> list[dict[str, Any]]:
    """Images of one camera: of the same size and the same focal length in EXIF."""
    groups: dict[tuple, list[str]] = {}
    for name, _, focal_px in frames:
        with Image.open(images / name) as image:
            groups.setdefault((image.height, image.width, focal_px), []).append(name)
    return [{"size_hw": (h, w), "focal_px": f, "names": names} for (h, w, f), names in groups.items()]


def _threads() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


_LABELS = {"features": "Find features", "matches": "Match frames", "model": "Register frames"}


def _run(name: str, folder: Path, table: str, total: int, arguments: dict[str, Any]) -> dict[str, Any]:
    """Run a step in a process of its own and show its progress: rows in a table of the database, or printed lines."""
    log, database, given, results = (folder / n for n in ("log.txt", "database.db", "step.json", "step.txt"))
    write_json(given, arguments)
    # by its path: importing the package d3d.room takes seconds. -P: modules beside the file hide no others
    command = [sys.executable, "-P", motion_process.__file__, name, str(given)]
    with open(log, "ab") as errors, open(results, "wb") as printed:
        process = start(command, stdout=printed, stderr=errors)
    try:
        first = _count(database, table) if table else 0
        with track(
            None, _LABELS[name], first=first, total=total, unit="pair" if name == "matches" else "frame"
        ) as bar:
            while process.poll() is None:
                time.sleep(_POLL_S)
                done = _count(database, table) if table else results.read_bytes().count(b"\n")
                bar.update(min(done, total) - bar.n)
    finally:
        process.kill()
        process.wait()
    try:
        result = json.loads(results.read_bytes().splitlines()[-1])
        reason = result.get("error") if process.returncode == 0 else f"exit code {process.returncode}"
    except (IndexError, ValueError):
        reason = f"exit code {process.returncode}"
    if reason:
        raise RunError(
            f"COLMAP stopped in the step {name!r} ({reason}); {log} has its messages. Repeat the command: it resumes."
        )
    results.unlink()
    given.unlink()
    return result


def _query(database: Path, sql: str) -> list[tuple]:
    with contextlib.closing(sqlite3.connect(f"{database.resolve().as_uri()}?mode=ro", uri=True)) as opened:
        return opened.execute(sql).fetchall()


def _count(database: Path, table: str) -> int:
    with contextlib.suppress(sqlite3.OperationalError):  # the step has not made it yet
        return _query(database, f"SELECT count(*) FROM {table}")[0][0]
    return 0
