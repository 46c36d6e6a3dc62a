"""miniroom: exact geometry, a path made for triples, and the paper's phenomenon for physical reasons."""

from __future__ import annotations

import time

import numpy as np
import pytest
import torch
from scipy import ndimage

from d3d.datasets import find_triples, open_dataset
from d3d.datasets.miniroom_build import ROOM, build, room_size
from d3d.errors import ConfigError
from d3d.geometry import relative_pose, warp
from d3d.losses import photometric_error

SEEDS = (0, 1, 50000)


@pytest.fixture(scope="module", params=SEEDS)
def scene(request):
    return open_dataset("miniroom", seed=request.param).scenes("train")[0]


def small(**options):
    return open_dataset("miniroom", **{"frames": 4, "size_hw": (24, 32), **options})


def points_in_world(scene, i):
    """(H, W, 3) world points of all pixels."""
    depth, (h, w) = scene.depth(i), scene.size_hw
    y, x = np.mgrid[:h, :w]
    rays = np.linalg.inv(scene.K(i)) @ np.stack((x.ravel(), y.ravel(), np.ones(h * w)))
    pose = scene.world_T_cams[i]
    return (pose[:3, :3] @ (rays * depth.ravel()) + pose[:3, 3:]).T.reshape(h, w, 3)


def test_options_and_splits():
    dataset = small(rooms=(2, 1), seed=3)
    assert dataset.splits == ("train", "val")
    train, val = dataset.scenes("train"), dataset.scenes("val")
    assert [scene.seed for scene in train] == [3, 4]
    assert val[0].seed not in (3, 4)
    assert len({scene.name for scene in train + val}) == 3
    for scene in train + val:
        assert (len(scene), scene.size_hw, scene.has_depth) == (4, (24, 32), True)
        assert scene.image(0).shape == (24, 32, 3)
        assert scene.depth(0).shape == scene.highlight_mask(0).shape == (24, 32)
    assert small(rooms=(1, 1)).scenes("val")[0].seed == small(rooms=(9, 1)).scenes("val")[0].seed


@pytest.mark.parametrize(
    "wrong", [{"seed": -1}, {"frames": 0}, {"rooms": (0, 1)}, {"size_hw": (4, 64)}, {"root": "."}], ids=str
)
def test_bad_options(wrong):
    with pytest.raises(ConfigError, match="miniroom"):
        small(**wrong)


def test_same_seed_same_room_and_another_seed_another():
    a, b, c = (small(seed=seed).scenes("train")[0] for seed in (5, 5, 6))
    for i in (0, 3):
        assert (a.image(i) == b.image(i)).all()
        assert (a.depth(i) == b.depth(i)).all()
    assert (a.world_T_cams == b.world_T_cams).all()
    assert np.abs(a.image(0).astype(int) - c.image(0)).mean() > 5
    assert not np.allclose(a.world_T_cams, c.world_T_cams)


def test_more_frames_continue_the_same_walk():
    short, long = small(frames=4).scenes("train")[0], small(frames=9).scenes("train")[0]
    # the curve is sampled finely, not solved: a tenth of a millimetre
    assert np.allclose(short.world_T_cams, long.world_T_cams[:4], atol=1e-4)


def test_callers_may_write_into_what_they_get():
    scene = small().scenes("train")[0]
    before = scene.image(0).copy()
    scene.image(0)[:] = 0
    scene.depth(0)[:] = 0
    scene.highlight_mask(0)[:] = True
    assert (scene.image(0) == before).all()
    assert scene.depth(0).min() > 0
    assert not scene.highlight_mask(0).all()


@pytest.mark.parametrize("seed", range(8))
def test_every_inner_frame_makes_a_triple_of_neighbours(seed):
    poses = open_dataset("miniroom", seed=seed, frames=170).scenes("train")[0].world_T_cams
    steps = np.linalg.norm(np.diff(poses[:, :3, 3], axis=0), axis=1)
    assert steps.min() > 0.055
    assert steps.max() < 0.09
    triples = find_triples(poses, every=1, max_rotation_deg=2.95)
    assert triples.indices.tolist() == [[i, i - 1, i + 1] for i in range(1, 169)]


