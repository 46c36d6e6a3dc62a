"""Train the teachers of profile paper on GlossyRooms in a limited time, and write weights in pieces of at most 16 MB.

    python benchmarks/teachers.py --out FOLDER [--minutes 5] [--size 192x160] [--archs monodepth2,hrdepth,monovit]
        [--device auto] [--workers 8]

Each network gets an equal share of the time that is left. A few steps measure the speed; then the training has as many
steps as fit, at most 41 epochs, with the paper's schedule. Differences from the paper: the data, the size,
random initial weights with heads that start at 2.3 m (a machine without a network has no ImageNet weights), every
frame a target. Weights are stored in float16. Join the pieces of a network and check them:

    cat monovit.safetensors.?? > monovit.safetensors && sha256sum -c --ignore-missing SHA256SUMS
"""

from __future__ import annotations

import argparse
import contextlib
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # a script finds its own folder only

from benchmarks.training_step import _size, machine
from d3d import io
from d3d.datasets import find_triples, open_dataset
from d3d.datasets.samples import TripleSamples
from d3d.geometry import nearest_depth
from d3d.metrics import depth_metrics
from d3d.models import create_model, save_weights
from d3d.pipeline.config import ENSEMBLE, make_config
from d3d.prediction import predict
from d3d.training import CURVE, PretrainTask, select_device, train

PIECE = 16_000_000  # bytes
TRIAL = 100  # steps that measure the speed, after a warm-up
EPOCHS = 41  # of the paper
INIT_DEPTH_M = 2.3


def teacher(arch: str, args: argparse.Namespace, seconds: float) -> dict[str, object]:
    """Train one network in about this many seconds, write the pieces of its weights, and return its report."""
    start, size_hw, device = time.monotonic(), _size(args.size), select_device(args.device)
    scenes = open_dataset("glossyrooms").scenes("train")
    task = PretrainTask(
        TripleSamples(scenes, [find_triples(s.world_T_cams, every=1) for s in scenes], size_hw)
    )
    factory = partial(create_model, arch, pretrained=False, init_depth_m=INIT_DEPTH_M)
    run = partial(train, factory, task, seed=0, device=device, what=arch)

    def settings(steps: int):
        config = make_config(profile="paper", steps=steps, workers=args.workers, pretrained=False)
        return config.training("pretrain", arch)

    batch = settings(1).batch_size
    longest = min(args.max_steps, EPOCHS * (len(task.samples) // batch))
    with tempfile.TemporaryDirectory() as folder:
        run(settings(min(20, longest)), Path(folder, "warm-up"))
        trial, started = min(TRIAL, longest), time.monotonic()
        run(settings(trial), Path(folder, "trial"))
        rate = trial / (time.monotonic() - started)
        left = seconds - (time.monotonic() - start)
        steps = int(min(longest, max(1, 0.9 * rate * left)))
        model = run(settings(steps), Path(folder, "whole"))
        history = Path(folder, "whole", CURVE).read_text().splitlines()
        scores = validate(model, size_hw)
        pieces = write_pieces(save_weights(model.cpu().half(), Path(folder, f"{arch}.safetensors")), args.out)
    return {
        "arch": arch,
        "steps": steps,
        "epochs": round(steps * batch / len(task.samples), 2),
        "steps a second": round(rate, 2),
        "seconds": round(time.monotonic() - start),
        **scores,
        "pieces": pieces,
        "loss": history,
    }


def validate(model: torch.nn.Module, size_hw: tuple[int, int]) -> dict[str, float]:
    """Compute mean metrics on every fourth frame of the validation rooms."""
    scores = []
    for scene in open_dataset("glossyrooms").scenes("val"):
        for i in range(0, len(scene), 4):
            if (depth := scene.depth(i)) is not None:
                scores.append(
                    depth_metrics(predict(model, scene.image(i, size_hw)), nearest_depth(depth, size_hw))
                )
    return {
        name: round(float(np.mean([s[name] for s in scores])), 4)
        for name in ("abs_rel", "sq_rel", "rmse", "a1")
    }


def write_pieces(weights: Path, out: Path) -> list[str]:
    """Split a file into pieces. Add the hashes of the file and of the pieces to ``SHA256SUMS``."""
    content, names = weights.read_bytes(), []
    lines = [f"{io.sha256(weights)}  {weights.name}\n"]
    for k, start in enumerate(range(0, len(content), PIECE)):
        piece = out / f"{weights.name}.{k:02}"
        piece.write_bytes(content[start : start + PIECE])
        lines.append(f"{io.sha256(piece)}  {piece.name}\n")
        names.append(piece.name)
    with open(out / "SHA256SUMS", "a") as f:
        f.writelines(lines)
    return names


def main(argv: list[str] | None = None) -> list[dict[str, object]]:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=5.0)
    parser.add_argument("--size", default="192x160", help="width x height, multiples of 32")
    parser.add_argument("--archs", default=",".join(ENSEMBLE))
    parser.add_argument("--device", default="auto")
    parser.add_argument("--workers", type=int, default=8, help="loading processes")
    parser.add_argument("--max-steps", type=int, default=10**9)
    args = parser.parse_args(argv)
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / "SHA256SUMS").unlink(missing_ok=True)
    end = time.monotonic() + 60 * args.minutes
    archs, reports = args.archs.split(","), []
    print(
        "| network | steps | epochs | steps/s | seconds | abs_rel | sq_rel | rmse | a1 |\n"
        + "| --- " * 9
        + "|"
    )
    for k, arch in enumerate(archs):
        with contextlib.redirect_stdout(sys.stderr):  # the table below is the output
            report = teacher(arch, args, (end - time.monotonic()) / (len(archs) - k))
        reports.append(report)
        cells = [v for name, v in report.items() if name not in ("pieces", "loss")]
        print("| " + " | ".join(map(str, cells)) + " |", flush=True)
        result = {"machine": machine(select_device(args.device)), "size": args.size, "teachers": reports}
        io.write_json(args.out / "teachers.json", result)
    return reports


if __name__ == "__main__":
    main()
