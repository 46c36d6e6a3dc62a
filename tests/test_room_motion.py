"""Frames of a video and structure from motion: poses as rendered, resume, and an error for each bad recording."""

import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import time

import numpy as np
import pytest
import textured_room
from helpers import REPO, children_of, is_alive
from PIL import Image
from scipy.ndimage import gaussian_filter, zoom
from textured_room import render, turn, walk, walls, write

from benchmarks.poses import aligned_errors
from d3d import cli
from d3d.datasets import open_dataset
from d3d.datasets.videos import Frame, read_video, video_writer
from d3d.errors import BusyError, ConfigError, DataError, RunError
from d3d.room import frames, motion
from d3d.room.frames import View, choose, measure, write_frames
from d3d.room.motion import find_poses, pairs, summary
from glossyrooms.capture import truth_of

pytest.importorskip("pycolmap", reason="pycolmap comes with the extra 'capture'")
COUNT = 12


@pytest.fixture(scope="module")
def textures():
    return walls()


@pytest.fixture(scope="module")
def poses():
    return np.array(walk(COUNT))


@pytest.fixture(scope="module")
def photos(textures, poses, tmp_path_factory):
    """A folder of images IMG_1.png to IMG_12.png of a walk."""
    return write(tmp_path_factory.mktemp("source") / "photos", [render(pose, textures) for pose in poses])


@pytest.fixture(autouse=True)
def _small(monkeypatch):
    monkeypatch.setitem(motion.SETTINGS, "most_features", 1000)


