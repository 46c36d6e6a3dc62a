"""Distributed training: one process per GPU, on one or several machines, with torchrun and accelerate.

There are two ways to start the processes:

- ``torchrun --nproc-per-node 8 -m -- d3d all`` starts the command eight times. The first process runs it. The other
  processes `follow`: they wait for the trainings of the first process and take part in them.
- A program or notebook without torchrun starts the processes of a single training: `d3d.parallel.launch`.

Batch size, batch statistics, losses and dropout refer to the images of all processes together. The number of processes
therefore changes the time but, except for rounding, not the result.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from d3d import progress
from d3d.errors import ConfigError, D3DError, RunError
from d3d.models.layers import DropPath

_accelerator: Any = None  # an `Accelerator`, in a process of a group
_calls: Any = None  # process group for function calls from the first process to the other processes


def select_device(name: str = "auto") -> torch.device:
    """Return a device by name; "auto" is the GPU if available.

    Raises:
        ConfigError: the name is "cuda" and no GPU is available.
    """
    available = torch.cuda.is_available()
    if name == "cuda" and not available:
        raise ConfigError("device = 'cuda', but PyTorch sees no GPU here. Use device = 'auto' or 'cpu'.")
    return torch.device(("cuda" if available else "cpu") if name == "auto" else name)


def autocast(device_type: str, precision: str) -> torch.autocast:
    """Return the context in which a network computes in "float32" or, under autocast, in "bf16".

    Says once if the CPU has no instructions for bf16: it then computes several times slower than in float32.
    """
    if precision == "bf16" and device_type == "cpu" and not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        progress.say_once(
            "This CPU has no bf16 instructions: bf16 is several times slower than float32 here. "
            "Set precision = float32 (--precision float32), which is another result."
        )
    return torch.autocast(device_type, torch.bfloat16, enabled=precision == "bf16")


def launched() -> bool:
    """Return whether torchrun started this process as part of a group."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1


def rank() -> int:
    """Return the number of this process in its group; 0 without a group."""
    return dist.get_rank() if _accelerator is not None else 0


def size() -> int:
    """Return the number of processes in the group; 1 without a group."""
    return dist.get_world_size() if _accelerator is not None else 1


def begin(device: str) -> None:
    """Join the group of processes that torchrun started, on "cpu", "cuda" or "auto".

    Raises:
        ConfigError: accelerate is not installed, or this machine has fewer GPUs than processes.
    """
    global _accelerator, _calls
    try:
        from accelerate import Accelerator
        from accelerate.utils import DistributedDataParallelKwargs, InitProcessGroupKwargs
    except ImportError:
        message = "training in several processes needs accelerate: pip install 'd3d[scale]'."
        raise ConfigError(message) from None

    cpu = device == "cpu" or not torch.cuda.is_available()
    local, gpus = int(os.environ.get("LOCAL_WORLD_SIZE", "1")), torch.cuda.device_count()
    if not cpu and gpus < local:
        raise ConfigError(
            f"{local} processes on this machine, but PyTorch sees {gpus} GPUs: give torchrun "
            f"--nproc-per-node {gpus}, or train with device = 'cpu'."
        )
    if cpu:
        os.environ["ACCELERATE_USE_CPU"] = "true"  # otherwise accelerate may choose a single process
    # static: finds parameters without gradient (coarse heads of a student) once instead of in every step
    ddp = DistributedDataParallelKwargs(gradient_as_bucket_view=True, static_graph=True)
    group = InitProcessGroupKwargs(timeout=timedelta(hours=1))
    _accelerator = Accelerator(cpu=cpu, kwargs_handlers=[ddp, group])
    # on the CPU and with a long timeout: the first process may spend days in stages without training
    _calls = dist.new_group(backend="gloo", timeout=timedelta(days=365))
    progress.silent = rank() > 0


def leave() -> None:
    """Leave the group."""
    global _accelerator, _calls
    dist.destroy_process_group()
    _accelerator = _calls = None


def call(function: Callable[..., Any], *arguments: Any) -> None:
    """Call a function of a module in the processes that `follow`. Its arguments are pickled."""
    if size() > 1:
        dist.broadcast_object_list([(function, arguments)], src=0, group=_calls)


def run(command: Callable[[], int], device: str) -> int:
    """Run a command in the first process of torchrun; the other processes follow its trainings.

    If the command fails, the first process ends with its status, and torchrun ends the other processes. Errors are
    those of `begin`.

    Returns:
        The exit status of this process.
    """
    begin(device)
    if rank() > 0:
        follow()
        return 0
    status = command()
    if status == 0:
        call(leave)
        leave()
    return status


