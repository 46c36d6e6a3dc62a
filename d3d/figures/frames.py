"""One frame of a run with all that was made of it, and the run's figures; read from the stages' folders."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from d3d import evaluation, figures, fusion
from d3d.analysis.sweeps import label_makeup, label_scores, threshold_sweep, truncation_sweep
from d3d.datasets import Scene
from d3d.datasets.scene import FrameList
from d3d.errors import DataError
from d3d.geometry import nearest_depth
from d3d.models import ARCHITECTURES
from d3d.pipeline import runs, stages
from d3d.pipeline.config import ENSEMBLE, Config
from d3d.pipeline.stages.chain import outputs
from d3d.prediction import DepthStore

__all__ = [
    "Example",
    "Row",
    "before_after",
    "evaluated_depth",
    "example_frame",
    "label_makeup",
    "label_picture",
    "label_scores",
    "mesh_views",
    "reflective_frames",
    "reflective_rows",
    "reflective_targets",
    "run_figures",
    "students",
    "threshold_sweep",
    "truncation_sweep",
    "untrained",
]


def run_figures(config: Config, arch: str = "", frames: int = 4) -> list[Path]:
    """Figures 4 and 5 of this run, and the label of one frame, as PNG in the run's ``figures/``."""
    arch = arch or config.arch
    folder = stages.folder_of(config, "figures")
    paths = []
    example, threshold = example_frame(config, arch), stages.threshold(config)
    name = f"{example.scene.name}, frame {example.frame}"
    picture = figures.fusion_inputs(
        example.image,
        example.preds,
        example.projs,
        example.uncertainty,
        threshold,
        example.gt,
        name,
        example.highlight,
    )
    paths.append(figures.save_png(picture, folder / "figure4.png"))
    picture = label_picture(example, arch, threshold)
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

    @property
    def highlight(self) -> np.ndarray | None:
        return self.scene.highlight_mask(self.index, self.uncertainty.shape)