@pytest.fixture(scope="module")
def found(photos, tmp_path_factory):
    """The poses of the walk."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(motion.SETTINGS, "most_features", 1000)
        return find_poses(photos, tmp_path_factory.mktemp("found") / "poses")


def video(path, images):
    with video_writer(path) as add:
        for i, image in enumerate(images):
            add(Frame(image, i / 30))
    return path


# --- the choice of frames -----------------------------------------------------------------------------------


def picture(size=900):
    return walls_picture(size)[..., None].repeat(3, axis=2)


def walls_picture(size):
    rng = np.random.default_rng(3)
    blots = sum(gaussian_filter(rng.standard_normal((size, size)), s) * s for s in (2, 6))
    return np.clip(128 + 120 * blots, 0, 255).astype(np.uint8)


def test_motion_is_the_path_of_the_image():
    whole = picture()
    x = [0, 6, 14, 20, 20, 20, 60]  # of the left border, pixels
    views = list(measure(whole[100:580, a : a + 640] for a in x))
    # measured on half the pixels, to whole pixels
    assert [v.motion * 640 for v in views] == pytest.approx(x, abs=4)


def test_noise_is_no_motion_and_approaching_is():
    rng, whole = np.random.default_rng(0), picture()[:480, :640]
    noisy = [np.clip(whole + rng.normal(0, 6, whole.shape), 0, 255).astype(np.uint8) for _ in range(20)]
    assert [v.motion for v in measure(noisy)] == [0.0] * 20
    near = zoom(whole[48:432, 64:576], (1.25, 1.25, 1), order=1)
    assert near.shape == whole.shape
    assert [*measure([whole, near])][1].motion > 0.03
    assert [v.motion for v in measure(np.full((3, 480, 640, 3), 90, np.uint8))] == [0.0] * 3


def test_a_blurred_frame_is_less_sharp():
    whole = picture()[:480, :640]
    sharp, blurred = measure([whole, gaussian_filter(whole, (0, 4, 0))])
    assert blurred.sharpness < 0.6 * sharp.sharpness


def test_the_sharpest_frame_of_each_interval_is_chosen():
    rng = np.random.default_rng(0)
    moving = [View(s, 0.4 * i / 199) for i, s in enumerate(rng.uniform(1, 2, 200))]
    chosen = choose(moving, 10)
    assert len(chosen) == 10
    for k, i in enumerate(chosen):  # of the frames in the middle of its interval
        inside = [j for j, v in enumerate(moving) if abs(v.motion / 0.04 - k - 0.5) <= 0.3]
        assert moving[i].sharpness == max(moving[j].sharpness for j in inside)
    still = [View(v.sharpness, 0.4) for v in moving]
    assert len(choose(moving + still, 10)) == 10  # a pause needs no more frames
    assert len(choose(moving, 1000)) == round(0.4 / frames.MIN_MOTION)


def test_frames_of_a_video_are_spread_and_written_once(tmp_path, monkeypatch):
    whole = picture()
    left = [min(4 * i, 160) + max(0, 4 * (i - 60)) for i in range(100)]  # stands still from frame 40 to 60
    source = video(tmp_path / "v.mp4", [whole[100:340, x : x + 320] for x in left])
    folder = tmp_path / "out"
    folder.mkdir()
    result = write_frames(source, folder, most=25)
    numbers = [n for _, n, _ in result["frames"]]
    assert 20 <= len(numbers) <= 25
    assert result["read"] == 100
    moved = np.diff([left[n] for n in numbers])
    assert moved.min() > 0.3 * np.median(moved)
    assert moved.max() < 2.5 * np.median(moved)
    assert sum(40 < n < 60 for n in numbers) <= 1
    name, number, _ = result["frames"][7]
    written = np.asarray(Image.open(folder / "images" / name)).astype(int)
    assert np.abs(written - whole[100:340, left[number] : left[number] + 320]).mean() < 6
    # an interrupted call: only the missing frame is written
    (folder / "frames.json").unlink()
    (folder / "images" / name).unlink()
    kept = {p: p.stat().st_mtime_ns for p in (folder / "images").iterdir()}
    monkeypatch.setattr(frames, "measure", None)
    assert write_frames(source, folder, most=25) == result
    assert (folder / "images" / name).is_file()
    assert all(p.stat().st_mtime_ns == t for p, t in kept.items())


def test_large_frames_are_reduced_while_they_are_decoded(tmp_path):
    source = video(tmp_path / "v.mp4", [picture()[:480, :640]] * 2)
    assert next(read_video(source, longest=320)).image.shape == (240, 320, 3)
    assert next(read_video(source, longest=4000)).image.shape == (480, 640, 3)


def test_images_are_upright_in_natural_order_and_a_broken_one_is_left_out(tmp_path, capsys):
    source, image = tmp_path / "photos", picture(200)[:120, :160]
    write(source, [image] * 12, ".jpg")
    turned, exif = Image.fromarray(np.rot90(image).copy()), Image.Exif()
    exif[0x0112] = 6  # to be turned by a quarter clockwise
    exif.get_ifd(0x8769)[0xA405] = 26
    turned.save(source / "IMG_2.jpg", exif=exif, quality=95)
    Image.fromarray(image[:100]).save(source / "IMG_3.jpg")
    (source / "IMG_5.jpg").write_bytes(b"no image")
    (source / "IMG_1.jpg").rename(source / "Küche 1 neu.jpg")
    (tmp_path / "out").mkdir()
    result = write_frames(source, tmp_path / "out", most=50)
    kept = [*(f"IMG_{i}.jpg" for i in range(2, 13) if i != 5), "Küche 1 neu.jpg"]
    assert [s for _, s, _ in result["frames"]] == kept
    assert (
        result["frames"][-1][0] == "00011_Küche_1_neu.jpg"
    )  # blanks separate the names of a pair for COLMAP
    assert sorted(n for n, *_ in result["frames"]) == [n for n, *_ in result["frames"]]
    assert "IMG_5.jpg" in result["left_out"]
    assert "IMG_5.jpg is left out" in capsys.readouterr().out
    upright = Image.open(tmp_path / "out/images/00000_IMG_2.jpg")
    assert upright.size == (160, 120)
    assert not upright.getexif()
    assert np.abs(np.asarray(upright).astype(int) - image).mean() < 4
    groups = motion._groups(tmp_path / "out/images", result["frames"])
    assert [(g["size_hw"], g["focal_px"] and round(g["focal_px"]), len(g["names"])) for g in groups] == [
        ((120, 160), 120, 1),  # 26 mm of a diagonal of 43.3 mm
        ((100, 160), None, 1),
        ((120, 160), None, 9),
    ]


def test_more_images_than_frames_are_chosen_by_motion(tmp_path):
    whole = picture()
    source = write(tmp_path / "photos", [whole[:240, x : x + 320] for x in range(0, 480, 8)])
    (tmp_path / "out").mkdir()
    result = write_frames(source, tmp_path / "out", most=12)
    assert len(result["frames"]) == 12
    assert result["read"] == 60


# --- poses --------------------------------------------------------------------------------------------------


def test_poses_are_those_of_the_rendered_images(found, poses):
    report = json.loads((found / "report.json").read_text())
    assert report["registered"] == report["frames"] == COUNT
    assert report["error_px"] < 0.5
    assert set(report["seconds"]) == {"frames", "features", "matches", "model"}
    (scene,) = open_dataset("capture", found).scenes("all")
    order = [int(name.split("_")[-1]) - 1 for name in scene.frame_ids]
    assert order == [*range(COUNT)]
    errors, scale = aligned_errors(scene.world_T_cams[:, :3, 3], poses[:, :3, 3])
    assert errors.max() < 0.02  # metres, in a room of 4 m
    assert scale > 0
    assert scene.K(0)[0, 0] == pytest.approx(textured_room.K[0, 0], rel=0.05)
    assert sorted(
        p.name for p in (found / "sparse/0").iterdir() if p.stem in ("cameras", "images", "points3D")
    ) == [
        *("cameras.bin", "images.bin", "points3D.bin"),
    ]


def test_a_finished_folder_is_reused_and_another_source_is_refused(
    found, photos, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(motion, "_find", None)
    assert find_poses(photos, found) == found
    assert "already there" in capsys.readouterr().out
    for source, most, differ in ((photos, 200, "settings"), (tmp_path / "photos", 300, "digest")):
        if not source.exists():
            shutil.copytree(photos, source)
            (source / "IMG_3.png").touch()
        with pytest.raises(RunError, match=rf"another source or of other settings \({differ} differ"):
            find_poses(source, found, most)
    (tmp_path / "full").mkdir()
    (tmp_path / "full/notes.txt").touch()
    with pytest.raises(RunError, match="holds other files"):
        find_poses(photos, tmp_path / "full")
    with pytest.raises(ConfigError, match="lies in the source"):
        find_poses(photos, photos / "poses")
    with pytest.raises(ConfigError, match="at least 10 frames"):
        find_poses(photos, tmp_path / "new", most_frames=9)


def test_a_folder_in_use_is_refused(photos, tmp_path):
    from filelock import FileLock

    with FileLock(tmp_path / ".lock"), pytest.raises(BusyError, match="in use by another process"):
        find_poses(photos, tmp_path)


def test_a_killed_call_resumes_with_the_missing_matches(photos, tmp_path, poses):
    folder = tmp_path / "poses"
    code = (
        "import sys; from pathlib import Path; from d3d.room import motion\n"
        "motion.SETTINGS['most_features'] = 1000\n"
        "motion.find_poses(Path(sys.argv[1]), Path(sys.argv[2]))"
    )
    environment = {**os.environ, "PYTHONPATH": str(REPO)}
    running = subprocess.Popen([sys.executable, "-c", code, photos, folder], env=environment)
    total = len(pairs(COUNT))
    while motion._count(folder / "database.db", "two_view_geometries") < 10:
        assert running.poll() is None
        time.sleep(0.05)
    children = children_of(running.pid)
    os.kill(running.pid, signal.SIGKILL)
    running.wait()
    assert len(children) == 1
    while is_alive(children[0]):  # it ends with its parent
        time.sleep(0.05)
    before = motion._count(folder / "database.db", "two_view_geometries")
    assert before < total
    with sqlite3.connect(folder / "database.db") as database:
        for table in ("descriptors", "two_view_geometries"):
            database.execute(f"CREATE TABLE new_{table} (id)")
            database.execute(
                f"CREATE TRIGGER t_{table} AFTER INSERT ON {table} BEGIN INSERT INTO new_{table} VALUES (1); END"
            )
    find_poses(photos, folder)
    assert motion._count(folder / "database.db", "new_descriptors") == 0
    assert motion._count(folder / "database.db", "new_two_view_geometries") == total - before
    (scene,) = open_dataset("capture", folder).scenes("all")
    assert aligned_errors(scene.world_T_cams[:, :3, 3], poses[:, :3, 3])[0].max() < 0.02


def test_a_terminated_call_ends_with_one_line(photos, tmp_path):
    command = [sys.executable, "-m", "d3d", "room", photos, "--runs-dir", tmp_path, "--run", "r"]
    running = subprocess.Popen(
        command, cwd=REPO, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True
    )
    folder = tmp_path / "r" / "poses" / "photos"
    while not motion._count(folder / "database.db", "descriptors"):
        assert running.poll() is None
        time.sleep(0.05)
    children = children_of(running.pid)
    assert children
    running.terminate()
    said = running.communicate()[1]
    assert running.returncode == cli.TERMINATED
    assert said.splitlines()[-1] == "Interrupted. Repeat the command to resume."
    assert "***" not in said  # a trace of C++
    assert not any(map(is_alive, children))


def test_a_step_that_dies_is_named(photos, tmp_path, monkeypatch):
    monkeypatch.setattr(motion.motion_process, "__file__", str(tmp_path / "missing.py"))
    with pytest.raises(RunError, match=r"COLMAP stopped in the step 'features' \(exit code 2\); .*log\.txt"):
        find_poses(photos, tmp_path / "poses")


def test_pairs_are_neighbours_far_ones_and_places():
    found = pairs(300)
    assert found == sorted(set(found))
    assert all(0 <= i < j < 300 for i, j in found)
    assert {(7, j) for j in (8, 12, 17, 23, 39, 71, 135, 263)} <= set(found)
    assert (0, 295) in found  # the ends of a loop
    assert (7, 18) not in found
    assert len(found) < 300 * 25


def test_a_report_warns_of_few_registered_frames_and_of_several_models():
    report = {"frames": 100, "registered": 40, "error_px": 0.7, "points": 12345, "models": [40, 30]}
    text = "\n".join(summary(report | {"seconds": {"frames": 3.0, "model": 20.0}}))
    assert "40 of 100 frames registered (40%), mean reprojection error 0.70 pixels, 12,345 points" in text
    assert "2 models that do not join (40, 30 frames)" in text
    assert "Warning: only 40% of the frames have a pose. Film again: move sideways and slowly" in text
    whole = {
        "registered": 100,
        "models": [100, 4],
        "seconds": {},
    }  # the small model repeats frames of the large one
    assert (
        len(summary(report | whole))
        == len(summary(report | {"registered": 60, "models": [60], "seconds": {}}))
        == 2
    )


# --- bad recordings -----------------------------------------------------------------------------------------


def test_a_camera_that_only_turns_is_an_error(textures, tmp_path):
    source = write(tmp_path / "photos", [render(pose, textures) for pose in turn(12)])
    with pytest.raises(DataError, match="the camera only turned"):
        find_poses(source, tmp_path / "poses")


def test_blurred_images_are_an_error(textures, poses, tmp_path):
    images = [gaussian_filter(render(pose, textures), (12, 12, 0)) for pose in poses]
    with pytest.raises(DataError, match=r"fewer than 100 details .* blurred, dark or without texture"):
        find_poses(write(tmp_path / "photos", images), tmp_path / "poses")


def test_images_without_overlap_are_an_error(tmp_path):
    whole = picture()
    images = [whole[y : y + 160, x : x + 200] for y in range(0, 800, 170) for x in (0, 300, 600)]
    with pytest.raises(
        DataError, match=r"no frame is registered; 0 of 105 pairs of frames overlap\. Film again"
    ):
        find_poses(write(tmp_path / "photos", images), tmp_path / "poses")


def test_two_recordings_are_not_merged(tmp_path):
    for name in ("kitchen", "hall", ".thumbnails", "__MACOSX"):
        write(tmp_path / "rooms" / name, [picture(100)] * 6)
    with pytest.raises(
        DataError, match=r"2 folders: .*hall \(6 images\), .*kitchen \(6 images\)\. Two recordings"
    ):
        find_poses(tmp_path / "rooms", tmp_path / "poses")


def test_bad_sources_are_named(photos, tmp_path):
    few = write(tmp_path / "few", [picture(100)] * 9)
    with pytest.raises(DataError, match="few has 9 readable images, but at least 10 are needed"):
        find_poses(few, tmp_path / "a")
    still = video(tmp_path / "still.mp4", [picture()[:240, :320]] * 30)
    with pytest.raises(DataError, match="moves too little: only 1 of 30 frames differ"):
        find_poses(still, tmp_path / "b")
    short = video(tmp_path / "short.mp4", [picture()[:240, :320]] * 5)
    with pytest.raises(DataError, match="has 5 frames, but at least 10"):
        find_poses(short, tmp_path / "c")
    (tmp_path / "broken.mov").write_bytes(still.read_bytes()[:900])
    with pytest.raises(DataError, match=r"broken\.mov: truncated or not a video"):
        find_poses(tmp_path / "broken.mov", tmp_path / "d")
    with pytest.raises(DataError, match=r"missing\.mp4 is missing"):
        find_poses(tmp_path / "missing.mp4", tmp_path / "e")
    (tmp_path / "notes.txt").write_text("hello")
    with pytest.raises(DataError, match="no video with a known suffix"):
        find_poses(tmp_path / "notes.txt", tmp_path / "f")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="holds no image"):
        find_poses(tmp_path / "empty", tmp_path / "g")


# --- a real video -------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_poses_of_a_real_video(shared_dir, tmp_path):
    root = shared_dir / "data" / "7scenes"
    if not root.is_dir():
        pytest.skip("needs 7scenes/redkitchen in the development data")
    (scene,) = open_dataset("7scenes", root).scenes("test")
    # over a longer walk the known poses themselves drift by more (E37)
    source = video(tmp_path / "kitchen.mp4", (scene.image(i) for i in range(120)))
    folder = find_poses(source, tmp_path / "poses", most_frames=30)
    report = json.loads((folder / "report.json").read_text())
    assert report["registered"] >= 0.9 * report["frames"]
    (found,) = open_dataset("capture", folder).scenes("all")
    known = scene.world_T_cams[[int(name.split("_")[-1]) for name in found.frame_ids]]
    errors, _ = aligned_errors(found.world_T_cams[:, :3, 3], known[:, :3, 3])
    assert np.median(errors) < 0.03


def test_found_poses_are_no_rendered_room(found):
    """Notebook 11 looks for the truth of a rendered room in every capture."""
    assert truth_of(found) is None
