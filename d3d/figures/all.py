"""Every figure of the paper from a run, with its numbers: what ``python -m d3d figures`` and notebook 08 make.

Nothing is trained here: a figure whose networks are not there says which command trains them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from d3d import evaluation, figures, fusion, reconstruction
from d3d.analysis import sweeps
from d3d.datasets import Scene
from d3d.errors import DataError
from d3d.figures import premise, showcase
from d3d.figures.dataview import TripleExample, example_triple
from d3d.geometry import nearest_depth
from d3d.metrics import depth_metrics, resize_depth
from d3d.models import ARCHITECTURES
from d3d.pipeline import stages
from d3d.pipeline.config import ENSEMBLE, Config, make_config
from d3d.progress import say

# in a notebook; drawn at the width of a page, a figure's text is small on a screen
SCREEN_DPI = 100
WIDTH, FONT = figures.PRINT_WIDTH_IN, figures.PRINT_FONT_PT


@dataclass(frozen=True)
class Drawing:
    """A figure and what it shows in numbers."""

    figure: Figure
    table: pd.DataFrame

    def __post_init__(self) -> None:
        self.figure.set_dpi(SCREEN_DPI)


def stem(config: Config) -> str:
    """What a run's figures are called: data set, profile and seed, or the run's name if it was given one."""
    usual = make_config(profile=config.profile, dataset=config.data.dataset, seed=config.seed).run
    return config.run.replace("-", "_") if config.run == usual else config.run


def command(config: Config, stage: str, archs: Sequence[str]) -> str:
    """The command that makes what a figure of this run lacks."""
    usual = make_config(profile=config.profile)
    options = {"profile": config.profile, "archs": ",".join(archs)}
    if config.data.dataset != usual.data.dataset:
        options["dataset"] = config.data.dataset
    if config.seed != usual.seed:
        options["seed"] = str(config.seed)
    if config.run != make_config(profile=config.profile, dataset=config.data.dataset, seed=config.seed).run:
        options["run"] = config.run
    if config.labels != usual.labels:
        options["labels"] = config.labels
    return f"python -m d3d {stage} " + " ".join(f"--{k} {v}" for k, v in options.items())


def _require(config: Config, archs: Sequence[str] = ENSEMBLE) -> None:
    """Raises a `DataError` with the command to run if one of these networks is not pretrained."""
    lacking = [a for a in archs if showcase.untrained(config, a, ("",))]
    if lacking:
        raise DataError(
            f"{', '.join(lacking)} not pretrained in run {config.run!r}. It takes: "
            f"{command(config, 'pretrain', lacking)}"
        )


def _scores(
    config: Config, scene: Scene, i: int, depths: Mapping[str, np.ndarray], row: str
) -> list[dict[str, Any]]:
    """What the pictures of a row are worth: Sq Rel and median error on all, highlight and other pixels.

    Scored as evaluation does it, at the truth's own size: the pictures are smaller.
    """
    gt, highlight, d = scene.depth(i), scene.highlight_mask(i), config.data
    rows = []
    for panel, depth in depths.items():
        at = {"row": row.replace("\n", " "), "scene": scene.name, "frame": scene.frame_ids[i], "panel": panel}
        if gt is None:
            rows.append(at)
            continue
        kinds = {"all": gt > 0}
        if highlight is not None:
            kinds |= {"highlight": highlight & (gt > 0), "diffuse": ~highlight & (gt > 0)}
        off = resize_depth(depth, gt.shape) - gt
        for kind, mask in kinds.items():
            if mask.any():
                scores = depth_metrics(depth, gt, mask, config.evaluation.scale, d.min_depth, d.max_depth)
                rows.append(
                    {
                        **at,
                        "pixels": kind,
                        "count": int(mask.sum()),
                        "sq_rel": scores["sq_rel"],
                        "median_error_m": float(np.median(off[mask])),
                        "median_absolute_error_m": float(np.median(np.abs(off[mask]))),
                    }
                )
    return rows


def _medians(rows: Sequence[Mapping[str, Any]], column: str = "median_error_m") -> dict[str, float]:
    """Panel -> the number written on it: of highlights, where they are known."""
    kind = "highlight" if any(r.get("pixels") == "highlight" for r in rows) else "all"
    return {r["panel"]: r[column] for r in rows if r.get("pixels") == kind}


def _frame(config: Config, scene: Scene, i: int, depths: Mapping[str, np.ndarray]) -> figures.Frame:
    """A training frame as a row of a figure."""
    size_hw = config.data.size_hw
    return figures.Frame(
        f"{scene.name}\n{scene.frame_ids[i]}",
        scene.image(i, size_hw),
        nearest_depth(scene.depth(i), size_hw),
        scene.highlight_mask(i, size_hw),
        depths,
    )


def _filled(pred: np.ndarray, proj: np.ndarray) -> np.ndarray:
    """Projected depth with the predicted one where the mesh is not hit, as in a label."""
    return np.where(proj > 0, proj, pred)


def _errors(example: TripleExample) -> np.ndarray:
    return premise.sweep(
        example.target, example.sources, example.true_depth, example.K, example.source_T_target
    )


def figure1a(config: Config) -> Drawing:
    """Figure 1a: photometric error along the rays of a highlight and of a diffuse pixel. Needs no training."""
    example = example_triple(config)
    errors = _errors(example)
    picture = premise.figure(
        example.target,
        errors,
        example.true_depth,
        example.highlight,
        example.virtual,
        title=f"{config.data.dataset}: {example.name}",
    )
    return Drawing(picture, pd.DataFrame(premise.curves(errors, example.true_depth, example.highlight)))


def figure1b(config: Config) -> Drawing:
    """Figure 1b: the same curves, and where on them the three trained networks' depth lies."""
    _require(config)
    example = example_triple(config)
    errors = _errors(example)
    preds = {
        evaluation.arch_name(arch): stages.predict(config, arch).read_of(example.scene, int(example.row[0]))
        for arch in ENSEMBLE
    }
    known = (example.true_depth, example.highlight, example.virtual)
    title = f"{config.data.dataset}: {example.name}"
    picture = premise.figure(example.target, errors, *known, preds, title=title)
    return Drawing(picture, pd.DataFrame(premise.marks(errors, *known, preds)))


