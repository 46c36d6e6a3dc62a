"""The review of a list in a notebook: buttons, keys and pictures around `d3d.lists.review.Review`."""

from __future__ import annotations

import contextlib
import html
from functools import lru_cache
from typing import Any

from d3d.errors import D3DError, DataError
from d3d.figures import png_bytes
from d3d.lists.review import ACCEPT, REJECT, Review, picture
from d3d.notebook.messages import errors_shown_in
from d3d.pipeline import stages
from d3d.pipeline.config import Config

# Key -> action; each has a button as well. Backspace undoes, too.
KEYS = {"y": "accept", "n": "reject", "u": "undo", "b": "back", "s": "skip"}
_HELP = ", ".join(f"{key} {action}" for key, action in KEYS.items())


def keys_typed(before: str, after: str) -> str:
    """The keys pressed between two values of a text field; "u" if characters were only deleted.

    The kernel never clears the field: keys typed in the meantime would be lost or counted twice.
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
    """Do the action of a key.

    Raises:
        DataError: no action has this key, or there is nothing to undo.
    """
    action = KEYS.get(key.lower())
    if action is None:
        raise DataError(f"no key {key!r}: {_HELP}.")
    if action in ("back", "skip"):
        review.go(review.index + (1 if action == "skip" else -1))
    elif action == "undo":
        if not review.undo():
            raise DataError("there is nothing to undo.")
    else:
        {"accept": review.accept, "reject": review.reject}[action]()


def status(review: Review) -> str:
    """The state of a review in one line."""
    shown = set(review.frames)
    decisions = [d for frame, d in review.decisions.items() if frame in shown]
    accepted = decisions.count(ACCEPT)
    now = {ACCEPT: "accepted", REJECT: "rejected"}.get(review.decisions.get(review.current, ""), "undecided")
    line = f"frame {review.index + 1} of {len(review.frames)}: {now}. "
    line += f"Accepted {accepted}, rejected {len(decisions) - accepted}, left {review.left}."
    return line if review.left else line + " All are decided: write the list."


def show(config: Config, review: Review) -> Any:
    """Show a review: one picture, five buttons, a text field that takes keys, a slider to go through the frames.

    ipywidgets has no key events. A text field has, in JupyterLab and VS Code alike: click into it once and type. The
    slider takes arrow keys.

    Returns:
        an ipywidgets `VBox`; make it the last expression of the cell.
    """
    import ipywidgets

    threshold_m = stages.threshold(config, "uncer")

    @lru_cache(maxsize=8)
    def draw(index: int) -> bytes:
        return png_bytes(picture(config, review, index, threshold_m), dpi=100)

    view = ipywidgets.Image(format="png")
    view.layout.max_width = "100%"
    line, message = ipywidgets.HTML(), ipywidgets.HTML()
    place = ipywidgets.IntSlider(
        value=review.index + 1, min=1, max=len(review.frames), description="frame", readout=False
    )
    place.layout.width = "60%"
    keys = ipywidgets.Text(placeholder=f"click here, then {_HELP}", continuous_update=True)
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
            view.value = b""  # never leave the picture of another frame
            raise

    def pressed(typed_keys: str) -> None:
        with errors_shown_in(message):
            try:
                for key in typed_keys:
                    press(review, key)
            finally:
                show()
        with contextlib.suppress(D3DError):  # draw the next picture while the person looks
            draw(min(review.index + 1, len(review.frames) - 1))

    def moved(change: dict) -> None:
        if change["new"] != review.index + 1:
            with errors_shown_in(message):
                review.go(change["new"] - 1)
                show()

    for key, button in buttons.items():
        button.on_click(lambda _, key=key: pressed(key))
    keys.observe(lambda change: pressed(keys_typed(change["old"], change["new"])), "value")
    place.observe(moved, "value")
    show()
    return ipywidgets.VBox([line, ipywidgets.HBox(list(buttons.values())), keys, place, view, message])
