"""Procedural textures: linear RGB albedo or radiance, tileable where they repeat.

Every texture is made from the seed of its room, so that no two rooms and no two splits share a texture.
Arrays are float32 (height, width, 3); sizes in metres are (across, along) the surface.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

TEXEL_M = 0.01  # a pixel of a 192x144 frame sees one to two centimetres of a surface at two to four metres
MAX_ALBEDO = 0.82  # white paint; nothing in a room reflects more, which bounds interreflections


@dataclass(frozen=True)
class Texture:
    """An image and the size of its tile in metres; if ``size_m`` is None it is stretched over the surface."""

    image: np.ndarray
    size_m: tuple[float, float] | None


def linear(srgb: np.ndarray | tuple[float, float, float]) -> np.ndarray:
    """Convert sRGB values in [0, 1] to linear RGB."""
    c = np.asarray(srgb, np.float32)
    return np.where(c <= 0.04045, c / 12.92, ((c + 0.055) / 1.055) ** 2.4).astype(np.float32)


def hsv(h: float, s: float, v: float) -> np.ndarray:
    """Return the linear RGB (3,) of a hue in turns, a saturation and a value."""
    k = (np.array([5.0, 3.0, 1.0]) + 6 * h) % 6
    return linear(v - v * s * np.clip(np.minimum(k, 4 - k), 0, 1))


def noise(rng: np.random.Generator, h: int, w: int, sigma: tuple[float, float] | float) -> np.ndarray:
    """Smooth tileable noise (h, w) of unit variance; ``sigma`` in texels, one number or (along y, along x)."""
    field = ndimage.gaussian_filter(rng.standard_normal((h, w)), sigma, mode="wrap")
    return (field / max(field.std(), 1e-9)).astype(np.float32)


def fractal(rng: np.random.Generator, h: int, w: int, sigma: float, octaves: int = 4) -> np.ndarray:
    """Sum of noises of halving size and weight (h, w), unit variance."""
    total = sum(noise(rng, h, w, max(sigma / 2**k, 0.5)) / 1.6**k for k in range(octaves))
    return (total / total.std()).astype(np.float32)


def _finish(image: np.ndarray, size_m: tuple[float, float] | None) -> Texture:
    return Texture(image.clip(0.015, MAX_ALBEDO).astype(np.float32), size_m)


def _texels(size_m: tuple[float, float]) -> tuple[int, int]:
    return round(size_m[1] / TEXEL_M), round(size_m[0] / TEXEL_M)


def planks(rng: np.random.Generator, color: np.ndarray, contrast: float = 1.0) -> Texture:
    """Wooden floor: boards along y with grain, knots, and joints; each board has its own tone."""
    size = (2.4, 2.4)
    h, w = _texels(size)
    board = int(rng.choice([8, 10, 12, 15, 20]))
    image = np.zeros((h, w, 3), np.float32)
    grain = noise(rng, h, w, (14, 0.8)) * 0.10 + noise(rng, h, w, (40, 2.5)) * 0.10
    for k in range(0, w, board):
        tone = 1 + contrast * 0.28 * rng.standard_normal()
        tint = color * (1 + 0.10 * contrast * rng.standard_normal(3))
        cut = int(rng.integers(h))
        part = np.roll(grain[:, k : k + board], int(rng.integers(h)), axis=0)
        tones = np.full(h, tone)
        tones[cut : cut + h // 2] *= 1 + 0.25 * contrast * rng.standard_normal()
        image[:, k : k + board] = tint * ((tones[:, None] + contrast * part)[..., None])
        image[:, k : k + 1] *= 0.5
        for end in (cut, (cut + h // 2) % h):
            image[end : end + 1, k : k + board] *= 0.5
    return _finish(image, size)


def herringbone(rng: np.random.Generator, color: np.ndarray, contrast: float = 1.0) -> Texture:
    """Parquet: squares of fingers with alternating directions."""
    side = int(rng.choice([30, 40, 48]))
    cells = 6
    n = side * cells
    image = np.zeros((n, n, 3), np.float32)
    finger = side // int(rng.choice([4, 5, 6]))
    for i in range(cells):
        for j in range(cells):
            tile = np.ones((side, side, 3), np.float32)
            for k in range(0, side, finger):
                tone = 1 + 0.25 * contrast * rng.standard_normal()
                tile[:, k : k + finger] = color * tone * (1 + 0.06 * rng.standard_normal(3))
                tile[:, k] *= 0.6
            tile *= 1 + 0.10 * contrast * noise(rng, side, side, (6, 0.7))[..., None]
            image[i * side : (i + 1) * side, j * side : (j + 1) * side] = (
                tile if (i + j) % 2 else tile.transpose(1, 0, 2)
            )
    return _finish(image, (n * TEXEL_M, n * TEXEL_M))


def tiles(rng: np.random.Generator, color: np.ndarray, contrast: float = 1.0) -> Texture:
    """Stone tiles with grout, clouds and veins; sometimes a chequer of two colours."""
    side, cells = int(rng.choice([20, 30, 40, 50])), 4
    n = side * cells
    chequer = rng.random() < 0.4
    other = color * rng.uniform(0.5, 0.75) if chequer else color * rng.uniform(0.75, 1.0)
    veins = np.exp(-np.abs(fractal(rng, n, n, 18)) * 7)[..., None]
    clouds = fractal(rng, n, n, 9)[..., None]
    image = np.ones((n, n, 3), np.float32)
    for i in range(cells):
        for j in range(cells):
            tone = (color if (i + j) % 2 else other) * (1 + 0.10 * contrast * rng.standard_normal())
            image[i * side : (i + 1) * side, j * side : (j + 1) * side] = tone
    speck = rng.random((n, n, 1)) < 0.03 * contrast
    image *= (1 + 0.11 * contrast * clouds) * (1 - 0.32 * contrast * veins) * np.where(speck, 0.6, 1)
    grout = color * rng.choice([0.25, 0.45])
    for k in range(0, n, side):
        image[k] = image[:, k] = grout
    return _finish(image, (n * TEXEL_M, n * TEXEL_M))


def terrazzo(rng: np.random.Generator, color: np.ndarray, contrast: float = 1.0) -> Texture:
    """Chips of stone in cement."""
    n = 200
    points = rng.uniform(0, n, (900, 2))
    tones = (
        color
        * (1 + 0.35 * contrast * rng.standard_normal((900, 1)))
        * (1 + 0.15 * rng.standard_normal((900, 3)))
    )
    y, x = np.mgrid[:n, :n]
    from scipy.spatial import cKDTree

    distance, chip = cKDTree(points, boxsize=n).query(np.stack((y, x), axis=-1).reshape(-1, 2))
    radius = rng.uniform(1.0, 5.0, 900)
    image = np.where((distance < radius[chip])[:, None], tones[chip], color * 0.9).reshape(n, n, 3)
    return _finish(image * (1 + 0.05 * noise(rng, n, n, 1.0)[..., None]), (n * TEXEL_M, n * TEXEL_M))


def carpet(rng: np.random.Generator, color: np.ndarray) -> Texture:
    """Worn pile; in two of three cases with stripes or a lattice."""
    n = 200
    image = color * (1 + 0.16 * noise(rng, n, n, 0.8) + 0.12 * fractal(rng, n, n, 20))[..., None]
    y, x = np.mgrid[:n, :n]
    period = int(rng.choice([20, 25, 40, 50]))
    kind = rng.integers(3)
    if kind == 1:
        image[(x // (period // 2)) % 2 == 0] *= rng.uniform(0.45, 0.8)
    elif kind == 2:
        image[((x + y) % period < 4) | ((x - y) % period < 4)] *= rng.uniform(0.4, 1.7)
    return _finish(image, (n * TEXEL_M, n * TEXEL_M))


def rug(rng: np.random.Generator) -> Texture:
    """A woven rug: borders and a symmetric ornament, stretched over its rectangle."""
    h, w = 90, 140
    palette = np.stack([hsv(rng.random(), rng.uniform(0.1, 0.5), rng.uniform(0.2, 0.85)) for _ in range(5)])
    y, x = np.mgrid[: h // 2, : w // 2]
    field = fractal(rng, h // 2, w // 2, 7, 2)
    index = np.digitize(field, [-0.8, -0.1, 0.5])
    border = np.minimum(y, x)
    index = np.where(
        border < 4, 4, np.where(border < 7, 0, np.where(border < 13, (x + y) // 3 % 2 + 2, index))
    )
    quarter = palette[index]
    half = np.concatenate((quarter, quarter[::-1]), axis=0)
    image = np.concatenate((half, half[:, ::-1]), axis=1)
    return _finish(image * (1 + 0.12 * noise(rng, h, w, 0.7)[..., None]), None)


def paint(rng: np.random.Generator, color: np.ndarray, strength: float = 1.0) -> Texture:
    """Wall paint or plaster with clouds, roller marks and small stains; never a blank surface."""
    n = 240
    clouds = 0.05 * fractal(rng, n, n, 30, 5) + 0.025 * noise(rng, n, n, 1.0)
    image = color * (1 + strength * clouds)[..., None]
    return _finish(image, (n * TEXEL_M, n * TEXEL_M))


def wallpaper(rng: np.random.Generator, color: np.ndarray) -> Texture:
    """Stripes, dots, leaves or bricks on paper."""
    n = 120
    y, x = np.mgrid[:n, :n]
    other = color * rng.uniform(0.55, 0.85) * (1 + 0.15 * rng.standard_normal(3))
    kind = rng.integers(4)
    period = int(rng.choice([12, 15, 20, 30]))
    if kind == 0:
        on = (x % period) < period * rng.uniform(0.2, 0.6)
    elif kind == 1:
        on = ((x + period // 2 * (y // period % 2)) % period - period / 2) ** 2 + (
            y % period - period / 2
        ) ** 2 < (period * 0.3) ** 2
    elif kind == 2:
        on = fractal(rng, n, n, period / 5, 2) > 0.6
    else:  # bricks
        shifted = x + 10 * (y // 8 % 2)
        on = (y % 8 == 0) | (shifted % 20 == 0)
    image = np.where(on[..., None], other, color) * (1 + 0.04 * fractal(rng, n, n, 20))[..., None]
    if kind == 3:
        image = image * (1 + 0.12 * rng.standard_normal((n // 8, 1, 1)).repeat(8, 0))
    return _finish(image, (n * TEXEL_M, n * TEXEL_M))


def fabric(rng: np.random.Generator, color: np.ndarray) -> Texture:
    """Cloth: weave, clouds, sometimes checks."""
    n = 100
    y, x = np.mgrid[:n, :n]
    image = color * (1 + 0.10 * noise(rng, n, n, 0.7) + 0.08 * fractal(rng, n, n, 12))[..., None]
    if rng.random() < 0.45:
        p = int(rng.choice([10, 20, 25]))
        checks = ((x % p < p // 2) * 1.0 + (y % p < p // 2)) / 2
        image = image * (0.65 + 0.6 * checks)[..., None]
    return _finish(image, (n * TEXEL_M, n * TEXEL_M))


def wood(rng: np.random.Generator, color: np.ndarray) -> Texture:
    """Furniture wood: rings seen along the grain."""
    h, w = 160, 80
    x = np.arange(w)[None] + 5 * noise(rng, h, w, (40, 6))
    rings = np.sin(x * rng.uniform(0.5, 1.2)) * 0.12 + noise(rng, h, w, (16, 0.8)) * 0.08
    return _finish(color * (1 + rings + 0.08 * fractal(rng, h, w, 16))[..., None], (w * TEXEL_M, h * TEXEL_M))


def marble(rng: np.random.Generator, color: np.ndarray) -> Texture:
    """Stone top with veins."""
    n = 128
    veins = np.exp(-np.abs(fractal(rng, n, n, 14)) * 6)[..., None]
    return _finish(color * (1 + 0.10 * fractal(rng, n, n, 8)[..., None]) * (1 - 0.5 * veins), (1.28, 1.28))


def speckle(rng: np.random.Generator, color: np.ndarray, strength: float = 0.06) -> Texture:
    """A nearly plain surface: plastic, lacquer, ceramics."""
    return _finish(color * (1 + strength * fractal(rng, 64, 64, 6))[..., None], (0.64, 0.64))


def picture(rng: np.random.Generator) -> Texture:
    """A framed picture: a landscape, an abstract or a poster with lines like print."""
    h, w = 60, 80
    y = (np.arange(h) / h)[:, None]
    kind = rng.integers(3)
    if kind == 0:
        sky, land = hsv(rng.uniform(0.5, 0.7), 0.4, 0.9), hsv(rng.uniform(0.1, 0.4), 0.6, 0.5)
        ridge = 0.45 + 0.12 * noise(rng, 1, w, (0, 9)) + 0.03 * noise(rng, 1, w, (0, 2))
        image = np.where(
            (y > ridge)[..., None], land * (0.6 + 0.8 * y[..., None]), sky * (1.1 - 0.5 * y[..., None])
        )
    elif kind == 1:
        palette = np.stack(
            [hsv(rng.random(), rng.uniform(0.1, 0.6), rng.uniform(0.2, 0.95)) for _ in range(6)]
        )
        image = palette[np.digitize(fractal(rng, h, w, 9, 3), [-1, -0.4, 0.1, 0.6, 1.2])]
    else:
        image = np.ones((h, w, 3)) * hsv(rng.random(), rng.uniform(0, 0.7), rng.uniform(0.6, 0.95))
        for row in range(30, h - 6, 4):
            image[row : row + 2, 8 : 8 + int(rng.integers(20, w - 16))] *= 0.25
        image[6:26, 8 : w - 8] = hsv(rng.random(), 0.8, 0.7) * (
            1 + 0.4 * noise(rng, 20, w - 16, 3)[..., None]
        )
    image = image * (1 + 0.15 * noise(rng, h, w, 1.0)[..., None])
    frame = hsv(rng.random(), 0.3, rng.choice([0.1, 0.3, 0.9]))
    image[:3], image[-3:], image[:, :3], image[:, -3:] = frame, frame, frame, frame
    return _finish(image, None)


def spines(rng: np.random.Generator) -> Texture:
    """A row of books seen from the spine."""
    h, w = 30, 100
    image = np.full((h, w, 3), 0.02, np.float32)
    k = 0
    while k < w - 3:
        wide = int(rng.integers(2, 6))
        tall = int(rng.integers(20, h))
        color = hsv(rng.random(), rng.uniform(0.1, 0.8), rng.uniform(0.2, 0.9))
        image[h - tall :, k : k + wide] = color
        label = h - tall + int(rng.integers(3, 10))
        image[label : label + 4, k : k + wide] = color * rng.uniform(0.2, 2.5)
        k += wide
    return _finish(image[::-1], None)


def cardboard(rng: np.random.Generator) -> Texture:
    """A parcel: brown with tape and print."""
    n = 40
    image = np.ones((n, n, 3)) * linear((0.70, 0.55, 0.38)) * rng.uniform(0.7, 1.1)
    image[:, 17:22] *= rng.uniform(1.1, 1.4)
    image[26:34, 4:14] *= 0.35
    return _finish(image * (1 + 0.06 * fractal(rng, n, n, 4))[..., None], None)


def leaves(rng: np.random.Generator) -> Texture:
    """Foliage seen from outside: light and dark greens."""
    n = 60
    color = hsv(rng.uniform(0.2, 0.36), rng.uniform(0.35, 0.6), rng.uniform(0.3, 0.55))
    return _finish(color * np.exp(0.5 * fractal(rng, n, n, 3, 2))[..., None], (0.6, 0.6))


def outdoors(rng: np.random.Generator, radiance: float) -> Texture:
    """The view out of a window, as radiance: sky with clouds over a skyline of houses or trees."""
    h, w = 60, 80
    y = (np.arange(h) / h)[:, None]  # row 0 is the bottom of the window
    sky = np.array([0.85, 0.95, 1.1]) * (0.8 + 0.35 * y + 0.12 * fractal(rng, h, w, 9))[..., None]
    if rng.random() < 0.5:
        skyline = 0.2 + 0.08 * noise(rng, 1, w, (0, 5)) + 0.05 * noise(rng, 1, w, (0, 1.5))
        below = hsv(rng.uniform(0.2, 0.35), 0.5, 0.6) * np.exp(0.4 * fractal(rng, h, w, 3))[..., None]
    else:
        steps = np.repeat(rng.uniform(0.08, 0.32, 8), 10)[None]
        skyline = steps
        below = hsv(rng.random(), 0.25, 0.7) * np.where(
            ((np.arange(w) % 5 < 3)[None] & (np.arange(h) % 6 < 4)[:, None])[..., None], 0.6, 1.0
        )
    image = np.where((y < skyline)[..., None], below, sky)
    return Texture((radiance * image.clip(0.02, 1.5)).astype(np.float32), None)


def glow(rng: np.random.Generator, radiance: float, warm: float) -> Texture:
    """The shade of a lamp, as radiance: brightest in the middle; ``warm`` 0 is white, 1 is the colour of a candle."""
    y, x = np.mgrid[-1:1:24j, -1:1:24j]
    profile = 0.6 + 0.6 * np.exp(-1.5 * (x**2 + y**2))
    tint = np.array([1.0, 1.0 - 0.22 * warm, 1.0 - 0.5 * warm])
    return Texture((radiance * profile[..., None] * tint).astype(np.float32), None)
