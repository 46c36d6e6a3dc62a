"""Compare labels with the ground truth of training frames, by kind of pixel: all, highlight, diffuse.

`label_table` compares the labels frame by frame. The other tables, here and in `d3d.analysis.thresholds`, summarise
its rows. Label strategies and thresholds can thus be chosen without the evaluated split.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd

from d3d import fusion
from d3d.datasets import Scene
from d3d.errors import DataError
from d3d.metrics import METRICS, PIXELS, align, depth_metrics, pixel_masks
from d3d.pipeline import stages
from d3d.pipeline.config import Config
from d3d.pipeline.scenes import TrainingScene
from d3d.progress import track

SQ_REL_COLUMNS = {"all": "sq_rel", "highlight": "sq_rel_highlight", "diffuse": "sq_rel_diffuse"}

# A label strategy and its threshold in metres; None: the run's threshold
LabelRule = tuple[str, float | None]


def metric_options(config: Config) -> dict[str, Any]:
    """Return the options of `depth_metrics` in a run's evaluation."""
    d = config.data
    return {"scale": config.evaluation.scale, "min_depth": d.min_depth, "max_depth": d.max_depth}


def metrics_by_pixels(
    depth: np.ndarray,
    gt: np.ndarray | None,
    highlight: np.ndarray | None,
    scale: str = "none",
    **clamp: float,
) -> dict[str, dict[str, float]]:
    """Compute the seven metrics of a depth map (h, w) for each kind of pixel; empty without ground truth.

    Args:
        gt: (H, W), metres, 0 where unknown.
        highlight: bool (H, W), or None.
        scale: as in `d3d.metrics.depth_metrics`; one scale for the whole image.
        clamp: ``min_depth`` and ``max_depth`` of `d3d.metrics.depth_metrics`.
    """
    if gt is None:
        return {}
    aligned, masks = align(depth, gt, scale, **clamp), pixel_masks(gt > 0, highlight)
    return {kind: depth_metrics(aligned, gt, mask, **clamp) for kind, mask in masks.items()}


def sq_rel_by_pixels(
    config: Config, depth: np.ndarray, gt: np.ndarray | None, highlight: np.ndarray | None
) -> dict[str, float]:
    """Compute Sq Rel (metres) of a depth map for each kind of pixel, with the options of the run."""
    scores = metrics_by_pixels(depth, gt, highlight, **metric_options(config))
    return {kind: metrics["sq_rel"] for kind, metrics in scores.items()}


