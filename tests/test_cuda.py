"""A GPU computes the same as a CPU, and no step waits for Python. `benchmarks/gpu.sh` runs these tests.

D3D_TEST_DEVICE=cpu tries them on a machine without a GPU.
"""

import copy
import csv
import os
from functools import partial

import numpy as np
import pytest
import torch
import torch.distributed as dist
from test_training import TinyNet, Wall, config, labels_of, samples
from torch import nn
from torch.nn.modules._functions import SyncBatchNorm
from torch.utils.data import default_collate

from d3d.datasets.samples import EpochBatches
from d3d.kernels import Adam
from d3d.losses import laplacian_nll, log_depth_loss, self_supervised_loss
from d3d.models import ARCHITECTURES, create_model
from d3d.parallel import distributed, launch
from d3d.prediction import predict
from d3d.training import CURVE, DistillTask, PretrainTask, batch_loss, train

DEVICE = os.environ.get("D3D_TEST_DEVICE", "cuda")
pytestmark = [
    pytest.mark.cuda,
    pytest.mark.skipif(DEVICE == "cuda" and not torch.cuda.is_available(), reason="needs a GPU"),
]
SIZE = (64, 96)


@pytest.fixture(autouse=True)
def _float32():
    """Use full float32 precision for comparisons with a CPU, and deterministic kernels for two trainings."""
    with torch.backends.cudnn.flags(enabled=True, deterministic=True, allow_tf32=False):
        yield


def batch_of(task, size=4, device=DEVICE):
    keys = next(iter(EpochBatches(len(task.samples), size, seed=0)))
    return {k: v.to(device) for k, v in default_collate([task.samples[key] for key in keys]).items()}


def tasks():
    return {"pretrain": PretrainTask(samples(size_hw=SIZE)), "distill": DistillTask(labels_of(3.0, SIZE))}


def photometric(device, loss=self_supervised_loss, automask=False):
    """Return the self-supervised loss on a device, and its gradients."""
    batch = batch_of(tasks()["pretrain"], device="cpu")
    torch.manual_seed(1)
    disps = {s: 0.02 + 0.05 * torch.rand(4, 1, SIZE[0] >> s, SIZE[1] >> s) for s in (0, 1, 2, 3)}
    disps = {s: d.to(device).requires_grad_() for s, d in disps.items()}
    batch = {k: v.to(device) for k, v in batch.items()}
    value, _ = loss(
        disps,
        batch["target"],
        batch["sources"].transpose(0, 1),
        batch["K"],
        batch["source_T_target"].transpose(0, 1),
        automask=automask,
    )
    return value.item(), [g.cpu() for g in torch.autograd.grad(value, list(disps.values()))]


def assert_same_loss(one, two):
    assert one[0] == pytest.approx(two[0], rel=1e-4)
    for a, b in zip(one[1], two[1], strict=True):
        assert (
            a - b
        ).norm() < 0.02 * b.norm()  # two sources that are equal within rounding may change places


@pytest.mark.parametrize("automask", [False, True])
def test_the_photometric_loss_is_that_of_a_cpu(automask):
    assert_same_loss(photometric(DEVICE, automask=automask), photometric("cpu", automask=automask))


def test_the_compiled_loss_is_the_plain_one():
    backend = "inductor" if DEVICE == "cuda" else "eager"  # a CPU compiles it for minutes
    compiled = torch.compile(self_supervised_loss, dynamic=False, fullgraph=True, backend=backend)
    assert_same_loss(photometric(DEVICE, compiled), photometric("cpu"))


@pytest.mark.parametrize("loss", [log_depth_loss, laplacian_nll])
def test_the_losses_on_labels_are_those_of_a_cpu(loss):
    torch.manual_seed(0)
    pred, log_b, label = 1 + torch.rand(2, 1, 32, 48), torch.randn(2, 1, 32, 48), 3 * torch.rand(2, 1, 32, 48)
    label[label < 1] = 0
    found = []
    for device in (DEVICE, "cpu"):
        inputs = [t.to(device).requires_grad_() for t in (pred, log_b)][: 1 + (loss is laplacian_nll)]
        value = loss(*inputs, label.to(device))
        found.append((value.item(), *(g.cpu() for g in torch.autograd.grad(value, inputs))))
    assert found[0][0] == pytest.approx(found[1][0], rel=1e-5)
    for a, b in zip(found[0][1:], found[1][1:], strict=True):
        assert torch.allclose(a, b, rtol=1e-4, atol=1e-8)


def test_fused_adam_is_that_of_a_cpu_and_reads_its_state():
    torch.manual_seed(0)
    models = [TinyNet().to(memory_format=torch.channels_last) for _ in range(2)]
    models[1].load_state_dict(models[0].state_dict())
    models[0].to(DEVICE)
    on_device, on_cpu = (Adam(m.parameters(), lr=config().learning_rate) for m in models)
    assert isinstance(on_device, Adam)
    for step in range(4):
        for model, optimizer in zip(models, (on_device, on_cpu), strict=True):
            generator = torch.Generator().manual_seed(step)
            for p in model.parameters():
                p.grad = torch.randn(p.shape, generator=generator).to(p.device)
            optimizer.step()
        if step == 1:
            on_device.load_state_dict(copy.deepcopy(on_cpu.state_dict()))
    for a, b in zip(*(m.parameters() for m in models), strict=True):
        assert torch.allclose(a.cpu(), b, atol=1e-5)


