"""Photographs of users: orientation, colour depth, transparency, EXIF data, broken files."""

import math
import warnings

import numpy as np
import pytest
from PIL import Image

from d3d.datasets import photos
from d3d.datasets.photos import read_photo
from d3d.errors import DataError

H, W = 60, 80


def corners(image):
    """Return the mean colours of the corners: top left, top right, bottom left, bottom right."""
    h, w = image.shape[0] // 2, image.shape[1] // 2
    quarters = image[:h, :w], image[:h, w:], image[h:, :w], image[h:, w:]
    return [tuple(int(v) for v in q.reshape(-1, 3).mean(0).round(-1)) for q in quarters]


RED, GREEN, BLUE, WHITE = (250, 0, 0), (0, 250, 0), (0, 0, 250), (250, 250, 250)


def upright():
    image = np.zeros((H, W, 3), np.uint8)
    image[: H // 2, : W // 2], image[: H // 2, W // 2 :] = RED, GREEN
    image[H // 2 :, : W // 2], image[H // 2 :, W // 2 :] = BLUE, WHITE
    return image


@pytest.mark.parametrize(
    ("orientation", "turn"),
    [
        (1, lambda a: a),
        (2, np.fliplr),
        (3, lambda a: np.rot90(a, 2)),
        (4, np.flipud),
        (5, lambda a: a.transpose(1, 0, 2)),
        (6, np.rot90),  # the usual portrait: stored a quarter to the left
        (7, lambda a: np.rot90(a, 2).transpose(1, 0, 2)),
        (8, lambda a: np.rot90(a, -1)),
    ],
)
@pytest.mark.parametrize("suffix", ["jpg", "png", "tif", "webp"])
def test_a_photo_is_upright(tmp_path, orientation, turn, suffix):
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / f"photo.{suffix}"
    Image.fromarray(np.ascontiguousarray(turn(upright()))).save(path, exif=exif, quality=95)
    image = read_photo(path).image
    assert image.shape == (H, W, 3)
    assert corners(image) == [RED, GREEN, BLUE, WHITE]


def saved(path, image, **options):
    image.save(path, **options)
    return read_photo(path).image


def test_every_depth_of_colour_becomes_8_bit_rgb(tmp_path):
    ramp = np.tile(np.linspace(0, 255, W).astype(np.uint8), (H, 1))
    expected = np.repeat(ramp[..., None], 3, axis=2)
    grey = Image.fromarray(ramp)
    assert np.array_equal(saved(tmp_path / "l.png", grey), expected)
    sixteen = Image.fromarray(ramp.astype(np.uint16) * 257)
    for name in ("i16.png", "i16.tif", "i16.pgm"):
        assert np.array_equal(saved(tmp_path / name, sixteen), expected), name
    assert np.array_equal(saved(tmp_path / "i32.tif", Image.fromarray(ramp.astype(np.int32) * 257)), expected)
    assert np.array_equal(
        saved(tmp_path / "1.png", Image.fromarray(ramp > 127)), (expected > 127) * np.uint8(255)
    )
    palette = saved(tmp_path / "p.gif", Image.fromarray(upright()))
    assert np.abs(palette.astype(int) - upright()).max() <= 3
    cmyk = saved(tmp_path / "cmyk.jpg", Image.fromarray(upright()).convert("CMYK"), quality=95)
    assert corners(cmyk) == [RED, GREEN, BLUE, WHITE]


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_transparency_is_white(tmp_path, mode):
    pixels = np.zeros((H, W, len(mode)), np.uint8)  # black, but transparent on the left
    pixels[:, W // 2 :, -1] = 255
    image = saved(tmp_path / "t.png", Image.fromarray(pixels, mode))
    assert (image[:, : W // 2] == 255).all()
    assert (image[:, W // 2 :] == 0).all()


def test_unknown_ranges_are_refused(tmp_path):
    for name, values in {"f": np.float32(0.5), "i": np.int32(-1), "j": np.int32(1 << 20)}.items():
        path = tmp_path / f"{name}.tif"
        Image.fromarray(np.full((H, W), values)).save(path)
        with pytest.raises(DataError, match=rf"{name}\.tif: the range of an image of mode . is unknown"):
            read_photo(path)


# --- the camera's notes --------------------------------------------------------------------------------------


def with_camera(path, tags, size=(W, H)):
    exif = Image.Exif()
    exif.get_ifd(0x8769).update(tags)
    Image.new("RGB", size).save(path, exif=exif)
    return read_photo(path).focal_px


def test_the_focal_length_comes_from_the_35_mm_equivalent(tmp_path):
    focal_px = with_camera(tmp_path / "a.jpg", {0xA405: 50}, size=(3600, 2400))
    assert focal_px == pytest.approx(5000)  # a 35 mm film is 36 mm wide


def test_or_from_the_resolution_of_the_sensor(tmp_path):
    tags = {0x920A: 5.0, 0xA20E: 4000.0, 0xA210: 3}  # 5 mm, 400 pixels a millimetre
    assert with_camera(tmp_path / "a.jpg", tags) == pytest.approx(2000)
    stored = {0xA002: 10 * W, 0xA003: 10 * H}  # this copy is ten times smaller
    assert with_camera(tmp_path / "b.jpg", tags | stored) == pytest.approx(200)
    assert with_camera(tmp_path / "c.jpg", tags | {0xA210: 2}) == pytest.approx(5 * 4000 / 25.4)


@pytest.mark.parametrize("tags", [{}, {0xA405: 0}, {0x920A: 5.0}, {0x920A: 5.0, 0xA20E: 4000.0, 0xA210: 9}])
def test_or_is_unknown(tmp_path, tags):
    assert with_camera(tmp_path / "a.jpg", tags) is None


def test_the_focal_length_is_that_of_the_upright_photo(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    exif.get_ifd(0x8769)[0xA405] = 26
    Image.new("RGB", (400, 300)).save(tmp_path / "a.jpg", exif=exif)
    photo = read_photo(tmp_path / "a.jpg")
    assert photo.image.shape == (400, 300, 3)
    assert photo.focal_px == pytest.approx(26 / math.hypot(36, 24) * 500)


# --- files that are no photos --------------------------------------------------------------------------------


def test_bad_files_are_named(tmp_path, monkeypatch):
    path = tmp_path / "photo.jpg"
    with pytest.raises(DataError, match=r"photo\.jpg is missing"):
        read_photo(path)
    Image.fromarray(upright()).save(path)
    content = path.read_bytes()
    for broken in (b"", b"text", content[: len(content) // 2]):
        path.write_bytes(broken)
        with pytest.raises(DataError, match=r"photo\.jpg: truncated or not an image"):
            read_photo(path)
    path.write_bytes(content)
    monkeypatch.setattr(photos, "MAX_PIXELS", 1000)
    with pytest.raises(
        DataError, match=r"photo\.jpg is too large: .*80x60 pixels, the limit is 0\.0 megapixels"
    ):
        read_photo(path)


def test_a_photo_above_the_limit_is_told_the_limit_and_what_to_do(tmp_path):
    for name, size in {"72.png": (9000, 8000), "196.png": (14000, 14000)}.items():
        Image.new("1", size).save(tmp_path / name)
        with (
            warnings.catch_warnings(action="ignore"),
            pytest.raises(
                DataError, match=rf"{name} is too large: it has .*the limit is 67\.1 megapixels"
            ) as caught,
        ):
            read_photo(tmp_path / name)
        assert str(caught.value).endswith("Reduce its height and width.")
