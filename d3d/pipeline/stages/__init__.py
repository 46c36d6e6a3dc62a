"""The stages of the paper over a run's folder, in order; each computes first what it needs.

frames -> triples -> pretrain -> predict -> project -> uncertainty -> fuse -> distill -> evaluate. A finished stage
is taken as it is; an interrupted one resumes. The functions below take the configuration and return the finished
stage's folder, or what it holds. `d3d.pipeline.graph` has the rules, the other modules here declare the stages.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from d3d import fusion
from d3d.datasets import Scene
from d3d.io import read_json
from d3d.models import load_model
from d3d.models.base import DepthNetwork
from d3d.parallel.distributed import select_device
from d3d.pipeline import graph, runs
from d3d.pipeline.graph import Key, ensure
from d3d.pipeline.scenes import dataset, evaluated_dataset, require_depth, training_scenes
from d3d.pipeline.settings import Config
from d3d.pipeline.stages.depth import mesh_of, project_key, uncertainty_key
from d3d.pipeline.stages.labels import LabelSources, label_sources, threshold
from d3d.pipeline.stages.scores import SCORES, evaluate_key, evaluated
from d3d.pipeline.stages.trainings import teacher_of, trained
from d3d.prediction import DepthStore
from d3d.reconstruction import Mesh
from d3d.training import CURVE, WEIGHTS

__all__ = ["LabelSources", "dataset", "distill", "evaluate", "evaluated", "evaluated_dataset"]
__all__ += ["folder_of", "fuse", "identity_of", "is_finished", "label_sources", "load_network"]
__all__ += ["loss_history", "mesh_of", "predict", "pretrain", "project", "read_mesh", "results"]
__all__ += ["stage_folder", "threshold", "train_all", "training_scenes", "uncertainty"]
__all__ += ["uncertainty_cost"]


def key_of(config: Config, stage: str, arch: str = "", labels: str = "") -> Key:
    """The key of a result; of the stages "uncertainty" and "variant", ``labels`` is the uncertainty's name."""
    if stage == "evaluate":
        return evaluate_key(config, arch, labels)
    if stage == "uncertainty":
        return uncertainty_key(labels, arch, config.round)
    if stage == "project":
        return project_key(arch, labels or config.labels, config.round)
    return Key(stage, arch, labels, 1 if stage in ("pretrain", "rank") else config.round)


def stage_folder(config: Config, stage: str, arch: str = "", labels: str = "") -> Path:
    """The folder of a result, finished or not; its base's where that has finished the same result."""
    return graph.folder_of(config, key_of(config, stage, arch, labels))


def identity_of(config: Config, stage: str, arch: str = "", labels: str = "") -> dict[str, Any]:
    """What identifies a result: settings, data, initial weights, and the identities of the stages that it needs."""
    return graph.identity(config, key_of(config, stage, arch, labels))


def is_finished(config: Config, stage: str, arch: str = "", labels: str = "") -> bool:
    """Whether this run, or its base, has finished a result of this very configuration and data."""
    return graph.finished(config, key_of(config, stage, arch, labels)) is not None


def folder_of(config: Config, *parts: str) -> Path:
    """A folder of this run for what is no stage's result: tables, figures."""
    return runs.run_folder(config).joinpath(*[p for p in parts if p])


def pretrain(config: Config, arch: str = "") -> Path:
    """Section 3.1: train one network with the photometric loss; return the folder of its weights."""
    return ensure(config, Key("pretrain", arch or config.arch))


def predict(config: Config, arch: str = "") -> DepthStore:
    """Section 3.2.1: the depth of the training frames by the pretrained network, or the student of the last round."""
    return DepthStore(ensure(config, key_of(config, "predict", arch or config.arch)))


def project(config: Config, arch: str = "", labels: str = "") -> DepthStore:
    """Section 3.2.2: one mesh a scene from the predicted depth, and its depth seen from every target frame.

    Args:
        labels: the label strategy, because some have a mesh of their own ("robust").
    """
    return DepthStore(ensure(config, key_of(config, "project", arch or config.arch, labels or config.labels)))


def read_mesh(config: Config, arch: str, scene: Scene) -> Mesh:
    """The mesh of a scene that `project` has stored."""
    return Mesh.from_npz(project(config, arch).scene_folder(scene.name) / "mesh.npz")


