"""Measure the frames a second that a network predicts, in several ways that take turns.

    python benchmarks/prediction.py [--archs A,B] [--sizes 128x96,384x288] [--batches 1,16] [--device auto]
        [--ways float32,bf16,compile,onnx,openvino] [--repeat 7] [--json FILE]

A network has random weights. "float32" and "bf16" are the two precisions of d3d's predictions. The others are
float32: torch.compile, and onnxruntime and OpenVINO with a file of `python -m d3d export`. A ratio is the median over
the turns of the speed divided by that of the first way in the same turn.
"""

from __future__ import annotations

import argparse
import copy
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # a script finds its own folder only

from benchmarks.training_step import _name, _size, machine
from d3d import io
from d3d.models import ARCHITECTURES, create_model
from d3d.models.export import FORMATS, export
from d3d.parallel.distributed import select_device
from d3d.prediction import network_depth, network_precision

Run = Callable[[Tensor], object]


def run_of(way: str, model: torch.nn.Module, size_hw: tuple[int, int], folder: Path) -> Run:
    """Make the function from images (b, 3, h, w) to depth."""
    model = copy.deepcopy(model)
    if way in ("float32", "bf16"):

        def run(images: Tensor) -> Tensor:
            with network_precision(model, way):
                return network_depth(model, images)

    elif way == "compile":
        run = torch.compile(lambda images: network_depth(model, images), dynamic=False)
    else:
        file = folder / "network.onnx"
        if not file.exists():
            export(model, file, size_hw=size_hw)
        if way == "onnx":
            return FORMATS["onnx"][1](file)
        import openvino

        threads = {"INFERENCE_NUM_THREADS": torch.get_num_threads(), "INFERENCE_PRECISION_HINT": "f32"}
        compiled = openvino.Core().compile_model(str(file), "CPU", threads)
        run = lambda images: compiled(images.numpy())  # noqa: E731
    return run


def measure(
    arch: str,
    size_hw: tuple[int, int],
    batches: list[int],
    ways: list[str],
    repeat: int,
    device: torch.device,
) -> list[dict[str, object]]:
    """Measure all ways in turn; a row for each batch size and way."""
    torch.manual_seed(0)
    model = create_model(arch, pretrained=False, init_depth_m=2.0).to(device).eval()
    rows = []
    with tempfile.TemporaryDirectory(prefix="d3d-prediction-") as folder:
        runs = {way: run_of(way, model, size_hw, Path(folder)) for way in ways}
        for batch in batches:
            images = torch.rand(batch, 3, *size_hw, device=device)
            seconds: dict[str, list[float]] = {way: [] for way in ways}
            for turn in range(repeat + 2):  # two turns to warm up
                for way, run in runs.items():
                    start = time.perf_counter()
                    run(images)
                    if device.type == "cuda":
                        torch.cuda.synchronize()
                    if turn >= 2:
                        seconds[way].append(time.perf_counter() - start)
            for way, took in seconds.items():
                rows.append(
                    {
                        "arch": arch,
                        "size": _name(size_hw),
                        "batch": batch,
                        "way": way,
                        "frames_per_s": batch / statistics.median(took),
                        "middle_half": list(batch / np.quantile(took, (0.75, 0.25))),
                        "times_first": statistics.median(
                            a / b for a, b in zip(seconds[ways[0]], took, strict=True)
                        ),
                    }
                )
    return rows


def main(argv: list[str] | None = None) -> list[dict[str, object]]:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--archs", default=",".join(ARCHITECTURES))
    parser.add_argument("--sizes", default="128x96,384x288", help="widths x heights")
    parser.add_argument("--batches", default="1,16")
    parser.add_argument("--ways", default="float32,bf16", help="the first one is the anchor of the ratios")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--repeat", type=int, default=7)
    parser.add_argument("--json", type=Path)
    a = parser.parse_args(argv)
    device, ways = select_device(a.device), a.ways.split(",")
    rows = []
    print(f"| network | size | batch | {' | '.join(ways)} |\n" + "| --- " * (3 + len(ways)) + "|")
    for size_hw in map(_size, a.sizes.split(",")):
        for arch in a.archs.split(","):
            found = measure(arch, size_hw, [int(n) for n in a.batches.split(",")], ways, a.repeat, device)
            rows += found
            for k in range(0, len(found), len(ways)):
                cells = [
                    f"{r['frames_per_s']:.1f} ({r['times_first']:.2f})" for r in found[k : k + len(ways)]
                ]
                print(
                    f"| {arch} | {_name(size_hw)} | {found[k]['batch']} | {' | '.join(cells)} |", flush=True
                )
            if a.json:
                io.write_json(a.json, {"machine": machine(device), "rows": rows})
    return rows


if __name__ == "__main__":
    main()
