"""Intervals of differences between trainings: known differences, coverage, few rooms, and the tables made of them."""

from __future__ import annotations

import re

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_tables import balanced, evaluation, per_image, rows

from benchmarks import intervals as simulation
from d3d import tables
from d3d.errors import DataError
from d3d.metrics import METRICS
from d3d.tables.intervals import RESAMPLES, expanded_tail, paired_change, resampled
from d3d.tables.scores import Scores


def sums(rng: np.random.Generator, seeds: int, rooms: int) -> tuple[np.ndarray, np.ndarray]:
    images = rng.integers(1, 90, rooms)
    return rng.uniform(0.05, 0.2, (seeds, rooms)) * images, images


@given(st.integers(0, 2**32 - 1), st.integers(1, 4), st.integers(2, 12))
@settings(max_examples=25, deadline=None)
def test_equal_trainings_differ_by_nothing(seed: int, seeds: int, rooms: int) -> None:
    before, images = sums(np.random.default_rng(seed), seeds, rooms)
    change = paired_change(before, before, images)
    assert change.difference == change.difference_low == change.difference_high == 0
    assert change.change == change.change_low == change.change_high == 0


@given(st.integers(0, 2**32 - 1), st.integers(1, 4), st.integers(2, 12), st.floats(-0.9, 2))
@settings(max_examples=25, deadline=None)
def test_a_constant_factor_is_found_exactly(seed: int, seeds: int, rooms: int, factor: float) -> None:
    """Rooms differ by a factor of four here: the pairs cancel it."""
    before, images = sums(np.random.default_rng(seed), seeds, rooms)
    change = paired_change(before, (1 + factor) * before, images)
    assert (change.change, change.change_low, change.change_high) == pytest.approx((factor,) * 3, abs=1e-12)
    assert change.before == pytest.approx((before.sum(1) / images.sum()).mean())
    assert change.difference == pytest.approx(factor * change.before)


@given(st.integers(0, 2**32 - 1), st.integers(1, 4), st.integers(2, 12))
@settings(max_examples=25, deadline=None)
def test_the_intervals_contain_the_value_exchange_sides_and_scale(seed: int, seeds: int, rooms: int) -> None:
    rng = np.random.default_rng(seed)
    (before, images), (after, _) = sums(rng, seeds, rooms), sums(rng, seeds, rooms)
    after = after / after.sum() * before.sum() * rng.uniform(0.8, 1.2)
    change, other = paired_change(before, after, images), paired_change(after, before, images)
    assert change.difference_low <= change.difference <= change.difference_high
    assert change.change_low <= change.change <= change.change_high
    assert (other.difference_low, other.difference_high) == pytest.approx(
        (-change.difference_high, -change.difference_low)
    )
    # both intervals exclude zero, or none does
    assert (change.difference_low > 0) == (change.change_low > 0)
    assert (change.difference_high < 0) == (change.change_high < 0)
    scaled = paired_change(10 * before, 10 * after, images)
    assert (scaled.change_low, scaled.change_high) == pytest.approx((change.change_low, change.change_high))


def test_whole_rooms_and_seeds_are_drawn_and_both_trainings_have_the_same() -> None:
    """Two rooms and one seed: a resample has the first room twice, the second twice, or both."""
    before, after, images = np.array([[1.0, 30.0]]), np.array([[2.0, 30.0]]), np.array([1, 3])
    found = {tuple(v) for v in resampled(before, after, images).T.round(6)}
    assert found == {(1, 2, 1, 1), (10, 10, 0, 0), (7.75, 8, 0.25, round(1 / 31, 6))}
    # one room of two seeds: a resample has the mean of each draw of two seeds
    seeds = resampled(np.array([[1.0], [3.0]]), np.array([[2.0], [8.0]]), np.array([1]))
    assert {tuple(v) for v in seeds[:2].T} == {(1, 2), (2, 5), (3, 8)}


def test_the_same_numbers_have_the_same_interval_again() -> None:
    before, images = sums(np.random.default_rng(1), 3, 6)
    after = before[:, ::-1]
    assert paired_change(before, after, images) == paired_change(before, after, images)
    assert resampled(before, after, images).shape == (4, RESAMPLES)


@pytest.mark.parametrize("seeds", [1, 3])
def test_one_room_has_a_difference_and_no_interval(seeds: int) -> None:
    change = paired_change(np.full((seeds, 1), 8.0), np.full((seeds, 1), 6.0), np.array([4]))
    assert (change.difference, change.change) == (-0.5, -0.25)
    assert np.isnan([*change[3:5], *change[6:]]).all()


