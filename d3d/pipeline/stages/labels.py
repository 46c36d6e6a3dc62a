"""Stages of labels (section 3.2.3): the uncertainty, its threshold, and Eq. 3 or another label strategy."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from d3d import fusion, io
from d3d.datasets import Scene
from d3d.datasets.samples import EpochBatches
from d3d.errors import DataError
from d3d.geometry import nearest_depth, relative_pose
from d3d.parallel.distributed import select_device
from d3d.parallel.tasks import advance
from d3d.pipeline.graph import Key, ensure, require_finished, stage
from d3d.pipeline.runs import StageFolder
from d3d.pipeline.scenes import TrainingScene, training_scenes
from d3d.pipeline.settings import Config
from d3d.pipeline.stages.depth import (
    SOURCES,
    by_network,
    by_scene,
    project_key,
    uncertainty_key,
    uncertainty_quantile,
)
from d3d.pipeline.stages.trainings import snapshot_training, teacher_of
from d3d.prediction import DepthStore, load_checked, network_precision
from d3d.training import SNAPSHOT, WEIGHTS
from d3d.uncertainty import find_uncertainty, measure


def _uncertainty_of(labels: str, arch: str, round: int) -> Key | None:
    """The key of a label strategy's uncertainty; None for a strategy without uncertainty."""
    strategy = fusion.find_strategy(labels)
    return uncertainty_key(strategy.uncertainty, arch, round) if "uncertainty" in strategy.needs else None


def _uncertainty_needs(config: Config, key: Key) -> tuple[Key, ...]:
    if key.labels == "ensemble":
        return tuple(Key("predict", arch, round=key.round) for arch in config.ensemble)
    kind = find_uncertainty(key.labels).networks
    variant = (key._replace(stage="variant"),) if kind == "variant" else ()
    return teacher_of(config, key.arch, key.round), *variant


def _uncertainty_settings(config: Config, key: Key) -> dict[str, Any]:
    if key.labels == "ensemble":
        return {"uncertainty": "ensemble"}
    kept = find_uncertainty(key.labels).networks == "snapshots"
    return {
        "uncertainty": key.labels,
        "seed": config.seed,
        "precision": config.predict_precision,
        **find_uncertainty(key.labels).options,
        **({"snapshots": snapshot_training(config, key).snapshots} if kept else {}),
    }


@stage("uncertainty", settings=_uncertainty_settings, needs=_uncertainty_needs)
def _uncertainty(config: Config, key: Key, opened: StageFolder) -> None:
    if key.labels == "ensemble":
        predicted = [DepthStore(require_finished(config, need)) for need in _uncertainty_needs(config, key)]
        by_scene(config, key, opened, ensemble_scene, lambda s: (s, predicted))
    else:
        networks = tuple((path, io.sha256(path)) for path in _weights(config, key))
        arguments = (key.labels, networks, config.device, config.predict_precision, config.seed)
        by_network(config, key, opened, _measured, arguments, lambda s: s.targets)


def ensemble_scene(training: TrainingScene, predicted: Sequence[DepthStore], store: DepthStore) -> None:
    """Store the standard deviation of several networks' depth for the target frames of a scene."""
    scene = training.scene

    def deviations() -> Iterator[tuple[str, np.ndarray]]:
        for i in training.targets:
            yield scene.frame_ids[i], fusion.ensemble_std([d.read_of(scene, i) for d in predicted])
            advance()

    if not store.has(scene.name):
        store.write_scene(scene.name, deviations())


def _measured(
    name: str, weights: tuple[tuple[Path, str], ...], device: str, precision: str, seed: int
) -> Callable[[Tensor], Tensor]:
    """Make a function for `map_scenes`: the uncertainty of a batch of images."""
    models = [load_checked(path, sha256).to(select_device(device)) for path, sha256 in weights]

    def measured(images_b3hw: Tensor) -> Tensor:
        with network_precision(models[0], precision):
            return measure(name, models, images_b3hw, seed)

    return measured


