"""The configuration of a run: frozen dataclasses, checked by pydantic.

Users can set a field made with `parameter` on the command line and in notebooks.
"""

from __future__ import annotations

import re
from dataclasses import field, fields, replace
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, ConfigDict, Field
from pydantic.dataclasses import dataclass

from d3d.errors import ConfigError, unknown
from d3d.models import ARCHITECTURES

# The paper's three networks: the default of the parameter `ensemble`, and the rows of its tables
ENSEMBLE = ("monodepth2", "hrdepth", "monovit")

# Profiles whose networks learn nothing: their scores are not ranked, their figures say so
UNTRAINED = ("smoke",)

_STRICT = ConfigDict(extra="forbid", strict=True)


def parameter(default: Any, help: str, *, name: str = "", **bounds: Any) -> Any:
    """Declare a field that users can set.

    Args:
        name: name of the parameter, if it differs from the field's name.
        **bounds: ``ge`` and ``le`` of `pydantic.Field`.
    """
    return Field(default, description=help, json_schema_extra={"parameter": name}, **bounds)


def _ensemble(given: Any) -> tuple[str, ...]:
    """Return the networks of an ensemble in the order of the registry; takes a list or text with commas."""
    if not isinstance(given, str | tuple | list):
        raise ConfigError(
            f"ensemble = {given!r} must be names of networks separated by commas, such as monodepth2,lite."
        )
    names = [n.strip() for n in given.split(",")] if isinstance(given, str) else list(given)
    for name in names:
        if name not in ARCHITECTURES:
            raise unknown("arch in ensemble", name, ARCHITECTURES)
    if len(names) < 2 or len(set(names)) < len(names):
        raise ConfigError(f"ensemble = {','.join(names)!r} must name at least two networks, each once.")
    return tuple(arch for arch in ARCHITECTURES if arch in names)


@dataclass(frozen=True, config=_STRICT)
class DataConfig:
    """The data set, the image size, and the rule for triples (section 4.1)."""

    dataset: str = parameter("glossyrooms", "data set to train on, by its name in d3d.datasets")
    root: str | None = parameter(None, "folder of the data set")
    height: int = parameter(288, "height of the network's input in pixels, a multiple of 32", ge=64)
    width: int = parameter(384, "width of the network's input in pixels, a multiple of 32", ge=64)
    every: int = parameter(10, "every Nth frame is a target", ge=1)
    min_translation_m: float = parameter(
        0.05, "least distance of a target's camera from its sources, metres", ge=0
    )
    max_translation_m: float = parameter(
        0.10, "greatest distance of a target's camera from its sources, metres", ge=1e-6
    )
    max_rotation_deg: float = parameter(
        3.0, "greatest rotation between a target and its sources, degrees", ge=1e-3
    )
    min_depth: float = parameter(
        0.1, "least depth that networks predict, metres", name="min_depth_m", ge=1e-6
    )
    max_depth: float = parameter(
        10.0, "greatest depth that networks predict, metres", name="max_depth_m", ge=1e-6
    )
    bounds: Literal["paper", "auto"] | None = parameter(
        None,
        "the bounds below if they are not given: paper's, or auto, chosen from poses and depth (captures: auto)",
    )
    options: dict[str, Any] = field(default_factory=dict)  # in a profile: by data set; passed to open_dataset

    @property
    def size_hw(self) -> tuple[int, int]:
        return self.height, self.width

    @property
    def translation_m(self) -> tuple[float, float]:
        return self.min_translation_m, self.max_translation_m

    def identity(self) -> dict[str, Any]:
        """The settings that determine a training's data, beside the frames themselves."""
        names = ("dataset", "height", "width", "every", "translation_m", "max_rotation_deg")
        return {name: getattr(self, name) for name in (*names, "min_depth", "max_depth", "options")}


def _frames_and_metres(given: Any) -> tuple[str, str, float] | None:
    """Return two frames and their distance; takes three values, or text with blanks between them."""
    words = given.split() if isinstance(given, str) else given
    try:
        if words is None:
            return None
        first, second, metres = words
        return str(first), str(second), float(metres)
    except (TypeError, ValueError):
        raise ConfigError(
            f"distance = {given!r} must be two frames and metres, such as 0001 0040 1.5."
        ) from None


