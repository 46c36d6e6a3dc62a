"""Ranked frames looked through by a person: accepted or rejected by key, kept at once, gone on with later.

`Review` is the state and knows nothing of widgets; `widget` draws it in a notebook; `write` makes the list, and
`write_automatic` one that nobody has looked at.
"""

from __future__ import annotations

import contextlib
import html
import json
from collections.abc import Sequence
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from d3d import io
from d3d.datasets.lists import check_name, write_list
from d3d.datasets.scene import FrameList
from d3d.errors import D3DError, DataError, RunError
from d3d.figures import Panel, grid, png_bytes
from d3d.lists.ranking import Evidence, by_rule, evidence
from d3d.notebook.widgets import told_in
from d3d.pipeline import stages
from d3d.pipeline.config import Config
from d3d.pipeline.scenes import evaluated_dataset

ACCEPT, REJECT = "accept", "reject"
_FORMAT = 1
Frame = tuple[str, str]  # scene's name, frame id


class Review:
    """Decisions on frames in an order, one shown at a time; each decision is in the file before the next is asked.

    The file is a list of decisions as they were made, the last one on a frame counts. Frames that it names and this
    order does not (it may have been a longer one) keep their decision.

    Attributes:
        frames: in the order in which they are shown.
        index: of the frame that is shown.
    """

    def __init__(self, frames: Sequence[Frame], path: Path) -> None:
        """Goes on where the file ends, at the first undecided frame after the last decided; begins without one.

        Raises:
            DataError: no frame to look at, a frame given twice, or a file that holds no decisions.
        """
        self.frames, self.path = [(str(s), str(f)) for s, f in frames], Path(path)
        if not self.frames:
            raise DataError("nothing to review: the ranking has no frame.")
        if len(set(self.frames)) != len(self.frames):
            raise DataError("nothing to review: the ranking has a frame twice.")
        self._events = self._read()
        self.index = 0
        if self._events:
            self._show_next(self._place(self._events[-1][0], 0))

    def _read(self) -> list[tuple[Frame, str]]:
        if not self.path.is_file():
            return []
        try:
            stored = json.loads(self.path.read_text(encoding="utf-8"))
            if stored["format"] != _FORMAT:
                raise ValueError(f"format {stored['format']!r}, this version of d3d reads {_FORMAT}")
            events = [((str(s), str(f)), d) for s, f, d in stored["decisions"]]
            if not all(d in (ACCEPT, REJECT) for _, d in events):
                raise ValueError(f"a decision is neither {ACCEPT!r} nor {REJECT!r}")
        except (OSError, KeyError, TypeError, ValueError) as error:
            raise DataError(
                f"{self.path}: not readable as decisions of a review ({error}). Move it away to begin anew."
            ) from None
        return events

    @property
    def decisions(self) -> dict[Frame, str]:
        """Each decided frame's "accept" or "reject"."""
        return dict(self._events)

    @property
    def current(self) -> Frame:
        """The frame that is shown."""
        return self.frames[self.index]

    @property
    def accepted(self) -> FrameList:
        """All accepted frames, those of a longer order included."""
        return frozenset(frame for frame, decision in self.decisions.items() if decision == ACCEPT)

    @property
    def left(self) -> int:
        """How many frames of this order are undecided."""
        decisions = self.decisions
        return sum(frame not in decisions for frame in self.frames)

    def accept(self) -> None:
        """The frame belongs on the list; shows the next undecided one."""
        self._decide(ACCEPT)

    def reject(self) -> None:
        """The frame does not belong on the list; shows the next undecided one."""
        self._decide(REJECT)

    def undo(self) -> bool:
        """Takes the last decision back and shows its frame; False if there is none."""
        if not self._events:
            return False
        frame, _ = self._events[-1]
        self._save(self._events[:-1])
        self.index = self._place(frame, self.index)
        return True

    def go(self, index: int) -> None:
        """Shows another frame, without a decision; beyond an end, that end's."""
        self.index = min(max(int(index), 0), len(self.frames) - 1)

    def _decide(self, decision: str) -> None:
        self._save([*self._events, (self.current, decision)])
        self._show_next(self.index)

    def _place(self, frame: Frame, otherwise: int) -> int:
        return self.frames.index(frame) if frame in self.frames else otherwise

    def _show_next(self, after: int) -> None:
        """The first undecided frame after this one, else the first of all; stays where none is left."""
        decisions, n = self.decisions, len(self.frames)
        order = [*range(after + 1, n), *range(after + 1)]
        self.index = next((i for i in order if self.frames[i] not in decisions), max(after, 0))

    def _save(self, events: list[tuple[Frame, str]]) -> None:
        if self._read() != self._events:
            raise RunError(
                f"{self.path} was changed by another review since this one was opened: nothing was decided. Run "
                f"the cell again to go on from there."
            )
        io.write_json(self.path, {"format": _FORMAT, "decisions": [[*frame, d] for frame, d in events]})
        self._events = events


