"""Conventions of the package, back-projection and warp (Eq. 1).

- Depth is z-depth in metres.
- A pose is ``world_T_cam`` (4x4), with OpenCV axes: x right, y down, z forward. ``dst_T_src`` maps points from
  frame src to frame dst, so Equation 1's ``T_{t->s}`` is ``inv(world_T_s) @ world_T_t``.
- Pixel centres lie at integer coordinates, and the intrinsics K follow that.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from d3d.errors import ConfigError, DataError, rounded

# Poses are read from text files with few digits: rotations of 7-Scenes are off by up to 1e-6, of ScanNet by 1e-5.
# A scaled or sheared matrix is off by more than 1e-2.
ROTATION_TOLERANCE = 1e-3


def check_pose(world_T_cam: np.ndarray, where: str) -> np.ndarray:
    """Validate one camera pose like `check_poses`; ``where`` names its file or frame."""
    return check_poses([world_T_cam], lambda i: where)[0]


def check_poses(world_T_cams: Sequence[np.ndarray], where: Callable[[int], str]) -> np.ndarray:
    """Validate camera-to-world poses.

    Args:
        world_T_cams: n matrices (4, 4).
        where: function that returns the file or frame of pose i, for messages.

    Returns:
        The poses, float64 (n, 4, 4).

    Raises:
        DataError: a pose has a wrong shape, is not finite (lost tracking), has a last row other than (0, 0, 0, 1), or
            contains no rotation. The message names the first bad pose.
    """
    for i, shape in enumerate(map(np.shape, world_T_cams)):
        if shape != (4, 4):
            raise DataError(f"{where(i)}: a pose must be a 4x4 matrix, not an array of shape {shape}.")
    poses = np.asarray(world_T_cams, dtype=np.float64).reshape(-1, 4, 4)
    rotations = poses[:, :3, :3]
    with np.errstate(over="ignore", invalid="ignore"):
        errors = np.abs(rotations @ rotations.transpose(0, 2, 1) - np.eye(3)).max(axis=(1, 2))
        determinants = np.linalg.det(rotations)
    finite = np.isfinite(poses).all(axis=(1, 2))
    affine = np.isclose(poses[:, 3], (0, 0, 0, 1), atol=1e-6).all(axis=1)
    bad = np.flatnonzero(~(finite & affine & (errors <= ROTATION_TOLERANCE) & (determinants >= 0)))
    if not bad.size:
        return poses
    i = bad[0]
    if not finite[i]:
        raise DataError(f"{where(i)}: the pose is not finite (tracking lost?). Leave this frame out.")
    if not affine[i]:
        last = " ".join(rounded(v, 4) for v in poses[i, 3])
        turned = np.allclose(poses[i, :, 3], (0, 0, 0, 1), atol=1e-6)
        advice = " The matrix is transposed: write it row by row." if turned else ""
        raise DataError(f"{where(i)}: the last row of a pose must be 0 0 0 1, not {last}.{advice}")
    raise DataError(
        f"{where(i)}: the pose's upper left 3x3 is not a rotation (off by {rounded(errors[i], 2)}, determinant "
        f"{rounded(determinants[i])}). Is the matrix scaled, mirrored, or not camera-to-world?"
    )


def relative_pose(world_T_dst: np.ndarray, world_T_src: np.ndarray) -> np.ndarray:
    """Compute ``dst_T_src`` (..., 4, 4) from two camera-to-world poses. It maps points from frame src to frame dst."""
    return np.linalg.inv(world_T_dst) @ world_T_src


def upward(world_T_cams: np.ndarray) -> np.ndarray:
    """Estimate the world's upward direction (3,): the axis nearest to the mean upward direction of the cameras."""
    up = -np.asarray(world_T_cams)[:, :3, 1].mean(axis=0)
    axis = np.abs(up).argmax()
    return np.eye(3)[axis] * (1.0 if up[axis] >= 0 else -1.0)


