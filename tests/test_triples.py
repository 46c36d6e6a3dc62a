"""`find_triples` against a slow, direct implementation of its rule, and its counts of dropped targets."""

from __future__ import annotations

import time
import tracemalloc

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from d3d.datasets import Triples, find_triples, open_dataset
from d3d.errors import ConfigError, DataError


def make_path(step_m, turn_deg=0.0, n=40):
    """Poses that move along x by step_m (a number or n - 1 of them) and turn about y; (n, 4, 4)."""
    poses = np.tile(np.eye(4), (n, 1, 1))
    poses[1:, 0, 3] = np.cumsum(np.broadcast_to(step_m, n - 1))
    angles = np.append(0, np.cumsum(np.broadcast_to(turn_deg, n - 1)))
    poses[:, :3, :3] = Rotation.from_euler("y", angles[:, None], degrees=True).as_matrix()
    return poses


def random_walk(seed, n=150):
    rng = np.random.default_rng(seed)
    speed = (
        np.abs(np.cumsum(rng.normal(0, 0.012, (n, 3)), axis=0))
        * rng.choice([0.1, 1, 2], (n, 1))
        * (1, 0.1)[seed % 2]
    )
    poses = np.tile(np.eye(4), (n, 1, 1))
    poses[:, :3, 3] = np.cumsum(speed * rng.choice([-1, 1], (n, 3)), axis=0)
    poses[:, :3, :3] = Rotation.from_rotvec(np.cumsum(rng.normal(0, 0.012, (n, 3)), axis=0)).as_matrix()
    return poses


def direct(poses, every, low, high, max_deg, max_gap=None):
    """The rule as a slow loop over targets and frames."""
    found = []
    for t in range(0, len(poses), every):
        sources = []
        for direction in (-1, 1):
            s = t + direction
            while 0 <= s < len(poses) and (max_gap is None or abs(s - t) <= max_gap):
                relative = np.linalg.inv(poses[s]) @ poses[t]
                angle = np.rad2deg(Rotation.from_matrix(relative[:3, :3]).magnitude())
                if low <= np.linalg.norm(relative[:3, 3]) <= high and angle <= max_deg:
                    sources.append(s)
                    break
                s += direction
        if len(sources) == 2:
            found.append([t, *sources])
    return found


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize(("every", "max_gap"), [(1, None), (10, None), (3, 7), (1, 40)])
def test_equals_the_direct_rule(seed, every, max_gap):
    poses = random_walk(seed)
    triples = find_triples(poses, every, (0.05, 0.12), 4.0, max_gap)
    assert triples.indices.tolist() == direct(poses, every, 0.05, 0.12, 4.0, max_gap)
    assert len(triples) + sum(triples.dropped.values()) == triples.targets_tried == len(range(0, 150, every))


def test_the_walks_of_the_comparison_exercise_it():
    found = [find_triples(random_walk(seed), 1, (0.05, 0.12), 4.0) for seed in range(6)]
    assert sum(map(len, found)) > 50
    assert max((t.indices[:, 2] - t.indices[:, 0]).max() for t in found if len(t)) > 33, (
        "past one step of gaps"
    )


def test_nearest_in_time_wins_and_order_is_target_backward_forward():
    triples = find_triples(make_path(0.03), every=10)
    # 3 cm a frame: two frames are 6 cm; frame 0 has none before it
    assert triples.indices.tolist() == [[10, 8, 12], [20, 18, 22], [30, 28, 32]]
    assert triples.indices.dtype == np.int64
    assert triples.dropped == {"no source backwards: no frame there": 1}


def test_bounds_are_inclusive_and_rotation_counts():
    assert len(find_triples(make_path(0.0625, n=9), every=1, translation_m=(0.0625, 0.0625 + 1e-9))) == 7
    assert len(find_triples(make_path(0.07, 2.999, n=9), every=1)) == 7
    assert len(find_triples(make_path(0.07, 3.001, n=9), every=1)) == 0


def test_a_rotation_that_is_slightly_off_orthonormal_counts_as_what_it_is():
    """Poses have 4 digits. An angle computed from the trace would be wrong by a degree."""
    poses = make_path(0.07, 2.5, n=9)
    poses[:, :3, :3] *= 1 - 3e-4
    assert len(find_triples(poses, every=1)) == 7
    poses = make_path(0.07, 3.2, n=9)
    poses[:, :3, :3] *= 1 + 3e-4
    assert len(find_triples(poses, every=1)) == 0


