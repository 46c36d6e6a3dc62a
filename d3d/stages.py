"""The stages of the paper over a run's folder, in order; each computes what an earlier one should have left.

frames -> triples -> pretrain -> predict -> project -> uncertainty -> fuse -> distill -> evaluate. A
stage that is done is skipped; one that was killed goes on where it was. Every function takes the
configuration and returns the finished stage's folder (or what it read from it).
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd

from d3d import evaluation, fusion, reconstruction, runs
from d3d.config import ENSEMBLE, Config, stage_config
from d3d.datasets import Scene
from d3d.datasets.samples import LabelSamples, TripleSamples
from d3d.errors import DataError
from d3d.geometry import relative_pose
from d3d.models import ARCHITECTURES
from d3d.prediction import DepthStore, predict_scenes
from d3d.progress import say, track
from d3d.scenes import TrainingScene, dataset, frames_digest, training_scenes
from d3d.training import CURVE, STATE, WEIGHTS, DistillTask, PretrainTask, select_device, train


@contextlib.contextmanager
def _missing(stage: str, estimate: str) -> Iterator[None]:
    """Says that an earlier stage is computed now, how long that may take, and how long it took."""
    say(f"[{stage}] not there yet, computing it first ({estimate})")
    start = time.monotonic()
    yield
    say(f"[{stage}] took {time.monotonic() - start:.0f} s")


_TRAINING = (
    "a training: seconds at profile smoke, minutes at demo, an hour at laptop, hours on a GPU at paper"
)


def folder_of(config: Config, *parts: str) -> Path:
    """A folder of this run, by the levels below it."""
    return runs.run_folder(config).joinpath(*[p for p in parts if p])


def _outputs(config: Config, stage: str, arch: str = "", labels: str = "") -> dict[str, str] | None:
    """Outputs of a finished stage of this very configuration, or None."""
    folder = folder_of(config, stage, arch, labels)
    if not (folder / "DONE").is_file():
        return None
    # opening it checks that the configuration is the same; that is the next stage's business too
    stored = runs.read_json(folder / "config.json")["config"]
    if runs.differences(stage_config(config, stage, arch, labels), stored):
        return None
    return runs.read_json(folder / "DONE")["outputs"]


def pretrain(config: Config, arch: str = "") -> Path:
    """Section 3.1: trains one network with the photometric loss; leaves its weights."""
    arch = arch or config.arch
    settings, d = config.training("pretrain", arch), config.data
    with runs.open_stage(config, "pretrain", arch) as stage:
        if stage.done:
            return stage.folder
        scenes = training_scenes(config)
        samples = TripleSamples(
            [s.scene for s in scenes], [s.triples for s in scenes], d.size_hw, config.seed
        )
        task = PretrainTask(
            samples, settings.scales, settings.smoothness, settings.automask, d.min_depth, d.max_depth
        )
        _train(config, stage, arch, task, "pretrain")
        return stage.folder


def _train(config: Config, stage: runs.Stage, arch: str, task: PretrainTask | DistillTask, kind: str) -> None:
    from d3d.models import create_model

    settings, device = config.training(kind, arch), select_device(config.device)
    factory = partial(
        create_model,
        arch,
        pretrained=settings.pretrained,
        weights=settings.weights,
        init_depth_m=settings.init_depth_m,
        min_depth=config.data.min_depth,
        max_depth=config.data.max_depth,
    )
    what = str(stage.folder.relative_to(runs.run_folder(config)))
    train(factory, task, settings, stage.folder, seed=config.seed, device=device, what=what)
    weights = stage.folder / WEIGHTS
    frames = frames_digest(training_scenes(config))
    stage.finish(
        {WEIGHTS: runs.sha256(weights)}, device=str(device), samples=len(task.samples), frames_sha256=frames
    )
    (stage.folder / STATE).unlink(missing_ok=True)  # hundreds of MB that nobody needs after DONE


def loss_history(config: Config, arch: str = "", labels: str = "") -> list[dict[str, float]]:
    """Loss, parts and learning rate of each epoch of a training; labels "" is the self-supervised one."""
    folder = distill(config, arch, labels) if labels else pretrain(config, arch)
    return pd.read_csv(folder / CURVE).to_dict("records")


def load_network(config: Config, arch: str, labels: str = ""):
    """A trained network of this run on its device; labels "" is the self-supervised one."""
    from d3d.models import load_model

    folder = distill(config, arch, labels) if labels else pretrain(config, arch)
    return load_model(folder / WEIGHTS).to(select_device(config.device)).eval()


def predict(config: Config, arch: str = "") -> DepthStore:
    """Section 3.2.1: stores the pretrained network's depth of the training frames."""
    arch = arch or config.arch
    inputs = _outputs(config, "pretrain", arch)
    if inputs is None:
        with _missing(f"pretrain {arch}", _TRAINING):
            pretrain(config, arch)
        inputs = _outputs(config, "pretrain", arch)
    with runs.open_stage(config, "predict", arch, inputs=inputs) as stage:
        store = DepthStore(stage.folder)
        if stage.done:
            return store
        scenes = training_scenes(config)
        predict_scenes(
            load_network(config, arch),
            [s.scene for s in scenes],
            [s.frames_to_predict(config.fusion.integrate_every) for s in scenes],
            store,
            config.data.size_hw,
            precision=config.predict_precision,
            what=f"predict/{arch}",
        )
        stage.finish({s.scene.name: store.sha256(s.scene.name) for s in scenes})
        return store


