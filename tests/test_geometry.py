"""Conventions: the identity warp, gradients, half pixels, flips, poses."""

import numpy as np
import pytest
import torch

from d3d.errors import ConfigError, DataError
from d3d.geometry import (
    backproject,
    check_pose,
    check_poses,
    disp_to_depth,
    flip_intrinsics,
    project,
    relative_pose,
    scale_intrinsics,
    warp,
)

K = np.array([[60.0, 0, 31.0], [0, 58.0, 23.5], [0, 0, 1]])


def pose(rotation_deg=(0.0, 0.0, 0.0), translation=(0.0, 0.0, 0.0)):
    from scipy.spatial.transform import Rotation

    result = np.eye(4)
    result[:3, :3] = Rotation.from_euler("xyz", rotation_deg, degrees=True).as_matrix()
    result[:3, 3] = translation
    return result


def tensor(array, dtype=torch.float64):
    return torch.as_tensor(np.asarray(array), dtype=dtype)[None]


def test_identity_pose_warps_to_the_very_image():
    image = torch.rand(2, 3, 48, 64)
    depth = torch.rand(2, 1, 48, 64) * 5 + 0.2
    warped, valid = warp(image, depth, tensor(K, torch.float32).repeat(2, 1, 1), torch.eye(4).repeat(2, 1, 1))
    assert (warped - image).abs().max() < 1e-4
    assert valid.all()


def test_known_shift_samples_the_neighbouring_pixel():
    # fx * tx / z = 60 * 0.1 / 2 = 3 pixels: target pixel u is seen at u + 3 in the source
    image = torch.rand(1, 3, 48, 64, dtype=torch.float64)
    depth = torch.full((1, 1, 48, 64), 2.0, dtype=torch.float64)
    warped, valid = warp(image, depth, tensor(K), tensor(pose(translation=(0.1, 0, 0))))
    assert torch.allclose(warped[..., :-3], image[..., 3:], atol=1e-9)
    assert valid[..., :-3].all()
    assert not valid[..., -3:].any()
    assert torch.allclose(warped[..., -1], image[..., -1])  # border padding


def test_warp_agrees_with_backproject_and_project():
    rng = np.random.default_rng(0)
    depth = torch.as_tensor(rng.uniform(1, 3, (1, 1, 48, 64)))
    source_T_target = pose((2, -3, 1), (0.05, -0.02, 0.04))
    points = backproject(depth, tensor(K))
    moved = (
        tensor(source_T_target)[:, :3, :3] @ points.flatten(2) + tensor(source_T_target)[:, :3, 3:]
    ).reshape(1, 3, 48, 64)
    pixels, z = project(moved, tensor(K))
    # an image whose value is its own x coordinate shows where each pixel was taken from
    x_image = torch.arange(64, dtype=torch.float64).expand(1, 1, 48, 64)
    warped, valid = warp(x_image, depth, tensor(K), tensor(source_T_target))
    inner = valid & (pixels[:, :1] >= 0) & (pixels[:, :1] <= 63)
    assert inner.float().mean() > 0.8
    assert (warped - pixels[:, :1])[inner].abs().max() < 1e-9
    assert (z > 0).all()


def test_a_point_behind_the_source_is_not_valid():
    depth = torch.ones(1, 1, 48, 64)
    _, valid = warp(
        torch.rand(1, 3, 48, 64),
        depth,
        tensor(K, torch.float32),
        tensor(pose(translation=(0, 0, -2)), torch.float32),
    )
    assert not valid.any()


def test_gradcheck_of_warp_to_depth_and_image():
    torch.manual_seed(0)
    image = torch.rand(1, 2, 6, 8, dtype=torch.float64, requires_grad=True)
    depth = (torch.rand(1, 1, 6, 8, dtype=torch.float64) + 1.5).requires_grad_()
    small = np.array([[7.0, 0, 3.4], [0, 7.0, 2.6], [0, 0, 1]])
    T = tensor(pose((1, 2, 0.5), (0.031, -0.023, 0.017)))
    assert torch.autograd.gradcheck(lambda i, d: warp(i, d, tensor(small), T)[0], (image, depth), atol=1e-5)


def test_flipping_image_intrinsics_and_pose_is_a_flip_of_the_warp():
    torch.manual_seed(1)
    image, depth = (
        torch.rand(1, 3, 48, 64, dtype=torch.float64),
        torch.rand(1, 1, 48, 64, dtype=torch.float64) + 1,
    )
    T = pose((1, 2, -1), (0.05, 0.01, 0.03))
    mirror = np.diag((-1.0, 1, 1, 1))
    plain, _ = warp(image, depth, tensor(K), tensor(T))
    flipped, _ = warp(
        image.flip(-1), depth.flip(-1), tensor(flip_intrinsics(K, 64)), tensor(mirror @ T @ mirror)
    )
    assert torch.allclose(flipped.flip(-1), plain, atol=1e-9)


