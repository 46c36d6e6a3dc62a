"""The controls: start where they are told, redraw by their value, tell of errors, and make no Output widget."""

from __future__ import annotations

import io
from collections.abc import Iterator

import ipywidgets
import pytest
from matplotlib.figure import Figure
from PIL import Image

from d3d import widgets
from d3d.errors import DataError


def tree(widget: ipywidgets.Widget) -> Iterator[ipywidgets.Widget]:
    """A widget and all that it holds."""
    yield widget
    for child in getattr(widget, "children", ()):
        yield from tree(child)


def of_kind(widget: ipywidgets.Widget, kind: type) -> ipywidgets.Widget:
    """The one widget of a kind in the tree."""
    (found,) = [w for w in tree(widget) if isinstance(w, kind)]
    return found


def marked(value: float) -> Figure:
    """A figure whose size in pixels tells the value it was drawn with."""
    return Figure(figsize=(1 + value, 1), dpi=100)


def width(box: ipywidgets.Widget) -> int:
    with Image.open(io.BytesIO(of_kind(box, ipywidgets.Image).value)) as picture:
        return picture.width


def test_the_slider_redraws_with_its_value() -> None:
    box = widgets.slider(marked, 0.4, 1.6, "threshold")
    control = of_kind(box, ipywidgets.FloatSlider)
    assert (control.value, control.min, control.max, control.description) == (0.4, 0, 1.6, "threshold")
    assert width(box) == 140, "drawn once when it is made"
    control.value = 0.8
    assert width(box) == 180


def test_a_slider_from_zero_has_room_to_move() -> None:
    assert of_kind(widgets.slider(marked, 0.0, 0.0), ipywidgets.FloatSlider).max == 1


def test_an_error_while_redrawing_is_told_and_goes_away() -> None:
    def draw(value: float) -> Figure:
        if value == 1.0:
            raise DataError("no <depth> here.")
        if value == 1.2:
            raise KeyError("frame")
        return marked(value)

    box = widgets.slider(draw, 0.4, 1.6)
    control, message = of_kind(box, ipywidgets.FloatSlider), of_kind(box, ipywidgets.HTML)
    assert message.value == ""
    control.value = 1.0
    assert "no &lt;depth&gt; here." in message.value
    assert width(box) == 140, "the picture before stays"
    control.value = 1.2
    assert "KeyError: &#x27;frame&#x27;" in message.value
    control.value = 0.6
    assert message.value == ""
    assert width(box) == 160


def test_an_error_at_the_first_drawing_fails_the_cell() -> None:
    def draw(value: float) -> Figure:
        raise DataError("nothing to draw")

    with pytest.raises(DataError, match="nothing to draw"):
        widgets.slider(draw, 0.4, 1.6)


def test_no_output_widget_is_ever_made(monkeypatch: pytest.MonkeyPatch) -> None:
    """nbclient, and so papermill, may wait for ever on a cell that shows one."""

    def refuse(*_args: object, **_kwargs: object) -> None:
        raise AssertionError("an Output widget was made")

    monkeypatch.setattr(ipywidgets.Output, "__init__", refuse)
    box = widgets.slider(marked, 0.4, 1.6)
    of_kind(box, ipywidgets.FloatSlider).value = 0.8
    assert of_kind(box, ipywidgets.HTML).value == ""
    assert not any(isinstance(w, ipywidgets.Output) for w in tree(box))
