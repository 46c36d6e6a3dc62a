"""GlossyRooms: reading returns what was written, errors name damaged files, and the set that ships is valid."""

from __future__ import annotations

import hashlib
import io
import itertools
import json
import pickle
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from torch.utils.data import DataLoader

from d3d.datasets import Dataset, find_triples, open_dataset
from d3d.datasets.samples import TripleSamples
from d3d.errors import ConfigError, DataError, WriteError
from glossyrooms import archive

HW = (24, 32)


def make_room(path: Path, seed: int = 0, frames: int = 4, depth: bool = True, **changes) -> dict:
    """Write an artificial room. Return the arguments of `archive.write_room`."""
    rng = np.random.default_rng(seed)
    h, w = HW
    y, x = np.mgrid[:h, :w]
    poses = np.tile(np.eye(4), (frames, 1, 1))
    poses[:, 0, 3] = 0.07 * np.arange(frames)
    smooth = [128 + 100 * np.sin(0.2 * x + 0.1 * y + phase) for phase in rng.uniform(0, 6, frames)]
    masks = [rng.integers(0, 4, HW) + archive.HIGHLIGHT * rng.integers(0, 2, HW) for _ in range(frames)]
    room = {
        "name": path.stem,
        "split": path.parent.name,
        "seed": seed,
        "K": np.array([[30, 0, (w - 1) / 2], [0, 30, (h - 1) / 2], [0, 0, 1.0]]),
        "frame_ids": [f"{i:06d}" for i in range(frames)],
        "world_T_cams": poses,
        "images": [np.stack((a, a, 255 - a), axis=2).astype(np.uint8) for a in smooth],
        "shares": {"highlight": [0.02] * frames, "mirror": [0.0] * frames},
        "spec": {"floor": "oak"},
        "versions": {"d3d": "0"},
    }
    if depth:
        room["depths"] = [rng.uniform(0, 6, HW) for _ in range(frames)]
        room["masks"] = [mask.astype(np.uint8) for mask in masks]
        room["virtuals"] = [np.where(m & archive.HIGHLIGHT, rng.uniform(6, 9, HW), 0) for m in masks]
    room |= changes
    archive.write_room(path, **room)
    return room


def make_set(root: Path, **changes) -> Path:
    """Two training rooms without depth, one val and one test room with it."""
    for seed, name in enumerate(("train/a", "train/b", "val/c", "test/d")):
        make_room(root / f"{name}.zip", seed, depth=not name.startswith("train"), **changes)
    archive.write_manifest(root, "make", {"d3d": "0"})
    return root


@pytest.fixture
def root(tmp_path) -> Path:
    return make_set(tmp_path / "set")


def open_all(root: Path) -> None:
    """Open the data set and read everything."""
    dataset = open_dataset("glossyrooms", root)
    for split in dataset.splits:
        for scene in dataset.scenes(split):
            for i in range(len(scene)):
                scene.image(i), scene.K(i), scene.depth(i), scene.highlight_mask(i)
                scene.virtual_depth(i), scene.material(i)
        dataset.lists(split)


def change_json(path: Path, change) -> None:
    """Apply a function to the content of a JSON file. A returned value replaces the content."""
    value = json.loads(path.read_text())
    path.write_text(json.dumps(change(value) or value))


def accept(root: Path, name: str) -> None:
    """Update the manifest to the present bytes of a room's archive."""

    def change(manifest):
        room = next(room for room in manifest["rooms"] if room["name"] == name)
        content = (root / room["file"]).read_bytes()
        room |= {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}

    change_json(root / "manifest.json", change)


def rewrite(path: Path, change, compression: int = zipfile.ZIP_STORED) -> None:
    """Applies a function to the members (name -> bytes) of an archive."""
    with zipfile.ZipFile(path) as old:
        members = {name: old.read(name) for name in old.namelist()}
    change(members)
    with zipfile.ZipFile(path, "w", compression) as new:
        for name, content in members.items():
            new.writestr(name, content)


# writing


