"""Training triples: a target frame and two sources, one backwards and one forwards in time (section 4.1).

The paper only states the bounds on the relative pose. Here every 10th frame is a target. The source on each side is the
frame within the bounds that is nearest in time.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from d3d.errors import ConfigError, DataError, counted

# Gaps tried in one step: enough to amortise the call, few enough that 5000 targets take about 10 MB
_GAPS_PER_STEP = 32
_ROUNDING_M = 1e-9  # five steps of 1 cm are 5 cm


@dataclass(frozen=True)
class Triples:
    """Result of `find_triples`; ``len(self) + sum(dropped.values()) == targets_tried``."""

    indices: np.ndarray  # (m, 3) int64 frame indices [target, backward source, forward source]
    targets_tried: int
    dropped: dict[str, int] = field(default_factory=dict)  # reason -> number of targets without a triple

    def __len__(self) -> int:
        return len(self.indices)

    def require(self, where: str) -> Triples:
        """Return itself; raises DataError with the reasons if there is no triple."""
        if len(self):
            return self
        reasons = "; ".join(f"{count} x {reason}" for reason, count in self.dropped.items())
        raise DataError(
            f"{where}: no training triple from {self.targets_tried} target frames. Reasons: {reasons}. Poses must be "
            "in metres and frames in temporal order. A sparse video needs wider bounds."
        )


def find_triples(
    world_T_cams: np.ndarray,
    every: int = 10,
    translation_m: tuple[float, float] = (0.05, 0.10),
    max_rotation_deg: float = 3.0,
    max_gap: int | None = None,
    targets: Sequence[int] | None = None,
) -> Triples:
    """Find the nearest source backwards and forwards in time within the bounds, for every Nth frame.

    Reasons for a missing source on a side: there is no frame; no frame is as far as the lower bound ("moved too
    little"); all frames within the bounds on translation rotated too much; the camera jumped over the bounds ("moved
    too far").

    Args:
        world_T_cams: (n, 4, 4) poses in temporal order, metres.
        every: every Nth frame is a target.
        translation_m: smallest and largest distance of the camera centres, metres, both included.
        max_rotation_deg: largest angle of the relative rotation, included.
        max_gap: largest difference in frames; None: no limit.
        targets: indices of the targets in increasing order, instead of every Nth pose. Needed if the scene leaves out
            frames of the video (`Scene.every`).

    Raises:
        ConfigError: a bound is invalid.
        DataError: the poses are not finite or have a wrong shape.
    """
    low, high = translation_m
    if every < 1 or not 0 <= low < high or max_rotation_deg <= 0 or (max_gap is not None and max_gap < 1):
        raise ConfigError(
            "find_triples needs every >= 1, 0 <= translation_m[0] < translation_m[1], max_rotation_deg > 0 and "
            f"max_gap >= 1 or None; got {every}, {translation_m}, {max_rotation_deg}, {max_gap}."
        )
    poses = np.asarray(world_T_cams, dtype=np.float64)
    if poses.ndim != 3 or poses.shape[1:] != (4, 4):
        raise DataError(f"find_triples needs poses of shape (n, 4, 4), got {poses.shape}.")
    if len(bad := np.flatnonzero(~np.isfinite(poses).all(axis=(1, 2)))):
        raise DataError(
            f"{counted(len(bad), 'pose is', 'poses are')} not finite; the first has number {bad[0]}. "
            f"Leave {'it' if len(bad) == 1 else 'them'} out."
        )
    targets = np.arange(0, len(poses), every) if targets is None else np.asarray(targets, dtype=np.int64)
    if len(targets) and not 0 <= targets.min() <= targets.max() < len(poses):
        raise ConfigError(f"find_triples: targets must be indices of the {len(poses)} poses.")
    bounds = (low, high, max_rotation_deg, max_gap or len(poses))
    backward, why_backward = _nearest(poses, targets, -1, bounds)
    forward, why_forward = _nearest(poses, targets, 1, bounds)
    found = (backward >= 0) & (forward >= 0)
    dropped: Counter[str] = Counter()
    for b, f in zip(why_backward[~found], why_forward[~found], strict=True):
        side = "on either side" if b and f else "backwards" if b else "forwards"
        dropped[f"no source {side}: {' | '.join(dict.fromkeys(filter(None, (b, f))))}"] += 1
    indices = np.stack((targets, backward, forward), axis=1)[found]
    return Triples(indices.astype(np.int64), len(targets), dict(dropped.most_common()))


def _nearest(
    poses: np.ndarray, targets: np.ndarray, direction: int, bounds: tuple[float, float, float, int]
) -> tuple[np.ndarray, np.ndarray]:
    """Find the source of each target on one side (-1 if missing), and the reason for a missing source (else "").

    All targets are searched together, a few gaps at a time, so that memory is linear in the number of frames.
    """
    n, (low, high, max_deg, max_gap) = len(poses), bounds
    centres, rotations = poses[:, :3, 3], poses[:, :3, :3].reshape(n, 9)
    # |A - B|_F = 2 sqrt(2) sin(angle / 2): unlike arccos of the trace, exact for small angles and
    # insensitive to rotations that are orthonormal only to a few digits.
    max_chord = 2 * np.sqrt(2) * np.sin(np.deg2rad(min(max_deg, 180.0)) / 2) * (1 + 1e-12)
    source = np.full(len(targets), -1)
    far_enough, in_bounds = np.zeros((2, len(targets)), bool)
    room = np.minimum(targets if direction < 0 else n - 1 - targets, max_gap)
    active = np.flatnonzero(room > 0)
    gap = 1
    while len(active):
        t = targets[active, None]
        gaps = np.arange(gap, gap + _GAPS_PER_STEP)
        inside = gaps <= room[active, None]
        s = np.where(inside, t + direction * gaps, t)
        distance = np.linalg.norm(centres[s] - centres[t], axis=-1)
        moved = inside & (distance >= low - _ROUNDING_M)
        near = moved & (distance <= high + _ROUNDING_M)
        fits = near & (np.linalg.norm(rotations[s] - rotations[t], axis=-1) <= max_chord)
        far_enough[active] |= moved.any(axis=1)
        in_bounds[active] |= near.any(axis=1)
        hit = fits.any(axis=1)
        source[active[hit]] = s[hit, fits[hit].argmax(axis=1)]
        gap += _GAPS_PER_STEP
        active = active[~hit & (room[active] >= gap)]
    reasons = ["", "no frame there", "moved too little", "rotated too much"]
    why = np.select([source >= 0, room == 0, ~far_enough, in_bounds], reasons, "moved too far")
    return source, why
