"""Parameters: build and check a configuration from a profile and the user's values.

`make_config` takes keyword arguments. `resolve` reads the parameters cell of a notebook; an unknown name is an error
there, while papermill only warns.
"""

from __future__ import annotations

import ast
import os
import typing
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from pydantic import ValidationError

from d3d.errors import ConfigError, unknown
from d3d.fusion import LABELS, RECIPES, UNCERTAINTIES
from d3d.models import ARCHITECTURES
from d3d.parallel.tasks import check_scheduler
from d3d.pipeline.bounds import with_bounds
from d3d.pipeline.profiles import PROFILES
from d3d.pipeline.settings import (
    ENSEMBLE,
    CaptureConfig,
    Config,
    DataConfig,
    EvalConfig,
    FusionConfig,
    TrainConfig,
)

__all__ = ["ENSEMBLE", "PARAMETERS", "PROFILES", "Config", "DataConfig", "EvalConfig"]
__all__ += ["FusionConfig", "TrainConfig", "describe", "keyframes_name", "make_config"]
__all__ += ["parameters_in", "resolve"]

NOTEBOOK_PROFILE = "ready"
_GROUPS = {"run": Config, "evaluation": EvalConfig, "fusion": FusionConfig}
_GROUPS |= {"training": TrainConfig, "data": DataConfig, "capture": CaptureConfig}
_CHOICES = {"profile": tuple(PROFILES), "arch": ARCHITECTURES, "labels": LABELS}
_CHOICES |= {"recipe": tuple(RECIPES), "uncertainty": UNCERTAINTIES}


@dataclass(frozen=True)
class Parameter:
    """A parameter of notebooks and the command line."""

    type: type  # str, int, float or bool
    group: str  # of _GROUPS
    field: str  # of the group's class
    help: str
    choices: tuple[str, ...] | None = None  # the allowed values, if they can be listed

    def default(self, profile: str, arch: str) -> Any:
        """Return the value in a profile. For a training parameter: its value in the pretraining of ``arch``."""
        config = PROFILES[profile]
        if self.group == "training":
            return getattr(config.training("pretrain", arch), self.field)
        return getattr(config if self.group == "run" else getattr(config, self.group), self.field)


def _parameters() -> dict[str, Parameter]:
    found = {}
    for group, cls in _GROUPS.items():
        hints = typing.get_type_hints(cls)
        for name, info in cls.__pydantic_fields__.items():
            if info.json_schema_extra is None:
                continue
            kinds = [k for k in typing.get_args(hints[name]) or (hints[name],) if k is not type(None)]
            choices = _CHOICES.get(name)
            if literal := [k for k in (hints[name], *kinds) if typing.get_origin(k) is Literal]:
                kinds, choices = [str], typing.get_args(literal[0])
            key = info.json_schema_extra["parameter"] or name
            found[key] = Parameter(kinds[0], group, name, info.description, choices)
    return found


PARAMETERS = _parameters()


def _replaced(part: Any, group: str, values: Mapping[str, Any]) -> Any:
    """Return one part of the configuration with new values; a `ConfigError` if a value is wrong."""
    try:
        return replace(part, **values)
    except ValidationError as failed:
        error = failed.errors()[0]
        if isinstance(known := error.get("ctx", {}).get("error"), ConfigError):
            raise known from None
        field, value = error["loc"][0], error["input"]
        name, p = next((n, p) for n, p in PARAMETERS.items() if (p.group, p.field) == (group, field))
        context = error.get("ctx", {})
        if error["type"] == "literal_error":
            raise unknown(name, value, p.choices) from None
        if error["type"] == "greater_than_equal":
            rule = f"must be at least {context['ge']:g}"
        elif error["type"] == "less_than_equal":
            rule = f"must be at most {context['le']:g}"
        else:
            rule = f"must be {p.type.__name__}"
        raise ConfigError(f"parameter {name} = {value!r} {rule} ({p.help}).") from None


