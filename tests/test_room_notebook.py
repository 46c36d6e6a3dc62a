"""The configuration of notebook 11, and the meshes that it shows."""

from __future__ import annotations

import numpy as np
import pytest

from d3d import room
from d3d.errors import ConfigError, DataError
from d3d.pipeline.config import PARAMETERS
from d3d.reconstruction import Mesh
from d3d.room.meshes import read_mesh
from d3d.room.notebook import shipped_capture
from d3d.surface import to_ply

pytest.importorskip("pycolmap")


def test_without_a_root_it_opens_the_capture_that_ships(tmp_path):
    cfg = room.resolve({"profile": "smoke", "runs_dir": str(tmp_path)})
    assert (cfg.profile, cfg.learns, cfg.run) == ("smoke", False, "room-capture-smoke-seed0")
    assert cfg.data.root == str(shipped_capture())
    assert (cfg.data.size_hw, cfg.training("distill", "lite").steps) == ((64, 96), 6)
    assert cfg.labels == "robust"
    assert "lite-distilled" in cfg.pretrain.weights
    assert (tmp_path / cfg.run / "capture" / "pose_check.png").is_file(), "poses are checked first"


def test_profile_and_parameters_of_the_user(tmp_path, monkeypatch):
    given = {"runs_dir": str(tmp_path), "check": False, "metres_per_unit": 0.6}
    ready = room.resolve({**given, "profile": None, "steps": 7, "run": "mine"})
    assert (ready.profile, ready.run, ready.data.size_hw) == ("ready", "mine", (96, 128))
    assert ready.training("pretrain", "lite").steps == 7
    assert ready.evaluation.scale == "none", "with a scale, depth is in metres"
    larger = room.resolve({**given, "height": 192})
    assert larger.data.size_hw == (192, 256)
    other = room.resolve({**given, "arch": "hrdepth"})
    assert "hrdepth-selfsupervised" in other.pretrain.weights, "no student of this network ships"
    own = room.resolve({**given, "weights": "lite=mine.pth"})
    assert own.pretrain.weights == "lite=mine.pth"
    monkeypatch.setenv("D3D_PROFILE", "laptop")
    whole = room.resolve(given)
    assert (whole.profile, whole.data.size_hw, whole.pretrain.weights) == ("room", (192, 256), None)


def test_wrong_parameters_are_errors(tmp_path):
    with pytest.raises(ConfigError, match="Did you mean 'arch'"):
        room.resolve({"archh": "lite"})
    with pytest.raises(ConfigError, match="Did you mean 'smoke'"):
        room.resolve({"profile": "smok"})
    with pytest.raises(ConfigError, match="this notebook opens captures"):
        room.resolve({"dataset": "glossyrooms"})
    with pytest.raises(ConfigError, match="there is no file or folder"):
        room.resolve({"root": str(tmp_path / "nothing")})
    assert "archh" not in PARAMETERS


def test_a_mesh_comes_back_at_the_scale_of_the_scene(tmp_path):
    class Scene:
        metres_per_unit = 0.5

    vertices = np.array([[0.0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 2]])
    triangles = np.array([[0, 1, 2], [0, 1, 3]], np.int32)
    colors = np.arange(12, dtype=np.uint8).reshape(4, 3)
    path = tmp_path / "mesh.ply"
    path.write_bytes(to_ply(Mesh(vertices, triangles, colors), world="the poses"))
    mesh = read_mesh(path, Scene)
    np.testing.assert_allclose(mesh.vertices, vertices / 2)
    np.testing.assert_array_equal(mesh.triangles, triangles)
    np.testing.assert_array_equal(mesh.colors, colors)
    path.write_bytes(b"ply")
    with pytest.raises(DataError, match="is not a mesh"):
        read_mesh(path, Scene)
