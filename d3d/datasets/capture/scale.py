"""The scale of a capture: metres per unit of its poses. It is given, measured, or unknown."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from d3d.datasets.bounds import ROOM_DEPTH_M
from d3d.datasets.capture.scene import CaptureScene
from d3d.datasets.capture.sweep import choose_pairs, median_depth, sweep
from d3d.errors import ConfigError, DataError, rounded

_HYPOTHESES = 1500  # planes tried for the floor
_MOST_TILT_DEG = 40.0  # of the floor against the mean upward direction of cameras, which look down


@dataclass(frozen=True)
class Scale:
    """The user's information about the scale; at most one field is set.

    Attributes:
        metres_per_unit: the scale itself.
        distance: ids of two frames, and the distance of their cameras in metres.
        camera_height: mean height of the camera above the floor, metres.
    """

    metres_per_unit: float | None = None
    distance: tuple[str, str, float] | None = None
    camera_height: float | None = None

    @classmethod
    def of(cls, metres_per_unit: float | None, distance: tuple | None, camera_height: float | None) -> Scale:
        """Check the user's values. Raises ConfigError."""
        given = {"metres_per_unit": metres_per_unit, "distance": distance, "camera_height": camera_height}
        given = {name: value for name, value in given.items() if value is not None}
        if len(given) > 1:
            raise ConfigError(f"{' and '.join(given)}: each determines the scale, so give only one.")
        for name in ("metres_per_unit", "camera_height"):
            if name in given and not 0 < given[name] < np.inf:
                raise ConfigError(f"{name} = {given[name]!r} must be greater than 0.")
        if distance is not None:
            try:
                first, second, metres = distance
                given["distance"] = (str(first), str(second), float(metres))
            except (TypeError, ValueError):
                raise ConfigError(
                    f"distance = {distance!r} must be two frames and metres, such as 0001 0040 1.5."
                ) from None
            if not 0 < given["distance"][2] < np.inf:
                raise ConfigError(f"distance = {distance!r}: the metres must be greater than 0.")
        return cls(**given)


def find_scale(scene: CaptureScene, given: Scale) -> tuple[float, bool, str]:
    """Find the scale of a scene whose poses are in the capture's unit.

    Returns:
        metres per unit; whether the scale is arbitrary; a description of how it was found.

    Raises:
        DataError: the frames of ``distance`` are missing or at one place; no floor is found; or the scale is unknown
            and the camera does not move.
    """
    if given.metres_per_unit is not None:
        return given.metres_per_unit, False, f"{rounded(given.metres_per_unit, 6)} metres per unit, as given"
    if given.distance is not None:
        metres = _by_distance(scene, *given.distance)
        return metres, False, f"{rounded(metres, 4)} metres per unit, by the distance given"
    if given.camera_height is not None:
        metres = given.camera_height / height_above_floor(scene)
        return metres, False, f"{rounded(metres, 4)} metres per unit, by the camera's height"
    if scene.capture.metric:
        return 1.0, False, "poses in metres"
    depth = median_depth(scene)
    if not 0 < depth < np.inf:
        raise DataError(
            f"capture {scene.name!r}: its scale is not known and its camera does not move. Film while you walk."
        )
    how = f"unknown scale: relative units, in which the median depth is {ROOM_DEPTH_M:g}"
    return ROOM_DEPTH_M / depth, True, how


def height_above_floor(scene: CaptureScene) -> float:
    """Compute the mean height of the cameras above the floor, in the unit of their poses.

    The floor is the nearly horizontal plane below the cameras with the most swept points (`sweep`). A shiny floor also
    has points below it: the mirror images of the room.

    Raises:
        DataError: no floor is found.
    """
    points = []
    for pair in choose_pairs(scene):
        poses = pair.of(scene.world_T_cams)
        if np.ptp(poses[:, :3, 3], axis=0).max() > 0:
            points.append(_world_points(sweep(pair, poses).depth, pair.Ks[0].numpy(), poses[0]))
    up = -scene.world_T_cams[:, :3, 1].mean(axis=0)
    if not points or np.linalg.norm(up) < 0.3:
        raise DataError(f"capture {scene.name!r}: no floor found for camera_height. Use distance instead.")
    points, rng = np.concatenate(points), np.random.default_rng(0)
    up, scale = up / np.linalg.norm(up), np.median(np.abs(points - points.mean(axis=0)))
    best, height = 0, None
    for a, b, c in points[rng.integers(0, len(points), (_HYPOTHESES, 3))]:
        normal = np.cross(b - a, c - a)
        length = np.linalg.norm(normal)
        if length < 1e-12:
            continue
        normal = normal * np.sign(normal @ up) / length
        if normal @ up < np.cos(np.radians(_MOST_TILT_DEG)):
            continue
        on = int((np.abs((points - a) @ normal) < 0.05 * scale).sum())
        above = float(((scene.world_T_cams[:, :3, 3] - a) @ normal).mean())
        if on > best and above > 0:
            best, height = on, above
    if height is None or best < 0.03 * len(points):
        raise DataError(f"capture {scene.name!r}: no floor found for camera_height. Use distance instead.")
    return height


def _world_points(depth: np.ndarray, K: np.ndarray, world_T_cam: np.ndarray) -> np.ndarray:
    """Back-project every second pixel of each row and column to points (n, 3) of the world."""
    y, x = np.mgrid[: depth.shape[0] : 2, : depth.shape[1] : 2].reshape(2, -1)
    rays = np.linalg.inv(K) @ np.stack((x, y, np.ones_like(x)))
    return (rays * depth[y, x]).T @ world_T_cam[:3, :3].T + world_T_cam[:3, 3]


def _by_distance(scene: CaptureScene, first: str, second: str, metres: float) -> float:
    numbers = {}
    for i, frame in enumerate(scene.frames):
        for name in (frame.id, frame.image.name, frame.image.stem):
            numbers.setdefault(name, i)
    for name in (first, second):
        if name not in numbers:
            some = ", ".join(scene.frame_ids[:3])
            raise DataError(f"distance: no frame {name!r} has a pose. The capture's frames are {some}, ...")
    a, b = (scene.world_T_cams[numbers[name], :3, 3] for name in (first, second))
    length = float(np.linalg.norm(a - b))
    if length < 1e-9:
        raise DataError(
            f"distance: {first!r} and {second!r} are at the same place. Choose two frames far apart."
        )
    return metres / length
