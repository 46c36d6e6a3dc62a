"""The scenes and frames of a run, for training and for scoring: data sets, triples (section 4.1), identities.

Only this module leaves out unreadable frames (`d3d.pipeline.readable`).
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np

from d3d.datasets import Dataset, Scene, Triples, find_triples
from d3d.datasets.lists import given_files, indices_on, read_list, with_given
from d3d.datasets.scene import FrameList, digest_of
from d3d.errors import ConfigError, DataError
from d3d.pipeline.config import keyframes_name
from d3d.pipeline.opened import open_kept
from d3d.pipeline.readable import TRAINING, unreadable
from d3d.pipeline.settings import Config
from d3d.progress import say


@dataclass(frozen=True)
class TrainingScene:
    """A scene of the train split with its triples."""

    scene: Scene
    triples: Triples

    @property
    def targets(self) -> list[int]:
        """Indices of the target frames, the frames with labels."""
        return [int(i) for i in self.triples.indices[:, 0]]

    def frames_to_fuse(self, integrate_every: int) -> list[int]:
        """Return the indices of the target frames and of the frames integrated into the TSDF."""
        return sorted({*self.targets, *self.scene.every(integrate_every)})

    def other_sources(self, integrate_every: int) -> list[int]:
        """Indices of the source frames that `frames_to_fuse` lacks: only the label strategy "mv" needs their depth."""
        sources = set(map(int, self.triples.indices[:, 1:].ravel()))
        return sorted(sources.difference(self.frames_to_fuse(integrate_every)))

    def frames_used(self, integrate_every: int) -> list[int]:
        """Indices of all frames that a run reads."""
        return sorted({*self.frames_to_fuse(integrate_every), *self.other_sources(integrate_every)})


def dataset(config: Config) -> Dataset:
    """Return the run's data set. The two data sets opened last are cached."""
    d = config.data
    return open_kept(d.dataset, d.root, config.options_of(d.dataset, d.options))


def evaluated_dataset(config: Config) -> Dataset:
    """Return the data set for scoring with the user's lists; by default the run's data set.

    Raises:
        ConfigError: the parameter ``lists`` is wrong.
        DataError: a list is wrong.
    """
    e = config.evaluation
    if e.dataset is None:
        found = dataset(config)
    else:
        found = open_kept(e.dataset, e.root, config.options_of(e.dataset, e.options))
    # the lists are not cached: their files may have changed
    return found if e.lists is None else with_given(found, e.lists, e.split, e.every)


def training_scenes(config: Config) -> list[TrainingScene]:
    """Return the training scenes with triples (section 4.1), without unreadable frames.

    Raises:
        DataError: no scene has a triple (the message counts the reasons), or too many frames are unreadable.
    """
    found = all_training_scenes(config)
    if dataset(config).verified:
        return found
    every = config.fusion.integrate_every
    bad = unreadable(config, TRAINING, [(s.scene, s.frames_used(every)) for s in found])
    kept = [left for s in found if (left := _without(s, bad.get(s.scene.name, {}))) is not None]
    if not kept:
        raise DataError(
            f"data set {config.data.dataset!r}: every triple has an unreadable frame. Copy the data set again."
        )
    return kept


def _without(training: TrainingScene, reasons: Mapping[str, str]) -> TrainingScene | None:
    """Return a scene without unreadable frames and their triples; None if no triple is left."""
    if not reasons:
        return training
    old, triples = training.scene, training.triples
    keep = np.array([frame not in reasons for frame in old.frame_ids])
    usable = keep[triples.indices].all(axis=1)
    if not usable.any():
        return None
    if keep.all():  # frames with an unreadable pose are not among the scene's frames
        return training
    place = np.cumsum(keep) - 1  # old index -> new index
    dropped = {**triples.dropped, "a frame of the triple cannot be read": int((~usable).sum())}
    left = replace(triples, indices=place[triples.indices[usable]], dropped=dropped)
    return TrainingScene(old.without(reasons), left)