@pytest.mark.parametrize(
    ("poses", "expected"),
    [
        (make_path(0.001, n=20), {"no source on either side: moved too little": 1}),
        (make_path(0.3, n=20), {"no source on either side: moved too far": 1}),
        (make_path(0.07, 5.0, n=20), {"no source on either side: rotated too much": 1}),
        (make_path([0.07] * 10 + [0.001] * 9, n=20), {"no source forwards: moved too little": 1}),
        (make_path([0.3] * 10 + [0.07] * 9, n=20), {"no source backwards: moved too far": 1}),
        (
            make_path([0.07] * 10 + [0.3] * 9, [5.0] * 10 + [0.0] * 9, n=20),
            {"no source on either side: rotated too much | moved too far": 1},
        ),
        (make_path(0.07, n=11), {"no source forwards: no frame there": 1}),
    ],
)
def test_each_target_has_one_reason(poses, expected):
    """The test is about target 10. Target 0 never has a frame before it."""
    triples = find_triples(poses)
    assert len(triples) == 0
    assert triples.targets_tried == 2
    dropped = dict(triples.dropped)
    first = [reason for reason in dropped if "no frame there" in reason and reason not in expected]
    assert len(first) == 1
    assert sum(dropped.pop(reason) for reason in first) == 1
    assert dropped == expected


def test_max_gap():
    poses = make_path(0.01, n=41)
    assert len(find_triples(poses, every=10, max_gap=4)) == 0
    assert find_triples(poses, every=10, max_gap=5).indices.tolist() == [
        [10, 5, 15],
        [20, 15, 25],
        [30, 25, 35],
    ]
    assert find_triples(poses, every=10, max_gap=4).dropped["no source on either side: moved too little"] == 3


def test_require_passes_or_explains():
    some = find_triples(make_path(0.07))
    assert some.require("scene 'a'") is some
    none = find_triples(make_path(0.001))
    with pytest.raises(DataError) as error:
        none.require("scene 'a'")
    message = str(error.value)
    assert "scene 'a': no training triple from 4 target frames" in message
    assert "3 x no source on either side: moved too little" in message
    assert "metres" in message
    with pytest.raises(DataError, match="from 0 target frames"):
        Triples(np.zeros((0, 3), np.int64), 0).require("an empty list")


def test_no_poses_make_no_triples():
    triples = find_triples(np.zeros((0, 4, 4)))
    assert len(triples) == 0
    assert triples.indices.shape == (0, 3)


def test_bad_arguments():
    poses = make_path(0.07)
    for wrong in (
        {"every": 0},
        {"translation_m": (0.1, 0.05)},
        {"translation_m": (-0.1, 0.05)},
        {"max_rotation_deg": 0},
        {"max_gap": 0},
    ):
        with pytest.raises(ConfigError, match="find_triples needs"):
            find_triples(poses, **wrong)
    with pytest.raises(DataError, match=r"shape \(n, 4, 4\)"):
        find_triples(poses[:, :3])
    poses[7] = -np.inf
    with pytest.raises(DataError, match="1 pose is not finite; the first has number 7"):
        find_triples(poses)


def test_thousands_of_frames_in_bounded_time_and_memory():
    """The worst case: no pair qualifies, so every pair is examined (25 million at every=1)."""
    poses = make_path(0.0001, n=5000)
    tracemalloc.start()
    start = time.perf_counter()
    triples = find_triples(poses, every=1, translation_m=(5.0, 6.0))
    seconds = time.perf_counter() - start
    peak_mb = tracemalloc.get_traced_memory()[1] / 2**20
    tracemalloc.stop()
    assert triples.targets_tried == 5000
    assert seconds < 20
    assert peak_mb < 150


def test_counts_on_a_real_sequence(shared_dir):
    if not (shared_dir / "data" / "7scenes").is_dir():
        pytest.skip("needs the 7-Scenes sequence of the development data")
    scene = open_dataset("7scenes", shared_dir / "data" / "7scenes").scenes("test")[0]
    tenth, each = find_triples(scene.world_T_cams), find_triples(scene.world_T_cams, every=1)
    assert (len(tenth), tenth.targets_tried) == (50, 100)
    assert (len(each), each.targets_tried) == (486, 1000)
    assert max(tenth.dropped, key=tenth.dropped.get) == "no source on either side: rotated too much"
