"""Script that reads a COLMAP model with pycolmap and prints its cameras and images as JSON.

Some damaged files crash pycolmap. Therefore `d3d.datasets.capture.formats.colmap` runs this file in a separate
process. It runs the file by its path, which imports nothing else of d3d.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np


def describe(folder: str) -> dict:
    """Return the cameras of a model and its images that have a pose. Raises the errors of pycolmap."""
    import pycolmap

    model, full_names = pycolmap.Reconstruction(folder), _names_in_text(Path(folder))
    cameras = {
        str(number): {
            "model": camera.model_name,
            "size_hw": [camera.height, camera.width],
            "K": camera.calibration_matrix().tolist(),
            "params": [] if camera.is_undistorted() else list(map(float, camera.params)),
        }
        for number, camera in model.cameras.items()
    }
    images = []
    for image in model.images.values():
        if image.has_pose:
            pose = np.vstack((image.cam_from_world().matrix(), (0, 0, 0, 1)))
            seen = [model.points3D[p.point3D_id].xyz for p in image.points2D if p.has_point3D()]
            depth = float(np.median(np.array(seen) @ pose[2, :3] + pose[2, 3])) if seen else None
            name = full_names.get(image.image_id, image.name)
            about = {"name": name, "camera": str(image.camera_id), "pose": pose.tolist()}
            images.append({**about, "point_depth": depth})
    return {"cameras": cameras, "images": images}


def _names_in_text(folder: Path) -> dict[int, str]:
    """Read the names of images from `images.txt`: pycolmap 4.2 ends a name at its first blank.

    Returns:
        image id -> name; empty for a binary model, which pycolmap prefers and reads correctly.
    """
    if (folder / "images.bin").is_file():
        return {}
    names, lines = {}, iter((folder / "images.txt").read_text(encoding="utf-8").splitlines())
    for line in map(str.strip, lines):
        if line and not line.startswith("#"):
            words = line.split(maxsplit=9)  # id, quaternion, translation, camera, name
            names[int(words[0])] = words[9]
            next(lines, None)  # the points of this image; the line may be blank
    return names


if __name__ == "__main__":
    try:
        found = describe(sys.argv[1])
    except Exception as error:  # pycolmap raises errors of many kinds
        found = {"error": f"{type(error).__name__}: {error}".splitlines()[0]}
    print(json.dumps(found))
