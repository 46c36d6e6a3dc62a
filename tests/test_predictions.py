"""`python -m d3d evaluate --predictions`: scores of depth files of any method, and every refused file."""

from __future__ import annotations

import io as bytes_io

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from d3d import io, tables
from d3d.cli import main
from d3d.depth_files import find_files, read_array
from d3d.errors import ConfigError, DataError, RunError
from d3d.evaluation import summary
from d3d.metrics import METRICS
from d3d.models.shipped import shipped_file
from d3d.pipeline import runs, stages
from d3d.pipeline.config import make_config
from d3d.pipeline.scenes import evaluated_frames, evaluated_scenes
from d3d.pipeline.stages.scores import score_file
from d3d.prediction import write_depth


@pytest.fixture
def config(tmp_path):
    """Profile smoke: one room, six scored frames of 192x144."""
    return make_config(profile="smoke", runs_dir=str(tmp_path / "runs"))


def write(config, folder, change=lambda depth: depth, suffix=".npy", flat=False):
    """Write changed ground truth as predictions of every evaluated frame; return the files."""
    paths = []
    for scene in evaluated_scenes(config):
        for i in evaluated_frames(config, scene):
            path = folder / ("" if flat else scene.name) / f"{scene.frame_ids[i]}{suffix}"
            path.parent.mkdir(parents=True, exist_ok=True)
            depth = change(scene.depth(i).astype(np.float64))
            if suffix == ".png":
                write_depth(path, depth)
            elif suffix == ".npz":
                np.savez_compressed(path, depth=depth)
            else:
                np.save(path, depth)
            paths.append(path)
    return paths


def aligned(config, scale):
    return make_config(profile=config.profile, runs_dir=config.runs_dir, scale=scale)


def evaluate(config, *words):
    return main(["evaluate", "--profile", config.profile, "--runs-dir", config.runs_dir, *map(str, words)])


# --- exact values ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".npy", ".npz"])
def test_the_truth_has_no_error(config, tmp_path, suffix):
    write(config, tmp_path / "mine", suffix=suffix)
    per_image = stages.score_predictions(config, tmp_path / "mine")
    assert len(per_image[per_image["pixels"] == "all"]) == 6
    assert set(per_image["pixels"]) == {"all", "highlight", "diffuse"}
    assert (per_image[["abs_rel", "sq_rel", "rmse", "rmse_log"]] == 0).all(axis=None)
    assert (per_image[["a1", "a2", "a3"]] == 1).all(axis=None)


def test_a_png_in_millimetres_is_rounded(config, tmp_path):
    for suffix, name, expected in (
        (".png", "png", 0),
        (".npy", "npy", 0.0004),
    ):  # the truth is in millimetres
        write(config, tmp_path / name, lambda depth: depth + 0.0004, suffix=suffix)
        found = stages.score_predictions(config, tmp_path / name)
        np.testing.assert_allclose(found["rmse"], expected, atol=1e-6)


def test_a_fifth_too_far_is_an_abs_rel_of_a_fifth_until_it_is_aligned(config, tmp_path):
    write(config, tmp_path / "far", lambda depth: 1.2 * depth)  # less than 6 m: not clamped
    as_it_is = summary(stages.score_predictions(config, tmp_path / "far"))
    assert as_it_is["abs_rel"] == pytest.approx(0.2, abs=1e-6)
    assert as_it_is["rmse_log"] == pytest.approx(np.log(1.2), abs=1e-6)
    for scale in ("median", "affine", "affine-disparity"):
        found = summary(stages.score_predictions(aligned(config, scale), tmp_path / "far"))
        assert found["abs_rel"] == pytest.approx(0, abs=1e-6), scale


def test_each_alignment_recovers_what_it_should_and_nothing_else(config, tmp_path):
    changes = {"shifted": lambda d: 0.9 * d + 0.3, "inverse": lambda d: 1 / (0.4 / d + 0.2)}
    for name, change in changes.items():
        write(config, tmp_path / name, change)
    recovers = {("shifted", "affine"), ("inverse", "affine-disparity")}
    for name in changes:
        for scale in ("none", "median", "affine", "affine-disparity"):
            found = summary(stages.score_predictions(aligned(config, scale), tmp_path / name))["abs_rel"]
            if (name, scale) in recovers:
                assert found == pytest.approx(0, abs=1e-6), (name, scale)
            else:
                assert found > 0.005, (name, scale)


