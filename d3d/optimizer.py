"""Adam (3.3) in one pass over all weights, whatever their memory format."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.optim.adam import adam


class Adam(torch.optim.Adam):
    """torch's Adam on a CPU, in one kernel.

    Of torch's own two, the plain one reads and writes each tensor a dozen times, and the fused one first copies what is
    not contiguous, as are all convolutions in channels-last memory. Here it gets them as the lines of numbers that they
    are in memory. The state is that of `torch.optim.Adam`, so either reads the other's.
    """

    @torch.no_grad()
    def step(self, closure: Callable[[], Tensor] | None = None) -> None:
        """One step, of all parameters that have a gradient; a closure is not supported."""
        if closure is not None:
            raise NotImplementedError(
                "this Adam takes no closure: compute the loss and its gradient before the step."
            )
        for group in self.param_groups:
            for parameter in group["params"]:
                self._align(parameter)
            parameters, gradients, means, squares, steps = [], [], [], [], []
            self._init_group(group, parameters, gradients, means, squares, [], steps)
            beta1, beta2 = group["betas"]
            alike = [
                [_line(t, p) for t, p in zip(tensors, parameters, strict=True)]
                for tensors in (parameters, gradients, means, squares)
            ]
            adam(
                *alike,
                [],
                steps,
                fused=True,
                amsgrad=False,
                beta1=beta1,
                beta2=beta2,
                lr=group["lr"],
                weight_decay=group["weight_decay"],
                eps=group["eps"],
                maximize=group["maximize"],
            )

    def _align(self, parameter: Tensor) -> None:
        """State that was read may lie in memory in another order than the parameter, which was converted since."""
        state = self.state[parameter]
        for name in ("exp_avg", "exp_avg_sq"):
            if name in state and state[name].stride() != parameter.stride():
                state[name] = torch.empty_like(parameter).copy_(state[name])


def _line(tensor: Tensor, parameter: Tensor) -> Tensor:
    """A tensor's numbers in the order in which the parameter's lie in memory, (n,); shared wherever both agree."""
    if tensor.stride() != parameter.stride():
        tensor = torch.empty_like(parameter).copy_(tensor)
    return tensor.as_strided((tensor.numel(),), (1,))
