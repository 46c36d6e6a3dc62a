"""The slider: starts where it is told, and calls the pure function with what it is set to."""

from __future__ import annotations

from matplotlib.figure import Figure

from d3d import widgets


def test_the_slider_redraws_with_its_value() -> None:
    seen = []

    def draw(value: float) -> Figure:
        seen.append(value)
        return Figure()

    box = widgets.slider(draw, 0.4, 1.6, "threshold")
    control = box.children[0]
    assert (control.value, control.max, control.description) == (0.4, 1.6, "threshold")
    control.value = 0.8
    assert seen == [0.4, 0.8], "drawn once when it is made, then for each value"
    assert isinstance(box.result, Figure)


def test_a_slider_from_zero_has_room_to_move() -> None:
    assert widgets.slider(lambda value: Figure(), 0.0, 0.0).children[0].max == 1