def follow() -> None:
    """Execute each `call` of the first process until this process leaves the group."""
    while _accelerator is not None:
        received: list[Any] = [None]
        dist.broadcast_object_list(received, src=0, group=_calls)
        function, arguments = received[0]
        try:
            function(*arguments)
        except D3DError as error:
            print(f"error, process {rank()}: {error}", file=sys.stderr, flush=True)
            os._exit(2)  # an orderly exit would be a deadlock: the other processes wait for this process


def device(wanted: torch.device | str) -> torch.device:
    """Return the device of this process: its own GPU in a group of GPUs, otherwise ``wanted``."""
    if _accelerator is None or _accelerator.device.type == "cpu":
        return torch.device(wanted)
    return _accelerator.device


def share(model: nn.Module) -> nn.Module:
    """Replace batch normalisation and dropout by versions for the whole batch; keep the parameters."""
    if size() == 1:
        return model
    if _accelerator.device.type == "cuda":
        model = nn.SyncBatchNorm.convert_sync_batchnorm(model)
    for module in list(model.modules()):
        for name, child in module.named_children():
            if type(child) in _MASKED:
                setattr(module, name, SharedDropout(child))
            elif type(child) is nn.BatchNorm2d:
                child.__class__ = SharedBatchNorm2d  # same parameters and buffers
    return model


def wrap(model: nn.Module) -> nn.Module:
    """Average the gradients of a network over all processes; without a group, return the network unchanged."""
    return model if _accelerator is None else _accelerator.prepare_model(model)


def mean(values: Mapping[str, Tensor]) -> dict[str, float]:
    """Average named scalars over the processes."""
    together = torch.stack([v.to(torch.float64) for v in values.values()])
    if size() > 1:
        together = _accelerator.reduce(together, "mean")
    return dict(zip(values, together.tolist(), strict=True))


def mean_count(mask: Tensor) -> Tensor | None:
    """Average the number of pixels of a mask over the processes; a float32 scalar, None without a group.

    With this divisor, the mean of the losses of all processes is the loss of the whole batch.
    """
    if size() == 1:
        return None
    return _accelerator.reduce(mask.sum(dtype=torch.float32), "mean")


def agree(value: int, what: str) -> None:
    """Check that all processes have the same number; raises RunError otherwise."""
    if size() == 1:
        return
    values: list[Any] = [None] * size()
    dist.all_gather_object(values, value, group=_calls)
    if len(set(values)) > 1:
        raise RunError(
            f"{what} differs between the {size()} processes ({values}): all machines must see the same runs folder and "
            f"the same data."
        )


class _Sum(torch.autograd.Function):
    """Sum over all processes. The gradient is also a sum, because the loss of every process depends on the result."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        x = x.clone()
        dist.all_reduce(x)
        return x

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return _Sum.forward(ctx, gradient)


class SharedBatchNorm2d(nn.BatchNorm2d):
    """Batch normalisation over the batch of all processes on CPUs. `torch.nn.SyncBatchNorm` only supports GPUs."""

    def forward(self, x: Tensor) -> Tensor:
        """(b, c, h, w) -> the same shape."""
        if not self.training or size() == 1:
            return super().forward(x)
        dtype, x = x.dtype, x.float()
        n = size() * x.numel() / x.shape[1]
        # two passes, because E[x^2] - E[x]^2 suffers from cancellation
        average = _Sum.apply(x.sum((0, 2, 3))) / n
        centred = x - average[:, None, None]
        variance = _Sum.apply(centred.square().sum((0, 2, 3))) / n
        with torch.no_grad():
            self.num_batches_tracked += 1
            self.running_mean.lerp_(average, self.momentum)
            self.running_var.lerp_(variance * n / (n - 1), self.momentum)
        scale = self.weight * torch.rsqrt(variance + self.eps)
        return (centred * scale[:, None, None] + self.bias[:, None, None]).to(dtype)


# random layers that multiply by a mask -> number of leading dimensions in which the mask varies; 0: all dimensions
_MASKED = {DropPath: 1, nn.Dropout1d: 2, nn.Dropout2d: 2, nn.Dropout3d: 2, nn.Dropout: 0}


class SharedDropout(nn.Module):
    """Dropout with the same masks as in a single process.

    All processes have the same random state. Each process draws the mask of the whole batch and uses its own part.
    """

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        """(b, ...) -> the same shape; the identity in eval mode."""
        if not self.training:
            return x
        varying = _MASKED[type(self.layer)] or x.ndim
        ones = torch.ones_like(x[(..., *[slice(1)] * (x.ndim - varying))])  # keeps the memory format
        mask = self.layer(torch.cat([ones] * size()))
        return x * mask.chunk(size())[rank()]
