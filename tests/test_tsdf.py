"""Quantile fusion: its mean equals Open3D's, a quantile removes mirror images, blocks join, memory and errors."""

import numpy as np
import pytest
import torch
from test_reconstruction import SIZE, K, plane_depth, poses

from d3d import tsdf
from d3d.errors import ConfigError, DataError
from d3d.geometry import nearest_depth
from d3d.reconstruction import Mesh, reconstruct, render_depth

pytest.importorskip("open3d")
INNER = (slice(None), slice(8, -8), slice(8, -8))


def fused(depths, T, quantile, voxel_m=0.05, trunc_m=1.0, **more):
    Ks = np.broadcast_to(K, (len(T), 3, 3))
    vertices, triangles, colors = tsdf.fuse_views(
        np.asarray(depths, np.float32), Ks, T, voxel_m, trunc_m, quantile=quantile, **more
    )
    return Mesh(vertices, triangles, colors)


@pytest.fixture(scope="module")
def room():
    """Ten views of a room with exact depth."""
    from d3d.datasets import open_dataset

    scene = next(s for s in open_dataset("glossyrooms").scenes("train") if s.has_depth)
    chosen = list(range(0, len(scene), 8))
    depths = np.stack([nearest_depth(scene.depth(i), SIZE) for i in chosen]).astype(np.float32)
    Ks = np.stack([scene.K(i, SIZE) for i in chosen])
    images = np.stack([scene.image(i, SIZE) for i in chosen])
    return depths, Ks, scene.world_T_cams[chosen], images


@pytest.mark.parametrize("trunc_m", [0.15, 1.0])
def test_the_mean_is_that_of_open3d(room, trunc_m):
    depths, Ks, T, _ = room
    theirs = reconstruct(depths, Ks, T, trunc_m=trunc_m, every=1)
    ours = Mesh(*tsdf.fuse_views(depths, Ks, T, 0.05, trunc_m))
    a, b = (render_depth(mesh, Ks, T, SIZE) for mesh in (theirs, ours))
    both = (a > 0) & (b > 0)
    assert both.sum() > 0.99 * (a > 0).sum()
    # a tenth of a voxel for 95 % of the pixels; the rest are the rims of what a block of Open3D has not seen
    assert np.median(np.abs(a - b)[both]) < 0.001
    assert np.percentile(np.abs(a - b)[both], 95) < 0.005


@pytest.mark.parametrize("quantile", [None, 0.35, 0.5])
def test_a_slanted_plane_comes_back_within_a_tenth_of_a_voxel(quantile):
    T = poses()
    depths = np.stack([plane_depth(p) for p in T])
    again = render_depth(fused(depths, T, quantile), K, T[::5], SIZE)
    assert (again[INNER] > 0).all()
    assert np.abs(again - depths[::5])[INNER].max() < 0.005


@pytest.mark.parametrize(
    ("share", "quantile", "repaired"),
    [(0.3, None, False), (0.3, 0.5, True), (0.6, 0.5, False), (0.6, 0.25, True), (0.9, 0.25, False)],
)
def test_a_quantile_outvotes_a_mirror_image_that_fewer_views_see(share, quantile, repaired):
    T = poses()
    depths = np.stack([plane_depth(p) for p in T])
    spot = (slice(36, 60), slice(52, 76))
    with_mirror = depths.copy()
    seeing = np.random.default_rng(0).permutation(len(T))[: round(share * len(T))]
    with_mirror[(seeing, *spot)] += 1.0  # as far behind the surface as a lamp is above it
    again = render_depth(fused(with_mirror, T, quantile), K, T[10:11], SIZE)[0]
    error = np.median((again - depths[10])[spot])
    assert bool(abs(error) < 0.02) is repaired
    assert error > -0.02  # never in front of the surface


def test_the_quantile_is_numpys():
    rng = np.random.default_rng(0)
    distances = rng.normal(size=(9, 200)).astype(np.float32)
    distances[rng.random(distances.shape) < 0.5] = np.nan
    distances[:, :3] = np.nan
    distances[1:, 3] = np.nan
    given = torch.tensor(np.nan_to_num(distances, nan=np.inf))
    for q in (0.0, 0.25, 0.35, 0.5, 1.0):
        found = tsdf._quantile(given, q).numpy()
        seen = ~np.isnan(distances).all(axis=0)
        assert (np.isnan(found) == ~seen).all()
        np.testing.assert_allclose(found[seen], np.nanquantile(distances[:, seen], q, axis=0), atol=1e-6)


