"""`Scene`, `Dataset` and `open_dataset`: the common interface of all sources of frames."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
from polished_floor import PolishedFloor

from d3d.datasets import DATASETS, Dataset, Scene, SensFile, digest_of, open_dataset
from d3d.datasets.images import read_color, read_depth_png
from d3d.errors import ConfigError, DataError


class MemoryScene(Scene):
    """A scene in memory that counts its reads."""

    def __init__(self, n=6, size_hw=(20, 30), **frames):
        poses = np.tile(np.eye(4), (n, 1, 1))
        poses[:, 0, 3] = np.arange(n) * 0.07
        super().__init__(
            frames.pop("name", "room"),
            [f"f{i}" for i in range(n)],
            poses,
            size_hw,
            frames.pop("has_depth", True),
        )
        h, w = size_hw
        self.frames = {
            "image": lambda i: np.full((h, w, 3), i * 10, np.uint8),
            "depth": lambda i: np.full((h, w), 1.0 + i),
            "K": lambda i: np.array([[25.0, 0, 15], [0, 24, 10], [0, 0, 1]]),
            "mask": lambda i: None,
            **frames,
        }
        self.reads: list[tuple[str, int]] = []

    def _read(self, kind, i):
        self.reads.append((kind, i))
        return self.frames[kind](i)

    def _read_image(self, i):
        return self._read("image", i)

    def _read_depth(self, i):
        return self._read("depth", i)

    def _read_K(self, i):
        return self._read("K", i)

    def _read_highlight_mask(self, i):
        return self._read("mask", i)


def test_scene_gives_what_was_stored_in_stated_types():
    scene = MemoryScene()
    assert len(scene) == 6
    assert scene.frame_ids == ("f0", "f1", "f2", "f3", "f4", "f5")
    assert scene.world_T_cams.shape == (6, 4, 4)
    assert scene.world_T_cams.dtype == np.float64
    assert not scene.reads, "opening a scene must not read frames"
    assert scene.image(3).dtype == np.uint8
    assert (scene.image(3) == 30).all()
    assert scene.depth(2).dtype == np.float32
    assert (scene.depth(2) == 3).all()
    assert scene.K(0).dtype == np.float64
    assert scene.highlight_mask(0) is None
    assert scene.image(-1)[0, 0, 0] == 50


def test_no_depth_is_none_and_reads_nothing():
    scene = MemoryScene(has_depth=False)
    assert scene.depth(0) is None
    assert not scene.reads
    assert scene.block(1, 3).depth(0) is None


@pytest.mark.parametrize("i", [6, -7])
def test_frame_out_of_range(i):
    with pytest.raises(IndexError, match="has 6 frames"):
        MemoryScene().image(i)


def test_resize_is_antialiased():
    """A pattern finer than the target's pixels must become its mean, without aliasing."""
    stripes = np.zeros((120, 160, 3), np.uint8)
    stripes[:, ::2] = 200
    scene = MemoryScene(size_hw=(120, 160), image=lambda i: stripes)
    small = scene.image(0, (45, 60)).astype(float)
    assert small.shape == (45, 60, 3)
    # the two columns at each border see half a kernel
    assert abs(small[:, 2:-2] - 100).max() < 5
    point_sampled = stripes[::2, ::2]
    assert abs(point_sampled.astype(float) - 100).max() == 100


@pytest.mark.parametrize("size_hw", [(48, 60), (96, 128), (240, 320)])
def test_resized_image_and_resized_K_agree(size_hw):
    """The viewing ray of a blob's centre must not change. An error of half a pixel fails this test."""
    y, x = np.mgrid[:120, :160]
    blob = 250 * np.exp(-((x - 101.3) ** 2 + (y - 37.6) ** 2) / (2 * 6.0**2))
    scene = MemoryScene(size_hw=(120, 160), image=lambda i: np.repeat(blob[..., None], 3, 2).astype(np.uint8))

    def ray(size):
        image = scene.image(0, size)[..., 0].astype(float)
        v, u = np.mgrid[: image.shape[0], : image.shape[1]]
        return (
            np.linalg.inv(scene.K(0, size))
            @ [(u * image).sum(), (v * image).sum(), image.sum()]
            / image.sum()
        )

    assert np.allclose(ray(size_hw), ray(None), atol=0.06 / 25)


def test_highlight_mask_by_majority_of_area():
    mask = np.zeros((20, 30), bool)
    mask[4:8, 6:11] = True  # in units of 4x4 blocks at 5x: columns 6..10 cover half of one and all of another
    scene = MemoryScene(mask=lambda i: mask)
    assert (scene.highlight_mask(0) == mask).all()
    small = scene.highlight_mask(0, (5, 6))  # 4 rows and 5 columns a pixel
    assert small.dtype == bool
    expected = mask.reshape(5, 4, 6, 5).mean(axis=(1, 3)) >= 0.5
    assert expected.any()
    assert (small == expected).all()


