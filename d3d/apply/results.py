"""Write the results of an image or of a frame of a video."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
from PIL import Image

from d3d.apply.camera import Camera
from d3d.datasets.images import resize_image
from d3d.errors import ConfigError, unknown
from d3d.figures.beside import beside
from d3d.geometry import nearest_depth
from d3d.prediction import write_depth
from d3d.surface import surface, to_ply

# name -> file
OUTPUTS = {
    "depth": "depth.png",  # millimetres, 16 bits
    "npy": "depth.npy",  # metres, float32
    "picture": "picture.jpg",  # the image beside its depth; for a video picture.mp4
    "cloud": "cloud.ply",
    "mesh": "mesh.ply",
}
FOR_IMAGES = tuple(OUTPUTS)
FOR_VIDEOS = ("depth", "picture")
MOST_POINTS = 640 * 480  # 5 MB for a cloud, 13 MB for a mesh; the resolution of the networks is far lower


def check_outputs(text: str | None) -> tuple[str, ...] | None:
    """Split a list of outputs with commas. None stays None.

    Raises:
        ConfigError: a name is unknown, or the list is empty.
    """
    if text is None:
        return None
    names = tuple(dict.fromkeys(name.strip() for name in text.split(",") if name.strip()))
    for name in names:
        if name not in OUTPUTS:
            raise unknown("output", name, OUTPUTS)
    if not names:
        raise ConfigError(f"--outputs must name some of {', '.join(FOR_IMAGES)}.")
    return names


def write_outputs(
    outputs: Iterable[str],
    path_of: Callable[[str], Path],
    image: np.ndarray,
    depth: np.ndarray,
    camera: Camera,
) -> None:
    """Write the outputs of one image.

    Args:
        outputs: names of `OUTPUTS`.
        path_of: function from the name of an output to its path.
        image: uint8 (H, W, 3).
        depth: (H, W), metres.
        camera: camera of the image.
    """
    outputs, mesh = set(outputs), None
    if {"cloud", "mesh"} & outputs:
        mesh = _mesh(image, depth, camera)
    for name in outputs:
        path = path_of(name)
        if name == "depth":
            write_depth(path, depth)
        elif name == "npy":
            np.save(path, depth)
        elif name == "picture":
            Image.fromarray(beside(image, depth)).save(path, quality=92)
        else:
            path.write_bytes(to_ply(mesh, faces=name == "mesh"))


def _mesh(image: np.ndarray, depth: np.ndarray, camera: Camera):
    shrink = min(1.0, (MOST_POINTS / depth.size) ** 0.5)
    h, w = (max(2, round(n * shrink)) for n in depth.shape)
    K = camera.K_at(depth.shape, (h, w))
    return surface(nearest_depth(depth, (h, w)), K, resize_image(image, (h, w)))
