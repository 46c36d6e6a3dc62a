"""Parameters: a profile with the user's own values in place, checked strictly; and what identifies a stage.

`make_config` starts from a profile of `d3d.pipeline.profiles` and applies what the user set; `resolve` does the
same from a notebook's parameters cell, where papermill itself only warns about a name that does not exist.
"""

from __future__ import annotations

import ast
import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from d3d.errors import ConfigError, unknown
from d3d.fusion import LABELS, find_strategy
from d3d.models import ARCHITECTURES
from d3d.parallel.tasks import check_scheduler
from d3d.pipeline.profiles import (
    ENSEMBLE,
    PROFILES,
    Config,
    DataConfig,
    EvalConfig,
    FusionConfig,
    TrainConfig,
)
from d3d.uncertainty import SNAPSHOTS, find_uncertainty

__all__ = [
    "ENSEMBLE",
    "PARAMETERS",
    "PROFILES",
    "Config",
    "DataConfig",
    "EvalConfig",
    "FusionConfig",
    "TrainConfig",
    "describe",
    "make_config",
    "resolve",
    "snapshots_of",
    "stage_config",
]


@dataclass(frozen=True)
class Parameter:
    """One name a notebook or command line may set: its type, where it goes, and what it means."""

    type: tuple[type, ...]
    path: str
    help: str
    choices: tuple[str, ...] | None = None
    minimum: float | None = None


_STR, _INT, _FLOAT, _BOOL = (str,), (int,), (float, int), (bool,)
PARAMETERS: dict[str, Parameter] = {
    "profile": Parameter(
        _STR, "profile", f"{', '.join(PROFILES)}: size, steps and thresholds", tuple(PROFILES)
    ),
    "arch": Parameter(_STR, "arch", "network of this run", ARCHITECTURES),
    "labels": Parameter(_STR, "labels", "label strategy of the student (Table 6)", LABELS),
    "strategies": Parameter(_STR, "strategies", "labels of the ablation, with commas; all: Table 6's"),
    "dataset": Parameter(_STR, "data.dataset", "data set, by its name in d3d.datasets"),
    "root": Parameter(_STR, "data.root", "folder of the data set"),
    "seed": Parameter(_INT, "seed", "seed of initialisation, order and augmentation", minimum=0),
    "round": Parameter(_INT, "round", "of distillation: 2 takes round 1's students as teachers", minimum=1),
    "run": Parameter(_STR, "run", "name of the run's folder under runs/"),
    "base": Parameter(_STR, "base", "a run whose finished stages are used where they are the same"),
    "runs_dir": Parameter(_STR, "runs_dir", "folder that holds the runs"),
    "train_processes": Parameter(
        _INT, "train_processes", "processes of this machine that share a training, one a GPU", minimum=1
    ),
    "scheduler": Parameter(
        _STR, "scheduler", "where scenes are worked on: auto, local, none, or a dask scheduler's address"
    ),
    "scene_workers": Parameter(
        _INT, "scene_workers", "processes of a local scheduler; 0: one a core", minimum=0
    ),
    "device": Parameter(_STR, "device", "auto, cpu or cuda", ("auto", "cpu", "cuda")),
    "height": Parameter(_INT, "data.height", "network height in pixels, a multiple of 32", minimum=64),
    "width": Parameter(_INT, "data.width", "network width in pixels, a multiple of 32", minimum=64),
    "every": Parameter(_INT, "data.every", "every Nth frame is a target", minimum=1),
    "max_bad_share": Parameter(
        _FLOAT, "max_bad_share", "share of frames that may be unreadable, and are left out then", minimum=0.0
    ),
    "epochs": Parameter(_INT, "epochs", "epochs of every training (the drops keep their share)", minimum=1),
    "steps": Parameter(_INT, "steps", "steps of every training, instead of epochs", minimum=1),
    "batch_size": Parameter(_INT, "batch_size", "images a step", minimum=1),
    "learning_rate": Parameter(_FLOAT, "learning_rate", "Adam's initial rate", minimum=1e-9),
    "pretrained": Parameter(_BOOL, "pretrained", "ImageNet initialisation of the encoders"),
    "weights": Parameter(_STR, "weights", "a local file to take that initialisation from"),
    "precision": Parameter(
        _STR, "precision", "float32 or bf16 (autocast), in training and prediction", ("float32", "bf16")
    ),
    "compile": Parameter(_BOOL, "compile", "the photometric loss by torch.compile (for a GPU)"),
    "workers": Parameter(_INT, "workers", "processes that load images", minimum=0),
    "voxel_m": Parameter(_FLOAT, "fusion.voxel_m", "TSDF voxel, metres", minimum=1e-3),
    "trunc_m": Parameter(_FLOAT, "fusion.trunc_m", "TSDF truncation, metres", minimum=1e-3),
    "integrate_every": Parameter(_INT, "fusion.integrate_every", "every Nth frame into the TSDF", minimum=1),
    "renderer": Parameter(
        _STR, "fusion.renderer", "open3d (ray casting) or pyrender", ("open3d", "pyrender")
    ),
    "threshold_m": Parameter(
        _FLOAT, "fusion.threshold_m", "uncertainty threshold of Eq. 3, metres", minimum=0.0
    ),
    "threshold_quantile": Parameter(
        _FLOAT,
        "fusion.threshold_quantile",
        "that threshold as a quantile of the training pixels",
        minimum=0.0,
    ),
    "fusion_passes": Parameter(
        _INT, "fusion.passes", "TSDF passes; from the 2nd on outliers stay out", minimum=1
    ),
    "eval_dataset": Parameter(
        _STR, "evaluation.dataset", "data set that is evaluated, if not the one trained on"
    ),
    "eval_root": Parameter(_STR, "evaluation.root", "folder of the data set that is evaluated"),
    "split": Parameter(_STR, "evaluation.split", "split that is evaluated"),
    "scale": Parameter(_STR, "evaluation.scale", "none (absolute depth) or median", ("none", "median")),
    "lists": Parameter(
        _STR, "evaluation.lists", "own lists of frames to score apart: a folder, a file, or Name=file"
    ),
    "keyframes": Parameter(
        _STR,
        "evaluation.keyframes",
        "evaluate only the frames of this list: <split>_<Name>.txt, or Name=file",
    ),
    "eval_every": Parameter(_INT, "evaluation.every", "every Nth frame is evaluated", minimum=1),
}


