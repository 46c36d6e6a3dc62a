"""Prepare a scene of ScanNet: keep only the frames for training and evaluation, at the size of the network.

Triples are found first, from poses only. A training scene keeps the frames of its triples and the frames to fuse. An
evaluated scene keeps every Nth frame and the frames on the user's lists, with depth. `d3d.datasets.scannet.prepared`
describes the result; `d3d.pipeline.prepare` prepares all scenes.
"""

from __future__ import annotations

import contextlib
import io
import json
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from d3d.datasets.scannet.dataset import ScanNetScene, SceneSource
from d3d.datasets.scannet.prepared import (
    FORMAT,
    INDEX,
    SUFFIXES,
    checksum,
    frame_path,
    read_index,
    scene_folder,
)
from d3d.datasets.scene import HW
from d3d.datasets.triples import Triples, find_triples
from d3d.errors import ConfigError, DataError
from d3d.geometry import scale_intrinsics
from d3d.io import atomic, temporary_beside

BLOCK = 4096  # bytes of a block of the file system


@dataclass(frozen=True)
class Settings:
    """Settings of the preparation."""

    height: int = 288  # of the colour images: the network's size
    width: int = 384
    every: int = 10  # this and the next two: the rule for triples of section 4.1
    translation_m: tuple[float, float] = (0.05, 0.10)
    max_rotation_deg: float = 3.0
    integrate_every: int = 10  # every Nth frame of a training scene is fused into the TSDF
    eval_every: int = 10  # every Nth frame of val and test is scored
    quality: int = 95  # of the JPEG images, without chroma subsampling
    train_depth: bool = False  # keep depth of training targets, too, which no stage of the method uses

    @property
    def size_hw(self) -> HW:
        return self.height, self.width

    def checked(self) -> Settings:
        """Return itself; raises ConfigError for an invalid value."""
        if any(size % 32 or size < 64 for size in self.size_hw):
            raise ConfigError(f"height and width must be multiples of 32, from 64 up, not {self.size_hw}.")
        for name in ("every", "integrate_every", "eval_every"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} = {getattr(self, name)} must be at least 1.")
        if not 50 <= self.quality <= 100:
            raise ConfigError(f"quality = {self.quality} must be between 50 and 100.")
        return self


@dataclass(frozen=True)
class Plan:
    """Indices of the frames of a scene to keep."""

    colors: list[int]  # in order
    depths: frozenset[int]  # indices in `colors` that are kept with depth
    triples: Triples | None  # triples of a training scene


@dataclass(frozen=True)
class Job:
    """A scene to prepare. Can be pickled."""

    source: SceneSource
    split: str
    listed: tuple[int, ...]  # numbers of frames on the user's lists
    out: Path
    settings: Settings
    max_corrupt: float = 0.01  # largest share of unreadable frames among the needed frames

    @property
    def folder(self) -> Path:
        return scene_folder(self.out, self.split, self.source.name)


def plan_frames(
    scene: ScanNetScene,
    split: str,
    settings: Settings,
    listed: Iterable[int] = (),
    without: Iterable[int] = (),
) -> Plan:
    """Find the needed frames of a scene, from its poses only.

    Args:
        listed: numbers of frames to keep independent of `Settings.eval_every`, if they have a valid pose.
        without: numbers of unreadable frames, which triples must not use.
    """
    s, numbers = settings, np.array(scene.numbers)
    good = np.flatnonzero(~np.isin(numbers, list(without)))
    numbers = numbers[good]
    if split != "train":
        kept = good[(numbers % s.eval_every == 0) | np.isin(numbers, list(listed))].tolist()
        return Plan(kept, frozenset(kept if scene.has_depth else ()), None)
    targets, poses = np.flatnonzero(numbers % s.every == 0), scene.world_T_cams[good]
    found = find_triples(poses, s.every, s.translation_m, s.max_rotation_deg, targets=targets)
    if not len(found):  # a scene without triples is not fused either
        return Plan([], frozenset(), found)
    indices = good[found.indices]
    kept = np.union1d(indices, good[numbers % s.integrate_every == 0]).tolist()
    depths = frozenset(indices[:, 0].tolist()) if s.train_depth and scene.has_depth else frozenset()
    return Plan(kept, depths, Triples(indices, found.targets_tried, found.dropped))


