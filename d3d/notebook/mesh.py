"""A mesh to turn in the browser: one page of HTML that needs no network, with three.js as trimesh ships it."""

from __future__ import annotations

import html
import json

import numpy as np

from d3d import evaluation, figures
from d3d.datasets import Scene
from d3d.errors import DataError
from d3d.geometry import upward
from d3d.pipeline import stages
from d3d.pipeline.config import Config
from d3d.reconstruction import Mesh, overview_camera, render_shaded

# Marks a large output that follows a static picture of the same; `scripts/notebooks.py` does not store it
INTERACTIVE = "interactive"


def views(config: Config, scene: Scene, index: int, arch: str = "") -> dict[str, np.ndarray]:
    """Pictures (h, w, 3) of a scene's mesh: from above, from one frame's camera, and that frame's image.

    Args:
        arch: the network whose depth was fused; "": that of the run.
    """
    size_hw = tuple(2 * x for x in config.data.size_hw)
    mesh = stages.read_mesh(config, arch or config.arch, scene)
    above = overview_camera(mesh, size_hw, upward(scene.world_T_cams))
    camera = scene.K(index, size_hw), scene.world_T_cams[index]
    return {
        f"mesh from above, {len(mesh.triangles)} triangles": render_shaded(mesh, *above, size_hw),
        "mesh from the camera": render_shaded(mesh, *camera, size_hw),
        "image": scene.image(index, size_hw),
    }


def show(config: Config, scene: Scene, index: int, arch: str = "", triangles: int = 25_000) -> None:
    """Show the mesh of a scene as pictures, then as a mesh to turn.

    The mesh to turn is a page within the cell's output. It needs neither kernel nor network, and `nbconvert` keeps it.

    Args:
        index: the frame whose camera one of the pictures is taken from.
        triangles: the mesh is simplified to about this many, which a browser draws at once.
    """
    from IPython.display import HTML, Image, display

    arch = arch or config.arch
    panels = [figures.Panel(title, view) for title, view in views(config, scene, index, arch).items()]
    name = f"mesh of {scene.name} from the depth of {evaluation.arch_name(arch)}"
    picture = figures.grid([panels], name)
    display(Image(figures.png_bytes(picture, picture.dpi), alt=name))
    small = decimated(stages.read_mesh(config, arch, scene), triangles)
    content = page(small, upward(scene.world_T_cams), name)
    display(HTML(iframe(content, name)), metadata={"d3d": INTERACTIVE})


def decimated(mesh: Mesh, triangles: int = 25_000) -> Mesh:
    """The mesh simplified to about this many triangles by quadric error metrics; unchanged if it has no more.

    Raises:
        DataError: the mesh has no triangle.
    """
    import open3d as o3d

    if len(mesh.triangles) == 0:
        raise DataError("cannot show an empty mesh.")
    if len(mesh.triangles) <= triangles:
        return mesh
    whole = o3d.geometry.TriangleMesh(
        o3d.utility.Vector3dVector(mesh.vertices), o3d.utility.Vector3iVector(mesh.triangles)
    )
    if mesh.colors is not None:
        whole.vertex_colors = o3d.utility.Vector3dVector(mesh.colors / 255)
    small = whole.simplify_quadric_decimation(triangles)
    small.remove_unreferenced_vertices()
    colors = None
    if mesh.colors is not None:
        colors = np.rint(np.asarray(small.vertex_colors) * 255).clip(0, 255).astype(np.uint8)
    return Mesh(np.asarray(small.vertices).copy(), np.asarray(small.triangles).astype(np.int32), colors)


# Added to trimesh's page: light from the side of the viewer, as in the static picture, and control by keyboard.
_MORE = """
<style>
  canvas { display: block; outline-offset: -3px; }
  #how { position: absolute; left: 8px; top: 6px; font: 13px sans-serif; color: #202020; background: #ffffffcc;
         padding: 2px 6px; border-radius: 3px; }
</style>
<p id="how">%(how)s</p>
<script>
(function () {
  const up = new THREE.Vector3(%(up)s);
  function ready() {
    if (!controls) { return requestAnimationFrame(ready); }
    const canvas = renderer.domElement;
    canvas.tabIndex = 0;
    canvas.setAttribute("role", "img");
    canvas.setAttribute("aria-label", %(label)s);
    // the wheel scrolls the page around this one until the mesh is clicked
    controls.noZoom = true;
    canvas.addEventListener("pointerdown", () => canvas.focus());
    canvas.addEventListener("focus", () => { controls.noZoom = false; });
    canvas.addEventListener("blur", () => { controls.noZoom = true; });
    camera.up.copy(up);  // three.js takes y, which in a room may point anywhere
    renderer.outputEncoding = THREE.LinearEncoding;
    scene.traverse(function (o) {
      if (o.isMesh) {
        o.geometry.computeVertexNormals();
        o.material = new THREE.MeshLambertMaterial({ vertexColors: true });
      }
    });
    tracklight.intensity = 0.75;
    scene.add(new THREE.AmbientLight(0xffffff, 0.45));
    function turn(axis, angle) {
      const arm = camera.position.clone().sub(controls.target).applyAxisAngle(axis, angle);
      camera.position.copy(controls.target).add(arm);
      camera.up.applyAxisAngle(axis, angle);
    }
    function zoom(factor) {
      camera.position.sub(controls.target).multiplyScalar(factor).add(controls.target);
    }
    canvas.addEventListener("keydown", function (event) {
      const right = camera.position.clone().sub(controls.target).cross(camera.up).normalize();
      const keys = {
        ArrowLeft: () => turn(up, -0.1), ArrowRight: () => turn(up, 0.1),
        ArrowUp: () => turn(right, 0.1), ArrowDown: () => turn(right, -0.1),
        "+": () => zoom(0.9), "=": () => zoom(0.9), "-": () => zoom(1 / 0.9),
      };
      if (keys[event.key]) { keys[event.key](); controls.update(); render(); event.preventDefault(); }
    });
    zoom(0.85);
    controls.update();
    render();
  }
  ready();
})();
</script>
"""


def page(mesh: Mesh, up: np.ndarray, name: str, size_hw: tuple[int, int] = (480, 800)) -> str:
    """A whole page of HTML that shows the mesh and loads nothing.

    Args:
        up: the world's upward direction (3,).
        name: the alternative text.
    """
    import trimesh
    from trimesh.viewer.notebook import scene_to_html

    K, world_T_cam = overview_camera(mesh, size_hw, up)
    shape = trimesh.Trimesh(mesh.vertices, mesh.triangles, vertex_colors=mesh.colors, process=False)
    camera = trimesh.scene.Camera(resolution=size_hw[::-1], focal=(K[0, 0], K[1, 1]))
    # a camera of OpenGL looks along -z, with y up
    scene = trimesh.Scene(shape, camera=camera, camera_transform=world_T_cam @ np.diag((1.0, -1, -1, 1)))
    how = "click, then drag or arrow keys: turn; wheel or + and −: zoom; right button: move"
    more = _MORE % {
        "up": ", ".join(f"{x:.6f}" for x in up),
        "how": how,
        "label": json.dumps(f"{name}. {how}"),
    }
    return scene_to_html(scene).replace("</body>", f"{more}</body>")


def iframe(page: str, name: str, height_px: int = 480) -> str:
    """A page as an element of another page."""
    return (
        f'<div><iframe srcdoc="{html.escape(page)}" title="{html.escape(name)}" width="100%" height="{height_px}" '
        f'style="border: 1px solid #bbb"></iframe></div>'
    )
