"""Manual review of ranked frames (section 4.1): accept or reject each frame, and write the list.

`Review` stores each decision at once; an interrupted review resumes. `d3d.notebook.review` shows the controls. `write`
writes the list. `write_automatic` writes a list by a rule, without a review.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

import pandas as pd
from matplotlib.figure import Figure

from d3d import io
from d3d.datasets.lists import check_name, write_list
from d3d.datasets.records import Record, parse
from d3d.datasets.scene import FrameList
from d3d.errors import DataError, RunError, rounded
from d3d.figures import Panel, grid
from d3d.figures.colours import uncertainty_limit
from d3d.lists.ranking import by_rule, evidence
from d3d.pipeline import stages
from d3d.pipeline.config import Config
from d3d.pipeline.scenes import evaluated_dataset

ACCEPT, REJECT = "accept", "reject"
Frame = tuple[str, str]  # scene's name, frame id


class _Decisions(Record):
    format: Literal[1]
    decisions: list[tuple[str, str, Literal["accept", "reject"]]]


class Review:
    """Decisions on frames, shown one by one. Each decision is stored before the next frame is shown.

    The file lists the decisions in chronological order; the last decision on a frame counts. Decisions on frames
    outside this review are kept.
    """

    def __init__(self, frames: Sequence[Frame], path: Path) -> None:
        """Begin a review, or resume it at the first undecided frame after the last decision.

        Raises:
            DataError: there is no frame, a frame is given twice, or the file is not readable.
        """
        self.path = Path(path)
        self.frames = [(str(s), str(f)) for s, f in frames]  # in the order they are shown
        if not self.frames:
            raise DataError("nothing to review: the ranking has no frame.")
        if len(set(self.frames)) != len(self.frames):
            raise DataError("nothing to review: the ranking has a frame twice.")
        self._events = self._read()
        self.index = 0  # of the current frame
        if self._events:
            self._show_next(self._last(0))

    def _read(self) -> list[tuple[str, str, str]]:
        where = f"{self.path}: not readable as decisions of a review"
        try:
            content = self.path.read_bytes()
        except (FileNotFoundError, IsADirectoryError):
            return []
        except OSError as error:
            raise DataError(f"{where} ({error}).") from None
        return parse(_Decisions, content, where, "Move it away to start a new review.").decisions

    @property
    def decisions(self) -> dict[Frame, str]:
        """Frame -> "accept" or "reject"."""
        return {(scene, frame): decision for scene, frame, decision in self._events}

    @property
    def current(self) -> Frame:
        return self.frames[self.index]

    @property
    def accepted(self) -> FrameList:
        """All accepted frames, including frames outside this review."""
        return frozenset(frame for frame, decision in self.decisions.items() if decision == ACCEPT)

    @property
    def left(self) -> int:
        """The number of undecided frames."""
        return len(set(self.frames) - self.decisions.keys())

    def accept(self) -> None:
        """Put the current frame on the list and go to the next undecided frame."""
        self._decide(ACCEPT)

    def reject(self) -> None:
        """Keep the current frame off the list and go to the next undecided frame."""
        self._decide(REJECT)

    def undo(self) -> bool:
        """Remove the last decision and go to its frame. Return False if there is no decision."""
        if not self._events:
            return False
        index = self._last(self.index)
        self._save(self._events[:-1])
        self.index = index
        return True

    def go(self, index: int) -> None:
        """Go to a frame without making a decision; the index is limited to the valid range."""
        self.index = min(max(int(index), 0), len(self.frames) - 1)

    def _decide(self, decision: str) -> None:
        self._save([*self._events, (*self.current, decision)])
        self._show_next(self.index)

    def _last(self, otherwise: int) -> int:
        """The index of the last decided frame; ``otherwise`` if it is outside this review."""
        frame = self._events[-1][:2]
        return self.frames.index(frame) if frame in self.frames else otherwise

    def _show_next(self, after: int) -> None:
        """Go to the next undecided frame after ``after``, from the start again after the end; stay if there is none."""
        decisions, n = self.decisions, len(self.frames)
        order = [*range(after + 1, n), *range(after + 1)]
        self.index = next((i for i in order if self.frames[i] not in decisions), after)

    def _save(self, events: list[tuple[str, str, str]]) -> None:
        if self._read() != self._events:
            raise RunError(
                f"{self.path} was changed by another review in the meantime. This decision is not stored. "
                f"Run the cell again to continue from the file."
            )
        io.write_json(self.path, {"format": 1, "decisions": events})
        self._events = events


def list_path(config: Config, name: str, suffix: str = ".txt") -> Path:
    """Return the file of a list made from this run: ``runs/<run>/lists/<split>_<name>.txt``.

    Raises:
        ConfigError: the name is invalid for a list.
    """
    e = config.evaluation
    check_name(name, e.split)
    return stages.folder_of(config, "lists", e.dataset or "") / f"{e.split}_{name}{suffix}"


def open_review(config: Config, ranking: pd.DataFrame, name: str = "Reflection") -> Review:
    """Begin or resume the review for a list. Frames are shown in the order of the ranking."""
    frames = list(zip(ranking["scene"], ranking["frame"], strict=True))
    return Review(frames, list_path(config, name, ".json"))


def _write(config: Config, name: str, decided_by: str, frames: FrameList) -> Path:
    e = config.evaluation
    header = {
        "list": name,
        "data set": f"{e.dataset or config.data.dataset}, split {e.split}, eval_every {e.every}",
        "decided by": decided_by,
        "ranked by": f"d3d, run {config.run} (profile {config.profile}, seed {config.seed})",
        "date": datetime.now(UTC).date(),
    }
    return write_list(list_path(config, name), frames, header)


def write(config: Config, review: Review, name: str = "Reflection") -> Path:
    """Write the accepted frames as a list; its header names the manual review. A `DataError` if there is no frame."""
    n, decided = len(review.accepted), len(review.decisions)
    by = f"a person, frame by frame with d3d.lists.review; {decided} looked at, {n} accepted"
    return _write(config, name, by, review.accepted)


def write_automatic(
    config: Config,
    ranking: pd.DataFrame,
    share: float | None = None,
    score_m: float | None = None,
    name: str = "Reflection",
) -> Path:
    """Write the frames chosen by `by_rule` as a list. Its name and header say that nobody has reviewed it.

    Args:
        name: name of the list, without the suffix "-automatic".

    Raises:
        ConfigError: as in `by_rule`.
        DataError: no frame has such a score.
    """
    chosen = by_rule(ranking, share, score_m)
    rule = f"the best {share:.1%} by score" if share is not None else f"score at least {score_m:g} m"
    by = f"an automatic rule, nobody has looked: {rule}, {len(chosen)} of {len(ranking)} frames"
    return _write(config, f"{name}-automatic", by, chosen)


def picture(
    config: Config, review: Review, index: int | None = None, threshold_m: float | None = None
) -> Figure:
    """Draw image, depth D, uncertainty and D - P of a frame in a review, by default the current frame.

    Args:
        threshold_m: threshold of Eq. 3, sets the colour scale of uncertainty; by default the run's threshold.
    """
    index = review.index if index is None else index
    threshold_m = stages.threshold(config, "uncer") if threshold_m is None else threshold_m
    name, frame = review.frames[index]
    scene = next(s for s in evaluated_dataset(config).scenes(config.evaluation.split) if s.name == name)
    e = evidence(config, scene, scene.frame_ids.index(frame))
    uncertainty = f"uncertainty U, threshold {rounded(threshold_m)} m"
    panels = [
        Panel("image", e.image),
        Panel("predicted depth D", e.pred, "depth"),
        Panel(uncertainty, e.uncertainty, "uncertainty", uncertainty_limit(threshold_m)),
        Panel("D − P: red lies behind the mesh", e.excess, "signed"),
    ]
    return grid([panels], f"{index + 1}: {name}, frame {frame}")
