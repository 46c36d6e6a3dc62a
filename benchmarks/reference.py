"""The reference training step of `training_step.py`: a plain textbook recipe that shares no code with d3d's step.

It follows published code for self-supervised depth: float32, contiguous memory, a separate warp for each scale and
source, separate matrix products for back-projection and projection, SSIM by five poolings. Where published code is not
exact (the warp of an identity pose moves the image), the reference follows d3d, so that both minimise the
same loss. The part `agreement` of `training_step.py` checks this.
"""

from __future__ import annotations

from collections.abc import Sequence
from types import MethodType

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from d3d.models.hrdepth import AttentionNode
from d3d.models.layers import Conv3x3, ConvBlock, SqueezeExcite

Batch = dict[str, Tensor]


def depth_of(disp: Tensor, min_depth: float = 0.1, max_depth: float = 10.0) -> Tensor:
    """Convert a sigmoid disparity to depth in metres."""
    low, high = 1 / max_depth, 1 / min_depth
    return 1 / (low + (high - low) * disp)


class Backproject(nn.Module):
    """Depth (B, 1, H, W) -> homogeneous points (B, 4, H*W) in the camera's frame."""

    def __init__(self, batch: int, height: int, width: int) -> None:
        super().__init__()
        y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
        pixels = torch.stack((x.flatten(), y.flatten(), torch.ones(height * width))).float()
        self.register_buffer("pixels", pixels.repeat(batch, 1, 1))
        self.register_buffer("ones", torch.ones(batch, 1, height * width))

    def forward(self, depth: Tensor, inv_K: Tensor) -> Tensor:
        points = torch.matmul(inv_K, self.pixels)
        points = depth.flatten(2) * points
        return torch.cat((points, self.ones), dim=1)


class Project(nn.Module):
    """Homogeneous points (B, 4, H*W) -> sampling grid (B, H, W, 2) in a camera at pose T (B, 4, 4)."""

    def __init__(self, height: int, width: int) -> None:
        super().__init__()
        self.height, self.width = height, width

    def forward(self, points: Tensor, K: Tensor, T: Tensor) -> Tensor:
        P = torch.matmul(K, T[:, :3])
        camera = torch.matmul(P, points)
        pixels = camera[:, :2] / camera[:, 2:].clamp(min=1e-6)
        pixels = pixels.view(-1, 2, self.height, self.width).permute(0, 2, 3, 1)
        size = torch.tensor((self.width - 1, self.height - 1), dtype=pixels.dtype, device=pixels.device)
        return (pixels / size - 0.5) * 2


class DSSIM(nn.Module):
    """(1 - SSIM) / 2, clamped to [0, 1], over a 3x3 box, reflection padded."""

    def __init__(self) -> None:
        super().__init__()
        self.pool = nn.AvgPool2d(3, 1)
        self.pad = nn.ReflectionPad2d(1)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        x, y = self.pad(x), self.pad(y)
        mu_x, mu_y = self.pool(x), self.pool(y)
        sigma_x = self.pool(x**2) - mu_x**2
        sigma_y = self.pool(y**2) - mu_y**2
        sigma_xy = self.pool(x * y) - mu_x * mu_y
        n = (2 * mu_x * mu_y + 0.01**2) * (2 * sigma_xy + 0.03**2)
        d = (mu_x**2 + mu_y**2 + 0.01**2) * (sigma_x + sigma_y + 0.03**2)
        return torch.clamp((1 - n / d) / 2, 0, 1)


def smoothness(disp: Tensor, image: Tensor) -> Tensor:
    """Edge-aware smoothness of the mean-normalised disparity; a scalar."""
    disp = disp / (disp.mean(2, True).mean(3, True) + 1e-7)
    grad_x = torch.abs(disp[:, :, :, :-1] - disp[:, :, :, 1:])
    grad_y = torch.abs(disp[:, :, :-1, :] - disp[:, :, 1:, :])
    edge_x = torch.mean(torch.abs(image[:, :, :, :-1] - image[:, :, :, 1:]), 1, keepdim=True)
    edge_y = torch.mean(torch.abs(image[:, :, :-1, :] - image[:, :, 1:, :]), 1, keepdim=True)
    return (grad_x * torch.exp(-edge_x)).mean() + (grad_y * torch.exp(-edge_y)).mean()


