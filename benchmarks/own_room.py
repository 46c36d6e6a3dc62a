"""Does the recipe of `python -m d3d room` help? Error before and after distillation, on rooms whose depth is known.

    python -m benchmarks.own_room --rooms test-0000,test-0001,test-0004,test-0005 --out own_room.csv
    python -m benchmarks.own_room --kitchen FOLDER --seeds 0,1,2 --out own_room.csv
    python -m benchmarks.own_room --kitchen FOLDER --video-run RUN --out own_room.csv

A rendered room is written as a capture: images and poses of unknown scale (`glossyrooms.capture`). The networks train
on its frames only. Predictions are scored on all frames, after one factor for the whole room (the median of truth /
prediction). --kitchen takes 7-Scenes: every 3rd frame is a target, the last fifth of the walk is held out, and
every 4th frame of it is scored against the registered sensor, without a scale. Its glossy cupboards are scored
apart: they are the red pixels. --video-run takes a finished run of `python -m d3d room` on the frames of
redkitchen/seq-01 as a video; every 3rd frame that it chose is scored, after one factor.

One row for each room, seed and network: "before" is the teacher, "after" the student. Finished trainings are reused.
"""

from __future__ import annotations

import argparse
import csv
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageFilter

from d3d import room
from d3d.datasets import Scene, open_dataset
from d3d.errors import ConfigError
from d3d.metrics import depth_metrics
from d3d.models import load_model
from d3d.models.base import DepthNetwork
from d3d.models.shipped import shipped_file
from d3d.pipeline import stages
from d3d.pipeline.config import Config, make_config
from d3d.prediction import predict
from d3d.training import WEIGHTS
from d3d.uncertainty import SNAPSHOTS
from glossyrooms.capture import SOURCE, find_room, truth_of, write_capture

KITCHEN = {"every": 3, "max_rotation_deg": 5.0, "max_translation_m": 0.12, "bounds": "paper"}
SCORED_EVERY = 4  # frames of the held-out block


def main(words: Sequence[str] | None = None) -> int:
    args = _parser().parse_args(words)
    rows = []
    for seed in map(int, args.seeds.split(",")):
        for name in filter(None, args.rooms.split(",")):
            capture = Path(args.runs) / "captures" / name
            if not capture.exists():
                write_capture(find_room(name), capture)
            if (truth := truth_of(capture)) is None:
                raise ConfigError(
                    f"{capture} is not the capture of a rendered room: it has no {SOURCE}. Delete it, or name another "
                    "folder with --runs."
                )
            more = {"start": args.start, "student_start": args.student_start}
            config = room.make_config(
                capture, run=f"{name}-{_tag(args)}-seed{seed}", **more, **_options(args, seed)
            )
            highlights = {"highlights": [truth.highlight_mask(i) for i in range(len(truth))]}
            rows += _compared(_with_steps(config, args), name, seed, args, truth, highlights, factor=True)
        if args.kitchen and not args.video_run:
            options = KITCHEN | _options(args, seed)
            if args.start != "imagenet":
                options["weights"] = f"lite={shipped_file(args.start)}"
            run = f"kitchen-{_tag(args)}-seed{seed}"
            config = make_config(profile="room", dataset="7scenes", root=args.kitchen, run=run, **options)
            if args.student_start == "teacher":
                config = replace(config, distill=replace(config.distill, weights="teacher"))
            scene = stages.dataset(config).scenes("val")[0]
            scored = scene.subset(range(0, len(scene), SCORED_EVERY), "val")
            red = {"cupboards": [is_red(scored.image(i)) for i in range(len(scored))]}
            rows += _compared(_with_steps(config, args), "kitchen", seed, args, scored, red, factor=False)
    if args.video_run:
        rows += _video_rows(Path(args.video_run), args)
    _write(Path(args.out), rows)
    return 0


