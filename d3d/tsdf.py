"""TSDF fusion in torch: the mean or a quantile of the signed distances in each voxel.

The paper's fusion (section 3.2.2) averages the signed distances of all views. The mirror image of a lamp lies behind
the surface, and only some views see it. It shifts the mean but not a quantile: 0.5 is a majority vote, a lower quantile
follows a nearer minority.

The volume is sparse: it consists of blocks of voxels near the observed surfaces, computed one by one. Memory grows with
the surface of a scene, not with its bounding box.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from d3d.errors import ConfigError

SIDE = 16  # voxels along the edge of a block
MAX_BLOCKS = 2**16  # a gibibyte of voxels, for example a house of 60 x 60 m with voxels of 5 cm
_COLOUR_DISTANCE = 2.0  # in voxels: a vertex takes the colours of views with a surface within this distance


def fuse_views(
    depths: np.ndarray,
    K: np.ndarray,
    world_T_cam: np.ndarray,
    voxel_m: float,
    trunc_m: float,
    max_depth: float = 10.0,
    quantile: float | None = None,
    images: np.ndarray | None = None,
    device: str | torch.device = "cpu",
) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    """Fuse depth maps into one surface.

    The value of a voxel is the mean or a quantile of the signed distances in the views. A signed distance is measured
    along the ray from the voxel to the surface, is positive in front of the surface, and is at most ``trunc_m``. A view
    contributes nothing farther than ``trunc_m`` behind its surface.

    Args:
        depths: (n, h, w) z-depth, metres; 0 where unknown.
        K: (n, 3, 3) intrinsics, pixels.
        world_T_cam: (n, 4, 4) poses.
        voxel_m: side of a voxel, metres.
        trunc_m: truncation distance, metres.
        max_depth: ignore depth beyond this, metres.
        quantile: in [0, 1]; None means the mean, as in the paper.
        images: optional uint8 (n, h, w, 3).
        device: where to compute the voxels.

    Returns:
        Vertices (V, 3), float64 metres; triangles (T, 3), int32; colours (V, 3), uint8, or None without images.

    Raises:
        ConfigError: the scene needs more than `MAX_BLOCKS` blocks.
    """
    views = _Views.of(depths, K, world_T_cam, max_depth, device)
    blocks = _observed_blocks(views, voxel_m, trunc_m)
    if len(blocks) > MAX_BLOCKS:
        low, high = (blocks.amin(0), blocks.amax(0) + 1)
        size = " x ".join(f"{x * SIDE * voxel_m:.0f}" for x in (high - low).tolist())
        raise ConfigError(
            f"voxel_m = {voxel_m:g}: a scene of {size} m has {len(blocks) * SIDE**3 / 1e6:.0f} million voxels near its "
            "surfaces. Take larger voxels. If the scene is smaller than this, check its depth and poses."
        )
    local = _grid(device) * voxel_m
    visible = views.see_spheres((blocks + 0.5) * (SIDE * voxel_m), SIDE * voxel_m * math.sqrt(3) / 2, trunc_m)
    values = torch.full((len(blocks), SIDE**3), math.nan, device=device)
    for b, block in enumerate(blocks):
        seeing = visible[b].nonzero()[:, 0]
        distances = views.signed_distances(block * (SIDE * voxel_m) + local, seeing, trunc_m)
        values[b] = _mean(distances) if quantile is None else _quantile(distances, quantile)
    vertices, triangles = _surface(
        blocks.cpu().numpy(), values.view(-1, SIDE, SIDE, SIDE).cpu().numpy(), voxel_m
    )
    colours = None if images is None else _colours(views, images, vertices, _COLOUR_DISTANCE * voxel_m)
    return vertices, triangles, colours


@dataclass(frozen=True)
class _Views:
    """Depth maps with their cameras, as tensors on one device."""

    depths: Tensor  # (n, h, w) z-depth, metres; 0: unknown
    K: Tensor  # (n, 3, 3)
    cam_T_world: Tensor  # (n, 4, 4)
    rays: Tensor  # (n, h, w, 3) in the camera's frame, with z = 1
    lengths: Tensor  # (n, h, w) of these rays

    @staticmethod
    def of(depths, K, world_T_cam, max_depth, device) -> _Views:
        h, w = depths.shape[1:]
        depths = torch.tensor(np.where(depths <= max_depth, depths, 0), dtype=torch.float32, device=device)
        inverse_K = torch.tensor(np.linalg.inv(K), dtype=torch.float32, device=device)
        v, u = torch.meshgrid(torch.arange(h, device=device), torch.arange(w, device=device), indexing="ij")
        pixels = torch.stack((u, v, torch.ones_like(u)), -1).float()
        rays = pixels @ inverse_K.mT[:, None]
        cam_T_world = torch.tensor(np.linalg.inv(world_T_cam), dtype=torch.float32, device=device)
        K = torch.tensor(K, dtype=torch.float32, device=device)
        return _Views(depths, K, cam_T_world, rays, rays.norm(dim=-1))

    def project(self, points_n3: Tensor, views: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Project points into views; (v, n): z, index of the nearest pixel in h * w, whether it is inside the image."""
        h, w = self.depths.shape[1:]
        to_pixels = self.K[views] @ self.cam_T_world[views, :3]
        x, y, z = (to_pixels[:, :, :3] @ points_n3.T + to_pixels[:, :, 3:]).unbind(1)
        u, v = (x / z).round_(), (y / z).round_()
        inside = (z > 1e-6) & (u >= 0) & (u < w) & (v >= 0) & (v < h)
        return z, torch.where(inside, v * w + u, 0).long(), inside

    def signed_distances(self, points_n3: Tensor, views: Tensor, trunc_m: float) -> Tensor:
        """Compute signed distances of points to the surfaces of views, (v, n), metres; infinite if unseen."""
        z, pixel, inside = self.project(points_n3, views)
        # one index into all views: a block uses few of their pixels
        place = views[:, None] * self.depths[0].numel() + pixel
        depth, length = self.depths.view(-1)[place], self.lengths.view(-1)[place]
        distance = (depth - z) * length
        return torch.where(
            inside & (depth > 0) & (distance > -trunc_m), distance.clamp(max=trunc_m), math.inf
        )

    def see_spheres(self, centres_b3: Tensor, radius: float, trunc_m: float) -> Tensor:
        """Test whether a point of a sphere can have a signed distance in a view, (b, n) bool."""
        h, w = self.depths.shape[1:]
        x, y, z = (self.cam_T_world[:, :3, :3] @ centres_b3.T + self.cam_T_world[:, :3, 3:]).unbind(1)
        seen = z > -radius
        fx, fy, cx, cy = (self.K[:, i, j, None] for i, j in ((0, 0), (1, 1), (0, 2), (1, 2)))
        for across, focal, centre, size in ((x, fx, cx, w), (y, fy, cy, h)):
            low, high = (-0.5 - centre) / focal, (size - 0.5 - centre) / focal
            seen &= across - low * z > -radius * (1 + low**2).sqrt()
            seen &= high * z - across > -radius * (1 + high**2).sqrt()
        # exclude spheres behind all depth around their centre: rooms behind walls would cost time
        around = max(h, w) // 16
        farthest = F.max_pool2d(self.depths[:, None], 2 * around + 1, stride=1, padding=around).flatten(1)
        _, pixel, inside = self.project(centres_b3, torch.arange(len(self.depths), device=z.device))
        small = torch.maximum(fx, fy) * radius < around * (z - radius)
        return (seen & ~(inside & small & (z - radius > farthest.gather(1, pixel) + trunc_m))).T