class PretrainLoss(nn.Module):
    """Equations 1 and 2 with minimum reprojection, and smoothness, for one batch size and image size."""

    def __init__(self, batch: int, height: int, width: int) -> None:
        super().__init__()
        self.size = (height, width)
        self.backproject = Backproject(batch, height, width)
        self.project = Project(height, width)
        self.dssim = DSSIM()

    def reprojection_error(self, pred: Tensor, target: Tensor) -> Tensor:
        l1 = torch.abs(target - pred).mean(1, True)
        return 0.85 * self.dssim(pred, target).mean(1, True) + 0.15 * l1

    def forward(self, disps: dict[int, Tensor], batch: Batch) -> Tensor:
        target, inv_K = batch["target"], torch.linalg.inv(batch["K"])
        total = 0
        for scale, disp in disps.items():
            full = F.interpolate(disp, self.size, mode="bilinear", align_corners=False)
            depth = depth_of(full)
            errors = []
            for i in range(batch["sources"].shape[1]):
                points = self.backproject(depth, inv_K)
                grid = self.project(points, batch["K"], batch["source_T_target"][:, i])
                warped = F.grid_sample(
                    batch["sources"][:, i], grid, padding_mode="border", align_corners=True
                )
                errors.append(self.reprojection_error(warped, target))
            least, _ = torch.min(torch.cat(errors, 1), dim=1)
            image = F.interpolate(target, disp.shape[-2:], mode="area")
            total = total + least.mean() + 1e-3 * smoothness(disp, image) / 2**scale
        return total / len(disps)


def distill_loss(disps: dict[int, Tensor], batch: Batch) -> Tensor:
    """Equation 4 on the finest disparity."""
    valid = batch["label"] > 0
    return torch.abs(torch.log(depth_of(disps[0])[valid]) - torch.log(batch["label"][valid])).mean()


def use_plain_layers(model: nn.Module) -> None:
    """Replace d3d's fast layers of a network by torch's own layers. The weights stay."""
    for module in model.modules():
        if isinstance(module, ConvBlock):
            module.activation = F.elu
        elif isinstance(module, Conv3x3):
            module.forward = MethodType(nn.Conv2d.forward, module)
        elif isinstance(module, SqueezeExcite):
            module.forward = MethodType(squeeze_excite, module)
        elif isinstance(module, AttentionNode):
            module.forward = MethodType(attention_node, module)


def squeeze_excite(self: SqueezeExcite, x: Tensor) -> Tensor:
    """Channel attention: scale each channel by a weight computed from the channels' means over the image."""
    weight = torch.sigmoid(self.excite(F.relu(self.squeeze(x.mean((2, 3))))))
    return x * weight[:, :, None, None]


def attention_node(self: AttentionNode, inputs: Sequence[Tensor]) -> Tensor:
    """Concatenate the inputs, scale the channels, and convolve."""
    return F.relu(self.conv(self.attention(torch.cat(inputs, 1))))


class ReferenceStep:
    """Training steps of a network by the textbook recipe.

    Args:
        model: the network; it is moved to contiguous memory in place.
        kind: "pretrain" or "distill".
    """

    def __init__(
        self, model: nn.Module, kind: str, batch: int, size_hw: tuple[int, int], learning_rate: float = 1e-4
    ) -> None:
        device = next(model.parameters()).device
        self.model = model.to(memory_format=torch.contiguous_format)
        use_plain_layers(model)
        self.loss = PretrainLoss(batch, *size_hw).to(device) if kind == "pretrain" else distill_loss
        self.scales = (0, 1, 2, 3) if kind == "pretrain" else (0,)
        self.optimizer = torch.optim.Adam(model.parameters(), learning_rate)

    def __call__(self, batch: Batch) -> float:
        """Take one step. Return the loss before the step, read back to the CPU as for a progress bar."""
        disps = self.model(batch["input"], scales=self.scales)
        mirrored = batch["flip"].view(-1, 1, 1, 1)
        disps = {scale: torch.where(mirrored, disp.flip(-1), disp) for scale, disp in disps.items()}
        loss = self.loss(disps, batch)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        return loss.item()
