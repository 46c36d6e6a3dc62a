"""One frame of a run with all that was made of it, and the run's figures; read from the stages' folders."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from d3d import evaluation, figures, fusion, premise, runs, stages
from d3d.config import ENSEMBLE, Config
from d3d.datasets import Scene
from d3d.datasets.scene import FrameList
from d3d.dataview import example_triple, nearest_depth
from d3d.errors import DataError
from d3d.metrics import depth_metrics
from d3d.prediction import DepthStore


def premise_figure(config: Config, folder: Path) -> list[Path]:
    """Figure 1a measured on one triple: ``figure1a`` as PNG, vector PDF and the CSV behind it. Needs no training."""
    example = example_triple(config)
    errors = premise.sweep(
        example.target, example.sources, example.true_depth, example.K, example.source_T_target
    )
    title = f"{config.data.dataset}: {example.name}"
    picture = premise.figure(
        example.target, errors, example.true_depth, example.highlight, example.virtual, title=title
    )
    paths = [folder / f"figure1a.{kind}" for kind in ("png", "pdf", "csv")]
    figures.save_png(picture, paths[0])
    with runs.atomic(paths[1]) as temporary:
        picture.savefig(temporary, format="pdf", metadata={"CreationDate": None})
    with runs.atomic(paths[2]) as temporary:
        columns = premise.curves(errors, example.true_depth, example.highlight)
        pd.DataFrame(columns).to_csv(temporary, index=False, float_format="%.5g")
    return paths


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
    picture = label_picture(example, arch, config.fusion.threshold_m)
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


def example_frame(config: Config, arch: str = "", scene_name: str = "", frame: str = "") -> Example:
    """One target frame with all that was made of it.

    By default one that tells: among those with ground truth, where there is any, the one with the largest
    share of pixels that are uncertain (at or above the threshold), on a highlight where these are known.
    """
    size_hw = config.data.size_hw
    uncertain = stages.uncertainty(config)
    scenes = stages.training_scenes(config)
    if not frame:
        shown = [s for s in scenes if s.scene.has_depth] or scenes
        shares = []
        for k, s in enumerate(shown):
            for i in s.targets[:: max(1, len(s.targets) // 60)]:
                std = uncertain.read(s.scene.name, s.scene.frame_ids[i])
                highlight = s.scene.highlight_mask(i, std.shape)
                use = std >= config.fusion.threshold_m
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


def label_scores(config: Config, arch: str = "", labels: str = "", frames: int = 60) -> pd.DataFrame:
    """Error of predicted D, projected P and label L on training frames: one row each, and kind of pixels.

    Labels "pred" and "proj" are D and P themselves and get no row.

    Where the mesh is not hit P has no depth and D stands in, as in a label. At most about ``frames`` frames
    of each scene are looked at.
    """
    arch, labels = arch or config.arch, labels or config.labels
    d = config.data
    scenes = stages.training_scenes(config)
    chosen = [s.targets[:: max(1, len(s.targets) // frames)] for s in scenes]
    predicted, projected = stages.predict(config, arch), stages.project(config, arch)
    label = stages.fuse(config, arch, labels) if labels not in ("pred", "proj") else predicted

    def maps(scene: Scene, i: int) -> dict[str, np.ndarray]:
        frame = scene.frame_ids[i]
        pred, proj = predicted.read(scene.name, frame), projected.read(scene.name, frame)
        return {"D": pred, "P": np.where(proj > 0, proj, pred), "L": label.read(scene.name, frame)}

    rows = []
    names = {"D": "predicted D", "P": "projected P"}
    if labels not in ("pred", "proj"):
        names["L"] = f"label L ({labels})"
    for key, name in names.items():
        scored = evaluation.score(
            lambda scene, i, key=key: maps(scene, i)[key],
            [s.scene for s in scenes],
            chosen,
            scale=config.evaluation.scale,
            min_depth=d.min_depth,
            max_depth=d.max_depth,
            what=name,
        )
        rows += [
            {"depth": name, "pixels": p, **evaluation.summary(scored, p)} for p in scored["pixels"].unique()
        ]
    order = {p: k for k, p in enumerate(("all", "highlight", "diffuse"))}
    result = pd.DataFrame(rows).sort_values("pixels", key=lambda c: c.map(order), kind="stable")
    return result.astype({"images": int}).set_index(["pixels", "depth"]).round(3)


def threshold_sweep(
    config: Config,
    arch: str = "",
    shares: Sequence[float] = (0, 0.25, 0.5, 0.75, 1, 1.5, 2, 4, np.inf),
    frames: int = 30,
) -> pd.DataFrame:
    """Eq. 3 with other thresholds on training frames: how a threshold is chosen, without looking at val.

    Threshold 0 is the label "proj", infinity "pred".

    Args:
        shares: the thresholds tried, as multiples of the run's own.
        frames: at most about so many frames of each scene are looked at.

    Returns:
        threshold_m; projected, the share of pixels that take P; where there is truth sq_rel of the label, and
        where there is a mask also sq_rel_highlight and sq_rel_diffuse; means over frames.
    """
    arch = arch or config.arch
    predicted, projected = stages.predict(config, arch), stages.project(config, arch)
    uncertain = stages.uncertainty(config)
    d = config.data
    thresholds = [k * config.fusion.threshold_m if k else 0.0 for k in shares]
    rows = []
    for s in stages.training_scenes(config):
        for i in s.targets[:: max(1, len(s.targets) // frames)]:
            at = s.scene.name, s.scene.frame_ids[i]
            pred, proj, std = predicted.read(*at), projected.read(*at), uncertain.read(*at)
            gt, highlight = s.scene.depth(i), s.scene.highlight_mask(i)
            masks: dict[str, np.ndarray | None] = {"sq_rel": None}
            if highlight is not None:
                masks |= {"sq_rel_highlight": highlight, "sq_rel_diffuse": ~highlight}
            for t in thresholds:
                row = {"threshold_m": t, "projected": ((std >= t) & (proj > 0)).mean()}
                label = fusion.fuse(pred, proj, std, t)
                for name, mask in masks.items():
                    if gt is not None and (gt > 0 if mask is None else mask & (gt > 0)).any():
                        scores = depth_metrics(
                            label, gt, mask, config.evaluation.scale, d.min_depth, d.max_depth
                        )
                        row[name] = scores["sq_rel"]
                rows.append(row)
    return pd.DataFrame(rows).groupby("threshold_m", as_index=False).mean()


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


def before_after(config: Config, arch: str = "", frames: int = 4) -> Figure:
    """Figure 5 on the evaluated split: images with much highlight, one a room, before and after distillation."""
    arch = arch or config.arch
    split, size_hw = config.evaluation.split, config.data.size_hw
    trainings = tuple(dict.fromkeys(("", "pred", config.labels)))
    per_image = {labels: stages.evaluate(config, arch, labels) for labels in trainings}
    among = stages.dataset(config).lists(split).get("Reflection")
    chosen = reflective_frames(per_image[""], among, frames)
    by_name = {s.name: s for s in stages.dataset(config).scenes(split)}
    images, gts, highlights = [], [], []
    for scene_name, frame in chosen:
        scene = by_name[scene_name]
        i = scene.frame_ids.index(frame)
        images.append(scene.image(i, size_hw))
        gts.append(nearest_depth(scene.depth(i), size_hw))
        highlights.append(scene.highlight_mask(i, size_hw))
    depths = {}
    for labels in trainings:
        training = labels or evaluation.SELF_SUPERVISED
        store = DepthStore(stages.folder_of(config, "evaluate", arch, training, split, "depth"))
        depths[evaluation.training_name(labels)] = [store.read(s, f) for s, f in chosen]
    names = [f"{s}, frame {f}" for s, f in chosen]
    title = f"{evaluation.arch_name(arch)}, {config.data.dataset}, {split}"
    return figures.before_after(images, gts, depths, names, highlights, title)
