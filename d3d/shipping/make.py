"""Ship a finished training: compress its weights, measure the loss of accuracy, and add it to the manifest."""

from __future__ import annotations

import hashlib
import json
import math
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from d3d import io
from d3d.errors import ConfigError, DataError
from d3d.evaluation import arch_name, summary, training_name
from d3d.models import load_model, save_weights
from d3d.models.base import DepthNetwork
from d3d.models.initial import RANDOM, find_initial_weights
from d3d.models.shipped import MANIFEST, Manifest, Shipped, is_name, networks_folder, read_manifest
from d3d.pipeline import graph, runs, stages
from d3d.pipeline.config import Config
from d3d.pipeline.record import SPLITS
from d3d.pipeline.scenes import dataset, evaluated_dataset, training_data, training_scenes
from d3d.pipeline.stages.depth import project_key
from d3d.pipeline.stages.scores import score_file
from d3d.pipeline.stages.trainings import trained
from d3d.progress import say
from d3d.shipping.cards import METRICS_SHOWN, write_cards
from d3d.tables.from_runs import kept_provenance
from d3d.training import WEIGHTS

SMALLEST_FIRST = ("int8", "float16")
MAX_COST = 0.01  # largest relative increase of Sq Rel on the first split
MAX_BYTES = 100_000_000  # largest total size of the networks, which are part of every clone
ALL = "all"


def default_name(arch: str, labels: str) -> str:
    """Return the default name of a shipped network (labels "": self-supervised)."""
    return f"{arch}-{ {'': 'selfsupervised', 'pred': 'selftaught'}.get(labels, 'distilled') }"


def identity_digest(identity: Mapping[str, Any]) -> str:
    """Return the sha256 of a result's identity (`graph.identity`)."""
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()


def ship(config: Config, arch: str, labels: str = "", name: str = "", again: bool = False) -> Path:
    """Put the network of a finished training into the folder of networks, and rewrite all model cards.

    The file has 8 bits per weight; if this costs more than `MAX_COST`, it has 16. The card shows the scores of the
    compressed file.

    Args:
        labels: label strategy of the student; "" for the self-supervised network.
        name: name of the network; by default `default_name`.
        again: replace another training with this name.

    Returns:
        The path of the file.

    Raises:
        ConfigError: the name is invalid, or belongs to another training.
        RunError: the training is not finished.
        DataError: the licence of the data or of the initial weights is unknown; or the networks are too large.
    """
    name = name or default_name(arch, labels)
    folder, key = networks_folder(), trained(config, arch, labels)
    identity = graph.identity(config, key)
    training = {"result": key.name, "identity": identity_digest(identity), "initial": identity["initial"]}
    training["settings"] = identity["settings"]
    _check_name(name, training, again, folder)
    licences = _licences(config, arch, key)
    source = graph.require_finished(config, key)
    model = _described(config, load_model(source))
    with tempfile.TemporaryDirectory(prefix=".ship-", dir=runs.run_folder(config)) as temporary:
        path, stored_as, scores, cost = _smallest(config, key, model, Path(temporary))
        content = path.read_bytes()
    facts = {
        "data": training_data(config) | {"licence": licences["data"]},
        "licence": licences["weights"],
        "initial_licence": licences["initial"],
        "training": kept_provenance(io.read_json(source / "provenance.json")) | {"profile": config.profile},
        "labels": _labels(config, key) if labels else None,
        "image_hw": list(model.train_size),
        "focal_px": [round(f, 3) for f in model.train_focal_px],
        "field_of_view_deg": round(_field_of_view(model), 1),
        "depth_m": [model.min_depth, model.max_depth],
        "parameters": sum(p.numel() for p in model.parameters()),
        "precision": config.predict_precision,
        "scores": scores,
        "cost": cost,
    }
    height, width = model.train_size
    about = f"{arch_name(arch)}, {training_name(labels)}, {config.data.dataset} at {width}x{height}"
    entry = Shipped(
        arch=arch,
        about=about,
        sha256=hashlib.sha256(content).hexdigest(),
        bytes=len(content),
        stored_as=stored_as,
        training=training,
        facts=json.loads(json.dumps(facts)),  # tuples become lists
    )
    return _put(name, entry, content, folder)


def _labels(config: Config, key: graph.Key) -> dict[str, Any]:
    """The settings of a student's labels, including a mesh and a threshold of the strategy."""
    fuse, project = key._replace(stage="fuse"), project_key(key.arch, key.labels, key.round)
    made = graph.identity(config, fuse)
    settings = made["needs"][project.name]["settings"]["fusion"] | made["settings"]
    return {"labels": settings.pop("labels"), "round": key.round, "fusion": settings}


def _check_name(name: str, training: Mapping[str, Any], again: bool, folder: Path) -> None:
    if not is_name(name):
        raise ConfigError(f"{name!r} is not a valid network name: use lower-case letters, digits and '-'.")
    there = read_manifest(folder).networks.get(name)
    if there is None or there.training["identity"] == training["identity"] or again:
        return
    lines = runs.differences(training, there.training)
    raise ConfigError(
        f"{name!r} already names another training:\n  "
        + "\n  ".join(lines[:8])
        + "\nGive another --name, or --replace."
    )


