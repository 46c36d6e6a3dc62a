"""Stage of scores (section 4): predict the evaluated split, and compute its metrics per image."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from d3d import evaluation, io
from d3d.datasets import Scene
from d3d.parallel.tasks import run_tasks
from d3d.pipeline.config import keyframes_name
from d3d.pipeline.graph import Key, fields_of, stage
from d3d.pipeline.runs import StageFolder
from d3d.pipeline.scenes import (
    evaluated_data,
    evaluated_dataset,
    evaluated_frames,
    evaluated_name,
    evaluated_scenes,
    is_whole,
    require_depth,
    split_frames,
)
from d3d.pipeline.settings import Config
from d3d.pipeline.stages.depth import saved, where, where_networks
from d3d.pipeline.stages.trainings import trained
from d3d.prediction import DepthStore, map_scenes, saved_network

SCORES = "per_image.csv"


def evaluated(config: Config, arch: str, labels: str = "", round: int = 0) -> str:
    """Return the folder of a training's scores in ``evaluate/``: architecture, training, evaluated split."""
    training = labels or evaluation.SELF_SUPERVISED
    if labels and (round or config.round) > 1:
        training += f"-round{round or config.round}"
    return f"{arch}/{training}/{evaluated_name(config)}"


def evaluate_key(config: Config, arch: str = "", labels: str = "") -> Key:
    """Return the key of a training's scores. The self-supervised network (labels "") is the same in every round."""
    return Key("evaluate", arch or config.arch, labels, config.round if labels else 1)


def _settings(config: Config, key: Key) -> dict[str, Any]:
    """The settings of scoring. The scored images are part of the data; lists only select scores to average."""
    e = config.evaluation
    left_out = {"root", "lists", "keyframes"}
    if e.dataset is None:
        left_out |= {"dataset", "options"}
    kept = fields_of(e, *left_out)
    if e.keyframes is not None:
        kept["keyframes"] = keyframes_name(e)
    return {"evaluation": kept, "precision": config.predict_precision}


@stage(
    "evaluate",
    settings=_settings,
    needs=lambda c, k: (trained(c, k.arch, k.labels, k.round),),
    data=lambda c, k: evaluated_data(c),
    check=lambda c, k: require_depth(c),
    path=lambda c, k: f"evaluate/{evaluated(c, k.arch, k.labels, k.round)}",
)
def _evaluate(config: Config, key: Key, opened: StageFolder) -> None:
    network = saved(config, trained(config, key.arch, key.labels, key.round))
    per_image = score_file(
        config, network[0], network[1], opened.folder, evaluated(config, key.arch, key.labels)
    )
    write_scores(config, opened, per_image)


def score_file(config: Config, weights: Path, sha256: str, folder: Path, what: str) -> pd.DataFrame:
    """Predict and score the evaluated split with a file of weights: one row for each image and kind of pixels.

    Args:
        sha256: expected sha256 of the file.
        folder: its subfolder ``depth`` gets the predicted depth; complete scenes in it are reused.
        what: name of the network in progress bars.
    """
    scenes = evaluated_scenes(config)
    frames = [evaluated_frames(config, s) for s in scenes]
    store, name = DepthStore(folder / "depth"), f"evaluate/{what}"
    network = (weights, sha256, config.device, config.predict_precision)
    size_hw = config.data.size_hw
    map_scenes(saved_network, network, scenes, frames, store, size_hw, what=name, **where_networks(config))
    return scores_of(config, scenes, frames, store.read_of, name)


def scores_of(
    config: Config,
    scenes: Sequence[Scene],
    frames: Sequence[Sequence[int]],
    depth: evaluation.DepthOf,
    name: str,
    disparity: bool = False,
) -> pd.DataFrame:
    """Score predicted depth of the evaluated split: one row for each image and kind of pixels.

    Args:
        frames: frame indices of each scene.
        depth: as for `evaluation.score_scene`; it is sent to other processes.
        name: label of the progress bar.
        disparity: ``depth`` returns disparity.
    """
    e, d = config.evaluation, config.data
    pairs = list(zip(scenes, frames, strict=True))
    rows = run_tasks(
        evaluation.score_scene,
        {s.name: (depth, s, used, e.scale, d.min_depth, d.max_depth, disparity) for s, used in pairs},
        what=f"{name}: scores",
        sizes={s.name: len(used) for s, used in pairs},
        unit="frame",
        **where(config),
    )
    per_image = evaluation.to_frame(rows)
    own = frozenset((s.name, s.frame_ids[i]) for s in scenes for i in split_frames(config, s))
    # other images are scored only because a list names them
    per_image["in_split"] = evaluation.on_list(per_image, own)
    return per_image


def write_scores(config: Config, opened: StageFolder, per_image: pd.DataFrame, **more: Any) -> None:
    """Write scores into an open folder and finish it.

    Args:
        **more: further entries of the provenance.
    """
    with io.atomic(opened.folder / SCORES) as temporary:
        per_image.to_csv(temporary, index=False, float_format="%.6g")
    truth = evaluated_dataset(config).truth(config.evaluation.split)
    opened.finish(
        {SCORES: io.sha256(opened.folder / SCORES)},
        summary=evaluation.summary(per_image).to_dict(),
        **({"ground_truth": truth} if truth else {}),
        **({} if is_whole(config) else {"in_part": True}),  # tables must not show the paper's rows beside it
        **more,
    )


def read_scores(folder: Path) -> pd.DataFrame:
    """Read the scores in a finished folder."""
    return pd.read_csv(folder / SCORES, dtype={"scene": str, "frame": str})
