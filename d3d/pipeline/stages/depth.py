"""Depth of the training frames: predicted by a trained network (section 3.2.1), projected from its mesh (3.2.2)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from d3d import reconstruction
from d3d.datasets import Scene
from d3d.parallel.distributed import select_device
from d3d.parallel.tasks import advance, run_tasks
from d3d.pipeline.graph import Key, fields_of, require_finished, stage
from d3d.pipeline.runs import StageFolder, outputs
from d3d.pipeline.scenes import TrainingScene, predicted_data, training_scenes
from d3d.pipeline.settings import Config
from d3d.pipeline.stages.trainings import teacher_of
from d3d.prediction import DepthStore, map_scenes, saved_network
from d3d.training import WEIGHTS


def where(config: Config) -> dict[str, Any]:
    """Where `run_tasks` and `map_scenes` run, as arguments of both."""
    return {"scheduler": config.scheduler, "workers": config.scene_workers}


def where_networks(config: Config) -> dict[str, Any]:
    """Where a network goes over scenes; this process's GPU is shared only where a scheduler is asked for."""
    on_gpu = config.scheduler == "auto" and select_device(config.device).type == "cuda"
    return where(config) | ({"scheduler": "none"} if on_gpu else {})


def saved(config: Config, key: Key) -> tuple[Path, str, str, str]:
    """A finished training's network, as arguments of `d3d.prediction.saved_network`."""
    folder = require_finished(config, key)
    return folder / WEIGHTS, outputs(folder)[WEIGHTS], config.device, config.predict_precision


def by_scene(
    config: Config, key: Key, opened: StageFolder, task: Callable[..., None], arguments: Callable, **more: Any
) -> None:
    """Write the maps of each training scene by a task of `run_tasks`, and finish the stage.

    Args:
        task: writes the scene into the store, its last argument; leaves a complete scene alone.
        arguments: `TrainingScene` -> the task's other arguments, a tuple.
        **more: for the provenance.
    """
    store, scenes = DepthStore(opened.folder), training_scenes(config)
    tasks = {s.scene.name: (*arguments(s), store) for s in scenes if not store.has(s.scene.name)}
    sizes = {s.scene.name: len(s.targets) for s in scenes}
    run_tasks(task, tasks, what=key.name, sizes=sizes, unit="frame", **where(config))
    _finish(opened, scenes, **more)


def by_network(
    config: Config, key: Key, opened: StageFolder, make: Callable, arguments: tuple, frames: Callable
) -> None:
    """Write the maps of each training scene by a network as of `map_scenes`, and finish the stage.

    Args:
        frames: `TrainingScene` -> the indices of its frames.
    """
    store, scenes = DepthStore(opened.folder), training_scenes(config)
    found, wanted = [s.scene for s in scenes], [frames(s) for s in scenes]
    what, size_hw = key.name, config.data.size_hw
    map_scenes(make, arguments, found, wanted, store, size_hw, what=what, **where_networks(config))
    _finish(opened, scenes)


def _finish(opened: StageFolder, scenes: Sequence[TrainingScene], **more: Any) -> None:
    store = DepthStore(opened.folder)
    opened.finish({s.scene.name: store.sha256(s.scene.name) for s in scenes}, **more)


@stage(
    "predict",
    settings=lambda c, k: {"precision": c.predict_precision},
    needs=lambda c, k: (teacher_of(c, k.arch, k.round),),
    data=lambda c, k: predicted_data(c),
    takes="one pass over the training frames",
)
def _predict(config: Config, key: Key, opened: StageFolder) -> None:
    def frames(training: TrainingScene) -> list[int]:
        return training.frames_to_predict(config.fusion.integrate_every)

    teacher = saved(config, teacher_of(config, key.arch, key.round))
    by_network(config, key, opened, saved_network, teacher, frames)


def _fusion_settings(config: Config) -> dict[str, Any]:
    """What determines a mesh. The mean is left out, as it was before there was a quantile to choose."""
    f = config.fusion
    return fields_of(f, "threshold_m", "threshold_quantile", *(["quantile"] if f.quantile is None else []))


@stage(
    "project",
    settings=lambda c, k: {"fusion": _fusion_settings(c)},
    needs=lambda c, k: (k._replace(stage="predict"),),
    takes="fusion and rendering: a few frames a second",
)
def _project(config: Config, key: Key, opened: StageFolder) -> None:
    predicted = DepthStore(require_finished(config, key._replace(stage="predict")))
    by_scene(config, key, opened, project_scene, lambda s: (config, s.scene, s.targets, predicted))


def project_scene(
    config: Config, scene: Scene, targets: Sequence[int], predicted: DepthStore, store: DepthStore
) -> None:
    """Store one scene's mesh, and the depth of the mesh seen from the target frames (3.2.2)."""
    if store.has(scene.name):
        return
    size_hw = config.data.size_hw
    mesh = mesh_of(config, scene, predicted)
    Ks, poses = np.stack([scene.K(i, size_hw) for i in targets]), scene.world_T_cams[targets]

    def frames() -> Iterator[tuple[str, np.ndarray]]:
        # a few views at a time: memory does not grow with the length of a scene
        for start in range(0, len(targets), 32):
            part = slice(start, start + 32)
            depths = reconstruction.render_depth(mesh, Ks[part], poses[part], size_hw, config.fusion.renderer)
            yield from zip((scene.frame_ids[i] for i in targets[part]), depths, strict=True)
            advance(len(depths))

    store.write_scene(scene.name, frames(), mesh__npz=mesh.to_npz())


def mesh_of(config: Config, scene: Scene, depths: DepthStore) -> reconstruction.Mesh:
    """The TSDF mesh of a scene from stored depth of every ``integrate_every``-th frame (3.2.2)."""
    f, size_hw = config.fusion, config.data.size_hw
    used = scene.every(f.integrate_every)
    return reconstruction.reconstruct(
        np.stack([depths.read(scene.name, scene.frame_ids[i]) for i in used]),
        np.stack([scene.K(i, size_hw) for i in used]),
        scene.world_T_cams[used],
        f.voxel_m,
        f.trunc_m,
        every=1,
        images=np.stack([scene.image(i, size_hw) for i in used]),
        max_depth=config.data.max_depth,
        passes=f.passes,
        quantile=f.quantile,
        device=str(select_device(config.device)),
    )
