"""A result is identified by its settings, data, initial weights, and the results that it needs."""

import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from polished_floor import PolishedFloor

from d3d.datasets import Dataset, Scene
from d3d.errors import ConfigError, DataError, RunError
from d3d.io import read_json
from d3d.pipeline import graph, scenes, stages
from d3d.pipeline.config import describe, make_config
from d3d.pipeline.graph import Key
from d3d.pipeline.stages import identity_of, scores

pytest.importorskip("open3d")


def floor(name="floor", frames=12, **more):
    """A polished floor as a scene of its own name; ``K=None`` has no intrinsics, ``depth=False`` no ground truth."""

    class Floor(PolishedFloor):
        def _read_K(self, i):
            return super()._read_K(i) if more.get("K", True) is True else more["K"]

    scene = Floor(frames)
    scene.name, scene.has_depth = name, more.get("depth", True)
    return scene


@pytest.fixture
def data(monkeypatch):
    """Set the data set that every run reads. Its frames count as verified."""

    def use(**splits):
        made = {split: (lambda found=found: list(found)) for split, found in splits.items()}
        found = Dataset("floors", made, verified=True)
        monkeypatch.setattr(scenes, "dataset", lambda config: found)
        return found

    return use


@pytest.fixture
def config(tmp_path):
    return make_config(profile="smoke", runs_dir=str(tmp_path), run="r", labels="diff")


def finish(config, *key):
    with graph.open_stage(config, Key(*key)) as stage:
        stage.finish({"artefact": "made"})
    return stage.folder


def test_fifty_scenes_are_not_taken_for_all_of_them(data, config):
    data(train=[floor("a")])
    finish(config, "pretrain", "monodepth2")
    data(train=[floor("a"), floor("b")])
    assert not stages.is_finished(config, "pretrain", "monodepth2")
    with pytest.raises(
        RunError, match=r"(?s)monodepth2 holds another result:\n  data\.scenes: 1 there, 2 now.*Give this run"
    ):
        stages.pretrain(config)
    # the same data again: the result is there
    data(train=[floor("a")])
    assert stages.pretrain(config).name == "monodepth2"


@pytest.mark.parametrize(
    "changed",
    [{"frames": 11}, {"K": np.array([[81.0, 0, 47.5], [0, 80, 31.5], [0, 0, 1]])}, {"moved": 0.001}],
)
def test_other_frames_poses_or_intrinsics_are_other_data(data, config, changed):
    data(train=[floor()])
    before = stages.identity_of(config, "pretrain", "monodepth2")
    scene = floor(**{k: v for k, v in changed.items() if k != "moved"})
    scene.world_T_cams[3, 0, 3] += changed.get("moved", 0)
    data(train=[scene])
    assert stages.identity_of(config, "pretrain", "monodepth2") != before


def test_scores_of_a_part_of_a_split_are_not_those_of_the_whole(data, config):
    data(train=[floor()], val=[floor("a")])
    finish(config, "pretrain", "monodepth2")
    finish(config, "evaluate", "monodepth2")
    assert stages.is_finished(config, "evaluate", "monodepth2")
    data(train=[floor()], val=[floor("a"), floor("b")])
    assert not stages.is_finished(config, "evaluate", "monodepth2")
    with pytest.raises(RunError, match=r"data\.frames: 4 there, 8 now"):
        stages.evaluate(config, "monodepth2")


def test_a_base_that_predicted_other_frames_is_not_taken(data, config):
    """Frames that are integrated but are not targets, as in a capture whose frames are far apart."""
    sparse = PolishedFloor(40)
    sparse.world_T_cams[20:, 2, 3] += 3.0 * np.arange(20)  # no triple among these
    data(train=[sparse])
    config = replace(config, fusion=replace(config.fusion, integrate_every=10))
    finish(config, "pretrain", "monodepth2")
    first = finish(config, "predict", "monodepth2")
    denser = replace(config, run="denser", base="r", fusion=replace(config.fusion, integrate_every=2))
    assert stages.stage_folder(denser, "pretrain", "monodepth2").parent.parent.name == "r"
    assert stages.stage_folder(denser, "predict", "monodepth2") != first
    same = replace(config, run="same", base="r", fusion=replace(config.fusion, voxel_m=0.1))
    assert stages.stage_folder(same, "predict", "monodepth2") == first


def test_a_finished_result_is_not_taken_without_its_data(data, config, monkeypatch):
    data(train=[floor()])
    finish(config, "pretrain", "monodepth2")

    def gone(config):
        raise DataError("there is no folder /data")

    monkeypatch.setattr(scenes, "dataset", gone)
    with pytest.raises(DataError, match="no folder"):
        stages.pretrain(config)


