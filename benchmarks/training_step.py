"""Measure samples a second of d3d's training steps, of the textbook recipe (`reference.py`), and of the loader.

    python benchmarks/training_step.py [--sizes 128x96,384x288] [--archs A,B]
        [--tasks pretrain,distill] [--parts steps,loader,agreement] [--device auto] [--compile] [--repeat 15]
        [--json FILE]

Steps: d3d in bfloat16 (autocast of the network; geometry and losses stay float32), d3d in float32, the network alone
(bfloat16, its mean disparity instead of a loss) and the reference. They take turns on one batch that stays on the
device, so a busy machine slows all of them equally. ``--compile`` adds d3d in bfloat16 with a compiled photometric
loss. A GPU runs several steps in a turn and is synchronised after the last step, as in a training. "with loading" is
d3d in bfloat16 with a loader. Loader: samples a second without a network; each frame is read once, so nothing is
cached. Agreement: d3d and the reference in float32 from the same weights on the same batches, step by step.
"""

from __future__ import annotations

import argparse
import copy
import itertools
import json
import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch.utils.data import DataLoader

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # a script finds its own folder only

from benchmarks.reference import ReferenceStep
from d3d.datasets import Scene, find_triples, open_dataset
from d3d.datasets.images import read_color
from d3d.datasets.samples import EpochBatches, LabelSamples, TripleSamples
from d3d.datasets.triples import Triples
from d3d.geometry import nearest_depth
from d3d.kernels import Adam
from d3d.models import ARCHITECTURES, create_model
from d3d.pipeline.config import TrainConfig
from d3d.pipeline.runs import _git_state
from d3d.training import (
    DistillTask,
    PretrainTask,
    Task,
    batch_loss,
    select_device,
)

HW = tuple[int, int]
GOALS = {"times the reference": 3, "times the network alone": 1.25}  # of a step on a GPU
WARM_UP = 3  # steps not counted: oneDNN chooses its kernels, the allocator grows
LARGE = {  # large frames on disk: size and file type
    "640x480 png": ((480, 640), "png"),
    "1296x968 jpg": ((968, 1296), "jpg"),
    "384x288 jpg": ((288, 384), "jpg"),
}


@dataclass
class StepRow:
    """Samples a second of a training step: the median, and the bounds of the middle half."""

    arch: str
    task: str
    size: str
    batch: int
    bf16: float
    float32: float
    network: float
    reference: float
    spread: dict[str, tuple[float, float]]
    with_loading: float
    compiled: float | None = None

    @property
    def gain(self) -> float:
        return self.bf16 / self.reference

    @property
    def over_network(self) -> float:
        """Time of a step divided by the time of the network alone."""
        return self.network / self.bf16

    @property
    def gain_float32(self) -> float:
        return self.float32 / self.reference


@dataclass
class LoaderRow:
    """Samples a second of a loader, and the ratio to the fastest step at this size."""

    frames: str
    task: str
    size: str
    workers: int
    samples: float
    times_the_step: float | None = None


@dataclass
class AgreementRow:
    """Difference between the losses of two trainings: the largest relative difference of a step, and that of the means.

    Two correct trainings that round differently drift apart. To measure this drift, the reference is compared with
    itself in contiguous and in channels-last memory, where sums have another order.
    """

    arch: str
    task: str
    size: str
    steps: int
    largest: float
    mean: float
    largest_of_itself: float
    mean_of_itself: float


class FileScene(Scene):
    """Frames in a folder, read like the large frames of other data sets. The camera moves sideways."""

    def __init__(self, folder: Path, size_hw: HW, suffix: str, frames: int) -> None:
        """Write the frames: enlarged images of a room with sensor noise, which makes decoding slow."""
        self._folder, self._suffix = folder, suffix
        poses = np.tile(np.eye(4), (frames, 1, 1))
        poses[:, 0, 3] = 0.07 * np.arange(frames)
        super().__init__("files", [f"{i:04}" for i in range(frames)], poses, size_hw)
        room = open_dataset("glossyrooms").scenes("train")[0]
        rng = np.random.default_rng(0)
        for i in range(frames):
            image = Image.fromarray(room.image(i % len(room))).resize(size_hw[::-1], Image.Resampling.BICUBIC)
            noisy = np.asarray(image) + rng.normal(0, 3, (*size_hw, 3))
            Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(self._path(i))

    def _path(self, i: int) -> Path:
        return self._folder / f"{i:04}.{self._suffix}"

    def _read_image(self, i: int) -> np.ndarray:
        return read_color(self._path(i), f"frame {i}")

    def _read_K(self, i: int) -> np.ndarray:
        h, w = self.size_hw
        return np.array([[0.9 * w, 0, (w - 1) / 2], [0, 0.9 * w, (h - 1) / 2], [0, 0, 1]])


