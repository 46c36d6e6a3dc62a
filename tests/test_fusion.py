"""Eq. 3, the ensemble, and the three-view check against a slow loop."""

import numpy as np
import pytest
import torch

from d3d.errors import ConfigError, DataError
from d3d.fusion import (
    LABELS,
    ORACLES,
    STRATEGIES,
    LabelInputs,
    ensemble_std,
    find_strategy,
    fuse,
    inconsistent,
    make_label,
)


def test_standard_deviation_by_hand_and_alike_for_tensors():
    depths = [np.full((2, 2), v) for v in (1.0, 2.0, 3.0)]
    assert np.allclose(ensemble_std(depths), np.sqrt(2 / 3))
    assert np.allclose(ensemble_std(depths, ddof=1), 1.0)
    tensors = ensemble_std([torch.tensor(d) for d in depths])
    assert torch.allclose(tensors, torch.full((2, 2), np.sqrt(2 / 3), dtype=torch.float64))
    with pytest.raises(DataError, match="one size"):
        ensemble_std([np.zeros((2, 2)), np.zeros((2, 3))])
    with pytest.raises(DataError, match="at least two"):
        ensemble_std([np.zeros((2, 2))])


@pytest.mark.parametrize("kind", [np.array, torch.tensor])
def test_equation_three_at_its_threshold_and_where_nothing_is_hit(kind):
    pred, proj = kind([[3.0, 3.0, 3.0]]), kind([[2.0, 2.0, 0.0]])
    label = fuse(pred, proj, kind([[0.5, 0.25, 9.0]]), threshold_m=0.5)
    assert label.tolist() == [[2.0, 3.0, 3.0]]  # at least the threshold; below it; no surface: D
    with pytest.raises(DataError, match="size"):
        fuse(pred, proj[:, :2], kind([[0.5, 0.25, 9.0]]))


def test_every_strategy_takes_each_pixel_from_one_of_the_two():
    rng = np.random.default_rng(0)
    pred, proj = rng.uniform(1, 3, (6, 8)), rng.uniform(1, 3, (6, 8))
    inputs = LabelInputs(
        pred,
        proj,
        uncertainty=rng.uniform(0, 1, (6, 8)),
        source_preds=rng.uniform(1, 3, (2, 6, 8)),
        K=np.array([[6.0, 0, 3.5], [0, 6.0, 2.5], [0, 0, 1]]),
        source_T_target=np.tile(np.eye(4), (2, 1, 1)),
    )
    for name in STRATEGIES:
        label = make_label(name, inputs)
        assert ((label == pred) | (label == proj)).all(), name
    assert (make_label("pred", inputs) == pred).all()
    assert (make_label("proj", inputs) == proj).all()
    assert ((make_label("diff", inputs) == proj) == (pred > 1.25 * proj)).all()
    assert ((make_label("uncer", inputs) == proj) == (inputs.uncertainty >= 0.4)).all()
    with pytest.raises(ConfigError, match=r"unknown label strategy 'uncertain'.*'uncer'"):
        make_label("uncertain", inputs)


def test_a_strategy_makes_do_with_what_it_says_it_needs():
    rng = np.random.default_rng(0)
    pred, proj = rng.uniform(1, 3, (2, 6, 8))
    inputs = {
        "uncertainty": {"uncertainty": rng.uniform(0, 1, (6, 8))},
        "sources": {
            "source_preds": rng.uniform(1, 3, (2, 6, 8)),
            "K": np.array([[6.0, 0, 3.5], [0, 6.0, 2.5], [0, 0, 1]]),
            "source_T_target": np.tile(np.eye(4), (2, 1, 1)),
        },
    }
    for name, strategy in STRATEGIES.items():
        given = {k: v for need in strategy.needs for k, v in inputs[need].items()}
        assert make_label(name, LabelInputs(pred, proj, **given)).shape == pred.shape


def test_an_oracle_takes_the_mesh_or_the_truth_exactly_on_highlights():
    pred, proj, truth = (
        np.full((1, 4), 3.0),
        np.array([[2.5, 2.5, 0.0, 2.5]]),
        np.array([[2.0, 2.0, 2.0, 0.0]]),
    )
    highlight = np.array([[True, False, True, True]])
    seen = LabelInputs(pred, proj, truth=truth, highlight=highlight)
    assert make_label("oracle_proj", seen).tolist() == [[2.5, 3.0, 3.0, 2.5]]  # nothing hit: D
    assert make_label("oracle_truth", seen).tolist() == [[2.0, 3.0, 2.0, 3.0]]  # no truth: D
    assert set(ORACLES) <= set(LABELS)
    assert not set(ORACLES) & set(STRATEGIES)  # what is tried by default must run on any data


def test_a_label_that_is_not_a_depth_is_refused():
    bad = np.array([[1.0, np.nan]])
    with pytest.raises(DataError, match="1 label pixels are not finite"):
        make_label("pred", LabelInputs(bad, np.ones((1, 2))))


