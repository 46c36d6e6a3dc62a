"""Training loop of pretraining (section 3.1) and distillation (3.2.4). A task defines the samples and the loss.

The optimiser is Adam. The learning rate drops tenfold at the milestones (section 3.3).
"""

from __future__ import annotations

import functools
import math
import os
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import pandas as pd
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset

from d3d.datasets.augment import unflip
from d3d.datasets.samples import EpochBatches
from d3d.errors import D3DError, DataError, RunError, counted, rounded
from d3d.geometry import disp_to_depth
from d3d.io import atomic
from d3d.kernels import Adam
from d3d.losses import laplacian_nll, log_depth_loss, self_supervised_loss
from d3d.models import load_weights, save_weights
from d3d.parallel import distributed, launch
from d3d.parallel.distributed import select_device
from d3d.progress import say, track

if TYPE_CHECKING:
    from d3d.pipeline.settings import TrainConfig

__all__ = ["DistillTask", "PretrainTask", "RegressionTask", "Task", "learning_rate", "select_device", "train"]

WEIGHTS, STATE, CURVE = "weights.safetensors", "training_state.pt", "loss.csv"
SNAPSHOT = "snapshot-{step:06}.safetensors"
PREFETCH = 4  # batches that each loading process prepares, because the first read of a frame takes longer
FIRST_CHECK, CHECK_S = 10, 30.0  # steps before the first check of the loss; seconds between later checks

Batch = dict[str, Tensor]
Disparities = dict[int | str, Tensor]
LossAndParts = tuple[Tensor, dict[str, Tensor]]


class Task(Protocol):
    """The samples and the loss of a training."""

    name: str
    samples: TorchDataset
    scales: tuple[int, ...]

    def loss(self, disps: Disparities, batch: Batch) -> LossAndParts:
        """Compute the loss (scalar) and its detached parts.

        Args:
            disps: outputs of the network, mirrored back where the input was mirrored.
            batch: batch of samples.
        """


@dataclass
class PretrainTask:
    """Pretraining with the photometric loss on triples (section 3.1). ``samples`` are `TripleSamples`."""

    samples: TorchDataset
    scales: tuple[int, ...] = (0, 1, 2, 3)
    smoothness: float = 1e-3
    automask: bool = False
    min_depth: float = 0.1
    max_depth: float = 10.0
    name: str = "pretrain"
    compile: bool = False
    loss_name: str = "photometric"  # one of `d3d.losses.LOSSES`
    margin: float = 0.0  # factor of `d3d.losses.triplet_margin`

    def loss(self, disps: Disparities, batch: Batch) -> LossAndParts:
        loss = _compiled_loss() if self.compile else self_supervised_loss
        return loss(
            disps,
            batch["target"],
            batch["sources"].transpose(0, 1),
            batch["K"],
            batch["source_T_target"].transpose(0, 1),
            smoothness_weight=self.smoothness,
            automask=self.automask,
            min_depth=self.min_depth,
            max_depth=self.max_depth,
            loss=self.loss_name,
            margin=self.margin,
        )


@dataclass
class DistillTask:
    """Distillation with Eq. 4 on pseudo-labels (section 3.2.4). ``samples`` are `LabelSamples`.

    The paper defines the loss for the finest output F_t. Coarser heads have no loss.
    """

    samples: TorchDataset
    min_depth: float = 0.1
    max_depth: float = 10.0
    name: str = "distill"
    scales: tuple[int, ...] = (0,)

    def loss(self, disps: Disparities, batch: Batch) -> LossAndParts:
        depth = disp_to_depth(disps[0].float(), self.min_depth, self.max_depth)
        loss = log_depth_loss(depth, batch["label"], count=distributed.mean_count(batch["label"] > 0))
        return loss, {"log_depth": loss.detach()}


@dataclass
class RegressionTask(DistillTask):
    """Training for the uncertainty "regression": Eq. 4 with a predicted scale (`laplacian_nll`).

    ``samples`` are `LabelSamples` with the teacher's depth. The network has a second output (``log_scale=True``).
    """

    name: str = "regression"

    def loss(self, disps: Disparities, batch: Batch) -> LossAndParts:
        depth = disp_to_depth(disps[0].float(), self.min_depth, self.max_depth)
        log_scale = disps["log_scale"].float()
        count = distributed.mean_count(batch["label"] > 0)
        loss = laplacian_nll(depth, log_scale, batch["label"], count=count)
        log_depth = log_depth_loss(depth.detach(), batch["label"], count=count)
        return loss, {"log_depth": log_depth, "scale": log_scale.detach().exp().mean()}


def learning_rate(config: TrainConfig, step: int, total_steps: int) -> float:
    """Return the learning rate of a step (0-based). A drop "after 26 epochs" comes after epochs 0 to 25."""
    drops = sum(step >= d for d in config.drops(total_steps))
    warmup = min(1.0, (step + 1) / config.warmup_steps) if config.warmup_steps else 1.0
    return config.learning_rate * 0.1**drops * warmup


