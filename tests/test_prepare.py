"""`prepare scannet` gives the triples of the whole video, also after kills, with missing frames, and in later calls."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections import namedtuple
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from sens_from_scenes import write_glossyrooms
from sens_writer import SMALL_K, walk, write_small

from d3d import tables
from d3d.cli import main
from d3d.datasets import find_triples, open_dataset
from d3d.datasets.images import resize_image
from d3d.datasets.lists import with_given
from d3d.datasets.scannet import prepare as prepare_scene
from d3d.datasets.scannet.dataset import FolderScene, ScanNetScene, SensScene
from d3d.datasets.scannet.prepare import Settings, plan_frames
from d3d.datasets.scannet.prepared import INDEX, MANIFEST, read_index, read_manifest, scene_folder
from d3d.datasets.scannet.sens import FRAME, SensFile
from d3d.errors import BusyError, ConfigError, DataError, RunError, TasksError
from d3d.geometry import nearest_depth, scale_intrinsics
from d3d.pipeline import opened, prepare, scenes, stages
from d3d.pipeline.config import make_config
from d3d.pipeline.prepare import prepare_scannet, report

TRAIN, VAL, TEST = "scene0000_00", "scene0704_00", "scene0707_00"
COLOR_HW, DEPTH_HW = (96, 128), (18, 24)
SETTINGS = Settings(height=64, width=96)
LOST = np.full((4, 4), -np.inf)


def video(n: int = 61) -> np.ndarray:
    poses = walk(n)
    poses[17], poses[30] = LOST, np.zeros((4, 4))
    return poses


@pytest.fixture
def root(tmp_path):
    """A scene of each split as released, with lists of splits."""
    for name, split in ((TRAIN, "train"), (VAL, "val"), (TEST, "test")):
        folder = "scans_test" if split == "test" else "scans"
        write_small(tmp_path / "data" / folder / name / f"{name}.sens", video(), COLOR_HW, DEPTH_HW)
        (tmp_path / "data" / f"scannetv2_{split}.txt").write_text(f"{name}\n")
    return tmp_path / "data"


def sens_of(root: Path, name: str) -> Path:
    return root / ("scans_test" if name == TEST else "scans") / name / f"{name}.sens"


def damage(root: Path, name: str, frame: int, depth: bool = False) -> None:
    """Overwrite the colour or the depth of a frame."""
    path = sens_of(root, name)
    file = SensFile(path)
    file.poses()
    color_bytes, depth_bytes = FRAME.unpack_from(file._headers, frame * FRAME.size)[-2:]
    with open(path, "r+b") as f:
        f.seek(file._contents[frame] + (color_bytes if depth else 0))
        f.write(b"\0" * (depth_bytes if depth else color_bytes))


def run(root: Path, out: Path, **options):
    return prepare_scannet(root, out, SETTINGS, scheduler="none", **options)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def triples_by_number(scene, every: int = 10) -> list[list[int]]:
    """Return the triples of a scene by frame numbers in the video, as `d3d.pipeline.scenes` finds them."""
    found = find_triples(scene.world_T_cams, every, targets=scene.every(every))
    return np.array([int(i) for i in scene.frame_ids])[found.indices].tolist()


def test_prepared_triples_are_those_of_the_whole_video(root, tmp_path):
    (whole,) = open_dataset("scannet", root).scenes("train")
    manifest = run(root, tmp_path / "out")
    (scene,) = open_dataset("scannet", tmp_path / "out").scenes("train")
    assert triples_by_number(scene) == triples_by_number(whole) == [
        [10, 7, 13], [20, 16, 23], [40, 37, 43], [50, 47, 53]
    ]  # fmt: skip
    # the frames of the triples, and every 10th for the TSDF, of which the 30th has no pose
    assert scene.frame_ids == tuple(map(str, (0, 7, 10, 13, 16, 20, 23, 37, 40, 43, 47, 50, 53, 60)))
    (entry,) = [s for s in manifest["scenes"] if s["split"] == "train"]
    assert entry["left_out"] == {"pose not finite (tracking lost)": 1, "pose all zero": 1}
    assert (entry["triples"]["found"], entry["triples"]["tried"]) == (4, 6)
    assert not scene.has_depth


def test_prepared_frames_are_those_of_the_source_at_the_networks_size(root, tmp_path):
    run(root, tmp_path / "out")
    dataset = open_dataset("scannet", tmp_path / "out")
    assert dataset.splits == ("train", "val", "test")
    assert dataset.verified
    for split in ("val", "test"):
        (whole,), (scene,) = open_dataset("scannet", root).scenes(split), dataset.scenes(split)
        assert scene.frame_ids == ("0", "10", "20", "40", "50", "60")
        assert (scene.size_hw, scene.depth_hw) == ((64, 96), DEPTH_HW)
        for i, frame in enumerate(scene.frame_ids):
            j = whole.frame_ids.index(frame)
            off = scene.image(i).astype(int) - resize_image(whole.image(j), (64, 96))
            assert abs(off).max() <= 4  # JPEG
            assert np.array_equal(scene.depth(i), whole.depth(j))
            assert np.array_equal(scene.world_T_cams[i], whole.world_T_cams[j])
            assert np.allclose(scene.K(i), whole.K(j, (64, 96)))


def test_a_run_with_other_settings_than_the_prepared_ones_says_what_that_means(root, tmp_path, capsys):
    run(root, tmp_path / "out")
    at = {"dataset": "scannet", "root": str(tmp_path / "out"), "profile": "paper", "width": 96, "height": 64}
    found = open_dataset("scannet", tmp_path / "out")
    assert scenes.other_than_prepared(found, make_config(**at)) == []
    # every 20th frame is among every 10th
    assert scenes.other_than_prepared(found, make_config(**at, every=20, eval_every=30)) == []
    other = scenes.other_than_prepared(
        found, make_config(**{**at, "width": 128}, every=5, integrate_every=15)
    )
    assert [line.split(":")[0] for line in other] == [
        "scannet was prepared with every = 10, and this run has 5",
        "scannet was prepared with integrate_every = 10, and this run has 15",
        "scannet was prepared at 96x64, and this run needs 128x64",
    ]
    opened.opened.clear()
    scenes.training_scenes(make_config(**at, every=5))
    assert (
        "every = 10, and this run has 5: triples are found only among the prepared" in capsys.readouterr().out
    )
    assert scenes.other_than_prepared(open_dataset("scannet", root), make_config(**at, every=5)) == []


def test_what_is_written_is_the_official_exporters_layout(root, tmp_path):
    """d3d's reader of this layout returns the same frames."""
    run(root, tmp_path / "out")
    (prepared,) = open_dataset("scannet", tmp_path / "out").scenes("val")
    scene = FolderScene(scene_folder(tmp_path / "out", "val", VAL), VAL, "exported")
    assert scene.frame_ids == prepared.frame_ids
    assert np.allclose(scene.world_T_cams, prepared.world_T_cams, atol=1e-7)
    assert np.allclose(scene.K(0), scale_intrinsics(SMALL_K, (36, 48), (64, 96)))
    assert np.array_equal(scene.image(2), prepared.image(2))
    assert np.array_equal(scene.depth(2), prepared.depth(2))
    assert np.allclose(scene.depth_K, scale_intrinsics(SMALL_K, (36, 48), DEPTH_HW))