def _licences(config: Config, arch: str, key: graph.Key) -> dict[str, str]:
    """The licences of the data, of the initial weights and of the network; a `DataError` if one is unknown."""
    d, settings = config.data, config.training(key.stage, arch)
    of_data = dataset(config).licence
    if not of_data:
        raise DataError(
            f"data set {d.dataset!r} has no licence that permits sharing networks trained on it: its networks "
            "cannot ship."
        )
    initial = find_initial_weights(arch, settings.pretrained, settings.weights)
    if initial.source != RANDOM and not initial.licence:
        raise DataError(
            f"the licence of the initial weights, {initial.source}, is unknown: the network cannot ship."
        )
    return {"data": of_data, "initial": initial.licence, "weights": initial.licence or "MIT"}


def _described(config: Config, model: DepthNetwork) -> DepthNetwork:
    """Add the size and the camera of the training to a network; files of older trainings lack both."""
    if model.train_size is None:
        size_hw = config.data.size_hw
        Ks = np.stack([s.scene.K(0, size_hw) for s in training_scenes(config)])
        model.train_size = size_hw
        model.train_focal_px = float(np.median(Ks[:, 0, 0])), float(np.median(Ks[:, 1, 1]))
    return model


def _field_of_view(model: DepthNetwork) -> float:
    """The horizontal field of view of the training camera, degrees."""
    return math.degrees(2 * math.atan(model.train_size[1] / 2 / model.train_focal_px[0]))


def _smallest(
    config: Config, key: graph.Key, model: DepthNetwork, folder: Path
) -> tuple[Path, str, list[dict[str, Any]], dict[str, Any]]:
    """Write the smallest file within `MAX_COST`; return its path, its format, its scores, and Sq Rel of all formats."""
    configs = {s: replace(config, evaluation=replace(config.evaluation, split=s)) for s in SPLITS}
    first = SPLITS[0]
    before = summary(stages.evaluate(configs[first], key.arch, key.labels))["sq_rel"]
    tried = {"split": first, "float32": _rounded(before)}
    for stored_as in SMALLEST_FIRST:
        path = save_weights(model, folder / f"{stored_as}.safetensors", stored_as)
        digest, what = io.sha256(path), f"{key.arch} {stored_as}"
        per_image = score_file(configs[first], path, digest, folder / stored_as / first, what)
        after = summary(per_image)["sq_rel"]
        tried[stored_as] = _rounded(after)
        say(f"{what}: Sq Rel on {first} {after:.4f}, {after / before - 1:+.2%} against {WEIGHTS}")
        if after <= before * (1 + MAX_COST):
            break
    else:
        raise DataError(
            f"{key.name}: {stored_as} increases Sq Rel on {first} by more than {MAX_COST:.0%} ({tried}). The network "
            "cannot ship."
        )
    scores = _rows(configs[first], per_image)
    for split in SPLITS[1:]:
        per_image = score_file(configs[split], path, digest, folder / stored_as / split, what)
        scores += _rows(configs[split], per_image)
    return path, stored_as, scores, tried


def _rows(config: Config, per_image: pd.DataFrame) -> list[dict[str, Any]]:
    """The mean scores over all images, over each list of images, and over each kind of pixels."""
    split = config.evaluation.split
    lists = evaluated_dataset(config).lists(split)
    means = {ALL: summary(per_image)} | {name: summary(per_image, frames=on) for name, on in lists.items()}
    kinds = [k for k in dict.fromkeys(per_image["pixels"]) if k != ALL]
    means |= {f"{kind} pixels": summary(per_image, pixels=kind) for kind in kinds}
    return [
        {"split": split, "of": of, "images": int(m["images"])} | {x: _rounded(m[x]) for x in METRICS_SHOWN}
        for of, m in means.items()
        if m["images"]
    ]


def _rounded(value: float) -> float:
    return float(f"{value:.4g}")


def _put(name: str, entry: Shipped, content: bytes, folder: Path) -> Path:
    """Write the file, then the manifest, then the model cards."""
    networks = read_manifest(folder).networks | {name: entry}
    manifest = Manifest.model_validate({"networks": {n: e.model_dump() for n, e in networks.items()}})
    total = sum(e.bytes for e in networks.values())
    if total > MAX_BYTES:
        raise DataError(
            f"with {name} the networks of {folder} have {total / 1e6:.1f} MB, more than {MAX_BYTES / 1e6:.0f} MB. "
            "Remove one of them: its file, its card and its entry in the manifest."
        )
    path = folder / f"{name}.safetensors"
    with io.atomic(path) as temporary:
        temporary.write_bytes(content)
    io.write_json(folder / MANIFEST, manifest.model_dump())
    write_cards(folder)
    return path
