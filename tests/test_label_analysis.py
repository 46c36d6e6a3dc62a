"""Labels compared with the ground truth of training frames, on depth with known errors."""

from __future__ import annotations

import numpy as np
import pytest
from known_run import OFF, ON, known_run
from polished_floor import MIRROR_RATIO, PolishedFloor

from d3d.analysis import labels, truncation
from d3d.datasets import DATASETS, Dataset
from d3d.errors import DataError
from d3d.pipeline import stages
from d3d.pipeline.config import ENSEMBLE, make_config
from d3d.prediction import DepthStore

pytest.importorskip("open3d")


def test_pixels_are_known_by_kind() -> None:
    highlight, known = np.array([[1, 1, 0], [1, 0, 0]], bool), np.array([[1, 0, 1], [1, 1, 1]], bool)
    masks = labels.pixel_masks(known, highlight)
    assert {kind: mask.sum() for kind, mask in masks.items()} == {"all": 5, "highlight": 2, "diffuse": 3}
    assert list(labels.pixel_masks(known, None)) == ["all"]
    assert list(labels.pixel_masks(known & highlight, highlight)) == ["all", "highlight"]


def test_one_scale_for_the_whole_image() -> None:
    gt, highlight = np.full((4, 4), 2.0), np.zeros((4, 4), bool)
    highlight[0] = True
    found = labels.metrics_by_pixels(np.where(highlight, 2.0, 1.0), gt, highlight, "median")
    # scaled by 2: the diffuse pixels are right, the highlights twice as far as the truth
    assert {kind: scores["abs_rel"] for kind, scores in found.items()} == {
        "all": 0.25, "highlight": 1.0, "diffuse": 0.0
    }  # fmt: skip


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Networks that agree except on highlights, where Monodepth2 predicts 1.5 times the depth."""
    return known_run(tmp_path_factory.mktemp("runs"))


def test_label_makeup_is_that_of_networks_that_differ_on_highlights_alone(run) -> None:
    table = labels.label_makeup(run, "monodepth2").set_index(["strategy", "pixels"])
    (scene,) = stages.training_scenes(run)
    lit = sum(int(scene.scene.highlight_mask(i, run.data.size_hw).sum()) for i in scene.targets)
    assert table.loc[("uncer", "highlight"), "count"] == lit
    assert (table.loc["pred", "projected"] == 0).all()
    hit = table.loc["proj", "projected"]
    assert (hit > 0.9).all()
    # their spread is .2 of the depth on highlights, more than the threshold, and under 1 % elsewhere
    spread = np.std([ON[a] for a in ENSEMBLE])
    assert spread > 0.2
    assert np.std([OFF[a] for a in ENSEMBLE]) < 0.01
    assert table.loc[("uncer", "highlight"), "projected"] == pytest.approx(hit["highlight"], abs=0.01)
    assert table.loc[("uncer", "diffuse"), "projected"] < 0.01
    assert table.loc[("uncer", "highlight"), "of_projected"] > 0.9
    assert table.groupby("strategy")["of_projected"].sum().drop("pred").to_numpy() == pytest.approx(1)
    # D is right off highlights, but for edges: sizes differ; the mesh is not
    assert table.loc[("pred", "diffuse"), "sq_rel"] < table.loc[("proj", "diffuse"), "sq_rel"]
    assert table.loc[("uncer", "highlight"), "sq_rel"] == pytest.approx(
        table.loc[("proj", "highlight"), "sq_rel"], rel=0.05
    )


def test_a_set_without_masks_is_refused(run, monkeypatch) -> None:
    monkeypatch.setattr(type(stages.training_scenes(run)[0].scene), "highlight_mask", lambda *a: None)
    with pytest.raises(DataError, match="a mask of highlights"):
        labels.label_makeup(run)


MISLED = 4  # the one frame of nine in which depth was predicted where the lamps are seen in the floor


class UnseenFloor(PolishedFloor):
    """A polished floor without its images, which are slow and only colour meshes."""

    def _read_image(self, i: int) -> np.ndarray:
        return np.zeros((*self.size_hw, 3), np.uint8)


class Floors:
    """Two polished floors whose predicted depth is right except on the highlights of one frame."""

    def __init__(self, folder, patch: pytest.MonkeyPatch) -> None:
        floor = UnseenFloor(9)
        scenes = [floor, floor.subset(range(9), "again")]
        patch.setitem(DATASETS, "floors", lambda root: Dataset("floors", {"train": lambda: scenes}))
        self.config = make_config(
            profile="smoke",
            dataset="floors",
            runs_dir=str(folder),
            run="floors",
            integrate_every=1,
            voxel_m=0.1,
        )
        self.predicted, self.uncertain = DepthStore(folder / "predicted"), DepthStore(folder / "uncertain")
        for scene in scenes:
            ids = scene.frame_ids
            self.predicted.write_scene(scene.name, [(f, self.depth(floor, i)) for i, f in enumerate(ids)])
            stds = [(f, 1.0 * floor.highlight_mask(i)) for i, f in enumerate(ids)]
            self.uncertain.write_scene(scene.name, stds)
        patch.setattr(stages, "predict", lambda config, arch="": self.predicted)
        patch.setattr(stages, "uncertainty", lambda config, name="ensemble", arch="": self.uncertain)

    @staticmethod
    def depth(floor: PolishedFloor, i: int) -> np.ndarray:
        mirrored = floor.virtual_depth(i)
        return np.where((i == MISLED) & (mirrored > 0), mirrored, floor.depth(i))


@pytest.fixture
def floors(tmp_path, monkeypatch) -> Floors:
    return Floors(tmp_path, monkeypatch)


def test_what_truncation_does_where_one_view_sees_a_mirror_image(floors) -> None:
    table = truncation.truncation_sweep(floors.config, "monodepth2", (0.3, 1.0), (0.1,), 100)
    assert list(table["sweep"].unique()) == ["truncation", "voxel"]
    lit = table[table["pixels"] == "highlight"].set_index(["sweep", "trunc_m", "voxel_m"])
    # by hand: D is twice as far as the truth on the highlights of one frame, and right in the others
    floor, errors = PolishedFloor(9), []
    (scene, _) = stages.training_scenes(floors.config)
    for i in scene.targets:
        g = floor.depth(i)[floor.highlight_mask(i)]
        errors.append(np.mean(((MIRROR_RATIO - 1) * g) ** 2 / g) if i == MISLED else 0.0)
    assert lit["pred"].to_numpy() == pytest.approx(np.mean(errors), rel=0.01)
    assert lit["images"].eq(2 * len(scene.targets)).all()
    # fused with the other views both make it good; a large truncation lets the one view count for more
    small, large = lit.loc[("truncation", 0.3, 0.1)], lit.loc[("truncation", 1.0, 0.1)]
    assert 0 < small["proj"] < 0.05 * small["pred"]
    assert small["proj"] < large["proj"] < 0.5 * large["pred"]
    # every highlight is uncertain, no other pixel is: the label is P there, and D elsewhere
    assert lit["label"].to_numpy() == pytest.approx(lit["proj"].to_numpy())
    other = table[table["pixels"] == "diffuse"]
    assert other["label"].to_numpy() == pytest.approx(0, abs=1e-6)
    assert other["pred"].to_numpy() == pytest.approx(0, abs=1e-6)
    # the run's own fusion comes out alike in both sweeps
    own = floors.config.fusion
    assert (own.trunc_m, own.voxel_m) == (1.0, 0.1)
    assert lit.loc[("voxel", 1.0, 0.1), "proj"] == pytest.approx(large["proj"])


def test_a_stopped_sweep_goes_on_room_by_room_and_a_repeat_reads(floors, monkeypatch) -> None:
    arguments = ("monodepth2", (0.1, 0.2), (0.2,), 4)
    whole, made = stages.mesh_of, []

    def until_the_second_room(config, training, depths):
        made.append(training.scene.name)
        if len(made) == 5:
            raise KeyboardInterrupt
        return whole(config, training, depths)

    monkeypatch.setattr(stages, "mesh_of", until_the_second_room)
    with pytest.raises(KeyboardInterrupt):
        truncation.truncation_sweep(floors.config, *arguments)
    table = truncation.truncation_sweep(floors.config, *arguments)
    # three fusions a room; the second room's two that were not kept are made again
    assert made == ["floor"] * 3 + ["again"] * 2 + ["again"] * 3
    made.clear()
    assert truncation.truncation_sweep(floors.config, *arguments).equals(table)
    assert made == []
    # another threshold, or other depth: nothing old is taken for it
    other = make_config(
        profile="smoke",
        dataset="floors",
        runs_dir=floors.config.runs_dir,
        run="floors",
        integrate_every=1,
        voxel_m=0.1,
        threshold_m=2.0,
    )
    again = truncation.truncation_sweep(other, "monodepth2", (0.1,), (), 4)
    assert len(made) == 2
    assert again["label"].to_numpy() == pytest.approx(again["pred"].to_numpy())


def test_a_truncation_smaller_than_the_voxel_is_left_out(floors) -> None:
    table = truncation.truncation_sweep(floors.config, "monodepth2", (0.05, 0.2), (2.0,), 2)
    assert list(table["trunc_m"].unique()) == [0.2]
