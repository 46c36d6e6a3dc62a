"""The figures that are pictures in rows and columns: the paper's Figures 2, 4 and 5, and those that explain it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from matplotlib.figure import Figure

from d3d.figures.panels import PRINT_FONT_PT, PRINT_WIDTH_IN, Panel, grid, limit_of

SIGNED_LIMIT_M = 1.0  # beyond it an error is as wrong as can be shown


@dataclass(frozen=True)
class Frame:
    """A row of a figure: one image, what is known of it, and depth maps to compare; metres, 0 where there is none.

    Attributes:
        image: uint8 (h, w, 3).
        gt: true depth (h, w), or None.
        highlight: bool, of any size, or None where nobody knows.
        depths: name -> depth (h, w).
        medians_m: name -> the median error that is written on that depth's error map, metres; may be left out.
    """

    name: str
    image: np.ndarray
    gt: np.ndarray | None = None
    highlight: np.ndarray | None = None
    depths: Mapping[str, np.ndarray] = field(default_factory=dict)
    medians_m: Mapping[str, float] = field(default_factory=dict)


def signed_error(depth: np.ndarray, gt: np.ndarray) -> np.ndarray:
    """How far a depth is beyond the truth, metres; NaN where either has none."""
    return np.where((gt > 0) & (depth > 0), depth - gt, np.nan)


def _depth_limit(frames: Sequence[Frame]) -> float:
    maps = [d for f in frames for d in (*f.depths.values(), *([] if f.gt is None else [f.gt]))]
    return limit_of([Panel("", d, "depth") for d in maps], "depth")


def _notes(frames: Sequence[Frame]) -> str:
    if not any(f.medians_m for f in frames):
        return ""
    known = any(f.highlight is not None for f in frames)
    return f"Numbers: median error {'on highlights' if known else 'of all pixels'}. Outlined: highlights."


def _off_panel(title: str, frame: Frame, name: str) -> Panel:
    note = f"{frame.medians_m[name]:+.2f} m" if name in frame.medians_m else ""
    off = signed_error(frame.depths[name], frame.gt)
    return Panel(title, off, "signed", SIGNED_LIMIT_M, frame.highlight, note)


def over_estimation(
    frames: Sequence[Frame],
    meshes: Sequence[np.ndarray],
    width_in: float = PRINT_WIDTH_IN,
    font_pt: float = PRINT_FONT_PT,
) -> Figure:
    """Figure 2 of the paper: highlights are over-estimated in single views, and right in the mesh of all of them.

    Args:
        frames: with truth; their depths are "predicted" and "projected"; where the mesh is not hit the error of
            the projected depth is that of the predicted one, which labels take there.
        meshes: picture (h, w, 3) of each frame's mesh, from the frame's camera.
    """
    top, rows = _depth_limit(frames), []
    for frame, mesh in zip(frames, meshes, strict=True):
        pred, proj = frame.depths["predicted"], frame.depths["projected"]
        filled = replace(frame, depths={"projected": np.where(proj > 0, proj, pred)})
        rows.append(
            [
                Panel("image", frame.image, outline=frame.highlight),
                Panel("predicted D", pred, "depth", top),
                _off_panel("D − truth", frame, "predicted"),
                Panel("mesh of all views", mesh),
                Panel("projected P", proj, "depth", top),
                _off_panel("P − truth", filled, "projected"),
            ]
        )
    return grid(
        rows, width_in=width_in, font_pt=font_pt, names=[f.name for f in frames], notes=_notes(frames)
    )


def label_errors(
    frames: Sequence[Frame],
    uncertainties: Sequence[np.ndarray],
    use_projs: Sequence[np.ndarray],
    threshold_m: float,
    width_in: float = PRINT_WIDTH_IN,
    font_pt: float = PRINT_FONT_PT,
) -> Figure:
    """Does uncertainty lie where the error is, and what does Eq. 3 make of it: error maps beside uncertainty and mask.

    Args:
        frames: with truth; their depths are "D", "P" and "L".
        uncertainties: (h, w) a frame, metres.
        use_projs: bool (h, w) a frame, where the label is P.
    """
    rows = []
    for frame, uncertainty, use_proj in zip(frames, uncertainties, use_projs, strict=True):
        off = {name: signed_error(depth, frame.gt) for name, depth in frame.depths.items()}

        def error(name: str, off=off, frame=frame) -> Panel:
            note = f"{frame.medians_m[name]:.2f} m" if name in frame.medians_m else ""
            return Panel(
                f"|{name} − truth|", np.abs(off[name]), "error", SIGNED_LIMIT_M, frame.highlight, note
            )

        rows.append(
            [
                Panel("image", frame.image, outline=frame.highlight),
                error("D"),
                Panel("uncertainty U", uncertainty, "uncertainty", max(2 * threshold_m, 1e-3)),
                Panel("P taken", use_proj, "mask"),
                error("P"),
                error("L"),
            ]
        )
    return grid(
        rows, width_in=width_in, font_pt=font_pt, names=[f.name for f in frames], notes=_notes(frames)
    )


def before_after(
    frames: Sequence[Frame],
    title: str = "",
    width_in: float = PRINT_WIDTH_IN,
    font_pt: float = PRINT_FONT_PT,
) -> Figure:
    """Figure 5 of the paper: a row an image (and network), the depth of each training, then how far each is off.

    Args:
        frames: their depths are those of the trainings, by the training's name; the same names in each.
    """
    top = _depth_limit(frames)
    rows = []
    for frame in frames:
        row = [
            Panel("image", frame.image, outline=frame.highlight),
            Panel("ground truth", frame.gt, "depth", top),
            *(Panel(_broken(name), d, "depth", top) for name, d in frame.depths.items()),
        ]
        if frame.gt is not None:
            row += [_off_panel(f"{_broken(name)}\n− truth", frame, name) for name in frame.depths]
        rows.append(row)
    names = [f.name for f in frames]
    return grid(rows, title, width_in, font_pt, names, _notes(frames))


def _broken(name: str) -> str:
    """A training's name without what is in brackets on a line of its own: columns are narrow."""
    return name.replace(" (", "\n(")


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
    highlight: np.ndarray | None = None,
    width_in: float = 12.0,
    font_pt: float = 9.0,
) -> Figure:
    """Figure 4 of the paper: predicted depth, uncertainty; ground truth, projected depth, the binary mask.

    Args:
        preds, projs: network's name -> depth (h, w), metres.
        uncertainty: (h, w), metres.
        gt: depth (H, W) in metres, or None where there is none.
        highlight: bool, of any size, outlined in the image; or None.
    """
    maps = [*preds.values(), *projs.values(), *([] if gt is None else [gt])]
    top = limit_of([Panel("", d, "depth") for d in maps], "depth")
    rows = [
        [
            Panel("image", image, outline=highlight),
            *(Panel(f"predicted, {n}", d, "depth", top) for n, d in preds.items()),
            Panel("uncertainty", uncertainty, "uncertainty", max(2 * threshold_m, 1e-3)),
        ],
        [
            Panel("ground truth" if gt is not None else "no ground truth", gt, "depth", top),
            *(Panel(f"projected, {n}", d, "depth", top) for n, d in projs.items()),
            Panel(f"uncertainty ≥ {threshold_m:g} m", uncertainty >= threshold_m, "mask"),
        ],
    ]
    return grid(rows, title, width_in, font_pt)


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
    top = limit_of([Panel("", d, "depth") for d in (pred, proj, label)], "depth")
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
    top = limit_of(
        [Panel("", d, "depth") for d in (*depths.values(), *([] if gt is None else [gt]))], "depth"
    )
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
