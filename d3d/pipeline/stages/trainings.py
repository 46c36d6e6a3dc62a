"""Stages of training: self-supervised pretraining (section 3.1), distillation (3.2.4), and variants of both."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from d3d import fusion, io
from d3d.datasets import Scene
from d3d.datasets.samples import LabelSamples, TripleSamples
from d3d.errors import ConfigError
from d3d.figures.charts import loss_curves
from d3d.figures.files import save_png
from d3d.geometry import nearest_depth
from d3d.models import DepthNetwork, create_model
from d3d.models.initial import find_initial_weights
from d3d.models.shipped import Shipped, read_manifest, shipped_file
from d3d.parallel import tasks
from d3d.parallel.distributed import select_device
from d3d.pipeline.graph import Key, fields_of, require_finished, stage
from d3d.pipeline.posecheck import require_poses
from d3d.pipeline.runs import StageFolder, run_folder
from d3d.pipeline.scenes import training_data, training_scenes
from d3d.pipeline.settings import Config, TrainConfig
from d3d.prediction import DepthStore
from d3d.training import CURVE, STATE, WEIGHTS, DistillTask, PretrainTask, RegressionTask, Task, train
from d3d.uncertainty import SNAPSHOTS, find_uncertainty


def _takes(config: Config, key: Key) -> str:
    if key.stage == "pretrain" and config.teachers == "shipped":
        return "a network that ships with d3d is copied"
    return "a training: seconds at profile smoke, minutes at demo and laptop, hours on a GPU at paper"


# settings that do not change the result; initial weights are identified by their sha256
_NOT_THE_RESULT = ("workers", "checkpoint_steps", "snapshots", "compile", "pretrained", "weights")


def teacher_of(config: Config, arch: str, round: int) -> Key:
    """Return the key of the teacher's training: the pretraining, or the student of the previous round."""
    return Key("pretrain", arch) if round == 1 else Key("distill", arch, config.labels, round - 1)


def trained(config: Config, arch: str, labels: str, round: int = 0) -> Key:
    """Return the key of a network's training (labels "": self-supervised)."""
    return Key("distill", arch, labels, round or config.round) if labels else Key("pretrain", arch)


def _settings(config: Config, key: Key) -> dict[str, Any]:
    """The settings of a pretraining or a distillation. Only the former has data settings: labels bring their own."""
    settings = config.training(key.stage, key.arch)
    # the options of the loss came later: at their defaults, results keep their identity
    plain = key.stage != "pretrain" or settings.loss == "photometric"
    training = fields_of(settings, *_NOT_THE_RESULT, *(("loss", "triplet_margin") if plain else ()))
    data = {"data": config.data.identity()} if key.stage == "pretrain" else {}
    return {"arch": key.arch, "seed": config.seed, "training": training, **data}


def _needs(config: Config, key: Key) -> tuple[Key, ...]:
    return () if key.stage == "pretrain" else (key._replace(stage="fuse"),)


def _data(config: Config, key: Key) -> dict[str, Any] | None:
    return training_data(config) if key.stage == "pretrain" else None


# as the initial weights of a student: the weights of its teacher
TEACHER = "teacher"


def _initial(config: Config, key: Key) -> dict[str, Any]:
    """The identity of a training's initial weights: their source and the sha256 of their file."""
    if key.stage == "distill" and config.training("distill", key.arch).weights == TEACHER:
        return {"source": TEACHER}  # the needs identify it
    found = _initial_weights(config, key.arch, config.training(key.stage, key.arch))
    return {"source": found.source, "sha256": found.sha256}


def _initial_weights(config: Config, arch: str, settings: TrainConfig):
    # strict: profile paper requires ImageNet weights, and an error is better than random values in their place
    return find_initial_weights(arch, settings.pretrained, settings.weights, strict=config.profile == "paper")


def _check(config: Config, key: Key) -> None:
    require_poses(config)


@stage(
    "distill",
    settings=_settings,
    needs=_needs,
    data=_data,
    initial=_initial,
    check=_check,
    takes=_takes,
)
def _training(config: Config, key: Key, opened: StageFolder) -> None:
    settings = config.training(key.stage, key.arch)
    if key.stage == "distill" and settings.weights == TEACHER:
        teacher = require_finished(config, teacher_of(config, key.arch, key.round))
        settings = replace(settings, weights=str(teacher / WEIGHTS))
    train_stage(config, opened, key.arch, _task(config, key), settings)


