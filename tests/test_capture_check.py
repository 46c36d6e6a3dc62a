"""The pose check finds wrong readings by pixels and names the option that mends them; bad input gives clear errors."""

import zipfile

import numpy as np
import pytest
from capture_writer import OPENGL, Room, colmap_text, pose_list, record3d_file, transforms, tum, write_images
from PIL import Image

from d3d import cli
from d3d.datasets import open_dataset
from d3d.datasets.capture.check import CURRENT, check_capture, check_poses
from d3d.datasets.capture.lenses import turned_pose
from d3d.datasets.sevenscenes.dataset import COLOR_K, SevenScenesSequence, open_sevenscenes
from d3d.errors import ConfigError, DataError
from d3d.pipeline import stages
from d3d.pipeline.config import make_config

pytest.importorskip("pycolmap")


@pytest.fixture(scope="module")
def room():
    return Room(60)


def checked(root, **options):
    return check_capture(open_dataset("capture", root, **options).scenes("all")[0])


def millimetres(pose):
    return np.block([[pose[:3, :3], 1000 * pose[:3, 3:]], [np.zeros((1, 3)), 1]])


@pytest.mark.parametrize(
    ("of", "mend"),
    [
        (lambda pose: pose @ OPENGL, "Add --axes opengl."),
        (np.linalg.inv, "Add --poses world-to-camera."),
        (lambda pose: np.linalg.inv(pose @ OPENGL), "Add --axes opengl --poses world-to-camera."),
    ],
)
def test_another_convention(room, tmp_path, of, mend):
    report = checked(pose_list(room, tmp_path, of))
    right = report.errors[mend.removeprefix("Add ").removesuffix(".")]
    assert right < 0.05
    assert report.errors[CURRENT] > 2.5 * right
    assert mend in report.problem


def test_right_poses_pass(room, tmp_path):
    report = checked(pose_list(room, tmp_path))
    assert report.problem == report.doubt == ""
    assert report.errors[CURRENT] < 0.05
    assert min(e for name, e in report.errors.items() if name.startswith("--")) > 0.1
    assert report.depth_ratio == pytest.approx(1, abs=0.1)


@pytest.mark.parametrize(("orientation", "turns", "square"), [(3, 2, False), (6, 1, True)])
def test_poses_of_the_other_orientation(room, tmp_path, orientation, turns, square):
    """The size of a half-turned or square image cannot show whether the poses belong to it or to the upright image."""
    root, K = pose_list(room, tmp_path, depth=False), room.K.copy()
    h, w = room.size_hw
    left = (w - h) // 2 if square else 0
    for i, path in enumerate(sorted((root / "images").iterdir())):
        exif = Image.Exif()
        exif[0x0112] = orientation
        image = np.rot90(room.image(i)[:, left : w - left], turns)
        Image.fromarray(image).save(path, exif=exif)
    K[0, 2] -= left
    np.savetxt(root / "K.txt", K)
    report = checked(root)
    name = "the other orientation of EXIF"
    assert f"With {name}, the poses explain the images much better" in report.problem
    assert "mogrify -auto-orient" in report.problem
    lines = [" ".join(repr(float(v)) for v in turned_pose(pose, turns).ravel()) for pose in room.poses]
    (root / "poses.txt").write_text("\n".join(lines))
    report = checked(root)  # poses of the stored images, as COLMAP finds them
    assert report.problem == ""
    assert report.errors[CURRENT] < 0.05 < report.errors[name]


@pytest.mark.parametrize("factor", [2 / 3, 1.5])
def test_a_wrong_focal_length(room, tmp_path, factor):
    """A focal length that is wrong by 1.5 gives at least a doubt. The depths of the planes hide a part of the error."""
    root, K = pose_list(room, tmp_path, depth=False), room.K * [[factor, 1, 1], [1, factor, 1], [1, 1, 1]]
    np.savetxt(root / "K.txt", K)
    report = checked(root)
    said = report.problem or report.doubt
    assert f"A focal length x {1.5 if factor < 1 else 0.667}" in said
    assert "--intrinsics" in said


