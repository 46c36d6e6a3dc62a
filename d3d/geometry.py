"""The one place for conventions: depth, poses, intrinsics, back-projection and warping (Eq. 1).

Depth is z-depth in metres. Poses are ``world_T_cam`` (4x4) with OpenCV axes: x right, y down,
z forward. ``dst_T_src`` maps points from frame src to frame dst, so Equation 1's ``T_{t->s}`` is
``inv(world_T_s) @ world_T_t``. Pixel centres lie at integer coordinates and K follows that.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from d3d.errors import ConfigError, DataError

# Orthonormality of a rotation read from a text file with a few digits: 7-Scenes prints seven
# significant digits and is off by up to 1e-6, ScanNet by 1e-5; a scaled or sheared matrix by more than 1e-2.
ROTATION_TOLERANCE = 1e-3


def check_pose(world_T_cam: np.ndarray, where: str) -> np.ndarray:
    """Validates one camera pose.

    Args:
        world_T_cam: (4, 4) camera-to-world matrix.
        where: which file or frame it comes from, for the message.

    Returns:
        The pose as float64 (4, 4).

    Raises:
        DataError: wrong shape, not finite (lost tracking), last row not (0, 0, 0, 1), or not a rotation.
    """
    pose = np.asarray(world_T_cam, dtype=np.float64)
    if pose.shape != (4, 4):
        raise DataError(f"{where}: a pose must be a 4x4 matrix, this one has shape {pose.shape}.")
    if not np.isfinite(pose).all():
        raise DataError(f"{where}: the pose is not finite (tracking lost?). Leave this frame out.")
    if not np.allclose(pose[3], (0, 0, 0, 1), atol=1e-6):
        raise DataError(f"{where}: the last row of a pose must be 0 0 0 1, this one is {pose[3].tolist()}.")
    rotation = pose[:3, :3]
    with np.errstate(over="ignore", invalid="ignore"):
        error = np.abs(rotation @ rotation.T - np.eye(3)).max()
    if not error <= ROTATION_TOLERANCE or np.linalg.det(rotation) < 0:
        raise DataError(
            f"{where}: the pose's upper left 3x3 is not a rotation (off by {error:.2g}, determinant "
            f"{np.linalg.det(rotation):.3g}). Is the matrix scaled, mirrored, or not camera-to-world?"
        )
    return pose


def check_poses(world_T_cams: np.ndarray, where: Callable[[int], str]) -> np.ndarray:
    """Validates many camera poses at once, as `check_pose` does one: a scene's take 10 us each there.

    Args:
        world_T_cams: (n, 4, 4) camera-to-world matrices.
        where: which file or frame the i-th comes from, for the message.

    Returns:
        The poses as float64 (n, 4, 4).

    Raises:
        DataError: as `check_pose`, of the first that is wrong.
    """
    try:
        poses = np.asarray(world_T_cams, dtype=np.float64)
    except ValueError:  # of different shapes
        poses = np.empty(0)
    good = poses.ndim == 3 and poses.shape[1:] == (4, 4) and np.isfinite(poses).all()
    if good:
        rotations = poses[:, :3, :3]
        with np.errstate(over="ignore", invalid="ignore"):
            off = np.abs(rotations @ rotations.transpose(0, 2, 1) - np.eye(3)).max(axis=(1, 2))
        good = (
            np.allclose(poses[:, 3], (0, 0, 0, 1), atol=1e-6)
            and (off <= ROTATION_TOLERANCE).all()
            and (np.linalg.det(rotations) >= 0).all()
        )
    if not good:  # one by one, to name the one that is wrong
        poses = np.stack([check_pose(pose, where(i)) for i, pose in enumerate(world_T_cams)])
    return poses


def relative_pose(world_T_dst: np.ndarray, world_T_src: np.ndarray) -> np.ndarray:
    """``dst_T_src`` (..., 4, 4) from two camera-to-world poses: maps points of src's frame to dst's."""
    return np.linalg.inv(world_T_dst) @ world_T_src


def upward(world_T_cams: np.ndarray) -> np.ndarray:
    """The world's upward direction (3,): the axis that lies nearest to the cameras' mean upward direction.

    Args:
        world_T_cams: (n, 4, 4) poses of cameras that are held more or less upright.
    """
    up = -np.asarray(world_T_cams)[:, :3, 1].mean(axis=0)
    axis = np.abs(up).argmax()
    return np.eye(3)[axis] * (1.0 if up[axis] >= 0 else -1.0)


def scale_intrinsics(K_33: np.ndarray, from_hw: tuple[int, int], to_hw: tuple[int, int]) -> np.ndarray:
    """Intrinsics of an image resized from ``from_hw`` to ``to_hw``; (3, 3), pixels.

    With pixel centres at integers the image spans -0.5 .. size - 0.5, hence c' = s (c + 0.5) - 0.5.
    """
    K = np.array(K_33, dtype=np.float64)
    sy, sx = to_hw[0] / from_hw[0], to_hw[1] / from_hw[1]
    K[0, :2] *= sx
    K[1, :2] *= sy
    K[0, 2] = sx * (K_33[0, 2] + 0.5) - 0.5
    K[1, 2] = sy * (K_33[1, 2] + 0.5) - 0.5
    return K


def flip_intrinsics(K_33: np.ndarray, width: int) -> np.ndarray:
    """Intrinsics (3, 3) of the horizontally mirrored image of ``width`` pixels: cx' = W - 1 - cx."""
    K = np.array(K_33, dtype=np.float64)
    K[0, 2] = width - 1 - K[0, 2]
    return K


