"""Scores and tables: per image then averaged; the paper's rows only beside the paper's own data."""

import numpy as np
import pytest

from d3d import evaluation
from d3d.datasets import Scene
from d3d.errors import DataError


class Flat(Scene):
    """Frames of constant true depth 2 m, the left half a highlight."""

    def __init__(self, n=3, has_depth=True):
        super().__init__(
            "flat", [f"{i:03d}" for i in range(n)], np.tile(np.eye(4), (n, 1, 1)), (4, 8), has_depth
        )

    def _read_image(self, i):
        return np.zeros((4, 8, 3), np.uint8)

    def _read_depth(self, i):
        depth = np.full((4, 8), 2.0, np.float32)
        depth[0] = 0
        return depth

    def _read_highlight_mask(self, i):
        return np.arange(8)[None].repeat(4, 0) < 4


def test_scores_are_means_over_images_of_each_kind_of_pixel():
    def depth(scene, i):
        result = np.full((4, 8), 2.0)
        result[:, :4] = 3.0 if i == 0 else 2.0
        return result

    per_image = evaluation.score(depth, [Flat()], [range(3)])
    assert set(per_image["pixels"]) == {"all", "highlight", "diffuse"}
    assert list(per_image[per_image["pixels"] == "all"]["count"]) == [24, 24, 24]
    assert evaluation.summary(per_image)["abs_rel"] == pytest.approx((0.25 + 0 + 0) / 3)
    assert evaluation.summary(per_image, "highlight")["abs_rel"] == pytest.approx(0.5 / 3)
    assert evaluation.summary(per_image, "diffuse")["abs_rel"] == 0
    assert evaluation.summary(per_image)["images"] == 3


def test_relative_depth_has_one_scale_an_image():
    def depth(scene, i):
        return np.where(np.arange(8)[None].repeat(4, 0) < 3, 4.0, 2.0)  # three quarters of the highlights

    per_image = evaluation.score(depth, [Flat()], [[0]], scale="median").set_index("pixels")
    assert per_image["abs_rel"].to_dict() == pytest.approx({"all": 3 / 8, "highlight": 3 / 4, "diffuse": 0})
    with pytest.raises(DataError, match=r"flat, frame 001: .* cannot be scaled"):
        evaluation.score(lambda s, i: np.zeros((4, 8)), [Flat()], [[1]], scale="median")


def test_the_whole_split_is_scored_on_its_own_frames_and_a_list_on_its_frames():
    """A prepared folder also holds listed frames that are none of the split's (every 10th)."""
    table = evaluation.score(lambda s, i: np.full((4, 8), 2.0 + 2 * i), [Flat()], [range(3)])
    table["in_split"] = table["frame"] != "001"
    assert evaluation.summary(table)[["abs_rel", "images"]].to_list() == pytest.approx([(0 + 2) / 2, 2])
    listed = frozenset({("flat", "001"), ("flat", "002"), ("flat", "not scored")})
    found = evaluation.summary(table, "highlight", listed)
    assert found[["abs_rel", "images"]].to_list() == pytest.approx([(1 + 2) / 2, 2])
    old = table.drop(columns="in_split")  # as written before there was such a column
    assert evaluation.summary(old)["images"] == 3


def test_without_ground_truth_there_is_nothing_to_score():
    with pytest.raises(DataError, match="no ground-truth depth"):
        evaluation.score(lambda s, i: np.ones((4, 8)), [Flat(has_depth=False)], [range(3)])
