"""The class `Scene`, the common interface of all sources of posed frames.

A scene holds its poses in memory and reads images and depth on demand, so that thousands of scenes open quickly.
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
from d3d.errors import DataError, counted
from d3d.geometry import check_poses, scale_intrinsics

FrameList = frozenset[tuple[str, str]]  # (scene's name, frame id)


class Scene:
    """Posed frames of one room in temporal order.

    A source of data derives from this class and implements `_read_image` and `_read_K`, and optionally `_read_depth`
    and `_read_highlight_mask`. The public methods check their results, so that a bad file gives the same error for
    every source.

    Attributes:
        name: name of the scene, unique in its data set and valid as a file name.
        frame_ids: n names of frames, unique in the scene.
        world_T_cams: (n, 4, 4) float64 poses of the colour camera, OpenCV axes, metres.
        size_hw: native colour size.
        has_depth: whether any frame may have depth.
        depth_hw: size of `depth`; by default the native colour size.
        left_out: frame id -> reason, for frames of the source that the scene leaves out.
        one_K: whether all frames share the same intrinsics, so that `intrinsics` reads them once.
        corrupt: frames in ``left_out`` with an unreadable pose. Unlike frames without a pose, they count as unreadable
            frames (`d3d.pipeline.stages.frames`).
    """

    one_K = False
    _K: np.ndarray | None = None  # intrinsics of all frames, if the source does not implement `_read_K`

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
        """Create a scene without opening an image.

        Args:
            numbers: number of each frame in the video, if the scene leaves out frames of the video.

        Raises:
            DataError: there is no frame, the numbers of poses and frames differ, or a pose is invalid.
        """
        if len(frame_ids) == 0:
            raise DataError(f"scene {name!r} is empty: it has no frame.")
        for what, values in (("poses", world_T_cams), ("numbers of them", numbers)):
            if values is not None and len(values) != len(frame_ids):
                raise DataError(
                    f"scene {name!r} has {counted(len(frame_ids), 'frame')} but {len(values)} {what}."
                )
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
        """Read colour image i, uint8 (H, W, 3), RGB."""
        raise NotImplementedError

    def _read_resized(self, i: int, size_hw: HW) -> np.ndarray | None:
        """Colour image i at another size, from a copy that the source keeps; None where it keeps none."""
        return None

    def _read_K(self, i: int) -> np.ndarray | None:
        """Read the intrinsics (3, 3) of native colour image i, pixel centres at integers; None if unknown."""
        return self._K

    def _read_depth(self, i: int) -> np.ndarray | None:
        """Read depth i (`depth_hw`) in metres, registered to colour, 0 = invalid; None if the frame has no depth."""
        raise NotImplementedError

    def _read_highlight_mask(self, i: int) -> np.ndarray | None:
        """Read the mask of mirror images of lights, bool (H, W); None if unknown."""
        return None

    def __len__(self) -> int:
        return len(self.frame_ids)

    def __repr__(self) -> str:
        h, w = self.size_hw
        return f"<{type(self).__name__} {self.name!r}: {counted(len(self), 'frame')} of {w}x{h}>"

    def image(self, i: int, size_hw: HW | None = None) -> np.ndarray:
        """Read a colour image, uint8 (h, w, 3) RGB, at the native size or resized to ``size_hw``.

        Raises:
            DataError: the file is missing or broken, or its size differs from the scene.
        """
        if size_hw is not None and (kept := self._read_resized(self._index(i), size_hw)) is not None:
            return kept
        image = self._read_image(self._index(i))
        if image.shape != (*self.size_hw, 3) or image.dtype != np.uint8:
            found, size = f"{image.shape} ({image.dtype})", f"{self.size_hw[1]}x{self.size_hw[0]}"
            raise DataError(
                f"{self._where(i)}: the image has shape {found}, but the scene's frames are {size} RGB."
            )
        return resize_image(image, size_hw)

    def depth(self, i: int) -> np.ndarray | None:
        """Read depth, float32 (`depth_hw`) in metres, 0 = invalid; None if the frame has no depth map.

        Depth is never resized: averaging would invent surfaces between two real surfaces.

        Raises:
            DataError: the file is broken, or its size is not `depth_hw`.
        """
        i = self._index(i)
        depth = self._read_depth(i) if self.has_depth else None
        if depth is None:
            return None
        if depth.shape != self.depth_hw:
            raise DataError(f"{self._where(i)}: the depth map has shape {depth.shape}, not {self.depth_hw}.")
        return np.ascontiguousarray(depth, dtype=np.float32)

    def K(self, i: int, size_hw: HW | None = None) -> np.ndarray:
        """Return the intrinsics, float64 (3, 3), of `image` at ``size_hw``, pixel centres at integers.

        Raises:
            DataError: the intrinsics are missing, not 3x3, not finite, or have a focal length that is not positive.
        """
        K, where = self._read_K(self._index(i)), self._where(i)
        if K is None:
            raise DataError(
                f"{where}: no intrinsics K, which warping needs. Add them, or leave the frame out."
            )
        K = np.array(K, dtype=np.float64)
        if K.shape != (3, 3) or not np.isfinite(K).all() or K[0, 0] <= 0 or K[1, 1] <= 0:
            raise DataError(f"{where}: not a 3x3 camera matrix with positive focal lengths: {K.tolist()}.")
        return K if size_hw is None else scale_intrinsics(K, self.size_hw, size_hw)

    def intrinsics(self) -> np.ndarray:
        """Return the intrinsics of all frames at the native size, float64 (n, 3, 3). Errors are those of `K`."""
        if self.one_K:
            return np.repeat(self.K(0)[None], len(self), axis=0)
        return np.stack([self.K(i) for i in range(len(self))])

    def digest(self) -> str:
        """Compute the SHA-256 of names, sizes, poses and intrinsics, which identify the scene without its pixels.

        Poses and intrinsics are rounded to 6 decimals, so that rounding errors do not change the digest. Errors are
        those of `K`.
        """
        return self._digest

    @functools.cached_property  # every stage needs it several times
    def _digest(self) -> str:
        about = [self.name, self.frame_ids, self.numbers, self.size_hw, self.depth_hw, self.has_depth]
        digest = hashlib.sha256(json.dumps(about).encode())
        for array in (self.world_T_cams, self.intrinsics()):
            rounded = array.astype("<f8").round(6) + 0.0  # + 0.0: no negative zeros
            digest.update(json.dumps(rounded.shape).encode() + rounded.tobytes())
        return digest.hexdigest()

    def highlight_mask(self, i: int, size_hw: HW | None = None) -> np.ndarray | None:
        """Return the mask of mirror images of lights, bool (h, w); None if the data set has no masks.

        A pixel of a resized mask is true if at least half of its area is highlight.
        """
        mask = self._read_highlight_mask(self._index(i))
        if mask is None or size_hw is None or tuple(size_hw) == mask.shape:
            return mask
        grey = Image.fromarray(mask.astype(np.uint8) * 255)
        return np.asarray(grey.resize((size_hw[1], size_hw[0]), Image.Resampling.BOX)) >= 128

    @property
    def numbers(self) -> list[int]:
        """Number of each frame in the video; 0, 1, 2, ... if the scene is the whole video."""
        return list(range(len(self))) if self._numbers is None else self._numbers.tolist()

    def every(self, n: int) -> list[int]:
        """Return the indices of the frames with a number in the video that is a multiple of n."""
        return [i for i, number in enumerate(self.numbers) if number % n == 0]

    def block(self, start: int, stop: int, name: str | None = None) -> Scene:
        """Return frames ``start`` .. ``stop - 1`` as a scene; raises DataError if the block does not exist."""
        if not 0 <= start < stop <= len(self):
            block = f"block {start}..{stop - 1}"
            raise DataError(f"scene {self.name!r} has frames 0..{len(self) - 1}: no {block}.")
        return self.subset(range(start, stop), name or f"{self.name}.{start}-{stop - 1}")

    def subset(self, indices: Iterable[int], name: str) -> Scene:
        """Return the frames ``indices``, in this order, as a scene. Nothing is read or copied."""
        indices = [self._index(i) for i in indices]
        numbers = None if self._numbers is None else self._numbers[indices]
        return _Subset(self, indices, name, numbers, self.left_out)

    def without(self, reasons: Mapping[str, str]) -> Scene:
        """Return the scene without the frames in ``reasons`` (frame id -> reason); raises DataError if it is empty."""
        kept = [i for i, frame in enumerate(self.frame_ids) if frame not in reasons]
        if len(kept) == len(self):
            return self
        numbers = np.array(self.numbers)[kept]
        return _Subset(self, kept, self.name, numbers, {**self.left_out, **reasons})

    def _index(self, i: int) -> int:
        if not -len(self) <= i < len(self):
            raise IndexError(f"scene {self.name!r} has {counted(len(self), 'frame')}, there is no frame {i}.")
        return int(i) % len(self)

    def _where(self, i: int) -> str:
        return f"scene {self.name!r}, frame {self.frame_ids[i]}"


class _Subset(Scene):
    """Some frames of another scene, read from it."""

    def __init__(self, parent: Scene, indices: list[int], name: str, *numbers_and_left_out: Any) -> None:
        if isinstance(parent, _Subset):  # a subset of a subset reads directly from the source
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

    def _read_resized(self, i: int, size_hw: HW) -> np.ndarray | None:
        return self._parent._read_resized(self._indices[i], size_hw)

    def _read_highlight_mask(self, i: int) -> np.ndarray | None:
        return self._parent._read_highlight_mask(self._indices[i])


def digest_of(scenes: Sequence[Scene], frames: Sequence[Sequence[int]] | None = None) -> str:
    """Compute a SHA-256 that identifies several scenes in their order, by `Scene.digest`.

    Args:
        frames: indices of the used frames of each scene; None: all frames.
    """
    used = [None] * len(scenes) if frames is None else [list(map(int, of)) for of in frames]
    parts = [(scene.digest(), of) for scene, of in zip(scenes, used, strict=True)]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()
