"""`python -m d3d predict`: the input files, the camera, the written files, and the effect of a second command."""

import json
import math

import numpy as np
import pytest
import torch
from PIL import Image

import d3d
from d3d.apply import FOR_IMAGES
from d3d.apply.camera import Camera, camera_of
from d3d.apply.inputs import find_inputs
from d3d.apply.results import OUTPUTS
from d3d.cli import main
from d3d.datasets.videos import Frame, read_video, video_writer
from d3d.errors import ConfigError
from d3d.models import create_model, save_weights
from d3d.prediction import read_depth

SIZE, FOCAL = (64, 96), (80.0, 80.0)


def photo(h=60, w=90, seed=0):
    small = np.random.default_rng(seed).integers(0, 256, (4, 6, 3), dtype=np.uint8)
    return Image.fromarray(small).resize((w, h), Image.Resampling.BICUBIC)


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    torch.manual_seed(0)
    model = create_model("lite", pretrained=False, init_depth_m=2.0)
    model.train_size, model.train_focal_px = SIZE, FOCAL
    return save_weights(model, tmp_path_factory.mktemp("weights") / "w.safetensors")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder of images, with one broken file and one file that is not an image."""
    monkeypatch.chdir(tmp_path)
    for path in ("in/kitchen/a.jpg", "in/bath/a.jpg", "in/b.PNG"):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        photo(seed=len(path)).save(path)
    (tmp_path / "in" / "notes.txt").write_text("no image")
    (tmp_path / "in" / "broken.jpg").write_bytes((tmp_path / "in/kitchen/a.jpg").read_bytes()[:300])
    Image.new("RGB", (200, 1)).save("in/strip.png")
    return tmp_path / "in"


def predict(weights, *words):
    return main(["predict", *map(str, words), "--model", str(weights), "--device", "cpu"])


# --- one command, and a second one ---------------------------------------------------------------------------


def test_a_folder_is_finished_but_for_its_broken_files(folder, weights, capsys):
    assert predict(weights, "in", "--out", "out") == 1
    shown = capsys.readouterr()
    assert "predict: 5 files, 1 neither image nor video" in shown.out
    assert "2 of 5 failed, the others are done" in shown.err
    for broken in ("broken.jpg: truncated", "strip.png: an image of height 1 and width 200 is too small"):
        assert broken in shown.err
    out = folder.parent / "out"
    results = sorted(p.parent.relative_to(out).as_posix() for p in out.rglob("predict.json"))
    assert results == ["b", "bath/a", "kitchen/a"]
    assert not list(out.rglob(".*"))
    model = d3d.load_model(weights)
    for name, file in {"b": "b.PNG", "kitchen/a": "kitchen/a.jpg"}.items():
        assert {p.name for p in (out / name).iterdir()} == {*OUTPUTS.values(), "predict.json"}
        depth = np.load(out / name / "depth.npy")
        assert np.array_equal(depth, d3d.predict(model, folder / file))
        assert np.abs(read_depth(out / name / "depth.png") - depth).max() <= 0.0005001
        with Image.open(out / name / "picture.jpg") as picture:
            assert picture.height == 60
            assert picture.width > 180
            shown = np.asarray(picture)[:, :90].astype(int)
        assert np.abs(shown - np.asarray(Image.open(folder / file))).mean() < 5
    about = json.loads((out / "b" / "predict.json").read_text())
    assert about["made_with"]["source"] == "b.PNG"
    assert (about["image_hw"], about["network_hw"], about["camera"]) == ([60, 90], [64, 96], "assumed")


def test_a_second_command_skips_what_is_finished(folder, weights, capsys):
    predict(weights, "in", "--out", "out", "--outputs", "depth")
    written = {p: p.stat().st_mtime_ns for p in (folder.parent / "out").rglob("*.png")}
    photo(seed=9).save("in/new.png")
    (folder / "broken.jpg").unlink()
    (folder / "strip.png").unlink()
    capsys.readouterr()
    assert predict(weights, "in", "--out", "out", "--outputs", "depth") == 0
    assert "predict: 4 files, 3 finished before" in capsys.readouterr().out
    assert {p: p.stat().st_mtime_ns for p in written} == written
    assert (folder.parent / "out/new/depth.png").is_file()


@pytest.mark.parametrize("harm", ["delete", "cut"])
def test_a_result_that_was_deleted_or_cut_is_made_again(folder, weights, capsys, harm):
    assert predict(weights, "in/b.PNG", "--out", "out") == 0
    (depth,) = list((folder.parent / "out").rglob("depth.npy"))
    whole = depth.read_bytes()
    depth.unlink() if harm == "delete" else depth.write_bytes(whole[:-4])
    assert predict(weights, "in/b.PNG", "--out", "out") == 0
    assert "finished before" not in capsys.readouterr().out.splitlines()[-2]
    assert depth.read_bytes() == whole


def test_out_may_not_be_a_file(folder, weights, capsys):
    assert predict(weights, "in/b.PNG", "--out", "in/notes.txt") == 2
    assert "--out in/notes.txt is a file: give a folder." in capsys.readouterr().err


def test_results_of_something_else_are_refused_or_overwritten(folder, weights, capsys):
    words = (folder / "b.PNG", "--out", "out", "--outputs", "npy")
    assert predict(weights, *words) == 0
    old = np.load("out/b/depth.npy")
    assert predict(weights, *words, "--size", "64x64") == 2
    assert "size_hw None is now [64, 64]. Choose another --out, or --overwrite" in capsys.readouterr().err
    photo(seed=5).save("in/b.PNG")
    assert predict(weights, *words) == 2
    assert "source_sha256" in capsys.readouterr().err
    assert np.array_equal(np.load("out/b/depth.npy"), old)
    assert predict(weights, *words, "--overwrite") == 0
    assert not np.array_equal(np.load("out/b/depth.npy"), old)
    (folder.parent / "other" / "b").mkdir(parents=True)
    assert predict(weights, folder / "b.PNG", "--out", "other") == 2
    assert "holds no predict.json: choose another --out" in capsys.readouterr().err


def test_a_killed_command_leaves_nothing_that_looks_finished(folder, weights, monkeypatch):
    def killed(*args, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr("d3d.apply.files.write_json", killed)
    assert predict(weights, "in/b.PNG", "--out", "out") == 130
    assert not list((folder.parent / "out").iterdir())


# --- files and their names -----------------------------------------------------------------------------------


def names(*paths, out="out"):
    return [(i.path.name, i.name) for i in find_inputs(paths, out)[0]]


def test_names_follow_the_folders_and_do_not_collide(folder):
    assert names("in") == [
        ("b.PNG", "b"),
        ("broken.jpg", "broken"),
        ("strip.png", "strip"),
        ("a.jpg", "bath/a"),
        ("a.jpg", "kitchen/a"),
    ]
    assert names("in/kitchen/a.jpg") == [("a.jpg", "a")]
    assert names("in/kitchen/a.jpg", "in/bath", "in/kitchen") == [("a.jpg", "kitchen/a"), ("a.jpg", "bath/a")]
    photo().save("in/kitchen.jpg")
    photo().save("in/b.jpg")
    found = dict(names("in", "."))
    assert found["b.PNG"] == "in/b_PNG"
    assert found["b.jpg"] == "in/b_jpg"
    assert found["kitchen.jpg"] == "in/kitchen_jpg"  # in/kitchen holds the results of in/kitchen/a.jpg
    photo().save("in/b_jpg.png")
    with pytest.raises(ConfigError, match="would have the same folder of results: rename one"):
        names("in")


def test_files_with_only_the_root_in_common_have_short_names(folder, tmp_path_factory, monkeypatch):
    """Files of two folder trees, as on two disks. Here the root is moved instead of the files."""
    monkeypatch.setattr("os.path.commonpath", lambda paths: "/")
    other = tmp_path_factory.mktemp("disk")
    (other / "bath").mkdir()
    for path in (other / "c.jpg", other / "bath" / "a.jpg"):
        photo().save(path)
    assert names("in/b.PNG", other / "c.jpg") == [("b.PNG", "b"), ("c.jpg", "c")]
    assert names("in/kitchen/a.jpg", "in/bath/a.jpg") == [("a.jpg", "kitchen/a"), ("a.jpg", "bath/a")]
    assert names("in/bath/a.jpg", other / "bath/a.jpg", other / "c.jpg") == [
        ("a.jpg", "in/bath/a"),
        ("a.jpg", f"{other.name}/bath/a"),
        ("c.jpg", "c"),
    ]
    assert ("a.jpg", "in/kitchen/a") in names("in", other)


def test_one_broken_file_is_not_counted(folder, weights, capsys):
    assert predict(weights, "in/strip.png", "--out", "out") == 1
    shown = capsys.readouterr().err
    assert "predict failed for" in shown
    assert "strip.png: an image of height 1 and width 200 is too small" in shown
    assert "1 of 1" not in shown
    assert predict(weights, "in/strip.png", "in/broken.jpg", "--out", "out") == 1
    assert "2 of 2 failed. Fix the causes" in capsys.readouterr().err


def test_results_are_not_taken_for_images(folder, weights):
    for out in ("in", "in/results"):
        assert predict(weights, "in/b.PNG", "--out", out) == 0
    assert {n for _, n in names("in")} == {"b", "broken", "strip", "bath/a", "kitchen/a"}
    photo().save("in/results/c.jpg")
    assert ("c.jpg", "results/c") not in names("in", out="in/results")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["nowhere", "in/gone.jpg"], "there is no file or folder nowhere, in/gone.jpg"),
        (["in/text"], "no image or video in in/text, but 1 other files"),
        (["in", "--fov", "60", "--focal-px", "500"], "give one of them"),
        (["in", "--fov", "200"], "must be an angle from 1 to 170"),
        (["in", "--focal-px", "-1"], "must be a positive number"),
        (["in", "--outputs", "depht"], "unknown output 'depht'. Did you mean 'depth'"),
        (["in", "--outputs", ","], "must name some of"),
        (["in", "--size", "100x96"], "multiples of 32"),
        (["in", "--size", "96"], "must be HEIGHTxWIDTH"),
        (["in", "--modle", "x"], "unknown option of predict: --modle. Did you mean '--model'"),
        (["in", "--out", "x", "in"], "give all images in one place"),
        (["in", "--steps", "3"], "--steps is not an option of predict, but of"),
    ],
)
def test_a_wrong_command_line_is_one_clear_error(folder, weights, capsys, words, message):
    (folder / "text").mkdir()
    (folder / "text" / "a.txt").touch()
    assert predict(weights, *words) == 2
    assert message in capsys.readouterr().err
    assert not (folder.parent / "out").exists()


def test_a_network_whose_size_is_unknown_needs_one(folder, tmp_path, capsys):
    path = save_weights(create_model("lite", pretrained=False), tmp_path / "old.safetensors")
    assert predict(path, "in/b.PNG", "--out", "out") == 2
    assert "the size of the training of" in capsys.readouterr().err
    assert predict(path, "in/b.PNG", "--out", "out", "--size", "64x96") == 0


# --- the camera ----------------------------------------------------------------------------------------------


def test_the_camera_is_given_or_noted_or_that_of_the_training(weights):
    model = d3d.load_model(weights)
    given = camera_of(model, (300, 400), 90.0, None, 1.0)
    assert (given.focal_px, given.source) == (pytest.approx(200), "given")
    assert camera_of(model, (400, 300), 90.0, None, None).focal_px == pytest.approx(
        200
    )  # along the longer side
    assert camera_of(model, (300, 400), None, 123.0, 1.0) == Camera(123.0, "given")
    assert camera_of(model, (300, 400), None, None, 321.0) == Camera(321.0, "EXIF")
    assumed = camera_of(model, (640, 960), None, None, None)
    assert (assumed.focal_px, assumed.source) == (pytest.approx(800), "assumed")
    assert assumed.fov_deg((640, 960)) == pytest.approx(math.degrees(2 * math.atan(0.6)))
    np.testing.assert_allclose(assumed.K_at((640, 960), (64, 96)), [[80, 0, 47.5], [0, 80, 31.5], [0, 0, 1]])


def test_a_known_camera_decides_what_the_network_sees_and_how_wide_the_cloud_is(folder, weights):
    trimesh = pytest.importorskip("trimesh", reason="trimesh comes with the extra 'fusion'")
    exif = Image.Exif()
    exif.get_ifd(0x8769)[0xA405] = 20
    photo(600, 900).save("in/wide.jpg", exif=exif)
    predict(weights, "in/wide.jpg", "--out", "exif", "--outputs", "cloud,npy")
    predict(weights, "in/wide.jpg", "--out", "given", "--outputs", "cloud,npy", "--fov", "40")
    for out, focal_px, source, fov in (("exif", 500, "EXIF", 84), ("given", 1236.4, "given", 40)):
        about = json.loads((folder.parent / out / "wide/predict.json").read_text())
        assert (about["focal_px"], about["camera"]) == (pytest.approx(focal_px, rel=1e-3), source)
        points = trimesh.load(folder.parent / out / "wide/cloud.ply").vertices
        assert (points[:, 2] < 0).all()
        seen = np.degrees(np.arctan(points[:, 0] / -points[:, 2]))
        assert np.ptp(seen) == pytest.approx(fov, abs=1)
        depth = np.load(folder.parent / out / "wide/depth.npy")
        expected = d3d.predict(d3d.load_model(weights), folder / "wide.jpg", focal_px=about["focal_px"])
        np.testing.assert_allclose(depth, expected, rtol=1e-5)
        assert tuple(about["network_hw"]) == {"EXIF": (96, 160), "given": (64, 96)}[source]


# --- videos --------------------------------------------------------------------------------------------------


@pytest.fixture
def video(tmp_path, monkeypatch):
    pytest.importorskip("av", reason="PyAV comes with the extra 'video'")
    monkeypatch.chdir(tmp_path)
    with video_writer(tmp_path / "room.mp4") as add:
        for i in range(5):
            add(Frame(np.asarray(photo(60, 90, seed=i)), 0.1 * i))
    return tmp_path / "room.mp4"


def test_a_video_becomes_depth_and_a_video(video, weights):
    assert predict(weights, video, "--out", "out") == 0
    out = video.parent / "out" / "room"
    assert sorted(p.name for p in out.iterdir()) == ["depth", "picture.mp4", "predict.json"]
    model = d3d.load_model(weights)
    frames, pictures = list(read_video(video)), list(read_video(out / "picture.mp4"))
    assert [p.time_s for p in pictures] == pytest.approx([f.time_s for f in frames], abs=1e-3)
    for i, (frame, picture) in enumerate(zip(frames, pictures, strict=True)):
        depth = read_depth(out / "depth" / f"{i:06}.png")
        assert np.abs(depth - d3d.predict(model, frame.image)).max() <= 0.0005001
        assert np.abs(picture.image[:, :90].astype(int) - frame.image).mean() < 15


def test_a_video_goes_on_after_its_last_frame(video, weights, monkeypatch, capsys):
    from d3d.apply import files

    whole = files._write_frame

    def full(folder, i, *args):
        if i == 3:
            raise OSError(28, "No space left on device")
        whole(folder, i, *args)

    monkeypatch.setattr(files, "_write_frame", full)
    with pytest.raises(OSError, match="No space"):
        predict(weights, video, "--out", "out", "--outputs", "npy,picture")
    out = video.parent / "out"
    assert not (out / "room").exists()
    first = {p.name: p.stat().st_mtime_ns for p in (out / ".room.unfinished" / "depth").iterdir()}
    assert set(first) >= {"000000.png", "000001.png"}
    monkeypatch.setattr(files, "_write_frame", whole)
    assert predict(weights, video, "--out", "out", "--outputs", "npy,picture") == 0
    assert sorted(p.name for p in out.iterdir()) == ["room"]
    assert sorted(p.name for p in (out / "room").iterdir()) == ["npy", "picture.mp4", "predict.json"]
    assert len(list((out / "room" / "npy").iterdir())) == 5


def test_a_video_whose_picture_was_not_finished_is_not_predicted_again(video, weights, monkeypatch):
    from d3d.apply import files

    with monkeypatch.context() as patch:
        patch.setattr(files, "beside", lambda *args: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            predict(weights, video, "--out", "out")
    out = video.parent / "out"
    assert [p.name for p in out.iterdir()] == [".room.unfinished"]
    assert not list((out / ".room.unfinished").glob("*.mp4"))
    monkeypatch.setattr(files, "predict", None)
    assert predict(weights, video, "--out", "out") == 0
    assert len(list(read_video(out / "room" / "picture.mp4"))) == 5


def test_a_broken_video_does_not_stop_the_others(video, weights, capsys):
    content = video.read_bytes()
    (video.parent / "broken.mov").write_bytes(content[: len(content) // 2])
    photo().save(video.with_name("a.png"))
    assert predict(weights, ".", "--out", "out", "--outputs", "depth") == 1
    assert "1 of 3 failed" in (shown := capsys.readouterr().err)
    assert "broken.mov: truncated or not a video" in shown
    assert (video.parent / "out/room/depth/000004.png").is_file()
    assert (video.parent / "out/a/depth.png").is_file()


def test_outputs_of_images_are_all_that_there_are():
    assert set(FOR_IMAGES) == set(OUTPUTS)
