"""Scores of depth that another method predicted: its files, or a published network (docs/submit.md).

The results are in ``predictions/<name>/`` of the run. They are no stages of the paper: no training is needed, and
Tables 2 to 6 do not show them.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from d3d import io
from d3d.datasets import Scene
from d3d.depth_files import DepthFiles, find_files
from d3d.errors import ConfigError, rounded
from d3d.metrics import SCALES, fit_line, resize_depth
from d3d.models.hf_depth import HFDepth, describe_folder
from d3d.parallel.distributed import select_device
from d3d.pipeline import runs
from d3d.pipeline.config import keyframes_name
from d3d.pipeline.graph import fields_of
from d3d.pipeline.runs import StageFolder
from d3d.pipeline.scenes import (
    evaluated_data,
    evaluated_frames,
    evaluated_name,
    evaluated_scenes,
    require_depth,
)
from d3d.pipeline.settings import Config
from d3d.pipeline.stages.scores import read_scores, scores_of, write_scores
from d3d.progress import say, track

HOLDS = ("depth", "disparity")
_OTHER_UNIT = 20.0  # ratio of predicted and true depth that no method has, but a wrong unit


def score_predictions(config: Config, folder: Path, name: str = "", holds: str = "depth") -> pd.DataFrame:
    """Score the depth files of a folder on the evaluated split: one row for each image and kind of pixels.

    Finished scores of the same files, data and alignment are reused.

    Args:
        folder: files ``<scene>/<frame>.png``, ``.npy`` or ``.npz`` (`d3d.depth_files`).
        name: name of the method in tables and folders; by default the folder's.
        holds: "depth" (metres), or "disparity" up to scale and shift.

    Raises:
        ConfigError: the name, ``holds`` or the alignment is wrong.
        DataError: the split has no ground truth; or a prediction is missing or wrong. Nothing is scored then.
        RunError: the run holds scores of other files with this name and alignment.
    """
    folder = Path(folder).expanduser()
    name = checked_name(name or folder.resolve().name)
    _check_holds(config, holds, f"the predictions of {name} hold")
    require_depth(config)
    scenes, frames = _with_truth(config)
    files = find_files(folder, scenes, frames, disparity=holds == "disparity")
    identity = {
        "settings": _settings(config) | {"holds": holds},
        "data": evaluated_data(config),
        "predictions": {"frames": len(files.files), "sha256": files.digest()},
    }
    scored = scores_folder(config, name, config.evaluation.scale)
    if runs.is_done(scored):
        StageFolder(scored, config, identity, {}).check()
        return read_scores(scored)
    files.check(scenes)
    if _are_reversed(files, scenes, frames):
        now, other = HOLDS if holds == "depth" else HOLDS[::-1]
        say(
            f"The predictions of {name} look like {other}, not like {now}: in the first frame of each scene, their "
            f"numbers {'fall' if holds == 'depth' else 'rise'} with the true depth. See --holds in docs/submit.md."
        )
    if holds == "depth" and config.evaluation.scale == "none":
        ratio = _ratio(files, scenes, frames)
        if not 1 / _OTHER_UNIT < ratio < _OTHER_UNIT:
            say(
                f"The predictions of {name} are {rounded(ratio)} times as deep as the truth, in the first frame of "
                "each scene. A .npy or .npz file holds metres, a PNG holds millimetres. For depth without a scale: "
                "--align."
            )
    per_image = scores_of(config, scenes, frames, files.read_of, f"predictions/{name}", files.disparity)
    # opened only now: if the scores cannot be computed, no folder refuses the corrected files
    with runs.open_folder(scored, config, identity, {}) as opened:
        if not opened.done:
            write_scores(config, opened, per_image, method=name)
    return read_scores(scored)


def _are_reversed(files: DepthFiles, scenes: Sequence[Scene], frames: Sequence[Sequence[int]]) -> bool:
    """Whether depth falls with the true depth (disparity: rises) in the first frame of each scene, of 8 at most."""
    slopes = []
    for scene, wanted in list(zip(scenes, frames, strict=True))[:8]:
        gt = scene.depth(wanted[0])
        if gt is not None and (known := gt > 0).any():
            slope, _ = fit_line(resize_depth(files.read_of(scene, wanted[0]), gt.shape)[known], gt[known])
            slopes.append(-slope if files.disparity else slope)
    return bool(slopes) and max(slopes) < 0


def _ratio(files: DepthFiles, scenes: Sequence[Scene], frames: Sequence[Sequence[int]]) -> float:
    """Median of predicted over true depth in the first frame of each scene, of 8 at most; 1 without truth there."""
    ratios = []
    for scene, wanted in list(zip(scenes, frames, strict=True))[:8]:
        gt = scene.depth(wanted[0])
        if gt is not None and (known := gt > 0).any():
            depth = resize_depth(files.read_of(scene, wanted[0]), gt.shape)
            ratios.append(np.nanmedian(depth[known] / gt[known]))
    return float(np.median(ratios)) if ratios else 1.0


def predict_published(config: Config, folder: Path, name: str = "", holds: str = "") -> tuple[Path, str]:
    """Predict the evaluated frames with a published network in a local folder (`d3d.models.hf_depth`).

    An interrupted prediction resumes.

    Args:
        folder: a checkpoint of the package transformers.
        name: as for `score_predictions`.
        holds: what the network predicts, if its configuration does not say it.

    Returns:
        The folder with a file ``<scene>/<frame>.npy`` for each frame, and "depth" or "disparity".

    Raises:
        ConfigError: as `score_predictions`; or ``holds`` is needed, or contradicts the network.
        DataError: the split has no ground truth, or the folder has no depth network.
        RunError: the run holds predictions of another network with this name.
    """
    folder = Path(folder).expanduser()
    name = checked_name(name or folder.resolve().name)
    about = describe_folder(folder, holds)
    _check_holds(config, about.holds, f"the network in {folder} ({about.why}) predicts")
    require_depth(config)
    scenes, frames = _with_truth(config)
    identity = {"network": about.identity(), "data": evaluated_data(config)}
    predicted = runs.run_folder(config) / "predictions" / name / f"frames-{evaluated_name(config)}"
    # loaded before the folder is opened: if it cannot be loaded, no folder refuses the corrected network
    network = None if runs.is_done(predicted) else about.load(select_device(config.device))
    depth = predicted / "depth"
    with runs.open_folder(predicted, config, identity, {}) as opened:
        if network is not None and not opened.done:
            _predict_missing(network, scenes, frames, depth)
            files = find_files(depth, scenes, frames)
            opened.finish({"depth": files.digest()}, network=about.identity())
    return depth, about.holds


def _predict_missing(
    network: HFDepth, scenes: Sequence[Scene], frames: Sequence[Sequence[int]], folder: Path
) -> None:
    todo = [
        (scene, i, path)
        for scene, wanted in zip(scenes, frames, strict=True)
        for i in wanted
        if not (path := folder / scene.name / f"{scene.frame_ids[i]}.npy").is_file()
    ]
    for scene, i, path in track(todo, "predict", unit="frame"):
        with io.atomic(path) as temporary, open(temporary, "wb") as f:
            np.save(f, network.predict(scene.image(i)))


def scores_folder(config: Config, name: str, scale: str) -> Path:
    """Return the folder of a method's scores with an alignment."""
    split = f"{evaluated_name(config)}-{scale}"
    return runs.run_folder(config) / "predictions" / name / split