def test_what_was_written_is_read(tmp_path):
    written = make_room(tmp_path / "val" / "hall.zip", seed=3)
    archive.write_manifest(tmp_path, "make", {})
    dataset = open_dataset("glossyrooms", tmp_path)
    assert dataset.splits == ("val",)
    (scene,) = dataset.scenes("val")
    assert (scene.name, scene.size_hw, len(scene), scene.has_depth, scene.seed) == ("hall", HW, 4, True, 3)
    assert scene.frame_ids == tuple(written["frame_ids"])
    assert scene.spec == written["spec"]
    np.testing.assert_allclose(scene.world_T_cams, written["world_T_cams"], atol=1e-7)
    np.testing.assert_array_equal(scene.K(0), written["K"])
    np.testing.assert_allclose(scene.shares["highlight"], 0.02)
    for i in range(4):
        error = np.abs(scene.image(i).astype(int) - written["images"][i])
        assert error.mean() < 3, "jpeg"
        mask = written["masks"][i]
        np.testing.assert_array_equal(scene.highlight_mask(i), mask >= archive.HIGHLIGHT)
        np.testing.assert_array_equal(scene.material(i), mask % archive.HIGHLIGHT)
        assert np.abs(scene.depth(i) - written["depths"][i]).max() < 0.501e-3
        assert np.abs(scene.virtual_depth(i) - written["virtuals"][i]).max() < 0.501e-3
        assert ((scene.virtual_depth(i) > 0) == scene.highlight_mask(i)).all()
    scene.image(0)[:] = 0  # callers may write into what they get
    assert scene.image(0).any()


def test_a_room_without_depth_says_so(root):
    scene = open_dataset("glossyrooms", root).scenes("train")[0]
    assert not scene.has_depth
    for read in (scene.depth, scene.highlight_mask, scene.virtual_depth, scene.material):
        assert read(0) is None


def test_same_content_same_bytes(tmp_path):
    for folder in ("one", "two"):
        make_set(tmp_path / folder)
    one, two = (
        {p.relative_to(tmp_path / folder): p.read_bytes() for p in (tmp_path / folder).rglob("*.*")}
        for folder in ("one", "two")
    )
    assert one == two
    assert len(one) == 4 + 1 + 2 * len(archive.LISTS)
    with zipfile.ZipFile(tmp_path / "one" / "val" / "c.zip") as opened:
        members = opened.infolist()
    assert [m.filename for m in members] == sorted(m.filename for m in members)
    assert {m.date_time[0] for m in members} == {1980}
    assert {m.filename for m in members if m.compress_type != zipfile.ZIP_STORED} == {"scene.json"}


def test_an_interrupted_write_leaves_the_old_archive_and_nothing_else(root, monkeypatch):
    path = root / "val" / "c.zip"
    before = path.read_bytes()
    write, calls = zipfile.ZipFile.writestr, itertools.count()

    def full(*args, **kwargs):
        if next(calls) == 3:
            raise OSError(28, "No space left on device")
        return write(*args, **kwargs)

    monkeypatch.setattr(zipfile.ZipFile, "writestr", full)
    with pytest.raises(WriteError, match="disk is full"):
        make_room(path, seed=9)
    assert path.read_bytes() == before
    assert [p.name for p in path.parent.iterdir()] == ["c.zip"]
    calls = itertools.count()
    with pytest.raises(WriteError, match="disk is full"):
        make_room(root / "val" / "new.zip")
    assert [p.name for p in path.parent.iterdir()] == ["c.zip"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"name": "other"}, "cannot be written as"),
        ({"split": "tset"}, "cannot be written as"),
        ({"frame_ids": ["1", "2", "3"]}, "3 frame ids"),
        ({"frame_ids": ["1", "2", "3", "3"]}, "3 different"),
        ({"frame_ids": ["1", "2", "3", "../4"]}, "letters, digits"),
        ({"images": [np.zeros((*HW, 3), np.uint8)] * 3}, "'images': 3"),
        ({"images": [np.zeros((*HW, 3), np.uint8)] * 3 + [np.zeros((8, 8, 3), np.uint8)]}, "image of shape"),
        ({"masks": None}, "without the others"),
        ({"depths": [np.zeros((8, 8))] * 4}, "frame 000000: depth of shape"),
        ({"depths": [np.full(HW, 70.0)] * 4}, "depth: not finite or outside"),
        ({"virtuals": [np.full(HW, np.nan)] * 4}, "virtual depth: not finite"),
        ({"masks": [np.full(HW, 4, np.uint8)] * 4}, "mask: must be uint8"),
        ({"masks": [np.full(HW, 16, np.uint8)] * 4}, "mask: must be uint8"),
        ({"masks": [np.zeros(HW)] * 4}, "mask: must be uint8"),
        ({"spec": {"floor": np.float32(3)}}, "JSON cannot hold"),
        ({"K": np.full((3, 3), np.nan)}, "JSON cannot hold"),
    ],
)
def test_what_does_not_fit_is_not_written(tmp_path, changes, message):
    with pytest.raises(DataError, match=message):
        make_room(tmp_path / "val" / "c.zip", **changes)
    assert not list(tmp_path.rglob("*.zip"))


