"""The benchmarks run and print their tables. No test checks a speed."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

from benchmarks import reference, training_step
from d3d.losses import self_supervised_loss

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
    script = "import sys, benchmarks.teachers, benchmarks.training_step; print(*{m.split('.')[0] for m in sys.modules})"
    ran = subprocess.run([sys.executable, "-c", script], cwd=REPO, capture_output=True, text=True, check=True)
    optional = "open3d pyrender trimesh dask distributed accelerate argcomplete IPython ipywidgets mitsuba"
    assert not {*optional.split()} & {*ran.stdout.split()}
    subprocess.run(["bash", "-n", REPO / "benchmarks" / "gpu.sh"], check=True)


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
