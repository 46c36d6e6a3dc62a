"""The path of a handheld camera: a loop around the room that sees the same floor from several sides."""

from __future__ import annotations

import numpy as np

EYE_M = 1.45
PITCH_DEG = 29.0  # at this angle the floor mirrors windows and wall lamps
FOV_X_DEG = 62.0  # as a phone or a Kinect
MAX_TURN_DEG = 2.6  # yaw; the triple rule allows 3 degrees in all between neighbours


def intrinsics(size_hw: tuple[int, int], fov_x_deg: float = FOV_X_DEG) -> np.ndarray:
    """Return K (3, 3): pixel centres at integers, principal point in the middle, square pixels."""
    h, w = size_hw
    focal = w / 2 / np.tan(np.deg2rad(fov_x_deg / 2))
    return np.array([[focal, 0, (w - 1) / 2], [0, focal, (h - 1) / 2], [0, 0, 1]])


def walk(seed: int, frames: int, focus: tuple[float, float], radius: tuple[float, float]) -> np.ndarray:
    """Return poses (frames, 4, 4) world_T_cam, OpenCV axes.

    Steps are 5.6 to 8.6 cm and turns less than 3 degrees, so that the neighbours of a frame are the sources of its
    triple (section 4.1). A tight loop has shorter steps. About 90 frames see the middle of the room from three quarters
    of all sides.

    Args:
        seed: seed of the room.
        frames: number of poses.
        focus: (x, y), the centre of the loop, metres.
        radius: radii of the loop along x and y, metres.
    """
    rng = np.random.default_rng([seed, 2])
    phase, turn = rng.uniform(0, 2 * np.pi, 5), rng.choice([-1.0, 1.0])
    angle = np.linspace(0, frames * 0.09 / min(radius), 40 * frames)  # fine, and longer than the path
    wobble = 1 + 0.05 * np.sin(2.3 * angle + phase[0])
    curve = np.stack(
        (
            focus[0] + radius[0] * wobble * np.cos(turn * angle + phase[1]),
            focus[1] + radius[1] * wobble * np.sin(turn * angle + phase[1]),
            EYE_M + rng.uniform(-0.08, 0.1) + 0.06 * np.sin(1.7 * angle + phase[2]),
        )
    )
    walked = np.append(0, np.cumsum(np.linalg.norm(np.diff(curve), axis=0)))
    k = np.arange(frames)
    pace = np.clip(np.deg2rad(2.45) * min(radius), 0.060, 0.080)
    at = np.append(0, np.cumsum(pace + 0.004 * np.sin(0.7 * k[1:] + phase[3])))
    position = np.stack([np.interp(at, walked, c) for c in curve], axis=1)
    aim = np.array(focus) + 0.25 * np.stack(
        (np.sin(0.11 * k + phase[3]), np.cos(0.09 * k + phase[4])), axis=1
    )
    wanted = np.unwrap(np.arctan2(aim[:, 1] - position[:, 1], aim[:, 0] - position[:, 0]))
    yaw = wanted.copy()
    limit = np.deg2rad(MAX_TURN_DEG)
    for i in range(1, frames):  # turn no faster than the triple rule allows
        yaw[i] = yaw[i - 1] + np.clip(wanted[i] - yaw[i - 1], -limit, limit)
    pitch = np.deg2rad(PITCH_DEG + rng.uniform(-2, 2) + 2.5 * np.sin(0.16 * k + phase[0]))
    roll = np.deg2rad(1.2 * np.sin(0.21 * k + phase[2]))
    return looking(position, yaw, pitch, roll)


def looking(position: np.ndarray, yaw: np.ndarray, pitch: np.ndarray, roll: np.ndarray) -> np.ndarray:
    """Return poses (n, 4, 4) world_T_cam of n cameras at ``position`` (n, 3); angles in radians, pitch downwards."""
    forward = np.stack((np.cos(pitch) * np.cos(yaw), np.cos(pitch) * np.sin(yaw), -np.sin(pitch)), axis=1)
    right = np.stack((np.sin(yaw), -np.cos(yaw), 0 * yaw), axis=1)
    down = np.cross(forward, right)
    c, s = np.cos(roll)[:, None], np.sin(roll)[:, None]
    poses = np.tile(np.eye(4), (len(position), 1, 1))
    poses[:, :3, :3] = np.stack((c * right + s * down, c * down - s * right, forward), axis=2)
    poses[:, :3, 3] = position
    return poses
