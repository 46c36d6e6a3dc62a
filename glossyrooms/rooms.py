"""Procedural rooms: plan, windows, lamps, furniture and materials from one seed.

There are three kinds of rooms, named after the floor: "glossy" (polished stone, lacquered wood), "matt" (carpet, oiled
wood), and "mirror": a glossy floor and a mirror on a wall, a case that the paper does not solve.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from glossyrooms import furniture, textures, wide
from glossyrooms.furniture import any_color, brown, matt, wooden
from glossyrooms.mesh import GLOSSY, LIGHT, MATT, MIRROR, Builder, Geometry, Material
from glossyrooms.textures import hsv
from glossyrooms.walls import Wall, add_door, add_wall, add_window, draw_openings

FLOORS = ("glossy", "matt", "mirror")
# Radiance of the lights in arbitrary units, since each room has its own exposure. By day a window is about fifty times
# as bright as a floor in its light; the shade of a lamp is brighter, a ceiling panel is weaker
WINDOW, LAMP, PANEL = 18.0, 30.0, 1.2


@dataclass(frozen=True)
class Room:
    """A room ready to be baked and rendered.

    Attributes:
        size: width (x), depth (y), height (z), metres; the floor is z = 0, one corner the origin.
        focus: (x, y), the centre of the camera's loop on the floor.
        radius: radii of the loop along x and y.
        spec: description of the room for readers.
    """

    seed: int
    floor: str
    size: tuple[float, float, float]
    focus: tuple[float, float]
    radius: tuple[float, float]
    geometry: Geometry
    spec: dict[str, object]


def build(seed: int, floor: str = "glossy", variety: str = "") -> Room:
    """Build the room of a seed.

    Args:
        seed: seed of the room.
        floor: one of `FLOORS`.
        variety: "" for rooms like those that ship, or "wide".
    """
    rng = np.random.default_rng([seed, 1])
    b, plan = Builder(rng), wide.plan(seed) if variety else None
    W, D, H = plan.size if plan else (rng.uniform(4.2, 5.8), rng.uniform(4.0, 5.4), rng.uniform(2.35, 2.8))
    day, lamp = rng.uniform(0.7, 1.3) * (plan.day if plan else 1), LAMP * (plan.lamp if plan else 1)
    spec: dict[str, object] = {
        "floor": floor,
        "size_m": [round(float(a), 2) for a in (W, D, H)],
        "daylight": round(float(day), 2),
    }
    # 0: y = 0, 1: x = W, 2: y = D, 3: x = 0; y of each wall's own frame points into the room
    walls = [
        Wall(0, 0, 0, W, [], []),
        Wall(W, 0, np.pi / 2, D, [], []),
        Wall(W, D, np.pi, W, [], []),
        Wall(0, D, -np.pi / 2, D, [], []),
    ]
    floor_material, spec["floor_texture"] = _floor(rng, floor)
    b.patch((0, 0, 0), (W, 0, 0), (0, D, 0), (0, 0, 1), floor_material)
    ceiling = Material(
        "ceiling", MATT, textures.paint(rng, hsv(0.1, rng.uniform(0, 0.06), rng.uniform(0.85, 0.92)), 0.6)
    )
    b.patch((0, 0, H), (W, 0, 0), (0, D, 0), (0, 0, -1), ceiling)

    order = rng.permutation(4)
    lit = set(map(int, order[: int(rng.choice([1, 2, 2]))]))
    wall_color = hsv(rng.random(), rng.uniform(0.03, 0.25), rng.uniform(0.5, 0.85))
    windows = 0
    for k, wall in enumerate(walls):
        color = wall_color if rng.random() < 0.75 else any_color(rng, (0.4, 0.9))
        texture = textures.wallpaper(rng, color) if rng.random() < 0.4 else textures.paint(rng, color)
        material = Material("wall", MATT, texture)
        with b.at(wall.x, wall.y, 0, wall.yaw):
            openings = draw_openings(rng, wall, H) if k in lit else []
            windows += len(openings)
            add_wall(b, wall.length, H, openings, material)
            for opening in openings:
                add_window(b, opening, WINDOW * day)
            board = matt(rng, hsv(0.1, 0.1, rng.choice([0.25, 0.9])))
            b.box((0, 0, 0), (wall.length, 0.012, rng.uniform(0.05, 0.1)), board, cell_m=0.25)
    spec["windows"] = windows
    dark = [k for k in range(4) if k not in lit]
    if rng.random() < 0.8:
        add_door(b, walls[dark[0]])
    if plan:
        spec["kind"] = plan.kind
        if plan.kind == "kitchen":
            _kitchen(b, walls)
    spec["wall_lamps"] = _wall_lamps(b, walls, int(rng.integers(2, 5)), lamp)
    spec["ceiling_panels"] = _ceiling_panels(b, W, D, H, PANEL * (plan.lamp if plan else 1))
    if floor == "mirror":
        _mirror(b, walls, [*dark, *lit])
    spec["furniture"] = _along_walls(b, walls, plan)
    focus = (W / 2 + rng.uniform(-0.2, 0.2), D / 2 + rng.uniform(-0.2, 0.2))
    radius = (min(1.75, W / 2 - 0.85), min(1.75, D / 2 - 0.8))
    spec["middle"] = _middle(b, focus, radius) if plan is None else _middles(b, plan)
    _pictures(b, walls)
    return Room(seed, floor, (float(W), float(D), float(H)), focus, radius, b.finish(), spec)


def _floor(rng: np.random.Generator, floor: str) -> tuple[Material, str]:
    if floor == "matt":
        kind = rng.choice(["carpet", "planks", "terrazzo"])
        color = any_color(rng, (0.3, 0.8)) if kind == "carpet" else brown(rng)
        return Material("floor", MATT, getattr(textures, kind)(rng, color)), str(kind)
    kind = str(rng.choice(["planks", "herringbone", "tiles", "tiles"]))
    color = (
        brown(rng, (0.3, 0.7))
        if kind in ("planks", "herringbone")
        else hsv(rng.uniform(0, 0.15), rng.uniform(0, 0.3), rng.uniform(0.28, 0.6))
    )
    texture = getattr(textures, kind)(rng, color, rng.uniform(0.5, 0.9))
    return Material("floor", GLOSSY, texture, float(rng.uniform(0.001, 0.008))), kind


def _wall_lamps(b: Builder, walls: list[Wall], count: int, radiance: float) -> int:
    made = 0
    for _ in range(count):
        wall = walls[int(b.rng.integers(4))]
        s = wall.free(b.rng, 0.3)
        if s is None:
            continue
        made += 1
        wall.doors.append((s - 0.35, s + 0.35))
        shade = Material(
            "shade", LIGHT, textures.glow(b.rng, radiance * b.rng.uniform(0.7, 1.3), b.rng.uniform(0, 1))
        )
        half, tall = b.rng.uniform(0.06, 0.13), b.rng.uniform(0.12, 0.3)
        with b.at(wall.x, wall.y, 0, wall.yaw), b.at(s, 0, b.rng.uniform(1.25, 1.8)):
            b.box(
                (-0.04, 0, tall / 2 - 0.04),
                (0.04, 0.04, tall / 2 + 0.04),
                matt(b.rng),
                bottom=True,
                cell_m=0.3,
            )
            b.box((-half, 0.04, 0), (half, 0.04 + 1.4 * half, tall), shade, bottom=True, cell_m=0.3)
    return made


def _ceiling_panels(b: Builder, W: float, D: float, H: float, radiance: float) -> int:
    nx, ny = b.rng.choice([(1, 1), (2, 1), (2, 2), (0, 0)])
    warm = b.rng.uniform(0, 0.6)
    for i in range(nx):
        for j in range(ny):
            x, y, half = W * (i + 0.5) / nx, D * (j + 0.5) / ny, 0.25
            light = Material("panel", LIGHT, textures.glow(b.rng, radiance * b.rng.uniform(0.8, 1.2), warm))
            b.patch(
                (x - half, y - half, H - 0.02),
                (2 * half, 0, 0),
                (0, 2 * half, 0),
                (0, 0, -1),
                light,
                cell_m=5,
            )
            rim = matt(b.rng, hsv(0, 0, 0.8))
            for dx, dy, u in (
                (-half, -half, (2 * half, 0, 0)),
                (-half, half, (2 * half, 0, 0)),
                (-half, -half, (0, 2 * half, 0)),
                (half, -half, (0, 2 * half, 0)),
            ):
                out = (0, np.sign(dy), 0) if u[0] else (np.sign(dx), 0, 0)
                b.patch((x + dx, y + dy, H - 0.02), u, (0, 0, 0.02), out, rim, cell_m=0.5)
    return int(nx * ny)


def _mirror(b: Builder, walls: list[Wall], order: list[int]) -> None:
    for k in order:
        wall = walls[k]
        w = b.rng.uniform(0.6, 1.2)
        s = wall.free(b.rng, w)
        if s is None:
            continue
        wall.taken.append((s - w / 2 - 0.05, s + w / 2 + 0.05))
        glass = Material("mirror", MIRROR, textures.speckle(b.rng, np.full(3, 0.8), 0.0))
        low = b.rng.uniform(0.05, 0.5)
        with b.at(wall.x, wall.y, 0, wall.yaw), b.at(s, 0):
            b.box((-w / 2, 0, low), (w / 2, 0.02, 1.9), wooden(b.rng), bottom=True)
            b.patch(
                (-w / 2 + 0.04, 0.022, low + 0.04), (w - 0.08, 0, 0), (0, 0, 1.82 - low), (0, 1, 0), glass
            )
        return


def _kitchen(b: Builder, walls: list[Wall]) -> None:
    """Build one or two kitchen rows along walls; a row below a window has no cupboards above."""
    rows = int(b.rng.integers(1, 3))
    for k in b.rng.permutation(4):
        wall = walls[k]
        width = float(b.rng.uniform(1.6, min(3.6, wall.length - 0.2)))
        for above in (True, False):
            s = wall.free(b.rng, width, both=above)
            if s is not None and rows:
                rows -= 1
                with b.at(wall.x, wall.y, 0, wall.yaw), b.at(s, 0.015):
                    furniture.kitchen(b, width, above)
                wall.taken.append((s - width / 2, s + width / 2))
                break


def _middles(b: Builder, plan: wide.Plan) -> list[str]:
    """Put groups of objects in the middle of a wide room, side by side along x."""
    W, D, n = plan.size[0], plan.size[1], plan.middles
    radius = (max(0.3, W / (2 * n + 1e-9) - 0.9), max(0.3, D / 2 - 0.9))
    return [name for k in range(n) for name in _middle(b, (W * (k + 0.5) / n, D / 2), radius)]


def _along_walls(b: Builder, walls: list[Wall], plan: wide.Plan | None) -> list[str]:
    """Put furniture along the walls where there is space; tall furniture is kept clear of windows."""
    rng, made = b.rng, []
    builders = [
        ("sofa", furniture.sofa, 2.15, False),
        ("cabinet", furniture.cabinet, 1.65, False),
        ("bookshelf", furniture.bookshelf, 1.35, True),
        ("desk", furniture.desk, 1.65, False),
        ("television", furniture.television, 1.75, False),
        ("bed", furniture.bed, 1.5, False),
        ("plant", furniture.plant, 0.7, False),
        ("plant", furniture.plant, 0.7, False),
        ("cabinet", furniture.cabinet, 1.65, False),
    ]
    wanted = plan.furniture if plan else int(rng.integers(4, 8))
    builders += wide.PIECES if plan else []
    for index in rng.permutation(len(builders)):
        name, make, width, tall = builders[index]
        if len(made) == wanted:
            break
        if name in ("bed", "sofa") and {"bed", "sofa"} & set(made):
            continue  # a bed and a sofa together would block the path of the camera
        for k in rng.permutation(4):
            wall = walls[k]
            margin = 0.55 if name in ("sofa", "bed", "desk") else 0.0  # keeps the corners free
            s = wall.free(rng, width + margin, both=tall)
            if s is not None:
                with b.at(wall.x, wall.y, 0, wall.yaw), b.at(s, 0.35 if name == "plant" else 0.015):
                    width = make(b)
                wall.taken.append((s - width / 2 - 0.08, s + width / 2 + 0.08))
                made.append(name)
                break
    if rng.random() < 0.3:
        k = int(rng.integers(4))
        s = walls[k].free(rng, 0.5)
        if s is not None:
            with b.at(walls[k].x, walls[k].y, 0, walls[k].yaw), b.at(s, 0.3):
                furniture.floor_lamp(b, 0.6 * LAMP * (plan.lamp if plan else 1))
            walls[k].taken.append((s - 0.25, s + 0.25))
            made.append("floor lamp")
    return made


def _middle(b: Builder, focus: tuple[float, float], radius: tuple[float, float]) -> list[str]:
    """Put objects lower than the camera inside its loop; half of the floor stays bare."""
    rng, made = b.rng, []
    taken: list[tuple[float, float, float]] = []

    def place(size: float, reach: float) -> tuple[float, float] | None:
        for _ in range(30):
            a, r = rng.uniform(0, 2 * np.pi), rng.uniform(0, reach)
            x, y = focus[0] + r * radius[0] * np.cos(a), focus[1] + r * radius[1] * np.sin(a)
            if all(np.hypot(x - u, y - v) > size + s for u, v, s in taken):
                taken.append((x, y, size))
                return x, y
        return None

    if rng.random() < 0.35:
        w, d = rng.uniform(1.1, 1.6), rng.uniform(0.7, 1.0)
        material = Material("rug", MATT, textures.rug(rng))
        x, y = place(0.3, 0.8) or focus
        with b.at(x, y, 0, rng.uniform(0, np.pi)):
            b.box((-w / 2, -d / 2, 0), (w / 2, d / 2, 0.008), material)
        made.append("rug")
        taken.clear()
    if rng.random() < 0.75:
        w, d = rng.uniform(0.7, 1.3), rng.uniform(0.5, 0.8)
        h = rng.choice([0.42, 0.74])
        spot = place(0.6 * w, 0.6)
        if spot:
            yaw = rng.uniform(0, np.pi)
            with b.at(*spot, 0, yaw):
                furniture.table(b, w, d, h, furniture.polished(rng))
            made.append("table")
            if h > 0.6:
                for side in rng.permutation([-1, 1])[: int(rng.integers(1, 3))]:
                    with (
                        b.at(*spot, 0, yaw),
                        b.at(rng.uniform(-0.2, 0.2), side * (d / 2 + 0.15), 0, 0 if side < 0 else np.pi),
                    ):
                        furniture.chair(b)
                    made.append("chair")
    for _ in range(int(rng.integers(2, 6))):
        spot = place(0.25, 1.25)
        if spot:
            with b.at(*spot, 0, rng.uniform(0, 2 * np.pi)):
                furniture.thing(b, small=False)
            made.append("thing")
    return made


def _pictures(b: Builder, walls: list[Wall]) -> None:
    """Hang framed pictures and posters on the free parts of the walls."""
    for wall in walls:
        for _ in range(int(b.rng.integers(1, 4))):
            w = b.rng.uniform(0.3, 0.9)
            s = wall.free(b.rng, w + 0.1)
            if s is None:
                continue
            wall.doors.append((s - w / 2 - 0.05, s + w / 2 + 0.05))
            h, z = w * b.rng.uniform(0.6, 1.3), b.rng.uniform(1.2, 1.6)
            print_ = Material("picture", MATT, textures.picture(b.rng))
            with b.at(wall.x, wall.y, 0, wall.yaw), b.at(s, 0, z - h / 2, np.pi):
                b.box((-w / 2, -0.02, 0), (w / 2, 0, h), matt(b.rng), front=print_, bottom=True, cell_m=0.2)
