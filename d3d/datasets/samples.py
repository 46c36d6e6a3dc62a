"""Training samples: triples for pretraining (3.1) and images with pseudo-labels for distillation (3.2.4)."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset as TorchDataset
from torch.utils.data import Sampler, get_worker_info

from d3d.datasets.augment import Augmentation
from d3d.datasets.scene import HW, Scene
from d3d.datasets.triples import Triples
from d3d.errors import ConfigError, DataError
from d3d.geometry import relative_pose

CACHE_BYTES = 2**31  # for all loading processes of a machine together
_WORTH_IT = 0.25  # smallest share of the data for which a cache is worth its memory

T = TypeVar("T")


class Cache:
    """Cache of decoded frames. Decoding and resizing takes longer than the rest of a small sample.

    All loading processes share `CACHE_BYTES`. Each process keeps the frames that it reads first and never drops them:
    every epoch has a new order, so a recently used frame is not needed sooner than other frames. If less than a quarter
    of the ``items`` frames fits, as for ScanNet, nothing is cached.
    """

    def __init__(self, read: Callable[[int, int], T], items: int, item_bytes: int):
        self._read, self._items, self._item_bytes = read, items, item_bytes
        self._kept: dict[tuple[int, int], T] = {}

    def __call__(self, scene: int, frame: int) -> T:
        """Return the result of ``read``, which must not be modified."""
        if (scene, frame) in self._kept:
            return self._kept[scene, frame]
        value = self._read(scene, frame)
        if len(self._kept) < self.capacity:
            self._kept[scene, frame] = value
        return value

    @cached_property
    def capacity(self) -> int:
        """Number of frames that this process keeps. Evaluate it in a loading process, which knows their number."""
        worker = get_worker_info()
        processes = (worker.num_workers if worker else 1) * int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
        fits = CACHE_BYTES // processes // self._item_bytes
        return fits if fits >= _WORTH_IT * self._items else 0

    def __getstate__(self) -> dict[str, object]:
        return self.__dict__ | {"_kept": {}}  # pickled for the loading processes


def _float_image(image_hw3: np.ndarray) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(image_hw3.transpose(2, 0, 1))).float().div_(255)


class _Samples(TorchDataset):
    """Base class of samples: indexed by (epoch, index), cached, and augmented.

    Augmentation depends only on seed, epoch and index. The number of loading processes and a resume do not change the
    samples.
    """

    _items: list  # (scene index, frame index, ...) of each sample

    def __init__(self, scenes: Sequence[Scene], size_hw: HW, seed: int, augment: bool):
        self._scenes, self.size_hw, self._seed, self._augment = scenes, size_hw, seed, augment

    def __len__(self) -> int:
        return len(self._items)

    @property
    def focal_px(self) -> tuple[float, float]:
        """Focal lengths fx, fy at the size of the samples: medians over the first frames of all scenes."""
        Ks = np.stack([scene.K(0, self.size_hw) for scene in self._scenes])
        return float(np.median(Ks[:, 0, 0])), float(np.median(Ks[:, 1, 1]))

    def _draw(self, epoch: int, index: int) -> Augmentation:
        rng = np.random.default_rng((self._seed, epoch, index))
        return Augmentation.draw(rng) if self._augment else Augmentation()

    def _image(self, s: int, i: int) -> np.ndarray:
        return self._scenes[s].image(i, self.size_hw)


class TripleSamples(_Samples):
    """Training triples: a target, its two sources, intrinsics and relative poses. An item holds

    input           (3, h, w) float32, augmented target, the input of the network
    target          (3, h, w) float32, not augmented, for the loss
    sources         (2, 3, h, w) float32, not augmented
    K               (3, 3) float32 at this size
    source_T_target (2, 4, 4) float32
    flip            bool, whether ``input`` is mirrored
    """

    def __init__(
        self,
        scenes: Sequence[Scene],
        triples: Sequence[Triples],
        size_hw: HW,
        seed: int = 0,
        augment: bool = True,
    ):
        super().__init__(scenes, size_hw, seed, augment)
        self._items = [(s, *map(int, row)) for s, t in enumerate(triples) for row in t.indices]
        if not self._items:
            raise DataError("no training triples: every target lacks a usable neighbour.")
        frames = {(s, i) for s, *of in self._items for i in of}
        self._frame = Cache(self._image, len(frames), 3 * size_hw[0] * size_hw[1])

    def __getitem__(self, key: tuple[int, int]) -> dict[str, Tensor]:
        epoch, index = key
        s, t, *sources = self._items[index]
        scene, draw = self._scenes[s], self._draw(epoch, index)
        target = _float_image(self._frame(s, t))
        poses = [relative_pose(scene.world_T_cams[i], scene.world_T_cams[t]) for i in sources]
        return {
            "input": draw(target),
            "target": target,
            "sources": torch.stack([_float_image(self._frame(s, i)) for i in sources]),
            "K": torch.from_numpy(scene.K(t, self.size_hw)).float(),
            "source_T_target": torch.from_numpy(np.stack(poses)).float(),
            "flip": torch.tensor(draw.flip),
        }


class LabelSamples(_Samples):
    """Images with pseudo-labels. An item holds

    input  (3, h, w) float32, augmented
    label  (1, h, w) float32, depth in metres, 0 where unknown; not mirrored
    flip   bool, whether ``input`` is mirrored

    Args:
        frames: (scene index, frame index) of each sample.
        label: function of (scene, frame index) that returns the label (h, w) in metres.
    """

    def __init__(
        self,
        scenes: Sequence[Scene],
        frames: Sequence[tuple[int, int]],
        label: Callable[[Scene, int], np.ndarray],
        size_hw: HW,
        seed: int = 0,
        augment: bool = True,
    ):
        super().__init__(scenes, size_hw, seed, augment)
        if not frames:
            raise DataError("no frames with a label to train on.")
        self._items, self._read_label = list(frames), label
        self._item = Cache(self._image_and_label, len(set(self._items)), 7 * size_hw[0] * size_hw[1])

    def __getitem__(self, key: tuple[int, int]) -> dict[str, Tensor]:
        epoch, index = key
        draw = self._draw(epoch, index)
        image, label = self._item(*self._items[index])
        return {
            "input": draw(_float_image(image)),
            "label": torch.from_numpy(label)[None],
            "flip": torch.tensor(draw.flip),
        }

    def _image_and_label(self, s: int, i: int) -> tuple[np.ndarray, np.ndarray]:
        scene = self._scenes[s]
        where = f"label of scene {scene.name}, frame {scene.frame_ids[i]}"
        label = np.array(self._read_label(scene, i), dtype=np.float32)
        if bad := np.count_nonzero(~np.isfinite(label)):
            advice = "Use 0 for unknown depth, and compute the labels again."
            raise DataError(f"{where}: {bad} pixels are not finite. {advice}")
        if label.shape != tuple(self.size_hw):
            raise DataError(f"{where} has size {label.shape}, but the network has {tuple(self.size_hw)}.")
        return self._image(s, i), label


class EpochBatches(Sampler):
    """Shuffled batches of (epoch, index) for the steps ``first`` <= step < ``last``; by default the first epoch.

    The order within an epoch depends only on seed and epoch, so that a training can resume at any step.

    Args:
        length: number of samples.
        part: (k, n) selects the k-th of n equal parts of each batch, for n processes that train together.

    Raises:
        ConfigError: a batch cannot be divided into n equal parts.
    """

    def __init__(
        self,
        length: int,
        batch_size: int,
        seed: int,
        first: int = 0,
        last: int | None = None,
        part: tuple[int, int] = (0, 1),
    ):
        self._length, self._batch, self._seed = length, min(batch_size, length), seed
        # an incomplete last batch would give its images more weight and disturb batch normalisation
        self.per_epoch = length // self._batch
        self._first, self._last = first, self.per_epoch if last is None else last
        k, n = part
        if self._batch % n:
            rule = f"set batch_size to a multiple of {n}"
            raise ConfigError(f"{n} processes cannot share a batch of {self._batch} equally: {rule}.")
        self._part = slice(k * self._batch // n, (k + 1) * self._batch // n)

    def __len__(self) -> int:
        return self._last - self._first

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        drawn = None
        for step in range(self._first, self._last):
            epoch, b = divmod(step, self.per_epoch)
            if epoch != drawn:
                order, drawn = np.random.default_rng((self._seed, epoch)).permutation(self._length), epoch
            batch = order[b * self._batch : (b + 1) * self._batch]
            yield [(epoch, int(i)) for i in batch[self._part]]
