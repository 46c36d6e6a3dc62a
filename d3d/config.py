"""Every number of a run: frozen dataclasses one a stage, profiles, and the strict check of notebook parameters.

A profile is a complete configuration with a name. `make_config` starts from one and applies what the
user set; `resolve` does the same from a notebook's parameters cell, where papermill itself only warns
about a name that does not exist.
"""

from __future__ import annotations

import ast
import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from d3d.errors import ConfigError, unknown
from d3d.fusion import STRATEGIES
from d3d.models import ARCHITECTURES

# The networks whose spread is the uncertainty (3.2.3): the paper's three, whatever else is registered
ENSEMBLE = ("monodepth2", "hrdepth", "monovit")


@dataclass(frozen=True)
class DataConfig:
    """Which frames, at which size, and the triple rule of section 4.1."""

    dataset: str = "miniroom"
    root: str | None = None
    height: int = 288
    width: int = 384
    every: int = 10  # every Nth frame is a target
    translation_m: tuple[float, float] = (0.05, 0.10)
    max_rotation_deg: float = 3.0
    min_depth: float = 0.1
    max_depth: float = 10.0
    options: dict[str, Any] = field(default_factory=dict)  # passed to open_dataset

    @property
    def size_hw(self) -> tuple[int, int]:
        return self.height, self.width


@dataclass(frozen=True)
class TrainConfig:
    """One training, pretraining (section 3.1) or distillation (3.2.4); the defaults are the paper's (3.3)."""

    epochs: int = 41
    milestones: tuple[int, ...] = (26, 36)  # learning rate x0.1 at the end of these epochs
    batch_size: int = 12
    learning_rate: float = 1e-4
    warmup_steps: int = 0
    max_steps_per_epoch: int | None = None
    scales: tuple[int, ...] = (0, 1, 2, 3)
    smoothness: float = 1e-3
    automask: bool = False
    pretrained: bool = True  # ImageNet initialisation of the encoder
    weights: str | None = None  # a local file to take that initialisation from
    init_depth_m: float | None = None  # bias of the disparity heads; None leaves the usual start (0.2 m)
    precision: str = "float32"  # or "bf16": autocast of the network; geometry and losses stay float32
    channels_last: bool = True
    workers: int = 0

    def scaled(self, epochs: int) -> TrainConfig:
        """The same schedule over another number of epochs: the drops keep their share of it."""
        return replace(
            self,
            epochs=epochs,
            milestones=tuple(max(1, round(m * epochs / self.epochs)) for m in self.milestones),
        )


@dataclass(frozen=True)
class FusionConfig:
    """TSDF fusion and rendering (3.2.2, 3.3), uncertainty and its threshold (3.2.3)."""

    voxel_m: float = 0.05
    trunc_m: float = 1.0
    integrate_every: int = 10  # every Nth frame of the scene goes into the TSDF
    renderer: str = "open3d"  # or "pyrender", the paper's
    threshold_m: float = 0.4


@dataclass(frozen=True)
class EvalConfig:
    """How predictions are scored (4.1)."""

    split: str = "val"
    scale: str = "none"  # "median" for relative depth
    every: int = 1


@dataclass(frozen=True)
class Config:
    """Everything a run needs; what `make_config` and `resolve` return."""

    profile: str = "paper"
    arch: str = "monodepth2"
    labels: str = "uncer"
    seed: int = 0
    device: str = "auto"
    run: str = ""
    runs_dir: str | None = None
    data: DataConfig = DataConfig()
    pretrain: TrainConfig = TrainConfig()
    distill: TrainConfig = TrainConfig()
    # what one architecture has otherwise: {"monovit": {"batch_size": 8}}; applies to both trainings
    per_arch: dict[str, dict[str, Any]] = field(default_factory=lambda: {"monovit": {"batch_size": 8}})
    pretrain_epochs: dict[str, int] = field(default_factory=dict)
    fusion: FusionConfig = FusionConfig()
    evaluation: EvalConfig = EvalConfig()

    def training(self, stage: str, arch: str) -> TrainConfig:
        """The training configuration of "pretrain" or "distill" for one architecture."""
        train = replace(getattr(self, stage), **self.per_arch.get(arch, {}))
        if stage == "pretrain" and arch in self.pretrain_epochs:
            train = train.scaled(self.pretrain_epochs[arch])
        return train


