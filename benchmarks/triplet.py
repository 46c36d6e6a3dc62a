"""Measure triplet mining (E41): its mask and its loss on highlights, and the time of a training step.

    python benchmarks/triplet.py masks [--frames 26]    # how well its mask finds highlights: networks that ship
    python benchmarks/triplet.py behind [--frames 8]    # the losses with highlights behind the floor
    python benchmarks/triplet.py steps [--repeat 15]    # lite at 128x96, batch 8; the losses take turns

The frames are targets of the training rooms of GlossyRooms with truth.
"""

from __future__ import annotations

import argparse
import statistics
import time

import pandas as pd
import torch

import d3d
from d3d.analysis.triplet import errors_of, frames_with_truth, mask_quality
from d3d.datasets import find_triples, open_dataset
from d3d.datasets.samples import TripleSamples
from d3d.kernels import Adam
from d3d.losses import LOSSES, triplet_loss
from d3d.models import available, create_model
from d3d.pipeline.config import make_config
from d3d.training import PretrainTask, batch_loss


def masks(frames: int) -> None:
    """Print `mask_quality` of each network that ships."""
    wanted = list(frames_with_truth(make_config(profile="demo"), frames))
    found = {name: mask_quality(d3d.load_model(name).eval(), wanted) for name in available()}
    print(f"{len(wanted)} frames")
    print(pd.concat(found, names=["network"]).to_string(float_format=lambda x: f"{x:.3f}"))


def behind(frames: int) -> None:
    """Print mean errors and losses of highlight pixels with their true depth, and with a multiple of it.

    All other pixels have their true depth. "prefers truth" is the share of highlight pixels whose loss is smaller at
    the true depth.
    """
    rows: dict[float, list[pd.DataFrame]] = {factor: [] for factor in (1.0, 1.5, 1.75, 2.0)}
    for frame in frames_with_truth(make_config(profile="demo"), frames):
        wanted = torch.from_numpy(frame.highlight & (frame.gt > 0))
        gt = torch.from_numpy(frame.gt).float()
        gt = torch.where(gt > 0, gt, gt[gt > 0].median())
        for factor, found in rows.items():
            depth = torch.where(wanted, factor * gt, gt).clamp(0.1, 10)
            positive, negative, _ = errors_of(_Known(depth[None, None]), frame.sample)
            loss, mask = triplet_loss(positive, negative)
            maps = {"E+": positive, "E-": negative, "reflective": mask.float(), "triplet": loss}
            found.append(pd.DataFrame({name: x[0, 0][wanted].numpy() for name, x in maps.items()}))
    tables = {factor: pd.concat(found, ignore_index=True) for factor, found in rows.items()}
    prefers = {f: (tables[1.0] < table)[["E+", "triplet"]].mean() for f, table in tables.items()}
    means = pd.DataFrame({factor: table.mean() for factor, table in tables.items()}).T
    print(means.join(pd.DataFrame(prefers).T.add_prefix("prefers truth: ")).round(3).to_string())


class _Known:
    """A network that predicts this depth, metres."""

    min_depth, max_depth = 0.1, 10.0

    def __init__(self, depth_b1hw: torch.Tensor) -> None:
        self.disp = (1 / depth_b1hw - 1 / self.max_depth) / (1 / self.min_depth - 1 / self.max_depth)

    def __call__(self, images: torch.Tensor, scales: tuple[int, ...]) -> dict[int, torch.Tensor]:
        return {0: self.disp}


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
    parts = {"masks": masks, "behind": behind, "steps": steps}
    parser.add_argument("part", choices=parts)
    parser.add_argument(
        "--frames", type=int, default=26, help="least number of frames of each room (default: 26)"
    )
    parser.add_argument("--repeat", type=int, default=15, help="measured steps of each loss (default: 15)")
    given = parser.parse_args(arguments)
    parts[given.part](given.repeat if given.part == "steps" else given.frames)


if __name__ == "__main__":
    main()
