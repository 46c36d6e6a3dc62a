"""Labels of a run held against the truth of its training frames: what they are made of, and what choices change.

Thresholds and truncations are chosen here, on training rooms: the evaluated split is never looked at.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from d3d import evaluation, fusion, io, reconstruction
from d3d.datasets import Scene
from d3d.errors import DataError
from d3d.metrics import depth_metrics
from d3d.pipeline import stages
from d3d.pipeline.config import Config, stage_config
from d3d.pipeline.scenes import TrainingScene
from d3d.prediction import DepthStore
from d3d.progress import track

TRUNCATIONS_M = (0.1, 0.2, 0.3, 0.5, 0.75, 1.0, 1.5)
VOXELS_M = (0.025, 0.05, 0.075, 0.1)


def some(targets: Sequence[Any], frames: int) -> Sequence[Any]:
    """About so many of a scene's targets, evenly spaced."""
    return targets[:: max(1, len(targets) // frames)]


def kinds(gt: np.ndarray, highlight: np.ndarray | None) -> dict[str, np.ndarray]:
    """Masks of the pixels with truth, all of them and by kind; a kind without a pixel is left out."""
    masks = {"all": gt > 0}
    if highlight is not None:
        masks |= {"highlight": highlight & (gt > 0), "diffuse": ~highlight & (gt > 0)}
    return {name: mask for name, mask in masks.items() if mask.any()}


def sq_rel(config: Config, depth: np.ndarray, gt: np.ndarray, mask: np.ndarray) -> float:
    d = config.data
    return depth_metrics(depth, gt, mask, config.evaluation.scale, d.min_depth, d.max_depth)["sq_rel"]


def label_scores(config: Config, arch: str = "", labels: str = "", frames: int = 60) -> pd.DataFrame:
    """Error of predicted D, projected P and label L on training frames: one row each, and kind of pixels.

    Labels "pred" and "proj" are D and P themselves and get no row.

    Where the mesh is not hit P has no depth and D stands in, as in a label. At most about ``frames`` frames
    of each scene are looked at.
    """
    arch, labels = arch or config.arch, labels or config.labels
    d = config.data
    scenes = stages.training_scenes(config)
    chosen = [some(s.targets, frames) for s in scenes]
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
    uncertain, own = stages.uncertainty(config), stages.threshold(config)
    thresholds = [k * own if k else 0.0 for k in shares]
    names = {"all": "sq_rel", "highlight": "sq_rel_highlight", "diffuse": "sq_rel_diffuse"}
    rows = []
    for s in stages.training_scenes(config):
        for i in some(s.targets, frames):
            at = s.scene.name, s.scene.frame_ids[i]
            pred, proj, std = predicted.read(*at), projected.read(*at), uncertain.read(*at)
            gt = s.scene.depth(i)
            masks = {} if gt is None else kinds(gt, s.scene.highlight_mask(i))
            for t in thresholds:
                row = {"threshold_m": t, "projected": ((std >= t) & (proj > 0)).mean()}
                label = fusion.fuse(pred, proj, std, t)
                rows.append(row | {names[k]: sq_rel(config, label, gt, mask) for k, mask in masks.items()})
    return pd.DataFrame(rows).groupby("threshold_m", as_index=False).mean()


def projected_pixels(use_proj: np.ndarray, highlight: np.ndarray) -> dict[str, tuple[int, int]]:
    """How many pixels of a label take the projected depth, of how many: ``{kind: (projected, pixels)}``.

    Args:
        use_proj: bool (h, w), where the label is P.
        highlight: bool (h, w).
    """
    masks = {"highlight": highlight, "diffuse": ~highlight}
    return {k: (int((use_proj & m).sum()), int(m.sum())) for k, m in masks.items()}


def label_makeup(
    config: Config, arch: str = "", strategies: Sequence[str] = (), frames: int = 30
) -> pd.DataFrame:
    """Which pixels take the projected depth under each label strategy, over the training frames with masks.

    Args:
        strategies: by default all of `fusion.STRATEGIES`, except those that differ in the training only.
        frames: at most about so many frames of each scene are looked at.

    Returns:
        a row a strategy and kind of pixels ("highlight", "diffuse"): pixels seen (over all frames) as ``count``;
        projected, the share of these that take P; of_projected, their part in all that take P; where there
        is truth sq_rel of the label, the mean over ``images``.

    Raises:
        DataError: no training scene knows its highlights.
    """
    arch = arch or config.arch
    strategies = strategies or [n for n, s in fusion.STRATEGIES.items() if s.shrink == 1]
    scenes = [s for s in stages.training_scenes(config) if s.scene.highlight_mask(s.targets[0]) is not None]
    if not scenes:
        raise DataError(f"no training scene of {config.data.dataset!r} knows its highlights.")
    stages.project(config, arch)
    for name in {fusion.find_strategy(n).uncertainty for n in strategies if _is_uncertain(n)}:
        stages.uncertainty(config, name, arch)
    above = {n: stages.threshold(config, n, arch) for n in strategies if _is_uncertain(n)}
    counts = {(n, kind): np.zeros(2, np.int64) for n in strategies for kind in ("highlight", "diffuse")}
    errors: dict[tuple[str, str], list[float]] = {key: [] for key in counts}
    bar = track(what="label make-up", total=sum(len(some(s.targets, frames)) for s in scenes), unit="frame")
    for s in scenes:
        for row in some(s.triples.indices, frames):
            i = int(row[0])
            gt, native = s.scene.depth(i), s.scene.highlight_mask(i)
            highlight = s.scene.highlight_mask(i, config.data.size_hw)
            masks = {} if gt is None else kinds(gt, native)
            for name in strategies:
                seen = stages.label_inputs(config, arch, s.scene, row, name, above.get(name))
                use = fusion.find_strategy(name).use_proj(seen) & (seen.proj > 0)
                label = fusion.choose(seen.pred, seen.proj, use)
                for kind, found in projected_pixels(use, highlight).items():
                    counts[name, kind] += found
                    if kind in masks:
                        errors[name, kind].append(sq_rel(config, label, gt, masks[kind]))
            bar.update()
    bar.close()
    rows = []
    for (name, kind), (projected, count) in counts.items():
        both = sum(counts[name, k][0] for k in ("highlight", "diffuse"))
        rows.append(
            {
                "strategy": name,
                "pixels": kind,
                "count": int(count),
                "projected": projected / count if count else np.nan,
                "of_projected": projected / both if both else np.nan,
                "images": len(errors[name, kind]),
                "sq_rel": np.mean(errors[name, kind]) if errors[name, kind] else np.nan,
            }
        )
    return pd.DataFrame(rows)


def _is_uncertain(strategy: str) -> bool:
    return "uncertainty" in fusion.find_strategy(strategy).needs


def truncation_sweep(
    config: Config,
    arch: str = "",
    truncations_m: Sequence[float] | None = None,
    voxels_m: Sequence[float] | None = None,
    frames: int = 30,
) -> pd.DataFrame:
    """Fusion with other truncations and voxels: projected depth and Eq. 3's labels against the truth.

    The training scenes with truth are reconstructed from the stored predicted depth, in memory. What a scene gave is
    kept in the run's ``sweeps/``: a repeat reads it, and a sweep that was stopped goes on with the next scene.

    Args:
        truncations_m: tried with the run's own voxel, if not smaller than it; None: `TRUNCATIONS_M`.
        voxels_m: tried with the run's own truncation, if not larger than it; None: `VOXELS_M`.
        frames: at most about so many frames of each scene are looked at.

    Returns:
        sweep ("truncation" or "voxel"), trunc_m, voxel_m, pixels ("all", "highlight", "diffuse"), images, and
        the Sq Rel of pred (D), proj (P, with D where the mesh is not hit) and label (L); means over images.

    Raises:
        DataError: no training scene has truth.
    """
    arch, f = arch or config.arch, config.fusion
    scenes = [s for s in stages.training_scenes(config) if s.scene.has_depth]
    if not scenes:
        raise DataError(f"no training scene of {config.data.dataset!r} has ground-truth depth.")
    truncations_m = TRUNCATIONS_M if truncations_m is None else truncations_m
    voxels_m = VOXELS_M if voxels_m is None else voxels_m
    tried = [("truncation", t, f.voxel_m) for t in truncations_m if t >= f.voxel_m]
    tried += [("voxel", f.trunc_m, v) for v in voxels_m if v <= f.trunc_m]
    predicted, uncertain = stages.predict(config, arch), stages.uncertainty(config)
    threshold = stages.threshold(config)
    names = [s.scene.name for s in scenes]
    key = {
        "project": stage_config(config, "project", arch),
        "tried": [list(t) for t in tried],
        "threshold_m": threshold,
        "frames": frames,
        "scale": config.evaluation.scale,
        "predict": {n: predicted.sha256(n) for n in names},
        "uncertainty": {n: uncertain.sha256(n) for n in names},
    }
    digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:12]
    folder = stages.folder_of(config, "sweeps", f"truncation-{arch}-{digest}")
    bar = track(what="truncation sweep", total=len(tried) * len(scenes), unit="mesh")
    parts = []
    for s in scenes:
        path = folder / f"{predicted.scene_folder(s.scene.name).name}.csv"
        if not path.is_file():
            rows = pd.DataFrame(
                _fused_otherwise(config, s, tried, predicted, uncertain, threshold, frames, bar)
            )
            _write(path, rows)
        else:
            bar.update(len(tried))
        parts.append(pd.read_csv(path))
    bar.close()
    io.write_json(folder / "key.json", key)
    table = pd.concat(parts)
    at = ["sweep", "trunc_m", "voxel_m", "pixels"]
    means = table.groupby(at, sort=False)[["pred", "proj", "label"]].mean()
    means.insert(0, "images", table.groupby(at, sort=False).size())
    return means.reset_index()


def _write(path: Path, table: pd.DataFrame) -> None:
    with io.atomic(path) as temporary:
        table.to_csv(temporary, index=False, float_format="%.6g")


def _fused_otherwise(
    config: Config,
    s: TrainingScene,
    tried: Sequence[tuple[str, float, float]],
    predicted: DepthStore,
    uncertain: DepthStore,
    threshold_m: float,
    frames: int,
    bar: Any,
) -> Iterator[dict[str, Any]]:
    """Rows of `truncation_sweep` for one scene: one a frame, kind of pixels and fusion tried."""
    size_hw = config.data.size_hw
    targets = list(some(s.targets, frames))
    Ks = np.stack([s.scene.K(i, size_hw) for i in targets])
    poses = s.scene.world_T_cams[targets]
    for sweep, trunc_m, voxel_m in tried:
        other = replace(config, fusion=replace(config.fusion, trunc_m=trunc_m, voxel_m=voxel_m))
        mesh = stages.mesh_of(other, s.scene, predicted)
        projs = reconstruction.render_depth(mesh, Ks, poses, size_hw, config.fusion.renderer)
        for i, proj in zip(targets, projs, strict=True):
            pred, std = predicted.read_of(s.scene, i), uncertain.read_of(s.scene, i)
            maps = {
                "pred": pred,
                "proj": np.where(proj > 0, proj, pred),
                "label": fusion.fuse(pred, proj, std, threshold_m),
            }
            gt = s.scene.depth(i)
            for kind, mask in kinds(gt, s.scene.highlight_mask(i)).items():
                yield {
                    "scene": s.scene.name,
                    "frame": s.scene.frame_ids[i],
                    "sweep": sweep,
                    "trunc_m": trunc_m,
                    "voxel_m": voxel_m,
                    "pixels": kind,
                    **{name: sq_rel(config, depth, gt, mask) for name, depth in maps.items()},
                }
        bar.update()
