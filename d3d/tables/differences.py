"""Differences between trainings of the same network, with confidence intervals."""

from __future__ import annotations

from functools import cache
from itertools import product

import numpy as np
import pandas as pd

from d3d.evaluation import arch_name, select, training_name
from d3d.metrics import METRICS
from d3d.models import ARCHITECTURES
from d3d.pipeline.settings import UNTRAINED
from d3d.tables.intervals import Change, paired_change
from d3d.tables.paper import RECOMMENDED, TRAININGS, set_name
from d3d.tables.scores import Evaluation, Scores

# Every training is compared with self-teaching, both recipes also with self-supervision, and ours with the paper's
AGAINST = {"pred": None, "": ("uncer", RECOMMENDED), "uncer": (RECOMMENDED,)}
# (list of frames, kind of pixels) of each block; the splits whose rooms are pooled
SETS = (("Reflection", "all"), ("NoReflection", "all"), ("", "all"), ("", "highlight"))
SPLITS = (("val", "test"), ("val",), ("test",))
# Scenes of one room: ScanNet's scene0000_00 and scene0000_01, 7-Scenes' chess/seq-01 and chess/seq-02
_SEQUENCE = r"(?<=^scene\d{4})_\d\d$|/seq-\d+$"

COLUMNS = [
    *("set", "dataset", "split", "list", "pixels", "architecture", "training", "against", "profile"),
    *("seeds", "n", "rooms", "images", "metric", *Change._fields, "excludes_zero"),
]


def differences(scores: Scores) -> pd.DataFrame:
    """Compare the trainings of each network on the data set trained on, in absolute depth (`AGAINST`).

    The rooms of the splits "val" and "test" are also pooled, because few rooms give a coarse interval.

    Returns:
        One row for each set of images, network, training and metric, with `COLUMNS`: the seeds that both trainings
        have, `intervals.Change` over these, and whether the interval of the difference excludes zero. ``change`` is a
        fraction. A training without a partner, or without a seed in common with it, has no row. A profile that does not
        learn has none.
    """
    if scores.profile in UNTRAINED:
        return pd.DataFrame(columns=COLUMNS)
    there: dict[tuple[str, str, int], dict[tuple[str, int], Evaluation]] = {}
    for e in scores.evaluations:
        if (e.dataset, e.scale) == (scores.trained_on, "none"):
            there.setdefault((e.arch, e.labels, e.round), {})[e.split, e.seed] = e
    pairs = [
        ((arch, against, 1), (arch, labels, round))
        for against, only in AGAINST.items()
        for arch, labels, round in sorted(there, key=_order)
        if (arch, against, 1) in there and (labels, round) != (against, 1) and labels in (only or (labels,))
    ]

    @cache
    def by_room(e: Evaluation, listed: str, pixels: str) -> pd.DataFrame:
        """Sums of the metrics over the images of each room, and the number of images."""
        frames = scores.lists.get((e.dataset, e.split), {}).get(listed, frozenset()) if listed else None
        part = select(e.per_image, pixels, frames)
        rooms = part[list(METRICS)].groupby(part["scene"].str.replace(_SEQUENCE, "", regex=True))
        return rooms.sum().assign(images=rooms.size())

    def pooled(training: tuple[str, str, int], splits: tuple[str, ...], seed: int, *which: str) -> np.ndarray:
        """The rooms of several splits: (rooms, metrics and number of images)."""
        parts = [by_room(there[training][split, seed], *which) for split in splits]
        return pd.concat(parts).groupby(level=0).sum().to_numpy()

    rows = []
    for splits, (listed, pixels), (before, after) in product(SPLITS, SETS, pairs):
        seeds = [
            seed
            for seed in scores.seeds
            if all((split, seed) in there[t] for t in (before, after) for split in splits)
        ]
        if not seeds:
            continue
        first, second = (
            np.stack([pooled(t, splits, seed, listed, pixels) for seed in seeds]) for t in (before, after)
        )
        images = first[0, :, -1]  # the same for every training and seed
        if not images.size:
            continue
        arch, labels, round = after
        row = {
            "set": _set_name(scores.trained_on, splits, listed, pixels),
            "dataset": scores.trained_on,
            "split": "+".join(splits),
            "list": listed,
            "pixels": pixels,
            "architecture": arch_name(arch),
            "training": training_name(labels) + (f", round {round}" if round > 1 else ""),
            "against": training_name(before[1]),
            "profile": scores.profile,
            "seeds": " ".join(map(str, seeds)),
            "n": len(seeds),
            "rooms": len(images),
            "images": int(images.sum()),
        }
        for k, metric in enumerate(METRICS):
            change = paired_change(first[..., k], second[..., k], images)
            excludes = change.difference_low > 0 or change.difference_high < 0
            rows.append({**row, "metric": metric, **change._asdict(), "excludes_zero": excludes})
    return pd.DataFrame(rows, columns=COLUMNS)


def _set_name(dataset: str, splits: tuple[str, ...], listed: str, pixels: str) -> str:
    name = set_name(dataset, splits[0], listed)
    if len(splits) > 1:
        name = f"{name.removesuffix(' Set')} + {' + '.join(s.capitalize() for s in splits[1:])} Sets"
    return f"{name}, highlights" if pixels == "highlight" else name


def _order(training: tuple[str, str, int]) -> tuple[object, ...]:
    """Networks in their order, the trainings of Tables 2 to 5 first."""
    arch, labels, round = training
    known = [*TRAININGS, RECOMMENDED]
    return ARCHITECTURES.index(arch), round, known.index(labels) if labels in known else len(known), labels
