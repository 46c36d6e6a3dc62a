"""Variety "wide" of the generator: other cameras and rooms, with the same guarantees as the rooms that ship."""

from __future__ import annotations

import dataclasses
import json
import zipfile
from dataclasses import asdict

import numpy as np
import pytest
from test_glossyrooms_claims import disagreement

from d3d.datasets import find_triples, open_dataset
from d3d.errors import ConfigError
from glossyrooms import camera, make, render, rooms, truth, wide
from glossyrooms.archive import write_manifest
from glossyrooms.mesh import GLOSSY, LIGHT, MATT
from glossyrooms.mitsuba_setup import load_mitsuba

SIZE = {"frames": 20, "height": 48, "width": 64}


def job(out, index=0, split="train", **settings) -> make.Job:
    s = make.Settings(**{**SIZE, "variety": "wide", **settings})
    return make.Job(split, index, str(out), s, True, "auto")


@pytest.fixture(scope="module")
def small_set(tmp_path_factory):
    """Two wide rooms with depth, coarsely lit."""
    root = tmp_path_factory.mktemp("wide")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(render, "DIRECT_SAMPLES", 8)
        patch.setattr(render, "GATHER_RAYS", 4)
        for index in range(2):
            make.make_room(job(root / "set", index))
        make.make_room(job(root / "again", 0))
    write_manifest(root / "set", "make", {})
    return root


def test_the_settings_of_the_rooms_that_ship_name_no_variety():
    shipped = open_dataset("glossyrooms").scenes("val")[0].spec["settings"]
    assert make.Settings().stated() == shipped
    assert make.Settings(variety="wide").stated() == {**shipped, "variety": "wide"}


def test_a_candidate_of_the_usual_variety_has_the_usual_camera():
    room, poses, intrinsics = make.candidate(3, "glossy", 12)
    np.testing.assert_array_equal(poses, camera.walk(3, 12, room.focus, room.radius))
    np.testing.assert_array_equal(intrinsics((48, 64)), camera.intrinsics((48, 64)))


def test_wide_cameras_give_triples_and_differ():
    heights, pitches, fields = [], [], []
    for seed in range(40):
        size = wide.plan(seed).size
        poses = wide.walk(seed, 20, size)
        assert poses.shape == (20, 4, 4)
        np.testing.assert_array_equal(poses, wide.walk(seed, 20, size))
        np.testing.assert_allclose(np.linalg.det(poses[:, :3, :3]), 1, atol=1e-9)
        # all frames except the ends of each take
        assert len(find_triples(poses, every=1)) == 20 - 2 * len(wide.takes(20))
        position = poses[:, :3, 3]
        assert (position > 0).all()
        assert (position < size).all()
        heights += list(position[:, 2])
        pitches += list(np.rad2deg(np.arcsin(-poses[:, 2, 2])))
        fields.append(wide.fov_x_deg(seed))
    for values, low, high in ((heights, 1.0, 1.7), (pitches, 3, 35), (fields, 52, 78)):
        assert min(values) < low
        assert max(values) > high


def test_every_kind_of_room_is_built_and_follows_from_its_seed():
    seeds = {wide.plan(seed).kind: seed for seed in range(60)}
    assert seeds.keys() == wide.KINDS.keys()
    for kind, seed in seeds.items():
        room, again = (rooms.build(seed, "glossy", "wide") for _ in range(2))
        np.testing.assert_array_equal(room.geometry.vertices, again.geometry.vertices)
        assert room.spec == again.spec
        assert room.spec["kind"] == kind
        assert room.size == pytest.approx(wide.plan(seed).size)
        low, high = np.min(room.geometry.vertices, axis=0), np.max(room.geometry.vertices, axis=0)
        assert (low > -0.2).all()  # windows lie in the walls
        assert (high < np.array(room.size) + 0.2).all()
        assert {MATT, GLOSSY, LIGHT} <= {m.kind for m in room.geometry.materials}
        assert ("hob" in {m.name for m in room.geometry.materials}) == (kind == "kitchen")


def test_wide_rooms_have_their_own_intrinsics_and_depth_that_fits_the_poses(small_set):
    scenes = open_dataset("glossyrooms", small_set / "set").scenes("train")
    assert scenes[0].K(0)[0, 0] != scenes[1].K(0)[0, 0]
    for scene in scenes:
        fov = wide.fov_x_deg(scene.seed)
        np.testing.assert_allclose(scene.K(0), camera.intrinsics((48, 64), fov), atol=1e-9)
        t, s, _ = find_triples(scene.world_T_cams, every=1).indices[3]
        assert np.isfinite(apart := disagreement(scene, t, s)).mean() > 0.1
        assert np.nanmedian(np.abs(apart)) < 0.004
        scene.world_T_cams[s, :3, 3] += 0.02 * scene.world_T_cams[s, :3, 2]  # the measure sees a wrong pose
        assert np.nanmedian(np.abs(disagreement(scene, t, s))) > 0.01


def test_the_same_wide_room_is_the_same_bytes_and_no_usual_room(small_set, monkeypatch):
    first, again = job(small_set / "set"), job(small_set / "again")
    assert first.path.read_bytes() == again.path.read_bytes()
    assert make.is_done(first)
    with pytest.raises(ConfigError, match="variety is 'wide', not ''"):
        make.is_done(job(small_set / "set", variety=""))


def test_the_truth_of_a_wide_room_can_be_made_again(small_set):
    path = small_set / "set" / "train" / "train-0000.zip"
    with zipfile.ZipFile(path) as archive:
        scene = json.loads(archive.read("scene.json"))
    maps = truth.truth(load_mitsuba(threads=1), scene, path.name)
    stored = open_dataset("glossyrooms", small_set / "set").scenes("train")[0]
    for i in (0, 19):
        assert (np.abs(maps["depths"][i] - stored.depth(i)) < 2e-3).mean() > 0.999


def test_photographs_differ_between_cameras_and_frames_and_nothing_else():
    exposed = np.random.default_rng(0).uniform(0, 1.5, (24, 32, 3))
    neutral = wide.Photograph(0, (1, 1, 1), 0, 1, 0, 0, 0, 90)
    assert np.abs(neutral(exposed, 0).astype(int) - render.develop(exposed)).max() <= 1
    drawn = wide.photograph(5)
    assert drawn == wide.photograph(5) != wide.photograph(6)
    assert 60 <= drawn.jpeg_quality <= 92
    one, two = drawn(exposed, 0).astype(int), drawn(exposed, 1).astype(int)
    np.testing.assert_array_equal(one, drawn(exposed, 0))
    assert 0 < np.abs(one - two).mean() < 12  # noise
    quiet = dataclasses.replace(drawn, noise=0.0)
    np.testing.assert_array_equal(quiet(exposed, 0), quiet(exposed, 1))
    for change in (
        {"gain": (2, 2, 2)},
        {"contrast": 0.5},
        {"saturation": 0.3},
        {"vignette": 0.4},
        {"blur_px": 1},
    ):
        settings = {**asdict(neutral), **change}
        assert np.abs(wide.Photograph(**settings)(exposed, 0).astype(int) - neutral(exposed, 0)).mean() > 1


def test_an_unknown_variety_is_a_wrong_command_line(capsys):
    with pytest.raises(SystemExit):
        make.main(["--variety", "wild"])
    assert "wild" in capsys.readouterr().err