def test_block_and_subset_are_views_in_order():
    scene = MemoryScene(n=10)
    block = scene.block(3, 8)
    assert block.name == "room.3-7"
    assert block.frame_ids == ("f3", "f4", "f5", "f6", "f7")
    inner = block.block(1, 3, name="inner")
    assert inner.name == "inner"
    assert (inner.world_T_cams == scene.world_T_cams[4:6]).all()
    assert not scene.reads
    assert (inner.image(1) == 50).all()
    assert scene.reads == [("image", 5)]
    picked = block.subset([4, 0], "picked")
    assert picked.frame_ids == ("f7", "f3")
    assert (picked.depth(0) == 8).all()
    assert (picked.K(1, (10, 15)) == scene.K(3, (10, 15))).all()
    assert picked.has_depth
    assert picked.size_hw == scene.size_hw


@pytest.mark.parametrize(("start", "stop"), [(2, 2), (3, 1), (-1, 2), (0, 7)])
def test_block_without_frames_or_beyond_the_scene(start, stop):
    with pytest.raises(DataError, match=r"'room' has frames 0..5"):
        MemoryScene().block(start, stop)


def test_empty_subset():
    with pytest.raises(DataError, match="'none' is empty"):
        MemoryScene().subset([], "none")


def test_empty_scene():
    with pytest.raises(DataError, match="'a' is empty"):
        Scene("a", [], np.zeros((0, 4, 4)), (4, 4))


def test_other_number_of_poses_than_frames():
    with pytest.raises(DataError, match="2 frames but 3 poses"):
        Scene("a", ["0", "1"], np.tile(np.eye(4), (3, 1, 1)), (4, 4))


def test_bad_pose_names_scene_and_frame():
    poses = np.tile(np.eye(4), (3, 1, 1))
    poses[1] = -np.inf
    with pytest.raises(DataError, match=r"scene 'a', frame f1.*not finite"):
        Scene("a", ["f0", "f1", "f2"], poses, (4, 4))


def test_errors_of_frames_name_scene_and_frame():
    scene = MemoryScene(
        image=lambda i: np.zeros((20, 31, 3), np.uint8), depth=lambda i: np.zeros((10, 15)), K=lambda i: None
    )
    with pytest.raises(DataError, match=r"scene 'room', frame f2: the image has shape \(20, 31, 3\)"):
        scene.image(2)
    with pytest.raises(DataError, match=r"frame f1: the depth map has shape \(10, 15\).*\(20, 30\)"):
        scene.depth(1)
    with pytest.raises(DataError, match="frame f0: no intrinsics"):
        scene.K(0)
    with pytest.raises(DataError, match="frame f4: no intrinsics"):
        scene.block(3, 5).K(1)


@pytest.mark.parametrize(
    "K", [np.eye(4), np.diag([0.0, 1, 1]), np.diag([np.nan, 1, 1]), np.diag([5.0, -5.0, 1.0])], ids=str
)
def test_bad_intrinsics(K):
    with pytest.raises(DataError, match="not a 3x3 camera matrix"):
        MemoryScene(K=lambda i: K).K(0)


def test_intrinsics_of_all_frames():
    scene = MemoryScene(K=lambda i: np.diag([5.0 + i, 6, 1]))
    assert scene.intrinsics().shape == (6, 3, 3)
    assert scene.intrinsics()[:, 0, 0].tolist() == [5, 6, 7, 8, 9, 10]
    assert scene.block(2, 4).intrinsics()[:, 0, 0].tolist() == [7, 8]


def test_intrinsics_that_are_one_for_the_scene_are_read_once():
    class OneCamera(MemoryScene):
        one_K = True

    scene = OneCamera()
    assert (scene.intrinsics() == MemoryScene().intrinsics()).all()
    assert scene.reads == [("K", 0)]
    scene.block(2, 4).digest()
    assert len(scene.reads) == 2


def moved(by: float) -> MemoryScene:
    scene = MemoryScene()
    scene.world_T_cams = scene.world_T_cams + 0.0
    scene.world_T_cams[2, 1, 3] += by
    return scene


def test_digest_reads_no_image_and_is_that_of_the_same_scene_anywhere():
    scene = MemoryScene()
    digest = scene.digest()
    assert len(digest) == 64
    assert {kind for kind, _ in scene.reads} == {"K"}
    assert pickle.loads(pickle.dumps(PolishedFloor(3))).digest() == PolishedFloor(3).digest()
    assert scene.without({}).digest() == scene.subset(range(6), "room").digest() == digest
    assert moved(1e-9).digest() == moved(-1e-9).digest() == digest, "rounded, without negative zeros"


@pytest.mark.parametrize(
    "other",
    [
        MemoryScene(name="hall"),
        MemoryScene(n=7),
        MemoryScene(size_hw=(20, 32)),
        MemoryScene(has_depth=False),
        MemoryScene(K=lambda i: np.array([[25.0, 0, 15], [0, 24, 10 + (i == 4)], [0, 0, 1]])),
        MemoryScene(n=7).without({"f6": "unreadable"}).without({"f1": "unreadable"}),
        MemoryScene(n=7).subset([0, 1, 2, 3, 4, 6], "room"),
        moved(1e-4),
    ],
)
def test_digest_of_another_scene_is_another(other):
    assert other.digest() != MemoryScene().digest()


