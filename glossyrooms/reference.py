"""Compare GlossyRooms' baked light with path tracing, frame by frame.

``python -m glossyrooms.reference`` renders some frames of a set again with mitsuba's path tracer, from the same
triangles, textures and lights but with mitsuba's own materials. It prints how much the two differ on matt, glossy and
highlight pixels.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path
from types import ModuleType

import numpy as np
from PIL import Image
from scipy import ndimage

from d3d.datasets import open_dataset
from d3d.io import atomic
from d3d.progress import say
from glossyrooms import command, rooms
from glossyrooms.mesh import GLOSSY, LIGHT, MATT, MIRROR, Geometry, Material
from glossyrooms.mitsuba_setup import load_mitsuba
from glossyrooms.render import MIRROR_REFLECTANCE, Renderer, develop

MAX_DEPTH = 10  # greatest number of segments of a path


def scene(mi: ModuleType, geometry: Geometry, folder: Path):
    """Build a mitsuba scene of a room, one shape per material.

    Args:
        mi: mitsuba.
        geometry: the room.
        folder: folder for PLY files; may be deleted afterwards.
    """
    parts: dict[str, object] = {"type": "scene", "integrator": {"type": "path", "max_depth": MAX_DEPTH}}
    for k, material in enumerate(geometry.materials):
        faces = geometry.faces[geometry.material == k]
        used, index = np.unique(faces, return_inverse=True)
        mesh = mi.Mesh(f"part{k}", len(used), len(faces), has_vertex_normals=True, has_vertex_texcoords=True)
        parameters = mi.traverse(mesh)
        parameters["vertex_positions"] = geometry.vertices[used].ravel()
        parameters["vertex_normals"] = geometry.normals[used].ravel()
        parameters["vertex_texcoords"] = geometry.uv[used].ravel()
        parameters["faces"] = index.reshape(-1).astype(np.uint32)
        parameters.update()
        path = folder / f"part{k}.ply"
        mesh.write_ply(str(path))
        shape = {"type": "ply", "filename": str(path), "bsdf": _bsdf(mi, material)}
        if material.kind == LIGHT:
            shape["emitter"] = {"type": "area", "radiance": _bitmap(mi, material)}
        parts[f"part{k}"] = shape
    return mi.load_dict(parts)


def _bitmap(mi: ModuleType, material: Material) -> dict[str, object]:
    return {
        "type": "bitmap",
        "bitmap": mi.Bitmap(np.ascontiguousarray(material.texture.image)),
        "raw": True,
        "wrap_mode": "clamp" if material.texture.size_m is None else "repeat",
    }


def _bsdf(mi: ModuleType, material: Material) -> dict[str, object]:
    if material.kind == GLOSSY:
        # mitsuba's sampling of the coat gets noisy below a roughness of 0.001
        return {
            "type": "roughplastic",
            "distribution": "ggx",
            "int_ior": 1.5,
            "alpha": max(material.roughness, 1e-3),
            "diffuse_reflectance": _bitmap(mi, material),
        }
    if material.kind == MIRROR:
        return {"type": "conductor", "specular_reflectance": MIRROR_REFLECTANCE}
    if material.kind == LIGHT:
        return {"type": "diffuse", "reflectance": 0.02}
    return {"type": "diffuse", "reflectance": _bitmap(mi, material)}


def render(
    mi: ModuleType, room, pose: np.ndarray, K: np.ndarray, size_hw: tuple[int, int], spp: int
) -> np.ndarray:
    """Path trace a `scene`.

    Args:
        mi: mitsuba.
        room: the scene, see `scene`.
        pose: (4, 4) world_T_cam, OpenCV axes.
        K: (3, 3) intrinsics.
        size_hw: size of the image.
        spp: paths per pixel.

    Returns:
        linear radiance (h, w, 3).
    """
    h, w = size_hw
    # mitsuba's camera looks along +z with x to the left and y up
    to_world = pose @ np.diag([-1.0, -1.0, 1.0, 1.0])
    sensor = mi.load_dict(
        {
            "type": "perspective",
            "fov": float(2 * np.degrees(np.arctan(w / 2 / K[0, 0]))),
            "fov_axis": "x",
            "near_clip": 0.01,
            "to_world": mi.ScalarTransform4f(to_world.tolist()),
            "film": {
                "type": "hdrfilm",
                "width": w,
                "height": h,
                "rfilter": {"type": "box"},
                "pixel_format": "rgb",
            },
            "sampler": {"type": "independent", "sample_count": spp},
        }
    )
    return np.array(mi.render(room, sensor=sensor, spp=spp))


def compare(
    ours: np.ndarray, reference: np.ndarray, masks: dict[str, np.ndarray]
) -> dict[str, tuple[float, float]]:
    """Compare two radiance images (h, w, 3) on the pixels of each mask.

    Returns:
        for each mask that is not empty: our mean radiance divided by the reference's, and the median relative
        difference of 3x3 means.
    """
    a, b = (ndimage.uniform_filter(x.mean(axis=-1), 3) for x in (ours, reference))
    result = {}
    for name, mask in masks.items():
        if mask.any():
            ratio = float(a[mask].mean() / b[mask].mean())
            result[name] = ratio, float(np.median(np.abs(a - b)[mask] / b[mask].clip(1e-3)))
    return result


def main(argv: list[str] | None = None) -> int:
    """Print the differences of some frames and write them side by side; return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m glossyrooms.reference", description=__doc__)
    parser.add_argument("--root", default=None, help="folder of the set (default: the set that ships)")
    parser.add_argument("--split", default="val", help="(default: %(default)s)")
    parser.add_argument("--rooms", type=int, default=3, help="number of rooms (default: %(default)s)")
    parser.add_argument("--frames", type=int, default=2, help="frames per room (default: %(default)s)")
    parser.add_argument("--spp", type=int, default=256, help="paths per pixel (default: %(default)s)")
    parser.add_argument(
        "--out",
        default="glossyrooms_reference.png",
        help="picture with our frames above the path traced ones (default: %(default)s)",
    )
    a = parser.parse_args(argv)
    return command.run(lambda: _compare_rooms(a))


