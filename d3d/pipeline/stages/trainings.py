"""Trainings: self-supervised pretraining (section 3.1), the student's distillation (3.2.4), and variants of these."""

from __future__ import annotations

import dataclasses
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
from d3d.figures.charts import loss_curves
from d3d.figures.files import save_png
from d3d.geometry import nearest_depth
from d3d.models import create_model
from d3d.models.initial import find_initial_weights
from d3d.parallel import tasks
from d3d.parallel.distributed import select_device
from d3d.pipeline.graph import Key, require_finished, stage
from d3d.pipeline.runs import StageFolder, run_folder
from d3d.pipeline.scenes import training_data, training_scenes
from d3d.pipeline.settings import Config, TrainConfig
from d3d.prediction import DepthStore
from d3d.training import (
    CURVE,
    STATE,
    WEIGHTS,
    DistillTask,
    PretrainTask,
    RegressionTask,
    Task,
    train,
)
from d3d.uncertainty import SNAPSHOTS, find_uncertainty

TAKES = "a training: seconds at profile smoke, minutes at demo and laptop, hours on a GPU at paper"
# how a training is run, which does not change its result; weights are identified by their content
_NOT_THE_RESULT = ("workers", "checkpoint_steps", "snapshots", "compile", "pretrained", "weights")


def teacher_of(config: Config, arch: str, round: int) -> Key:
    """The training whose network is distilled: the pretraining, or in a later round the student of the round before."""
    return Key("pretrain", arch) if round == 1 else Key("distill", arch, config.labels, round - 1)


def trained(config: Config, arch: str, labels: str, round: int = 0) -> Key:
    """The training of a network: the self-supervised one where ``labels`` is ""."""
    return Key("distill", arch, labels, round or config.round) if labels else Key("pretrain", arch)


def _settings(config: Config, stage: str, arch: str) -> dict[str, Any]:
    values = dataclasses.asdict(config.training(stage, arch))
    return {
        "arch": arch,
        "seed": config.seed,
        "training": {k: v for k, v in values.items() if k not in _NOT_THE_RESULT},
    }


def _data_settings(config: Config) -> dict[str, Any]:
    values = dataclasses.asdict(config.data)
    del values["root"]
    return {"data": values}


def _initial(stage: str) -> Callable[[Config, Key], dict[str, Any]]:
    """The identity of a training's initial weights: where they come from, and the sha256 of their file."""

    def identify(config: Config, key: Key) -> dict[str, Any]:
        settings = config.training(stage, key.arch)
        found = _initial_weights(config, key.arch, settings)
        return {"source": found.source, "sha256": found.sha256}

    return identify


def _initial_weights(config: Config, arch: str, settings: TrainConfig):
    # profile paper promises ImageNet weights: random values in their place would be another experiment
    return find_initial_weights(arch, settings.pretrained, settings.weights, strict=config.profile == "paper")


@stage(
    "pretrain",
    settings=lambda c, k: _settings(c, "pretrain", k.arch) | _data_settings(c),
    data=lambda c, k: training_data(c),
    initial=_initial("pretrain"),
    takes=TAKES,
)
def _pretrain(config: Config, key: Key, opened: StageFolder) -> None:
    train_stage(
        config, opened, key.arch, pretrain_task(config, key.arch), config.training("pretrain", key.arch)
    )


def pretrain_task(config: Config, arch: str) -> PretrainTask:
    """The samples and the loss of the pretraining (section 3.1)."""
    settings, d = config.training("pretrain", arch), config.data
    scenes = training_scenes(config)
    samples = TripleSamples([s.scene for s in scenes], [s.triples for s in scenes], d.size_hw, config.seed)
    return PretrainTask(
        samples,
        settings.scales,
        settings.smoothness,
        settings.automask,
        d.min_depth,
        d.max_depth,
        compile=settings.compile,
    )


@stage(
    "distill",
    settings=lambda c, k: _settings(c, "distill", k.arch),
    needs=lambda c, k: (_labels_of(k),),
    initial=_initial("distill"),
    takes=TAKES,
)
def _distill(config: Config, key: Key, opened: StageFolder) -> None:
    store = DepthStore(require_finished(config, _labels_of(key)))
    task = distill_task(config, store, fusion.find_strategy(key.labels).training_size(config.data.size_hw))
    train_stage(config, opened, key.arch, task, config.training("distill", key.arch))


def _labels_of(key: Key) -> Key:
    return key._replace(stage="fuse")


def distill_task(config: Config, store: DepthStore, size_hw: tuple[int, int]) -> DistillTask:
    """The samples and the loss of a distillation (3.2.4).

    Args:
        store: the label of every target frame.
        size_hw: the size of the training images, which may be smaller than the labels.
    """
    d = config.data
    label = store.read_of if size_hw == d.size_hw else partial(_small_label, store, size_hw)
    return DistillTask(_label_samples(config, label, size_hw), d.min_depth, d.max_depth)