def disp_to_depth(disp: Tensor, min_depth: float = 0.1, max_depth: float = 10.0) -> Tensor:
    """Depth in metres from a network's sigmoid output: 1 / (1/max + (1/min - 1/max) sigmoid).

    Args:
        disp: any shape, in [0, 1]; larger is nearer.
        min_depth: depth at disp = 1, in metres.
        max_depth: depth at disp = 0, in metres.
    """
    if not 0 < min_depth < max_depth:
        raise ConfigError(f"need 0 < min_depth < max_depth, got {min_depth} and {max_depth} m.")
    return 1 / (1 / max_depth + (1 / min_depth - 1 / max_depth) * disp)


def pixel_grid(height: int, width: int, like: Tensor) -> Tensor:
    """Homogeneous pixel coordinates (3, H*W) in rows x, y, 1, of ``like``'s dtype and device."""
    y, x = torch.meshgrid(
        torch.arange(height, dtype=like.dtype, device=like.device),
        torch.arange(width, dtype=like.dtype, device=like.device),
        indexing="ij",
    )
    return torch.stack(
        (x.reshape(-1), y.reshape(-1), torch.ones(height * width, dtype=like.dtype, device=like.device))
    )


def _inverse(K_b33: Tensor) -> Tensor:
    # torch.linalg.inv looks whether it succeeded: a GPU would wait for it in every step
    return torch.linalg.inv_ex(K_b33).inverse


def backproject(depth_b1hw: Tensor, K_b33: Tensor) -> Tensor:
    """Camera-frame points (B, 3, H, W) in metres: D K^-1 x of Eq. 1."""
    b, _, h, w = depth_b1hw.shape
    rays_b3n = _inverse(K_b33) @ pixel_grid(h, w, depth_b1hw)
    return (rays_b3n * depth_b1hw.reshape(b, 1, h * w)).reshape(b, 3, h, w)


