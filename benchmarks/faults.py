"""Kill each stage, a whole room and `python -m d3d predict` with SIGKILL at random moments, and compare the results.

    python benchmarks/faults.py --kills 20 [--stages pretrain,project] [--scheduler local] [--json FILE]

``room`` is all of `python -m d3d room` on the capture that ships, ``predict_files`` is `python -m d3d predict` on six
of its images and a video of them. Each stage runs once undisturbed. Then it is started and killed ``--kills`` times,
each time at a random moment of its usual duration. Each start continues with the files that the previous kill left. If
a stage ends before its kill, its files are deleted and it starts again. After each kill every file must be complete.
At the end all files must equal those of the undisturbed run, byte for byte (one thread, on a CPU).
"""

from __future__ import annotations

import argparse
import contextlib
import json
import multiprocessing
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import numpy as np

from d3d import io, room
from d3d.apply import predict_files
from d3d.pipeline import runs, stages
from d3d.pipeline.config import Config, make_config
from d3d.prediction import read_depth

STAGES = ("pretrain", "predict", "project", "uncertainty", "fuse", "distill", "evaluate")
COMMANDS = ("room", "predict_files")  # need no stage before them
CAPTURE = Path(__file__).parents[1] / "data" / "capture"
PICTURES = ("loss.png", "picture.png", "pose_check.png")  # every other PNG is depth
# files that record when, where and by whom a stage was computed; they may differ
PROVENANCE = ("provenance.json", "DONE", ".lock")


@dataclass
class Result:
    """The result for one stage.

    Attributes:
        kills: number of kills.
        starts: number of starts; the last one ran to the end.
        seconds: duration without a kill.
        equal: whether all files are equal to those of the undisturbed run.
        different: names of the files that differ.
    """

    stage: str
    kills: int = 0
    starts: int = 0
    seconds: float = 0.0
    equal: bool = False
    different: list[str] = field(default_factory=list)


def small_config(folder: Path, run: str, scheduler: str) -> Config:
    """Return the configuration of a run whose stages take seconds: 6 rooms of 18 frames, 24 steps, 12 checkpoints."""
    cfg = make_config(profile="smoke", device="cpu", runs_dir=str(folder), run=run, scheduler=scheduler)
    options = {**cfg.data.options, "rooms": 6}
    training = {"steps": 24, "checkpoint_steps": 2}
    return replace(
        cfg,
        data=replace(cfg.data, options=options),
        pretrain=replace(cfg.pretrain, **training),
        distill=replace(cfg.distill, **training),
        steps={},
    )


def small_room(folder: Path, run: str, scheduler: str) -> Config:
    """Return the configuration of the room that ships, whose trainings take seconds."""
    cfg = room.make_config(
        CAPTURE,
        run=run,
        runs_dir=str(folder),
        device="cpu",
        scheduler=scheduler,
        height=64,
        width=96,
        steps=24,
    )
    every = {"checkpoint_steps": 2}
    return replace(cfg, pretrain=replace(cfg.pretrain, **every), distill=replace(cfg.distill, **every))


def write_files(folder: Path) -> Path:
    """Write six images and a video of them, and return their folder."""
    from PIL import Image

    from d3d.datasets.videos import Frame, video_writer

    files = sorted((CAPTURE / "images").iterdir())[:6]
    folder.mkdir()
    for file in files:
        shutil.copy(file, folder)
    with video_writer(folder / "walk.mp4") as add:
        for i, file in enumerate(files * 4):
            add(Frame(np.asarray(Image.open(file).convert("RGB")), i / 10))
    return folder


def place(config: Config, stage: str) -> Path:
    """Return the folder of the results: the whole run of a room, or a folder in it."""
    return runs.run_folder(config) if stage == "room" else runs.run_folder(config) / stage


def do(config: Config, stage: str, arch: str = "") -> None:
    """Run one stage or command in this process, with one thread."""
    import torch

    torch.set_num_threads(1)
    arch = arch or config.arch
    if stage == "room":
        room.run_room(config)
    elif stage == "predict_files":
        predict_files([Path(config.runs_dir) / "files"], "lite-distilled", place(config, stage), device="cpu")
    elif stage == "uncertainty":
        stages.uncertainty(config)
    elif stage == "evaluate":
        stages.evaluate(config, arch, config.labels)
    else:
        getattr(stages, stage)(config, arch)


