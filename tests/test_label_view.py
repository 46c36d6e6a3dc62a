"""The label viewer over a run with known depth: maps, labels, pictures and scores at a threshold."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from known_run import OFF, ON, known_run

from d3d import evaluation, fusion
from d3d.errors import ConfigError
from d3d.figures import colours
from d3d.figures import frames as figure_frames
from d3d.notebook import label_view
from d3d.notebook.label_view import TargetFrames, View
from d3d.pipeline import stages
from d3d.pipeline.config import ENSEMBLE


@pytest.fixture(scope="module")
def frames(tmp_path_factory: pytest.TempPathFactory) -> TargetFrames:
    return TargetFrames(known_run(tmp_path_factory.mktemp("runs")))


@pytest.fixture(scope="module")
def view(frames: TargetFrames) -> View:
    """The maps of the frame with most highlight pixels, where the networks disagree."""
    example = figure_frames.example_frame(frames.config)
    return View(example.scene.name, example.frame, "monodepth2", "uncer", stages.threshold(frames.config))


@pytest.fixture(scope="module")
def shown(frames: TargetFrames, view: View) -> label_view.ShownFrame:
    return frames.read(view.scene, view.frame, view.arch, view.labels)


def test_it_shows_what_the_stages_left(
    frames: TargetFrames, view: View, shown: label_view.ShownFrame
) -> None:
    example = figure_frames.example_frame(frames.config, scene_name=view.scene, frame=view.frame)
    assert np.array_equal(shown.inputs.pred, example.preds[view.arch])
    assert np.array_equal(shown.inputs.proj, example.projs[view.arch])
    assert np.array_equal(shown.uncertainty, example.uncertainty)
    assert np.array_equal(shown.truth, example.gt)
    assert frames.ids(view.scene) == [example.scene.frame_ids[i] for i in _targets(frames, view.scene)]


def _targets(frames: TargetFrames, scene: str) -> list[int]:
    (found,) = [s for s in stages.training_scenes(frames.config) if s.scene.name == scene]
    return found.targets


@pytest.mark.parametrize("labels", [name for name, s in fusion.STRATEGIES.items() if not s.mesh])
def test_the_label_is_the_one_that_the_stage_stores(frames: TargetFrames, view: View, labels: str) -> None:
    shown = frames.read(view.scene, view.frame, view.arch, labels)
    _, label = label_view.apply_rule(shown, labels, view.threshold_m)
    stored = stages.fuse(frames.config, view.arch, labels).read(view.scene, view.frame)
    assert np.array_equal(label, stored)


def test_a_higher_threshold_takes_less_of_the_mesh_until_nothing(
    view: View, shown: label_view.ShownFrame
) -> None:
    taken = [label_view.apply_rule(shown, "uncer", t)[0].sum() for t in (0.0, 0.1, 0.4, 100.0)]
    assert taken == sorted(taken, reverse=True)
    assert taken[0] == shown.uncertainty.size
    assert taken[1] > taken[2] > taken[3] == 0


def test_uncertainty_is_what_the_networks_were_made_to_disagree(shown: label_view.ShownFrame) -> None:
    known = (shown.truth > 0) & shown.highlight
    expected = np.std([ON[a] for a in ENSEMBLE]) * shown.truth[known]
    assert np.abs(shown.uncertainty[known] - expected).max() < 0.002  # two roundings to millimetres
    off = (shown.truth > 0) & ~shown.highlight
    assert (
        np.abs(shown.uncertainty[off] - np.std([OFF[a] for a in ENSEMBLE]) * shown.truth[off]).max() < 0.002
    )


def test_the_numbers_are_those_of_an_evaluation(
    frames: TargetFrames, view: View, shown: label_view.ShownFrame
) -> None:
    share, table = label_view.numbers(shown, view)
    stored = stages.fuse(frames.config, view.arch, "uncer")
    (scene,) = [s.scene for s in stages.training_scenes(frames.config) if s.scene.name == view.scene]
    index = scene.frame_ids.index(view.frame)
    scored = evaluation.score(stored.read_of, [scene], [[index]], scale=frames.config.evaluation.scale)
    expected = scored.set_index("pixels")["sq_rel"]
    assert table["L"].to_dict() == pytest.approx(expected.to_dict())
    assert set(table.index) == {"all", "highlight", "diffuse"}
    assert table.loc["highlight", "L"] < table.loc["highlight", "D"], "the mesh corrects the highlights"
    assert 0 < share < 0.3
    assert f"{share:.1%}" in label_view.sentence(view, share)


def test_moving_the_threshold_changes_the_mask_the_label_and_its_error_and_no_other_panel(
    view: View, shown: label_view.ShownFrame
) -> None:
    low = np.asarray(label_view.picture(shown, view, 0.8))
    high = np.asarray(label_view.picture(shown, replace(view, threshold_m=0.6), 0.8))
    changed = (low != high).any(axis=2)
    h, w = changed.shape
    columns, bottom = np.array_split(np.arange(w), 4), h - label_view._LEGEND_H
    middle = bottom // 2
    assert not changed[:middle].any(), "image, D, P and truth depend on no threshold"
    picture_of_uncertainty = changed[middle + label_view._TITLE_H : bottom - 5, columns[0]]
    assert not picture_of_uncertainty.any()
    assert all(changed[middle + label_view._TITLE_H : bottom - 5, c].any() for c in columns[1:])
    assert changed[bottom:, columns[0]].any(), "the mark on the colour bar moves"


def test_no_panel_is_coloured_where_there_is_nothing() -> None:
    depth = np.array([[0.0, 1.0], [2.0, 9.0]])
    picture = colours.coloured(depth, "depth", 2.0)
    assert (picture[0, 0] == 255).all()
    assert (picture[1, 0] == picture[1, 1]).all(), "beyond the end of the bar: its last colour"
    signed = colours.coloured(np.array([[-1.0, 0.0, 1.0, np.nan]]), "signed", 1.0)[0].astype(int)
    assert signed[0, 2] > signed[0, 0], "too near is blue"
    assert signed[2, 0] > signed[2, 2], "too far is red"
    assert (signed[3] == 255).all()


def test_a_frame_without_truth_or_highlights_is_drawn_too(view: View, shown: label_view.ShownFrame) -> None:
    bare = replace(shown, truth=None, highlight=None)
    assert label_view.picture(bare, view, 0.4).size == label_view.picture(shown, view, 0.4).size


def test_an_unknown_scene_or_frame_names_what_there_is(frames: TargetFrames, view: View) -> None:
    with pytest.raises(ConfigError, match=f"training scene 'nowhere'.*{view.scene}"):
        frames.ids("nowhere")
    with pytest.raises(ConfigError, match=f"target frame of {view.scene} '99'"):
        frames.read(view.scene, "99", "monodepth2", "uncer")
