"""One step of structure from motion with pycolmap: a program of its own, because pycolmap can end its process.

`d3d.room.motion` starts it by its path with the arguments STEP FILE. The file holds the arguments as JSON.
The program prints one line of JSON for each registered frame and one line for the result.
"""

from __future__ import annotations

import json
import signal
import sys
import time
from pathlib import Path
from typing import Any

from d3d.parallel.processes import end_with_parent

_BLOCK = 20  # pairs of frames matched between two writes to the database


def features(database: str, images: str, groups: list[dict[str, Any]], settings: dict[str, Any]) -> dict:
    """Find SIFT features of the images that have none; one camera for each group of images.

    Args:
        groups: ``names`` of images of one camera, and its ``focal_px`` or None.
    """
    import pycolmap

    options = pycolmap.FeatureExtractionOptions()
    options.max_image_size, options.num_threads = settings["longest"], settings["threads"]
    options.sift.max_num_features = settings["most_features"]
    for group in groups:
        reader = pycolmap.ImageReaderOptions()
        reader.camera_model = settings["lens"]
        if group["focal_px"]:
            h, w = group["size_hw"]
            reader.camera_params = f"{group['focal_px']},{w / 2},{h / 2},0"
        pycolmap.extract_features(
            database,
            images,
            image_names=group["names"],
            camera_mode=pycolmap.CameraMode.SINGLE,
            reader_options=reader,
            extraction_options=options,
            device=pycolmap.Device.cpu,
        )
    return {}


def matches(database: str, pairs: str, settings: dict[str, Any]) -> dict:
    """Match the pairs of images that a file lists and that are not matched yet."""
    import pycolmap

    options, listed = pycolmap.FeatureMatchingOptions(), pycolmap.ImportedPairingOptions()
    options.num_threads = settings["threads"]
    listed.match_list_path, listed.block_size = pairs, _BLOCK
    verification = pycolmap.TwoViewGeometryOptions()
    verification.ransac.random_seed = settings["seed"]
    pycolmap.match_image_pairs(database, options, listed, verification, device=pycolmap.Device.cpu)
    return {}


def model(database: str, images: str, models: str, settings: dict[str, Any]) -> dict:
    """Reconstruct models of the matched images and write the largest into the folder ``models``/0.

    Returns:
        facts about the largest model, and the number of images in each model, the largest first.
    """
    import pycolmap

    options = pycolmap.IncrementalPipelineOptions()
    options.num_threads, options.random_seed = settings["threads"], settings["seed"]
    options.mapper.random_seed = options.triangulation.random_seed = settings["seed"]
    made = pycolmap.incremental_mapping(
        database, images, models, options, next_image_callback=lambda: _say({"registered": 1})
    )
    if not made:
        return {"models": []}
    ranked = sorted(made.values(), key=lambda m: m.num_reg_images(), reverse=True)
    largest = ranked[0]
    folder = Path(models) / "largest"
    folder.mkdir()
    largest.write(folder)
    return {
        "models": [m.num_reg_images() for m in ranked],
        "error_px": largest.compute_mean_reprojection_error(),
        "points": largest.num_points3D(),
        "focal_px": [c.mean_focal_length() for c in largest.cameras.values()],
    }


def _say(value: dict[str, Any]) -> None:
    print(json.dumps(value), flush=True)


def main() -> None:
    """Run a step; an error of pycolmap becomes a line of JSON."""
    end_with_parent()
    step = {f.__name__: f for f in (features, matches, model)}[sys.argv[1]]
    try:
        import pycolmap

        pycolmap.logging.minloglevel = pycolmap.logging.Level.ERROR.value
        signal.signal(signal.SIGTERM, signal.SIG_DFL)  # pycolmap's handler prints a trace of C++
        result = step(**json.loads(Path(sys.argv[2]).read_bytes()))
        result |= {"cpu_s": round(time.process_time(), 1), "memory_mb": _peak_memory_mb()}
    except Exception as error:  # pycolmap raises errors of many kinds
        result = {"error": f"{type(error).__name__}: {error}".splitlines()[0]}
    _say(result)


def _peak_memory_mb() -> int | None:
    # not getrusage: Linux counts the memory of the parent, too
    status = Path("/proc/self/status")
    lines = status.read_text().splitlines() if status.is_file() else []
    return next((round(int(line.split()[1]) / 1024) for line in lines if line.startswith("VmHWM")), None)


if __name__ == "__main__":
    main()