def figure2(config: Config, frames: int = 3) -> Drawing:
    """Figure 2: highlights over-estimated in predicted depth, right in the mesh."""
    arch = config.arch
    _require(config, [arch])
    larger = tuple(2 * x for x in config.data.size_hw)
    shown, meshes, rows = [], [], []
    for scene, i in showcase.reflective_targets(config, frames):
        pred = stages.predict(config, arch).read_of(scene, i)
        proj = stages.project(config, arch).read_of(scene, i)
        frame = _frame(config, scene, i, {"predicted": pred, "projected": proj})
        scored = {"predicted": pred, "projected": _filled(pred, proj)}
        scores = _scores(config, scene, i, scored, frame.name)
        mesh = stages.read_mesh(config, arch, scene)
        meshes.append(reconstruction.render_shaded(mesh, scene.K(i, larger), scene.world_T_cams[i], larger))
        shown.append(replace(frame, medians_m=_medians(scores)))
        rows += scores
    return Drawing(figures.over_estimation(shown, meshes), pd.DataFrame(rows))


def figure4(config: Config) -> Drawing:
    """Figure 4: predicted and projected depth of three networks, their uncertainty and its mask, on one image."""
    _require(config)
    example, threshold = showcase.example_frame(config), stages.threshold(config)
    names = {arch: evaluation.arch_name(arch) for arch in ENSEMBLE}
    picture = figures.fusion_inputs(
        example.image,
        {names[a]: d for a, d in example.preds.items()},
        {names[a]: d for a, d in example.projs.items()},
        example.uncertainty,
        threshold,
        example.gt,
        highlight=example.highlight,
        width_in=WIDTH,
        font_pt=FONT,
    )
    depths = {f"predicted, {names[a]}": d for a, d in example.preds.items()}
    depths |= {f"projected, {names[a]}": _filled(example.preds[a], d) for a, d in example.projs.items()}
    rows = _scores(config, example.scene, example.index, depths, f"{example.scene.name}, {example.frame}")
    return Drawing(picture, pd.DataFrame(rows))