@functools.cache
def _compiled_loss() -> Callable[..., LossAndParts]:
    # fullgraph: an error instead of a slow loss
    return torch.compile(self_supervised_loss, dynamic=False, fullgraph=True)


def batch_loss(network: nn.Module, task: Task, batch: Batch, config: TrainConfig) -> LossAndParts:
    """Compute the loss of a batch and its detached parts. Reads no value from the device, so that a GPU never waits."""
    image = batch["input"]
    if config.channels_last:
        image = image.contiguous(memory_format=torch.channels_last)
    with distributed.autocast(image.device.type, config.precision):
        disps = network(image, scales=task.scales)
    return task.loss({s: unflip(d, batch["flip"]) for s, d in disps.items()}, batch)


def train(
    model_factory: Callable[[], nn.Module],
    task: Task,
    config: TrainConfig,
    folder: Path,
    *,
    seed: int = 0,
    device: torch.device | str = "cpu",
    what: str = "",
    on_checkpoint: Callable[[int], None] | None = None,
    processes: int = 1,
) -> nn.Module:
    """Train a network; write ``weights.safetensors`` and ``loss.csv`` to ``folder``.

    ``config.snapshots`` adds the weights of earlier steps, ``snapshot-<step>.safetensors``.

    The state is saved after each epoch, or every ``config.checkpoint_steps``. An interrupted training resumes when this
    function is called again, and ends with the same weights (bit for bit on a CPU with the same number of threads),
    because every random choice depends on seed and step only. In a group of processes, the first process calls this
    function and all processes take part. ``config.batch_size`` is the number of images in all processes together.

    Args:
        model_factory: makes the network; called after seeding.
        task: samples and loss.
        config: settings of the training.
        folder: folder of the results.
        seed: seed of all random choices.
        device: device of a single process. In a group each process has its own GPU.
        what: name of the training in messages.
        on_checkpoint: called after each checkpoint with the number of finished steps, in the first process.
        processes: number of processes to start on this machine. Ignored if torchrun started this process.

    Returns:
        The trained network in eval mode.

    Raises:
        ConfigError: the batch cannot be divided equally among the processes.
        DataError: the loss is not finite. It is checked after `FIRST_CHECK` steps, then every `CHECK_S` seconds.
        RunError: the loading processes ran out of shared memory.
    """
    folder = Path(folder)
    shared = (model_factory, task, config, folder, seed, what or task.name)
    if processes > 1 and not distributed.launched():
        kind = torch.device(device).type
        launch.call_in_processes(processes, kind, _train, *shared, device, on_checkpoint)
        return load_weights(model_factory(), folder / WEIGHTS).eval()
    distributed.call(_train, *shared)
    return _train(*shared, device, on_checkpoint)


def _train(model_factory, task, config, folder, seed, what, device="cpu", on_checkpoint=None) -> nn.Module:
    """Run `train` in one process of a group. Only the first process writes."""
    device, leads = distributed.device(device), distributed.rank() == 0
    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(seed)
    model = distributed.share(model_factory().to(device))
    if config.channels_last:
        model = model.to(memory_format=torch.channels_last)
    optimizer = Adam(model.parameters(), lr=config.learning_rate)
    first, history = _resume(folder / STATE, model, optimizer, device)
    distributed.agree(first, f"the step of {folder / STATE}")
    part = (distributed.rank(), distributed.size())
    order = functools.partial(EpochBatches, len(task.samples), config.batch_size, seed, part=part)
    per_epoch = order().per_epoch
    total = config.total_steps(per_epoch)
    every = config.checkpoint_steps or per_epoch
    snapshots = config.snapshot_steps(total)
    if first:
        say(f"{what}: resumes after step {first} of {total}")
    else:
        say(
            f"{what}: {counted(len(task.samples), 'sample')}, {counted(total, 'step')} "
            f"({rounded(total / per_epoch)} epochs of {per_epoch}) on {device}"
            f"{f', {part[1]} processes' if part[1] > 1 else ''}"
        )
    batches = order(first=first, last=max(first, total))
    bar = track(what=what, total=total, unit="step", first=first)
    start = checked = time.monotonic()
    sums: dict[str, Tensor] = {}
    since = first  # first step in `sums`
    model.train()
    network = distributed.wrap(model)
    for step, batch in enumerate(_load(task, batches, config.workers, device, what), first):
        torch.manual_seed(seed * 1_000_003 + step)  # random layers draw the same values after a resume
        batch = {k: v.to(device, non_blocking=True) for k, v in batch.items()}
        rate = optimizer.param_groups[0]["lr"] = learning_rate(config, step, total)
        loss, parts = batch_loss(network, task, batch, config)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        # summed on the device: reading a value would make a GPU wait in every step
        for name, value in {"loss": loss.detach(), **parts}.items():
            sums[name] = sums.get(name, 0) + value
        bar.update()
        done = step + 1
        # a resumed training writes the snapshots after the last checkpoint again, with the same content
        if done in snapshots and leads:
            save_weights(model, folder / SNAPSHOT.format(step=done))
        if done % every and done != total:
            if done - first == FIRST_CHECK or time.monotonic() - checked > CHECK_S:
                # the loss of this process only: the clocks of several processes differ
                _check_finite(sums["loss"].item(), what, since + 1, done)
                checked = time.monotonic()
            continue
        means = {name: value / (done - since) for name, value in distributed.mean(sums).items()}
        _check_finite(means["loss"], what, since + 1, done)
        history.append({"epoch": round(done / per_epoch, 3), "steps": done, "learning_rate": rate, **means})
        sums, since = {}, done
        if leads:
            save_weights(model, folder / WEIGHTS)
            _checkpoint(folder, model, optimizer, done, history)
            bar.set_postfix_str(f"loss {means['loss']:.4f}", refresh=False)
            if on_checkpoint is not None:
                on_checkpoint(done)
    bar.close()
    if first < total:
        seconds = time.monotonic() - start
        speed = (total - first) * min(config.batch_size, len(task.samples)) / seconds
        say(f"{what}: done in {seconds:.0f} s ({speed:.1f} images/s), loss {history[-1]['loss']:.4f}")
    return model.eval()