def _weights(config: Config, key: Key) -> list[Path]:
    """The files of weights of an uncertainty's networks."""
    kind, teacher = find_uncertainty(key.labels).networks, teacher_of(config, key.arch, key.round)
    variant = key._replace(stage="variant")
    if kind != "snapshots":
        return [require_finished(config, teacher if kind == "teacher" else variant) / WEIGHTS]
    # the snapshots of the teacher's training; if it kept too few, the teacher is trained again
    own = _snapshots(config, key, require_finished(config, teacher))
    return own or _snapshots(config, key, ensure(config, variant))


def _snapshots(config: Config, key: Key, folder: Path) -> list[Path]:
    """The snapshots of a training and its last weights; empty if a snapshot is missing."""
    settings = snapshot_training(config, key)
    samples = sum(len(s.targets) for s in training_scenes(config))
    total = settings.total_steps(EpochBatches(samples, settings.batch_size, config.seed).per_epoch)
    kept = [folder / SNAPSHOT.format(step=n) for n in dict.fromkeys(settings.snapshot_steps(total))]
    return [*kept, folder / WEIGHTS] if all(path.is_file() for path in kept) else []


def threshold(config: Config, labels: str = "", arch: str = "") -> float:
    """Return the threshold of Eq. 3 in metres.

    It is ``threshold_m``. If the strategy or the run sets ``threshold_quantile``, it is this quantile of the
    uncertainty over all pixels of all target frames.
    """
    labels = labels or config.labels
    quantile = _threshold_quantile(config, labels)
    key = _uncertainty_of(labels, arch or config.arch, config.round)
    if quantile is None or key is None:
        return config.fusion.threshold_m
    return uncertainty_quantile(config, DepthStore(ensure(config, key)), quantile)


def _threshold_quantile(config: Config, labels: str) -> float | None:
    """The threshold quantile of the strategy or the run; None for a threshold in metres."""
    own = fusion.find_strategy(labels).threshold_quantile
    return config.fusion.threshold_quantile if own is None else own


@dataclass(frozen=True)
class LabelSources:
    """The stored maps from which labels are made, independent of a run."""

    labels: str
    predicted: DepthStore  # predicted depth D of every target frame
    projected: DepthStore  # projected depth P
    uncertainty: DepthStore | None  # U; None for a strategy without uncertainty
    threshold_m: float  # threshold of Eq. 3, metres
    size_hw: tuple[int, int]  # size of the maps
    device: str  # device for the computation of expensive strategies
    of_sources: DepthStore | None = None  # D of source frames outside the targets, if the strategy needs it

    def inputs(self, scene: Scene, triple: Sequence[int]) -> fusion.LabelInputs:
        """Return the inputs of the label strategy for one target frame.

        Args:
            triple: frame indices of the target, the backward and the forward source.

        Raises:
            DataError: the strategy is an oracle, and the frame has no ground truth.
        """
        target, *sources = map(int, triple)
        needs, more = fusion.find_strategy(self.labels).needs, {}
        if self.uncertainty is not None:
            more["uncertainty"] = self.uncertainty.read_of(scene, target)
            more["threshold_m"] = self.threshold_m
        if "sources" in needs:
            more["source_preds"] = np.stack([self._source(scene, i) for i in sources])
            more["K"] = scene.K(target, self.size_hw)
            poses = scene.world_T_cams
            more["source_T_target"] = np.stack([relative_pose(poses[i], poses[target]) for i in sources])
        if "truth" in needs:
            more["truth"], more["highlight"] = _truth(scene, target, self.labels, self.size_hw)
        return fusion.LabelInputs(
            pred=self.predicted.read_of(scene, target),
            proj=self.projected.read_of(scene, target),
            device=self.device,
            **more,
        )

    def _source(self, scene: Scene, i: int) -> np.ndarray:
        """Depth of a source frame."""
        store = self.of_sources if self.of_sources.has_frame(scene, i) else self.predicted
        return store.read_of(scene, i)


