"""Building blocks of the command line: commands, groups of parameters, further options."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from d3d.pipeline.config import Config

Options = dict[str, tuple[str, dict[str, Any]]]  # name -> heading, arguments of `add_argument`


@dataclass(frozen=True)
class Call:
    """The arguments of a command."""

    config: Config
    archs: tuple[str, ...]
    configs: list[Config]  # one for each seed in --seeds
    options: argparse.Namespace
    words: list[str]  # the words of the command line


def _flag(text: str) -> tuple[str, dict[str, Any]]:
    return "evaluation", {"action": "store_true", "help": text}


# Headings of ``--help``, with their parameters
GROUPS = {
    "run": ("profile", "seed", "run", "base", "runs_dir"),
    "data": ("dataset", "root", "height", "width", "every", "max_bad_share"),
    "bounds": (
        *("bounds", "min_translation_m", "max_translation_m", "max_rotation_deg"),
        *("min_depth_m", "max_depth_m"),
    ),
    "capture": (
        *("format", "axes", "poses", "intrinsics", "depth_scale"),
        *("metres_per_unit", "distance", "camera_height", "check"),
    ),
    "networks": ("arch", "ensemble", "teachers"),
    "training": (
        *("epochs", "steps", "batch_size", "learning_rate", "pretrained", "weights", "precision"),
        *("self_taught", "loss", "triplet_margin"),
    ),
    "fusion": (
        *("voxel_m", "trunc_m", "integrate_every", "fusion_passes", "fusion_backend", "renderer"),
        *("fusion_quantile", "fusion_certain", "fusion_uncertainty", "fusion_views"),
    ),
    "labels": ("recipe", "labels", "threshold_m", "threshold_quantile", "round"),
    "ablation": ("strategies",),
    "evaluation": ("split", "scale", "eval_every", "eval_dataset", "eval_root", "lists", "keyframes"),
    "machine": ("device", "workers", "train_processes", "compile", "scheduler", "scene_workers"),
}
# Second names of parameters on the command line
ALIASES = {"scale": ("align",)}
DATA = ("data", "bounds", "capture")
PRETRAIN = ("run", *DATA, "networks", "training", "machine")
LABELS = (*PRETRAIN, "fusion", "labels")
EVALUATE = (*LABELS, "evaluation")


def _camera(metavar: str, text: str) -> tuple[str, dict[str, Any]]:
    return "camera", {"type": float, "metavar": metavar, "help": text}


# Options that are not parameters, and positional arguments: heading, arguments of `add_argument`
MORE: Options = {
    "archs": (
        "networks",
        {"metavar": "A,B", "help": "several networks, separated by commas, or 'ensemble', or 'every'"},
    ),
    "seeds": ("run", {"metavar": "N,N", "help": "several seeds, separated by commas; each has its own run"}),
    "processes": (
        "machine",
        {"type": int, "default": 1, "help": "processes that share the trainings (default: 1)"},
    ),
    "export": _flag("keep the scores of these runs in results/"),
    "stored": _flag("make the tables from the scores in results/; needs no run"),
    "readme": _flag("put the stored tables into README.md and docs/results.md"),
    "capture": ("files", {"metavar": "PATH", "help": "folder of the capture"}),
    "start": (
        "networks",
        {
            "default": "imagenet",
            "metavar": "NAME",
            "help": "start of the networks: imagenet, shipped (adapts lite-distilled), or a network that ships "
            "(default: imagenet)",
        },
    ),
    "student_start": (
        "networks",
        {
            "default": "teacher",
            "metavar": "NAME",
            "help": "start of the second network: teacher (the first network), or same (default: teacher)",
        },
    ),
    "images": ("files", {"nargs": "+", "metavar": "IMAGES", "help": "images, videos, and folders of them"}),
    "out": ("files", {"default": "predicted", "help": "folder of the results (default: predicted)"}),
    "outputs": (
        "files",
        {
            "metavar": "A,B",
            "help": "any of depth (16-bit PNG in millimetres), npy (float32 metres), picture, cloud, mesh (.ply); "
            "default: all; for a video: depth and picture",
        },
    ),
    "overwrite": (
        "files",
        {"action": "store_true", "help": "replace existing results of other inputs or options"},
    ),
    "model": (
        "network",
        {
            "default": "lite-distilled",
            "help": "a shipped network, a .safetensors file, or the folder of a training (default: lite-distilled)",
        },
    ),
    "size": (
        "network",
        {"metavar": "HxW", "help": "size of the network's input (default: near its training size)"},
    ),
    "precision": (
        "network",
        {"choices": ("float32", "bf16"), "default": "float32", "help": "float32 (default) or bf16"},
    ),
    "fov": _camera(
        "DEGREES", "field of view along the longer side (default: from EXIF, else as in the training)"
    ),
    "focal_px": _camera("X", "focal length in pixels of the image, instead of --fov"),
}


# Options of a single command
OWN: dict[str, Options] = {
    "evaluate": {
        "predictions": (
            "predictions",
            {
                "metavar": "FOLDER",
                "help": "score these depth files, <scene>/<frame>.png or .npy (docs/submit.md)",
            },
        ),
        "predictions_from": (
            "predictions",
            {
                "metavar": "hf:FOLDER",
                "help": "predict with a published network in a local folder, and score it",
            },
        ),
        "name": ("predictions", {"help": "name of the method in the table (default: the folder's name)"}),
        "holds": (
            "predictions",
            {
                "choices": ("depth", "disparity"),
                "help": "what .npy and .npz files hold: depth in metres, or disparity up to scale and shift (default: "
                "depth, or as a published network says)",
            },
        ),
    },
    "check": {
        "out": (
            "file",
            {
                "default": "pose_check.png",
                "metavar": "FILE",
                "help": "the picture (default: pose_check.png)",
            },
        )
    },
    "ship": {
        "name": ("file", {"help": "name of the network (default: <arch>-distilled and the like)"}),
        "teacher": (
            "file",
            {"action": "store_true", "help": "ship the self-supervised network instead of the student"},
        ),
        "replace": ("file", {"action": "store_true", "help": "replace another training with this name"}),
    },
    "export": {
        "model": (
            "network",
            {
                "required": True,
                "help": "a shipped network, a .safetensors file, or the folder of a training",
            },
        ),
        "height": (
            "network",
            {"type": int, "metavar": "N", "help": "height of the images (default: as in the training)"},
        ),
        "width": (
            "network",
            {"type": int, "metavar": "N", "help": "width of the images (default: as in the training)"},
        ),
        "format": ("file", {"default": "onnx", "help": "onnx or pt2 (torch.export) (default: onnx)"}),
        "out": ("file", {"required": True, "metavar": "FILE", "help": "the file to write"}),
    },
}


@dataclass(frozen=True)
class Command:
    """A command of the command line."""

    run: Callable[[Call], None]
    help: str
    groups: tuple[str, ...]  # headings in `GROUPS`
    example: str
    more: tuple[str, ...] = ("archs",)  # names in `MORE`
    without: tuple[str, ...] = ()  # parameters of the groups that the command does not take
    unlisted: tuple[str, ...] = ()  # groups that the command takes, but ``--help`` does not list
    note: str = ""  # shown below the options
    profile: str = ""  # the profile of the command, if it has its own
    positional: str = ""  # the name in `more` that is given without a flag
    own: Mapping[str, tuple[str, dict[str, Any]]] = field(
        default_factory=dict
    )  # further options, as in `MORE`

    @property
    def parameters(self) -> list[str]:
        taken = [name for group in GROUPS if group in self.groups for name in GROUPS[group]]
        return [name for name in taken if name not in self.without]

    @property
    def options(self) -> dict[str, tuple[str, dict[str, Any]]]:
        """The options that are not parameters: heading and arguments of `add_argument` by name."""
        return {name: MORE[name] for name in self.more} | dict(self.own)