@pytest.mark.parametrize("seed", range(8))
def test_the_walk_stays_in_the_room_looks_down_and_comes_round(seed):
    scene = open_dataset("miniroom", seed=seed, frames=170).scenes("train")[0]
    poses, room = scene.world_T_cams, build(seed)
    W, D, H = room_size(seed)
    for lo, hi in zip(room.lo[1:], room.hi[1:], strict=True):
        assert (hi <= (W + 1e-9, D + 1e-9, H)).all()
        gap = np.maximum(lo - poses[:, :3, 3], poses[:, :3, 3] - hi).max(axis=1)
        assert gap.min() > 0.15, "the camera walks through furniture"
    assert (np.minimum(poses[:, :2, 3], (W, D) - poses[:, :2, 3]) > 0.5).all()
    pitch = np.rad2deg(np.arcsin(-poses[:, 2, 2]))
    assert pitch.min() > 24
    assert pitch.max() < 32
    heading = np.unwrap(np.arctan2(poses[:, 1, 2], poses[:, 0, 2]))
    assert np.rad2deg(np.ptp(heading)) > 300


def test_depth_is_exact(scene):
    """Every pixel's point lies on a face of the room or of a piece of furniture, to float32's digits."""
    room = build(scene.seed)
    for i in (0, 30):
        points = points_in_world(scene, i).reshape(-1, 3)
        off = np.full(len(points), np.inf)
        for b, (lo, hi) in enumerate(zip(room.lo, room.hi, strict=True)):
            outside = np.maximum(lo - points, points - hi).max(axis=1)
            depth_inside = np.minimum(points - lo, hi - points).min(axis=1)
            distance = np.abs(depth_inside) if b == ROOM else np.where(outside > 0, outside, depth_inside)
            off = np.minimum(off, distance)
        assert off.max() < 1e-4


def test_depth_agrees_between_views(scene):
    """No pixel of another view lies in front of a point that is seen from both: occlusion and poses are right."""
    points = points_in_world(scene, 20)
    j = 23
    cam_T_world = np.linalg.inv(scene.world_T_cams[j])
    cam = cam_T_world[:3, :3] @ points.reshape(-1, 3).T + cam_T_world[:3, 3:]
    u, v = np.rint((scene.K(j) @ cam)[:2] / cam[2]).astype(int)
    h, w = scene.size_hw
    seen = (cam[2] > 0) & (u >= 0) & (u < w) & (v >= 0) & (v < h)
    ratio = scene.depth(j)[v[seen], u[seen]] / cam[2, seen]
    assert np.median(abs(ratio - 1)) < 0.01
    assert (abs(ratio - 1) < 0.03).mean() > 0.85


def test_frames_are_photographs_of_a_textured_room(scene):
    images = np.stack([scene.image(i) for i in range(0, 60, 6)]).astype(float)
    assert 80 < images.mean() < 160
    dark, light = np.percentile(images, (5, 95))
    assert dark < 90
    assert light > 150
    # photometric matching needs contrast in nearly every 7x7 patch that does not look into a light
    grey = images.mean(axis=3)
    mean, square = (ndimage.uniform_filter(a, (0, 7, 7)) for a in (grey, grey**2))
    contrast = np.sqrt((square - mean**2).clip(0))
    assert (contrast[mean < 230] > 2).mean() > 0.97


def test_highlights_are_bright_glossy_and_common(scene):
    masks = np.stack([scene.highlight_mask(i) for i in range(60)])
    share = masks.mean(axis=(1, 2))
    assert 0.02 <= share.mean() <= 0.06
    assert (share > 0.003).mean() > 0.8
    room = build(scene.seed)
    heights = {0.0} | {round(float(z), 4) for z in room.hi[1:][room.glossy[1:], 2]}
    brighter = []
    for i in (5, 25, 45):
        mask, image = masks[i], scene.image(i).mean(axis=2)
        z = points_in_world(scene, i)[..., 2][mask]
        assert np.isclose(z[:, None], sorted(heights), atol=1e-3).any(axis=1).all()
        ring = ndimage.binary_dilation(mask, iterations=4) & ~ndimage.binary_dilation(mask, iterations=1)
        brighter.append(np.median(image[mask]) - np.median(image[ring]))
    assert min(brighter) > 15