def test_depth_of_training_targets_where_it_is_asked_for(root, tmp_path):
    prepare_scannet(
        root, tmp_path / "out", Settings(64, 96, train_depth=True), splits=["train"], scheduler="none"
    )
    (scene,) = open_dataset("scannet", tmp_path / "out").scenes("train")
    assert [scene.frame_ids[i] for i in range(len(scene)) if scene.depth(i) is not None] == [
        "10",
        "20",
        "40",
        "50",
    ]


class Path2D(ScanNetScene):
    """A scene with poses only."""

    def __init__(self, poses):
        self._keep(TRAIN, range(len(poses)), poses, (96, 128))


@settings(max_examples=60)
@given(st.data())
def test_on_any_path_the_frames_kept_give_the_same_triples(data):
    """This holds for any lost or unreadable frames and any camera motion."""
    n = data.draw(st.integers(1, 120))
    steps = data.draw(st.lists(st.integers(-4, 6), min_size=n, max_size=n))
    poses = walk(n)
    poses[:, 0, 3] = np.cumsum(steps) * 0.013
    for i in data.draw(st.sets(st.integers(1, n), max_size=12)):
        if i < n:
            poses[i] = LOST
    scene = Path2D(poses)
    every = data.draw(st.sampled_from((1, 3, 10)))
    s = Settings(every=every, integrate_every=data.draw(st.sampled_from((1, 7, 10))))
    corrupt = data.draw(st.sets(st.sampled_from(scene.numbers), max_size=4))
    plan = plan_frames(scene, "train", s, without=corrupt)
    rest = [i for i, number in enumerate(scene.numbers) if number not in corrupt]
    expected = triples_by_number(scene.subset(rest, "rest"), every) if rest else []
    assert (len(plan.colors) > 0) == (len(expected) > 0)
    if plan.colors:
        kept = scene.subset(plan.colors, "kept")
        assert triples_by_number(kept, every) == expected
        fused = [n for n in np.array(scene.numbers)[rest] if n % s.integrate_every == 0]
        assert [int(kept.frame_ids[i]) for i in kept.every(s.integrate_every)] == fused


