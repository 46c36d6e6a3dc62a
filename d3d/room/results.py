"""The stage `room`: depth of every frame, meshes, pictures and a page, in ``runs/<run>/room``."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from d3d import io
from d3d.datasets.capture.scene import CaptureScene
from d3d.errors import ConfigError
from d3d.metrics import METRICS
from d3d.models import load_model
from d3d.models.base import DepthNetwork
from d3d.parallel.distributed import select_device
from d3d.pipeline.graph import Key, ensure, require_finished, stage
from d3d.pipeline.posecheck import captured
from d3d.pipeline.runs import StageFolder
from d3d.pipeline.settings import Config
from d3d.pipeline.stages.depth import evenly_at_most
from d3d.pipeline.stages.scores import evaluate_key
from d3d.prediction import MM, network_depth, network_precision, predict, write_depth
from d3d.progress import say, track
from d3d.room.facts import facts, trainings
from d3d.room.meshes import MESH, write_mesh
from d3d.room.page import write_page
from d3d.room.pictures import write_picture, write_video
from d3d.training import WEIGHTS

PAGE = "index.html"
UNFINISHED = ".unfinished"  # the results until all are written
MOST_SHOWN = 240  # frames of the video
MOST_DEPTH = 65535 / MM  # what a 16-bit PNG holds
BATCH = 8


def room_key(config: Config) -> Key:
    """Return the key of a room's results."""
    return Key("room", config.arch, config.labels)


def write_results(config: Config) -> Path:
    """Write the results of a room, and return their folder. Missing trainings are computed first.

    Raises:
        ConfigError: the run's data set is not a capture.
    """
    if config.data.dataset != "capture":
        raise ConfigError(f"the results of a room need dataset 'capture', not {config.data.dataset!r}.")
    return ensure(config, room_key(config))


def _needs(config: Config, key: Key) -> list[Key]:
    needs = [Key("pretrain", key.arch), key._replace(stage="fuse"), key._replace(stage="distill")]
    if captured(config).has_depth:
        needs += [evaluate_key(config, key.arch, labels) for labels in ("", key.labels)]
    return needs


def _data(config: Config, key: Key) -> dict[str, Any]:
    scene = captured(config)
    return {"frames": len(scene), "sha256": scene.digest()}


@stage(
    "room",
    settings=lambda c, k: {"mesh": MESH, "precision": c.predict_precision},
    needs=_needs,
    data=_data,
    path=lambda c, k: "room",
    takes=lambda c, k: "a second for a few frames",
)
def _room(config: Config, key: Key, opened: StageFolder) -> None:
    scene, work = captured(config), opened.folder / UNFINISHED
    networks = {name: _network(config, k) for name, k in trainings(key).items()}
    _write_depth(config, networks["after"], scene, work / "depth")
    shown = evenly_at_most(range(len(scene)), MOST_SHOWN)
    maps = {name: _maps(config, network, scene, shown, name) for name, network in networks.items()}
    meshes = {}
    for name in networks:
        say(f"mesh {name}")
        meshes[name] = write_mesh(config, scene, shown, maps[name], work / f"mesh_{name}.ply")
    write_picture(config, key, maps, shown, work / "picture.png")
    write_video(config, scene, maps, shown, work / "video.mp4")
    about = facts(config, key, scene) | {"shown": len(shown)}
    io.write_json(work / "room.json", about)
    write_page(about, meshes, scene.world_T_cams, work / PAGE)
    written = {p.name: io.sha256(p) for p in sorted(work.iterdir()) if p.is_file()}
    _move(work, opened.folder)
    opened.finish(written, frames=len(scene))


def _network(config: Config, key: Key) -> DepthNetwork:
    return load_model(require_finished(config, key) / WEIGHTS).to(select_device(config.device))


def _write_depth(config: Config, network: DepthNetwork, scene: CaptureScene, folder: Path) -> None:
    """Write the depth of every frame at the size of its image; written frames are skipped."""
    for i in track(range(len(scene)), "depth of every frame", unit="frame"):
        path = folder / f"{scene.frame_ids[i]}.png"
        if path.is_file():
            continue
        with network_precision(network, config.predict_precision):
            depth = predict(network, scene.image(i), size_hw=config.data.size_hw)
        with io.atomic(path) as temporary:
            write_depth(temporary, np.where(depth > MOST_DEPTH, 0, depth))


def _maps(
    config: Config, network: DepthNetwork, scene: CaptureScene, frames: Sequence[int], name: str
) -> np.ndarray:
    """Predict the depth (n, h, w) of frames at the size of the network."""
    result = []
    for start in track(range(0, len(frames), BATCH), f"depth {name}", unit="batch"):
        images = np.stack([scene.image(i, config.data.size_hw) for i in frames[start : start + BATCH]])
        batch = torch.from_numpy(images.transpose(0, 3, 1, 2).copy()).float() / 255
        with network_precision(network, config.predict_precision):
            result.append(network_depth(network, batch)[:, 0].cpu().numpy())
    return np.concatenate(result)


def _move(work: Path, folder: Path) -> None:
    """Give the finished results their names; the page comes last."""
    for path in sorted(work.iterdir(), key=lambda p: p.name == PAGE):
        target = folder / path.name
        if target.is_dir():
            shutil.rmtree(target)
        path.replace(target)
    work.rmdir()


def printed(folder: Path) -> str:
    """Describe the results in a folder of `write_results`: the scores, if there are any, and the page."""
    about = io.read_json(folder / "room.json", "scores", "unit")
    lines = []
    if scores := about["scores"]:
        scaled = ", scaled to the median" if about["scores_scale"] == "median" else ""
        changes = [f"{m} {scores['before'][m]:.3f} -> {scores['after'][m]:.3f}" for m in METRICS]
        lines.append(f"frames held out, before -> after{scaled}: {', '.join(changes)}")
    return "\n".join([*lines, f"open {folder / PAGE}"])