def make_config(**parameters: Any) -> Config:
    """Return a profile's configuration with the user's values.

    Args:
        **parameters: values by the names of `PARAMETERS`; None keeps the profile's value.

    Raises:
        ConfigError: an unknown name, a wrong type, or a value out of range.
    """
    given: dict[str, dict[str, Any]] = defaultdict(dict)
    for name, value in parameters.items():
        if name not in PARAMETERS:
            raise unknown("parameter", name, PARAMETERS)
        if value is not None:
            p = PARAMETERS[name]
            if p.field in _CHOICES and value not in p.choices:
                if not isinstance(value, str):
                    raise ConfigError(f"parameter {name} = {value!r} must be str ({p.help}).")
                raise unknown(name, value, p.choices)
            given[p.group][p.field] = value
    run, data, train, evaluation = (given[g] for g in ("run", "data", "training", "evaluation"))
    if "recipe" in run:
        labels = RECIPES[run["recipe"]]
        if run.setdefault("labels", labels) != labels:
            raise ConfigError(
                f"recipe = {run['recipe']!r} and labels = {run['labels']!r}: set one of them. This recipe "
                f"has the labels {labels!r}."
            )
    profile = PROFILES[run.pop("profile", "demo")]
    config = _replaced(profile, "run", run)
    if profile.students == profile.ensemble:
        config = replace(config, students=config.ensemble)
    options = config.data.options
    data["options"] = options.get(data.get("dataset", config.data.dataset), {})
    if "dataset" in evaluation:
        evaluation["options"] = options.get(evaluation["dataset"], {})
    elif "root" in evaluation:
        raise ConfigError(f"eval_root = {evaluation['root']!r} needs eval_dataset: also name the data set.")
    for group in ("data", "capture", "fusion", "evaluation"):
        config = replace(config, **{group: _replaced(getattr(config, group), group, given[group])})
    if config.fusion.certain is not None and config.fusion.views is None:
        raise ConfigError(
            f"fusion_certain = {config.fusion.certain} needs fusion_views, for example 40: only target frames have an "
            "uncertainty."
        )
    _check_loss(config, train)
    config = _with_training(config, train)
    for name, value in (("height", config.data.height), ("width", config.data.width)):
        if value % 32:
            low = value // 32 * 32
            raise ConfigError(f"{name} = {value} must be a multiple of 32, for example {low} or {low + 32}.")
    check_scheduler(config.scheduler)
    if given["capture"] and "capture" not in (config.data.dataset, config.evaluation.dataset):
        raise ConfigError(f"{', '.join(given['capture'])}: only for --dataset capture.")
    config = with_bounds(config, {*given["data"], *given["fusion"]})
    config = replace(config, run=config.run or f"{config.name}-seed{config.seed}")
    for name, value in (("run", config.run), ("base", config.base)):
        if value in (".", "..") or any(c in value for c in "/\\\0"):
            raise ConfigError(f"{name} = {value!r} must be a plain folder name, not a path.")
    return config


def _check_loss(config: Config, train: Mapping[str, Any]) -> None:
    """Raise an error if an option of the pretraining's loss would have no effect."""
    loss = train.get("loss", config.pretrain.loss)
    if config.teachers == "shipped" and loss != "photometric":
        raise ConfigError(
            f"loss = {loss!r} needs teachers = 'trained': with teachers = 'shipped', this run has no pretraining. "
            "Profiles demo, laptop and paper train their teachers."
        )
    if "triplet_margin" in train and loss == "photometric":
        raise ConfigError(
            f"triplet_margin = {train['triplet_margin']} needs loss = 'triplet' or 'triplet-stop'."
        )


def _with_training(config: Config, train: dict[str, Any]) -> Config:
    """Apply the user's training parameters to both trainings of all architectures, over the settings in `per_arch`."""
    if "epochs" in train and "steps" in train:
        raise ConfigError(f"epochs = {train['epochs']} and steps = {train['steps']}: set one of them.")
    if "precision" in train:
        config = replace(config, predict_precision=_replaced(config.pretrain, "training", train).precision)
    epochs = train.pop("epochs", None)
    trainings = {}
    for stage in ("pretrain", "distill"):
        part = _replaced(getattr(config, stage), "training", train)
        if epochs is not None:
            _replaced(part, "training", {"epochs": epochs})  # checks the value
            part = part.scaled(epochs)
        trainings[stage] = part
    if epochs is not None or "steps" in train:
        trainings["steps"] = {}
    per_arch = {a: {k: v for k, v in over.items() if k not in train} for a, over in config.per_arch.items()}
    return replace(config, per_arch=per_arch, **trainings)


