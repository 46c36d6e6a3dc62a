"""One training loop for pretraining (section 3.1) and distillation (3.2.4).

A task says what a batch and a loss are; the loop owns optimisation, precision, checkpoints, resuming
and progress. Adam; the rate drops tenfold after the milestone epochs (3.3).
"""

from __future__ import annotations

import csv
import math
import pickle
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset

from d3d.config import TrainConfig
from d3d.datasets.augment import unflip
from d3d.datasets.samples import EpochBatches
from d3d.errors import ConfigError, DataError
from d3d.geometry import disp_to_depth
from d3d.losses import log_depth_loss, self_supervised_loss
from d3d.progress import say, track
from d3d.runs import atomic

WEIGHTS, STATE, CURVE = "weights.safetensors", "training_state.pt", "loss.csv"


class Task(Protocol):
    """What is trained on, and how wrong the network is on it."""

    name: str
    samples: TorchDataset
    scales: tuple[int, ...]

    def loss(self, disps: dict[int, Tensor], batch: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss (scalar) and its parts (detached), from disparities of the mirrored-back views."""


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

    def loss(self, disps: dict[int, Tensor], batch: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        return self_supervised_loss(
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
        loss = log_depth_loss(depth, batch["label"])
        return loss, {"log_depth": loss.detach()}


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


def learning_rate(config: TrainConfig, epoch: int, step: int) -> float:
    """Adam's rate in this epoch (0-based) at this step of the whole training (0-based).

    "Reduced after 26 epochs" means that epochs 0..25 run at the full rate.
    """
    drops = sum(epoch >= m for m in config.milestones)
    warmup = min(1.0, (step + 1) / config.warmup_steps) if config.warmup_steps else 1.0
    return config.learning_rate * 0.1**drops * warmup


def train(
    model_factory: Callable[[], nn.Module],
    task: Task,
    config: TrainConfig,
    folder: Path,
    *,
    seed: int = 0,
    device: torch.device | str = "cpu",
    what: str = "",
    on_epoch: Callable[[int], None] | None = None,
) -> nn.Module:
    """Trains a network, leaving ``weights.safetensors``, ``loss.csv`` and ``loss.png`` in ``folder``.

    After each epoch the whole state is checkpointed under a temporary name and renamed. A killed
    training that is started again goes on from its last epoch and ends at the same weights (bit for
    bit on a CPU with the same number of threads), as every random choice depends on seed and epoch alone.

    Args:
        model_factory: makes the network; called after seeding, so its initialisation is the seed's.
        on_epoch: called with the number of finished epochs after each checkpoint.

    Returns:
        the trained network in eval mode.

    Raises:
        DataError: the loss stopped being finite.
    """
    from d3d.models import save_weights

    device = torch.device(device)
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(seed)
    model = model_factory().to(device)
    if config.channels_last:
        model = model.to(memory_format=torch.channels_last)
    optimizer = torch.optim.Adam(model.parameters(), lr=config.learning_rate)
    first, history = _resume(folder / STATE, model, optimizer, device)
    batches = EpochBatches(len(task.samples), config.batch_size, seed, config.max_steps_per_epoch)
    loader = DataLoader(
        task.samples,
        batch_sampler=batches,
        num_workers=config.workers,
        persistent_workers=config.workers > 0,
        pin_memory=device.type == "cuda",
    )
    what = what or task.name
    if first:
        say(f"{what}: goes on after epoch {first} of {config.epochs}")
    else:
        say(
            f"{what}: {len(task.samples)} samples, {config.epochs} epochs of {len(batches)} steps on {device}"
        )
    bar = track(what=what, total=config.epochs * len(batches), unit="step")
    bar.update(first * len(batches))
    start = drawn = time.monotonic()
    for epoch in range(first, config.epochs):
        batches.set_epoch(epoch)
        torch.manual_seed(seed * 1_000_003 + epoch)  # drop path: the same after a resume
        model.train()
        parts_sum: dict[str, Tensor] = {}
        for step, batch in enumerate(loader):
            batch = {k: v.to(device, non_blocking=True) for k, v in batch.items()}
            image = batch["input"]
            if config.channels_last:
                image = image.contiguous(memory_format=torch.channels_last)
            rate = learning_rate(config, epoch, epoch * len(batches) + step)
            for group in optimizer.param_groups:
                group["lr"] = rate
            with torch.autocast(device.type, dtype=torch.bfloat16, enabled=config.precision == "bf16"):
                disps = model(image, scales=task.scales)
            disps = {s: unflip(d, batch["flip"]) for s, d in disps.items()}
            loss, parts = task.loss(disps, batch)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            # summed on the device: reading a value here would make a GPU wait in every step
            for name, value in {"loss": loss.detach(), **parts}.items():
                parts_sum[name] = parts_sum.get(name, 0) + value
            bar.update()
        means = {name: float(value) / len(batches) for name, value in parts_sum.items()}
        if not math.isfinite(means["loss"]):
            raise DataError(
                f"{what}: the loss is {means['loss']} in epoch {epoch + 1}. Are poses and intrinsics those of these "
                f"images? A lower learning_rate or precision = 'float32' may help."
            )
        history.append(
            {"epoch": epoch + 1, "steps": (epoch + 1) * len(batches), "learning_rate": rate, **means}
        )
        save_weights(model, folder / WEIGHTS)
        _checkpoint(folder, model, optimizer, epoch + 1, history)
        bar.set_postfix_str(f"loss {means['loss']:.4f}", refresh=False)
        if (
            time.monotonic() - drawn > 60
        ):  # a picture to look at while it trains, but not one after each tiny epoch
            _draw(folder, history)
            drawn = time.monotonic()
        if on_epoch is not None:
            on_epoch(epoch + 1)
    bar.close()
    _draw(folder, history)
    if first < config.epochs:
        speed = (config.epochs - first) * len(batches) * min(config.batch_size, len(task.samples))
        seconds = time.monotonic() - start
        say(
            f"{what}: done in {seconds:.0f} s ({speed / seconds:.1f} images/s), loss {history[-1]['loss']:.4f}"
        )
    return model.eval()


def _checkpoint(
    folder: Path, model: nn.Module, optimizer: Any, epoch: int, history: list[dict[str, float]]
) -> None:
    # one file for all of it: two renames could be separated by a kill
    state = {
        "epoch": epoch,
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
        return int(state["epoch"]), list(state["history"])
    except (RuntimeError, KeyError, EOFError, OSError, ValueError, pickle.UnpicklingError) as error:
        raise DataError(
            f"{path}: not a usable training state ({error}). Delete its folder to start anew."
        ) from error
