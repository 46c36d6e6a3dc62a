"""One frame of a run with all that was made of it, and the run's figures; read from the stages' folders."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from d3d import evaluation, figures, fusion, stages
from d3d.config import ARCHITECTURES, Config
from d3d.datasets import Scene
from d3d.errors import DataError
from d3d.prediction import DepthStore


def run_figures(config: Config, arch: str = "", frames: int = 4) -> list[Path]:
    """Figures 4 and 5 of this run, and the label of one frame, as PNG in the run's ``figures/``."""
    arch = arch or config.arch
    folder = stages.folder_of(config, "figures")
    paths = []
    example = example_frame(config, arch)
    name = f"{example.scene.name}, frame {example.frame}"
    picture = figures.fusion_inputs(
        example.image,
        example.preds,
        example.projs,
        example.uncertainty,
        config.fusion.threshold_m,
        example.gt,
        name,
    )
    paths.append(figures.save_png(picture, folder / "figure4.png"))
    use = example.uncertainty >= config.fusion.threshold_m
    picture = figures.label(
        example.image,
        example.preds[arch],
        example.projs[arch],
        use,
        fusion.fuse(example.preds[arch], example.projs[arch], example.uncertainty, config.fusion.threshold_m),
        example.gt,
        f"label of {name}",
    )
    paths.append(figures.save_png(picture, folder / "label.png"))
    paths.append(figures.save_png(before_after(config, arch, frames), folder / "figure5.png"))
    return paths


@dataclass(frozen=True)
class Example:
    """All that was made of one target frame; maps (h, w) at the network's size, metres."""

    scene: Scene
    index: int
    image: np.ndarray
    gt: np.ndarray | None
    preds: dict[str, np.ndarray]
    projs: dict[str, np.ndarray]
    uncertainty: np.ndarray

    @property
    def frame(self) -> str:
        return self.scene.frame_ids[self.index]


def nearest_depth(depth_hw: np.ndarray | None, size_hw: tuple[int, int]) -> np.ndarray | None:
    """Ground truth at another size, by the nearest pixel: for pictures only, never for scores."""
    if depth_hw is None:
        return None
    h, w = depth_hw.shape
    y = ((np.arange(size_hw[0]) + 0.5) * h / size_hw[0]).astype(int)
    x = ((np.arange(size_hw[1]) + 0.5) * w / size_hw[1]).astype(int)
    return depth_hw[np.ix_(y, x)]


def example_frame(config: Config, arch: str = "", scene_name: str = "", frame: str = "") -> Example:
    """One target frame with all that was made of it.

    By default the one with the largest share of pixels at or above the threshold: where the method acts.
    """
    size_hw = config.data.size_hw
    uncertain = stages.uncertainty(config)
    scenes = stages.training_scenes(config)
    if not frame:
        shares = [
            (
                float(
                    (uncertain.read(s.scene.name, s.scene.frame_ids[i]) >= config.fusion.threshold_m).mean()
                ),
                k,
                i,
            )
            for k, s in enumerate(scenes)
            for i in s.targets[:: max(1, len(s.targets) // 60)]
        ]
        _, k, index = max(shares)
        scene = scenes[k].scene
    else:
        by_name = {s.scene.name: s.scene for s in scenes}
        if scene_name not in by_name or frame not in by_name[scene_name].frame_ids:
            raise DataError(f"no training scene {scene_name!r} with a frame {frame!r}.")
        scene = by_name[scene_name]
        index = scene.frame_ids.index(frame)
    frame = scene.frame_ids[index]
    return Example(
        scene,
        index,
        scene.image(index, size_hw),
        nearest_depth(scene.depth(index), size_hw),
        {a: stages.predict(config, a).read(scene.name, frame) for a in ARCHITECTURES},
        {a: stages.project(config, a).read(scene.name, frame) for a in ARCHITECTURES},
        uncertain.read(scene.name, frame),
    )


def before_after(config: Config, arch: str = "", frames: int = 4) -> Figure:
    """Figure 5 on the evaluated split: the frames that the self-supervised network gets most wrong, in time order."""
    arch = arch or config.arch
    trainings = ("", "pred", config.labels)
    per_image = {labels: stages.evaluate(config, arch, labels) for labels in trainings}
    first = per_image[""]
    worst = first[first["pixels"] == "all"].sort_values("sq_rel", ascending=False)
    chosen: list[tuple[str, str]] = []
    by_name = {s.name: s for s in stages.dataset(config).scenes(config.evaluation.split)}
    for scene_name, frame in zip(worst["scene"], worst["frame"], strict=True):
        index = by_name[scene_name].frame_ids.index(frame)
        # neighbours look alike: keep a tenth of the scene between chosen frames
        apart = len(by_name[scene_name]) // 10
        if all(n != scene_name or abs(by_name[n].frame_ids.index(f) - index) > apart for n, f in chosen):
            chosen.append((scene_name, frame))
        if len(chosen) == frames:
            break
    chosen.sort(key=lambda c: (c[0], by_name[c[0]].frame_ids.index(c[1])))
    size_hw = config.data.size_hw
    images, gts = [], []
    for scene_name, frame in chosen:
        scene = by_name[scene_name]
        i = scene.frame_ids.index(frame)
        images.append(scene.image(i, size_hw))
        gts.append(nearest_depth(scene.depth(i), size_hw))
    depths = {}
    for labels in trainings:
        training = labels or evaluation.SELF_SUPERVISED
        store = DepthStore(
            stages.folder_of(config, "evaluate", arch, training, config.evaluation.split, "depth")
        )
        depths[evaluation.training_name(labels)] = [store.read(s, f) for s, f in chosen]
    return figures.before_after(
        images, gts, depths, title=f"{evaluation.ARCH_NAMES[arch]}, {config.data.dataset}"
    )
