"""Captures: each reader returns the poses, intrinsics, images and depth from which the files were written."""

import json

import numpy as np
import pytest
from capture_writer import (
    OPENGL,
    Room,
    camera_points,
    colmap_binary,
    colmap_text,
    nice_slam,
    open3d_log,
    pose_list,
    record3d_exr,
    record3d_file,
    scannet_like,
    small_depth,
    transforms,
    tum,
    write_images,
)
from PIL import Image
from scipy.ndimage import map_coordinates

from d3d.datasets import open_dataset
from d3d.datasets.capture.description import Lens
from d3d.datasets.capture.lenses import Plan, turned_K, turned_pose
from d3d.errors import ConfigError, DataError
from d3d.geometry import upward
from d3d.pipeline.config import make_config

pytest.importorskip("pycolmap")


@pytest.fixture(scope="module")
def room():
    return Room(24)


def opened(root, **options):
    return open_dataset("capture", root, **options).scenes("all")[0]


def assert_is(scene, room, depth=False, without=(), names=None):
    """Check that every frame of a scene equals the room's frame: pose, intrinsics, pixels, depth."""
    kept = [i for i in range(len(room)) if i not in without]
    assert list(scene.frame_ids) == [(names or room.names)[i] for i in kept]
    assert scene.size_hw == room.size_hw
    np.testing.assert_allclose(scene.world_T_cams, room.poses[kept], atol=1e-6)
    np.testing.assert_allclose(scene.intrinsics(), np.repeat(room.K[None], len(kept), 0), atol=1e-9)
    assert scene.has_depth == depth
    for k in (0, 7, len(kept) - 1):
        np.testing.assert_array_equal(scene.image(k), room.image(kept[k]))
        if depth:
            np.testing.assert_allclose(scene.depth(k), room.depth(kept[k]), atol=2e-4)


def test_colmap_text(room, tmp_path):
    scene = opened(colmap_text(room, tmp_path, unit=0.37), metres_per_unit=0.37)
    assert_is(scene, room)
    assert not scene.relative


def test_transforms(room, tmp_path):
    assert_is(opened(transforms(room, tmp_path, unit=3.0), metres_per_unit=3.0), room)


def test_pose_list(room, tmp_path):
    assert_is(opened(pose_list(room, tmp_path)), room, depth=True)


def test_colmap_binary_with_rigs_and_frames(room, tmp_path):
    assert_is(opened(colmap_binary(room, tmp_path, unit=0.37), metres_per_unit=0.37), room)


def test_tum(room, tmp_path):
    scene = opened(tum(room, tmp_path))
    names = [f"{1305031102.1753 + i / 30:.6f}" for i in range(len(room))]
    assert_is(scene, room, depth=True, without=(4,), names=names)
    assert "no pose within 20 ms" in scene.left_out[names[4]]