def all_training_scenes(config: Config) -> list[TrainingScene]:
    """Return the training scenes with triples, including unreadable frames."""
    d = config.data
    if config.evaluation.lists is not None:
        evaluated_dataset(config)  # checks the lists before a long training
    found = dataset(config)
    rule = (d.every, d.translation_m, d.max_rotation_deg)
    kept = _found.setdefault(found, {})
    if rule not in kept:  # cached: every stage needs the triples, and ScanNet takes seconds
        for line in other_than_prepared(found, config):
            say(line)
        kept[rule] = _find(found, *rule)
    return list(kept[rule])


def other_than_prepared(found: Dataset, config: Config) -> list[str]:
    """Describe the differences between the run's settings and the settings of a prepared folder, one line for each.

    A multiple of a prepared step is no difference: it needs no further frames.
    """
    d, f, e = config.data, config.fusion, config.evaluation
    triples = "triples are found only among the prepared frames"
    asked = {
        "every": (d.every, triples),
        "translation_m": (list(d.translation_m), triples),
        "max_rotation_deg": (d.max_rotation_deg, triples),
        "integrate_every": (f.integrate_every, "meshes are fused only from the prepared frames"),
    }
    if e.dataset is None and e.every > 1:  # 1 means every frame of the folder
        asked["eval_every"] = (e.every, "only the prepared frames are scored")
    lines = []
    for name, (value, effect) in asked.items():
        was = found.prepared.get(name, value)
        whole = isinstance(was, int) and isinstance(value, int) and was > 0
        if was != value and not (whole and value % was == 0):
            lines.append(
                f"{found.name} was prepared with {name} = {was}, and this run has {value}: {effect}."
            )
    height, width = (found.prepared.get(k, n) for k, n in zip(("height", "width"), d.size_hw, strict=True))
    if height < d.size_hw[0] or width < d.size_hw[1]:
        lines.append(
            f"{found.name} was prepared at {width}x{height}, and this run needs {d.size_hw[1]}x{d.size_hw[0]}: "
            f"its images are enlarged."
        )
    return [f"{line} Prepare it again with these settings." for line in lines]


_found: WeakKeyDictionary[Dataset, dict[tuple, list[TrainingScene]]] = WeakKeyDictionary()


def _find(found: Dataset, every: int, *rule: Any) -> list[TrainingScene]:
    result = []
    for scene in found.scenes("train"):
        triples = find_triples(scene.world_T_cams, every, *rule, targets=scene.every(every))
        result.append(TrainingScene(scene, triples))
    with_triples = [s for s in result if len(s.triples)]
    if not with_triples:
        dropped = sum((Counter(s.triples.dropped) for s in result), Counter())
        tried = sum(s.triples.targets_tried for s in result)
        nothing = Triples(np.zeros((0, 3), int), tried, dict(dropped.most_common()))
        nothing.require(f"data set {found.name!r}")
    return with_triples


def evaluated_scenes(config: Config) -> list[Scene]:
    """Return the scenes of the evaluated split, without unreadable frames.

    Raises:
        DataError: too many frames are unreadable, or all of them.
    """
    e = config.evaluation
    data = evaluated_dataset(config)
    if e.keyframes is not None:
        keyframes(config)  # checks the list
    needed = [(s, used) for s in data.scenes(e.split) if (used := evaluated_frames(config, s))]
    scenes = [s for s, _ in needed]
    if data.verified:
        return scenes
    bad = unreadable(config, evaluated_name(config), needed, depth=any(s.has_depth for s in scenes))
    kept = []
    for scene, used in needed:
        reasons = bad.get(scene.name, {})
        if any(scene.frame_ids[i] not in reasons for i in used):
            kept.append(scene.without(reasons))
    if not kept:
        raise DataError(
            f"split {e.split!r} of data set {data.name!r}: no frame can be read. Copy the data set again."
        )
    return kept