def _group_of_one(folder):
    """Runs in a process of torchrun: batch statistics over the group, and a training with shared gradients."""
    torch.manual_seed(0)
    device = torch.device(DEVICE)
    x, norm = torch.randn(4, 8, 6, 5, device=device), nn.BatchNorm2d(8).to(device)
    if DEVICE == "cuda":
        running = torch.zeros(8, device=device), torch.ones(8, device=device)
        y = SyncBatchNorm.apply(x, norm.weight, norm.bias, *running, 1e-5, 0.1, dist.group.WORLD, 1)
        assert torch.allclose(y, norm(x), atol=1e-5)
        assert torch.allclose(running[1], norm.running_var, atol=1e-5)
    assert torch.equal(distributed._Sum.apply(x), x)
    train(TinyNet, PretrainTask(samples(), scales=(0,)), config(steps=4), folder, seed=1, device=device)


def test_a_group_of_one_process_trains_like_no_group(tmp_path, monkeypatch):
    monkeypatch.setenv(
        "PYTHONPATH", os.pathsep.join((os.path.dirname(__file__), os.environ.get("PYTHONPATH", "")))
    )
    launch.call_in_processes(1, DEVICE, _group_of_one, tmp_path / "group")
    train(
        TinyNet,
        PretrainTask(samples(), scales=(0,)),
        config(steps=4),
        tmp_path / "alone",
        seed=1,
        device=DEVICE,
    )
    curves = [[float(row["loss"]) for row in rows(tmp_path / name)] for name in ("group", "alone")]
    assert curves[0] == pytest.approx(curves[1], rel=1e-3)


def rows(folder):
    return list(csv.DictReader((folder / CURVE).open()))


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_the_prediction_is_that_of_a_cpu(arch):
    torch.manual_seed(0)
    model, image = create_model(arch, pretrained=False, init_depth_m=2.0), torch.rand(2, 3, 64, 96)
    expected = predict(model, image)
    assert (predict(model.to(DEVICE), image).cpu() / expected - 1).abs().max() < 1e-3
    pixels = (255 * image[0]).byte().permute(1, 2, 0).numpy()
    assert predict(model, pixels).shape == (64, 96)


def test_a_training_finds_the_wall_and_a_resumed_one_ends_at_the_same_loss(tmp_path):
    class Killed(Exception):
        pass

    def stop(step):
        if step >= 60:
            raise Killed

    long = config(epochs=60, milestones=(50,))
    run = partial(train, TinyNet, PretrainTask(samples(), scales=(0,)), long, seed=1, device=DEVICE)
    model = run(tmp_path / "whole")
    image = torch.from_numpy(Wall().image(4).transpose(2, 0, 1)).float()[None] / 255
    assert 1.7 < predict(model, image).median() < 2.3
    with pytest.raises(Killed):
        run(tmp_path / "resumed", on_checkpoint=stop)
    run(tmp_path / "resumed")
    whole, resumed = (
        np.array([float(row["loss"]) for row in rows(tmp_path / n)]) for n in ("whole", "resumed")
    )
    assert resumed == pytest.approx(whole, rel=1e-5 if DEVICE == "cpu" else 1e-2)


@pytest.mark.skipif(DEVICE != "cuda", reason="needs a GPU: CUDA itself reports what waits for it")
@pytest.mark.parametrize("arch", ARCHITECTURES)
@pytest.mark.parametrize("kind", ["pretrain", "distill"])
def test_no_step_waits_for_the_gpu(arch, kind):
    task, settings = tasks()[kind], config(precision="bf16")
    model = create_model(arch, pretrained=False, init_depth_m=2.0).to(DEVICE).train()
    optimizer, batch = Adam(model.parameters(), lr=settings.learning_rate), batch_of(task)

    def step():
        for group in optimizer.param_groups:
            group["lr"] = 1e-4
        loss, _ = batch_loss(model, task, batch, settings)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        return loss.detach()

    step()
    torch.cuda.set_sync_debug_mode("error")
    try:
        total = step() + step()
        with pytest.raises(RuntimeError, match="synchroniz"):
            total.item()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert torch.isfinite(total)


@pytest.mark.parametrize("quantile", [None, 0.35])
def test_fusion_on_a_device_is_that_of_a_cpu(quantile):
    from d3d import tsdf

    pytest.importorskip("skimage")
    poses = np.tile(np.eye(4), (6, 1, 1))
    poses[:, 0, 3] = np.linspace(-0.3, 0.3, 6)
    K = np.tile([[60.0, 0, 47.5], [0, 60.0, 31.5], [0, 0, 1]], (6, 1, 1))
    depths = np.random.default_rng(0).normal(2.0, 0.02, (6, *SIZE)).astype(np.float32)
    images = np.full((6, *SIZE, 3), 90, np.uint8)
    ours, theirs = (
        tsdf.fuse_views(depths, K, poses, 0.05, 0.5, quantile=quantile, images=images, device=device)
        for device in (DEVICE, "cpu")
    )
    # rounding may move a point over the border of a pixel: nearly all vertices are the same
    assert len(ours[0]) == pytest.approx(len(theirs[0]), rel=0.02)
    near = np.abs(np.sort(ours[0][:, 2])[: len(theirs[0])].mean() - theirs[0][:, 2].mean())
    assert near < 0.002
    assert ours[2].dtype == np.uint8