def scale_intrinsics(K_33: np.ndarray, from_hw: tuple[int, int], to_hw: tuple[int, int]) -> np.ndarray:
    """Compute the intrinsics (3, 3) in pixels of an image resized from ``from_hw`` to ``to_hw``.

    With pixel centres at integers an image spans -0.5 to size - 0.5. Hence c' = s (c + 0.5) - 0.5.
    """
    K = np.array(K_33, dtype=np.float64)
    sy, sx = to_hw[0] / from_hw[0], to_hw[1] / from_hw[1]
    K[0, :2] *= sx
    K[1, :2] *= sy
    K[0, 2] = sx * (K_33[0, 2] + 0.5) - 0.5
    K[1, 2] = sy * (K_33[1, 2] + 0.5) - 0.5
    return K


def flip_intrinsics(K_33: np.ndarray, width: int) -> np.ndarray:
    """Compute the intrinsics (3, 3) of the horizontally mirrored image: cx' = width - 1 - cx."""
    K = np.array(K_33, dtype=np.float64)
    K[0, 2] = width - 1 - K[0, 2]
    return K


def disp_to_depth(disp: Tensor, min_depth: float = 0.1, max_depth: float = 10.0) -> Tensor:
    """Convert sigmoid disparity in [0, 1] to depth in metres: 1 / (1/max + (1/min - 1/max) disp). Any shape.

    Raises:
        ConfigError: 0 < min_depth < max_depth does not hold.
    """
    if not 0 < min_depth < max_depth:
        raise ConfigError(f"need 0 < min_depth < max_depth, got {min_depth} and {max_depth} m.")
    return 1 / (1 / max_depth + (1 / min_depth - 1 / max_depth) * disp)


def pixel_grid(height: int, width: int, like: Tensor) -> Tensor:
    """Make homogeneous pixel coordinates (3, H*W), rows x, y and 1, with the dtype and device of ``like``."""
    axes = (torch.arange(size, dtype=like.dtype, device=like.device) for size in (width, height))
    x, y = torch.meshgrid(*axes, indexing="xy")
    return torch.stack((x, y, torch.ones_like(x))).flatten(1)


def inverse(matrices: Tensor) -> Tensor:
    """Invert regular matrices (..., n, n)."""
    # torch.linalg.inv checks for success, which makes a GPU wait in every step
    return torch.linalg.inv_ex(matrices).inverse


def backproject(depth_b1hw: Tensor, K_b33: Tensor, pixels_b2hw: Tensor | None = None) -> Tensor:
    """Back-project pixels to camera-frame points, D K^-1 x of Eq. 1.

    Args:
        depth_b1hw: depth D, metres.
        K_b33: intrinsics.
        pixels_b2hw: pixel coordinates x; None: the coordinates of the pixel grid.

    Returns:
        Points (B, 3, H, W), metres.
    """
    b, _, h, w = depth_b1hw.shape
    if pixels_b2hw is None:
        x = pixel_grid(h, w, depth_b1hw)
    else:
        x = torch.cat((pixels_b2hw, torch.ones_like(depth_b1hw)), dim=1).flatten(2)
    return (inverse(K_b33) @ x * depth_b1hw.flatten(2)).reshape(b, 3, h, w)


def transform(dst_T_src_b44: Tensor, points_b3hw: Tensor) -> Tensor:
    """Transform points (B, 3, H, W) from frame src to frame dst, T of Eq. 1."""
    rotated = dst_T_src_b44[:, :3, :3] @ points_b3hw.flatten(2)
    return (rotated + dst_T_src_b44[:, :3, 3:]).reshape(points_b3hw.shape)


def project(points_b3hw: Tensor, K_b33: Tensor) -> tuple[Tensor, Tensor]:
    """Project camera-frame points (B, 3, H, W), K x of Eq. 1.

    Returns:
        Pixels x, y (B, 2, H, W); z-depth (B, 1, H, W) in metres. Pixels are only valid where z > 0.
    """
    return _divide((K_b33 @ points_b3hw.flatten(2)).reshape(points_b3hw.shape))