# The budget of two cores: small images, networks from scratch, a head bias that starts at a room's depth
# (an untouched start is 0.2 m and needs hundreds of steps to leave), two loss scales (at 128x96 scales 1 and
# 3 add cost and no accuracy), and a higher rate for the few steps.
_SMALL_TRAIN = TrainConfig(
    batch_size=8,
    learning_rate=3e-4,
    warmup_steps=50,
    scales=(0, 2),
    pretrained=False,
    init_depth_m=2.3,
    precision="bf16",
)

PROFILES: dict[str, Config] = {
    "smoke": Config(
        profile="smoke",
        data=DataConfig(
            height=64, width=96, every=1, options={"miniroom": {"frames": 18, "size_hw": (64, 96)}}
        ),
        pretrain=replace(
            _SMALL_TRAIN, epochs=2, milestones=(1,), batch_size=2, max_steps_per_epoch=3, warmup_steps=1
        ),
        distill=replace(
            _SMALL_TRAIN, epochs=2, milestones=(1,), batch_size=2, max_steps_per_epoch=3, warmup_steps=1
        ),
        per_arch={},
        fusion=FusionConfig(integrate_every=3, threshold_m=0.1),  # six steps leave the networks alike
        evaluation=EvalConfig(every=3),
    ),
    "demo": Config(
        profile="demo",
        # 7-Scenes: a fifth of each sequence, not at its end, is kept for validation: in redkitchen it passes the
        # black worktop and the red cupboards, which the rest sees too, from other places
        data=DataConfig(
            height=96,
            width=128,
            every=1,
            options={
                "7scenes": {"val_block": (0.58, 0.8)},
                # a round of each room, so that every highlight is also seen clean
                "miniroom": {"rooms": (3, 1), "frames": 150},
            },
        ),
        pretrain=_SMALL_TRAIN.scaled(30),
        distill=_SMALL_TRAIN.scaled(30),
        per_arch={},
        pretrain_epochs={"monodepth2": 30, "hrdepth": 26, "monovit": 16},
        fusion=FusionConfig(threshold_m=0.25),
    ),
    "paper": Config(
        profile="paper",
        pretrain=TrainConfig(workers=8, precision="bf16"),
        distill=TrainConfig(workers=8, precision="bf16"),
    ),
}


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
        _STR, "profile", "smoke, demo or paper: size, steps and thresholds", tuple(PROFILES)
    ),
    "arch": Parameter(_STR, "arch", "network of this run", ARCHITECTURES),
    "labels": Parameter(_STR, "labels", "label strategy of the student (Table 6)", tuple(STRATEGIES)),
    "dataset": Parameter(_STR, "data.dataset", "data set, by its name in d3d.datasets"),
    "root": Parameter(_STR, "data.root", "folder of the data set"),
    "seed": Parameter(_INT, "seed", "seed of initialisation, order and augmentation", minimum=0),
    "run": Parameter(_STR, "run", "name of the run's folder under runs/"),
    "runs_dir": Parameter(_STR, "runs_dir", "folder that holds the runs"),
    "device": Parameter(_STR, "device", "auto, cpu or cuda", ("auto", "cpu", "cuda")),
    "height": Parameter(_INT, "data.height", "network height in pixels, a multiple of 32", minimum=64),
    "width": Parameter(_INT, "data.width", "network width in pixels, a multiple of 32", minimum=64),
    "every": Parameter(_INT, "data.every", "every Nth frame is a target", minimum=1),
    "epochs": Parameter(_INT, "epochs", "epochs of every training (the drops keep their share)", minimum=1),
    "batch_size": Parameter(_INT, "batch_size", "images a step", minimum=1),
    "learning_rate": Parameter(_FLOAT, "learning_rate", "Adam's initial rate", minimum=1e-9),
    "pretrained": Parameter(_BOOL, "pretrained", "ImageNet initialisation of the encoders"),
    "weights": Parameter(_STR, "weights", "a local file to take that initialisation from"),
    "precision": Parameter(_STR, "precision", "float32 or bf16 (autocast)", ("float32", "bf16")),
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
    "split": Parameter(_STR, "evaluation.split", "split that is evaluated"),
    "scale": Parameter(_STR, "evaluation.scale", "none (absolute depth) or median", ("none", "median")),
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
    config = replace(
        config,
        data=replace(config.data, **data, options=options),
        fusion=replace(config.fusion, **fusion),
        evaluation=replace(config.evaluation, **evaluation),
    )
    epochs = given.pop("epochs", None)
    train = {f.name: given.pop(f.name) for f in dataclasses.fields(TrainConfig) if f.name in given}
    if "weights" in train:
        train.setdefault("pretrained", True)
    if epochs is not None or train:
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
            pretrain_epochs={},
        )
    config = replace(config, **given)
    for name, value in (("height", config.data.height), ("width", config.data.width)):
        if value % 32:
            low = value // 32 * 32
            raise ConfigError(
                f"{name} = {value} must be a multiple of 32: {low} or {value // 32 * 32 + 32}, say."
            )
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
    """The configuration from a notebook's globals: ``cfg = d3d.config.resolve(globals())``.

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
        f"{config.seed}\n{pretrain.epochs} + {distill.epochs} epochs in batches of {pretrain.batch_size}, threshold "
        f"{config.fusion.threshold_m:g} m; run {config.run}"
    )


def stage_config(config: Config, stage: str, arch: str = "", labels: str = "") -> dict[str, Any]:
    """What determines a stage's result, with that of the stages before it, as plain JSON values.

    Two runs whose stage configurations agree may share the artefact; device, folder and number of
    loading processes are left out because they do not change it.

    Args:
        stage: "pretrain", "predict", "project", "uncertainty", "fuse", "distill" or "evaluate".
        labels: "" means the self-supervised network, where a stage can take both.
    """
    data = dataclasses.asdict(config.data)
    data.pop("root")

    def train(kind: str) -> dict[str, Any]:
        values = dataclasses.asdict(config.training(kind, arch))
        values.pop("workers")
        return values

    fusion = dataclasses.asdict(config.fusion)
    threshold = fusion.pop("threshold_m")
    base = {"arch": arch, "seed": config.seed, "data": data, "pretrain": train("pretrain") if arch else None}
    if stage in ("pretrain", "predict"):
        result = base
    elif stage == "project":
        result = {**base, "fusion": fusion}
    elif stage == "uncertainty":
        result = {"ensemble": {a: stage_config(config, "predict", a) for a in ENSEMBLE}}
    elif stage in ("fuse", "distill"):
        result = {**base, "fusion": fusion, "labels": labels}
        if labels == "uncer":
            result["threshold_m"] = threshold
            result["ensemble"] = stage_config(config, "uncertainty")["ensemble"]
        if stage == "distill":
            result["distill"] = train("distill")
    elif stage == "evaluate":
        result = stage_config(config, "distill" if labels else "pretrain", arch, labels)
        result["evaluation"] = dataclasses.asdict(config.evaluation)
    else:
        raise unknown(
            "stage", stage, ("pretrain", "predict", "project", "uncertainty", "fuse", "distill", "evaluate")
        )
    return _plain(result)


def _plain(value: Any) -> Any:
    """Tuples as lists, as JSON has them, so that a configuration read back compares equal."""
    if isinstance(value, dict):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(v) for v in value]
    return value
