"""ScanNet: every layout gives the same scene, frames without a pose are left out by reason, splits by the lists."""

from __future__ import annotations

import hashlib
import pickle
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from typing import ClassVar

import numpy as np
import pytest
from PIL import Image
from sens_writer import SMALL_K, SensWriter, matrix, walk, write_small

from d3d.datasets import open_dataset
from d3d.datasets.lists import with_given
from d3d.datasets.records import read_matrix
from d3d.datasets.scannet import dataset as scannet
from d3d.datasets.scannet import lists as scannet_lists
from d3d.datasets.scannet.dataset import FolderScene, SensScene, find_scenes, registration_px
from d3d.datasets.scannet.lists import SPLITS, official_list, split_scenes
from d3d.datasets.scannet.sens import SensFile
from d3d.errors import ConfigError, DataError
from d3d.pipeline.scenes import training_scenes

LOST, ZERO, SCALED = np.full((4, 4), -np.inf), np.zeros((4, 4)), np.diag([2.0, 2, 2, 1])
NAME = "scene0704_00"


def poses_with_faults(n: int = 12) -> np.ndarray:
    poses = walk(n)
    poses[2], poses[3], poses[7] = LOST, ZERO, SCALED
    return poses


def export(sens, folder, layout: str) -> None:
    """Write a .sens file as single files, like the official exporter and other tools."""
    file = SensFile(sens)
    color = {"exported": "color/{}.jpg", "frames_25k": "color/{:06d}.jpg"}.get(
        layout, "sensor_data/frame-{:06d}.color.jpg"
    )
    depth = color.replace(".color.jpg", ".depth.png").replace("color/", "depth/").replace(".jpg", ".png")
    pose = color.replace(".color.jpg", ".pose.txt").replace("color/", "pose/").replace(".jpg", ".txt")
    for name in (color, depth, pose, "intrinsic/x"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
    for frame in file:
        (folder / color.format(frame.index)).write_bytes(frame.color)
        Image.fromarray(frame.depth_units()).save(folder / depth.format(frame.index))
        np.savetxt(folder / pose.format(frame.index), frame.world_T_cam, fmt="%f")
    K = "intrinsics_{}.txt" if layout == "frames_25k" else "intrinsic/intrinsic_{}.txt"
    np.savetxt(folder / K.format("color"), matrix(file.header.color_K), fmt="%f")
    np.savetxt(folder / K.format("depth"), matrix(file.header.depth_K), fmt="%f")


def write_lists(folder, **names: str) -> None:
    for split, scenes in names.items():
        (folder / f"scannetv2_{split}.txt").write_text("\n".join(scenes.split()) + "\n")


@pytest.fixture
def root(tmp_path):
    """A scene of val as a .sens file."""
    write_small(tmp_path / "scans" / NAME / f"{NAME}.sens", poses_with_faults())
    write_lists(tmp_path, val=NAME)
    return tmp_path


@pytest.mark.parametrize("layout", ["exported", "frames_25k", "sensor_data"])
@pytest.mark.parametrize("where", [".", "scans", "scans_test"])
def test_every_layout_is_the_same_scene(root, tmp_path_factory, layout, where):
    (released,) = open_dataset("scannet", root).scenes("val")
    other = tmp_path_factory.mktemp(layout)
    export(root / "scans" / NAME / f"{NAME}.sens", other / where / NAME, layout)
    (scene,) = open_dataset("scannet", other, split_lists=root).scenes("val")
    assert scene.name == released.name == NAME
    assert scene.frame_ids == released.frame_ids == ("0", "1", "4", "5", "6", "8", "9", "10", "11")
    assert (
        scene.invalid
        == released.invalid
        == {
            "pose not finite (tracking lost)": [2],
            "pose all zero": [3],
            "pose not a rotation": [7],
        }
    )
    assert scene.video_frames == released.video_frames == 12
    assert np.allclose(scene.world_T_cams, released.world_T_cams, atol=1e-6)
    assert np.allclose(scene.K(0), SMALL_K)
    assert (scene.size_hw, scene.depth_hw) == (released.size_hw, released.depth_hw) == ((36, 48), (18, 24))
    assert scene.registration_px == pytest.approx(released.registration_px, abs=1e-3)
    for i in (0, 3, -1):
        assert np.array_equal(scene.image(i), released.image(i))
        assert np.array_equal(scene.depth(i), released.depth(i))
    assert scene.depth(0)[0, 0] == 0
    assert pickle.loads(pickle.dumps(scene)).frame_ids == scene.frame_ids


def test_every_nth_frame_is_that_of_the_video(root):
    """Every 4th of the frames 0 1 4 5 6 8 .. 11 are 0, 4 and 8. Left-out frames do not shift them."""
    (scene,) = open_dataset("scannet", root).scenes("val")
    assert [scene.frame_ids[i] for i in scene.every(4)] == ["0", "4", "8"]
    assert [scene.frame_ids[i] for i in scene.every(7)] == ["0"]
    block = scene.block(2, 9)
    assert [block.frame_ids[i] for i in block.every(4)] == ["4", "8"]


def test_as_released_comes_before_what_was_made_of_it(root):
    (root / "scans" / NAME / "color").mkdir()
    assert find_scenes(root)[NAME].layout == "sens"
    (root / "scene0001_00.sens").write_bytes(b"")
    (root / "scene1_00.sens").write_bytes(b"")
    assert sorted(find_scenes(root)) == ["scene0001_00", NAME]


def test_splits_are_those_of_the_lists_as_far_as_they_are_there(root):
    write_small(root / "scans_test" / "scene0720_00.sens", walk(3))
    write_lists(root, test="scene0720_00 scene0721_00", train="scene0000_00")
    dataset = open_dataset("scannet", root)
    assert dataset.splits == ("val", "test")
    assert [s.name for s in dataset.scenes("test")] == ["scene0720_00"]
    assert not dataset.whole("test")
    with pytest.raises(ConfigError, match="unknown split"):
        dataset.scenes("train")
    write_lists(root, val="scene0001_00", test="scene0002_00")
    with pytest.raises(DataError, match=r"lists of splits contain none of the 2 scenes"):
        open_dataset("scannet", root)


def test_a_split_is_whole_where_its_scenes_are_there_and_scored_as_densely_as_the_papers(
    root, tmp_path_factory, monkeypatch
):
    monkeypatch.setitem(scannet_lists.SPLITS, "val", (1, ""))
    dataset = open_dataset("scannet", root)
    assert [dataset.whole("val", every) for every in (1, 2, 3, 10, 20)] == [True, True, False, True, False]
    sparse = tmp_path_factory.mktemp("sparse")
    export(root / "scans" / NAME / f"{NAME}.sens", sparse / NAME, "frames_25k")
    assert not open_dataset("scannet", sparse, split_lists=root).whole("val"), "every 100th frame"


def test_no_scene_no_folder_and_no_list(tmp_path):
    with pytest.raises(DataError, match=r"no scene of ScanNet.*terms of use"):
        open_dataset("scannet", tmp_path)
    with pytest.raises(DataError, match=r"needs root=.*terms of use"):
        open_dataset("scannet")
    write_small(tmp_path / "scene0000_00.sens", walk(2))
    with pytest.raises(DataError, match="none of ScanNet's lists of splits"):
        open_dataset("scannet", tmp_path, split_lists=tmp_path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("scene0000_00\n../scene0001_00\n", r"line 2: '../scene0001_00' is not the name of a scene"),
        ("scene0000_00\nscene0000_00\n", "line 2: 'scene0000_00' appears twice"),
        ("\n\n", "empty"),
    ],
)
def test_malformed_list_of_a_split(root, text, message):
    (root / "scannetv2_val.txt").write_text(text)
    with pytest.raises(DataError, match=message):
        open_dataset("scannet", root)


