"""Augmentation of section 3.3: horizontal flip and colour jitter."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

# factors of Monodepth2, which the paper follows
BRIGHTNESS = CONTRAST = SATURATION = (0.8, 1.2)
HUE = (-0.1, 0.1)


@dataclass(frozen=True)
class Augmentation:
    """A drawn augmentation. ``jitter`` is None or (brightness, contrast, saturation, hue), applied in ``order``."""

    flip: bool = False
    jitter: tuple[float, float, float, float] | None = None
    order: tuple[int, ...] = (0, 1, 2, 3)

    @staticmethod
    def draw(rng: np.random.Generator, flip_p: float = 0.5, jitter_p: float = 0.5) -> Augmentation:
        """Draw an augmentation. Always consumes the same number of random numbers."""
        flip = bool(rng.random() < flip_p)
        jittered = rng.random() < jitter_p
        factors = tuple(float(rng.uniform(*r)) for r in (BRIGHTNESS, CONTRAST, SATURATION, HUE))
        order = tuple(int(i) for i in rng.permutation(4))
        return Augmentation(flip, factors if jittered else None, order)

    def colour(self, image_3hw: Tensor) -> Tensor:
        """Apply only the colour jitter to a float image (3, H, W) in [0, 1]."""
        if self.jitter is None:
            return image_3hw
        import torchvision.transforms.functional as TF

        adjust = (TF.adjust_brightness, TF.adjust_contrast, TF.adjust_saturation, shift_hue)
        for i in self.order:
            image_3hw = adjust[i](image_3hw, self.jitter[i])
        return image_3hw

    def __call__(self, image_3hw: Tensor) -> Tensor:
        """Apply jitter and flip to a float image (3, H, W) in [0, 1]."""
        image = self.colour(image_3hw)
        return image.flip(-1) if self.flip else image


def shift_hue(image_3hw: Tensor, shift: float) -> Tensor:
    """Shift the hue by a fraction of the colour circle; float (..., 3, H, W) in [0, 1].

    Equals torchvision's `adjust_hue` in a sixth of the time. With hue h, brightness V (maximum of the channels) and
    chroma C (range of the channels), a channel is V - C clamp(min(k, 4 - k), 0, 1), where k = (n + 6 h) mod 6 and n is
    5, 3 and 1 for red, green and blue.
    """
    red, green, blue = image_3hw.split(1, dim=-3)
    brightest, darkest = image_3hw.amax(-3, keepdim=True), image_3hw.amin(-3, keepdim=True)
    chroma = brightest - darkest
    scale = torch.where(chroma > 0, chroma, 1).reciprocal_()
    sextant = torch.where(
        brightest == red,
        (green - blue) * scale,
        torch.where(brightest == green, (blue - red) * scale + 2, (red - green) * scale + 4),
    )
    n = image_3hw.new_tensor((5.0, 3.0, 1.0)).view(3, 1, 1) + 6 * shift
    k = (sextant + n).remainder_(6)
    return torch.addcmul(brightest, torch.minimum(k, 4 - k).clamp_(0, 1), chroma, value=-1)


def unflip(maps_b1hw: Tensor, flip_b: Tensor) -> Tensor:
    """Mirror back the maps (B, ..., W) of images with a mirrored input.

    Poses are known, so only the input of the network is mirrored. The geometry of the loss is not.
    """
    return torch.where(flip_b.view(-1, *([1] * (maps_b1hw.dim() - 1))), maps_b1hw.flip(-1), maps_b1hw)