@pytest.mark.parametrize("factor", [2 / 3, 1.5])
def test_a_wrong_focal_length_of_a_real_video(shared_dir, monkeypatch, factor):
    (scene,) = open_sevenscenes(shared_dir / "data" / "7scenes", val_block=(0.0, 1.0)).scenes("val")
    K = COLOR_K * [[factor, 1, 1], [1, factor, 1], [1, 1, 1]]
    # not the constant: a cache of `register_depth` is made from it and would keep the wrong K for later tests
    monkeypatch.setattr(SevenScenesSequence, "_read_K", lambda self, i: K)
    report = check_poses(scene, {})
    assert (
        f"A focal length x {1.5 if factor < 1 else 0.667} explains the images much better" in report.problem
    )


def test_millimetres(room, tmp_path):
    report = checked(pose_list(room, tmp_path, millimetres, depth=False))
    assert "They look like millimetres: add --metres-per-unit 0.001." in report.problem


def test_a_wrong_scale_of_depth(room, tmp_path):
    report = checked(pose_list(room, tmp_path), depth_scale=5000.0)
    assert "Give the right --depth-scale" in report.problem
    assert report.depth_ratio == pytest.approx(0.2, rel=0.1)


def test_shuffled_poses(room, tmp_path):
    root = pose_list(room, tmp_path)
    lines = (root / "poses.txt").read_text().splitlines()
    order = np.random.default_rng(0).permutation(len(lines))
    (root / "poses.txt").write_text("\n".join(lines[i] for i in order))
    assert "The poses do not explain the images" in checked(root).problem
    alphabetical = sorted(range(len(lines)), key=str)
    (root / "poses.txt").write_text("\n".join(lines[i] for i in alphabetical))
    assert "poses in alphabetical order" in checked(root).problem


def test_no_option_is_named_that_does_not_explain_the_images_either(room, tmp_path):
    """Random poses: some reading always has a smaller error, but a large one."""
    root = pose_list(room, tmp_path)
    lines = (root / "poses.txt").read_text().splitlines()
    for seed in range(1, 6):
        order = np.random.default_rng(seed).permutation(len(lines))
        (root / "poses.txt").write_text("\n".join(lines[i] for i in order))
        assert "no other reading does" in checked(root).problem


def test_the_picture_is_written_whatever_its_name_ends_with(room, tmp_path):
    root = pose_list(room, tmp_path / "capture")
    assert cli.main(["check", str(root), "--out", str(tmp_path / "picture")]) == 0
    assert Image.open(tmp_path / "picture").format == "PNG"


def test_images_without_poses_lead_to_the_room(room, tmp_path, capsys):
    write_images(room, tmp_path / "my room")
    assert cli.main(["check", str(tmp_path / "my room")]) == 1
    assert f"`python -m d3d room '{tmp_path / 'my room'}'`" in capsys.readouterr().err


def test_a_training_on_wrong_poses_does_not_begin(room, tmp_path):
    root = pose_list(room, tmp_path / "capture", lambda pose: pose @ OPENGL)
    given = {
        "profile": "smoke",
        "dataset": "capture",
        "root": str(root),
        "runs_dir": str(tmp_path),
        "run": "r",
    }
    with pytest.raises(DataError, match=r"(?s)Add --axes opengl.*pose_check\.png"):
        stages.pretrain(make_config(**given), "lite")
    picture = tmp_path / "r" / "capture" / "pose_check.png"
    assert Image.open(picture).size[0] > 900
    assert not (tmp_path / "r" / "pretrain").exists()