class Server(SimpleHTTPRequestHandler):
    """Serve a folder and record the requests."""

    asked: ClassVar[list[str]] = []

    def do_GET(self):
        self.asked.append(self.path)
        super().do_GET()

    def log_message(self, *arguments):
        pass


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """A cache, and no network."""
    monkeypatch.setenv("D3D_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(scannet_lists, "URL", "http://127.0.0.1:9/")
    return tmp_path / "cache" / "scannet"


@pytest.fixture
def served(cache, tmp_path, monkeypatch):
    """The folder of a server with a list of val, which the test makes the official list."""
    folder = tmp_path / "served"
    folder.mkdir()
    (folder / "scannetv2_val.txt").write_bytes(b"scene0000_00\n")
    (folder / "scannetv2_test.txt").write_bytes(b"scene0000_00\n")
    monkeypatch.setitem(SPLITS, "val", (1, hashlib.sha256(b"scene0000_00\n").hexdigest()))
    Server.asked.clear()
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Server, directory=folder)) as server:
        monkeypatch.setattr(scannet_lists, "URL", f"http://127.0.0.1:{server.server_port}/")
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield folder
        server.shutdown()


def test_official_lists_are_fetched_once_and_checked(served, cache):
    content = b"scene0000_00\n"
    assert official_list("val") == official_list("val") == content
    assert Server.asked == ["/scannetv2_val.txt"]
    (cache / "scannetv2_val.txt").write_bytes(b"scene0001_00\n")  # damaged: fetched again
    assert official_list("val") == content
    assert len(Server.asked) == 2
    with pytest.raises(DataError, match=r"has changed .*Put your own lists beside the scenes"):
        official_list("test")


