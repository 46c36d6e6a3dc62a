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


def test_without_ground_truth_there_is_nothing_to_score():
    with pytest.raises(DataError, match="no ground-truth depth"):
        evaluation.score(lambda s, i: np.ones((4, 8)), [Flat(has_depth=False)], [range(3)])