def _label_samples(
    config: Config, label: Callable[[Scene, int], np.ndarray], size_hw: tuple[int, int]
) -> LabelSamples:
    """Every target frame with its label, which is read by a function of scene and frame index."""
    scenes = training_scenes(config)
    frames = [(k, i) for k, s in enumerate(scenes) for i in s.targets]
    return LabelSamples([s.scene for s in scenes], frames, label, size_hw, config.seed)


def _small_label(store: DepthStore, size_hw: tuple[int, int], scene: Scene, i: int) -> np.ndarray:
    return nearest_depth(store.read_of(scene, i), size_hw)


def _variant_training(key: Key) -> str:
    return "pretrain" if key.round == 1 and key.labels != "regression" else "distill"


def _teachers_labels(config: Config, key: Key) -> Key:
    return Key("fuse", key.arch, config.labels, key.round - 1)


def _variant_needs(config: Config, key: Key) -> tuple[Key, ...]:
    if key.labels == "regression":
        return (Key("predict", key.arch, round=key.round),)
    return () if key.round == 1 else (_teachers_labels(config, key),)


def _variant_settings(config: Config, key: Key) -> dict[str, Any]:
    result = _settings(config, _variant_training(key), key.arch) | {"variant": key.labels}
    if key.labels == "mcdropout":
        result["dropout"] = find_uncertainty("mcdropout").options["dropout"]
    elif key.labels == "snapshots":
        result["snapshots"] = snapshots_of(config, key.arch, key.round)
    return result if _variant_needs(config, key) else result | _data_settings(config)


@stage(
    "variant",
    settings=_variant_settings,
    needs=_variant_needs,
    data=lambda c, k: None if _variant_needs(c, k) else training_data(c),
    initial=lambda c, k: _initial(_variant_training(k))(c, k),
    takes=TAKES,
)
def _variant(config: Config, key: Key, opened: StageFolder) -> None:
    """Train a network that only an uncertainty needs; ``key.labels`` is the uncertainty's name.

    "mcdropout" and "snapshots" repeat the teacher's training with dropout, or with weights kept on the way.
    "regression" is a fresh network that learns the teacher's depth and how far it is off (`RegressionTask`).
    """
    stage, options = _variant_training(key), {}
    d, settings = config.data, config.training(stage, key.arch)
    if key.labels == "regression":
        store = DepthStore(require_finished(config, Key("predict", key.arch, round=key.round)))
        task: Task = RegressionTask(
            _label_samples(config, store.read_of, d.size_hw), d.min_depth, d.max_depth
        )
        options["log_scale"] = True
    elif key.round == 1:
        task = pretrain_task(config, key.arch)
    else:
        store = DepthStore(require_finished(config, _teachers_labels(config, key)))
        task = distill_task(
            config, store, fusion.find_strategy(config.labels).training_size(config.data.size_hw)
        )
    if key.labels == "mcdropout":
        options["dropout"] = find_uncertainty("mcdropout").options["dropout"]
    kept = snapshots_of(config, key.arch, key.round) if key.labels == "snapshots" else 0
    train_stage(config, opened, key.arch, task, replace(settings, snapshots=kept), **options)


def snapshots_of(config: Config, arch: str, round: int) -> int:
    """How many snapshots of the teacher's training the uncertainty "snapshots" uses, besides the last weights."""
    return config.training("pretrain" if round == 1 else "distill", arch).snapshots or SNAPSHOTS


def train_stage(
    config: Config, opened: StageFolder, arch: str, task: Task, settings: TrainConfig, **options: Any
) -> None:
    """Train a fresh network in a stage's folder, or resume its training, and finish the stage.

    Args:
        **options: more for `create_model`.
    """
    device, folder = select_device(config.device), opened.folder
    initial = _initial_weights(config, arch, settings)
    factory = partial(
        create_model,
        arch,
        pretrained=False,
        weights=initial.path,
        init_depth_m=settings.init_depth_m,
        min_depth=config.data.min_depth,
        max_depth=config.data.max_depth,
        **options,
    )
    what = str(folder.relative_to(run_folder(config)))
    tasks.close()  # its processes would keep their memory for the hours of a training
    train(
        factory,
        task,
        settings,
        folder,
        seed=config.seed,
        device=device,
        what=what,
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
    (folder / STATE).unlink(missing_ok=True)  # hundreds of MB that nobody needs after DONE


def draw_loss(folder: Path, step: int | None = None) -> None:
    """Draw ``loss.png`` from ``loss.csv``; with a step only if the last picture is more than a minute old."""
    picture = folder / "loss.png"
    if step is None or not picture.exists() or time.time() - picture.stat().st_mtime > 60:
        save_png(loss_curves({"": pd.read_csv(folder / CURVE).to_dict("records")}), picture)