def test_a_cache_that_cannot_be_written_does_not_stop_anyone(served, monkeypatch, tmp_path):
    """Issue 12, 1.9: the fallback caught an error that is never raised."""
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("D3D_CACHE", str(tmp_path / "file"))
    assert official_list("val") == official_list("val") == b"scene0000_00\n"
    assert len(Server.asked) == 2


def test_without_a_network_it_says_what_to_do(cache, tmp_path):
    with pytest.raises(
        DataError, match=r"cannot be downloaded.*Without a network: put scannetv2_train.txt"
    ) as e:
        split_scenes(tmp_path)
    assert "split_lists" not in str(e.value), "no stage has such an option"


def test_the_official_lists(cache, shared_dir):
    folder = shared_dir / "data" / "scannet"
    if not folder.is_dir():
        pytest.skip("needs the official lists among the development data")
    listed = split_scenes(folder)
    assert {split: len(scenes) for split, scenes in listed.items()} == {s: n for s, (n, _) in SPLITS.items()}
    cache.mkdir(parents=True)
    for split, (_, digest) in SPLITS.items():
        content = (folder / f"scannetv2_{split}.txt").read_bytes()
        assert hashlib.sha256(content).hexdigest() == digest
        (cache / f"scannetv2_{split}.txt").write_bytes(content)
        assert official_list(split) == content
    assert split_scenes(cache.parent) == listed
    assert "scene0704_00" in listed["val"]
    assert {"scene0721_00", "scene0776_00", "scene0781_00", "scene0796_00"} <= set(listed["test"])


def test_frames_25k_serve_evaluation_only(root, tmp_path_factory):
    other = tmp_path_factory.mktemp("sparse")
    export(root / "scans" / NAME / f"{NAME}.sens", other / NAME, "frames_25k")
    write_lists(other, train=NAME, val=NAME)
    dataset = open_dataset("scannet", other)
    assert len(dataset.scenes("val")[0]) == 9
    with pytest.raises(DataError, match=r"scannet_frames_25k.*too sparse for triples.*evaluation only"):
        dataset.scenes("train")


def test_triples_go_around_lost_frames_and_targets_are_every_tenth_of_the_video(tmp_path):
    """Steps of 2 cm: sources are 3 frames away, 4 where that one is lost; a lost target has no substitute."""
    from d3d.pipeline.config import make_config

    poses = walk(60)
    poses[17], poses[30] = LOST, ZERO
    write_small(tmp_path / "scene0000_00.sens", poses)
    write_lists(tmp_path, train="scene0000_00")
    config = make_config(profile="paper", dataset="scannet", root=str(tmp_path))
    (found,) = training_scenes(config)
    numbers = np.array([int(i) for i in found.scene.frame_ids])[found.triples.indices]
    assert numbers.tolist() == [[10, 7, 13], [20, 16, 23], [40, 37, 43], [50, 47, 53]]
    assert found.triples.targets_tried == 5
    assert [found.scene.frame_ids[i] for i in found.scene.every(10)] == ["0", "10", "20", "40", "50"]


def test_a_users_list_by_scene_and_number(root, tmp_path):
    dataset = open_dataset("scannet", root)
    path = tmp_path / "val_Reflection.txt"
    path.write_text(f"{NAME} 4\n{NAME} 000008\n")
    assert with_given(dataset, str(path), "val").lists("val") == {"Reflection": {(NAME, "4"), (NAME, "8")}}
    assert with_given(dataset, str(path), "val", every=4).lists("val")
    path.write_text(f"{NAME} 5\n")
    with pytest.raises(DataError, match="none of its 1 frames is evaluated with eval_every = 4"):
        with_given(dataset, str(path), "val", every=4)
    for frame, message in (
        ("3", "leaves frame '3' out: pose all zero"),
        ("000002", "tracking lost"),
        ("99", "no frame"),
    ):
        path.write_text(f"{NAME} {frame}\n")
        with pytest.raises(DataError, match=message):
            with_given(dataset, str(path), "val")


def test_depth_of_scannet_is_aligned_with_colour_to_a_pixel():
    """With the intrinsics that most scenes have, and those of scenes whose colour is 640x480."""
    color = np.array([[1170.187988, 0, 647.75], [0, 1170.187988, 483.75], [0, 0, 1]])
    depth = np.array([[577.870605, 0, 319.5], [0, 577.870605, 239.5], [0, 0, 1]])
    off = registration_px(color, (968, 1296), depth, (480, 640))
    assert 1.0 < off < 1.3
    assert registration_px(depth, (480, 640), depth, (480, 640)) < 1e-9
    moved = np.eye(4)
    moved[0, 3] = 0.025  # a Kinect's: 525 px focal length, 2 m away
    assert registration_px(depth, (480, 640), depth, (480, 640), moved) == pytest.approx(
        577.870605 * 0.025 / 2
    )
    assert registration_px(depth * 0, (480, 640), depth * 0, (480, 640)) is None