def _literal_names(source: str) -> set[str]:
    """Return the names assigned in a parameters cell; empty for a cell with more than assignments of literals."""
    names = set()
    try:
        for statement in ast.parse(source).body:
            if not isinstance(statement, ast.Assign | ast.AnnAssign):
                return set()
            targets = statement.targets if isinstance(statement, ast.Assign) else [statement.target]
            if not all(isinstance(target, ast.Name) for target in targets):
                return set()
            ast.literal_eval(statement.value)
            names.update(target.id for target in targets)
    except (SyntaxError, ValueError, TypeError):  # a magic of IPython, or a computed value
        return set()
    return names


def parameters_in(namespace: Mapping[str, Any]) -> dict[str, Any]:
    """Read the parameters of a notebook.

    Reads every executed cell that only assigns literals: the cell tagged ``parameters`` and the cell injected by
    papermill. Without a history of cells (plain Python, some kernels), every literal in the namespace is a parameter.

    Args:
        namespace: ``globals()``.

    Returns:
        Values by name, not checked. ``profile = None`` becomes `NOTEBOOK_PROFILE`, or the profile that the environment
        variable ``D3D_PROFILE`` names.
    """
    cells = namespace.get("In")
    names = set().union(*(_literal_names(cell) for cell in (cells if isinstance(cells, list) else ())))
    if not names:
        literal = (str, int, float, bool, type(None))
        names = {k for k, v in namespace.items() if not k.startswith("_") and isinstance(v, literal)}
    parameters = {name: namespace[name] for name in sorted(names) if name in namespace}
    if parameters.get("profile") is None:
        parameters["profile"] = os.environ.get("D3D_PROFILE") or NOTEBOOK_PROFILE
    return parameters


def resolve(namespace: Mapping[str, Any], **fixed: Any) -> Config:
    """Return the configuration of a notebook: ``cfg = d3d.pipeline.config.resolve(globals())``.

    Each name in the cells that `parameters_in` reads must be a parameter; ``-p archh hrdepth`` is an error.

    Args:
        namespace: ``globals()``.
        **fixed: parameters that the notebook sets itself.

    Raises:
        ConfigError: as `make_config`.
    """
    return make_config(**parameters_in(namespace), **fixed)


def describe(config: Config) -> str:
    """Describe a configuration in two lines."""
    d, f = config.data, config.fusion
    pretrain, distill = (config.training(stage, config.arch) for stage in ("pretrain", "distill"))
    threshold = f"threshold {f.threshold_m:g} m"
    if f.threshold_quantile is not None:
        threshold = f"threshold at quantile {f.threshold_quantile:g} of the uncertainty"
    ensemble = "" if config.ensemble == ENSEMBLE else f"ensemble {'+'.join(config.ensemble)}, "
    first = f"{pretrain.length} + {distill.length}"
    if pretrain.loss != "photometric":
        first = f"{pretrain.length} with loss {pretrain.loss} + {distill.length}"
    if config.teachers == "shipped":
        first = f"teachers that ship with d3d, students trained for {distill.length}"
    return (
        f"profile {config.profile}: {d.dataset} at {d.width}x{d.height}, {config.arch}, labels {config.labels}, "
        f"{ensemble}seed {config.seed}\n{first} in batches of {distill.batch_size}, "
        f"{threshold}; run {config.run}"
    )


def keyframes_name(evaluation: EvalConfig) -> str:
    """Return the name of the keyframe list, from "Name=file" or <split>_<Name>.txt; "" without a list."""
    if evaluation.keyframes is None:
        return ""
    name, given, _ = evaluation.keyframes.partition("=")
    if given and not {"/", "\\"} & set(name):
        return name.strip()
    return Path(evaluation.keyframes).stem.removeprefix(f"{evaluation.split}_")