def test_disparity_is_scored_without_becoming_depth_first(config, tmp_path):
    write(config, tmp_path / "d", lambda depth: 5 / depth - 0.5)  # below zero for far pixels
    found = stages.score_predictions(aligned(config, "affine-disparity"), tmp_path / "d", "d", "disparity")
    assert summary(found)["abs_rel"] == pytest.approx(0, abs=1e-6)
    with pytest.raises(ConfigError, match="add --align affine-disparity"):
        stages.score_predictions(config, tmp_path / "d", "d", "disparity")


def test_disparity_taken_for_depth_is_noticed(config, tmp_path, capsys):
    write(config, tmp_path / "d", lambda depth: 1 / depth)
    config = aligned(config, "affine-disparity")
    stages.score_predictions(config, tmp_path / "d", "one")
    said = "look like disparity, not like depth: in the first frame of each scene, their numbers fall"
    assert said in capsys.readouterr().out
    stages.score_predictions(config, tmp_path / "d", "two", "disparity")
    assert "look like" not in capsys.readouterr().out
    write(config, tmp_path / "d", lambda depth: 2 * depth)
    stages.score_predictions(config, tmp_path / "d", "three", "disparity")
    assert "look like depth, not like disparity" in capsys.readouterr().out


@pytest.mark.parametrize("factor", [1000, 0.001])
def test_a_wrong_unit_is_noticed(config, tmp_path, capsys, factor):
    write(config, tmp_path / "d", lambda depth: factor * depth)
    stages.score_predictions(config, tmp_path / "d", "one")
    assert f"The predictions of one are {factor:,} times as deep as the truth" in capsys.readouterr().out
    stages.score_predictions(aligned(config, "median"), tmp_path / "d", "one")
    write(config, tmp_path / "d", lambda depth: 3 * depth)
    stages.score_predictions(config, tmp_path / "d", "two")
    assert "as deep as the truth" not in capsys.readouterr().out


def test_a_prediction_of_another_size_is_resized_like_a_networks(config, tmp_path):
    weights = shipped_file("lite-distilled")
    expected = score_file(config, weights, io.sha256(weights), tmp_path / "network", "lite")  # 96x64
    stored = tmp_path / "network" / "depth"
    found = stages.score_predictions(config, stored, "lite")
    pd.testing.assert_frame_equal(found, expected, rtol=1e-5, atol=1e-9)
    # the stored depth is a PNG; the same networks' depth before rounding
    exact = tmp_path / "exact"
    for path in stored.glob("*/*.png"):
        (exact / path.parent.name).mkdir(parents=True, exist_ok=True)
        depth = read_array(path)
        np.save(
            exact / path.parent.name / f"{path.stem}.npy",
            depth + np.where(depth % 0.002 < 0.001, 4e-4, -4e-4),
        )
    other = stages.score_predictions(config, exact, "exact")
    assert 0 < (other["rmse"] - found["rmse"]).abs().max() <= 0.0005


# --- the command -------------------------------------------------------------------------------------------


def test_the_table_shows_method_lists_and_alignment(config, tmp_path, capsys):
    scene = evaluated_scenes(config)[0]
    names = [scene.frame_ids[i] for i in evaluated_frames(config, scene)]
    paths = write(config, tmp_path / "mine")
    for path in paths[:2]:
        np.save(path, 1.2 * np.load(path))
    own = tmp_path / "val_Reflection.txt"
    own.write_text("".join(f"{scene.name} {name}\n" for name in names[:2]))
    words = ("--predictions", tmp_path / "mine", "--name", "My Net", "--lists", own)
    assert evaluate(config, *words) == 0
    out = capsys.readouterr().out
    assert "My Net       | unknown training data |" in out
    assert "Val (6): Abs Rel" in out
    assert "Reflection (2): Abs Rel" in out
    folder = runs.run_folder(config) / "tables"
    table = pd.read_csv(folder / "val.csv").set_index("list")
    assert table["abs_rel"].to_dict() == pytest.approx({"Val": 0.2 / 3, "Reflection": 0.2}, abs=1e-6)
    assert set(table["trained_on"]) == {"unknown training data"}
    assert (folder / "val-highlight.csv").is_file()
    assert evaluate(config, *words, "--align", "affine") == 0
    out = capsys.readouterr().out
    assert "unknown training data, aligned: affine |" in out
    table = pd.read_csv(folder / "val.csv")
    assert set(zip(table["scale"], table["list"], strict=True)) == {
        (scale, name) for scale in ("none", "affine") for name in ("Val", "Reflection")
    }
    text = (folder / "val.md").read_text()
    assert "**" not in text  # aligned and not aligned are not compared


