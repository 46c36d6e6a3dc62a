"""Prepare one scene of ScanNet: keep only the frames that training and evaluation need, at the network's size.

Triples are found first, from poses alone. Of a training scene, the frames of its triples and the frames to fuse are
kept; of an evaluated scene every Nth frame and the user's lists, with depth. The layout of the result:
`d3d.datasets.scannet.prepared`; all scenes: `d3d.pipeline.prepare`.
"""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from d3d.datasets.scannet.dataset import ScanNetScene, SceneSource
from d3d.datasets.scannet.prepared import FORMAT, INDEX, checksum, read_index, scene_folder
from d3d.datasets.scene import HW
from d3d.datasets.triples import Triples, find_triples
from d3d.errors import ConfigError, DataError
from d3d.geometry import scale_intrinsics
from d3d.io import atomic, temporary_beside

_BLOCK = 4096  # bytes of a file system's block


@dataclass(frozen=True)
class Settings:
    """Settings that determine which frames are kept, and how.

    Attributes:
        height, width: of the colour images, the network's size.
        every, translation_m, max_rotation_deg: the rule for triples of section 4.1.
        integrate_every: every Nth frame of a training scene is fused into the TSDF.
        eval_every: every Nth frame of val and test is scored.
        quality: of the JPEG images, without chroma subsampling.
        train_depth: keep depth of training targets, too, which no stage of the method uses.
    """

    height: int = 288
    width: int = 384
    every: int = 10
    translation_m: tuple[float, float] = (0.05, 0.10)
    max_rotation_deg: float = 3.0
    integrate_every: int = 10
    eval_every: int = 10
    quality: int = 95
    train_depth: bool = False

    @property
    def size_hw(self) -> HW:
        return self.height, self.width

    def checked(self) -> Settings:
        """Returns itself; raises ConfigError for an invalid value."""
        if self.height % 32 or self.width % 32 or self.height < 64 or self.width < 64:
            raise ConfigError(
                f"height {self.height} and width {self.width} must be multiples of 32, from 64 up."
            )
        for name in ("every", "integrate_every", "eval_every"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} = {getattr(self, name)} must be at least 1.")
        if not 50 <= self.quality <= 100:
            raise ConfigError(f"quality = {self.quality} must be between 50 and 100.")
        return self


@dataclass(frozen=True)
class Plan:
    """The frames of a scene that are kept.

    Attributes:
        colors: their indices, in order.
        depths: those of them that are kept with depth.
        triples: of a training scene; indices into the scene's frames.
    """

    colors: list[int]
    depths: frozenset[int]
    triples: Triples | None


@dataclass(frozen=True)
class Job:
    """A scene to prepare; can be pickled.

    Attributes:
        listed: numbers of frames on the user's lists.
        max_corrupt: largest share of the frames needed that may be unreadable.
    """

    source: SceneSource
    split: str
    listed: tuple[int, ...]
    out: Path
    settings: Settings
    max_corrupt: float = 0.01

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
    """The frames of a scene that are needed, from its poses alone.

    Args:
        listed: numbers of frames to keep whatever `Settings.eval_every` says; frames without a valid pose are left out.
        without: numbers of unreadable frames; triples are found as if the video did not have them.
    """
    s, bad, wanted = settings, set(without), set(listed)
    good = [i for i, number in enumerate(scene.numbers) if number not in bad]
    numbers = np.array(scene.numbers)[good]
    if split != "train":
        kept = [
            i for i, n in zip(good, numbers.tolist(), strict=True) if n % s.eval_every == 0 or n in wanted
        ]
        return Plan(kept, frozenset(kept if scene.has_depth else ()), None)
    targets = np.flatnonzero(numbers % s.every == 0)
    found = find_triples(
        scene.world_T_cams[good], s.every, s.translation_m, s.max_rotation_deg, targets=targets
    )
    if not len(found):  # a scene that is not trained on is not fused either
        return Plan([], frozenset(), found)
    indices = np.array(good)[found.indices]
    fused = np.array(good)[numbers % s.integrate_every == 0]
    kept = sorted({*indices.ravel().tolist(), *fused.tolist()})
    depths = frozenset(indices[:, 0].tolist()) if s.train_depth and scene.has_depth else frozenset()
    return Plan(kept, depths, Triples(indices, found.targets_tried, found.dropped))


