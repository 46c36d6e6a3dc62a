"""The chain of stages in a run's folder: computed once, then skipped, refused for other settings; the command line."""

import dataclasses
import hashlib
import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from d3d import prediction, tables
from d3d.cli import main
from d3d.errors import ConfigError, DataError, RunError
from d3d.geometry import nearest_depth
from d3d.models import load_model
from d3d.pipeline import runs, scenes, stages
from d3d.pipeline.config import make_config
from d3d.pipeline.stages import depth, scores, trainings
from d3d.pipeline.stages import labels as label_stages
from d3d.prediction import DepthStore, read_depth, write_depth

pytest.importorskip("open3d")

UNLABELLED = ("pretrain", "predict", "project")


@pytest.fixture(scope="module")
def cfg(tmp_path_factory, trained_run):
    folder = tmp_path_factory.mktemp("runs")
    trained_run(folder, "r")
    return make_config(profile="smoke", runs_dir=str(folder), run="r", labels="diff")


@pytest.fixture(scope="module")
def chain(cfg):
    """Run Monodepth2 through the stages that need no ensemble."""
    stages.distill(cfg, "monodepth2", "diff")
    return stages.evaluate(cfg, "monodepth2", "diff")


def test_every_stage_left_its_artefact_and_provenance(cfg, chain):
    folder = runs.run_folder(cfg)
    for stage in ("pretrain", "predict", "project", "fuse", "distill", "evaluate"):
        (done,) = (folder / stage / "monodepth2").rglob("DONE")
        provenance = json.loads((done.parent / "provenance.json").read_text())
        assert provenance["seed"] == 0
        assert provenance["peak_memory_mb"] > 100
        if stage in ("pretrain", "distill"):
            assert provenance["initial"] == {"source": "random", "sha256": None, "note": ""}
            trained = load_model(done.parent)
            assert trained.train_size == (64, 96)
            np.testing.assert_allclose(
                trained.train_focal_px, (79.885, 71.009), rtol=1e-4
            )  # of 192x144, 159.77
        assert json.loads((done.parent / "config.json").read_text()) == {
            "identity": stages.identity_of(cfg, stage, "monodepth2", "" if stage in UNLABELLED else "diff"),
            "inputs": provenance["inputs"],
        }
    assert not list(folder.rglob("training_state.pt"))
    assert not list(folder.rglob(".*part-*"))
    # the images of the validation room that are evaluated, each on three kinds of pixels
    assert (chain["pixels"] == "all").sum() == 6
    assert set(chain["pixels"]) == {"all", "highlight", "diffuse"}


def test_labels_are_predicted_or_projected_depth_by_their_rule(cfg, chain):
    (scene,) = stages.training_scenes(cfg)
    folder = runs.run_folder(cfg)
    frame = scene.scene.frame_ids[scene.targets[3]]
    pred, proj, label = (
        DepthStore(folder / s).read(scene.scene.name, frame)
        for s in ("predict/monodepth2", "project/monodepth2", "fuse/monodepth2/diff")
    )
    use = (pred - proj > 0.25 * proj) & (proj > 0)
    assert np.array_equal(label, np.where(use, proj, pred))
    assert (proj > 0).mean() > 0.5


def test_an_oracle_looks_at_the_truth_and_refuses_rooms_without_before_anything_is_trained(cfg, chain):
    (training,) = stages.training_scenes(cfg)
    scene, i = training.scene, int(training.targets[3])
    label = stages.fuse(cfg, "monodepth2", "oracle_truth").read_of(scene, i)
    pred = stages.predict(cfg, "monodepth2").read_of(scene, i)
    truth, lit = (nearest_depth(a, pred.shape) for a in (scene.depth(i), scene.highlight_mask(i)))
    assert 0 < lit.mean() < 0.5
    assert np.array_equal(label, np.where(lit & (truth > 0), truth, pred))
    bare = dataclasses.replace(make_config(profile="demo", runs_dir=cfg.runs_dir), run="bare")
    with pytest.raises(
        DataError, match=r"'oracle_proj' need ground truth.*train-0001 has none.*glossyrooms\.truth"
    ):
        stages.distill(bare, "monodepth2", "oracle_proj")
    assert not runs.run_folder(bare).exists()


def test_what_is_done_is_not_computed_again(cfg, chain, monkeypatch):
    def never(*args, **kwargs):
        raise AssertionError("computed again")

    for module, name in ((trainings, "train"), (depth, "map_scenes"), (scores, "map_scenes")):
        monkeypatch.setattr(module, name, never)
    again = stages.evaluate(cfg, "monodepth2", "diff")
    assert again.equals(chain)