def _check_finite(loss: float, what: str, first: int, last: int) -> None:
    if not math.isfinite(loss):
        raise DataError(
            f"{what}: the loss is {loss} in steps {first} to {last}. Check that poses and intrinsics belong to the "
            f"images. A lower learning_rate or precision = 'float32' may help."
        )


def _load(task: Task, batches: EpochBatches, workers: int, device: Any, what: str) -> Iterator[Batch]:
    """Load batches with as many processes as fit in the shared memory."""
    prefetch = PREFETCH
    if workers and len(batches):
        keys = next(iter(batches))
        batch_bytes = len(keys) * sum(v.nbytes for v in task.samples[keys[0]].values())
        workers, prefetch = _fit_shared_memory(workers, batch_bytes, what)
    loader = DataLoader(
        task.samples,
        batch_sampler=batches,
        num_workers=workers,
        prefetch_factor=prefetch if workers else None,
        pin_memory=device.type == "cuda",
    )
    try:
        yield from loader
    except D3DError as error:  # a loading process sends its traceback; the last line is the message
        raise type(error)(str(error).rsplit(f"{type(error).__name__}: ", 1)[-1].strip()) from None
    except RuntimeError as error:
        if not any(sign in str(error) for sign in ("shared memory", "shm", "Bus error", "torch_")):
            raise
        raise RunError(
            f"{what}: the loading processes ran out of shared memory (/dev/shm). Set workers = 0, or give the "
            f"container more (docker run --shm-size=8g). Then repeat the command: it resumes from the last checkpoint."
        ) from error


def _fit_shared_memory(workers: int, batch_bytes: int, what: str) -> tuple[int, int]:
    """Return how many loading processes and prepared batches per process fit in /dev/shm (Docker's default: 64 MB)."""
    try:
        free = shutil.disk_usage("/dev/shm").free // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    except OSError:  # not Linux
        return workers, PREFETCH
    room = max(0, free // batch_bytes - 2)  # one batch is in use, one batch is on its way to the GPU
    fitting = min(workers, room)
    prefetch = min(PREFETCH, room // fitting) if fitting else 0
    if prefetch < PREFETCH:
        needed, plan = (workers * PREFETCH + 2) * batch_bytes, "the training process loads the images itself"
        if fitting:
            plan = f"{fitting} of them prepare {prefetch} batches each"
        say(
            f"{what}: {workers} loading processes need {needed / 2**20:.0f} MB of shared memory, but /dev/shm has "
            f"{free / 2**20:.0f} MB. Therefore {plan}. The result is the same. To give a container more: docker run "
            f"--shm-size=8g."
        )
    return fitting, prefetch


def _checkpoint(folder: Path, model: nn.Module, optimizer: Any, step: int, history: list[dict]) -> None:
    # one file: a kill between two renames would leave inconsistent files
    state = {"model": model.state_dict(), "optimizer": optimizer.state_dict()}
    with atomic(folder / STATE) as temporary:
        torch.save({"step": step, "history": history, **state}, temporary)
    with atomic(folder / CURVE) as temporary:
        pd.DataFrame(history).to_csv(temporary, index=False, lineterminator="\r\n")


def _resume(path: Path, model: nn.Module, optimizer: Any, device: torch.device) -> tuple[int, list[dict]]:
    if not path.is_file():
        return 0, []
    try:
        state = torch.load(path, map_location=device, weights_only=True)
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        return int(state["step"]), list(state["history"])
    except Exception as error:  # torch raises errors of many types
        raise DataError(
            f"{path}: not a usable training state ({error}). Delete its folder and run again."
        ) from error
