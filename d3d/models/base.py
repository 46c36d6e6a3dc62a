"""Base class of the depth networks: one image in, four disparity maps out."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from d3d.errors import ConfigError, DataError
from d3d.models import naming
from d3d.models.hub import HubNetwork
from d3d.models.layers import ConvBlock, DispScaleHead
from d3d.models.tensors import Tensors, read_tensors

SCALES = (0, 1, 2, 3)  # scale s has 1/2**s of the image's height and width; 0 is the finest
STRIDE = 32
MIN_SIZE = 64  # at 32 the coarsest feature is 1x1, too small for reflection padding


class DepthNetwork(nn.Module, HubNetwork):
    """Base class: an encoder with five features and a decoder with four disparity heads (3.1).

    A subclass sets `arch`, `encoder_kind`, `encoder` and `decoder`. The encoder maps an image to five features at
    strides 2 to 32, finest first. The decoder has `heads`, one per scale, and `decoder(features, scales)` returns
    {scale: disp_b1hw}, finest first. Depth range, `dropout`, `log_scale`, `train_size` and `train_focal_px` are stored
    with the weights.
    """

    arch: str = ""  # name for `create_model`
    encoder_kind: str = ""  # name that `naming.recognise` gives to public weights of the encoder
    mean: float = 0.0  # the input is normalised as (x - mean) / std
    std: float = 1.0
    encoder: nn.Module
    decoder: nn.Module

    def __init__(self) -> None:
        super().__init__()
        self.min_depth, self.max_depth = 0.1, 10.0  # metres, at disparity 1 and 0
        self.scales: tuple[int, ...] = SCALES  # computed by default; see `use_scales`
        self.dropout = 0.0  # see `use_dropout`
        self.log_scale = False  # see `use_log_scale`
        # size and focal length of the training images, None if unknown; `d3d.predict` resizes its input to them
        self.train_size: tuple[int, int] | None = None  # height, width
        self.train_focal_px: tuple[float, float] | None = None  # fx, fy at that size

    def load_encoder(self, path: str | Path) -> None:
        """Load ImageNet weights of the encoder from a local file with public tensor names. Ignores the classifier.

        Raises:
            DataError: the file cannot be read, or does not hold this encoder.
        """
        self.load_state_dict(self.from_public("encoder", read_tensors(path), str(path)), strict=False)

    def from_public(self, part: str, tensors: Tensors, where: str) -> dict[str, Tensor]:
        """Rename public tensors of the "encoder" or the "decoder" to the names of d3d; see `naming.translate`."""
        shapes = {name: t.shape for name, t in self.state_dict().items() if name.startswith(part)}
        kind = self.encoder_kind if part == "encoder" else f"{self.arch} decoder"
        return naming.translate(self.arch, kind, shapes, tensors, where)

    def forward(self, image_b3hw: Tensor, scales: Sequence[int] | None = None) -> dict[int | str, Tensor]:
        """Predict the disparity of each image.

        Args:
            image_b3hw: RGB in [0, 1], floating point; height and width multiples of 32, at least 64.
            scales: heads to compute; None means `self.scales`, all four unless `use_scales` was called.

        Returns:
            {scale: disp_b1hw}, finest first: sigmoid disparities in (0, 1) of size (H / 2**scale, W / 2**scale). After
            `use_log_scale` also "log_scale" (B, 1, H, W): log b, where b is the scale of the error of the log depth.

        Raises:
            DataError: the image has a wrong shape or type, or its size does not fit the network.
        """
        scales = self.scales if scales is None else _checked_scales(scales)
        return self.decode(self.features(image_b3hw), scales)

    def decode(self, features: Sequence[Tensor], scales: Sequence[int] = (0,)) -> dict[int | str, Tensor]:
        """Predict disparities from the encoder's five features, for several passes with dropout in the decoder."""
        disps = self.decoder(features, scales)
        if self.log_scale and 0 in disps:
            disps[0], disps["log_scale"] = disps[0].split(1, dim=1)
        return disps

    def features(self, image_b3hw: Tensor) -> list[Tensor]:
        """Encode an image in [0, 1] into five features, at strides 2, 4, 8, 16 and 32."""
        _check_image(image_b3hw)
        if self.mean or self.std != 1.0:
            image_b3hw = (image_b3hw - self.mean) / self.std
        return self.encoder(image_b3hw)

    def use_scales(self, scales: Iterable[int]) -> DepthNetwork:
        """Compute only these scales by default, and freeze the other heads.

        Call this before DistributedDataParallel and the optimiser are built: a head without gradient makes
        DistributedDataParallel wait forever, and weight decay shrinks it.

        Raises:
            ConfigError: a scale is unknown, or scale 0 is missing. Without it, parts of the decoder get no gradient.
        """
        scales = _checked_scales(scales)
        if 0 not in scales:
            raise ConfigError(f"scales {scales} must contain 0: only the finest scale uses every parameter.")
        self.scales = scales
        for scale, head in enumerate(self.decoder.heads):
            head.requires_grad_(scale in scales)
        return self

    def use_dropout(self, p: float) -> DepthNetwork:
        """Drop decoder channels with probability `p` in training, after each `ConvBlock`; 0 switches dropout off.

        This is the position of Poggi et al. (CVPR 2020) in Monodepth2. The other decoders consist of the same block.
        The encoder gets no dropout: it may start from ImageNet, and its features serve many passes of the decoder.

        Raises:
            ConfigError: `p` is not in [0, 1), or the decoder has no `ConvBlock`.
        """
        if not 0 <= p < 1:
            raise ConfigError(f"dropout={p} must be in [0, 1).")
        blocks = [m for m in self.decoder.modules() if isinstance(m, ConvBlock)]
        if not blocks:
            raise ConfigError(f"dropout: the decoder of {self.arch} has no ConvBlock.")
        for block in blocks:
            # whole channels: neighbouring pixels are similar, so dropping single pixels removes little
            block.dropout = nn.Dropout2d(p) if p else nn.Identity()
        self.dropout = float(p)
        return self

    def use_log_scale(self) -> DepthNetwork:
        """Add the output "log_scale" to the finest head, for the uncertainty "regression"."""
        old = self.decoder.heads[0]
        self.decoder.heads[0] = DispScaleHead(old.conv.in_channels)
        self.decoder.heads[0].conv = old.conv
        self.log_scale = True
        return self

    def init_depth(self, depth_m: float) -> None:
        """Set the biases of the heads so that an untrained network predicts about `depth_m` metres everywhere.

        With biases near 0 the first prediction is 0.198 m for a range of 0.1 to 10 m. With metric poses this depth
        shifts pixels by about 130: training is slow or collapses. The paper does not state its start. 2 m, a typical
        depth in rooms, works.

        Raises:
            ConfigError: `depth_m` is not between `min_depth` and `max_depth`.
        """
        if not self.min_depth < depth_m < self.max_depth:
            limits = f"min_depth={self.min_depth} and max_depth={self.max_depth} metres"
            raise ConfigError(f"init_depth_m={depth_m} must lie between {limits}.")
        disp = (1 / depth_m - 1 / self.max_depth) / (1 / self.min_depth - 1 / self.max_depth)
        for head in self.decoder.heads:
            nn.init.constant_(head.conv.bias, math.log(disp / (1 - disp)))

    def use_depth_range(self, min_depth: float, max_depth: float) -> DepthNetwork:
        """Give a trained network another range of depth, for example for a scene in other units.

        The range scales the depth that the network predicts: with a range of twice the depth, it predicts twice the
        depth. If only `min_depth` changes, the biases of the heads change so that depth stays as it was, except near
        `min_depth`.

        Raises:
            ConfigError: 0 < min_depth < max_depth does not hold.
        """
        if not 0 < min_depth < max_depth:
            raise ConfigError(f"need 0 < min_depth < max_depth, got {min_depth} and {max_depth} metres.")
        scale = max_depth / self.max_depth
        # inverse depth is 1 / max + slope * disparity
        slope = (1 / self.min_depth - 1 / self.max_depth) / scale
        shift = math.log(slope / (1 / min_depth - 1 / max_depth))
        if abs(shift) > 1e-9:
            with torch.no_grad():
                for head in self.decoder.heads:
                    head.conv.bias += shift  # for small disparities, sigmoid(x) is exp(x)
        self.min_depth, self.max_depth = float(min_depth), float(max_depth)
        return self