def test_weights_that_fail_are_an_error_after_a_random_start_too(data, config, tmp_path):
    """A typo in --weights must not take the finished network that started from random values."""
    data(train=[floor()])
    finish(config, "pretrain", "monodepth2")
    (tmp_path / "cut.pth").write_bytes(b"PK\x03\x04")
    for weights, error, message in (
        (tmp_path / "missing.pth", DataError, "missing.pth"),
        (tmp_path / "cut.pth", DataError, "cut.pth"),
        ("monodepht2=file.pth", ConfigError, "Did you mean 'monodepth2'"),
    ):
        with pytest.raises(error, match=message):
            stages.pretrain(
                make_config(profile="smoke", runs_dir=config.runs_dir, run="r", weights=str(weights))
            )


def test_weights_that_fit_another_network_are_said(config, tmp_path, capsys):
    from d3d.models import create_model, save_weights

    path = save_weights(create_model("monovit", pretrained=False), tmp_path / "monovit.safetensors")
    given = make_config(profile="smoke", weights=str(path))
    assert stages.identity_of(given, "pretrain", "monodepth2")["initial"]["source"] == "random"
    said = capsys.readouterr().out
    assert "monovit.safetensors" in said
    assert "monodepth2 starts from random values" in said


def test_a_base_that_is_not_there_is_named(data, config):
    data(train=[floor()])
    finish(config, "pretrain", "monodepth2")
    with pytest.raises(ConfigError, match=r"unknown run as base 'rr'\. Did you mean 'r'"):
        stages.pretrain(replace(config, run="other", base="rr"))


def test_a_change_of_data_is_told_once(data, config):
    data(train=[floor()])
    for arch in ("monodepth2", "hrdepth", "monovit"):
        finish(config, "pretrain", arch)
        finish(config, "predict", arch)
    finish(config, "uncertainty", "", "ensemble")
    data(train=[floor(frames=13)])
    with pytest.raises(RunError) as refused:
        stages.uncertainty(config)
    assert str(refused.value).count("data.triples") == 1


def test_other_scores_in_the_runs_folder_are_refused_by_tables(data, config):
    from d3d import tables

    data(train=[floor()], val=[floor("a")])
    finish(config, "pretrain", "monodepth2")
    finish(config, "evaluate", "monodepth2")
    data(train=[floor()], val=[floor("a"), floor("b")])
    with pytest.raises(RunError, match=r"data\.frames: 4 there, 8 now"):
        tables.run_table(config)


def test_initial_weights_are_part_of_the_identity_by_content(config, tmp_path):
    from d3d.models import create_model, save_weights

    def started_from(name, depth_m):
        path = tmp_path / name
        save_weights(create_model("monodepth2", pretrained=False, init_depth_m=depth_m), path)
        with_file = make_config(profile="smoke", runs_dir=config.runs_dir, weights=str(path))
        return stages.identity_of(with_file, "pretrain", "monodepth2")["initial"]

    import torch

    torch.manual_seed(0)
    first = started_from("a.safetensors", 2.0)
    (tmp_path / "b.safetensors").write_bytes((tmp_path / "a.safetensors").read_bytes())
    copied = make_config(profile="smoke", weights=str(tmp_path / "b.safetensors"))
    assert stages.identity_of(copied, "pretrain", "monodepth2")["initial"] == first
    assert len(first["sha256"]) == 64
    assert str(tmp_path) not in json.dumps(first)
    assert started_from("c.safetensors", 3.0) != first
    random = stages.identity_of(config, "pretrain", "monodepth2")["initial"]
    assert random == {"source": "random", "sha256": None}


def test_one_folder_of_weights_serves_three_networks(config, tmp_path):
    from d3d.models import create_model, save_weights
    from d3d.pipeline.config import ENSEMBLE

    for arch in ENSEMBLE:
        save_weights(create_model(arch, pretrained=False), tmp_path / f"{arch}.safetensors")
    given = make_config(profile="smoke", weights=str(tmp_path))
    found = [stages.identity_of(given, "pretrain", arch)["initial"]["sha256"] for arch in ENSEMBLE]
    assert len(set(found)) == 3
    assert None not in found


