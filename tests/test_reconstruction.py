"""Projected depth: an analytic plane comes back; ray casting and pyrender agree; half pixels; errors."""

import os
import subprocess
import sys

import numpy as np
import pytest

from d3d import reconstruction
from d3d.errors import ConfigError, DataError
from d3d.geometry import scale_intrinsics
from d3d.reconstruction import (
    FUSION_BACKENDS,
    Mesh,
    overview_camera,
    reconstruct,
    render_depth,
    render_shaded,
)

pytest.importorskip("open3d")

SIZE = (96, 128)
K = np.array([[110.0, 0, 63.2], [0, 111.0, 47.1], [0, 0, 1]])
# a slanted plane n . x = d in the world, about 2 m in front of the cameras
NORMAL, OFFSET = np.array([0.25, -0.15, -1.0]) / np.linalg.norm([0.25, -0.15, -1.0]), -1.9


def poses(n=21):
    from scipy.spatial.transform import Rotation

    result = np.tile(np.eye(4), (n, 1, 1))
    for i, t in enumerate(np.linspace(-1, 1, n)):
        result[i, :3, :3] = Rotation.from_euler("xyz", (3 * t, -8 * t, 2 * t), degrees=True).as_matrix()
        result[i, :3, 3] = (0.35 * t, 0.1 * t * t, 0.08 * t)
    return result


def plane_depth(pose):
    """Exact z-depth of the plane at the integer pixel centres."""
    y, x = np.mgrid[0 : SIZE[0], 0 : SIZE[1]]
    rays = np.stack((x, y, np.ones_like(x)), -1) @ np.linalg.inv(K).T @ pose[:3, :3].T
    return (OFFSET - NORMAL @ pose[:3, 3]) / (rays @ NORMAL)


@pytest.fixture(scope="module")
def plane():
    T = poses()
    depths = np.stack([plane_depth(p) for p in T]).astype(np.float32)
    return T, depths, reconstruct(depths, K, T, voxel_m=0.05, trunc_m=0.25, every=1)


@pytest.mark.parametrize("trunc_m", [0.15, 1.0])
def test_a_fused_slanted_plane_comes_back_within_a_tenth_of_a_voxel(trunc_m):
    T = poses()
    depths = np.stack([plane_depth(p) for p in T]).astype(np.float32)
    mesh = reconstruct(depths, K, T, voxel_m=0.05, trunc_m=trunc_m, every=2)
    again = render_depth(mesh, K, T[::5], SIZE)
    inner = (slice(None), slice(8, -8), slice(8, -8))
    error = np.abs(again - depths[::5])[inner]
    assert (again[inner] > 0).all()
    assert error.max() < 0.005


def test_half_a_pixel_off_would_be_seen(plane):
    # a renderer whose pixel centres lie at 0.5 would give the second figure
    T, depths, mesh = plane
    shifted = K.copy()
    shifted[:2, 2] -= 0.5
    inner = (slice(None), slice(8, -8), slice(8, -8))
    right = np.abs(render_depth(mesh, K, T[::5], SIZE) - depths[::5])[inner].mean()
    wrong = np.abs(render_depth(mesh, shifted, T[::5], SIZE) - depths[::5])[inner].mean()
    assert right < 0.0006
    assert wrong > 0.001
    assert wrong > 2 * right


def egl_or_skip():
    try:
        return render_depth(box_mesh(), K, np.eye(4)[None], (32, 32), "pyrender")
    except DataError as error:
        pytest.skip(str(error))


def box_mesh():
    import open3d as o3d

    box = o3d.geometry.TriangleMesh.create_box(1.0, 0.8, 0.6)
    box.translate((-0.5, -0.4, 1.7))
    room = o3d.geometry.TriangleMesh.create_box(6, 4, 6)
    room.translate((-3, -2, -2))
    both = box + room
    return Mesh(np.asarray(both.vertices).copy(), np.asarray(both.triangles).astype(np.int32))


def off_edges(depth):
    """Pixels whose 3x3 neighbourhood holds no jump: the two renderers may put an edge on either side of it."""
    from scipy.ndimage import maximum_filter, minimum_filter

    size = (1, 3, 3)
    return maximum_filter(depth, size) - minimum_filter(depth, size) < 0.1


