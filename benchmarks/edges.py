"""How sharp is predicted depth at the edges of objects, and does distillation blur it?

    python -m benchmarks.edges

On every fourth image of the val and test rooms of GlossyRooms, for the networks that ship. An edge is a pair of
neighbouring pixels (in a row or a column) whose true depth differs by more than 10 %. "step": the share of the true
step in log depth that the prediction makes over 5 pixels across the edge, at the size of the truth (192x144): 1 is as
sharp as the truth, 0 is flat. "edges" and "elsewhere": Abs Rel within 2 pixels of an edge, and of all other pixels.
Changes have the intervals of `d3d.tables.intervals`, over rooms.
"""

from __future__ import annotations

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from scipy import ndimage

from d3d.datasets import open_dataset
from d3d.models import load_model
from d3d.prediction import predict
from d3d.tables.intervals import paired_change

NAMES = ("step", "edges", "elsewhere")
PAIRS = tuple((f"{a}-selfsupervised", f"{a}-distilled") for a in ("monodepth2", "lite"))
EVERY, STEP, REACH = 4, 0.1, 2


def edge_scores(pred: np.ndarray, truth: np.ndarray) -> list[float]:
    """The three scores (`NAMES`) of a prediction (H, W); NaN without an edge. Pixels with truth 0 are unknown."""
    near, steps = np.zeros(truth.shape, bool), np.zeros(2)
    for axis in (0, 1):
        p, t, mask = (np.moveaxis(a, axis, -1) for a in (pred, truth, near))
        p, t = (sliding_window_view(a, 2 * REACH + 2, axis=-1) for a in (p, t))  # (..., position, window)
        left, right = REACH, REACH + 1  # the neighbours in the middle of a window
        logs = np.log(np.where(t > 0, t, 1))
        edge = (t > 0).all(-1) & (np.abs(logs[..., right] - logs[..., left]) > np.log1p(STEP))
        for at in (left, right):
            mask[..., at : at + edge.shape[-1]] |= edge
        step = logs[..., -1] - logs[..., 0]
        edge &= np.abs(step) > np.log1p(STEP)  # behind a thin object the depth is the same on both sides
        ours = np.log(p[..., -1] / p[..., 0])
        steps += (ours * np.sign(step))[edge].sum(), np.abs(step)[edge].sum()
    if not steps[1]:
        return [np.nan] * 3
    near = ndimage.binary_dilation(near, iterations=REACH)
    error = np.abs(pred - truth) / np.where(truth > 0, truth, 1)
    return [steps[0] / steps[1], *(float(error[(truth > 0) & part].mean()) for part in (near, ~near))]


def main() -> None:
    data = open_dataset("glossyrooms")
    rooms = [scene for split in ("val", "test") for scene in data.scenes(split)]
    found = {}
    for name in (n for pair in PAIRS for n in pair):
        model = load_model(name).eval()
        found[name] = []
        for scene in rooms:
            scores = [
                edge_scores(predict(model, scene.image(i)), scene.depth(i))
                for i in range(0, len(scene), EVERY)
            ]
            kept = [s for s in scores if not np.isnan(s).any()]
            found[name].append((np.sum(kept, axis=0), len(kept)))
    for before, after in PAIRS:
        images = np.array([n for _, n in found[before]])
        sums = (np.array([s for s, _ in found[name]])[None] for name in (before, after))
        first, second = sums
        for k, what in enumerate(NAMES):
            c = paired_change(first[..., k], second[..., k], images)
            print(
                f"{before} -> {after}, {what}: {c.before:.3f} -> {c.after:.3f}, "
                f"{c.difference:+.3f} [{c.difference_low:+.3f}, {c.difference_high:+.3f}], {images.sum()} images"
            )


if __name__ == "__main__":
    main()