def _video_rows(run: Path, args: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Score both networks of a room whose video has the 1,000 frames of redkitchen/seq-01."""
    (scene,) = open_dataset("7scenes", args.kitchen, val_block=(0.0, 1.0)).scenes("val")
    depth = sorted((run / "room/depth").glob("frame_*.png"))
    scored = scene.subset([int(path.stem.removeprefix("frame_")) for path in depth[::3]], "video")
    red = {"cupboards": [is_red(scored.image(i)) for i in range(len(scored))]}
    for which, stage in (("before", "pretrain/lite"), ("after", "distill/lite/robust")):
        model = load_model(run / stage / WEIGHTS).eval()
        found = scores(model, scored, model.train_size, red, factor=True)
        print(f"{which}: {found}", flush=True)
        yield {"room": "video", "labels": "robust", "network": which, **found}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rooms", default="", help="rooms of GlossyRooms, separated by commas")
    parser.add_argument("--kitchen", metavar="FOLDER", help="folder of 7-Scenes with redkitchen")
    parser.add_argument("--video-run", metavar="RUN", help="folder of a finished run on redkitchen's video")
    parser.add_argument("--seeds", default="0")
    parser.add_argument("--start", default="imagenet", help="imagenet, or the name of a network that ships")
    parser.add_argument("--student-start", default="teacher", help="teacher or same")
    parser.add_argument("--labels", default="robust")
    parser.add_argument(
        "--uncertainty", default="tta", help="uncertainty of labels and mesh: tta, snapshots, ensemble"
    )
    parser.add_argument("--ensemble", help="networks of the ensemble, separated by commas")
    parser.add_argument("--pretrain-steps", type=int, help="default: the profile's")
    parser.add_argument("--distill-steps", type=int, help="default: the profile's")
    parser.add_argument("--runs", default="runs/own_room", help="folder of captures and runs")
    parser.add_argument("--out", required=True, help="CSV file; rows are appended")
    return parser


def _tag(args: argparse.Namespace) -> str:
    words = (args.start, args.student_start, args.labels, args.pretrain_steps, args.distill_steps)
    return "-".join(str(word) for word in words if word)


def _labels(args: argparse.Namespace) -> str:
    return args.labels if args.uncertainty == "tta" else f"{args.labels}-{args.uncertainty}"


def _options(args: argparse.Namespace, seed: int) -> dict[str, Any]:
    options = {"seed": seed, "runs_dir": args.runs, "ensemble": args.ensemble, "labels": _labels(args)}
    return {name: value for name, value in options.items() if value is not None}


def _with_steps(config: Config, args: argparse.Namespace) -> Config:
    for stage in ("pretrain", "distill"):
        if (steps := getattr(args, f"{stage}_steps")) is not None:
            config = replace(config, **{stage: replace(getattr(config, stage), steps=steps)})
    fusion = replace(config.fusion, uncertainty=args.uncertainty)
    # kept in every case, so that one teacher serves all uncertainties
    return replace(config, fusion=fusion, pretrain=replace(config.pretrain, snapshots=SNAPSHOTS))


def is_red(image: np.ndarray) -> np.ndarray:
    """Return the pixels (H, W) of an image (H, W, 3, uint8) that are clearly red, in spite of noise and JPEG blocks."""
    colour = np.asarray(Image.fromarray(image).filter(ImageFilter.GaussianBlur(3)), dtype=float)
    return (colour[..., 0] > 1.7 * colour[..., 1:].max(axis=-1)) & (colour[..., 0] > 40)


def _compared(
    config: Config,
    name: str,
    seed: int,
    args: argparse.Namespace,
    truth: Scene,
    region: dict[str, Sequence[np.ndarray]],
    factor: bool,
) -> Iterator[dict[str, Any]]:
    start = time.monotonic()
    for which, folder in (("before", stages.pretrain(config)), ("after", stages.distill(config))):
        found = scores(load_model(folder).eval(), truth, config.data.size_hw, region, factor)
        row = {"room": name, "seed": seed, "start": args.start, "student_start": args.student_start}
        row |= {
            "labels": _labels(args),
            "pretrain_steps": config.pretrain.steps,
            "distill_steps": config.distill.steps,
        }
        row |= {"network": which, **found}
        print(
            ", ".join(f"{k} {v:.4g}" if isinstance(v, float) else f"{k} {v}" for k, v in row.items()),
            flush=True,
        )
        yield row
    print(f"{name}: {time.monotonic() - start:.0f} s", flush=True)


def scores(
    model: DepthNetwork,
    truth: Scene,
    size_hw: tuple[int, int],
    region: dict[str, Sequence[np.ndarray]],
    factor: bool,
) -> dict[str, float]:
    """Score a network on all frames of a scene together.

    Args:
        model: the network.
        truth: frames with true depth.
        size_hw: size of the network's input.
        region: name of a kind of surface, and its pixels: a mask (H, W) for each frame.
        factor: multiply all depth by one factor, the median of truth / prediction.

    Returns:
        Abs Rel, Sq Rel and bias (mean of the signed relative error) of all pixels, of the region and of the others;
        the share of the region without true depth; the median of truth / prediction.
    """
    predicted = np.stack([predict(model, truth.image(i), size_hw=size_hw) for i in range(len(truth))])
    true = np.stack([truth.depth(i) for i in range(len(truth))])
    valid = (true > 0.1) & (true < 10.0)
    ratio = float(np.median(true[valid] / predicted[valid]))
    if factor:
        predicted *= ratio
    ((name, masks),) = region.items()
    inside = np.stack(masks)
    found = {"ratio": ratio, f"unknown_{name}": float(1 - valid[inside].mean())}
    for kind, mask in {"all": valid, name: valid & inside, "others": valid & ~inside}.items():
        metrics = depth_metrics(predicted, true, mask)
        found |= {f"{metric}_{kind}": float(metrics[metric]) for metric in ("abs_rel", "sq_rel")}
        found[f"bias_{kind}"] = float((predicted[mask] / true[mask] - 1).mean())
    return found


def _write(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    names = list(dict.fromkeys(name for row in rows for name in row))
    old = []
    if path.is_file():
        with path.open(newline="") as file:
            old = list(csv.DictReader(file))
        names = list(dict.fromkeys([*(old[0] if old else ()), *names]))
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, names)
        writer.writeheader()
        writer.writerows([*old, *rows])


if __name__ == "__main__":
    sys.exit(main())