# lists


def test_lists_follow_the_rule(tmp_path):
    highlight = [0.0, 0.00299, 0.003, 0.01999, 0.02, 0.5, 0.0, 0.03, 0.0, 0.03]
    mirror = [0.0, 0.00499, 0.0, 0.0, 0.00499, 0.0, 0.005, 0.01999, 0.02, 0.5]
    shares = {"highlight": highlight, "mirror": mirror}
    for split in archive.SPLITS:
        make_room(tmp_path / split / f"{split}-hall.zip", frames=10, depth=False, shares=shares)
    archive.write_manifest(tmp_path, "make", {})
    dataset = open_dataset("glossyrooms", tmp_path)
    assert dataset.lists("train") == {}
    for split in ("val", "test"):
        lists = {
            name: sorted(int(frame) for _, frame in frames) for name, frames in dataset.lists(split).items()
        }
        assert lists == {"Reflection": [4, 5], "NoReflection": [0, 1], "Mirror": [8, 9]}
        assert {room for frames in dataset.lists(split).values() for room, _ in frames} == {f"{split}-hall"}
    lines = (tmp_path / "lists" / "val_Mirror.txt").read_text()
    assert lines == "val-hall 000008\nval-hall 000009\n"
    with pytest.raises(ConfigError, match="split"):
        dataset.lists("vla")


def test_the_rule_in_words_has_the_rules_numbers():
    text = archive.rule_text()
    for rule in archive.LISTS.values():
        for bound in {x for limits in rule.values() for x in limits} - {0, np.inf}:
            assert f"{bound:g} %" in text
    assert "Mirror: mirror pixels at least 2 %." in text


def test_a_set_without_lists_has_none():
    assert Dataset("set", {"val": list}).lists("val") == {}


# reading


def test_fewer_rooms_and_frames(root):
    dataset = open_dataset("glossyrooms", root, rooms=1, frames=2)
    assert [[scene.name for scene in dataset.scenes(split)] for split in dataset.splits] == [
        ["a"],
        ["c"],
        ["d"],
    ]
    (scene,) = dataset.scenes("val")
    assert (len(scene), scene.depth(1).shape, len(scene.shares["mirror"])) == (2, HW, 2)
    assert dataset.lists("val")["Reflection"] == {("c", "000000"), ("c", "000001")}
    assert len(open_dataset("glossyrooms", root, rooms=9, frames=99).scenes("train")) == 2


def test_lists_leave_out_rooms_that_are_not_opened(tmp_path):
    for name in "xyz":
        make_room(tmp_path / "val" / f"{name}.zip")
    archive.write_manifest(tmp_path, "make", {})
    reflection = open_dataset("glossyrooms", tmp_path, rooms=2).lists("val")["Reflection"]
    assert {room for room, _ in reflection} == {"x", "y"}


@pytest.mark.parametrize("option", [{"rooms": 0}, {"rooms": 1.5}, {"frames": -1}, {"frames": True}], ids=str)
def test_bad_options(root, option):
    with pytest.raises(ConfigError, match="from 1 up"):
        open_dataset("glossyrooms", root, **option)


def test_parts_of_a_room_are_scenes(root):
    part = open_dataset("glossyrooms", root).scenes("val")[0].block(1, 3)
    assert part.frame_ids == ("000001", "000002")
    assert part.depth(0).shape == part.highlight_mask(0).shape == part.image(0).shape[:2] == HW


@pytest.mark.parametrize(("method", "workers"), [("fork", 2), ("spawn", 1)])
def test_loading_processes_read_what_one_process_reads(root, method, workers):
    scenes = open_dataset("glossyrooms", root).scenes("train")
    scenes[0].image(0)  # whatever that leaves open goes into the fork
    triples = [find_triples(scene.world_T_cams, every=1) for scene in scenes]
    samples = TripleSamples(scenes, triples, HW)
    keys = [(0, i) for i in range(len(samples))]
    loader = DataLoader(
        samples, batch_size=2, sampler=keys, num_workers=workers, multiprocessing_context=method
    )
    targets = [target for batch in loader for target in batch["target"]]
    assert len(targets) == len(keys) == 4
    for key, target in zip(keys, targets, strict=True):
        assert (samples[key]["target"] == target).all()


