"""A room written as a capture: what COLMAP would write, the same bytes each time, and the truth is found again."""

from __future__ import annotations

import filecmp
from pathlib import Path

import numpy as np
import pytest

from d3d.datasets import open_dataset
from d3d.errors import ConfigError
from d3d.io import project_root
from glossyrooms import capture

SHIPPED = project_root() / "data" / "capture"
MOST_BYTES = 3_000_000


def files(folder: Path) -> list[str]:
    return sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())


@pytest.fixture
def small() -> capture.GlossyRoom:
    """A training room without depth, shortened."""
    return open_dataset("glossyrooms", rooms=2, frames=12).scenes("train")[1]


def poses_of(model):
    return {image.name: image.cam_from_world().matrix() for _, image in sorted(model.images.items())}


def test_the_capture_that_ships_is_what_its_command_writes(tmp_path, capsys):
    pycolmap = pytest.importorskip("pycolmap")
    out = tmp_path / "again"
    assert capture.main(["test-0004", "--out", str(out)]) == 0
    assert "80 images and poses of test-0004, with points" in capsys.readouterr().out
    names = files(SHIPPED)
    assert files(out) == names
    # a rotation becomes a quaternion by eigenvectors, whose last bits differ between processors
    poses = {"sparse/0/frames.bin", "sparse/0/images.bin"}
    _, different, unreadable = filecmp.cmpfiles(out, SHIPPED, names, shallow=False)
    assert unreadable == []
    assert set(different) <= poses
    ours, theirs = (
        poses_of(pycolmap.Reconstruction(str(folder / "sparse" / "0"))) for folder in (out, SHIPPED)
    )
    assert list(ours) == list(theirs)
    np.testing.assert_allclose(list(ours.values()), list(theirs.values()), rtol=0, atol=1e-12)
    assert sum((SHIPPED / name).stat().st_size for name in names) < MOST_BYTES


def test_a_reader_finds_the_room_in_an_unknown_scale():
    pytest.importorskip("pycolmap")
    room = capture.truth_of(SHIPPED)
    (found,) = open_dataset("capture", SHIPPED).scenes("train")
    assert found.relative
    assert found.frame_ids == room.frame_ids
    np.testing.assert_array_equal(found.image(7), room.image(7))
    np.testing.assert_allclose(found.K(0), room.K(0), atol=1e-9)
    # by the points alone, the median depth of the frames is 2.5; the truth says how long that is
    metres = np.ptp(room.world_T_cams[:, :3, 3], axis=0) / np.ptp(found.world_T_cams[:, :3, 3], axis=0)
    np.testing.assert_allclose(metres, metres[0], rtol=1e-6)
    true_median = np.median([np.median(room.depth(i)) for i in range(0, len(room), 8)])
    assert metres[0] * 2.5 == pytest.approx(true_median, rel=0.1)
    (scaled,) = open_dataset("capture", SHIPPED, metres_per_unit=capture.METRES_PER_UNIT).scenes("train")
    np.testing.assert_allclose(scaled.world_T_cams, room.world_T_cams, atol=1e-6)


def test_points_lie_on_surfaces_and_not_on_highlights():
    pycolmap = pytest.importorskip("pycolmap")
    room = capture.truth_of(SHIPPED)
    model = pycolmap.Reconstruction(SHIPPED / "sparse" / "0")
    assert 200 < model.num_points3D() < 600
    errors, lit = [], []
    for image in model.images.values():
        i = room.frame_ids.index(Path(image.name).stem)
        depth, highlight = room.depth(i), room.highlight_mask(i)
        for seen in image.get_observation_points2D():
            x, y = np.rint(seen.xy - 0.5).astype(int)
            point = capture.METRES_PER_UNIT * model.points3D[seen.point3D_id].xyz
            z = (np.linalg.inv(room.world_T_cams[i]) @ [*point, 1])[2]
            errors.append(abs(z - depth[y, x]))
            lit.append(highlight[y, x])
    assert max(errors) < 0.021
    assert not any(lit)
    assert len(lit) > 5000


def test_a_room_without_depth_has_no_points(small, tmp_path):
    pycolmap = pytest.importorskip("pycolmap")
    assert not small.has_depth
    out = capture.write_capture(small, tmp_path / "c", 2.0)
    model = pycolmap.Reconstruction(out / "sparse" / "0")
    assert (model.num_points3D(), model.num_reg_images()) == (0, len(small))
    centre = model.images[4].projection_center()
    np.testing.assert_allclose(centre, small.world_T_cams[3, :3, 3] / 2, atol=1e-9)


def test_only_captures_of_rooms_have_a_truth(small, tmp_path):
    pytest.importorskip("pycolmap")
    out = capture.write_capture(small, tmp_path / "c")
    assert capture.truth_of(out).name == small.name
    (out / capture.SOURCE).unlink()
    assert capture.truth_of(out) is None


def test_wrong_input_is_one_clear_error(small, tmp_path, capsys):
    assert capture.main(["test-004", "--out", str(tmp_path / "c")]) == 1
    assert "unknown room 'test-004'. Did you mean 'test-0004'" in capsys.readouterr().err
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("keep")
    with pytest.raises(ConfigError, match="already exists"):
        capture.write_capture(small, tmp_path / "full")
    with pytest.raises(ConfigError, match="metres_per_unit"):
        capture.write_capture(small, tmp_path / "c", 0)
    assert not (tmp_path / "c").exists()
