"""Per-image scores with all that says what they are of: what a table is made from, wherever it was stored."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import pandas as pd

from d3d.datasets.scene import FrameList
from d3d.errors import DataError
from d3d.evaluation import on_list
from d3d.metrics import METRICS


@dataclass(frozen=True)
class Evaluation:
    """One trained network, scored on one split.

    Attributes:
        arch: the network's registered name.
        labels: what it was trained on; "" is the self-supervised network.
        seed: the run's seed.
        profile: the run's profile.
        trained_on: name of the data set it was trained on.
        dataset: name of the data set it was scored on.
        split: the split it was scored on.
        scale: "none" (absolute depth) or "median" (relative depth).
        round: of distillation; more than 1 is beyond the paper.
        settings: sha256 of all that determined the scores, but for the seed: the same for every seed.
        per_image: from `evaluation.score`.
        provenance: what made it: commands, versions, machine, seconds of training and evaluation.
    """

    arch: str
    labels: str
    seed: int
    profile: str
    trained_on: str
    dataset: str
    split: str
    scale: str = "none"
    round: int = 1
    settings: str = ""
    per_image: pd.DataFrame = field(default_factory=pd.DataFrame, repr=False, compare=False)
    provenance: Mapping[str, Any] = field(default_factory=dict, repr=False, compare=False)

    @property
    def images(self) -> frozenset[tuple[str, str, str]]:
        """The (scene, frame, kind of pixels) that were scored."""
        columns = (self.per_image[c] for c in ("scene", "frame", "pixels"))
        return frozenset(zip(*columns, strict=True))

    @property
    def in_part(self) -> bool:
        """Whether scenes of the split were not there when it was scored (`Dataset.whole`)."""
        return bool(self.provenance.get("evaluation", {}).get("in_part", False))

    def __str__(self) -> str:
        trained = self.labels or "self-supervised"
        rounds = f", round {self.round}" if self.round > 1 else ""
        return f"{self.arch} {trained}{rounds}, seed {self.seed}, on {self.dataset} {self.split} (scale {self.scale})"


@dataclass(frozen=True)
class Scores:
    """Evaluations that may stand in one set of tables, and the lists of frames of what they were scored on.

    Attributes:
        evaluations: of one profile and one data set that all were trained on.
        lists: (data set, split) -> `Dataset.lists` of that split.

    Raises:
        DataError: there is none; they are of several profiles or training sets; one is there twice; seeds differ
            in more than the seed; or of one split not all were scored on the same images.
    """

    evaluations: tuple[Evaluation, ...]
    lists: Mapping[tuple[str, str], Mapping[str, FrameList]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check(self.evaluations)

    @property
    def profile(self) -> str:
        return self.evaluations[0].profile

    @property
    def trained_on(self) -> str:
        return self.evaluations[0].trained_on

    @property
    def seeds(self) -> tuple[int, ...]:
        return tuple(sorted({e.seed for e in self.evaluations}))

    def of(self, dataset: str, split: str, scale: str = "none") -> list[Evaluation]:
        """The evaluations on one split."""
        return [e for e in self.evaluations if (e.dataset, e.split, e.scale) == (dataset, split, scale)]


def check(evaluations: Iterable[Evaluation]) -> None:
    """Refuses evaluations that may not stand in one table; raises as `Scores` says."""
    evaluations = tuple(evaluations)
    if not evaluations:
        raise DataError("no evaluation to make a table of: run `evaluate` first.")
    first = evaluations[0]
    there: dict[tuple[Any, ...], Evaluation] = {}
    for e in evaluations:
        for name, words in (("profile", "profiles"), ("trained_on", "training sets")):
            ours, theirs = getattr(first, name), getattr(e, name)
            if ours != theirs:
                raise DataError(
                    f"evaluations of two {words}, {ours!r} ({first}) and {theirs!r} ({e}), do not belong in one table."
                )
        what = (e.arch, e.labels, e.round, e.dataset, e.split, e.scale)
        if (*what, e.seed) in there:
            raise DataError(f"there are two evaluations of {e}: which one counts?")
        there[*what, e.seed] = e
        # of the same training, another seed; of the same split, another training
        twin = there.setdefault(what, e)
        if twin.settings != e.settings:
            raise DataError(
                f"{twin} and {e} differ in more than the seed: their configurations are not the same. Evaluate "
                f"them with the same parameters, or make a table of each."
            )
        other = there.setdefault(what[3:], e)
        if other.images != e.images:
            raise DataError(
                f"{other} was scored on {_count(other)} images, {e} on {_count(e)}, and they are not the same images. "
                f"Evaluate both with the same eval_every."
            )


def _count(evaluation: Evaluation) -> int:
    return int((evaluation.per_image["pixels"] == "all").sum())


def over_seeds(evaluations: Iterable[Evaluation], frames: FrameList | None, pixels: str = "all") -> pd.Series:
    """Means over images, then over seeds: each metric, ``<metric>_std``, ``n`` (seeds), ``seeds``, ``images``.

    Args:
        evaluations: one training, a seed each; may be none.
        frames: the (scene, frame) that count; None: all.
        pixels: "all", "highlight" or "diffuse".

    Returns:
        ``<metric>_std`` is the sample standard deviation (n - 1) of the seeds' means, NaN for one seed.
    """
    evaluations = sorted(evaluations, key=lambda e: e.seed)
    means, images = [], None
    for e in evaluations:
        part = e.per_image[e.per_image["pixels"] == pixels]
        if frames is not None:
            part = on_list(part, frames)
        means.append(part[list(METRICS)].mean())
        images = len(part)
    table = pd.DataFrame(means, columns=list(METRICS))
    values = {"seeds": " ".join(str(e.seed) for e in evaluations), "n": len(evaluations), "images": images}
    return pd.Series({**values, **table.mean(), **table.std(ddof=1).add_suffix("_std")})
