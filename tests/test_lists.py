"""Lists of frames: written lists are read back, and each error in a list has its own message."""

from __future__ import annotations

import numpy as np
import pytest

from d3d.cli import main
from d3d.datasets import Dataset, Scene, lists
from d3d.errors import ConfigError, DataError
from d3d.pipeline import scenes, stages
from d3d.pipeline.config import make_config
from d3d.pipeline.stages import trainings


def scene(name: str, ids: list[str]) -> Scene:
    return Scene(name, ids, np.tile(np.eye(4), (len(ids), 1, 1)), (4, 8))


# as ScanNet names them, with every tenth frame; and frames that are no numbers
SCENES = [
    scene("scene0011_00", [f"{i:06d}" for i in range(0, 100, 10)]),
    scene("scene0011_01", [f"{i:06d}" for i in range(5)]),
    scene("kitchen/seq-01", ["left", "right"]),
]


@pytest.fixture
def listed(tmp_path):
    """Write lines to a list file and check it against `SCENES`."""

    def check(*lines: str):
        path = tmp_path / "val_Reflection.txt"
        path.write_text("\n".join(lines) + "\n")
        return lists.read_list(path, SCENES, "split 'val' of data set 'scannet'")

    return check


def test_what_is_written_is_read_back_with_who_decided(tmp_path):
    frames = {("scene0011_01", "000003"), ("scene0011_00", "000020"), ("kitchen/seq-01", "left")}
    header = {"decided by": "a person\nwho had time", "threshold": 0.4}
    path = lists.write_list(tmp_path / "new" / "val_Reflection.txt", frames, header)
    assert path.read_text().splitlines() == [
        "# decided by: a person who had time",
        "# threshold: 0.4",
        "kitchen/seq-01 left",
        "scene0011_00 000020",
        "scene0011_01 000003",
    ]
    assert lists.read_list(path) == lists.read_list(path, SCENES) == frames


@pytest.mark.parametrize(
    ("frames", "message"),
    [
        ([], "no frame was chosen"),
        ([("a room", "1")], "'a room' has a space or '#'"),
        ([("a", "#1")], "'#1' has a space or '#'"),
        ([("a", "")], "'' has a space or '#'"),
    ],
)
def test_a_list_that_could_not_be_read_back_is_not_written(frames, message, tmp_path):
    with pytest.raises(DataError, match=message):
        lists.write_list(tmp_path / "val_A.txt", frames, {})
    assert not list(tmp_path.iterdir())


def test_frames_are_found_by_name_or_by_number(listed):
    assert listed(
        "# ours", "", "scene0011_00 20  # shiny table", "scene0011_00 000030", "kitchen/seq-01 left"
    ) == {
        ("scene0011_00", "000020"),
        ("scene0011_00", "000030"),
        ("kitchen/seq-01", "left"),
    }


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (("scene0011_00 0", "", "scene0011_00"), r"line 3: 'scene0011_00': not a scene and a frame\.$"),
        (("scene0011_00 0 1",), r"line 1: .*: not a scene and a frame\.$"),
        (
            ("scene0011_0 0",),
            r"line 1: .* split 'val' of data set 'scannet' has no scene 'scene0011_0'. Did you mean .*\?$",
        ),
        (("office 0",), r"has no scene 'office'\.$"),
        (
            ("scene0011_00 34",),
            r"has no frame '34', but 10 from '000000' to '000090'. Nearest: 000030, 000040\.$",
        ),
        (("kitchen/seq-01 lefft",), r"has no frame 'lefft', but 2 from .* Did you mean 'left'\?$"),
        (("scene0011_00 -10",), r"has no frame '-10'"),
        (
            ("scene0011_00 10", "# and", "scene0011_00 000010"),
            r"line 3: .*: line 1 has this frame already\.$",
        ),
        (("# nothing", ""), r"the list is empty: no line has a scene and a frame\.$"),
        (
            ("x", "scene0011_00 1", "scene0011_00 2", "scene0011_00 0", "scene0011_00 0", "office 1"),
            r"line 1: .*In all 5 lines are wrong: 1 malformed line, 2 unknown frames, 1 duplicate, 1 unknown scene\.$",
        ),
    ],
)
def test_each_wrong_line_is_told_with_its_number(lines, message, listed):
    with pytest.raises(DataError, match=message) as caught:
        listed(*lines)
    assert "val_Reflection.txt" in str(caught.value)


def test_numbers_do_not_stand_for_frames_where_two_have_the_same(tmp_path):
    twice = [scene("a", ["1", "01", "2"])]
    (tmp_path / "l.txt").write_text("a 002\n")
    with pytest.raises(DataError, match="has no frame '002'"):
        lists.read_list(tmp_path / "l.txt", twice)


def test_a_file_that_is_none(tmp_path):
    (tmp_path / "val_Reflections.txt").write_text("a 1\n")
    with pytest.raises(DataError, match=r"no such list. Did you mean 'val_Reflections.txt'"):
        lists.read_list(tmp_path / "val_Reflection.txt")
    (tmp_path / "picture.txt").write_bytes(b"\xff\xd8\xff\xe0")
    with pytest.raises(DataError, match=r"picture\.txt: not readable as a list"):
        lists.read_list(tmp_path / "picture.txt")
    with pytest.raises(DataError, match="not readable as a list"):
        lists.read_list(tmp_path)