def project(config: Config, arch: str = "") -> DepthStore:
    """Section 3.2.2: one mesh a scene from the predicted depth, and its depth seen from every target frame."""
    arch = arch or config.arch
    inputs = _outputs(config, "predict", arch)
    if inputs is None:
        with _missing(f"predict {arch}", "one pass over the training frames"):
            predict(config, arch)
        inputs = _outputs(config, "predict", arch)
    predicted = DepthStore(folder_of(config, "predict", arch))
    f, size_hw = config.fusion, config.data.size_hw
    with runs.open_stage(config, "project", arch, inputs=inputs) as stage:
        store = DepthStore(stage.folder)
        if stage.done:
            return store
        scenes = training_scenes(config)
        bar = track(what=f"project/{arch}", total=sum(len(s.targets) for s in scenes), unit="frame")
        for s in scenes:
            if not store.has(s.scene.name):
                mesh = mesh_of(config, s.scene, predicted)
                Ks = np.stack([s.scene.K(i, size_hw) for i in s.targets])
                poses = s.scene.world_T_cams[s.targets]
                # a few views at a time: memory does not grow with the length of a scene
                parts = (
                    (
                        j,
                        reconstruction.render_depth(
                            mesh, Ks[j : j + 32], poses[j : j + 32], size_hw, f.renderer
                        ),
                    )
                    for j in range(0, len(poses), 32)
                )
                frames = (
                    (s.scene.frame_ids[s.targets[j + k]], d) for j, part in parts for k, d in enumerate(part)
                )
                store.write_scene(s.scene.name, frames, mesh__npz=mesh.to_npz())
            bar.update(len(s.targets))
        bar.close()
        stage.finish({s.scene.name: store.sha256(s.scene.name) for s in scenes})
        return store


def mesh_of(config: Config, scene: Scene, depths: DepthStore) -> reconstruction.Mesh:
    """The TSDF mesh of a scene from stored depth of every ``integrate_every``-th frame (3.2.2)."""
    f, size_hw = config.fusion, config.data.size_hw
    used = range(0, len(scene), f.integrate_every)
    return reconstruction.reconstruct(
        np.stack([depths.read(scene.name, scene.frame_ids[i]) for i in used]),
        np.stack([scene.K(i, size_hw) for i in used]),
        scene.world_T_cams[list(used)],
        f.voxel_m,
        f.trunc_m,
        every=1,
        images=np.stack([scene.image(i, size_hw) for i in used]),
        max_depth=config.data.max_depth,
    )


def read_mesh(config: Config, arch: str, scene: Scene) -> reconstruction.Mesh:
    """The mesh that `project` left of a scene."""
    return reconstruction.Mesh.from_npz(project(config, arch).scene_folder(scene.name) / "mesh.npz")


def uncertainty(config: Config) -> DepthStore:
    """Section 3.2.3: standard deviation of the three networks' depth of every target frame, in metres."""
    for arch in ENSEMBLE:
        if _outputs(config, "predict", arch) is None:
            with _missing(f"predict {arch}", "one pass over the training frames"):
                predict(config, arch)
    inputs = {f"{a}/{k}": v for a in ENSEMBLE for k, v in _outputs(config, "predict", a).items()}
    stores = [DepthStore(folder_of(config, "predict", a)) for a in ENSEMBLE]
    with runs.open_stage(config, "uncertainty", inputs=inputs) as stage:
        store = DepthStore(stage.folder)
        if stage.done:
            return store
        scenes = training_scenes(config)
        for s in scenes:
            if not store.has(s.scene.name):
                ids = [s.scene.frame_ids[i] for i in s.targets]
                frames = ((i, fusion.ensemble_std([d.read(s.scene.name, i) for d in stores])) for i in ids)
                store.write_scene(s.scene.name, frames)
        stage.finish({s.scene.name: store.sha256(s.scene.name) for s in scenes})
        return store


