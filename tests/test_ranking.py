"""The ranking finds an artificial highlight and no similar frames, resumes after a kill, and is scored correctly."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from d3d.datasets import Dataset, Scene
from d3d.errors import ConfigError, DataError
from d3d.lists import ranking
from d3d.pipeline import graph, scenes
from d3d.pipeline.config import ENSEMBLE, make_config
from d3d.pipeline.graph import Key
from d3d.pipeline.stages import trainings

pytest.importorskip("open3d")

SIZE = (64, 96)
HIGHLIGHT, APART, NEAR = "000004", "000007", "000009"


class Wall(Scene):
    """A camera that passes a wall 2 m away, without true depth."""

    def __init__(self, name: str, n: int = 12, step: int = 1) -> None:
        poses = np.tile(np.eye(4), (n, 1, 1))
        poses[:, 0, 3] = 0.05 * np.arange(n)
        numbers = range(0, step * n, step)
        super().__init__(name, [f"{i:06d}" for i in range(n)], poses, SIZE, numbers=numbers)

    def _read_image(self, i: int) -> np.ndarray:
        return np.full((*SIZE, 3), 10 * i, np.uint8)

    def _read_K(self, i: int) -> np.ndarray:
        return np.array([[80.0, 0, 47.5], [0, 80.0, 31.5], [0, 0, 1]])


def predicted(scene: str, frame: str, arch: str) -> np.ndarray:
    """The wall; three of the frames of the room "shiny" are special."""
    depth = np.full(SIZE, 2.0, np.float32)
    k, patch = ENSEMBLE.index(arch), np.s_[20:40, 30:60]
    if scene == "shiny" and frame == HIGHLIGHT:  # too far, and not by the same
        depth[patch] += (0.7, 1.0, 1.3)[k]
    if scene == "shiny" and frame == APART:  # the networks disagree most here, but their median is right
        depth[patch] += (-0.8, 0.0, 0.8)[k]
    if scene == "shiny" and frame == NEAR:  # as the highlight, but too near
        depth[patch] -= (0.7, 1.0, 1.3)[k]
    return depth


@pytest.fixture
def config(tmp_path, monkeypatch):
    """A run on two walls with artificial networks."""
    config = make_config(
        profile="smoke", runs_dir=str(tmp_path / "runs"), run="r", integrate_every=1, eval_every=1
    )
    walls = [Wall("dull"), Wall("shiny/one")]
    walls[1].name = "shiny"
    monkeypatch.setattr(scenes, "open_kept", lambda *args: Dataset("walls", {"val": lambda: walls}))
    monkeypatch.setattr(trainings, "training_data", lambda config: {"sha256": "walls"})
    made_up = replace(
        graph.stage_of(Key("pretrain")),
        compute=lambda config, key, opened: opened.finish({"weights": key.arch}),
    )
    monkeypatch.setitem(graph._STAGES, "pretrain", made_up)
    monkeypatch.setattr(ranking, "saved", lambda config, key: key.arch)

    def map_scenes(make, arch, of, frames, store, size_hw, **_):
        assert size_hw == config.data.size_hw
        for scene, wanted in zip(of, frames, strict=True):
            if not store.has(scene.name):
                ids = [scene.frame_ids[i] for i in wanted]
                store.write_scene(scene.name, ((f, predicted(scene.name, f, arch)) for f in ids))

    monkeypatch.setattr(ranking, "map_scenes", map_scenes)
    return config


def test_a_highlight_is_first_without_any_ground_truth(config):
    ranked = ranking.rank_frames(config)
    assert list(ranked.columns) == ["rank", "scene", "frame", "score", "uncertainty", "disagreement"]
    assert list(ranked["rank"]) == list(range(1, 25))
    first = ranked.iloc[0]
    assert (first["scene"], first["frame"]) == ("shiny", HIGHLIGHT)
    # the patch is a tenth of the image, so the top 5 % lie in it
    assert first["uncertainty"] == pytest.approx(np.std((0.7, 1.0, 1.3)), abs=1e-3)
    assert 0.7 < first["disagreement"] < 1.0
    assert first["score"] == pytest.approx(np.sqrt(first["uncertainty"] * first["disagreement"]), rel=1e-4)
    of = ranked[ranked["scene"] == "shiny"].set_index("frame")
    assert of["uncertainty"].idxmax() == APART
    assert of["disagreement"].idxmax() == HIGHLIGHT
    assert of.loc[NEAR, "disagreement"] < 0.3, "too near is no sign of a highlight"
    assert ranked[ranked["scene"] == "dull"]["score"].max() < 0.02


def test_a_killed_ranking_goes_on_and_a_finished_one_is_read(config, monkeypatch):
    real, fused = ranking.reconstruction.reconstruct, []

    def dies_at_the_second(depths, *args, **kwargs):
        fused.append(depths.max())
        if len(fused) == 2:
            raise KeyboardInterrupt
        return real(depths, *args, **kwargs)

    monkeypatch.setattr(ranking.reconstruction, "reconstruct", dies_at_the_second)
    with pytest.raises(KeyboardInterrupt):
        ranking.rank_frames(config)
    ranked = ranking.rank_frames(config)
    assert len(fused) == 3, "the first room was not fused again"
    assert ranking.rank_frames(config).equals(ranked)
    assert len(fused) == 3, "nothing was computed again"

    monkeypatch.setattr(ranking.reconstruction, "reconstruct", real)
    undisturbed = make_config(
        profile="smoke", runs_dir=config.runs_dir, run="other", integrate_every=1, eval_every=1
    )
    assert ranking.rank_frames(undisturbed).equals(ranked)


def test_only_what_is_evaluated_is_ranked(config):
    every_third = make_config(
        profile="smoke", runs_dir=config.runs_dir, run="third", integrate_every=1, eval_every=3
    )
    ranked = ranking.rank_frames(every_third)
    assert sorted(ranked["frame"]) == sorted(2 * ["000000", "000003", "000006", "000009"])


@pytest.mark.parametrize(
    ("step", "integrate_every", "eval_every", "fused"),
    [
        (10, 10, 1, 12),
        (10, 10, 10, 12),
        (10, 20, 1, 6),
        (1, 4, 1, 3),
        (1, 4, 2, 3),
        (1, 4, 3, 3),
        (1, 1, 3, 4),
    ],
)
def test_frames_are_fused_as_densely_as_those_of_a_training_scene(
    config, monkeypatch, step, integrate_every, eval_every, fused
):
    """Issue 12, 1.5: a prepared folder holds every 10th frame of the video, and all of them are fused."""
    walls = [Wall("dull", step=step)]
    monkeypatch.setattr(scenes, "open_kept", lambda *args: Dataset("walls", {"val": lambda: walls}))
    counted = []

    def count(depths, *args, **kwargs):
        counted.append(len(depths))
        raise KeyboardInterrupt

    monkeypatch.setattr(ranking.reconstruction, "reconstruct", count)
    other = make_config(
        profile="smoke",
        runs_dir=config.runs_dir,
        run="dense",
        integrate_every=integrate_every,
        eval_every=eval_every,
    )
    with pytest.raises(KeyboardInterrupt):
        ranking.rank_frames(other)
    assert counted == [fused]


def test_neighbours_on_a_contact_sheet_are_neighbours_in_the_ranking(config, monkeypatch):
    walls = [Wall("dull", step=10), Wall("shiny", step=10)]
    monkeypatch.setattr(scenes, "open_kept", lambda *args: Dataset("walls", {"val": lambda: walls}))
    other = make_config(
        profile="smoke", runs_dir=config.runs_dir, run="sparse", integrate_every=10, eval_every=10
    )
    figure = ranking.contact_sheet(other, ranking.rank_frames(other), count=8, apart=3)
    assert len([axis for axis in figure.axes if axis.get_title()]) >= 6, "12 frames a room, three apart"


def test_evidence_and_contact_sheet(config):
    ranked = ranking.rank_frames(config)
    shiny = scenes.evaluated_dataset(config).scenes("val")[1]
    e = ranking.evidence(config, shiny, 4)
    assert e.image.shape == (*SIZE, 3)
    assert np.median(e.excess[20:40, 30:60]) > 0.7
    assert np.array_equal(e.uncertainty > 0.1, np.isin(e.pred, 3.0))
    figure = ranking.contact_sheet(config, ranked, count=5, apart=4)
    titles = [axis.get_title() for axis in figure.axes if axis.get_title()]
    assert titles[0].startswith(f"1: shiny {HIGHLIGHT}, 0.")
    shown = [t.split(": ")[1].split(",")[0].split() for t in titles]
    places = {name: sorted(int(f) for n, f in shown if n == name) for name in ("shiny", "dull")}
    assert len(shown) == 5
    assert all(b - a >= 4 for of in places.values() for a, b in itertools.pairwise(of))


def test_the_top_of_a_map_is_averaged():
    values = np.zeros((10, 10))
    values[0, :5] = 2.0
    assert ranking.top_mean(values) == 2.0
    assert ranking.top_mean(values, 0.1) == 1.0
    assert ranking.top_mean(np.array([3.0, 1.0])) == 3.0, "at least one pixel"


def made_up(n: int = 40, seed: int = 0) -> tuple[pd.DataFrame, frozenset]:
    random = np.random.default_rng(seed)
    wanted = random.random(n) < 0.4
    frame = pd.DataFrame({"rank": np.arange(n) + 1, "scene": "a", "frame": [str(i) for i in range(n)]})
    for name, noise in zip(ranking.SCORES, (0.5, 1.0, 2.0), strict=True):
        frame[name] = wanted + noise * random.standard_normal(n)
    return frame, frozenset(("a", str(i)) for i in np.flatnonzero(wanted))


def test_average_precision_is_that_of_scikit_learn():
    average_precision_score = pytest.importorskip("sklearn.metrics").average_precision_score
    frame, wanted = made_up()
    table = ranking.found(frame, wanted, at=(10, 50))
    hits = [("a", f) in wanted for f in frame["frame"]]
    for name in ranking.SCORES:
        assert table.loc[name, "average precision"] == pytest.approx(
            average_precision_score(hits, frame[name])
        )
        best = frame.sort_values(name, ascending=False).head(10)
        assert table.loc[name, "first 10"] == np.mean([("a", f) in wanted for f in best["frame"]])
    assert table.loc["by chance"].tolist() == [len(wanted) / 40] * 2
    assert "first 50" not in table, "there are 40 frames"
    with pytest.raises(DataError, match="none of the ranked frames is on the list"):
        ranking.found(frame, frozenset({("b", "0")}))


def test_rules_without_a_person():
    frame, _ = made_up()
    frame = frame.sort_values("score", ascending=False, ignore_index=True)
    best = {("a", f) for f in frame["frame"][:10]}
    assert ranking.by_rule(frame, share=0.25) == best
    assert ranking.by_rule(frame, score_m=frame["score"][9]) == best
    assert ranking.by_rule(frame, score_m=1e9) == frozenset()
    for wrong in ({}, {"share": 0.1, "score_m": 0.1}, {"share": 0.0}, {"share": 1.5}):
        with pytest.raises(ConfigError, match="share"):
            ranking.by_rule(frame, **wrong)
