"""The recommended recipe: only certain depth is fused, one network's uncertainty, its own mesh beside the paper's."""

import numpy as np
import pytest

from d3d import fusion
from d3d.errors import ConfigError
from d3d.io import read_json
from d3d.pipeline import runs, stages
from d3d.pipeline.config import make_config
from d3d.pipeline.stages import depth

pytest.importorskip("open3d")


@pytest.fixture(scope="module")
def cfg(tmp_path_factory, trained_run):
    folder = tmp_path_factory.mktemp("runs")
    trained_run(folder, "r")
    return make_config(profile="smoke", runs_dir=str(folder), run="r", recipe="robust")


@pytest.fixture(scope="module")
def labels(cfg):
    return stages.fuse(cfg, "monodepth2")


def test_a_recipe_is_labels_by_a_name():
    assert make_config(profile="smoke").labels == "uncer"
    assert make_config(profile="paper", recipe="paper").labels == "uncer"
    assert make_config(profile="smoke", recipe="robust").labels == "robust"
    assert make_config(profile="smoke", recipe="robust", labels="robust").labels == "robust"
    with pytest.raises(ConfigError, match=r"recipe = 'robust' and labels = 'proj': set one"):
        make_config(profile="smoke", recipe="robust", labels="proj")
    with pytest.raises(ConfigError, match=r"recipe 'robst'.*robust"):
        make_config(profile="smoke", recipe="robst")


def test_its_labels_follow_its_rule(cfg, labels):
    pred, proj = stages.predict(cfg, "monodepth2"), stages.project(cfg, "monodepth2")
    uncertainty = stages.uncertainty(cfg, "tta", "monodepth2")
    limit = stages.threshold(cfg, "robust", "monodepth2")
    (training,) = stages.training_scenes(cfg)
    of_all = np.concatenate([uncertainty.read_of(training.scene, i).ravel() for i in training.targets])
    assert limit == pytest.approx(np.quantile(of_all, 0.8), abs=0.001)
    taken = 0
    for i in training.targets[::4]:
        D, P, U, L = (s.read_of(training.scene, i) for s in (pred, proj, uncertainty, labels))
        use = (limit <= U) & (D > P) & (P > 0)
        taken += use.sum()
        np.testing.assert_array_equal(L, np.where(use, P, D))
    assert taken > 0
    assert proj.folder == runs.run_folder(cfg) / "project-robust" / "monodepth2"


def test_depth_that_the_network_is_unsure_of_is_not_fused(cfg, labels, monkeypatch):
    (training,) = stages.training_scenes(cfg)
    uncertainty = stages.uncertainty(cfg, "tta", "monodepth2")
    of_all = np.concatenate([uncertainty.read_of(training.scene, i).ravel() for i in training.targets])
    about = read_json(stages.project(cfg, "monodepth2").folder / "provenance.json", "certain_m")
    assert about["certain_m"] == pytest.approx(np.quantile(of_all, 0.7), abs=0.001)
    given = {}
    monkeypatch.setattr(
        depth.reconstruction, "reconstruct", lambda depths, *a, **k: given.update(depths=depths)
    )
    stages.mesh_of(cfg, training, stages.predict(cfg, "monodepth2"))
    assert (given["depths"] > 0).all()  # the run's own mesh: every depth
    limited = make_config(profile="smoke", runs_dir=cfg.runs_dir, run="r", fusion_certain=0.7, fusion_views=8)
    stages.mesh_of(limited, training, stages.predict(cfg, "monodepth2"), (uncertainty, about["certain_m"]))
    fused = list(depth.evenly_at_most(training.targets, 8))
    assert len(given["depths"]) == len(fused) <= 8
    for i, kept in zip(fused, given["depths"], strict=True):
        sure = uncertainty.read_of(training.scene, i) <= about["certain_m"]
        np.testing.assert_array_equal(kept > 0, sure)