def list_path(config: Config, name: str, suffix: str = ".txt") -> Path:
    """Where a list made from this run is: ``runs/<run>/lists/<split>_<name>.txt``; its decisions beside it.

    Raises:
        ConfigError: a name that could not be given to the evaluation.
    """
    e = config.evaluation
    check_name(name, e.split)
    return stages.folder_of(config, "lists", e.dataset or "") / f"{e.split}_{name}{suffix}"


def open_review(config: Config, ranking: pd.DataFrame, name: str = "Reflection") -> Review:
    """The review that makes a list, begun or gone on with.

    Args:
        ranking: from `d3d.lists.ranking.rank_frames`, or a part of it; in its order the frames are shown.
        name: of the list.
    """
    return Review(
        list(zip(ranking["scene"], ranking["frame"], strict=True)), list_path(config, name, ".json")
    )


def _header(config: Config, name: str, decided_by: str) -> dict[str, object]:
    e = config.evaluation
    return {
        "list": name,
        "data set": f"{e.dataset or config.data.dataset}, split {e.split}, eval_every {e.every}",
        "decided by": decided_by,
        "ranked by": f"d3d, run {config.run} (profile {config.profile}, seed {config.seed})",
        "date": datetime.now(UTC).date(),
    }


def write(config: Config, review: Review, name: str = "Reflection") -> Path:
    """Writes the frames that a person accepted as a list, with who decided; it may grow later.

    Raises:
        DataError: nothing was accepted yet.
    """
    n, decided = len(review.accepted), len(review.decisions)
    by = f"a person, frame by frame with d3d.lists.review; {decided} looked at, {n} accepted"
    return write_list(list_path(config, name), review.accepted, _header(config, name, by))


def write_automatic(
    config: Config,
    ranking: pd.DataFrame,
    share: float | None = None,
    score_m: float | None = None,
    name: str = "Reflection",
) -> Path:
    """Writes the frames that a rule takes as a list of another name, so that it never passes for a person's.

    Args:
        share, score_m: as `d3d.lists.ranking.by_rule` takes them, one of both.
        name: "-automatic" is added to it, in the file's name and thus in the tables.

    Raises:
        ConfigError: as `d3d.lists.ranking.by_rule`.
        DataError: no frame's score is that high.
    """
    chosen = by_rule(ranking, share, score_m)
    rule = f"the best {share:.1%} by score" if share is not None else f"score at least {score_m:g} m"
    by = f"an automatic rule, nobody has looked: {rule}, {len(chosen)} of {len(ranking)} frames"
    name = f"{name}-automatic"
    return write_list(list_path(config, name), chosen, _header(config, name, by))


def candidate(e: Evidence, threshold_m: float, title: str = "") -> Figure:
    """What a person judges a frame by: image, predicted depth, uncertainty and D - P, on scales that stay.

    Args:
        threshold_m: half of the uncertainty's scale, metres.
    """
    panels = [
        Panel("image", e.image),
        Panel("predicted depth D", e.pred, "depth"),
        Panel("uncertainty U", e.uncertainty, "uncertainty", max(2 * threshold_m, 1e-3)),
        Panel("D - P: red lies behind the mesh", e.excess, "signed", 1.0),
    ]
    return grid([panels], title)


def picture(config: Config, review: Review, index: int | None = None) -> Figure:
    """What a person judges a frame of a review by; the one that is shown unless told otherwise."""
    index = review.index if index is None else index
    name, frame = review.frames[index]
    scene = next(s for s in evaluated_dataset(config).scenes(config.evaluation.split) if s.name == name)
    e = evidence(config, scene, scene.frame_ids.index(frame))
    return candidate(e, config.fusion.threshold_m, f"{index + 1}: {name}, frame {frame}")


