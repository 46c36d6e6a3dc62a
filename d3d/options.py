"""What a command of the command line is: its parameters in groups, its further options, what it is called with."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from d3d.pipeline.config import Config


@dataclass(frozen=True)
class Call:
    """What a command is called with."""

    config: Config
    archs: tuple[str, ...]
    configs: list[Config]  # one for each of --seeds
    options: argparse.Namespace
    words: list[str]  # of the command line


def _flag(text: str) -> tuple[str, dict[str, Any]]:
    return "evaluation", {"action": "store_true", "help": text}


# Parameters by the heading under which ``--help`` shows them
GROUPS = {
    "run": ("profile", "seed", "run", "base", "runs_dir"),
    "data": ("dataset", "root", "height", "width", "every", "max_bad_share"),
    "bounds": (
        *("bounds", "min_translation_m", "max_translation_m", "max_rotation_deg"),
        *("min_depth_m", "max_depth_m"),
    ),
    "capture": (
        *("format", "axes", "poses", "intrinsics", "depth_scale"),
        *("metres_per_unit", "distance", "camera_height"),
    ),
    "networks": ("arch", "ensemble", "teachers"),
    "training": (
        *("epochs", "steps", "batch_size", "learning_rate", "pretrained", "weights", "precision"),
        "self_taught",
    ),
    "fusion": (
        *("voxel_m", "trunc_m", "integrate_every", "fusion_passes", "renderer"),
        *("fusion_quantile", "fusion_certain", "fusion_uncertainty", "fusion_views"),
    ),
    "labels": ("recipe", "labels", "threshold_m", "threshold_quantile", "round"),
    "ablation": ("strategies",),
    "evaluation": ("split", "scale", "eval_every", "eval_dataset", "eval_root", "lists", "keyframes"),
    "machine": ("device", "workers", "train_processes", "compile", "scheduler", "scene_workers"),
}
DATA = ("data", "bounds", "capture")
PRETRAIN = ("run", *DATA, "networks", "training", "machine")
LABELS = (*PRETRAIN, "fusion", "labels")
EVALUATE = (*LABELS, "evaluation")


def _camera(metavar: str, text: str) -> tuple[str, dict[str, Any]]:
    return "camera", {"type": float, "metavar": metavar, "help": text}


# Options beside the parameters, and the positional arguments: their heading, and their arguments of `add_argument`
MORE: dict[str, tuple[str, dict[str, Any]]] = {
    "archs": (
        "networks",
        {"metavar": "A,B", "help": "several networks, with commas, or 'ensemble', or 'every'"},
    ),
    "seeds": ("run", {"metavar": "N,N", "help": "several seeds, with commas: a run each"}),
    "processes": (
        "machine",
        {"type": int, "default": 1, "help": "processes that share the trainings (default: 1)"},
    ),
    "export": _flag("keep the scores of these runs in results/"),
    "stored": _flag("make the tables from the scores in results/; needs no run"),
    "readme": _flag("put the stored table into README.md"),
    "images": ("files", {"nargs": "+", "metavar": "IMAGES", "help": "images, videos, and folders of them"}),
    "out": ("files", {"default": "predicted", "help": "folder of the results (default: predicted)"}),
    "outputs": (
        "files",
        {
            "metavar": "A,B",
            "help": "some of depth (16-bit PNG in millimetres), npy (float32 metres), picture, cloud, mesh (.ply); "
            "default: all; of a video depth and picture",
        },
    ),
    "overwrite": (
        "files",
        {"action": "store_true", "help": "replace results that were made from or with something else"},
    ),
    "model": (
        "network",
        {
            "default": "lite-distilled",
            "help": "a network that ships, a .safetensors file, or the folder of a training (default: lite-distilled)",
        },
    ),
    "size": (
        "network",
        {"metavar": "HxW", "help": "size of the network's input (default: near that of its training)"},
    ),
    "precision": (
        "network",
        {"choices": ("float32", "bf16"), "default": "float32", "help": "float32 (default) or bf16"},
    ),
    "fov": _camera(
        "DEGREES", "field of view along the longer side (default: by EXIF, else as in the training)"
    ),
    "focal_px": _camera("X", "or focal length in pixels of the image"),
}


@dataclass(frozen=True)
class Command:
    """A command: what it does, the groups of parameters and the further options that it takes, and an example."""

    run: Callable[[Call], None]
    help: str
    groups: tuple[str, ...]
    example: str
    more: tuple[str, ...] = ("archs",)
    without: tuple[str, ...] = ()  # parameters of these groups that have no effect on the command
    positional: str = ""  # the one of `more` that is given without a flag
    own: Mapping[str, tuple[str, dict[str, Any]]] = field(default_factory=dict)  # as `MORE`, of it alone

    @property
    def parameters(self) -> list[str]:
        taken = [name for group in GROUPS if group in self.groups for name in GROUPS[group]]
        return [name for name in taken if name not in self.without]

    @property
    def options(self) -> dict[str, tuple[str, dict[str, Any]]]:
        """The options beside the parameters: their heading, and their arguments of `add_argument`."""
        return {name: MORE[name] for name in self.more} | dict(self.own)
