"""Draw curves, bars and points."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from d3d.figures.colours import BLUE, GREEN, ORANGE, VERMILLION
from d3d.figures.panels import PRINT_WIDTH_IN, SMALLEST_PT, style


def loss_curves(histories: Mapping[str, Sequence[Mapping[str, float]]]) -> Figure:
    """Draw the loss of several trainings over the steps, each on its own scale, and mark drops of the learning rate.

    Args:
        histories: title -> rows of steps, loss and learning_rate.
    """
    figure = Figure(figsize=(0.5 + 4.5 * len(histories), 3), layout="constrained")
    axes = figure.subplots(1, len(histories), squeeze=False)[0]
    for axis, (name, history) in zip(axes, histories.items(), strict=True):
        marker = "o" if len(history) < 12 else None
        axis.plot([h["steps"] for h in history], [h["loss"] for h in history], marker=marker, color=BLUE)
        for a, b in itertools.pairwise(history):
            if b["learning_rate"] < 0.5 * a["learning_rate"]:
                axis.axvline(a["steps"], color="gray", linestyle=":", linewidth=1)
        axis.xaxis.get_major_locator().set_params(integer=True)
        axis.set(xlabel="step (dotted: learning rate / 10)", ylabel="mean training loss")
        axis.set_title(name, fontsize=10)
        axis.grid(alpha=0.3)
    return figure


def camera_path(
    world_T_cams: np.ndarray,
    triples: np.ndarray,
    up: np.ndarray,
    shown: int = 0,
    title: str = "",
    unit: str = "metres",
) -> Figure:
    """Draw the cameras from above with the targets of the triples, and enlarge one triple (section 4.1).

    Args:
        world_T_cams: (n, 4, 4) poses in temporal order, metres.
        triples: (m, 3) frame indices [target, backward source, forward source].
        up: the world's upward direction (3,).
        shown: the enlarged triple.
        unit: of the positions; only for metres, distances are written in centimetres.
    """
    up = np.asarray(up, dtype=float) / np.linalg.norm(up)
    across = np.cross(np.eye(3)[np.abs(up).argmin()], up)
    across /= np.linalg.norm(across)
    # view from above: across points right, cross(up, across) points up
    plane = np.stack((across, np.cross(up, across)))
    centres, views = world_T_cams[:, :3, 3] @ plane.T, world_T_cams[:, :3, 2] @ plane.T
    figure = Figure(figsize=(10, 4), layout="constrained")
    if title:
        figure.suptitle(title, fontsize=11)
    whole, near = figure.subplots(1, 2)
    row, spaced = triples[shown], slice(None, None, max(1, len(centres) // 30))
    whole.plot(*centres.T, color="lightgray", linewidth=1, zorder=1)
    whole.plot(*centres[triples[:, 0]].T, ".", color=BLUE, markersize=4, label="targets")
    whole.plot(*centres[0], "k^", markersize=6, label="first frame")
    colours = (BLUE, ORANGE, GREEN)
    for axis, chosen, colour, width in ((whole, spaced, "gray", 0.003), (near, row, colours, 0.006)):
        axis.quiver(*centres[chosen].T, *views[chosen].T, color=colour, width=width, angles="xy")
        axis.set_aspect("equal", adjustable="datalim")
        axis.set_xlabel(unit)
        axis.grid(alpha=0.3)
    for name, i, colour in zip(("target", "backward", "forward"), row, colours, strict=True):
        length = np.linalg.norm(world_T_cams[i, :3, 3] - world_T_cams[row[0], :3, 3])
        away = f"{100 * length:.1f} cm" if unit == "metres" else f"{length:.3f} {unit}"
        text = f"{name}: frame {i}" + (f", {away} away" if i != row[0] else "")
        near.plot(*centres[i], "o", color=colour, label=text)
    ring = {"color": "none", "markeredgecolor": VERMILLION, "markersize": 12}
    whole.plot(*centres[row[0]], "o", **ring, label="this triple")
    near.margins(0.4)
    for axis, name in ((whole, "all cameras and where they look, from above"), (near, "one triple")):
        axis.set_title(name, fontsize=10)
        axis.locator_params(nbins=5)  # more labels would overlap
        axis.legend(fontsize=7)
    return figure


def threshold_curve(table: Any, threshold_m: float) -> Figure:
    """Draw the share of projected depth P and the error of the labels of Eq. 3 over the threshold.

    The ends of the curve are the labels "proj" (all pixels take P) and "pred" (no pixel takes P).

    Args:
        table: result of `d3d.analysis.thresholds.threshold_sweep`.
        threshold_m: threshold of the run, which is marked, metres.
    """
    titles = {
        "projected": "share of pixels that take P",
        "sq_rel": "Sq Rel of the label, all pixels",
        "sq_rel_highlight": "Sq Rel, highlight pixels",
        "sq_rel_diffuse": "Sq Rel, diffuse pixels",
    }
    columns = [c for c in titles if c in table]
    ticks = [f"{t:.3g}" if 0 < t < np.inf else "proj" if t == 0 else "pred" for t in table["threshold_m"]]
    places = np.arange(len(ticks))
    finite = np.isfinite(table["threshold_m"])
    own = float(np.interp(threshold_m, table["threshold_m"][finite], places[finite]))
    figure = Figure(figsize=(PRINT_WIDTH_IN, 0.27 * PRINT_WIDTH_IN), layout="constrained")
    for axis, column in zip(figure.subplots(1, len(columns), squeeze=False)[0], columns, strict=True):
        axis.plot(places, table[column], marker="o", color=BLUE, markersize=3, linewidth=1)
        axis.axvline(own, color="gray", linestyle=":", label=f"this run: {threshold_m:g} m")
        axis.set_xticks(places, ticks, rotation=60)
        style(axis, titles[column], "threshold (m)")
        axis.set_ylim(bottom=0)
    figure.axes[0].legend(fontsize=SMALLEST_PT)
    return figure


def label_makeup(table: Any) -> Figure:
    """Draw the table of `d3d.analysis.labels.label_makeup`: the share of P and the error of the labels."""
    strategies = list(dict.fromkeys(table["strategy"]))
    places = np.arange(len(strategies))
    looks = (("highlight", VERMILLION, "", "{:.2f}"), ("diffuse", BLUE, "////", "{:.3f}"))
    figure = Figure(figsize=(PRINT_WIDTH_IN, 1.9), layout="constrained")
    share, *errors = figure.subplots(1, 3, width_ratios=(1.2, 1, 1))
    for axis, shift, (kind, colour, hatch, digits) in zip(errors, (-0.2, 0.2), looks, strict=True):
        part = table[table["pixels"] == kind].set_index("strategy").loc[strategies]
        look = {"color": colour, "hatch": hatch, "edgecolor": "white", "linewidth": 0.5}
        share.bar(places + shift, part["projected"], 0.4, label=f"{kind} pixels", **look)
        bars = axis.bar(places, part["sq_rel"], 0.7, **look)
        axis.bar_label(bars, fmt=digits, fontsize=SMALLEST_PT, padding=1)
        style(axis, f"Sq Rel of the label, {kind} pixels")
        axis.set_ylim(0, 1.15 * part["sq_rel"].max())
    style(share, "share of pixels that take P")
    share.set(ylim=(0, 1.2), yticks=np.linspace(0, 1, 6))
    share.legend(fontsize=SMALLEST_PT, loc="upper center", ncols=2)
    for axis in figure.axes:
        axis.set_xticks(places, strategies, rotation=30)
        axis.grid(visible=False, axis="x")
    return figure


def truncation_curves(table: Any, trunc_m: float, voxel_m: float) -> Figure:
    """Draw Sq Rel of projected depth and of the labels of Eq. 3 over truncation and voxel size of the fusion.

    Args:
        table: result of `d3d.analysis.truncation.truncation_sweep`.
        trunc_m, voxel_m: values of the run, which are marked.
    """
    looks = {
        "pred": {"label": "predicted D", "color": "gray", "linestyle": "--"},
        "proj": {"label": "projected P", "color": ORANGE, "linestyle": "-", "marker": "o"},
        "label": {"label": "label L, Eq. 3", "color": BLUE, "linestyle": "-.", "marker": "s"},
    }
    kinds = [k for k in ("highlight", "diffuse", "all") if (table["pixels"] == k).any()][:2]
    figure = Figure(figsize=(PRINT_WIDTH_IN, 2.0), layout="constrained")
    axes = figure.subplots(1, 2 * len(kinds), squeeze=False).reshape(2, -1)
    sweeps = (("truncation", "trunc_m", trunc_m), ("voxel", "voxel_m", voxel_m))
    for pair, kind in zip(axes.T, kinds, strict=True):
        for axis, (sweep, column, own) in zip(pair, sweeps, strict=True):
            part = table[(table["sweep"] == sweep) & (table["pixels"] == kind)].sort_values(column)
            for name, look in looks.items():
                axis.plot(part[column], part[name], markersize=3, lw=1, **look)
            axis.axvline(own, color="gray", linestyle=":", linewidth=0.8, label="this run")
            style(axis, f"Sq Rel, {kind} pixels", f"{sweep} (m)")
        top = max(axis.get_ylim()[1] for axis in pair)
        for axis in pair:
            axis.set_ylim(0, top)
    figure.axes[0].legend(fontsize=SMALLEST_PT, handlelength=2.4)
    return figure


def per_image(first: Any, others: Mapping[str, Any], shares: bool = True) -> Figure:
    """Draw a point for each image: Sq Rel before (x) and after (y). Points below the diagonal are improvements.

    Args:
        first: per-image metrics of `d3d.evaluation.score` for the training to compare with.
        others: training -> per-image metrics of the same images.
        shares: write the share of improved images.
    """
    kinds = [k for k in ("all", "highlight", "diffuse") if (first["pixels"] == k).any()]
    figure = Figure(figsize=(0.5 + 3.6 * len(kinds), 3.6), layout="constrained")
    for axis, kind in zip(figure.subplots(1, len(kinds), squeeze=False)[0], kinds, strict=True):
        values = []
        for (name, table), marker in zip(others.items(), "ox^s", strict=False):
            both = first[first["pixels"] == kind].merge(table, on=["scene", "frame", "pixels"])
            x, y = both["sq_rel_x"], both["sq_rel_y"]
            values += [x.max(), y.max()]
            label = f"{name}: {(y < x).mean():.0%} better" if shares else name
            axis.plot(x, y, marker, markersize=4, alpha=0.7, label=label)
        top = 1.05 * max(values)
        axis.plot([0, top], [0, top], color="gray", linewidth=1)
        axis.set(xlim=(0, top), ylim=(0, top), xlabel="Sq Rel, self-supervised", ylabel="Sq Rel, student")
        axis.set_title(f"{kind} pixels", fontsize=10)
        axis.legend(fontsize=7)
        axis.grid(alpha=0.3)
    return figure
