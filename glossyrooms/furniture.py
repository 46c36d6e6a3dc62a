"""Furniture and clutter: each function builds one thing in the builder's current frame.

Things that stand against a wall have the wall at y = 0 and reach into the room along +y; things that
stand free are centred. The floor is z = 0. Sizes are metres and drawn from the builder's generator.
"""

from __future__ import annotations

import numpy as np

from glossyrooms import textures
from glossyrooms.mesh import GLOSSY, LIGHT, MATT, Builder, Material
from glossyrooms.textures import hsv


def any_color(rng: np.random.Generator, value: tuple[float, float] = (0.2, 0.9)) -> np.ndarray:
    """Draw a colour: mostly muted, sometimes strong."""
    hue = rng.choice([rng.uniform(0.02, 0.14), rng.uniform(0.5, 0.66), rng.random()])
    return hsv(hue, rng.choice([0.08, 0.18, 0.35, 0.6]) * rng.uniform(0.7, 1), rng.uniform(*value))


def brown(rng: np.random.Generator, value: tuple[float, float] = (0.35, 0.9)) -> np.ndarray:
    """Draw a colour of wood."""
    return hsv(rng.uniform(0.05, 0.11), rng.uniform(0.25, 0.65), rng.uniform(*value))


def matt(rng: np.random.Generator, color: np.ndarray | None = None) -> Material:
    color = any_color(rng) if color is None else color
    return Material("matt", MATT, textures.speckle(rng, color))


def wooden(rng: np.random.Generator) -> Material:
    return Material("wood", MATT, textures.wood(rng, brown(rng)))


def cloth(rng: np.random.Generator) -> Material:
    return Material("cloth", MATT, textures.fabric(rng, any_color(rng)))


def polished(rng: np.random.Generator) -> Material:
    """Draw the material of a table top: lacquered wood, stone or paint."""
    kind = rng.integers(3)
    if kind == 0:
        texture = textures.wood(rng, brown(rng))
    elif kind == 1:
        texture = textures.marble(rng, hsv(rng.random(), rng.uniform(0, 0.3), rng.uniform(0.25, 0.9)))
    else:
        texture = textures.speckle(rng, any_color(rng), 0.15)
    return Material("top", GLOSSY, texture, rng.uniform(0.004, 0.025))


def ceramic(rng: np.random.Generator) -> Material:
    return Material("ceramic", GLOSSY, textures.speckle(rng, any_color(rng), 0.12), rng.uniform(0.02, 0.08))


def black_plastic(rng: np.random.Generator) -> Material:
    return Material(
        "screen", GLOSSY, textures.speckle(rng, hsv(0.6, 0.2, 0.12), 0.03), rng.uniform(0.01, 0.03)
    )


def _legs(b: Builder, w: float, d: float, h: float, thick: float, material: Material) -> None:
    for x in (-w / 2 + thick, w / 2 - 2 * thick):
        for y in (-d / 2 + thick, d / 2 - 2 * thick):
            b.box((x, y, 0), (x + thick, y + thick, h), material, cell_m=0.3)


def table(b: Builder, w: float, d: float, h: float, top: Material) -> None:
    """Build a table on four legs with objects on it, centred."""
    b.box((-w / 2, -d / 2, h - 0.035), (w / 2, d / 2, h), wooden(b.rng), top=top, bottom=True)
    _legs(b, w, d, h - 0.035, b.rng.uniform(0.04, 0.07), wooden(b.rng))
    clutter(b, w, d, h, int(b.rng.integers(2, 6)))


def chair(b: Builder) -> None:
    """Build a chair, centred, with its back at -y."""
    seat, h = cloth(b.rng) if b.rng.random() < 0.6 else wooden(b.rng), 0.45
    frame = wooden(b.rng)
    b.box((-0.21, -0.21, h - 0.04), (0.21, 0.21, h), seat, bottom=True)
    _legs(b, 0.46, 0.46, h - 0.04, 0.035, frame)
    b.box((-0.21, -0.23, h + 0.12), (0.21, -0.20, h + 0.45), seat, bottom=True)
    for x in (-0.20, 0.17):
        b.box((x, -0.23, h), (x + 0.03, -0.20, h + 0.12), frame, cell_m=0.3)