def uncertainty(config: Config, name: str = "ensemble", arch: str = "") -> DepthStore:
    """Section 3.2.3: the uncertainty of the depth of every target frame, a standard deviation in metres.

    Args:
        name: "ensemble" (the paper's), or another of `d3d.uncertainty.UNCERTAINTY`, which is of one network.
        arch: that one network.
    """
    return DepthStore(ensure(config, key_of(config, "uncertainty", arch or config.arch, name)))


def uncertainty_cost(config: Config, name: str, arch: str = "") -> dict[str, float]:
    """The cost of an uncertainty beyond the network that is judged, from the provenance of its stages.

    Returns:
        trainings (a number), training_s and prediction_s in seconds on the machine that ran them; prediction_s of the
        ensemble includes the other networks' depth.
    """
    arch, r = arch or config.arch, config.round
    computed, trainings = [uncertainty_key(name, arch, r)], []
    if name == "ensemble":
        others = [a for a in config.ensemble if a != arch]
        trainings = [teacher_of(config, a, r) for a in others]
        computed += [Key("predict", a, round=r) for a in others]
    elif graph.finished(config, variant := Key("variant", arch, name, r)):
        trainings = [variant]
    training_s, prediction_s = (
        sum(read_json(graph.folder_of(config, k) / "provenance.json", "seconds")["seconds"] for k in keys)
        for keys in (trainings, computed)
    )
    return {"trainings": len(trainings), "training_s": training_s, "prediction_s": prediction_s}


def fuse(config: Config, arch: str = "", labels: str = "") -> DepthStore:
    """Section 3.2.3: pseudo-labels of every target frame by a named strategy (Eq. 3 for "uncer").

    Raises:
        DataError: an oracle is asked for, and a scene has no truth.
    """
    return DepthStore(ensure(config, key_of(config, "fuse", arch or config.arch, labels or config.labels)))


def distill(config: Config, arch: str = "", labels: str = "") -> Path:
    """Section 3.2.4: train a fresh network of the same architecture on the labels; return its folder."""
    return ensure(config, key_of(config, "distill", arch or config.arch, labels or config.labels))


def _trained(config: Config, arch: str, labels: str) -> Path:
    return ensure(config, trained(config, arch or config.arch, labels))


def loss_history(config: Config, arch: str = "", labels: str = "") -> list[dict[str, float]]:
    """Loss, parts and learning rate at each checkpoint of a training; labels "" is the self-supervised one."""
    return pd.read_csv(_trained(config, arch, labels) / CURVE).to_dict("records")


def load_network(config: Config, arch: str, labels: str = "") -> DepthNetwork:
    """A trained network of this run on its device; labels "" is the self-supervised one."""
    return load_model(_trained(config, arch, labels) / WEIGHTS).to(select_device(config.device)).eval()


def evaluate(config: Config, arch: str = "", labels: str = "") -> pd.DataFrame:
    """Section 4: predict the evaluated split and score it, one row for each image and kind of pixels.

    Args:
        labels: "" is the self-supervised network, else the student of that label strategy.

    Raises:
        DataError: the split has no ground-truth depth; found before anything is trained.
    """
    folder = ensure(config, evaluate_key(config, arch, labels))
    return pd.read_csv(folder / SCORES, dtype={"scene": str, "frame": str})


def results(config: Config, arch: str = "") -> dict[str, pd.DataFrame]:
    """Scores by labels: "" (self-supervised), "pred" (self-taught) and the run's own, in this order."""
    return {labels: evaluate(config, arch, labels) for labels in dict.fromkeys(("", "pred", config.labels))}


def train_all(config: Config, archs: Sequence[str] = ()) -> list[tuple[str, str]]:
    """Pretrain the networks that are needed, and train the self-taught and the distilled students.

    Needed are the networks that get students and, unless the labels have a mesh and an uncertainty of their own
    ("robust"), those of the ensemble.

    Args:
        archs: networks that get students; by default the profile's.

    Returns:
        (arch, labels) of each training; labels "" is the self-supervised one.
    """
    archs = archs or config.students
    require_depth(config)
    strategy = fusion.find_strategy(config.labels)
    ensemble = () if strategy.mesh and strategy.uncertainty != "ensemble" else config.ensemble
    trainings = [(arch, "") for arch in dict.fromkeys((*ensemble, *archs))]
    for arch, _ in trainings:
        pretrain(config, arch)
    for arch in archs:
        for labels in dict.fromkeys(("pred", config.labels)):
            distill(config, arch, labels)
            trainings.append((arch, labels))
    return trainings