def evenly_at_least(items: Sequence[Any], count: int) -> Sequence[Any]:
    """Select evenly spaced items: at least ``count``, fewer than twice as many; all if there are fewer."""
    return items[:: max(1, len(items) // count)]


def training_scenes(config: Config, truth: bool = False, highlights: bool = False) -> list[TrainingScene]:
    """Return the training scenes.

    Args:
        truth: only scenes with ground-truth depth.
        highlights: only scenes with highlight masks.

    Raises:
        DataError: there is no such scene.
    """
    found = stages.training_scenes(config)
    if truth:
        found = [s for s in found if s.scene.has_depth]
    if highlights:
        found = [s for s in found if s.scene.highlight_mask(s.targets[0]) is not None]
    if not found:
        wanted = ["ground truth"] * truth + ["a mask of highlights"] * highlights
        raise DataError(f"no training scene of {config.data.dataset!r} has {' and '.join(wanted)}.")
    return found


def label_table(
    config: Config,
    arch: str,
    rules: Sequence[LabelRule],
    frames: int,
    truth: bool = False,
    highlights: bool = False,
) -> pd.DataFrame:
    """Compare the labels of several rules with the ground truth, frame by frame.

    Args:
        arch: the network of the predicted depth D; by default the run's.
        rules: the labels to compare. An oracle has no row for a frame without ground truth or mask.
        frames: approximate number of target frames of each scene, evenly spaced.
        truth, highlights: as in `training_scenes`.

    Returns:
        One row for each frame, rule and kind of pixel: scene, frame, rule (the position in ``rules``), labels,
        threshold_m, pixels, count (pixels of this kind at the network's size), projected (number of pixels without
        D), and the seven metrics, NaN without ground truth.
    """
    arch = arch or config.arch
    scenes = training_scenes(config, truth, highlights)
    sources = {labels: stages.label_sources(config, arch, labels, 0.0) for labels, _ in rules}
    cases = []
    for labels, threshold_m in rules:
        if "uncertainty" not in fusion.find_strategy(labels).needs:
            threshold_m = np.nan
        elif threshold_m is None:
            threshold_m = stages.threshold(config, labels, arch)
        cases.append((labels, threshold_m))
    chosen = [(s.scene, triple) for s in scenes for triple in evenly_at_least(s.triples.indices, frames)]
    rows = []
    for scene, triple in track(chosen, what="labels", unit="frame"):
        rows += _frame_rows(config, sources, scene, triple, cases)
    columns = ["scene", "frame", "rule", "labels", "threshold_m", "pixels", "count", "projected", *METRICS]
    return pd.DataFrame(rows, columns=columns).astype({"pixels": pd.CategoricalDtype(PIXELS, ordered=True)})


def _frame_rows(
    config: Config,
    sources: Mapping[str, stages.LabelSources],
    scene: Scene,
    triple: np.ndarray,
    cases: Sequence[tuple[str, float]],
) -> Iterator[dict[str, Any]]:
    """The rows of one frame in `label_table`."""
    i = int(triple[0])
    gt, highlight = scene.depth(i), scene.highlight_mask(i)
    small = scene.highlight_mask(i, config.data.size_hw)
    inputs_of = functools.cache(lambda labels: sources[labels].inputs(scene, triple))
    about = {"scene": scene.name, "frame": scene.frame_ids[i]}
    for number, (labels, threshold_m) in enumerate(cases):
        strategy = fusion.find_strategy(labels)
        if "truth" in strategy.needs and (gt is None or highlight is None):
            continue
        seen = replace(inputs_of(labels), threshold_m=threshold_m)
        other = strategy.other(seen)
        use = strategy.use_proj(seen) & (other > 0)
        label = fusion.choose(seen.pred, other, use)
        scores = metrics_by_pixels(label, gt, highlight, **metric_options(config))
        masks = pixel_masks(np.ones(use.shape, bool), small)
        case = {**about, "rule": number, "labels": labels, "threshold_m": threshold_m}
        for kind in masks | scores:
            mask = masks.get(kind, np.zeros(use.shape, bool))
            counts = {"count": np.count_nonzero(mask), "projected": np.count_nonzero(use & mask)}
            yield {**case, "pixels": kind, **counts, **scores.get(kind, {})}


def summary(table: pd.DataFrame) -> pd.DataFrame:
    """Average a `label_table` over frames.

    Returns:
        Indexed by rule and pixels: labels, threshold_m, count (sum), projected (share of ``count``), the mean
        metrics, and images, the number of frames with ground truth.
    """
    groups = table.groupby(["rule", "pixels"], observed=True)
    result = groups[["labels", "threshold_m"]].first().join(groups[["count", "projected"]].sum())
    result["projected"] /= result["count"].where(result["count"] > 0)
    return result.join(groups[list(METRICS)].mean()).assign(images=groups["sq_rel"].count())


def _means(config: Config, arch: str, names: Iterable[str], frames: int, **only: bool) -> pd.DataFrame:
    """The `summary` of label strategies at the run's thresholds."""
    return summary(label_table(config, arch, [(name, None) for name in names], frames, **only))


def label_scores(config: Config, arch: str = "", labels: str = "", frames: int = 60) -> pd.DataFrame:
    """Compute the error of predicted depth D, projected depth P and label L on training frames.

    Where the mesh has no surface, P takes D, as a label does. The labels "pred" and "proj" equal D and P; they have no
    separate row L.

    Returns:
        Indexed by pixels and depth: the seven metrics, averaged over images, and images.
    """
    labels = labels or config.labels
    names = {"pred": "predicted D", "proj": "projected P"}
    names[labels] = names.get(labels, f"label L ({labels})")
    means = (
        _means(config, arch, names, frames, truth=True)
        .reset_index()
        .assign(depth=lambda t: t["labels"].map(names))
    )
    means = means.sort_values(["pixels", "rule"]).astype({"pixels": str})
    return means.set_index(["pixels", "depth"])[[*METRICS, "images"]].round(3)


def label_quality(config: Config, strategies: Sequence[str], arch: str = "") -> pd.DataFrame:
    """Compute Abs Rel and Sq Rel of the labels of each strategy on training frames, by kind of pixel.

    "proj_lowres" changes only the training, not the labels. It has no row.
    """
    names = [name for name in strategies if fusion.find_strategy(name).shrink == 1]
    means = _means(config, arch, names, 60, truth=True)
    table = means.set_index("labels", append=True).droplevel("rule")[["abs_rel", "sq_rel"]].unstack("pixels")
    return table.loc[names].round(3)


def label_makeup(config: Config, arch: str = "", strategies: Sequence[str] = ()) -> pd.DataFrame:
    """Count the pixels with projected depth P under each label strategy, on training frames with masks.

    Args:
        strategies: by default all of `fusion.STRATEGIES`, without "proj_lowres" and strategies with their own mesh.

    Returns:
        One row for each strategy and kind of pixel ("highlight", "diffuse"): count (pixels over all frames),
        projected (share of ``count`` with P), of_projected (share of all pixels with P), images, and the mean sq_rel
        of the label over images.

    Raises:
        DataError: no training scene has a mask of its highlights.
    """
    names = strategies or [n for n, s in fusion.STRATEGIES.items() if s.shrink == 1 and not s.mesh]
    means = _means(config, arch, names, 30, highlights=True)
    wanted = pd.MultiIndex.from_product([range(len(names)), PIXELS[1:]], names=["rule", "pixels"])
    means = means.reindex(wanted).fillna({"count": 0, "images": 0}).astype({"count": int, "images": int})
    taken = means["count"] * means["projected"]
    total = taken.groupby("rule").transform("sum")
    means["of_projected"] = taken / total.where(total > 0)
    means = means.reset_index().assign(strategy=lambda t: t["rule"].map(dict(enumerate(names))))
    return means[["strategy", "pixels", "count", "projected", "of_projected", "images", "sq_rel"]]
