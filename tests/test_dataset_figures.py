"""Tables and figures of a data set, also with less ground truth than GlossyRooms has."""

from __future__ import annotations

import numpy as np
import pytest
from polished_floor import MIRROR_RATIO, PolishedFloor

from d3d.datasets import DATASETS, Dataset
from d3d.datasets.glossyrooms.format import MATERIALS
from d3d.figures import dataset
from d3d.pipeline.config import make_config


@pytest.fixture(scope="module")
def smoke():
    return make_config(profile="smoke")


def _picture(figure, title: str) -> np.ndarray:
    (axis,) = (a for a in figure.axes if a.get_title() == title)
    return np.ma.filled(axis.images[0].get_array(), np.nan)


def test_the_overview_counts_what_the_run_opens(smoke) -> None:
    table = dataset.overview(smoke)
    assert list(table.index) == ["train", "val", "test"]
    assert set(table["scenes"]) == {1}
    assert set(table["frames"]) == {18}
    assert table["Reflection"].isna()["train"]
    assert 0 < table.loc["val", "Reflection"] <= 18
    assert len(dataset.one_frame_per_scene(smoke).axes) == 3


def test_what_is_known_of_a_room(smoke) -> None:
    example = dataset.example_triple(smoke)
    scene, i = example.scene, example.row[0]
    figure = dataset.ground_truth(scene, i)
    seen, depth = _picture(figure, "depth of what is seen"), _picture(figure, "depth")
    np.testing.assert_array_equal(seen > depth, scene.virtual_depth(i) > 0)
    (title,) = (a.get_title() for a in figure.axes if a.get_title().startswith("matt"))
    colours = _picture(figure, title)
    for code, name in enumerate(MATERIALS):
        assert (colours[scene.material(i) == code] == dataset.MATERIAL_COLOURS[name]).all()


def test_what_is_known_of_a_scene_without_materials_or_without_depth() -> None:
    floor = PolishedFloor(3)
    figure = dataset.ground_truth(floor, 1)
    seen, depth = _picture(figure, "depth of what is seen"), _picture(figure, "depth")
    np.testing.assert_allclose(np.unique((seen / depth).round(3)), [1, MIRROR_RATIO])
    floor.has_depth = False
    assert [a.get_title() for a in dataset.ground_truth(floor, 1).axes] == ["image"]


def test_why_targets_fell_out(monkeypatch) -> None:
    sparse = PolishedFloor(6).subset((0, 1, 2, 5), "sparse")
    monkeypatch.setitem(DATASETS, "floor", lambda root: Dataset("floor", {"train": lambda: [sparse]}))
    counts = dataset.dropped_targets(make_config(profile="smoke", dataset="floor"))["count"]
    assert counts["targets looked at"] == 4
    assert counts["training triples"] == 1
    assert counts.filter(like="dropped").sum() == 3


def test_the_running_example_is_the_named_frame_if_the_run_has_it(smoke) -> None:
    found = dataset.example_triple(make_config(profile="ready"))
    assert (found.scene.name, found.scene.frame_ids[found.row[0]]) == dataset.EXAMPLES["glossyrooms"]
    assert found.gt is not None
    assert found.highlight.any()
    assert dataset.example_triple(smoke).name == dataset.most_highlight_triple(smoke).name