def test_record3d_exr(room, tmp_path):
    scene = opened(record3d_exr(room, tmp_path))
    names = [str(i) for i in range(len(room))]
    assert scene.frame_ids == tuple(n for n in names if n != "3")
    assert scene.depth_hw == tuple(n // 2 for n in room.size_hw)
    for k, i in ((0, 0), (3, 4), (22, 23)):  # numbers after the missing one keep their own pose
        np.testing.assert_allclose(scene.world_T_cams[k], room.poses[i], atol=1e-6)
        np.testing.assert_array_equal(scene.image(k), room.image(i))
        wanted = small_depth(room, i, scene.depth_hw).astype(np.float16)
        np.testing.assert_array_equal(scene.depth(k), wanted.astype(np.float32))


def test_record3d_file(room, tmp_path):
    scene = opened(record3d_file(room, tmp_path / "walk.r3d"))
    assert len(scene) == len(room)
    np.testing.assert_allclose(scene.world_T_cams, room.poses, atol=1e-6)
    np.testing.assert_array_equal(scene.depth(7), small_depth(room, 7, scene.depth_hw))
    assert np.abs(scene.image(7).astype(int) - room.image(7)).mean() < 3


def test_open3d_log(room, tmp_path):
    assert_is(opened(open3d_log(room, tmp_path)), room, depth=True)


def test_nice_slam(room, tmp_path):
    names = [f"frame{i:06d}" for i in range(len(room))]
    assert_is(opened(nice_slam(room, tmp_path)), room, depth=True, names=names)


def test_folders_of_any_names(room, tmp_path):
    scene = opened(scannet_like(room, tmp_path / "Küche mit Boden"))
    names = [f"IMG_{i:04d}" for i in range(len(room))]
    assert_is(scene, room, depth=True, without=(5,), names=names)
    assert scene.depth(5) is None  # of IMG_0006: the depth map alone is missing
    assert "not finite" in scene.left_out["IMG_0005"]
    assert scene.name == "Küche mit Boden"


# --- traps --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "of"),
    [
        ({"axes": "opengl"}, lambda pose: pose @ OPENGL),
        ({"poses": "world-to-camera"}, np.linalg.inv),
        ({"axes": "opengl", "poses": "world-to-camera"}, lambda pose: np.linalg.inv(pose @ OPENGL)),
    ],
)
def test_other_conventions(room, tmp_path, options, of):
    assert_is(opened(pose_list(room, tmp_path, of), **options), room, depth=True)


def test_dense_folder_and_a_camera_of_its_own_for_each_image(room, tmp_path):
    """`dense/`: undistorted images beside their model. Each image has its own intrinsics."""
    root = colmap_text(room, tmp_path / "a")
    (root / "dense").mkdir()
    (root / "sparse" / "0").rename(root / "dense" / "sparse")
    (root / "images").rename(root / "dense" / "images")
    model = root / "dense" / "sparse"
    line = (model / "cameras.txt").read_text().splitlines()[1].split()
    images = (model / "images.txt").read_text().splitlines()
    cameras, number = [], 0
    for k, words in enumerate(line.split() for line in images):
        if words and words[-1].endswith(".png"):
            number += 1
            i = int(words[-1][:4])
            cameras.append(" ".join([str(number), *line[1:4], str(100.0 + i), *line[5:]]))
            images[k] = " ".join([*words[:8], str(number), words[9]])
    (model / "cameras.txt").write_text("\n".join(cameras) + "\n")
    (model / "images.txt").write_text("\n".join(images) + "\n")
    scene = opened(root, metres_per_unit=1.0)
    np.testing.assert_allclose([scene.K(i)[0, 0] for i in range(len(room))], 100.0 + np.arange(len(room)))
    np.testing.assert_allclose([scene.K(i)[0, 2] for i in range(len(room))], room.K[0, 2])
    np.testing.assert_allclose(scene.world_T_cams, room.poses, atol=1e-6)


def test_the_largest_of_several_models(room, tmp_path, capsys):
    root = colmap_text(room, tmp_path / "a")
    small = Room(12)
    other = colmap_text(small, tmp_path / "b")
    (root / "sparse" / "0").rename(root / "sparse" / "1")
    (other / "sparse" / "0").rename(root / "sparse" / "0")
    assert_is(opened(root, metres_per_unit=1.0), room)
    assert "COLMAP made 2 models" in capsys.readouterr().out


def test_a_missing_and_a_broken_image_cost_their_frames(room, tmp_path):
    root = transforms(room, tmp_path)
    (root / "images" / "0002.png").unlink()
    (root / "images" / "0009.png").write_bytes(b"no image")
    scene = opened(root, metres_per_unit=1.0)
    assert_is(scene, room, without=(2, 9))
    assert set(scene.left_out) == {"0002", "0009"}


def test_natural_order(tmp_path):
    room = Room(12)
    names = [f"frame_{i}" for i in range(12)]  # frame_10 after frame_9
    assert_is(opened(colmap_text(room, tmp_path, names=names), metres_per_unit=1.0), room, names=names)


