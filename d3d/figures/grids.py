"""The figures that are pictures in rows and columns: the paper's Figures 2, 4 and 5, and those that explain it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure

from d3d.figures.panels import Panel, grid, limit_of


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
    top = limit_of([Panel("", d, "depth") for d in maps], "depth")
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
    top = limit_of([Panel("", d, "depth") for d in maps], "depth")
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