def test_a_killed_run_goes_on_and_ends_the_same(root, tmp_path, monkeypatch):
    run(root, tmp_path / "whole")
    write, calls = prepare_scene._write_frame, []

    def killed(*arguments):
        calls.append(1)
        if len(calls) == 18:  # in the second scene
            raise KeyboardInterrupt
        return write(*arguments)

    monkeypatch.setattr(prepare_scene, "_write_frame", killed)
    with pytest.raises(KeyboardInterrupt):
        run(root, tmp_path / "out")
    # as SIGKILL would leave it: nothing is tidied up
    left = tmp_path / "out" / "scans" / f".0123456789ab.part-{VAL}"
    (left / "color").mkdir(parents=True)
    assert not (tmp_path / "out" / MANIFEST).exists()
    with pytest.raises(DataError, match="not finished"):
        open_dataset("scannet", tmp_path / "out").scenes("val")
    monkeypatch.setattr(prepare_scene, "_write_frame", write)
    calls.clear()
    run(root, tmp_path / "out")
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


def test_what_is_finished_is_not_opened_again(root, tmp_path, monkeypatch):
    first = run(root, tmp_path / "out")

    def never(*arguments):
        raise AssertionError("opened")

    monkeypatch.setattr(SensScene, "__init__", never)
    assert run(root, tmp_path / "out") == first


