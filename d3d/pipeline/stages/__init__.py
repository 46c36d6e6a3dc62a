"""The stages of the paper, as functions of the configuration.

The order is frames -> triples -> pretrain -> predict -> project -> uncertainty -> fuse -> distill -> evaluate. Each
function first computes the missing stages before it. A finished stage is reused, an interrupted stage resumes. The
functions return the stage's folder or its contents. `d3d.pipeline.graph` holds the rules; the other modules of this
package declare the stages.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from d3d import fusion
from d3d.datasets import Scene
from d3d.errors import DataError
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
from d3d.pipeline.stages.predictions import predict_published, score_predictions, stored_predictions
from d3d.pipeline.stages.scores import evaluate_key, evaluated, read_scores
from d3d.pipeline.stages.trainings import teacher_of, trained
from d3d.prediction import DepthStore
from d3d.reconstruction import Mesh
from d3d.training import CURVE, WEIGHTS

__all__ = ["LabelSources", "dataset", "distill", "evaluate", "evaluated", "evaluated_dataset"]
__all__ += ["folder_of", "fuse", "identity_of", "is_finished", "label_sources", "load_network"]
__all__ += ["loss_history", "mesh_of", "predict", "predict_published", "pretrain", "project"]
__all__ += ["read_mesh", "results", "score_predictions", "stage_folder", "stored_predictions"]
__all__ += ["threshold", "train_all", "training_scenes", "uncertainty", "uncertainty_cost"]


def key_of(config: Config, stage: str, arch: str = "", labels: str = "") -> Key:
    """Return the key of a result.

    Args:
        labels: the label strategy; for the stages "uncertainty" and "variant", the name of the uncertainty.
    """
    if stage == "evaluate":
        return evaluate_key(config, arch, labels)
    if stage == "uncertainty":
        return uncertainty_key(labels, arch, config.round)
    if stage == "project":
        return project_key(arch, labels or config.labels, config.round)
    return Key(stage, arch, labels, 1 if stage in ("pretrain", "rank") else config.round)


def stage_folder(config: Config, stage: str, arch: str = "", labels: str = "") -> Path:
    """Return the folder of a result, finished or not. If the run's base has finished the same result: its folder."""
    return graph.folder_of(config, key_of(config, stage, arch, labels))


def identity_of(config: Config, stage: str, arch: str = "", labels: str = "") -> dict[str, Any]:
    """Return the identity of a result: settings, data, initial weights, and the identities of the stages before it."""
    return graph.identity(config, key_of(config, stage, arch, labels))


def is_finished(config: Config, stage: str, arch: str = "", labels: str = "") -> bool:
    """Whether this run or its base has finished the result with the same configuration and data."""
    return graph.finished(config, key_of(config, stage, arch, labels)) is not None


def folder_of(config: Config, *parts: str) -> Path:
    """Return a folder of this run for files outside the stages, such as tables and figures."""
    return runs.run_folder(config).joinpath(*[p for p in parts if p])


def pretrain(config: Config, arch: str = "") -> Path:
    """Train one network with the photometric loss (section 3.1), and return the folder of its weights."""
    return ensure(config, Key("pretrain", arch or config.arch))


def predict(config: Config, arch: str = "") -> DepthStore:
    """Predict the depth of the training frames (3.2.1) with the teacher.

    The teacher is the pretrained network; from round 2 on, it is the student of the previous round.
    """
    return DepthStore(ensure(config, key_of(config, "predict", arch or config.arch)))


def project(config: Config, arch: str = "", labels: str = "") -> DepthStore:
    """Fuse the predicted depth of each scene into a mesh, and render its depth for every target frame (3.2.2).

    Args:
        labels: the label strategy; "robust" has fusion settings of its own.
    """
    return DepthStore(ensure(config, key_of(config, "project", arch or config.arch, labels or config.labels)))


def read_mesh(config: Config, arch: str, scene: Scene) -> Mesh:
    """Read the mesh of a scene from the results of `project`."""
    return Mesh.from_npz(project(config, arch).scene_folder(scene.name) / "mesh.npz")


