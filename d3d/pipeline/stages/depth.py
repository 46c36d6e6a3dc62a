"""Depth of the training frames: predicted by a trained network (section 3.2.1), projected from its mesh (3.2.2)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from d3d import reconstruction
from d3d.datasets import Scene
from d3d.parallel.tasks import advance
from d3d.pipeline import runs
from d3d.pipeline.config import Config
from d3d.pipeline.scenes import training_scenes
from d3d.pipeline.stages.chain import TRAINING, missing, outputs, over_scenes, saved, teacher_round, where
from d3d.prediction import DepthStore, map_scenes, saved_network


def predict(config: Config, arch: str = "") -> DepthStore:
    """Section 3.2.1: stores the teacher's depth of the training frames.

    The teacher is the pretrained network; in a later round of distillation the student of the round before.
    """
    # a student is made from labels, and these from depth: the chain goes round where there are rounds
    from d3d.pipeline.stages import networks

    arch = arch or config.arch
    teacher = teacher_round(config)
    made_by = ("pretrain", arch) if teacher is None else ("distill", arch, config.labels)
    inputs = outputs(teacher or config, *made_by)
    if inputs is None:
        with missing(" ".join(made_by), TRAINING):
            if teacher is None:
                networks.pretrain(config, arch)
            else:
                networks.distill(teacher, arch, config.labels)
        inputs = outputs(teacher or config, *made_by)
    with runs.open_stage(config, "predict", arch, inputs=inputs) as stage:
        store = DepthStore(stage.folder)
        if stage.done:
            return store
        scenes = training_scenes(config)
        map_scenes(
            saved_network,
            saved(teacher or config, arch, "" if teacher is None else config.labels),
            [s.scene for s in scenes],
            [s.frames_to_predict(config.fusion.integrate_every) for s in scenes],
            store,
            config.data.size_hw,
            what=f"predict/{arch}",
            **where(config),
        )
        stage.finish({s.scene.name: store.sha256(s.scene.name) for s in scenes})
        return store


def project(config: Config, arch: str = "") -> DepthStore:
    """Section 3.2.2: one mesh a scene from the predicted depth, and its depth seen from every target frame."""
    arch = arch or config.arch
    inputs = outputs(config, "predict", arch)
    if inputs is None:
        with missing(f"predict {arch}", "one pass over the training frames"):
            predict(config, arch)
        inputs = outputs(config, "predict", arch)
    predicted = DepthStore(runs.stage_folder(config, "predict", arch))
    with runs.open_stage(config, "project", arch, inputs=inputs) as stage:
        store = DepthStore(stage.folder)
        if stage.done:
            return store
        scenes = training_scenes(config)
        over_scenes(
            config,
            project_scene,
            {
                s.scene.name: (config, s.scene, s.targets, predicted, store)
                for s in scenes
                if not store.has(s.scene.name)
            },
            what=f"project/{arch}",
            sizes={s.scene.name: len(s.targets) for s in scenes},
        )
        stage.finish({s.scene.name: store.sha256(s.scene.name) for s in scenes})
        return store


def project_scene(
    config: Config, scene: Scene, targets: Sequence[int], predicted: DepthStore, store: DepthStore
) -> None:
    """One scene of `project`: its mesh, and the mesh's depth from the target frames."""
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
    )


def read_mesh(config: Config, arch: str, scene: Scene) -> reconstruction.Mesh:
    """The mesh that `project` left of a scene."""
    return reconstruction.Mesh.from_npz(project(config, arch).scene_folder(scene.name) / "mesh.npz")
