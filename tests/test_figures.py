"""The drawing functions show the given axes, arrays and numbers."""

from __future__ import annotations

import io

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from d3d import figures
from d3d.errors import DataError
from d3d.figures import figure2, figure4, figure5, frames, labels
from d3d.geometry import upward


def _circle(n: int, up_axis: int, sign: float) -> np.ndarray:
    """Return cameras on a circle that look towards its middle and 20 degrees down."""
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
    figure = labels.against_truth(np.zeros((4, 6, 3), np.uint8), {"net": depth}, gt, gt == 0)
    (off,) = (a.images[0].get_array() for a in figure.axes if a.get_title() == "net − truth")
    off = np.ma.filled(off.astype(float), np.nan)
    assert np.isnan(off[:2]).all()
    np.testing.assert_allclose(off[2:], 0.5)


def _scores(scenes: dict[str, list[int]]) -> pd.DataFrame:
    """Make rows like those of `evaluation.score`, from the numbers of highlight pixels (of 100) in each scene."""
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
    choose = frames.reflective_frames
    assert choose(scores, None, 2) == [("a", "001"), ("c", "000")]
    assert choose(scores, None, 3) == [("a", "001"), ("b", "001"), ("c", "000")]
    # a second one of a room is no neighbour of the first
    assert choose(scores, None, 4) == [("a", "001"), ("a", "008"), ("b", "001"), ("c", "000")]
    assert choose(scores, frozenset({("b", "000"), ("a", "000")}), 3) == [("a", "000"), ("b", "000")]
    assert choose(scores, frozenset({("z", "000")}), 1) == [("c", "000")]


def test_figure_5_shows_the_worst_frames_where_highlights_are_not_known() -> None:
    scores = _scores({"a": [0, 0, 0], "b": [0]})
    assert frames.reflective_frames(scores, None, 2) == [("a", "000"), ("b", "000")]


def test_the_threshold_curve_has_one_picture_without_truth() -> None:
    table = pd.DataFrame({"threshold_m": [0.1, 0.2], "projected": [0.5, 0.1]})
    assert len(figures.threshold_curve(table, 0.1).axes) == 1
    assert len(figures.threshold_curve(table.assign(sq_rel=0.2), 0.1).axes) == 2


def _array(axis) -> np.ndarray:
    """Return the array that an axis shows, NaN at empty pixels."""
    return np.ma.filled(axis.images[0].get_array().astype(float), np.nan)


def _pictures(figure) -> list:
    """Return a grid's pictures in reading order, without the colour bars."""
    return [a for a in figure.axes if a.images]


GT = np.full((4, 6), 2.0)
LIT = np.zeros((4, 6), bool)
LIT[1:3, 2:4] = True
IMAGE = np.full((4, 6, 3), 200, np.uint8)


def test_a_grid_shows_what_it_is_given_on_one_scale_a_kind() -> None:
    near, far = GT / 2, GT + 0.5
    near[0, 0] = 0
    off = np.where(LIT, -3.0, 0.5)
    rows = [
        [figures.Panel("near", near, "depth"), figures.Panel("off", off, "signed", 1.0, note="-3 m")],
        [figures.Panel("far", far, "depth"), figures.Panel("", None)],
    ]
    figure = figures.grid(rows)
    first, second, third = _pictures(figure)
    np.testing.assert_array_equal(_array(first), np.where(near > 0, near, np.nan))
    np.testing.assert_array_equal(_array(second), off)
    np.testing.assert_array_equal(_array(third), far)
    assert first.images[0].get_clim() == third.images[0].get_clim() == (0, 2.5)
    assert second.images[0].get_clim() == (-1, 1)
    assert [t.get_text() for t in second.texts] == ["-3 m"]
    bars = [a.get_xlabel() for a in figure.axes if not a.images and a.get_xlabel()]
    assert bars == ["depth (m)", "too near (blue) / too far (red) (m)"]


def test_titles_shared_with_the_row_above_are_written_once() -> None:
    row = [figures.Panel("a", GT, "depth"), figures.Panel("b", GT, "depth")]
    other = [figures.Panel("a", GT, "depth"), figures.Panel("c", GT, "depth")]
    titles = [a.get_title() for a in _pictures(figures.grid([row, row, other]))]
    assert titles == ["a", "b", "", "", "a", "c"]