def uncertainty(config: Config, name: str = "ensemble", arch: str = "") -> DepthStore:
    """Compute the uncertainty of the depth of every target frame (3.2.3): a standard deviation in metres.

    Args:
        name: "ensemble" (the paper's), or an uncertainty of a single network (`d3d.uncertainty.UNCERTAINTY`).
        arch: the single network; ignored for "ensemble".
    """
    return DepthStore(ensure(config, key_of(config, "uncertainty", arch or config.arch, name)))


def uncertainty_cost(config: Config, name: str, arch: str = "") -> dict[str, float]:
    """Read the cost of an uncertainty from the provenance of its stages. The judged network itself is not counted.

    Returns:
        The number of trainings, and training_s and prediction_s in seconds on the machine of the run. prediction_s
        of the ensemble includes the depth of the other networks.
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
        sum(_seconds(graph.folder_of(config, k)) for k in keys) for keys in (trainings, computed)
    )
    return {"trainings": len(trainings), "training_s": training_s, "prediction_s": prediction_s}


def _seconds(folder: Path) -> float:
    """Return the computing time of a result; that of its training for a network that ships."""
    provenance = read_json(folder / "provenance.json", "seconds")
    return provenance.get("trained", provenance)["seconds"]


def fuse(config: Config, arch: str = "", labels: str = "") -> DepthStore:
    """Make the pseudo-labels of every target frame by a label strategy (3.2.3; "uncer" is Eq. 3).

    Raises:
        DataError: the strategy is an oracle, and a scene has no ground truth.
    """
    return DepthStore(ensure(config, key_of(config, "fuse", arch or config.arch, labels or config.labels)))


def distill(config: Config, arch: str = "", labels: str = "") -> Path:
    """Train a student, a fresh network of the same architecture, on the labels (3.2.4), and return its folder."""
    return ensure(config, key_of(config, "distill", arch or config.arch, labels or config.labels))


def _trained(config: Config, arch: str, labels: str) -> Path:
    return ensure(config, trained(config, arch or config.arch, labels))


def loss_history(config: Config, arch: str = "", labels: str = "") -> list[dict[str, float]]:
    """Return loss, loss terms and learning rate at each checkpoint of a training (labels "": self-supervised).

    Raises:
        DataError: the network ships with d3d (``teachers = "shipped"``); it has no curve.
    """
    path = _trained(config, arch, labels) / CURVE
    if not path.exists():
        raise DataError(
            f"{path.parent} has no loss curve: this network was not trained here, it ships with d3d. "
            "Set teachers = 'trained' to train it."
        )
    return pd.read_csv(path).to_dict("records")


def load_network(config: Config, arch: str, labels: str = "") -> DepthNetwork:
    """Load a trained network of this run onto the run's device (labels "": self-supervised)."""
    return load_model(_trained(config, arch, labels) / WEIGHTS).to(select_device(config.device)).eval()


def evaluate(config: Config, arch: str = "", labels: str = "") -> pd.DataFrame:
    """Score a network on the evaluated split (section 4): one row for each image and kind of pixels.

    Args:
        labels: the label strategy of the student; "" for the self-supervised network.

    Raises:
        DataError: the split has no ground-truth depth. This is checked before any training.
    """
    folder = ensure(config, evaluate_key(config, arch, labels))
    return read_scores(folder)


def results(config: Config, arch: str = "") -> dict[str, pd.DataFrame]:
    """Return the scores of the trainings to compare (`Config.compared`) by labels, in this order."""
    return {labels: evaluate(config, arch, labels) for labels in config.compared}


def train_all(config: Config, archs: Sequence[str] = ()) -> list[tuple[str, str]]:
    """Pretrain the teachers and the ensemble, and train the self-taught and the distilled students.

    Labels with a mesh and an uncertainty of their own ("robust") need no ensemble; it is then not trained.

    Args:
        archs: architectures of the students; by default the profile's.

    Returns:
        (arch, labels) of each training (labels "": self-supervised).
    """
    archs = archs or config.students
    require_depth(config)
    strategy = fusion.find_strategy(config.labels)
    ensemble = () if strategy.mesh and strategy.uncertainty != "ensemble" else config.ensemble
    trainings = [(arch, "") for arch in dict.fromkeys((*ensemble, *archs))]
    for arch, _ in trainings:
        pretrain(config, arch)
    for arch in archs:
        for labels in config.compared[1:]:
            distill(config, arch, labels)
            trainings.append((arch, labels))
    return trainings
