"""Do poses explain the images? The photometric error of neighbours over a sweep of constant depths.

For every pixel of a target the best of some planes of constant depth is taken (plane sweep). Under the right poses most
pixels find their depth and the error is small. No depth explains a pixel under poses that are inverted, have other
axes, or belong to other images.
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
LONGER_SIDE = 96  # pixels
GAPS = (1, 2, 3, 5, 8, 12)  # frames between the two of a pair
_DIFFERENT = 0.12  # error of images that have moved enough: wrong poses then show
PLANES = 24
WINDOW = 7  # pixels over which the error is averaged
# shifts of a pixel between the views, as a share of the width: the planes' depths follow from the baseline
_SHIFTS = (0.004, 0.25)
_NOT_SEEN = 1.0  # error of a pixel that no plane shows in the neighbour


@dataclass(frozen=True)
class Pair:
    """Two neighbouring frames at the size of the check.

    Attributes:
        target, source: indices of frames.
        images: target and source, (2, 3, h, w) in [0, 1].
        K: of both, (2, 3, 3).
    """

    target: int
    source: int
    images: torch.Tensor
    K: torch.Tensor


def choose_pairs(scene: Scene, number: int = PAIRS) -> list[Pair]:
    """Pairs of neighbouring frames, evenly spread, each as far apart as the images need to differ.

    The distance is found by the images alone: poses may be wrong.
    """
    size_hw, pairs, k = check_size(scene.size_hw), [], 0
    frames = min(len(scene), number)
    for target in np.linspace(0, len(scene) - 1, frames + 2)[:-1].astype(int)[: frames + 1]:
        found = None
        while True:  # a video moves at one speed: begin with the gap of the last pair
            source = int(target) + GAPS[k]
            if source >= len(scene):
                break
            found = _pair(scene, int(target), source, size_hw)
            if k + 1 == len(GAPS) or _difference(found) >= _DIFFERENT:
                break
            k += 1
        if found is not None:
            pairs.append(found)
        k = max(0, k - 1)
    return pairs


def check_size(size_hw: HW) -> HW:
    """The size of the check for images of a size: 96 pixels along the longer side."""
    scale = LONGER_SIDE / max(size_hw)
    return max(16, round(size_hw[0] * scale)), max(16, round(size_hw[1] * scale))


def _pair(scene: Scene, target: int, source: int, size_hw: HW) -> Pair:
    images = [
        torch.from_numpy(scene.image(i, size_hw)).permute(2, 0, 1).float() / 255 for i in (target, source)
    ]
    K = [torch.from_numpy(scene.K(i, size_hw)) for i in (target, source)]
    return Pair(target, source, torch.stack(images), torch.stack(K))


def _difference(pair: Pair) -> float:
    """Median photometric error of the images as they are."""
    return float(photometric_error(pair.images[:1], pair.images[1:]).median())


def median_depth(scene: Scene) -> float:
    """Median depth of a scene: of its depth maps, else of its sparse points, else by plane sweeps.

    Returns:
        the depth in the unit of the poses; NaN without a pair that moved.
    """
    some = np.linspace(0, len(scene) - 1, PAIRS).astype(int)
    maps = [d[d > 0] for i in some if (d := scene.depth(int(i))) is not None]
    if any(map(len, maps)):
        return float(np.median(np.concatenate(maps)))
    points = getattr(scene, "point_depths", lambda: np.array([np.nan]))()
    if np.isfinite(points).any():
        return float(np.nanmedian(points))
    return swept_depth(choose_pairs(scene), scene.world_T_cams)


def swept_depth(pairs: Sequence[Pair], world_T_cams: np.ndarray) -> float:
    """Median depth by plane sweeps, in the unit of the poses; NaN without a pair that moved."""
    swept = [sweep(p, world_T_cams[[p.target, p.source]]) for p in pairs]
    depths = [np.median(s.depth) for s in swept if np.median(s.depth) > 0]
    return float(np.median(depths)) if depths else float("nan")


@dataclass(frozen=True)
class Swept:
    """Result of `sweep` for one pair.

    Attributes:
        error: median over the pixels of the error of the best plane.
        depth: the best plane's depth of each pixel (h, w), in the unit of the poses.
        error_map: error of the best plane (h, w).
        warped: the source, each pixel through its best plane, (3, h, w).
    """

    error: float
    depth: np.ndarray
    error_map: np.ndarray
    warped: np.ndarray


def sweep(pair: Pair, world_T_cams: np.ndarray, depths: Sequence[float] | None = None) -> Swept:
    """The best plane of each pixel of a pair's target.

    Args:
        world_T_cams: poses (2, 4, 4) of target and source, in any unit.
        depths: of the planes; None: such that pixels shift between 0.4 and 25 % of the width.
    """
    source_T_target = relative_pose(world_T_cams[1], world_T_cams[0])
    if depths is None:
        depths = _depths(pair, float(np.linalg.norm(source_T_target[:3, 3])))
    n, (h, w) = len(depths), pair.images.shape[-2:]
    planes = torch.tensor(np.asarray(depths), dtype=torch.float32)[:, None, None, None].expand(n, 1, h, w)
    target, source = (image[None].expand(n, 3, h, w) for image in pair.images)
    pose = torch.tensor(source_T_target, dtype=torch.float32)[None].expand(n, 4, 4)
    K, source_K = (K[None].float().expand(n, 3, 3) for K in pair.K)
    warped, valid = warp(source, planes, K, pose, source_K)
    error = torch.where(valid, photometric_error(warped, target), _NOT_SEEN)
    error = F.avg_pool2d(error, WINDOW, stride=1, padding=WINDOW // 2, count_include_pad=False)[:, 0]
    best, plane = error.min(dim=0)
    chosen = warped.gather(0, plane[None, None].expand(1, 3, h, w))[0]
    return Swept(float(best.median()), np.asarray(depths)[plane.numpy()], best.numpy(), chosen.numpy())


def _depths(pair: Pair, baseline: float) -> np.ndarray:
    focal, width = float(pair.K[0, 0, 0]), pair.images.shape[-1]
    shifts = np.geomspace(_SHIFTS[0] * width, _SHIFTS[1] * width, PLANES)
    return focal * max(baseline, 1e-12) / shifts
