"""Stages of depth: depth predicted by a network (section 3.2.1), and depth projected from the mesh (3.2.2)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from d3d import fusion, reconstruction
from d3d.parallel.distributed import select_device
from d3d.parallel.tasks import advance, run_tasks
from d3d.pipeline.graph import Key, fields_of, require_finished, stage
from d3d.pipeline.runs import StageFolder, outputs
from d3d.pipeline.scenes import TrainingScene, data_of, training_scenes
from d3d.pipeline.settings import Config, FusionConfig
from d3d.pipeline.stages.trainings import teacher_of
from d3d.prediction import MM, DepthStore, map_scenes, saved_network
from d3d.training import WEIGHTS


def where(config: Config) -> dict[str, Any]:
    """Return the scheduler arguments of `run_tasks` and `map_scenes`."""
    return {"scheduler": config.scheduler, "workers": config.scene_workers}


def where_networks(config: Config) -> dict[str, Any]:
    """Return the scheduler arguments for networks: on a GPU, scheduler "auto" means this process."""
    on_gpu = config.scheduler == "auto" and select_device(config.device).type == "cuda"
    return where(config) | ({"scheduler": "none"} if on_gpu else {})


def saved(config: Config, key: Key) -> tuple[Path, str, str, str]:
    """Return the network of a finished training as arguments of `d3d.prediction.saved_network`."""
    folder = require_finished(config, key)
    return folder / WEIGHTS, outputs(folder)[WEIGHTS], config.device, config.predict_precision


def by_scene(
    config: Config, key: Key, opened: StageFolder, task: Callable[..., None], arguments: Callable, **more: Any
) -> None:
    """Write maps of each training scene with tasks of `run_tasks`, and finish the stage.

    Args:
        task: writes a scene into the store, its last argument; skips complete scenes.
        arguments: returns the other arguments of the task for a `TrainingScene`, as a tuple.
        **more: further entries of the provenance.
    """
    store, scenes = DepthStore(opened.folder), training_scenes(config)
    tasks = {s.scene.name: (*arguments(s), store) for s in scenes if not store.has(s.scene.name)}
    sizes = {s.scene.name: len(s.targets) for s in scenes}
    run_tasks(task, tasks, what=key.name, sizes=sizes, unit="frame", **where(config))
    _finish(opened, scenes, **more)


def by_network(
    config: Config, key: Key, opened: StageFolder, make: Callable, arguments: tuple, frames: Callable
) -> None:
    """Write maps of each training scene with `map_scenes`, and finish the stage.

    Args:
        make: makes the network, as for `map_scenes`.
        arguments: arguments of ``make``.
        frames: returns the frame indices of a `TrainingScene`.
    """
    store, scenes = DepthStore(opened.folder), training_scenes(config)
    found, wanted = [s.scene for s in scenes], [frames(s) for s in scenes]
    what, size_hw = key.name, config.data.size_hw
    map_scenes(make, arguments, found, wanted, store, size_hw, what=what, **where_networks(config))
    _finish(opened, scenes)


def _finish(opened: StageFolder, scenes: Sequence[TrainingScene], **more: Any) -> None:
    store = DepthStore(opened.folder)
    opened.finish({s.scene.name: store.sha256(s.scene.name) for s in scenes}, **more)


SOURCES = "sources"  # Key.labels of the depth of source frames, which only the label strategy "mv" needs


def _predicted_frames(config: Config, key: Key) -> Callable[[TrainingScene], list[int]]:
    method = TrainingScene.other_sources if key.labels == SOURCES else TrainingScene.frames_to_fuse
    return lambda training: method(training, config.fusion.integrate_every)


def _predicted_data(config: Config, key: Key) -> dict[str, Any]:
    scenes = training_scenes(config)
    return data_of(scenes, list(map(_predicted_frames(config, key), scenes)))


@stage(
    "predict",
    settings=lambda c, k: {"precision": c.predict_precision},
    needs=lambda c, k: (teacher_of(c, k.arch, k.round),),
    data=_predicted_data,
    path=lambda c, k: k._replace(stage=f"predict-{k.labels}", labels="").name if k.labels else k.name,
    takes=lambda c, k: "one pass over the training frames",
)
def _predict(config: Config, key: Key, opened: StageFolder) -> None:
    """Predict the depth of the frames that are fused or labelled, or of the remaining source frames (`SOURCES`)."""
    teacher = saved(config, teacher_of(config, key.arch, key.round))
    by_network(config, key, opened, saved_network, teacher, _predicted_frames(config, key))


def uncertainty_key(name: str, arch: str, round: int) -> Key:
    """Return the key of an uncertainty; the uncertainty "ensemble" has no architecture."""
    return Key("uncertainty", "" if name == "ensemble" else arch, name, round)


def uncertainty_quantile(config: Config, store: DepthStore, quantile: float) -> float:
    """Return a quantile of a stored uncertainty over all pixels of all target frames, in metres."""
    # values are stored as 16-bit millimetres: a histogram is exact and has a constant size
    counts = np.zeros(2**16, np.int64)
    for s in training_scenes(config):
        for i in s.targets:
            values = np.rint(store.read_of(s.scene, i) * MM).astype(np.int64)
            counts += np.bincount(values.ravel(), minlength=len(counts))
    return float(np.searchsorted(counts.cumsum(), quantile * counts.sum()) / MM)


def project_key(arch: str, labels: str, round: int) -> Key:
    """Return the key of the projected depth of a label strategy; strategies without a mesh of their own share it."""
    return Key("project", arch, labels if fusion.find_strategy(labels).mesh else "", round)


def _fusion_of(config: Config, key: Key) -> FusionConfig:
    """The fusion settings of a mesh: the run's, or those of the key's label strategy."""
    if not key.labels:
        return config.fusion
    strategy = fusion.find_strategy(key.labels)
    return replace(config.fusion, uncertainty=strategy.uncertainty, **strategy.mesh)


def _project_settings(config: Config, key: Key) -> dict[str, Any]:
    """The settings that determine a mesh. Unused settings beyond the paper are left out."""
    f = _fusion_of(config, key)
    left_out = ["threshold_m", "threshold_quantile", *(["uncertainty"] if f.certain is None else [])]
    left_out += [name for name in ("quantile", "certain", "views") if getattr(f, name) is None]
    # a quantile has one implementation
    left_out += ["backend"] if f.backend == "open3d" or f.quantile is not None else []
    return {"fusion": fields_of(f, *left_out, *(["integrate_every"] if f.views else []))}


def _project_needs(config: Config, key: Key) -> tuple[Key, ...]:
    f = _fusion_of(config, key)
    uncertainty = () if f.certain is None else (uncertainty_key(f.uncertainty, key.arch, key.round),)
    return key._replace(stage="predict", labels=""), *uncertainty


def _project_path(config: Config, key: Key) -> str:
    """The folder of a mesh; a strategy's own mesh has a folder beside ``project``."""
    return key._replace(stage=f"project-{key.labels}", labels="").name if key.labels else key.name


