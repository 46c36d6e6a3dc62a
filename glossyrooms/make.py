"""Makes GlossyRooms: ``python -m glossyrooms.make`` writes the set that ships, options make larger ones.

Rooms are made in parallel processes, each to the end before its archive appears under its name, so that a
kill or a full disk leaves no half room; the same command goes on with what is missing. Every room
follows from its seed alone: neither their number nor the processes change one.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass
from importlib import metadata
from multiprocessing import get_context, parent_process
from pathlib import Path
from threading import Thread

import numpy as np

from d3d.datasets.glossyrooms.format import HIGHLIGHT, SPLITS
from d3d.errors import ConfigError, D3DError, DataError
from d3d.progress import say, track
from glossyrooms.archive import write_manifest, write_room

GENERATOR = 1  # counts up with every change that changes a picture
FIRST_SEED = {"train": 0, "val": 1_000_000, "test": 2_000_000}
ATTEMPTS = 60  # seeds a room may try: a tenth to a half of them fit
HIGHLIGHT_SHARE = {"glossy": (0.02, 0.05), "mirror": (0.01, 0.05), "matt": (0.0, 0.004)}  # mean over frames
LEAST_MIRROR_SHARE = 0.01
NEAREST_M = 0.35  # to the camera: it must not pass through furniture
LEAST_TRIPLES = 0.9  # of the frames must be targets with two sources
LOOK_EVERY = 6  # frames that the cheap look at a candidate takes


@dataclass(frozen=True)
class Settings:
    """What decides the pictures of a room besides its seed."""

    frames: int = 80
    height: int = 144
    width: int = 192
    jpeg_quality: int = 86
    generator: int = GENERATOR


@dataclass(frozen=True)
class Job:
    """One room to make."""

    split: str
    index: int
    out: str
    settings: Settings
    with_depth: bool
    variant: str

    @property
    def name(self) -> str:
        return f"{self.split}-{self.index:04d}"

    @property
    def path(self) -> Path:
        return Path(self.out) / self.split / f"{self.name}.zip"


def floor_of(split: str, index: int) -> str:
    """One room in six has a matt floor, one in six a mirror on a wall, the others a glossy floor.

    In val and test two in six are matt, or there would be few images for NoReflection: from a glossy floor
    some light is mirrored into almost every view.
    """
    if split != "train" and index % 6 == 2:
        return "matt"
    return {3: "matt", 5: "mirror"}.get(index % 6, "glossy")


def seeds_of(split: str, index: int) -> Iterator[int]:
    """The seeds that a room tries in turn; no two rooms of any split share one."""
    first = FIRST_SEED[split] + index * ATTEMPTS
    yield from range(first, first + ATTEMPTS)


def fault(mi, room, poses: np.ndarray, K: np.ndarray, size_hw: tuple[int, int]) -> str:
    """Why a room is not kept, "" if it is; geometry only, a second a room."""
    from d3d.datasets.triples import find_triples
    from glossyrooms.mesh import MIRROR
    from glossyrooms.render import Renderer

    if len(find_triples(poses, every=1)) < LEAST_TRIPLES * (len(poses) - 2):
        return "triple rule"
    renderer = Renderer(mi, room.geometry, room.seed)
    maps = [renderer.geometry_maps(pose, K, size_hw) for pose in poses[::LOOK_EVERY]]
    depth = np.stack([m[0] for m in maps])
    if (depth == 0).mean() > 1e-3:
        return "a gap in its walls"
    if depth[depth > 0].min() < NEAREST_M:
        return "camera too near"
    low, high = HIGHLIGHT_SHARE[room.floor]
    share = np.mean([m[2].mean() for m in maps])
    if not low <= share <= high:
        return "too few highlights" if share < low else "too many highlights"
    if room.floor == "mirror" and np.mean([(m[1] == MIRROR).mean() for m in maps]) < LEAST_MIRROR_SHARE:
        return "mirror hardly seen"
    return ""


def make_room(job: Job) -> dict[str, int]:
    """Finds a seed that fits, renders the room and writes its archive.

    Returns:
        how many candidates were rejected, by reason.

    Raises:
        DataError: no seed of the room's fits, or the archive cannot be written.
    """
    os.environ["OMP_NUM_THREADS"] = "1"
    from glossyrooms import camera, rooms
    from glossyrooms.mitsuba_setup import load_denoiser, load_mitsuba
    from glossyrooms.render import Renderer

    s = job.settings
    mi, denoise = load_mitsuba(job.variant, threads=1), load_denoiser(threads=1, quality="balanced")
    size_hw = s.height, s.width
    K, looked_hw = camera.intrinsics(size_hw), (72, 96)
    rejected: Counter[str] = Counter()
    for seed in seeds_of(job.split, job.index):
        room = rooms.build(seed, floor_of(job.split, job.index))
        poses = camera.walk(seed, s.frames, room.focus, room.radius)
        why = fault(mi, room, poses, camera.intrinsics(looked_hw), looked_hw)
        if not why:
            break
        rejected[why] += 1
    else:
        raise DataError(f"room {job.name}: none of {ATTEMPTS} seeds fits ({dict(rejected)}).")
    renderer = Renderer(mi, room.geometry, seed)
    renderer.bake()
    renderer.expose(poses[::LOOK_EVERY], camera.intrinsics(looked_hw), looked_hw)
    images = [renderer.image(pose, K, size_hw, i, denoise) for i, pose in enumerate(poses)]
    depths, kinds, highlights, virtuals = zip(
        *(renderer.geometry_maps(pose, K, size_hw) for pose in poses), strict=True
    )
    job.path.parent.mkdir(parents=True, exist_ok=True)
    maps = {
        "depths": depths,
        "masks": [
            kind + HIGHLIGHT * highlight.astype(np.uint8)
            for kind, highlight in zip(kinds, highlights, strict=True)
        ],
        "virtuals": virtuals,
    }
    write_room(
        job.path,
        name=job.name,
        split=job.split,
        seed=seed,
        K=K,
        frame_ids=[f"{i:06d}" for i in range(len(poses))],
        world_T_cams=poses,
        images=images,
        shares={
            "highlight": [float(h.mean()) for h in highlights],
            "mirror": [float((k == rooms.MIRROR).mean()) for k in kinds],
        },
        spec={**room.spec, "settings": asdict(s), "with_depth": job.with_depth, "rejected": dict(rejected)},
        versions=versions(mi.variant()),
        jpeg_quality=s.jpeg_quality,
        **(maps if job.with_depth else {}),
    )
    return dict(rejected)


def versions(variant: str = "") -> dict[str, str]:
    """Of all that decides a picture's bits."""
    found = {
        name: metadata.version(name)
        for name in ("d3d", "mitsuba", "drjit", "pyoidn", "numpy", "scipy", "pillow")
    }
    return {"generator": str(GENERATOR), **found, **({"variant": variant} if variant else {})}