@dataclass(frozen=True, config=_STRICT)
class CaptureConfig:
    """How the files of a capture are read (docs/room.md); None: as the files say."""

    format: str | None = parameter(None, "format of the capture, where several fit its files")
    axes: Literal["opencv", "opengl"] | None = parameter(
        None, "axes of its cameras, if they are not those of its format: opencv or opengl"
    )
    poses: Literal["camera-to-world", "world-to-camera"] | None = parameter(
        None, "direction of its poses, if it is not that of its format: camera-to-world or world-to-camera"
    )
    intrinsics: str | None = parameter(
        None, "intrinsics of its images: a file of the 3x3 camera matrix, or fx,fy,cx,cy in pixels"
    )
    depth_scale: float | None = parameter(None, "stored values of its depth per metre, such as 1000", ge=1e-6)
    metres_per_unit: float | None = parameter(None, "scale: metres per unit of its poses", ge=1e-9)
    distance: Annotated[tuple[str, str, float] | None, BeforeValidator(_frames_and_metres)] = parameter(
        None, "scale: names of two frames, and the distance of their cameras in metres"
    )
    camera_height: float | None = parameter(
        None, "scale: mean height of the camera above the floor in metres", ge=1e-3
    )
    check: bool = parameter(True, "check before a training that the poses explain the images")

    def options(self) -> dict[str, Any]:
        """Options of `d3d.datasets.capture.dataset.open_capture`."""
        return {
            f.name: v for f in fields(self) if f.name != "check" and (v := getattr(self, f.name)) is not None
        }


