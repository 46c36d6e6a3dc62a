"""ScanNet's .sens files: every codec, by index and in order; damaged and malicious files give errors."""

from __future__ import annotations

import pickle
import subprocess
import sys
import tracemalloc
import zlib

import numpy as np
import pytest
from sens_writer import SMALL_K, SensWriter, encode_color, walk, write_small

from d3d.datasets.scannet.sens import CAMERAS, COUNT, FRAME, START, SensFile
from d3d.errors import DataError

CODECS = [(color, depth) for color in ("raw", "png", "jpeg") for depth in ("raw", "zlib")]
NAME = b"StructureSensor"
CAMERAS_AT = START.size + len(NAME)
COUNT_AT = CAMERAS_AT + CAMERAS.size
FRAMES_AT = COUNT_AT + COUNT.size


@pytest.fixture
def path(tmp_path):
    return tmp_path / "scene.sens"


def patched(content: bytes, at: int, new: bytes) -> bytes:
    return content[:at] + new + content[at + len(new) :]


@pytest.mark.parametrize(("color", "depth"), CODECS)
def test_frames_come_back_as_written(path, color, depth):
    poses = walk(6)
    written = write_small(path, poses, color_codec=color, depth_codec=depth)
    file = SensFile(path)
    assert len(file) == 6
    header = file.header
    assert (header.color_hw, header.depth_hw, header.name) == ((36, 48), (18, 24), NAME.decode())
    assert (header.color_codec, header.depth_codec, header.depth_shift) == (color, depth, 1000)
    assert np.array_equal(header.color_K, SMALL_K)
    assert np.array_equal(header.color_extrinsic, np.eye(4))
    in_order = list(file)
    assert [f.index for f in in_order] == list(range(6))
    for i in (4, 0, 5):  # by index, also backwards and in a file just opened
        frame, (image, units) = SensFile(path).frame(i), written[i]
        assert np.array_equal(frame.depth_units(), units)
        assert np.array_equal(in_order[i].depth_units(), units)
        assert abs(frame.image().astype(int) - image).max() <= (8 if color == "jpeg" else 0)
        assert frame.depth_m()[1, 1] == pytest.approx(units[1, 1] / 1000)
        assert np.allclose(frame.world_T_cam, poses[i])
        assert (frame.color_time, frame.depth_time) == (33_333 * i, 33_333 * i + 7)
    assert np.allclose(file.poses(), poses)


def test_what_is_not_asked_for_is_not_read(path):
    write_small(path, walk(2))
    frame = SensFile(path).frame(1, color=False)
    assert frame.color == b""
    assert frame.depth_m().shape == (18, 24)


def test_another_unit_of_depth(path):
    (_, units), *_ = write_small(path, walk(1), depth_shift=500.0)
    assert SensFile(path).frame(0).depth_m()[1, 1] == pytest.approx(units[1, 1] / 500)


def test_a_file_can_be_pickled_and_an_index_beyond_it_is_an_index_error(path):
    write_small(path, walk(3))
    file = pickle.loads(pickle.dumps(SensFile(path)))
    assert file.frame(2).index == 2
    for i in (3, -1):
        with pytest.raises(IndexError, match="3 frames"):
            file.frame(i)


def test_truncation_names_the_frame_and_leaves_those_before_it(path):
    """The file is cut at every length from the header to the last byte of a frame."""
    write_small(path, walk(3), color_codec="jpeg")
    content = path.read_bytes()
    file = SensFile(path)
    file.poses()
    starts = [*(start - FRAME.size for start in file._contents), len(content) - COUNT.size]
    ends = starts[1:]
    for length in range(FRAMES_AT, ends[-1], 97):
        path.write_bytes(content[:length])
        cut, whole = SensFile(path), sum(end <= length for end in ends)
        assert cut.whole_frames() == whole
        for i in range(whole):
            assert cut.frame(i).depth_units().shape == (18, 24)
        with pytest.raises(DataError, match=rf"truncated at frame {whole} of 3.*{whole} frames? before it"):
            list(cut)
        with pytest.raises(DataError, match=f"truncated at frame {whole} of 3"):
            cut.frame(2)
    path.write_bytes(content[: FRAMES_AT - 1])
    with pytest.raises(DataError, match="header is cut off"):
        SensFile(path)


@pytest.mark.parametrize(
    ("at", "new", "message"),
    [
        (0, b"\x03", "version 4; its first number is 3"),
        (4, b"\xff" * 8, "name would have"),
        (CAMERAS_AT, b"\0\0\xc0\x7f", "intrinsics of colour"),
        (CAMERAS_AT + 256, b"\x07", "colour has a compression of number 7"),
        (CAMERAS_AT + 260, b"\x09", "depth has a compression of number 9"),
        (CAMERAS_AT + 264, b"\0\0\0\0", "colour would have 0x36"),
        (CAMERAS_AT + 272, b"\xff\xff\xff\xff", "depth would have 4294967295x18"),
        (CAMERAS_AT + 280, b"\0\0\0\0", "0.0 units of depth"),
        (COUNT_AT, b"\xff" * 8, "would have 18446744073709551615 frames"),
        (COUNT_AT, b"\0" * 8, "would have 0 frames"),
    ],
)
def test_a_header_that_makes_no_sense(path, at, new, message):
    write_small(path, walk(2))
    path.write_bytes(patched(path.read_bytes(), at, new))
    with pytest.raises(DataError, match=message):
        SensFile(path)


