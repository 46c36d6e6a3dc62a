"""Scores (section 4): evaluation of trained networks, the table of all that was evaluated, the whole chain."""

from __future__ import annotations

from functools import partial
from itertools import chain

import pandas as pd

from d3d import evaluation, fusion, io
from d3d.errors import DataError, RunError
from d3d.models import ARCHITECTURES
from d3d.pipeline import runs
from d3d.pipeline.config import ENSEMBLE, Config
from d3d.pipeline.scenes import (
    evaluated_dataset,
    evaluated_frames,
    evaluated_name,
    evaluated_scenes,
    keyframes_digest,
)
from d3d.pipeline.stages import frames
from d3d.pipeline.stages.chain import TRAINING, folder_of, missing, outputs, over_scenes, saved, where
from d3d.pipeline.stages.networks import distill, pretrain
from d3d.prediction import DepthStore, map_scenes, saved_network
from d3d.tables import table, to_markdown


def evaluated(config: Config, arch: str, labels: str = "") -> str:
    """The folder below ``evaluate/`` of one training's scores: network, training (and round), split (and data set)."""
    training = labels or evaluation.SELF_SUPERVISED
    if labels and config.round > 1:
        training += f"-round{config.round}"
    return f"{arch}/{training}/{evaluated_name(config)}"


def evaluate(config: Config, arch: str = "", labels: str = "") -> pd.DataFrame:
    """Section 4: predicts and stores the evaluated split, then scores it; one row an image.

    Args:
        labels: "" evaluates the self-supervised network, else the student of that label strategy.
    """
    arch = arch or config.arch
    e, d = config.evaluation, config.data
    stage_name = "distill" if labels else "pretrain"
    path = evaluated(config, arch, labels)
    if not (runs.stage_folder(config, "evaluate", arch, labels, path) / "DONE").is_file():
        evaluated_scenes(config)  # frames that cannot be read must not be found out after hours of training
    if outputs(config, stage_name, arch, labels) is None:
        with missing(f"{stage_name} {arch} {labels}".rstrip(), TRAINING):
            distill(config, arch, labels) if labels else pretrain(config, arch)
    inputs = outputs(config, stage_name, arch, labels)
    inputs |= frames.inputs(config, evaluated_name(config)) | keyframes_digest(config)
    with runs.open_stage(config, "evaluate", arch, labels, inputs=inputs, path=path) as stage:
        csv = stage.folder / "per_image.csv"
        if stage.done:
            _check_truth(config, stage)
            return pd.read_csv(csv, dtype={"scene": str, "frame": str})
        scenes = evaluated_scenes(config)
        if not any(s.has_depth for s in scenes):
            raise DataError(
                f"split {e.split!r} of {e.dataset or d.dataset!r} has no ground-truth depth to evaluate against."
            )
        wanted = [evaluated_frames(config, s) for s in scenes]
        store = DepthStore(stage.folder / "depth")
        name = f"evaluate/{path}"
        map_scenes(
            saved_network,
            saved(config, arch, labels),
            scenes,
            wanted,
            store,
            d.size_hw,
            what=name,
            **where(config),
        )
        rows = over_scenes(
            config,
            evaluation.score_scene,
            {
                s.name: (store.read_of, s, used, e.scale, d.min_depth, d.max_depth)
                for s, used in zip(scenes, wanted, strict=True)
            },
            what=f"{name}: scores",
            sizes={s.name: len(used) for s, used in zip(scenes, wanted, strict=True)},
        )
        per_image = evaluation.to_frame(list(chain.from_iterable(rows.values())), list(rows))
        with io.atomic(csv) as temporary:
            per_image.to_csv(temporary, index=False, float_format="%.6g")
        found = evaluated_dataset(config)
        truth, whole = found.truth(e.split), found.whole(e.split)
        stage.finish(
            {"per_image.csv": io.sha256(csv)},
            summary=evaluation.summary(per_image).to_dict(),
            **({"ground_truth": truth} if truth else {}),
            **({} if whole else {"in_part": True}),  # no row of the paper may stand beside it
        )
        return pd.read_csv(csv, dtype={"scene": str, "frame": str})


def _check_truth(config: Config, stage: runs.Stage) -> None:
    """Refuses scores against another kind of ground truth than the data set has by now.

    Raises:
        RunError: says which is which, and what to do.
    """
    stored = io.read_json(stage.folder / "provenance.json").get("ground_truth")
    if stored is None:
        return
    try:
        now = evaluated_dataset(config).truth(config.evaluation.split)
    except DataError:
        return  # scores outlive the data
    if now != stored:
        raise RunError(
            f"{stage.folder} was scored against {stored}, but the data set now has {now}. Delete that folder to "
            f"evaluate anew, or give this run another name."
        )


def results(config: Config, arch: str = "") -> dict[str, pd.DataFrame]:
    """Per-image scores by labels: "" (self-supervised), "pred" (self-taught) and the run's own, in this order."""
    return {labels: evaluate(config, arch, labels) for labels in dict.fromkeys(("", "pred", config.labels))}


def tables(config: Config, trainings: list[tuple[str, str]] | None = None) -> pd.DataFrame:
    """One table of all that this run has evaluated, as CSV and Markdown in the run's ``tables/``.

    It has the whole split and each list of images that the data set knows of it; a file of its own for
    highlights and one for the other pixels.

    Args:
        trainings: (arch, labels) to evaluate; by default every one whose evaluation is there.

    Raises:
        DataError: nothing was evaluated.
    """
    split = config.evaluation.split
    if trainings is None:
        base = folder_of(config, "evaluate")
        trainings = [
            (arch, labels)
            for arch in ARCHITECTURES
            for labels in ("", *fusion.LABELS)
            if (base / evaluated(config, arch, labels) / "DONE").is_file()
        ]
    if not trainings:
        raise DataError(
            f"{folder_of(config)} has no evaluation of split {split!r} yet: run `evaluate` first."
        )
    results = {(arch, labels): evaluate(config, arch, labels) for arch, labels in trainings}
    folder = folder_of(config, "tables")
    found, e = evaluated_dataset(config), config.evaluation
    about = {"seed": config.seed, "profile": config.profile, "trained_on": config.data.dataset}
    about |= {"scale": e.scale, "round": config.round}
    about["provenance"] = {"evaluation": {"in_part": not found.whole(split, e.every)}}
    make = partial(table, results, e.dataset or config.data.dataset, split, found.lists(split), **about)
    for pixels in sorted({p for r in results.values() for p in r["pixels"]}):
        part = make(pixels=pixels)
        stem = evaluated_name(config) + ("" if pixels == "all" else f"-{pixels}")
        with io.atomic(folder / f"{stem}.csv") as temporary:
            part.to_csv(temporary, index=False, float_format="%.6g")
        with io.atomic(folder / f"{stem}.md") as temporary:
            temporary.write_text(to_markdown(part))
    return make()


def run_all(config: Config, archs: tuple[str, ...] = ()) -> pd.DataFrame:
    """The whole chain: all three networks pretrained, self-taught and distilled students, the table.

    Args:
        archs: networks that get students; by default the profile's.
    """
    archs = archs or config.students
    evaluated_scenes(config)  # what cannot be scored must not be found out after hours of training
    trainings = [(arch, "") for arch in dict.fromkeys((*ENSEMBLE, *archs))]
    for arch, _ in trainings:
        pretrain(config, arch)
    for arch in archs:
        for labels in dict.fromkeys(("pred", config.labels)):
            distill(config, arch, labels)
            trainings.append((arch, labels))
    trainings.sort(key=lambda t: ARCHITECTURES.index(t[0]))
    return tables(config, trainings)
