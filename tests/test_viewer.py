"""The controls of the viewer: first view, redraw, errors, and no Output widget."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import ipywidgets
import pytest
from jupyter_client.manager import run_kernel
from known_run import known_run
from PIL import Image

from d3d.errors import ConfigError, DataError
from d3d.figures import frames
from d3d.notebook import label_view, mesh, output, viewer
from d3d.pipeline import stages
from d3d.pipeline.config import PROFILES, Config


def tree(widget: ipywidgets.Widget) -> Iterator[ipywidgets.Widget]:
    """Yield a widget and all its children."""
    yield widget
    for child in getattr(widget, "children", ()):
        yield from tree(child)


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Config:
    return known_run(tmp_path_factory.mktemp("runs"))


def control(box: ipywidgets.Widget, name: str) -> ipywidgets.Widget:
    """Return the control with this name."""
    (found,) = [w for w in tree(box) if getattr(w, "description", "") == name]
    return found


def picture(box: ipywidgets.Widget) -> bytes:
    (found,) = [w for w in tree(box) if isinstance(w, ipywidgets.Image)]
    return found.value


def text(box: ipywidgets.Widget) -> str:
    return "".join(w.value for w in tree(box) if isinstance(w, ipywidgets.HTML))


def test_the_cell_keeps_the_first_picture_and_the_widget_shows_the_same(config: Config) -> None:
    shown = viewer.show(config)
    box = shown.widget
    assert shown.png == picture(box)
    with Image.open(io.BytesIO(shown.png)) as page:
        assert page.format == "PNG"
        assert page.width > 1000
    assert shown.alt in text(box).replace("<b>", "")
    assert control(box, "threshold").value == config.fusion.threshold_m


def test_with_a_quantile_the_slider_starts_at_the_threshold_that_is_used(config: Config) -> None:
    config = replace(config, fusion=replace(config.fusion, threshold_quantile=0.95))
    used = stages.threshold(config)
    assert used != config.fusion.threshold_m
    box = viewer.show(config).widget
    assert control(box, "threshold").value == pytest.approx(used)
    assert f"threshold {used:.3f} m" in text(box)


def test_with_a_quantile_each_network_has_the_threshold_that_it_uses(
    config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    used = {"monodepth2": 0.1, "hrdepth": 0.12, "monovit": 0.9}
    monkeypatch.setattr(stages, "threshold", lambda config, labels="", arch="": used[arch or config.arch])
    box = viewer.show(replace(config, fusion=replace(config.fusion, threshold_quantile=0.95))).widget
    for arch, threshold in used.items():
        control(box, "network").value = arch
        assert control(box, "threshold").value == pytest.approx(threshold)
        assert f"threshold {threshold:.3f} m" in text(box)
    control(box, "threshold").value = 0.5
    control(box, "labels").value = "proj"
    assert control(box, "threshold").value == 0.5, "these labels look at no threshold"


def test_each_control_redraws_and_says_so(config: Config) -> None:
    box = viewer.show(config).widget
    for name, value, said in (
        ("threshold", 0.3, "threshold 0.300 m"),
        ("network", "monovit", "MonoViT"),
        ("labels", "proj", "labels proj"),
    ):
        before = picture(box)
        control(box, name).value = value
        assert picture(box) != before, name
        assert said in text(box)
    assert control(box, "threshold").disabled, "these labels look at no threshold"
    control(box, "labels").value = "signed"
    assert not control(box, "threshold").disabled


def test_next_and_previous_go_round(config: Config) -> None:
    box = viewer.show(config).widget
    frame = control(box, "frame")
    first, second, last = frame.options[0], frame.options[1], frame.options[-1]
    assert frame.value == first
    control(box, "previous").click()
    assert frame.value == last
    control(box, "next").click()
    control(box, "next").click()
    assert frame.value == second
    assert f"frame {second}" in text(box)


def test_another_scene_brings_its_frames(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    options = {"glossyrooms": {"rooms": 2, "frames": 18}}
    smoke = PROFILES["smoke"]
    two_rooms = replace(smoke, data=replace(smoke.data, options=options))
    monkeypatch.setitem(PROFILES, "smoke", two_rooms)
    box = viewer.show(known_run(tmp_path)).widget
    names = [name for _, name in control(box, "scene").options]
    assert len(names) == 2
    before = picture(box)
    control(box, "frame").value = control(box, "frame").options[3]
    control(box, "scene").value = names[1]
    assert picture(box) != before
    frame = control(box, "frame")
    assert frame.value in frame.options
    assert f"{names[1]}, frame {frame.value}" in text(box)
    assert "No true depth" in text(box), "the second room has none"


def test_an_error_while_redrawing_is_told_and_goes_away(config: Config, monkeypatch) -> None:
    box = viewer.show(config).widget
    before = picture(box)
    whole = label_view.picture

    def broken(*args: object) -> None:
        raise DataError("no <depth> here.")

    monkeypatch.setattr(label_view, "picture", broken)
    control(box, "threshold").value = 0.2
    assert "no &lt;depth&gt; here." in text(box)
    assert picture(box) == before, "the picture before stays"
    monkeypatch.setattr(label_view, "picture", whole)
    control(box, "threshold").value = 0.3
    assert "depth&gt; here" not in text(box)
    assert picture(box) != before


def test_an_error_at_the_first_drawing_fails_the_cell(config: Config) -> None:
    with pytest.raises(ConfigError, match="training scene 'nowhere'"):
        viewer.show(config, "nowhere")


def test_no_output_widget_is_ever_made(config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    """papermill may wait for ever on a cell that shows an Output widget (D29)."""

    def refuse(*_args: object, **_kwargs: object) -> None:
        raise AssertionError("an Output widget was made")

    monkeypatch.setattr(ipywidgets.Output, "__init__", refuse)
    box = viewer.show(config).widget
    control(box, "threshold").value = 0.3
    assert "Output widget" not in text(box)
    assert not any(isinstance(w, ipywidgets.Output) for w in tree(box))


def test_the_mesh_is_a_picture_until_a_person_looks(config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    example = frames.example_frame(config)
    shown = mesh.show(config, example.scene, example.index)
    assert shown.png.startswith(b"\x89PNG")
    assert "text/html" not in shown._repr_mimebundle_()
    monkeypatch.setattr(output, "live", lambda: True)
    assert "<iframe" in shown._repr_mimebundle_()["text/html"]


WIDGET = "application/vnd.jupyter.widget-view+json"
CELL = f"""
from d3d.notebook.output import Shown
Shown(b"picture", "a sentence", lambda: {{"{WIDGET}": {{"model_id": "x"}}}})
"""


@pytest.mark.parametrize("person", [False, True])
def test_one_output_has_the_picture_and_for_a_person_the_widget(person: bool) -> None:
    with run_kernel() as client:  # a front end for a person can answer `input`
        seen: list[dict] = []
        client.execute_interactive(CELL, allow_stdin=person, output_hook=seen.append, timeout=60)
    (bundle,) = [m["content"]["data"] for m in seen if m["msg_type"] == "execute_result"]
    assert base64.b64decode(bundle["image/png"]) == b"picture"
    assert bundle["text/plain"] == "a sentence"
    assert (WIDGET in bundle) == person
