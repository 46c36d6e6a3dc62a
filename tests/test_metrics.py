"""The seven metrics against values computed by hand."""

import numpy as np
import pytest

from d3d.errors import ConfigError, DataError
from d3d.metrics import METRICS, align, depth_metrics, fit_line, pixel_masks, resize_depth


def test_hand_computed_values():
    gt = np.array([[2.0, 4.0], [1.0, 0.0]])
    pred = np.array([[3.0, 4.0], [0.5, 9.0]])  # the last has no ground truth
    m = depth_metrics(pred, gt)
    assert m["abs_rel"] == pytest.approx((0.5 + 0 + 0.5) / 3)
    assert m["sq_rel"] == pytest.approx((1 / 2 + 0 + 0.25 / 1) / 3)
    assert m["rmse"] == pytest.approx(np.sqrt((1 + 0 + 0.25) / 3))
    assert m["rmse_log"] == pytest.approx(np.sqrt((np.log(1.5) ** 2 + np.log(0.5) ** 2) / 3))
    assert m["a1"] == pytest.approx(1 / 3)  # 1.5 and 2 are beyond 1.25
    assert m["a2"] == pytest.approx(2 / 3)  # 1.5 is within 1.5625
    assert m["a3"] == pytest.approx(2 / 3)  # 2 is beyond 1.953
    assert tuple(m) == METRICS


def test_truth_against_itself_is_perfect():
    gt = np.random.default_rng(0).uniform(0.5, 5, (6, 8))
    m = depth_metrics(gt, gt)
    assert [m[k] for k in METRICS] == pytest.approx([0, 0, 0, 0, 1, 1, 1])


def test_median_scaling_undoes_a_scale_and_only_a_scale():
    gt = np.random.default_rng(0).uniform(0.5, 5, (6, 8))
    assert depth_metrics(gt * 1.7, gt, scale="median")["abs_rel"] == pytest.approx(0, abs=1e-12)
    assert depth_metrics(gt * 1.7, gt)["abs_rel"] == pytest.approx(0.7)
    assert depth_metrics(gt + 1, gt, scale="median")["abs_rel"] > 0.05


def test_one_scale_an_image_whatever_pixels_count():
    """Highlights at twice their depth count as an error. They do not get their own scale."""
    gt = np.full((4, 10), 2.0)
    highlight = np.arange(10)[None].repeat(4, 0) < 3
    pred = np.where(highlight, 4.0, 2.0)
    errors = [depth_metrics(pred, gt, m, scale="median")["abs_rel"] for m in (None, highlight, ~highlight)]
    assert errors == pytest.approx([0.3, 1.0, 0.0])
    gt[:, 9] = 0  # where there is no truth the prediction has no part in the scale
    pred[:, 9] = 1000
    errors = [depth_metrics(pred, gt, m, scale="median")["abs_rel"] for m in (None, highlight, ~highlight)]
    assert errors == pytest.approx([1 / 3, 1.0, 0.0])


def test_align_gives_the_prediction_as_it_is_scored():
    gt = np.random.default_rng(0).uniform(0.5, 5, (6, 8))
    highlight = gt > 3
    pred = np.random.default_rng(1).uniform(0.5, 30, (3, 4))
    aligned = align(pred, gt, "median")
    assert aligned.shape == gt.shape
    assert aligned.max() <= 10
    for mask in (None, highlight):
        assert depth_metrics(aligned, gt, mask) == depth_metrics(pred, gt, mask, scale="median")


@pytest.mark.parametrize("value", [0.0, -1.0])
def test_a_prediction_without_a_positive_median_cannot_be_scaled(value):
    gt = np.full((2, 3), 2.0)
    pred = np.array([[value, value, value], [value, 1.0, 2.0]])
    with pytest.raises(DataError, match=r"median -?[01] m .* cannot be scaled"):
        depth_metrics(pred, gt, scale="median")
    with pytest.raises(DataError, match="cannot be scaled"):
        depth_metrics(pred, gt, pred > 0, scale="median")
    assert depth_metrics(pred, gt)["abs_rel"] > 0.5  # absolute depth: clamped, and wrong


def test_truth_beyond_the_clamp_counts_and_stays_as_it_is():
    gt = np.full((2, 2), 20.0)
    assert depth_metrics(np.full((2, 2), 20.0), gt)["abs_rel"] == pytest.approx(0.5)  # 10 m against 20 m


def test_kinds_of_pixels_have_truth_and_are_not_empty():
    gt = np.array([[0.0, 1.0], [2.0, 3.0]])
    highlight = np.array([[True, True], [False, False]])
    kinds = pixel_masks(gt > 0, highlight)
    assert list(kinds) == ["all", "highlight", "diffuse"]
    assert [int(m.sum()) for m in kinds.values()] == [3, 1, 2]
    assert list(pixel_masks(gt > 0, None)) == ["all"]
    assert list(pixel_masks(gt > 0, np.zeros((2, 2), bool))) == ["all", "diffuse"]


def test_clamp_comes_after_scaling():
    gt = np.full((2, 2), 8.0)
    assert depth_metrics(np.full((2, 2), 50.0), gt)["abs_rel"] == pytest.approx(0.25)  # clamped to 10
    assert depth_metrics(np.full((2, 2), 50.0), gt, scale="median")["abs_rel"] == pytest.approx(0)