def make_task(kind: str, scenes: list[Scene], triples: list[Triples], size_hw: HW) -> Task:
    """Make a task of this kind on these scenes' targets. Labels are the true depth, or 2 m if there is none."""
    if kind == "pretrain":
        return PretrainTask(TripleSamples(scenes, triples, size_hw))
    targets = [(s, int(t)) for s, found in enumerate(triples) for t in found.indices[:, 0]]

    def label(scene: Scene, i: int) -> np.ndarray:
        depth = scene.depth(i)
        return np.full(size_hw, 2.0, np.float32) if depth is None else nearest_depth(depth, size_hw)

    return DistillTask(LabelSamples(scenes, targets, label, size_hw))


def rooms_task(kind: str, size_hw: HW) -> Task:
    """Make a task on six rooms that ship."""
    scenes = open_dataset("glossyrooms").scenes("train")[:6]
    return make_task(kind, scenes, [find_triples(s.world_T_cams, every=1) for s in scenes], size_hw)


def loader(task: Task, batch: int, steps: int, workers: int, device: torch.device) -> DataLoader:
    """Make the same loader as `train`."""
    batches = EpochBatches(len(task.samples), batch, 0, 0, steps)
    return DataLoader(
        task.samples, batch_sampler=batches, num_workers=workers, pin_memory=device.type == "cuda"
    )


def batches_of(task: Task, batch: int, device: torch.device) -> Iterator[dict[str, torch.Tensor]]:
    """Yield batches on the device, without end."""
    for loaded in loader(task, batch, 10**9, 0, device):
        yield {k: v.to(device, non_blocking=True) for k, v in loaded.items()}


def our_step(model: torch.nn.Module, task: Task, precision: str) -> Callable[[dict], torch.Tensor]:
    """Make the same step as `train`."""
    config = TrainConfig(precision=precision)
    optimizer = Adam(model.parameters(), lr=config.learning_rate)

    def step(batch: dict[str, torch.Tensor]) -> torch.Tensor:
        loss, _ = batch_loss(model, task, batch, config)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        return loss.detach()

    return step


def network_step(model: torch.nn.Module, scales: tuple[int, ...]) -> Callable[[dict], torch.Tensor]:
    """Make a step whose loss is the mean of the disparities, without geometry and losses."""
    optimizer = Adam(model.parameters(), lr=TrainConfig().learning_rate)

    def step(batch: dict[str, torch.Tensor]) -> torch.Tensor:
        image = batch["input"].contiguous(memory_format=torch.channels_last)
        with torch.autocast(image.device.type, dtype=torch.bfloat16):
            disps = model(image, scales=scales)
        loss = sum(disp.mean() for disp in disps.values())
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        return loss.detach()

    return step


def timed(steps: Callable[[], object], device: torch.device) -> float:
    start = time.perf_counter()
    steps()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def measure_steps(
    arch: str,
    kind: str,
    size_hw: HW,
    batch: int,
    repeat: int,
    workers: int,
    device: torch.device,
    compiled: bool = False,
) -> StepRow:
    task = rooms_task(kind, size_hw)
    torch.manual_seed(0)
    model = create_model(arch, pretrained=False, init_depth_m=2.0).to(device).train()
    ready = next(batches_of(task, batch, device))
    steps = {
        "bf16": our_step(copy.deepcopy(model), task, "bf16"),
        "float32": our_step(copy.deepcopy(model), task, "float32"),
        "network": network_step(copy.deepcopy(model), task.scales),
        "reference": ReferenceStep(copy.deepcopy(model), kind, batch, size_hw),
    }
    if compiled and kind == "pretrain":  # Eq. 4 alone is not compiled
        steps["compiled"] = our_step(copy.deepcopy(model), replace(task, compile=True), "bf16")
    together = 4 if device.type == "cuda" else 1  # steps of a turn
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for turn in range(WARM_UP + repeat):
        for name, step in steps.items():
            took = timed(lambda step=step: [step(ready) for _ in range(together)], device)
            if turn >= WARM_UP:
                seconds[name].append(took / together)
    rates = {name: batch / statistics.median(s) for name, s in seconds.items()}
    spread = {n: tuple(batch / np.quantile(s, (0.75, 0.25))) for n, s in seconds.items()}
    # as in a training: the next batches are loaded during a step
    stream = iter(loader(task, batch, WARM_UP + repeat, workers, device))

    def train(n: int) -> None:
        for loaded in itertools.islice(stream, n):
            steps["bf16"]({k: v.to(device, non_blocking=True) for k, v in loaded.items()})

    timed(lambda: train(WARM_UP), device)
    with_loading = batch * repeat / timed(lambda: train(repeat), device)
    return StepRow(arch, kind, _name(size_hw), batch, **rates, spread=spread, with_loading=with_loading)


