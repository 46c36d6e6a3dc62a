"""Every number of a run: frozen dataclasses one a stage, and the profiles, complete configurations with a name."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

# The networks whose spread is the uncertainty (3.2.3): the paper's three, whatever else is registered
ENSEMBLE = ("monodepth2", "hrdepth", "monovit")


@dataclass(frozen=True)
class DataConfig:
    """Which frames, at which size, and the triple rule of section 4.1."""

    dataset: str = "glossyrooms"
    root: str | None = None
    height: int = 288
    width: int = 384
    every: int = 10  # every Nth frame is a target
    translation_m: tuple[float, float] = (0.05, 0.10)
    max_rotation_deg: float = 3.0
    min_depth: float = 0.1
    max_depth: float = 10.0
    options: dict[str, Any] = field(default_factory=dict)  # by data set in a profile; passed to open_dataset

    @property
    def size_hw(self) -> tuple[int, int]:
        return self.height, self.width


@dataclass(frozen=True)
class TrainConfig:
    """One training, pretraining (section 3.1) or distillation (3.2.4); the defaults are the paper's (3.3).

    Its length is ``epochs`` or, where given, ``steps``: few passes over many samples are no whole epochs.
    Either way the rate drops at the same shares of it, ``milestones`` of ``epochs``.
    """

    epochs: int = 41
    milestones: tuple[int, ...] = (26, 36)  # learning rate x0.1 at the end of these epochs
    steps: int | None = None
    batch_size: int = 12
    learning_rate: float = 1e-4
    warmup_steps: int = 0
    checkpoint_steps: int | None = (
        None  # a checkpoint, and a row of the loss curve, every so many; None: an epoch
    )
    scales: tuple[int, ...] = (0, 1, 2, 3)
    smoothness: float = 1e-3
    automask: bool = False
    pretrained: bool = True  # ImageNet initialisation of the encoder
    weights: str | None = None  # a local file to take that initialisation from
    init_depth_m: float | None = None  # bias of the disparity heads; None leaves the usual start (0.2 m)
    precision: str = "float32"  # or "bf16": autocast of the network; geometry and losses stay float32
    channels_last: bool = True
    compile: bool = False  # the photometric loss by torch.compile: for a GPU; the first step waits for it
    workers: int = 0
    # weights kept besides the last ones, evenly spread over the second half of the training: the uncertainty
    # "snapshots" looks at them
    snapshots: int = 0

    def scaled(self, epochs: int) -> TrainConfig:
        """The same schedule over another number of epochs: the drops keep their share of it."""
        return replace(
            self,
            epochs=epochs,
            steps=None,
            milestones=tuple(max(1, round(m * epochs / self.epochs)) for m in self.milestones),
        )

    def total_steps(self, steps_per_epoch: int) -> int:
        """Length of the training in steps, on a data set whose epoch has so many."""
        return self.epochs * steps_per_epoch if self.steps is None else self.steps

    def snapshot_steps(self, total_steps: int) -> tuple[int, ...]:
        """After how many steps of so many the weights are kept; the end is not among them."""
        half = total_steps // 2
        return tuple(half + k * (total_steps - half) // self.snapshots for k in range(self.snapshots))

    def drops(self, total_steps: int) -> tuple[int, ...]:
        """Steps (0-based) from which on the rate is ten times lower than before, in a training of so many."""
        return tuple(round(total_steps * m / self.epochs) for m in self.milestones)

    @property
    def length(self) -> str:
        """Its length in words."""
        return f"{self.epochs} epochs" if self.steps is None else f"{self.steps} steps"


@dataclass(frozen=True)
class FusionConfig:
    """TSDF fusion and rendering (3.2.2, 3.3), uncertainty and its threshold (3.2.3)."""

    voxel_m: float = 0.05
    trunc_m: float = 1.0
    integrate_every: int = 10  # every Nth frame of the scene goes into the TSDF
    renderer: str = "open3d"  # or "pyrender", the paper's
    threshold_m: float = 0.4
    # instead of metres (not in the paper): the threshold is this quantile of the uncertainty of all training
    # pixels, so that 0.7 takes the projected depth at 30 % of them, whatever the data set and the networks
    threshold_quantile: float | None = None
    passes: int = 1  # more than one (not in the paper) leaves out what lies behind the mesh of the one before


@dataclass(frozen=True)
class EvalConfig:
    """How predictions are scored (4.1), and on which data set where it is not the one trained on (4.2, Table 5)."""

    dataset: str | None = None  # None: the one trained on
    root: str | None = None
    options: dict[str, Any] = field(default_factory=dict)
    split: str = "val"
    scale: str = "none"  # "median" for relative depth
    every: int = 1
    lists: str | None = (
        None  # the user's lists of frames: a folder, a file, or "Name=file"; see d3d.datasets.lists
    )
    keyframes: str | None = None  # a list file: these frames are evaluated, instead of every Nth


@dataclass(frozen=True)
class Config:
    """Everything a run needs; what `make_config` and `resolve` return."""

    profile: str = "paper"
    arch: str = "monodepth2"
    labels: str = "uncer"
    strategies: str = "all"  # labels of the ablation, with commas; all: the paper's six of Table 6
    students: tuple[str, ...] = ENSEMBLE  # networks that the whole chain distills; all three are pretrained
    seed: int = 0
    device: str = "auto"
    max_bad_share: float = 0.01  # frames that cannot be read are left out; more than this share is an error
    round: int = 1  # of distillation; 2 takes the students of round 1 as teachers (not in the paper)
    run: str = ""
    base: str = ""  # a run whose finished stages are used where their configuration is the same
    runs_dir: str | None = None
    scheduler: str = "auto"  # of the stages that work scene by scene: see d3d.parallel.tasks.run_tasks
    scene_workers: int = 0  # processes that a local scheduler starts; 0: one a core
    train_processes: int = (
        1  # of this machine that share each batch of a training; see d3d.parallel.distributed
    )
    data: DataConfig = DataConfig()
    pretrain: TrainConfig = TrainConfig()
    distill: TrainConfig = TrainConfig()
    # what one architecture has otherwise: {"monovit": {"batch_size": 8}}; applies to both trainings
    per_arch: dict[str, dict[str, Any]] = field(default_factory=lambda: {"monovit": {"batch_size": 8}})
    # steps of an architecture's training by stage: {"pretrain": {"monovit": 380}}; the costs of a step differ
    steps: dict[str, dict[str, int]] = field(default_factory=dict)
    predict_precision: str = "float32"  # of the networks whose depth is stored; or "bf16"
    fusion: FusionConfig = FusionConfig()
    evaluation: EvalConfig = EvalConfig()

    def training(self, stage: str, arch: str) -> TrainConfig:
        """The training configuration of "pretrain" or "distill" for one architecture."""
        train = replace(getattr(self, stage), **self.per_arch.get(arch, {}))
        steps = self.steps.get(stage, {}).get(arch)
        return train if steps is None else replace(train, steps=steps)


# The budget of two cores: small images, networks from scratch, a head bias that starts at a room's depth
# (an untouched start is 0.2 m and needs hundreds of steps to leave), two loss scales (at 128x96 scales 1 and
# 3 add cost and no accuracy), and a higher rate for the few steps.
_SMALL_TRAIN = TrainConfig(
    steps=850,
    batch_size=8,
    learning_rate=3e-4,
    warmup_steps=50,
    checkpoint_steps=100,
    scales=(0, 2),
    pretrained=False,
    init_depth_m=2.3,
    precision="bf16",
)
_SMOKE_TRAIN = replace(_SMALL_TRAIN, steps=6, batch_size=2, warmup_steps=1, checkpoint_steps=3)

PROFILES: dict[str, Config] = {
    "smoke": Config(
        profile="smoke",
        students=("monodepth2",),
        data=DataConfig(
            height=64,
            width=96,
            every=1,
            options={"glossyrooms": {"rooms": 1, "frames": 18}},  # they show mirrored windows already
        ),
        pretrain=_SMOKE_TRAIN,
        distill=_SMOKE_TRAIN,
        per_arch={},
        fusion=FusionConfig(integrate_every=3, threshold_m=0.1),  # six steps leave the networks alike
        evaluation=EvalConfig(every=3),
    ),
    "demo": Config(
        profile="demo",
        students=("monodepth2",),
        # 7-Scenes: a fifth of each sequence, not at its end, is kept for validation: in redkitchen it passes the
        # black worktop and the red cupboards, which the rest sees too, from other places
        data=DataConfig(
            height=96,
            width=128,
            every=1,
            options={"7scenes": {"val_block": (0.58, 0.8)}},
        ),
        pretrain=_SMALL_TRAIN,
        distill=_SMALL_TRAIN,
        per_arch={},
        steps={"pretrain": {"monodepth2": 750, "hrdepth": 600, "monovit": 380}},
        predict_precision="bf16",  # thousands of frames by three networks: minutes
        fusion=FusionConfig(threshold_m=0.15),  # chosen on training rooms: E10 of docs/experiments.md
    ),
    "laptop": Config(
        profile="laptop",
        # The demo's size, twice its steps and more. 192x128, the width of the shipped images, doubles the cost of
        # a step: with three networks, three seeds and every label an evening becomes two nights.
        data=DataConfig(height=96, width=128, every=1, options={"7scenes": {"val_block": (0.58, 0.8)}}),
        pretrain=replace(_SMALL_TRAIN, steps=1500, warmup_steps=100, snapshots=4),
        distill=replace(_SMALL_TRAIN, steps=1500, warmup_steps=100),
        per_arch={},
        steps={
            "pretrain": {"monodepth2": 1500, "hrdepth": 1200, "monovit": 1000},
            "distill": {"monodepth2": 1500, "hrdepth": 1200, "monovit": 1000},
        },
        predict_precision="bf16",
        fusion=FusionConfig(threshold_m=0.1),  # chosen on training rooms: E14 of docs/experiments.md
    ),
    "paper": Config(
        profile="paper",
        pretrain=TrainConfig(workers=8, precision="bf16", snapshots=4),
        distill=TrainConfig(workers=8, precision="bf16"),
    ),
}


def markdown(name: str) -> str:
    """A profile as the tables of ``docs/profiles.md``: what it is made of, and each training."""
    config = PROFILES[name]
    data, fusion = config.data, config.fusion
    options = ", ".join(f"{d}: {o}" for d, o in data.options.items()) or "none"
    facts = {
        "images": f"{data.width}x{data.height}, {_every(data.every, 'frame')} a target",
        "options of data sets": options,
        "threshold of Eq. 3": f"{fusion.threshold_m:g} m",
        "TSDF": f"voxels of {fusion.voxel_m:g} m, truncated at {fusion.trunc_m:g} m, "
        f"{_every(fusion.integrate_every, 'frame')} integrated",
        "scored": f"{_every(config.evaluation.every, 'image')} of split {config.evaluation.split!r}",
        "students of": ", ".join(config.students),
        "precision": f"{config.pretrain.precision} in training, {config.predict_precision} in prediction",
        "encoders": "from ImageNet" if config.pretrain.pretrained else "from scratch",
    }
    head = "| training | length | batch | rate | warm-up | rate / 10 after | loss scales |"
    lines = ["| | |", "| --- | --- |", *(f"| {k} | {v} |" for k, v in facts.items()), "", head]
    lines.append("| --- " * head.count(" | ") + "| --- |")
    for stage, archs in (("pretrain", ENSEMBLE), ("distill", config.students)):
        for arch in archs:
            t = config.training(stage, arch)
            drops = " and ".join(f"{m / t.epochs:.0%}" for m in t.milestones)
            scales = ", ".join(map(str, t.scales if stage == "pretrain" else (0,)))
            lines.append(
                f"| {stage} {arch} | {t.length} | {t.batch_size} | {t.learning_rate:g} | {t.warmup_steps} steps "
                f"| {drops} | {scales} |"
            )
    return "\n".join(lines) + "\n"


def _every(n: int, what: str) -> str:
    """ "every frame", "every 10th frame"."""
    ending = {2: "nd", 3: "rd"}.get(n, "th")
    return f"every {what}" if n == 1 else f"every {n}{ending} {what}"