def test_lengths_are_checked_before_anything_is_allocated(path):
    """A frame that claims an exabyte, one that claims more than an image takes, and more frames than there can be."""
    write_small(path, walk(2))
    content = path.read_bytes()
    for size, message in ((2**60, "more than an image"), (60_000, "truncated at frame 0")):
        path.write_bytes(patched(content, FRAMES_AT + 80, COUNT.pack(size)))
        file = SensFile(path)
        with pytest.raises(DataError, match=message):
            file.frame(0)
    path.write_bytes(patched(content, COUNT_AT, COUNT.pack(1_000_000)))
    tracemalloc.start()
    with pytest.raises(DataError, match="truncated at frame 2 of 1000000"):
        SensFile(path).poses()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2**20


def one_frame(path, color: bytes | np.ndarray, depth: bytes | np.ndarray, **codecs) -> SensFile:
    half = np.diag([0.5, 0.5, 1]) @ SMALL_K
    with SensWriter(path, (36, 48), (18, 24), SMALL_K, half, **codecs) as file:
        file.add(color, depth, np.eye(4))
    return SensFile(path)


GREY, FLAT = np.full((36, 48, 3), 90, np.uint8), np.full((18, 24), 1500, np.uint16)


def test_a_decompression_bomb_is_an_error_and_never_inflated(path):
    bomb = zlib.compress(bytes(2**26))
    frame = one_frame(path, GREY, bomb).frame(0)
    tracemalloc.start()
    with pytest.raises(DataError, match="more than the 864 bytes"):
        frame.depth_units()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2**18


@pytest.mark.parametrize(
    ("depth", "message"),
    [
        (zlib.compress(bytes(863)), "863 of the 864 bytes"),
        (zlib.compress(bytes(864))[:-3], "end too early"),
        (b"no zlib at all", "not zlib data"),
        (b"", "0 of the 864 bytes"),
    ],
)
def test_broken_depth(path, depth, message):
    with pytest.raises(DataError, match=rf"scene.sens, frame 0: depth.*{message}"):
        one_frame(path, GREY, depth).frame(0).depth_units()


def test_broken_colour(path):
    other = encode_color(np.zeros((968, 1296, 3), np.uint8), "jpeg")
    for color, message in ((other, "1296x968 instead of 48x36"), (b"JFIF", "not an image")):
        with pytest.raises(DataError, match=rf"frame 0: colour is .*{message}"):
            one_frame(path, color, FLAT).frame(0).image()
    cut = encode_color(np.random.default_rng(0).integers(0, 255, GREY.shape, np.uint8), "jpeg")[:-200]
    with pytest.raises(DataError, match="truncated"):
        one_frame(path, cut, FLAT).frame(0).image()
    png = encode_color(GREY, "png")
    with pytest.raises(DataError, match="not an image"):  # of the codec that the header names
        one_frame(path, png, FLAT).frame(0).image()


def test_codecs_that_nobody_reads(path):
    frame = one_frame(path, b"?", b"??", color_codec="unknown", depth_codec="occi").frame(0)
    with pytest.raises(DataError, match="the compression of colour is unknown"):
        frame.image()
    with pytest.raises(DataError, match=r"'occi'.*Export the file again"):
        frame.depth_units()


def test_missing_file(tmp_path):
    with pytest.raises(DataError, match="missing"):
        SensFile(tmp_path / "none.sens")
    with pytest.raises(DataError, match="cannot be opened"):
        SensFile(tmp_path)


_STREAM = """
import resource, sys
from d3d.datasets.scannet.sens import SensFile
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
total = 0
for frame in SensFile(sys.argv[1]):
    total += len(frame.color) + int(frame.depth_units().any())
    if frame.index % 20 == 0:
        frame.image()
print(frame.index, before, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


def test_streaming_takes_no_more_memory_than_a_few_frames(path):
    """A process reads 300 MB with less than 40 MB of memory besides its libraries."""
    image = np.random.default_rng(0).integers(0, 255, (968, 1296, 3), np.uint8)
    K = np.diag([1170.0, 1170.0, 1.0])
    with SensWriter(path, (968, 1296), (480, 640), K, K, color_codec="raw", depth_codec="raw") as file:
        color, depth = image.tobytes(), bytes(480 * 640 * 2)
        for _ in range(70):
            file.add(color, depth, np.eye(4))
    assert path.stat().st_size > 300e6
    out = subprocess.run(
        [sys.executable, "-c", _STREAM, path], capture_output=True, text=True, check=True
    ).stdout
    last, before, peak = map(int, out.split())
    assert last == 69
    unit = 2**20 if sys.platform == "darwin" else 2**10
    assert (peak - before) / unit < 40
