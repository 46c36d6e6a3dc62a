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
from collections.abc import Iterator
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
    if quantile is None:  # half a block: fewer voxels without a surface or outside an image
        step = max(2, depths.shape[2] // 64)
        parts = _observed_blocks(views, voxel_m, trunc_m, SIDE // 2, step)
        blocks, block_of = (parts >> 1).unique(dim=0, return_inverse=True)
    else:
        blocks = _observed_blocks(views, voxel_m, trunc_m, SIDE, 2)
    if len(blocks) > MAX_BLOCKS:
        low, high = (blocks.amin(0), blocks.amax(0) + 1)
        size = " x ".join(f"{x * SIDE * voxel_m:.0f}" for x in (high - low).tolist())
        raise ConfigError(
            f"voxel_m = {voxel_m:g}: a scene of {size} m has {len(blocks) * SIDE**3 / 1e6:.0f} million voxels near its "
            "surfaces. Take larger voxels. If the scene is smaller than this, check its depth and poses."
        )
    if quantile is None:
        values = torch.full((len(blocks), 2, 2, 2, (SIDE // 2) ** 3), math.nan, device=device)
        values[block_of, *(parts & 1).T] = _means(views, parts, voxel_m, trunc_m)
        values = values.view(-1, 2, 2, 2, *3 * [SIDE // 2]).permute(0, 1, 4, 2, 5, 3, 6).reshape(-1, SIDE**3)
    else:
        values = _quantiles(views, blocks, voxel_m, trunc_m, quantile)
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
    lens: Tensor  # (n,) index of the view's intrinsics among the k different ones
    rays: Tensor  # (k, h, w, 3) in the camera's frame, with z = 1
    lengths: Tensor  # (k, h, w) of these rays

    @staticmethod
    def of(depths, K, world_T_cam, max_depth, device) -> _Views:
        h, w = depths.shape[1:]
        depths = torch.tensor(np.where(depths <= max_depth, depths, 0), dtype=torch.float32, device=device)
        different_K, lens = np.unique(K, axis=0, return_inverse=True)
        inverse_K = torch.tensor(np.linalg.inv(different_K), dtype=torch.float32, device=device)
        v, u = torch.meshgrid(torch.arange(h, device=device), torch.arange(w, device=device), indexing="ij")
        pixels = torch.stack((u, v, torch.ones_like(u)), -1).float()
        rays = pixels @ inverse_K.mT[:, None]
        cam_T_world = torch.tensor(np.linalg.inv(world_T_cam), dtype=torch.float32, device=device)
        K = torch.tensor(K, dtype=torch.float32, device=device)
        lens = torch.tensor(lens.reshape(-1), device=device)
        return _Views(depths, K, cam_T_world, lens, rays, rays.norm(dim=-1))

    def project(self, points_n3: Tensor, views: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Project points into views; (v, n): z, index of the nearest pixel in h * w, whether it is inside the image."""
        h, w = self.depths.shape[1:]
        to_pixels = self.K[views] @ self.cam_T_world[views, :3]
        x, y, z = (to_pixels[:, :, :3] @ points_n3.T + to_pixels[:, :, 3:]).unbind(1)
        u, v = (x / z).round_(), (y / z).round_()
        inside = (z > 1e-6) & (u >= 0) & (u < w) & (v >= 0) & (v < h)
        return z, torch.where(inside, v * w + u, 0).long(), inside

    def signed_distances(self, points_n3: Tensor, views: Tensor, trunc_m: float) -> tuple[Tensor, Tensor]:
        """Compute signed distances of points to the surfaces of views, (v, n), metres; infinite if unseen.

        Returns:
            The distances, and the pixels of `project`.
        """
        z, pixel, inside = self.project(points_n3, views)
        # one index into all views: a block uses few of their pixels
        size = self.depths[0].numel()
        depth = self.depths.view(-1)[views[:, None] * size + pixel]
        length = self.lengths.view(-1)[self.lens[views, None] * size + pixel]
        distance = (depth - z) * length
        seen = inside & (depth > 0) & (distance > -trunc_m)
        return torch.where(seen, distance.clamp(max=trunc_m), math.inf), pixel

    def see_spheres(self, centres_b3: Tensor, radius: float, trunc_m: float) -> Iterator[Tensor]:
        """Yield for each view whether a point of a sphere can have a signed distance in it, (b,) bool."""
        h, w = self.depths.shape[1:]
        cell = max(h, w) // 16
        for depth, K, cam_T_world in zip(self.depths, self.K, self.cam_T_world, strict=True):
            x, y, z = (centres_b3 @ cam_T_world[:3, :3].T + cam_T_world[:3, 3]).unbind(1)
            (fx, _, cx), (_, fy, cy) = K[:2].tolist()
            seen = z > -radius
            for across, focal, centre, size in ((x, fx, cx, w), (y, fy, cy, h)):
                low, high = (-0.5 - centre) / focal, (size - 0.5 - centre) / focal
                seen &= across - low * z > -radius * math.sqrt(1 + low**2)
                seen &= high * z - across > -radius * math.sqrt(1 + high**2)
            # exclude spheres behind all depth around their centre: rooms behind walls would cost time
            farthest = (
                F.pad(depth, (0, -w % cell, 0, -h % cell)).view(-(-h // cell), cell, -1, cell).amax((1, 3))
            )
            farthest = F.max_pool2d(farthest[None], 3, stride=1, padding=1)[0]
            u, v = (x * (fx / z) + cx).round_(), (y * (fy / z) + cy).round_()
            inside = (z > 1e-6) & (u >= 0) & (u < w) & (v >= 0) & (v < h)
            cells = (torch.where(inside, a, 0).long() // cell for a in (v, u))
            small = max(fx, fy) * radius < cell * (z - radius)
            yield seen & ~(inside & small & (z - radius > farthest[tuple(cells)] + trunc_m))


def _grid(side: int, device) -> Tensor:
    """Return the centres of a block's voxels relative to its corner, in voxels, (side**3, 3)."""
    steps = torch.arange(side, device=device) + 0.5
    return torch.cartesian_prod(steps, steps, steps)


def _observed_blocks(views: _Views, voxel_m: float, trunc_m: float, side: int, step: int) -> Tensor:
    """Find the blocks of side**3 voxels that can contain a surface, (b, 3) integers.

    They reach from half a block in front of each observed point, for the voxels in front of the surface, to ``trunc_m``
    behind it. Only every ``step``-th row and column of a depth map is looked at: neighbours lie in the same block.
    """
    side = side * voxel_m
    behind = torch.arange(-side / 2, trunc_m + side / 2, side / 2, device=views.depths.device)
    rays, lengths = views.rays[:, ::step, ::step], views.lengths[:, ::step, ::step]
    found = []
    for depth, lens, cam_T_world in zip(views.depths, views.lens, views.cam_T_world, strict=True):
        depth = depth[::step, ::step]
        known = depth > 0
        z = (depth[known] + behind[:, None] / lengths[lens][known]).clamp_(min=0)
        directions, start = rays[lens][known] @ cam_T_world[:3, :3], -cam_T_world[:3, 3] @ cam_T_world[:3, :3]
        x, y, z = ((start[i] + directions[:, i] * z).div_(side).floor_().long() for i in range(3))
        # one integer for each block: rows of three take fifty times as long
        found.append(torch.unique_consecutive((((x << 21) + y) << 21) + z))
    x = torch.cat(found).unique()
    half = 2**20
    z = ((x + half) & (2**21 - 1)) - half
    x = (x - z) >> 21
    y = ((x + half) & (2**21 - 1)) - half
    return torch.stack(((x - y) >> 21, y, z), -1)


def _means(views: _Views, blocks: Tensor, voxel_m: float, trunc_m: float) -> Tensor:
    """Average the signed distances of each voxel over the views; NaN where no view sees the voxel.

    Args:
        blocks: (b, 3), in units of half a block.

    Returns:
        (b, (SIDE / 2)**3).
    """
    device, (h, w) = blocks.device, views.depths.shape[1:]
    # as many blocks at once as stay in a processor's cache
    side, at_once = SIDE // 2, 64 if device.type == "cpu" else 2**14
    corners, local = blocks.float() * (side * voxel_m), _grid(side, device) * voxel_m
    total, count = torch.zeros(2, len(corners), side**3, device=device)
    to_unit = torch.tensor([[2 / w, 0, 1 / w - 1], [0, 2 / h, 1 / h - 1], [0, 0, 1]], device=device)
    visible = views.see_spheres(corners + side * voxel_m / 2, side * voxel_m * math.sqrt(3) / 2, trunc_m)
    for i, seen in enumerate(visible):
        to_pixels = to_unit @ views.K[i] @ views.cam_T_world[i, :3]
        within, starts = to_pixels[:, :3] @ local.T, corners @ to_pixels[:, :3].T + to_pixels[:, 3]
        # a pixel without depth is 0 twice, as a point outside the image: its sum below is 0
        length = torch.where(views.depths[i] > 0, views.lengths[views.lens[i]], 0)
        image = torch.stack((views.depths[i] * length + trunc_m * (length > 0), length))[None]
        for part in seen.nonzero()[:, 0].split(at_once):
            points = starts[part, :, None] + within
            z = F.threshold(points[:, 2], 1e-3, 1e-9)  # behind the camera: outside the image
            uv = (points[:, :2] / z[:, None]).transpose(1, 2)[None]
            sampled = F.grid_sample(image, uv, mode="nearest", align_corners=False)[0]
            # the signed distance plus the truncation: positive where the view contributes
            shifted = torch.addcmul(sampled[0], z, sampled[1], value=-1).clamp_(0, 2 * trunc_m)
            total.index_add_(0, part, shifted)
            count.index_add_(0, part, shifted.sign_())
    return total / count - trunc_m


def _quantiles(views: _Views, blocks: Tensor, voxel_m: float, trunc_m: float, q: float) -> Tensor:
    """Compute a quantile of the signed distances of each voxel over the views, (b, SIDE**3), block by block."""
    side, local = SIDE * voxel_m, _grid(SIDE, blocks.device) * voxel_m
    visible = torch.stack(list(views.see_spheres((blocks + 0.5) * side, side * math.sqrt(3) / 2, trunc_m)), 1)
    values = torch.empty(len(blocks), SIDE**3, device=blocks.device)
    for b, block in enumerate(blocks):
        seeing = visible[b].nonzero()[:, 0]
        values[b] = _quantile(views.signed_distances(block * side + local, seeing, trunc_m)[0], q)
    return values


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
        distance, pixel = views.signed_distances(points, view, near_m)
        near = (distance[0].abs() < near_m)[:, None]
        total += near * torch.from_numpy(image.reshape(-1, 3)).to(device)[pixel[0]]
        count += near
    colours = torch.where(count > 0, total / count, 128.0)
    return colours.round().clamp(0, 255).byte().cpu().numpy()
