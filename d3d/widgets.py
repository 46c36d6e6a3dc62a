"""Controls around pure functions; a notebook draws the static picture first, so that it survives without them.

A picture is redrawn into an `ipywidgets.Image`, never into an Output widget: nbclient, and so papermill, may
wait for ever on a cell that shows one (decision D29).
"""

from __future__ import annotations

import contextlib
import html
import io
import logging
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from matplotlib.figure import Figure

from d3d.errors import D3DError

_log = logging.getLogger(__name__)


def slider(draw: Callable[[float], Figure], value: float, maximum: float, name: str = "threshold") -> Any:
    """A slider over a picture that is redrawn when it is let go.

    Args:
        draw: pure function of the value that returns the picture.
        value: where the slider starts.
        maximum: its upper end (1 if it is 0); the lower end is 0.
        name: what stands beside it.

    Returns:
        an ipywidgets `VBox`; the last expression of a cell shows it.
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
    return redrawn(lambda value: png(draw(value)), {"value": control})


def redrawn(draw: Callable[..., bytes], controls: Mapping[str, Any]) -> Any:
    """Controls over a picture that is drawn again whenever one of them changes.

    The first drawing's error is raised, as that of any cell. A later one is shown under the picture, which
    then still is that of the values before: a widget's own errors end up in a log that nobody reads.

    Args:
        draw: pure function of the controls' values, by name, that returns a PNG.
        controls: its arguments' names and the widgets with their values.

    Returns:
        an ipywidgets `VBox` of the controls, the picture and the line for errors.
    """
    import ipywidgets

    def values() -> dict[str, Any]:
        return {name: control.value for name, control in controls.items()}

    picture = ipywidgets.Image(value=draw(**values()), format="png")
    picture.layout.max_width = "100%"
    message = ipywidgets.HTML()

    def redraw(_change: Any) -> None:
        with told_in(message):
            picture.value = draw(**values())

    for control in controls.values():
        control.observe(redraw, "value")
    return ipywidgets.VBox([*controls.values(), picture, message])


@contextlib.contextmanager
def told_in(message: Any) -> Iterator[None]:
    """Within this block an error is not raised but told in an `ipywidgets.HTML`, which is empty otherwise."""
    message.value = ""
    try:
        yield
    except Exception as error:
        what = str(error) if isinstance(error, D3DError) else f"{type(error).__name__}: {error}"
        message.value = f'<p role="alert" style="color: #b00020">{html.escape(what)}</p>'
        _log.debug("told in the widget", exc_info=error)


def png(figure: Figure, dpi: float | None = None) -> bytes:
    """A figure as the bytes of a PNG; by default at matplotlib's own ``figure.dpi``."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=dpi or figure.dpi)
    return buffer.getvalue()