def sofa(b: Builder) -> float:
    """Build a sofa against a wall. Return its width."""
    w, cover = b.rng.uniform(1.5, 2.1), cloth(b.rng)
    b.box((-w / 2, 0.02, 0.06), (w / 2, 0.85, 0.38), cover, bottom=True)
    b.box((-w / 2, 0.02, 0.38), (w / 2, 0.22, 0.82), cover)
    for x in (-w / 2, w / 2 - 0.16):
        b.box((x, 0.22, 0.38), (x + 0.16, 0.85, 0.60), cover)
    n = 2 if w < 1.8 else 3
    inner = w - 0.32
    for k in range(n):
        with b.at(-inner / 2 + (k + 0.5) * inner / n, 0.55, 0.44):
            b.cushion((inner / n / 2 - 0.005, 0.31, 0.09), cover, 0.25)
    for _ in range(int(b.rng.integers(1, 4))):
        with b.at(b.rng.uniform(-inner / 2 + 0.2, inner / 2 - 0.2), 0.36, 0.66, b.rng.uniform(-0.5, 0.5)):
            b.cushion((0.2, 0.08, 0.18), cloth(b.rng), 0.5)
    return w


def bed(b: Builder) -> float:
    """Build a bed with its head against a wall. Return its width."""
    w, length = b.rng.choice([0.95, 1.4]), 1.95
    frame = wooden(b.rng)
    b.box((-w / 2, 0, 0), (w / 2, length, 0.28), frame)
    b.box((-w / 2, 0, 0.28), (w / 2, 0.05, 0.85), frame)
    with b.at(0, length / 2 + 0.02, 0.36):
        b.cushion((w / 2 - 0.01, length / 2 - 0.04, 0.12), cloth(b.rng), 0.2)
    with b.at(0, length * 0.64, 0.42):
        b.cushion((w / 2 + 0.01, length * 0.33, 0.10), cloth(b.rng), 0.25)
    for x in (-0.3, 0.3) if w > 1 else (0,):
        with b.at(x, 0.32, 0.52, b.rng.uniform(-0.2, 0.2)):
            b.cushion((0.26, 0.18, 0.08), cloth(b.rng), 0.5)
    return float(w)


def bookshelf(b: Builder) -> float:
    """Build a tall bookshelf against a wall. Return its width."""
    w, h, d = b.rng.uniform(0.8, 1.3), b.rng.uniform(1.5, 2.0), 0.3
    frame, t = wooden(b.rng), 0.025
    for x in (-w / 2, w / 2 - t):
        b.box((x, 0, 0), (x + t, d, h), frame)
    b.patch((-w / 2, 0.01, 0), (w, 0, 0), (0, 0, h), (0, 1, 0), frame)
    levels = int(b.rng.integers(4, 6))
    for k in range(levels + 1):
        z = 0.05 + k * (h - 0.05 - t) / levels
        b.box((-w / 2 + t, 0.01, z), (w / 2 - t, d, z + t), frame, bottom=True)
        if k < levels:
            room = (h - 0.05) / levels - 0.06
            x = -w / 2 + 0.04
            while x < w / 2 - 0.25:
                wide = min(b.rng.uniform(0.2, 0.5), w / 2 - 0.04 - x)
                tall = min(room, b.rng.uniform(0.18, 0.32))
                books = Material("books", MATT, textures.spines(b.rng))
                if b.rng.random() < 0.75:
                    low = (-(x + wide), -0.24, 0)  # turned, since the front of a box faces -y
                    with b.at(0, 0, z + t, np.pi):
                        b.box(low, (-x, -0.05, tall), matt(b.rng), front=books)
                x += wide + b.rng.uniform(0.02, 0.15)
    return w


def cabinet(b: Builder) -> float:
    """Build a sideboard or chest of drawers against a wall, with objects on it. Return its width."""
    w, h, d = b.rng.uniform(0.8, 1.6), b.rng.uniform(0.55, 0.95), b.rng.uniform(0.38, 0.48)
    body, doors = wooden(b.rng), wooden(b.rng)
    if b.rng.random() < 0.35:
        doors = Material(
            "lacquer", GLOSSY, textures.speckle(b.rng, any_color(b.rng), 0.08), b.rng.uniform(0.03, 0.1)
        )
    b.box((-w / 2, 0, 0), (w / 2, d, h), body, top=polished(b.rng) if b.rng.random() < 0.6 else None)
    n = int(b.rng.integers(2, 5))
    knob = matt(b.rng, hsv(0.1, 0.1, b.rng.choice([0.1, 0.6])))
    for k in range(n):
        x = -w / 2 + 0.02 + k * (w - 0.04) / n
        b.box((x + 0.008, d, 0.06), (x + (w - 0.04) / n - 0.008, d + 0.018, h - 0.04), doors, cell_m=0.2)
        b.box(
            (x + 0.04, d + 0.018, h * 0.55),
            (x + 0.055, d + 0.04, h * 0.55 + 0.12),
            knob,
            bottom=True,
            cell_m=0.3,
        )
    with b.at(0, d / 2):
        clutter(b, w, d, h, int(b.rng.integers(2, 5)))
    return w


