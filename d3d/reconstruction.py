"""Projected depth (section 3.2.2): fuse the depth maps of all views into a mesh and render it from each view.

Functions import open3d and pyrender on use, so that the rest of d3d works without them.
"""

from __future__ import annotations

import contextlib
import io
import os
from dataclasses import dataclass

import numpy as np
from scipy.ndimage import maximum_filter

from d3d import tsdf
from d3d.errors import ConfigError, DataError, unknown
from d3d.geometry import scale_intrinsics
from d3d.io import load_arrays

# In a notebook, open3d otherwise starts a web server for its viewer and prints a message
os.environ.setdefault("OPEN3D_DISABLE_WEB_VISUALIZER", "true")
BACKENDS = ("open3d", "pyrender")
FUSION_BACKENDS = ("open3d", "torch")
_MOST_VALUES = 2**28  # of an array of a mesh


@dataclass(frozen=True)
class Mesh:
    """A triangle mesh in world coordinates."""

    vertices: np.ndarray  # (V, 3) float64, metres
    triangles: np.ndarray  # (T, 3) int32, vertex indices
    colors: np.ndarray | None = None  # (V, 3) uint8

    def to_npz(self) -> bytes:
        """Encode the mesh as an .npz file."""
        buffer = io.BytesIO()
        vertices = self.vertices.astype(np.float32)  # precise to a micrometre at room scale
        colors = np.zeros((0, 3), np.uint8) if self.colors is None else self.colors
        triangles = self.triangles.astype(np.int32)
        np.savez_compressed(buffer, vertices=vertices, triangles=triangles, colors=colors)
        return buffer.getvalue()

    @staticmethod
    def from_npz(path) -> Mesh:
        """Read an .npz file of `to_npz`.

        Raises:
            DataError: the file is missing, damaged, or does not hold a mesh.
        """
        data = load_arrays(path, _MOST_VALUES)
        if lacking := {"vertices", "triangles", "colors"} - data.keys():
            raise DataError(f"{path}: not a mesh of d3d (it lacks {', '.join(sorted(lacking))}).")
        arrays = vertices, triangles, colors = data["vertices"], data["triangles"], data["colors"]
        kinds = [a.dtype for a in arrays] == [np.float32, np.int32, np.uint8]
        shapes = all(a.shape[1:] == (3,) for a in arrays)
        if not kinds or not shapes or len(colors) not in (0, len(vertices)):
            raise DataError(f"{path}: not a mesh of d3d (its arrays have other types or shapes).")
        # Open3D does not check vertex indices: an index out of range ends the process
        if triangles.size and not 0 <= triangles.min() <= triangles.max() < len(vertices):
            raise DataError(f"{path}: not a mesh of d3d (a triangle has a vertex index out of range).")
        return Mesh(vertices.astype(np.float64), triangles, colors if len(colors) else None)


