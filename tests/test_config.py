"""Profiles, strict parameters, and the identity of a stage."""

import json
import re
import shutil

import pytest

from d3d import fusion, models
from d3d.errors import ConfigError
from d3d.pipeline import config as c
from d3d.pipeline import profiles
from d3d.pipeline.runs import differences
from d3d.pipeline.stages import identity_of


def test_every_registered_name_is_a_parameter_and_the_ensemble_is_the_papers():
    assert c.PARAMETERS["arch"].choices == models.ARCHITECTURES
    assert c.PARAMETERS["labels"].choices == fusion.LABELS
    assert set(fusion.STRATEGIES) <= set(fusion.LABELS)
    assert c.ENSEMBLE == ("monodepth2", "hrdepth", "monovit")
    assert set(c.ENSEMBLE) <= set(models.ARCHITECTURES)


def test_profile_paper_has_the_papers_numbers():
    cfg = c.make_config(profile="paper")
    assert cfg.data.size_hw == (288, 384)
    assert (cfg.data.every, cfg.data.translation_m, cfg.data.max_rotation_deg) == (10, (0.05, 0.10), 3.0)
    assert (cfg.fusion.voxel_m, cfg.fusion.trunc_m, cfg.fusion.integrate_every) == (0.05, 1.0, 10)
    assert cfg.fusion.threshold_m == 0.4
    for stage in ("pretrain", "distill"):
        for arch, batch in (("monodepth2", 12), ("hrdepth", 12), ("monovit", 8)):
            train = cfg.training(stage, arch)
            assert (train.batch_size, train.epochs, train.learning_rate) == (batch, 41, 1e-4)
            assert train.milestones == (26, 36)
            assert train.scales == (0, 1, 2, 3)
            assert train.pretrained
            assert not train.automask


@pytest.mark.parametrize("name", c.PROFILES)
def test_the_documented_profiles_are_those_of_the_code(name, repo_dir):
    text = (repo_dir / "docs" / "profiles.md").read_text()
    section = text.split(f"\n## {name}: ", 1)[1].split("\n## ", 1)[0]
    table = profiles.markdown(name)
    assert table.strip() in section, f"docs/profiles.md: the tables of {name!r} must be\n\n{table}"


def test_the_demo_is_planned_for_less_than_half_an_hour():
    """Measured seconds a step on two quiet cores. 6 minutes remain for prediction, meshes and evaluation."""
    cfg = c.make_config(profile="demo")
    pretrain = {"monodepth2": 0.36, "hrdepth": 0.40, "monovit": 1.0}
    seconds = sum(s * cfg.training("pretrain", a).total_steps(300) for a, s in pretrain.items())
    assert cfg.students == ("monodepth2",)
    seconds += 2 * 0.27 * cfg.training("distill", "monodepth2").total_steps(300)
    assert seconds < 24 * 60
    # a kill loses little: a checkpoint at least every two minutes
    for arch, step in pretrain.items():
        assert cfg.training("pretrain", arch).checkpoint_steps * step < 120


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"archh": "hrdepth"}, r"unknown parameter 'archh'.*'arch'"),
        ({"arch": "resnet"}, r"unknown arch 'resnet'.*hrdepth, lite, monodepth2, monovit"),
        ({"arch": "hrdeph"}, r"Did you mean 'hrdepth'"),
        ({"profile": "smok"}, r"unknown profile 'smok'.*'smoke'"),
        ({"labels": "uncertain"}, r"unknown labels 'uncertain'.*'uncer'"),
        ({"epochs": True}, r"epochs = True must be int"),
        ({"epochs": 2.0}, r"epochs = 2.0 must be int"),
        ({"epochs": 0}, r"at least 1"),
        ({"epochs": 2, "steps": 9}, r"epochs = 2 and steps = 9: set one"),
        ({"threshold_m": "0.4"}, r"threshold_m = '0.4' must be float"),
        ({"threshold_m": float("nan")}, r"at least 0"),
        ({"height": 100}, r"multiple of 32, for example 96 or 128"),
        ({"run": "../elsewhere"}, r"plain folder name"),
        ({"unknown_thing": None}, r"unknown parameter"),
        ({"loss": "triplets"}, r"unknown loss 'triplets'.*Did you mean 'triplet'"),
        ({"loss": "triplet", "profile": "ready"}, r"loss = 'triplet' needs teachers = 'trained'"),
        ({"triplet_margin": 1.0}, r"triplet_margin = 1.0 needs loss = 'triplet'"),
    ],
)
def test_a_wrong_parameter_is_one_clear_error(parameters, message):
    with pytest.raises(ConfigError, match=message):
        c.make_config(**parameters)


def test_none_means_as_the_profile_has_it_and_values_arrive():
    assert c.make_config(profile="demo", epochs=None) == c.make_config(profile="demo")
    cfg = c.make_config(
        profile="demo", threshold_m=0.33, batch_size=3, epochs=41, dataset="7scenes", root="x"
    )
    assert cfg.fusion.threshold_m == 0.33
    assert cfg.training("pretrain", "monovit").batch_size == 3
    assert cfg.training("distill", "hrdepth").epochs == 41
    assert cfg.training("pretrain", "monovit").milestones == (26, 36)
    assert cfg.run == "7scenes-demo-seed0"


