"""Captures: each format gives the poses, intrinsics, images and depth that it was written from."""

import numpy as np
import pytest
from capture_writer import Room, colmap_text, pose_list, transforms

from d3d.datasets import open_dataset
from d3d.errors import ConfigError, DataError
from d3d.pipeline.config import make_config

pytest.importorskip("pycolmap")


@pytest.fixture(scope="module")
def room():
    return Room(24)


def opened(root, **options):
    return open_dataset("capture", root, **options).scenes("all")[0]


def assert_is(scene, room, depth=False):
    """Every frame of a scene equals that of the room: pose, intrinsics, pixels, depth."""
    assert list(scene.frame_ids) == room.names
    assert scene.size_hw == room.size_hw
    np.testing.assert_allclose(scene.world_T_cams, room.poses, atol=1e-6)
    np.testing.assert_allclose(scene.intrinsics(), np.repeat(room.K[None], len(room), 0), atol=1e-9)
    for i in (0, 7, len(room) - 1):
        np.testing.assert_array_equal(scene.image(i), room.image(i))
        if depth:
            np.testing.assert_array_equal(scene.depth(i), room.depth(i))
    assert scene.has_depth == depth


def test_colmap_text(room, tmp_path):
    scene = opened(colmap_text(room, tmp_path, unit=0.37), metres_per_unit=0.37)
    assert_is(scene, room)
    assert not scene.relative


def test_transforms(room, tmp_path):
    assert_is(opened(transforms(room, tmp_path, unit=3.0), metres_per_unit=3.0), room)


def test_pose_list(room, tmp_path):
    assert_is(opened(pose_list(room, tmp_path)), room, depth=True)


def test_unknown_scale_is_relative(room, tmp_path):
    found = open_dataset("capture", colmap_text(room, tmp_path, unit=0.37))
    (scene,) = found.scenes("train")
    assert found.unit == "relative units"
    assert np.nanmedian(scene.point_depths()) == pytest.approx(2.5)
    # the same up to one factor
    ratio = scene.world_T_cams[1:, :3, 3] - scene.world_T_cams[0, :3, 3]
    ratio = ratio / (room.poses[1:, :3, 3] - room.poses[0, :3, 3])
    np.testing.assert_allclose(ratio, ratio[0, 0], rtol=1e-4)


def test_bounds_are_chosen_and_recorded(room, tmp_path, capsys):
    root = str(pose_list(room, tmp_path))
    config = make_config(profile="smoke", dataset="capture", root=root)
    low, high = config.data.translation_m
    depth = np.median([np.median(room.depth(i)) for i in range(len(room))])
    assert low == pytest.approx(0.02 * depth, rel=0.1)
    assert high == pytest.approx(0.08 * depth, rel=0.1)
    assert config.data.identity()["translation_m"] == (low, high)
    assert "bounds chosen for a median depth" in capsys.readouterr().out
    given = make_config(profile="smoke", dataset="capture", root=root, max_translation_m=0.5, max_depth_m=7.0)
    assert given.data.translation_m == (low, 0.5)
    assert given.data.max_depth == 7.0
    assert make_config(dataset="capture", root=root, bounds="paper").data.translation_m == (0.05, 0.10)


def test_the_papers_bounds_stay_those_of_other_data_sets():
    """The identity of a run made before the bounds were parameters."""
    assert make_config(profile="paper").data.identity() == {
        "dataset": "glossyrooms",
        "height": 288,
        "width": 384,
        "every": 10,
        "translation_m": (0.05, 0.10),
        "max_rotation_deg": 3.0,
        "min_depth": 0.1,
        "max_depth": 10.0,
        "options": {},
    }


def test_bounds_in_the_wrong_order():
    with pytest.raises(ConfigError, match=r"min_translation_m = 0\.2 and max_translation_m = 0\.1"):
        make_config(min_translation_m=0.2)


def test_options_of_captures_are_refused_elsewhere():
    with pytest.raises(ConfigError, match="axes: only for --dataset capture"):
        make_config(axes="opengl")


def test_a_distance_gives_the_scale(room, tmp_path):
    root = transforms(room, tmp_path, unit=0.2)
    metres = float(np.linalg.norm(room.poses[3, :3, 3] - room.poses[20, :3, 3]))
    assert_is(opened(root, distance=("0003", "0020", metres)), room)
    with pytest.raises(DataError, match="no frame 'x' has a pose"):
        opened(root, distance=("0003", "x", 1.0))
    with pytest.raises(ConfigError, match="metres_per_unit and distance: set one"):
        opened(root, distance=("0003", "0020", metres), metres_per_unit=1.0)