def test_a_keyframe_list_needs_the_predictions_of_its_frames_only(config, tmp_path):
    paths = write(config, tmp_path / "mine", flat=True)
    for path in paths[1:]:
        path.unlink()
    scene = evaluated_scenes(config)[0]
    own = tmp_path / "val_Own.txt"
    own.write_text(f"{scene.name} {paths[0].stem}\n")
    few = make_config(profile="smoke", runs_dir=config.runs_dir, keyframes=str(own))
    assert set(stages.score_predictions(few, tmp_path / "mine")["frame"]) == {paths[0].stem}


def test_networks_of_the_run_stand_in_the_same_table(config, tmp_path, trained_run):
    trained_run(config.runs_dir, "r")
    config = make_config(profile="smoke", runs_dir=config.runs_dir, run="r", scale="median")
    stages.evaluate(config, "monodepth2")
    depth = stages.stage_folder(config, "evaluate", "monodepth2") / "depth"
    plain = make_config(profile="smoke", runs_dir=config.runs_dir, run="r")
    stages.score_predictions(config, depth, "again")
    stages.score_predictions(plain, depth, "again")
    table = tables.predicted_table(plain)
    table = table[table["list"] == "Val"].set_index(["architecture", "training"])
    assert list(table.index) == [
        ("Monodepth2", "Self-Supervised, aligned: median"),
        ("again", "unknown training data"),
        ("again", "unknown training data, aligned: median"),
    ]
    same = table[list(METRICS)].to_numpy()
    np.testing.assert_array_equal(same[0], same[2])
    assert same[1, 0] != same[2, 0]
    # Tables 2 to 6 are of trainings
    assert {e.arch for e in tables.gather([config]).evaluations} == {"monodepth2"}
    # the table of the networks keeps the predictions
    assert "again" in set(tables.run_table(config)["architecture"])


def test_finished_scores_are_reused_and_never_taken_for_others(config, tmp_path, monkeypatch):
    paths = write(config, tmp_path / "mine")
    first = stages.score_predictions(config, tmp_path / "mine")
    folder = runs.run_folder(config) / "predictions" / "mine" / "val-none"
    identity = runs.stored_identity(folder)
    assert identity["predictions"]["frames"] == 6
    assert identity["settings"]["evaluation"]["scale"] == "none"
    with monkeypatch.context() as patch:
        patch.setattr("d3d.pipeline.stages.predictions.scores_of", None)  # cannot score again
        pd.testing.assert_frame_equal(stages.score_predictions(config, tmp_path / "mine"), first)
    np.save(paths[0], 2 * np.load(paths[0]))
    with pytest.raises(RunError, match=r"holds another result:\n  predictions.sha256"):
        stages.score_predictions(config, tmp_path / "mine")
    assert stages.score_predictions(config, tmp_path / "mine", "second")["abs_rel"].max() > 0.9


# --- what is refused ---------------------------------------------------------------------------------------


def png(array):
    file = bytes_io.BytesIO()
    Image.fromarray(array).save(file, format="PNG")
    return file.getvalue()


def npy(array):
    file = bytes_io.BytesIO()
    np.save(file, array, allow_pickle=True)
    return file.getvalue()


def npz(**arrays):
    file = bytes_io.BytesIO()
    np.savez(file, **arrays)
    return file.getvalue()


