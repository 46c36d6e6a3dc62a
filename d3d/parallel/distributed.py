"""Training by many processes, one a GPU, on one machine or many: accelerate over torchrun (section 3.3 has one GPU).

``torchrun --nproc-per-node 8 -m -- d3d all --profile paper`` starts the command eight times. The first process runs it
as ever: it alone goes through the stages, holds their folders, writes and speaks. The others `follow`: they wait until
the first one trains, are sent what it trains, and take their share of every batch. `launch` starts such a group
for one training out of a notebook.

The batch size is that of all processes together, and batch statistics, losses and drop path are those of the whole
batch, so that the number of processes changes the time and, but for rounding, nothing else.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Mapping
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from d3d import progress
from d3d.errors import ConfigError, RunError
from d3d.models.layers import DropPath

_accelerator: Any = None  # of accelerate, in a process of a group
# the group over which the first process says what is trained: on the CPU, with long patience
_orders: Any = None
_in_training = False


def launched() -> bool:
    """Whether torchrun started this process as one of several."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1


def rank() -> int:
    """This process's number in its group; 0 where there is none."""
    return dist.get_rank() if _accelerator is not None else 0


def size() -> int:
    """How many processes train together."""
    return dist.get_world_size() if _accelerator is not None else 1


def begin(device: str) -> None:
    """Joins the group of processes that torchrun started.

    Args:
        device: "cpu", "cuda" or "auto".

    Raises:
        ConfigError: accelerate is not installed, or this machine has fewer GPUs than processes.
    """
    global _accelerator, _orders
    try:
        from accelerate import Accelerator
        from accelerate.utils import DistributedDataParallelKwargs, InitProcessGroupKwargs
    except ImportError:
        raise ConfigError(
            "a training by several processes needs accelerate: pip install 'd3d[scale]'."
        ) from None

    cpu = device == "cpu" or not torch.cuda.is_available()
    local = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    if not cpu and torch.cuda.device_count() < local:
        raise ConfigError(
            f"{local} processes on this machine, but PyTorch sees {torch.cuda.device_count()} GPUs: give torchrun "
            f"--nproc-per-node {torch.cuda.device_count()}, or train with device = 'cpu'."
        )
    if cpu:
        os.environ["ACCELERATE_USE_CPU"] = "true"  # without it accelerate may decide for one process
    ddp = DistributedDataParallelKwargs(
        gradient_as_bucket_view=True,
        # parameters that a training does not use (coarse heads of a student) are found once, not in every step
        static_graph=True,
    )
    patience = InitProcessGroupKwargs(timeout=timedelta(hours=1))
    _accelerator = Accelerator(cpu=cpu, kwargs_handlers=[ddp, patience])
    # the first process may be at stages that are not trainings for days
    _orders = dist.new_group(backend="gloo", timeout=timedelta(days=365))
    progress.silent = rank() > 0


def end() -> None:
    """The first process sends the others home and leaves, unless they are in the middle of a training.

    In that case an error ends this process, and then torchrun ends the others.
    """
    if _accelerator is not None and not _in_training:
        send(None)
        leave()


def leave() -> None:
    """Leaves the group."""
    global _accelerator, _orders
    dist.destroy_process_group()
    _accelerator = _orders = None


def send(order: Any) -> None:
    """The first process tells the others what to train; nothing to do where there are none.

    Raises:
        RunError: a training before this one failed, and the others are still in it.
    """
    if size() > 1:
        if _in_training:
            raise RunError("a training before this one failed: start the processes again to go on.")
        dist.broadcast_object_list([order], src=0, group=_orders)


def follow(train: Callable[..., Any]) -> None:
    """What the processes after the first do: train along, until that one is done.

    Args:
        train: called with what each order holds.
    """
    while True:
        order: list[Any] = [None]
        dist.broadcast_object_list(order, src=0, group=_orders)
        if order[0] is None:
            leave()
            return
        train(*order[0])


