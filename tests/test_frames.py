"""Unreadable frames are found before a training, listed and left out. Too many are an error. A killed check resumes."""

import io
import os
import shutil
import signal
import subprocess
import sys
import threading
import zipfile
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from d3d import evaluation, tables
from d3d.cli import main
from d3d.datasets import Scene
from d3d.datasets.sevenscenes import dataset as sevenscenes
from d3d.errors import DataError, RunError
from d3d.io import read_json, sha256
from d3d.models import create_model, save_weights
from d3d.pipeline import graph, opened, runs, scenes, stages
from d3d.pipeline import readable as frames
from d3d.pipeline.config import make_config
from d3d.pipeline.graph import Key

pytest.importorskip("open3d")
N = 40


def write_room(folder, seed=0, n=N, size_hw=(480, 640)):
    """A sequence along a textured wall 2 m away, 6 cm further right in each frame, in the layout of 7-Scenes."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(seed)
    wall = Image.fromarray(rng.integers(0, 255, (60, 400, 3), dtype=np.uint8)).resize((3200, 480))
    depth = Image.fromarray(np.full(size_hw, 2000, np.uint16))
    for i in range(n):
        stem = folder / f"frame-{i:06d}"
        left = round(525 / 2 * 0.06 * i)
        wall.crop((left, 0, left + size_hw[1], size_hw[0])).save(f"{stem}.color.jpg", quality=80)
        depth.save(f"{stem}.depth.png", compress_level=1)
        pose = np.eye(4)
        pose[0, 3] = 0.06 * i
        np.savetxt(f"{stem}.pose.txt", pose)
    return folder


def config_of(root, tmp_path, **more):
    given = {
        "profile": "smoke",
        "dataset": "7scenes",
        "root": str(root),
        "runs_dir": str(tmp_path),
        "run": "r",
    }
    return make_config(**{**given, "integrate_every": 5, "eval_every": 2, **more})


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    root = tmp_path_factory.mktemp("sound")
    write_room(root / "chess" / "seq-01")
    write_room(root / "fire" / "seq-01", seed=1)
    return root


@pytest.fixture
def root(sound, tmp_path):
    """Copy the data set for a test that damages files. Unchanged files are links."""
    for path in sound.rglob("*.*"):
        copy = tmp_path / "data" / path.relative_to(sound)
        copy.parent.mkdir(parents=True, exist_ok=True)
        os.link(path, copy)
    return tmp_path / "data"


def spoil(path, content):
    path.unlink()  # never through the link
    path.write_bytes(content)


def spoil_three(root):
    chess = root / "chess" / "seq-01"
    truncated = chess / "frame-000004.color.jpg"
    spoil(truncated, truncated.read_bytes()[:2000])
    spoil(chess / "frame-000011.color.jpg", b"")
    small = root / "fire" / "seq-01" / "frame-000020.color.jpg"
    small.unlink()
    Image.fromarray(np.zeros((240, 320, 3), np.uint8)).save(small)
    depth = chess / "frame-000036.depth.png"  # of the validation block: a training does not need it
    spoil(depth, depth.read_bytes()[:500])


def checks(config, split=frames.TRAINING):
    """The folders of the checks of a split: one for each set of frames."""
    folders = (runs.run_folder(config) / "frames" / split).iterdir()
    return [folder for folder in folders if folder.name != "scenes"]


def bad_of(config, split=frames.TRAINING):
    (folder,) = checks(config, split)
    listed = frames.read_unreadable(folder / frames.UNREADABLE)
    return {(scene, frame): reason for scene, rows in listed.items() for frame, reason in rows.items()}


def test_the_chain_runs_without_the_bad_frames_and_lists_them(root, tmp_path, capsys):
    spoil_three(root)
    config = config_of(root, tmp_path, labels="diff", max_bad_share=0.2)
    per_image = stages.evaluate(config, "monodepth2", "diff")
    bad = bad_of(config)
    chess, fire = "chess-seq-01.0-31", "fire-seq-01.0-31"
    assert set(bad) == {(chess, "frame-000004"), (chess, "frame-000011"), (fire, "frame-000020")}
    assert "truncated" in bad[chess, "frame-000004"]
    assert "not an image" in bad[chess, "frame-000011"]
    assert "(240, 320, 3)" in bad[fire, "frame-000020"]
    said = capsys.readouterr().out
    assert "3 of 64 frames cannot be read; " in said
    for s in stages.training_scenes(config):
        used = {s.scene.frame_ids[i] for i in s.frames_used(5)}
        assert not used & {frame for scene, frame in bad if scene == s.scene.name}
        every_fifth = {f"frame-{i:06d}" for i in range(0, 32, 5)}
        assert used >= every_fifth - {frame for _, frame in bad}
        # a triple that lost a frame is gone; the others are as they were
        whole = next(a for a in scenes.all_training_scenes(config) if a.scene.name == s.scene.name)
        ids = {tuple(s.scene.frame_ids[i] for i in row) for row in s.triples.indices}
        before = {tuple(whole.scene.frame_ids[i] for i in row) for row in whole.triples.indices}
        lost = {row for row in before if any((s.scene.name, frame) in bad for frame in row)}
        assert ids == before - lost
        assert s.triples.dropped["a frame of the triple cannot be read"] == len(lost) > 0
        assert sum(s.triples.dropped.values()) + len(s.triples) == s.triples.targets_tried
    # depth is needed where it is evaluated, and there alone
    (key,) = bad_of(config, "val")
    assert key == ("chess-seq-01.32-39", "frame-000036")
    scored = set(zip(per_image["scene"], per_image["frame"], strict=True))
    wanted = {(f"{s}-seq-01.32-39", f"frame-{i:06d}") for s in ("chess", "fire") for i in range(32, 40, 2)}
    assert scored == wanted - {key}
    stored = read_json(stages.stage_folder(config, "pretrain", "monodepth2") / "config.json")
    assert stored["identity"]["data"] == scenes.training_data(config)


def test_too_many_bad_frames_are_an_error_before_any_training(root, tmp_path, capsys):
    spoil_three(root)
    config = config_of(root, tmp_path)
    with pytest.raises(
        DataError, match=r"3 of 64 frames cannot be read, more than max_bad_share = 0\.01.*\.csv"
    ):
        stages.pretrain(config)
    assert len(bad_of(config)) == 3
    assert not (runs.run_folder(config) / "pretrain").exists()
    # repaired, only the bad ones are decoded again
    write_room(tmp_path / "again" / "seq-01")
    for frame in ("frame-000004", "frame-000011"):
        spoil(
            root / "chess" / "seq-01" / f"{frame}.color.jpg",
            (tmp_path / "again" / "seq-01" / f"{frame}.color.jpg").read_bytes(),
        )
    assert main(["prepare", *arguments(root, tmp_path), "--max-bad-share", "0.02"]) == 0
    assert "1 of 64 frames cannot be read" in capsys.readouterr().out


def arguments(root, tmp_path):
    given = {"profile": "smoke", "dataset": "7scenes", "root": root, "runs-dir": tmp_path, "run": "r"}
    return [w for k, v in given.items() for w in (f"--{k}", str(v))] + ["--integrate-every", "5"]


def test_without_a_bad_frame_nothing_is_otherwise(sound, tmp_path):
    config = config_of(sound, tmp_path)
    whole, found = scenes.all_training_scenes(config), stages.training_scenes(config)
    assert [s.scene for s in found] == [s.scene for s in whole], "the very same scenes"
    assert bad_of(config) == {}
    for stage in ("pretrain", "predict", "project", "evaluate"):
        assert not {"max_bad_share", "keyframes"} & set(
            str(stages.identity_of(config, stage, "monodepth2")).split("'")
        )


def test_a_verified_data_set_is_not_decoded(tmp_path):
    config = make_config(profile="smoke", runs_dir=str(tmp_path), run="r")
    assert stages.dataset(config).verified
    stages.training_scenes(config)
    scenes.evaluated_scenes(config)
    assert not (runs.run_folder(config) / "frames").exists()


def test_a_check_that_is_killed_goes_on(root, tmp_path, monkeypatch):
    """After SIGKILL in the second scene, only bad frames of the first are decoded again. The list is complete."""
    spoil_three(root)
    code = f"""
