"""Trainings: self-supervised pretraining (section 3.1) and the student's distillation (3.2.4)."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from d3d import fusion, io
from d3d.datasets import Scene
from d3d.datasets.samples import LabelSamples, TripleSamples
from d3d.geometry import nearest_depth
from d3d.models import create_model, load_model
from d3d.parallel import tasks
from d3d.pipeline import runs
from d3d.pipeline.config import Config, TrainConfig
from d3d.pipeline.scenes import frames_digest, training_scenes
from d3d.pipeline.stages import frames
from d3d.pipeline.stages import labels as label_stages
from d3d.pipeline.stages.chain import missing, outputs
from d3d.prediction import DepthStore
from d3d.training import CURVE, STATE, WEIGHTS, DistillTask, PretrainTask, Task, select_device, train


def pretrain(config: Config, arch: str = "") -> Path:
    """Section 3.1: trains one network with the photometric loss; leaves its weights."""
    arch = arch or config.arch
    if outputs(config, "pretrain", arch) is None:
        training_scenes(config)  # finds frames that cannot be read: they are part of what it is made from
    with runs.open_stage(config, "pretrain", arch, inputs=frames.inputs(config)) as stage:
        if not stage.done:
            train_stage(config, stage, arch, pretrain_task(config, arch), config.training("pretrain", arch))
        return stage.folder


def pretrain_task(config: Config, arch: str) -> PretrainTask:
    """What `pretrain` trains on."""
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


def distill(config: Config, arch: str = "", labels: str = "") -> Path:
    """Section 3.2.4: trains a fresh network of the same architecture on the labels; leaves its weights."""
    arch, labels = arch or config.arch, labels or config.labels
    if outputs(config, "fuse", arch, labels) is None:
        with missing(f"fuse {arch} {labels}", "many frames a second"):
            label_stages.fuse(config, arch, labels)
    store = label_stages.fuse(config, arch, labels)
    inputs = outputs(config, "fuse", arch, labels)
    with runs.open_stage(config, "distill", arch, labels, inputs=inputs) as stage:
        if not stage.done:
            task = distill_task(
                config, store, fusion.find_strategy(labels).training_size(config.data.size_hw)
            )
            train_stage(config, stage, arch, task, config.training("distill", arch))
        return stage.folder


def distill_task(config: Config, store: DepthStore, size_hw: tuple[int, int]) -> DistillTask:
    """What `distill` trains on: stored labels of every target frame, at an image size that may be smaller."""
    d = config.data
    label = store.read_of if size_hw == d.size_hw else partial(_small_label, store, size_hw)
    return DistillTask(label_samples(config, label, size_hw), d.min_depth, d.max_depth)


def label_samples(
    config: Config, label: Callable[[Scene, int], np.ndarray], size_hw: tuple[int, int]
) -> LabelSamples:
    """Every target frame with its label, read by a function of scene and frame index."""
    scenes = training_scenes(config)
    frames = [(k, i) for k, s in enumerate(scenes) for i in s.targets]
    return LabelSamples([s.scene for s in scenes], frames, label, size_hw, config.seed)


def _small_label(store: DepthStore, size_hw: tuple[int, int], scene: Scene, i: int) -> np.ndarray:
    return nearest_depth(store.read_of(scene, i), size_hw)


def train_stage(
    config: Config, stage: runs.Stage, arch: str, task: Task, settings: TrainConfig, **options: Any
) -> None:
    """Trains a fresh network in a stage's folder, with its provenance; goes on where a killed one was.

    Args:
        **options: more for `create_model`.
    """
    device = select_device(config.device)
    factory = partial(
        create_model,
        arch,
        pretrained=settings.pretrained,
        weights=settings.weights,
        init_depth_m=settings.init_depth_m,
        min_depth=config.data.min_depth,
        max_depth=config.data.max_depth,
        **options,
    )
    what = str(stage.folder.relative_to(runs.run_folder(config)))
    tasks.close()  # its processes would keep their memory for the hours of a training
    train(
        factory,
        task,
        settings,
        stage.folder,
        seed=config.seed,
        device=device,
        what=what,
        on_checkpoint=partial(draw_loss, stage.folder),
        processes=config.train_processes,
    )
    draw_loss(stage.folder)
    weights = stage.folder / WEIGHTS
    frames = frames_digest(training_scenes(config))
    stage.finish(
        {WEIGHTS: io.sha256(weights)}, device=str(device), samples=len(task.samples), frames_sha256=frames
    )
    (stage.folder / STATE).unlink(missing_ok=True)  # hundreds of MB that nobody needs after DONE


def draw_loss(folder: Path, step: int | None = None) -> None:
    """Draws ``loss.png`` from ``loss.csv``; with a step only if the last picture is more than a minute old."""
    from d3d.figures import loss_curve, save_png

    picture = folder / "loss.png"
    if step is None or not picture.exists() or time.time() - picture.stat().st_mtime > 60:
        save_png(loss_curve(pd.read_csv(folder / CURVE).to_dict("records")), picture)


def loss_history(config: Config, arch: str = "", labels: str = "") -> list[dict[str, float]]:
    """Loss, parts and learning rate of each epoch of a training; labels "" is the self-supervised one."""
    folder = distill(config, arch, labels) if labels else pretrain(config, arch)
    return pd.read_csv(folder / CURVE).to_dict("records")


def load_network(config: Config, arch: str, labels: str = ""):
    """A trained network of this run on its device; labels "" is the self-supervised one."""
    folder = distill(config, arch, labels) if labels else pretrain(config, arch)
    return load_model(folder / WEIGHTS).to(select_device(config.device)).eval()