def stored_predictions(config: Config) -> dict[tuple[str, str], pd.DataFrame]:
    """Read the scores of all methods in the run on the evaluated frames: (name, alignment) -> rows."""
    found = {}
    for folder in sorted((runs.run_folder(config) / "predictions").glob("*/")):
        for scale in SCALES:
            scored = scores_folder(config, folder.name, scale)
            if runs.is_done(scored) and runs.stored_identity(scored)["data"] == evaluated_data(config):
                found[folder.name, scale] = read_scores(scored)
    return found


def checked_name(name: str) -> str:
    """Check the name of a method, which is part of a path; raises a `ConfigError`."""
    if not re.fullmatch(r"[\w+()][\w+(). -]*", name):
        raise ConfigError(
            f"--name {name!r}: use letters, digits, blanks and any of _ + ( ) . -, and do not begin with a dot."
        )
    return name


def _check_holds(config: Config, holds: str, what: str) -> None:
    """Check that the alignment of the configuration fits disparity."""
    if holds not in HOLDS:
        raise ConfigError(f"--holds must be depth or disparity, got {holds!r}.")
    if holds == "disparity" and config.evaluation.scale != "affine-disparity":
        raise ConfigError(
            f"{what} disparity up to scale and shift, not depth in metres: add --align affine-disparity."
        )


def _with_truth(config: Config) -> tuple[list[Scene], list[list[int]]]:
    """Return the evaluated scenes with ground truth, and the frames of each."""
    scenes = [s for s in evaluated_scenes(config) if s.has_depth]
    return scenes, [evaluated_frames(config, s) for s in scenes]


def _settings(config: Config) -> dict[str, Any]:
    """The settings that determine scores, beside the files and the frames."""
    e, d = config.evaluation, config.data
    kept = {"evaluation": fields_of(e, "root", "lists", "keyframes", "dataset", "options")}
    if e.keyframes is not None:
        kept["evaluation"]["keyframes"] = keyframes_name(e)
    return kept | {"min_depth": d.min_depth, "max_depth": d.max_depth}
