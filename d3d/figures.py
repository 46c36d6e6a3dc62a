"""The paper's figures as pure functions: arrays in, a matplotlib Figure out."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from d3d.errors import DataError

# viridis and its kin rise evenly in lightness: legible in grey print and to the colour-blind
COLOURS = {"depth": "viridis", "error": "magma", "uncertainty": "inferno", "signed": "RdBu_r", "mask": "gray"}
NAMES = {
    "depth": "depth",
    "error": "error",
    "uncertainty": "uncertainty",
    "signed": "too near (blue) / too far (red)",
}
UNITS = {"depth": "m", "error": "m", "uncertainty": "m", "signed": "m"}


@dataclass(frozen=True)
class Panel:
    """One picture of a grid.

    ``kind`` is "image" (uint8 or float in [0, 1]), "depth", "error", "uncertainty" (metres, 0 drawn as
    white in depth: nothing there), "signed" (metres around 0), "mask" or "share" (a plain 0..limit map).
    """

    title: str
    array: np.ndarray | None
    kind: str = "image"
    limit: float | None = None  # upper end of the colours; by default shared by all panels of a kind
    outline: np.ndarray | None = None  # bool map drawn as a red line on top


def _limit(panels: Sequence[Panel], kind: str) -> float:
    given = [p.limit for p in panels if p.kind == kind and p.limit is not None]
    if given:
        return max(given)
    arrays = [np.abs(p.array[np.isfinite(p.array)]) for p in panels if p.kind == kind and p.array is not None]
    top = [float(np.percentile(a, 98)) for a in arrays if a.size]
    return max([*top, 1e-3])


def grid(rows: Sequence[Sequence[Panel]], title: str = "", width_in: float = 12.0) -> Figure:
    """Panels in rows, with one colour scale a kind and its bar at the right.

    Args:
        rows: the panels; rows may differ in length.
        width_in: width of the figure, inches.
    """
    panels = [p for row in rows for p in row]
    if not panels:
        raise DataError("a figure needs at least one panel.")
    columns = max(len(row) for row in rows)
    first = next(p.array for p in panels if p.array is not None)
    aspect = first.shape[0] / first.shape[1]
    kinds = [k for k in ("depth", "uncertainty", "error", "signed") if any(p.kind == k for p in panels)]
    bar_width = 0.75 * len(kinds)
    cell = (width_in - bar_width) / columns
    height = len(rows) * (cell * aspect + 0.3) + (0.4 if title else 0.1)
    figure = Figure(figsize=(width_in, height), layout="constrained")
    if title:
        figure.suptitle(title, fontsize=11)
    axes = figure.subplots(len(rows), columns, squeeze=False)
    shown: dict[str, Any] = {}
    for r, row in enumerate(rows):
        for c in range(columns):
            axis = axes[r, c]
            axis.set_axis_off()
            if c >= len(row) or row[c].array is None:
                continue
            panel = row[c]
            axis.set_title(panel.title, fontsize=9)
            shown[panel.kind] = _draw(axis, panel, panels)
            if panel.outline is not None and panel.outline.any():
                axis.contour(panel.outline, levels=[0.5], colors="tab:red", linewidths=1.0)
    for kind in kinds:
        if kind in shown:
            bar = figure.colorbar(shown[kind], ax=axes, fraction=0.025, pad=0.01, aspect=30)
            bar.set_label(f"{NAMES[kind]} ({UNITS[kind]})", fontsize=8)
            bar.ax.tick_params(labelsize=7)
    return figure


def _draw(axis: Any, panel: Panel, panels: Sequence[Panel]) -> Any:
    from matplotlib import colormaps

    if panel.kind == "image":
        return axis.imshow(panel.array)
    if panel.kind in ("mask", "share"):
        return axis.imshow(panel.array, cmap="gray", vmin=0, vmax=1 if panel.kind == "mask" else panel.limit)
    top = _limit(panels, panel.kind)
    colours = colormaps[COLOURS[panel.kind]].with_extremes(bad="white")
    array = np.asarray(panel.array, dtype=float)
    if panel.kind == "depth":
        array = np.where(array > 0, array, np.nan)
    return axis.imshow(array, cmap=colours, vmin=-top if panel.kind == "signed" else 0, vmax=top)


def loss_curve(history: Sequence[Mapping[str, float]]) -> Figure:
    """Loss over steps, with the learning rate's drops marked."""
    return loss_curves({"": history})


