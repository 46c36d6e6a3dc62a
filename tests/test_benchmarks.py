"""The benchmarks run and print their tables. No test checks a speed."""

import json
import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from benchmarks import edges, own_room, reference, training_step
from d3d.losses import self_supervised_loss
from d3d.pipeline.config import make_config

REPO = Path(__file__).resolve().parents[1]


def test_the_training_benchmark_runs_and_both_steps_minimise_the_same(tmp_path, capsys):
    file = tmp_path / "speed.json"
    options = "--sizes 64x64 --archs monodepth2 --tasks pretrain --batch 2 --repeat 1 --agreement-steps 4"
    report = training_step.main([*options.split(), "--parts", "steps,agreement", "--json", str(file)])
    printed = capsys.readouterr().out
    assert printed.count("| monodepth2 | pretrain | 64x64 |") == 2
    kept = json.loads(file.read_text())
    assert {"cpu", "torch", "threads", "git"} <= set(kept["machine"])
    (row,) = report["steps"]
    assert min(row.bf16, row.float32, row.reference, row.with_loading) > 0
    (agreement,) = report["agreement"]
    assert 0 < agreement.largest < 1e-3


def test_the_loader_benchmark_reads_rooms_and_files():
    rows = list(training_step.loader_rows(["pretrain", "distill"], (64, 64), samples=8, workers=[0]))
    assert {r.frames for r in rows} >= set(training_step.LARGE)
    assert all(r.samples > 0 for r in rows)


def test_what_a_gpu_runs_needs_no_optional_package():
    """A container image with PyTorch has no open3d. `benchmarks/gpu.sh` names all packages that it needs."""
    modules = "sys, benchmarks.teachers, benchmarks.training_step, benchmarks.prediction, benchmarks.quantile_fusion"
    script = f"import {modules}; print(*{{m.split('.')[0] for m in sys.modules}})"
    ran = subprocess.run([sys.executable, "-c", script], cwd=REPO, capture_output=True, text=True, check=True)
    optional = "open3d pyrender trimesh dask distributed accelerate argcomplete IPython ipywidgets mitsuba"
    assert not {*optional.split()} & {*ran.stdout.split()}


@pytest.mark.slow
def test_the_script_for_a_gpu_measures_steps_predictions_and_fusion_on_any_machine(tmp_path):
    options = "--device cpu --minutes 40 --parts steps,prediction,fusion --archs lite --out"
    command = ["bash", "benchmarks/gpu.sh", *options.split(), str(tmp_path / "out")]
    ran = subprocess.run(
        command, cwd=REPO, capture_output=True, text=True, env={**os.environ, "PYTHON": sys.executable}
    )
    summary = (tmp_path / "out" / "summary.md").read_text()
    assert ran.returncode == 0, summary
    for task in ("pretrain", "distill"):
        (line,) = (x for x in summary.splitlines() if x.startswith(f"- lite {task} 64x64: "))
        assert re.search(r"times the reference \((pass|FAIL): wanted 3\)", line)
        assert re.search(r"times the network alone \((pass|FAIL): wanted 1.25 or less\)", line)
    assert summary.count("| lite | 64x64 | ") == 2  # two batches
    rows = json.loads((tmp_path / "out" / "prediction.json").read_text())["rows"]
    assert {(r["batch"], r["way"]) for r in rows} == {(b, w) for b in (1, 2) for w in ("float32", "bf16")}
    assert min(r["frames_per_s"] for r in rows) > 0
    assert re.search(r"mean, d3d.tsdf +2 views, \d{3,} triangles", summary)


def test_the_goals_of_a_gpu_pass_and_fail():
    row = training_step.StepRow("a", "pretrain", "8x8", 2, 30, 20, 37, 10, {}, 30)
    assert training_step.verdict(row).count("(pass:") == 2
    assert "(FAIL: wanted 3)" in training_step.verdict(replace(row, reference=10.1))
    assert "(FAIL: wanted 1.25 or less)" in training_step.verdict(replace(row, network=38))


