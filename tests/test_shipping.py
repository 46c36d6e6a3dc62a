"""`python -m d3d ship`: the file, the manifest, the card, and what is refused."""

from __future__ import annotations

import json

import numpy as np
import pytest

import d3d
from d3d import io, models, shipping
from d3d.cli import main
from d3d.errors import ConfigError, DataError, RunError
from d3d.evaluation import summary
from d3d.models.initial import InitialWeights
from d3d.models.shipped import MANIFEST, read_manifest
from d3d.pipeline import scenes, stages
from d3d.pipeline.config import make_config
from d3d.shipping import make

NAME = "monodepth2-selfsupervised"


@pytest.fixture(scope="module")
def shelf(trained_run, tmp_path_factory):
    """A folder of networks in which the command has put the trained Monodepth2 of a run of profile smoke."""
    runs_dir, folder = tmp_path_factory.mktemp("runs"), tmp_path_factory.mktemp("networks")
    trained_run(runs_dir, "r")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("D3D_NETWORKS", str(folder))
        words = ["ship", "--profile", "smoke", "--runs-dir", str(runs_dir), "--run", "r", "--teacher"]
        assert main(words) == 0
        yield make_config(profile="smoke", runs_dir=str(runs_dir), run="r"), folder


def test_the_network_loads_by_name_and_is_small(shelf):
    config, folder = shelf
    entry = read_manifest().networks[NAME]
    assert models.available() == {NAME: "Monodepth2, Self-Supervised, glossyrooms at 96x64"}
    assert entry.bytes == (folder / f"{NAME}.safetensors").stat().st_size < 16e6
    model, source = d3d.load_model(NAME), stages.load_network(config, "monodepth2")
    assert (model.train_size, model.train_focal_px) == (source.train_size, source.train_focal_px)
    image = scenes.training_scenes(config)[0].scene.image(0, (64, 96))
    ours, theirs = (d3d.predict(m, image) for m in (model, source))
    assert 0 < np.abs(ours / theirs - 1).mean() < 0.005


def test_the_scores_are_those_of_the_very_file(shelf, tmp_path):
    config, folder = shelf
    entry = read_manifest().networks[NAME]
    path = folder / f"{NAME}.safetensors"
    per_image = stages.scores.score_file(config, path, io.sha256(path), tmp_path, "again")
    lists = scenes.evaluated_dataset(config).lists("val")
    wanted = {
        "all": summary(per_image),
        "highlight pixels": summary(per_image, pixels="highlight"),
        **{name: summary(per_image, frames=frames) for name, frames in lists.items()},
    }
    rows = {row["of"]: row for row in entry.facts["scores"] if row["split"] == "val"}
    assert {"all", "highlight pixels"} <= set(rows)
    for of, row in rows.items():
        if of in wanted:
            assert row["sq_rel"] == pytest.approx(wanted[of]["sq_rel"], rel=1e-3), of
    assert {row["split"] for row in entry.facts["scores"]} == {"val", "test"}
    before = summary(stages.evaluate(config, "monodepth2"))["sq_rel"]
    assert entry.facts["cost"]["float32"] == pytest.approx(before, rel=1e-3)
    assert entry.facts["cost"][entry.stored_as] == rows["all"]["sq_rel"]
    assert rows["all"]["sq_rel"] <= before * 1.0101


def test_the_card_says_what_was_measured_and_nothing_of_this_machine(shelf):
    config, folder = shelf
    text, entry = (folder / f"{NAME}.md").read_text(), read_manifest().networks[NAME]
    provenance = io.read_json(stages.stage_folder(config, "pretrain", "monodepth2") / "provenance.json")
    row = next(r for r in entry.facts["scores"] if (r["split"], r["of"]) == ("test", "all"))
    for fact in (
        f"# {NAME}\n",
        "license: mit",
        entry.sha256,
        str(provenance["git"]),
        f"torch {provenance['versions']['torch']}",
        "horizontal field of view 62 degrees",
        "96x64 pixels",
        f"| test | all | {row['images']} | {row['abs_rel']:.3f} | {row['sq_rel']:.3f} |",
        "CC0-1.0",
        "random values",
    ):
        assert fact in text, fact
    for path in folder.glob("*.*"):
        if path.suffix != ".safetensors":
            assert str(config.runs_dir) not in path.read_text(), path
            assert "{" not in path.read_text() or path.name == MANIFEST
    assert f"[{NAME}]({NAME}.md)" in (folder / "README.md").read_text()


def test_the_identity_of_the_training_is_kept(shelf):
    """A run compares this record with the network that it would train."""
    config, _ = shelf
    kept = read_manifest().networks[NAME].training
    identity = stages.identity_of(config, "pretrain", "monodepth2")
    assert kept["identity"] == shipping.identity_digest(identity)
    assert kept["initial"] == {"source": "random", "sha256": None}
    other = make_config(profile="smoke", runs_dir=config.runs_dir, run="r", seed=1)
    assert kept["identity"] != shipping.identity_digest(stages.identity_of(other, "pretrain", "monodepth2"))