def survey(job: Job, samples: int) -> dict:
    """Count the needed frames of a scene, and encode some of them to estimate the size on disk.

    Returns:
        "colors" and "depths": numbers of frames; "bytes": lists of sizes on disk of "color" and "depth"; "done":
        whether the scene is finished.
    """
    if finished(job):
        return {"done": True, "colors": 0, "depths": 0, "bytes": {"color": [], "depth": []}}
    scene = job.source.open()
    plan = plan_frames(scene, job.split, job.settings, job.listed)
    sizes: dict[str, list[int]] = {"color": [], "depth": []}
    for kind, frames in (("color", plan.colors), ("depth", sorted(plan.depths))):
        step = max(1, len(frames) // max(1, samples))
        for i in frames[::step][:samples]:
            with contextlib.suppress(DataError):  # the preparation reports it
                if content := _encode(scene, kind, i, job.settings):
                    sizes[kind].append(-(-len(content) // BLOCK) * BLOCK)
    return {"done": False, "colors": len(plan.colors), "depths": len(plan.depths), "bytes": sizes}


def finished(job: Job) -> dict | None:
    """Return the index of a scene if it is finished and has all listed frames; else None."""
    if not (job.folder / INDEX).is_file():
        return None
    index = read_index(job.folder, job.source.name)
    return index if set(job.listed) <= set(index["listed"]) else None


def prepare_scene(job: Job) -> dict:
    """Write the folder of a scene atomically and return its entry in the manifest. Skips a finished scene.

    Unreadable frames are left out and reported. Triples do not use them.

    Raises:
        DataError: the scene cannot be opened, or the share of unreadable frames exceeds `Job.max_corrupt`.
    """
    if index := finished(job):
        return summary(index)
    scene = job.source.open()
    if job.folder.exists():  # prepared before a list named more frames
        aside = temporary_beside(job.folder)
        job.folder.replace(aside)
        shutil.rmtree(aside, ignore_errors=True)
    with atomic(job.folder) as temporary:
        for folder in ("color", "depth", "pose", "intrinsic"):
            (temporary / folder).mkdir(parents=True)
        index = _write_scene(job, scene, temporary)
        (temporary / INDEX).write_text(json.dumps(index) + "\n")
    return summary(read_index(job.folder, job.source.name))


def _write_scene(job: Job, scene: ScanNetScene, folder: Path) -> dict:
    """Write the frames of a scene into a folder; return the index."""
    _refuse_too_many(job, list(scene.corrupt.values()), scene.video_frames)
    numbers, written = scene.numbers, {}
    corrupt: dict[int, str] = {}
    unread = None
    while unread != len(corrupt):
        unread = len(corrupt)
        plan = plan_frames(scene, job.split, job.settings, job.listed, [numbers[i] for i in corrupt])
        kinds = {i: ("color", "depth") if i in plan.depths else ("color",) for i in plan.colors}
        todo = [i for i in plan.colors if not set(kinds[i]) <= written.get(i, {}).keys()]
        for i in todo:
            try:
                written[i] = _write_frame(scene, i, kinds[i], job.settings, folder)
            except DataError as error:
                corrupt[i] = str(error)
                _refuse_too_many(job, list(corrupt.values()), len(plan.colors))
    for i in written.keys() - set(plan.colors):  # a source whose target is unreadable
        for kind in SUFFIXES:
            frame_path(folder, kind, scene.frame_ids[i]).unlink(missing_ok=True)
    size_hw, depth_hw = job.settings.size_hw, scene.depth_hw if plan.depths else None
    K = scale_intrinsics(scene.K(0), scene.size_hw, size_hw)
    _write_matrix(folder / "intrinsic" / "intrinsic_color.txt", K)
    if depth_hw is not None and scene.depth_K is not None:
        _write_matrix(folder / "intrinsic" / "intrinsic_depth.txt", scene.depth_K)
    left_out, triples, found = dict(scene.invalid), None, plan.triples
    if corrupt:
        left_out["frame cannot be read"] = sorted(numbers[i] for i in corrupt)
    if found is not None:
        triples = {"found": len(found), "tried": found.targets_tried, "dropped": found.dropped}
    return {
        "format": FORMAT,
        "scene": scene.name,
        "split": job.split,
        "source": {"layout": job.source.layout, "frames": scene.video_frames, "size_hw": scene.size_hw},
        "size_hw": size_hw,
        "depth_hw": depth_hw,
        "K": K.tolist(),
        "registration_px": scene.registration_px,
        "numbers": [numbers[i] for i in plan.colors],
        "world_T_cam": [scene.world_T_cams[i].ravel().tolist() for i in plan.colors],
        "color": [written[i]["color"] for i in plan.colors],
        "depth": [written[i].get("depth") for i in plan.colors],
        "left_out": left_out,
        "corrupt": scene.corrupt | {scene.frame_ids[i]: why for i, why in corrupt.items()},
        "listed": sorted(job.listed),
        "triples": triples,
    }


def _refuse_too_many(job: Job, faults: list[str], number: int) -> None:
    if len(faults) > job.max_corrupt * number:
        raise DataError(
            f"scene {job.source.name!r}: {len(faults)} of the {number} needed frames cannot be read, more than "
            f"{job.max_corrupt:.1%} (--max-corrupt). The first: {faults[0]}"
        )


def _write_frame(scene: ScanNetScene, i: int, kinds: Iterable[str], settings: Settings, folder: Path) -> dict:
    """Write a frame; return its checksums (None for missing depth)."""
    contents = {kind: _encode(scene, kind, i, settings) for kind in kinds}
    for kind, content in contents.items():
        if content is not None:
            frame_path(folder, kind, scene.frame_ids[i]).write_bytes(content)
    _write_matrix(frame_path(folder, "pose", scene.frame_ids[i]), scene.world_T_cams[i])
    return {kind: None if content is None else checksum(content) for kind, content in contents.items()}


def _encode(scene: ScanNetScene, kind: str, i: int, settings: Settings) -> bytes | None:
    """Encode colour at the network's size as JPEG, or depth at its own size as PNG in mm; None without depth."""
    buffer = io.BytesIO()
    if kind == "color":
        image = Image.fromarray(scene.image(i, settings.size_hw))
        image.save(buffer, format="JPEG", quality=settings.quality, subsampling=0)
        return buffer.getvalue()
    depth_m = scene.depth(i)
    if depth_m is None:
        return None
    millimetres = np.rint(depth_m.astype(np.float64) * 1000)
    if millimetres.max() > 65535:
        raise DataError(f"scene {scene.name!r}, frame {scene.frame_ids[i]}: depth exceeds 65.5 m.")
    Image.fromarray(millimetres.astype(np.uint16)).save(buffer, format="PNG", compress_level=1)
    return buffer.getvalue()


def _write_matrix(path: Path, matrix: np.ndarray) -> None:
    """Write four lines of four numbers with the precision of float32, like the official exporter."""
    whole = np.eye(4)
    whole[: matrix.shape[0], : matrix.shape[1]] = matrix
    np.savetxt(path, whole, fmt="%.9g")


def summary(index: dict) -> dict:
    """Return the entry of a scene in the manifest: counts for a report without opening the scene."""
    kept = set(index["numbers"])
    return {
        "name": index["scene"],
        "split": index["split"],
        "frames": len(index["numbers"]),
        "with_depth": sum(depth is not None for depth in index["depth"]),
        "video_frames": index["source"]["frames"],
        "bytes": sum(c[0] + (d[0] if d else 0) for c, d in zip(index["color"], index["depth"], strict=True)),
        "left_out": {reason: len(numbers) for reason, numbers in index["left_out"].items()},
        "corrupt": index["corrupt"],
        "listed_left_out": [n for n in index["listed"] if n not in kept],
        "registration_px": index["registration_px"],
        "triples": index["triples"],
    }
