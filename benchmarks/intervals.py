"""How often does the 95 % interval of `d3d.tables.intervals` contain the truth? A simulation.

    python -m benchmarks.intervals

Scores of two trainings are drawn with a known expected difference: each has an effect of the room, of the seed and of
both together. Their standard deviations are those of the stored scores of profile `laptop` (Monodepth2, 3D distillation
against self-teaching, Sq Rel; E40). Rooms have as many images as in the lists. Skewed: the effect of the room is
log-normal. Printed: the share of intervals that contain the truth, for the interval of d3d and for the usual
percentiles, of the difference and of the relative change, and how often a difference of zero is marked.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from itertools import product

import numpy as np

from d3d.tables.intervals import CONFIDENCE, expanded_tail, resampled

IMAGES = {
    "Reflection": (56, 40, 52, 14, 49, 60, 71, 31),
    "NoReflection": (15, 30, 80, 46, 12, 16, 29, 73, 46),
}
# mean before, mean difference; standard deviations of the difference: rooms, seeds, both together (metres)
MODELS = {
    "Reflection": (0.16, -0.074, 0.027, 0.009, 0.012),
    "NoReflection": (0.09, -0.002, 0.006, 0.006, 0.017),
}
LEVEL = 0.3  # relative standard deviation of the error between rooms


def draw(
    rng: np.random.Generator, model: str, rooms: int, seeds: int, skewed: bool, null: bool = False
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Draw sums before and after (seeds, rooms) and the number of images (rooms,)."""
    mean, effect, room, seed, both = MODELS[model]
    effect = 0 if null else effect
    images = rng.choice(IMAGES[model], rooms)
    level = mean * (1 + LEVEL * _standard(rng, rooms, skewed))
    before = level + rng.normal(0, both, (seeds, rooms)) / 2
    difference = effect / mean * level + room * _standard(rng, rooms, skewed)
    difference = difference + rng.normal(0, seed, (seeds, 1)) + rng.normal(0, both, (seeds, rooms))
    return before * images, (before + difference) * images, images


def _standard(rng: np.random.Generator, n: int, skewed: bool) -> np.ndarray:
    """Values with mean 0 and standard deviation 1."""
    if not skewed:
        return rng.standard_normal(n)
    sigma = 0.6
    mean, deviation = np.exp(sigma**2 / 2), np.sqrt(np.expm1(sigma**2) * np.exp(sigma**2))
    return (rng.lognormal(0, sigma, n) - mean) / deviation


def coverage(model: str, rooms: int, seeds: int, skewed: bool, simulations: int) -> dict[str, float]:
    """The share of simulations whose interval contains the truth, and of those that mark a difference of zero."""
    mean, effect, *_ = MODELS[model]
    rng = np.random.default_rng(0)
    ours, usual = expanded_tail(rooms), (1 - CONFIDENCE) / 2
    truth = np.array([effect, effect / mean])
    inside, marked = np.zeros((2, 2)), 0
    for _ in range(simulations):
        values = resampled(*draw(rng, model, rooms, seeds, skewed))[2:]
        low_ours, low, high, high_ours = np.quantile(values, [ours, usual, 1 - usual, 1 - ours], axis=1)
        inside += [(low_ours <= truth) & (truth <= high_ours), (low <= truth) & (truth <= high)]
        nothing = resampled(*draw(rng, model, rooms, seeds, skewed, null=True))[2]
        marked += (nothing > 0).mean() < ours or (nothing < 0).mean() < ours
    names = [f"{n}, {what}" for n in ("d3d", "percentile") for what in ("difference", "change")]
    return dict(
        zip([*names, "zero marked"], [*inside.ravel() / simulations, marked / simulations], strict=True)
    )


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--simulations", type=int, default=2000)
    simulations = parser.parse_args(arguments).simulations
    head = None
    for cell in product(MODELS, (False, True), (3, 1), (4, 6, 8, 12)):
        model, skewed, seeds, rooms = cell
        shares = coverage(model, rooms, seeds, skewed, simulations)
        if head is None:
            head = ["model", "rooms", "seeds", "effects", *shares]
            print("| " + " | ".join(head) + " |\n" + "| --- " * len(head) + "|")
        words = [model, str(rooms), str(seeds), "skewed" if skewed else "normal"]
        print("| " + " | ".join(words + [f"{100 * v:.1f}" for v in shares.values()]) + " |", flush=True)


if __name__ == "__main__":
    main()