def test_tables_have_rows_for_each_list_of_images(cfg, chain, monkeypatch):
    frame = chain["scene"].iloc[0], chain["frame"].iloc[0]
    monkeypatch.setattr(stages.dataset(cfg), "lists", lambda split: {"Reflection": frozenset({frame})})
    table = tables.run_table(cfg)
    assert list(zip(table["list"], table["images"], strict=True)) == [("Val", 6), ("Reflection", 1)]
    assert table["sq_rel"].iloc[1] == chain["sq_rel"].iloc[0]
    folder = runs.run_folder(cfg) / "tables"
    for stem in ("val", "val-highlight", "val-diffuse"):
        assert "Reflection" in (folder / f"{stem}.csv").read_text()
        assert "Reflection" in (folder / f"{stem}.md").read_text()


def test_stored_frames_keep_their_order_and_one_that_cannot_be_stored_leaves_nothing(tmp_path):
    store, ids = DepthStore(tmp_path), [f"{i:03d}" for i in range(2 * prediction.AHEAD + 5)]
    depths = {name: np.full((4, 6), 0.5 + i / 100, np.float32) for i, name in enumerate(ids)}
    store.write_scene("room", depths.items())
    assert store.frames("room") == ids
    for name in ids:
        np.testing.assert_allclose(store.read("room", name), depths[name], atol=5e-4)
    pixels = [np.rint(depths[name] * 1000).astype(np.uint16).tobytes() for name in ids]
    expected = hashlib.sha256(b"".join(hashlib.sha256(p).digest() for p in pixels)).hexdigest()
    assert store.sha256("room") == expected
    with pytest.raises(DataError, match="1 depth values are not finite"):
        store.write_scene("other", [*depths.items(), ("bad", np.array([[1.0, np.nan]]))])
    assert [p.name for p in tmp_path.iterdir()] == ["room"]


def test_the_whole_chain_makes_what_its_table_needs_and_no_more(monkeypatch):
    done = []
    for name in ("pretrain", "distill"):
        monkeypatch.setattr(stages, name, lambda config, *what: done.append(what))
    trainings = stages.train_all(make_config(profile="demo"))
    assert done == [
        ("monodepth2",),
        ("hrdepth",),
        ("monovit",),
        ("monodepth2", "pred"),
        ("monodepth2", "uncer"),
    ]
    assert sorted(trainings) == sorted(
        [(a, "") for a in ("monodepth2", "hrdepth", "monovit")]
        + [("monodepth2", "pred"), ("monodepth2", "uncer")]
    )
    assert len(stages.train_all(make_config(profile="laptop"))) == 9
    assert len(stages.train_all(make_config(profile="laptop"), ("hrdepth",))) == 5


def test_another_configuration_in_the_same_place_is_refused(cfg, chain):
    other = make_config(profile="smoke", runs_dir=cfg.runs_dir, run="r", labels="diff", voxel_m=0.1)
    with pytest.raises(RunError, match=r"fusion.voxel_m: 0.05 there, 0.1 now"):
        stages.distill(other, "monodepth2", "diff")
    other = make_config(profile="smoke", runs_dir=cfg.runs_dir, run="r", learning_rate=1e-3)
    with pytest.raises(RunError, match=r"learning_rate"):
        stages.predict(other, "monodepth2")


def test_an_artefact_made_anew_makes_what_follows_stale(cfg, chain, tmp_path):
    import shutil

    shutil.copytree(runs.run_folder(cfg), tmp_path / "r")
    copy = make_config(profile="smoke", runs_dir=str(tmp_path), run="r", labels="diff")
    done = tmp_path / "r" / "pretrain" / "monodepth2" / "DONE"
    done.write_text(json.dumps({"outputs": {"weights.safetensors": "another"}, "seconds": 1}))
    with pytest.raises(RunError, match="other inputs"):
        stages.predict(copy, "monodepth2")


def test_a_killed_projection_resumes_to_the_same_depth(cfg, chain, tmp_path):
    import shutil

    shutil.copytree(
        runs.run_folder(cfg), tmp_path / "r", ignore=shutil.ignore_patterns("project", "fuse", "distill")
    )
    command = [
        sys.executable,
        "-m",
        "d3d",
        "project",
        "--profile",
        "smoke",
        "--runs-dir",
        str(tmp_path),
        "--run",
        "r",
    ]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        deadline = time.monotonic() + 60
        while not list((tmp_path / "r").glob("project/monodepth2/.*part-*/*.png")) and process.poll() is None:
            assert time.monotonic() < deadline
            time.sleep(0.001)
        os.kill(process.pid, signal.SIGKILL)
    copy = make_config(profile="smoke", runs_dir=str(tmp_path), run="r")
    store = stages.project(copy, "monodepth2")
    (scene,) = stages.training_scenes(copy)
    assert store.sha256(scene.scene.name) == stages.project(cfg, "monodepth2").sha256(scene.scene.name)
    assert not list((tmp_path / "r").rglob(".*part-*"))


