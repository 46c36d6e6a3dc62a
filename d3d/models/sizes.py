"""The size at which a network should see an image of any size and camera."""

from __future__ import annotations

import itertools
import math

from d3d.datasets.images import HW
from d3d.errors import ConfigError, DataError
from d3d.models.base import MIN_SIZE, STRIDE, DepthNetwork

PAPER_SIZE = (288, 384)  # height, width
MOST_ELONGATED = 8  # an image whose sides differ more is a strip
MOST_PIXELS = 4  # of the network's input, in images of the training; at least the reciprocal


def network_size(model: DepthNetwork, image_hw: HW, focal_px: float | None = None) -> HW:
    """The height and width at which the network should see an image: multiples of 32, at least 64.

    A network has learned how large things are in pixels, and errs at another scale. If the focal length of the image
    is known, the image gets the size at which its focal length is that of the training, with 1/4 to 4 times the
    pixels of a training image. Otherwise it gets as many pixels as a training image. Pixels keep the shape that they
    had in the training: square, unless its images were stretched. All as well as multiples of 32 allow.

    If the size of the training is unknown, an image that fits stays as it is, and the others become about as large as
    the paper's images, 288x384.

    Args:
        image_hw: height and width of the image.
        focal_px: focal length in pixels of the image.

    Raises:
        DataError: the image has a side of less than 32 pixels, or one more than `MOST_ELONGATED` times the other; or
            ``focal_px`` is given, but that of the training is unknown.
        ConfigError: ``focal_px`` is not positive.
    """
    h, w = image_hw
    if min(h, w) < STRIDE or max(h, w) > MOST_ELONGATED * min(h, w):
        raise DataError(
            f"an image of height {h} and width {w} is too small or too narrow: each side needs at least {STRIDE} "
            f"pixels, and the longer one may have at most {MOST_ELONGATED} times as many as the shorter."
        )
    if focal_px is not None and not (isinstance(focal_px, int | float) and 0 < focal_px < math.inf):
        raise ConfigError(f"focal_px={focal_px!r} must be a positive number of pixels.")
    if focal_px is not None and (model.train_focal_px is None or model.train_size is None):
        raise DataError(
            "the camera of this network's training is unknown: leave focal_px out, or set model.train_size = "
            "(height, width) and model.train_focal_px = (fx, fy), in pixels at that size."
        )
    if model.train_size is None and h % STRIDE == w % STRIDE == 0 and min(h, w) >= MIN_SIZE:
        return h, w
    of_training = math.prod(model.train_size or PAPER_SIZE)
    fx, fy = model.train_focal_px or (1.0, 1.0)
    wanted = of_training
    if focal_px is not None:
        wanted = h * w * fx * fy / focal_px**2
        wanted = min(max(wanted, of_training / MOST_PIXELS), of_training * MOST_PIXELS)

    def unlike(size_hw: HW) -> float:
        pixels, shape = (
            math.log(math.prod(size_hw) / wanted),
            math.log(size_hw[1] / size_hw[0] * h / w * fy / fx),
        )
        return pixels**2 + 4 * shape**2  # stretched by a tenth is as bad as a fifth more pixels

    sides = range(MIN_SIZE, int(math.sqrt(wanted * MOST_ELONGATED)) + 2 * MIN_SIZE, STRIDE)
    return min(itertools.product(sides, sides), key=unlike)
