"""One training over several processes, one a GPU, on one machine or several: accelerate over torchrun.

There are two ways to start the processes:

- ``torchrun --nproc-per-node 8 -m -- d3d all`` starts the command eight times. The first process runs it. The others
  `follow`: they wait for the trainings of the first process and take part in them.
- A program or notebook that is no process of torchrun starts them for one training: `d3d.parallel.launch`.

Batch size, batch statistics, losses and dropout are those of the images of all processes together, so the number of
processes changes the time and, except for rounding, not the result.
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

_accelerator: Any = None  # accelerate's, in a process of a group
_calls: Any = None  # the group over which the first process calls functions in the others


def select_device(name: str = "auto") -> torch.device:
    """The device of a name; "auto" is the GPU if there is one. Raises ConfigError for "cuda" without a GPU."""
    there = torch.cuda.is_available()
    if name == "cuda" and not there:
        raise ConfigError("device = 'cuda', but PyTorch sees no GPU here. Use device = 'auto' or 'cpu'.")
    return torch.device(("cuda" if there else "cpu") if name == "auto" else name)


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
    """Whether torchrun started this process as one of several."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1


def rank() -> int:
    """This process's number in its group; 0 without a group."""
    return dist.get_rank() if _accelerator is not None else 0


def size() -> int:
    """The number of processes that train together."""
    return dist.get_world_size() if _accelerator is not None else 1


def begin(device: str) -> None:
    """Joins the group of processes that torchrun started, on "cpu", "cuda" or "auto".

    Raises:
        ConfigError: accelerate is not installed, or this machine has fewer GPUs than processes.
    """
    global _accelerator, _calls
    try:
        from accelerate import Accelerator
        from accelerate.utils import DistributedDataParallelKwargs, InitProcessGroupKwargs
    except ImportError:
        message = "training by several processes needs accelerate: pip install 'd3d[scale]'."
        raise ConfigError(message) from None

    cpu = device == "cpu" or not torch.cuda.is_available()
    local, gpus = int(os.environ.get("LOCAL_WORLD_SIZE", "1")), torch.cuda.device_count()
    if not cpu and gpus < local:
        raise ConfigError(
            f"{local} processes on this machine, but PyTorch sees {gpus} GPUs: give torchrun "
            f"--nproc-per-node {gpus}, or train with device = 'cpu'."
        )
    if cpu:
        os.environ["ACCELERATE_USE_CPU"] = "true"  # otherwise accelerate may decide for one process
    # static: finds parameters without a gradient (coarse heads of a student) once instead of in every step
    ddp = DistributedDataParallelKwargs(gradient_as_bucket_view=True, static_graph=True)
    group = InitProcessGroupKwargs(timeout=timedelta(hours=1))
    _accelerator = Accelerator(cpu=cpu, kwargs_handlers=[ddp, group])
    # on the CPU and with another timeout: the first process may spend days in stages that are not trainings
    _calls = dist.new_group(backend="gloo", timeout=timedelta(days=365))
    progress.silent = rank() > 0


def leave() -> None:
    """Leaves the group."""
    global _accelerator, _calls
    dist.destroy_process_group()
    _accelerator = _calls = None


def call(function: Callable[..., Any], *arguments: Any) -> None:
    """Calls a function of a module in the processes that `follow` this one; its arguments are pickled."""
    if size() > 1:
        dist.broadcast_object_list([(function, arguments)], src=0, group=_calls)


def run(command: Callable[[], int], device: str) -> int:
    """Runs a command in the first of the processes that torchrun started; the others follow its trainings.

    If the command fails, the first process ends with its status, and torchrun ends the others. Errors are those of
    `begin`.

    Returns:
        the exit status of this process.
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
    """Executes each `call` of the first process, until this process leaves the group."""
    while _accelerator is not None:
        received: list[Any] = [None]
        dist.broadcast_object_list(received, src=0, group=_calls)
        function, arguments = received[0]
        try:
            function(*arguments)
        except D3DError as error:
            print(f"error, process {rank()}: {error}", file=sys.stderr, flush=True)
            os._exit(2)  # an orderly exit would wait for the other processes, which wait for this one


def device(wanted: torch.device | str) -> torch.device:
    """The device of this process: its own GPU in a group, otherwise the wanted one."""
    if _accelerator is None or _accelerator.device.type == "cpu":
        return torch.device(wanted)
    return _accelerator.device


def share(model: nn.Module) -> nn.Module:
    """Makes batch statistics and random layers of a network those of the whole batch; keeps its parameters."""
    if size() == 1:
        return model
    if _accelerator.device.type == "cuda":
        model = nn.SyncBatchNorm.convert_sync_batchnorm(model)
    for module in list(model.modules()):
        for name, child in module.named_children():
            if type(child) in _MASKED:
                setattr(module, name, SharedDropout(child))
            elif type(child) is nn.BatchNorm2d:
                child.__class__ = SharedBatchNorm2d  # has the same parameters and buffers
    return model


def wrap(model: nn.Module) -> nn.Module:
    """The network with gradients averaged over all processes; without a group the network itself."""
    return model if _accelerator is None else _accelerator.prepare_model(model)


def mean(values: Mapping[str, Tensor]) -> dict[str, float]:
    """Means over the processes of named scalars."""
    together = torch.stack([v.to(torch.float64) for v in values.values()])
    if size() > 1:
        together = _accelerator.reduce(together, "mean")
    return dict(zip(values, together.tolist(), strict=True))


def mean_count(mask: Tensor) -> Tensor | None:
    """The divisor of a loss over the pixels of a mask whose mean over the processes is the loss of the batch.

    This is the mean over the processes of the number of pixels (scalar, float32); None without a group.
    """
    if size() == 1:
        return None
    return _accelerator.reduce(mask.sum(dtype=torch.float32), "mean")


def agree(value: int, what: str) -> None:
    """Raises RunError if not every process has the same number."""
    if size() == 1:
        return
    values: list[Any] = [None] * size()
    dist.all_gather_object(values, value, group=_calls)
    if len(set(values)) > 1:
        raise RunError(
            f"{what} differs between the {size()} processes ({values}): every machine must see the same runs "
            f"folder and the same data."
        )


class _Sum(torch.autograd.Function):
    """The sum over all processes. Its gradient is a sum as well: the loss of every process depends on it."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        x = x.clone()
        dist.all_reduce(x)
        return x

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return _Sum.forward(ctx, gradient)


class SharedBatchNorm2d(nn.BatchNorm2d):
    """Batch normalisation over the batch of all processes on a CPU, which `torch.nn.SyncBatchNorm` does not support."""

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


# random layers that multiply by a mask -> leading dimensions in which the mask varies; 0: all
_MASKED = {DropPath: 1, nn.Dropout1d: 2, nn.Dropout2d: 2, nn.Dropout3d: 2, nn.Dropout: 0}


class SharedDropout(nn.Module):
    """A dropout layer whose mask is this process's part of the mask of the whole batch.

    All processes have the same random state. Each draws the whole mask, as a single process does, and uses its part.
    """

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        """Any (b, ...) -> the same shape; the identity in eval mode."""
        if not self.training:
            return x
        varying = _MASKED[type(self.layer)] or x.ndim
        ones = torch.ones_like(x[(..., *[slice(1)] * (x.ndim - varying))])  # keeps the memory format
        mask = self.layer(torch.cat([ones] * size()))
        return x * mask.chunk(size())[rank()]
