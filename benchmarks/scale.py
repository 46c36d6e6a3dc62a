"""Measure time and memory for a data set of ScanNet's size without pixels: triples, planning, scheduling, resuming.

    python benchmarks/scale.py [--scenes 1613] [--frames 1550] [--json FILE]

The scenes are artificial: they have the poses of a simulated hand-held camera and no images. They go through d3d's own
`training_scenes`, batches, stores and `run_tasks`. Each row has the duration and the process's peak memory so far.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np

from d3d import io
from d3d.datasets import DATASETS, Dataset, Scene
from d3d.datasets.samples import EpochBatches
from d3d.parallel.tasks import run_tasks
from d3d.pipeline import graph, runs, scenes
from d3d.pipeline.config import Config, make_config
from d3d.pipeline.graph import Key
from d3d.prediction import DepthStore

RATE_HZ = 30.0
PAPER_TRIPLES = 45_539


def _smooth(rng: np.random.Generator, n: int, spread: float, seconds: float) -> np.ndarray:
    """Draw velocities (n, 3) with a standard deviation and correlation time (an Ornstein-Uhlenbeck process)."""
    keep = np.exp(-1 / (seconds * RATE_HZ))
    noise = rng.normal(0, spread * np.sqrt(1 - keep**2), (n, 3))
    velocity = np.empty((n, 3))
    velocity[0] = rng.normal(0, spread, 3)
    for i in range(1, n):
        velocity[i] = keep * velocity[i - 1] + noise[i]
    return velocity


def hand_held(rng: np.random.Generator, n: int, speed: float = 0.25, turn_deg: float = 15.0) -> np.ndarray:
    """Make poses (n, 4, 4) of a camera with these speeds along and around each axis, in m/s and degrees/s."""
    from scipy.spatial.transform import Rotation

    poses = np.tile(np.eye(4), (n, 1, 1))
    poses[:, :3, 3] = np.cumsum(_smooth(rng, n, speed, 1.0) / RATE_HZ, axis=0)
    angles = np.cumsum(np.deg2rad(_smooth(rng, n, turn_deg, 0.7)) / RATE_HZ, axis=0)
    poses[:, :3, :3] = Rotation.from_euler("yxz", angles).as_matrix()
    return poses


class MadeUp(Scene):
    """A scene with poses only, at ScanNet's image size."""

    def __init__(self, name: str, n: int, seed: int) -> None:
        poses = hand_held(np.random.default_rng(seed), n)
        super().__init__(name, [str(i) for i in range(n)], poses, (968, 1296), has_depth=True)


def open_made_up(root: str | None = None, count: int = 1613, frames: int = 1550) -> Dataset:
    """Make a data set of ``count`` scenes with ``frames`` frames on average, all in the train split."""
    lengths = np.random.default_rng(0).gamma(2.0, frames / 2, count).astype(int) + 100

    def train() -> list[Scene]:
        return [MadeUp(f"scene{i:04}_00", int(n), i) for i, n in enumerate(lengths)]

    return Dataset("madeup", {"train": train, "val": list}, verified=True)


def touch(folder: str, name: str) -> str:
    """Write a scene's folder like a per-scene stage, without computing anything."""
    store = DepthStore(Path(folder))
    if not store.has(name):
        store.write_scene(name, [("0", np.ones((2, 2)))])
    return store.sha256(name)


def measure(count: int, frames: int, folder: Path) -> list[dict]:
    """Measure each step. Return one row for each: name, amount, seconds, peak memory in MB."""
    rows: list[dict] = []

    @contextmanager
    def step(what: str) -> Iterator[dict]:
        row: dict = {"step": what}
        start = time.perf_counter()
        yield row
        row |= {"seconds": round(time.perf_counter() - start, 2), "peak_mb": runs._peak_memory_mb()}
        rows.append(row)

    DATASETS["madeup"] = open_made_up
    config: Config = make_config(profile="paper", runs_dir=str(folder), run="scale")
    options = {"count": count, "frames": frames}
    config = replace(config, data=replace(config.data, dataset="madeup", options=options))
    with step("start: everything imported") as row:
        row["amount"] = ""
    with step("scenes: poses made up and checked") as row:
        all_scenes = scenes.dataset(config).scenes("train")
        row["amount"] = f"{len(all_scenes):,} scenes, {sum(map(len, all_scenes)):,} frames"
    with step("triples (4.1)") as row:
        found = scenes.training_scenes(config)
        targets = sum(len(s.targets) for s in found)
        row["amount"] = f"{targets:,} triples (the paper's, of real poses: {PAPER_TRIPLES:,})"
    with step("plan: which frames are predicted and fused") as row:
        every = config.fusion.integrate_every
        row["amount"] = f"{sum(len(s.frames_to_fuse(every)) for s in found):,} frames"
    with step("digest of the training data") as row:
        row["amount"] = scenes.frames_digest(found)[:12]
    with step("order of all batches of 41 epochs") as row:
        batches = EpochBatches(targets, 12, 0)
        total = batches.per_epoch * 41
        row["amount"] = f"{sum(1 for _ in EpochBatches(targets, 12, 0, 0, total)):,} batches"
    for scheduler in ("none", "local"):
        tasks = {s.scene.name: (str(folder / scheduler), s.scene.name) for s in found}
        with step(f"tasks that compute nothing, scheduler {scheduler}") as row:
            done = run_tasks(touch, tasks, what=f"scale/{scheduler}", scheduler=scheduler)
            row["amount"] = f"{len(done):,} tasks"
    with step("a finished stage opened again: its scenes and their hashes") as row:
        store = DepthStore(folder / "none")
        outputs = {s.scene.name: store.sha256(s.scene.name) for s in found if store.has(s.scene.name)}
        with graph.open_stage(config, Key("predict", "monodepth2")) as stage:
            stage.finish(outputs)
        row["amount"] = f"{len(json.dumps(stage.outputs)) / 1e3:.0f} kB of hashes"
    return rows


def main() -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--scenes", type=int, default=1613)
    parser.add_argument("--frames", type=int, default=1550, help="mean number of frames in a scene")
    parser.add_argument("--json", type=Path)
    a = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    with tempfile.TemporaryDirectory(prefix="d3d-scale-") as folder:
        rows = measure(a.scenes, a.frames, Path(folder))
    print("| step | amount | s | MB at most |\n| --- | --- | --- | --- |")
    for r in rows:
        print(f"| {r['step']} | {r['amount']} | {r['seconds']} | {r['peak_mb']} |")
    if a.json:
        io.write_json(a.json, {**runs.provenance(make_config(profile="paper")), "rows": rows})
    return 0


if __name__ == "__main__":
    sys.exit(main())