def test_digest_knows_the_frames_numbers_in_the_video_and_the_size_of_depth():
    poses = np.tile(np.eye(4), (2, 1, 1))

    class Numbered(Scene):
        def _read_K(self, i):
            return np.eye(3)

    kinds = (
        {},
        {"numbers": [0, 10]},
        {"numbers": [0, 20]},
        {"has_depth": True},
        {"has_depth": True, "depth_hw": (2, 2)},
    )
    assert len({Numbered("a", ["0", "1"], poses, (4, 4), **kind).digest() for kind in kinds}) == len(kinds)
    assert (
        Numbered("a", ["0", "1"], poses, (4, 4), numbers=[0, 1]).digest()
        == Numbered("a", ["0", "1"], poses, (4, 4)).digest()
    )


def test_digest_of_several_scenes_and_of_the_frames_used():
    a, b = MemoryScene(name="a"), MemoryScene(name="b")
    digests = {
        digest_of([a]),
        digest_of([a, b]),
        digest_of([b, a]),
        digest_of([a, b], [[0, 1], [2]]),
        digest_of([a, b], [[0, 1], [3]]),
    }
    assert len(digests) == 5
    assert digest_of([a, b], [np.array([0, 1]), (2,)]) in digests


@pytest.mark.parametrize("K", [None, np.diag([np.nan, 1, 1])], ids=str)
def test_intrinsics_that_are_missing_are_found_by_the_digest(K):
    """Issue 12, 1.10: the error comes before a training starts, not at its first sample."""
    scene = MemoryScene(K=lambda i: np.diag([5.0, 5, 1]) if i < 4 else K)
    with pytest.raises(DataError, match=r"scene 'room', frame f4: "):
        scene.digest()
    with pytest.raises(DataError, match=r"scene 'room', frame f4: "):
        digest_of([MemoryScene(name="other"), scene.block(3, 6, "room")])


def test_the_reader_of_sens_files_is_where_the_interface_says(tmp_path):
    with pytest.raises(DataError, match="missing"):
        SensFile(tmp_path / "scene0000_00.sens")


def test_image_files_that_are_missing_truncated_or_something_else(tmp_path):
    from PIL import Image

    noise = np.random.default_rng(0).integers(0, 255, (40, 40, 3)).astype(np.uint8)
    for suffix in ("png", "jpg"):
        path = tmp_path / f"a.{suffix}"
        Image.fromarray(noise).save(path)
        assert read_color(path, "here").shape == (40, 40, 3)
        path.write_bytes(path.read_bytes()[:-800])
        with pytest.raises(DataError, match=rf"here: .*a\.{suffix} is truncated or not an image"):
            read_color(path, "here")
    (tmp_path / "text.png").write_text("<html>not found</html>")
    with pytest.raises(DataError, match="truncated or not an image"):
        read_color(tmp_path / "text.png", "here")
    with pytest.raises(DataError, match=r"here: .*none\.png is missing"):
        read_color(tmp_path / "none.png", "here")
    Image.fromarray(noise).save(tmp_path / "b.png")
    with pytest.raises(DataError, match="not a 16-bit grey depth png"):
        read_depth_png(tmp_path / "b.png", "here")
    Image.fromarray(np.array([[0, 1], [65535, 40000]], np.uint16)).save(tmp_path / "d.png")
    assert read_depth_png(tmp_path / "d.png", "here").tolist() == [[0, 1], [65535, 40000]]


def test_dataset_makes_a_split_once_and_only_when_asked():
    made = []
    dataset = Dataset("set", {"train": lambda: made.append(1) or [MemoryScene()], "val": list})
    assert dataset.splits == ("train", "val")
    assert not made
    scenes = dataset.scenes("train")
    scenes.clear()  # the caller's own list
    assert dataset.scenes("train")[0].name == "room"
    assert made == [1]
    with pytest.raises(DataError, match="'val' split of data set 'set' has no scene"):
        dataset.scenes("val")
    with pytest.raises(ConfigError, match=r"unknown split of data set 'set' 'trian'\. Did you mean 'train'"):
        dataset.scenes("trian")


def test_open_dataset_names_near_misses():
    with pytest.raises(ConfigError, match="Did you mean '7scenes'"):
        open_dataset("7-scenes")
    with pytest.raises(ConfigError, match=r"Did you mean 'frames'.*frames, rooms"):
        open_dataset("glossyrooms", frame=5)


def test_data_to_download_says_how_when_missing(tmp_path):
    with pytest.raises(DataError, match=r"needs root=.*Microsoft"):
        open_dataset("7scenes")
    with pytest.raises(DataError, match=r"no folder .*nowhere.*Microsoft"):
        open_dataset("7scenes", tmp_path / "nowhere")


@pytest.mark.parametrize("name", sorted(DATASETS))
def test_every_registered_set_documents_itself(name):
    assert DATASETS[name].__doc__


def test_scenes_travel_to_loading_processes():
    scene = PolishedFloor(3).block(1, 3)
    copy = pickle.loads(pickle.dumps(scene))
    assert (copy.image(1) == scene.image(1)).all()
