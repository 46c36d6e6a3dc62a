"""The check of a capture's poses before anything is trained on it, and its picture."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
from PIL import Image

from d3d.datasets.capture.check import Report, check_capture
from d3d.datasets.capture.scene import CaptureScene
from d3d.errors import DataError
from d3d.figures import colours
from d3d.io import atomic, read_json, write_json
from d3d.pipeline.runs import run_folder
from d3d.pipeline.scenes import dataset
from d3d.pipeline.settings import Config
from d3d.progress import say

PICTURE = "pose_check.png"
_ENLARGED = 3
_SHOWN = 4  # pairs in the picture
_GAP = 4


def captured(config: Config) -> CaptureScene | None:
    """The capture that a run trains on, as one scene; None for another data set."""
    return dataset(config).scenes("all")[0] if config.data.dataset == "capture" else None


def require_poses(config: Config) -> None:
    """Check the poses of a run's capture once, and leave `PICTURE` in the run; nothing for another data set.

    Raises:
        DataError: the poses do not explain the images; says which option mends it.
    """
    scene = captured(config)
    if scene is None or not config.capture.check:
        return
    folder = run_folder(config) / "capture"
    # a depth map that was given another scale is another reading of the same poses
    digest = hashlib.sha256(f"{scene.digest()} {scene.capture.depth_scale}".encode()).hexdigest()
    kept = folder / "check.json"
    if kept.is_file() and (found := read_json(kept, "sha256", "problem"))["sha256"] == digest:
        problem = found["problem"]
    else:
        report = check_capture(scene)
        problem = report.problem
        for line in report.lines:
            say(line)
        save_picture(report, folder / PICTURE)
        write_json(kept, {"sha256": digest, "problem": problem, "errors": report.errors})
    if problem:
        raise DataError(
            f"capture {scene.name!r}: {problem} The picture {folder / PICTURE} shows the frames compared. To train "
            "in spite of this, add --no-check."
        )


def save_picture(report: Report, path: Path) -> Path:
    """Write `picture` as a PNG file."""
    with atomic(path) as temporary:
        Image.fromarray(picture(report)).save(temporary, format="PNG")  # whatever the name ends with
    return path


def picture(report: Report) -> np.ndarray:
    """Rows of target, source, source warped to the target, and the error (black: none), uint8 (h, w, 3)."""
    chosen = np.linspace(0, len(report.pairs) - 1, min(_SHOWN, len(report.pairs))).astype(int)
    rows = []
    for k in chosen:
        pair, swept = report.pairs[k], report.swept[k]
        images = [*pair.images.numpy(), swept.warped]
        images = [(i.transpose(1, 2, 0) * 255).round().astype(np.uint8) for i in images]
        images.append(colours.coloured(swept.error, "error", 0.3))
        rows.append(np.concatenate([_framed(i) for i in images], axis=1))
    return np.concatenate(rows)


def _framed(image: np.ndarray) -> np.ndarray:
    large = image.repeat(_ENLARGED, axis=0).repeat(_ENLARGED, axis=1)
    return np.pad(large, ((0, _GAP), (0, _GAP), (0, 0)), constant_values=255)