def test_the_command(room, tmp_path, capsys):
    root = colmap_text(room, tmp_path / "capture")
    assert cli.main(["check", str(root), "--out", str(tmp_path / "picture.png")]) == 0
    said = capsys.readouterr().out
    assert "The poses explain the images." in said
    assert "bounds chosen for a median depth" in said
    assert (tmp_path / "picture.png").is_file()
    assert cli.main(["check", str(root), "--axes", "opengl", "--out", str(tmp_path / "picture.png")]) == 1
    assert "--axes opencv" in capsys.readouterr().out


def test_a_real_video(shared_dir):
    """The error is .03 to .05 under the right poses and three times as much under others."""
    (scene,) = open_sevenscenes(shared_dir / "data" / "7scenes", val_block=(0.0, 1.0)).scenes("val")
    poses = scene.world_T_cams
    others = {"gl": poses @ OPENGL, "inverted": np.linalg.inv(poses), "both": np.linalg.inv(poses) @ OPENGL}
    report = check_poses(scene, others)
    assert report.problem == ""
    assert report.errors[CURRENT] < 0.05
    assert min(report.errors[name] for name in others) > 3 * report.errors[CURRENT]


def test_a_real_flat(shared_dir):
    """A real capture in two formats has the same images, poses and intrinsics, and passes the check."""
    root = shared_dir / "data" / "capture_room"
    if not root.is_dir():
        pytest.skip("needs shared/data/capture_room")
    with pytest.raises(DataError, match="several formats: colmap, transforms"):
        open_dataset("capture", root)
    binary, listed = (
        open_dataset("capture", root, format=f).scenes("all")[0] for f in ("colmap", "transforms")
    )
    assert binary.frame_ids == listed.frame_ids
    assert (len(binary), binary.frame_ids[0], binary.relative) == (35, "0001", True)
    np.testing.assert_allclose(binary.intrinsics(), listed.intrinsics(), atol=1e-6)
    for a, b in ((0, 34), (3, 20)):  # the same up to a similarity
        turn = [s.world_T_cams[a, :3, :3].T @ s.world_T_cams[b, :3, :3] for s in (binary, listed)]
        np.testing.assert_allclose(*turn, atol=1e-5)
    steps = [np.linalg.norm(np.diff(s.world_T_cams[:, :3, 3], axis=0), axis=1) for s in (binary, listed)]
    np.testing.assert_allclose(steps[0] / steps[1], (steps[0] / steps[1])[0], rtol=1e-4)
    report = check_capture(binary)
    assert report.problem == ""
    assert report.errors[CURRENT] < 0.05
    assert min(e for name, e in report.errors.items() if name.startswith("--")) > 3 * report.errors[CURRENT]


def test_the_same_model_as_text(shared_dir, tmp_path):
    root = shared_dir / "data" / "capture_room"
    if not root.is_dir():
        pytest.skip("needs shared/data/capture_room")
    (tmp_path / "images").symlink_to(root / "images")
    (tmp_path / "text").symlink_to(root / "text")
    scenes = [
        open_dataset("capture", r, format="colmap", metres_per_unit=1.0).scenes("all")[0]
        for r in (root, tmp_path)
    ]
    np.testing.assert_allclose(scenes[0].world_T_cams, scenes[1].world_T_cams, atol=1e-9)
    np.testing.assert_array_equal(scenes[0].K(0), scenes[1].K(0))
    np.testing.assert_allclose(scenes[0].point_depths(), scenes[1].point_depths(), rtol=1e-9)


# --- bad input ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def small():
    return Room(12)


def refused(root, message, **options):
    with pytest.raises((DataError, ConfigError), match=message):
        open_dataset("capture", root, **options)


def test_no_format(tmp_path):
    (tmp_path / "holiday.txt").write_text("")
    refused(
        tmp_path, r"(?s)not a capture in a known format. It holds holiday.txt..*colmap: .*transforms.json"
    )
    refused(tmp_path, "has no files of format 'tum'", format="tum")
    refused(tmp_path, "Did you mean 'colmap'", format="colmp")
    refused(None, "needs root=")
    (tmp_path / "walk.mp4").write_text("")
    refused(tmp_path / "walk.mp4", "is a video without poses")


