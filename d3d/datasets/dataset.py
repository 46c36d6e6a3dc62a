"""A data set: its splits into scenes, and the frames of them that are scored."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from d3d.datasets.scene import FrameList, Scene
from d3d.errors import DataError, unknown


class Dataset:
    """A named set of scenes in splits; the scenes of a split are made when they are first asked for.

    Attributes:
        name: the name in the registry.
        splits: names of the splits: "train" and "val", and "test" where there is one.
        verified: whether every frame is known to be readable: decoded before, or compared with a checksum. Frames
            of other data sets are decoded once before a training (`d3d.pipeline.readable`).
        prepared: settings of the preparation that kept and resized some frames; empty where all frames are there.
        licence: the data's, if it allows to pass on networks that were trained on them; else "".
        unit: of poses and depth: "metres", or "relative units" where the scale is arbitrary.
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
        """Keeps functions that make a split's scenes and its lists; ``truth`` and ``whole`` implement the methods."""
        self.name, self.splits, self.verified = name, tuple(splits), verified
        self.prepared, self.licence, self.unit = dict(prepared or {}), licence, unit
        self._make, self._make_lists = dict(splits), dict(lists or {})
        self._truth, self._whole = truth, whole
        self._scenes: dict[str, list[Scene]] = {}

    def scenes(self, split: str) -> list[Scene]:
        """The scenes of a split.

        Raises:
            ConfigError: no such split.
            DataError: the split has no scene, or one of them cannot be read.
        """
        self._check_split(split)
        if split not in self._scenes:
            self._scenes[split] = self._make[split]()
            if not self._scenes[split]:
                raise DataError(f"the {split!r} split of data set {self.name!r} has no scene.")
        return list(self._scenes[split])

    def lists(self, split: str) -> dict[str, FrameList]:
        """Lists of a split's frames to be scored apart, by name; empty where the data set has none.

        "Reflection" frames show highlights, "NoReflection" frames show none, "Mirror" frames show a mirror, which
        the paper leaves unsolved.

        Raises:
            ConfigError: no such split.
            DataError: a list cannot be read, or names a frame that does not exist.
        """
        self._check_split(split)
        return dict(self._make_lists[split]()) if split in self._make_lists else {}

    def with_lists(self, split: str, lists: Mapping[str, FrameList]) -> Dataset:
        """The same data set with further lists of a split beside its own, or instead of those of the same name."""
        result = copy.copy(self)
        result._make_lists = self._make_lists | {split: lambda: self.lists(split) | lists}
        return result

    def _check_split(self, split: str) -> None:
        if split not in self._make:
            raise unknown(f"split of data set {self.name!r}", split, self.splits)

    def truth(self, split: str) -> str:
        """The kind of a split's ground truth, in words, where a data set may come with several kinds; else "".

        Scores against different kinds of ground truth are not comparable.
        """
        return "" if self._truth is None else self._truth(split)

    def split_frames(self, split: str, scene: Scene, every: int = 1) -> frozenset[int]:
        """Indices of the frames of a scene that belong to its split; others are there for a list of frames alone.

        A prepared folder holds every Nth frame of an evaluated split (``eval_every``) and all frames on the user's
        lists. Scores of the whole split are means over the frames returned here, of every ``every``-th of the video.
        """
        return frozenset(scene.every(self._step(split, every)))

    def whole(self, split: str, every: int = 1) -> bool:
        """Whether the scored frames are the whole split: only then do published scores stand beside them.

        All scenes must be there, and the frames dense enough: for ScanNet at least every 10th frame of the video,
        for the test split of 7-Scenes all frames. No scene is opened. True for a data set that is never incomplete.
        """
        return True if self._whole is None else self._whole(split, self._step(split, every))

    def _step(self, split: str, every: int) -> int:
        """The step between the frames of a split that are scored, in frames of the video."""
        return every if split == "train" else math.lcm(every, self.prepared.get("eval_every", 1))

    def __repr__(self) -> str:
        return f"<Dataset {self.name!r}: {', '.join(self.splits)}>"


def require_root(name: str, root: str | Path | None, how_to_get: str) -> Path:
    """The folder of a data set; raises DataError, with how to get the data, where it is not given or not there."""
    if root is None:
        raise DataError(f"data set {name!r} needs root=, the folder that holds it. {how_to_get}")
    if not Path(root).is_dir():
        raise DataError(f"data set {name!r}: there is no folder {root}. {how_to_get}")
    return Path(root)