def fuse(config: Config, arch: str = "", labels: str = "") -> DepthStore:
    """Section 3.2.3: pseudo-labels of every target frame by a named strategy (Eq. 3 for "uncer")."""
    arch, labels = arch or config.arch, labels or config.labels
    if _outputs(config, "project", arch) is None:
        with _missing(f"project {arch}", "fusion and rendering: a few frames a second"):
            project(config, arch)
    project(config, arch)  # also where it is there: this refuses one made from other inputs
    uncertainties = uncertainty(config) if "uncertainty" in fusion.find_strategy(labels).needs else None
    inputs = {f"predict/{k}": v for k, v in _outputs(config, "predict", arch).items()}
    inputs |= {f"project/{k}": v for k, v in _outputs(config, "project", arch).items()}
    if uncertainties:
        inputs |= {f"uncertainty/{k}": v for k, v in _outputs(config, "uncertainty").items()}
    with runs.open_stage(config, "fuse", arch, labels, inputs=inputs) as stage:
        store = DepthStore(stage.folder)
        if stage.done:
            return store
        scenes = training_scenes(config)
        bar = track(what=f"fuse/{arch}/{labels}", total=sum(len(s.targets) for s in scenes), unit="frame")

        def frames(s: TrainingScene):
            for row in s.triples.indices:
                yield (
                    s.scene.frame_ids[row[0]],
                    fusion.make_label(labels, label_inputs(config, arch, s.scene, row, labels)),
                )
                bar.update()

        for s in scenes:
            if store.has(s.scene.name):
                bar.update(len(s.targets))
            else:
                store.write_scene(s.scene.name, frames(s))
        bar.close()
        stage.finish({s.scene.name: store.sha256(s.scene.name) for s in scenes})
        return store


def label_inputs(
    config: Config, arch: str, scene: Scene, triple: np.ndarray, labels: str
) -> fusion.LabelInputs:
    """What a label strategy sees of one target frame, read from the run's folder."""
    target, *sources = map(int, triple)
    frame = scene.frame_ids[target]
    predicted = DepthStore(folder_of(config, "predict", arch))
    needs, more = fusion.find_strategy(labels).needs, {}
    if "uncertainty" in needs:
        more["uncertainty"] = DepthStore(folder_of(config, "uncertainty")).read(scene.name, frame)
    if "sources" in needs:
        more["source_preds"] = np.stack([predicted.read(scene.name, scene.frame_ids[i]) for i in sources])
        more["K"] = scene.K(target, config.data.size_hw)
        poses = scene.world_T_cams
        more["source_T_target"] = np.stack([relative_pose(poses[i], poses[target]) for i in sources])
    return fusion.LabelInputs(
        pred=predicted.read(scene.name, frame),
        proj=DepthStore(folder_of(config, "project", arch)).read(scene.name, frame),
        threshold_m=config.fusion.threshold_m,
        **more,
    )


def distill(config: Config, arch: str = "", labels: str = "") -> Path:
    """Section 3.2.4: trains a fresh network of the same architecture on the labels; leaves its weights."""
    arch, labels, d = arch or config.arch, labels or config.labels, config.data
    if _outputs(config, "fuse", arch, labels) is None:
        with _missing(f"fuse {arch} {labels}", "many frames a second"):
            fuse(config, arch, labels)
    store = fuse(config, arch, labels)
    with runs.open_stage(
        config, "distill", arch, labels, inputs=_outputs(config, "fuse", arch, labels)
    ) as stage:
        if stage.done:
            return stage.folder
        scenes = training_scenes(config)
        frames = [(k, i) for k, s in enumerate(scenes) for i in s.targets]
        samples = LabelSamples(
            [s.scene for s in scenes],
            frames,
            store.read_of,
            d.size_hw,
            config.seed,
        )
        task = DistillTask(samples, d.min_depth, d.max_depth)
        _train(config, stage, arch, task, "distill")
        return stage.folder


