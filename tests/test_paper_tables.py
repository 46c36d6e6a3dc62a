"""data/paper_tables.csv against what the paper's own text says about its Tables 2 to 6."""

from __future__ import annotations

import re

import pandas as pd
import pytest

METRICS = ["abs_rel", "sq_rel", "rmse", "rmse_log", "a1", "a2", "a3"]
ARCHITECTURES = ["Monodepth2", "HR-Depth", "MonoViT"]
TRAININGS = ["Self-Supervised", "Self-Teaching", "3D Distillation"]
LABELS = [
    "pred. depth",
    "proj. depth",
    "proj. depth with low-resolution training",
    "pred. depth + proj. depth with diff",
    "pred. depth + proj. depth with mv",
    "pred. depth + proj. depth with uncer",
]
SPLITS = {
    2: ["ScanNet Val Set", "ScanNet Test Set"],
    3: ["ScanNet-Reflection Val Set", "ScanNet-Reflection Test Set"],
    4: ["ScanNet-NoReflection Val Set"],
    5: ["7-Scenes"],
    6: ["ScanNet Val Set", "ScanNet-Reflection Val Set"],
}
# Section 4.2: by how many per cent 3D distillation improves the self-teaching model's Sq Rel,
# for the three architectures in order
SQ_REL_IMPROVEMENTS = {
    "ScanNet Val Set": [7.78, 11.11, 15.49],
    "ScanNet Test Set": [3.67, 3.92, 7.41],
    "ScanNet-Reflection Val Set": [50.53, 56.73, 65.13],
    "ScanNet-Reflection Test Set": [34.25, 38.62, 46.92],
    "7-Scenes": [5.80, 4.48, 7.02],
}


@pytest.fixture(scope="module")
def tables(repo_dir) -> pd.DataFrame:
    return pd.read_csv(repo_dir / "data" / "paper_tables.csv")


@pytest.fixture(scope="module")
def paper_text(shared_dir) -> str:
    path = shared_dir / "paper" / "paper.txt"
    if not path.is_file():
        pytest.skip("needs the paper's text (paper/paper.txt of the development data)")
    return path.read_text()


def cell(tables: pd.DataFrame, split: str, architecture: str, training: str) -> pd.Series:
    """The one row of Tables 2 to 5 for this split, architecture and training."""
    rows = tables[
        (tables.table < 6)
        & (tables.split == split)
        & (tables.architecture == architecture)
        & (tables.training == training)
    ]
    assert len(rows) == 1
    return rows.iloc[0]


@pytest.mark.parametrize(
    ("split", "architecture", "percent"),
    [
        (split, architecture, percent)
        for split, percents in SQ_REL_IMPROVEMENTS.items()
        for architecture, percent in zip(ARCHITECTURES, percents, strict=True)
    ],
)
def test_sq_rel_improvement_is_the_percentage_printed_in_the_text(tables, split, architecture, percent):
    teaching = cell(tables, split, architecture, "Self-Teaching").sq_rel
    distilled = cell(tables, split, architecture, "3D Distillation").sq_rel
    assert round(100 * (teaching - distilled) / teaching, 2) == percent


def test_every_percentage_of_the_text_is_checked(paper_text):
    printed = {float(number) for number in re.findall(r"(\d+\.\d+)\s*%", paper_text)}
    checked = {percent for percents in SQ_REL_IMPROVEMENTS.values() for percent in percents}
    assert printed == checked


def test_every_row_is_in_the_paper_in_this_order(tables, paper_text):
    lines = [line for line in paper_text.splitlines() if len(re.findall(r"\t\d\.\d{3}", line)) == 7]
    printed = [tuple(map(float, re.findall(r"\t(\d\.\d{3})", line))) for line in lines]
    by_table = tables.sort_values("table", kind="stable")
    assert printed == list(by_table[METRICS].itertuples(index=False, name=None))


def test_rows_of_each_table(tables):
    assert tables.groupby("table").size().to_dict() == {2: 18, 3: 18, 4: 9, 5: 9, 6: 12}
    assert not tables.isna().any().any()
    for number, splits in SPLITS.items():
        rows = tables[tables.table == number]
        names = (["Monodepth2"], LABELS) if number == 6 else (ARCHITECTURES, TRAININGS)
        expected = [(s, a, t) for s in splits for a in names[0] for t in names[1]]
        assert (
            list(rows[["split", "architecture", "training"]].itertuples(index=False, name=None)) == expected
        )


@pytest.mark.parametrize("split", SPLITS[6])
@pytest.mark.parametrize(
    ("label", "training"),
    [("pred. depth", "Self-Teaching"), ("pred. depth + proj. depth with uncer", "3D Distillation")],
)
def test_ablation_repeats_the_main_tables(tables, split, label, training):
    ablation = tables[(tables.table == 6) & (tables.split == split) & (tables.training == label)]
    assert len(ablation) == 1
    assert (ablation.iloc[0][METRICS] == cell(tables, split, "Monodepth2", training)[METRICS]).all()


def test_metrics_are_possible(tables):
    errors, accuracies = tables[METRICS[:4]], tables[METRICS[4:]]
    assert ((errors > 0) & (errors < 2)).all().all()
    assert ((accuracies > 0) & (accuracies <= 1)).all().all()
    assert (tables.a1 <= tables.a2).all()
    assert (tables.a2 <= tables.a3).all()


@pytest.mark.parametrize("split", SPLITS[2] + SPLITS[3] + SPLITS[5])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_distillation_is_the_best_as_the_text_says(tables, split, architecture):
    rows = [cell(tables, split, architecture, training)[METRICS] for training in TRAININGS]
    assert (rows[2][METRICS[:4]] <= rows[0][METRICS[:4]]).all()
    assert (rows[2][METRICS[:4]] <= rows[1][METRICS[:4]]).all()
    assert (rows[2][METRICS[4:]] >= rows[0][METRICS[4:]]).all()
    assert (rows[2][METRICS[4:]] >= rows[1][METRICS[4:]]).all()