def test_blanks_in_names_of_a_text_model(tmp_path):
    """pycolmap ends a name at its first blank; the name is the rest of the line."""
    room = Room(12)
    names = [f"my room  {i:02d}" for i in range(12)]
    assert_is(opened(colmap_text(room, tmp_path, names=names), metres_per_unit=1.0), room, names=names)


def quarter_turned(room, folder, orientation):
    """Write a pose list whose images are stored rotated, with an EXIF orientation."""
    root = pose_list(room, folder, depth=False, K=False)
    turns = {6: 1, 8: 3, 3: 2}[orientation]  # from upright to stored
    for i, path in enumerate(write_images(room, root / "images")):
        exif = Image.Exif()
        exif[0x0112] = orientation
        Image.fromarray(np.rot90(room.image(i), turns)).save(path, exif=exif)
    return root


def test_exif_that_the_poses_obey(room, tmp_path):
    """The poses belong to the upright images: d3d turns the stored images first."""
    root = quarter_turned(room, tmp_path, 6)
    h, w = room.size_hw
    K = {"width": w, "height": h, "intrinsic_matrix": [float(v) for v in room.K.T.ravel()]}
    (root / "camera_intrinsic.json").write_text(json.dumps(K))
    assert_is(opened(root), room)


@pytest.mark.parametrize("orientation", [6, 8, 3])
def test_exif_that_the_poses_ignore(room, tmp_path, orientation):
    """The poses belong to the stored images: image, intrinsics and pose are turned together."""
    root = quarter_turned(room, tmp_path, orientation)
    turns, K, (h, w) = {6: 1, 8: 3, 3: 2}[orientation], room.K, room.size_hw
    poses = [turned_pose(pose, turns) for pose in room.poses]
    for _ in range(turns):
        K, (h, w) = turned_K(K, w), (w, h)
    lines = [" ".join(repr(float(v)) for v in pose.ravel()) for pose in poses]
    (root / "poses.txt").write_text("\n".join(lines))
    about = {"width": w, "height": h, "intrinsic_matrix": [float(v) for v in K.T.ravel()]}
    (root / "camera_intrinsic.json").write_text(json.dumps(about))
    assert_is(opened(root), room)


def test_the_principal_point_tells_the_orientation(room, tmp_path):
    """K has no size. Its principal point lies in the middle of the upright image, or of the stored image."""
    root = quarter_turned(room, tmp_path, 6)
    np.savetxt(root / "K.txt", room.K)
    assert_is(opened(root), room)
    lines = [" ".join(repr(float(v)) for v in turned_pose(pose, 1).ravel()) for pose in room.poses]
    (root / "poses.txt").write_text("\n".join(lines))
    np.savetxt(root / "K.txt", turned_K(room.K, room.size_hw[1]))
    assert_is(opened(root), room)


@pytest.mark.parametrize("turns", [0, 1, 2, 3])
@pytest.mark.parametrize("size_hw", [(48, 64), (64, 48), (30, 60)])
def test_a_plan_moves_pixels_and_intrinsics_together(turns, size_hw):
    """Each pixel of the scene's image has the same viewing ray as its pixel in the stored image."""
    lens = Lens(70.0, 75.0, 33.0, 22.0, (48, 64))
    plan = Plan(lens, lens, turns, size_hw)
    y, x = np.mgrid[:48, :64]
    image = plan.image(np.stack((3 * x, 4 * y, 0 * x), axis=2).astype(np.uint8)).astype(float)
    assert image.shape == (*size_hw, 3)
    K, rotation = plan.K(), turned_pose(np.eye(4), turns)[:3, :3]
    for v, u in ((8, 9), (20, 30), (12, 24)):
        ray = rotation @ np.linalg.inv(K) @ (u, v, 1)
        pixel = lens.K @ ray / ray[2]
        np.testing.assert_allclose((image[v, u, 0] / 3, image[v, u, 1] / 4), pixel[:2], atol=0.4)
    depth = plan.depth(x.astype(np.float32), size_hw)  # of the nearest pixel
    assert np.abs(depth - image[..., 0] / 3).max() < 1.01


