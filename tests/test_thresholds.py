"""Label rules and thresholds on hand-made depth whose errors are known."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from d3d import fusion
from d3d.analysis import thresholds
from d3d.errors import DataError
from d3d.pipeline.config import make_config

SIZE = (6, 8)


class Room:
    """A wall at 2 m; the left half is a highlight that is predicted at 3 m and projected at 2.5 m."""

    name, has_depth = "room", True
    frame_ids = tuple(map(str, range(12)))

    def __init__(self, mask=True):
        self.mask = np.zeros(SIZE, bool)
        self.mask[:, :4] = True
        self.known = mask

    def depth(self, i):
        return np.full(SIZE, 2.0)

    def highlight_mask(self, i, size_hw=None):
        return self.mask if self.known else None


@pytest.fixture
def room(monkeypatch):
    scene = Room()
    triples = SimpleNamespace(indices=np.array([[i, i - 1, i + 1] for i in range(1, 11)]))
    training = SimpleNamespace(scene=scene, triples=triples, targets=triples.indices[:, 0])
    pred = np.where(scene.mask, 3.0, 2.0)
    proj = np.full(SIZE, 2.5)
    std = np.where(scene.mask, 0.3, 0.1)
    monkeypatch.setattr(thresholds.stages, "training_scenes", lambda config: [training])
    for name in ("project", "uncertainty"):
        monkeypatch.setattr(thresholds.stages, name, lambda *a: None)
    monkeypatch.setattr(
        thresholds.stages,
        "label_sources",
        lambda config, arch, rule, t: SimpleNamespace(
            inputs=lambda scene, triple: fusion.LabelInputs(
                pred, proj, uncertainty=std, threshold_m=t, truth=scene.depth(0), highlight=scene.mask
            )
        ),
    )
    return scene


def sweep(rules=("pred", "proj", "uncer", "signed"), **values):
    config = make_config(profile="smoke")
    table = thresholds.rule_sweep(config, rules=rules, thresholds_m=(0.05, 0.2), **values)
    return table.set_index(["rule", table["threshold_m"].fillna(-1)])


def test_each_rule_and_oracle_has_the_error_that_its_label_has(room):
    table = sweep()
    # squared error over truth: 1 / 2 at 3 m, 0.25 / 2 at 2.5 m
    expected = {
        ("pred", -1): (0.25, 0.5, 0.0),
        ("proj", -1): (0.125, 0.125, 0.125),
        ("uncer", 0.05): (0.125, 0.125, 0.125),
        ("uncer", 0.2): (0.0625, 0.125, 0.0),
        ("signed", 0.05): (0.0625, 0.125, 0.0),
        ("signed", 0.2): (0.0625, 0.125, 0.0),
        ("oracle_proj", -1): (0.0625, 0.125, 0.0),
        ("oracle_truth", -1): (0.0, 0.0, 0.0),
    }
    assert set(table.index) == set(expected)
    for key, values in expected.items():
        row = table.loc[key]
        assert np.allclose(row[["sq_rel", "sq_rel_highlight", "sq_rel_diffuse"]].astype(float), values), key
    shares = [("pred", -1), ("proj", -1), ("uncer", 0.2), ("oracle_truth", -1)]
    assert [table.loc[k, "projected"] for k in shares] == [0, 1, 0.5, 0.5]


def test_the_runs_own_threshold_is_among_those_tried(room, monkeypatch):
    monkeypatch.setattr(thresholds.stages, "threshold", lambda config, rule, arch: 0.117)
    table = thresholds.rule_sweep(make_config(profile="smoke"), rules=("pred", "uncer"))
    tried = table[table["rule"] == "uncer"]["threshold_m"].tolist()
    assert tried == sorted([*thresholds.THRESHOLDS_M, 0.117])
    assert table[table["rule"] == "pred"]["threshold_m"].isna().all()


def test_without_masks_there_is_the_whole_image_only(room):
    room.known = False
    table = sweep()
    assert "sq_rel_highlight" not in table
    assert not {r for r, _ in table.index} & set(fusion.ORACLES)


def test_rooms_without_truth_cannot_judge(room):
    room.has_depth = False
    with pytest.raises(DataError, match="no training scene of 'glossyrooms' has ground truth"):
        sweep()