def label_sources(
    config: Config, arch: str = "", labels: str = "", threshold_m: float | None = None
) -> LabelSources:
    """Return the stored maps for the labels of this run; missing maps are computed.

    Args:
        threshold_m: threshold of Eq. 3 in metres; by default `threshold`.
    """
    arch, labels = arch or config.arch, labels or config.labels
    needs = _fuse_needs(config, Key("fuse", arch, labels, config.round))
    predicted, projected, *more = [DepthStore(ensure(config, need)) for need in needs]
    uncertain = _uncertainty_of(labels, arch, config.round) is not None
    return LabelSources(
        labels=labels,
        predicted=predicted,
        projected=projected,
        uncertainty=more[0] if uncertain else None,
        of_sources=more[-1] if "sources" in fusion.find_strategy(labels).needs else None,
        threshold_m=threshold(config, labels, arch) if threshold_m is None else threshold_m,
        size_hw=config.data.size_hw,
        device=str(select_device(config.device)),
    )


def _truth(scene: Scene, i: int, labels: str, size_hw: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """The ground truth and the highlight mask of a frame, at the network's size."""
    depth, highlight = scene.depth(i), scene.highlight_mask(i)
    if depth is None or highlight is None:
        raise DataError(
            f"labels {labels!r} need ground truth and highlight masks of every training frame, and scene {scene.name} "
            "has none. For the rooms that ship, run `python -m glossyrooms.truth --out FOLDER`, and set "
            "root = 'FOLDER'."
        )
    return nearest_depth(depth, size_hw), nearest_depth(highlight, size_hw)


def _require_truth(config: Config, key: Key) -> None:
    """Raise an error for an oracle without ground truth, before the stages that it needs are computed."""
    if "truth" in fusion.find_strategy(key.labels).needs:
        for s in training_scenes(config):
            _truth(s.scene, s.targets[0], key.labels, config.data.size_hw)


def _fuse_needs(config: Config, key: Key) -> tuple[Key, ...]:
    predicted = Key("predict", key.arch, round=key.round)
    uncertain = _uncertainty_of(key.labels, key.arch, key.round)
    needs = [predicted, project_key(key.arch, key.labels, key.round), *([uncertain] if uncertain else [])]
    if "sources" in fusion.find_strategy(key.labels).needs:
        needs.append(predicted._replace(labels=SOURCES))
    return tuple(needs)


def _fuse_settings(config: Config, key: Key) -> dict[str, Any]:
    f, result = config.fusion, {"labels": key.labels}
    if _uncertainty_of(key.labels, key.arch, key.round) is not None:
        quantile = _threshold_quantile(config, key.labels)
        result |= {"threshold_m": f.threshold_m} if quantile is None else {"threshold_quantile": quantile}
    return result


@stage(
    "fuse",
    settings=_fuse_settings,
    needs=_fuse_needs,
    check=_require_truth,
    takes=lambda c, k: "many frames a second",
)
def _fuse(config: Config, key: Key, opened: StageFolder) -> None:
    sources = label_sources(config, key.arch, key.labels)
    used = {} if sources.uncertainty is None else {"threshold_m": sources.threshold_m}
    by_scene(config, key, opened, fuse_scene, lambda s: (sources, s), **used)


def fuse_scene(sources: LabelSources, training: TrainingScene, store: DepthStore) -> None:
    """Store the labels of one scene."""
    scene = training.scene

    def labels() -> Iterator[tuple[str, np.ndarray]]:
        for triple in training.triples.indices:
            yield scene.frame_ids[triple[0]], fusion.make_label(sources.labels, sources.inputs(scene, triple))
            advance()

    if not store.has(scene.name):
        store.write_scene(scene.name, labels())