def test_a_split_more_and_a_list_more(root, tmp_path):
    """Scenes of an earlier call stay. A new list prepares only the scenes that it names again."""
    out = tmp_path / "out"
    run(root, out, splits=["train"])
    assert open_dataset("scannet", out).splits == ("train",)
    run(root, out, splits=["val", "test"])
    assert open_dataset("scannet", out).splits == ("train", "val", "test")
    lists = tmp_path / "lists"
    lists.mkdir()
    (lists / "val_Reflection.txt").write_text(f"{VAL} 33\n{VAL} 17\n{VAL} 000010\n")
    before = contents(scene_folder(out, "test", TEST))
    manifest = run(root, out, lists=str(lists))
    (scene,) = open_dataset("scannet", out).scenes("val")
    assert scene.frame_ids == ("0", "10", "20", "33", "40", "50", "60")
    assert contents(scene_folder(out, "test", TEST)) == before
    assert [s["listed_left_out"] for s in manifest["scenes"]] == [[], [17], []]
    assert any(
        "on a list, but unusable for scoring: scene0704_00 17" in line for line in report(manifest, {})
    )
    assert run(root, out)["scenes"] == manifest["scenes"]  # what a list asked for stays


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("../../etc 3", "not a scene and a frame of ScanNet"),
        (f"{VAL} ../3", "not a scene and a frame"),
        ("x", "malformed|not a"),
    ],
)
def test_a_list_cannot_lead_anywhere(root, tmp_path, line, message):
    path = tmp_path / "val_Own.txt"
    path.write_text(f"{line}\n")
    with pytest.raises(DataError, match=message):
        run(root, tmp_path / "out", lists=str(path))
    assert not (tmp_path / "out").exists()


def test_frames_that_cannot_be_read_are_left_out_and_listed(root, tmp_path):
    """A triple with a bad source takes the next source. A bad target has no triple. Nothing else changes."""
    damage(root, TRAIN, 23)
    damage(root, TRAIN, 40)
    damage(root, VAL, 20, depth=True)
    manifest = run(root, tmp_path / "out", max_corrupt=0.5)
    (scene,) = open_dataset("scannet", tmp_path / "out").scenes("train")
    assert triples_by_number(scene) == [[10, 7, 13], [20, 16, 24], [50, 47, 53]]
    assert sorted(p.name for p in (scene.folder / "color").iterdir()) == sorted(
        f"{i}.jpg" for i in scene.frame_ids
    )
    assert "37" not in scene.frame_ids  # a source of 40 alone
    corrupt = {s["name"]: list(s["corrupt"]) for s in manifest["scenes"]}
    assert corrupt == {TRAIN: ["23", "40"], VAL: ["20"], TEST: []}
    assert scene.left_out["40"] == "frame cannot be read"
    lines = "\n".join(report(manifest, {}))
    assert "left out 2: frame cannot be read" in lines
    assert "scene0704_00 20: " in lines
    assert "not zlib data" in lines


def test_more_unreadable_frames_than_the_share_are_an_error_and_the_others_are_done(root, tmp_path):
    damage(root, TRAIN, 23)
    with pytest.raises(
        TasksError, match=r"scene0000_00.*1 of the 14 needed frames cannot be read, more than 1.0%"
    ):
        run(root, tmp_path / "out")
    assert not (tmp_path / "out" / MANIFEST).exists()
    assert not scene_folder(tmp_path / "out", "train", TRAIN).exists()
    assert read_index(scene_folder(tmp_path / "out", "val", VAL), VAL)
    manifest = run(root, tmp_path / "out", without=[TRAIN])
    assert [s["name"] for s in manifest["scenes"]] == [VAL, TEST]


def test_a_truncated_file_is_an_error_that_names_the_frame(root, tmp_path):
    path = sens_of(root, VAL)
    path.write_bytes(path.read_bytes()[:-3000])
    with pytest.raises(TasksError, match=r"scene0704_00: .*truncated at frame \d+ of 61"):
        run(root, tmp_path / "out")


def test_scenes_of_a_list_that_are_not_there_are_told(root, tmp_path, capsys):
    (root / "scannetv2_train.txt").write_text(f"{TRAIN}\nscene0001_00\nscene0002_00\n")
    (root / "scannetv2_test.txt").unlink()
    run(root, tmp_path / "out")
    said = capsys.readouterr().out
    assert "train: found 1 of the 3 scenes on the list: missing scene0001_00, scene0002_00" in said
    assert "test: found 0 of the 0 scenes on the list" in said
    assert "val:" not in said.split("scenes to prepare")[0]