@stage(
    "project",
    settings=_project_settings,
    needs=_project_needs,
    path=_project_path,
    takes=lambda c, k: "fusion and rendering: a few frames a second",
)
def _project(config: Config, key: Key, opened: StageFolder) -> None:
    f = _fusion_of(config, key)
    predicted, *uncertainty = [DepthStore(require_finished(config, k)) for k in _project_needs(config, key)]
    certain, more = None, {}
    if uncertainty:
        certain = (uncertainty[0], uncertainty_quantile(config, uncertainty[0], f.certain))
        more["certain_m"] = certain[1]
    config = replace(config, fusion=f)
    by_scene(config, key, opened, project_scene, lambda s: (config, s, predicted, certain), **more)


def project_scene(
    config: Config,
    training: TrainingScene,
    predicted: DepthStore,
    certain: tuple[DepthStore, float] | None,
    store: DepthStore,
) -> None:
    """Store the mesh of a scene and its depth rendered for the target frames (3.2.2)."""
    scene, targets = training.scene, training.targets
    if store.has(scene.name):
        return
    size_hw = config.data.size_hw
    mesh = mesh_of(config, training, predicted, certain)
    Ks, poses = np.stack([scene.K(i, size_hw) for i in targets]), scene.world_T_cams[targets]

    def frames() -> Iterator[tuple[str, np.ndarray]]:
        # in parts: memory does not grow with the number of views
        for start in range(0, len(targets), 32):
            part = slice(start, start + 32)
            depths = reconstruction.render_depth(mesh, Ks[part], poses[part], size_hw, config.fusion.renderer)
            yield from zip((scene.frame_ids[i] for i in targets[part]), depths, strict=True)
            advance(len(depths))

    store.write_scene(scene.name, frames(), mesh__npz=mesh.to_npz())


def mesh_of(
    config: Config,
    training: TrainingScene,
    depths: DepthStore,
    certain: tuple[DepthStore, float] | None = None,
) -> reconstruction.Mesh:
    """Fuse the stored depth of a scene into a TSDF mesh (3.2.2).

    Args:
        certain: uncertainty of the target frames, and a limit in metres. More uncertain pixels are not fused.
    """
    f, size_hw, scene = config.fusion, config.data.size_hw, training.scene
    used = scene.every(f.integrate_every) if f.views is None else evenly_at_most(training.targets, f.views)
    predicted = np.stack([depths.read_of(scene, i) for i in used])
    if certain is not None:
        uncertainty, limit_m = certain
        unsure = np.stack([uncertainty.read_of(scene, i) for i in used]) > limit_m
        predicted[unsure] = 0
    return reconstruction.reconstruct(
        predicted,
        np.stack([scene.K(i, size_hw) for i in used]),
        scene.world_T_cams[used],
        f.voxel_m,
        f.trunc_m,
        every=1,
        images=np.stack([scene.image(i, size_hw) for i in used]),
        max_depth=config.data.max_depth,
        passes=f.passes,
        quantile=f.quantile,
        backend=f.backend,
        device=str(select_device(config.device)),
    )


def evenly_at_most(frames: Sequence[int], most: int) -> list[int]:
    """Select at most ``most`` frames, evenly spaced."""
    return list(frames[:: -(-len(frames) // most)])