def desk(b: Builder) -> float:
    """Build a desk with a screen against a wall. Return its width."""
    w, d, h = b.rng.uniform(1.2, 1.6), 0.7, 0.73
    with b.at(0, d / 2):
        b.box((-w / 2, -d / 2, h - 0.03), (w / 2, d / 2, h), wooden(b.rng), top=polished(b.rng), bottom=True)
        _legs(b, w, d, h - 0.03, 0.05, matt(b.rng))
        with b.at(b.rng.uniform(-0.2, 0.2), -0.12, h, b.rng.uniform(-0.25, 0.25)):
            screen(b, 0.56, 0.34, 0.12)
        with b.at(b.rng.uniform(-0.15, 0.15), 0.15, h):
            b.box(
                (-0.22, -0.07, 0), (0.22, 0.07, 0.02), matt(b.rng, hsv(0.6, 0.05, b.rng.choice([0.15, 0.8])))
            )
        clutter(b, w, 0.25, h, 2)
    with b.at(b.rng.uniform(-0.2, 0.2), d + 0.15, 0, np.pi + b.rng.uniform(-0.5, 0.5)):
        chair(b)
    return w


def screen(b: Builder, w: float, h: float, foot: float) -> None:
    """Build a monitor or television that faces +y."""
    case, panel = matt(b.rng, hsv(0.6, 0.1, 0.15)), black_plastic(b.rng)
    b.box((-0.12, -0.08, 0), (0.12, 0.08, 0.015), case)
    b.box((-0.025, -0.03, 0.015), (0.025, 0, foot), case)
    with b.at(0, 0, foot, np.pi):
        b.box((-w / 2, -0.02, 0), (w / 2, 0.02, h), case, bottom=True)
        b.patch((-w / 2 + 0.01, -0.021, 0.012), (w - 0.02, 0, 0), (0, 0, h - 0.024), (0, -1, 0), panel)


def television(b: Builder) -> float:
    """Build a low board with a television. Return its width."""
    w = b.rng.uniform(1.2, 1.7)
    b.box((-w / 2, 0, 0.08), (w / 2, 0.4, 0.45), wooden(b.rng), top=polished(b.rng), bottom=True)
    with b.at(b.rng.uniform(-0.15, 0.15), 0.16, 0.45):
        screen(b, b.rng.uniform(0.85, 1.1), 0.58, 0.06)
    return w


def plant(b: Builder) -> float:
    """Build a pot with leaves. Return its width."""
    r, h = b.rng.uniform(0.12, 0.2), b.rng.uniform(0.2, 0.4)
    b.lathe(
        [(0.7 * r, 0), (r, h), (0.9 * r, h), (0, h - 0.03)],
        ceramic(b.rng) if b.rng.random() < 0.5 else matt(b.rng),
    )
    green = Material("leaves", MATT, textures.leaves(b.rng))
    top = b.rng.uniform(0.35, 0.8)
    for _ in range(int(b.rng.integers(26, 46))):
        yaw, lean, z = b.rng.uniform(0, 2 * np.pi), b.rng.uniform(0.2, 1.3), h + top * b.rng.uniform(0.0, 0.8)
        length, wide = b.rng.uniform(0.15, 0.3), b.rng.uniform(0.03, 0.07)
        out = np.array([np.cos(yaw) * np.sin(lean), np.sin(yaw) * np.sin(lean), np.cos(lean)])
        side = np.array([-np.sin(yaw), np.cos(yaw), 0.0])
        base = np.array([0, 0, z]) + 0.05 * out
        up = np.cross(side, out)
        for sign in (1, -1):  # both sides of a leaf are visible
            b.patch(
                base - wide * side + 0.001 * sign * up, 2 * wide * side, length * out, sign * up, green, 0.5
            )
    return 2 * r + 0.3