def test_profile_paper_does_not_train_from_random_values_unasked(data, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    data(train=[PolishedFloor(40)])
    paper = make_config(profile="paper", runs_dir=str(tmp_path), every=1)
    with pytest.raises(ConfigError, match=r"ImageNet.*--weights"):
        stages.pretrain(paper, "monodepth2")
    unasked = make_config(profile="paper", runs_dir=str(tmp_path), every=1, pretrained=False)
    assert stages.identity_of(unasked, "pretrain", "monodepth2")["initial"]["source"] == "random"


def test_a_split_without_depth_is_refused_before_anything_is_trained(data, config, monkeypatch):
    data(train=[floor()], val=[floor("a", depth=False)])
    with pytest.raises(DataError, match="has no ground-truth depth"):
        stages.evaluate(config, "monodepth2", "diff")
    with pytest.raises(DataError, match="has no ground-truth depth"):
        stages.train_all(config)
    assert not (stages.folder_of(config)).exists()


def test_missing_intrinsics_are_found_before_anything_is_trained(data, config):
    data(train=[floor(K=None)])
    with pytest.raises(DataError, match="no intrinsics K"):
        stages.pretrain(config)
    assert not (stages.folder_of(config)).exists()


def test_a_base_cannot_lie_elsewhere():
    with pytest.raises(ConfigError, match=r"base = '\.\./\.\./etc' must be a plain folder name"):
        make_config(base="../../etc")


def test_a_threshold_quantile_is_described_as_such():
    said = describe(make_config(profile="demo", threshold_quantile=0.7))
    assert "quantile 0.7" in said
    assert "0.15 m" not in said


def test_a_runs_table_knows_that_a_list_alone_is_a_part_of_its_split(data, config, tmp_path, monkeypatch):
    from d3d.tables import from_runs

    data(train=[floor()], val=[floor("a")])
    (tmp_path / "val_Key.txt").write_text("a 003\n")
    listed = replace(config.evaluation, keyframes=str(tmp_path / "val_Key.txt"))
    of = []
    for evaluation in (config.evaluation, listed):
        asked = replace(config, evaluation=evaluation)
        finish(asked, "pretrain", "monodepth2")
        monkeypatch.setattr(from_runs.stages, "evaluate", lambda *a: pd.DataFrame({"pixels": ["all"]}))
        monkeypatch.setattr(from_runs, "table", lambda results, **about: of.append(about) or pd.DataFrame())
        monkeypatch.setattr(from_runs, "to_markdown", lambda table: "")
        from_runs.run_table(asked, [("monodepth2", "")])
    assert [about["provenance"]["evaluation"]["in_part"] for about in of] == [False, True]


def test_only_the_splits_own_frames_count_for_it(data, config, monkeypatch):
    """A prepared folder holds the frames of the user's lists besides every Nth frame of the split."""
    found = data(train=[floor()], val=[floor("a")])
    monkeypatch.setattr(found, "prepared", {"eval_every": 6})
    finish(config, "pretrain", "monodepth2")
    flat = np.full((64, 96), 2.0, np.float32)
    monkeypatch.setattr(scores, "saved", lambda *a: ("weights", "sha256"))
    monkeypatch.setattr(scores, "map_scenes", lambda *a, **k: None)
    monkeypatch.setattr(scores.DepthStore, "read_of", lambda self, scene, i: flat)
    per_image = stages.evaluate(config, "monodepth2")
    every = per_image[per_image["pixels"] == "all"]
    assert list(every["frame"][every["in_split"]]) == ["000", "006"]
    assert list(every["frame"]) == ["000", "003", "006", "009"]


def test_a_run_folder_below_a_file_is_one_clear_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match="a part of this path is a file"):
        stages.pretrain(make_config(profile="smoke", runs_dir=str(tmp_path / "file")))


def test_a_folder_of_an_earlier_version_is_refused_by_name(data, config):
    data(train=[floor()])
    folder = finish(config, "pretrain", "monodepth2")
    (folder / "config.json").write_text(json.dumps({"config": {"arch": "monodepth2"}, "inputs": {}}))
    with pytest.raises(RunError, match=r"lacks identity|earlier version"):
        stages.pretrain(config)
    assert read_json(folder / "DONE")["outputs"] == {"artefact": "made"}


def test_every_scene_can_be_identified():
    assert len(Scene.digest(PolishedFloor(3))) == 64


def test_the_loss_of_a_pretraining_is_part_of_its_identity_except_the_papers(data, config, tmp_path):
    data(train=[floor()], val=[floor()])

    def settings(stage, labels="", **more):
        other = make_config(profile="smoke", runs_dir=str(tmp_path), run="r", **more)
        return identity_of(other, stage, "monodepth2", labels)

    plain = settings("pretrain")
    assert not {"loss", "triplet_margin"} & plain["settings"]["training"].keys()
    assert settings("pretrain", loss="photometric") == plain
    triplet = settings("pretrain", loss="triplet")["settings"]["training"]
    assert triplet == plain["settings"]["training"] | {"loss": "triplet", "triplet_margin": 0.0}
    assert (
        settings("pretrain", loss="triplet", triplet_margin=1.0)["settings"]["training"]["triplet_margin"]
        == 1
    )
    # a student has no photometric loss: its own settings stay, its teacher's change
    students = [settings("distill", "diff"), settings("distill", "diff", loss="triplet")]
    assert students[0]["settings"] == students[1]["settings"]
    assert students[0]["needs"] != students[1]["needs"]