def _check(name: str, value: Any) -> Any:
    if name not in PARAMETERS:
        raise unknown("parameter", name, PARAMETERS)
    parameter = PARAMETERS[name]
    # bool is an int in Python: `epochs = True` is a slip, not one epoch
    wrong = not isinstance(value, parameter.type) or (isinstance(value, bool) and bool not in parameter.type)
    if wrong:
        kinds = " or ".join(t.__name__ for t in parameter.type)
        raise ConfigError(f"parameter {name} = {value!r} must be {kinds} ({parameter.help}).")
    if parameter.choices is not None and value not in parameter.choices:
        raise unknown(name, value, parameter.choices)
    if parameter.minimum is not None and not value >= parameter.minimum:
        raise ConfigError(
            f"parameter {name} = {value!r} must be at least {parameter.minimum} ({parameter.help})."
        )
    return value


def make_config(**parameters: Any) -> Config:
    """A profile with the user's own values in place.

    Args:
        **parameters: names of `PARAMETERS`; None means "as the profile has it".

    Raises:
        ConfigError: an unknown name (the near misses are named), a wrong type, a value out of range.
    """
    given = {k: _check(k, v) if v is not None or k not in PARAMETERS else None for k, v in parameters.items()}
    given = {k: v for k, v in given.items() if v is not None}
    config = PROFILES[given.pop("profile", "demo")]
    data, fusion, evaluation = {}, {}, {}
    for name in list(given):
        group, _, key = PARAMETERS[name].path.partition(".")
        if key:
            {"data": data, "fusion": fusion, "evaluation": evaluation}[group][key] = given.pop(name)
    dataset = data.get("dataset", config.data.dataset)
    options = config.data.options.get(dataset, {})
    other = evaluation.get("dataset")
    if other is not None:
        evaluation["options"] = config.data.options.get(other, {})
    elif "root" in evaluation:
        raise ConfigError(f"eval_root = {evaluation['root']!r} without eval_dataset: name the data set, too.")
    quantile = fusion.get("threshold_quantile")
    if quantile is not None and not quantile <= 1:
        raise ConfigError(f"threshold_quantile = {quantile!r} must be between 0 and 1.")
    config = replace(
        config,
        data=replace(config.data, **data, options=options),
        fusion=replace(config.fusion, **fusion),
        evaluation=replace(config.evaluation, **evaluation),
    )
    epochs, steps = given.pop("epochs", None), given.pop("steps", None)
    if epochs is not None and steps is not None:
        raise ConfigError(f"epochs = {epochs} and steps = {steps}: set one of them, the other follows.")
    train = {f.name: given.pop(f.name) for f in dataclasses.fields(TrainConfig) if f.name in given}
    if "weights" in train:
        train.setdefault("pretrained", True)
    if train:
        pretrain, distill = replace(config.pretrain, **train), replace(config.distill, **train)
        # what the user sets holds for every architecture, over the profile's own exceptions
        per_arch = {
            a: {k: v for k, v in over.items() if k not in train} for a, over in config.per_arch.items()
        }
        config = replace(config, pretrain=pretrain, distill=distill, per_arch=per_arch)
    if epochs is not None:
        config = replace(
            config,
            pretrain=config.pretrain.scaled(epochs),
            distill=config.distill.scaled(epochs),
            steps={},
        )
    if steps is not None:
        config = replace(
            config,
            pretrain=replace(config.pretrain, steps=steps),
            distill=replace(config.distill, steps=steps),
            steps={},
        )
    if "precision" in train:
        given["predict_precision"] = train["precision"]
    config = replace(config, **given)
    for name, value in (("height", config.data.height), ("width", config.data.width)):
        if value % 32:
            low = value // 32 * 32
            raise ConfigError(
                f"{name} = {value} must be a multiple of 32: {low} or {value // 32 * 32 + 32}, say."
            )
    check_scheduler(config.scheduler)
    if not config.run:
        config = replace(config, run=f"{config.data.dataset}-{config.profile}-seed{config.seed}")
    if config.run in (".", "..") or any(c in config.run for c in "/\\\0"):
        raise ConfigError(f"run = {config.run!r} must be a plain folder name.")
    return config