@dataclass(frozen=True, config=_STRICT)
class TrainConfig:
    """A training: pretraining (section 3.1) or distillation (3.2.4). The defaults are the paper's (3.3).

    The length is ``steps`` if given, else ``epochs``. In both cases the learning rate drops at the same fractions of
    the training.
    """

    epochs: int = parameter(
        41, "epochs of every training; the drops of the learning rate scale with them", ge=1
    )
    milestones: tuple[int, ...] = (26, 36)  # learning rate x0.1 at the end of these epochs
    steps: int | None = parameter(None, "steps of every training, instead of epochs", ge=1)
    batch_size: int = parameter(12, "images in a batch", ge=1)
    learning_rate: float = parameter(1e-4, "initial learning rate of Adam", ge=1e-9)
    warmup_steps: int = 0
    checkpoint_steps: int | None = None  # steps between checkpoints; None: an epoch
    scales: tuple[int, ...] = (0, 1, 2, 3)
    smoothness: float = 1e-3
    automask: bool = False
    loss: Literal["photometric", "triplet", "triplet-stop"] = parameter(
        "photometric",
        "loss of the pretraining: photometric (the paper's), or triplet or triplet-stop (docs/rivals.md)",
    )
    triplet_margin: float = parameter(
        0.0,
        "margin of a triplet loss: Q1 + this factor times (Q3 - Q1) of E- - E+ in each image",
        ge=-10,
        le=10,
    )
    pretrained: bool = parameter(True, "start the encoders from ImageNet weights")
    weights: str | None = parameter(
        None, "local files of initial weights: FILE, arch=FILE, several with commas, or a folder"
    )
    init_depth_m: float | None = None  # depth predicted by the untrained heads, metres; None: about 0.2 m
    precision: Literal["float32", "bf16"] = parameter(
        "float32", "float32 or bf16 (autocast), in training and prediction"
    )
    channels_last: bool = True
    compile: bool = parameter(False, "compile the photometric loss with torch.compile (for a GPU)")
    workers: int = parameter(0, "processes that load images", ge=0)
    snapshots: int = 0  # weights kept from the second half of the training, for the uncertainty "snapshots"

    def scaled(self, epochs: int) -> TrainConfig:
        """Return the same schedule over another number of epochs; the drops scale with them."""
        milestones = tuple(max(1, round(m * epochs / self.epochs)) for m in self.milestones)
        return replace(self, epochs=epochs, steps=None, milestones=milestones)

    def total_steps(self, steps_per_epoch: int) -> int:
        """Length of the training in steps."""
        return self.epochs * steps_per_epoch if self.steps is None else self.steps

    def snapshot_steps(self, total_steps: int) -> tuple[int, ...]:
        """Steps after which weights are kept, without the last step."""
        half = total_steps // 2
        return tuple(half + k * (total_steps - half) // self.snapshots for k in range(self.snapshots))

    def drops(self, total_steps: int) -> tuple[int, ...]:
        """Steps (0-based) at which the learning rate is divided by ten."""
        return tuple(round(total_steps * m / self.epochs) for m in self.milestones)

    @property
    def length(self) -> str:
        """The length in words."""
        return f"{self.epochs} epochs" if self.steps is None else f"{self.steps} steps"


@dataclass(frozen=True, config=_STRICT)
class FusionConfig:
    """TSDF fusion and rendering (3.2.2, 3.3), and the threshold of Eq. 3 (3.2.3)."""

    voxel_m: float = parameter(0.05, "edge of a TSDF voxel, metres", ge=1e-3)
    trunc_m: float = parameter(1.0, "truncation of the TSDF, metres", ge=1e-3)
    integrate_every: int = parameter(10, "every Nth frame of a scene is integrated into the TSDF", ge=1)
    renderer: Literal["open3d", "pyrender"] = parameter(
        "open3d", "open3d (ray casting) or pyrender (the paper's)"
    )
    threshold_m: float = parameter(0.4, "uncertainty threshold of Eq. 3, metres", ge=0)
    threshold_quantile: float | None = parameter(
        None,
        "the threshold as a quantile of the uncertainty of all training pixels, instead of metres",
        ge=0,
        le=1,
    )
    passes: int = parameter(
        1,
        "TSDF passes; from the 2nd on, depth behind the previous mesh is left out",
        name="fusion_passes",
        ge=1,
    )
    backend: Literal["open3d", "torch"] = parameter(
        "open3d",
        "how views are fused: open3d, or torch, which is faster and can use a GPU; its mesh differs by millimetres",
        name="fusion_backend",
    )
    quantile: float | None = parameter(
        None,
        "fuse the views by this quantile of the signed distances in each voxel, instead of their mean",
        name="fusion_quantile",
        ge=0,
        le=1,
    )
    certain: float | None = parameter(
        None,
        "fuse only this share of the pixels, the least uncertain ones; needs fusion_views",
        name="fusion_certain",
        ge=0,
        le=1,
    )
    uncertainty: str = parameter("tta", "the uncertainty that fusion_certain uses", name="fusion_uncertainty")
    views: int | None = parameter(
        None,
        "fuse at most N target frames of a scene, evenly spaced, instead of every Nth frame",
        name="fusion_views",
        ge=1,
    )


@dataclass(frozen=True, config=_STRICT)
class EvalConfig:
    """How predictions are scored (4.1), and the data set if it is not the training's (4.2, Table 5)."""

    dataset: str | None = parameter(
        None, "data set to evaluate on, if it is not the training's", name="eval_dataset"
    )
    root: str | None = parameter(None, "folder of the data set to evaluate on", name="eval_root")
    options: dict[str, Any] = field(default_factory=dict)
    split: str = parameter("val", "split to evaluate")
    scale: Literal["none", "median", "affine", "affine-disparity"] = parameter(
        "none",
        "alignment of each image to its truth: none (absolute depth), median (relative depth), affine (least squares "
        "in depth) or affine-disparity (least squares in 1/depth)",
    )
    every: int = parameter(1, "every Nth frame is evaluated", name="eval_every", ge=1)
    lists: str | None = parameter(
        None, "your own lists of frames to score separately: a folder, a file, or Name=file"
    )
    keyframes: str | None = parameter(
        None, "evaluate only the frames of this list: <split>_<Name>.txt, or Name=file"
    )


@dataclass(frozen=True, config=_STRICT)
class Config:
    """The complete configuration of a run, made by `make_config` or `resolve`."""

    profile: str = parameter("paper", "image size, steps and thresholds together")
    arch: str = parameter("monodepth2", "network of this run")
    recipe: str = parameter(
        "paper", "recipe of the labels: paper (Eq. 3) or robust (recommended, docs/robust.md)"
    )
    labels: str = parameter("uncer", "label strategy of the student (Table 6)")
    strategies: str = parameter(
        "all", "label strategies of the ablation, separated by commas; all: the six of Table 6"
    )
    ensemble: Annotated[tuple[str, ...], BeforeValidator(_ensemble)] = parameter(
        ENSEMBLE,
        "networks of the ensemble, separated by commas; the spread of their depth is the uncertainty",
    )
    students: tuple[str, ...] = ENSEMBLE  # networks that `all` and `record` distill
    teachers: Literal["trained", "shipped"] = parameter(
        "trained", "self-supervised networks: trained in this run, or shipped with d3d (data/networks)"
    )
    self_taught: bool = parameter(True, "train and score the self-taught student for comparison")
    seed: int = parameter(0, "seed of initialisation, order and augmentation", ge=0)
    device: Literal["auto", "cpu", "cuda"] = parameter("auto", "auto, cpu or cuda")
    max_bad_share: float = parameter(
        0.01, "largest tolerated share of unreadable frames; a larger share is an error", ge=0
    )
    round: int = parameter(1, "round of distillation: 2 takes the students of round 1 as teachers", ge=1)
    run: str = parameter("", "name of the run's folder under runs/")
    base: str = parameter("", "another run; its finished stages are reused if their settings are the same")
    runs_dir: str | None = parameter(None, "folder that holds the runs")
    scheduler: str = parameter(
        "auto", "where scenes are processed: auto, local, none, or the address of a dask scheduler"
    )
    scene_workers: int = parameter(0, "processes of a local scheduler; 0: one per core", ge=0)
    train_processes: int = parameter(1, "processes of a training on this machine, one per GPU", ge=1)
    data: DataConfig = DataConfig()
    capture: CaptureConfig = CaptureConfig()
    pretrain: TrainConfig = TrainConfig()
    distill: TrainConfig = TrainConfig()
    # settings of one architecture, in both trainings: {"monovit": {"batch_size": 8}}
    per_arch: dict[str, dict[str, Any]] = field(default_factory=lambda: {"monovit": {"batch_size": 8}})
    # training length of one architecture by stage, because steps differ in cost: {"pretrain": {"monovit": 380}}
    steps: dict[str, dict[str, int]] = field(default_factory=dict)
    predict_precision: Literal["float32", "bf16"] = "float32"  # precision of prediction
    fusion: FusionConfig = FusionConfig()
    evaluation: EvalConfig = EvalConfig()

    @property
    def networks(self) -> tuple[str, ...]:
        """The networks of the ensemble, followed by this run's network if the ensemble does not include it."""
        return tuple(dict.fromkeys((*self.ensemble, self.arch)))

    def options_of(self, dataset: str, options: dict[str, Any]) -> dict[str, Any]:
        """Return the options with which a data set is opened: its own, and for captures the user's."""
        return options | self.capture.options() if dataset == "capture" else options

    @property
    def compared(self) -> tuple[str, ...]:
        """Labels of the trainings to compare: "" (self-supervised), "pred" (self-taught), the run's own."""
        return tuple(dict.fromkeys(("", *(("pred",) if self.self_taught else ()), self.labels)))

    @property
    def learns(self) -> bool:
        """Whether the profile trains long enough for results (`UNTRAINED`)."""
        return self.profile not in UNTRAINED

    @property
    def variant(self) -> str:
        """The profile as options, with the loss of the pretraining if it is not the paper's: "demo --loss triplet"."""
        loss, margin = self.pretrain.loss, self.pretrain.triplet_margin
        if loss == "photometric" or not self.learns:
            return self.profile
        return f"{self.profile} --loss {loss}" + (f" --triplet-margin {margin:g}" if margin else "")

    @property
    def name(self) -> str:
        """Data set and `variant` in names of folders: "glossyrooms-demo", "glossyrooms-demo-triplet"."""
        return f"{self.data.dataset}-{re.sub(' --[a-z-]+ ', '-', self.variant)}"

    def training(self, stage: str, arch: str) -> TrainConfig:
        """Return the training configuration of one architecture; ``stage`` is "pretrain" or "distill"."""
        train = replace(getattr(self, stage), **self.per_arch.get(arch, {}))
        steps = self.steps.get(stage, {}).get(arch)
        return train if steps is None else replace(train, steps=steps)