def test_stored_depth_is_good_to_half_a_millimetre_and_refuses_nonsense(tmp_path):
    depth = np.random.default_rng(0).uniform(0, 10, (7, 9))
    write_depth(tmp_path / "d.png", depth)
    assert np.abs(read_depth(tmp_path / "d.png") - depth).max() <= 0.000501
    for bad, message in ((np.nan, "not finite"), (-1.0, "does not fit"), (70.0, "does not fit")):
        with pytest.raises(DataError, match=message):
            write_depth(tmp_path / "e.png", np.full((2, 2), bad))
    with pytest.raises(DataError, match=r"missing\.png is missing"):
        read_depth(tmp_path / "missing.png")
    (tmp_path / "d.png").write_bytes((tmp_path / "d.png").read_bytes()[:60])
    with pytest.raises(DataError, match=r"d\.png: not a readable depth PNG"):
        read_depth(tmp_path / "d.png")


def test_a_scene_is_stored_whole_or_not_at_all(tmp_path):
    store = DepthStore(tmp_path)

    def frames():
        yield "0", np.ones((2, 2))
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        store.write_scene("room/a", frames())
    assert not store.has("room/a")
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(DataError, match="no depth of scene 'room/a'"):
        store.frames("room/a")
    for name in ("..", "../elsewhere", ".hidden", ""):
        with pytest.raises(DataError, match="cannot be a folder"):
            store.write_scene(name, [])


@pytest.mark.parametrize(
    ("code", "arguments", "message"),
    [
        (2, ["pretrian"], "unknown command 'pretrian'. Did you mean 'pretrain'"),
        (2, ["pretrain", "--arch", "resnet"], "unknown arch 'resnet'"),
        (2, ["pretrain", "--archh", "hrdepth"], "unknown option of pretrain: --archh. Did you mean '--arch"),
        (2, ["pretrain", "--profile", "smoke", "--dataset", "scanet"], "unknown data set 'scanet'"),
        (1, ["prepare", "--dataset", "7scenes"], "7scenes"),
        (1, ["prepare", "--dataset", "7scenes", "--root", "nowhere"], "there is no folder nowhere"),
        (2, ["pretrain", "--epochs", "many"], "invalid int value"),
        (1, ["tables", "--run", "never-made", "--profile", "smoke"], "no evaluation of split"),
        (
            2,
            ["pretrain", "--threshold-m", "1"],
            "--threshold-m is not an option of pretrain, but of: project",
        ),
        (2, ["all", "--archs", "monodepth2,hrdep"], "unknown arch 'hrdep'. Did you mean 'hrdepth'"),
    ],
)
def test_the_command_line_names_what_is_wrong(code, arguments, message, capsys):
    try:
        status = main(arguments)
    except SystemExit as stop:
        status = stop.code
    error = capsys.readouterr().err
    assert status == code
    assert message in error
    assert "Traceback" not in error


def helped(*words, capsys):
    with pytest.raises(SystemExit) as stop:
        main([*words, "--help"])
    assert stop.value.code == 0
    return " ".join(capsys.readouterr().out.split())


def test_help_has_the_options_of_its_command_and_the_defaults_of_profile_and_network(capsys):
    said = helped("pretrain", "--profile", "paper", "--arch", "monovit", capsys=capsys)
    assert "images in a batch (default: 8)" in said
    assert "(default: bf16 in training, float32 in prediction)" in said
    assert "--threshold-m" not in said
    assert "images in a batch (default: 12)" in helped("pretrain", "--profile", "paper", capsys=capsys)
    assert "--train-processes" not in helped("tables", capsys=capsys)
    said = helped("prepare", capsys=capsys)
    assert "--integrate-every" in said
    assert "--renderer" not in said
    assert "--labels" not in helped("rank", capsys=capsys)


def test_prepare_scannet_takes_both_spellings_and_names_the_near_miss(tmp_path, capsys):
    where = ["--root", str(tmp_path), "--out", str(tmp_path / "out")]
    assert main(["prepare", "scannet", *where, "--eval_every", "5"]) == 1
    assert "holds no scene of ScanNet" in capsys.readouterr().err
    assert main(["prepare", "scanet", *where]) == 2
    assert "Did you mean 'scannet'" in capsys.readouterr().err