def test_the_papers_mesh_stays_beside_it_with_the_identity_that_it_had(cfg, labels):
    paper = make_config(profile="smoke", runs_dir=cfg.runs_dir, run="r")
    store = stages.project(paper, "monodepth2")
    assert store.folder == runs.run_folder(cfg) / "project" / "monodepth2"
    # results that were recorded before there was a recipe are found by this identity
    assert stages.identity_of(paper, "project", "monodepth2")["settings"]["fusion"] == {
        "voxel_m": 0.05,
        "trunc_m": 1.0,
        "integrate_every": 3,
        "renderer": "open3d",
        "passes": 1,
    }
    assert (
        stages.identity_of(paper, "project", "monodepth2", "robust")
        == stages.identity_of(cfg, "project", "monodepth2")
        != stages.identity_of(paper, "project", "monodepth2")
    )


def test_either_mesh_may_come_first(cfg, labels):
    values = {"profile": "smoke", "runs_dir": cfg.runs_dir, "run": "coarse", "base": "r", "voxel_m": 0.1}
    robust, paper = make_config(recipe="robust", **values), make_config(**values)
    folders = [stages.project(c, "monodepth2").folder for c in (robust, paper, robust)]
    assert folders[0] == folders[2] == runs.run_folder(robust) / "project-robust" / "monodepth2"
    assert folders[1] == runs.run_folder(robust) / "project" / "monodepth2"


def test_it_needs_one_network_only(cfg):
    needs = stages.identity_of(cfg, "distill", "monodepth2", "robust")
    assert "hrdepth" not in str(needs)
    assert "uncertainty/monodepth2/tta" in str(needs)
    assert stages.identity_of(cfg, "fuse", "monodepth2", "robust-snapshots") != stages.identity_of(
        cfg, "fuse", "monodepth2", "robust"
    )
    assert fusion.find_strategy("robust-ensemble").uncertainty == "ensemble"


def test_certain_depth_needs_target_frames():
    with pytest.raises(ConfigError, match=r"fusion_certain = 0.7 needs fusion_views"):
        make_config(profile="smoke", fusion_certain=0.7)
    with pytest.raises(ConfigError, match=r"fusion_certain = 1.5 must be at most 1"):
        make_config(profile="smoke", fusion_certain=1.5, fusion_views=40)


def test_a_quantile_has_an_identity_and_a_mesh_of_its_own(cfg, labels):
    plain = make_config(profile="smoke", runs_dir=cfg.runs_dir, run="r")
    other = make_config(profile="smoke", runs_dir=cfg.runs_dir, run="q", base="r", fusion_quantile=0.4)
    (training,) = stages.training_scenes(cfg)
    i = training.targets[2]
    ours = stages.project(other, "monodepth2").read_of(training.scene, i)
    mean = stages.project(plain, "monodepth2").read_of(training.scene, i)
    assert stages.project(other, "monodepth2").folder.parent.parent.name == "q"
    both = (ours > 0) & (mean > 0)
    assert both.mean() > 0.5
    assert not np.array_equal(ours, mean)
    assert np.median(np.abs(ours - mean)[both]) < 0.3


def test_a_fusion_backend_has_an_identity_except_where_it_changes_nothing(cfg):
    def settings(**more):
        config = make_config(profile="smoke", runs_dir=cfg.runs_dir, run="r", **more)
        return stages.identity_of(config, "project", "monodepth2")["settings"]["fusion"]

    assert settings(fusion_backend="torch") == {**settings(), "backend": "torch"}
    assert settings(fusion_backend="open3d") == settings()
    assert settings(fusion_backend="torch", fusion_quantile=0.4) == settings(fusion_quantile=0.4)


def test_evenly_spaced_views():
    assert depth.evenly_at_most(list(range(80)), 40) == list(range(0, 80, 2))
    assert depth.evenly_at_most(list(range(38)), 40) == list(range(38))
    assert len(depth.evenly_at_most(list(range(81)), 40)) == 27