def sampled(image, at, **options):
    channels = image.astype(float).transpose(2, 0, 1)
    return np.stack([map_coordinates(c, at, order=1, **options) for c in channels], axis=2)


def test_distortion_is_removed_once_and_kept(room, tmp_path, monkeypatch):
    """Images distorted by OpenCV's formula are undistorted to the rays of the new intrinsics."""
    root, (h, w), K = transforms(room, tmp_path), room.size_hw, room.K
    k1, k2, p1, p2 = -0.12, 0.03, 0.002, -0.001
    v, u = np.mgrid[:h, :w].astype(float)
    x, y = (u - K[0, 2]) / K[0, 0], (v - K[1, 2]) / K[1, 1]
    for _ in range(30):  # the undistorted ray of each distorted pixel, by fixed point
        r2 = x * x + y * y
        radial = 1 + k1 * r2 + k2 * r2 * r2
        dx, dy = 2 * p1 * x * y + p2 * (r2 + 2 * x * x), p1 * (r2 + 2 * y * y) + 2 * p2 * x * y
        x, y = ((u - K[0, 2]) / K[0, 0] - dx) / radial, ((v - K[1, 2]) / K[1, 1] - dy) / radial
    at = np.stack((y * K[1, 1] + K[1, 2], x * K[0, 0] + K[0, 2]))
    for i in range(len(room)):
        image = np.stack(
            [
                map_coordinates(c.astype(float), at, order=1, mode="nearest")
                for c in room.image(i).transpose(2, 0, 1)
            ],
            2,
        )
        Image.fromarray(image.round().astype(np.uint8)).save(root / "images" / f"{room.names[i]}.png")
    about = json.loads((root / "transforms.json").read_text())
    (root / "transforms.json").write_text(json.dumps(about | {"k1": k1, "k2": k2, "p1": p1, "p2": p2}))
    scene = opened(root, metres_per_unit=1.0)
    new = scene.K(0)
    # the scene's pixels in the room's image, by both intrinsics
    v, u = np.mgrid[: scene.size_hw[0], : scene.size_hw[1]].astype(float)
    at = np.stack(
        ((v - new[1, 2]) / new[1, 1] * K[1, 1] + K[1, 2], (u - new[0, 2]) / new[0, 0] * K[0, 0] + K[0, 2])
    )
    wanted = np.stack(
        [map_coordinates(c.astype(float), at, order=1, cval=-1) for c in room.image(7).transpose(2, 0, 1)], 2
    )
    inside = (wanted >= 0).all(axis=2)
    assert inside.mean() > 0.9
    difference = np.abs(scene.image(7)[inside] - wanted[inside])
    assert np.median(difference) < 3  # interpolated twice
    shifted = np.abs(np.roll(scene.image(7), 1, axis=1)[inside] - wanted[inside])
    assert difference.mean() < 0.6 * shifted.mean()
    small = scene.image(7, (96, 128))
    monkeypatch.setattr(Plan, "image", lambda self, raw: pytest.fail("undistorted again"))
    np.testing.assert_array_equal(scene.image(7, (96, 128)), small)
    np.testing.assert_array_equal(scene.block(5, 9).image(2, (96, 128)), small)


def test_intrinsics_beside_those_of_a_colmap_model_are_refused(room, tmp_path):
    with pytest.raises(ConfigError, match=r"--intrinsics 100,100,96,72: .* has its own intrinsics"):
        opened(colmap_text(room, tmp_path), intrinsics="100,100,96,72")