# key -> what it does; the same as the buttons, and Backspace undoes, too
KEYS = {"y": "accept", "n": "reject", "u": "undo", "b": "back", "s": "skip"}


def typed(before: str, after: str) -> str:
    """The keys pressed between two values of a text field; "u" where something was only deleted.

    The field is never emptied by the kernel: what is typed meanwhile would be lost, or counted twice.
    """
    start = 0
    while start < min(len(before), len(after)) and before[start] == after[start]:
        start += 1
    end = 0
    while end < min(len(before), len(after)) - start and before[-1 - end] == after[-1 - end]:
        end += 1
    inserted = after[start : len(after) - end]
    return inserted or ("u" if len(before) > len(after) else "")


def press(review: Review, key: str) -> None:
    """Does what a key stands for.

    Raises:
        DataError: there is no such key, or nothing to undo.
    """
    action = KEYS.get(key.lower())
    if action == "accept":
        review.accept()
    elif action == "reject":
        review.reject()
    elif action == "undo":
        if not review.undo():
            raise DataError("there is nothing to undo.")
    elif action in ("back", "skip"):
        review.go(review.index + (1 if action == "skip" else -1))
    else:
        raise DataError(f"no key {key!r}: " + ", ".join(f"{k} {what}" for k, what in KEYS.items()) + ".")


def status(review: Review) -> str:
    """Where a review stands, in a line."""
    shown = set(review.frames)
    decisions = [d for frame, d in review.decisions.items() if frame in shown]
    accepted = decisions.count(ACCEPT)
    now = {ACCEPT: "accepted", REJECT: "rejected"}.get(review.decisions.get(review.current, ""), "undecided")
    line = f"frame {review.index + 1} of {len(review.frames)}: {now}. "
    line += f"Accepted {accepted}, rejected {len(decisions) - accepted}, left {review.left}."
    return line if review.left else line + " All are decided: write the list."


def widget(config: Config, review: Review) -> Any:
    """A review in a notebook: one picture, five buttons, a field that takes the same as keys, a slider for arrow keys.

    ipywidgets knows no key events; a text field does, in JupyterLab and VS Code alike: click into it once and
    type. The slider's own keys (left, right, page up, ...) go through the frames.

    Returns:
        an ipywidgets `VBox`.
    """
    import ipywidgets

    @lru_cache(maxsize=8)
    def draw(index: int) -> bytes:
        return png_bytes(picture(config, review, index), dpi=100)

    view = ipywidgets.Image(format="png")
    view.layout.max_width = "100%"
    line, message = ipywidgets.HTML(), ipywidgets.HTML()
    place = ipywidgets.IntSlider(
        value=review.index + 1, min=1, max=len(review.frames), description="frame", readout=False
    )
    place.layout.width = "60%"
    keys = ipywidgets.Text(
        placeholder="click here, then " + ", ".join(f"{k} {what}" for k, what in KEYS.items()),
        continuous_update=True,
    )
    keys.layout.width = "60%"
    styles = {"accept": "success", "reject": "danger"}
    buttons = {
        k: ipywidgets.Button(description=f"{what} ({k})", button_style=styles.get(what, ""))
        for k, what in KEYS.items()
    }

    def show() -> None:
        line.value = f"<b>{html.escape(status(review))}</b>"
        place.value = review.index + 1
        try:
            view.value = draw(review.index)
        except Exception:
            view.value = b""  # nobody shall judge a frame by the picture of another
            raise

    def pressed(typed_keys: str) -> None:
        with told_in(message):
            try:
                for key in typed_keys:
                    press(review, key)
            finally:
                show()
        with contextlib.suppress(D3DError):  # while the person looks: the next picture is there at once
            draw(min(review.index + 1, len(review.frames) - 1))

    def moved(change: dict) -> None:
        if change["new"] != review.index + 1:
            with told_in(message):
                review.go(change["new"] - 1)
                show()

    for key, button in buttons.items():
        button.on_click(lambda _, key=key: pressed(key))
    keys.observe(lambda change: pressed(typed(change["old"], change["new"])), "value")
    place.observe(moved, "value")
    show()
    return ipywidgets.VBox([line, ipywidgets.HBox(list(buttons.values())), keys, place, view, message])
