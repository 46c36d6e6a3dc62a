"""What the stages share: where each one's artefacts are, what they were made from, and what is still missing."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from d3d import io
from d3d.parallel.tasks import run_tasks
from d3d.pipeline import runs
from d3d.pipeline.config import Config, stage_config
from d3d.progress import say
from d3d.training import WEIGHTS, select_device

TRAINING = "a training: seconds at profile smoke, minutes at demo and laptop, hours on a GPU at paper"


@contextlib.contextmanager
def missing(stage: str, estimate: str) -> Iterator[None]:
    """Says that an earlier stage is computed now, how long that may take, and how long it took."""
    say(f"[{stage}] not there yet, computing it first ({estimate})")
    start = time.monotonic()
    yield
    say(f"[{stage}] took {time.monotonic() - start:.0f} s")


def folder_of(config: Config, *parts: str) -> Path:
    """A folder of this run, by the levels below it; for what is no stage's (tables, figures)."""
    return runs.run_folder(config).joinpath(*[p for p in parts if p])


def outputs(config: Config, stage: str, arch: str = "", labels: str = "") -> dict[str, str] | None:
    """Outputs of a finished stage of this very configuration, or None."""
    folder = runs.stage_folder(config, stage, arch, labels)
    if not (folder / "DONE").is_file():
        return None
    # opening it checks that the configuration is the same; that is the next stage's business too
    stored = io.read_json(folder / "config.json", "config")["config"]
    if runs.differences(stage_config(config, stage, arch, labels), stored):
        return None
    return io.read_json(folder / "DONE", "outputs")["outputs"]


def teacher_round(config: Config) -> Config | None:
    """The configuration whose students are this round's teachers; None in round 1, where pretraining made them."""
    return None if config.round == 1 else replace(config, round=config.round - 1)


def over_scenes(
    config: Config,
    function: Callable[..., Any],
    tasks: Mapping[str, tuple],
    *,
    what: str,
    sizes: Mapping[str, int],
) -> dict[str, Any]:
    """`d3d.parallel.tasks.run_tasks` as a run's parameters have it; progress counts frames.

    Args:
        sizes: frames of each scene.
    """
    return run_tasks(
        function,
        tasks,
        what=what,
        scheduler=config.scheduler,
        workers=config.scene_workers,
        sizes=sizes,
        unit="frame",
    )


def saved(config: Config, arch: str, labels: str = "") -> tuple[Path, str, str, str]:
    """A trained network as arguments of `d3d.prediction.saved_network`; labels "" is the self-supervised one."""
    stage = "distill" if labels else "pretrain"
    weights = runs.stage_folder(config, stage, arch, labels) / WEIGHTS
    return weights, outputs(config, stage, arch, labels)[WEIGHTS], config.device, config.predict_precision


def where(config: Config) -> dict[str, Any]:
    """Where a network goes over scenes, for `d3d.prediction.map_scenes`; this process's GPU is not shared unasked."""
    on_gpu = config.scheduler == "auto" and select_device(config.device).type == "cuda"
    return {"scheduler": "none" if on_gpu else config.scheduler, "workers": config.scene_workers}


def for_workers(config: Config) -> Config:
    """The configuration as it means the same on another machine: the folder of the runs is named."""
    return replace(config, runs_dir=str(runs.run_folder(config).parent))
