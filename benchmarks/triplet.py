"""Measure triplet mining (E41): how well its mask finds highlights, and the time of a training step.

python benchmarks/triplet.py masks [--frames 26]    # each network that ships, training rooms with truth
python benchmarks/triplet.py steps [--repeat 15]    # lite at 128x96, batch 8; the losses take turns
"""

from __future__ import annotations

import argparse
import statistics
import time

import pandas as pd
import torch

import d3d
from d3d.analysis.triplet import frames_with_truth, mask_quality
from d3d.datasets import find_triples, open_dataset
from d3d.datasets.samples import TripleSamples
from d3d.kernels import Adam
from d3d.losses import LOSSES
from d3d.models import available, create_model
from d3d.pipeline.config import make_config
from d3d.training import PretrainTask, batch_loss


def masks(frames: int) -> None:
    """Print `mask_quality` of each network that ships."""
    wanted = list(frames_with_truth(make_config(profile="demo"), frames))
    found = {name: mask_quality(d3d.load_model(name).eval(), wanted) for name in available()}
    print(f"{len(wanted)} frames")
    print(pd.concat(found, names=["network"]).to_string(float_format=lambda x: f"{x:.3f}"))


def steps(repeat: int) -> None:
    """Print CPU seconds of a step (all threads) with each loss: the median, and its ratio to the paper's loss."""
    config = make_config(profile="demo", arch="lite")
    training, room = config.training("pretrain", "lite"), open_dataset("glossyrooms").scenes("train")[0]
    samples = TripleSamples([room], [find_triples(room.world_T_cams, every=1)], config.data.size_hw)
    batch = torch.utils.data.default_collate([samples[0, k] for k in range(training.batch_size)])
    model = create_model("lite", pretrained=False).train().to(memory_format=torch.channels_last)
    optimizer = Adam(model.parameters(), lr=1e-5)
    seconds: dict[str, list[float]] = {name: [] for name in LOSSES}
    for _ in range(repeat + 2):
        for name, spent in seconds.items():
            start = time.process_time()
            task = PretrainTask(samples, training.scales, loss_name=name)
            loss, _ = batch_loss(model, task, batch, training)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            spent.append(time.process_time() - start)
    medians = {name: statistics.median(spent[2:]) for name, spent in seconds.items()}
    print(f"{torch.get_num_threads()} threads")
    for name, median in medians.items():
        print(f"{name}: {median:.3f} s, {median / medians['photometric']:.2f} times photometric")


def main(arguments: list[str] | None = None) -> None:
    """Run one measurement."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("part", choices=("masks", "steps"))
    parser.add_argument(
        "--frames", type=int, default=26, help="least number of frames of each room (default: 26)"
    )
    parser.add_argument("--repeat", type=int, default=15, help="measured steps of each loss (default: 15)")
    given = parser.parse_args(arguments)
    masks(given.frames) if given.part == "masks" else steps(given.repeat)


if __name__ == "__main__":
    main()