def test_a_mean_of_zero_has_no_relative_change() -> None:
    change = paired_change(np.zeros((1, 3)), np.ones((1, 3)), np.array([1, 1, 1]))
    assert change.difference == 1
    assert np.isnan(change.change)


def test_the_percentiles_move_outwards_for_few_rooms() -> None:
    """Of many rooms they are the usual 2.5 %."""
    assert expanded_tail(6) == pytest.approx(0.00243, abs=1e-5)
    assert expanded_tail(12) == pytest.approx(0.01076, abs=1e-5)
    tails = [expanded_tail(n) for n in (2, 4, 8, 100, 10**6)]
    assert tails == sorted(tails)
    assert tails[-1] == pytest.approx(0.025, abs=1e-5)


@pytest.mark.parametrize("rooms", [6, 12])
def test_the_interval_contains_the_truth_as_often_as_it_says(rooms: int) -> None:
    """E40 has the shares of 2,000 simulations; those of 300 are within 4 percentage points of them."""
    shares = simulation.coverage("Reflection", rooms, 3, skewed=False, simulations=300)
    assert shares["d3d, difference"] >= 0.91
    assert shares["d3d, change"] >= 0.91
    assert shares["percentile, difference"] < shares["d3d, difference"]
    assert shares["zero marked"] <= 0.09


# the table


def scored(labels: str, factor: float, seed: int = 0, rooms: int = 6, arch: str = "monodepth2", **more: str):
    """Scores of three images a room; the error of room k of seed s is (k + 1 + s / 10) * factor."""
    split = more.get("split", "val")
    parts = [
        per_image(np.full(3, (k + 1 + seed / 10) * factor), scene=f"{split}-{k}", pixels=pixels)
        for k in range(rooms)
        for pixels in ("all", "highlight")
    ]
    return evaluation(
        arch=arch, labels=labels, seed=seed, per_image=pd.concat(parts, ignore_index=True), **more
    )


def gathered(*evaluations) -> Scores:
    listed = {
        "Reflection": frozenset((f"{s}-{k}", "0") for s in ("val", "test") for k in range(4)),
        "NoReflection": frozenset({("val-5", "1")}),
    }
    return Scores(evaluations, {("glossyrooms", split): listed for split in ("val", "test")})


def only(frame: pd.DataFrame, against: str = "Self-Teaching", **where: str) -> pd.Series:
    found = rows(frame, metric="sq_rel", against=against, **where)
    assert len(found) == 1
    return found.iloc[0]


def test_the_table_compares_with_self_teaching_and_the_recipe_with_the_papers() -> None:
    factors = {"": 1.1, "pred": 1, "uncer": 0.6, "robust": 0.3, "mv": 0.5}
    scores = gathered(*(scored(n, f, seed=s) for n, f in factors.items() for s in (0, 1)))
    frame = tables.differences(scores)
    whole = rows(frame, metric="sq_rel", split="val", list="", pixels="all")
    pairs = whole[["training", "against", "change"]].round(6).to_numpy().tolist()
    assert pairs == [
        ["Self-Supervised", "Self-Teaching", 0.1],
        ["3D Distillation", "Self-Teaching", -0.4],
        ["Distillation (robust)", "Self-Teaching", -0.7],
        ["Distillation (mv)", "Self-Teaching", -0.5],
        ["3D Distillation", "Self-Supervised", -0.454545],
        ["Distillation (robust)", "Self-Supervised", -0.727273],
        ["Distillation (robust)", "3D Distillation", -0.5],
    ]
    row = whole.iloc[1]
    assert (row["n"], row["seeds"], row["rooms"], row["images"]) == (2, "0 1", 6, 18)
    assert (row["before"], row["after"]) == pytest.approx((3.55, 2.13))
    assert row["excludes_zero"]
    listed = only(frame, split="val", list="Reflection", training="3D Distillation")
    assert (listed["rooms"], listed["images"]) == (4, 4)
    # one room: a difference without an interval
    single = only(frame, split="val", list="NoReflection", training="3D Distillation")
    assert (single["rooms"], single["excludes_zero"]) == (1, False)
    assert np.isnan(single["change_low"])
    assert set(frame["metric"]) == set(METRICS)
    assert set(frame["split"]) == {"val"}
    assert "-40 % (one room)" in tables.text.differences_markdown(frame)


