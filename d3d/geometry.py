"""Conventions, back-projection and warp (Eq. 1). Every convention of the package is stated here.

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

from d3d.errors import ConfigError, DataError

# Poses are read from text files with few digits: rotations of 7-Scenes are off by up to 1e-6, of ScanNet by 1e-5.
# A scaled or sheared matrix is off by more than 1e-2.
ROTATION_TOLERANCE = 1e-3


def check_pose(world_T_cam: np.ndarray, where: str) -> np.ndarray:
    """Validate one camera pose, as `check_poses` does; ``where`` names its file or frame."""
    return check_poses([world_T_cam], lambda i: where)[0]


def check_poses(world_T_cams: Sequence[np.ndarray], where: Callable[[int], str]) -> np.ndarray:
    """Validate n camera-to-world matrices (4, 4), and return them as float64 (n, 4, 4).

    ``where`` returns the file or frame of pose i, for the message.

    Raises:
        DataError: the first bad pose: wrong shape, not finite (lost tracking), last row not (0, 0, 0, 1), or
            not a rotation.
    """
    for i, shape in enumerate(map(np.shape, world_T_cams)):
        if shape != (4, 4):
            raise DataError(f"{where(i)}: a pose must be a 4x4 matrix, this one has shape {shape}.")
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
        last = poses[i, 3].tolist()
        raise DataError(f"{where(i)}: the last row of a pose must be 0 0 0 1, this one is {last}.")
    raise DataError(
        f"{where(i)}: the pose's upper left 3x3 is not a rotation (off by {errors[i]:.2g}, determinant "
        f"{determinants[i]:.3g}). Is the matrix scaled, mirrored, or not camera-to-world?"
    )


def relative_pose(world_T_dst: np.ndarray, world_T_src: np.ndarray) -> np.ndarray:
    """``dst_T_src`` (..., 4, 4) of two camera-to-world poses: it maps points from src's frame to dst's."""
    return np.linalg.inv(world_T_dst) @ world_T_src


def upward(world_T_cams: np.ndarray) -> np.ndarray:
    """The world's upward direction (3,): the axis nearest to the mean upward direction of roughly upright cameras."""
    up = -np.asarray(world_T_cams)[:, :3, 1].mean(axis=0)
    axis = np.abs(up).argmax()
    return np.eye(3)[axis] * (1.0 if up[axis] >= 0 else -1.0)


def scale_intrinsics(K_33: np.ndarray, from_hw: tuple[int, int], to_hw: tuple[int, int]) -> np.ndarray:
    """Intrinsics (3, 3) in pixels after the image is resized from ``from_hw`` to ``to_hw``.

    With pixel centres at integers an image spans -0.5 to size - 0.5, hence c' = s (c + 0.5) - 0.5.
    """
    K = np.array(K_33, dtype=np.float64)
    sy, sx = to_hw[0] / from_hw[0], to_hw[1] / from_hw[1]
    K[0, :2] *= sx
    K[1, :2] *= sy
    K[0, 2] = sx * (K_33[0, 2] + 0.5) - 0.5
    K[1, 2] = sy * (K_33[1, 2] + 0.5) - 0.5
    return K


def flip_intrinsics(K_33: np.ndarray, width: int) -> np.ndarray:
    """Intrinsics (3, 3) of the horizontally mirrored image, ``width`` pixels wide: cx' = W - 1 - cx."""
    K = np.array(K_33, dtype=np.float64)
    K[0, 2] = width - 1 - K[0, 2]
    return K


def disp_to_depth(disp: Tensor, min_depth: float = 0.1, max_depth: float = 10.0) -> Tensor:
    """Depth in metres of a network's sigmoid output in [0, 1], any shape: 1 / (1/max + (1/min - 1/max) disp).

    Raises:
        ConfigError: 0 < min_depth < max_depth does not hold.
    """
    if not 0 < min_depth < max_depth:
        raise ConfigError(f"need 0 < min_depth < max_depth, got {min_depth} and {max_depth} m.")
    return 1 / (1 / max_depth + (1 / min_depth - 1 / max_depth) * disp)


def pixel_grid(height: int, width: int, like: Tensor) -> Tensor:
    """Homogeneous pixel coordinates (3, H*W), rows x, y and 1, with the dtype and device of ``like``."""
    axes = (torch.arange(size, dtype=like.dtype, device=like.device) for size in (width, height))
    x, y = torch.meshgrid(*axes, indexing="xy")
    return torch.stack((x, y, torch.ones_like(x))).flatten(1)


def _inverse(K_b33: Tensor) -> Tensor:
    # torch.linalg.inv checks that it succeeded: a GPU would wait for this in every step
    return torch.linalg.inv_ex(K_b33).inverse


