"""The controls of the viewer: first view, redraw, errors, and no Output widget."""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import ipywidgets
import nbformat
import pytest
from helpers import load_script
from known_run import known_run
from PIL import Image

from d3d.errors import ConfigError, DataError
from d3d.figures import frames
from d3d.notebook import label_view, mesh, viewer
from d3d.pipeline import stages
from d3d.pipeline.config import PROFILES, Config

script = load_script("notebooks")


def tree(widget: ipywidgets.Widget) -> Iterator[ipywidgets.Widget]:
    """A widget and all that it holds."""
    yield widget
    for child in getattr(widget, "children", ()):
        yield from tree(child)


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Config:
    return known_run(tmp_path_factory.mktemp("runs"))


@pytest.fixture
def displayed(monkeypatch: pytest.MonkeyPatch) -> list[tuple]:
    """What a cell's output would be given: each object with its metadata."""
    seen: list[tuple] = []
    monkeypatch.setattr("IPython.display.display", lambda x, metadata=None: seen.append((x, metadata)))
    return seen


def control(box: ipywidgets.Widget, name: str) -> ipywidgets.Widget:
    """The one control of a name."""
    (found,) = [w for w in tree(box) if getattr(w, "description", "") == name]
    return found


def picture(box: ipywidgets.Widget) -> bytes:
    (found,) = [w for w in tree(box) if isinstance(w, ipywidgets.Image)]
    return found.value


def text(box: ipywidgets.Widget) -> str:
    return "".join(w.value for w in tree(box) if isinstance(w, ipywidgets.HTML))


def test_the_cell_keeps_the_first_picture_and_the_widget_shows_the_same(
    config: Config, displayed: list
) -> None:
    box = viewer.show(config)
    ((static, _),) = displayed
    assert static.data == picture(box)
    with Image.open(io.BytesIO(static.data)) as page:
        assert page.format == "PNG"
        assert page.width > 1000
    assert static.alt in text(box).replace("<b>", "")
    assert control(box, "threshold").value == config.fusion.threshold_m


def test_with_a_quantile_the_slider_starts_at_the_threshold_that_is_used(
    config: Config, displayed: list
) -> None:
    config = replace(config, fusion=replace(config.fusion, threshold_quantile=0.95))
    used = stages.threshold(config)
    assert used != config.fusion.threshold_m
    box = viewer.show(config)
    assert control(box, "threshold").value == pytest.approx(used)
    assert f"threshold {used:.3f} m" in text(box)


def test_with_a_quantile_each_network_has_the_threshold_that_it_uses(
    config: Config, displayed: list, monkeypatch: pytest.MonkeyPatch
) -> None:
    used = {"monodepth2": 0.1, "hrdepth": 0.12, "monovit": 0.9}
    monkeypatch.setattr(stages, "threshold", lambda config, labels="", arch="": used[arch or config.arch])
    box = viewer.show(replace(config, fusion=replace(config.fusion, threshold_quantile=0.95)))
    for arch, threshold in used.items():
        control(box, "network").value = arch
        assert control(box, "threshold").value == pytest.approx(threshold)
        assert f"threshold {threshold:.3f} m" in text(box)
    control(box, "threshold").value = 0.5
    control(box, "labels").value = "proj"
    assert control(box, "threshold").value == 0.5, "these labels look at no threshold"


def test_each_control_redraws_and_says_so(config: Config, displayed: list) -> None:
    box = viewer.show(config)
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


def test_next_and_previous_go_round(config: Config, displayed: list) -> None:
    box = viewer.show(config)
    frame = control(box, "frame")
    first, second, last = frame.options[0], frame.options[1], frame.options[-1]
    assert frame.value == first
    control(box, "previous").click()
    assert frame.value == last
    control(box, "next").click()
    control(box, "next").click()
    assert frame.value == second
    assert f"frame {second}" in text(box)


def test_another_scene_brings_its_frames(
    tmp_path: Path, displayed: list, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = {"glossyrooms": {"rooms": 2, "frames": 18}}
    smoke = PROFILES["smoke"]
    two_rooms = replace(smoke, data=replace(smoke.data, options=options))
    monkeypatch.setitem(PROFILES, "smoke", two_rooms)
    box = viewer.show(known_run(tmp_path))
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


def test_an_error_while_redrawing_is_told_and_goes_away(config: Config, displayed: list, monkeypatch) -> None:
    box = viewer.show(config)
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


def test_an_error_at_the_first_drawing_fails_the_cell(config: Config, displayed: list) -> None:
    with pytest.raises(ConfigError, match="training scene 'nowhere'"):
        viewer.show(config, "nowhere")


def test_no_output_widget_is_ever_made(
    config: Config, displayed: list, monkeypatch: pytest.MonkeyPatch
) -> None:
    """nbclient, and so papermill, may wait for ever on a cell that shows one (D29)."""

    def refuse(*_args: object, **_kwargs: object) -> None:
        raise AssertionError("an Output widget was made")

    monkeypatch.setattr(ipywidgets.Output, "__init__", refuse)
    box = viewer.show(config)
    control(box, "threshold").value = 0.3
    assert "Output widget" not in text(box)
    assert not any(isinstance(w, ipywidgets.Output) for w in tree(box))


def test_the_mesh_leaves_a_picture_and_is_marked_as_what_is_not_stored(
    config: Config, displayed: list
) -> None:
    example = frames.example_frame(config)
    mesh.show(config, example.scene, example.index)
    (static, unmarked), (page, marked) = displayed
    assert static.data.startswith(b"\x89PNG")
    assert unmarked is None
    assert "<iframe" in page.data
    kernel = {"name": "python3", "display_name": "Python 3"}
    output = nbformat.v4.new_output("display_data", {"text/html": page.data}, metadata=marked)
    cell = nbformat.v4.new_code_cell("mesh", outputs=[output], execution_count=1)
    notebook = nbformat.v4.new_notebook(cells=[cell], metadata={"kernelspec": kernel})
    assert script.tidy(notebook).cells[0].outputs == []
