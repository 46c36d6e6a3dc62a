"""Confidence intervals of the difference between two trainings: a paired bootstrap over rooms and seeds (D94)."""

from __future__ import annotations

from functools import cache
from typing import NamedTuple

import numpy as np
from scipy.special import ndtr, stdtrit

CONFIDENCE = 0.95
RESAMPLES = 10_000


class Change(NamedTuple):
    """The mean metric of two trainings, their difference, and the relative change, with intervals.

    The bounds are NaN if there are fewer than two rooms. The change is NaN if the first mean is 0.
    """

    before: float
    after: float
    difference: float  # after - before
    difference_low: float
    difference_high: float
    change: float  # after / before - 1
    change_low: float
    change_high: float


def paired_change(before_sr: np.ndarray, after_sr: np.ndarray, images_r: np.ndarray) -> Change:
    """Compare two trainings that were scored on the same images, with the same seeds.

    The mean is over all images of a seed, then over seeds, as in the tables. Each resample draws as many rooms and as
    many seeds as there are, with replacement: rooms with all their images, because neighbouring frames are alike;
    seeds for both trainings, because they share their teachers. Every seed is scored on every room, so that the two
    draws are independent (Owen, The pigeonhole bootstrap, 2007). Both trainings use the same draws.

    The bounds are percentiles of the resampled differences. With n rooms, percentiles of 2.5 and 97.5 % are too narrow:
    the variance lacks a factor n / (n - 1), and the normal distribution replaces Student's t. The percentiles are
    therefore moved outwards (Hesterberg, What teachers should know about the bootstrap, 2015): to 0.24 and 99.76 %
    for six rooms. E40 has the measured coverage.

    Args:
        before_sr, after_sr: (seeds, rooms), sums of a metric over the images of a room.
        images_r: (rooms,), number of images of each room.
    """
    seeds, rooms = before_sr.shape
    point = _compare(before_sr, after_sr, images_r, np.ones((1, rooms)), np.full((1, seeds), 1 / seeds))
    bounds = np.full((2, 4), np.nan)
    if rooms >= 2:
        tail = expanded_tail(rooms)
        bounds = np.quantile(resampled(before_sr, after_sr, images_r), [tail, 1 - tail], axis=1)
    before, after, difference, change = point[:, 0].tolist()
    (*_, low, change_low), (*_, high, change_high) = bounds.tolist()
    return Change(before, after, difference, low, high, change, change_low, change_high)


def expanded_tail(rooms: int) -> float:
    """The share of resamples below the interval (and above it) for a number of rooms (`paired_change`)."""
    return float(ndtr(np.sqrt(rooms / (rooms - 1)) * stdtrit(rooms - 1, (1 - CONFIDENCE) / 2)))


def resampled(before_sr: np.ndarray, after_sr: np.ndarray, images_r: np.ndarray) -> np.ndarray:
    """Means before and after, difference and relative change of each resample: (4, resamples). See `paired_change`."""
    seeds, rooms = before_sr.shape
    return _compare(before_sr, after_sr, images_r, *_draws(rooms, seeds))


@cache
def _draws(rooms: int, seeds: int) -> tuple[np.ndarray, np.ndarray]:
    """How often each resample has each room, and the weight of each seed in it. The same in every process."""
    rng = np.random.default_rng(0)
    times = rng.multinomial(rooms, np.full(rooms, 1 / rooms), RESAMPLES)
    return times.astype(float), rng.multinomial(seeds, np.full(seeds, 1 / seeds), RESAMPLES) / seeds


def _compare(
    before_sr: np.ndarray,
    after_sr: np.ndarray,
    images_r: np.ndarray,
    times_br: np.ndarray,
    weights_bs: np.ndarray,
) -> np.ndarray:
    """The rows of `resampled` for given numbers of each room and weights of each seed."""
    images = times_br @ images_r
    before, after = (((weights_bs @ sums) * times_br).sum(1) / images for sums in (before_sr, after_sr))
    change = np.divide(after, before, out=np.full_like(after, np.nan), where=before != 0) - 1
    return np.stack([before, after, after - before, change])