def evaluate(config: Config, arch: str = "", labels: str = "") -> pd.DataFrame:
    """Section 4: predicts and stores the evaluated split, then scores it; one row an image.

    Args:
        labels: "" evaluates the self-supervised network, else the student of that label strategy.
    """
    arch = arch or config.arch
    e, d = config.evaluation, config.data
    stage_name = "distill" if labels else "pretrain"
    if _outputs(config, stage_name, arch, labels) is None:
        with _missing(f"{stage_name} {arch} {labels}".rstrip(), _TRAINING):
            distill(config, arch, labels) if labels else pretrain(config, arch)
    inputs = _outputs(config, stage_name, arch, labels)
    training = labels or evaluation.SELF_SUPERVISED
    with runs.open_stage(
        config, "evaluate", arch, labels, inputs=inputs, path=f"{arch}/{training}/{e.split}"
    ) as stage:
        csv = stage.folder / "per_image.csv"
        if stage.done:
            return pd.read_csv(csv, dtype={"scene": str, "frame": str})
        scenes = dataset(config).scenes(e.split)
        if not any(s.has_depth for s in scenes):
            raise DataError(
                f"split {e.split!r} of {d.dataset!r} has no ground-truth depth to evaluate against."
            )
        frames = [range(0, len(s), e.every) for s in scenes]
        store = DepthStore(stage.folder / "depth")
        name = f"evaluate/{arch}/{training}"
        predict_scenes(
            load_network(config, arch, labels),
            scenes,
            frames,
            store,
            d.size_hw,
            precision=config.predict_precision,
            what=name,
        )
        per_image = evaluation.score(
            store.read_of,
            scenes,
            frames,
            scale=e.scale,
            min_depth=d.min_depth,
            max_depth=d.max_depth,
            what=name,
        )
        with runs.atomic(csv) as temporary:
            per_image.to_csv(temporary, index=False, float_format="%.6g")
        stage.finish({"per_image.csv": runs.sha256(csv)}, summary=evaluation.summary(per_image).to_dict())
        return pd.read_csv(csv, dtype={"scene": str, "frame": str})


def results(config: Config, arch: str = "") -> dict[str, pd.DataFrame]:
    """Per-image scores by labels: "" (self-supervised), "pred" (self-taught) and the run's own, in this order."""
    return {labels: evaluate(config, arch, labels) for labels in dict.fromkeys(("", "pred", config.labels))}


def tables(config: Config, trainings: list[tuple[str, str]] | None = None) -> pd.DataFrame:
    """One table of all that this run has evaluated, as CSV and Markdown in the run's ``tables/``.

    It has the whole split and each list of images that the data set knows of it; a file of its own for
    highlights and one for the other pixels.

    Args:
        trainings: (arch, labels) to evaluate; by default every one whose evaluation is there.

    Raises:
        DataError: nothing was evaluated.
    """
    split = config.evaluation.split
    if trainings is None:
        base = folder_of(config, "evaluate")
        trainings = [
            (arch, "" if labels == evaluation.SELF_SUPERVISED else labels)
            for arch in ARCHITECTURES
            for labels in (evaluation.SELF_SUPERVISED, *fusion.STRATEGIES)
            if (base / arch / labels / split / "DONE").is_file()
        ]
    if not trainings:
        raise DataError(
            f"{folder_of(config)} has no evaluation of split {split!r} yet: run `evaluate` first."
        )
    results = {(arch, labels): evaluate(config, arch, labels) for arch, labels in trainings}
    folder = folder_of(config, "tables")
    make = partial(evaluation.table, results, config.data.dataset, split, dataset(config).lists(split))
    for pixels in sorted({p for r in results.values() for p in r["pixels"]}):
        part = make(pixels=pixels)
        stem = split if pixels == "all" else f"{split}-{pixels}"
        with runs.atomic(folder / f"{stem}.csv") as temporary:
            part.to_csv(temporary, index=False, float_format="%.6g")
        with runs.atomic(folder / f"{stem}.md") as temporary:
            temporary.write_text(evaluation.to_markdown(part))
    return make()


def run_all(config: Config, archs: tuple[str, ...] = ()) -> pd.DataFrame:
    """The whole chain: all three networks pretrained, self-taught and distilled students, the table.

    Args:
        archs: networks that get students; by default the profile's.
    """
    archs = archs or config.students
    trainings = [(arch, "") for arch in dict.fromkeys((*ENSEMBLE, *archs))]
    for arch, _ in trainings:
        pretrain(config, arch)
    for arch in archs:
        for labels in dict.fromkeys(("pred", config.labels)):
            distill(config, arch, labels)
            trainings.append((arch, labels))
    trainings.sort(key=lambda t: ARCHITECTURES.index(t[0]))
    return tables(config, trainings)
