"""Eq. 2 against a slow direct formula; minimum reprojection; smoothness; Eq. 4."""

import numpy as np
import pytest
import torch

from d3d import losses
from d3d.errors import ConfigError, DataError
from d3d.geometry import disp_to_depth, warp
from d3d.kernels import Target, minimum_photometric_error
from d3d.losses import (
    log_depth_loss,
    minimum_reprojection,
    photometric_error,
    self_supervised_loss,
    smoothness,
    ssim,
    triplet_loss,
    triplet_margin,
)


def slow_photometric_error(a, b, alpha=0.85):
    """The formula of method.md, pixel by pixel, in numpy."""
    _, c, h, w = a.shape
    result = np.zeros((a.shape[0], 1, h, w))

    def reflect(i, n):
        return -i if i < 0 else 2 * n - 2 - i if i >= n else i

    for n in range(a.shape[0]):
        for y in range(h):
            for x in range(w):
                total = 0.0
                for k in range(c):
                    ys = [reflect(y + d, h) for d in (-1, 0, 1)]
                    xs = [reflect(x + d, w) for d in (-1, 0, 1)]
                    p = np.array([a[n, k, i, j] for i in ys for j in xs])
                    q = np.array([b[n, k, i, j] for i in ys for j in xs])
                    mp, mq = p.mean(), q.mean()
                    vp, vq, cov = p.var(), q.var(), ((p - mp) * (q - mq)).mean()
                    s = (2 * mp * mq + 1e-4) * (2 * cov + 9e-4) / ((mp**2 + mq**2 + 1e-4) * (vp + vq + 9e-4))
                    total += alpha * min(max((1 - s) / 2, 0), 1) + (1 - alpha) * abs(
                        a[n, k, y, x] - b[n, k, y, x]
                    )
                result[n, 0, y, x] = total / c
    return result


def test_photometric_error_against_the_slow_formula():
    rng = np.random.default_rng(0)
    a, b = rng.random((2, 3, 7, 9)), rng.random((2, 3, 7, 9))
    b[0] = a[0] * 0.9 + 0.05  # a similar pair too
    fast = photometric_error(torch.as_tensor(a), torch.as_tensor(b)).numpy()
    assert np.abs(fast - slow_photometric_error(a, b)).max() < 1e-10


def test_same_image_has_no_error_and_ssim_one():
    a = torch.rand(1, 3, 16, 16)
    assert photometric_error(a, a).abs().max() < 1e-5
    assert (ssim(a, a) - 1).abs().max() < 1e-4


def test_photometric_error_is_float32_under_autocast():
    a, b = torch.rand(1, 3, 16, 16), torch.rand(1, 3, 16, 16)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        cast = photometric_error(a, b)
    assert cast.dtype == torch.float32
    assert torch.equal(cast, photometric_error(a, b))