def figure5(config: Config, frames: int = 0) -> Drawing:
    """Figure 5: before and after, for every network that has its students; says which have not.

    Args:
        frames: images; 0: four for one network, three for more.
    """
    archs = list(showcase.students(config))
    lacking = [a for a in ARCHITECTURES if a not in archs]
    if not archs:
        raise DataError(
            f"no network of run {config.run!r} has its students. It takes: "
            f"{command(config, 'all', config.students)}"
        )
    if lacking:
        say(
            f"figure5: without {', '.join(lacking)}, not distilled in this run. It takes: "
            f"{command(config, 'all', lacking)}"
        )
    shown, rows = [], []
    for r in showcase.reflective_rows(config, archs, frames or (4 if len(archs) == 1 else 3)):
        scores = _scores(config, r.scene, r.index, r.frame.depths, r.frame.name)
        shown.append(replace(r.frame, medians_m=_medians(scores)))
        rows += scores
    return Drawing(figures.before_after(shown), pd.DataFrame(rows))


def error_maps(config: Config, frames: int = 3) -> Drawing:
    """Does the uncertainty lie where the error is? Errors of D, P and L beside uncertainty and mask."""
    _require(config)
    arch, threshold = config.arch, stages.threshold(config)
    predicted, projected = stages.predict(config, arch), stages.project(config, arch)
    uncertain = stages.uncertainty(config)
    shown, stds, uses, rows = [], [], [], []
    for scene, i in showcase.reflective_targets(config, frames):
        pred, proj = predicted.read_of(scene, i), projected.read_of(scene, i)
        std = uncertain.read_of(scene, i)
        depths = {"D": pred, "P": _filled(pred, proj), "L": fusion.fuse(pred, proj, std, threshold)}
        frame = _frame(config, scene, i, depths)
        scores = _scores(config, scene, i, depths, frame.name)
        shown.append(replace(frame, medians_m=_medians(scores, "median_absolute_error_m")))
        stds.append(std)
        uses.append((std >= threshold) & (proj > 0))
        rows += scores
    return Drawing(figures.label_errors(shown, stds, uses, threshold), pd.DataFrame(rows))


def label_makeup(config: Config) -> Drawing:
    """Which pixels take the projected depth under each strategy of Table 6, and the labels' error."""
    _require(config)
    table = sweeps.label_makeup(config)
    return Drawing(figures.label_makeup(table), table)


def threshold_sweep(config: Config) -> Drawing:
    """Eq. 3 with other thresholds."""
    _require(config)
    table = sweeps.threshold_sweep(config)
    return Drawing(figures.threshold_curve(table, stages.threshold(config)), table)


def truncation_sweep(config: Config) -> Drawing:
    """TSDF fusion with other truncations and voxels."""
    _require(config)
    table = sweeps.truncation_sweep(config)
    picture = figures.truncation_curves(table, config.fusion.trunc_m, config.fusion.voxel_m)
    return Drawing(picture, table)


# In the paper's order; then what explains it
FIGURES: dict[str, Callable[[Config], Drawing]] = {
    "figure1a": figure1a,
    "figure1b": figure1b,
    "figure2": figure2,
    "figure4": figure4,
    "figure5": figure5,
    "error-maps": error_maps,
    "label-makeup": label_makeup,
    "threshold-sweep": threshold_sweep,
    "truncation-sweep": truncation_sweep,
}
UNTRAINED = ("figure1a",)  # of the data alone: called after data set and image size, whatever was trained


def make(
    config: Config, folder: Path, names: Sequence[str] = tuple(FIGURES)
) -> Iterator[tuple[str, list[Path] | str]]:
    """Makes figures one by one, as PDF, PNG and CSV.

    Yields:
        the name of a figure with its files, or with the reason why it was skipped.
    """
    for name in names:
        try:
            drawing = FIGURES[name](config)
        except DataError as error:
            yield name, str(error)
            continue
        d = config.data
        of = f"{d.dataset}_{d.width}x{d.height}" if name in UNTRAINED else stem(config)
        yield name, figures.save(drawing.figure, drawing.table, folder, f"{of}_{name}")
