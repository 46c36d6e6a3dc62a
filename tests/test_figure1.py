"""Figure 1a: diffuse pixels have the smallest error at their true depth, highlights at the mirror image's depth."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from polished_floor import MIRROR_RATIO, PolishedFloor

from d3d.analysis import photometric
from d3d.datasets import DATASETS, Dataset
from d3d.errors import DataError
from d3d.figures import figure1
from d3d.figures.dataset import example_triple
from d3d.pipeline.config import make_config


@pytest.fixture(scope="module")
def example():
    """Return the triple that shows most of the mirrored lamps, on a floor with exactly known depth."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(DATASETS, "lamps", lambda root: Dataset("lamps", {"train": lambda: [PolishedFloor()]}))
        return example_triple(make_config(profile="smoke", dataset="lamps"))


@pytest.fixture(scope="module")
def errors(example):
    return photometric.photometric_error_along_ray(
        example.target, example.sources, example.true_depth, example.K, example.source_T_target
    )


def _least(errors: np.ndarray, mask: np.ndarray) -> float:
    return float(photometric.SCALES[np.nanmean(errors[:, mask], axis=1).argmin()])


def test_the_chosen_triple_shows_most_highlight(example) -> None:
    assert example.row[1] < example.row[0] < example.row[2]
    shares = [example.scene.highlight_mask(i).mean() for i in range(1, len(example.scene) - 1)]
    assert example.highlight.mean() == max(shares) > 0.02


def test_the_scene_is_as_it_says(example) -> None:
    lit = example.virtual > 0
    assert (lit == example.highlight).all()
    np.testing.assert_allclose(example.virtual[lit], MIRROR_RATIO * example.true_depth[lit])
    view = photometric.reproject(
        example.target, example.sources, example.true_depth, example.K, example.source_T_target
    )
    assert np.nanmedian(view.minimum[~lit]) < 0.01


def test_diffuse_pixels_are_least_wrong_at_their_true_depth(example, errors) -> None:
    assert _least(errors, ~example.highlight) == pytest.approx(1, abs=0.01)


def test_highlights_are_least_wrong_where_the_mirror_image_is(example, errors) -> None:
    assert _least(errors, example.highlight) == pytest.approx(MIRROR_RATIO, rel=0.05)


def test_glossyrooms_show_the_effect_as_the_smallest_profile_opens_them() -> None:
    """The figure of notebook 01. `test_glossyrooms_claims.py` measures the same over all validation rooms."""
    example = example_triple(make_config(profile="smoke"))
    errors = photometric.photometric_error_along_ray(
        example.target, example.sources, example.true_depth, example.K, example.source_T_target
    )
    assert example.highlight.mean() > 0.02
    assert _least(errors, ~example.highlight) == pytest.approx(1, abs=0.1)
    assert _least(errors, example.highlight) > 1.3


def test_the_clearest_pixels_lie_where_they_should(example, errors) -> None:
    pixels = photometric.clearest_pixels(errors, example.highlight)
    assert example.highlight[pixels["highlight"]]
    assert not example.highlight[pixels["diffuse"]]
    y, x = pixels["highlight"]
    found = photometric.SCALES[errors[:, y, x].argmin()] * example.true_depth[y, x]
    assert found == pytest.approx(example.virtual[y, x], rel=0.1)


def test_without_a_mask_there_is_a_diffuse_pixel_only(errors) -> None:
    assert set(photometric.clearest_pixels(errors)) == {"diffuse"}


def test_the_identity_pose_gives_the_image_itself(example) -> None:
    view = photometric.reproject(
        example.target, [example.target], example.true_depth, example.K, np.eye(4)[None]
    )
    np.testing.assert_allclose(view.warped[0], example.target / 255, atol=1e-3)
    assert view.valid.all()


def test_a_pixel_that_no_source_sees_has_no_error(example) -> None:
    away = np.eye(4)
    away[0, 3] = 100.0
    view = photometric.reproject(example.target, [example.target], example.true_depth, example.K, away[None])
    assert np.isnan(view.minimum).all()
    with pytest.raises(DataError, match="no pixel is visible"):
        photometric.clearest_pixels(np.stack([view.minimum] * len(photometric.SCALES)))


def test_depth_with_holes_is_refused(example) -> None:
    depth = example.true_depth.copy()
    depth[0, :3] = 0
    with pytest.raises(DataError, match="3 pixels have no depth"):
        photometric.reproject(example.target, example.sources, depth, example.K, example.source_T_target)


def test_the_figure_draws_with_and_without_a_mask(example, errors) -> None:
    for shown, kinds in ((example, 2), (replace(example, highlight=None, virtual=None), 1)):
        figure = figure1.draw_example(shown, errors)
        assert len(figure.axes) == 3
        assert len(figure.axes[2].get_legend().get_texts()) == kinds
