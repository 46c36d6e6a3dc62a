"""Choose the size of the network's input for an image of any size and camera."""

from __future__ import annotations

import itertools
import math

from d3d.datasets.images import HW
from d3d.errors import ConfigError, DataError
from d3d.models.base import MIN_SIZE, STRIDE, DepthNetwork

PAPER_SIZE = (288, 384)  # height, width
MOST_ELONGATED = 8  # largest ratio of the sides of an image
MOST_PIXELS = (
    4  # largest ratio of the pixels of the network's input and of a training image; 1/4 is the smallest
)


def network_size(model: DepthNetwork, image_hw: HW, focal_px: float | None = None) -> HW:
    """Choose height and width of the network's input: multiples of 32, at least 64.

    A network has learned the sizes of objects in pixels, so it errs at another scale. If the focal length of the image
    is known, the image is resized to the focal length of the training, with 1/4 to 4 times the pixels of a training
    image. Otherwise it gets as many pixels as a training image. Pixels have the same shape as in the training: square,
    unless the training images were stretched. Multiples of 32 meet these rules approximately.

    If the size of the training is unknown, an image with suitable sides keeps its size. Other images become about as
    large as the paper's images, 288x384.

    Args:
        model: network.
        image_hw: height and width of the image.
        focal_px: focal length of the image, pixels.

    Raises:
        DataError: a side of the image has less than 32 pixels; the sides differ by more than a factor of
            `MOST_ELONGATED`; or ``focal_px`` is given, but the focal length of the training is unknown.
        ConfigError: ``focal_px`` is not positive.
    """
    h, w = image_hw
    if min(h, w) < STRIDE or max(h, w) > MOST_ELONGATED * min(h, w):
        raise DataError(
            f"an image of height {h} and width {w} is too small or too narrow: each side needs at least {STRIDE} "
            f"pixels, and the longer side at most {MOST_ELONGATED} times as many as the shorter side."
        )
    if focal_px is not None and not (isinstance(focal_px, int | float) and 0 < focal_px < math.inf):
        raise ConfigError(f"focal_px={focal_px!r} must be a positive number of pixels.")
    if focal_px is not None and (model.train_focal_px is None or model.train_size is None):
        raise DataError(
            "the camera of this network's training is unknown: leave focal_px out, or set model.train_size = "
            "(height, width) and model.train_focal_px = (fx, fy) in pixels at this size."
        )
    if model.train_size is None and h % STRIDE == w % STRIDE == 0 and min(h, w) >= MIN_SIZE:
        return h, w
    of_training = math.prod(model.train_size or PAPER_SIZE)
    fx, fy = model.train_focal_px or (1.0, 1.0)
    wanted = of_training
    if focal_px is not None:
        wanted = h * w * fx * fy / focal_px**2
        wanted = min(max(wanted, of_training / MOST_PIXELS), of_training * MOST_PIXELS)

    return fitting_size(wanted, w / h * fx / fy)


def fitting_size(pixels: float, ratio: float) -> HW:
    """Choose height and width, multiples of 32 and at least 64, for a number of pixels and a ratio width / height."""

    def unlike(size_hw: HW) -> float:
        more, shape = math.log(math.prod(size_hw) / pixels), math.log(size_hw[1] / size_hw[0] / ratio)
        return more**2 + 4 * shape**2  # stretching by 10 % counts like 20 % more pixels

    sides = range(MIN_SIZE, int(math.sqrt(pixels * MOST_ELONGATED)) + 2 * MIN_SIZE, STRIDE)
    return min(itertools.product(sides, sides), key=unlike)
