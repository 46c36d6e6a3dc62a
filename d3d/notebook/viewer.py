"""The label viewer: controls around the pure functions of `d3d.notebook.label_view`.

The picture is an `ipywidgets.Image`, not an Output widget, because papermill may never finish a cell with
an Output widget (decision D29).
"""

from __future__ import annotations

import html
from typing import Any

import pandas as pd

from d3d import evaluation
from d3d.notebook import label_view
from d3d.notebook.label_view import TargetFrames, View
from d3d.notebook.messages import errors_shown_in
from d3d.notebook.output import Shown
from d3d.pipeline import stages
from d3d.pipeline.config import Config


def show(config: Config, scene: str = "", frame: str = "") -> Shown:
    """Show Eq. 3 live: choose scene, frame, network and label rule, and move the threshold.

    The widget works in a running notebook only. Elsewhere, the cell shows a picture of the first view. The threshold
    starts at the value of the run. If the run uses a quantile, it starts at the value for the label rule and network.

    Args:
        config: the configuration of the run.
        scene, frame: the first view; by default the first target frame of the first scene with true depth.

    Returns:
        the output of the cell. Its ``widget`` is an ipywidgets `VBox`.
    """
    import ipywidgets

    frames = TargetFrames(config)
    scene = scene or next(filter(frames.has_truth, frames.scenes), frames.scenes[0])
    frame = frame or frames.ids(scene)[0]
    threshold = stages.threshold(config)
    limit = 4 * threshold or 1.0
    scenes = [(n + (" (true depth)" if frames.has_truth(n) else ""), n) for n in frames.scenes]
    archs = [(evaluation.arch_name(a), a) for a in config.networks]
    numbers = {"min": 0, "max": limit, "step": limit / 120, "readout_format": ".3f"}
    controls = {
        "scene": ipywidgets.Dropdown(options=scenes, value=scene, description="scene"),
        "frame": ipywidgets.SelectionSlider(options=frames.ids(scene), value=frame, description="frame"),
        "arch": ipywidgets.Dropdown(options=archs, value=config.arch, description="network"),
        "labels": ipywidgets.Dropdown(options=frames.labels, value=config.labels, description="labels"),
        "threshold_m": ipywidgets.FloatSlider(value=threshold, description="threshold", **numbers),
    }
    for control in controls.values():
        control.style.description_width = "5.5em"
    controls["frame"].layout.width, controls["threshold_m"].layout.width = "34em", "50em"
    picture = ipywidgets.Image(format="png", layout={"max_width": "100%"})
    words, message = ipywidgets.HTML(), ipywidgets.HTML()

    def redraw() -> str:
        view = View(**{name: control.value for name, control in controls.items()})
        controls["threshold_m"].disabled = not label_view.uses_threshold(view.labels)
        shown = frames.read(view.scene, view.frame, view.arch, view.labels)
        share, table = label_view.numbers(shown, view)
        sentence = label_view.sentence(view, share)
        picture.value = label_view.png(label_view.picture(shown, view, limit))
        words.value = _words(sentence, table)
        return sentence

    sentence = redraw()  # an error here fails the cell
    first = picture.value

    def changed(name: str, value: Any) -> None:
        with errors_shown_in(message):
            labels, slider = controls["labels"].value, controls["threshold_m"]
            if name == "scene":
                controls["frame"].options = frames.ids(value)
            # each uncertainty has a quantile of its own
            quantile = name in ("arch", "labels") and config.fusion.threshold_quantile is not None
            if quantile and label_view.uses_threshold(labels):
                used = stages.threshold(config, labels, controls["arch"].value)
                slider.max = max(slider.max, used)
                slider.value = used
            redraw()

    def step(by: int) -> None:
        ids = controls["frame"].options
        controls["frame"].value = ids[(ids.index(controls["frame"].value) + by) % len(ids)]

    for name, control in controls.items():
        control.observe(lambda change, name=name: changed(name, change["new"]), "value")
    buttons = []
    for text, icon, by in (("previous", "step-backward", -1), ("next", "step-forward", 1)):
        buttons.append(ipywidgets.Button(description=text, icon=icon, layout={"width": "auto"}))
        buttons[-1].on_click(lambda _, by=by: step(by))
    wrapped = {"flex_flow": "row wrap"}
    choices = ipywidgets.HBox([controls[name] for name in ("scene", "arch", "labels")], layout=wrapped)
    frame_row = ipywidgets.HBox([controls["frame"], *buttons], layout=wrapped)
    box = ipywidgets.VBox([choices, frame_row, controls["threshold_m"], picture, words, message])
    return Shown(first, sentence, box._repr_mimebundle_, box)


def _words(sentence: str, table: pd.DataFrame) -> str:
    """What is shown and its scores as HTML, also for those who cannot see the picture."""
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