def example_frame(config: Config, arch: str = "", scene_name: str = "", frame: str = "") -> Example:
    """One target frame with all that was made of it.

    By default one that tells: among those with ground truth, where there is any, the one with the largest
    share of pixels that are uncertain (at or above the threshold), on a highlight where these are known.
    """
    size_hw = config.data.size_hw
    uncertain, threshold = stages.uncertainty(config), stages.threshold(config)
    scenes = stages.training_scenes(config)
    if not frame:
        shown = [s for s in scenes if s.scene.has_depth] or scenes
        shares = []
        for k, s in enumerate(shown):
            for i in s.targets[:: max(1, len(s.targets) // 60)]:
                std = uncertain.read(s.scene.name, s.scene.frame_ids[i])
                highlight = s.scene.highlight_mask(i, std.shape)
                use = std >= threshold
                shares.append((float((use if highlight is None else use & highlight).mean()), k, i))
        _, k, index = max(shares)
        scene = shown[k].scene
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
        {a: stages.predict(config, a).read(scene.name, frame) for a in ENSEMBLE},
        {a: stages.project(config, a).read(scene.name, frame) for a in ENSEMBLE},
        uncertain.read(scene.name, frame),
    )


def mesh_views(config: Config, scene: Scene, index: int, arch: str = "") -> dict[str, np.ndarray]:
    """Pictures (h, w, 3) of a scene's mesh: from above, from one frame's camera, and that frame's image."""
    from d3d.geometry import upward
    from d3d.reconstruction import overview_camera, render_shaded

    size_hw = tuple(2 * x for x in config.data.size_hw)
    mesh = stages.read_mesh(config, arch or config.arch, scene)
    above = overview_camera(mesh, size_hw, upward(scene.world_T_cams))
    camera = scene.K(index, size_hw), scene.world_T_cams[index]
    return {
        f"mesh from above, {len(mesh.triangles)} triangles": render_shaded(mesh, *above, size_hw),
        "mesh from the camera": render_shaded(mesh, *camera, size_hw),
        "image": scene.image(index, size_hw),
    }


def label_picture(example: Example, arch: str, threshold_m: float) -> Figure:
    """Eq. 3 on one frame at one threshold: a pure function of its arguments, for a slider to wrap."""
    pred, proj = example.preds[arch], example.projs[arch]
    use = (example.uncertainty >= threshold_m) & (proj > 0)
    label = fusion.fuse(pred, proj, example.uncertainty, threshold_m)
    title = f"{example.scene.name}, frame {example.frame}: threshold {threshold_m:.2f} m, {use.mean():.1%} projected"
    return figures.label(example.image, pred, proj, use, label, example.gt, title)


def reflective_frames(
    per_image: pd.DataFrame, among: FrameList | None, frames: int, apart: int = 5
) -> list[tuple[str, str]]:
    """The (scene, frame) of an evaluated split that show most highlight, evenly spread over the scenes.

    Where nobody knows highlights, those that are most wrong. Sorted by name.

    Args:
        per_image: from `evaluation.score`, of the self-supervised network.
        among: the frames to choose from; None or none of them evaluated: any.
        apart: neighbours look alike: this many evaluated frames lie between two chosen ones of a scene.
    """
    whole = per_image[per_image["pixels"] == "all"].set_index(["scene", "frame"])
    highlight = per_image[per_image["pixels"] == "highlight"].set_index(["scene", "frame"])
    if highlight.empty:
        share = whole["sq_rel"]
    else:
        share = (highlight["count"] / whole["count"]).fillna(0)
    number = dict(zip(whole.index, whole.groupby(level=0, sort=False).cumcount(), strict=True))
    best = share.sort_values(ascending=False, kind="stable").index
    best = [key for key in best if among is None or key in among] or list(best)
    chosen: list[tuple[str, str]] = []
    for of_one_scene in range(frames):  # one of each, then a second one of each, ...
        for scene, frame in best:
            same = [number[s, f] for s, f in chosen if s == scene]
            near = any(abs(n - number[scene, frame]) <= apart for n in same)
            if len(chosen) < frames and len(same) <= of_one_scene and not near:
                chosen.append((scene, frame))
    return sorted(chosen)


def students(config: Config) -> dict[str, tuple[str, ...]]:
    """The networks that have every training of Figure 5, with these: "" (self-supervised), "pred", the run's labels."""
    trainings = tuple(dict.fromkeys(("", "pred", config.labels)))
    return {arch: trainings for arch in ARCHITECTURES if not untrained(config, arch, trainings)}


def untrained(config: Config, arch: str, trainings: Sequence[str]) -> list[str]:
    """Those of a network's trainings ("" is the self-supervised one) that are not done in this run."""
    return [t for t in trainings if outputs(config, "distill" if t else "pretrain", arch, t) is None]


@dataclass(frozen=True)
class Row:
    """A row of a figure with where it comes from, for the scores behind it."""

    frame: figures.Frame
    scene: Scene
    index: int
    arch: str


def reflective_rows(config: Config, archs: Sequence[str], frames: int = 4) -> list[Row]:
    """Figure 5's rows: images of the evaluated split with much highlight, one a room; for each, each network's row."""
    size_hw, trainings = config.data.size_hw, tuple(dict.fromkeys(("", "pred", config.labels)))
    data, split = stages.evaluated_dataset(config), config.evaluation.split
    scores = {(arch, t): stages.evaluate(config, arch, t) for arch in archs for t in trainings}
    among = data.lists(split).get("Reflection")
    by_name = {s.name: s for s in data.scenes(split)}
    rows = []
    for scene_name, frame in reflective_frames(scores[archs[0], ""], among, frames):
        scene = by_name[scene_name]
        i = scene.frame_ids.index(frame)
        for arch in archs:
            depths = {
                evaluation.training_name(t): evaluated_depth(config, arch, t).read(scene_name, frame)
                for t in trainings
            }
            shown = figures.Frame(
                f"{evaluation.arch_name(arch)}\n{scene_name}\n{frame}",
                scene.image(i, size_hw),
                nearest_depth(scene.depth(i), size_hw),
                scene.highlight_mask(i, size_hw),
                depths,
            )
            rows.append(Row(shown, scene, i, arch))
    return rows


def evaluated_depth(config: Config, arch: str, labels: str) -> DepthStore:
    """What `stages.evaluate` predicted of the evaluated split."""
    path = stages.evaluated(config, arch, labels)
    return DepthStore(runs.stage_folder(config, "evaluate", arch, labels, path) / "depth")


def before_after(config: Config, arch: str = "", frames: int = 4) -> Figure:
    """Figure 5 for one network, wide enough for a notebook."""
    rows = reflective_rows(config, [arch or config.arch], frames)
    title = f"{config.evaluation.dataset or config.data.dataset}, {config.evaluation.split}"
    return figures.before_after([r.frame for r in rows], title, width_in=12, font_pt=9)


def reflective_targets(config: Config, frames: int = 3) -> list[tuple[Scene, int]]:
    """Training frames with truth that show most highlight, one a room, the rooms in order.

    Chosen by the true masks alone, not by what a network or the mesh makes of them.

    Raises:
        DataError: no training scene has truth and masks.
    """
    best = []
    for s in stages.training_scenes(config):
        if s.scene.has_depth and s.scene.highlight_mask(s.targets[0]) is not None:
            share = {i: s.scene.highlight_mask(i).mean() for i in s.targets}
            i = max(share, key=share.get)
            best.append((share[i], s.scene, i))
    if not best:
        raise DataError(
            f"no training scene of {config.data.dataset!r} has ground-truth depth and knows its highlights."
        )
    chosen = sorted(best, key=lambda b: -b[0])[:frames]
    return sorted(((scene, i) for _, scene, i in chosen), key=lambda c: c[0].name)
