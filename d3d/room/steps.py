"""All steps of a room, one after the other, with the time left for the whole."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from d3d.pipeline import stages
from d3d.pipeline.posecheck import captured
from d3d.pipeline.scenes import training_scenes
from d3d.pipeline.settings import Config
from d3d.progress import say
from d3d.room.results import room_key, write_results

# Cost in forward passes of the network for one image of its size, measured with lite
_OF_PRETRAINING, _OF_DISTILLATION = 5.4, 3.5  # for an image of a batch
_OF_LABELS = 10.0  # for a target: its depth, six passes for the uncertainty, the mesh
_OF_MESHES = 800.0  # both meshes, and the page
_OF_RESULTS = 5.0  # for a frame: both networks, the video; and for a pixel of its full size
_PASS_S = 0.35e-6  # seconds a pixel, on two cores: only for the first estimate


@dataclass(frozen=True)
class Step:
    """A step of `run_room`.

    Attributes:
        what: description.
        compute: computes it, and returns its folder.
        done: whether it is finished.
        cost: relative time.
    """

    what: str
    compute: Callable[[Config], Any]
    done: bool
    cost: float


def run_room(config: Config) -> Path:
    """Train both networks of a room, and write its results; finished steps are reused.

    Args:
        config: of `d3d.room.make_config`.

    Returns:
        The folder of the results, ``runs/<run>/room``.
    """
    steps = _steps(config)
    seconds_a_pass, result = _PASS_S * math.prod(config.data.size_hw), None
    spent = cost = 0.0
    for number, step in enumerate(steps, 1):
        left = sum(s.cost for s in steps[number - 1 :] if not s.done) * seconds_a_pass
        about = "finished before" if step.done else f"about {_duration(left)} left for all steps"
        say(f"step {number} of {len(steps)}: {step.what} ({about})")
        start = time.monotonic()
        result = step.compute(config)
        if not step.done:
            spent, cost = spent + time.monotonic() - start, cost + step.cost
            seconds_a_pass = spent / cost
    return result


def _steps(config: Config) -> list[Step]:
    arch, labels, scene = config.arch, config.labels, captured(config)
    targets = sum(len(s.targets) for s in training_scenes(config))
    first, second = (config.training(stage, arch) for stage in ("pretrain", "distill"))
    images = [t.total_steps(math.ceil(targets / t.batch_size)) * t.batch_size for t in (first, second)]
    larger = math.prod(scene.size_hw) / math.prod(config.data.size_hw)

    def step(what: str, stage: str, compute: Callable[[Config], Any], cost: float) -> Step:
        of = (stage, arch) if stage == "pretrain" else (stage, arch, labels)
        return Step(what, compute, stages.is_finished(config, *of), cost)

    return [
        step("train the first network", "pretrain", stages.pretrain, images[0] * _OF_PRETRAINING),
        step("predict depth, fuse the mesh, make the labels", "fuse", stages.fuse, targets * _OF_LABELS),
        step("train the second network", "distill", stages.distill, images[1] * _OF_DISTILLATION),
        step(
            "write depth, meshes, pictures and the page",
            room_key(config).stage,
            write_results,
            _OF_MESHES + len(scene) * _OF_RESULTS * (1 + larger / 4),
        ),
    ]


def _duration(seconds: float) -> str:
    return f"{seconds / 60:.0f} minutes" if seconds >= 90 else f"{max(10, round(seconds / 10) * 10)} seconds"
