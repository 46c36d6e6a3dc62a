"""One form for every source of posed frames.

No other module knows where a frame came from. A scene holds its poses in memory and reads images and depth on
demand, so that a data set of thousands of scenes opens quickly.
"""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image

from d3d.datasets.images import HW, resize_image
from d3d.errors import DataError
from d3d.geometry import check_poses, scale_intrinsics

FrameList = frozenset[tuple[str, str]]  # (scene's name, frame id)


class Scene:
    """Posed frames of one room in the order of time.

    A source of data derives from this class and implements `_read_image`, `_read_K` and, where it has them,
    `_read_depth` and `_read_highlight_mask`. The public methods check their results, so that a bad file gives the
    same error whatever its source.

    Attributes:
        name: unique in its data set and usable as a file name.
        frame_ids: n names of frames, unique in the scene.
        world_T_cams: (n, 4, 4) float64 poses of the colour camera, OpenCV axes, metres.
        size_hw: native colour size.
        has_depth: whether any frame may have depth.
        depth_hw: size of `depth`; the native colour size unless the source says otherwise.
        left_out: frame id -> reason, for frames that the source has and the scene has not.
        one_K: whether all frames have the same intrinsics, so that `intrinsics` reads them once.
        corrupt: the part of ``left_out`` whose pose cannot be read. They count among the unreadable frames
            (`d3d.pipeline.stages.frames`), unlike frames that never had a pose.
    """

    one_K = False
    _K: np.ndarray | None = None  # of all frames, where the source does not implement `_read_K`

    def __init__(
        self,
        name: str,
        frame_ids: Sequence[str],
        world_T_cams: np.ndarray,
        size_hw: HW,
        has_depth: bool = False,
        depth_hw: HW | None = None,
        numbers: Sequence[int] | None = None,
        left_out: Mapping[str, str] | None = None,
    ) -> None:
        """Opens no image; ``numbers``: each frame's number in the video, where frames of it are left out.

        Raises:
            DataError: no frame, another number of poses than of frames, or an invalid pose.
        """
        if len(frame_ids) == 0:
            raise DataError(f"scene {name!r} is empty: it has no frame.")
        for what, values in (("poses", world_T_cams), ("numbers of them", numbers)):
            if values is not None and len(values) != len(frame_ids):
                raise DataError(f"scene {name!r} has {len(frame_ids)} frames but {len(values)} {what}.")
        self.name = name
        self.frame_ids = tuple(frame_ids)
        self.size_hw: HW = (int(size_hw[0]), int(size_hw[1]))
        self.has_depth = has_depth
        self.depth_hw: HW = self.size_hw if depth_hw is None else (int(depth_hw[0]), int(depth_hw[1]))
        self.left_out = dict(left_out or {})
        self.corrupt: dict[str, str] = {}
        self._numbers = None if numbers is None else np.asarray(numbers, dtype=np.int64)
        self.world_T_cams = check_poses(world_T_cams, self._where)

    def _read_image(self, i: int) -> np.ndarray:
        """Colour image i, uint8 (H, W, 3), RGB."""
        raise NotImplementedError

    def _read_K(self, i: int) -> np.ndarray | None:
        """Intrinsics (3, 3) of the native colour image i, pixel centres at integers; None if not known."""
        return self._K

    def _read_depth(self, i: int) -> np.ndarray | None:
        """Depth i (`depth_hw`) in metres, registered to colour, 0 = invalid; None if it has no file."""
        raise NotImplementedError

    def _read_highlight_mask(self, i: int) -> np.ndarray | None:
        """Bool (H, W), true where a mirror image of a light is seen; None if not known."""
        return None

    def __len__(self) -> int:
        return len(self.frame_ids)

    def __repr__(self) -> str:
        h, w = self.size_hw
        return f"<{type(self).__name__} {self.name!r}: {len(self)} frames of {w}x{h}>"

    def image(self, i: int, size_hw: HW | None = None) -> np.ndarray:
        """Colour image, uint8 (h, w, 3) RGB, at the native size or resized to ``size_hw``.

        Raises:
            DataError: the file is missing or broken, or the image is not of the scene's size.
        """
        image = self._read_image(self._index(i))
        if image.shape != (*self.size_hw, 3) or image.dtype != np.uint8:
            found, size = f"{image.shape} ({image.dtype})", f"{self.size_hw[1]}x{self.size_hw[0]}"
            raise DataError(
                f"{self._where(i)}: the image has shape {found}, but the scene's frames are {size} RGB."
            )
        return resize_image(image, size_hw)

    def depth(self, i: int) -> np.ndarray | None:
        """Depth, float32 (`depth_hw`) in metres, 0 = invalid; None where the frame has no depth map.

        Depth is never resized: averaging it invents surfaces between two true ones.

        Raises:
            DataError: the file is broken, or its size is not that of the scene's depth.
        """
        i = self._index(i)
        depth = self._read_depth(i) if self.has_depth else None
        if depth is None:
            return None
        if depth.shape != self.depth_hw:
            raise DataError(
                f"{self._where(i)}: the depth map has shape {depth.shape} and not {self.depth_hw}."
            )
        return np.ascontiguousarray(depth, dtype=np.float32)

    def K(self, i: int, size_hw: HW | None = None) -> np.ndarray:
        """Intrinsics, float64 (3, 3), pixel centres at integers, of `image` at the same ``size_hw``.

        Raises:
            DataError: the intrinsics are missing, not 3x3, not finite, or without a positive focal length.
        """
        K, where = self._read_K(self._index(i)), self._where(i)
        if K is None:
            raise DataError(f"{where}: no intrinsics K. Without them no pixel can be warped.")
        K = np.array(K, dtype=np.float64)
        if K.shape != (3, 3) or not np.isfinite(K).all() or K[0, 0] <= 0 or K[1, 1] <= 0:
            raise DataError(f"{where}: not a 3x3 camera matrix with positive focal lengths: {K.tolist()}.")
        return K if size_hw is None else scale_intrinsics(K, self.size_hw, size_hw)

    def intrinsics(self) -> np.ndarray:
        """Intrinsics of all frames at the native size, float64 (n, 3, 3); raises DataError as `K`."""
        if self.one_K:
            return np.repeat(self.K(0)[None], len(self), axis=0)
        return np.stack([self.K(i) for i in range(len(self))])

    def digest(self) -> str:
        """SHA-256 of everything that identifies the scene except its pixels: names, sizes, poses, intrinsics.

        Poses and intrinsics are rounded to 6 decimals, so that two ways to compute the same number give the same
        digest. Raises DataError as `K`.
        """
        return self._digest

    @functools.cached_property  # every stage asks for it several times
    def _digest(self) -> str:
        about = [self.name, self.frame_ids, self.numbers, self.size_hw, self.depth_hw, self.has_depth]
        digest = hashlib.sha256(json.dumps(about).encode())
        for array in (self.world_T_cams, self.intrinsics()):
            rounded = array.astype("<f8").round(6) + 0.0  # + 0.0: no negative zeros
            digest.update(json.dumps(rounded.shape).encode() + rounded.tobytes())
        return digest.hexdigest()

    def highlight_mask(self, i: int, size_hw: HW | None = None) -> np.ndarray | None:
        """Bool (h, w), true where a mirror image of a light is seen; None where the set does not know.

        A resized mask is true where at least half of the pixel's area is highlight.
        """
        mask = self._read_highlight_mask(self._index(i))
        if mask is None or size_hw is None or tuple(size_hw) == mask.shape:
            return mask
        grey = Image.fromarray(mask.astype(np.uint8) * 255)
        return np.asarray(grey.resize((size_hw[1], size_hw[0]), Image.Resampling.BOX)) >= 128

    @property
    def numbers(self) -> list[int]:
        """The number of each frame in the video; 0, 1, 2, ... where the scene is the whole video."""
        return list(range(len(self))) if self._numbers is None else self._numbers.tolist()

    def every(self, n: int) -> list[int]:
        """Indices of the frames whose number in the video is a multiple of n: the same however many are kept."""
        return [i for i, number in enumerate(self.numbers) if number % n == 0]

    def block(self, start: int, stop: int, name: str | None = None) -> Scene:
        """Frames ``start`` .. ``stop - 1`` as a scene of its own; raises DataError where there is no such block."""
        if not 0 <= start < stop <= len(self):
            block = f"block {start}..{stop - 1}"
            raise DataError(f"scene {self.name!r} has frames 0..{len(self) - 1}: no {block}.")
        return self.subset(range(start, stop), name or f"{self.name}.{start}-{stop - 1}")

    def subset(self, indices: Iterable[int], name: str) -> Scene:
        """The frames ``indices`` (in the order given) as a scene of its own; nothing is read or copied."""
        indices = [self._index(i) for i in indices]
        numbers = None if self._numbers is None else self._numbers[indices]
        return _Subset(self, indices, name, numbers, self.left_out)

    def without(self, reasons: Mapping[str, str]) -> Scene:
        """The scene without the frames in ``reasons`` (frame id -> why); raises DataError where none is left."""
        kept = [i for i, frame in enumerate(self.frame_ids) if frame not in reasons]
        if len(kept) == len(self):
            return self
        numbers = np.array(self.numbers)[kept]
        return _Subset(self, kept, self.name, numbers, {**self.left_out, **reasons})

    def _index(self, i: int) -> int:
        if not -len(self) <= i < len(self):
            raise IndexError(f"scene {self.name!r} has {len(self)} frames, there is no frame {i}.")
        return int(i) % len(self)

    def _where(self, i: int) -> str:
        return f"scene {self.name!r}, frame {self.frame_ids[i]}"