@contextlib.contextmanager
def training() -> Iterator[None]:
    """A context around the steps of one training, in which every process takes part."""
    global _in_training
    _in_training = True
    yield
    _in_training = False  # not after an error: the others still wait for this process within a step


def device(wanted: torch.device | str) -> torch.device:
    """The device of this process: its own GPU in a group, else as wanted."""
    if _accelerator is None or _accelerator.device.type == "cpu":
        return torch.device(wanted)
    return _accelerator.device


def share(model: nn.Module) -> nn.Module:
    """Lets a network's batch statistics and drop path be those of the whole batch; keeps its parameters."""
    if size() == 1:
        return model
    for module in model.modules():
        if isinstance(module, DropPath):
            module.part = (rank(), size())
    if _accelerator.device.type == "cuda":
        return nn.SyncBatchNorm.convert_sync_batchnorm(model)
    return _convert(model)


def wrap(model: nn.Module) -> nn.Module:
    """The network whose gradients are averaged over all processes; itself where there is one."""
    return model if _accelerator is None else _accelerator.prepare_model(model)


def mean(values: Mapping[str, Tensor]) -> dict[str, float]:
    """Means over the processes of named scalars."""
    together = torch.stack([v.to(torch.float64) for v in values.values()])
    if size() > 1:
        together = _accelerator.reduce(together, "mean")
    return dict(zip(values, together.tolist(), strict=True))


def mean_count(mask: Tensor) -> Tensor | None:
    """How many elements of a mask are true, as a mean over the processes (scalar, float32); None where there is one.

    What a loss has to divide by, where not every pixel counts, for its mean over the processes to be that of the batch.
    """
    if size() == 1:
        return None
    return _accelerator.reduce(mask.sum(dtype=torch.float32), "mean")


def agree(value: int, what: str) -> None:
    """Checks that every process has the same number.

    Raises:
        RunError: one has not.
    """
    if size() == 1:
        return
    all_values: list[Any] = [None] * size()
    dist.all_gather_object(all_values, value, group=_orders)
    if len(set(all_values)) > 1:
        raise RunError(
            f"{what} differs between the {size()} processes ({all_values}): every machine must see the same runs "
            f"folder and the same data."
        )


class _Sum(torch.autograd.Function):
    """The sum over all processes; so is its gradient, as every process's loss depends on it."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        x = x.clone()
        dist.all_reduce(x)
        return x

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        gradient = gradient.clone()
        dist.all_reduce(gradient)
        return gradient


class SharedBatchNorm2d(nn.BatchNorm2d):
    """Batch normalisation over the batch of all processes, on a CPU, where `torch.nn.SyncBatchNorm` does not go."""

    def forward(self, x: Tensor) -> Tensor:
        """(b, c, h, w) -> the same shape."""
        if not self.training or size() == 1:
            return super().forward(x)
        dtype, x = x.dtype, x.float()
        n = size() * x.numel() / x.shape[1]
        # two passes: the difference of E[x^2] and E[x]^2 would cancel
        average = _Sum.apply(x.sum((0, 2, 3))) / n
        centred = x - average[:, None, None]
        variance = _Sum.apply(centred.square().sum((0, 2, 3))) / n
        with torch.no_grad():
            self.num_batches_tracked += 1
            self.running_mean.lerp_(average, self.momentum)
            self.running_var.lerp_(variance * n / (n - 1), self.momentum)
        scale = self.weight * torch.rsqrt(variance + self.eps)
        return (centred * scale[:, None, None] + self.bias[:, None, None]).to(dtype)


def _convert(model: nn.Module) -> nn.Module:
    for name, child in model.named_children():
        if type(child) is nn.BatchNorm2d:
            shared = SharedBatchNorm2d(child.num_features, child.eps, child.momentum)
            shared.weight, shared.bias = child.weight, child.bias
            for buffer, value in child.named_buffers():
                setattr(shared, buffer, value)
            setattr(model, name, shared)
        else:
            _convert(child)
    return model
