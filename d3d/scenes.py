"""Which scenes and frames a run trains on: its data set, and the triples of its train split (section 4.1)."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from dataclasses import dataclass
from typing import Any

import numpy as np

from d3d.config import Config
from d3d.datasets import Dataset, Scene, Triples, find_triples, open_dataset
from d3d.lists import with_given


@dataclass(frozen=True)
class TrainingScene:
    """A scene of the train split with its triples."""

    scene: Scene
    triples: Triples

    @property
    def targets(self) -> list[int]:
        """Frames that are trained on and get a label."""
        return [int(i) for i in self.triples.indices[:, 0]]

    def frames_to_predict(self, integrate_every: int) -> list[int]:
        """Every frame of a triple, and every frame that goes into the TSDF."""
        return sorted({*map(int, self.triples.indices.ravel()), *self.scene.every(integrate_every)})


_opened: dict[str, Dataset] = {}


def dataset(config: Config) -> Dataset:
    """The run's data set; the last two opened are kept, as every stage asks for them."""
    return _open(config.data.dataset, config.data.root, config.data.options)


def evaluated_dataset(config: Config) -> Dataset:
    """The data set that predictions are scored on: the run's own, unless another is named; with the user's lists.

    Raises:
        ConfigError, DataError: the parameter ``lists``, or a list that it names, is not as it should be.
    """
    e = config.evaluation
    found = dataset(config) if e.dataset is None else _open(e.dataset, e.root, e.options)
    # read every time: the file may just have been written anew
    return found if e.lists is None else with_given(found, e.lists, e.split, e.every)


def _open(name: str, root: str | None, options: dict[str, Any]) -> Dataset:
    key = repr((name, root, options))
    if key not in _opened:
        while len(_opened) > 1:
            del _opened[next(iter(_opened))]
        _opened[key] = open_dataset(name, root, **options)
    return _opened[key]


def training_scenes(config: Config) -> list[TrainingScene]:
    """The scenes of the train split that have triples (section 4.1).

    Raises:
        DataError: no scene has one; with the number of targets and the count of each reason.
    """
    d = config.data
    if config.evaluation.lists is not None:
        evaluated_dataset(config)  # a wrong list must not be found out after hours of training
    result, tried, dropped = [], 0, Counter()
    for scene in dataset(config).scenes("train"):
        targets = scene.every(d.every)
        triples = find_triples(
            scene.world_T_cams, d.every, d.translation_m, d.max_rotation_deg, targets=targets
        )
        tried += triples.targets_tried
        dropped.update(triples.dropped)
        if len(triples):
            result.append(TrainingScene(scene, triples))
    if not result:
        Triples(np.zeros((0, 3), int), tried, dict(dropped.most_common())).require(f"data set {d.dataset!r}")
    return result


def frames_digest(scenes: list[TrainingScene]) -> str:
    """sha256 of names, frames, poses and triples: which data a network was trained on."""
    digest = hashlib.sha256()
    for s in scenes:
        digest.update(json.dumps([s.scene.name, s.scene.frame_ids, s.triples.indices.tolist()]).encode())
        digest.update((s.scene.world_T_cams.round(6) + 0.0).tobytes())  # no negative zeros
    return digest.hexdigest()