def test_poses_stored_by_columns_are_named(room, tmp_path):
    root = pose_list(room, tmp_path, np.transpose)
    with pytest.raises(DataError, match="The matrix is transposed: write it row by row"):
        opened(root)


def test_unknown_scale_is_relative(room, tmp_path):
    found = open_dataset("capture", colmap_text(room, tmp_path, unit=0.37))
    (scene,) = found.scenes("train")
    assert found.unit == "relative units"
    assert np.nanmedian(scene.point_depths()) == pytest.approx(2.5)
    # the same up to one factor
    ratio = scene.world_T_cams[1:, :3, 3] - scene.world_T_cams[0, :3, 3]
    ratio = ratio / (room.poses[1:, :3, 3] - room.poses[0, :3, 3])
    np.testing.assert_allclose(ratio, ratio[0, 0], rtol=1e-4)


def test_bounds_are_chosen_and_recorded(room, tmp_path, capsys):
    root = str(pose_list(room, tmp_path))
    config = make_config(profile="smoke", dataset="capture", root=root)
    low, high = config.data.translation_m
    depth = np.median([np.median(room.depth(i)) for i in range(len(room))])
    assert low == pytest.approx(0.02 * depth, rel=0.1)
    assert high == pytest.approx(0.08 * depth, rel=0.1)
    assert config.data.identity()["translation_m"] == (low, high)
    assert "bounds chosen for a median depth" in capsys.readouterr().out
    given = make_config(profile="smoke", dataset="capture", root=root, max_translation_m=0.5, max_depth_m=7.0)
    assert given.data.translation_m == (low, 0.5)
    assert given.data.max_depth == 7.0
    assert make_config(dataset="capture", root=root, bounds="paper").data.translation_m == (0.05, 0.10)


def test_the_papers_bounds_stay_those_of_other_data_sets():
    """The identity is that of runs from before the bounds were parameters."""
    assert make_config(profile="paper").data.identity() == {
        "dataset": "glossyrooms",
        "height": 288,
        "width": 384,
        "every": 10,
        "translation_m": (0.05, 0.10),
        "max_rotation_deg": 3.0,
        "min_depth": 0.1,
        "max_depth": 10.0,
        "options": {},
    }


def test_bounds_in_the_wrong_order():
    with pytest.raises(ConfigError, match=r"min_translation_m = 0\.2 and max_translation_m = 0\.1"):
        make_config(min_translation_m=0.2)


def test_options_of_captures_are_refused_elsewhere():
    with pytest.raises(ConfigError, match="axes: only for --dataset capture"):
        make_config(axes="opengl")


def test_a_distance_gives_the_scale(room, tmp_path):
    root = transforms(room, tmp_path, unit=0.2)
    metres = float(np.linalg.norm(room.poses[3, :3, 3] - room.poses[20, :3, 3]))
    assert_is(opened(root, distance=("0003", "0020", metres)), room)
    with pytest.raises(DataError, match="no frame 'x' has a pose"):
        opened(root, distance=("0003", "x", 1.0))
    with pytest.raises(ConfigError, match="metres_per_unit and distance: each determines the scale"):
        opened(root, distance=("0003", "0020", metres), metres_per_unit=1.0)


def test_the_cameras_height_gives_the_scale(room, tmp_path):
    """GlossyRooms' floor is at height 0, but the file does not tell which axis is the height."""
    root = transforms(room, tmp_path, unit=0.2)
    floor = camera_height(room)
    scene = opened(root, camera_height=floor)
    assert scene.metres_per_unit == pytest.approx(0.2, rel=0.1)


def camera_height(room):
    """Compute the mean height of the cameras above the lowest surface in the first frame, from exact depth."""
    up = upward(room.poses)
    points = np.concatenate([camera_points(room, i, 8)[0] for i in range(0, len(room), 6)])
    return float((room.poses[:, :3, 3] @ up).mean() - np.quantile(points @ up, 0.001))
