"""Draw an image beside its depth with a colour bar, fast enough for every frame of a video."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.ticker import MaxNLocator
from PIL import Image, ImageDraw, ImageFont

from d3d.datasets.images import resize_image
from d3d.figures import colours
from d3d.geometry import nearest_depth

MOST_PIXELS = 1024 * 768  # limit for the image and for the depth
GAP = 6


def beside(
    image: np.ndarray,
    depth: np.ndarray | Sequence[np.ndarray],
    top: float | None = None,
    unit: str = "m",
) -> np.ndarray:
    """Draw an image beside its depth, or beside several depth maps of one size.

    Args:
        image: uint8 (H, W, 3), reduced to `MOST_PIXELS` if larger.
        depth: (H, W), metres; 0 is drawn white.
        top: depth at the upper end of the colours, metres; by default `colours.upper_limit`.
        unit: unit of the numbers of the colour bar.

    Returns:
        The picture, uint8 (h, w, 3) with even sides.
    """
    depths = [depth] if isinstance(depth, np.ndarray) else list(depth)
    top = colours.upper_limit(depths) if top is None else top
    shrink = min(1.0, (MOST_PIXELS / depths[0].size) ** 0.5)
    h, w = (max(2, round(n * shrink / 2) * 2) for n in depths[0].shape)
    gap = np.full((h, GAP, 3), 255, np.uint8)
    parts = [resize_image(image, (h, w))]
    for one in depths:
        parts += [gap, colours.coloured(nearest_depth(one, (h, w)), "depth", top)]
    return np.concatenate((*parts, gap, _bar(h, top, unit)), axis=1)


def _bar(h: int, top: float, unit: str) -> np.ndarray:
    """Draw a vertical colour bar from 0 to ``top`` metres with numbers."""
    size = min(max(10, h // 32), 24)
    font = ImageFont.load_default(size)
    width = size
    ticks = [t for t in MaxNLocator(max(2, min(6, h // (3 * size)))).tick_values(0, top) if 0 <= t <= top]
    labels = [f"{t:g}" for t in ticks]
    labels[-1] += f" {unit}"
    room = max(int(font.getlength(text)) for text in labels)
    picture = Image.new("RGB", (2 * ((width + GAP + room + GAP) // 2 + 1), h), "white")
    ramp = np.linspace(top, 0, h)[:, None].repeat(width, axis=1)
    picture.paste(Image.fromarray(colours.coloured(np.maximum(ramp, 1e-6), "depth", top)), (0, 0))
    draw = ImageDraw.Draw(picture)
    for tick, text in zip(ticks, labels, strict=True):
        y = round((1 - tick / top) * (h - 1))
        draw.line((width, y, width + GAP // 2, y), fill="black")
        # numbers at the ends of the bar stay inside the picture
        y = min(max(y, size // 2 + 1), h - size // 2 - 1)
        draw.text((width + GAP, y), text, fill="black", font=font, anchor="lm")
    return np.array(picture)