def reconstruct(
    depths: np.ndarray,
    K: np.ndarray,
    world_T_cam: np.ndarray,
    voxel_m: float = 0.05,
    trunc_m: float = 1.0,
    every: int = 10,
    images: np.ndarray | None = None,
    max_depth: float = 10.0,
    passes: int = 1,
    outlier: float = 0.1,
    quantile: float | None = None,
    backend: str = "open3d",
    device: str = "cpu",
) -> Mesh:
    """Fuse depth maps into a TSDF volume and extract its mesh (sections 3.2.2 and 3.3).

    Each voxel averages the truncated signed distances to the surfaces of all views. With a truncation distance as large
    as the over-estimation at a highlight, the surface is nearly the mean of the views. With a small distance it is a
    majority vote. The default is the paper's 1.0 m.

    The paper has one pass. Each further pass removes the depth d that lies behind the depth p of the previous mesh,
    d > (1 + outlier) p, and fuses again. It removes highlights that only some views see. Depth in front of the mesh
    stays, because reflections are always too far.

    The paper averages. A quantile of the signed distances is an option.

    Args:
        depths: (n, h, w) z-depth, metres; 0 where unknown.
        K: (3, 3) or (n, 3, 3) intrinsics, pixels.
        world_T_cam: (n, 4, 4) poses.
        voxel_m: side of a voxel, metres.
        trunc_m: truncation distance, metres.
        every: integrate every Nth view.
        images: optional uint8 (n, h, w, 3), colours of the mesh.
        max_depth: ignore depth beyond this, metres.
        passes: number of passes.
        outlier: relative distance behind the previous mesh beyond which a further pass removes depth.
        quantile: in [0, 1]; None means the mean. 0.5 is a majority vote; a lower quantile prefers nearer surfaces that
            fewer views see.
        backend: what computes the mean: "open3d" (its ScalableTSDFVolume), or "torch" (`d3d.tsdf`), which is faster
            and whose further passes compare with the previous mesh at about 96 columns. `d3d.tsdf` computes quantiles.
        device: where torch computes.

    Raises:
        DataError: sizes disagree, depth is not finite, or the mesh is empty.
        ConfigError: `voxel_m`, `trunc_m`, `every`, `passes` or `quantile` is out of range, or `backend` is unknown.
    """
    if backend not in FUSION_BACKENDS:
        raise unknown("fusion backend", backend, FUSION_BACKENDS)
    depths = np.asarray(depths, dtype=np.float32)
    if depths.ndim != 3 or len(depths) != len(world_T_cam):
        raise DataError(f"need (n, h, w) depths with n poses, got {depths.shape} and {len(world_T_cam)}.")
    if bad := np.count_nonzero(~np.isfinite(depths)):
        raise DataError(f"{bad} depth values are not finite. Use 0 for unknown depth.")
    if not (0 < voxel_m <= trunc_m) or every < 1 or passes < 1:
        raise ConfigError(
            f"need 0 < voxel_m <= trunc_m, every >= 1 and passes >= 1, got {voxel_m}, {trunc_m}, {every}, {passes}."
        )
    if quantile is not None and not 0 <= quantile <= 1:
        raise ConfigError(f"quantile = {quantile} must lie between 0 and 1.")
    n, h, w = depths.shape
    Ks = np.broadcast_to(np.asarray(K, dtype=np.float64), (n, 3, 3))[::every]
    poses = np.asarray(world_T_cam, dtype=np.float64)[::every]
    depths, images = depths[::every], None if images is None else images[::every]
    kept = depths
    for again in reversed(range(passes)):
        views = (kept, Ks, poses, voxel_m, trunc_m, max_depth)
        colours = None if again else images  # only the last mesh is kept
        if quantile is None and backend == "open3d":
            mesh = _fuse_mean(*views, colours)
        else:
            mesh = Mesh(*tsdf.fuse_views(*views, quantile, colours, device))
        if not len(mesh.triangles):
            raise DataError(
                f"the mesh is empty after fusing {len(kept)} views ({np.count_nonzero(kept)} pixels with depth under "
                f"{max_depth} m). Is the depth in metres, and are the poses camera-to-world?"
            )
        if again:
            p = _coarse_depth(mesh, Ks, poses, (h, w), 96 if quantile is None and backend == "torch" else w)
            kept = np.where((p > 0) & (depths > (1 + outlier) * p), np.float32(0), depths)
    return mesh


