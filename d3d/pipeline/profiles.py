"""Profiles: named, complete configurations."""

from __future__ import annotations

from dataclasses import replace

from d3d.models import ARCHITECTURES
from d3d.pipeline.settings import Config, DataConfig, EvalConfig, FusionConfig, TrainConfig

# For two cores: small images, networks from scratch, a head bias for the depth of a room (the usual bias gives 0.2 m,
# and training needs hundreds of steps to correct it), two loss scales (at 128x96, scales 1 and 3 add cost and no
# accuracy), and a higher learning rate for the few steps.
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
# ImageNet weights of lite come with an installed package; weights of the paper's encoders need a model hub
_LITE = {"lite": {"pretrained": True}}
_SMOKE_TRAIN = replace(
    _SMALL_TRAIN, steps=6, batch_size=2, warmup_steps=1, checkpoint_steps=3, precision="float32"
)

# 7-Scenes: a fifth of each sequence is kept for validation. In redkitchen this part shows the black worktop and the
# red cupboards; the rest of the sequence shows both from other viewpoints.
_SMALL_DATA = DataConfig(height=96, width=128, every=1, options={"7scenes": {"val_block": (0.58, 0.8)}})

PROFILES: dict[str, Config] = {
    "smoke": Config(
        profile="smoke",
        students=("monodepth2",),
        data=DataConfig(
            height=64,
            width=96,
            every=1,
            options={"glossyrooms": {"rooms": 1, "frames": 18}},  # includes mirrored windows
        ),
        pretrain=_SMOKE_TRAIN,
        distill=_SMOKE_TRAIN,
        per_arch=_LITE,
        fusion=FusionConfig(integrate_every=3, threshold_m=0.1),  # after six steps the networks differ little
        evaluation=EvalConfig(every=3),
    ),
    # The default of the notebooks: the networks that ship are the teachers, so that minutes show a result.
    "ready": Config(
        profile="ready",
        teachers="shipped",
        self_taught=False,
        students=("monodepth2",),
        data=replace(_SMALL_DATA, every=2),
        pretrain=replace(_SMALL_TRAIN, precision="float32"),
        distill=replace(_SMALL_TRAIN, precision="float32"),
        per_arch=_LITE,
        steps={"distill": {"hrdepth": 450, "monovit": 300}},  # their steps take longer: ten minutes for all
        fusion=FusionConfig(threshold_m=0.1),  # that of profile laptop, whose networks these are
    ),
    "demo": Config(
        profile="demo",
        students=("monodepth2",),
        data=_SMALL_DATA,
        pretrain=_SMALL_TRAIN,
        distill=_SMALL_TRAIN,
        per_arch=_LITE,
        steps={"pretrain": {"monodepth2": 750, "hrdepth": 600, "monovit": 380, "lite": 750}},
        predict_precision="bf16",  # thousands of frames by three networks: minutes
        fusion=FusionConfig(threshold_m=0.15),  # chosen on training rooms: E10 of docs/experiments.md
    ),
    "laptop": Config(
        profile="laptop",
        # The image size of demo, and at least twice its steps. Images of 192x128 would double the cost of a step:
        # three networks, three seeds and all labels would take two nights instead of an evening.
        data=_SMALL_DATA,
        pretrain=replace(_SMALL_TRAIN, steps=1500, warmup_steps=100, snapshots=4),
        distill=replace(_SMALL_TRAIN, steps=1500, warmup_steps=100),
        per_arch=_LITE,
        steps={
            stage: {"monodepth2": 1500, "hrdepth": 1200, "monovit": 1000} for stage in ("pretrain", "distill")
        },
        predict_precision="bf16",
        fusion=FusionConfig(threshold_m=0.1),  # chosen on training rooms: E14 of docs/experiments.md
    ),
    # A user's own room (docs/room.md). `d3d.room` fits the size to the shape of the images, `every` to their number.
    "room": Config(
        profile="room",
        arch="lite",
        recipe="robust",
        labels="robust",
        self_taught=False,
        students=("lite",),
        data=DataConfig(dataset="capture", height=192, width=256, every=1),
        pretrain=replace(_SMALL_TRAIN, steps=500, precision="float32"),
        distill=replace(_SMALL_TRAIN, steps=300, precision="float32"),
        per_arch=_LITE,
        # With the paper's 1 m the labels of a real kitchen were worse than the predictions (E38)
        fusion=FusionConfig(trunc_m=0.3),
    ),
    "paper": Config(
        profile="paper",
        pretrain=TrainConfig(workers=8, precision="bf16", snapshots=4),
        distill=TrainConfig(workers=8, precision="bf16"),
    ),
}


def markdown(name: str) -> str:
    """Return the two tables of a profile in ``docs/profiles.md``: its settings and its trainings."""
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
        "encoders": _encoders(config),
        "teachers": {"trained": "trained in the run", "shipped": "the networks that ship (data/networks)"}[
            config.teachers
        ],
        "self-taught student": "trained and scored" if config.self_taught else "only in the recorded tables",
    }
    head = "| training | length | batch | rate | warm-up | rate / 10 after | loss scales |"
    lines = ["| | |", "| --- | --- |", *(f"| {k} | {v} |" for k, v in facts.items()), "", head]
    lines.append("| --- " * head.count(" | ") + "| --- |")
    pretrained = ARCHITECTURES if config.teachers == "trained" else ()
    for stage, archs in (
        ("pretrain", pretrained),
        ("distill", config.students if pretrained else ARCHITECTURES),
    ):
        for arch in archs:
            t = config.training(stage, arch)
            drops = " and ".join(f"{m / t.epochs:.0%}" for m in t.milestones)
            scales = ", ".join(map(str, t.scales if stage == "pretrain" else (0,)))
            lines.append(
                f"| {stage} {arch} | {t.length} | {t.batch_size} | {t.learning_rate:g} | {t.warmup_steps} steps "
                f"| {drops} | {scales} |"
            )
    return "\n".join(lines) + "\n"


def _encoders(config: Config) -> str:
    """ "from ImageNet", or "from scratch; lite from ImageNet"."""
    start = {True: "from ImageNet", False: "from scratch"}
    usual = config.pretrain.pretrained
    archs = [a for a in ARCHITECTURES if config.training("pretrain", a).pretrained != usual]
    return "; ".join([start[usual], *(f"{a} {start[not usual]}" for a in archs)])


def _every(n: int, what: str) -> str:
    """ "every frame", "every 10th frame"."""
    ending = {2: "nd", 3: "rd"}.get(n, "th")
    return f"every {what}" if n == 1 else f"every {n}{ending} {what}"