def test_mirror_image_is_where_physics_puts_it(scene):
    """The mirror ray of a highlight pixel, followed outside of the renderer, meets a wall at a light's place."""
    room = build(scene.seed)
    W, D, _ = room_size(scene.seed)
    i = 25
    points = points_in_world(scene, i)
    mask = scene.highlight_mask(i) & (
        points[..., 2] < 1e-3
    )  # on the floor, whose mirror rays are not occluded here
    rays = points[mask] - scene.world_T_cams[i][:3, 3]
    rays[:, 2] *= -1
    to_wall = np.where(rays[:, :2] > 0, (W, D) - points[mask][:, :2], -points[mask][:, :2]) / rays[:, :2]
    height = points[mask][:, 2] + to_wall.min(axis=1) * rays[:, 2]
    assert len(height) > 50
    assert (height > 0.9).all()
    assert (height < 2.2).all()
    emits = [room.emits[room.texels(face)].any() for face in range(len(room.offset))]
    assert emits[:4] == [True] * 4
    assert not any(emits[4:])


RATIOS = np.append(np.geomspace(0.75, 2.6, 28), 1.0)


def sweep(scene, targets):
    """Plane sweep under Eq. 2 with true poses along the true depth times RATIOS.

    Returns, over all pixels of the targets: the best ratio, the error at the true depth, whether the
    pixel lies within a highlight, and whether it is diffuse (3 px away from any).
    """

    def image(i):
        return torch.from_numpy(scene.image(i)).permute(2, 0, 1)[None].float() / 255

    best, at_truth, highlight, diffuse = [], [], [], []
    for t in targets:
        target, depth = image(t), torch.from_numpy(scene.depth(t))[None, None]
        K = torch.from_numpy(scene.K(t)).float()[None]
        errors = []
        for ratio in RATIOS:
            both = []
            for s in (t - 1, t + 1):
                pose = torch.from_numpy(relative_pose(scene.world_T_cams[s], scene.world_T_cams[t])).float()[
                    None
                ]
                warped, valid = warp(image(s), depth * float(ratio), K, pose)
                both.append(torch.where(valid, photometric_error(target, warped), torch.inf))
            errors.append(torch.minimum(*both)[0, 0].numpy())
        errors = np.stack(errors)
        mask = scene.highlight_mask(t)
        seen = np.isfinite(errors[-1])
        best.append(RATIOS[errors.argmin(axis=0)][seen])
        at_truth.append(errors[-1][seen])
        highlight.append(ndimage.binary_erosion(mask)[seen])
        diffuse.append(~ndimage.binary_dilation(mask, iterations=3)[seen])
    return tuple(np.concatenate(a) for a in (best, at_truth, highlight, diffuse))


def test_photometric_error_prefers_the_virtual_image_on_highlights(scene):
    """The premise of Fig. 1: too deep on highlights, right elsewhere, with nothing but true poses."""
    best, at_truth, highlight, diffuse = sweep(scene, (8, 20, 32, 44, 56))
    print(
        f"seed {scene.seed}: best ratio {np.median(best[highlight]):.2f} on highlights, "
        f"{np.median(best[diffuse]):.3f} elsewhere; error at the true depth {at_truth[highlight].mean():.3f}, "
        f"{at_truth[diffuse].mean():.3f}"
    )
    assert highlight.sum() > 300
    assert np.median(best[highlight]) > 1.3
    assert (best[highlight] > 1.25).mean() > 0.6
    assert 0.97 < np.median(best[diffuse]) < 1.03
    assert (abs(best[diffuse] - 1) < 0.1).mean() > 0.6
    assert at_truth[diffuse].mean() < 0.04
    assert at_truth[highlight].mean() > 1.7 * at_truth[diffuse].mean()
    assert np.median(at_truth[diffuse]) < 0.02


def test_rendering_is_fast_and_cached():
    scene = open_dataset("miniroom", seed=7).scenes("train")[0]
    scene.image(0)
    times = []
    for i in range(1, 8):
        start = time.perf_counter()
        scene.image(i)
        times.append(time.perf_counter() - start)
    assert min(times) < 0.15  # some 0.045 s on one quiet core
    start = time.perf_counter()
    for _ in range(20):
        scene.image(1), scene.depth(1), scene.highlight_mask(1), scene.block(1, 3).image(0)
    assert time.perf_counter() - start < 0.15
