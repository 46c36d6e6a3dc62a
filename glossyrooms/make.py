"""Make GlossyRooms: ``python -m glossyrooms.make`` writes the set that ships; its options make larger sets.

Several processes make rooms in parallel. A room's archive appears under its name when it is complete, so an
interruption or a full disk leaves no partial room: repeat the command to make the missing rooms. A room depends on its
seed and the settings alone, not on the number of rooms or processes.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass
from functools import partial
from importlib import metadata
from multiprocessing import get_context, parent_process
from pathlib import Path
from threading import Thread

import numpy as np
from PIL import Image

from d3d.datasets import find_triples, open_dataset
from d3d.datasets.glossyrooms.format import HIGHLIGHT, SPLITS
from d3d.errors import ConfigError, DataError
from d3d.io import atomic
from d3d.progress import say, track
from glossyrooms import camera, command, rooms, wide
from glossyrooms.archive import read_room, write_manifest, write_room
from glossyrooms.mesh import MIRROR
from glossyrooms.mitsuba_setup import load_denoiser, load_mitsuba
from glossyrooms.render import Renderer

GENERATOR = 1  # increase it with every change that changes an image
FIRST_SEED = {"train": 0, "val": 1_000_000, "test": 2_000_000}
ATTEMPTS = 60  # candidate seeds for a room; between a tenth and a half of them are accepted
HIGHLIGHT_SHARE = {"glossy": (0.02, 0.05), "mirror": (0.01, 0.05), "matt": (0.0, 0.004)}  # mean over frames
LEAST_MIRROR_SHARE = 0.01
NEAREST_M = 0.35  # smallest depth: the camera must not pass through furniture
LEAST_TRIPLES = 0.9  # share of the frames that must be targets with two sources
LOOK_EVERY = 6  # a candidate is judged by every sixth frame


@dataclass(frozen=True)
class Settings:
    """The settings that determine the images of a room, besides its seed."""

    frames: int = 80
    height: int = 144
    width: int = 192
    jpeg_quality: int = 86
    generator: int = GENERATOR
    variety: str = ""

    def stated(self) -> dict[str, object]:
        """Return the settings for ``spec`` of a room; the default variety is left out."""
        return {k: v for k, v in asdict(self).items() if k != "variety" or v}


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
    """Return the kind of floor: one room in six is "matt", one in six is "mirror", the others are "glossy".

    In val and test two rooms in six are matt. Otherwise NoReflection would have few images: a glossy floor mirrors
    some light into almost every view.
    """
    if split != "train" and index % 6 == 2:
        return "matt"
    return {3: "matt", 5: "mirror"}.get(index % 6, "glossy")


def seeds_of(split: str, index: int) -> Iterator[int]:
    """Yield the candidate seeds of a room. No two rooms of any split share a seed."""
    first = FIRST_SEED[split] + index * ATTEMPTS
    yield from range(first, first + ATTEMPTS)


def candidate(
    seed: int, floor: str, frames: int, variety: str = ""
) -> tuple[rooms.Room, np.ndarray, Callable[[tuple[int, int]], np.ndarray]]:
    """Return the room of a seed, the poses (frames, 4, 4) of its camera, and a function from image size to K."""
    room = rooms.build(seed, floor, variety)
    if variety:
        return (
            room,
            wide.walk(seed, frames, room.size),
            partial(camera.intrinsics, fov_x_deg=wide.fov_x_deg(seed)),
        )
    return room, camera.walk(seed, frames, room.focus, room.radius), camera.intrinsics


def fault(mi, room, poses: np.ndarray, K: np.ndarray, size_hw: tuple[int, int], variety: str = "") -> str:
    """Return the reason to reject a room, or "" to accept it. Needs only geometry, so it takes a second per room."""
    takes, nearest, limits = (
        (len(wide.takes(len(poses))), wide.NEAREST_M, wide.HIGHLIGHT_SHARE)
        if variety
        else (1, NEAREST_M, HIGHLIGHT_SHARE)
    )
    if len(find_triples(poses, every=1)) < LEAST_TRIPLES * (len(poses) - 2 * takes):
        return "triple rule"
    renderer = Renderer(mi, room.geometry, room.seed)
    maps = [renderer.geometry_maps(pose, K, size_hw) for pose in poses[::LOOK_EVERY]]
    depth = np.stack([m[0] for m in maps])
    if (depth == 0).mean() > 1e-3:
        return "a gap in its walls"
    if depth[depth > 0].min() < nearest:
        return "camera too near"
    low, high = limits[room.floor]
    share = np.mean([m[2].mean() for m in maps])
    if not low <= share <= high:
        return "too few highlights" if share < low else "too many highlights"
    if (
        room.floor == "mirror"
        and not variety
        and np.mean([(m[1] == MIRROR).mean() for m in maps]) < LEAST_MIRROR_SHARE
    ):
        return "mirror hardly seen"
    return ""


def make_room(job: Job) -> dict[str, int]:
    """Find an accepted seed, render the room and write its archive.

    Returns:
        the number of rejected candidates by reason.

    Raises:
        DataError: no candidate is accepted, or the archive cannot be written.
    """
    os.environ["OMP_NUM_THREADS"] = "1"
    s = job.settings
    mi, denoise = load_mitsuba(job.variant, threads=1), load_denoiser(threads=1, quality="balanced")
    size_hw = s.height, s.width
    looked_hw = (72, 96)
    rejected: Counter[str] = Counter()
    for seed in seeds_of(job.split, job.index):
        room, poses, intrinsics = candidate(seed, floor_of(job.split, job.index), s.frames, s.variety)
        why = fault(mi, room, poses, intrinsics(looked_hw), looked_hw, s.variety)
        if not why:
            break
        rejected[why] += 1
    else:
        raise DataError(f"room {job.name}: none of {ATTEMPTS} seeds fits ({dict(rejected)}).")
    renderer, K = Renderer(mi, room.geometry, seed, quick=bool(s.variety)), intrinsics(size_hw)
    photograph = wide.photograph(seed) if s.variety else None
    renderer.bake()
    renderer.expose(poses[::LOOK_EVERY], intrinsics(looked_hw), looked_hw)
    images = [renderer.image(pose, K, size_hw, i, denoise, photograph) for i, pose in enumerate(poses)]
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
            "mirror": [float((k == MIRROR).mean()) for k in kinds],
        },
        spec={**room.spec, "settings": s.stated(), "with_depth": job.with_depth, "rejected": dict(rejected)},
        versions=versions(mi.variant()),
        jpeg_quality=photograph.jpeg_quality if photograph else s.jpeg_quality,
        **(maps if job.with_depth else {}),
    )
    return dict(rejected)


def versions(variant: str = "") -> dict[str, str]:
    """Return the versions of everything that determines the bytes of an image."""
    found = {
        name: metadata.version(name)
        for name in ("d3d", "mitsuba", "drjit", "pyoidn", "numpy", "scipy", "pillow")
    }
    return {"generator": str(GENERATOR), **found, **({"variant": variant} if variant else {})}


def is_done(job: Job) -> bool:
    """Return whether the room exists.

    Raises:
        ConfigError: it exists, but was made with other settings.
    """
    if not job.path.is_file():
        return False
    try:
        spec = read_room(job.path)[0]["spec"]
        found = {"variety": "", **spec["settings"], "with_depth": spec["with_depth"]}
    except (DataError, LookupError, TypeError) as error:
        raise ConfigError(
            f"{job.path} is not a room of this generator ({error}). Delete it, or choose another --out."
        ) from None
    wanted = {**asdict(job.settings), "with_depth": job.with_depth}
    other = [f"{k} is {found.get(k)!r}, not {v!r}" for k, v in wanted.items() if found.get(k) != v]
    if other:
        raise ConfigError(
            f"{job.path} was made with other settings: {', '.join(other)}. Delete it, or choose another --out."
        )
    return True


def _end_with_parent() -> None:
    """End this worker when its parent ends. Otherwise it would continue beside the workers of the next command."""

    def watch() -> None:
        parent_process().join()
        os._exit(1)

    Thread(target=watch, daemon=True).start()


def make(jobs: list[Job], workers: int) -> Counter[str]:
    """Make the missing rooms.

    Args:
        jobs: all rooms of the set.
        workers: number of processes.

    Returns:
        the number of rejected candidates by reason.

    Raises:
        D3DError: the error of the first room that failed; rooms in progress are finished first.
    """
    missing = [job for job in jobs if not is_done(job)]
    if len(missing) < len(jobs):
        say(f"{len(jobs) - len(missing)} of {len(jobs)} rooms exist already")
    rejected: Counter[str] = Counter()
    if not missing:
        return rejected
    bar = track(what="rooms", total=sum(job.settings.frames for job in missing), unit="frame")
    # spawn: the threads of mitsuba and torch do not survive a fork
    with ProcessPoolExecutor(workers, get_context("spawn"), _end_with_parent) as pool:
        running = {pool.submit(make_room, job): job for job in missing}
        try:
            for done in as_completed(running):
                rejected.update(done.result())
                bar.update(running[done].settings.frames)
        except BrokenProcessPool:
            raise DataError(
                "a rendering process was killed (out of memory?). Finished rooms are kept: repeat the command to "
                "continue, with fewer --workers if this happens again."
            ) from None
        except OSError as error:
            raise DataError(
                f"a room could not be written ({error}). Finished rooms are kept: repeat the command to continue."
            ) from error
        finally:
            pool.shutdown(cancel_futures=True)
            bar.close()
    return rejected


def contact_sheet(root: Path, path: Path, columns: int = 7, shrink: float = 1.0) -> None:
    """Write one picture with the middle frame of every room, ordered by split and name."""
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
    """Return the parser of this command's options."""
    result = argparse.ArgumentParser(prog="python -m glossyrooms.make", description=__doc__)
    s = Settings()
    result.add_argument("--out", default="data/glossyrooms", help="folder of the set (default: %(default)s)")
    for option, default, what in (
        *(
            (split, count, f"number of {split} rooms")
            for split, count in zip(SPLITS, (30, 6, 6), strict=True)
        ),
        ("frames", s.frames, "frames per room"),
        ("width", s.width, "width of a frame in pixels"),
        ("height", s.height, "height of a frame in pixels"),
        ("jpeg-quality", s.jpeg_quality, "quality of the images, 1 to 95"),
        ("workers", os.cpu_count(), "processes, by default one per core"),
        ("depth-every", 6, "every Nth training room gets depth and masks"),
    ):
        result.add_argument(f"--{option}", type=int, default=default, help=f"{what} (default: %(default)s)")
    result.add_argument(
        "--variety",
        default=s.variety,
        choices=("", wide.NAME),
        help="wide: other rooms, cameras, paths, light and photographs than those of the set that ships",
    )
    result.add_argument(
        "--variant", default="auto", help="mitsuba variant: auto, llvm_ad_rgb, or scalar_rgb (slow)"
    )
    return result