def floor_lamp(b: Builder, radiance: float) -> float:
    """Build a lamp with a stand and a glowing shade. Return its width."""
    h = b.rng.uniform(1.35, 1.6)
    b.lathe(
        [(0.0, 0), (0.14, 0), (0.14, 0.02), (0.012, 0.03), (0.012, h), (0, h)],
        matt(b.rng, hsv(0.1, 0.2, 0.3)),
    )
    shade = Material("shade", LIGHT, textures.glow(b.rng, radiance, b.rng.uniform(0.3, 1)))
    with b.at(0, 0, h - 0.1):
        b.lathe([(0.0, 0), (0.15, 0.0), (0.10, 0.24), (0.0, 0.24)], shade, 16)
    return 0.4


def _vase(b: Builder, scale: float) -> None:
    rng = b.rng
    z = np.linspace(0, 1, 9)
    r = (
        0.35
        + 0.25 * np.sin(z * np.pi * rng.uniform(0.8, 1.6) + rng.uniform(0, 1.5))
        + 0.05 * rng.standard_normal()
    )
    outer = [(0.0, 0.0), *zip(scale * r.clip(0.15, 1) * 0.5, scale * z, strict=True)]
    b.lathe([*outer, (outer[-1][0] * 0.8, scale), (0.0, scale * 0.8)], ceramic(rng))


