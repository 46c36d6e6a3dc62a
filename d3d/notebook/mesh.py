"""A rotatable mesh as a self-contained HTML page, with the three.js of trimesh."""

from __future__ import annotations

import html
import json
from importlib import resources

import numpy as np

from d3d import evaluation, figures
from d3d.datasets import Scene
from d3d.errors import DataError
from d3d.figures.files import mark_untrained
from d3d.geometry import upward
from d3d.notebook.output import Shown
from d3d.pipeline import stages
from d3d.pipeline.config import Config
from d3d.reconstruction import Mesh, overview_camera, render_shaded


def views(mesh: Mesh, scene: Scene, index: int, size_hw: tuple[int, int]) -> dict[str, np.ndarray]:
    """Render a scene's mesh from above and from a frame's camera, and add the frame's image; each (h, w, 3)."""
    above = overview_camera(mesh, size_hw, upward(scene.world_T_cams))
    camera = scene.K(index, size_hw), scene.world_T_cams[index]
    return {
        f"mesh from above, {len(mesh.triangles)} triangles": render_shaded(mesh, *above, size_hw),
        "mesh from the camera": render_shaded(mesh, *camera, size_hw),
        "image": scene.image(index, size_hw),
    }


def show(config: Config, scene: Scene, index: int) -> Shown:
    """Show the mesh of a scene that a run has fused, as `show_mesh` does."""
    mesh = stages.read_mesh(config, config.arch, scene)
    name = f"mesh of {scene.name} from the depth of {evaluation.arch_name(config.arch)}"
    return show_mesh(config, mesh, scene, index, name)


def show_mesh(config: Config, mesh: Mesh, scene: Scene, index: int, name: str) -> Shown:
    """Show a mesh: as a rotatable mesh in a running notebook, otherwise as pictures.

    The rotatable mesh is an HTML page in the cell's output. It needs neither kernel nor network, and `nbconvert` keeps
    it. It has fewer triangles than the mesh, so that a browser draws it smoothly.

    Args:
        config: of the run; the pictures have twice the size of its images.
        mesh: in the world of the scene.
        scene: the scene.
        index: the frame whose camera looks at the mesh.
        name: the title.
    """
    shown = views(mesh, scene, index, tuple(2 * x for x in config.data.size_hw))
    picture = figures.grid([[figures.Panel(title, view) for title, view in shown.items()]], name, width_in=11)
    if not config.learns:
        mark_untrained(picture)

    def bundle() -> dict[str, str]:
        return {"text/html": iframe(page(decimated(mesh), upward(scene.world_T_cams), name), name)}

    return Shown(figures.png_bytes(picture, 110), name, bundle)


def decimated(mesh: Mesh, triangles: int = 25_000) -> Mesh:
    """Simplify a mesh to about ``triangles`` triangles by quadric error metrics; smaller meshes are unchanged.

    Raises:
        DataError: the mesh has no triangle.
    """
    import open3d as o3d

    if len(mesh.triangles) == 0:
        raise DataError("the mesh has no triangle: check the predicted depth and max_depth.")
    if len(mesh.triangles) <= triangles:
        return mesh
    whole = o3d.geometry.TriangleMesh(
        o3d.utility.Vector3dVector(mesh.vertices), o3d.utility.Vector3iVector(mesh.triangles)
    )
    if mesh.colors is not None:
        whole.vertex_colors = o3d.utility.Vector3dVector(mesh.colors / 255)
    small = whole.simplify_quadric_decimation(triangles)
    small.remove_unreferenced_vertices()
    rounded = np.rint(np.asarray(small.vertex_colors) * 255).clip(0, 255).astype(np.uint8)
    colors = None if mesh.colors is None else rounded
    return Mesh(np.asarray(small.vertices).copy(), np.asarray(small.triangles).astype(np.int32), colors)


def page(
    mesh: Mesh,
    up: np.ndarray,
    name: str,
    size_hw: tuple[int, int] = (480, 800),
    framed: Mesh | None = None,
    forward: np.ndarray | None = None,
) -> str:
    """Return a self-contained HTML page of the mesh; ``name`` is its alternative text.

    Args:
        framed: mesh that the first view shows completely, so that two pages begin with the same view; by default
            ``mesh``.
        forward: direction of the first view, see `overview_camera`.
    """
    import trimesh
    from trimesh.viewer.notebook import scene_to_html

    K, world_T_cam = overview_camera(framed or mesh, size_hw, up, forward)
    shape = trimesh.Trimesh(mesh.vertices, mesh.triangles, vertex_colors=mesh.colors, process=False)
    camera = trimesh.scene.Camera(resolution=size_hw[::-1], focal=(K[0, 0], K[1, 1]))
    # a camera of OpenGL looks along -z, with y up
    scene = trimesh.Scene(shape, camera=camera, camera_transform=world_T_cam @ np.diag((1.0, -1, -1, 1)))
    how = "click, then drag or arrow keys: turn; wheel or + and −: zoom; right button: move"
    values = {"up": ", ".join(f"{x:.6f}" for x in up), "how": how, "label": json.dumps(f"{name}. {how}")}
    more = resources.files("d3d.notebook").joinpath("mesh.html").read_text(encoding="utf-8") % values
    return scene_to_html(scene).replace("</body>", f"{more}</body>")


def iframe(page: str, name: str, height_px: int = 480) -> str:
    """Embed a page in another page."""
    what = f'srcdoc="{html.escape(page)}" title="{html.escape(name)}"'
    return f'<div><iframe {what} width="100%" height="{height_px}" style="border: 1px solid #bbb"></iframe></div>'