def backproject(depth_b1hw: Tensor, K_b33: Tensor, pixels_b2hw: Tensor | None = None) -> Tensor:
    """Camera-frame points (B, 3, H, W) in metres: D K^-1 x of Eq. 1, with x by default each pixel's own coordinates."""
    b, _, h, w = depth_b1hw.shape
    if pixels_b2hw is None:
        x = pixel_grid(h, w, depth_b1hw)
    else:
        x = torch.cat((pixels_b2hw, torch.ones_like(depth_b1hw)), dim=1).flatten(2)
    return (_inverse(K_b33) @ x * depth_b1hw.flatten(2)).reshape(b, 3, h, w)


def transform(dst_T_src_b44: Tensor, points_b3hw: Tensor) -> Tensor:
    """Points (B, 3, H, W) of src's frame in dst's frame: T of Eq. 1."""
    rotated = dst_T_src_b44[:, :3, :3] @ points_b3hw.flatten(2)
    return (rotated + dst_T_src_b44[:, :3, 3:]).reshape(points_b3hw.shape)


def project(points_b3hw: Tensor, K_b33: Tensor) -> tuple[Tensor, Tensor]:
    """Project camera-frame points, K x of Eq. 1: pixels x, y (B, 2, H, W) and z-depth (B, 1, H, W) in metres.

    The pixels of points at or behind the camera are meaningless: check z > 0.
    """
    return _divide((K_b33 @ points_b3hw.flatten(2)).reshape(points_b3hw.shape))


def _divide(p_b3hw: Tensor) -> tuple[Tensor, Tensor]:
    """Homogeneous coordinates -> pixels (B, 2, H, W) and z (B, 1, H, W)."""
    z = p_b3hw[:, 2:3]
    # clamp: a point on the camera plane must give a large finite coordinate; NaN would destroy the gradient
    return p_b3hw[:, :2] / z.clamp(min=1e-6), z


def sample(image_bchw: Tensor, pixels_b2hw: Tensor) -> Tensor:
    """Bilinear samples (B, C, H, W) of an image at pixel coordinates x, y; border padding.

    Coordinates are normalised by W - 1 and H - 1, with ``align_corners=True``. With pixel centres at integers
    this, and only this, samples pixel (x, y) at (x, y).
    """
    h, w = image_bchw.shape[-2:]
    grid = torch.stack((pixels_b2hw[:, 0] * (2 / (w - 1)) - 1, pixels_b2hw[:, 1] * (2 / (h - 1)) - 1), dim=-1)
    # grid_sample turns coordinates into indices before it clips them: on a CPU, NaN or an overflow is a
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

    The target pixel x is seen in the source at K_s T_{t->s} D(x) K_t^-1 x. Computed in float32 at least, also
    under autocast.

    Args:
        source_b3hw: source images, of any number of channels.
        depth_b1hw: depth of the target, metres.
        K_b33: intrinsics of the target, and of the source unless ``source_K_b33`` is given.
        source_T_target_b44: maps points from the target's camera frame to the source's.

    Returns:
        the warped image (B, C, H, W); and valid (B, 1, H, W) bool, True where the point lies in front of the
        source camera and inside its image.
    """
    b, _, h, w = depth_b1hw.shape
    with torch.autocast(device_type=depth_b1hw.device.type, enabled=False):
        # One 3x3 matrix and one vector per image instead of back-projecting, moving and projecting points: the
        # source pixel is M x D + K_s t with M = K_s R K_t^-1, which halves the memory traffic.
        dtype = torch.promote_types(depth_b1hw.dtype, torch.float32)
        depth, K = depth_b1hw.to(dtype), K_b33.to(dtype)
        source_K = K if source_K_b33 is None else source_K_b33.to(dtype)
        pose = source_T_target_b44.to(dtype)
        M = source_K @ pose[:, :3, :3] @ _inverse(K)
        seen = (M @ pixel_grid(h, w, depth)) * depth.flatten(2) + source_K @ pose[:, :3, 3:]
        pixels, z = _divide(seen.reshape(b, 3, h, w))
        # half a pixel of slack: a pixel centre on the border row itself must not fall out by rounding
        valid = (z > 1e-6) & inside(pixels, source_b3hw.shape[-2:], slack=0.5)
        warped = sample(source_b3hw.to(dtype), pixels)
    return warped, valid


def inside(pixels_b2hw: Tensor, size_hw: tuple[int, int], slack: float = 0.0) -> Tensor:
    """True (B, 1, H, W) for pixel coordinates between the outermost pixel centres, or up to ``slack`` beyond them."""
    x, y = pixels_b2hw.split(1, dim=1)
    h, w = size_hw
    return (x >= -slack) & (x <= w - 1 + slack) & (y >= -slack) & (y <= h - 1 + slack)


def nearest_depth(depth_hw: np.ndarray | None, size_hw: tuple[int, int]) -> np.ndarray | None:
    """Resize a depth map by taking the nearest pixel: no values appear between a surface and the one behind it.

    For pictures, and for the labels of a student that is trained on smaller images; never for scores.
    """
    if depth_hw is None:
        return None
    sizes = zip(depth_hw.shape, size_hw, strict=True)
    return depth_hw[np.ix_(*(((np.arange(to) + 0.5) * size / to).astype(int) for size, to in sizes))]