@pytest.mark.gl
def test_pyrender_agrees_with_ray_casting_on_a_box_in_a_room():
    egl_or_skip()
    mesh, T = box_mesh(), poses(5)
    a, b = render_depth(mesh, K, T, SIZE, "open3d"), render_depth(mesh, K, T, SIZE, "pyrender")
    flat = off_edges(a)
    assert flat.mean() > 0.8
    assert np.abs(a - b)[flat].max() < 0.001
    assert (np.abs(a - b) < 0.001).mean() > 0.98


@pytest.mark.gl
def test_pyrender_agrees_with_ray_casting_on_a_fused_mesh(plane):
    egl_or_skip()
    T, _, mesh = plane
    a, b = render_depth(mesh, K, T[:3], SIZE, "open3d"), render_depth(mesh, K, T[:3], SIZE, "pyrender")
    both = (a > 0) & (b > 0) & off_edges(a)
    assert both.mean() > 0.9
    assert np.abs(a - b)[both].max() < 0.001


@pytest.mark.gl
def test_pyrenders_mesh_has_bounds_under_numpy_2():
    egl_or_skip()  # loads pyrender only where it can be loaded
    import pyrender

    from d3d.reconstruction import _pyrender_mesh

    mesh = box_mesh()
    scene = pyrender.Scene()
    scene.add(_pyrender_mesh(mesh))
    np.testing.assert_allclose(scene.bounds, (mesh.vertices.min(0), mesh.vertices.max(0)), atol=1e-6)
    assert scene.scale == pytest.approx(np.linalg.norm(np.ptp(mesh.vertices, axis=0)))
    assert not hasattr(np, "infty") or np.__version__ < "2"  # numpy itself is left as it is


RENDER = """
import numpy as np
from d3d.reconstruction import Mesh, render_depth
render_depth(Mesh(np.eye(3), np.array([[0, 1, 2]])), np.eye(3), np.eye(4)[None], (8, 8), "pyrender")
"""


@pytest.mark.parametrize("platform", ["osmesa", "nonsense"])
def test_a_graphics_platform_that_is_missing_is_one_clear_error(platform, repo_dir):
    if platform == "osmesa":
        import ctypes.util

        if ctypes.util.find_library("OSMesa"):
            pytest.skip("OSMesa is installed here")
    environment = os.environ | {"PYOPENGL_PLATFORM": platform, "PYTHONPATH": str(repo_dir)}
    done = subprocess.run([sys.executable, "-c", RENDER], env=environment, capture_output=True, text=True)
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("d3d.errors.DataError: pyrender cannot render")
    assert all(word in last for word in (f"PYOPENGL_PLATFORM={platform}", "egl", "open3d"))


@pytest.mark.gl
def test_pyrender_agrees_with_ray_casting_on_a_real_room(shared_dir):
    from d3d.datasets import open_dataset

    egl_or_skip()
    scene = open_dataset("7scenes", shared_dir / "data" / "7scenes").scenes("train")[0]
    frames = range(0, 200, 10)
    full = [scene.K(i) for i in frames]
    depths = np.stack([scene.depth(i) for i in frames])
    mesh = reconstruct(depths, np.stack(full), scene.world_T_cams[list(frames)], 0.05, 0.15, every=1)
    Ks = np.stack([scene.K(i, SIZE) for i in frames])[::7]
    T = scene.world_T_cams[list(frames)][::7]
    a, b = render_depth(mesh, Ks, T, SIZE, "open3d"), render_depth(mesh, Ks, T, SIZE, "pyrender")
    both = (a > 0) & (b > 0) & off_edges(a)
    assert both.mean() > 0.4
    # a real mesh has slivers at which a ray may pass on either side: one pixel in a thousand
    assert np.quantile(np.abs(a - b)[both], 0.999) < 0.001


def test_nothing_hit_is_zero(plane):
    _, _, mesh = plane
    behind = np.diag((-1.0, 1, -1, 1))[None]
    assert (render_depth(mesh, K, behind, SIZE) == 0).all()


def test_an_empty_mesh_is_an_error_that_says_so():
    T = poses(3)
    with pytest.raises(DataError, match="mesh is empty"):
        reconstruct(np.zeros((3, *SIZE)), K, T, every=1)
    with pytest.raises(DataError, match="mesh is empty"):  # millimetres taken for metres
        reconstruct(np.full((3, *SIZE), 2000.0), K, T, every=1)
    with pytest.raises(DataError, match="empty mesh"):
        render_depth(Mesh(np.zeros((0, 3)), np.zeros((0, 3), np.int32)), K, T, SIZE)