def test_gradcheck_of_the_photometric_error():
    torch.manual_seed(0)
    a = torch.rand(1, 2, 5, 6, dtype=torch.float64, requires_grad=True)
    b = torch.rand(1, 2, 5, 6, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(photometric_error, (a, b))


def test_images_of_different_size_are_refused():
    with pytest.raises(DataError, match="differ in shape"):
        photometric_error(torch.rand(1, 3, 4, 4), torch.rand(1, 3, 4, 5))


def test_minimum_reprojection_takes_the_better_source_at_each_pixel():
    a, b = torch.tensor([[[[1.0, 5.0]]]]), torch.tensor([[[[3.0, 2.0]]]])
    assert minimum_reprojection((a, b)).flatten().tolist() == [1.0, 2.0]


def test_smoothness_by_hand_and_scale_free():
    image = torch.zeros(1, 3, 2, 2)
    disp = torch.tensor([[[[1.0, 3.0], [1.0, 3.0]]]])
    # mean 2: normalised .5 and 1.5; |dx| = 1 on both rows, dy = 0; no image edge: weight 1
    assert smoothness(disp, image).item() == pytest.approx(1.0, abs=1e-5)
    assert smoothness(disp * 7, image).item() == pytest.approx(1.0, abs=1e-5)
    edge = image.clone()
    edge[..., 1] = 1.0
    assert smoothness(disp, edge).item() == pytest.approx(np.exp(-1), abs=1e-5)


def test_log_depth_loss_by_hand_with_missing_labels():
    pred = torch.tensor([1.0, 2.0, 4.0], requires_grad=True)
    label = torch.tensor([2.0, 2.0, 0.0])
    loss = log_depth_loss(pred, label)
    assert loss.item() == pytest.approx(np.log(2) / 2)
    loss.backward()
    assert pred.grad[2] == 0
    assert torch.isfinite(pred.grad).all()
    only_second = log_depth_loss(pred, label, torch.tensor([False, True, True]))
    assert only_second.item() == 0
    with pytest.raises(DataError, match="shape"):
        log_depth_loss(pred, label[:2])


def scene_for_loss(dtype=torch.float64, size=(24, 32), z=2.0):
    """A textured plane at z seen from three places: target, 6 cm left, 6 cm right."""
    h, w = size
    K = torch.tensor([[30.0, 0, (w - 1) / 2], [0, 30.0, (h - 1) / 2], [0, 0, 1]], dtype=dtype)

    def view(tx):
        y, x = torch.meshgrid(torch.arange(h, dtype=dtype), torch.arange(w, dtype=dtype), indexing="ij")
        X, Y = (x - K[0, 2]) / 30 * z + tx, (y - K[1, 2]) / 30 * z
        return torch.stack([0.5 + 0.4 * torch.sin(7 * X + k) * torch.cos(5 * Y - k) for k in range(3)])[None]

    poses = torch.eye(4, dtype=dtype).repeat(2, 1, 1, 1)
    poses[0, 0, 0, 3], poses[1, 0, 0, 3] = 0.06, -0.06  # the source at -6 cm sees points moved by +6 cm
    return view(0.0), torch.stack((view(-0.06), view(0.06))), K[None], poses


def disparity(depth, size, dtype=torch.float64):
    return torch.full((1, 1, *size), (1 / depth - 0.1) / (10 - 0.1), dtype=dtype)


def test_the_loss_is_least_at_the_true_depth():
    target, sources, K, poses = scene_for_loss()
    losses = {
        z: self_supervised_loss({0: disparity(z, (24, 32))}, target, sources, K, poses)[0].item()
        for z in (1.2, 1.6, 2.0, 2.6, 4.0)
    }
    assert min(losses, key=losses.get) == 2.0
    assert losses[2.0] < 0.2 * losses[1.6]


def test_every_scale_counts_alike_and_parts_add_up():
    target, sources, K, poses = scene_for_loss()
    disps = {s: disparity(1.5 + s, (24 // 2**s, 32 // 2**s)) for s in (0, 1, 2)}
    loss, parts = self_supervised_loss(disps, target, sources, K, poses)
    single = [
        self_supervised_loss({s: d}, target, sources, K, poses)[1]["photometric"] for s, d in disps.items()
    ]
    assert parts["photometric"].item() == pytest.approx(torch.stack(single).mean().item())
    assert loss.item() == pytest.approx((parts["photometric"] + 1e-3 * parts["smoothness"]).item())


def test_automask_only_lowers_the_loss():
    target, sources, K, poses = scene_for_loss()
    disps = {0: disparity(0.3, (24, 32))}
    plain, _ = self_supervised_loss(disps, target, sources, K, poses)
    masked, _ = self_supervised_loss(disps, target, sources, K, poses, automask=True)
    assert masked < plain
    still, _ = self_supervised_loss(
        {0: disparity(0.3, (24, 32))}, target, target.repeat(2, 1, 1, 1, 1), K, poses, automask=True
    )
    assert still.item() < 1e-4  # a camera that stands still: nothing to learn from


def test_gradcheck_of_the_whole_loss():
    target, sources, K, poses = scene_for_loss(size=(8, 8))
    torch.manual_seed(0)
    disp = (disparity(2.1, (8, 8)) + 0.002 * torch.rand(1, 1, 8, 8, dtype=torch.float64)).requires_grad_()
    assert torch.autograd.gradcheck(
        lambda d: self_supervised_loss({0: d}, target, sources, K, poses)[0], (disp,), atol=1e-5
    )


@pytest.mark.parametrize("automask", [False, True])
def test_the_pass_that_a_cpu_takes_is_the_plain_formula_with_its_gradient(automask):
    """More images than one group, two equal sources and a still camera: this covers remainders and ties."""
    torch.manual_seed(0)
    target = torch.rand(5, 3, 9, 7, dtype=torch.float64)
    warped = torch.rand(3, 5, 3, 9, 7, dtype=torch.float64)
    warped[1, 2] = warped[0, 2]
    warped[0, 3] = target[3]
    warped.requires_grad_()
    bound = 0.8 * torch.rand(5, 1, 9, 7, dtype=torch.float64) if automask else None
    plain = minimum_reprojection([photometric_error(source, target) for source in warped])
    plain = (plain if bound is None else torch.minimum(plain, bound)).mean()
    fast = minimum_photometric_error(warped, Target(target), bound)
    assert fast.item() == pytest.approx(plain.item(), abs=1e-14)
    slopes = [torch.autograd.grad(3 * loss, warped)[0] for loss in (plain, fast)]
    assert (slopes[0] - slopes[1]).abs().max() < 1e-13
    assert slopes[0].abs().max() > 1e-4


def test_in_float32_that_pass_is_as_exact_as_the_plain_formula():
    """On smooth images, differences of sums of squares lose digits."""
    torch.manual_seed(0)
    base = torch.nn.functional.interpolate(
        torch.rand(2, 3, 6, 8, dtype=torch.float64), (48, 64), mode="bilinear"
    )
    target, warped = base, (base + 0.02 * torch.rand_like(base))[None]

    def slope(dtype, fast):
        a, b = warped.to(dtype).requires_grad_(), target.to(dtype)
        loss = minimum_photometric_error(a, Target(b)) if fast else photometric_error(a[0], b).mean()
        return torch.autograd.grad(loss, a)[0].double()

    exact = slope(torch.float64, fast=False)
    errors = [(slope(torch.float32, fast) - exact).norm() / exact.norm() for fast in (False, True)]
    assert errors[1] < 2 * errors[0]
    assert errors[1] < 1e-3


def four_pixels(*values):
    return torch.tensor(values, dtype=torch.float64).reshape(1, 1, 2, 2).requires_grad_()


@pytest.mark.parametrize(
    ("factor", "margin", "expected", "on_mask"),
    [
        (-1.5, -0.5125, (0.5, 0.2, 0.1, 0.0), 0),  # Tukey's fence: no pixel, the loss is E+
        (0.0, 0.05, (0.45, 0.2, 0.1, 0.0), 1),  # the first quartile
        (1.0, 0.425, (0.825, 0.225, 0.025, 0.0), 3),  # the third quartile
    ],
)
@pytest.mark.parametrize("stop", [False, True])
def test_the_triplet_loss_and_its_mask_on_known_errors(factor, margin, expected, on_mask, stop):
    """E- - E+ is -0.4, 0.2, 0.4 and 0.5: Q1 is 0.05 and Q3 is 0.425."""
    positive, negative = four_pixels(0.5, 0.2, 0.1, 0.0), four_pixels(0.1, 0.4, 0.5, 0.5)
    assert triplet_margin(negative - positive, factor).item() == pytest.approx(margin)
    loss, mask = triplet_loss(positive, negative, factor, stop)
    reflective = torch.arange(4).reshape(1, 1, 2, 2) < on_mask
    assert mask.equal(reflective)
    assert loss.flatten().tolist() == pytest.approx(expected)
    loss.sum().backward()
    assert positive.grad.equal((~reflective).double() if stop else torch.ones_like(loss))
    assert negative.grad.equal(-reflective.double())


def test_the_margin_of_an_image_does_not_depend_on_the_other_images_of_the_batch():
    torch.manual_seed(0)
    difference = torch.rand(3, 1, 5, 4)
    alone = torch.cat([triplet_margin(d[None], -0.7) for d in difference])
    assert triplet_margin(difference, -0.7).equal(alone)


def triplet_by_hand(disp, target, sources, K, poses, factor):
    """The triplet loss without smoothness, one image and one source at a time."""
    depth, pairs = disp_to_depth(disp, 0.1, 10.0), []
    for source, pose in zip(sources, poses, strict=True):
        warped = warp(source, depth, K, pose)[0]
        crossed = warp(target, depth, K, torch.linalg.inv(pose))[0]
        pairs.append((photometric_error(warped, target), photometric_error(warped, crossed)))
    (first, second), b = pairs, len(target)
    best = first[0] <= second[0]
    positive, negative = (torch.where(best, *both) for both in zip(first, second, strict=True))
    difference = (negative - positive).detach()
    q1, q3 = (
        torch.from_numpy(np.quantile(difference.numpy().reshape(b, -1), q, axis=1)).reshape(b, 1, 1, 1)
        for q in (0.25, 0.75)
    )
    margin = q1 + factor * (q3 - q1)
    return torch.where(difference <= margin, positive - negative + margin, positive).mean()


@pytest.mark.parametrize("factor", [-0.5, 0.0, 1.0])
def test_the_triplet_loss_is_the_plain_formula_with_its_gradient(factor):
    target, sources, K, poses = scene_for_loss()
    torch.manual_seed(0)
    target = torch.cat([target, target + 0.1 * torch.rand_like(target)])
    sources, K, poses = sources.repeat(1, 2, 1, 1, 1), K.repeat(2, 1, 1), poses.repeat(1, 2, 1, 1)
    disp = disparity(2.4, (24, 32)).repeat(2, 1, 1, 1) + 0.01 * torch.rand(2, 1, 24, 32, dtype=torch.float64)
    disp.requires_grad_()
    given = (target, sources, K, poses)
    plain = triplet_by_hand(disp, *given, factor)
    loss, parts = self_supervised_loss(
        {0: disp}, *given, loss="triplet", margin=factor, smoothness_weight=0.0
    )
    assert loss.item() == parts["triplet"].item() == pytest.approx(plain.item(), abs=1e-14)
    slopes = [torch.autograd.grad(x, disp)[0] for x in (plain, loss)]
    assert (slopes[0] - slopes[1]).abs().max() < 1e-12
    assert slopes[0].abs().max() > 1e-4
    photometric = self_supervised_loss({0: disp}, *given)[1]["photometric"]
    assert parts["photometric"].item() == pytest.approx(photometric.item())
    assert 0 < parts["reflective"] < 1


def test_gradcheck_of_the_triplet_loss(monkeypatch):
    """At a fixed margin: it has no gradient, but a numerical derivative would see it move."""
    target, sources, K, poses = scene_for_loss(size=(8, 8))
    torch.manual_seed(0)
    disp = (disparity(2.1, (8, 8)) + 0.002 * torch.rand(1, 1, 8, 8, dtype=torch.float64)).requires_grad_()
    monkeypatch.setattr(
        losses, "triplet_margin", lambda difference, factor: torch.full_like(difference, 0.05)
    )
    parts = self_supervised_loss({0: disp}, target, sources, K, poses, loss="triplet")[1]
    assert 0.1 < parts["reflective"] < 0.9
    assert torch.autograd.gradcheck(
        lambda d: self_supervised_loss({0: d}, target, sources, K, poses, loss="triplet")[0],
        (disp,),
        atol=1e-5,
    )


def test_a_camera_that_stands_still_has_no_triplet_error():
    target, _, K, _ = scene_for_loss()
    still = torch.eye(4, dtype=torch.float64).repeat(2, 1, 1, 1)
    given = (target, target.repeat(2, 1, 1, 1, 1), K, still)
    for name in ("triplet", "triplet-stop"):
        loss, parts = self_supervised_loss({0: disparity(1.3, (24, 32))}, *given, loss=name)
        assert loss.item() < 1e-4
        assert parts["triplet"].abs() < 1e-6


def test_an_unknown_loss_is_an_error():
    target, sources, K, poses = scene_for_loss()
    with pytest.raises(ConfigError, match=r"unknown loss 'photometry'.*'photometric'"):
        self_supervised_loss({0: disparity(2.0, (24, 32))}, target, sources, K, poses, loss="photometry")
