"""A run of profile smoke with known depth. The networks are not trained; their depth is made from the truth."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from d3d.datasets import Scene
from d3d.geometry import nearest_depth
from d3d.pipeline import graph, stages
from d3d.pipeline.config import Config, make_config
from d3d.pipeline.graph import Key
from d3d.pipeline.scenes import TrainingScene
from d3d.pipeline.stages.depth import SOURCES
from d3d.prediction import DepthStore

# Depth divided by the truth for each network, off and on highlights: off highlights they agree to 2 %
OFF = {"monodepth2": 1.0, "hrdepth": 1.01, "monovit": 0.99, "lite": 1.02}
ON = {"monodepth2": 1.5, "hrdepth": 1.2, "monovit": 1.0, "lite": 1.8}


def known_run(runs_dir: Path, **parameters: str) -> Config:
    """Write the results of the stages "pretrain" and "predict". The later stages are computed from them."""
    config = make_config(profile="smoke", runs_dir=str(runs_dir), **parameters)
    scenes = stages.training_scenes(config)
    for arch in config.networks:
        with graph.open_stage(config, Key("pretrain", arch)) as stage:
            stage.finish({"weights.safetensors": f"none of {arch}"})
        for labels, frames_of in (
            ("", TrainingScene.frames_to_fuse),
            (SOURCES, TrainingScene.other_sources),
        ):
            with graph.open_stage(config, Key("predict", arch, labels)) as stage:
                store = DepthStore(stage.folder)
                for s in scenes:
                    wanted = frames_of(s, config.fusion.integrate_every)
                    frames = ((s.scene.frame_ids[i], _depth(config, s.scene, i, arch)) for i in wanted)
                    store.write_scene(s.scene.name, frames)
                stage.finish({s.scene.name: store.sha256(s.scene.name) for s in scenes})
    return config


def _depth(config: Config, scene: Scene, i: int, arch: str) -> np.ndarray:
    size_hw = config.data.size_hw
    if not scene.has_depth:
        return np.full(size_hw, 3.0 * OFF[arch])
    truth, highlight = nearest_depth(scene.depth(i), size_hw), scene.highlight_mask(i, size_hw)
    return np.where(truth > 0, truth * np.where(highlight, ON[arch], OFF[arch]), 3.0)
