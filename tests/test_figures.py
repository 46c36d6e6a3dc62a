"""Pictures whose axes or numbers could be wrong without looking so."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from d3d import figures, showcase
from d3d.geometry import upward


def _circle(n: int, up_axis: int, sign: float) -> np.ndarray:
    """Cameras on a circle that look at its middle and 20 degrees down."""
    up = sign * np.eye(3)[up_axis]
    a = np.eye(3)[(up_axis + 1) % 3]
    b = np.cross(up, a)
    poses = np.tile(np.eye(4), (n, 1, 1))
    for k, t in enumerate(np.linspace(0, 2, n)):
        out = np.cos(t) * a + np.sin(t) * b
        forward = -np.cos(0.35) * out - np.sin(0.35) * up
        right = np.cross(forward, up) / np.linalg.norm(np.cross(forward, up))
        poses[k, :3, :3] = np.stack((right, np.cross(forward, right), forward), axis=1)
        poses[k, :3, 3] = out
    return poses


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("sign", [-1.0, 1.0])
def test_upward_is_found_though_the_cameras_look_down(axis: int, sign: float) -> None:
    np.testing.assert_array_equal(upward(_circle(12, axis, sign)), sign * np.eye(3)[axis])


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_path_that_turns_left_turns_left_seen_from_above(axis: int) -> None:
    poses = _circle(12, axis, 1.0)  # counter-clockwise about the upward axis
    figure = figures.camera_path(poses, np.array([[1, 0, 2]]), upward(poses))
    line = next(item for item in figure.axes[0].lines if len(item.get_xdata()) == 12)
    x, y = line.get_xdata(), line.get_ydata()
    steps = np.stack((np.diff(x), np.diff(y)), axis=1)
    assert (steps[:-1, 0] * steps[1:, 1] - steps[:-1, 1] * steps[1:, 0] > 0).all()


def test_per_image_counts_what_became_better() -> None:
    before = pd.DataFrame({"scene": "a", "frame": ["0", "1"], "pixels": "all", "sq_rel": [0.2, 0.2]})
    after = before.assign(sq_rel=[0.1, 0.3])[::-1]
    axis = figures.per_image(before, {"student": after}).axes[0]
    assert [t.get_text() for t in axis.get_legend().get_texts()] == ["student: 50% better"]


def test_against_truth_leaves_out_what_has_no_depth() -> None:
    depth, gt = np.full((4, 6), 2.0), np.full((4, 6), 1.5)
    depth[0], gt[1] = 0, 0
    figure = figures.against_truth(np.zeros((4, 6, 3), np.uint8), {"net": depth}, gt, gt == 0)
    (off,) = (a.images[0].get_array() for a in figure.axes if a.get_title() == "net - truth")
    off = np.ma.filled(off.astype(float), np.nan)
    assert np.isnan(off[:2]).all()
    np.testing.assert_allclose(off[2:], 0.5)


def _scores(scenes: dict[str, list[int]]) -> pd.DataFrame:
    """Rows as `evaluation.score` gives them, from each scene's counts of highlight pixels of 100."""
    rows = []
    for scene, counts in scenes.items():
        for i, count in enumerate(counts):
            at = {"scene": scene, "frame": f"{i:03d}", "sq_rel": 1.0 - i / 100}
            rows.append({**at, "pixels": "all", "count": 100})
            if count:
                rows.append({**at, "pixels": "highlight", "count": count})
    return pd.DataFrame(rows)


def test_figure_5_shows_the_most_reflective_frame_of_each_room_first() -> None:
    scores = _scores({"a": [9, 30, 29, 0, 0, 0, 0, 0, 20], "b": [3, 5, 0], "c": [50]})
    choose = showcase.reflective_frames
    assert choose(scores, None, 2) == [("a", "001"), ("c", "000")]
    assert choose(scores, None, 3) == [("a", "001"), ("b", "001"), ("c", "000")]
    # a second one of a room is no neighbour of the first
    assert choose(scores, None, 4) == [("a", "001"), ("a", "008"), ("b", "001"), ("c", "000")]
    assert choose(scores, frozenset({("b", "000"), ("a", "000")}), 3) == [("a", "000"), ("b", "000")]
    assert choose(scores, frozenset({("z", "000")}), 1) == [("c", "000")]


def test_figure_5_shows_the_worst_frames_where_highlights_are_not_known() -> None:
    scores = _scores({"a": [0, 0, 0], "b": [0]})
    assert showcase.reflective_frames(scores, None, 2) == [("a", "000"), ("b", "000")]


def test_the_threshold_curve_has_one_picture_without_truth() -> None:
    table = pd.DataFrame({"threshold_m": [0.1, 0.2], "projected": [0.5, 0.1]})
    assert len(figures.threshold_curve(table, 0.1).axes) == 1
    assert len(figures.threshold_curve(table.assign(sq_rel=0.2), 0.1).axes) == 2
