"""Plane sweep between neighbouring frames: compute a depth and an error for each pixel from poses alone.

The sweep tries planes of constant depth and keeps the best plane for each pixel. The errors show whether the poses
explain the images (`d3d.datasets.capture.check`). The depths give the scale (`d3d.datasets.capture.scale`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F

from d3d.datasets.images import HW
from d3d.datasets.scene import Scene
from d3d.geometry import relative_pose, warp
from d3d.losses import photometric_error

PAIRS = 12
LONGER_SIDE = 96  # of the compared images, pixels
PLANES = 24
WINDOW = 7  # pixels over which the error is averaged
GAPS = (1, 2, 3, 5, 8, 12)  # frames between the two of a pair
_DIFFERENT = 0.12  # error between two images that differ enough to reveal wrong poses
# smallest and largest shift of a pixel between the views, as a share of the width; the baseline gives the depths
_SHIFTS = (0.004, 0.25)
_NOT_SEEN = 1.0  # error of a pixel outside the neighbour's image


@dataclass(frozen=True)
class Pair:
    """Two neighbouring frames at the size of the check.

    Attributes:
        frames: indices of target and source.
        images: images of target and source, (2, 3, h, w) in [0, 1].
        Ks: intrinsics of target and source, (2, 3, 3).
    """

    frames: tuple[int, int]
    images: torch.Tensor
    Ks: torch.Tensor

    def of(self, poses: np.ndarray) -> np.ndarray:
        """Select the poses (2, 4, 4) of target and source from the poses of all frames."""
        return poses[list(self.frames)]


@dataclass(frozen=True)
class Swept:
    """The best plane of each pixel of a target.

    Attributes:
        error: photometric error of the plane (h, w), averaged over a window.
        depth: depth of the plane (h, w) in the unit of the poses.
        warped: source warped to the target by these planes, (3, h, w) in [0, 1].
    """

    error: np.ndarray
    depth: np.ndarray
    warped: np.ndarray


def choose_pairs(scene: Scene, number: int = PAIRS) -> list[Pair]:
    """Choose pairs of neighbouring frames, evenly spread over the video.

    The gap of a pair grows until its images differ enough. Only the images decide, because the poses may be wrong.
    """
    scale = LONGER_SIDE / max(scene.size_hw)
    size_hw = (max(16, round(scene.size_hw[0] * scale)), max(16, round(scene.size_hw[1] * scale)))
    pairs, k = [], 0
    for target in dict.fromkeys(np.linspace(0, len(scene) - 2, number).astype(int).tolist()):
        k, found = max(0, k - 1), None  # begin near the last gap: the speed of a video changes slowly
        while target + GAPS[k] < len(scene):
            found = _pair(scene, target, target + GAPS[k], size_hw)
            if k + 1 == len(GAPS) or difference(found) >= _DIFFERENT:
                break
            k += 1
        if found is not None:
            pairs.append(found)
    return pairs


def _pair(scene: Scene, target: int, source: int, size_hw: HW) -> Pair:
    frames = (target, source)
    images = [torch.from_numpy(scene.image(i, size_hw)).permute(2, 0, 1).float() / 255 for i in frames]
    return Pair(
        frames, torch.stack(images), torch.from_numpy(np.stack([scene.K(i, size_hw) for i in frames]))
    )


def difference(pair: Pair) -> float:
    """Compute the median photometric error between the two images without a warp."""
    return float(photometric_error(pair.images[:1], pair.images[1:]).median())


def sweep(pair: Pair, world_T_cams: np.ndarray, depths: Sequence[float] | None = None) -> Swept:
    """Find the best plane of each pixel of a pair's target.

    Args:
        pair: the two frames.
        world_T_cams: poses (2, 4, 4) of target and source, in any unit.
        depths: depths of the planes. None chooses depths at which pixels shift by 0.4 to 25 % of the image's width.
    """
    target_pose, source_pose = world_T_cams
    source_T_target = relative_pose(source_pose, target_pose)
    n, (h, w) = PLANES, pair.images.shape[-2:]
    if depths is None:
        baseline = max(float(np.linalg.norm(source_T_target[:3, 3])), 1e-12)
        depths = float(pair.Ks[0, 0, 0]) * baseline / np.geomspace(*(s * w for s in _SHIFTS), n)
    n = len(depths)
    planes = torch.tensor(np.asarray(depths), dtype=torch.float32)[:, None, None, None].expand(n, 1, h, w)
    target, source = (image[None].expand(n, 3, h, w) for image in pair.images)
    pose = torch.tensor(source_T_target, dtype=torch.float32)[None].expand(n, 4, 4)
    K, source_K = (K[None].float().expand(n, 3, 3) for K in pair.Ks)
    warped, valid = warp(source, planes, K, pose, source_K)
    error = torch.where(valid, photometric_error(warped, target), _NOT_SEEN)
    error = F.avg_pool2d(error, WINDOW, stride=1, padding=WINDOW // 2, count_include_pad=False)[:, 0]
    best, plane = error.min(dim=0)
    chosen = warped.gather(0, plane[None, None].expand(1, 3, h, w))[0]
    return Swept(best.numpy(), np.asarray(depths)[plane.numpy()], chosen.numpy())


def swept_depth(pairs: Sequence[Pair], world_T_cams: np.ndarray) -> float:
    """Compute the median depth of all target pixels, in the unit of the poses; 0 if the camera does not move."""
    moved = [p for p in pairs if np.ptp(p.of(world_T_cams)[:, :3, 3], axis=0).max() > 0]
    if not moved:
        return 0.0
    return float(np.median(np.stack([sweep(p, p.of(world_T_cams)).depth for p in moved])))


def median_depth(scene: Scene) -> float:
    """Compute the median depth of a scene from its depth maps, else from its sparse points, else by plane sweeps.

    Returns:
        the depth in the unit of the poses; 0 if the camera does not move.
    """
    some = dict.fromkeys(np.linspace(0, len(scene) - 1, PAIRS).astype(int).tolist())
    maps = [d[d > 0] for i in some if (d := scene.depth(i)) is not None]
    if any(map(len, maps)):
        return float(np.median(np.concatenate(maps)))
    points = getattr(scene, "point_depths", lambda: np.array([np.nan]))()
    if np.isfinite(points).any():
        return float(np.nanmedian(points))
    return swept_depth(choose_pairs(scene), scene.world_T_cams)
