"""Labels of the training frames (section 3.2.3): uncertainty, its threshold, and Eq. 3 or another rule."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from d3d import fusion
from d3d.datasets import Scene
from d3d.errors import DataError
from d3d.geometry import nearest_depth, relative_pose
from d3d.parallel.tasks import advance
from d3d.pipeline import runs
from d3d.pipeline.config import ENSEMBLE, Config
from d3d.pipeline.scenes import TrainingScene, training_scenes
from d3d.pipeline.stages import depth
from d3d.pipeline.stages.chain import for_workers, missing, outputs, over_scenes
from d3d.prediction import MM, DepthStore
from d3d.training import select_device


def uncertainty(config: Config, name: str = "ensemble", arch: str = "") -> DepthStore:
    """Section 3.2.3: how unsure the depth of every target frame is, a standard deviation in metres.

    Args:
        name: "ensemble", the paper's: of the three networks' depth; the others of `d3d.uncertainty` are one network's.
        arch: that network.
    """
    if name != "ensemble":
        from d3d.pipeline.stages import spread

        return spread.uncertainty(config, name, arch or config.arch)
    for arch in ENSEMBLE:
        if outputs(config, "predict", arch) is None:
            with missing(f"predict {arch}", "one pass over the training frames"):
                depth.predict(config, arch)
    inputs = {f"{a}/{k}": v for a in ENSEMBLE for k, v in outputs(config, "predict", a).items()}
    stores = [DepthStore(runs.stage_folder(config, "predict", a)) for a in ENSEMBLE]
    with runs.open_stage(config, "uncertainty", labels="ensemble", inputs=inputs) as stage:
        store = DepthStore(stage.folder)
        if stage.done:
            return store
        scenes = training_scenes(config)
        over_scenes(
            config,
            ensemble_scene,
            {
                s.scene.name: (s.scene.name, [s.scene.frame_ids[i] for i in s.targets], stores, store)
                for s in scenes
                if not store.has(s.scene.name)
            },
            what="uncertainty/ensemble",
            sizes={s.scene.name: len(s.targets) for s in scenes},
        )
        stage.finish({s.scene.name: store.sha256(s.scene.name) for s in scenes})
        return store


def ensemble_scene(
    scene: str, frames: Sequence[str], predicted: Sequence[DepthStore], store: DepthStore
) -> None:
    """One scene of the ensemble's `uncertainty`."""

    def spread() -> Iterator[tuple[str, np.ndarray]]:
        for frame in frames:
            yield frame, fusion.ensemble_std([d.read(scene, frame) for d in predicted])
            advance()

    if not store.has(scene):
        store.write_scene(scene, spread())


def threshold(config: Config, labels: str = "", arch: str = "") -> float:
    """The threshold of Eq. 3 in metres: as configured, or the quantile that ``threshold_quantile`` asks for.

    The quantile is over every pixel of every target frame that the labels' uncertainty is stored of.
    """
    quantile = config.fusion.threshold_quantile
    if quantile is None:
        return config.fusion.threshold_m
    store = uncertainty(config, fusion.find_strategy(labels or config.labels).uncertainty, arch)
    # stored as 16-bit millimetres: a histogram of these is exact, and as small for a thousand scenes as for one
    counts = np.zeros(2**16, np.int64)
    for s in training_scenes(config):
        for i in s.targets:
            values = np.rint(store.read_of(s.scene, i) * MM).astype(np.int64)
            counts += np.bincount(values.ravel(), minlength=len(counts))
    return float(np.searchsorted(counts.cumsum(), quantile * counts.sum()) / MM)


