"""The profile `ready`: teachers that ship, the environment variable D3D_PROFILE, and what smoke must not show."""

from __future__ import annotations

import pandas as pd
import pytest
import torch
from matplotlib.figure import Figure

from d3d import figures, progress, tables
from d3d.errors import ConfigError, DataError
from d3d.figures.files import NOT_TRAINED, mark_untrained
from d3d.io import sha256
from d3d.models.shipped import read_manifest
from d3d.parallel import distributed
from d3d.pipeline import graph, stages
from d3d.pipeline.config import make_config, resolve
from d3d.training import WEIGHTS


def test_a_shipped_teacher_is_the_finished_pretraining(tmp_path) -> None:
    config = make_config(profile="ready", arch="lite", runs_dir=str(tmp_path))
    folder = stages.pretrain(config)
    entry = read_manifest().networks["lite-selfsupervised"]
    assert sha256(folder / WEIGHTS) == entry.sha256
    assert stages.identity_of(config, "pretrain", "lite")["settings"]["sha256"] == entry.sha256
    assert stages.load_network(config, "lite").train_size == config.data.size_hw
    with pytest.raises(DataError, match="was not trained here, it ships with d3d"):
        stages.loss_history(config)
    key = stages.key_of(config, "distill", "lite", "uncer")
    trained = graph.identity(make_config(profile="ready", arch="lite", teachers="trained"), key)
    assert graph.identity(config, key) != trained, "a student of another teacher is another result"
    assert stages.is_finished(
        make_config(profile="ready", arch="lite", seed=7, run=config.run, runs_dir=str(tmp_path)),
        "pretrain",
        "lite",
    ), "the seed is of the student"


@pytest.mark.parametrize(
    ("parameters", "said"),
    [
        ({"height": 64}, r"size \(height, width\) \(64, 128\) instead of \(96, 128\)"),
        ({"dataset": "7scenes", "root": "x"}, "dataset 7scenes instead of glossyrooms"),
    ],
)
def test_a_run_unlike_the_shipped_teachers_is_refused(parameters, said, tmp_path) -> None:
    config = make_config(profile="ready", runs_dir=str(tmp_path), **parameters)
    with pytest.raises(ConfigError, match=said) as error:
        stages.pretrain(config)
    assert "Set teachers = 'trained'" in str(error.value)
    assert not list(tmp_path.iterdir())


def test_no_network_of_that_name_ships(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("D3D_NETWORKS", str(tmp_path / "none"))
    with pytest.raises(ConfigError, match="no network 'lite-selfsupervised' ships"):
        stages.pretrain(make_config(profile="ready", arch="lite", runs_dir=str(tmp_path)))


def test_the_environment_names_the_default_profile_of_notebooks(monkeypatch) -> None:
    monkeypatch.delenv("D3D_PROFILE", raising=False)
    assert resolve({"In": ["", "profile: str = None"], "profile": None}).profile == "ready"
    monkeypatch.setenv("D3D_PROFILE", "smoke")
    assert resolve({"In": ["", "profile: str = None"], "profile": None}).profile == "smoke"
    assert resolve({"In": ["", "profile = 'demo'"], "profile": "demo"}).profile == "demo"
    monkeypatch.setenv("D3D_PROFILE", "smok")
    with pytest.raises(ConfigError, match="Did you mean 'smoke'"):
        resolve({"In": ["", "profile: str = None"], "profile": None})


def scores(sq_rel: float) -> pd.DataFrame:
    values = dict.fromkeys(("abs_rel", "sq_rel", "rmse", "rmse_log", "a1", "a2", "a3"), sq_rel)
    rows = [
        {"scene": "a", "frame": "0", "pixels": kind, "count": 9, **values} for kind in ("all", "highlight")
    ]
    return pd.DataFrame(rows)


def test_smoke_ranks_and_compares_nothing() -> None:
    results = {"": scores(0.4), "pred": scores(0.3), "uncer": scores(0.1)}
    for profile, learns in (("smoke", False), ("ready", True)):
        config = make_config(profile=profile)
        frame = tables.table(results_of(results), profile=profile, dataset="glossyrooms", split="val")
        assert ("**" in tables.to_markdown(frame)) == learns
        assert bool(len(tables.gains(frame))) == learns
        sentence = tables.improvement(config, results)
        assert ("75% lower" in sentence) == learns, sentence
        assert ("are not compared" in sentence) != learns
    legend = figures.per_image(results[""], {"x": results["uncer"]}, shares=False).axes[0].get_legend()
    assert [t.get_text() for t in legend.get_texts()] == ["x"]


def results_of(results: dict[str, pd.DataFrame]) -> dict[tuple[str, str], pd.DataFrame]:
    return {("lite", labels): per_image for labels, per_image in results.items()}


def test_a_figure_is_marked_once() -> None:
    figure = mark_untrained(mark_untrained(Figure()))
    assert [t.get_text() for t in figure.texts] == [NOT_TRAINED]


def test_slow_bf16_is_said_once(monkeypatch, capsys) -> None:
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: False)
    progress.say_once.cache_clear()
    for precision in ("float32", "bf16", "bf16"):
        assert distributed.autocast("cpu", precision)._enabled == (precision == "bf16")
    assert capsys.readouterr().out.count("has no bf16 instructions") == 1