def test_too_few_neighbours_are_counted_by_reason(tmp_path, monkeypatch):
    from polished_floor import PolishedFloor

    from d3d.datasets import Dataset

    sparse = PolishedFloor(12).subset((0, 11), "sparse")
    monkeypatch.setattr(scenes, "dataset", lambda config: Dataset("floor", {"train": lambda: [sparse]}))
    with pytest.raises(DataError, match=r"no training triple from 2 target frames.*Reasons: 1 x .*; 1 x "):
        stages.pretrain(make_config(profile="smoke", runs_dir=str(tmp_path)))


@pytest.fixture(scope="module")
def based(cfg, chain):
    """Return other settings for the finished stages of `cfg`'s run."""

    def make(run, **values):
        return make_config(
            profile="smoke", runs_dir=cfg.runs_dir, run=run, base="r", **{"labels": "diff"} | values
        )

    return make


def test_a_run_takes_what_is_the_same_from_its_base(cfg, based):
    fused_twice = based("twice", fusion_passes=2)
    assert stages.predict(fused_twice, "monodepth2").folder == stages.predict(cfg, "monodepth2").folder
    store = stages.project(fused_twice, "monodepth2")
    assert store.folder == runs.run_folder(fused_twice) / "project" / "monodepth2"
    scene = stages.training_scenes(cfg)[0]
    once = stages.project(cfg, "monodepth2").read_of(scene.scene, scene.targets[3])
    assert not np.array_equal(store.read_of(scene.scene, scene.targets[3]), once)
    assert not (runs.run_folder(fused_twice) / "pretrain").exists()


def test_what_differs_is_not_taken_from_the_base(based):
    other = based("slow", learning_rate=1e-4)
    assert stages.stage_folder(other, "pretrain", "monodepth2").parent.parent.name == "slow"


def test_round_two_is_taught_by_the_students_of_round_one(cfg, chain):
    second = dataclasses.replace(cfg, round=2)
    label = stages.fuse(second, "monodepth2", "diff")
    assert label.folder == runs.run_folder(cfg) / "round2" / "fuse" / "monodepth2" / "diff"
    scene = stages.training_scenes(cfg)[0]
    i = scene.targets[2]
    student = stages.load_network(cfg, "monodepth2", "diff")
    ours = prediction.predict(student, scene.scene.image(i, cfg.data.size_hw))
    stored = stages.predict(second, "monodepth2").read_of(scene.scene, i)
    assert abs(stored - ours).max() < 0.002
    assert abs(stored - stages.predict(cfg, "monodepth2").read_of(scene.scene, i)).max() > 0.01
    # what is self-supervised is the same in every round
    assert stages.evaluated(second, "monodepth2", "diff") == "monodepth2/diff-round2/val"
    assert stages.evaluated(second, "monodepth2") == "monodepth2/self-supervised/val"


def test_a_student_of_small_images_is_tested_on_whole_ones(cfg, chain):
    assert stages.distill(cfg, "monodepth2", "proj_lowres").name == "proj_lowres"
    stages.evaluate(cfg, "monodepth2", "proj_lowres")
    folder = stages.stage_folder(cfg, "evaluate", "monodepth2", "proj_lowres") / "depth"
    scene = stages.dataset(cfg).scenes("val")[0]
    assert DepthStore(folder).read_of(scene, 0).shape == cfg.data.size_hw


def test_another_data_set_is_scored_apart(cfg, chain):
    other = make_config(
        profile="smoke",
        runs_dir=cfg.runs_dir,
        run="r",
        eval_dataset="glossyrooms",
        split="test",
        scale="median",
    )
    scored = stages.evaluate(other, "monodepth2")
    assert set(scored["scene"]) == {s.name for s in stages.evaluated_dataset(other).scenes("test")}
    assert stages.evaluated(other, "monodepth2") == "monodepth2/self-supervised/glossyrooms-test"
    with pytest.raises(ConfigError, match="name the data set"):
        make_config(profile="smoke", eval_root="somewhere")


def test_a_threshold_from_the_data_leaves_its_share_of_pixels(cfg, chain, monkeypatch):
    scene = stages.training_scenes(cfg)[0]
    values = {i: np.full((4, 5), 0.001 * k, np.float32) for k, i in enumerate(scene.targets)}

    class Store:
        def read_of(self, scene, i):
            return values[i]

    monkeypatch.setattr(label_stages, "ensure", lambda config, key: None)
    monkeypatch.setattr(label_stages, "DepthStore", lambda folder: Store())
    monkeypatch.setattr(label_stages, "training_scenes", lambda config: [scene])
    config = dataclasses.replace(cfg, fusion=dataclasses.replace(cfg.fusion, threshold_quantile=0.75))
    found = stages.threshold(config, "uncer")
    every = np.concatenate([v.ravel() for v in values.values()])
    assert abs((every >= found).mean() - 0.25) < 1.5 / len(values)
    assert stages.threshold(cfg, "uncer") == cfg.fusion.threshold_m