def fuse(config: Config, arch: str = "", labels: str = "") -> DepthStore:
    """Section 3.2.3: pseudo-labels of every target frame by a named strategy (Eq. 3 for "uncer").

    Raises:
        DataError: an oracle is asked for, and a scene has no truth.
    """
    arch, labels = arch or config.arch, labels or config.labels
    if "truth" in fusion.find_strategy(labels).needs:
        for s in training_scenes(config):  # before the hours that everything else may take
            _truth(s.scene, s.targets[0], labels, config.data.size_hw)
    if outputs(config, "project", arch) is None:
        with missing(f"project {arch}", "fusion and rendering: a few frames a second"):
            depth.project(config, arch)
    depth.project(config, arch)  # also where it is there: this refuses one made from other inputs
    strategy = fusion.find_strategy(labels)
    uncertain = "uncertainty" in strategy.needs
    if uncertain:
        uncertainty(config, strategy.uncertainty, arch)
    inputs = {f"predict/{k}": v for k, v in outputs(config, "predict", arch).items()}
    inputs |= {f"project/{k}": v for k, v in outputs(config, "project", arch).items()}
    if uncertain:
        of = "" if strategy.uncertainty == "ensemble" else arch
        stored = outputs(config, "uncertainty", of, strategy.uncertainty)
        inputs |= {f"uncertainty/{k}": v for k, v in stored.items()}
    with runs.open_stage(config, "fuse", arch, labels, inputs=inputs) as stage:
        store = DepthStore(stage.folder)
        if stage.done:
            return store
        scenes = training_scenes(config)
        above = threshold(config, labels, arch) if uncertain else None
        over_scenes(
            config,
            fuse_scene,
            {
                s.scene.name: (for_workers(config), arch, labels, s, above, store)
                for s in scenes
                if not store.has(s.scene.name)
            },
            what=f"fuse/{arch}/{labels}",
            sizes={s.scene.name: len(s.targets) for s in scenes},
        )
        more = {} if above is None else {"threshold_m": above}
        stage.finish({s.scene.name: store.sha256(s.scene.name) for s in scenes}, **more)
        return store


def fuse_scene(
    config: Config, arch: str, labels: str, training: TrainingScene, above: float | None, store: DepthStore
) -> None:
    """One scene of `fuse`; ``above`` is the threshold in metres."""
    scene = training.scene

    def made() -> Iterator[tuple[str, np.ndarray]]:
        for row in training.triples.indices:
            seen = label_inputs(config, arch, scene, row, labels, above)
            yield scene.frame_ids[row[0]], fusion.make_label(labels, seen)
            advance()

    if not store.has(scene.name):
        store.write_scene(scene.name, made())


def label_inputs(
    config: Config,
    arch: str,
    scene: Scene,
    triple: np.ndarray,
    labels: str,
    threshold_m: float | None = None,
) -> fusion.LabelInputs:
    """What a label strategy sees of one target frame, read from the run's folder.

    Args:
        triple: frame indices of target, backward and forward source.
        threshold_m: by default `threshold`; given, to try others.

    Raises:
        DataError: an earlier stage is not there, or the truth that an oracle looks at.
    """
    target, *sources = map(int, triple)
    frame = scene.frame_ids[target]
    predicted = DepthStore(runs.stage_folder(config, "predict", arch))
    strategy, more = fusion.find_strategy(labels), {}
    if "uncertainty" in strategy.needs:
        of = "" if strategy.uncertainty == "ensemble" else arch
        store = DepthStore(runs.stage_folder(config, "uncertainty", of, strategy.uncertainty))
        more["uncertainty"] = store.read(scene.name, frame)
        more["threshold_m"] = threshold(config, labels, arch) if threshold_m is None else threshold_m
    if "sources" in strategy.needs:
        more["source_preds"] = np.stack([predicted.read(scene.name, scene.frame_ids[i]) for i in sources])
        more["K"] = scene.K(target, config.data.size_hw)
        poses = scene.world_T_cams
        more["source_T_target"] = np.stack([relative_pose(poses[i], poses[target]) for i in sources])
    if "truth" in strategy.needs:
        more["truth"], more["highlight"] = _truth(scene, target, labels, config.data.size_hw)
    return fusion.LabelInputs(
        pred=predicted.read(scene.name, frame),
        proj=DepthStore(runs.stage_folder(config, "project", arch)).read(scene.name, frame),
        device=str(select_device(config.device)),
        **more,
    )


def _truth(scene: Scene, i: int, labels: str, size_hw: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Depth and mask of highlights of a frame, at the network's size."""
    depth, highlight = scene.depth(i), scene.highlight_mask(i)
    if depth is None or highlight is None:
        raise DataError(
            f"labels {labels!r} are an oracle's: they need ground truth and masks of highlights of every training "
            f"frame, and {scene.name} has none. `python -m glossyrooms.truth --out FOLDER` adds them to the rooms "
            f"that ship: then root = 'FOLDER'."
        )
    return nearest_depth(depth, size_hw), nearest_depth(highlight, size_hw)