def test_rooms_of_both_splits_are_pooled() -> None:
    made = [scored(n, f, split=s) for n, f in (("pred", 1), ("uncer", 0.5)) for s in ("val", "test")]
    frame = tables.differences(gathered(*made))
    pooled = only(frame, split="val+test", list="", pixels="all")
    assert (pooled["set"], pooled["rooms"]) == ("GlossyRooms Val + Test Sets", 12)
    assert only(frame, split="test", list="Reflection")["set"] == "GlossyRooms-Reflection Test Set"
    assert only(frame, split="val", list="", pixels="highlight")["set"] == "GlossyRooms Val Set, highlights"


def test_only_seeds_of_both_trainings_and_trainings_with_a_partner_are_compared() -> None:
    made = [scored("pred", 1, seed=s) for s in (0, 1)] + [scored("uncer", 0.5, seed=s) for s in (1, 2)]
    made += [scored("uncer", 0.5, arch="lite"), scored("pred", 1, arch="hrdepth"), scored("mv", 1, seed=3)]
    frame = tables.differences(gathered(*made))
    assert set(zip(frame["architecture"], frame["training"], frame["seeds"], strict=True)) == {
        ("Monodepth2", "3D Distillation", "1")
    }
    text = tables.text.differences_markdown(frame)
    assert "-50 % [-50, -50] (*) |" in text
    assert "With one seed, (*)" in text


def test_scenes_of_one_room_are_one_room() -> None:
    names = ["scene0000_00", "scene0000_01", "scene0001_00", "chess/seq-01", "chess/seq-02", "val-0004"]
    made = [
        evaluation(labels=n, per_image=pd.concat([per_image([1.0], scene=s) for s in names]))
        for n in ("pred", "uncer")
    ]
    assert only(tables.differences(gathered(*made)), list="", pixels="all")["rooms"] == 4


def test_relative_depth_other_data_and_untrained_profiles_have_no_rows() -> None:
    pair = [scored("pred", 1), scored("uncer", 0.5)]
    assert not tables.differences(gathered(*pair)).empty
    for other in ({"scale": "median"}, {"dataset": "7scenes"}, {"profile": "smoke"}):
        made = [scored(n, 1, **other) for n in ("pred", "uncer")]
        assert tables.differences(gathered(*made)).empty


def test_the_files_of_the_differences(tmp_path) -> None:
    made = [
        scored(n, f, split=s, seed=k)
        for n, f in (("pred", 1), ("uncer", 0.5), ("mv", 0.7))
        for s in ("val", "test")
        for k in (0, 1)
    ]
    tables.write_tables(gathered(*made), tmp_path)
    stored = pd.read_csv(tmp_path / "differences.csv", dtype={"seeds": str})
    frame = tables.differences(gathered(*made))
    pd.testing.assert_series_equal(stored["change_low"], frame["change_low"], rtol=1e-3)
    markdown, latex = ((tmp_path / f"differences.{kind}").read_text() for kind in ("md", "tex"))
    assert "GlossyRooms Val + Test Sets (12 rooms, 36 images)" in markdown
    assert "| Monodepth2 | 3D Distillation | Self-Teaching | 0 1 | 3.550 | 1.775 | -1.775 [" in markdown
    assert "| -50 % [-50, -50] * |" in markdown
    code = "".join(line for line in latex.splitlines(keepends=True) if not line.startswith("%"))
    assert balanced(code)
    assert code.isascii()
    for line in code.split(r"\toprule")[1].split(r"\bottomrule")[0].strip().splitlines():
        if "&" in line:
            assert line.count("&") == 7, line
    assert r"$-$50 \% [$-$50, $-$50] *" in latex
    block = tables.differences_block(tmp_path)
    assert re.search(
        r"Reflection \(8 rooms, 8 images\).* all images \(12 rooms, 36 images\) \| highlights", block
    )
    assert "| Monodepth2 | 3D Distillation | Self-Teaching | 0 1 | -50 % [-50, -50] * |" in block
    assert "(mv)" not in block
    # nothing to compare: the files go
    tables.write_tables(gathered(scored("pred", 1)), tmp_path)
    assert not list(tmp_path.glob("differences.*"))
    with pytest.raises(DataError, match=r"differences\.csv: run `python -m d3d tables --stored`"):
        tables.differences_block(tmp_path)