def test_an_outline_of_another_size_lies_where_it_belongs() -> None:
    mask = np.zeros((40, 60), bool)
    mask[10:30, 20:40] = True  # LIT, ten times as fine
    figure = figures.grid([[figures.Panel("", IMAGE, outline=mask)]])
    (lines,) = _pictures(figure)[0].collections
    points = np.concatenate([p.vertices for p in lines.get_paths()])
    np.testing.assert_allclose([points.min(axis=0), points.max(axis=0)], [[1.5, 0.5], [3.5, 2.5]], atol=0.06)


def test_an_empty_grid_is_refused() -> None:
    with pytest.raises(DataError, match="at least one panel"):
        figures.grid([[figures.Panel("", None)]])


def test_figure_2_shows_errors_and_takes_the_prediction_where_the_mesh_is_not_hit() -> None:
    pred, proj = np.where(LIT, 3.0, 2.0), np.full((4, 6), 2.1)
    proj[0] = 0
    frame = frames.Frame(
        "room", IMAGE, GT, LIT, {"predicted": pred, "projected": proj}, {"predicted": 1.0, "projected": 0.1}
    )
    figure = figure2.draw([frame], [IMAGE])
    axes = _pictures(figure)
    titles = ["image", "predicted D", "D − truth", "mesh of all views", "projected P", "P − truth"]
    assert [a.get_title() for a in axes] == titles
    np.testing.assert_allclose(_array(axes[2]), np.where(LIT, 1.0, 0.0))
    np.testing.assert_allclose(_array(axes[4])[1:], 2.1)
    assert np.isnan(_array(axes[4])[0]).all()
    np.testing.assert_allclose(_array(axes[5]), np.where(np.arange(4)[:, None] == 0, 0.0, 0.1) + 0 * GT)
    assert [t.get_text() for a in axes for t in a.texts] == ["+1.00 m", "+0.10 m"]


def test_figure_4_has_the_papers_two_rows() -> None:
    preds = {n: GT + k for k, n in enumerate("abc")}
    projs = {n: GT + 3 + k for k, n in enumerate("abc")}
    std = np.where(LIT, 0.4, 0.1)
    axes = _pictures(figure4.draw(IMAGE, preds, projs, std, 0.4, GT))
    shown = [IMAGE, *preds.values(), std, GT, *projs.values(), LIT]
    for axis, array in zip(axes, shown, strict=True):
        np.testing.assert_allclose(_array(axis), array)


def test_figure_5_shows_each_training_and_how_far_it_is_off() -> None:
    depths = {"Self-Supervised": GT + 1.0, "3D Distillation": GT + 0.25}
    rows = [frames.Frame("a", IMAGE, GT, LIT, depths), frames.Frame("b", IMAGE, None, None, depths)]
    axes = _pictures(figure5.draw(rows))
    with_truth, without = axes[:6], axes[6:]
    assert [a.get_title() for a in with_truth[4:]] == ["Self-Supervised\n− truth", "3D Distillation\n− truth"]
    np.testing.assert_allclose(_array(with_truth[3]), 2.25)
    np.testing.assert_allclose(_array(with_truth[4]), 1.0)
    np.testing.assert_allclose(_array(with_truth[5]), 0.25)
    assert len(without) == 3


def test_error_maps_are_absolute() -> None:
    depths = {"D": GT - 0.5, "P": GT + 0.25, "L": GT}
    frame = frames.Frame("a", IMAGE, GT, LIT, depths)
    axes = _pictures(labels.draw_error_maps([frame], [0.3 * LIT], [LIT], 0.15))
    shown = [IMAGE, 0.5 + 0 * GT, 0.3 * LIT, LIT, 0.25 + 0 * GT, 0 * GT]
    for axis, array in zip(axes, shown, strict=True):
        np.testing.assert_allclose(_array(axis), array)


def test_the_make_up_is_drawn_as_it_is_in_the_table() -> None:
    table = pd.DataFrame(
        {
            "strategy": ["proj", "proj", "uncer", "uncer"],
            "pixels": ["highlight", "diffuse"] * 2,
            "projected": [1.0, 0.9, 0.7, 0.2],
            "sq_rel": [0.5, 0.12, 0.6, 0.1],
        }
    )
    share, highlight, diffuse = figures.label_makeup(table).axes
    assert [p.get_height() for p in share.patches] == [1.0, 0.7, 0.9, 0.2]
    assert [p.get_height() for p in highlight.patches] == [0.5, 0.6]
    assert [p.get_height() for p in diffuse.patches] == [0.12, 0.1]
    assert [t.get_text() for t in diffuse.get_xticklabels()] == ["proj", "uncer"]


