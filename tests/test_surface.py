"""The surface of one depth map: positions of its points, cuts at jumps of depth, and its file."""

import io

import numpy as np
import pytest

from d3d.surface import surface, to_ply

H, W, F = 24, 32, 30.0
K = np.array([[F, 0, (W - 1) / 2], [0, F, (H - 1) / 2], [0, 0, 1]])
IMAGE = np.random.default_rng(0).integers(0, 256, (H, W, 3), dtype=np.uint8)


def floor_and_wall(height_m=0.6, wall_m=4.0):
    """Return the depth of a floor below the camera and a wall in front of it."""
    down = (np.arange(H)[:, None] - K[1, 2]) / F
    with np.errstate(divide="ignore"):
        floor = np.where(down > 0, height_m / down, np.inf)
    return np.minimum(floor, wall_m) + np.zeros((1, W))


def normals(mesh):
    a, b, c = (mesh.vertices[mesh.triangles[:, i]] for i in range(3))
    n = np.cross(b - a, c - a)
    return n / np.linalg.norm(n, axis=1, keepdims=True), a + b + c


def test_points_lie_on_the_surfaces_and_faces_look_at_the_camera():
    mesh = surface(floor_and_wall(), K, IMAGE)
    x, y, z = mesh.vertices.T
    assert np.isclose(np.minimum(abs(y - 0.6), abs(z - 4)), 0, atol=1e-9).all()
    assert len(mesh.vertices) == H * W
    assert len(mesh.triangles) == 2 * (H - 1) * (W - 1)
    assert np.array_equal(mesh.colors, IMAGE.reshape(-1, 3))
    normal, sight = normals(mesh)
    assert ((normal * sight).sum(axis=1) < 0).all()
    # the corners of the image: y grows downward
    assert x[0] < 0 < x[W - 1]
    assert y[0] < 0 < y[-1]


@pytest.mark.parametrize("scale", [1, 4])
def test_a_step_is_cut_at_any_resolution(scale):
    """A step of depth that is one network pixel wide, in the pixels of a larger image."""
    near, far, w = 1.0, 2.0, W * scale
    x = (np.arange(w) + 0.5) / scale
    depth = np.tile(np.interp(x, [W / 2 - 0.5, W / 2 + 0.5], [near, far]), (H * scale, 1))
    K_scaled = K * np.array([[scale], [scale], [1]])
    mesh = surface(depth, K_scaled)
    z = mesh.vertices[:, 2]
    assert not ((z > 1.05) & (z < 1.75)).any()
    assert (z == near).mean() > 0.45
    assert (z == far).mean() > 0.4


def test_pixels_without_depth_are_left_out():
    depth = floor_and_wall()
    depth[:5] = 0
    mesh = surface(depth, K, IMAGE)
    assert len(mesh.vertices) == (H - 5) * W
    assert np.array_equal(mesh.colors, IMAGE[5:].reshape(-1, 3))
    assert mesh.triangles.max() == len(mesh.vertices) - 1
    assert len(surface(np.zeros((H, W)), K).triangles) == 0


def test_a_viewer_reads_the_file_upright():
    trimesh = pytest.importorskip("trimesh", reason="trimesh comes with the extra 'fusion'")
    mesh = surface(floor_and_wall(), K, IMAGE)
    read = trimesh.load(io.BytesIO(to_ply(mesh)), file_type="ply", process=False)
    np.testing.assert_allclose(read.vertices, mesh.vertices * (1, -1, -1), atol=1e-6)
    assert np.array_equal(read.faces, mesh.triangles)
    assert np.array_equal(read.visual.vertex_colors[:, :3], mesh.colors)
    floor = np.isclose(read.vertices[read.faces][..., 1], -0.6, atol=1e-4).all(axis=1)
    assert floor.sum() > 100
    np.testing.assert_allclose(read.face_normals[floor][:, 1], 1, atol=1e-3)  # the floor looks up
    cloud = trimesh.load(io.BytesIO(to_ply(mesh, faces=False)), file_type="ply")
    np.testing.assert_allclose(cloud.vertices, read.vertices)
    grey = trimesh.load(io.BytesIO(to_ply(surface(floor_and_wall(), K))), file_type="ply", process=False)
    assert (grey.visual.vertex_colors[:, :3] == 200).all()