def test_warp_stays_float32_under_autocast():
    image, depth = torch.rand(1, 3, 48, 64), torch.rand(1, 1, 48, 64) + 1
    T = tensor(pose(translation=(0.05, 0, 0)), torch.float32)
    plain, _ = warp(image, depth, tensor(K, torch.float32), T)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        cast, _ = warp(image, depth, tensor(K, torch.float32), T)
    assert cast.dtype == torch.float32
    assert torch.equal(cast, plain)


def test_scaled_intrinsics_keep_the_half_pixel():
    # the centre of the image, (size - 1) / 2, stays the centre at any size
    centred = np.array([[525.0, 0, 319.5], [0, 525.0, 239.5], [0, 0, 1]])
    half = scale_intrinsics(centred, (480, 640), (96, 128))
    assert np.allclose(half[:2, 2], (63.5, 47.5))
    assert np.allclose(half[0, 0], 105)
    assert np.allclose(scale_intrinsics(half, (96, 128), (480, 640)), centred)
    # ScanNet's 1296x968 to 384x288, as the data sheet has it
    factors = scale_intrinsics(np.diag((1.0, 1.0, 1.0)), (968, 1296), (288, 384))
    assert np.allclose((factors[0, 0], factors[1, 1]), (0.29630, 0.29752), atol=5e-6)


def test_relative_pose_is_equation_one():
    world_T_s, world_T_t = pose((3, 1, 2), (1, 2, 3)), pose((-1, 0, 4), (0.5, 2.2, 2.9))
    point = np.array([0.3, -0.2, 1.7, 1])
    world = world_T_t @ point
    assert np.allclose(relative_pose(world_T_s, world_T_t) @ point, np.linalg.inv(world_T_s) @ world)


def test_disp_to_depth_ends_and_middle():
    ends = disp_to_depth(torch.tensor([0.0, 0.5, 1.0]))
    assert torch.allclose(ends, torch.tensor([10.0, 0.19802, 0.1]), atol=1e-5)
    with pytest.raises(ConfigError, match="min_depth"):
        disp_to_depth(torch.zeros(1), 2.0, 1.0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda p: p * np.inf, "not finite"),
        (lambda p: p @ np.diag((2.0, 2, 2, 1)), "not a rotation"),
        (lambda p: p @ np.diag((-1.0, 1, 1, 1)), "not a rotation"),
        (lambda p: p[:3], "4x4"),
        (lambda p: p.T, "last row"),
        (lambda p: np.zeros((4, 4)), "last row"),
    ],
)
def test_a_bad_pose_is_named(change, message):
    with np.errstate(invalid="ignore"), pytest.raises(DataError, match=message) as error:
        check_pose(change(pose((1, 2, 3), (1, 1, 1))), "scene a, frame 7")
    assert "scene a, frame 7" in str(error.value)


def test_depth_that_is_not_a_number_is_not_valid_and_does_not_crash():
    depth = torch.full((1, 1, 48, 64), float("nan"), requires_grad=True)
    warped, valid = warp(torch.rand(1, 3, 48, 64), depth, tensor(K, torch.float32), torch.eye(4)[None])
    assert not valid.any()
    warped.sum().backward()  # grid_sample's backward pass dies of NaN coordinates


def test_many_poses_are_checked_as_one_is():
    good = np.tile(np.eye(4), (5, 1, 1))
    good[:, :3, 3] = np.arange(15).reshape(5, 3)
    assert np.array_equal(check_poses(good.tolist(), str), good)
    for row, column, value in (
        (0, 0, np.nan),
        (1, 1, -1.0),
        (2, 0, 0.1),
        (3, 3, 2.0),
        (3, 0, 1e-3),
        (0, 3, -np.inf),
        (0, 1, 1e300),
    ):
        bad = good.copy()
        bad[3, row, column] = value
        with pytest.raises(DataError) as one:
            check_pose(bad[3], "frame 3")
        with pytest.raises(DataError) as many:
            check_poses(bad, lambda i: f"frame {i}")
        assert str(many.value) == str(one.value)
    with pytest.raises(DataError, match="4x4"):
        check_poses([np.eye(4), np.eye(3)], str)
