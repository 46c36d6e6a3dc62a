"""Controls around pure functions; a cell leaves the static picture first, so that it survives without them.

Pictures are redrawn into an `ipywidgets.Image`, never into an Output widget: nbclient, and so papermill, may
wait for ever on a cell that shows one (decision D29).
"""

from __future__ import annotations

import contextlib
import html
import io
import logging
from collections.abc import Iterator
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from d3d import evaluation, figures
from d3d.datasets import Scene
from d3d.errors import D3DError
from d3d.figures import showcase
from d3d.geometry import upward
from d3d.notebook import viewer as pictures
from d3d.notebook.viewer import Frames, View
from d3d.pipeline import stages
from d3d.pipeline.config import ENSEMBLE, Config

_log = logging.getLogger(__name__)
# says of an output that it is large, and that a static picture of the same stands before it
INTERACTIVE = "interactive"
_NAMES = {"style": {"description_width": "5.5em"}}


def viewer(config: Config, scene: str = "", frame: str = "") -> Any:
    """Eq. 3 live: pickers of scene, frame, network and label rule, and a slider for the threshold.

    Leaves the picture of the first view in the cell's output, as a PNG; what it returns is alive in a running
    notebook only.

    Args:
        scene, frame: where it starts; by default the first target frame of the first scene that has true depth.

    Returns:
        an ipywidgets `VBox`; the last expression of a cell shows it.
    """
    import ipywidgets
    from IPython.display import Image, display

    frames = Frames(config)
    scene = scene or next(filter(frames.has_truth, frames.scenes), frames.scenes[0])
    frame = frame or frames.of(scene)[0]
    threshold = stages.threshold(config)
    limit = 4 * threshold or 1.0
    controls = {
        "scene": ipywidgets.Dropdown(
            options=[(n + (" (true depth)" if frames.has_truth(n) else ""), n) for n in frames.scenes],
            value=scene,
            description="scene",
            **_NAMES,
        ),
        "frame": ipywidgets.SelectionSlider(
            options=frames.of(scene), value=frame, description="frame", layout={"width": "34em"}, **_NAMES
        ),
        "arch": ipywidgets.Dropdown(
            options=[(evaluation.arch_name(a), a) for a in ENSEMBLE],
            value=config.arch,
            description="network",
            **_NAMES,
        ),
        "labels": ipywidgets.Dropdown(
            options=frames.labels, value=config.labels, description="labels", **_NAMES
        ),
        "threshold_m": ipywidgets.FloatSlider(
            value=threshold,
            min=0,
            max=limit,
            step=limit / 120,
            description="threshold",
            readout_format=".3f",
            layout={"width": "50em"},
            **_NAMES,
        ),
    }
    picture, words, message = ipywidgets.Image(format="png"), ipywidgets.HTML(), ipywidgets.HTML()
    picture.layout.max_width = "100%"

    def redraw() -> str:
        view = View(**{name: control.value for name, control in controls.items()})
        controls["threshold_m"].disabled = not pictures.uses_threshold(view.labels)
        shown = frames.read(view.scene, view.frame, view.arch, view.labels)
        share, table = pictures.numbers(frames, view)
        sentence = pictures.sentence(view, share)
        picture.value = pictures.png(pictures.picture(shown, view, limit))
        words.value = _words(sentence, table)
        return sentence

    sentence = redraw()  # here an error is the cell's
    display(Image(data=picture.value, alt=sentence))

    def safely(_change: Any) -> None:
        with told_in(message):
            redraw()

    def to_scene(change: Any) -> None:
        with told_in(message):
            controls["frame"].options = frames.of(change["new"])
            redraw()

    def step(by: int) -> None:
        ids = controls["frame"].options
        controls["frame"].value = ids[(ids.index(controls["frame"].value) + by) % len(ids)]

    for name, control in controls.items():
        control.observe(to_scene if name == "scene" else safely, "value")
    buttons = []
    for text, icon, action in (
        ("previous", "step-backward", lambda _: step(-1)),
        ("next", "step-forward", lambda _: step(1)),
    ):
        buttons.append(ipywidgets.Button(description=text, icon=icon, layout={"width": "auto"}))
        buttons[-1].on_click(action)
    rows = (
        ipywidgets.HBox([controls["scene"], controls["arch"], controls["labels"]]),
        ipywidgets.HBox([controls["frame"], *buttons]),
        controls["threshold_m"],
    )
    for row in rows[:2]:
        row.layout.flex_flow = "row wrap"
    return ipywidgets.VBox([*rows, picture, words, message])


def mesh(config: Config, scene: Scene, index: int, arch: str = "", triangles: int = 25_000) -> None:
    """The mesh of a scene that projected depth comes from: pictures of it, then one that can be turned.

    The latter is a page of its own within the cell's output: it needs neither kernel nor network, and `nbconvert`
    keeps it. The notebooks of the repository are stored without (`scripts/notebooks.py`).

    Args:
        index: the frame from whose camera it is shown, too.
        triangles: the mesh is simplified to about so many; a browser draws them at once.
    """
    from IPython.display import HTML, Image, display

    from d3d.notebook import meshview

    arch = arch or config.arch
    views = showcase.mesh_views(config, scene, index, arch)
    panels = [figures.Panel(title, view) for title, view in views.items()]
    name = f"mesh of {scene.name} from the depth of {evaluation.arch_name(arch)}"
    display(Image(png(figures.grid([panels], name)), alt=name))
    small = meshview.decimated(stages.read_mesh(config, arch, scene), triangles)
    page = meshview.page(small, upward(scene.world_T_cams), name)
    display(HTML(meshview.frame(page, name)), metadata={"d3d": INTERACTIVE})


def _words(sentence: str, table: pd.DataFrame) -> str:
    """What is shown and how good it is, in words: also for those who cannot see the picture."""
    head = f'<p style="margin: 2px 0"><b>{html.escape(sentence)}.</b></p>'
    if table.empty:
        scores = "<p style='margin: 2px 0'>No true depth here: nothing to compare with.</p>"
    else:
        cell = 'style="padding: 0 12px; line-height: 1.5; text-align: right; font-weight: normal"'
        names = {"D": "predicted D", "P": "projected P", "L": "label L"}
        lines = [f"<th {cell}>pixels</th>" + "".join(f"<th {cell}>{names[c]}</th>" for c in table)]
        for kind, row in table.iterrows():
            lines.append(f"<th {cell}>{kind}</th>" + "".join(f"<td {cell}>{x:.3f}</td>" for x in row))
        caption = '<caption style="text-align: left">Sq Rel on this frame, metres; lower is better</caption>'
        scores = f"<table>{caption}{''.join(f'<tr>{line}</tr>' for line in lines)}</table>"
    return f'<div role="status">{head}{scores}</div>'


@contextlib.contextmanager
def told_in(message: Any) -> Iterator[None]:
    """Within this block an error is not raised but told in an `ipywidgets.HTML`, which is empty otherwise.

    A widget's own errors end up in a log that nobody reads.
    """
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
