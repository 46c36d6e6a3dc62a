"""Measure the cost of smaller weight files: Sq Rel and the change of depth for several storage formats (E30).

    python -m benchmarks.packing --profile demo --archs monodepth2,lite

The script reads the self-supervised networks of a run. It writes temporary files only.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from d3d import io
from d3d.evaluation import summary
from d3d.models import load_model, save_weights
from d3d.models.packing import pack, unpack
from d3d.pipeline import graph
from d3d.pipeline.config import make_config
from d3d.pipeline.scenes import evaluated_dataset, evaluated_frames, evaluated_scenes
from d3d.pipeline.stages.scores import score_file
from d3d.pipeline.stages.trainings import trained
from d3d.prediction import DepthStore
from d3d.training import WEIGHTS

State = dict[str, Tensor]


def _each_by_itself(state: State, per_channel: bool) -> State:
    """Store every kernel with 8 bits a weight; round each weight to the nearest step."""
    result = {}
    for name, t in state.items():
        if t.ndim > 1:
            largest = (
                t.flatten(1).abs().amax(1).reshape(-1, *[1] * (t.ndim - 1)) if per_channel else t.abs().max()
            )
            step = (largest / 127).clamp(min=1e-30)
            t = (t / step).round() * step
        result[name] = t
    return result


WAYS: dict[str, Callable[[State], State]] = {
    "float32": lambda state: state,
    "float16": lambda state: unpack(pack(state, "float16"), ""),
    "int8, a scale for each tensor, nearest": lambda state: _each_by_itself(state, False),
    "int8, a scale for each channel, nearest": lambda state: _each_by_itself(state, True),
    "int8 as it ships": lambda state: unpack(pack(state, "int8"), ""),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    for name in ("profile", "runs-dir", "run"):
        parser.add_argument(f"--{name}")
    parser.add_argument("--archs", default="monodepth2,lite")
    parser.add_argument("--splits", default="val,test")
    given = vars(parser.parse_args())
    archs, splits = given.pop("archs").split(","), given.pop("splits").split(",")
    config = make_config(**given)
    for arch in archs:
        source = graph.require_finished(config, trained(config, arch, "")) / WEIGHTS
        for split in splits:
            c = replace(config, evaluation=replace(config.evaluation, split=split))
            with tempfile.TemporaryDirectory() as folder:
                _compare(c, arch, source, Path(folder))


def _compare(config, arch: str, source: Path, folder: Path) -> None:
    split, first = config.evaluation.split, None
    lists = evaluated_dataset(config).lists(split)
    for way, change in WAYS.items():
        model, out = load_model(source), folder / way.replace(" ", "-")
        model.load_state_dict(change(model.state_dict()))
        path = save_weights(model, out / WEIGHTS)
        per_image = score_file(config, path, io.sha256(path), out, f"{arch}, {way}")
        rows = [
            summary(per_image),
            *(summary(per_image, frames=lists[n]) for n in ("Reflection", "NoReflection")),
        ]
        scores = torch.tensor([row["sq_rel"] for row in rows])
        first = scores if first is None else first
        changes = ", ".join(f"{value:+.2%}" for value in (scores / first - 1).tolist())
        values = " / ".join(f"{value:.4f}" for value in scores.tolist())
        moved = _moved(config, DepthStore(folder / "float32" / "depth"), DepthStore(out / "depth"))
        print(
            f"{arch}, {split}, {way}: Sq Rel {values} ({changes}); depth changes by {moved:.3%}", flush=True
        )


def _moved(config, before: DepthStore, after: DepthStore) -> float:
    """Compute the mean absolute relative change of depth over all pixels."""
    changes = [
        abs(after.read_of(scene, i) / before.read_of(scene, i) - 1).mean()
        for scene in evaluated_scenes(config)
        for i in evaluated_frames(config, scene)
    ]
    return float(sum(changes) / len(changes))


if __name__ == "__main__":
    main()