def test_two_formats(small, tmp_path):
    transforms(small, tmp_path)
    pose_list(small, tmp_path)
    refused(tmp_path, "several formats: transforms, poselist. Choose one with --format")
    assert len(open_dataset("capture", tmp_path, format="poselist").scenes("all")[0]) == len(small)


def test_no_intrinsics(small, tmp_path):
    refused(pose_list(small, tmp_path / "a", K=False), "has no intrinsics .*--intrinsics")
    refused(tum(small, tmp_path / "b", intrinsics=False), "--intrinsics fr1, fr2 or fr3")
    K = small.K
    given = f"{K[0, 0]},{K[1, 1]},{K[0, 2]},{K[1, 2]}"
    scene = open_dataset("capture", tmp_path / "a", intrinsics=given).scenes("all")[0]
    np.testing.assert_allclose(scene.K(0), small.K)
    refused(tmp_path / "a", "neither a file nor four numbers", intrinsics="K.tx")


def test_intrinsics_of_another_size(small, tmp_path):
    root, K = pose_list(small, tmp_path / "a", K=False), 2 * small.K
    refused(root, "belong to images of another size", intrinsics=f"{K[0, 0]},{K[1, 1]},{K[0, 2]},{K[1, 2]}")
    refused(transforms(small, tmp_path / "b", w=640.0, h=640.0), "belong to 640x640, another shape")
    # the same shape at another size is scaled
    (h, w), K = small.size_hw, small.K
    more = {"fl_x": 2 * K[0, 0], "fl_y": 2 * K[1, 1], "cx": 2 * K[0, 2] + 1, "cy": 2 * K[1, 2] + 1}
    scaled = transforms(small, tmp_path / "c", w=2.0 * w, h=2.0 * h, **more)
    np.testing.assert_allclose(open_dataset("capture", scaled, metres_per_unit=1.0).scenes("all")[0].K(0), K)


def test_another_number_of_poses_than_of_images(small, tmp_path):
    root = pose_list(small, tmp_path)
    lines = (root / "poses.txt").read_text()
    for text, number in (("\n".join(lines.splitlines()[:-1]), 11), (lines + lines.splitlines()[0], 13)):
        (root / "poses.txt").write_text(text)
        refused(root, f"has {number} poses, but .* has 12 images")


def test_no_image_with_a_pose(small, tmp_path):
    root = transforms(small, tmp_path)
    for path in (root / "images").iterdir():
        path.unlink()
    refused(root, "no image of this capture has a pose and can be read: 12 are left out")


def test_equal_poses(small, tmp_path):
    refused(pose_list(small, tmp_path, lambda pose: np.eye(4)), "all poses are at one place")


def test_reflections(small, tmp_path):
    mirrored = np.diag([1.0, 1, -1, 1])
    refused(pose_list(small, tmp_path, lambda pose: pose @ mirrored), "not a rotation .*mirrored")


def test_ten_frames_are_needed(tmp_path):
    refused(
        transforms(Room(6), tmp_path), "only 6 frames have an image and a pose; a training needs at least 10"
    )


def test_a_fisheye_that_sees_too_much(small, tmp_path):
    K = small.K
    more = {"is_fisheye": True, "k1": 0.01, "fl_x": K[0, 0] / 4, "fl_y": K[1, 1] / 4}
    refused(transforms(small, tmp_path, **more), "75 degrees from its axis")