def test_a_disk_too_small_is_refused_before_anything_is_written(root, tmp_path, monkeypatch):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(1, 1, 100_000))
    with pytest.raises(RunError, match=r"has 0.00 GB free, and about .* GB are needed. Nothing was written"):
        run(root, tmp_path / "out")
    assert not list((tmp_path / "out").glob("scans*"))


def test_the_estimate_is_what_it_takes(root, tmp_path, capsys):
    run(root, tmp_path / "out")
    said = capsys.readouterr().out
    assert "3 scenes to prepare: 26 frames, 12 of them with depth" in said
    blocks = sum(
        -(-p.stat().st_size // 4096) * 4096
        for p in (tmp_path / "out").rglob("*")
        if p.is_file() and p.parent.name in ("color", "depth", "pose")
    )
    need = float(said.split("about ")[1].split(" GB")[0]) * 1e9
    assert abs(need - 1.1 * blocks) <= 0.01e9


def test_another_folder_another_process_other_settings(root, tmp_path):
    out = tmp_path / "out"
    run(root, out)
    with pytest.raises(RunError, match=r"other settings:\n  every: 10 there, 5 now"):
        prepare_scannet(root, out, Settings(64, 96, every=5), scheduler="none")
    lock = prepare._lock(out)
    with pytest.raises(BusyError, match="in use by another process"):
        run(root, out)
    lock.release()
    with pytest.raises(RunError, match="holds files, but no prepared ScanNet"):
        run(root, tmp_path)
    with pytest.raises(ConfigError, match="must be another folder"):
        run(root, root / "scans")
    with pytest.raises(ConfigError, match="must hold the original data"):
        run(out, tmp_path / "again")
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match="cannot be written"):
        run(root, tmp_path / "file" / "out")


def test_a_train_split_too_sparse_is_refused(root, tmp_path):
    shutil.rmtree(root / "scans" / TRAIN)
    folder = root / "scans" / TRAIN
    (folder / "color").mkdir(parents=True)
    (folder / "intrinsics_color.txt").write_text("")
    with pytest.raises(DataError, match="too sparse for triples"):
        run(root, tmp_path / "out")


def test_a_scene_without_a_triple_is_counted_and_not_kept(root, tmp_path):
    write_small(sens_of(root, TRAIN), walk(30, 0.0), COLOR_HW, DEPTH_HW)
    manifest = run(root, tmp_path / "out")
    (entry,) = [s for s in manifest["scenes"] if s["split"] == "train"]
    assert (entry["frames"], entry["triples"]["found"]) == (0, 0)
    assert open_dataset("scannet", tmp_path / "out").splits == ("val", "test")


def test_our_count_stands_beside_the_papers_only_for_the_real_train_split(root, tmp_path, monkeypatch):
    manifest = run(root, tmp_path / "out")
    part = "\n".join(report(manifest, {"train": [TRAIN]}))
    assert "4 triples of 6 targets, in 1 scene" in part
    assert (
        "the paper's 45539 triples are for all 1201 scenes of the official train split and the paper's rule"
        in part
    )
    assert "this folder has 1 scene" in part
    digest = hashlib.sha256(f"{TRAIN}\n".encode()).hexdigest()
    monkeypatch.setitem(prepare.SPLITS, "train", (1, digest))
    whole = "\n".join(report(manifest, {"train": [TRAIN]}))
    assert f"the paper has 45539 triples: ours are {4 / 45539 - 1:+.2%}" in whole
    other = manifest | {"settings": manifest["settings"] | {"every": 1}}
    assert "this folder uses another rule" in "\n".join(report(other, {"train": [TRAIN]}))


def test_depth_that_is_not_aligned_with_colour_is_told(root, tmp_path):
    manifest = run(root, tmp_path / "out")
    assert report(manifest, {})[-1].startswith(
        "depth and resized colour are misaligned by at most 0.0 depth pixels"
    )
    manifest["scenes"][0]["registration_px"] = 7.2
    assert report(manifest, {})[-1].endswith(f"more than 3 in 1 scene: {TRAIN}; check them")