def project(points_b3hw: Tensor, K_b33: Tensor) -> tuple[Tensor, Tensor]:
    """Pixel coordinates of camera-frame points.

    Returns:
        pixels (B, 2, H, W), x then y, pixel centres at integers; and z-depth (B, 1, H, W) in metres.
        Points at or behind the camera get coordinates of no meaning: check z > 0.
    """
    b, _, h, w = points_b3hw.shape
    p = K_b33 @ points_b3hw.reshape(b, 3, h * w)
    z = p[:, 2:3]
    # clamp: a point on the camera plane must give a large finite coordinate, not NaN that kills the gradient
    pixels = p[:, :2] / z.clamp(min=1e-6)
    return pixels.reshape(b, 2, h, w), z.reshape(b, 1, h, w)


def warp(
    source_b3hw: Tensor,
    depth_b1hw: Tensor,
    K_b33: Tensor,
    source_T_target_b44: Tensor,
    source_K_b33: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Warps a source image into the target view through the target's depth (Eq. 1).

    Sampling is bilinear with border padding. Coordinates are normalised by W - 1 and H - 1 and
    ``align_corners=True``: with pixel centres at integers this, and only this, is the identity at
    the identity pose. Computed in float32 at least, also under autocast.

    Args:
        source_b3hw: source images (B, C, H, W).
        depth_b1hw: depth of the target (B, 1, H, W), metres.
        K_b33: intrinsics of the target, and of the source unless ``source_K_b33`` is given.
        source_T_target_b44: maps points from the target's camera frame to the source's.

    Returns:
        the warped image (B, C, H, W) and valid (B, 1, H, W) bool: in front of the source camera and
        inside its image.
    """
    b, _, h, w = depth_b1hw.shape
    with torch.autocast(device_type=depth_b1hw.device.type, enabled=False):
        # One 3x3 and one vector per image instead of back-projecting, moving and projecting: with
        # M = K_s R K_t^-1 the source pixel is M x D + K_s t, which halves the memory traffic.
        dtype = torch.promote_types(depth_b1hw.dtype, torch.float32)
        depth, K = depth_b1hw.to(dtype), K_b33.to(dtype)
        source_K = K if source_K_b33 is None else source_K_b33.to(dtype)
        pose = source_T_target_b44.to(dtype)
        M = source_K @ pose[:, :3, :3] @ _inverse(K)
        offset = source_K @ pose[:, :3, 3:]
        p = (M @ pixel_grid(h, w, depth)) * depth.reshape(b, 1, h * w) + offset
        z = p[:, 2:3]
        xy = p[:, :2] / z.clamp(min=1e-6)
        hs, ws = source_b3hw.shape[-2:]
        x, y = xy[:, 0], xy[:, 1]
        # half a pixel of slack: a pixel centre on the border row itself must not fall out by rounding
        valid = (z[:, 0] > 1e-6) & (x > -0.5) & (x < ws - 0.5) & (y > -0.5) & (y < hs - 0.5)
        grid = torch.stack((x * (2 / (ws - 1)) - 1, y * (2 / (hs - 1)) - 1), dim=-1).reshape(b, h, w, 2)
        # grid_sample turns coordinates into indices before it clips them: on a CPU a NaN, or one that overflows,
        # is a segmentation fault in the backward pass
        grid = grid.nan_to_num(nan=2.0).clamp(-1e4, 1e4)
        warped = F.grid_sample(
            source_b3hw.to(dtype), grid, mode="bilinear", padding_mode="border", align_corners=True
        )
    return warped, valid.reshape(b, 1, h, w)


def nearest_depth(depth_hw: np.ndarray | None, size_hw: tuple[int, int]) -> np.ndarray | None:
    """A depth map at another size, by the nearest pixel: nothing between a surface and the one behind it appears.

    For pictures, and for labels of a student that is trained on smaller images; never for scores.
    """
    if depth_hw is None:
        return None
    h, w = depth_hw.shape
    y = ((np.arange(size_hw[0]) + 0.5) * h / size_hw[0]).astype(int)
    x = ((np.arange(size_hw[1]) + 0.5) * w / size_hw[1]).astype(int)
    return depth_hw[np.ix_(y, x)]
