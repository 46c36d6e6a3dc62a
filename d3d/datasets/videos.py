"""Read and write videos frame by frame, in constant memory, with PyAV (extra ``video``)."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from d3d.errors import ConfigError, DataError

TIME_BASE = Fraction(
    1, 90_000
)  # for written videos; frames keep their times, because phones film at a varying rate
SUFFIXES = frozenset((".mp4", ".mov", ".m4v", ".mkv", ".webm", ".avi", ".mpg", ".mpeg", ".mts", ".3gp"))


class Frame(NamedTuple):
    """An upright frame and its time, seconds."""

    image: np.ndarray  # uint8 (H, W, 3) RGB
    time_s: float


def _av() -> Any:
    try:
        import av
    except ImportError:
        raise ConfigError("videos need PyAV: pip install 'd3d[video]'") from None
    # use FFmpeg's silent callback: PyAV's callback needs Python's lock in the threads of the decoder, and closing a
    # file then sometimes hangs (PyAV issues 751 and 909)
    av.logging.restore_default_callback()
    av.logging.set_libav_level(av.logging.PANIC)
    return av


def frame_count(path: Path) -> int | None:
    """Read the number of frames from the header of a video; None if unknown. Errors are those of `read_video`."""
    with _opened(path) as (container, stream):
        if stream.frames:
            return stream.frames
        rate, length = stream.average_rate, container.duration
        return round(length / 1e6 * rate) if rate and length else None


def read_video(path: Path, longest: int | None = None) -> Iterator[Frame]:
    """Yield the frames of a video, turned upright by its rotation flag.

    Args:
        longest: reduce larger frames so that their longest side has this many pixels. This is much faster than
            converting large frames first.

    Raises:
        DataError: the file is missing, holds no video, or is damaged. Frames before the damage are yielded.
        ConfigError: PyAV is not installed.
    """
    count = 0
    with _opened(path) as (container, stream):
        rate = stream.average_rate or Fraction(25)
        for count, frame in enumerate(container.decode(stream), 1):
            time = frame.time if frame.time is not None else float((count - 1) / rate)
            scale = min(1.0, longest / max(frame.height, frame.width)) if longest else 1.0
            if scale < 1:
                h, w = (max(1, round(n * scale)) for n in (frame.height, frame.width))
                frame = frame.reformat(w, h, format="rgb24", interpolation="AREA")
            image = frame.to_ndarray(format="rgb24")
            yield Frame(np.ascontiguousarray(np.rot90(image, frame.rotation // 90)), time)
    if not count:
        raise DataError(f"{path} holds no frame. Copy it again.")


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[tuple[Any, Any]]:
    av = _av()
    if not Path(path).is_file():
        raise DataError(f"{path} is missing.")
    try:
        with av.open(str(path), metadata_errors="replace") as container:
            if not container.streams.video:
                raise DataError(f"{path} holds no video.")
            stream = container.streams.video[0]
            stream.thread_type = "AUTO"
            yield container, stream
    except av.FFmpegError as error:
        raise DataError(f"{path}: truncated or not a video ({error.strerror}). Copy it again.") from None


@contextlib.contextmanager
def video_writer(path: Path) -> Iterator[Callable[[Frame], None]]:
    """Write an .mp4 file (H.264): yield a function that adds a frame. All frames have the same, even size."""
    av = _av()
    with av.open(str(path), "w", format="mp4") as container:
        stream = None

        def add(frame: Frame) -> None:
            nonlocal stream
            if stream is None:
                stream = container.add_stream("libx264", rate=30, options={"crf": "20"})
                stream.height, stream.width = frame.image.shape[:2]
                stream.pix_fmt = "yuv420p"  # supported by every player
                stream.codec_context.time_base = TIME_BASE
            encoded = av.VideoFrame.from_ndarray(frame.image, format="rgb24")
            encoded.pts, encoded.time_base = round(frame.time_s / TIME_BASE), TIME_BASE
            container.mux(stream.encode(encoded))

        yield add
        if stream is not None:
            container.mux(stream.encode())