def clutter(b: Builder, w: float, d: float, h: float, count: int) -> None:
    """Put small objects on a centred top of size ``w`` x ``d`` at height ``h``, at most one in each place."""
    n = max(1, int(w / 0.28))
    rows = max(1, int(d / 0.3))
    places = b.rng.permutation(n * rows)[:count]
    for place in places:
        x = (place % n + 0.5) / n * w - w / 2
        y = (place // n + 0.5) / rows * d - d / 2
        with b.at(x, y, h, b.rng.uniform(0, 2 * np.pi)):
            thing(b, small=True)


def thing(b: Builder, small: bool) -> None:
    """Build one object: books, a vase, a bowl, a parcel, a ball or a cushion."""
    rng, s = b.rng, 1.0 if small else 1.7
    kind = rng.integers(6)
    if kind == 0:
        z = 0.0
        for _ in range(int(rng.integers(1, 5))):
            t = rng.uniform(0.015, 0.05)
            with b.at(0, 0, z, rng.uniform(-0.4, 0.4)):
                cover = Material("cover", MATT, textures.picture(rng))
                b.box((-0.11, -0.08, 0), (0.11, 0.08, t), matt(rng), top=cover, cell_m=0.2)
            z += t
    elif kind == 1:
        _vase(b, s * rng.uniform(0.14, 0.3))
    elif kind == 2:
        r = s * rng.uniform(0.07, 0.13)
        b.lathe(
            [(0, 0), (0.5 * r, 0), (0.9 * r, 0.4 * r), (r, 0.7 * r), (0.85 * r, 0.65 * r), (0, 0.2 * r)],
            ceramic(rng),
        )
    elif kind == 3:
        w, d, t = s * rng.uniform(0.06, 0.13, 3)
        parcel = Material(
            "parcel", MATT, textures.cardboard(rng) if rng.random() < 0.5 else textures.picture(rng)
        )
        b.box((-w, -d, 0), (w, d, 1.5 * t), parcel, cell_m=0.15)
    elif kind == 4:
        r = s * rng.uniform(0.05, 0.11)
        ball = Material(
            "ball", MATT if rng.random() < 0.6 else GLOSSY, textures.fabric(rng, any_color(rng)), 0.06
        )
        with b.at(0, 0, r):
            b.cushion((r, r, r), ball, 1.0)
    else:
        with b.at(0, 0, 0.05 * s):
            b.cushion((0.12 * s, 0.12 * s, 0.05 * s), cloth(rng), 0.5)


def stool(b: Builder) -> float:
    """Build a round stool or pouf. Return its width."""
    r, h = b.rng.uniform(0.16, 0.28), b.rng.uniform(0.35, 0.65)
    if b.rng.random() < 0.5:
        with b.at(0, r, h / 2):
            b.cushion((r, r, h / 2), cloth(b.rng), 0.6)
    else:
        with b.at(0, r):
            b.lathe([(0.6 * r, 0), (0.25 * r, h / 2), (r, h - 0.05), (r, h), (0, h)], wooden(b.rng))
    return 2 * r


def round_table(b: Builder) -> float:
    """Build a round table on one foot, with objects on it. Return its width."""
    r, h = b.rng.uniform(0.3, 0.5), b.rng.uniform(0.45, 0.78)
    with b.at(0, r):
        b.lathe([(0.6 * r, 0), (0.6 * r, 0.02), (0.04, 0.05), (0.04, h - 0.04)], matt(b.rng))
        b.lathe([(0, h - 0.04), (r, h - 0.03), (r, h), (0, h)], polished(b.rng), 28)
        clutter(b, 1.2 * r, 1.2 * r, h, int(b.rng.integers(1, 4)))
    return 2 * r


def wardrobe(b: Builder) -> float:
    """Build a tall wardrobe with doors, some of them glossy, against a wall. Return its width."""
    w, h, d = b.rng.uniform(0.8, 1.6), b.rng.uniform(1.8, 2.15), b.rng.uniform(0.45, 0.6)
    b.box((-w / 2, 0, 0), (w / 2, d, h), wooden(b.rng))
    _doors(b, w, d, 0.06, h - 0.04, fronts(b.rng))
    return w


def lone_chair(b: Builder) -> float:
    """Build a chair with its back against a wall. Return its width."""
    with b.at(0, 0.25, 0, b.rng.uniform(-0.3, 0.3)):
        chair(b)
    return 0.46


def fronts(rng: np.random.Generator) -> Material:
    """Draw the material of doors: wood, matt paint or glossy lacquer."""
    if rng.random() < 0.4:
        return Material(
            "lacquer", GLOSSY, textures.speckle(rng, any_color(rng), 0.05), rng.uniform(0.01, 0.08)
        )
    return wooden(rng) if rng.random() < 0.4 else matt(rng)


def _doors(b: Builder, w: float, y: float, low: float, high: float, material: Material) -> None:
    """Add a row of doors with handles in front of a box of width ``w``, at depth ``y``."""
    n = max(1, round(w / b.rng.uniform(0.4, 0.6)))
    metal = matt(b.rng, hsv(0.1, 0.05, b.rng.choice([0.15, 0.6])))
    for k in range(n):
        x, z = -w / 2 + (k + 0.5) * w / n, (low + high) / 2
        b.box(
            (x - w / n / 2 + 0.004, y, low), (x + w / n / 2 - 0.004, y + 0.018, high), material, bottom=True
        )
        b.box((x + 0.1, y + 0.018, z), (x + 0.12, y + 0.045, z + 0.14), metal, bottom=True, cell_m=0.3)


def kitchen(b: Builder, w: float, above: bool) -> None:
    """Build a kitchen row of width ``w``: worktop with hob, cupboards below; with ``above``, also refrigerator and
    wall cupboards.
    """
    h, d, front, body = 0.9, 0.6, fronts(b.rng), matt(b.rng)
    cold = 0.6 if above and w > 2.2 and b.rng.random() < 0.7 else 0.0  # the refrigerator stands at one end
    if cold:
        steel = Material(
            "steel", GLOSSY, textures.speckle(b.rng, hsv(0.6, 0.03, b.rng.choice([0.25, 0.85])), 0.02), 0.06
        )
        with b.at(-w / 2 + cold / 2, 0):
            tall = b.rng.uniform(1.5, 2.0)
            b.box((-0.3, 0, 0), (0.3, 0.62, tall), steel)
            _doors(b, 0.6, 0.62, 0.05, tall - 0.02, steel)
    row = w - cold
    with b.at(cold / 2, 0):
        b.box((-row / 2, 0, 0), (row / 2, d - 0.05, 0.1), matt(b.rng, hsv(0, 0, 0.2)))
        b.box((-row / 2, 0, 0.1), (row / 2, d - 0.02, h - 0.04), body, bottom=True)
        _doors(b, row, d - 0.02, 0.12, h - 0.06, front)
        b.box((-row / 2, 0, h - 0.04), (row / 2, d + 0.02, h), polished(b.rng), bottom=True)
        x = b.rng.uniform(-0.3, 0.3) * row
        hob = Material("hob", GLOSSY, textures.speckle(b.rng, hsv(0.6, 0.1, 0.08), 0.02), 0.01)
        b.box((x - 0.28, 0.05, h), (x + 0.28, 0.55, h + 0.006), hob, cell_m=0.3)
        with b.at(0, d / 2):
            clutter(b, row, 0.4, h, int(b.rng.integers(2, 3 + 3 * row)))
        if above and b.rng.random() < 0.85:
            low, high, deep = b.rng.uniform(1.35, 1.5), b.rng.uniform(2.0, 2.2), 0.34
            b.box((-row / 2, 0, low), (row / 2, deep, high), body, bottom=True)
            _doors(b, row, deep, low + 0.01, high - 0.01, front if b.rng.random() < 0.7 else fronts(b.rng))