def test_a_room_travels_and_keeps_no_file_open(root, tmp_path):
    scene = open_dataset("glossyrooms", root).scenes("val")[0]
    image = scene.image(1)
    other = pickle.loads(pickle.dumps(scene))
    assert (other.image(1) == image).all()
    (root / "val" / "c.zip").rename(tmp_path / "c.zip")
    with pytest.raises(DataError, match=r"c\.zip: cannot be read any more"):
        scene.image(1)
    shutil.copy(root / "test" / "d.zip", root / "val" / "c.zip")
    with pytest.raises(DataError, match=r"000001\.jpg is damaged, or the file has changed"):
        scene.image(1)


# errors


def test_no_folder_and_no_manifest(tmp_path):
    with pytest.raises(DataError, match="no folder"):
        open_dataset("glossyrooms", tmp_path / "nowhere")
    with pytest.raises(DataError, match=r"manifest\.json cannot be read"):
        open_dataset("glossyrooms", tmp_path)


def _entry(**changes):
    return lambda manifest: manifest["rooms"][2].update(changes)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda m: m.update(format=2), "format 2, but this version of d3d reads format 1"),
        (lambda m: m.pop("format") and None, "format None"),
        (lambda m: m.update(name="rooms"), "the manifest of data set 'rooms'"),
        (lambda m: m.update(size_hw=[24, "32"]), "size_hw.1: Input should be a valid integer"),
        (lambda m: m.update(rooms={}), "rooms: Input should be a valid array"),
        (lambda m: m.update(rooms=[]), "there is no room"),
        (lambda m: m.update(rooms=[3]), "rooms.0: Input should be an object"),
        (lambda m: [m], "Input should be an object"),
        (lambda m: m["rooms"].append(m["rooms"][2]), "room 'c' appears twice"),
        (_entry(name="a", file="val/a.zip"), "room 'a' appears twice"),
        (_entry(name="../c", file="val/../c.zip"), "do not match"),
        (_entry(file="../val/c.zip"), "do not match"),
        (_entry(file="/val/c.zip"), "do not match"),
        (_entry(name="/c", file="val//c.zip"), "do not match"),
        (_entry(name="..\\c", file="val/..\\c.zip"), "do not match"),
        (_entry(name="c\n", file="val/c\n.zip"), "do not match"),
        (_entry(split="..", file="../c.zip"), "rooms.2.split: Input should be 'train'"),
        (_entry(bytes="9"), "rooms.2.bytes: Input should be a valid integer"),
        (_entry(frames=True), "rooms.2.frames: Input should be a valid integer"),
        (_entry(depth=1), "rooms.2.depth: Input should be a valid boolean"),
        (_entry(bytes=7), r"c\.zip: \d+ bytes, but the manifest has 7"),
        (_entry(sha256="0" * 64), r"c\.zip: damaged, its sha256"),
        (_entry(frames=5), r"c\.zip, scene\.json: 4 frames, but the manifest has 5"),
        (_entry(name="e", file="val/e.zip"), r"e\.zip: cannot be read"),
        (lambda m: m.update(size_hw=[144, 192]), r"scene\.json: size_hw is \(24, 32\)"),
        (lambda m: m["rooms"][0].update(depth=True), r"a\.zip: depth/000000\.png is missing"),
    ],
)
def test_a_wrong_manifest(root, change, message):
    change_json(root / "manifest.json", change)
    with pytest.raises(DataError, match=message):
        open_all(root)


@pytest.mark.parametrize("text", ["", "{", '{"format": 1', "\0", "[" * 100_000])
def test_json_that_is_none(root, text):
    (root / "manifest.json").write_text(text)
    with pytest.raises(DataError, match=r"manifest\.json: not readable as JSON"):
        open_all(root)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("c 000000\nc\n", r"val_Mirror\.txt, line 2: 'c' is not a room and a frame"),
        ("a 000000\n", r"line 1: 'a 000000': the manifest has no such room in this split"),
        ("c 000000\nc 000004\n", r"line 2: 'c 000004': the room has no such frame"),
        (b"\xff\xfe", r"val_Mirror\.txt cannot be read"),
        (None, r"val_Mirror\.txt cannot be read"),
    ],
)
def test_a_wrong_list(root, text, message):
    path = root / "lists" / "val_Mirror.txt"
    path.unlink()
    if text is not None:
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(DataError, match=message):
        open_dataset("glossyrooms", root).lists("val")


def _scene(change):
    def apply(members):
        scene = json.loads(members["scene.json"])
        members["scene.json"] = json.dumps(change(scene) or scene).encode()

    return apply


