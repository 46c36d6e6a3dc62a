"""Controls around pure functions; a notebook draws the static picture first, so that it survives without them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from matplotlib.figure import Figure


def slider(draw: Callable[[float], Figure], value: float, maximum: float, name: str = "threshold") -> Any:
    """A slider that redraws a picture when it is let go.

    Args:
        draw: pure function of the value that returns the picture.
        value: where the slider starts.
        maximum: its upper end (1 if it is 0); the lower end is 0.
        name: what stands beside it.

    Returns:
        an ipywidgets `interactive`; the last expression of a cell shows it.
    """
    import ipywidgets

    maximum = maximum or 1.0
    control = ipywidgets.FloatSlider(
        value=value,
        min=0,
        max=maximum,
        step=maximum / 40,
        description=name,
        readout_format=".2f",
        continuous_update=False,
    )
    # auto_display: the returned picture is shown, not only kept
    return ipywidgets.interactive(lambda value: draw(value), {"auto_display": True}, value=control)
