"""Per-image scores with their description: the input of every table."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import pandas as pd

from d3d.datasets.scene import FrameList
from d3d.errors import DataError
from d3d.evaluation import in_split, summary
from d3d.metrics import METRICS


@dataclass(frozen=True)
class Evaluation:
    """One trained network, scored on one split."""

    arch: str
    labels: str  # label strategy; "" for the self-supervised network
    seed: int
    profile: str
    trained_on: str  # data set of the training
    dataset: str  # evaluated data set
    split: str
    scale: str = "none"  # absolute depth; "median" is relative depth
    round: int = 1  # round of distillation; the paper has one
    settings: str = ""  # sha256 of the scores' identity without the seed
    # from `evaluation.score`
    per_image: pd.DataFrame = field(default_factory=pd.DataFrame, repr=False, compare=False)
    # commands, versions, machine, seconds of the training and of the evaluation
    provenance: Mapping[str, Any] = field(default_factory=dict, repr=False, compare=False)

    @property
    def images(self) -> frozenset[tuple[str, str, str, bool]]:
        """The scored (scene, frame, kind of pixels, whether the frame is in the split)."""
        columns = (self.per_image[c] for c in ("scene", "frame", "pixels"))
        return frozenset(zip(*columns, in_split(self.per_image), strict=True))

    def __str__(self) -> str:
        trained = self.labels or "self-supervised"
        rounds = f", round {self.round}" if self.round > 1 else ""
        return f"{self.arch} {trained}{rounds}, seed {self.seed}, on {self.dataset} {self.split} (scale {self.scale})"


@dataclass(frozen=True)
class Scores:
    """The evaluations of one table, and the lists of frames of each (data set, split).

    Raises:
        DataError: there are no evaluations; they have several profiles or training sets; one appears twice; seeds
            differ in more than the seed; or evaluations of a split were scored on different images.
    """

    evaluations: tuple[Evaluation, ...]
    lists: Mapping[tuple[str, str], Mapping[str, FrameList]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.evaluations:
            raise DataError("no evaluation to make a table of: run `evaluate` first.")
        first = self.evaluations[0]
        there: dict[tuple[Any, ...], Evaluation] = {}
        for e in self.evaluations:
            for name, words in (("profile", "profiles"), ("trained_on", "training sets")):
                ours, theirs = getattr(first, name), getattr(e, name)
                if ours != theirs:
                    both = f"{ours!r} ({first}) and {theirs!r} ({e})"
                    raise DataError(f"evaluations of two {words}, {both}, do not belong in one table.")
            training = (e.arch, e.labels, e.round, e.dataset, e.split, e.scale)
            if (*training, e.seed) in there:
                raise DataError(f"there are two evaluations of {e}: keep one of them.")
            there[*training, e.seed] = e
            same_training = there.setdefault(training, e)  # with another seed
            if same_training.settings != e.settings:
                raise DataError(
                    f"{same_training} and {e} differ in more than the seed. Evaluate them with the same parameters, "
                    f"or make a table of each."
                )
            same_split = there.setdefault(training[3:], e)
            if same_split.images != e.images:
                counts = [int(summary(x.per_image)["images"]) for x in (same_split, e)]
                raise DataError(
                    f"{same_split} was scored on {counts[0]} images, {e} on {counts[1]}: the images differ. "
                    f"Evaluate both with the same eval_every."
                )

    @property
    def profile(self) -> str:
        return self.evaluations[0].profile

    @property
    def trained_on(self) -> str:
        return self.evaluations[0].trained_on

    @property
    def seeds(self) -> tuple[int, ...]:
        return tuple(sorted({e.seed for e in self.evaluations}))

    def in_part(self, dataset: str, split: str) -> bool:
        """Whether some images of the split were not scored (`Dataset.whole`)."""
        here = (e.provenance for e in self.evaluations if (e.dataset, e.split) == (dataset, split))
        return any(p.get("evaluation", {}).get("in_part", False) for p in here)


def over_seeds(evaluations: Iterable[Evaluation], frames: FrameList | None, pixels: str = "all") -> pd.Series:
    """Average the evaluations of one training over images (`evaluation.summary`), then over seeds.

    Returns:
        Each metric; ``<metric>_std``, the sample standard deviation (n - 1) over seeds, NaN for one seed; ``n``
        (number of seeds), ``seeds``, ``images``.
    """
    evaluations = sorted(evaluations, key=lambda e: e.seed)
    rows = [summary(e.per_image, pixels, frames) for e in evaluations]
    means = pd.DataFrame(rows, columns=[*METRICS, "images"])
    images, seeds = means.pop("images").max(), " ".join(str(e.seed) for e in evaluations)
    spread = means.std(ddof=1).add_suffix("_std")
    return pd.Series({"seeds": seeds, "n": len(evaluations), "images": images, **means.mean(), **spread})