def test_what_was_changed_afterwards_is_not_read(root, tmp_path):
    out = tmp_path / "out"
    run(root, out)
    (scene,) = open_dataset("scannet", out).scenes("val")
    path = scene.folder / "color" / "10.jpg"
    content = path.read_bytes()
    path.write_bytes(content[:-1] + b"\1")
    with pytest.raises(
        DataError, match=r"frame 10: .*10\.jpg cannot be read.*checksum differs.*same arguments again"
    ):
        scene.image(1)
    (scene.folder / "depth" / "10.png").unlink()
    with pytest.raises(DataError, match=r"frame 10: .*10\.png cannot be read"):
        scene.depth(1)
    (scene.folder / INDEX).unlink()
    with pytest.raises(DataError, match=r"frames.json is missing. Run"):
        open_dataset("scannet", out).scenes("val")


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    base = tmp_path_factory.mktemp("prepared")
    write_small(base / "data" / f"{VAL}.sens", video(32), COLOR_HW, DEPTH_HW)
    (base / "data" / "scannetv2_val.txt").write_text(f"{VAL}\n")
    run(base / "data", base / "out")
    folder = scene_folder(base / "out", "val", VAL)
    return base / "out", folder, (folder / INDEX).read_bytes(), (base / "out" / MANIFEST).read_bytes()


@pytest.mark.parametrize(
    ("file", "key", "value"),
    [
        (INDEX, "depth_hw", []),
        (INDEX, "numbers", [0, 10, 10**30]),
        (INDEX, "color", None),
        (MANIFEST, "split", []),
    ],
)
def test_damage_that_was_once_another_error(prepared, file, key, value):
    out, folder, index, manifest = prepared
    (folder / INDEX).write_bytes(index)
    (out / MANIFEST).write_bytes(manifest)
    path = out / MANIFEST if file == MANIFEST else folder / INDEX
    content = json.loads(path.read_bytes())
    (content["scenes"][0] if file == MANIFEST else content)[key] = value
    path.write_text(json.dumps(content))
    with pytest.raises(DataError, match=r"prepare scannet` with the same arguments"):
        open_dataset("scannet", out).scenes("val")


def test_published_figures_are_of_whole_splits(prepared, monkeypatch):
    out, folder, index, manifest = prepared
    (folder / INDEX).write_bytes(index)
    (out / MANIFEST).write_bytes(manifest)
    assert not open_dataset("scannet", out).whole("val")
    monkeypatch.setitem(prepare.SPLITS, "val", (1, ""))
    dataset = open_dataset("scannet", out)
    assert dataset.whole("val")
    assert dataset.whole("val", every=10)
    assert dataset.whole("val", every=5), "of every 10th frame all are scored"
    assert not dataset.whole("val", every=20)
    assert not dataset.whole("val", every=3), "of every 10th frame every 3rd is scored"


def test_listed_frames_of_a_prepared_split_are_not_its_own(root, tmp_path):
    """Issue 12, 1.6: `val` holds every 10th frame and all listed ones; the split's scores are over the former."""
    (tmp_path / "val_Reflection.txt").write_text(f"{VAL} 7\n{VAL} 20\n{VAL} 33\n")
    run(root, tmp_path / "out", lists=str(tmp_path))
    dataset = open_dataset("scannet", tmp_path / "out")
    (scene,) = dataset.scenes("val")
    assert scene.frame_ids == ("0", "7", "10", "20", "33", "40", "50", "60")

    def own(of, split, every=1):
        (scene,) = of.scenes(split)
        return [scene.frame_ids[i] for i in sorted(of.split_frames(split, scene, every))]

    assert own(dataset, "val") == own(dataset, "val", 10) == ["0", "10", "20", "40", "50", "60"]
    assert own(dataset, "val", 4) == own(dataset, "val", 20) == ["0", "20", "40", "60"]
    assert own(with_given(dataset, str(tmp_path), "val"), "val") == own(dataset, "val")
    assert len(own(dataset, "train")) == len(dataset.scenes("train")[0]), "what is trained on is all its own"
    whole = open_dataset("scannet", root)
    assert len(own(whole, "val")) == 59, "of a video nothing was left out"