def _unless_shipped(part: Callable) -> Callable:
    """Return a part of the identity of a pretraining: None for a network that ships, since its file says all."""
    return lambda config, key: part(config, key) if config.teachers == "trained" else None


def _pretrain_settings(config: Config, key: Key) -> dict[str, Any]:
    if config.teachers == "trained":
        return _settings(config, key)
    name, entry = shipped_teacher(config, key.arch)
    return {"arch": key.arch, "shipped": name, "sha256": entry.sha256}


@stage(
    "pretrain",
    settings=_pretrain_settings,
    needs=_needs,
    data=_unless_shipped(_data),
    initial=_unless_shipped(_initial),
    check=_check,
    takes=_takes,
)
def _pretrain(config: Config, key: Key, opened: StageFolder) -> None:
    if config.teachers == "trained":
        _training(config, key, opened)
        return
    name, entry = shipped_teacher(config, key.arch)
    with io.atomic(opened.folder / WEIGHTS) as temporary:
        shutil.copyfile(shipped_file(name), temporary)
    opened.finish({WEIGHTS: entry.sha256}, shipped=name, trained=entry.facts["training"])


def shipped_teacher(config: Config, arch: str) -> tuple[str, Shipped]:
    """Return the name and the manifest's entry of the self-supervised network that ships, for teachers = "shipped".

    Raises:
        ConfigError: no such network ships, or it was trained on other data, at another size or depth range.
    """
    name, networks, d = f"{arch}-selfsupervised", read_manifest().networks, config.data
    change = "Set teachers = 'trained' to train it in this run, or choose profile demo, laptop or paper."
    if name not in networks:
        known = ", ".join(n for n in networks if n.endswith("-selfsupervised")) or "no network"
        raise ConfigError(f"teachers = 'shipped', but no network {name!r} ships (there is {known}). {change}")
    facts = networks[name].facts
    wanted = {
        "dataset": (d.dataset, facts["data"]["dataset"]),
        "size (height, width)": (d.size_hw, tuple(facts["image_hw"])),
        "depth range": ((d.min_depth, d.max_depth), tuple(facts["depth_m"])),
    }
    if other := [
        f"{what} {asked} instead of {there}" for what, (asked, there) in wanted.items() if asked != there
    ]:
        raise ConfigError(
            f"teachers = 'shipped', but {name!r} was trained otherwise: this run has {', '.join(other)}. {change}"
        )
    return name, networks[name]


def _task(config: Config, key: Key) -> Task:
    """Return the samples and the loss of a pretraining (section 3.1) or a distillation (3.2.4)."""
    d, settings = config.data, config.training(key.stage, key.arch)
    if key.stage == "pretrain":
        scenes = training_scenes(config)
        triples = [s.triples for s in scenes]
        return PretrainTask(
            TripleSamples([s.scene for s in scenes], triples, d.size_hw, config.seed),
            settings.scales,
            settings.smoothness,
            settings.automask,
            d.min_depth,
            d.max_depth,
            compile=settings.compile,
            loss_name=settings.loss,
            margin=settings.triplet_margin,
        )
    store = DepthStore(require_finished(config, key._replace(stage="fuse")))
    size_hw = fusion.find_strategy(key.labels).training_size(d.size_hw)  # may be smaller than the labels
    label = store.read_of if size_hw == d.size_hw else partial(_small_label, store, size_hw)
    return DistillTask(_label_samples(config, label, size_hw), d.min_depth, d.max_depth)


def _label_samples(
    config: Config, label: Callable[[Scene, int], np.ndarray], size_hw: tuple[int, int]
) -> LabelSamples:
    """Return every target frame with its label.

    Args:
        label: reads the label of a scene's frame, by scene and frame index.
    """
    scenes = training_scenes(config)
    frames = [(k, i) for k, s in enumerate(scenes) for i in s.targets]
    return LabelSamples([s.scene for s in scenes], frames, label, size_hw, config.seed)


def _small_label(store: DepthStore, size_hw: tuple[int, int], scene: Scene, i: int) -> np.ndarray:
    return nearest_depth(store.read_of(scene, i), size_hw)


def _varied(config: Config, key: Key) -> Key:
    """The training that a variant repeats. A regression has the settings of a distillation."""
    teacher = teacher_of(config, key.arch, key.round)
    return teacher._replace(stage="distill") if key.labels == "regression" else teacher


