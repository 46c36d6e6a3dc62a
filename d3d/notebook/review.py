"""The review of a list in a notebook: buttons, keys and pictures around `d3d.lists.review.Review`."""

from __future__ import annotations

import contextlib
import html
from functools import lru_cache

from d3d.errors import D3DError, DataError
from d3d.figures import png_bytes
from d3d.lists.review import ACCEPT, REJECT, Review, picture
from d3d.notebook.messages import errors_shown_in
from d3d.notebook.output import Shown
from d3d.pipeline import stages
from d3d.pipeline.config import Config

# Key -> action. Each action also has a button; backspace also undoes.
KEYS = {"y": "accept", "n": "reject", "u": "undo", "b": "back", "s": "skip"}
_HELP = ", ".join(f"{key} {action}" for key, action in KEYS.items())


def keys_typed(before: str, after: str) -> str:
    """Return the keys pressed between two values of a text field; "u" if characters were only deleted.

    The kernel never clears the field, because keys typed at the same time could be lost or counted twice.
    """
    start = _alike(before, after)
    end = _alike(before[start:][::-1], after[start:][::-1])
    return after[start : len(after) - end] or ("u" if len(before) > len(after) else "")


def _alike(a: str, b: str) -> int:
    """The length of the common prefix of two texts."""
    return next((k for k, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))


def press(review: Review, key: str) -> None:
    """Do the action of a key.

    Raises:
        DataError: the key has no action, or there is nothing to undo.
    """
    action = KEYS.get(key.lower())
    if action is None:
        raise DataError(f"no key {key!r}: {_HELP}.")
    if action in ("back", "skip"):
        review.go(review.index + (1 if action == "skip" else -1))
    elif getattr(review, action)() is False:  # only `Review.undo` returns a value
        raise DataError("there is nothing to undo.")


def status(review: Review) -> str:
    """Describe the state of a review in one line."""
    decisions = list(map(review.decisions.get, review.frames))
    now = {ACCEPT: "accepted", REJECT: "rejected", None: "undecided"}[decisions[review.index]]
    counts = f"Accepted {decisions.count(ACCEPT)}, rejected {decisions.count(REJECT)}, left {review.left}."
    end = "" if review.left else " All are decided: write the list."
    return f"frame {review.index + 1} of {len(review.frames)}: {now}. {counts}{end}"


def show(config: Config, review: Review) -> Shown:
    """Show a review: a picture, five buttons, a text field for keys, and a slider over the frames.

    The text field replaces key events, which ipywidgets does not have. The slider takes arrow keys.

    Returns:
        The output of the cell. Its ``widget`` is an ipywidgets `VBox`; without a running notebook it is a picture.
    """
    import ipywidgets

    threshold_m = stages.threshold(config, "uncer")

    @lru_cache(maxsize=8)
    def draw(index: int) -> bytes:
        return png_bytes(picture(config, review, index, threshold_m), dpi=100)

    wide, last = {"width": "60%"}, len(review.frames)
    view = ipywidgets.Image(format="png", layout={"max_width": "100%"})
    line, message = ipywidgets.HTML(), ipywidgets.HTML()
    place = ipywidgets.IntSlider(review.index + 1, 1, last, description="frame", readout=False, layout=wide)
    keys = ipywidgets.Text(placeholder=f"click here, then {_HELP}", continuous_update=True, layout=wide)
    styles = {"accept": "success", "reject": "danger"}
    buttons = []
    for key, what in KEYS.items():
        buttons.append(ipywidgets.Button(description=f"{what} ({key})", button_style=styles.get(what, "")))
        buttons[-1].on_click(lambda _, key=key: pressed(key))

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
            draw(min(review.index + 1, last - 1))

    def moved(change: dict) -> None:
        if change["new"] != review.index + 1:
            with errors_shown_in(message):
                review.go(change["new"] - 1)
                show()

    keys.observe(lambda change: pressed(keys_typed(change["old"], change["new"])), "value")
    place.observe(moved, "value")
    show()
    box = ipywidgets.VBox([line, ipywidgets.HBox(buttons), keys, place, view, message])
    return Shown(view.value, status(review), box._repr_mimebundle_, box)