def main(argv: list[str] | None = None) -> int:
    """Make a set; return the exit status, see `command.run`."""
    a = parser().parse_args(argv)
    return command.run(lambda: _make_set(a))


def _make_set(a: argparse.Namespace) -> None:
    if (
        min(a.train, a.val, a.test) < 0
        or a.train + a.val + a.test < 1
        or min(a.frames, a.workers, a.depth_every) < 1
    ):
        raise ConfigError("make at least one room; --frames, --workers and --depth-every must be at least 1.")
    if min(a.width, a.height) < 32:
        raise ConfigError(f"frames of {a.width}x{a.height} are too small: at least 32x32.")
    variant = load_mitsuba(a.variant).variant()  # fails here, once, if a package is missing
    load_denoiser()
    settings = Settings(a.frames, a.height, a.width, a.jpeg_quality, variety=a.variety)
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
    again = " ".join(["python -m glossyrooms.make", *options])
    manifest = write_manifest(Path(a.out), again, versions(variant))
    contact_sheet(Path(a.out), Path(a.out) / "contact_sheet.png", shrink=2 / 3)
    size = sum(room["bytes"] for room in manifest["rooms"]) / 2**20
    say(
        f"{len(manifest['rooms'])} rooms, {size:.1f} MB, in {a.out}; "
        f"rejected candidates: {dict(rejected.most_common())}"
    )


if __name__ == "__main__":
    sys.exit(main())
