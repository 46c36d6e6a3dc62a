"""Read a COLMAP model with pycolmap and write what a capture needs as JSON: a program of its own.

pycolmap ends the process on some damaged files; `d3d.datasets.capture.formats.colmap` runs this file by its path, so
that nothing else of d3d is imported.
"""

from __future__ import annotations

import json
import sys

import numpy as np


def describe(folder: str) -> dict:
    """Cameras, and the images that have a pose, of the model in a folder; raises the errors of pycolmap."""
    import pycolmap

    model = pycolmap.Reconstruction(folder)
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
            about = {"name": image.name, "camera": str(image.camera_id), "pose": pose.tolist()}
            images.append({**about, "point_depth": depth})
    return {"cameras": cameras, "images": images}


if __name__ == "__main__":
    try:
        found = describe(sys.argv[1])
    except Exception as error:  # pycolmap raises errors of many kinds
        found = {"error": f"{type(error).__name__}: {error}".splitlines()[0]}
    print(json.dumps(found))