def test_blurred_images(small, tmp_path):
    root = pose_list(small, tmp_path)
    write_images(small, root / "images", of=lambda image: np.full_like(image, 128))
    with pytest.raises(DataError, match="show no edges"):
        checked(root)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "is not JSON"),
        ("[1]", "not a JSON object"),
        ('{"frames": []}', 'no list "frames"'),
        ('{"frames": [{"file_path": "../../etc/x.png"}]}', "outside of the folder"),
        ('{"frames": [{"file_path": "/etc/x.png"}]}', "outside of the folder"),
        ('{"frames": [{"file_path": "x.png", "transform_matrix": [[1]]}]}', "a pose has 16"),
        ('{"frames": [{"file_path": "x.png", "transform_matrix": "no"}]}', "not a matrix of numbers"),
    ],
)
def test_bad_transforms(tmp_path, content, message):
    (tmp_path / "transforms.json").write_text(content)
    refused(tmp_path, message)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"w": -64.0}, "is not the size of an image"),
        ({"h": 0.3}, "is not the size of an image"),
        ({"cx": 1e9}, "principal point .* lies far outside"),
        ({"depth_unit_scale_factor": 0}, "must be a positive number"),
        ({"depth_unit_scale_factor": "mm"}, "is 'mm', not a number"),
    ],
)
def test_wrong_numbers_in_transforms(small, tmp_path, wrong, message):
    refused(transforms(small, tmp_path, **wrong), message)


def test_images_of_one_name_are_frames_of_their_own(small, tmp_path):
    root = pose_list(small, tmp_path, depth=False)
    first, second, third, *_ = sorted((root / "images").iterdir())
    first.rename(root / "images" / "1.png")
    second.rename(root / "images" / "1.webp")
    third.rename(root / "images" / "1_2.png")
    (scene,) = open_dataset("capture", root).scenes("all")
    assert len(set(scene.frame_ids)) == len(small)


@pytest.mark.parametrize("write", [pose_list, colmap_text, transforms])
def test_heic_images(small, tmp_path, write):
    root = write(small, tmp_path)
    images = sorted((root / "images").iterdir())
    for path in images[:5]:
        (root / "images" / f"{path.stem}.HEIC").write_bytes(b"")
    assert len(open_dataset("capture", root).scenes("all")[0]) == len(small)  # beside their JPEG copies
    for path in images[:5]:
        path.unlink()
    refused(root, r"5 images are HEIC files, .*0000\.HEIC.*`heif-convert .*Most Compatible")


def test_depth_that_belongs_to_no_image_is_said(small, tmp_path, capsys):
    root = pose_list(small, tmp_path)
    for k, path in enumerate(sorted((root / "depth").iterdir())):
        path.rename(path.with_name(f"far{'x' * k}{path.suffix}"))
    assert not open_dataset("capture", root).scenes("all")[0].has_depth
    assert "is read without depth" in capsys.readouterr().out


def test_a_damaged_colmap_model(small, tmp_path):
    root = colmap_text(small, tmp_path)
    for path in (root / "sparse" / "0").iterdir():
        path.with_suffix(".bin").write_bytes(b"\xff" * 99)
        path.unlink()
    refused(root, "this COLMAP model is damaged or incomplete")


def test_unsafe_and_huge_r3d_files(small, tmp_path):
    path = record3d_file(small, tmp_path / "a.r3d")
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("../outside.txt", "x")
    refused(path, "may lead out of its folder")
    bomb = tmp_path / "bomb.r3d"
    with zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("metadata", b"0" * 2**26)
    refused(bomb, "claims to unpack to")
    (tmp_path / "none.r3d").write_bytes(b"no zip")
    refused(tmp_path / "none.r3d", "not a zip archive")
    assert not (tmp_path.parent / "outside.txt").exists()


def test_options_that_are_wrong(small, tmp_path):
    root = transforms(small, tmp_path)
    refused(root, "must be opencv or opengl", axes="opengles")
    refused(root, "at the same place", distance=("0000", "0000", 1.0))
    refused(root, "must be greater than 0", metres_per_unit=-1.0)
    with pytest.raises(ConfigError, match="must be two frames and metres"):
        make_config(dataset="capture", root=str(root), distance="0001 0040")