def evaluated_frames(config: Config, scene: Scene) -> list[int]:
    """Return the indices of the scored frames: every Nth frame, or the frames of the parameter ``keyframes``."""
    if config.evaluation.keyframes is None:
        return scene.every(config.evaluation.every)
    # `keyframes` has already checked the list against all scenes
    return indices_on(read_list(_keyframes_file(config)), scene)


def split_frames(config: Config, scene: Scene) -> frozenset[int]:
    """Return the indices of the scored frames that count for the split; other frames are scored only for a list."""
    e = config.evaluation
    if e.keyframes is not None:
        return frozenset(evaluated_frames(config, scene))
    return evaluated_dataset(config).split_frames(e.split, scene, e.every)


def is_whole(config: Config) -> bool:
    """Whether the whole split is scored. Only then may tables show the paper's rows beside the scores."""
    e = config.evaluation
    return e.keyframes is None and evaluated_dataset(config).whole(e.split, e.every)


def evaluated_name(config: Config) -> str:
    """Return the folder name of an evaluation: data set (if not the training's), split, keyframe list (if given)."""
    e = config.evaluation
    return "-".join(p for p in (e.dataset, e.split, keyframes_name(e)) if p)


def keyframes(config: Config) -> FrameList:
    """Read the list of the parameter ``keyframes``, and check each frame against the data set (`read_list`)."""
    e = config.evaluation
    data = evaluated_dataset(replace(config, evaluation=replace(e, lists=None)))
    where = f"split {e.split!r} of data set {data.name!r}"
    return read_list(_keyframes_file(config), data.scenes(e.split), where)


def _keyframes_file(config: Config) -> Path:
    """Return the file of the parameter ``keyframes``; a `ConfigError` for several files."""
    e = config.evaluation
    files = given_files(e.keyframes, e.split)
    if len(files) != 1:
        raise ConfigError(f"keyframes = {e.keyframes!r} must be one list, but names {len(files)}.")
    return next(iter(files.values()))


def training_data(config: Config) -> dict[str, Any]:
    """Return the identity of the training data: scenes, frames, poses, intrinsics and triples.

    Raises:
        DataError: as `training_scenes`; or a frame has no intrinsics.
    """
    scenes = training_scenes(config)
    digest = hashlib.sha256(digest_of([s.scene for s in scenes]).encode())
    for s in scenes:
        digest.update(np.ascontiguousarray(s.triples.indices, "<i8").tobytes())
    counts = {"scenes": len(scenes), "triples": sum(len(s.triples) for s in scenes)}
    return {"dataset": config.data.dataset, **counts, "sha256": digest.hexdigest()}


def data_of(scenes: Sequence[TrainingScene], frames: Sequence[Sequence[int]]) -> dict[str, Any]:
    """Return the identity of frames of the training scenes.

    Args:
        frames: indices of the frames of each scene.
    """
    return {"frames": sum(map(len, frames)), "sha256": digest_of([s.scene for s in scenes], frames)}


def evaluated_data(config: Config) -> dict[str, Any]:
    """Return the identity of the evaluated frames, with the kind of ground truth if a data set has several kinds."""
    e = config.evaluation
    scenes = evaluated_scenes(config)
    frames = [evaluated_frames(config, s) for s in scenes]
    truth = evaluated_dataset(config).truth(e.split)
    return {
        "dataset": e.dataset or config.data.dataset,
        "frames": sum(map(len, frames)),
        "sha256": digest_of(scenes, frames),
        **({"ground_truth": truth} if truth else {}),
    }


def require_depth(config: Config) -> None:
    """Raise a `DataError` if the evaluated split has no ground-truth depth. Call this before a training."""
    if not any(s.has_depth for s in evaluated_scenes(config)):
        e = config.evaluation
        raise DataError(
            f"split {e.split!r} of {e.dataset or config.data.dataset!r} has no ground-truth depth. Evaluate another "
            f"split, or another data set (eval_dataset)."
        )