def _grid(device) -> Tensor:
    """Return the centres of a block's voxels relative to its corner, in voxels, (SIDE**3, 3)."""
    steps = torch.arange(SIDE, device=device) + 0.5
    return torch.cartesian_prod(steps, steps, steps)


def _observed_blocks(views: _Views, voxel_m: float, trunc_m: float) -> Tensor:
    """Find the blocks that can contain a surface, (b, 3) integers: from each observed point to ``trunc_m`` behind it.

    Half a block in front of the point is added for the voxels in front of the surface.
    """
    side = SIDE * voxel_m
    behind = torch.arange(-side / 2, trunc_m + side / 2, side / 2, device=views.depths.device)
    found = []
    for depth, rays, cam_T_world in zip(views.depths, views.rays, views.cam_T_world, strict=True):
        depth, rays = depth[::2, ::2], rays[::2, ::2]  # neighbours lie in the same block
        depth, rays = depth[depth > 0], rays[depth > 0]
        z = (depth[:, None] + behind / rays.norm(dim=-1, keepdim=True)).clamp(min=0)
        points = rays[:, None] * z[..., None]
        world = (points.reshape(-1, 3) - cam_T_world[:3, 3]) @ cam_T_world[:3, :3]
        found.append((world / side).floor().long().unique(dim=0))
    return torch.cat(found).unique(dim=0)