def run(
    folder: Path,
    names: Sequence[str] = (*STAGES, *COMMANDS),
    kills: int = 20,
    seed: int = 0,
    scheduler: str = "none",
) -> list[Result]:
    """Kill each named stage ``kills`` times.

    Args:
        folder: an empty folder.
        scheduler: the parameter ``scheduler`` of the runs.
    """
    os.environ["OMP_NUM_THREADS"] = "1"
    context = multiprocessing.get_context("forkserver")  # a start is a fork instead of an import of torch
    context.set_forkserver_preload(
        ["d3d.pipeline.stages", "d3d.training", "d3d.models", "d3d.figures", "open3d"]
    )
    warm = context.Process(target=os.getpid)  # so that the first stage's time has no imports
    warm.start()
    warm.join()
    rng = np.random.default_rng(seed)
    results = []
    last = max((STAGES.index(name) for name in names if name in STAGES), default=-1)
    for stage in (*STAGES[: last + 1], *(name for name in COMMANDS if name in names)):
        make, prefix = (small_room, "room-") if stage == "room" else (small_config, "")
        calm, killed = (make(folder, prefix + name, scheduler) for name in ("calm", "killed"))
        if stage == "uncertainty":
            for arch in calm.ensemble:  # the uncertainty needs them all
                _finish(context, calm, "predict", arch)
        if stage == "predict_files":
            write_files(folder / "files")
        before = runs.run_folder(killed)
        shutil.rmtree(before, ignore_errors=True)
        if runs.run_folder(calm).is_dir():
            shutil.copytree(runs.run_folder(calm), before)
        start = time.monotonic()
        _finish(context, calm, stage)
        seconds = time.monotonic() - start
        if stage in names:
            results.append(_kill(context, calm, killed, stage, kills, seconds, rng))
    return results


def _finish(context, config: Config, stage: str, arch: str = "") -> None:
    process = context.Process(target=do, args=(config, stage, arch))
    process.start()
    process.join()
    if process.exitcode:
        raise RuntimeError(f"{stage} ended with status {process.exitcode} undisturbed.")


def _kill(context, calm: Config, killed: Config, stage: str, kills: int, seconds: float, rng) -> Result:
    result = Result(stage, seconds=round(seconds, 2))
    folder = place(killed, stage)
    while True:
        process = context.Process(target=do, args=(killed, stage))
        process.start()
        result.starts += 1
        process.join(rng.uniform(0, seconds) if result.kills < kills else None)
        if process.is_alive():
            process.kill()
            process.join()
            result.kills += 1
            check_whole(folder)
            _wait_for_others(folder)
            continue
        if process.exitcode:
            raise RuntimeError(f"{stage} ended with status {process.exitcode} after {result.kills} kills.")
        result.different = differences(place(calm, stage), folder)
        result.equal = not result.different
        if result.kills >= kills or not result.equal:
            return result
        shutil.rmtree(folder)


def _wait_for_others(folder: Path, longest_s: float = 30.0) -> None:
    """Wait until the child processes of the killed process have ended and released its lock."""
    start = time.monotonic()
    for lock in folder.rglob(".lock"):
        while time.monotonic() - start < longest_s:
            with contextlib.suppress(runs.Timeout), runs.FileLock(lock).acquire(timeout=0):
                break
            time.sleep(0.1)


def check_whole(folder: Path) -> None:
    """Open every file of a stage, except files with a temporary name.

    Raises:
        Exception: a file is incomplete.
    """
    import torch
    from safetensors.torch import load_file

    for path in sorted(folder.rglob("*")):
        if not path.is_file() or any(part.startswith(".") for part in path.relative_to(folder).parts):
            continue
        if path.suffix == ".json" or path.name == "DONE":
            json.loads(path.read_text())
        elif path.suffix == ".safetensors":
            load_file(path)
        elif path.suffix == ".pt":
            torch.load(path, weights_only=True)
        elif path.suffix == ".png" and path.name not in PICTURES:
            read_depth(path)
    for index in folder.rglob("index.json"):
        for frame in json.loads(index.read_text())["frames"]:
            read_depth(index.with_name(f"{frame}.png"))


def differences(calm: Path, killed: Path) -> list[str]:
    """Return the names of files that differ between two stage folders or are missing in one, except `PROVENANCE`."""

    def files(folder: Path) -> dict[str, bytes]:
        found = {str(p.relative_to(folder)): p for p in folder.rglob("*") if p.is_file()}
        return {name: p.read_bytes() for name, p in found.items() if p.name not in PROVENANCE}

    a, b = files(calm), files(killed)
    different = [name for name in sorted({*a, *b}) if a.get(name) != b.get(name)]
    for done in calm.rglob("DONE"):
        other = killed / done.relative_to(calm)
        if json.loads(done.read_text())["outputs"] != json.loads(other.read_text())["outputs"]:
            different.append(str(done.relative_to(calm)))
    return different


def main() -> int:
    """Run the command line. Return 1 if any result differs."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--stages", default=",".join((*STAGES, *COMMANDS)))
    parser.add_argument("--scheduler", default="none")
    parser.add_argument("--json", type=Path)
    a = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="d3d-faults-") as folder:
        results = run(Path(folder), a.stages.split(","), a.kills, a.seed, a.scheduler)
    print("| stage | s undisturbed | killed | started | equal |\n| --- | --- | --- | --- | --- |")
    for r in results:
        print(
            f"| {r.stage} | {r.seconds:.1f} | {r.kills} | {r.starts} | {'yes' if r.equal else r.different} |"
        )
    if a.json:
        cfg = make_config(profile="smoke")
        told = {"scheduler": a.scheduler, "results": [asdict(r) for r in results]}
        io.write_json(a.json, {**runs.provenance(cfg), **told, "seed": a.seed})
    return 0 if all(r.equal for r in results) else 1


if __name__ == "__main__":
    sys.exit(main())