def slow_inconsistent(pred, sources, K, poses):
    h, w = pred.shape
    result = np.zeros((h, w), bool)
    for v in range(h):
        for u in range(w):
            point = pred[v, u] * np.linalg.inv(K) @ (u, v, 1)
            for source, T in zip(sources, poses, strict=True):
                p = K @ (T[:3, :3] @ point + T[:3, 3])
                x, y = p[0] / p[2], p[1] / p[2]
                if p[2] <= 0 or not (0 <= x <= w - 1 and 0 <= y <= h - 1):
                    result[v, u] = True
                    continue
                x0, y0 = min(int(x), w - 2), min(int(y), h - 2)
                a, b = x - x0, y - y0
                d = (1 - b) * ((1 - a) * source[y0, x0] + a * source[y0, x0 + 1])
                d += b * ((1 - a) * source[y0 + 1, x0] + a * source[y0 + 1, x0 + 1])
                inverse = np.linalg.inv(T)
                back = K @ (inverse[:3, :3] @ (d * np.linalg.inv(K) @ (x, y, 1)) + inverse[:3, 3])
                far = np.hypot(back[0] / back[2] - u, back[1] / back[2] - v) >= 1
                if far or abs(back[2] - pred[v, u]) / pred[v, u] >= 0.01:
                    result[v, u] = True
    return result


def test_three_view_check_against_a_slow_loop():
    rng = np.random.default_rng(0)
    h, w = 20, 26
    K = np.array([[24.0, 0, 12.5], [0, 24.0, 9.5], [0, 0, 1]])
    poses = np.tile(np.eye(4), (2, 1, 1))
    poses[0, :3, 3], poses[1, :3, 3] = (0.07, 0.01, 0.02), (-0.06, 0, -0.03)
    pred = 2 + rng.normal(0, 0.01, (h, w))
    sources = 2 + poses[:, 2, 3].reshape(2, 1, 1) + rng.normal(0, 0.01, (2, h, w))
    sources[0, 5:10, 5:10] = 3.0
    fast = inconsistent(
        torch.tensor(pred)[None, None],
        torch.tensor(sources)[:, None, None],
        torch.tensor(K)[None],
        torch.tensor(poses)[:, None],
    )[0, 0].numpy()
    slow = slow_inconsistent(pred, sources, K, poses)
    assert (fast == slow).all()
    assert 0.1 < slow.mean() < 0.9


def test_three_view_check_where_the_answer_is_known():
    h, w = 24, 32
    K = torch.tensor([[[30.0, 0, 15.5], [0, 30.0, 11.5], [0, 0, 1]]], dtype=torch.float64)
    poses = torch.eye(4, dtype=torch.float64).repeat(2, 1, 1, 1)
    poses[0, 0, 0, 3], poses[1, 0, 0, 3] = 0.06, -0.06
    plane = torch.full((1, 1, h, w), 2.0, dtype=torch.float64)
    wrong = plane.clone()
    wrong[..., 8:14, 10:18] = 3.0  # the target over-estimates here, its neighbours do not
    failed = inconsistent(wrong, plane.repeat(2, 1, 1, 1, 1), K, poses)[0, 0]
    assert failed[8:14, 10:18].all()
    assert not failed[:, 2:-2].logical_xor(wrong[0, 0, :, 2:-2] > 2.5).any()


def test_the_signed_rule_takes_the_mesh_only_where_it_is_nearer():
    pred, proj = np.array([[3.0, 3.0, 2.0, 3.0]]), np.array([[2.0, 2.0, 3.0, 0.0]])
    uncertainty = np.array([[0.5, 0.3, 0.5, 0.5]])
    seen = LabelInputs(pred, proj, uncertainty=uncertainty, threshold_m=0.4)
    assert make_label("signed", seen).tolist() == [[2.0, 3.0, 2.0, 3.0]]
    assert make_label("uncer", seen).tolist() == [[2.0, 3.0, 3.0, 3.0]]


def test_labels_are_named_by_rule_and_uncertainty():
    assert find_strategy("uncer").uncertainty == "ensemble"
    assert find_strategy("signed-tta").uncertainty == "tta"
    assert find_strategy("signed-tta").use_proj is STRATEGIES["signed"].use_proj
    with pytest.raises(ConfigError, match="Did you mean 'uncer-tta'"):
        find_strategy("uncer-ttta")
    with pytest.raises(ConfigError, match="unknown label strategy"):
        find_strategy("pred-tta")  # looks at no uncertainty


def test_a_student_of_small_images_is_trained_at_a_third_of_the_side():
    lowres = find_strategy("proj_lowres")
    assert lowres.training_size((288, 384)) == (96, 128)  # the paper's
    assert lowres.training_size((96, 128)) == (64, 64)  # the smallest that the networks take
    assert find_strategy("proj").training_size((288, 384)) == (288, 384)