def measure_loader(frames: str, task: Task, size_hw: HW, workers: int, batch: int = 4) -> LoaderRow:
    """Measure samples a second of one pass, after the first batch, so that the start of processes does not count."""
    stream = iter(loader(task, batch, len(task.samples) // batch, workers, torch.device("cpu")))
    next(stream)
    start = time.perf_counter()
    count = batch * sum(1 for _ in stream)
    rate = count / (time.perf_counter() - start)
    return LoaderRow(frames, task.name, _name(size_hw), workers, rate)


def measure_agreement(
    arch: str, kind: str, size_hw: HW, batch: int, steps: int, device: torch.device
) -> AgreementRow:
    task = rooms_task(kind, size_hw)
    torch.manual_seed(0)
    # no drop path: both networks would draw different masks
    options = {"drop_path": 0.0} if arch == "monovit" else {}
    model = create_model(arch, pretrained=False, init_depth_m=2.0, **options).to(device).train()
    ours = our_step(copy.deepcopy(model), task, "float32")
    reference = ReferenceStep(copy.deepcopy(model), kind, batch, size_hw)
    itself = ReferenceStep(copy.deepcopy(model), kind, batch, size_hw)
    itself.model.to(memory_format=torch.channels_last)
    losses = np.array(
        [
            (float(ours(ready)), reference(ready), itself(ready))
            for ready in itertools.islice(batches_of(task, batch, device), steps)
        ]
    )
    off = abs(losses / losses[:, 1:2] - 1).max(axis=0)
    mean_off = abs(losses.mean(axis=0) / losses[:, 1].mean() - 1)
    return AgreementRow(arch, kind, _name(size_hw), steps, off[0], mean_off[0], off[2], mean_off[2])


def machine(device: torch.device) -> dict[str, object]:
    """Describe the hardware and the versions that determine the speed."""
    cpu = next(
        (line.split(":")[1].strip() for line in _lines("/proc/cpuinfo") if line.startswith("model name")),
        platform.processor(),
    )
    flags = next((line.split() for line in _lines("/proc/cpuinfo") if line.startswith("flags")), [])
    return {
        "cpu": cpu,
        "cores": os.cpu_count(),
        "bf16 instructions": [f for f in ("avx512_bf16", "amx_bf16") if f in flags],
        "threads": torch.get_num_threads(),
        "device": torch.cuda.get_device_name() if device.type == "cuda" else "cpu",
        "python": platform.python_version(),
        "torch": torch.__version__,
        "git": _git_state(),
    }


def _lines(path: str) -> list[str]:
    try:
        return Path(path).read_text().splitlines()
    except OSError:
        return []


def _name(size_hw: HW) -> str:
    return f"{size_hw[1]}x{size_hw[0]}"


def _size(text: str) -> HW:
    width, height = map(int, text.split("x"))
    return height, width


def verdict(row: StepRow) -> str:
    """Say whether a step reaches the goals of a GPU."""
    faster, whole = (
        row.gain >= GOALS["times the reference"],
        row.over_network <= GOALS["times the network alone"],
    )
    return (
        f"- {row.arch} {row.task} {row.size}: {row.gain:.2f} times the reference "
        f"({'pass' if faster else 'FAIL'}: wanted {GOALS['times the reference']}); a step takes {row.over_network:.2f} "
        f"times the network alone ({'pass' if whole else 'FAIL'}: wanted {GOALS['times the network alone']} or less)"
    )


def markdown(report: dict[str, list], goals: bool = False) -> str:
    """Return the tables as Markdown, with the verdicts on request."""
    out = []
    if report["steps"]:
        out += [
            "| network | task | size | batch | ours, bf16 | ours, float32 | network alone, bf16 | reference "
            "| bf16, compiled loss | bf16 / reference | float32 / reference | bf16 with loading |",
            "| --- " * 12 + "|",
        ]
        for r in report["steps"]:
            cells = [f"{getattr(r, n):.1f} ({lo:.1f}-{hi:.1f})" for n, (lo, hi) in r.spread.items()]
            cells += [""] * (r.compiled is None)
            out.append(
                f"| {r.arch} | {r.task} | {r.size} | {r.batch} | {' | '.join(cells)} | **{r.gain:.2f}** "
                f"| {r.gain_float32:.2f} | {r.with_loading:.1f} |"
            )
        out.append("")
        if goals:
            out += [*map(verdict, report["steps"]), ""]
    if report["loader"]:
        out += [
            "| frames | task | size | processes | samples a second | times the fastest step |",
            "| --- | --- | --- | --- | --- | --- |",
        ]
        for r in report["loader"]:
            times = "" if r.times_the_step is None else f"{r.times_the_step:.1f}"
            out.append(f"| {r.frames} | {r.task} | {r.size} | {r.workers} | {r.samples:.0f} | {times} |")
        out.append("")
    if report["agreement"]:
        out += [
            "| network | task | size | steps | largest difference of a step | of the mean "
            "| reference against itself: a step | of the mean |",
            "| --- | --- | --- | --- | --- | --- | --- | --- |",
        ]
        out += [
            f"| {r.arch} | {r.task} | {r.size} | {r.steps} | {r.largest:.1e} | {r.mean:.1e} "
            f"| {r.largest_of_itself:.1e} | {r.mean_of_itself:.1e} |"
            for r in report["agreement"]
        ]
    return "\n".join(out)


def main(argv: list[str] | None = None) -> dict[str, list]:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--sizes", default="128x96,384x288", help="widths x heights")
    parser.add_argument("--archs", default=",".join(ARCHITECTURES))
    parser.add_argument("--tasks", default="pretrain,distill")
    parser.add_argument("--parts", default="steps,loader,agreement")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--batch", type=int, help="12 (MonoViT 8) on a GPU; on a CPU 8, above 192x144 4")
    parser.add_argument(
        "--compile", action="store_true", help="also measure with a compiled photometric loss"
    )
    parser.add_argument("--goals", action="store_true", help="print whether steps reach the goals of a GPU")
    parser.add_argument("--repeat", type=int, default=15, help="number of timed steps of each")
    parser.add_argument("--agreement-steps", type=int, default=50)
    parser.add_argument("--samples", type=int, default=48, help="number of samples in the timing of a loader")
    parser.add_argument(
        "--workers",
        default="0,2",
        help="numbers of loading processes; the column 'with loading' uses the last",
    )
    parser.add_argument("--json", type=Path)
    args = parser.parse_args(argv)
    device = select_device(args.device)
    parts, archs, tasks = args.parts.split(","), args.archs.split(","), args.tasks.split(",")
    workers = [int(n) for n in args.workers.split(",")]
    report: dict[str, list] = {"steps": [], "loader": [], "agreement": []}
    for size_hw in map(_size, args.sizes.split(",")):
        small = size_hw[0] * size_hw[1] <= 144 * 192
        for arch, kind in itertools.product(archs, tasks):
            batch = args.batch or (
                (8 if arch == "monovit" else 12) if device.type == "cuda" else 8 if small else 4
            )
            if "steps" in parts:
                row = measure_steps(
                    arch, kind, size_hw, batch, args.repeat, workers[-1], device, args.compile
                )
                report["steps"].append(row)
                print(f"{arch} {kind} {row.size}: {row.gain:.2f} times the reference", file=sys.stderr)
                _write(args.json, device, report)  # a large network takes minutes: partial results stay
            if "agreement" in parts and small:
                row = measure_agreement(arch, kind, size_hw, batch, args.agreement_steps, device)
                report["agreement"].append(row)
        if "loader" in parts:
            fastest = max((r.bf16 for r in report["steps"] if r.size == _name(size_hw)), default=None)
            for row in loader_rows(tasks, size_hw, args.samples, workers):
                row.times_the_step = row.samples / fastest if fastest else None
                report["loader"].append(row)
    print(markdown(report, args.goals))
    _write(args.json, device, report)
    return report


def _write(file: Path | None, device: torch.device, report: dict[str, list]) -> None:
    if file:
        rows = {name: [asdict(row) for row in rows] for name, rows in report.items()}
        file.write_text(json.dumps({"machine": machine(device), **rows}, indent=1))


def loader_rows(tasks: list[str], size_hw: HW, samples: int, workers: list[int]) -> Iterator[LoaderRow]:
    """Rooms as they ship, and large frames made for this in a temporary folder, each read once."""
    for kind, n in itertools.product(tasks, workers):
        task = rooms_task(kind, size_hw)
        yield measure_loader("rooms, 192x144, first time", task, size_hw, n)
        if n == 0:  # each process has a cache of its own; here it is this one's
            yield measure_loader("rooms, 192x144, in memory", task, size_hw, n)
    for name, (native, suffix) in LARGE.items():
        with tempfile.TemporaryDirectory() as folder:
            scene = FileScene(Path(folder), native, suffix, 3 * samples)
            apart = np.arange(3 * samples).reshape(samples, 3)[:, (1, 0, 2)]  # no frame in two triples
            for kind, n in itertools.product(tasks, workers):
                found = Triples(apart, samples)
                yield measure_loader(name, make_task(kind, [scene], [found], size_hw), size_hw, n)


if __name__ == "__main__":
    main()