def _mean(distances_vn: Tensor) -> Tensor:
    seen = distances_vn.isfinite()
    return torch.where(seen, distances_vn, 0).sum(0) / seen.sum(0)  # NaN if no view sees the voxel


def _quantile(distances_vn: Tensor, q: float) -> Tensor:
    """Compute a quantile of the finite distances of each voxel, linearly interpolated; NaN without finite distances."""
    if not len(distances_vn):
        return distances_vn.new_full(distances_vn.shape[1:], math.nan)
    ordered = distances_vn.sort(dim=0).values
    seen = distances_vn.isfinite().sum(0)
    place = q * (seen - 1).clamp(min=0)
    low = place.floor().long()
    high = torch.minimum(low + 1, (seen - 1).clamp(min=0))
    a, b = (ordered.gather(0, i[None])[0] for i in (low, high))
    return torch.where(seen > 0, torch.lerp(a, b, place - low), math.nan)


def _surface(blocks: np.ndarray, values: np.ndarray, voxel_m: float) -> tuple[np.ndarray, np.ndarray]:
    """Run marching cubes block by block. Blocks share vertices on common faces.

    Cubes with a corner that no view sees are left out.
    """
    from skimage.measure import marching_cubes

    index = {tuple(block): i for i, block in enumerate(blocks.tolist())}
    corners, faces, count = [], [], 0
    cube = np.empty((SIDE + 1,) * 3, np.float32)
    for block in blocks.tolist():
        cube.fill(np.nan)
        for step in itertools.product((0, 1), repeat=3):
            i = index.get(tuple(np.add(block, step).tolist()))
            if i is not None:
                to = tuple(slice(SIDE, None) if s else slice(SIDE) for s in step)
                cube[to] = values[i][tuple(slice(1) if s else slice(None) for s in step)]
        unseen = np.isnan(cube)
        if not (cube < 0).any() or not (cube > 0).any():
            continue
        vertices, triangles, _, _ = marching_cubes(np.where(unseen, np.float32(1), cube), 0.0)
        cells = np.minimum(vertices[triangles].mean(axis=1).astype(int), SIDE - 1)
        bad = unseen[:-1, :-1, :-1].copy()
        for a, b, c in list(itertools.product((0, 1), repeat=3))[1:]:
            bad |= unseen[a : a + SIDE, b : b + SIDE, c : c + SIDE]
        triangles = triangles[~bad[tuple(cells.T)]]
        corners.append(vertices.astype(np.float64) + np.multiply(block, SIDE))
        faces.append(triangles + count)
        count += len(vertices)
    if not faces:
        return np.zeros((0, 3)), np.zeros((0, 3), np.int32)
    vertices, same = np.unique(np.concatenate(corners), axis=0, return_inverse=True)
    triangles = same.reshape(-1)[np.concatenate(faces)]
    used, triangles = np.unique(triangles, return_inverse=True)
    return (vertices[used] + 0.5) * voxel_m, triangles.reshape(-1, 3).astype(np.int32)


def _colours(views: _Views, images: np.ndarray, vertices: np.ndarray, near_m: float) -> np.ndarray:
    """Average the colours of the views with a surface near each vertex, uint8 (V, 3); grey without such views."""
    device = views.depths.device
    points = torch.tensor(vertices, dtype=torch.float32, device=device)
    total, count = torch.zeros(len(points), 3, device=device), torch.zeros(len(points), 1, device=device)
    for i, image in enumerate(images):
        view = torch.tensor([i], device=device)
        distance, (_, pixel, _) = views.signed_distances(points, view, near_m), views.project(points, view)
        near = (distance[0].abs() < near_m)[:, None]
        total += near * torch.tensor(image.reshape(-1, 3), device=device).float()[pixel[0]]
        count += near
    colours = torch.where(count > 0, total / count, 128.0)
    return colours.round().clamp(0, 255).byte().cpu().numpy()
