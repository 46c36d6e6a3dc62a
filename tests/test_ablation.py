"""The ablation: which labels, their quality against the truth, and the students' table; another data set scored."""

import subprocess
import sys

import nbformat
import numpy as np
import pandas as pd
import pytest
from helpers import notebook_environment

from d3d import tables
from d3d.errors import ConfigError, DataError
from d3d.pipeline import stages
from d3d.pipeline.config import make_config
from d3d.tables import table6

pytest.importorskip("open3d")


@pytest.fixture(scope="module")
def cfg(tmp_path_factory, trained_run):
    folder = tmp_path_factory.mktemp("runs")
    config = make_config(profile="smoke", runs_dir=str(folder), strategies="proj, pred,diff,proj_lowres")
    trained_run(folder, config.run)
    return config


def test_strategies_are_the_papers_or_those_named():
    assert table6.strategies(make_config(profile="smoke")) == tuple(tables.ABLATION)
    named = make_config(profile="smoke", strategies="uncer-tta, pred,uncer-tta")
    assert table6.strategies(named) == ("uncer-tta", "pred")
    with pytest.raises(ConfigError, match=r"unknown label strategy 'difff'\. Did you mean 'diff'"):
        table6.strategies(make_config(profile="smoke", strategies="pred,difff"))


def test_label_quality_is_that_of_the_stored_labels(cfg):
    quality = table6.label_quality(cfg)
    assert list(quality.index) == ["proj", "pred", "diff"]  # proj_lowres has the label of proj
    assert list(quality["sq_rel"].columns) == ["all", "highlight", "diffuse"]
    (s,) = stages.training_scenes(cfg)
    errors = []
    for i in s.targets:
        gt = s.scene.depth(i)
        label = stages.fuse(cfg, labels="diff").read(s.scene.name, s.scene.frame_ids[i])
        rows = np.arange(gt.shape[0]) * label.shape[0] // gt.shape[0]
        columns = np.arange(gt.shape[1]) * label.shape[1] // gt.shape[1]
        errors.append((((label[np.ix_(rows, columns)] - gt) ** 2 / gt)[gt > 0]).mean())
    # resized there bilinearly, here by the nearest pixel
    assert quality.loc["diff", ("sq_rel", "all")] == pytest.approx(np.mean(errors), rel=0.02)


def test_pictures_show_every_label_and_where_it_takes_the_mesh(cfg):
    figure = table6.label_pictures(cfg)
    titles = [a.get_title() for a in figure.axes]
    assert [t for t in titles if "P taken" in t] == ["proj: P taken", "pred: P taken", "diff: P taken"]
    taken = {t: a.images[0].get_array() for t, a in zip(titles, figure.axes, strict=True) if "P taken" in t}
    assert taken["proj: P taken"].mean() > 0.5
    assert not taken["pred: P taken"].any()


def test_table_6_has_a_row_of_each_student_and_says_what_is_not_there(cfg):
    table = table6.table6(cfg)
    whole = table.frame[table.frame["list"] == ""]
    there = list(whole[whole["n"] > 0]["training"])
    assert there == [tables.label_name(n) for n in ("pred", "proj", "proj_lowres", "diff")]
    scores = stages.evaluate(cfg, labels="proj_lowres")
    row = whole[whole["training"] == "proj. depth with low-resolution training"].iloc[0]
    assert row["sq_rel"] == pytest.approx(scores[scores["pixels"] == "all"]["sq_rel"].mean())
    assert [m.split(":")[0].split(", ")[-1] for m in table.missing] == [
        "pred. depth + proj. depth with mv",
        "pred. depth + proj. depth with uncer",
    ]


def test_another_data_set_is_scored_apart_from_the_runs_own(cfg):
    other = make_config(
        profile="smoke", runs_dir=cfg.runs_dir, eval_dataset="glossyrooms", split="test", scale="median"
    )
    scores = stages.evaluate(other, labels="pred")
    table = tables.of_run(other, "5")
    row = table.frame[table.frame["n"] == 1].iloc[0]
    assert (row["set"], row["training"]) == ("GlossyRooms Test Set", "Self-Teaching")
    assert row["abs_rel"] == pytest.approx(scores[scores["pixels"] == "all"]["abs_rel"].mean())
    assert set(tables.of_run(other, "6").frame["split"]) == {"val"}
    with pytest.raises(DataError, match="no scores for table mirror"):
        tables.of_run(other, "mirror")


@pytest.mark.slow
def test_the_notebook_scores_a_real_sequence(cfg, shared_dir, repo_dir, tmp_path):
    root = shared_dir / "data" / "7scenes"
    if not (root / "redkitchen" / "seq-01").is_dir():
        pytest.skip("needs redkitchen/seq-01 of 7-Scenes (data/7scenes of the development data)")
    out = tmp_path / "out.ipynb"
    parameters = {"eval_dataset": "7scenes", "eval_root": root, "labels": "diff", "eval_every": 200}
    words = [w for name, value in parameters.items() for w in ("-p", name, str(value))]
    result = subprocess.run(
        [sys.executable, "-m", "papermill", "06_sevenscenes.ipynb", str(out), *words],
        cwd=repo_dir / "notebooks",
        env=notebook_environment(cfg.runs_dir),
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert result.returncode == 0, result.stderr
    text = "".join(
        str(o.get("data", {}).get("text/markdown", ""))
        for c in nbformat.read(out, 4).cells
        for o in c.get("outputs", [])
    )
    assert "7-Scenes (5 images)" in text
    # one of 13 sequences: no figure of the paper may stand beside it
    assert "Not all images of 7-Scenes test were scored" in text
    assert "| Monodepth2 | Self-Teaching | " in text
    assert "(paper) |" not in text
    stored = pd.read_csv(
        next(p for p in (tmp_path.parent).rglob("evaluate/monodepth2/pred/7scenes-test/per_image.csv"))
    )
    assert set(stored["scene"]) == {"redkitchen-seq-01"}
    assert len(stored) == 5
    assert stored["abs_rel"].between(0, 2).all()