ONES = np.ones((144, 192), np.float32)
BAD = {
    "an empty file": (".npy", b"", "not readable as a numpy array"),
    "text": (".npy", b"depth", "it does not begin as a .npy or .npz file does"),
    "pickled objects": (".npy", npy(np.array([None])), "values of type object, not numbers"),
    "a truncated archive": (".npz", npz(depth=ONES)[:200], "not readable as a numpy array"),
    "two arrays": (".npz", npz(depth=ONES, mask=ONES), r"has 2 arrays \(depth, mask\)"),
    "no array": (".npz", npz(), "has 0 arrays"),
    "a vector": (".npy", npy(np.ones(5)), r"shape \(5,\)"),
    "colours": (".npy", npy(np.ones((144, 192, 3))), r"shape \(144, 192, 3\)"),
    "nothing": (".npy", npy(np.ones((0, 192))), r"shape \(0, 192\)"),
    "complex numbers": (".npy", npy(ONES * 1j), "type complex"),
    "a mask": (".npy", npy(ONES > 0), "type bool"),
    "NaN everywhere": (".npy", npy(ONES * np.nan), "predicts nothing"),
    "zero everywhere": (".npy", npy(ONES * 0), "predicts nothing"),
    "the wrong way round": (".npy", npy(ONES.T), r"144x192 pixels .* aspect ratio of 192x144"),
    "a square": (".npy", npy(np.ones((64, 64))), "aspect ratio"),
    "8 bits": (".png", png(np.full((144, 192), 9, np.uint8)), "not readable as a 16-bit grey PNG"),
    "a colour picture": (".png", png(np.zeros((144, 192, 3), np.uint8)), "not readable as a 16-bit grey PNG"),
    "half a PNG": (".png", png(np.full((144, 192), 9, np.uint16))[:90], "not readable as a 16-bit grey PNG"),
}


@pytest.mark.parametrize("what", BAD)
def test_a_misshapen_prediction_is_named_before_any_scoring(config, tmp_path, what, monkeypatch):
    suffix, content, message = BAD[what]
    paths = write(config, tmp_path / "mine")
    for path in paths[1:4]:
        path.unlink()
        path.with_suffix(suffix).write_bytes(content)
    monkeypatch.setattr("d3d.pipeline.stages.predictions.scores_of", None)
    with pytest.raises(DataError, match=f"{message}.* 2 more files are wrong. Nothing was scored") as caught:
        stages.score_predictions(config, tmp_path / "mine")
    assert str(paths[1].with_suffix(suffix)) in str(caught.value)
    monkeypatch.undo()
    # the corrected files are scored: nothing was kept of the wrong ones
    for path in paths[1:4]:
        path.with_suffix(suffix).unlink()
    write(config, tmp_path / "mine")
    assert stages.score_predictions(config, tmp_path / "mine")["abs_rel"].max() == 0


def test_missing_predictions_are_counted_and_the_names_are_listed(config, tmp_path):
    paths = write(config, tmp_path / "mine")
    for path in paths[2:]:
        path.unlink()
    with pytest.raises(DataError) as caught:
        stages.score_predictions(config, tmp_path / "mine")
    scene, frame = paths[2].parent.name, paths[2].stem
    looked = [f"{start}{frame}{suffix}" for start in (f"{scene}/", "") for suffix in (".png", ".npy", ".npz")]
    assert str(caught.value) == (
        f"{scene}, frame {frame} has no prediction: none of {', '.join(looked)} is in {tmp_path / 'mine'}; "
        f"3 more of the 6 frames have none. {tmp_path / 'mine'} holds {scene}/. "
        f"{tmp_path / 'mine' / scene} holds {paths[0].name}, {paths[1].name}. Nothing was scored."
    )
    write(config, tmp_path / "mine", suffix=".png")
    with pytest.raises(DataError, match="has two predictions"):
        stages.score_predictions(config, tmp_path / "mine")
    with pytest.raises(DataError, match="there is no folder"):
        stages.score_predictions(config, tmp_path / "none")


