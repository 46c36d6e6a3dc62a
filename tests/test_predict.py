"""Prediction for images of any size, shape and camera: the network's input and the returned depth."""

import math

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import d3d
from d3d.datasets.images import resize_image
from d3d.errors import ConfigError, DataError
from d3d.geometry import disp_to_depth
from d3d.models import create_model
from d3d.models.sizes import network_size


class Plane(nn.Module):
    """Predicts a slanted plane, whose disparity is linear in the image, and notes the size of its input."""

    min_depth, max_depth = 0.1, 10.0
    train_size, train_focal_px = (96, 128), (100.0, 100.0)

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1))
        self.seen = []

    def forward(self, image, scales):
        self.seen.append(image)
        b, _, h, w = image.shape
        y, x = (
            (torch.arange(n, dtype=torch.float32) + 0.5) / n for n in (h, w)
        )  # 0 to 1 across the image, at pixel centres
        return {0: (0.1 + 0.2 * y[:, None] + 0.1 * x).expand(b, 1, h, w)}


def plane_depth(h, w):
    y, x = (np.arange(h) + 0.5) / h, (np.arange(w) + 0.5) / w
    return 1 / (0.1 + 9.9 * (0.1 + 0.2 * y[:, None] + 0.1 * x))


def photo(h, w, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (h, w, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def network():
    return create_model("lite", pretrained=False).eval()


# --- the size that the network sees -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("image_hw", "seen_hw"),
    [
        ((96, 128), (96, 128)),
        ((480, 640), (96, 128)),  # would fit, but the network has learned another size
        ((3000, 4000), (96, 128)),
        ((4000, 3000), (128, 96)),
        ((1080, 1920), (96, 160)),
        ((50, 33), (128, 96)),
        ((700, 700), (128, 128)),
        ((1000, 8000), (64, 416)),
    ],
)
def test_an_image_is_seen_near_the_size_of_the_training_in_its_own_shape(image_hw, seen_hw):
    model = Plane()
    assert network_size(model, image_hw) == seen_hw
    depth = d3d.predict(model, photo(*image_hw))
    assert depth.shape == image_hw
    assert depth.dtype == np.float32
    assert model.seen[0].shape == (1, 3, *seen_hw)


def test_pixels_keep_the_shape_of_the_training():
    """The training stretched rooms of 192x144 to 192x160. Other 4:3 images are stretched in the same way."""
    model = Plane()
    model.train_size, model.train_focal_px = (160, 192), (159.77, 177.52)
    assert network_size(model, (480, 640)) == (160, 192)
    model.train_focal_px = (159.77, 159.77)
    assert network_size(model, (480, 640)) == (160, 224)


@pytest.mark.parametrize(("focal_px", "seen_hw"), [(500, (96, 128)), (250, (192, 256)), (750, (64, 96))])
def test_a_known_camera_is_brought_to_the_focal_length_of_the_training(focal_px, seen_hw):
    assert network_size(Plane(), (480, 640), focal_px) == seen_hw


@pytest.mark.parametrize("focal_px", [1e-3, 1.0, 1e5])
def test_an_absurd_focal_length_costs_at_most_four_times_the_pixels(focal_px):
    pixels = math.prod(network_size(Plane(), (480, 640), focal_px)) / (96 * 128)
    assert 1 / 4 <= pixels <= 4.5


def test_where_the_training_is_unknown_what_fits_stays_and_the_rest_has_the_papers_size(network):
    assert network.train_size is None
    assert network_size(network, (480, 640)) == (480, 640)
    assert network_size(network, (481, 640)) == (288, 384)
    with pytest.raises(DataError, match="camera of this network's training is unknown"):
        d3d.predict(network, photo(64, 96), focal_px=100.0)


def test_a_network_sees_its_own_size_bit_for_bit(network):
    image = photo(64, 96)
    pixels = torch.from_numpy(image.transpose(2, 0, 1).copy())[None] / 255
    with torch.inference_mode():
        expected = disp_to_depth(network(pixels, scales=(0,))[0])
    assert np.array_equal(d3d.predict(network, image), expected[0, 0].numpy())
    assert torch.equal(d3d.predict(network, pixels), expected)
    assert torch.equal(d3d.predict(network, pixels[0]), expected[0])


def test_a_size_that_is_asked_for_is_used(network):
    image = photo(100, 150)
    seen = d3d.predict(network, resize_image(image, (64, 128)))
    depth = d3d.predict(network, image, size_hw=(64, 128))
    assert depth.shape == (100, 150)
    assert seen.min() <= depth.min() <= depth.max() <= seen.max()
    with pytest.raises(DataError, match=r"height 100 and width 128 does not fit.*96x128 or 128x128"):
        d3d.predict(network, image, size_hw=(100, 128))


# --- the depth that comes back -------------------------------------------------------------------------------


@pytest.mark.parametrize("image_hw", [(480, 640), (75, 101), (1000, 700)])
def test_a_plane_stays_a_plane(image_hw):
    """Depth is interpolated between the network's pixel centres. Beyond the outer centres, the value repeats."""
    depth = d3d.predict(Plane(), photo(*image_hw))
    inner = tuple(slice(n // 10, -(n // 10)) for n in image_hw)
    np.testing.assert_allclose(depth[inner], plane_depth(*image_hw)[inner], rtol=1e-4)


def test_tensors_and_arrays_of_any_size_give_nearly_the_same(network):
    image = np.array(Image.fromarray(photo(12, 16)).resize((640, 480)))
    batch = torch.from_numpy(image.transpose(2, 0, 1).copy())[None].expand(2, -1, -1, -1) / 255
    from_array = d3d.predict(network, image[:-1], size_hw=(96, 128))
    from_tensor = d3d.predict(network, batch[:, :, :-1], size_hw=(96, 128))
    assert from_tensor.shape == (2, 1, 479, 640)
    np.testing.assert_allclose(from_tensor[1, 0].numpy(), from_array, rtol=0.02)
    np.testing.assert_allclose(from_tensor[0].numpy(), from_tensor[1].numpy(), rtol=1e-5)


def test_pil_images_and_paths(network, tmp_path):
    image = Image.fromarray(photo(70, 90))
    image.save(tmp_path / "photo.png")
    expected = d3d.predict(network, np.asarray(image))
    for given in (image, tmp_path / "photo.png", str(tmp_path / "photo.png")):
        assert np.array_equal(d3d.predict(network, given), expected)


# --- errors --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("hw", [(1, 4000), (31, 31), (100, 900)])
def test_a_strip_or_a_dot_is_refused(hw):
    with pytest.raises(DataError, match=f"height {hw[0]} and width {hw[1]} is too small or too narrow"):
        d3d.predict(Plane(), photo(*hw))


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (np.zeros((64, 64), np.uint8), r"uint8 \(H, W, 3\), not uint8 \(64, 64\)"),
        (np.zeros((64, 64, 3)), r"not float64 \(64, 64, 3\)"),
        (torch.zeros(64, 64, 3), r"not \(64, 64, 3\)"),
        (torch.zeros(3, 64, 64, dtype=torch.uint8), "not torch.uint8: divide by 255"),
        (torch.full((3, 64, 64), 255.0), "values up to 255: divide by 255"),
        ("no such file.jpg", "no such file.jpg is missing"),
    ],
)
def test_an_image_of_another_kind_is_refused(image, message):
    with pytest.raises(DataError, match=message):
        d3d.predict(Plane(), image)


@pytest.mark.parametrize("focal_px", [0, -3.0, math.nan, math.inf])
def test_a_focal_length_must_be_positive(focal_px):
    with pytest.raises(ConfigError, match="must be a positive number"):
        d3d.predict(Plane(), photo(64, 64), focal_px=focal_px)