def test_the_mean_of_each_voxel_is_that_of_its_signed_distances(room):
    depths, Ks, T, _ = room
    Ks = Ks * np.linspace(1, 1.2, len(Ks))[:, None, None]  # a lens for each view
    Ks[:, 2, 2] = 1
    views = tsdf._Views.of(depths, Ks, T, 4.0, "cpu")
    blocks = tsdf._observed_blocks(views, 0.05, 0.3, 8, 2)[::25]
    # blocks beside and behind a camera: nothing there may project into its image
    at = torch.tensor(T[0, :3, 3] / 0.4).floor().long()
    blocks = torch.cat((blocks, at + torch.cartesian_prod(*3 * [torch.arange(-1, 2)])))
    found = tsdf._means(views, blocks, 0.05, 0.3).numpy()
    local = tsdf._grid(8, "cpu") * 0.05
    expected = []
    for block in blocks:
        d = views.signed_distances(block * 0.4 + local, torch.arange(len(depths)), 0.3)[0].numpy()
        d[np.isinf(d)] = np.nan
        seen = ~np.isnan(d).all(axis=0)
        expected.append(
            np.where(seen, np.nansum(d, axis=0) / np.maximum(1, (~np.isnan(d)).sum(axis=0)), np.nan)
        )
    expected = np.stack(expected)
    same = np.isclose(found, expected, atol=1e-5, equal_nan=True)
    assert 0.1 < np.isnan(expected).mean() < 0.9
    assert same.mean() > 0.9995  # rounding may choose the neighbouring pixel


def test_blocks_join_without_a_seam(room):
    depths, Ks, T, _ = room
    vertices, triangles, _ = tsdf.fuse_views(depths, Ks, T, 0.05, 1.0, quantile=0.35)
    assert len(np.unique(vertices, axis=0)) == len(vertices)
    edges = np.sort(triangles[:, [[0, 1], [1, 2], [2, 0]]].reshape(-1, 2), axis=1)
    _, count = np.unique(edges, axis=0, return_counts=True)
    # an open edge on a plane between blocks would be a seam; open edges lie where no view has seen the next voxel
    open_edges = np.unique(edges, axis=0)[count == 1]
    middle = vertices[open_edges].mean(axis=1) / 0.05 - 0.5
    on_a_border = np.isclose(middle % tsdf.SIDE, 0, atol=1e-6).any(axis=1)
    assert on_a_border.mean() < 0.2  # by chance three planes of 16 are 17 %
    assert (count <= 2).mean() > 0.999


def test_the_surface_faces_the_cameras():
    T = poses()
    mesh = fused(np.stack([plane_depth(p) for p in T]), T, 0.5)
    a, b, c = mesh.vertices[mesh.triangles].transpose(1, 0, 2)
    towards = (np.cross(b - a, c - a) * (T[10, :3, 3] - a)).sum(axis=1)
    assert (towards > 0).mean() > 0.99  # as Open3D's triangles: seen from the front their corners turn left


def test_nothing_is_where_no_view_looks(room):
    depths, Ks, T, _ = room
    mesh = Mesh(*tsdf.fuse_views(depths[:1], Ks[:1], T[:1], 0.05, 1.0, quantile=0.5))
    camera = (np.c_[mesh.vertices, np.ones(len(mesh.vertices))] @ np.linalg.inv(T[0]).T)[:, :3]
    x, y, z = (camera @ Ks[0].T).T
    assert (z > 0).all()
    assert (x / z).min() > -1.5
    assert (x / z).max() < SIZE[1] + 0.5
    assert (y / z).min() > -1.5
    assert (y / z).max() < SIZE[0] + 0.5


def test_vertices_have_the_colour_of_the_views():
    T = poses()
    depths = np.stack([plane_depth(p) for p in T])
    images = np.zeros((len(T), *SIZE, 3), np.uint8) + np.array((200, 90, 30), np.uint8)
    mesh = fused(depths, T, 0.5, images=images)
    assert mesh.colors.shape == mesh.vertices.shape
    assert (np.abs(mesh.colors.astype(int) - (200, 90, 30)).max(axis=1) <= 1).mean() > 0.95


def test_reconstruct_takes_the_quantile_and_passes(room):
    depths, Ks, T, images = room
    mesh = reconstruct(depths, Ks, T, every=1, images=images, quantile=0.4, passes=2)
    assert mesh.colors is not None
    again = render_depth(mesh, Ks, T, SIZE)
    seen = (again > 0) & (depths > 0)
    assert np.median(np.abs(again - depths)[seen]) < 0.02


def test_memory_grows_with_the_surface_not_with_the_box_around_it():
    # two walls, 200 m apart: their box would have a billion voxels
    T = poses(5)
    far = T.copy()
    far[:, 0, 3] += 200
    depths = np.stack([plane_depth(p) for p in T])
    here = fused(depths, T, 0.5)
    both = fused(np.concatenate((depths, depths)), np.concatenate((T, far)), 0.5)
    assert len(both.triangles) == pytest.approx(2 * len(here.triangles), rel=0.1)


def test_bad_values_are_one_error_each(room):
    depths, Ks, T, _ = room
    for q in (-0.1, 1.5, float("nan")):
        with pytest.raises(ConfigError, match="quantile"):
            reconstruct(depths, Ks, T, quantile=q)
    with pytest.raises(ConfigError, match=r"voxel_m = 0.001: a scene of .* million voxels"):
        reconstruct(depths[:2], Ks[:2], T[:2], voxel_m=0.001, trunc_m=0.2, every=1, quantile=0.5)
    with pytest.raises(DataError, match="empty"):
        reconstruct(np.zeros_like(depths), Ks, T, quantile=0.5)
