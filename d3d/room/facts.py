"""What was done with a room, as one JSON object: `room.json`, from which the page is written."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from d3d import __version__, evaluation
from d3d.datasets.capture.check import CURRENT
from d3d.datasets.capture.scene import CaptureScene
from d3d.io import read_json
from d3d.pipeline import stages
from d3d.pipeline.graph import Key, all_needs, folder_of
from d3d.pipeline.runs import run_folder
from d3d.pipeline.scenes import dataset, training_scenes
from d3d.pipeline.settings import Config


def facts(config: Config, key: Key, scene: CaptureScene) -> dict[str, Any]:
    """Collect frames, poses, scale, bounds, networks, seconds and scores of a room.

    Args:
        key: of the results; its needs are finished.
    """
    d, training = config.data, training_scenes(config)[0]
    return {
        "name": scene.name,
        "frames": len(scene),
        "left_out": len(scene.left_out),
        "targets": len(training.targets),
        "held_out": len(scene) - len(training.scene) if scene.has_depth else 0,
        "image_hw": list(scene.size_hw),
        "network_hw": list(d.size_hw),
        "unit": dataset(config).unit,
        "depth_png": "thousandths of a relative unit" if scene.relative else "millimetres",
        "units_per_unit_of_poses": scene.metres_per_unit,
        "sources": [*d.translation_m, d.max_rotation_deg],
        "depth_range": [d.min_depth, d.max_depth],
        "pose_error": _pose_error(config),
        "found_poses": _found_poses(config),
        "arch": key.arch,
        "recipe": key.labels,
        "networks": {name: _training(config, k) for name, k in trainings(key).items()},
        "seconds": {k.name: _provenance(config, k)["seconds"] for k in all_needs(config, key)},
        "scores": _scores(config, key) if scene.has_depth else {},
        "scores_scale": config.evaluation.scale,
        "d3d": __version__,
    }


def trainings(key: Key) -> dict[str, Key]:
    """Return the trainings before and after distillation."""
    return {"before": Key("pretrain", key.arch), "after": key._replace(stage="distill")}


def _provenance(config: Config, key: Key) -> dict[str, Any]:
    return read_json(folder_of(config, key) / "provenance.json", "seconds")


def _training(config: Config, key: Key) -> dict[str, Any]:
    settings = config.training(key.stage, key.arch)
    return {
        "start": _provenance(config, key)["initial"]["source"],
        "length": settings.length,
        "batch_size": settings.batch_size,
    }


def _pose_error(config: Config) -> float | None:
    """The photometric error of the poses' check; None if the check was left out."""
    path = run_folder(config) / "capture" / "check.json"
    return read_json(path, "errors")["errors"][CURRENT] if config.capture.check and path.is_file() else None


def _found_poses(config: Config) -> dict[str, Any]:
    """Part of the report of structure from motion; empty if the capture brought its poses."""
    path = Path(config.data.root) / "report.json"
    if not Path(config.data.root).absolute().is_relative_to(run_folder(config)) or not path.is_file():
        return {}
    report = read_json(path, "frames", "registered")
    return {name: report[name] for name in ("frames", "registered", "error_px") if name in report}


def _scores(config: Config, key: Key) -> dict[str, dict[str, float]]:
    """The mean metrics of the frames held out, before and after."""
    return {
        name: {k: float(v) for k, v in evaluation.summary(stages.evaluate(config, key.arch, labels)).items()}
        for name, labels in (("before", ""), ("after", key.labels))
    }