def _literal_names(source: str) -> set[str] | None:
    """Names assigned in a cell of literals only (a parameters cell); None for any other cell."""
    try:
        body = ast.parse(source).body
    except SyntaxError:  # a cell of IPython magic
        return None
    names = set()
    for statement in body:
        if isinstance(statement, ast.Assign) and all(isinstance(t, ast.Name) for t in statement.targets):
            targets, value = [t.id for t in statement.targets], statement.value
        elif isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name):
            targets, value = [statement.target.id], statement.value
        else:
            return None
        try:
            ast.literal_eval(value)
        except (ValueError, TypeError):
            return None
        names.update(targets)
    return names


def resolve(namespace: Mapping[str, Any], **fixed: Any) -> Config:
    """The configuration from a notebook's globals: ``cfg = d3d.pipeline.config.resolve(globals())``.

    Looks at every cell run so far that consists of assignments of literals: that is the cell tagged
    ``parameters`` and the one papermill injects. Each name in them must be a parameter, so that
    ``-p archh hrdepth`` fails instead of being ignored. Where there is no record of cells (plain Python,
    a kernel without history) every literal in the namespace counts.

    Args:
        namespace: ``globals()``.
        **fixed: parameters that this notebook sets itself.

    Raises:
        ConfigError: as `make_config`.
    """
    cells = namespace.get("In")
    names: set[str] = set()
    for cell in cells if isinstance(cells, list) else ():
        names |= _literal_names(cell) or set()
    if not names:
        # Plain Python, or a kernel that is run without history (nbval): every literal must be a parameter
        literal = (str, int, float, bool, type(None))
        names = {k for k, v in namespace.items() if not k.startswith("_") and isinstance(v, literal)}
    parameters = {name: namespace[name] for name in sorted(names) if name in namespace}
    return make_config(**parameters, **fixed)


def describe(config: Config) -> str:
    """What a notebook is about to use, in two lines."""
    d, pretrain, distill = (
        config.data,
        config.training("pretrain", config.arch),
        config.training("distill", config.arch),
    )
    return (
        f"profile {config.profile}: {d.dataset} at {d.width}x{d.height}, {config.arch}, labels {config.labels}, seed "
        f"{config.seed}\n{pretrain.length} + {distill.length} in batches of {pretrain.batch_size}, threshold "
        f"{config.fusion.threshold_m:g} m; run {config.run}"
    )


