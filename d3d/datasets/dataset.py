"""The class `Dataset`: splits, scenes, and the frames to score."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from d3d.datasets.scene import FrameList, Scene
from d3d.errors import DataError, unknown


class Dataset:
    """A named set of scenes in splits. The scenes of a split are opened on first use.

    Attributes:
        name: name in the registry.
        splits: names of the splits: "train", "val", and for some data sets "test".
        verified: whether all frames are known to be readable, because they were decoded or have checksums. Other data
            sets are decoded once before a training (`d3d.pipeline.readable`).
        prepared: settings of the preparation, which keeps and resizes a part of the frames; empty for original data.
        licence: licence of the data, if it permits passing on trained networks; else "".
        unit: unit of poses and depth: "metres", or "relative units" if the scale is arbitrary.
    """

    def __init__(
        self,
        name: str,
        splits: Mapping[str, Callable[[], list[Scene]]],
        lists: Mapping[str, Callable[[], Mapping[str, FrameList]]] | None = None,
        *,
        verified: bool = False,
        truth: Callable[[str], str] | None = None,
        whole: Callable[[str, int], bool] | None = None,
        prepared: Mapping[str, Any] | None = None,
        licence: str = "",
        unit: str = "metres",
    ) -> None:
        """Store functions that make the scenes and lists of a split, and that implement `truth` and `whole`."""
        self.name, self.splits, self.verified = name, tuple(splits), verified
        self.prepared, self.licence, self.unit = dict(prepared or {}), licence, unit
        self._make, self._make_lists = dict(splits), dict(lists or {})
        self._truth, self._whole = truth, whole
        self._scenes: dict[str, list[Scene]] = {}

    @property
    def short_unit(self) -> str:
        """The unit after a number: "m" or "relative units"."""
        return "m" if self.unit == "metres" else self.unit

    def scenes(self, split: str) -> list[Scene]:
        """Return the scenes of a split.

        Raises:
            ConfigError: the split is unknown.
            DataError: the split has no scene, or a scene cannot be read.
        """
        self._check_split(split)
        if split not in self._scenes:
            self._scenes[split] = self._make[split]()
            if not self._scenes[split]:
                raise DataError(f"the {split!r} split of data set {self.name!r} has no scene.")
        return list(self._scenes[split])

    def lists(self, split: str) -> dict[str, FrameList]:
        """Return the lists of frames to score separately: name -> frames. Empty if the data set has no lists.

        Frames on "Reflection" show highlights, frames on "NoReflection" do not. Frames on "Mirror" show a mirror, which
        the paper leaves unsolved.

        Raises:
            ConfigError: the split is unknown.
            DataError: a list cannot be read, or names an unknown frame.
        """
        self._check_split(split)
        return dict(self._make_lists[split]()) if split in self._make_lists else {}

    def with_lists(self, split: str, lists: Mapping[str, FrameList]) -> Dataset:
        """Return a copy with additional lists of a split. They replace lists of the same name."""
        result = copy.copy(self)
        result._make_lists = self._make_lists | {split: lambda: self.lists(split) | lists}
        return result

    def _check_split(self, split: str) -> None:
        if split not in self._make:
            raise unknown(f"split of data set {self.name!r}", split, self.splits)

    def truth(self, split: str) -> str:
        """Describe the ground truth of a split, if the data set supports several kinds; else "".

        Scores against different kinds of ground truth are not comparable.
        """
        return "" if self._truth is None else self._truth(split)

    def split_frames(self, split: str, scene: Scene, every: int = 1) -> frozenset[int]:
        """Return the indices of the frames that count for the scores of the whole split.

        A prepared folder holds every Nth frame of an evaluated split (``eval_every``), and the frames on the user's
        lists, which do not count.

        Args:
            every: count every Nth frame of the video.
        """
        return frozenset(scene.every(self._step(split, every)))

    def whole(self, split: str, every: int = 1) -> bool:
        """Return whether the scored frames are the whole split, so that published scores are comparable.

        All scenes must be present and the frames dense enough: for ScanNet at least every 10th frame of the video, for
        the test split of 7-Scenes all frames. No scene is opened. True for data sets that are never incomplete.
        """
        return True if self._whole is None else self._whole(split, self._step(split, every))

    def _step(self, split: str, every: int) -> int:
        """Return the step between scored frames of a split, in frames of the video."""
        return every if split == "train" else math.lcm(every, self.prepared.get("eval_every", 1))

    def __repr__(self) -> str:
        return f"<Dataset {self.name!r}: {', '.join(self.splits)}>"


def require_root(name: str, root: str | Path | None, how_to_get: str) -> Path:
    """Return the folder of a data set.

    Raises:
        DataError: ``root`` is None or does not exist. The message says how to get the data.
    """
    if root is None:
        raise DataError(f"data set {name!r} needs root=, the folder that holds it. {how_to_get}")
    if not Path(root).is_dir():
        raise DataError(f"data set {name!r}: there is no folder {root}. {how_to_get}")
    return Path(root)