@pytest.mark.parametrize("scales", [(0,), (0, 1, 2, 3)])
def test_the_reference_loss_is_ours_with_its_gradient(scales):
    torch.manual_seed(0)
    size, batch = (64, 96), 2
    smooth = F.interpolate(torch.rand(3 * batch, 3, 16, 24), size, mode="bilinear").unflatten(0, (batch, 3))
    poses = torch.eye(4).repeat(batch, 2, 1, 1)
    poses[:, 0, 0, 3], poses[:, 1, 2, 3] = 0.07, 0.1
    data = {
        "target": smooth[:, 0],
        "sources": smooth[:, 1:],
        "K": torch.tensor([[86.0, 0, 47.5], [0, 86.0, 31.5], [0, 0, 1]]).repeat(batch, 1, 1),
        "source_T_target": poses,
    }
    disps = {s: (0.02 + 0.03 * torch.rand(batch, 1, 64 >> s, 96 >> s)).requires_grad_() for s in scales}
    theirs = reference.PretrainLoss(batch, *size)(disps, data)
    ours, _ = self_supervised_loss(
        disps, data["target"], data["sources"].transpose(0, 1), data["K"], poses.transpose(0, 1)
    )
    assert ours.item() == pytest.approx(theirs.item(), rel=1e-5)
    for a, b in zip(
        *(torch.autograd.grad(loss, list(disps.values())) for loss in (ours, theirs)), strict=True
    ):
        # a pixel whose two sources are equally good within rounding may take the other one
        assert (a - b).norm() < 0.02 * b.norm()


def test_the_score_of_a_room_is_apart_for_its_shiny_surfaces(monkeypatch):
    """The left half is red and predicted a quarter too far, the right half is right; one column has no true depth."""
    image = np.full((32, 64, 3), 90, np.uint8)
    image[:, :32] = (150, 30, 40)

    class Truth:
        def __len__(self):
            return 2

        def image(self, i):
            return image

        def depth(self, i):
            return np.pad(np.full((32, 63), 2.0), ((0, 0), (1, 0)))

    red = own_room.is_red(image)
    assert red[:, :28].all()
    assert not red[:, 36:].any()
    half = np.arange(64) < 32
    monkeypatch.setattr(own_room, "predict", lambda *_, **__: np.where(half, 2.5, 2.0) * np.ones((32, 1)))
    inside = [np.tile(half, (32, 1))] * 2
    found = own_room.scores(None, Truth(), (32, 64), {"cupboards": inside}, factor=False)
    assert found["bias_cupboards"] == found["abs_rel_cupboards"] == pytest.approx(0.25)
    assert found["sq_rel_cupboards"] == pytest.approx(0.125)
    assert found["abs_rel_others"] == found["bias_others"] == 0
    assert found["abs_rel_all"] == pytest.approx(0.25 * 31 / 63)
    assert found["unknown_cupboards"] == pytest.approx(1 / 32)
    scaled = own_room.scores(None, Truth(), (32, 64), {"cupboards": inside}, factor=True)
    assert scaled["ratio"] == 1
    assert scaled["bias_cupboards"] == pytest.approx(0.25)


@pytest.mark.parametrize(("uncertainty", "labels"), [("tta", "robust"), ("snapshots", "robust-snapshots")])
def test_an_own_room_with_another_uncertainty_has_it_in_its_labels_and_in_its_mesh(uncertainty, labels):
    args = own_room._parser().parse_args(["--uncertainty", uncertainty, "--out", "o.csv"])
    config = own_room._with_steps(
        make_config(profile="room", root=str(REPO / "data/capture"), **own_room._options(args, 0)), args
    )
    assert (config.labels, config.fusion.uncertainty) == (labels, uncertainty)
    assert config.pretrain.snapshots > 0  # one teacher serves both


def test_the_sharpness_of_an_edge_is_the_share_of_its_step():
    """A step from 4 to 2 m in a column, and one in a row; unknown depth has no edge."""
    truth = np.full((40, 60), 4.0)
    truth[:, 30:] = 2
    assert edges.edge_scores(truth, truth) == pytest.approx([1, 0, 0])
    assert edges.edge_scores(np.full_like(truth, 3), truth) == pytest.approx([0, 3 / 8, 3 / 8])
    half = np.where(truth == 4, np.sqrt(8), 2.0)  # half of the step in log depth
    assert edges.edge_scores(half.T, truth.T)[0] == pytest.approx(0.5)
    near, far = edges.edge_scores(np.where(np.abs(np.arange(60) - 29.5) < 3, 2 * truth, truth), truth)[1:]
    assert (near, far) == pytest.approx((1, 0))
    assert np.isnan(edges.edge_scores(truth, np.where(truth == 2, 0, truth))).all()
    assert np.isnan(edges.edge_scores(truth, np.full_like(truth, 4))).all()