def _variant_needs(config: Config, key: Key) -> tuple[Key, ...]:
    if key.labels == "regression":
        return (Key("predict", key.arch, round=key.round),)
    return _needs(config, _varied(config, key))


def _variant_settings(config: Config, key: Key) -> dict[str, Any]:
    result = _settings(config, _varied(config, key)) | {"variant": key.labels}
    if key.labels == "snapshots":
        result["snapshots"] = snapshot_training(config, key).snapshots
    return result | _dropout(key)


def _dropout(key: Key) -> dict[str, float]:
    return {"dropout": find_uncertainty(key.labels).options["dropout"]} if key.labels == "mcdropout" else {}


@stage(
    "variant",
    settings=_variant_settings,
    needs=_variant_needs,
    data=lambda c, k: _data(c, _varied(c, k)),
    initial=lambda c, k: _initial(c, _varied(c, k)),
    takes=_takes,
)
def _variant(config: Config, key: Key, opened: StageFolder) -> None:
    """Train the additional network of an uncertainty; ``key.labels`` is the name of the uncertainty.

    "mcdropout" repeats the teacher's training with dropout. "snapshots" repeats it and keeps intermediate weights.
    "regression" trains a fresh network to predict the teacher's depth and its own error (`RegressionTask`).
    """
    d, varied, options = config.data, _varied(config, key), _dropout(key)
    if key.labels == "regression":
        (predicted,) = _variant_needs(config, key)
        store = DepthStore(require_finished(config, predicted))
        samples = _label_samples(config, store.read_of, d.size_hw)
        task: Task = RegressionTask(samples, d.min_depth, d.max_depth)
        options["log_scale"] = True
    else:
        task = _task(config, varied)
    kept = snapshot_training(config, key).snapshots if key.labels == "snapshots" else 0
    settings = replace(config.training(varied.stage, key.arch), snapshots=kept)
    train_stage(config, opened, key.arch, task, settings, **options)


def snapshot_training(config: Config, key: Key) -> TrainConfig:
    """The teacher's training, with the number of snapshots that the uncertainty "snapshots" needs."""
    settings = config.training(teacher_of(config, key.arch, key.round).stage, key.arch)
    return replace(settings, snapshots=settings.snapshots or SNAPSHOTS)


def train_stage(
    config: Config, opened: StageFolder, arch: str, task: Task, settings: TrainConfig, **options: Any
) -> None:
    """Train a fresh network in a stage's folder, or resume its training, and finish the stage.

    Args:
        **options: further arguments of `create_model`.
    """
    device, folder = select_device(config.device), opened.folder
    initial = _initial_weights(config, arch, settings)
    factory = partial(
        _network,
        arch,
        task.samples.size_hw,
        task.samples.focal_px,
        pretrained=False,
        weights=initial.path,
        init_depth_m=settings.init_depth_m,
        min_depth=config.data.min_depth,
        max_depth=config.data.max_depth,
        **options,
    )
    tasks.close()  # its idle processes would hold memory during the training
    train(
        factory,
        task,
        settings,
        folder,
        seed=config.seed,
        device=device,
        what=str(folder.relative_to(run_folder(config))),
        on_checkpoint=partial(draw_loss, folder),
        processes=config.train_processes,
    )
    draw_loss(folder)
    opened.finish(
        {WEIGHTS: io.sha256(folder / WEIGHTS)},
        device=str(device),
        samples=len(task.samples),
        initial={"source": initial.source, "sha256": initial.sha256, "note": initial.note},
    )
    (folder / STATE).unlink(missing_ok=True)  # hundreds of MB, not needed after DONE


def _network(
    arch: str, size_hw: tuple[int, int], focal_px: tuple[float, float], **options: Any
) -> DepthNetwork:
    """Create a fresh network with the size and the focal lengths of its training images."""
    model = create_model(arch, **options)
    model.use_depth_range(options["min_depth"], options["max_depth"])  # a file of a network has its own range
    model.train_size, model.train_focal_px = size_hw, focal_px
    return model


def draw_loss(folder: Path, step: int | None = None) -> None:
    """Draw ``loss.png`` from ``loss.csv``. If a step is given, do so at most once a minute."""
    picture = folder / "loss.png"
    if step is None or not picture.exists() or time.time() - picture.stat().st_mtime > 60:
        save_png(loss_curves({"": pd.read_csv(folder / CURVE).to_dict("records")}), picture)