class _Subset(Scene):
    """Some frames of another scene, read through it."""

    def __init__(self, parent: Scene, indices: list[int], name: str, *numbers_and_left_out: Any) -> None:
        if isinstance(parent, _Subset):  # a subset of a subset reads straight from the source
            indices, parent = [parent._indices[i] for i in indices], parent._parent
        self._parent, self._indices, self.one_K = parent, indices, parent.one_K
        ids, poses = [parent.frame_ids[i] for i in indices], parent.world_T_cams[indices]
        sizes = (parent.size_hw, parent.has_depth, parent.depth_hw)
        super().__init__(name, ids, poses, *sizes, *numbers_and_left_out)
        self.corrupt = parent.corrupt

    def _read_image(self, i: int) -> np.ndarray:
        return self._parent._read_image(self._indices[i])

    def _read_K(self, i: int) -> np.ndarray | None:
        return self._parent._read_K(self._indices[i])

    def _read_depth(self, i: int) -> np.ndarray | None:
        return self._parent._read_depth(self._indices[i])

    def _read_highlight_mask(self, i: int) -> np.ndarray | None:
        return self._parent._read_highlight_mask(self._indices[i])


def digest_of(scenes: Sequence[Scene], frames: Sequence[Sequence[int]] | None = None) -> str:
    """SHA-256 that identifies several scenes in their order, by `Scene.digest`.

    Args:
        frames: for each scene the indices of the frames that are used; None: all frames.
    """
    used = [None] * len(scenes) if frames is None else [list(map(int, of)) for of in frames]
    parts = [(scene.digest(), of) for scene, of in zip(scenes, used, strict=True)]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()