def test_a_frame_without_a_depth_map_is_kept_and_not_scored(root, tmp_path, monkeypatch):
    depth = SensScene._read_depth
    monkeypatch.setattr(SensScene, "_read_depth", lambda s, i: None if s.numbers[i] == 20 else depth(s, i))
    manifest = run(root, tmp_path / "out")
    (scene,) = open_dataset("scannet", tmp_path / "out").scenes("val")
    assert scene.frame_ids == ("0", "10", "20", "40", "50", "60")
    assert scene.depth(2) is None
    assert scene.depth(3) is not None
    assert [s["with_depth"] for s in manifest["scenes"] if s["split"] == "val"] == [5]
    assert not manifest["scenes"][-1]["corrupt"]


def test_an_evaluated_scene_without_any_depth_has_none_afterwards(root, tmp_path):
    folder = root / "scans" / VAL
    file = SensFile(sens_of(root, VAL))
    for kind in ("color", "pose", "intrinsic"):
        (folder / kind).mkdir()
    np.savetxt(folder / "intrinsic" / "intrinsic_color.txt", np.eye(4))
    for frame in file:
        (folder / "color" / f"{frame.index}.jpg").write_bytes(frame.color)
        np.savetxt(folder / "pose" / f"{frame.index}.txt", frame.world_T_cam)
    sens_of(root, VAL).unlink()
    run(root, tmp_path / "out", splits=["val"])
    (scene,) = open_dataset("scannet", tmp_path / "out").scenes("val")
    assert (len(scene), scene.has_depth) == (6, False)


def test_a_manifest_cannot_lead_out_of_its_folder(prepared):
    out, folder, index, manifest = prepared
    (folder / INDEX).write_bytes(index)
    value = json.loads(manifest)
    for name in ("../data", "/etc", "scene0704_00/.."):
        value["scenes"][0]["name"] = name
        (out / MANIFEST).write_text(json.dumps(value))
        with pytest.raises(DataError, match=r"scenes\.0\.name: String should match pattern"):
            read_manifest(out)
    (out / MANIFEST).write_bytes(manifest)


def test_the_command(root, tmp_path, capsys):
    arguments = ["--root", str(root), "--out", str(tmp_path / "out"), "--height", "64", "--width", "96"]
    assert main(["prepare", "scannet", *arguments, "--scheduler", "none", "--splits", "val"]) == 0
    out = capsys.readouterr().out
    assert "val: 1 scene, 61 video frames, 6 kept, 6 of them with depth" in out
    for wrong, message in (
        (["--hight", "64"], "unknown option 'hight'. Did you mean 'height'"),
        (["--height", "100"], "multiples of 32"),
        (["--every", "0"], "every = 0 must be at least 1"),
        (["--splits", "vale"], "unknown split 'vale'. Did you mean 'val'"),
        (["--without", "scene0000_01"], "unknown scene to leave out"),
        (["--max-corrupt", "2"], "share between 0 and 1"),
    ):
        assert main(["prepare", "scannet", *arguments, *wrong]) == 2
        assert message in capsys.readouterr().err