def is_done(job: Job) -> bool:
    """Whether the room is there already.

    Raises:
        ConfigError: it is there, but made with other settings.
    """
    if not job.path.is_file():
        return False
    try:
        with zipfile.ZipFile(job.path) as archive:
            spec = json.loads(archive.read("scene.json"))["spec"]
        found = {**spec["settings"], "with_depth": spec["with_depth"]}
    except (zipfile.BadZipFile, OSError, LookupError, ValueError) as error:
        raise ConfigError(
            f"{job.path} is not a room of this generator ({error}). Delete it, or take another --out."
        ) from None
    wanted = {**asdict(job.settings), "with_depth": job.with_depth}
    other = [f"{k} is {found.get(k)!r}, not {v!r}" for k, v in wanted.items() if found.get(k) != v]
    if other:
        raise ConfigError(
            f"{job.path} was made with other settings: {', '.join(other)}. Delete it, or take another --out."
        )
    return True


def _end_with_parent() -> None:
    """Lets a worker end when its parent does: after a kill it would go on, beside those of the next start."""

    def watch() -> None:
        parent_process().join()
        os._exit(1)

    Thread(target=watch, daemon=True).start()


def make(jobs: list[Job], workers: int) -> Counter[str]:
    """Makes the rooms that are missing, ``workers`` at a time; returns the rejected candidates by reason.

    Raises:
        D3DError: of the first room that failed; the others in work are finished first.
    """
    missing = [job for job in jobs if not is_done(job)]
    if len(missing) < len(jobs):
        say(f"{len(jobs) - len(missing)} of {len(jobs)} rooms are there already")
    rejected: Counter[str] = Counter()
    if not missing:
        return rejected
    bar = track(what="rooms", total=sum(job.settings.frames for job in missing), unit="frame")
    # spawn: a forked child would inherit mitsuba's and torch's threads in a state that nobody defined
    with ProcessPoolExecutor(workers, get_context("spawn"), _end_with_parent) as pool:
        running = {pool.submit(make_room, job): job for job in missing}
        try:
            for done in as_completed(running):
                rejected.update(done.result())
                bar.update(running[done].settings.frames)
        except BrokenProcessPool:
            raise DataError(
                "a process that rendered was ended from outside (out of memory?). Finished rooms are kept: the same "
                "command goes on; take fewer --workers if it happens again."
            ) from None
        except OSError as error:
            raise DataError(
                f"a room could not be written ({error}). Finished rooms are kept: the same command goes on."
            ) from error
        finally:
            pool.shutdown(cancel_futures=True)
            bar.close()
    return rejected


