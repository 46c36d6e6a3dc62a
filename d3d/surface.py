"""Triangulate a depth map and write it as a PLY file."""

from __future__ import annotations

import numpy as np

from d3d.reconstruction import Mesh

# A flatter triangle probably joins two surfaces. At 85 degrees a floor seen from a height of 1.5 m reaches to 17 m.
# Unlike a limit for the step between neighbours, the angle does not depend on the resolution.
MAX_SLANT_DEG = 85.0
AXES = "metres; x right, y up, z backward"


def surface(
    depth_hw: np.ndarray,
    K_33: np.ndarray,
    image: np.ndarray | None = None,
    max_slant_deg: float = MAX_SLANT_DEG,
) -> Mesh:
    """Triangulate the pixels of a depth map, cut where the depth jumps.

    Args:
        depth_hw: z-depth (h, w), metres; 0 where unknown.
        K_33: intrinsics in pixels, pixel centres at integers.
        image: optional uint8 (h, w, 3), colours.
        max_slant_deg: largest angle between a triangle's normal and the line of sight, degrees.

    Returns:
        The mesh in the camera's frame (x right, y down, z forward), with front faces towards the camera. Pixels without
        a triangle are left out.
    """
    h, w = depth_hw.shape
    x, y = np.meshgrid(np.arange(w), np.arange(h))
    z = np.asarray(depth_hw, dtype=np.float64)
    points = np.stack(((x - K_33[0, 2]) / K_33[0, 0] * z, (y - K_33[1, 2]) / K_33[1, 1] * z, z), -1).reshape(
        -1, 3
    )
    index = np.arange(h * w, dtype=np.int32).reshape(h, w)
    a, right, below, c = (index[i : h - 1 + i, j : w - 1 + j].ravel() for i in (0, 1) for j in (0, 1))
    triangles = np.concatenate((np.stack((a, below, right), 1), np.stack((right, below, c), 1)))
    triangles = triangles[(z.ravel()[triangles] > 0).all(axis=1)]
    p, q, r = (points[triangles[:, k]] for k in range(3))
    normal, sight = np.cross(q - p, r - p), p + q + r
    facing = -(normal * sight).sum(axis=1)
    lengths = np.linalg.norm(normal, axis=1) * np.linalg.norm(sight, axis=1)
    triangles = triangles[facing > np.cos(np.deg2rad(max_slant_deg)) * lengths]
    used = np.zeros(h * w, dtype=bool)
    used[triangles] = True
    renumbered = np.cumsum(used, dtype=np.int32) - 1
    colors = None if image is None else image.reshape(-1, 3)[used]
    return Mesh(points[used], renumbered[triangles], colors)


def to_ply(mesh: Mesh, faces: bool = True, world: str = "") -> bytes:
    """Encode a mesh, or only its points, as a binary PLY file.

    Args:
        faces: whether to write the triangles.
        world: comment for a mesh in world coordinates, which stay as they are. By default the mesh is in a camera's
            frame, and is written in metres with the axes of viewers: y up, z backward.
    """
    vertices = np.empty(len(mesh.vertices), [("xyz", "<f4", 3), ("rgb", "u1", 3)])
    # half a turn about x keeps the axes right-handed
    vertices["xyz"] = mesh.vertices if world else mesh.vertices * (1, -1, -1)
    vertices["rgb"] = 200 if mesh.colors is None else mesh.colors
    triangles = np.empty(len(mesh.triangles) if faces else 0, [("n", "u1"), ("corners", "<i4", 3)])
    if faces:
        triangles["n"], triangles["corners"] = 3, mesh.triangles
    header = ["ply", "format binary_little_endian 1.0", f"comment {world or AXES}"]
    header += [f"element vertex {len(vertices)}", *(f"property float {axis}" for axis in "xyz")]
    header += [f"property uchar {colour}" for colour in ("red", "green", "blue")]
    if faces:
        header += [f"element face {len(triangles)}", "property list uchar int vertex_indices"]
    return "\n".join([*header, "end_header\n"]).encode() + vertices.tobytes() + triangles.tobytes()
