"""`python -m d3d room`: from a capture to depth, meshes, pictures and a page, at tiny settings."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from capture_writer import (
    Room,
    colmap_text,
    open3d_log,
    pose_list,
    record3d_exr,
    scannet_like,
    transforms,
    tum,
    write_depth,
    write_images,
)
from helpers import load_script
from PIL import Image

import d3d
from benchmarks import own_room
from d3d import cli, room
from d3d.datasets.capture.formats import FORMATS
from d3d.datasets.videos import read_video
from d3d.errors import ConfigError, DataError
from d3d.geometry import nearest_depth
from d3d.io import read_json
from d3d.models.sizes import fitting_size
from d3d.pipeline.runs import run_folder
from d3d.pipeline.scenes import dataset
from d3d.reconstruction import Mesh, render_depth
from d3d.room import pictures, results
from d3d.room.meshes import write_mesh

pytest.importorskip("open3d")
pytest.importorskip("av")

CHROMIUM = next(filter(None, map(shutil.which, load_script("system_libraries").BROWSERS)), None)
TINY = {"steps": 2, "batch_size": 2}
FILES = {"index.html", "mesh_before.ply", "mesh_after.ply", "picture.png", "room.json", "video.mp4"}


class Cropped(Room):
    """A room whose images are cropped to another shape: (height, width) of at most 144x192."""

    def __init__(self, size_hw, frames=24):
        super().__init__(frames)
        (h, w), (H, W) = size_hw, self.size_hw
        self.part = slice((H - h) // 2, (H + h) // 2), slice((W - w) // 2, (W + w) // 2)
        self.size_hw, self.K = (
            size_hw,
            self.K - np.array([[0, 0, (W - w) // 2], [0, 0, (H - h) // 2], [0, 0, 0]]),
        )

    def image(self, i):
        return np.ascontiguousarray(super().image(i)[self.part])

    def depth(self, i):
        return np.ascontiguousarray(super().depth(i)[self.part])


def enlarged(pose, factor=4.0):
    result = pose.copy()
    result[:3, 3] *= factor
    return result


@pytest.fixture(scope="module")
def relative(tmp_path_factory):
    """A room from COLMAP, of unknown scale and without depth: its folder, configuration and results."""
    folder = colmap_text(Room(24), tmp_path_factory.mktemp("capture") / "my room", unit=2.0)
    config = room.make_config(folder, height=64, width=96, **TINY)
    return folder, config, room.run_room(config)


@pytest.fixture(scope="module")
def hall(tmp_path_factory):
    """A portrait capture with depth of a hall four times as large as a room, from a network that ships."""
    cropped = Cropped((144, 108))
    folder = pose_list(cropped, tmp_path_factory.mktemp("capture") / "hall", of=enlarged)
    write_depth(cropped, folder / "depth", per_metre=4000.0)
    options = {
        "start": "shipped",
        "learning_rate": 1e-9,
        "height": 96,
        "width": 64,
    }
    config = room.make_config(folder, **options, **TINY)
    return config, room.run_room(config)


def depth_of(path):
    return np.asarray(Image.open(path)).astype(np.float32) / 1000


def weights_of(config, *stage):
    return run_folder(config).joinpath(*stage, "weights.safetensors")


def test_every_frame_has_the_depth_of_the_second_network_at_full_size(relative, hall):
    for config, folder in (relative[1:], hall):
        scene = dataset(config).scenes("all")[0]
        assert {p.name for p in folder.iterdir() if not p.name.startswith(".")} == {
            *FILES, "depth", "config.json", "provenance.json", "DONE",
        }  # fmt: skip
        assert {p.stem for p in (folder / "depth").iterdir()} == set(scene.frame_ids)
        model = d3d.load_model(weights_of(config, "distill", "lite", "robust"))
        for i in range(0, len(scene), 5):
            stored = depth_of(folder / "depth" / f"{scene.frame_ids[i]}.png")
            assert stored.shape == scene.size_hw
            np.testing.assert_allclose(stored, d3d.predict(model, scene.image(i)), atol=1e-3)


def read_mesh(path):
    import open3d as o3d

    mesh = o3d.io.read_triangle_mesh(str(path))
    assert mesh.has_vertex_colors()
    return Mesh(np.asarray(mesh.vertices), np.asarray(mesh.triangles, dtype=np.int32))


def test_a_mesh_lies_in_the_coordinates_and_the_unit_of_the_users_poses(relative, tmp_path):
    config, written = relative[1], Room(24)
    scene, size_hw = dataset(config).scenes("all")[0], config.data.size_hw
    assert scene.relative
    truth = [nearest_depth(written.depth(i) / 2 * scene.metres_per_unit, size_hw) for i in range(24)]
    write_mesh(config, scene, range(24), np.stack(truth), tmp_path / "mesh.ply")
    mesh = read_mesh(tmp_path / "mesh.ply")
    for i in (0, 12):
        pose = enlarged(written.poses[i], 0.5)  # as COLMAP has it: the unit is 2 m
        seen, depth = render_depth(mesh, written.K, pose[None], written.size_hw)[0], written.depth(i) / 2
        assert (seen > 0).mean() > 0.9
        assert np.median(np.abs(seen / depth - 1)[seen > 0]) < 0.01
    for name in ("before", "after"):
        vertices = read_mesh(relative[2] / f"mesh_{name}.ply").vertices
        low, high = np.percentile(vertices, (5, 95), axis=0), np.percentile(mesh.vertices, (5, 95), axis=0)
        assert np.abs(low - high).max() < 1.0  # untrained depth of the same room


def test_picture_video_and_facts(relative, hall):
    _, config, folder = relative
    assert Image.open(folder / "picture.png").width > 1000
    frames = list(read_video(folder / "video.mp4"))
    assert len(frames) == 24
    about = json.loads((folder / "room.json").read_text())
    assert (about["unit"], about["frames"], about["image_hw"], about["scores"]) == (
        "relative units", 24, [144, 192], {},
    )  # fmt: skip
    assert 0.01 < about["pose_error"] < 0.06
    text = (folder / "index.html").read_text()
    assert "Relative units" in text
    assert "Scores" not in text
    config, folder = hall
    about = json.loads((folder / "room.json").read_text())
    assert (about["unit"], about["image_hw"], about["network_hw"]) == ("metres", [144, 108], [96, 64])
    assert about["held_out"] == len(dataset(config).scenes("val")[0])
    assert about["scores"]["after"]["images"] == about["held_out"]
    text = (folder / "index.html").read_text()
    assert "Relative units" not in text
    assert f"{about['scores']['after']['sq_rel']:.3f}" in text
    assert f"sq_rel {about['scores']['before']['sq_rel']:.3f} -> " in room.printed(folder)


def test_a_network_that_ships_predicts_sane_depth_of_a_larger_room(hall):
    config, folder = hall
    assert config.data.max_depth > 35
    assert d3d.load_model(weights_of(config, "pretrain", "lite")).max_depth == config.data.max_depth
    scene = dataset(config).scenes("all")[0]
    ratios = []
    for i in range(0, 24, 4):
        truth = scene.depth(i)
        ratios.append(
            np.median(depth_of(folder / "depth" / f"{scene.frame_ids[i]}.png")[truth > 0] / truth[truth > 0])
        )
    assert 0.7 < np.median(ratios) < 1.4


def test_the_student_starts_from_the_teacher(hall):
    config, _ = hall  # trained with a learning rate of nearly nothing
    teacher, student = (
        d3d.load_model(weights_of(config, *stage))
        for stage in (("pretrain", "lite"), ("distill", "lite", "robust"))
    )
    image = dataset(config).scenes("all")[0].image(3)
    # the statistics of batch normalisation follow the images
    assert np.median(np.abs(d3d.predict(student, image) / d3d.predict(teacher, image) - 1)) < 0.1
    about = read_json(run_folder(config) / "distill" / "lite" / "robust" / "config.json", "identity")
    assert about["identity"]["initial"] == {"source": "teacher"}


def test_the_start_of_the_student_can_be_that_of_the_teacher(relative):
    folder, config, _ = relative
    same = room.make_config(folder, height=64, width=96, student_start="same", **TINY)
    assert (config.distill.weights, same.distill.weights) == ("teacher", None)
    assert (
        config.fusion.trunc_m == same.fusion.trunc_m == pytest.approx(0.3)
    )  # of a room; it follows the scene


def test_another_range_of_depth_scales_depth_or_keeps_it():
    image = Room(2).image(0)
    depth = d3d.predict(d3d.load_model("lite-distilled"), image)
    twice = d3d.predict(d3d.load_model("lite-distilled").use_depth_range(0.2, 20.0), image)
    np.testing.assert_allclose(twice, 2 * depth, rtol=1e-4)
    nearer = d3d.predict(d3d.load_model("lite-distilled").use_depth_range(0.02, 10.0), image)
    np.testing.assert_allclose(nearer[depth > 1], depth[depth > 1], rtol=0.12)
    with pytest.raises(ConfigError, match="min_depth < max_depth"):
        d3d.load_model("lite-distilled").use_depth_range(2.0, 1.0)


@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium; `make setup` installs it where it may")
def test_the_page_needs_no_network_and_makes_no_error(relative):
    playwright = pytest.importorskip("playwright.sync_api")
    folder, said = relative[2], []
    with playwright.sync_playwright() as p:
        browser = p.chromium.launch(
            executable_path=CHROMIUM,
            args=["--no-sandbox", "--use-angle=swiftshader", "--enable-unsafe-swiftshader"],
        )
        page = browser.new_page()
        page.set_default_timeout(90_000)
        page.on(
            "console",
            lambda message: said.append(message.text) if message.type in ("error", "warning") else None,
        )
        page.on("pageerror", lambda error: said.append(str(error)))
        allowed = ("data:", "blob:", "about:", folder.as_uri())
        page.on("request", lambda r: None if r.url.startswith(allowed) else said.append(r.url))
        page.on("requestfailed", lambda r: said.append(f"failed: {r.url}"))
        page.goto((folder / "index.html").as_uri())
        for name in ("before", "after"):
            page.frame_locator(f"iframe[title$='{name}']").locator("canvas").wait_for()
        assert page.locator("img").evaluate("image => image.naturalWidth") > 1000
        assert page.locator("video").evaluate("video => video.error") is None
        page.set_viewport_size({"width": 420, "height": 900})  # a phone
        assert page.evaluate("document.documentElement.scrollWidth") <= 420
        links = page.locator("a").evaluate_all("links => links.map(a => a.getAttribute('href'))")
        browser.close()
    assert said == []
    assert all((folder / link).exists() for link in links)


def test_a_second_call_computes_nothing(relative, monkeypatch, capsys):
    capture, config, folder = relative
    monkeypatch.setattr(results, "predict", None)  # any call is an error
    monkeypatch.setattr("d3d.pipeline.stages.trainings.train", None)
    before = {p: p.stat().st_mtime_ns for p in run_folder(config).rglob("*") if p.is_file()}
    assert room.write_results(config) == folder
    options = ["--steps", "2", "--batch-size", "2", "--height", "64", "--width", "96"]
    assert cli.main(["room", str(capture), *options]) == 0
    assert {p: p.stat().st_mtime_ns for p in run_folder(config).rglob("*") if p.is_file()} == before
    said = capsys.readouterr().out
    assert said.count("finished before") == 4
    assert f"open {folder / 'index.html'}" in said


def test_interrupted_results_resume_and_are_complete_or_absent(relative, monkeypatch, tmp_path):
    config, folder = relative[1:]
    (folder / "DONE").unlink()
    for name in (*FILES, "depth"):
        path = folder / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()

    def interrupted(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(results, "write_picture", interrupted)
        with pytest.raises(KeyboardInterrupt):
            room.write_results(config)
    assert not any((folder / name).exists() for name in (*FILES, "depth", "DONE"))
    monkeypatch.setattr(results, "predict", None)  # the depth is there: any call is an error
    room.write_results(config)
    assert {p.name for p in folder.iterdir()} >= {*FILES, "depth", "DONE"}
    assert not (folder / results.UNFINISHED).exists()


@pytest.mark.parametrize(
    ("size_hw", "expected"), [((144, 192), (192, 256)), ((144, 108), (256, 192)), ((108, 192), (160, 288))]
)
def test_the_networks_images_have_the_shape_of_the_capture(size_hw, expected, tmp_path):
    assert fitting_size(192 * 256, size_hw[1] / size_hw[0]) == expected
    config = room.make_config(
        pose_list(Cropped(size_hw, 12), tmp_path / "c", depth=False), check=False, run="shape"
    )
    assert config.data.size_hw == expected
    assert (config.arch, config.labels, config.run, config.data.every) == ("lite", "robust", "shape", 1)


def test_long_captures_have_fewer_targets(tmp_path, monkeypatch):
    monkeypatch.setattr("d3d.room.settings.MOST_TARGETS", 10)
    folder = pose_list(Room(24), tmp_path / "c", depth=False)
    assert room.make_config(folder, check=False).data.every == 3
    assert room.make_config(folder, check=False, every=1).data.every == 1


def test_wrong_paths_and_options_are_one_clear_error(tmp_path):
    folder = pose_list(Room(12), tmp_path / "c", depth=False)
    for path, message in (
        (tmp_path / "nothing", "there is no file or folder"),
        (tmp_path / "empty", r"neither a capture with camera poses nor images\. It is empty"),
        (tmp_path / "notes", r"neither a capture .* It holds a\.txt\."),
        (tmp_path / "videos", r"It holds a b\.mov\. For the video: `python -m d3d room '.*a b\.mov'`"),
        (
            tmp_path / "one.jpg",
            r"neither a folder, .* nor a video .* single image: `python -m d3d predict .*one\.jpg`",
        ),
        (tmp_path / "images.zip", r"nor a video .*Unpack an archive first"),
    ):
        (tmp_path / "empty").mkdir(exist_ok=True)
        (tmp_path / "notes").mkdir(exist_ok=True)
        (tmp_path / "notes" / "a.txt").write_text("a")
        (tmp_path / "videos").mkdir(exist_ok=True)
        for file in ("videos/a b.mov", "one.jpg", "images.zip"):
            (tmp_path / file).touch()
        with pytest.raises((ConfigError, DataError), match=message):
            room.make_config(path)
    for options, message in (
        ({"start": "imagnet"}, "Did you mean 'imagenet'"),
        ({"start": "monodepth2-distilled"}, "unknown start"),
        ({"student_start": "techer"}, "Did you mean 'teacher'"),
        ({"start": "shipped", "weights": "x"}, "set one of them"),
        ({"profile": "demo"}, "a room has its own profile"),
        ({"stepps": 3}, "unknown parameter"),
    ):
        with pytest.raises(ConfigError, match=message):
            room.make_config(folder, check=False, **options)
    assert cli.main(["room", str(tmp_path / "nothing")]) == cli.USAGE


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"intrinsics": "300,300,160,120"},
            r"--intrinsics: .* finds poses and intrinsics .* Leave out this option",
        ),
        ({"axes": "opengl", "depth_scale": 1000.0}, r"--axes, --depth-scale: .* Leave out these options"),
        ({"poses": "world-to-camera"}, "--poses"),
        ({"metres_per_unit": 2.0, "camera_height": 1.5}, "give only one"),
        ({"distance": ("a", "b", -1.0)}, "must be greater than 0"),
    ],
)
def test_options_that_a_video_cannot_have_are_an_error_before_its_poses(
    tmp_path, monkeypatch, options, message
):
    monkeypatch.setattr("d3d.room.settings.find_poses", None)  # any call is an error
    (tmp_path / "walk.mp4").touch()
    with pytest.raises(ConfigError, match=message):
        room.make_config(tmp_path / "walk.mp4", **options)


DAMAGED = {  # format -> writer; the file that is damaged; its new name, or None for other content; the file named
    "colmap": (colmap_text, "sparse/0/images.txt", "old", "sparse/0/cameras.txt"),
    "transforms": (transforms, "transforms.json", "transforms_all.json", "transforms_all.json"),
    "tum": (tum, "groundtruth.txt", "old", "rgb.txt"),
    "record3d": (record3d_exr, "EXR_RGBD", "pictures", "metadata"),
    "trajectory": (open3d_log, "trajectory.log", None, "trajectory.log"),
    "poselist": (pose_list, "poses.txt", "my_poses.txt", "my_poses.txt"),
    "folders": (scannet_like, "extrinsics/frame_000000.txt", None, "extrinsics/frame_000000.txt"),
}


@pytest.mark.parametrize("name", FORMATS)
def test_a_damaged_capture_is_not_taken_for_images_without_poses(name, tmp_path, monkeypatch):
    monkeypatch.setattr("d3d.room.settings.find_poses", None)  # any call is an error
    write, file, new_name, named = DAMAGED[name]
    root = write(Room(8), tmp_path / "capture")
    if new_name is None:
        (root / file).write_text("none")
    else:
        (root / file).rename((root / file).with_name(new_name))
    with pytest.raises(DataError, match=f"not a capture of format {name} .*{named}: this file is damaged"):
        room.make_config(root)


def test_the_benchmark_refuses_a_capture_without_truth(tmp_path):
    pose_list(Room(2), tmp_path / "captures/test-0000", depth=False)
    with pytest.raises(
        ConfigError, match=r"test-0000 is not the capture of a rendered room: .*glossyroom\.json"
    ):
        own_room.main(["--rooms", "test-0000", "--runs", str(tmp_path), "--out", str(tmp_path / "o.csv")])


def test_a_missing_package_is_an_error_before_the_trainings(tmp_path, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "av" else name)
    with pytest.raises(ConfigError, match=r"a room needs av: pip install 'd3d\[video\]'"):
        room.make_config(tmp_path)


def test_poses_of_images_and_videos_are_found_first(tmp_path, monkeypatch):
    source = tmp_path / "walk"
    write_images(Room(12), source / "DCIM")
    asked = []

    def find_poses(given, folder):
        asked.append((given, folder))
        return pose_list(Room(12), folder, depth=False)

    monkeypatch.setattr("d3d.room.settings.find_poses", find_poses)
    config = room.make_config(source, check=False, runs_dir=str(tmp_path / "runs"))
    assert config.run == "room-walk"
    assert asked == [(source, tmp_path / "runs" / "room-walk" / "poses" / "walk")]
    assert Path(config.data.root) == asked[0][1]
    (tmp_path / "a b.mp4").write_bytes(b"")
    assert room.make_config(tmp_path / "a b.mp4", check=False).run == "room-a b"
    assert asked[1][0] == tmp_path / "a b.mp4"


def test_the_pixels_with_depth_from_the_mesh_are_coloured():
    image, mask = np.full((4, 6, 3), 100, np.uint8), np.zeros((4, 6), bool)
    mask[1, 2] = True
    shown = pictures.marked(image, mask)
    assert (shown[~mask] == 178).all()
    assert shown[1, 2, 0] > shown[1, 2, 2] + 50


def test_wrong_poses_end_before_the_training(tmp_path, monkeypatch):
    folder = pose_list(Room(24), tmp_path / "c", of=np.linalg.inv, depth=False)
    monkeypatch.setenv("D3D_RUNS", str(tmp_path / "runs"))
    with pytest.raises(DataError, match="--poses world-to-camera"):
        room.make_config(folder)
    assert os.listdir(tmp_path / "runs" / "room-c") == ["capture"]