def _divide(p_b3hw: Tensor) -> tuple[Tensor, Tensor]:
    """Homogeneous coordinates -> pixels (B, 2, H, W) and z (B, 1, H, W)."""
    z = p_b3hw[:, 2:3]
    # clamp: a point on the camera plane gets a large finite coordinate, because NaN would destroy the gradient
    return p_b3hw[:, :2] / z.clamp(min=1e-6), z


def sample(image_bchw: Tensor, pixels_b2hw: Tensor) -> Tensor:
    """Sample an image (B, C, H, W) bilinearly at pixel coordinates x, y, with border padding.

    Coordinates are normalised by W - 1 and H - 1 for ``align_corners=True``. Pixel centres lie at integers, so any
    other normalisation would shift the image.
    """
    h, w = image_bchw.shape[-2:]
    grid = torch.stack((pixels_b2hw[:, 0] * (2 / (w - 1)) - 1, pixels_b2hw[:, 1] * (2 / (h - 1)) - 1), dim=-1)
    # grid_sample converts coordinates to indices before it clips them. On a CPU, NaN or an overflow ends in a
    # segmentation fault in the backward pass
    grid = grid.nan_to_num(nan=2.0).clamp(-1e4, 1e4)
    return F.grid_sample(image_bchw, grid, mode="bilinear", padding_mode="border", align_corners=True)


def warp(
    source_b3hw: Tensor,
    depth_b1hw: Tensor,
    K_b33: Tensor,
    source_T_target_b44: Tensor,
    source_K_b33: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Warp a source image into the target view through the target's depth (Eq. 1).

    The target pixel x appears in the source at K_s T_{t->s} D(x) K_t^-1 x. The computation uses at least float32, also
    under autocast.

    Args:
        source_b3hw: source images with any number of channels.
        depth_b1hw: depth of the target, metres.
        K_b33: intrinsics of the target, and of the source unless ``source_K_b33`` is given.
        source_T_target_b44: maps points from the target's camera frame to the source's camera frame.
        source_K_b33: intrinsics of the source.

    Returns:
        The warped image (B, C, H, W); the mask valid (B, 1, H, W), true where the point lies in front of the source
        camera and inside its image.
    """
    b, _, h, w = depth_b1hw.shape
    with torch.autocast(device_type=depth_b1hw.device.type, enabled=False):
        # The source pixel is M x D + K_s t with M = K_s R K_t^-1. One matrix and one vector per image need half the
        # memory traffic of back-projection, transform and projection.
        dtype = torch.promote_types(depth_b1hw.dtype, torch.float32)
        depth, K = depth_b1hw.to(dtype), K_b33.to(dtype)
        source_K = K if source_K_b33 is None else source_K_b33.to(dtype)
        pose = source_T_target_b44.to(dtype)
        M = source_K @ pose[:, :3, :3] @ inverse(K)
        seen = (M @ pixel_grid(h, w, depth)) * depth.flatten(2) + source_K @ pose[:, :3, 3:]
        pixels, z = _divide(seen.reshape(b, 3, h, w))
        # half a pixel of slack: rounding must not exclude pixel centres on the border
        valid = (z > 1e-6) & inside(pixels, source_b3hw.shape[-2:], slack=0.5)
        warped = sample(source_b3hw.to(dtype), pixels)
    return warped, valid


def inside(pixels_b2hw: Tensor, size_hw: tuple[int, int], slack: float = 0.0) -> Tensor:
    """Test whether pixels lie between the outermost pixel centres, or up to ``slack`` beyond; (B, 1, H, W) bool."""
    x, y = pixels_b2hw.split(1, dim=1)
    h, w = size_hw
    return (x >= -slack) & (x <= w - 1 + slack) & (y >= -slack) & (y <= h - 1 + slack)


def nearest_depth(depth_hw: np.ndarray | None, size_hw: tuple[int, int]) -> np.ndarray | None:
    """Resize a depth map to the nearest pixel, which invents no depth between two surfaces. None stays None.

    For pictures and for labels of smaller training images, not for scores.
    """
    if depth_hw is None:
        return None
    sizes = zip(depth_hw.shape, size_hw, strict=True)
    return depth_hw[np.ix_(*(((np.arange(to) + 0.5) * size / to).astype(int) for size, to in sizes))]