def test_a_scene_that_cannot_be_used_says_why(root, tmp_path):
    write_small(root / "scans" / NAME / f"{NAME}.sens", [LOST, LOST, ZERO])
    with pytest.raises(
        DataError, match=r"no frame has a valid pose \(2 x pose not finite .*; 1 x pose all zero\)"
    ):
        open_dataset("scannet", root).scenes("val")
    (tmp_path / "a" / "color").mkdir(parents=True)
    with pytest.raises(DataError, match="has no colour image"):
        FolderScene(tmp_path / "a", "a", "exported")


def exported(root, tmp_path):
    folder = tmp_path / "exported" / NAME
    export(root / "scans" / NAME / f"{NAME}.sens", folder, "exported")
    return folder


def test_broken_files_of_a_scene_name_themselves(root, tmp_path):
    folder = exported(root, tmp_path)
    (folder / "pose" / "1.txt").unlink()
    scene = FolderScene(folder, NAME, "exported")
    assert scene.invalid["no pose"] == [1]
    (folder / "color" / "0.jpg").write_bytes((folder / "color" / "0.jpg").read_bytes()[:200])
    with pytest.raises(DataError, match=r"frame 0: .*0\.jpg is truncated or not an image"):
        scene.image(0)
    (folder / "depth" / "0.png").unlink()
    assert scene.depth(0) is None, "unscored, not unreadable"
    (folder / "depth" / "4.png").write_bytes(b"")
    with pytest.raises(DataError, match=r"frame 4: .*4\.png is truncated"):
        scene.depth(1)
    Image.fromarray(np.zeros((480, 640), np.uint16)).save(folder / "depth" / "4.png")
    with pytest.raises(DataError, match=r"frame 4: the depth map has shape \(480, 640\)"):
        scene.depth(1)
    (folder / "pose" / "0.txt").write_text("1 2 3")
    scene = FolderScene(folder, NAME, "exported")
    assert scene.invalid["pose cannot be read"] == [0]
    assert "0.txt does not hold the 16 numbers" in scene.corrupt["0"]
    assert scene.left_out["0"] == "pose cannot be read"
    (folder / "color" / "00.jpg").write_bytes(b"")
    with pytest.raises(DataError, match=r"0\.jpg and 00\.jpg.*same frame|00\.jpg and 0\.jpg.*same frame"):
        FolderScene(folder, NAME, "exported")


def test_a_frame_of_a_sens_file_without_depth_is_unscored(tmp_path):
    image, depth = np.zeros((36, 48, 3), np.uint8), np.ones((18, 24), np.uint16)
    with SensWriter(tmp_path / f"{NAME}.sens", (36, 48), (18, 24), SMALL_K, SMALL_K) as file:
        file.add(image, b"", np.eye(4))
        file.add(image, depth, np.eye(4))
        file.add(image, b"broken", np.eye(4))
    scene = SensScene(tmp_path / f"{NAME}.sens", NAME)
    assert scene.depth(0) is None
    assert (scene.depth(1) == np.float32(0.001)).all()
    with pytest.raises(DataError, match="not zlib data"):
        scene.depth(2)


def test_no_image_can_be_read(root, tmp_path):
    folder = exported(root, tmp_path)
    for path in (folder / "color").iterdir():
        path.write_bytes(b"\xff\xd8")
    with pytest.raises(DataError, match=r"no image is readable. The first of 12: .*0\.jpg is not an image"):
        FolderScene(folder, NAME, "exported")


def test_no_intrinsics(root, tmp_path):
    folder = exported(root, tmp_path)
    (folder / "intrinsic" / "intrinsic_color.txt").unlink()
    scene = FolderScene(folder, NAME, "exported")
    assert scene.registration_px is None
    with pytest.raises(DataError, match="no intrinsics K"):
        scene.K(0)


def test_a_huge_text_file_is_not_read(tmp_path):
    path = tmp_path / "pose.txt"
    with open(path, "wb") as f:
        f.truncate(2**34)
    with pytest.raises(DataError, match="17179869184 bytes"):
        read_matrix(path, "here")


def test_names_of_the_layouts_are_what_find_scenes_says(root, tmp_path):
    for layout in scannet._LAYOUTS:
        export(root / "scans" / NAME / f"{NAME}.sens", tmp_path / layout / NAME, layout)
        (source,) = find_scenes(tmp_path / layout).values()
        assert (source.layout, source.name) == (layout, NAME)
