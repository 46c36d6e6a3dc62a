"""Bounds of the rule for triples and the range of depth, chosen for a scene: for captures that are not like ScanNet.

ScanNet's triples are 5 to 10 cm apart, 2 to 4 % of a room's median depth of 2.5 m, and turn by 3 degrees at most.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import product

import numpy as np

from d3d.datasets.triples import find_triples
from d3d.errors import DataError, rounded

ROOM_DEPTH_M = 2.5  # median depth of a room, for which the paper's lengths are made
MOST_DEPTH_M = 65.0  # what 16-bit depth maps in millimetres can hold
PARALLAX = ((0.02, 0.08), (0.015, 0.12), (0.01, 0.2))  # translation as a share of the median depth
ROTATION_DEG = (3.0, 5.0, 8.0, 12.0, 20.0)
ENOUGH = 0.6  # share of the targets that should have two sources


@dataclass(frozen=True)
class Bounds:
    """Bounds for a scene.

    Attributes:
        translation_m, max_rotation_deg: of the rule for triples.
        min_depth, max_depth: the range of depth of the networks.
        scale: of all other lengths (voxel, truncation, threshold): 1 for a room.
        triples, targets: how many targets have two sources.
        median_depth: of the scene.
    """

    translation_m: tuple[float, float]
    max_rotation_deg: float
    min_depth: float
    max_depth: float
    scale: float
    triples: int
    targets: int
    median_depth: float


def choose_bounds(
    world_T_cams: np.ndarray, median_depth: float, every: int, targets: list[int] | None = None
) -> Bounds:
    """The narrowest bounds with which most targets get two sources, with a parallax of 2 to 8 % where that is enough.

    Raises:
        DataError: the camera did not move, or the depth is not known.
    """
    spread = float(np.ptp(world_T_cams[:, :3, 3], axis=0).max())
    if not 0 < median_depth < np.inf or spread < 1e-3 * median_depth:
        raise DataError(
            f"the camera's positions differ by {rounded(spread)} only, at a depth of {rounded(median_depth)}. A "
            "training needs a camera that moves sideways. Film while you walk, not while you turn."
        )
    scale = median_depth / ROOM_DEPTH_M
    scale = 1.0 if 0.5 <= scale <= 2 else _two_digits(scale)
    best = None
    for (low, high), rotation in product(PARALLAX, ROTATION_DEG):
        translation = (_two_digits(low * median_depth), _two_digits(high * median_depth))
        found = find_triples(world_T_cams, every, translation, rotation, targets=targets)
        lengths = (_two_digits(0.1 * scale), min(_two_digits(10.0 * scale), MOST_DEPTH_M), scale)
        bounds = Bounds(translation, rotation, *lengths, len(found), found.targets_tried, median_depth)
        if best is None or bounds.triples > best.triples:
            best = bounds
        if bounds.triples >= ENOUGH * bounds.targets:
            break
    return best


def _two_digits(value: float) -> float:
    return round(value, 1 - math.floor(math.log10(value)))