def survey(job: Job, samples: int) -> dict:
    """Counts the frames that a scene needs and measures the size on disk of some of them.

    Args:
        samples: number of frames to encode; 0 reads poses only.

    Returns:
        "colors" and "depths": numbers of frames; "bytes": lists of sizes on disk of "color" and "depth"; "done":
        whether the scene is finished.
    """
    if finished(job) is not None:
        return {"done": True, "colors": 0, "depths": 0, "bytes": {"color": [], "depth": []}}
    scene = job.source.open()
    plan = plan_frames(scene, job.split, job.settings, job.listed)
    sizes: dict[str, list[int]] = {"color": [], "depth": []}
    for kind, frames in (("color", plan.colors), ("depth", sorted(plan.depths))):
        step = max(1, len(frames) // samples) if samples else 1
        for i in frames[::step][:samples]:
            try:
                content = _encode(scene, kind, i, job.settings)
            except DataError:
                continue  # reported when the scene is prepared
            if content is not None:
                sizes[kind].append(_on_disk(len(content)))
    return {"done": False, "colors": len(plan.colors), "depths": len(plan.depths), "bytes": sizes}


def frames_on_disk(colors: float, depths: float, color_bytes: float, depth_bytes: float) -> float:
    """Bytes on disk of these numbers of frames, each with a file for its pose."""
    return colors * (color_bytes + _BLOCK) + depths * depth_bytes


def _on_disk(size: int) -> int:
    return -(-size // _BLOCK) * _BLOCK


def finished(job: Job) -> dict | None:
    """The index of a scene that is finished and has all listed frames; else None."""
    if not (job.folder / INDEX).is_file():
        return None
    index = read_index(job.folder, job.source.name)
    return index if set(job.listed) <= set(index["listed"]) else None


def prepare_scene(job: Job) -> dict:
    """Writes one scene's folder, atomically; a finished scene is left as it is.

    A frame that cannot be decoded is left out and reported, and the triples are found without it.

    Returns:
        the scene's entry in the manifest.

    Raises:
        DataError: the scene cannot be opened, or a larger share than `Job.max_corrupt` cannot be read.
    """
    if index := finished(job):
        return summary(index)
    scene = job.source.open()
    if job.folder.exists():  # prepared before a list asked for more
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
    """Writes a scene's frames into a folder; returns its index."""
    if len(scene.corrupt) > job.max_corrupt * scene.video_frames:
        raise _too_many(scene.name, list(scene.corrupt.values()), scene.video_frames, job)
    numbers, written = scene.numbers, {}
    corrupt: dict[int, str] = {}
    while True:
        bad = [numbers[i] for i in corrupt]
        plan = plan_frames(scene, job.split, job.settings, job.listed, bad)
        todo = [
            i for i in plan.colors if i not in written or (i in plan.depths and "depth" not in written[i])
        ]
        for i in todo:
            try:
                written[i] = _write_frame(scene, i, i in plan.depths, job.settings, folder)
            except DataError as error:
                corrupt[i] = str(error)
                if len(corrupt) > job.max_corrupt * len(plan.colors):
                    raise _too_many(scene.name, list(corrupt.values()), len(plan.colors), job) from error
        if not any(i in corrupt for i in todo):
            break
    for i in written.keys() - set(plan.colors):  # a source of a target that cannot be read
        for kind, suffix in (("color", "jpg"), ("depth", "png"), ("pose", "txt")):
            (folder / kind / f"{scene.frame_ids[i]}.{suffix}").unlink(missing_ok=True)
    size_hw, depth_hw = job.settings.size_hw, scene.depth_hw if plan.depths else None
    K = scale_intrinsics(scene.K(0), scene.size_hw, size_hw)
    _write_matrix(folder / "intrinsic" / "intrinsic_color.txt", K)
    if depth_hw is not None and scene.depth_K is not None:
        _write_matrix(folder / "intrinsic" / "intrinsic_depth.txt", scene.depth_K)
    found = plan.triples
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
        "left_out": {
            **scene.invalid,
            **({"frame cannot be read": sorted(numbers[i] for i in corrupt)} if corrupt else {}),
        },
        "corrupt": scene.corrupt | {scene.frame_ids[i]: why for i, why in corrupt.items()},
        "listed": sorted(job.listed),
        "triples": None
        if found is None
        else {"found": len(found), "tried": found.targets_tried, "dropped": found.dropped},
    }


def _too_many(scene: str, faults: list[str], number: int, job: Job) -> DataError:
    return DataError(
        f"scene {scene!r}: {len(faults)} of the {number} frames needed cannot be read, more than "
        f"{job.max_corrupt:.1%} (--max-corrupt). The first: {faults[0]}"
    )


def _write_frame(
    scene: ScanNetScene, i: int, depth: bool, settings: Settings, folder: Path
) -> dict[str, list[int] | None]:
    """Writes one frame; returns its checksums, None where there is no depth map."""
    contents = {kind: _encode(scene, kind, i, settings) for kind in ("color", *(["depth"] if depth else []))}
    name = scene.frame_ids[i]
    for kind, content in contents.items():
        if content is not None:
            (folder / kind / f"{name}.{'jpg' if kind == 'color' else 'png'}").write_bytes(content)
    _write_matrix(folder / "pose" / f"{name}.txt", scene.world_T_cams[i])
    return {kind: None if content is None else checksum(content) for kind, content in contents.items()}


def _encode(scene: ScanNetScene, kind: str, i: int, settings: Settings) -> bytes | None:
    """A frame's colour at the network's size as JPEG, or its depth at its own size as PNG in millimetres.

    None where the frame has no depth map.
    """
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
        raise DataError(f"scene {scene.name!r}, frame {scene.frame_ids[i]}: depth beyond 65.5 m.")
    Image.fromarray(millimetres.astype(np.uint16)).save(buffer, format="PNG", compress_level=1)
    return buffer.getvalue()


def _write_matrix(path: Path, matrix: np.ndarray) -> None:
    """As the official exporter: four lines of four numbers, with the precision of float32."""
    whole = np.eye(4)
    whole[: matrix.shape[0], : matrix.shape[1]] = matrix
    np.savetxt(path, whole, fmt="%.9g")


def summary(index: dict) -> dict:
    """A scene's entry in the manifest: counts, for a report without opening the scene."""
    counts = {reason: len(numbers) for reason, numbers in index["left_out"].items()}
    kept = set(index["numbers"])
    return {
        "name": index["scene"],
        "split": index["split"],
        "frames": len(index["numbers"]),
        "with_depth": sum(depth is not None for depth in index["depth"]),
        "video_frames": index["source"]["frames"],
        "bytes": sum(c[0] + (d[0] if d else 0) for c, d in zip(index["color"], index["depth"], strict=True)),
        "left_out": counts,
        "corrupt": index["corrupt"],
        "listed_left_out": [n for n in index["listed"] if n not in kept],
        "registration_px": index["registration_px"],
        "triples": index["triples"],
    }
