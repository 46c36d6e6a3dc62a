"""One training loop for pretraining (section 3.1) and distillation (3.2.4).

A task says what a batch and a loss are; the loop owns optimisation, precision, checkpoints, resuming
and progress. Adam; the rate drops tenfold at the milestones (3.3).
"""

from __future__ import annotations

import csv
import functools
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset

from d3d.datasets.augment import unflip
from d3d.datasets.samples import EpochBatches
from d3d.errors import ConfigError, DataError
from d3d.geometry import disp_to_depth
from d3d.io import atomic
from d3d.kernels import Adam
from d3d.losses import laplacian_nll, log_depth_loss, self_supervised_loss
from d3d.parallel import distributed
from d3d.pipeline.config import TrainConfig
from d3d.progress import say, track

WEIGHTS, STATE, CURVE = "weights.safetensors", "training_state.pt", "loss.csv"
SNAPSHOT = "snapshot-{step:06}.safetensors"
PREFETCH = 4  # batches a loading process is ahead: evens out large frames that are read for the first time


class Task(Protocol):
    """What is trained on, and how wrong the network is on it."""

    name: str
    samples: TorchDataset
    scales: tuple[int, ...]

    def loss(
        self, disps: dict[int | str, Tensor], batch: dict[str, Tensor]
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss (scalar) and its parts (detached), from what the network returned, mirrored back."""


@dataclass
class PretrainTask:
    """Section 3.1: the photometric loss on triples; ``samples`` are `TripleSamples`."""

    samples: TorchDataset
    scales: tuple[int, ...] = (0, 1, 2, 3)
    smoothness: float = 1e-3
    automask: bool = False
    min_depth: float = 0.1
    max_depth: float = 10.0
    name: str = "pretrain"
    compile: bool = False

    def loss(self, disps: dict[int, Tensor], batch: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
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
        )


@dataclass
class DistillTask:
    """Section 3.2.4: Eq. 4 on pseudo-labels; ``samples`` are `LabelSamples`.

    The paper writes the loss for the prediction F_t, the network's finest output; coarser heads get none.
    """

    samples: TorchDataset
    min_depth: float = 0.1
    max_depth: float = 10.0
    name: str = "distill"
    scales: tuple[int, ...] = (0,)

    def loss(self, disps: dict[int, Tensor], batch: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        depth = disp_to_depth(disps[0].float(), self.min_depth, self.max_depth)
        loss = log_depth_loss(depth, batch["label"], count=distributed.mean_count(batch["label"] > 0))
        return loss, {"log_depth": loss.detach()}


@dataclass
class RegressionTask:
    """Eq. 4 with a predicted scale (`laplacian_nll`): how well can the teacher's depth be told from the image?

    ``samples`` are `LabelSamples` of the teacher's depth; the network has a second output (``log_scale=True``).
    """

    samples: TorchDataset
    min_depth: float = 0.1
    max_depth: float = 10.0
    name: str = "regression"
    scales: tuple[int, ...] = (0,)

    def loss(
        self, disps: dict[int | str, Tensor], batch: dict[str, Tensor]
    ) -> tuple[Tensor, dict[str, Tensor]]:
        depth = disp_to_depth(disps[0].float(), self.min_depth, self.max_depth)
        log_scale = disps["log_scale"].float()
        count = distributed.mean_count(batch["label"] > 0)
        loss = laplacian_nll(depth, log_scale, batch["label"], count=count)
        with torch.no_grad():
            parts = {
                "log_depth": log_depth_loss(depth, batch["label"], count=count),
                "scale": log_scale.exp().mean(),
            }
        return loss, parts


def select_device(name: str = "auto") -> torch.device:
    """ "auto" takes the GPU if there is one.

    Raises:
        ConfigError: "cuda" was asked for and there is none.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if name == "cuda" and not torch.cuda.is_available():
        raise ConfigError("device = 'cuda', but PyTorch sees no GPU here. Use device = 'auto' or 'cpu'.")
    return torch.device(name)


def learning_rate(config: TrainConfig, step: int, total_steps: int) -> float:
    """Adam's rate at this step (0-based) of a training of so many.

    "Reduced after 26 epochs" means that epochs 0..25 run at the full rate.
    """
    drops = sum(step >= d for d in config.drops(total_steps))
    warmup = min(1.0, (step + 1) / config.warmup_steps) if config.warmup_steps else 1.0
    return config.learning_rate * 0.1**drops * warmup


@functools.cache
def _compiled_loss() -> Callable[..., tuple[Tensor, dict[str, Tensor]]]:
    # one graph or an error: a loss that falls apart into pieces would be slow without a word
    return torch.compile(self_supervised_loss, dynamic=False, fullgraph=True)


def make_optimizer(model: nn.Module, config: TrainConfig) -> torch.optim.Optimizer:
    """Adam (3.3), on any device in one kernel."""
    if next(model.parameters()).is_cuda:
        return torch.optim.Adam(model.parameters(), lr=config.learning_rate, fused=True)
    return Adam(model.parameters(), lr=config.learning_rate)


def batch_loss(
    network: nn.Module, task: Task, batch: dict[str, Tensor], config: TrainConfig
) -> tuple[Tensor, dict[str, Tensor]]:
    """The loss of a batch on the network's device, as each step of `train` has it, and its parts, detached.

    It reads no value back from the device: a GPU that has to answer in every step waits in every step.
    """
    image = batch["input"]
    if config.channels_last:
        image = image.contiguous(memory_format=torch.channels_last)
    with torch.autocast(image.device.type, dtype=torch.bfloat16, enabled=config.precision == "bf16"):
        disps = network(image, scales=task.scales)
    disps = {s: unflip(d, batch["flip"]) for s, d in disps.items()}
    return task.loss(disps, batch)


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
) -> nn.Module:
    """Trains a network, leaving ``weights.safetensors``, ``loss.csv`` and ``loss.png`` in ``folder``.

    With ``config.snapshots`` also the weights of so many steps on the way, ``snapshot-<step>.safetensors``.

    After each epoch, or every ``config.checkpoint_steps``, the whole state is checkpointed under a temporary
    name and renamed. A killed training that is started again goes on from there and ends at the same weights
    (bit for bit on a CPU with the same number of threads), as every random choice depends on seed and step alone.

    In a group of processes the first one calls this, and all train; ``config.batch_size`` images
    a step in all.

    Args:
        model_factory: makes the network; called after seeding, so its initialisation is the seed's.
        device: "cpu", "cuda" or a device; in a group each process has its own.
        on_checkpoint: called with the number of finished steps after each checkpoint.

    Returns:
        the trained network in eval mode.

    Raises:
        ConfigError: the batch cannot be shared by the processes.
        DataError: the loss stopped being finite.
    """
    distributed.send((model_factory, task, config, folder, seed, what))
    with distributed.training():
        return train_here(model_factory, task, config, folder, seed, what, device, on_checkpoint)


