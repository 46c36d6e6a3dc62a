"""Runs: finished stages are skipped, other configurations or processes are refused, partial files are never used."""

import json
import shutil
import subprocess
import sys
import textwrap

import pytest

from d3d import io
from d3d.errors import RunError
from d3d.pipeline import graph, runs, stages
from d3d.pipeline.config import make_config
from d3d.pipeline.graph import Key


@pytest.fixture
def cfg(tmp_path):
    return make_config(profile="smoke", runs_dir=str(tmp_path), run="r")


def test_a_finished_stage_has_provenance_and_is_done(cfg, tmp_path):
    with graph.open_stage(cfg, Key("pretrain", "hrdepth")) as stage:
        assert not stage.done
        assert stage.folder == tmp_path / "r" / "pretrain" / "hrdepth"
        stage.finish({"weights": "abc"}, note="x")
    with graph.open_stage(cfg, Key("pretrain", "hrdepth")) as stage:
        assert stage.done
        assert stage.outputs == {"weights": "abc"}
    provenance = json.loads((stage.folder / "provenance.json").read_text())
    assert {"git", "versions", "seed", "machine", "command", "time", "inputs", "seconds"} <= set(provenance)
    assert provenance["versions"]["torch"]
    with graph.open_stage(cfg, Key("predict", "hrdepth")) as after:
        after.finish({})
    provenance = json.loads((after.folder / "provenance.json").read_text())
    assert provenance["inputs"] == {"pretrain/hrdepth/weights": "abc"}


def test_another_configuration_is_refused_and_says_what_differs(cfg):
    with graph.open_stage(cfg, Key("pretrain", "hrdepth")) as stage:
        stage.finish({})
    other = make_config(profile="smoke", runs_dir=cfg.runs_dir, run="r", batch_size=7)
    with (
        pytest.raises(RunError, match=r"training.batch_size: 2 there, 7 now"),
        graph.open_stage(other, Key("pretrain", "hrdepth")),
    ):
        pass


def test_other_inputs_are_refused(cfg):
    key = Key("predict", "hrdepth")
    with graph.open_stage(cfg, Key("pretrain", "hrdepth")) as teacher:
        teacher.finish({"weights": "1"})
    with graph.open_stage(cfg, key) as stage:
        stage.finish({})
    teacher.finish({"weights": "2"})
    with pytest.raises(RunError, match="other inputs"), graph.open_stage(cfg, key):
        pass
    # what a finished stage was made from may be deleted
    shutil.rmtree(teacher.folder)
    with graph.open_stage(cfg, key) as stage:
        assert stage.done


def test_two_processes_in_the_same_folder_are_refused(cfg):
    script = textwrap.dedent(f"""
        from d3d.pipeline import graph, stages
        from d3d.pipeline.config import make_config
        from d3d.pipeline.graph import Key
        cfg = make_config(profile="smoke", runs_dir={cfg.runs_dir!r}, run="r")
        with graph.open_stage(cfg, Key("pretrain", "hrdepth")):
            print("held", flush=True)
            input()
    """)
    with subprocess.Popen(
        [sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as p:
        assert p.stdout.readline().strip() == "held"
        with (
            pytest.raises(RunError, match="in use by another process"),
            graph.open_stage(cfg, Key("pretrain", "hrdepth")),
        ):
            pass
        p.kill()
    # the lock of a killed process does not stay
    with graph.open_stage(cfg, Key("pretrain", "hrdepth")) as stage:
        assert not stage.done


def test_a_folder_of_somebody_else_is_not_touched(cfg, tmp_path):
    folder = tmp_path / "r" / "pretrain" / "hrdepth"
    folder.mkdir(parents=True)
    (folder / "thesis.txt").write_text("mine")
    with (
        pytest.raises(RunError, match="not a stage of d3d"),
        graph.open_stage(cfg, Key("pretrain", "hrdepth")),
    ):
        pass
    assert (folder / "thesis.txt").read_text() == "mine"


def test_a_damaged_config_names_its_file(cfg, tmp_path):
    with graph.open_stage(cfg, Key("pretrain", "hrdepth")) as stage:
        pass
    (stage.folder / "config.json").write_text('{"config": {')
    with pytest.raises(RunError, match=r"config\.json"), graph.open_stage(cfg, Key("pretrain", "hrdepth")):
        pass


def test_atomic_leaves_the_old_file_when_writing_fails(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")

    def fail():
        with io.atomic(path) as temporary:
            temporary.write_text("half")
            raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        fail()
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["a.txt"]


def test_of_two_writers_of_one_folder_the_first_one_stays(tmp_path):
    """This happens if a worker was thought lost. Both writers may have the same process id."""

    def write(folder, content):
        folder.mkdir()
        (folder / "a.txt").write_text(content)

    with io.atomic(tmp_path / "scene") as late:
        write(late, "late")
        with io.atomic(tmp_path / "scene") as early:
            assert early != late
            write(early, "early")
    assert [p.name for p in tmp_path.rglob("*")] == ["scene", "a.txt"]
    assert (tmp_path / "scene" / "a.txt").read_text() == "early"


def test_a_writer_that_was_thought_dead_cannot_finish_what_was_cleared(cfg):
    def write():
        with io.atomic(stages.stage_folder(cfg, "predict", "monovit") / "scene") as temporary:
            temporary.mkdir()
            (temporary / "index.json").touch()
            with graph.open_stage(cfg, Key("predict", "monovit")):
                pass

    with pytest.raises(FileNotFoundError):
        write()
    assert {p.name for p in stages.stage_folder(cfg, "predict", "monovit").iterdir()} == {
        ".lock",
        "config.json",
    }


def test_leftovers_of_a_killed_run_are_cleared(cfg):
    with graph.open_stage(cfg, Key("predict", "hrdepth")) as stage:
        half = stage.folder / ".123.part-scene"
        half.mkdir()
        (half / "000.png").write_bytes(b"x")
    with graph.open_stage(cfg, Key("predict", "hrdepth")) as stage:
        assert not half.exists()


def test_the_commit_is_that_of_the_start(cfg, monkeypatch):
    monkeypatch.setattr(runs, "_git_state", lambda: {"git": "before", "dirty": False})
    with graph.open_stage(cfg, Key("pretrain", "monovit")) as stage:
        monkeypatch.setattr(runs, "_git_state", lambda: {"git": "after", "dirty": True})
        stage.finish({})
    stored = io.read_json(stage.folder / "provenance.json")
    assert (stored["git"], stored["dirty"]) == ("before", False)