def loss_curves(histories: Mapping[str, Sequence[Mapping[str, float]]]) -> Figure:
    """Several trainings side by side, each on its own scale: losses of different kinds do not compare."""
    figure = Figure(figsize=(0.5 + 4.5 * len(histories), 3), layout="constrained")
    axes = figure.subplots(1, len(histories), squeeze=False)[0]
    for axis, (name, history) in zip(axes, histories.items(), strict=True):
        marker = "o" if len(history) < 12 else None
        axis.plot(
            [h["steps"] for h in history], [h["loss"] for h in history], marker=marker, color="tab:blue"
        )
        for a, b in itertools.pairwise(history):
            if b["learning_rate"] < 0.5 * a["learning_rate"]:
                axis.axvline(a["steps"], color="gray", linestyle=":", linewidth=1)
        axis.xaxis.get_major_locator().set_params(integer=True)
        axis.set_xlabel("step (dotted: learning rate / 10)")
        axis.set_ylabel("mean training loss")
        axis.set_title(name, fontsize=10)
        axis.grid(alpha=0.3)
    return figure


def camera_path(
    world_T_cams: np.ndarray, triples: np.ndarray, up: np.ndarray, shown: int = 0, title: str = ""
) -> Figure:
    """The cameras seen from above, with the triples' targets and one triple enlarged (section 4.1).

    Args:
        world_T_cams: (n, 4, 4) poses in the order of time, metres.
        triples: (m, 3) frame indices [target, backward source, forward source].
        up: the world's upward direction (3,).
        shown: which of the triples is enlarged.
    """
    up = np.asarray(up, dtype=float) / np.linalg.norm(up)
    across = np.cross(np.eye(3)[np.abs(up).argmin()], up)
    across /= np.linalg.norm(across)
    # seen from above: across to the right, cross(up, across) up the page
    plane = np.stack((across, np.cross(up, across)))
    centres, views = world_T_cams[:, :3, 3] @ plane.T, world_T_cams[:, :3, 2] @ plane.T
    figure = Figure(figsize=(10, 4), layout="constrained")
    if title:
        figure.suptitle(title, fontsize=11)
    whole, near = figure.subplots(1, 2)
    row = triples[shown]
    whole.plot(*centres.T, color="lightgray", linewidth=1, zorder=1)
    whole.plot(*centres[triples[:, 0]].T, ".", color="tab:blue", markersize=4, label="targets")
    whole.plot(*centres[0], "k^", markersize=6, label="first frame")
    some = slice(None, None, max(1, len(centres) // 30))
    for axis in (whole, near):
        axis.quiver(
            *centres[some if axis is whole else row].T,
            *views[some if axis is whole else row].T,
            color="gray" if axis is whole else ["tab:blue", "tab:orange", "tab:green"],
            width=0.003 if axis is whole else 0.006,
            angles="xy",
        )
        axis.set_aspect("equal", adjustable="datalim")
        axis.set_xlabel("metres")
        axis.grid(alpha=0.3)
    for name, i, colour in zip(
        ("target", "backward", "forward"), row, ("blue", "orange", "green"), strict=True
    ):
        metres = np.linalg.norm(world_T_cams[i, :3, 3] - world_T_cams[row[0], :3, 3])
        text = f"{name}: frame {i}" + (f", {100 * metres:.1f} cm away" if i != row[0] else "")
        near.plot(*centres[i], "o", color=f"tab:{colour}", label=text)
    whole.plot(
        *centres[row[0]], "o", color="none", markeredgecolor="tab:red", markersize=12, label="this triple"
    )
    near.margins(0.4)
    whole.set_title("all cameras and where they look, from above", fontsize=10)
    near.set_title("one triple", fontsize=10)
    whole.legend(fontsize=7)
    near.legend(fontsize=7)
    return figure


def contact_sheet(
    images: Sequence[np.ndarray],
    titles: Sequence[str],
    columns: int = 6,
    title: str = "",
    width_in: float = 12.0,
) -> Figure:
    """Many frames at a glance."""
    panels = [Panel(t, i) for t, i in zip(titles, images, strict=True)]
    return grid([panels[i : i + columns] for i in range(0, len(panels), columns)], title, width_in)


def triple(
    target: np.ndarray,
    sources: Sequence[np.ndarray],
    warped: Sequence[np.ndarray],
    errors: Sequence[np.ndarray],
    title: str = "",
) -> Figure:
    """Eq. 1 and 2 on one triple: each source, warped into the target's view, and what differs; then the minimum.

    Args:
        target, sources, warped: images (h, w, 3).
        errors: photometric error (h, w) of each warped source.
    """
    names = ("backward", "forward")
    top = float(np.percentile(np.stack(errors), 99))
    rows = [
        [
            Panel(f"source, {n}", s),
            Panel(f"source, {n}, warped", w),
            Panel("photometric error", e, "share", limit=top),
        ]
        for n, s, w, e in zip(names, sources, warped, errors, strict=True)
    ]
    rows.append(
        [
            Panel("target", target),
            Panel("", None),
            Panel("minimum reprojection", np.minimum(*errors), "share", limit=top),
        ]
    )
    return grid(rows, title, width_in=6.5)


def fusion_inputs(
    image: np.ndarray,
    preds: Mapping[str, np.ndarray],
    projs: Mapping[str, np.ndarray],
    uncertainty: np.ndarray,
    threshold_m: float,
    gt: np.ndarray | None = None,
    title: str = "",
) -> Figure:
    """Figure 4 of the paper: predicted depth, uncertainty; ground truth, projected depth, the binary mask.

    Args:
        preds, projs: network's name -> depth (h, w), metres.
        uncertainty: (h, w), metres.
        gt: depth (H, W) in metres, or None where there is none.
    """
    maps = [*preds.values(), *projs.values(), *([] if gt is None else [gt])]
    top = _limit([Panel("", d, "depth") for d in maps], "depth")
    rows = [
        [
            Panel("image", image),
            *(Panel(f"predicted, {n}", d, "depth", top) for n, d in preds.items()),
            Panel("uncertainty", uncertainty, "uncertainty", max(2 * threshold_m, 1e-3)),
        ],
        [
            Panel("ground truth" if gt is not None else "no ground truth", gt, "depth", top),
            *(Panel(f"projected, {n}", d, "depth", top) for n, d in projs.items()),
            Panel(f"uncertainty ≥ {threshold_m:g} m", uncertainty >= threshold_m, "mask"),
        ],
    ]
    return grid(rows, title)


def label(
    image: np.ndarray,
    pred: np.ndarray,
    proj: np.ndarray,
    use_proj: np.ndarray,
    label: np.ndarray,
    gt: np.ndarray | None = None,
    title: str = "",
) -> Figure:
    """Eq. 3 on one frame: what is chosen where, and how far predicted depth, projection and label are off.

    Args:
        use_proj: bool (h, w), where the projected depth is taken.
        gt: depth at the labels' size (h, w), metres, 0 where there is none; or None.
    """
    top = _limit([Panel("", d, "depth") for d in (pred, proj, label)], "depth")
    rows = [
        [
            Panel("image", image),
            Panel("predicted D", pred, "depth", top),
            Panel("projected P", proj, "depth", top),
            Panel("label L", label, "depth", top),
        ]
    ]
    if gt is not None:
        off = [np.where((gt > 0) & (d > 0), d - gt, np.nan) for d in (pred, proj, label)]
        names = ("D - truth", "P - truth", "L - truth")
        rows.append(
            [Panel("P taken here", use_proj, "mask")]
            + [Panel(n, o, "signed", 1.0) for n, o in zip(names, off, strict=True)]
        )
    else:
        rows.append([Panel("P taken here", use_proj, "mask")])
    return grid(rows, title)


def against_truth(
    image: np.ndarray,
    depths: Mapping[str, np.ndarray],
    gt: np.ndarray | None = None,
    highlight: np.ndarray | None = None,
    title: str = "",
) -> Figure:
    """Depth maps of one frame beside the truth, under each how far it is off; highlights are outlined.

    Args:
        depths: name -> depth (h, w), metres, 0 where there is none.
        gt: depth (h, w), metres, 0 where there is none; or None.
        highlight: bool (h, w), or None where the data set knows none.
    """
    top = _limit([Panel("", d, "depth") for d in (*depths.values(), *([] if gt is None else [gt]))], "depth")
    rows = [
        [
            Panel("image", image, outline=highlight),
            Panel("ground truth", gt, "depth", top, highlight),
            *(Panel(n, d, "depth", top, highlight) for n, d in depths.items()),
        ]
    ]
    if gt is not None:
        off = {n: np.where((gt > 0) & (d > 0), d - gt, np.nan) for n, d in depths.items()}
        blank = [Panel("", None), Panel("", None)]
        rows.append(blank + [Panel(f"{n} - truth", o, "signed", 1.0, highlight) for n, o in off.items()])
    return grid(rows, title, width_in=3.0 * len(rows[0]))


def threshold_curve(table: Any, threshold_m: float) -> Figure:
    """How the choice of Eq. 3 depends on its threshold: share of projected pixels, and the label's error.

    The ends of the curve are the labels "proj" (every pixel takes P) and "pred" (none does).

    Args:
        table: data frame with threshold_m (0 to infinity), projected (a share) and, where there is truth, sq_rel,
            sq_rel_highlight, sq_rel_diffuse.
        threshold_m: the run's own, marked.
    """
    figure = Figure(figsize=(11, 3), layout="constrained")
    kinds = {
        "projected": "share of projected pixels",
        "sq_rel": "Sq Rel of the label, all pixels",
        "sq_rel_highlight": "on highlights",
        "sq_rel_diffuse": "on diffuse pixels",
    }
    columns = [c for c in kinds if c in table]
    ticks = [f"{t:.2g}" if 0 < t < np.inf else "proj" if t == 0 else "pred" for t in table["threshold_m"]]
    places = np.arange(len(ticks))
    finite = np.isfinite(table["threshold_m"])
    own = float(np.interp(threshold_m, table["threshold_m"][finite], places[finite]))
    for axis, column in zip(figure.subplots(1, len(columns), squeeze=False)[0], columns, strict=True):
        axis.plot(places, table[column], marker="o", color="tab:blue")
        axis.axvline(own, color="gray", linestyle=":", label=f"this run: {threshold_m:g} m")
        axis.set_xticks(places, ticks, rotation=60, fontsize=8)
        axis.set_xlabel("threshold (m)")
        axis.set_title(kinds[column], fontsize=9)
        axis.set_ylim(bottom=0)
        axis.grid(alpha=0.3)
    figure.axes[0].legend(fontsize=8)
    return figure


def per_image(first: Any, others: Mapping[str, Any], metric: str = "sq_rel", label: str = "Sq Rel") -> Figure:
    """One point an image: its error before (across) and after (up); under the diagonal it became better.

    Args:
        first: per-image metrics of `evaluation.score`, of the training compared against.
        others: training's name -> per-image metrics of the same images.
    """
    kinds = [k for k in ("all", "highlight", "diffuse") if (first["pixels"] == k).any()]
    figure = Figure(figsize=(0.5 + 3.6 * len(kinds), 3.6), layout="constrained")
    keys = ["scene", "frame", "pixels"]
    for axis, kind in zip(figure.subplots(1, len(kinds), squeeze=False)[0], kinds, strict=True):
        values = []
        for (name, table), marker in zip(others.items(), "ox^s", strict=False):
            both = first[first["pixels"] == kind].merge(table, on=keys, suffixes=("", "_after"))
            x, y = both[metric], both[f"{metric}_after"]
            values += [x.max(), y.max()]
            axis.plot(x, y, marker, markersize=4, alpha=0.7, label=f"{name}: {(y < x).mean():.0%} better")
        top = 1.05 * max(values)
        axis.plot([0, top], [0, top], color="gray", linewidth=1)
        axis.set(xlim=(0, top), ylim=(0, top), xlabel=f"{label}, self-supervised", ylabel=f"{label}, student")
        axis.set_title(f"{kind} pixels", fontsize=10)
        axis.legend(fontsize=7)
        axis.grid(alpha=0.3)
    return figure


def before_after(
    images: Sequence[np.ndarray],
    gts: Sequence[np.ndarray | None],
    depths: Mapping[str, Sequence[np.ndarray]],
    names: Sequence[str] | None = None,
    highlights: Sequence[np.ndarray | None] | None = None,
    title: str = "",
) -> Figure:
    """Figure 5 of the paper: one row a frame, the depth of each training; under it how far it is off.

    Args:
        gts: ground truth (h, w) at the depth's size, metres, 0 where there is none.
        depths: training's name -> one depth map a frame, metres.
        names: what each frame is called.
        highlights: bool (h, w) a frame, outlined in the pictures, or None where nobody knows.
    """
    maps = [*(d for ds in depths.values() for d in ds), *(g for g in gts if g is not None)]
    top = _limit([Panel("", d, "depth") for d in maps], "depth")
    rows = []
    for k, image in enumerate(images):
        gt, outline = gts[k], highlights[k] if highlights else None
        rows.append(
            [
                Panel(names[k] if names else "image", image),
                Panel("ground truth", gt, "depth", top),
                *(Panel(name, ds[k], "depth", top) for name, ds in depths.items()),
            ]
        )
        if gt is not None:
            off = (
                Panel(f"{n} - truth", np.where(gt > 0, ds[k] - gt, np.nan), "signed", 1.0, outline)
                for n, ds in depths.items()
            )
            second = Panel("highlight", image, outline=outline) if outline is not None else Panel("", None)
            rows.append([second, Panel("", None), *off])
    return grid(rows, title)


def save_png(figure: Figure, path: Path, dpi: int = 110) -> Path:
    """Writes a figure as PNG, whole or not at all; makes the folder."""
    from d3d.runs import atomic

    with atomic(Path(path)) as temporary:
        figure.savefig(temporary, dpi=dpi, format="png")
    return Path(path)