def _compare_rooms(a: argparse.Namespace) -> None:
    mi = load_mitsuba()
    columns, found = [], {}
    for view in open_dataset("glossyrooms", a.root, rooms=a.rooms).scenes(a.split):
        room = rooms.build(view.seed, view.spec["floor"], view.spec["settings"].get("variety", ""))
        renderer = Renderer(mi, room.geometry, room.seed)
        renderer.bake()
        renderer.expose(view.world_T_cams[::6], view.K(0, (72, 96)), (72, 96))
        with tempfile.TemporaryDirectory() as folder:
            traced = scene(mi, room.geometry, Path(folder))
        for i in np.linspace(0, len(view) - 1, a.frames).astype(int):
            pose, K, size_hw = view.world_T_cams[i], view.K(i), view.size_hw
            start = time.monotonic()
            ours = renderer.radiance(pose, K, size_hw, int(i))
            between = time.monotonic()
            reference = renderer.exposure * render(mi, traced, pose, K, size_hw, a.spp)
            seconds = between - start, time.monotonic() - between
            _, kind, highlight, _ = renderer.geometry_maps(pose, K, size_hw)
            masks = {"matt": kind == MATT, "glossy": (kind == GLOSSY) & ~highlight, "highlight": highlight}
            differences = compare(ours, reference, masks)
            line = "  ".join(
                f"{name} x{ratio:.3f}, {100 * off:.1f} %" for name, (ratio, off) in differences.items()
            )
            say(f"{view.name} {i:3d}: {line}  ({seconds[0]:.1f} s, path tracing {seconds[1]:.1f} s)")
            for name, values in differences.items():
                found.setdefault(name, []).append(values)
            columns.append(np.concatenate((develop(ours), develop(reference))))
    with atomic(Path(a.out)) as temporary:
        Image.fromarray(np.concatenate(columns, axis=1)).save(temporary)
    for name, values in found.items():
        ratio, off = np.mean([v[0] for v in values]), np.median([v[1] for v in values])
        say(f"{name}: mean radiance x{ratio:.3f}, median difference {100 * off:.1f} %")
    say(f"our frames above, path traced below: {a.out}")


if __name__ == "__main__":
    sys.exit(main())
