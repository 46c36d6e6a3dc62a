"""Variety "wide" (`python -m glossyrooms.make --variety wide`): other rooms, cameras, paths, light and photographs.

The rooms that ship have one camera: 62 degrees wide, at eye height, 29 degrees downwards, on a loop. A network that is
trained on them expects this camera. Wide rooms differ in what a network must not rely on.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from glossyrooms import furniture
from glossyrooms.camera import looking
from glossyrooms.render import encode

NAME = "wide"
FOV_X_DEG = (45.0, 85.0)  # from a phone's second lens to an action camera
EYE_M = (0.8, 1.9)
PITCH_DEG = (-5.0, 12.0, 45.0)  # least, most frequent, greatest
TAKE = 10  # least number of frames in a take
MARGIN_M = 0.45  # of the camera from the walls
STEP_M = (0.06, 0.085)
TURN_DEG = 2.2  # between two frames: yaw, pitch and roll together stay below 3 degrees
NEAREST_M = 0.25  # smallest depth
HIGHLIGHT_SHARE = {"glossy": (0.0, 0.12), "mirror": (0.0, 0.12), "matt": (0.0, 0.02)}
KINDS = {"room": 0.35, "small": 0.15, "hall": 0.15, "corridor": 0.1, "kitchen": 0.25}
_SIZES = {  # ranges of width, depth and height, metres
    "room": ((3.4, 5.8), (3.4, 5.4), (2.35, 2.8)),
    "small": ((2.3, 3.2), (2.3, 3.4), (2.3, 2.6)),
    "hall": ((5.5, 8.5), (5.0, 8.0), (2.6, 3.6)),
    "corridor": ((1.5, 2.1), (5.0, 8.5), (2.3, 2.7)),
    "kitchen": ((2.6, 4.8), (2.8, 5.2), (2.35, 2.8)),
}
# furniture that the rooms that ship do not have, as `rooms` lists it: name, function, width, tall
PIECES = [
    ("stool", furniture.stool, 0.6, False),
    ("round table", furniture.round_table, 1.0, False),
    ("wardrobe", furniture.wardrobe, 1.65, True),
    ("chair", furniture.lone_chair, 0.6, False),
]


@dataclass(frozen=True)
class Plan:
    """What a wide room is.

    Attributes:
        kind: a key of `KINDS`.
        size: width, depth, height, metres.
        day, lamp: factors of the light of windows and of lamps.
        furniture: number of pieces along the walls.
        middles: number of groups of objects in the middle.
    """

    kind: str
    size: tuple[float, float, float]
    day: float
    lamp: float
    furniture: int
    middles: int


def plan(seed: int) -> Plan:
    """Draw the plan of a room."""
    rng = np.random.default_rng([seed, 5])
    kind = str(rng.choice(list(KINDS), p=list(KINDS.values())))
    size = tuple(float(rng.uniform(*limits)) for limits in _SIZES[kind])
    day = float(rng.choice([rng.uniform(0.3, 1.3), 0.02], p=[0.8, 0.2]))  # one room in five is shown at night
    wall_m = 2 * (size[0] + size[1])
    full = rng.uniform(0.15, 0.35) if kind in ("corridor", "small") else rng.uniform(0.3, 0.6)
    middles = {"corridor": 0, "small": int(rng.integers(2)), "hall": 2}.get(kind, 1)
    return Plan(kind, size, day, float(np.exp(rng.uniform(-1.2, 0.3))), round(full * wall_m), middles)


def fov_x_deg(seed: int) -> float:
    """Draw the horizontal field of view of a room's camera, degrees."""
    return float(np.random.default_rng([seed, 6]).uniform(*FOV_X_DEG))