import os, signal
from d3d.datasets.scene import Scene
from d3d.cli import main
image = Scene.image
def deadly(self, i, size_hw=None):
    if self.name.startswith("fire"):
        os.kill(os.getpid(), signal.SIGKILL)
    return image(self, i, size_hw)
Scene.image = deadly
main({["prepare", *arguments(root, tmp_path)]!r})
"""
    killed = subprocess.run([sys.executable, "-c", code], capture_output=True)
    assert killed.returncode == -signal.SIGKILL
    config = config_of(root, tmp_path, max_bad_share=0.1)
    (folder,) = checks(config)
    assert not (folder / "DONE").exists()
    decoded, image = [], Scene.image

    def counted(self, i, size_hw=None):
        decoded.append(self.name)
        return image(self, i, size_hw)

    monkeypatch.setattr(Scene, "image", counted)
    stages.training_scenes(config)
    assert (folder / "DONE").is_file()
    assert len(bad_of(config)) == 3
    assert (decoded.count("chess-seq-01.0-31"), decoded.count("fire-seq-01.0-31")) == (2, 32)


def test_a_frame_that_goes_bad_later_is_named_and_what_was_trained_with_it_is_not_mixed(root, tmp_path):
    config = config_of(root, tmp_path, max_bad_share=0.1)
    stages.training_scenes(config)
    bad = root / "chess" / "seq-01" / "frame-000008.color.jpg"
    spoil(bad, bad.read_bytes()[:3000])
    with pytest.raises(DataError, match=r"chess-seq-01', frame frame-000008: .*truncated"):
        stages.pretrain(config)
    # the check is done once: its folder is what says so
    with pytest.raises(DataError, match="frame-000008"):
        stages.pretrain(config)
    shutil.rmtree(runs.run_folder(config) / "frames")
    with pytest.raises(RunError, match=r"holds another result:\n  data.sha256"):
        stages.pretrain(config)


def test_a_missing_depth_map_makes_a_frame_unscored_not_unreadable(root, tmp_path):
    """Issue 12, 1.10; a damaged one is still unreadable."""
    (root / "chess" / "seq-01" / "frame-000036.depth.png").unlink()
    spoil(root / "chess" / "seq-01" / "frame-000037.depth.png", b"")
    config = config_of(root, tmp_path)
    (scene,) = (s for s in scenes.evaluated_dataset(config).scenes("val") if s.name.startswith("chess"))
    at = [scene.frame_ids.index(f"frame-{i:06d}") for i in (35, 36, 37)]
    bad = frames.check_scene(scene, at, True, tmp_path / "checked.json")
    assert list(bad) == ["frame-000037"]
    rows = evaluation.score_scene(lambda scene, i: np.ones((96, 128)), scene, at[:2], "none", 0.1, 10.0)
    assert {row["frame"] for row in rows} == {"frame-000035"}


def test_who_comes_second_waits_for_the_check(root, tmp_path, capsys):
    """The second process waits. It neither fails nor decodes the frames again."""
    config, found = config_of(root, tmp_path), []
    both = [threading.Thread(target=lambda: found.append(stages.training_scenes(config))) for _ in range(2)]
    for thread in both:
        thread.start()
    for thread in both:
        thread.join(timeout=120)
    assert len(found) == 2
    assert [s.scene.digest() for s in found[0]] == [s.scene.digest() for s in found[1]]
    assert capsys.readouterr().out.count("decoding each") == 1


@pytest.fixture(scope="module")
def trained(sound, tmp_path_factory):
    """Make a run with a network for evaluation."""
    runs_dir = tmp_path_factory.mktemp("trained")
    config = config_of(
        sound, runs_dir, eval_dataset="7scenes", eval_root=str(sound), split="test", scale="median"
    )
    stages.training_scenes(config)
    with graph.open_stage(
        config, Key("pretrain", "monodepth2")
    ) as stage:  # of no training: any scores will do
        path = save_weights(
            create_model("monodepth2", pretrained=False), stage.folder / "weights.safetensors"
        )
        stage.finish({path.name: sha256(path)})
    return config


def evaluated_on(config, root, **more):
    return replace(config, evaluation=replace(config.evaluation, root=str(root), **more))


def test_keyframes_are_all_that_is_evaluated(trained, root, tmp_path, monkeypatch):
    listed = tmp_path / "test_Key.txt"
    listed.write_text("chess-seq-01 frame-000007\nfire-seq-01 12 # by its number\nfire-seq-01 13\n")
    config = evaluated_on(trained, root, keyframes=str(listed))
    decoded, image = [], Scene.image
    monkeypatch.setattr(
        Scene, "image", lambda s, i, size=None: decoded.append((s.name, i)) or image(s, i, size)
    )
    scored = stages.evaluate(config, "monodepth2")
    wanted = {
        ("chess-seq-01", "frame-000007"),
        ("fire-seq-01", "frame-000012"),
        ("fire-seq-01", "frame-000013"),
    }
    assert set(zip(scored["scene"], scored["frame"], strict=True)) == wanted
    assert set(decoded) == {("chess-seq-01", 7), ("fire-seq-01", 12), ("fire-seq-01", 13)}
    assert stages.evaluated(config, "monodepth2") == "monodepth2/self-supervised/7scenes-test-Key"
    table = tables.of_run(config, "5")
    assert (table.frame["images"].dropna() == 3).all()
    # the same by another path, another list under the same name, and no list
    again = tmp_path / "moved.txt"
    listed.rename(again)
    assert stages.evaluate(evaluated_on(trained, root, keyframes=f"Key={again}"), "monodepth2").equals(scored)
    again.write_text("chess-seq-01 8\n")
    with pytest.raises(RunError, match=r"data.frames: 3 there, 1 now"):
        stages.evaluate(evaluated_on(trained, root, keyframes=f"Key={again}"), "monodepth2")
    with pytest.raises(DataError, match=r"no scores for table 5|no evaluation"):
        tables.of_run(trained, "5")


def test_bad_keyframes_are_left_out_like_any_other(trained, root, tmp_path):
    spoil_three(root)
    listed = tmp_path / "test_Bad.txt"
    listed.write_text("".join(f"chess-seq-01 {i}\n" for i in (3, 4, 5, 11)) + "fire-seq-01 20\n")
    config = evaluated_on(trained, root, keyframes=str(listed))
    with pytest.raises(DataError, match="3 of 5 frames cannot be read"):
        stages.evaluate(config, "monodepth2")
    scored = stages.evaluate(replace(config, max_bad_share=0.6), "monodepth2")
    assert list(scored["frame"]) == ["frame-000003", "frame-000005"]


def test_scores_say_what_they_are_against_and_are_not_taken_for_others(trained, root, tmp_path, capsys):
    config = evaluated_on(replace(trained, run="truth", base=trained.run), root, every=20)
    stages.evaluate(config, "monodepth2")
    of_stage = stages.stage_folder(config, "evaluate", "monodepth2")
    assert read_json(of_stage / "provenance.json")["ground_truth"] == "sensor depth registered to colour"
    made = tables.of_run(config, "5")
    assert "Ground truth of 7-Scenes: sensor depth registered to colour" in made.caption
    assert "Not all images of 7-Scenes test were scored" in made.caption  # two of 13
    assert set(made.frame["source"]) == {"ours"}
    for name in ("chess", "fire"):
        folder = root / "depth" / f"7scenes_{name}" / "train" / "depth"
        folder.mkdir(parents=True)
        for i in range(N):
            Image.fromarray(np.full((480, 640), 2500, np.float32)).save(
                folder / f"seq01_frame-{i:06d}.pose.depth.tiff"
            )
    opened.opened.clear()  # as a new process has it
    with pytest.raises(RunError, match=r"data.ground_truth: 'sensor depth.* there, 'rendered depth.* now"):
        stages.evaluate(config, "monodepth2")
    for path in sorted(of_stage.rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    stages.evaluate(config, "monodepth2")
    assert (
        "Ground truth of 7-Scenes: rendered depth (Brachmann and Rother)"
        in tables.of_run(config, "5").caption
    )
    words = ["--eval-dataset", "7scenes", "--eval-root", str(root), "--split", "test", "--eval-every", "20"]
    parameters = [*arguments(config.data.root, config.runs_dir), *words, "--run", "truth", "--base", "r"]
    capsys.readouterr()
    assert main(["tables", *parameters, "--scale", "median"]) == 0
    assert "relative depth, means over images" in (said := capsys.readouterr().out)
    assert "against rendered depth (Brachmann and Rother)" in said


def test_a_pose_that_cannot_be_read_counts_like_an_image(root, tmp_path):
    spoil(root / "chess" / "seq-01" / "frame-000005.pose.txt", b"1 0 0")
    with pytest.raises(DataError, match="1 of 64 frames cannot be read, more than"):
        stages.training_scenes(config_of(root, tmp_path))
    config = config_of(root, tmp_path, max_bad_share=0.02)
    found = {s.scene.name: s for s in stages.training_scenes(config)}
    assert list(bad_of(config)) == [("chess-seq-01.0-30", "frame-000005")]
    assert "16 numbers" in bad_of(config)["chess-seq-01.0-30", "frame-000005"]
    chess = found["chess-seq-01.0-30"]
    assert "frame-000005" not in chess.scene.frame_ids
    fused = [chess.scene.frame_ids[i] for i in chess.scene.every(5)]
    assert fused == [f"frame-{i:06d}" for i in (0, 10, 15, 20, 25, 30)]
    provenance = read_json(checks(config)[0] / "provenance.json")
    assert (provenance["frames"], provenance["unreadable"]) == (64, 1)


def test_the_thirteen_sequences_out_of_the_official_zips(trained, tmp_path):
    """A small Table 5: only the paper's sequences are evaluated, even if the zips hold more."""
    others = ("chess/seq-03", "heads/seq-01", "stairs/seq-01")
    for scene in ("chess", "fire", "heads", "office", "pumpkin", "redkitchen", "stairs"):
        with zipfile.ZipFile(tmp_path / f"{scene}.zip", "w") as outer:
            for name in (n for n in (*sevenscenes.TEST_SEQUENCES, *others) if n.startswith(scene)):
                folder = write_room(tmp_path / "made" / name, n=2)
                inner = io.BytesIO()
                with zipfile.ZipFile(inner, "w") as z:
                    for path in folder.iterdir():
                        z.write(path, f"{folder.name}/{path.name}")
                outer.writestr(f"{name}.zip", inner.getvalue())
    shutil.rmtree(tmp_path / "made")
    config = evaluated_on(replace(trained, run="thirteen", base=trained.run), tmp_path, every=1)
    scored = stages.evaluate(config, "monodepth2")
    assert sorted(set(scored["scene"])) == sorted(n.replace("/", "-") for n in sevenscenes.TEST_SEQUENCES)
    assert len(scored) == 26
    table = tables.of_run(config, "5")
    assert "26 images" in table.caption
    assert not (tmp_path / "chess" / "seq-03").exists()


@pytest.mark.parametrize("text", ["", "scene,frame\n", "scene,frame,reason\na,b\n", '"', "\0,\n", "\xff"])
def test_a_list_that_is_not_one(tmp_path, text):
    path = tmp_path / "unreadable.csv"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(DataError, match="Delete its folder"):
        frames.read_unreadable(path)


def test_a_list_that_was_edited_is_not_believed(root, tmp_path):
    config = config_of(root, tmp_path)
    stages.training_scenes(config)
    listed = checks(config)[0] / frames.UNREADABLE
    frames.write_unreadable(listed, {"chess-seq-01.0-31": {"frame-000001": "I do not like it"}})
    with pytest.raises(RunError, match="was changed after the check"):
        stages.training_scenes(config)


def test_reasons_with_commas_and_quotes_come_back(tmp_path):
    bad = {"a": {"1": 'x, "y"\nz', "2": ""}, "b/c": {"3": "é"}}
    frames.write_unreadable(tmp_path / "list.csv", bad)
    assert frames.read_unreadable(tmp_path / "list.csv") == bad