def test_mask_counts_only_its_pixels_and_empty_is_nan():
    gt = np.full((2, 2), 2.0)
    pred = np.array([[2.0, 4.0], [4.0, 4.0]])
    mask = np.array([[True, False], [False, False]])
    assert depth_metrics(pred, gt, mask)["abs_rel"] == 0
    assert all(np.isnan(v) for v in depth_metrics(pred, np.zeros((2, 2))).values())


def test_prediction_is_resized_to_the_ground_truth():
    gt = np.tile(np.linspace(1, 2, 8), (4, 1))
    small = np.tile(np.linspace(1, 2, 8).reshape(4, 2).mean(1), (2, 1))
    assert resize_depth(small, (4, 8)).shape == (4, 8)
    assert depth_metrics(small, gt)["abs_rel"] < 0.03


def test_bad_input():
    gt = np.ones((2, 2))
    with pytest.raises(ConfigError, match="scale"):
        depth_metrics(gt, gt, scale="mean")
    with pytest.raises(DataError, match="mask"):
        depth_metrics(gt, gt, np.ones((3, 2), bool))
    with pytest.raises(DataError, match="not finite"):
        depth_metrics(np.full((2, 2), np.nan), gt)


def test_affine_alignment_undoes_scale_and_shift():
    gt = np.random.default_rng(0).uniform(0.5, 5, (6, 8))
    gt[0] = 0  # no truth: these pixels have no part in the fit
    pred = np.where(gt > 0, gt * 1.7 + 0.4, 1000)
    assert depth_metrics(pred, gt, scale="affine")["rmse"] == pytest.approx(0, abs=1e-12)
    assert depth_metrics(10 - pred, gt, scale="affine")["rmse"] == pytest.approx(0, abs=1e-12)
    assert depth_metrics(pred, gt, scale="median")["rmse"] > 0.05


def test_affine_alignment_in_disparity_undoes_scale_and_shift_of_disparity():
    gt = np.random.default_rng(0).uniform(0.5, 5, (6, 8))
    gt[0] = 0
    disparity = np.where(gt > 0, 3 / np.where(gt > 0, gt, 1) + 0.5, 0)
    with np.errstate(divide="raise"):  # a depth of 0 without truth is no error
        depth = np.where(gt > 0, 1 / np.where(disparity > 0, disparity, 1), 0)
        assert depth_metrics(depth, gt, scale="affine-disparity")["rmse"] == pytest.approx(0, abs=1e-12)
    found = depth_metrics(disparity, gt, scale="affine-disparity", disparity=True)
    assert found["rmse"] == pytest.approx(0, abs=1e-12)
    assert depth_metrics(depth, gt, scale="affine")["rmse"] > 0.05


def test_least_squares_by_hand():
    # y on x = 0, 1, 2: slope 1/2, mean 2
    gt, pred = np.array([[1.0, 3.0, 2.0]]), np.array([[0.0, 1.0, 2.0]])
    assert fit_line(pred[0], gt[0]) == pytest.approx((0.5, 1.5))
    assert align(pred, gt, "affine") == pytest.approx(np.array([[1.5, 2.0, 2.5]]))
    # disparity of gt: 1, 1/3, 1/2; slope -1/4, mean 11/18
    expected = 1 / (11 / 18 - 0.25 * (pred - 1))
    assert align(pred, gt, "affine-disparity", disparity=True) == pytest.approx(expected)


def test_a_constant_prediction_becomes_the_constant_with_the_least_error():
    gt = np.array([[1.0, 2.0, 4.0], [0.0, 2.0, 1.0]])
    for value in (0.1, 3.0, 1e6):  # 0.1: the mean of equal numbers is not always that number
        pred = np.full(gt.shape, value, np.float32)
        assert align(pred, gt, "affine") == pytest.approx(np.full(gt.shape, 2.0))
        harmonic = 5 / (1 + 1 / 2 + 1 / 4 + 1 / 2 + 1)
        assert align(pred, gt, "affine-disparity") == pytest.approx(np.full(gt.shape, harmonic))
    # one pixel with truth: it is met exactly
    alone = np.where(gt == 4, gt, 0)
    assert depth_metrics(np.full(gt.shape, 9.0), alone, scale="affine")["rmse"] == 0


def test_aligned_depth_is_clamped_to_the_range():
    gt, pred = np.array([[1.0, 1.0, 9.0]]), np.array([[1.0, 2.0, 30.0]])
    assert align(pred, gt, "affine", 1.0, 8.0).max() == 8
    # the fit to far pixels goes below zero: disparity of no depth
    disparity = np.array([[1.0, 0.9, -1.0]])
    aligned = align(disparity, gt, "affine-disparity", disparity=True)
    assert np.isfinite(aligned).all()
    assert aligned.max() <= 10


def test_disparity_needs_its_alignment_and_a_positive_depth():
    gt = np.ones((2, 2))
    with pytest.raises(ConfigError, match="'affine-disparity' only"):
        depth_metrics(gt, gt, scale="affine", disparity=True)
    with pytest.raises(DataError, match="not positive at 4 pixels"):
        depth_metrics(gt * 0, gt, scale="affine-disparity")