def _picture(member, like):
    return lambda members: members.update({member: members.get(like, like)})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda m: m.pop("scene.json"), "scene.json is missing"),
        (lambda m: m.pop("color/000002.jpg"), r"color/000002\.jpg is missing"),
        (lambda m: m.pop("virtual/000002.png"), r"virtual/000002\.png is missing"),
        (lambda m: m.update({"scene.json": b"{"}), r"scene\.json: not readable as JSON"),
        (_scene(lambda s: s.update(format=0)), "format 0"),
        (_scene(lambda s: s.update(name="d")), "name is 'd', but the manifest has 'c'"),
        (_scene(lambda s: s.update(split="test")), "split is 'test', but the manifest has 'val'"),
        (_scene(lambda s: s.update(frame_ids=["1", "1", "2", "3"])), "frame_ids must be unique names"),
        (_scene(lambda s: s.update(frame_ids=["1", "..", "2", "3"])), "frame_ids must be unique names"),
        (
            _scene(lambda s: s.update(frame_ids=["1", 4, "2", "3"])),
            "frame_ids.1: Input should be a valid string",
        ),
        (_scene(lambda s: s.update(K=[[1, 0], [0, 1]])), r"K: numbers of shape \(2, 2\)"),
        (_scene(lambda s: s.update(K=[[1], [0, 1]])), "K: not numbers"),
        (_scene(lambda s: s.update(K="x")), "K: not numbers"),
        (_scene(lambda s: s.update(K=[[0] * 3] * 3)), "positive focal lengths"),
        (_scene(lambda s: s["world_T_cam"].pop() and None), r"world_T_cam: numbers of shape \(3, 4, 4\)"),
        (
            _scene(lambda s: s["world_T_cam"][1][0].__setitem__(0, float("nan"))),
            "frame 000001: the pose is not finite",
        ),
        (_scene(lambda s: s["shares"].pop("mirror") and None), "shares.mirror: Field required"),
        (_scene(lambda s: s["shares"].update(mirror=[0.5])), "mirror: numbers of shape"),
        (_scene(lambda s: s.pop("seed") and None), "seed: Field required"),
        (
            _picture("color/000001.jpg", b"\xff\xd8 no"),
            r"color/000001\.jpg in .*c\.zip is truncated or not an image",
        ),
        (
            _picture("color/000001.jpg", "depth/000001.png"),
            r"color/000001\.jpg in .*c\.zip is truncated or not an image",
        ),
        (
            _picture("depth/000001.png", "mask/000001.png"),
            r"depth/000001\.png .*mode L instead of I;16",
        ),
        (
            _picture("mask/000001.png", "depth/000001.png"),
            r"mask/000001\.png .*mode I;16 instead of L",
        ),
        (_picture("depth/000001.png", b""), r"depth/000001\.png in .*c\.zip is truncated or not an image"),
    ],
)
def test_a_wrong_archive_that_the_manifest_knows(root, change, message):
    rewrite(root / "val" / "c.zip", change)
    accept(root, "c")
    with pytest.raises(DataError, match=message) as raised:
        open_all(root)
    assert "c.zip" in str(raised.value) or "'c'" in str(raised.value)


def test_a_picture_of_another_size_is_not_decoded(root):
    data = io.BytesIO()
    Image.new("RGB", (9000, 9000)).save(data, "jpeg")
    rewrite(root / "val" / "c.zip", lambda m: m.update({"color/000000.jpg": data.getvalue()}))
    accept(root, "c")
    with pytest.raises(DataError, match="9000x9000 instead of 32x24"):
        open_all(root)


def test_compressed_members_are_refused(root):
    rewrite(root / "val" / "c.zip", lambda m: None, zipfile.ZIP_DEFLATED)
    accept(root, "c")
    with pytest.raises(DataError, match="compressed or encrypted, not stored"):
        open_all(root)