def _checked_scales(scales: Iterable[int]) -> tuple[int, ...]:
    scales = tuple(sorted(set(scales)))
    if not scales or not set(scales) <= set(SCALES):
        raise ConfigError(f"scales {scales} must be some of {SCALES}.")
    return scales


def _check_image(image: Tensor) -> None:
    if image.ndim != 4 or image.shape[1] != 3:
        raise DataError(f"the image must have shape (batch, 3, height, width), not {tuple(image.shape)}.")
    if not torch.is_floating_point(image):
        raise DataError(f"the image must be floating point in [0, 1], not {image.dtype}: divide by 255.")
    check_size(*image.shape[2:])


def check_size(height: int, width: int) -> None:
    """Raise DataError with the nearest valid sizes if this size does not fit the networks."""
    if height % STRIDE or width % STRIDE or min(height, width) < MIN_SIZE:
        valid = [
            "x".join(str(max(MIN_SIZE, rounded(size / STRIDE) * STRIDE)) for size in (height, width))
            for rounded in (math.floor, math.ceil)
        ]
        raise DataError(
            f"an image of height {height} and width {width} does not fit: both must be multiples of {STRIDE} and at "
            f"least {MIN_SIZE}. Nearest valid height x width: {' or '.join(dict.fromkeys(valid))}."
        )