def train_here(
    model_factory: Callable[[], nn.Module],
    task: Task,
    config: TrainConfig,
    folder: Path,
    seed: int = 0,
    what: str = "",
    device: torch.device | str = "cpu",
    on_checkpoint: Callable[[int], None] | None = None,
) -> nn.Module:
    """This process's part of a training, as `train` has it; the first process of a group alone writes."""
    from d3d.models import save_weights

    device, leads = distributed.device(device), distributed.rank() == 0
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(seed)
    model = distributed.share(model_factory().to(device))
    if config.channels_last:
        model = model.to(memory_format=torch.channels_last)
    optimizer = make_optimizer(model, config)
    first, history = _resume(folder / STATE, model, optimizer, device)
    distributed.agree(first, f"the step that {folder / STATE} is of")
    part = (distributed.rank(), distributed.size())
    per_epoch = EpochBatches(len(task.samples), config.batch_size, seed, part=part).per_epoch
    total = config.total_steps(per_epoch)
    every = config.checkpoint_steps or per_epoch
    snapshots = config.snapshot_steps(total)
    loader = DataLoader(
        task.samples,
        batch_sampler=EpochBatches(
            len(task.samples), config.batch_size, seed, first, max(first, total), part
        ),
        num_workers=config.workers,
        prefetch_factor=PREFETCH if config.workers else None,
        pin_memory=device.type == "cuda",
    )
    what = what or task.name
    if first:
        say(f"{what}: goes on after step {first} of {total}")
    else:
        say(
            f"{what}: {len(task.samples)} samples, {total} steps ({total / per_epoch:.3g} epochs of {per_epoch}) "
            f"on {device}{f', {part[1]} processes' if part[1] > 1 else ''}"
        )
    bar = track(what=what, total=total, unit="step", first=first)
    start = drawn = time.monotonic()
    sums: dict[str, Tensor] = {}
    since = first  # the steps that `sums` is of
    model.train()
    network = distributed.wrap(model)
    for step, batch in enumerate(loader, first):
        torch.manual_seed(seed * 1_000_003 + step)  # drop path: the same after a resume
        batch = {k: v.to(device, non_blocking=True) for k, v in batch.items()}
        rate = learning_rate(config, step, total)
        for group in optimizer.param_groups:
            group["lr"] = rate
        loss, parts = batch_loss(network, task, batch, config)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        # summed on the device: reading a value here would make a GPU wait in every step
        for name, value in {"loss": loss.detach(), **parts}.items():
            sums[name] = sums.get(name, 0) + value
        bar.update()
        done = step + 1
        # those after the last checkpoint are written again, the same, after a kill
        if done in snapshots and leads:
            save_weights(model, folder / SNAPSHOT.format(step=done))
        if done % every and done != total:
            continue
        means = {name: value / (done - since) for name, value in distributed.mean(sums).items()}
        if not math.isfinite(means["loss"]):
            raise DataError(
                f"{what}: the loss is {means['loss']} in steps {since + 1} to {done}. Are poses and intrinsics those "
                f"of these images? A lower learning_rate or precision = 'float32' may help."
            )
        history.append({"epoch": round(done / per_epoch, 3), "steps": done, "learning_rate": rate, **means})
        sums, since = {}, done
        if not leads:
            continue
        save_weights(model, folder / WEIGHTS)
        _checkpoint(folder, model, optimizer, done, history)
        bar.set_postfix_str(f"loss {means['loss']:.4f}", refresh=False)
        # a picture to look at while it trains, but not one after each tiny epoch
        if time.monotonic() - drawn > 60:
            _draw(folder, history)
            drawn = time.monotonic()
        if on_checkpoint is not None:
            on_checkpoint(done)
    bar.close()
    if leads:
        _draw(folder, history)
    if first < total:
        seconds = time.monotonic() - start
        images = (total - first) * min(config.batch_size, len(task.samples))
        say(
            f"{what}: done in {seconds:.0f} s ({images / seconds:.1f} images/s), loss {history[-1]['loss']:.4f}"
        )
    return model.eval()


def _checkpoint(
    folder: Path, model: nn.Module, optimizer: Any, step: int, history: list[dict[str, float]]
) -> None:
    # one file for all of it: two renames could be separated by a kill
    state = {
        "step": step,
        "history": history,
        "model": model.state_dict(),
        "optimizer": optimizer.state_dict(),
    }
    with atomic(folder / STATE) as temporary:
        torch.save(state, temporary)
    with atomic(folder / CURVE) as temporary, open(temporary, "w", newline="") as f:
        writer = csv.DictWriter(f, fieldnames=list(history[0]))
        writer.writeheader()
        writer.writerows(history)


def _draw(folder: Path, history: list[dict[str, float]]) -> None:
    from d3d.figures import loss_curve, save_png

    save_png(loss_curve(history), folder / "loss.png")


def _resume(
    path: Path, model: nn.Module, optimizer: Any, device: torch.device
) -> tuple[int, list[dict[str, float]]]:
    if not path.is_file():
        return 0, []
    try:
        state = torch.load(path, map_location=device, weights_only=True)
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        return int(state["step"]), list(state["history"])
    except Exception as error:  # torch raises whatever it stumbles over
        raise DataError(
            f"{path}: not a usable training state ({error}). Delete its folder to start anew."
        ) from error
