"""The meshes of a room, before and after distillation."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from d3d.datasets.capture.scene import CaptureScene
from d3d.errors import DataError
from d3d.io import atomic
from d3d.pipeline.settings import Config
from d3d.pipeline.stages.depth import evenly_at_most
from d3d.reconstruction import Mesh, reconstruct
from d3d.surface import to_ply

# In shares of the run's voxel and truncation (5 and 30 cm in a room), chosen by eye. Furniture shows at voxels of 3 cm.
# The paper's truncation of 1 m fills the space below a table; 10 cm leave shreds of a surface on which frames disagree
MESH = {"voxel": 0.6, "truncation": 1.0, "views": 80}


def write_mesh(
    config: Config, scene: CaptureScene, frames: Sequence[int], depths: np.ndarray, path: Path
) -> Mesh:
    """Fuse the depth of frames into a mesh, and write it in the coordinates and the unit of the capture's own poses.

    Args:
        frames: indices of the frames.
        depths: their depth (n, h, w) at the size of the network.

    Returns:
        The mesh at the scale of the scene.
    """
    size_hw = config.data.size_hw
    used = evenly_at_most(range(len(frames)), MESH["views"])
    views = [frames[k] for k in used]
    mesh = reconstruct(
        depths[used],
        np.stack([scene.K(i, size_hw) for i in views]),
        scene.world_T_cams[views],
        MESH["voxel"] * config.fusion.voxel_m,
        MESH["truncation"] * config.fusion.trunc_m,
        every=1,
        images=np.stack([scene.image(i, size_hw) for i in views]),
        max_depth=config.data.max_depth,
    )
    own = Mesh(mesh.vertices / scene.metres_per_unit, mesh.triangles, mesh.colors)
    with atomic(path) as temporary:
        temporary.write_bytes(to_ply(own, world="coordinates and unit of the poses of the capture"))
    return mesh


def read_mesh(path: Path, scene: CaptureScene) -> Mesh:
    """Read a mesh that `write_mesh` wrote, at the scale of the scene.

    Raises:
        DataError: the file is missing or no mesh.
    """
    import trimesh

    try:
        shape = trimesh.load_mesh(path, process=False)
        colors = np.asarray(shape.visual.vertex_colors)[:, :3].astype(np.uint8)
        vertices, triangles = np.asarray(shape.vertices), np.asarray(shape.faces)
    except Exception as error:  # trimesh raises errors of many kinds
        raise DataError(
            f"{path} is not a mesh ({error}). Delete the folder, and repeat the command."
        ) from error
    return Mesh(vertices * scene.metres_per_unit, triangles.astype(np.int32), colors)