def test_rooms_in_scannets_sizes_through_preparation_training_and_evaluation(tmp_path):
    """A room a split of GlossyRooms as .sens files; that of val has 640x480 colour, each has a lost pose."""
    write_glossyrooms(tmp_path / "data", rooms=1, frames=9)
    rooms = open_dataset("glossyrooms", rooms=1, frames=9)
    manifest = prepare_scannet(
        tmp_path / "data",
        tmp_path / "out",
        Settings(96, 128, every=1, integrate_every=1, eval_every=4),
        scheduler="none",
    )
    folders = {s["name"]: scene_folder(tmp_path / "out", s["split"], s["name"]) for s in manifest["scenes"]}
    sizes = {tuple(read_index(folder, name)["source"]["size_hw"]) for name, folder in folders.items()}
    assert sizes == {(480, 640), (968, 1296)}
    dataset = open_dataset("scannet", tmp_path / "out")
    for scene, room in zip(dataset.scenes("val"), rooms.scenes("val"), strict=True):
        assert scene.frame_ids == ("0", "4", "8")
        assert np.allclose(scene.K(1), room.K(4, (96, 128)), atol=1e-4)
        assert abs(scene.image(1).astype(int) - room.image(4, (96, 128))).mean() < 6
        assert np.array_equal(scene.depth(1), nearest_depth(room.depth(4), (480, 640)))
    cfg = make_config(
        profile="smoke", dataset="scannet", root=str(tmp_path / "out"), runs_dir=str(tmp_path), steps=1
    )
    scores = stages.evaluate(cfg, "monodepth2")
    assert list(zip(scores["scene"], scores["frame"], strict=True)) == [("scene0700_00", "0")]
    assert (scores["count"] > 0.9 * 480 * 640).all()
    assert set(tables.run_table(cfg)["source"]) == {"ours"}  # the paper's rows are of the whole split
    made = tables.of_run(cfg, "2")
    assert set(made.frame["source"]) == {"ours"}
    assert "Not all images of ScanNet val were scored" in made.caption


def test_a_real_sequences_triples(shared_dir, tmp_path):
    """The poses of a 7-Scenes sequence in a .sens file with images of one colour: 37 to 50 triples."""
    sequence = shared_dir / "data" / "7scenes" / "redkitchen" / "seq-01"
    if not sequence.is_dir():
        pytest.skip("needs the 7-Scenes sequence among the development data")
    poses = [np.loadtxt(p) for p in sorted(sequence.glob("*.pose.txt"))]
    write_small(tmp_path / "scene0000_00.sens", poses, (4, 6), (3, 4), color_codec="raw")
    scene = SensScene(tmp_path / "scene0000_00.sens", "scene0000_00")
    plan = plan_frames(scene, "train", Settings())
    assert 37 <= len(plan.triples) <= 50
    assert len(plan.colors) < 100 + 2 * len(plan.triples)
    kept = scene.subset(plan.colors, "kept")
    assert triples_by_number(kept) == triples_by_number(scene)


def test_poses_that_cannot_be_read_count_as_frames_that_cannot(root, tmp_path):
    run(root, tmp_path / "out")
    other = tmp_path / "data2"
    shutil.copytree(scene_folder(tmp_path / "out", "val", VAL), other / VAL)
    (other / "scannetv2_val.txt").write_text(f"{VAL}\n")
    (other / VAL / "pose" / "40.txt").write_text("nothing")
    with pytest.raises(DataError, match=r"1 of the 6 needed frames cannot be read, more than 1.0% .*40\.txt"):
        run(other, tmp_path / "out2")
    (entry,) = run(other, tmp_path / "out2", max_corrupt=0.5)["scenes"]
    assert list(entry["corrupt"]) == ["40"]
    assert entry["left_out"] == {"pose cannot be read": 1}


def test_images_of_another_size_in_one_scene_are_unreadable_frames(root, tmp_path):
    """A folder in which only some frames have been resized."""
    run(root, tmp_path / "out")
    other = tmp_path / "data2"
    shutil.copytree(scene_folder(tmp_path / "out", "val", VAL), other / VAL)
    (other / "scannetv2_val.txt").write_text(f"{VAL}\n")
    Image.new("RGB", (50, 40)).save(other / VAL / "color" / "20.jpg")
    manifest = run(other, tmp_path / "out2", max_corrupt=0.5)
    assert list(manifest["scenes"][0]["corrupt"]) == ["20"]
