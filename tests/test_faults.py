"""Faults of the machine during a run: a full disk, a read-only folder, kill -9 at any moment.

`benchmarks/faults.py` kills each stage many more times.
"""

import errno
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from d3d import io
from d3d.errors import DataError, RunError
from d3d.models import create_model, save_weights
from d3d.pipeline import graph, runs, stages
from d3d.pipeline.config import make_config
from d3d.pipeline.graph import Key
from d3d.prediction import DepthStore

sys.path.insert(0, str(Path(__file__).parents[1]))
from benchmarks import faults


@pytest.fixture
def mount(tmp_path):
    """Mount a file system of a megabyte, or a read-only one, for this test."""
    folder, mounted = tmp_path / "mounted", []
    folder.mkdir()

    def make(*options):
        command = ["mount", "-t", "tmpfs", "-o", ",".join(options), "tmpfs", str(folder)]
        if shutil.which("mount") is None or subprocess.run(command, capture_output=True).returncode:
            pytest.skip("nothing can be mounted here (needs root)")
        mounted.append(folder)
        return folder

    yield make
    for place in mounted:
        subprocess.run(["umount", "-l", str(place)], check=True)


def test_a_full_disk_is_named_and_costs_only_what_was_not_finished(mount):
    folder = mount("size=1m")
    store = DepthStore(folder / "depth")
    noise = np.random.default_rng(0).uniform(0.5, 9, (300, 400))
    store.write_scene("a", [("0", noise)])
    with pytest.raises(RunError, match=r"depth.b cannot be written: the disk is full"):
        store.write_scene("b", ((str(i), noise) for i in range(9)))
    assert store.has("a")
    assert not store.has("b")
    assert [p.name for p in (folder / "depth").iterdir()] == [
        "a"
    ]  # the half is gone, its place is free again
    store.write_scene("c", [("0", noise)])


def test_weights_and_states_on_a_full_disk(mount):
    """torch and safetensors raise their own errors for a full disk."""
    folder = mount("size=1m")
    with pytest.raises(RunError, match=r"w\.safetensors cannot be written: the disk is full"):
        save_weights(create_model("monodepth2", pretrained=False), folder / "w.safetensors")
    assert list(folder.iterdir()) == []
    with (
        pytest.raises(RunError, match=r"state\.pt cannot be written: the disk is full"),
        io.atomic(folder / "state.pt") as t,
    ):
        torch.save({"x": torch.rand(2**20)}, t)
    assert list(folder.iterdir()) == []


def test_a_folder_that_is_read_only_is_named_before_anything_is_computed(mount):
    folder = mount("ro")
    cfg = make_config(profile="smoke", runs_dir=str(folder))
    with pytest.raises(RunError, match=r"cannot be written: it is on a disk that is mounted read-only"):
        stages.pretrain(cfg)


def test_a_file_in_a_folder_that_is_read_only_is_one_clear_error(mount):
    folder = mount("ro")
    said = r"picture\.png cannot be written: .* read-only; name another folder"
    with pytest.raises(RunError, match=said), io.atomic(folder / "picture.png") as temporary:
        temporary.touch()


def test_finished_stages_can_be_read_where_nobody_can_write(tmp_path, monkeypatch):
    cfg = make_config(profile="smoke", runs_dir=str(tmp_path))
    with graph.open_stage(cfg, Key("pretrain", "monodepth2")) as stage:
        stage.finish({"a": "1"})

    def refuse(lock, **kwargs):
        raise PermissionError(errno.EACCES, "Permission denied", lock.lock_file)

    monkeypatch.setattr(runs.FileLock, "acquire", refuse)
    with graph.open_stage(cfg, Key("pretrain", "monodepth2")) as again:
        assert again.outputs == {"a": "1"}
    with pytest.raises(RunError, match="no permission to write there; name another folder"):
        graph.open_stage(cfg, Key("pretrain", "hrdepth")).__enter__()


def test_an_error_of_another_kind_is_left_alone(tmp_path):
    for error in (ValueError("x"), OSError(errno.EIO, "input/output error"), DataError("y")):
        with pytest.raises(type(error)) as raised, io.atomic(tmp_path / "file"):
            raise error
        assert raised.value is error
    elsewhere = PermissionError(errno.EACCES, "Permission denied", "/somewhere/frame.png")
    with pytest.raises(PermissionError), io.atomic(tmp_path / "file"):
        raise elsewhere


def test_the_same_weights_are_the_same_bytes(tmp_path):
    """The library writes metadata in random order, but later stages identify weights by their hash."""
    torch.manual_seed(0)
    model = create_model("monodepth2", pretrained=False)
    hashes = {io.sha256(save_weights(model, tmp_path / f"{i}.safetensors")) for i in range(6)}
    assert len(hashes) == 1


def test_stages_killed_at_random_moments_end_bit_equal(tmp_path):
    """A training and a per-scene stage, two kills each."""
    results = faults.run(tmp_path, ("pretrain", "project"), kills=2, seed=1)
    assert [r.stage for r in results] == ["pretrain", "project"]
    assert all(r.kills >= 2 and r.equal for r in results), results
