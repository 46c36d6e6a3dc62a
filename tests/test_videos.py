"""Videos: upright frames with their times, and errors that name broken files."""

import sys

import numpy as np
import pytest

from d3d.datasets import videos
from d3d.datasets.videos import Frame, frame_count, read_video, video_writer
from d3d.errors import ConfigError, DataError

av = pytest.importorskip("av", reason="PyAV comes with the extra 'video'")
H, W = 48, 64


def frame(i=0):
    """Return a frame with red, green, blue and white quarters. Their edge moves by a pixel in each frame."""
    image = np.full((H, W, 3), 255, np.uint8)
    image[: H // 2, : W // 2 + i], image[: H // 2, W // 2 + i :] = (255, 0, 0), (0, 255, 0)
    image[H // 2 :, : W // 2 + i] = (0, 0, 255)
    return image


def turned_video(path, turn, count=3):
    """A video whose frames are stored turned clockwise, with the flag that turns them back."""
    with av.open(str(path), "w") as container:
        stream = None
        for i in range(count):
            stored = np.ascontiguousarray(np.rot90(frame(i), -turn // 90))
            if stream is None:
                stream = container.add_stream("libx264", rate=10)
                stream.height, stream.width = stored.shape[:2]
                stream.pix_fmt = "yuv420p"
                if turn:
                    stream.set_display_rotation(turn)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(stored, format="rgb24")))
        container.mux(stream.encode())
    return path


@pytest.mark.parametrize("turn", [0, 90, 180, 270])
def test_frames_are_upright(tmp_path, turn):
    path = turned_video(tmp_path / "v.mp4", turn)
    found = list(read_video(path))
    assert frame_count(path) == len(found) == 3
    for i, read in enumerate(found):
        assert read.image.shape == (H, W, 3)
        assert read.time_s == pytest.approx(i / 10)
        for y, x in ((12, 16), (12, 52), (36, 16), (36, 52)):
            assert np.abs(read.image[y, x].astype(int) - frame()[y, x]).max() < 30


def test_a_written_video_keeps_the_times_of_its_frames(tmp_path):
    times = [0.0, 0.1, 0.15, 0.5]
    with video_writer(tmp_path / "v.mp4") as add:
        for i, time in enumerate(times):
            add(Frame(frame(i), time))
    read = list(read_video(tmp_path / "v.mp4"))
    assert [f.time_s for f in read] == pytest.approx(times, abs=1e-3)
    assert np.abs(read[0].image.astype(int) - frame()).mean() < 12


def test_one_frame_is_in_memory_at_a_time(tmp_path):
    frames = read_video(turned_video(tmp_path / "v.mp4", 0, count=20))
    assert iter(frames) is frames
    assert next(frames).image.shape == (H, W, 3)
    frames.close()  # closes the file


def test_bad_videos_are_named(tmp_path, monkeypatch):
    path = tmp_path / "v.mp4"
    with pytest.raises(DataError, match=r"v\.mp4 is missing"):
        list(read_video(path))
    content = turned_video(path, 0).read_bytes()
    for broken in (b"", b"text", content[: len(content) // 2]):
        path.write_bytes(broken)
        with pytest.raises(DataError, match=r"v\.mp4: truncated or not a video"):
            list(read_video(path))
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=8000)
        sound = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        sound.sample_rate = 8000
        container.mux(stream.encode(sound))
        container.mux(stream.encode())
    with pytest.raises(DataError, match=r"v\.mp4 holds no video"):
        list(read_video(path))
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(ConfigError, match=r"pip install 'd3d\[video\]'"):
        frame_count(path)
    assert ".mp4" in videos.SUFFIXES