def takes(frames: int) -> list[int]:
    """Return the number of frames of each take: a room is filmed in several short takes from different places."""
    return [len(part) for part in np.array_split(np.arange(frames), max(1, frames // TAKE))]


def walk(seed: int, frames: int, size: tuple[float, float, float]) -> np.ndarray:
    """Return poses (frames, 4, 4) world_T_cam, OpenCV axes: the takes of a room one after the other.

    Neighbours in a take are 6 to 8.5 cm apart and turn by less than 3 degrees, so that they are the sources of triples
    (section 4.1).

    Args:
        seed: seed of the room.
        frames: number of poses.
        size: width, depth, height of the room, metres.
    """
    rng = np.random.default_rng([seed, 7])
    return np.concatenate([_take(rng, n, size) for n in takes(frames)])


def _take(rng: np.random.Generator, n: int, size: tuple[float, float, float]) -> np.ndarray:
    floor, k = np.array(size[:2]), np.arange(n)
    eye = min(rng.uniform(*EYE_M), size[2] - 0.4)
    pitch = np.deg2rad(rng.triangular(*PITCH_DEG) + 0.4 * np.cumsum(rng.uniform(-1, 1) * np.cos(0.3 * k)))
    roll = np.deg2rad(rng.normal(0, 1.5) + rng.uniform(0, 1.2) * np.sin(0.2 * k + rng.uniform(0, 6)))
    phase, step, kind = (
        rng.uniform(0, 6, 2),
        rng.uniform(*STEP_M),
        rng.choice(["loop", "sweep", "walk", "look"]),
    )
    for _ in range(100):  # until the path lies in the room and looks into it
        start = rng.uniform(MARGIN_M, floor - MARGIN_M)
        aim = rng.uniform(0, floor)
        way = aim - start
        far = np.hypot(*way)
        yaw0, side = np.arctan2(way[1], way[0]), rng.choice([-1.0, 1.0])
        turn = np.deg2rad(rng.uniform(-0.6, 0.6))  # radians a step
        heading = yaw0 + side * np.pi / 2 + rng.uniform(-0.4, 0.4)
        if kind == "loop":  # around the aim
            turn = -side * min(np.arctan2(step, far), np.deg2rad(TURN_DEG))
        elif kind == "walk":  # forwards or backwards
            heading = yaw0 + rng.choice([0, np.pi]) + rng.uniform(-0.5, 0.5)
        elif kind == "look":  # look around on a straight way
            heading, turn = rng.uniform(0, 2 * np.pi), side * np.deg2rad(rng.uniform(1.0, TURN_DEG))
        yaw = yaw0 + turn * k
        way = heading + (turn * k if kind == "loop" else rng.uniform(-0.02, 0.02) * k)
        steps = step * np.stack((np.cos(way), np.sin(way)), axis=1)
        flat = start + np.cumsum(steps, axis=0) - steps[0]
        inside = (flat > MARGIN_M).all() and (flat < floor - MARGIN_M).all()
        if inside and far > min(1.3, floor.min() / 2):
            break
    up = eye + 0.015 * np.sin(0.9 * k + phase[0]) + rng.uniform(-0.01, 0.01) * k
    return looking(np.column_stack((flat, up)), yaw, pitch, roll)


@dataclass(frozen=True)
class Photograph:
    """The photographs of a camera: one setting for all frames of a room, noise for each frame."""

    seed: int
    gain: tuple[float, float, float]
    contrast: float
    saturation: float
    vignette: float
    blur_px: float
    noise: float
    jpeg_quality: int

    def __call__(self, exposed: np.ndarray, index: int) -> np.ndarray:
        """Return the photograph, uint8 sRGB (h, w, 3), of exposed linear radiance (h, w, 3)."""
        h, w = exposed.shape[:2]
        y, x = np.mgrid[:h, :w]
        radius = np.hypot(x - (w - 1) / 2, y - (h - 1) / 2) / np.hypot(w / 2, h / 2)
        light = exposed * np.array(self.gain) * (1 - self.vignette * radius**2)[..., None]
        light = ndimage.gaussian_filter(light, (self.blur_px, self.blur_px, 0))
        image = encode(light.clip(0))
        grey = image.mean(axis=-1, keepdims=True)
        image = (grey + self.saturation * (image - grey)).clip(0, 1)
        image += self.contrast * image * (1 - image) * (2 * image - 1)  # an S-shaped curve
        rng = np.random.default_rng([self.seed, 8, index])
        noise = self.noise * (0.5 + np.sqrt(image.clip(0, 1))) * rng.standard_normal(image.shape)
        return (255 * (image + noise).clip(0, 1) + 0.5).astype(np.uint8)


def photograph(seed: int) -> Photograph:
    """Draw how the camera of a room takes photographs."""
    rng = np.random.default_rng([seed, 8])
    exposure, warm, green = np.exp2(rng.normal(0, 0.45)), rng.normal(0, 0.12), rng.normal(0, 0.04)
    return Photograph(
        seed,
        tuple(float(exposure * g) for g in np.exp((warm, green, -warm))),
        contrast=float(rng.uniform(-0.3, 0.8)),
        saturation=float(rng.uniform(0.6, 1.3)),
        vignette=float(rng.uniform(0, 0.4)),
        blur_px=float(rng.uniform(0, 0.5)),
        noise=float(rng.uniform(0, 0.018)),
        jpeg_quality=int(rng.integers(60, 93)),
    )
