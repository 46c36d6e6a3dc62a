"""Every figure of a run with known depth: its CSV has the numbers it shows, and a skipped figure says why."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from known_run import ON, known_run

from d3d import cli
from d3d.analysis import truncation
from d3d.evaluation import arch_name
from d3d.figures import all as all_figures
from d3d.figures import figure1, figure2, figure4, needs
from d3d.figures.frames import example_frame
from d3d.figures.labels import error_maps, label
from d3d.pipeline import stages
from d3d.pipeline.config import ENSEMBLE, make_config

pytest.importorskip("open3d")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return known_run(tmp_path_factory.mktemp("runs"))


@pytest.fixture(scope="module")
def made(run, tmp_path_factory):
    """Draw every figure into its own folder. Return name -> files or reason."""
    folder = tmp_path_factory.mktemp("figures")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(truncation, "TRUNCATIONS_M", (0.5, 1.0))
        patch.setattr(truncation, "VOXELS_M", (0.1,))
        return dict(all_figures.make(run, folder))


def _csv(files: list[Path]) -> pd.DataFrame:
    (path,) = [f for f in files if f.suffix == ".csv"]
    return pd.read_csv(path, dtype={"frame": str})


def test_every_figure_that_can_be_made_is_and_the_other_says_what_it_takes(made) -> None:
    assert list(made) == list(all_figures.FIGURES)
    assert made["figure5"] == (
        "no network of run 'glossyrooms-smoke-seed0' has its students. "
        "Run: python -m d3d all --profile smoke --archs monodepth2"
    )
    for name, files in made.items():
        if name != "figure5":
            of = "96x64" if name == "figure1a" else "smoke_seed0"
            file = f"glossyrooms_{of}_{name}"
            assert [f.name for f in files] == [f"{file}.{kind}" for kind in ("pdf", "png", "csv")]
            assert files[0].stat().st_size < 1_000_000
            assert files[1].stat().st_size < 600_000
            assert len(_csv(files)) > 0


def test_without_networks_only_figure_1a_is_made_and_nothing_is_trained(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(stages, "pretrain", lambda *a: pytest.fail("trained"))
    config = make_config(profile="smoke", runs_dir=str(tmp_path), run="empty", seed=3)
    found = dict(all_figures.make(config, tmp_path / "figures"))
    assert [n for n, files in found.items() if isinstance(files, list)] == ["figure1a"]
    told = (
        "Run: python -m d3d pretrain --profile smoke --archs monodepth2,hrdepth,monovit --seed 3 --run empty"
    )
    assert found["figure4"].endswith(told)
    assert [p.name for p in (tmp_path / "figures").iterdir() if "1a" not in p.name] == []


def test_figure_1b_marks_what_the_networks_predict(run, made) -> None:
    marks = _csv(made["figure1b"]).set_index(["pixels", "depth"])["factor"]
    for arch in ENSEMBLE:
        # made as this multiple of the truth, stored in whole millimetres
        assert marks["highlight pixel", arch_name(arch)] == pytest.approx(ON[arch], abs=0.01)
        assert marks["all highlight pixels", arch_name(arch)] == pytest.approx(ON[arch], abs=0.01)
    assert marks["highlight pixel", "true"] == 1
    made_figure = figure1.make_b(run)
    middle = made_figure.figure.axes[1]
    drawn = {round(float(line.get_xdata()[0]), 4) for line in middle.lines if len(line.get_xdata()) == 1}
    wanted = made_figure.table[made_figure.table["pixels"].isin(["highlight pixel", "diffuse pixel"])]
    networks = wanted[wanted["depth"].isin([arch_name(a) for a in ENSEMBLE])]
    assert {round(d, 4) for d in networks["depth_m"]} <= drawn


def test_figure_2_says_how_far_highlights_are_over_estimated(run, made) -> None:
    table = _csv(made["figure2"]).set_index(["panel", "pixels"])
    (scene,) = stages.training_scenes(run)
    i = scene.scene.frame_ids.index(table["frame"].iloc[0])
    gt, lit = scene.scene.depth(i), scene.scene.highlight_mask(i)
    # the frame with most highlight; there D is 1.5 times the truth
    assert lit.mean() == max(scene.scene.highlight_mask(j).mean() for j in scene.targets)
    half = (ON["monodepth2"] - 1) * np.median(gt[lit & (gt > 0)])
    assert table.loc[("predicted", "highlight"), "median_error_m"] == pytest.approx(half, rel=0.05)
    assert table.loc[("predicted", "diffuse"), "median_error_m"] == pytest.approx(0, abs=0.01)
    (note,) = [
        t.get_text() for a in figure2.make(run).figure.axes if a.get_title() == "D − truth" for t in a.texts
    ]
    assert note == f"{table.loc[('predicted', 'highlight'), 'median_error_m']:+.2f} m"


def test_tables_of_curves_are_what_is_drawn(run) -> None:
    made_figure = all_figures.threshold_sweep(run)
    for axis, column in zip(made_figure.figure.axes, made_figure.table.columns[1:], strict=True):
        np.testing.assert_array_equal(axis.lines[0].get_ydata(), made_figure.table[column])
    made_figure = all_figures.label_makeup(run)
    drawn = [p.get_height() for p in made_figure.figure.axes[1].patches]
    np.testing.assert_array_equal(
        drawn, made_figure.table[made_figure.table["pixels"] == "highlight"]["sq_rel"]
    )


def test_figure_5_has_a_row_for_each_network_with_students(monkeypatch) -> None:
    done = {("monodepth2", t) for t in ("", "pred", "uncer")} | {("hrdepth", ""), ("hrdepth", "uncer")}
    monkeypatch.setattr(
        needs.stages, "is_finished", lambda config, stage, arch, labels: (arch, labels) in done
    )
    config = make_config(profile="demo")
    assert needs.trained_students(config) == ["monodepth2"]
    assert needs.untrained(config, "hrdepth", ("", "pred", "uncer")) == ["pred"]


def test_the_label_of_a_frame_is_its_depths_their_errors_and_the_choice(run) -> None:
    example, threshold = example_frame(run), stages.threshold(run)
    axes = {a.get_title(): a for a in label(example, "monodepth2", threshold).axes}
    shown = {
        t: np.ma.filled(a.images[0].get_array().astype(float), np.nan) for t, a in axes.items() if a.images
    }
    stored = stages.fuse(run, "monodepth2").read_of(example.scene, example.index)
    np.testing.assert_allclose(shown["label L"], stored)
    np.testing.assert_allclose(shown["L − truth"], np.where(example.gt > 0, stored - example.gt, np.nan))
    taken = (example.uncertainty >= threshold) & (example.projs["monodepth2"] > 0)
    np.testing.assert_array_equal(shown["P taken here"], taken)


def test_a_run_of_another_name_has_files_of_that_name() -> None:
    assert all_figures.file_prefix(make_config(profile="demo", seed=2)) == "glossyrooms_demo_seed2"
    assert all_figures.file_prefix(make_config(profile="demo", run="mine-2")) == "mine-2"


def test_the_command_tells_what_it_made_and_what_it_skipped(monkeypatch, capsys) -> None:
    found = [("figure1a", [Path("a.pdf"), Path("a.png")]), ("figure4", "no network.")]
    monkeypatch.setattr(all_figures, "make", lambda config, folder: iter(found))
    assert cli.main(["figures", "--profile", "smoke"]) == 0
    assert capsys.readouterr().out.startswith("figure1a: a.pdf, a.png\nfigure4: skipped, no network.\n")


@pytest.mark.parametrize("labels", ["uncer", "uncer-tta"])
def test_with_a_quantile_the_figures_show_the_threshold_that_is_used(run, labels) -> None:
    config = replace(run, labels=labels, fusion=replace(run.fusion, threshold_quantile=0.9))
    used = stages.threshold(replace(config, labels="uncer"))
    assert used != config.fusion.threshold_m
    # the ensemble's, which is what these figures show, whatever uncertainty the labels are made with
    titles = [a.get_title() for a in figure4.make(config).figure.axes]
    assert f"uncertainty ≥ {used:g} m" in titles
    (shown,) = [a for a in error_maps(config, 1).figure.axes if a.get_title() == "uncertainty U"]
    assert shown.images[0].get_clim() == (0, 4 * used)
    (legend,) = all_figures.threshold_sweep(config).figure.axes[0].get_legend().get_texts()
    assert legend.get_text() == f"this run: {used:g} m"


def test_nothing_above_the_pipeline_reads_a_threshold_that_may_not_be_used() -> None:
    """With a quantile, the threshold in use is `stages.threshold`, not the value of the configuration."""
    repo = Path(__file__).resolve().parent.parent
    files = [
        p
        for f in ("figures", "analysis", "tables", "lists", "notebook")
        for p in (repo / "d3d" / f).glob("*.py")
    ]
    files += (repo / "notebooks").glob("*.py")
    assert len(files) > 30
    assert [p.name for p in files if "fusion.threshold_m" in p.read_text()] == []
