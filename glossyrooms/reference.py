"""GlossyRooms' baked light against full path tracing, frame by frame.

``python -m glossyrooms.reference`` renders some frames of a made set again with mitsuba's path tracer,
from the same triangles, textures and lights with mitsuba's own materials, and says how far the two are
apart on matt, glossy and highlight pixels.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path
from types import ModuleType

import numpy as np

from d3d.errors import D3DError
from d3d.progress import say
from glossyrooms.mesh import GLOSSY, LIGHT, MATT, MIRROR, Geometry, Material
from glossyrooms.render import MIRROR_REFLECTANCE, Renderer, develop

MAX_DEPTH = 10  # of a path, in segments


def scene(mi: ModuleType, geometry: Geometry, folder: Path):
    """The room as a mitsuba scene: a shape a material. ``folder`` takes its PLY files until it is loaded."""
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
    """Linear radiance (h, w, 3) of a `scene` by path tracing; pose is world_T_cam with OpenCV axes."""
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
    """For each mask: mean radiance of ours over the reference's; median relative difference of 3x3 means."""
    from scipy import ndimage

    a, b = (ndimage.uniform_filter(x.mean(axis=-1), 3) for x in (ours, reference))
    result = {}
    for name, mask in masks.items():
        if mask.any():
            ratio = float(a[mask].mean() / b[mask].mean())
            result[name] = ratio, float(np.median(np.abs(a - b)[mask] / b[mask].clip(1e-3)))
    return result


def main(argv: list[str] | None = None) -> int:
    """Prints the differences of some frames and writes them side by side; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m glossyrooms.reference", description=__doc__)
    parser.add_argument("--root", default=None, help="folder of the set (default: the one that ships)")
    parser.add_argument("--split", default="val")
    parser.add_argument("--rooms", type=int, default=3)
    parser.add_argument("--frames", type=int, default=2, help="a room")
    parser.add_argument("--spp", type=int, default=256, help="paths a pixel")
    parser.add_argument(
        "--out", default="glossyrooms_reference.png", help="picture: ours above, path traced below"
    )
    a = parser.parse_args(argv)
    try:
        table = _compare_rooms(a)
    except D3DError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    for line in table:
        say(line)
    return 0


def _compare_rooms(a: argparse.Namespace) -> list[str]:
    from PIL import Image

    from d3d.datasets import open_dataset
    from glossyrooms import rooms
    from glossyrooms.mitsuba_setup import load_mitsuba

    mi = load_mitsuba()
    columns, found = [], {}
    for view in open_dataset("glossyrooms", a.root, rooms=a.rooms).scenes(a.split):
        room = rooms.build(view.seed, view.spec["floor"])
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
    Image.fromarray(np.concatenate(columns, axis=1)).save(a.out)
    lines = [
        f"{name}: mean radiance x{np.mean(v, axis=0)[0]:.3f}, median difference {100 * np.median(v, axis=0)[1]:.1f} %"
        for name, v in found.items()
    ]
    return [*lines, f"ours above, path traced below: {a.out}"]


if __name__ == "__main__":
    sys.exit(main())