def contact_sheet(root: Path, path: Path, columns: int = 7, shrink: float = 1.0) -> None:
    """The middle frame of every room as a picture, in the order of splits and names."""
    from PIL import Image

    from d3d.datasets import open_dataset
    from d3d.io import atomic

    dataset = open_dataset("glossyrooms", root)
    scenes = [scene for split in dataset.splits for scene in dataset.scenes(split)]
    h, w = (round(shrink * a) for a in scenes[0].size_hw)
    rows = -(-len(scenes) // columns)
    sheet = np.full((rows * (h + 2), columns * (w + 2), 3), 255, np.uint8)
    for k, scene in enumerate(scenes):
        y, x = k // columns * (h + 2), k % columns * (w + 2)
        sheet[y : y + h, x : x + w] = scene.image(len(scene) // 2, (h, w))
    with atomic(path) as temporary:
        Image.fromarray(sheet).save(temporary, format="PNG", optimize=True)


def parser() -> argparse.ArgumentParser:
    result = argparse.ArgumentParser(prog="python -m glossyrooms.make", description=__doc__)
    s = Settings()
    result.add_argument("--out", default="data/glossyrooms", help="folder of the set (default: %(default)s)")
    for split, count in zip(SPLITS, (30, 6, 6), strict=True):
        result.add_argument(
            f"--{split}", type=int, default=count, help=f"{split} rooms (default: %(default)s)"
        )
    result.add_argument("--frames", type=int, default=s.frames, help="a room (default: %(default)s)")
    result.add_argument(
        "--width", type=int, default=s.width, help="of a frame, pixels (default: %(default)s)"
    )
    result.add_argument(
        "--height", type=int, default=s.height, help="of a frame, pixels (default: %(default)s)"
    )
    result.add_argument("--jpeg-quality", type=int, default=s.jpeg_quality, help="(default: %(default)s)")
    result.add_argument("--workers", type=int, default=os.cpu_count(), help="processes (default: one a core)")
    result.add_argument(
        "--depth-every",
        type=int,
        default=6,
        help="every Nth train room has depth and masks (default: %(default)s)",
    )
    result.add_argument("--variant", default="auto", help="mitsuba's: auto, llvm_ad_rgb or scalar_rgb (slow)")
    return result


def exit_status(work: Callable[[], None]) -> int:
    """Of a command: 0, or after one line that says what was wrong 2, or 130 where the user stopped it."""
    start = time.monotonic()
    try:
        work()
        say(f"({time.monotonic() - start:.0f} s)")
    except D3DError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("stopped; finished rooms are kept, the same command goes on from here", file=sys.stderr)
        return 130
    return 0


def main(argv: list[str] | None = None) -> int:
    """Makes a set; returns the exit status, see `exit_status`."""
    a = parser().parse_args(argv)
    return exit_status(lambda: _make_set(a))


def _make_set(a: argparse.Namespace) -> None:
    if (
        min(a.train, a.val, a.test) < 0
        or a.train + a.val + a.test < 1
        or min(a.frames, a.workers, a.depth_every) < 1
    ):
        raise ConfigError(
            "rooms must be at least 0, and one in all; frames, workers and depth-every at least 1."
        )
    if min(a.width, a.height) < 32:
        raise ConfigError(f"frames of {a.width}x{a.height} are too small: at least 32x32.")
    from glossyrooms.mitsuba_setup import load_denoiser, load_mitsuba

    variant = load_mitsuba(a.variant).variant()  # says here, once, what is missing
    load_denoiser()
    settings = Settings(a.frames, a.height, a.width, a.jpeg_quality)
    jobs = [
        Job(split, k, a.out, settings, split != "train" or k % a.depth_every == 0, variant)
        for split, count in zip(SPLITS, (a.train, a.val, a.test), strict=True)
        for k in range(count)
    ]
    rejected = make(jobs, min(a.workers, len(jobs)))
    options = [
        f"--{k.replace('_', '-')} {v}"
        for k, v in vars(a).items()
        if k not in ("out", "workers") and v != parser().get_default(k)
    ]
    command = " ".join(["python -m glossyrooms.make", *options])
    manifest = write_manifest(Path(a.out), command, versions(variant))
    contact_sheet(Path(a.out), Path(a.out) / "contact_sheet.png", shrink=2 / 3)
    size = sum(room["bytes"] for room in manifest["rooms"]) / 2**20
    say(
        f"{len(manifest['rooms'])} rooms, {size:.1f} MB, in {a.out}; "
        f"candidates rejected: {dict(rejected.most_common())}"
    )


if __name__ == "__main__":
    sys.exit(main())