def test_a_name_of_another_training_is_refused_until_it_may_be_replaced(shelf):
    _, folder = shelf
    manifest = folder / MANIFEST
    kept = {p.name: p.read_bytes() for p in folder.iterdir()}
    content = json.loads(manifest.read_bytes())
    training = content["networks"][NAME]["training"]
    training |= {"identity": "0" * 64, "settings": training["settings"] | {"seed": 7}}
    manifest.write_text(json.dumps(content))
    config = shelf[0]
    with pytest.raises(
        ConfigError, match=rf"(?s)'{NAME}' already names another training:.*seed: 7 there, 0 now"
    ):
        shipping.ship(config, "monodepth2")
    shipping.ship(config, "monodepth2", again=True)
    # the same training gives the same bytes
    assert {p.name: p.read_bytes() for p in folder.iterdir()} == kept


def test_a_name_must_be_one(shelf):
    with pytest.raises(ConfigError, match="'Up/there' is not a valid network name"):
        shipping.ship(shelf[0], "monodepth2", name="Up/there")


def test_an_unfinished_training_does_not_ship(shelf, capsys):
    config, _ = shelf
    with pytest.raises(
        RunError, match=r"pretrain/hrdepth of run 'r' is not finished: run `python -m d3d pretrain`"
    ):
        shipping.ship(config, "hrdepth")
    words = ["ship", "--profile", "smoke", "--runs-dir", config.runs_dir, "--run", "r"]
    assert main([*words, "--archs", "monodepth2,hrdepth", "--name", "x"]) == 2
    assert "--name names one network" in capsys.readouterr().err


def test_what_cannot_be_passed_on_does_not_ship(shelf, monkeypatch):
    config, _ = shelf
    monkeypatch.setattr(scenes.dataset(config), "licence", "")
    with pytest.raises(DataError, match="data set 'glossyrooms' has no licence"):
        shipping.ship(config, "monodepth2")
    monkeypatch.undo()


def test_initial_weights_without_a_licence_do_not_ship(shelf, monkeypatch):
    found = InitialWeights("somebody's (ImageNet)", "0" * 64)
    monkeypatch.setattr(make, "find_initial_weights", lambda *given: found)
    with pytest.raises(DataError, match="licence of the initial weights, somebody's"):
        shipping.ship(shelf[0], "monodepth2")


def test_half_precision_where_eight_bits_cost_too_much(shelf, monkeypatch, tmp_path):
    config, _ = shelf
    monkeypatch.setenv("D3D_NETWORKS", str(tmp_path))
    whole = make.score_file

    def worse(config, weights, sha256, folder, what):
        per_image = whole(config, weights, sha256, folder, what)
        return per_image.assign(sq_rel=per_image["sq_rel"] * 1.1) if "int8" in what else per_image

    monkeypatch.setattr(make, "score_file", worse)
    shipping.ship(config, "monodepth2")
    entry = read_manifest(tmp_path).networks[NAME]
    assert entry.stored_as == "float16"
    assert entry.facts["cost"]["int8"] > 1.01 * entry.facts["cost"]["float32"]
    assert "half precision" in (tmp_path / f"{NAME}.md").read_text()


def test_too_much_to_clone(shelf, monkeypatch, tmp_path):
    monkeypatch.setenv("D3D_NETWORKS", str(tmp_path))
    monkeypatch.setattr(make, "MAX_BYTES", 1_000_000)
    with pytest.raises(DataError, match=r"have 14\.\d MB, more than 1 MB"):
        shipping.ship(shelf[0], "monodepth2")
    assert list(tmp_path.iterdir()) == []


def test_names_by_default():
    names = [shipping.default_name("lite", labels) for labels in ("", "pred", "uncer", "signed")]
    assert names == ["lite-selfsupervised", "lite-selftaught", "lite-distilled", "lite-distilled"]


def test_the_help_lists_options_of_shipping_and_takes_those_of_the_training(shelf, capsys):
    config, _ = shelf
    with pytest.raises(SystemExit):
        main(["ship", "--help"])
    shown = capsys.readouterr().out
    assert "--teacher" in shown
    assert "`distill --help`" in shown
    assert not {"--epochs", "--voxel-m", "--train-processes"} & set(shown.split())
    words = ["ship", "--profile", "smoke", "--runs-dir", config.runs_dir, "--run", "r", "--teacher"]
    assert main([*words, "--steps", "7"]) == 2
    assert "training.steps: 6 there, 7 now" in capsys.readouterr().err