def test_bad_arguments():
    T = poses(3)
    depth = np.ones((3, *SIZE), np.float32)
    with pytest.raises(DataError, match="n poses"):
        reconstruct(depth, K, T[:2])
    with pytest.raises(DataError, match="not finite"):
        reconstruct(np.where(depth > 0, np.nan, depth), K, T)
    with pytest.raises(ConfigError, match="voxel_m"):
        reconstruct(depth, K, T, voxel_m=0.5, trunc_m=0.1)
    with pytest.raises(ConfigError, match=r"unknown renderer 'pyrendr'.*'pyrender'"):
        render_depth(box_mesh(), K, T, SIZE, "pyrendr")


def test_mesh_survives_its_file_and_a_damaged_file_is_named(plane, tmp_path):
    _, _, mesh = plane
    path = tmp_path / "mesh.npz"
    path.write_bytes(mesh.to_npz())
    again = Mesh.from_npz(path)
    assert np.allclose(again.vertices, mesh.vertices, atol=1e-6)
    assert (again.triangles == mesh.triangles).all()
    path.write_bytes(mesh.to_npz()[:100])
    with pytest.raises(DataError, match=r"mesh\.npz"):
        Mesh.from_npz(path)


def test_a_picture_of_the_mesh_shows_its_colours():
    T = poses(3)
    depths = np.stack([plane_depth(p) for p in T]).astype(np.float32)
    images = np.zeros((3, *SIZE, 3), np.uint8)
    images[..., 0] = 200
    mesh = reconstruct(depths, K, T, every=1, images=images)
    picture = render_shaded(mesh, K, T[1], SIZE)
    assert picture.shape == (*SIZE, 3)
    middle = picture[40:56, 54:74].reshape(-1, 3).mean(0)
    assert middle[0] > 100
    assert middle[1:].max() < 10
    Ko, pose = overview_camera(mesh, SIZE)
    assert (render_shaded(mesh, Ko, pose, SIZE) < 255).any(-1).mean() > 0.05


@pytest.mark.parametrize("backend", FUSION_BACKENDS)
@pytest.mark.parametrize(("share", "repaired"), [(0.25, True), (0.5, True), (0.75, False)])
def test_a_second_pass_outvotes_a_highlight_unless_most_views_see_it(share, repaired, backend):
    # a wall at 2 m; some of 20 views over-estimate a patch of it: a reflection at 3 m
    n = 20
    T = np.tile(np.eye(4), (n, 1, 1))
    T[:, 0, 3] = np.linspace(-0.02, 0.02, n)
    depths = np.full((n, *SIZE), 2.0, np.float32)
    depths[: round(share * n), 36:60, 48:80] = 3.0
    patch = (0, slice(44, 52), slice(58, 70))

    def seen(passes):
        mesh = reconstruct(depths, K, T, voxel_m=0.05, trunc_m=1.0, every=1, passes=passes, backend=backend)
        return float(np.median(render_depth(mesh, K, T[10:11], SIZE)[patch]))

    once, twice = seen(1), seen(2)
    assert once > 2.0 + 0.8 * share
    assert (abs(twice - 2.0) < 0.02) == repaired
    assert twice <= once + 0.01


def test_the_coarse_depth_of_a_further_pass_is_that_of_the_farthest_surface_nearby():
    def wall(z, right):
        return [(-9, -9, z), (right, -9, z), (right, 9, z), (-9, 9, z)]

    vertices = np.array(wall(2, 9) + wall(1, 0), float)  # a near wall hides the left half of a far one
    mesh = Mesh(vertices, np.array([(0, 1, 2), (0, 2, 3), (4, 5, 6), (4, 6, 7)]))
    size = (3 * SIZE[0] + 1, 3 * SIZE[1] - 1)  # not a multiple of the coarse size
    K3 = scale_intrinsics(K, SIZE, size)
    fine = render_depth(mesh, K3, np.eye(4)[None], size)
    coarse = reconstruction._coarse_depth(mesh, K3[None], np.eye(4)[None], size, SIZE[1])
    assert coarse.shape == fine.shape
    assert (coarse > fine - 1e-5).all()
    wrong = np.flatnonzero(~np.isclose(coarse, fine, atol=1e-5).all(axis=(0, 1)))
    assert 1 <= len(wrong) <= 6
    assert np.ptp(wrong) < 9


def test_an_unknown_fusion_backend_is_an_error_with_the_near_miss():
    with pytest.raises(ConfigError, match=r"unknown fusion backend 'troch'.*'torch'"):
        reconstruct(np.ones((1, *SIZE)), K, np.eye(4)[None], backend="troch")
