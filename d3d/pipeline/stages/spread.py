"""Uncertainties other than the ensemble's (section 3.2.3): what has to be trained for them, and their maps.

Each is of the one network whose depth is judged, the teacher of this round.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import Tensor

from d3d import fusion, io
from d3d.datasets.samples import EpochBatches
from d3d.pipeline import runs
from d3d.pipeline.config import ENSEMBLE, Config, TrainConfig, snapshots_of
from d3d.pipeline.scenes import training_scenes
from d3d.pipeline.stages import depth, labels, networks
from d3d.pipeline.stages.chain import TRAINING, missing, outputs, teacher_round, where
from d3d.prediction import DepthStore, load_checked, map_scenes, network_precision
from d3d.training import SNAPSHOT, WEIGHTS, RegressionTask, Task, select_device
from d3d.uncertainty import find_uncertainty, measure


def uncertainty(config: Config, name: str, arch: str = "") -> DepthStore:
    """How unsure one network is of the depth of every target frame, a standard deviation in metres.

    What it needs and is not there is trained first.

    Args:
        name: of `d3d.uncertainty.UNCERTAINTY`, but "ensemble", which is made of stored depth.
    """
    arch = arch or config.arch
    weights = _weights(config, name, arch)
    inputs = {path.name: io.sha256(path) for path in weights}
    with runs.open_stage(config, "uncertainty", arch, name, inputs=inputs) as stage:
        store = DepthStore(stage.folder)
        if stage.done:
            return store
        scenes = training_scenes(config)
        networks_of = tuple((path, inputs[path.name]) for path in weights)
        map_scenes(
            _spread,
            (name, networks_of, config.device, config.predict_precision, config.seed),
            [s.scene for s in scenes],
            [s.targets for s in scenes],
            store,
            config.data.size_hw,
            what=f"uncertainty/{arch}/{name}",
            **where(config),
        )
        stage.finish({s.scene.name: store.sha256(s.scene.name) for s in scenes})
        return store


def _spread(
    name: str, weights: tuple[tuple[Path, str], ...], device: str, precision: str, seed: int
) -> Callable[[Tensor], Tensor]:
    """A function for `map_scenes`: how unsure networks are of what they see."""
    models = [load_checked(path, sha256).to(select_device(device)) for path, sha256 in weights]

    def spread(images_b3hw: Tensor) -> Tensor:
        with network_precision(models[0], precision):
            return measure(name, models, images_b3hw, seed)

    return spread


def variant(config: Config, name: str, arch: str = "") -> Path:
    """Trains a network that only an uncertainty needs; leaves its weights in ``variant/<arch>/<name>``.

    "mcdropout" and "snapshots" are the teacher's own training once more, with dropout, or with weights kept on the way
    (they end as the teacher did); "regression" is a fresh network that learns the teacher's depth and how far it
    is off (`RegressionTask`).
    """
    arch = arch or config.arch
    make = _regression if name == "regression" else _again
    inputs, task, settings = make(config, arch)
    with runs.open_stage(config, "variant", arch, name, inputs=inputs) as stage:
        if not stage.done:
            options: dict[str, Any] = {}
            if name == "mcdropout":
                options["dropout"] = find_uncertainty(name).options["dropout"]
            elif name == "regression":
                options["log_scale"] = True
            kept = snapshots_of(config, arch) if name == "snapshots" else 0
            networks.train_stage(config, stage, arch, task(), replace(settings, snapshots=kept), **options)
        return stage.folder


# What a variant is made from, what it is trained on (read only if it is trained), and how
Training = tuple[dict[str, str], Callable[[], Task], TrainConfig]


def _again(config: Config, arch: str) -> Training:
    """The teacher's training: the photometric loss, or in a later round the labels of the round before."""
    teacher = teacher_round(config)
    if teacher is None:
        return {}, lambda: networks.pretrain_task(config, arch), config.training("pretrain", arch)
    store = labels.fuse(teacher, arch, config.labels)
    size_hw = fusion.find_strategy(config.labels).training_size(config.data.size_hw)
    inputs = outputs(teacher, "fuse", arch, config.labels)
    return inputs, lambda: networks.distill_task(teacher, store, size_hw), config.training("distill", arch)


def _regression(config: Config, arch: str) -> Training:
    """A student's training, on the teacher's depth."""
    store, d = depth.predict(config, arch), config.data

    def task() -> Task:
        return RegressionTask(
            networks.label_samples(config, store.read_of, d.size_hw), d.min_depth, d.max_depth
        )

    return outputs(config, "predict", arch), task, config.training("distill", arch)


def _weights(config: Config, name: str, arch: str) -> list[Path]:
    """The files of the networks that an uncertainty looks at; what is missing is trained."""
    kind = find_uncertainty(name).networks
    if kind != "variant":
        depth.predict(config, arch)  # the depth that is judged: after it the teacher is there
        folder = _teacher_folder(config, arch)
        if kind == "teacher":
            return [folder / WEIGHTS]
        if kept := _snapshots(config, arch, folder):
            return kept
    if outputs(config, "variant", arch, name) is None:
        with missing(f"variant {arch} {name}", TRAINING):
            variant(config, name, arch)
    folder = variant(config, name, arch)
    return _snapshots(config, arch, folder) if kind == "snapshots" else [folder / WEIGHTS]


def _teacher_folder(config: Config, arch: str) -> Path:
    teacher = teacher_round(config)
    if teacher is None:
        return runs.stage_folder(config, "pretrain", arch)
    return runs.stage_folder(teacher, "distill", arch, config.labels)


def _snapshots(config: Config, arch: str, folder: Path) -> list[Path]:
    """The weights kept on the way of the teacher's training, and the last ones; none if they are not all there."""
    settings = config.training("pretrain" if config.round == 1 else "distill", arch)
    samples = sum(len(s.targets) for s in training_scenes(config))
    total = settings.total_steps(EpochBatches(samples, settings.batch_size, config.seed).per_epoch)
    steps = replace(settings, snapshots=snapshots_of(config, arch)).snapshot_steps(total)
    kept = [folder / SNAPSHOT.format(step=step) for step in dict.fromkeys(steps)]
    return [*kept, folder / WEIGHTS] if all(path.is_file() for path in kept) else []


def cost(config: Config, name: str, arch: str = "") -> dict[str, float]:
    """What an uncertainty has cost, beyond the network whose depth is judged, by its stages' provenance.

    Returns:
        trainings, training_s and prediction_s, seconds on the machine that ran it; with ensemble the prediction
        of the other networks' depth.
    """
    arch = arch or config.arch
    trained: list[Path] = []
    predicted = [runs.stage_folder(config, "uncertainty", "" if name == "ensemble" else arch, name)]
    if name == "ensemble":
        others = [a for a in ENSEMBLE if a != arch]
        trained = [_teacher_folder(config, a) for a in others]
        predicted += [runs.stage_folder(config, "predict", a) for a in others]
    elif outputs(config, "variant", arch, name) is not None:
        trained = [runs.stage_folder(config, "variant", arch, name)]

    def seconds(folders: list[Path]) -> float:
        return sum(io.read_json(f / "provenance.json")["seconds"] for f in folders)

    return {"trainings": len(trained), "training_s": seconds(trained), "prediction_s": seconds(predicted)}
