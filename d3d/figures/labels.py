"""Draw labels: the choice of Eq. 3 at each pixel, and the errors of predicted depth, projected depth and label."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from d3d import fusion
from d3d.figures.colours import uncertainty_limit
from d3d.figures.dataset import example_triple
from d3d.figures.files import FigureWithTable
from d3d.figures.frames import ExampleFrame, Frame, filled, notes, reflective_targets, scored_frame
from d3d.figures.needs import require_pretrained
from d3d.figures.panels import PRINT, Panel, grid, signed_error
from d3d.pipeline import stages
from d3d.pipeline.config import Config


def signed_error_panel(title: str, frame: Frame, name: str, depth: np.ndarray | None = None) -> Panel:
    """Make a panel of the signed error of a depth map of the frame (or of ``depth``) with its median."""
    off = signed_error(frame.depths[name] if depth is None else depth, frame.gt)
    note = f"{frame.medians_m[name]:+.2f} m" if name in frame.medians_m else ""
    return Panel(title, off, "signed", outline=frame.highlight, note=note)


def against_truth(
    image: np.ndarray,
    depths: Mapping[str, np.ndarray],
    gt: np.ndarray | None = None,
    highlight: np.ndarray | None = None,
    title: str = "",
) -> Figure:
    """Draw depth maps (metres) of a frame beside the ground truth above their errors, with outlined highlights.

    Each error map has its median on the highlights, or over all pixels if the data set has no mask.
    """
    maps = {"ground truth": gt, **depths}
    shown = [Panel(name, depth, "depth", outline=highlight) for name, depth in maps.items()]
    rows, explained = [[Panel("image", image, outline=highlight), *shown]], ""
    if gt is not None:
        frame = _with_medians(Frame(title, image, gt, highlight, depths))
        errors = [signed_error_panel(f"{name} − truth", frame, name) for name in depths]
        rows.append([Panel("", None), Panel("", None), *errors])
        explained = notes([frame])
    return grid(rows, title, width_in=2.2 * len(rows[0]), notes=explained)


def _with_medians(frame: Frame) -> Frame:
    """Add the median error of each depth map on the highlights, or over all pixels if there are none."""
    known, lit = frame.gt > 0, frame.highlight
    lit = lit if lit is not None and (lit & known).any() else None
    medians = {}
    for name, depth in frame.depths.items():
        where = known & (depth > 0) & (True if lit is None else lit)
        if where.any():
            medians[name] = float(np.median((depth - frame.gt)[where]))
    return replace(frame, highlight=lit, medians_m=medians)


def label(example: ExampleFrame, arch: str, threshold_m: float) -> Figure:
    """Draw Eq. 3 on a frame: the choice at each pixel, and the errors of predicted depth, projected depth and label."""
    pred, proj, gt = example.preds[arch], example.projs[arch], example.gt
    use = (example.uncertainty >= threshold_m) & (proj > 0)
    fused = fusion.fuse(pred, proj, example.uncertainty, threshold_m)
    depths = {"predicted D": pred, "projected P": proj, "label L": fused}
    lit, explained = example.highlight, ""
    rows = [
        [Panel("image", example.image, outline=lit), *(Panel(n, d, "depth") for n, d in depths.items())],
        [Panel("P taken here", use, "mask", outline=lit)],
    ]
    if gt is not None:
        frame = _with_medians(Frame("", example.image, gt, lit, depths))
        rows[1] += [signed_error_panel(f"{name[-1]} − truth", frame, name) for name in depths]
        explained = notes([frame])
    name = f"{example.scene.name}, frame {example.frame}"
    title = f"{name}: threshold {threshold_m:.2f} m, {use.mean():.1%} projected"
    return grid(rows, title, width_in=8.8, notes=explained)


def error_maps(config: Config, count: int = 3) -> FigureWithTable:
    """Draw the errors of D, P and L on training frames, to compare them with the uncertainty."""
    require_pretrained(config)
    arch, threshold = config.arch, stages.threshold(config, "uncer")
    stores = stages.predict(config, arch), stages.project(config, arch), stages.uncertainty(config)
    frames, stds, uses, rows = [], [], [], []
    for scene, i in reflective_targets(config, count):
        pred, proj, std = (store.read_of(scene, i) for store in stores)
        depths = {"D": pred, "P": filled(pred, proj), "L": fusion.fuse(pred, proj, std, threshold)}
        frame, scores = scored_frame(config, scene, i, depths, column="median_absolute_error_m")
        frames.append(frame)
        stds.append(std)
        uses.append((std >= threshold) & (proj > 0))
        rows += scores
    return FigureWithTable(draw_error_maps(frames, stds, uses, threshold), pd.DataFrame(rows))


def draw_error_maps(
    frames: Sequence[Frame],
    uncertainties: Sequence[np.ndarray],
    use_projs: Sequence[np.ndarray],
    threshold_m: float,
) -> Figure:
    """Draw absolute errors of D, P and L beside uncertainty and mask, one row per frame.

    Args:
        frames: frames with ground truth and the depths "D", "P" and "L".
        use_projs: for each frame a mask (h, w), true where the label is P.
    """
    rows, limit = [], uncertainty_limit(threshold_m)
    for frame, uncertainty, use_proj in zip(frames, uncertainties, use_projs, strict=True):
        image = Panel("image", frame.image, outline=frame.highlight)
        errors = []
        for name in "DPL":
            off = np.abs(signed_error(frame.depths[name], frame.gt))
            note = f"{frame.medians_m[name]:.2f} m" if name in frame.medians_m else ""
            errors.append(Panel(f"|{name} − truth|", off, "error", outline=frame.highlight, note=note))
        choice = [
            Panel("uncertainty U", uncertainty, "uncertainty", limit),
            Panel("P taken", use_proj, "mask"),
        ]
        rows.append([image, errors[0], *choice, *errors[1:]])
    return grid(rows, names=[f.name for f in frames], notes=notes(frames), **PRINT)


def strategies(config: Config, names: Sequence[str], arch: str = "") -> Figure:
    """Draw the mask of projected depth and the error of the label for each label strategy on a training frame.

    The frame is that of `example_triple`. Strategies with the labels of another strategy ("proj_lowres" only changes
    the training) have no column; without ground truth there are no errors.
    """
    arch = arch or config.arch
    labels = {n: stages.fuse(config, arch, n) for n in names if fusion.find_strategy(n).shrink == 1}
    example = example_triple(config)
    scene, i = example.scene, int(example.row[0])
    pred = stages.predict(config, arch).read_of(scene, i)
    frame, _ = scored_frame(config, scene, i, {n: store.read_of(scene, i) for n, store in labels.items()})
    taken = [Panel(f"{name}: P taken", label != pred, "mask") for name, label in frame.depths.items()]
    rows = [[Panel("image, highlights", frame.image, outline=frame.highlight), *taken]]
    if frame.gt is not None:
        errors = [signed_error_panel("label − truth", frame, name) for name in frame.depths]
        rows.append([Panel("truth", frame.gt, "depth"), *errors])
    return grid(rows, names=[frame.name, ""][: len(rows)], notes=notes([frame]))