def test_several_scenes_need_their_folders(tmp_path):
    config = make_config(profile="ready", eval_every=40, runs_dir=str(tmp_path / "runs"))
    write(config, tmp_path / "flat", flat=True)
    with pytest.raises(DataError, match=r"none of val-0000/000000\.png, .*npz is in .*; 11 more of the 12"):
        stages.score_predictions(config, tmp_path / "flat")
    write(config, tmp_path / "mine")
    per_image = stages.score_predictions(config, tmp_path / "mine")
    assert per_image["scene"].nunique() == 6
    assert per_image["abs_rel"].max() == 0


def test_predictions_of_another_data_set(tmp_path, shared_dir, capsys):
    """Real frames with holes in their truth, and relative depth, as in Table 5."""
    root = shared_dir / "data" / "7scenes"
    if not root.is_dir():
        pytest.skip("needs the development data: no 7scenes in it")
    parameters = {"eval_dataset": "7scenes", "eval_root": str(root), "split": "test", "eval_every": 250}
    config = make_config(profile="smoke", runs_dir=str(tmp_path / "runs"), **parameters)
    write(config, tmp_path / "mine", lambda depth: np.where(depth > 0, depth / 2, 0))
    words = [f"--{name.replace('_', '-')}={value}" for name, value in parameters.items()]
    for scale, expected in (("none", 0.5), ("median", 0), ("affine", 0), ("affine-disparity", 0)):
        assert evaluate(config, "--predictions", tmp_path / "mine", *words, "--align", scale) == 0
        per_image = pd.read_csv(
            runs.run_folder(config) / "predictions" / "mine" / f"7scenes-test-{scale}" / "per_image.csv"
        )
        assert len(per_image) == 4
        assert per_image["count"].max() < 480 * 640
        np.testing.assert_allclose(per_image["abs_rel"], expected, atol=1e-6)
    assert "unknown training data, aligned: affine-disparity |" in capsys.readouterr().out


def test_a_slash_in_a_scenes_name_is_a_folder_or_two_underscores(tmp_path, monkeypatch):
    config = make_config(profile="smoke")
    scenes = evaluated_scenes(config)
    monkeypatch.setattr(scenes[0], "name", "kitchen/seq-01")
    frame = scenes[0].frame_ids[0]
    for folder in ("kitchen/seq-01", "kitchen__seq-01"):
        path = tmp_path / folder.replace("/", "") / folder / f"{frame}.npy"
        path.parent.mkdir(parents=True)
        np.save(path, ONES)
        root = tmp_path / folder.replace("/", "")
        assert find_files(root, scenes, [[0]]).files == {("kitchen/seq-01", frame): path}


def test_a_hole_where_there_is_truth_is_an_error_that_names_the_frame(config, tmp_path):
    paths = write(config, tmp_path / "mine")
    depth = np.load(paths[3])
    depth[0, :7] = np.nan
    np.save(paths[3], depth)
    with pytest.raises(DataError, match=f"frame {paths[3].stem}: the prediction has 7 pixels .* not finite"):
        stages.score_predictions(config, tmp_path / "mine")
    write(config, tmp_path / "mine")
    assert stages.score_predictions(config, tmp_path / "mine")["abs_rel"].max() == 0


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--name", "x"), "--name: only with --predictions"),
        (("--predictions", "a", "--predictions-from", "hf:b"), "give one of them"),
        (("--predictions", "a", "--arch", "lite", "--archs", "every"), "--archs, --arch: leave this out"),
        (("--predictions", "a", "--name", "../x"), "use letters"),
        (("--predictions", "a", "--align", "afine"), "Did you mean 'affine'"),
        (("--predictions", "a", "--holds", "disparity"), "add --align affine-disparity"),
        (("--predictions-from", "b"), "must be hf:FOLDER"),
    ],
)
def test_a_wrong_command_line_is_an_error(config, capsys, words, message):
    assert evaluate(config, *words) == 2
    assert message in capsys.readouterr().err


def test_a_split_without_truth_is_an_error(config, tmp_path, capsys, monkeypatch):
    for scene in evaluated_scenes(config):
        monkeypatch.setattr(scene, "has_depth", False)
    (tmp_path / "mine").mkdir()
    assert evaluate(config, "--predictions", tmp_path / "mine") == 1
    assert "has no ground-truth depth" in capsys.readouterr().err
