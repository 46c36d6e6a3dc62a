"""Depth and masks added to rooms that ship without them: for a room that ships with them, the same maps."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

import numpy as np
import pytest

from d3d.datasets import open_dataset
from d3d.errors import ConfigError, DataError
from d3d.pipeline.runs import project_root
from glossyrooms import truth
from glossyrooms.archive import write_manifest
from glossyrooms.mitsuba_setup import load_mitsuba

SHIPPED = project_root() / "data" / "glossyrooms"


def members(path: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


@pytest.fixture
def bare(tmp_path) -> Path:
    """A set of one room without depth; the same room ships with depth."""
    found = members(SHIPPED / "train" / "train-0006.zip")
    scene = json.loads(found["scene.json"])
    scene["spec"]["with_depth"] = False
    path = tmp_path / "bare" / "train" / "train-0006.zip"
    path.parent.mkdir(parents=True)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("scene.json", json.dumps(scene))
        for name, content in found.items():
            if name.startswith("color/"):
                archive.writestr(name, content)
    write_manifest(tmp_path / "bare", "python -m glossyrooms.make", {})
    return tmp_path / "bare"


def test_a_room_that_ships_with_its_truth_comes_out_the_same(bare, tmp_path, capsys):
    """Compares maps, not bytes: the ray tracer compiles for the CPU at hand, and its last bits differ between CPUs."""
    assert not open_dataset("glossyrooms", bare).scenes("train")[0].has_depth
    out = tmp_path / "out"
    assert truth.main(["--root", str(bare), "--out", str(out)]) == 0
    assert "1 rooms with depth and masks" in capsys.readouterr().out
    made, shipped = (members(root / "train" / "train-0006.zip") for root in (out, SHIPPED))
    assert sorted(made) == sorted(shipped)
    assert all(made[name] == shipped[name] for name in shipped if name.startswith("color/"))
    ours, theirs = (open_dataset("glossyrooms", root).scenes("train") for root in (out, SHIPPED))
    ours, theirs = ours[0], next(scene for scene in theirs if scene.name == ours[0].name)
    np.testing.assert_array_equal(ours.world_T_cams, theirs.world_T_cams)
    for i in range(len(theirs)):
        assert (np.abs(ours.depth(i) - theirs.depth(i)) < 2e-3).mean() > 0.999
        assert (np.abs(ours.virtual_depth(i) - theirs.virtual_depth(i)) < 5e-3).mean() > 0.999
        assert (ours.material(i) == theirs.material(i)).mean() > 0.999
        assert (ours.highlight_mask(i) == theirs.highlight_mask(i)).mean() > 0.999


def test_what_is_there_stays_and_a_set_is_not_its_own_copy(bare, tmp_path):
    out = tmp_path / "out"
    there = out / "train" / "train-0006.zip"
    there.parent.mkdir(parents=True)
    there.write_bytes((SHIPPED / "train" / "train-0006.zip").read_bytes())
    before = there.stat().st_mtime_ns
    truth.complete(bare, out)
    assert there.stat().st_mtime_ns == before
    with pytest.raises(ConfigError, match="is the set itself"):
        truth.complete(bare, bare)
    with pytest.raises(ConfigError, match="holds no GlossyRooms"):
        truth.complete(tmp_path / "nothing", out)


def test_a_damaged_room_is_not_taken_for_a_good_one(bare, tmp_path):
    path = bare / "train" / "train-0006.zip"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"train-0006\.zip has another sha256"):
        truth.complete(bare, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_manifest_cannot_make_it_write_outside_of_its_folder(bare, tmp_path):
    path = bare / "manifest.json"
    manifest = json.loads(path.read_text())
    manifest["rooms"][0]["file"] = "../../elsewhere.zip"
    path.write_text(json.dumps(manifest))
    with pytest.raises(DataError, match=r"'\.\./\.\./elsewhere\.zip' is no room's archive"):
        truth.complete(bare, tmp_path / "a" / "b")
    assert not list(tmp_path.rglob("elsewhere.zip"))


@pytest.mark.parametrize("change", ["pose", "share"])
def test_another_room_than_that_of_the_images_is_refused(bare, change):
    scene = json.loads(members(bare / "train" / "train-0006.zip")["scene.json"])
    keep = 3  # frames: geometry takes a while
    scene["frame_ids"] = scene["frame_ids"][:keep]
    poses = np.array(scene["world_T_cam"])[:keep]
    shares = np.array(scene["shares"]["highlight"])[:keep]
    if change == "pose":
        poses[1, 0, 3] += 0.01
    else:
        shares[2] += 1e-3
    scene["world_T_cam"], scene["shares"]["highlight"] = poses.tolist(), shares.tolist()
    with pytest.raises(DataError, match="room x: this version makes another room of seed"):
        truth.truth(load_mitsuba(), scene, "room x")
