"""Two processes train like one process on the same batches: equal loss curves and weights, except for rounding."""

import csv
import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from test_training import Wall, config, samples
from torch import nn

from d3d.datasets.samples import EpochBatches, LabelSamples
from d3d.errors import ConfigError, DataError
from d3d.models import create_model
from d3d.models.layers import DropPath
from d3d.parallel import distributed
from d3d.pipeline import stages
from d3d.pipeline.config import make_config
from d3d.training import CURVE, STATE, WEIGHTS, DistillTask, PretrainTask, train

SIZE = (64, 64)
BUFFERS = ("running_mean", "running_var", "num_batches_tracked")


@pytest.fixture(autouse=True)
def importable(monkeypatch):
    """Let the processes find this module's functions by name."""
    monkeypatch.setenv(
        "PYTHONPATH", os.pathsep.join((str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")))
    )


def curve(folder):
    return [{k: float(v) for k, v in row.items()} for row in csv.DictReader((folder / CURVE).open())]


def network(arch, **options):
    return partial(create_model, arch, pretrained=False, init_depth_m=2.0, **options)


def half_a_label(scene, i):
    """Images with different numbers of labelled pixels. A mean of means would weigh the pixels differently."""
    label = np.full(SIZE, 3.0, np.float32)
    label[: 7 * i] = 0
    return label


def tasks():
    distill = LabelSamples([Wall()], [(0, i) for i in range(8)], half_a_label, SIZE, seed=3)
    return {"pretrain": PretrainTask(samples(size_hw=SIZE), scales=(0, 1)), "distill": DistillTask(distill)}


def state_of(model_or_file):
    """Return all weights, and all running statistics, as two vectors."""
    state = load_file(model_or_file) if isinstance(model_or_file, Path) else model_or_file.state_dict()
    weights = [v.flatten().float() for k, v in sorted(state.items()) if not k.endswith(BUFFERS)]
    return torch.cat(weights), torch.cat(
        [v.flatten().float() for k, v in sorted(state.items()) if k.endswith(BUFFERS)]
    )


@pytest.mark.parametrize(
    ("arch", "kind", "dropout"),
    [("hrdepth", "distill", 0.2), ("monovit", "pretrain", 0.0)],
)
def test_two_processes_have_the_loss_curve_of_one(tmp_path, arch, kind, dropout):
    """Batch statistics, MonoViT's drop path and the channel dropout of mcdropout are those of the whole batch.

    A student does not use its coarse heads.
    """
    short = config(steps=4, checkpoint_steps=1, batch_size=4, learning_rate=1e-4)
    alone, together = tmp_path / "alone", tmp_path / "together"
    train(network(arch, dropout=dropout), tasks()[kind], short, alone, seed=1)
    train(network(arch, dropout=dropout), tasks()[kind], short, together, seed=1, processes=2)
    a, b = curve(alone), curve(together)
    assert len(a) == len(b) == 4
    for one, two in zip(a, b, strict=True):
        assert two == pytest.approx(one, rel=2e-5)
    torch.manual_seed(1)
    start, one, two = map(state_of, (network(arch, dropout=dropout)(), alone / WEIGHTS, together / WEIGHTS))
    # Adam's first steps are the gradient's sign: where it is zero but for rounding, a weight may go either way
    for before, a, b in zip(start, one, two, strict=True):
        assert (b - a).norm() < 0.05 * (a - before).norm()


@pytest.mark.parametrize(
    "layer", [DropPath(0.5), nn.Dropout(0.5), nn.Dropout1d(0.5), nn.Dropout2d(0.5)], ids=repr
)
@pytest.mark.parametrize("memory", [torch.contiguous_format, torch.channels_last])
def test_every_random_layer_draws_its_part_of_the_whole_batch(monkeypatch, layer, memory):
    whole = torch.rand(6, 8, 4, 5).contiguous(memory_format=memory)
    whole = whole[..., 0] if isinstance(layer, nn.Dropout1d) else whole
    torch.manual_seed(1)
    expected = layer(whole)
    monkeypatch.setattr(distributed, "size", lambda: 3)
    monkeypatch.setattr(distributed, "_accelerator", SimpleNamespace(device=torch.device("cpu")))
    model = distributed.share(nn.Sequential(nn.Sequential(layer)))
    parts = []
    for k in range(3):
        monkeypatch.setattr(distributed, "rank", lambda k=k: k)
        torch.manual_seed(1)
        parts.append(model(whole[2 * k : 2 * k + 2]))
    assert torch.equal(torch.cat(parts), expected)
    assert torch.equal(model.eval()(whole), whole)


def test_parts_of_a_batch_are_the_batch():
    whole = list(EpochBatches(23, 6, seed=1, last=5))
    parts = [list(EpochBatches(23, 6, seed=1, last=5, part=(k, 3))) for k in range(3)]
    assert [a + b + c for a, b, c in zip(*parts, strict=True)] == whole
    with pytest.raises(
        ConfigError, match=r"4 processes cannot share a batch of 6 equally: set batch_size to a multiple of 4"
    ):
        EpochBatches(23, 6, seed=1, part=(0, 4))


def test_an_error_in_the_processes_is_raised_as_it_is(tmp_path):
    task = tasks()["pretrain"]
    task.smoothness = float("inf")
    with pytest.raises(DataError, match=r"loss is (inf|nan) in steps 1 to [1-8]"):
        train(network("monodepth2"), task, config(), tmp_path, seed=1, processes=2)
    assert not (tmp_path / STATE).exists()


SLOW = """
import sys
from pathlib import Path
from test_distributed import config, network, tasks
from d3d.training import train
slow = config(steps=10_000, checkpoint_steps=1)
train(network("monodepth2"), tasks()["pretrain"], slow, Path(sys.argv[1]), seed=1, processes=2)
"""


def test_the_processes_end_with_the_one_that_started_them_and_their_work_goes_on(tmp_path):
    parent = subprocess.Popen([sys.executable, "-c", SLOW, str(tmp_path)], stdout=subprocess.DEVNULL)
    try:
        waited = time.monotonic()
        while not (tmp_path / STATE).exists() and time.monotonic() - waited < 100:
            time.sleep(0.1)
    finally:
        os.kill(parent.pid, signal.SIGKILL)
        parent.wait()
    time.sleep(2)
    before = (tmp_path / STATE).stat().st_mtime_ns
    time.sleep(2)
    assert (tmp_path / STATE).stat().st_mtime_ns == before  # nobody trains any more
    first = int(curve(tmp_path)[-1]["steps"])
    train(
        network("monodepth2"),
        tasks()["pretrain"],
        config(steps=first + 1, checkpoint_steps=1),
        tmp_path,
        seed=1,
    )
    assert [row["steps"] for row in curve(tmp_path)] == list(range(1, first + 2))


def test_torchrun_runs_a_stage_once_and_trains_in_every_process(tmp_path):
    """The documented line for many GPUs, on two processes; and the notebooks' parameter gives the same curve."""
    options = ["--profile", "smoke", "--device", "cpu", "--runs-dir", str(tmp_path)]
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    ran = subprocess.run(
        # without the first two dashes torchrun takes --run for an option of its own
        [*torchrun, "-m", "--", "d3d", "pretrain", *options, "--run", "two"],
        env=environment, capture_output=True, text=True, timeout=200,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr[-3000:]
    assert ran.stdout.count("2 processes") == 1  # one of them speaks
    stages.pretrain(make_config(profile="smoke", device="cpu", runs_dir=str(tmp_path), run="one"))
    a, b = (curve(tmp_path / run / "pretrain" / "monodepth2") for run in ("one", "two"))
    for one, two in zip(a, b, strict=True):
        assert two == pytest.approx(one, rel=2e-2)  # bf16


def test_a_notebooks_parameter_trains_in_processes(tmp_path, capfd):
    cfg = make_config(profile="smoke", device="cpu", runs_dir=str(tmp_path), steps=2, train_processes=2)
    folder = stages.pretrain(cfg)
    assert "2 processes" in capfd.readouterr().out
    assert len(curve(folder)) == 1
    assert (folder / "loss.png").stat().st_size > 1000
    assert (
        stages.pretrain(make_config(profile="smoke", device="cpu", runs_dir=str(tmp_path), steps=2)) == folder
    )