def stage_config(config: Config, stage: str, arch: str = "", labels: str = "") -> dict[str, Any]:
    """What determines a stage's result, with that of the stages before it, as plain JSON values.

    Two runs whose stage configurations agree may share the artefact; device, folder, scheduler, number of
    loading processes, how often a training is checkpointed and what it keeps on its way are left out because
    they do not change it.

    Args:
        stage: "frames", "pretrain", "predict", "project", "uncertainty", "variant", "fuse", "distill", "evaluate" or
            "rank".
        labels: "" means the self-supervised network, where a stage can take both; of "uncertainty" its name, and
            of "variant" (a network that is trained for an uncertainty alone) that of this uncertainty; of "frames"
            "training" or the name of what is evaluated.
    """
    data = dataclasses.asdict(config.data)
    data.pop("root")
    if stage == "frames":
        return _plain(_frames_config(config, data, labels))

    def train(kind: str) -> dict[str, Any]:
        values = dataclasses.asdict(config.training(kind, arch))
        for name in ("workers", "checkpoint_steps", "snapshots", "compile"):
            values.pop(name)
        return values

    fusion = dataclasses.asdict(config.fusion)
    threshold = {"threshold_m": fusion.pop("threshold_m")}
    quantile = fusion.pop("threshold_quantile")
    if quantile is not None:
        threshold = {"threshold_quantile": quantile}
    if config.fusion.passes == 1:
        del fusion["passes"]  # as it was before there was a choice: such runs are the same
    base = {"arch": arch, "seed": config.seed, "data": data, "pretrain": train("pretrain") if arch else None}
    if stage == "pretrain":
        return _plain(base)
    if config.round > 1 and not (stage == "evaluate" and not labels):
        # what was trained before: the student of the round before, with all that made it
        teacher = stage_config(replace(config, round=config.round - 1), "distill", arch, config.labels)
        base = {"arch": arch, "seed": config.seed, "data": data, "round": config.round, "teacher": teacher}
    base["predict_precision"] = config.predict_precision
    if stage == "predict":
        result = base
    elif stage == "project":
        result = {**base, "fusion": fusion}
    elif stage == "uncertainty":
        if labels in ("", "ensemble"):
            result = {"ensemble": {a: stage_config(config, "predict", a) for a in ENSEMBLE}}
        else:
            result = {**base, "uncertainty": labels, **find_uncertainty(labels).options}
            networks = find_uncertainty(labels).networks
            if networks == "snapshots":
                result["snapshots"] = snapshots_of(config, arch)
            elif networks == "variant":
                result |= stage_config(config, "variant", arch, labels)
    elif stage == "variant":
        # what was trained before is in `base`: it is that training again, with a difference
        result = {**base, "variant": labels}
        if labels == "mcdropout":
            result["dropout"] = find_uncertainty(labels).options["dropout"]
        elif labels == "snapshots":
            result["snapshots"] = snapshots_of(config, arch)
        elif labels == "regression":
            result["distill"] = train("distill")
    elif stage in ("fuse", "distill"):
        strategy = find_strategy(labels)
        result = {**base, "fusion": fusion, "labels": labels}
        if "uncertainty" in strategy.needs:
            result |= threshold | stage_config(config, "uncertainty", arch, strategy.uncertainty)
        if stage == "distill":
            result["distill"] = train("distill")
    elif stage == "evaluate":
        result = stage_config(config, "distill" if labels else "pretrain", arch, labels)
        evaluation = dataclasses.asdict(config.evaluation)
        del evaluation["root"], evaluation["lists"]  # lists only say which scores a table averages
        if config.evaluation.dataset is None:
            del evaluation["dataset"], evaluation["options"]
        if config.evaluation.keyframes is None:
            del evaluation["keyframes"]  # as it was before there was a choice: such runs are the same
        else:
            evaluation["keyframes"] = keyframes_name(config.evaluation)
        result["evaluation"] = evaluation
        result["predict_precision"] = config.predict_precision
    elif stage == "rank":
        result = {"ensemble": {a: stage_config(config, "evaluate", a) for a in ENSEMBLE}, "fusion": fusion}
    else:
        known = (
            "frames",
            "pretrain",
            "predict",
            "project",
            "uncertainty",
            "variant",
            "fuse",
            "distill",
            "evaluate",
            "rank",
        )
        raise unknown("stage", stage, known)
    return _plain(result)


def _frames_config(config: Config, data: dict[str, Any], what: str) -> dict[str, Any]:
    """What determines which frames are needed, and with that which of them cannot be read."""
    if what == "training":
        size = ("height", "width", "min_depth", "max_depth")
        rule = {k: v for k, v in data.items() if k not in size}
        return {"data": rule, "integrate_every": config.fusion.integrate_every}
    e = config.evaluation
    own = e.dataset is None
    return {
        "dataset": config.data.dataset if own else e.dataset,
        "options": config.data.options if own else e.options,
        "split": e.split,
        **({"every": e.every} if e.keyframes is None else {"keyframes": keyframes_name(e)}),
    }


def keyframes_name(evaluation: EvalConfig) -> str:
    """The name of the parameter ``keyframes``: that of "Name=file", of <split>_<Name>.txt; "" where there is none."""
    if evaluation.keyframes is None:
        return ""
    name, given, _ = evaluation.keyframes.partition("=")
    if given and not {"/", "\\"} & set(name):
        return name.strip()
    return Path(evaluation.keyframes).stem.removeprefix(f"{evaluation.split}_")


def snapshots_of(config: Config, arch: str) -> int:
    """How many snapshots of the teacher's training the uncertainty "snapshots" looks at, besides the last weights."""
    return config.training("pretrain" if config.round == 1 else "distill", arch).snapshots or SNAPSHOTS


def _plain(value: Any) -> Any:
    """Tuples as lists, as JSON has them, so that a configuration read back compares equal."""
    if isinstance(value, dict):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(v) for v in value]
    return value