def test_papermill_can_name_each_parameter_that_a_notebook_mentions(repo_dir):
    """A parameter outside the parameters cell arrives as a cell of papermill's."""
    for path in sorted((repo_dir / "notebooks").glob("*.py")):
        mentioned = set(re.findall(r"-p (\w+)", path.read_text()))
        assert mentioned <= set(c.PARAMETERS), f"{path.name}: {mentioned - set(c.PARAMETERS)}"
    assert c.resolve(notebook("profile = 'demo'", "loss = 'triplet'")).pretrain.loss == "triplet"


def test_another_loss_is_part_of_the_names_of_runs_and_results():
    assert c.make_config(profile="demo", loss="photometric").run == "glossyrooms-demo-seed0"
    assert c.make_config(profile="demo", loss="triplet", seed=2).run == "glossyrooms-demo-triplet-seed2"
    other = c.make_config(profile="laptop", loss="triplet-stop", triplet_margin=-1.5)
    assert other.variant == "laptop --loss triplet-stop --triplet-margin -1.5"
    assert other.name == "glossyrooms-laptop-triplet-stop--1.5"
    assert "with loss triplet-stop" in c.describe(other)


def test_the_users_length_beats_the_profiles_in_epochs_or_in_steps():
    for profile in c.PROFILES:
        for arch in c.ENSEMBLE:
            for stage in ("pretrain", "distill"):
                in_steps = c.make_config(profile=profile, steps=82, bounds="paper").training(stage, arch)
                assert in_steps.total_steps(300) == 82
                assert in_steps.drops(82) == (52, 72)
                in_epochs = c.make_config(profile=profile, epochs=82, bounds="paper").training(stage, arch)
                assert in_epochs.total_steps(300) == 82 * 300
                assert in_epochs.drops(82 * 300) == (52 * 300, 72 * 300)


def test_the_users_batch_size_beats_the_profiles_exception():
    assert c.make_config(profile="paper", batch_size=2).training("pretrain", "monovit").batch_size == 2
    assert c.make_config(profile="paper", learning_rate=1e-3).training("pretrain", "monovit").batch_size == 8


def notebook(*cells):
    """Return a notebook's globals after these cells have run."""
    namespace = {"In": ["", *cells]}
    for cell in cells:
        exec(cell, namespace)
    return namespace


def test_resolve_reads_the_parameters_cell_and_the_injected_one():
    parameters = "# tagged\nprofile: str = 'smoke'  # help\narch: str = 'monodepth2'\nroot = None"
    cfg = c.resolve(notebook("import os\nvalue = len('ab')", parameters, "# Parameters\narch = 'hrdepth'\n"))
    assert (cfg.profile, cfg.arch) == ("smoke", "hrdepth")


def test_resolve_refuses_what_papermill_only_warns_about():
    with pytest.raises(ConfigError, match=r"unknown parameter 'archh'.*'arch'"):
        c.resolve(notebook("arch = 'monodepth2'", "# Parameters\narchh = 'hrdepth'"))


def test_resolve_does_not_mind_other_variables_when_a_cell_is_run_again():
    cells = (
        "profile = 'smoke'",
        "steps = len('abc')\nloss = steps * 0.5",
        "for i in range(3):\n    best = i",
    )
    assert c.resolve(notebook(*cells)).profile == "smoke"


def test_resolve_in_a_kernel_without_history_takes_every_literal():
    """nbval runs cells like this. Unseen parameters would silently take the default profile's values."""
    assert c.resolve({"In": [""], "Out": {}, "profile": "smoke", "arch": "hrdepth"}).profile == "smoke"
    with pytest.raises(ConfigError, match="archh"):
        c.resolve({"In": [""], "profile": "smoke", "archh": "hrdepth"})


def test_resolve_outside_ipython_takes_every_literal():
    assert c.resolve({"profile": "smoke", "__name__": "x", "os": pytest}).profile == "smoke"
    with pytest.raises(ConfigError, match="profil"):
        c.resolve({"profil": "smoke"})


def test_stage_identity_holds_what_matters_and_nothing_else(repo_dir, tmp_path):
    copied_rooms = tmp_path / "rooms"
    shutil.copytree(repo_dir / "data" / "glossyrooms", copied_rooms)
    base = c.make_config(profile="smoke")
    for stage in ("pretrain", "predict", "project", "fuse", "distill", "evaluate"):
        plain = identity_of(base, stage, "hrdepth", "uncer")
        assert json.loads(json.dumps(plain)) == plain  # survives being read back
        elsewhere = c.make_config(profile="smoke", device="cpu", workers=2, run="other")
        assert identity_of(elsewhere, stage, "hrdepth", "uncer") == plain
        assert identity_of(c.make_config(profile="smoke", seed=1), stage, "hrdepth", "uncer") != plain
        # a copy of the data in another folder is the same data
        copied = c.make_config(profile="smoke", root=str(copied_rooms))
        assert identity_of(copied, stage, "hrdepth", "uncer") == plain

    def changed(stage, labels="uncer", **parameters):
        other = c.make_config(profile="smoke", **parameters)
        return differences(
            identity_of(other, stage, "hrdepth", labels), identity_of(base, stage, "hrdepth", labels)
        )

    assert not changed("project", threshold_m=0.33)
    assert changed("distill", threshold_m=0.33)
    assert not changed("distill", "pred", threshold_m=0.33)
    assert not changed("pretrain", voxel_m=0.1)
    assert changed("project", voxel_m=0.1)
    assert changed("pretrain", batch_size=3)
    assert changed("evaluate", scale="median")
    assert changed("predict", precision="bf16")
    assert not changed("distill", scale="median")