def test_truncation_curves_are_the_tables_columns() -> None:
    rows = [
        {"sweep": s, "trunc_m": t, "voxel_m": v, "pixels": p, "pred": 1.0, "proj": k + t + v, "label": k + t}
        for k, p in enumerate(("all", "highlight", "diffuse"))
        for s, t, v in (("truncation", 1.0, 0.05), ("truncation", 0.1, 0.05), ("voxel", 1.0, 0.1))
    ]
    axes = figures.truncation_curves(pd.DataFrame(rows), 1.0, 0.05).axes
    assert [a.get_title() for a in axes] == [f"Sq Rel, {k} pixels" for k in ("highlight", "diffuse")] * 2
    assert [a.get_xlabel() for a in axes] == ["truncation (m)"] * 2 + ["voxel (m)"] * 2
    _, proj, label, own = axes[1].lines
    np.testing.assert_allclose(proj.get_xydata(), [[0.1, 2.15], [1.0, 3.05]])
    np.testing.assert_allclose(label.get_xydata(), [[0.1, 2.1], [1.0, 3.0]])
    assert list(own.get_xdata()) == [1.0, 1.0]


def test_the_threshold_curve_is_the_tables_column() -> None:
    table = pd.DataFrame({"threshold_m": [0.0, 0.1, np.inf], "projected": [0.9, 0.5, 0.0]})
    (axis,) = figures.threshold_curve(table, 0.1).axes
    np.testing.assert_allclose(axis.lines[0].get_ydata(), [0.9, 0.5, 0.0])
    assert [t.get_text() for t in axis.get_xticklabels()] == ["proj", "0.1", "pred"]
    assert list(axis.lines[1].get_xdata()) == [1, 1]  # the run's own is the second


def _text_sizes(figure) -> list[float]:
    from matplotlib.text import Text

    figure.canvas.draw()
    return [t.get_fontsize() for t in figure.findobj(Text) if t.get_text().strip() and t.get_visible()]


def test_text_in_print_has_6_points_or_more() -> None:
    frame = frames.Frame("a", IMAGE, GT, LIT, {"predicted": GT, "projected": GT}, {"predicted": 0.0})
    made = [figure2.draw([frame], [IMAGE])]
    table = pd.DataFrame({"threshold_m": [0.0, 0.1], "projected": [0.9, 0.5]})
    made.append(figures.threshold_curve(table, 0.1))
    for figure in made:
        assert figure.get_figwidth() == figures.PRINT_WIDTH_IN
        assert min(_text_sizes(figure)) >= 6


def test_a_figure_made_again_has_the_same_bytes(tmp_path) -> None:
    table = pd.DataFrame({"threshold_m": [0.0, 0.1], "projected": [0.9, 1 / 3]})
    for folder in ("a", "b"):
        figures.save(figures.threshold_curve(table, 0.1), table, tmp_path / folder, "curve.of.x")
    names = ["curve.of.x.pdf", "curve.of.x.png", "curve.of.x.csv"]
    for name in names:
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    assert b"CreationDate" not in (tmp_path / "a" / names[0]).read_bytes()
    assert b"Software" not in (tmp_path / "a" / names[1]).read_bytes()
    np.testing.assert_allclose(pd.read_csv(tmp_path / "a" / names[2]), table, rtol=1e-4)


def test_a_large_png_has_256_colours_and_looks_the_same() -> None:
    noise = np.random.default_rng(0).normal(0, 6, (300, 400, 1)) + np.linspace(20, 230, 400)[None, :, None]
    picture = noise.clip(0, 255).astype(np.uint8).repeat(3, axis=2)
    figure = figures.grid([[figures.Panel("", picture)]], width_in=4)
    images = []
    for most in (10**9, 1000):
        with Image.open(io.BytesIO(figures.png_bytes(figure, 110, most))) as image:
            images.append(image)
            image.load()
    full, few = images
    assert (full.mode, few.mode) == ("RGB", "P")
    # seen from some distance: means of 8 x 8 pixels
    means = [
        np.asarray(i.convert("RGB"))[:336, :440].reshape(42, 8, 55, 8, 3).mean(axis=(1, 3)) for i in images
    ]
    assert np.abs(means[0] - means[1]).max() < 3
    assert few.convert("RGB").getpixel((0, 0)) == (255, 255, 255)