def test_every_truncation_is_an_error(root):
    path = root / "val" / "c.zip"
    content = path.read_bytes()
    for size in (0, 1, 21, 22, 100, len(content) // 2, len(content) - 1):
        path.write_bytes(content[:size])
        with pytest.raises(DataError, match=r"c\.zip: \d+ bytes, but the manifest has"):
            open_all(root)
        accept(root, "c")
        with pytest.raises(DataError, match=r"c\.zip: not a zip archive, or damaged"):
            open_all(root)
        change_json(root / "manifest.json", _entry(bytes=len(content)))


def test_verify_names_what_is_wrong(root):
    assert archive.verify(root) == []
    (root / "train" / "a.zip").unlink()
    content = bytearray((root / "train" / "b.zip").read_bytes())
    content[100] ^= 1
    (root / "train" / "b.zip").write_bytes(content)
    (root / "val" / "c.zip").write_bytes(b"")
    shutil.copy(root / "test" / "d.zip", root / "test" / "e.zip")
    (root / "test" / ".1.part-f.zip").touch()  # being written
    problems = archive.verify(root)
    assert [problem.split()[0] for problem in problems] == [
        "train/a.zip",
        "train/b.zip",
        "val/c.zip",
        "test/e.zip",
    ]


@pytest.mark.parametrize("content", [b"", b"not a zip"])
def test_the_manifest_names_no_file_that_is_no_room(root, content):
    (root / "val" / "broken.zip").write_bytes(content)
    with pytest.raises(DataError, match=r"broken\.zip is not a room's archive"):
        archive.write_manifest(root, "make", {})


def test_the_manifest_needs_rooms_of_different_names(root):
    make_room(root / "test" / "a.zip")
    with pytest.raises(DataError, match="rooms of different names"):
        archive.write_manifest(root, "make", {})
    shutil.copy(root / "val" / "c.zip", root / "val" / "g.zip")
    with pytest.raises(DataError, match=r"g\.zip holds room 'c'"):
        archive.write_manifest(root, "make", {})


# the set that ships


@pytest.fixture(scope="module")
def shipped(repo_dir) -> Path:
    return repo_dir / "data" / "glossyrooms"


@pytest.fixture(scope="module")
def dataset(shipped):
    return open_dataset("glossyrooms")


def test_shipped_archives_are_the_manifests_and_small(shipped):
    assert archive.verify(shipped) == []
    assert sum(path.stat().st_size for path in shipped.rglob("*") if path.is_file()) <= 40 * 2**20


def test_shipped_manifest_and_lists_follow_from_the_archives(shipped, tmp_path):
    for split in archive.SPLITS:
        shutil.copytree(shipped / split, tmp_path / split)
    old = json.loads((shipped / "manifest.json").read_text())
    archive.write_manifest(tmp_path, old["command"], old["versions"])
    for path in (tmp_path / "manifest.json", *(tmp_path / "lists").iterdir()):
        assert path.read_bytes() == (shipped / path.relative_to(tmp_path)).read_bytes(), path.name


def test_shipped_splits_have_rooms_of_their_own(dataset):
    scenes = {split: dataset.scenes(split) for split in dataset.splits}
    assert {split: len(rooms) for split, rooms in scenes.items()} == {"train": 30, "val": 6, "test": 6}
    everything = [scene for rooms in scenes.values() for scene in rooms]
    assert len({scene.seed for scene in everything}) == len({scene.name for scene in everything}) == 42
    for scene in everything:
        assert scene.size_hw == (144, 192)
        assert 60 <= len(scene) <= 100
    assert all(scene.has_depth for split in ("val", "test") for scene in scenes[split])
    assert any(scene.has_depth for scene in scenes["train"])


def test_shipped_rooms_give_triples_by_the_papers_rule(dataset):
    for split in dataset.splits:
        for scene in dataset.scenes(split):
            triples = find_triples(scene.world_T_cams, every=1)
            assert len(triples) >= 0.9 * (len(scene) - 2), (scene, triples.dropped)


def test_shipped_lists_are_long_enough(dataset):
    lists = dataset.lists("val")
    assert len(lists["Reflection"]) >= 100
    assert len(lists["NoReflection"]) >= 100
    for split in ("val", "test"):
        assert all(dataset.lists(split).values()), "an empty list"


def test_shipped_masks_and_shares_agree(dataset):
    for split in ("val", "test"):
        for scene in dataset.scenes(split):
            for i in range(0, len(scene), 7):
                mask, virtual, depth = scene.highlight_mask(i), scene.virtual_depth(i), scene.depth(i)
                assert abs(mask.mean() - scene.shares["highlight"][i]) < 1e-5
                mirror = scene.material(i) == archive.MATERIALS.index("mirror")
                assert abs(mirror.mean() - scene.shares["mirror"][i]) < 1e-5
                assert ((virtual > 0) <= mask).all()
                assert (virtual[virtual > 0] > depth[virtual > 0]).all()
                assert (depth > 0).mean() > 0.999  # a ray may slip between two walls
                assert (scene.material(i)[mask] == archive.MATERIALS.index("glossy")).all()