def test_what_the_parameter_may_be(tmp_path):
    for name in ("val_Reflection.txt", "val_Glass.txt", "test_Reflection.txt", "val_Reflection.json"):
        (tmp_path / name).write_text("a 1\n")
    one = tmp_path / "val_Glass.txt"
    assert lists.given_files(str(tmp_path), "val") == {
        "Glass": one,
        "Reflection": tmp_path / "val_Reflection.txt",
    }
    assert lists.given_files(str(one), "val") == {"Glass": one}
    odd = tmp_path / "a, b.txt"
    assert lists.given_files(f"A={odd},B={one}", "val") == {"A": odd, "B": one}


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("{}/nowhere", "is not a folder. Give a folder"),
        ("{}/test_A.txt", r"is not named val_<Name>.txt. Give a folder"),
        ("{}", r"no file val_<Name>.txt for split 'val'; there: test_A.txt"),
        ("{}/empty", "there: no .txt file at all"),
        ("A=x.txt,A=y.txt", "'A' is given twice"),
        ("Val=x.txt", "'Val' .* cannot be a list's name"),
        ("my list=x.txt", "'my list' .* cannot be a list's name"),
        ("=x.txt", "cannot be a list's name"),
    ],
)
def test_what_the_parameter_may_not_be(given, message, tmp_path):
    (tmp_path / "test_A.txt").write_text("a 1\n")
    (tmp_path / "empty").mkdir()
    with pytest.raises((ConfigError, DataError), match=message):
        lists.given_files(given.format(tmp_path), "val")


def test_given_lists_stand_beside_and_over_the_data_sets_own(tmp_path):
    own = {"Reflection": frozenset({("scene0011_00", "000000")}), "Mirror": frozenset()}
    dataset = Dataset("scannet", {"val": lambda: SCENES, "test": lambda: SCENES}, {"val": lambda: own})
    (tmp_path / "val_Reflection.txt").write_text("scene0011_00 10\n")
    (tmp_path / "val_Glass.txt").write_text("scene0011_01 1\n")
    (tmp_path / "test_Glass.txt").write_text("nonsense\n")  # of a split that is not evaluated
    with_given = lists.with_given(dataset, str(tmp_path), "val")
    assert with_given.lists("val") == {
        "Reflection": {("scene0011_00", "000010")},
        "Mirror": frozenset(),
        "Glass": {("scene0011_01", "000001")},
    }
    assert with_given.lists("test") == {}
    assert with_given.scenes("val") == dataset.scenes("val")
    assert dataset.lists("val") == own


def test_a_list_of_which_nothing_is_evaluated_is_refused(tmp_path):
    dataset = Dataset("scannet", {"val": lambda: SCENES})
    (tmp_path / "val_Glass.txt").write_text("scene0011_00 10\nscene0011_01 1\n")
    with pytest.raises(
        DataError, match=r"val_Glass.txt: none of its 2 frames is evaluated with eval_every = 3"
    ):
        lists.with_given(dataset, str(tmp_path), "val", every=3)
    (tmp_path / "val_Glass.txt").write_text("scene0011_00 10\nscene0011_01 3\n")
    assert len(lists.with_given(dataset, str(tmp_path), "val", every=3).lists("val")["Glass"]) == 2


def smoke(tmp_path, **parameters):
    return make_config(profile="smoke", runs_dir=str(tmp_path / "runs"), run="r", **parameters)


def test_a_wrong_list_stops_before_anything_is_trained(tmp_path, monkeypatch, capsys):
    (tmp_path / "val_Found.txt").write_text("val-0000 3\nval-0000 4000\n")

    def never(*args, **kwargs):
        raise AssertionError("trained")

    monkeypatch.setattr(trainings, "train", never)
    config = smoke(tmp_path, lists=str(tmp_path))
    for stage in (stages.pretrain, stages.distill, stages.evaluate, stages.train_all):
        with pytest.raises(DataError, match=r"val_Found.txt, line 2: .* has no frame '4000', but 18"):
            stage(config)
    arguments = ["all", "--profile", "smoke", "--runs-dir", str(tmp_path / "runs"), "--lists", str(tmp_path)]
    assert main(arguments) == 1
    assert "val_Found.txt, line 2" in capsys.readouterr().err
    (tmp_path / "val_Found.txt").write_text("val-0000 3\n")
    with pytest.raises(AssertionError, match="trained"):
        stages.pretrain(config)


def test_the_frames_of_a_list_that_are_not_evaluated_are_counted(tmp_path, capsys):
    path = tmp_path / "val_Found.txt"
    path.write_text("val-0000 3\nval-0000 4\nval-0000 5\n")
    scenes.evaluated_dataset(
        smoke(tmp_path, lists=f"Found={path}")
    )  # profile smoke evaluates every 3rd frame
    scenes.evaluated_dataset(smoke(tmp_path, lists=f"Found={path}"))
    said = f"{path}: 1 of its 3 frames is evaluated with eval_every = 3; 1 evaluates all."
    assert capsys.readouterr().out.count(said) == 1


def test_a_list_written_anew_is_read_anew_and_changes_no_stage(tmp_path):
    path = tmp_path / "val_Found.txt"
    config = smoke(tmp_path, lists=f"Found={path}")
    for frame in ("000003", "000006"):
        path.write_text(f"val-0000 {frame}\n")
        assert scenes.evaluated_dataset(config).lists("val")["Found"] == {("val-0000", frame)}
    assert stages.identity_of(config, "evaluate", "monodepth2") == stages.identity_of(
        smoke(tmp_path), "evaluate", "monodepth2"
    )