def _coarse_depth(
    mesh: Mesh, Ks: np.ndarray, poses: np.ndarray, size_hw: tuple[int, int], columns: int
) -> np.ndarray:
    """Render depth at about so many columns, and enlarge it; each pixel is the farthest of its 3 x 3 coarse neighbours.

    Rendering takes longer than fusion. At an edge, the farther surface decides, so no depth of it is an outlier.
    """
    h, w = size_hw
    step = max(1, round(w / columns))
    if step == 1:
        return render_depth(mesh, Ks, poses, size_hw)
    coarse_hw = -(-h // step), -(-w // step)
    # pixel (i, j) of the coarse map is the centre of step x step pixels
    Ks = [scale_intrinsics(K, (coarse_hw[0] * step, coarse_hw[1] * step), coarse_hw) for K in Ks]
    coarse = maximum_filter(render_depth(mesh, np.stack(Ks), poses, coarse_hw), size=(1, 3, 3))
    return coarse.repeat(step, axis=1).repeat(step, axis=2)[:, :h, :w]


def _fuse_mean(depths, Ks, poses, voxel_m: float, trunc_m: float, max_depth: float, images) -> Mesh:
    """Average all given views with Open3D (0.19; 0.20 returns an empty mesh for float depth)."""
    import open3d as o3d

    h, w = depths.shape[1:]
    kinds = o3d.pipelines.integration.TSDFVolumeColorType
    kind = kinds.NoColor if images is None else kinds.RGB8
    volume = o3d.pipelines.integration.ScalableTSDFVolume(voxel_m, trunc_m, kind)
    blank = np.zeros((h, w, 3), np.uint8)
    for i, (depth, K, pose) in enumerate(zip(depths, Ks, poses, strict=True)):
        rgbd = o3d.geometry.RGBDImage.create_from_color_and_depth(
            o3d.geometry.Image(blank if images is None else np.ascontiguousarray(images[i])),
            o3d.geometry.Image(np.ascontiguousarray(depth)),
            depth_scale=1.0,
            depth_trunc=max_depth,
            convert_rgb_to_intensity=False,
        )
        intrinsic = o3d.camera.PinholeCameraIntrinsic(w, h, K[0, 0], K[1, 1], K[0, 2], K[1, 2])
        volume.integrate(rgbd, intrinsic, np.linalg.inv(pose))
    mesh = volume.extract_triangle_mesh()
    colors = None
    if images is not None:
        colors = np.rint(np.asarray(mesh.vertex_colors) * 255).clip(0, 255).astype(np.uint8)
    return Mesh(np.array(mesh.vertices), np.array(mesh.triangles, np.int32), colors)


def render_depth(
    mesh: Mesh, K: np.ndarray, world_T_cam: np.ndarray, size_hw: tuple[int, int], backend: str = "open3d"
) -> np.ndarray:
    """Render the z-depth of a mesh, the projected depth P of section 3.2.2.

    Args:
        mesh: in the world coordinates of the poses.
        K, world_T_cam: as in `reconstruct`.
        size_hw: height and width.
        backend: "open3d" casts rays on the CPU; "pyrender", the paper's choice, rasterises with OpenGL (EGL).

    Returns:
        Depth (n, h, w), float32 metres; 0 where no surface is hit.

    Raises:
        ConfigError: `backend` is unknown.
        DataError: the mesh is empty, or pyrender cannot open an OpenGL context.
    """
    if backend not in BACKENDS:
        raise unknown("renderer", backend, BACKENDS)
    if len(mesh.triangles) == 0:
        raise DataError("cannot render an empty mesh.")
    poses = np.asarray(world_T_cam, dtype=np.float64)
    Ks = np.broadcast_to(np.asarray(K, dtype=np.float64), (len(poses), 3, 3))
    render = _render_open3d if backend == "open3d" else _render_pyrender
    return render(mesh, Ks, poses, tuple(size_hw))


def _raycasting_scene(mesh: Mesh):
    import open3d as o3d

    scene = o3d.t.geometry.RaycastingScene()
    scene.add_triangles(mesh.vertices.astype(np.float32), mesh.triangles.astype(np.uint32))
    return scene


def _rays(K: np.ndarray, world_T_cam: np.ndarray, size_hw: tuple[int, int]) -> np.ndarray:
    """Compute origin and direction of the ray through each pixel centre in world coordinates; (h * w, 6) float32.

    Open3D's own rays put the centre of pixel (0, 0) at (0.5, 0.5); here it is at (0, 0). The direction has z = 1 in the
    camera's frame, so the ray parameter of a hit is its z-depth.
    """
    h, w = size_hw
    per_x, per_y, first = (world_T_cam[:3, :3] @ np.linalg.inv(K)).T
    rays = np.empty((h, w, 6), np.float32)
    rays[..., :3] = world_T_cam[:3, 3]
    for axis in range(3):
        # row plus column: a matrix product per pixel takes five times as long
        column = np.arange(h) * per_y[axis] + first[axis]
        np.add.outer(column, np.arange(w) * per_x[axis], out=rays[..., 3 + axis], casting="same_kind")
    return rays.reshape(-1, 6)


def _render_open3d(mesh: Mesh, Ks: np.ndarray, poses: np.ndarray, size_hw: tuple[int, int]) -> np.ndarray:
    scene = _raycasting_scene(mesh)
    result = np.empty((len(poses), *size_hw), np.float32)
    # 0: all cores. A pool sets OMP_NUM_THREADS for each of its processes
    given = os.environ.get("OMP_NUM_THREADS", "")
    threads = int(given) if given.isdigit() else 0
    for i, (K, pose) in enumerate(zip(Ks, poses, strict=True)):
        hit = scene.cast_rays(_rays(K, pose, size_hw), nthreads=threads)["t_hit"].numpy()
        result[i] = np.where(np.isfinite(hit), hit, 0).reshape(size_hw)
    return result


def _render_pyrender(mesh: Mesh, Ks: np.ndarray, poses: np.ndarray, size_hw: tuple[int, int]) -> np.ndarray:
    platform = os.environ.setdefault("PYOPENGL_PLATFORM", "egl")
    with contextlib.suppress(ImportError):
        import triton  # noqa: F401  if imported after a GL context, its LLVM clashes with Mesa's: a segmentation fault
    h, w = size_hw
    try:
        import pyrender

        renderer = pyrender.OffscreenRenderer(w, h)
    except Exception as error:  # PyOpenGL and EGL raise many kinds
        raise DataError(
            f"pyrender cannot render with PYOPENGL_PLATFORM={platform} ({type(error).__name__}: {error}). Set "
            "PYOPENGL_PLATFORM=egl and install libegl1 and libegl-mesa0. Or use the renderer 'open3d', which needs "
            "no graphics."
        ) from error
    try:
        scene = pyrender.Scene()
        node = scene.add(_pyrender_mesh(mesh))
        opencv_to_opengl = np.diag((1.0, -1.0, -1.0, 1.0))
        result = np.empty((len(poses), h, w), np.float32)
        for i, (K, pose) in enumerate(zip(Ks, poses, strict=True)):
            # the rasteriser puts the centre of pixel (0, 0) at (0.5, 0.5)
            intrinsics = (K[0, 0], K[1, 1], K[0, 2] + 0.5, K[1, 2] + 0.5)
            camera = pyrender.IntrinsicsCamera(*intrinsics, znear=0.05, zfar=50.0)
            camera_node = scene.add(camera, pose=pose @ opencv_to_opengl)
            # SEG switches off 4x multisampling, which blends depth at edges
            _, result[i] = renderer.render(scene, pyrender.RenderFlags.SEG, {node: (255, 255, 255)})
            scene.remove_node(camera_node)
    finally:
        renderer.delete()
    return result


def _pyrender_mesh(mesh: Mesh):
    """Convert the mesh for pyrender, with both sides of each triangle: the flag SEG culls back faces."""
    import pyrender

    class BoundedMesh(pyrender.Mesh):
        @property
        def bounds(self) -> np.ndarray:  # pyrender 0.1.45 computes them with np.infty, which numpy 2 dropped
            return np.stack((mesh.vertices.min(axis=0), mesh.vertices.max(axis=0)))

    triangles = np.concatenate((mesh.triangles, mesh.triangles[:, ::-1]))
    return BoundedMesh([pyrender.Primitive(positions=mesh.vertices.astype(np.float32), indices=triangles)])


def render_shaded(mesh: Mesh, K: np.ndarray, world_T_cam: np.ndarray, size_hw: tuple[int, int]) -> np.ndarray:
    """Draw the mesh from one view, in its colours or grey, lit from the camera; uint8 (h, w, 3), white background."""
    h, w = size_hw
    rays = _rays(K, world_T_cam, size_hw)
    hit = _raycasting_scene(mesh).cast_rays(rays)
    found = np.isfinite(hit["t_hit"].numpy())
    normals = hit["primitive_normals"].numpy()[found]
    view = rays[found, 3:] / np.linalg.norm(rays[found, 3:], axis=1, keepdims=True)
    light = 0.35 + 0.65 * np.abs((normals * view).sum(axis=1, keepdims=True))
    base = np.full((found.sum(), 3), 200.0)
    if mesh.colors is not None:
        corners = mesh.triangles[hit["primitive_ids"].numpy()[found].astype(np.int64)]
        u, v = hit["primitive_uvs"].numpy()[found].T
        weights = np.stack((1 - u - v, u, v), axis=1)
        base = (mesh.colors[corners] * weights[:, :, None]).sum(axis=1)
    picture = np.full((h * w, 3), 255, np.uint8)
    picture[found] = (base * light).clip(0, 255).astype(np.uint8)
    return picture.reshape(h, w, 3)


def overview_camera(
    mesh: Mesh,
    size_hw: tuple[int, int],
    up: np.ndarray | None = None,
    forward: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Return K (3, 3) and world_T_cam (4, 4) of a camera that sees the whole mesh from above one of its corners.

    Args:
        up: the world's upward direction (3,); by default -y, as for cameras with OpenCV axes.
        forward: horizontal direction (3,) in which the camera looks; by default one that depends on ``up``.
    """
    up = _unit(np.array((0.0, -1.0, 0.0) if up is None else up, dtype=float))
    # percentiles: stray triangles, for example behind a window, must not set the scale
    low, high = np.percentile(mesh.vertices, (2, 98), axis=0)
    centre, radius = (low + high) / 2, np.linalg.norm(high - low) / 2
    side = np.cross(up, (1.0, 0.0, 0.0) if abs(up[0]) < 0.9 else (0.0, 0.0, 1.0))
    if forward is not None and np.linalg.norm(level := forward - (forward @ up) * up) > 1e-3:
        side = -level
    side = _unit(side)
    direction = 0.75 * up + 0.66 * side
    position = centre + 1.9 * radius * direction / np.linalg.norm(direction)
    forward = _unit(centre - position)
    right = _unit(np.cross(forward, up))
    pose = np.eye(4)
    pose[:3, :3] = np.stack((right, np.cross(forward, right), forward), axis=1)
    pose[:3, 3] = position
    h, w = size_hw
    focal = 0.9 * min(h, w)
    return np.array(((focal, 0, (w - 1) / 2), (0, focal, (h - 1) / 2), (0, 0, 1.0))), pose


def _unit(vector: np.ndarray) -> np.ndarray:
    return vector / np.linalg.norm(vector)
