"""What the stages share: where each one's artefacts are, what they were made from, and what is still missing."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from d3d import runs
from d3d.config import Config, stage_config
from d3d.progress import say

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
    stored = runs.read_json(folder / "config.json")["config"]
    if runs.differences(stage_config(config, stage, arch, labels), stored):
        return None
    return runs.read_json(folder / "DONE")["outputs"]


def teacher_round(config: Config) -> Config | None:
    """The configuration whose students are this round's teachers; None in round 1, where pretraining made them."""
    return None if config.round == 1 else replace(config, round=config.round - 1)
