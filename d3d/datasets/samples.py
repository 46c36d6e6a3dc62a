"""Training samples: triples for pretraining (3.1) and images with pseudo-labels for distillation (3.2.4)."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from functools import partial

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset as TorchDataset
from torch.utils.data import Sampler

from d3d.datasets.augment import Augmentation
from d3d.datasets.scene import Scene
from d3d.datasets.triples import Triples
from d3d.errors import ConfigError, DataError
from d3d.geometry import relative_pose


class Cache:
    """Maps that were read, least recently used first out, within a budget of bytes.

    Decoding and resizing a 640x480 frame takes longer than all else a sample needs at 128x96.

    Args:
        read: function of (scene index, frame index) that returns an array.
    """

    def __init__(self, read: Callable[[int, int], np.ndarray], budget_mb: int):
        self._read, self._free = read, budget_mb * 2**20
        self._kept: OrderedDict[tuple[int, int], np.ndarray] = OrderedDict()

    def __call__(self, scene: int, frame: int) -> np.ndarray:
        """The array; not to be written to."""
        key = (scene, frame)
        array = self._kept.get(key)
        if array is None:
            array = self._kept[key] = self._read(scene, frame)
            self._free -= array.nbytes
            while self._free < 0 and len(self._kept) > 1:
                self._free += self._kept.popitem(last=False)[1].nbytes
        else:
            self._kept.move_to_end(key)
        return array


def _read_image(scenes: Sequence[Scene], size_hw: tuple[int, int], scene: int, frame: int) -> np.ndarray:
    return scenes[scene].image(frame, size_hw)


def _frame_cache(scenes: Sequence[Scene], size_hw: tuple[int, int]) -> Cache:
    """Frames at the network's size, uint8 (h, w, 3)."""
    # no lambda: where processes are not forked, samples are pickled for those that load them
    return Cache(partial(_read_image, scenes, size_hw), budget_mb=512)


def _float_image(image_hw3: np.ndarray) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(image_hw3.transpose(2, 0, 1))).float().div_(255)


class TripleSamples(TorchDataset):
    """Target, its two sources, intrinsics and relative poses.

    Indexed by (epoch, index), so that augmentation depends on nothing but seed, epoch and index: any
    number of loading processes, and a resumed run, see the same samples. An item holds

        input           (3, h, w) float32, the augmented target: what the network sees
        target          (3, h, w) float32, plain: what the loss sees
        sources         (2, 3, h, w) float32, plain
        K               (3, 3) float32 at this size
        source_T_target (2, 4, 4) float32
        flip            bool, whether ``input`` is mirrored
    """

    def __init__(
        self,
        scenes: Sequence[Scene],
        triples: Sequence[Triples],
        size_hw: tuple[int, int],
        seed: int = 0,
        augment: bool = True,
    ):
        self._scenes, self._size_hw, self._seed, self._augment = scenes, size_hw, seed, augment
        self._index = [(s, *map(int, row)) for s, t in enumerate(triples) for row in t.indices]
        if not self._index:
            raise DataError("no training triples: every target lacks a usable neighbour.")
        self._frame = _frame_cache(scenes, size_hw)

    def __len__(self) -> int:
        return len(self._index)

    def __getitem__(self, key: tuple[int, int]) -> dict[str, Tensor]:
        epoch, index = key
        s, t, *sources = self._index[index]
        scene = self._scenes[s]
        target = _float_image(self._frame(s, t))
        draw = Augmentation()
        if self._augment:
            draw = Augmentation.draw(np.random.default_rng((self._seed, epoch, index)))
        poses = [relative_pose(scene.world_T_cams[i], scene.world_T_cams[t]) for i in sources]
        return {
            "input": draw(target),
            "target": target,
            "sources": torch.stack([_float_image(self._frame(s, i)) for i in sources]),
            "K": torch.from_numpy(scene.K(t, self._size_hw)).float(),
            "source_T_target": torch.from_numpy(np.stack(poses)).float(),
            "flip": torch.tensor(draw.flip),
        }


class LabelSamples(TorchDataset):
    """Image and pseudo-label; indexed by (epoch, index). An item holds

    input  (3, h, w) float32, augmented
    label  (1, h, w) float32, depth in metres, 0 where there is none; not mirrored
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
        size_hw: tuple[int, int],
        seed: int = 0,
        augment: bool = True,
    ):
        if not frames:
            raise DataError("no frames with a label to train on.")
        self._scenes, self._frames, self._read_label = scenes, list(frames), label
        self._size_hw, self._seed, self._augment = size_hw, seed, augment
        self._label = Cache(self._checked_label, budget_mb=256)
        self._frame = _frame_cache(scenes, size_hw)

    def __len__(self) -> int:
        return len(self._frames)

    def __getitem__(self, key: tuple[int, int]) -> dict[str, Tensor]:
        epoch, index = key
        s, i = self._frames[index]
        draw = Augmentation()
        if self._augment:
            draw = Augmentation.draw(np.random.default_rng((self._seed, epoch, index)))
        return {
            "input": draw(_float_image(self._frame(s, i))),
            "label": torch.from_numpy(self._label(s, i))[None],
            "flip": torch.tensor(draw.flip),
        }

    def _checked_label(self, s: int, i: int) -> np.ndarray:
        scene = self._scenes[s]
        label = np.array(self._read_label(scene, i), dtype=np.float32)
        if not np.isfinite(label).all():
            raise DataError(
                f"label of scene {scene.name}, frame {scene.frame_ids[i]}: {np.count_nonzero(~np.isfinite(label))} "
                f"pixels are not finite. Use 0 where there is no label; compute the labels anew."
            )
        if label.shape != tuple(self._size_hw):
            raise DataError(
                f"label of scene {scene.name}, frame {scene.frame_ids[i]} is {label.shape}, "
                f"the network's size is {tuple(self._size_hw)}."
            )
        return label


class EpochBatches(Sampler):
    """Shuffled batches of (epoch, index), epoch after epoch, from one step of a training to another.

    The order within an epoch depends on seed and epoch alone, so a training may go on at any step.

    Args:
        length: number of samples.
        first, last: the batches' steps, first <= step < last; by default the first epoch's.
        part: (k, n): of each batch the k-th of n equal parts, for n processes that train together.

    Raises:
        ConfigError: a batch cannot be parted so.
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
        # an incomplete last batch would weigh its images more and disturb batch normalisation
        self.per_epoch = length // self._batch
        self._first, self._last = first, self.per_epoch if last is None else last
        k, n = part
        if self._batch % n:
            raise ConfigError(
                f"a batch of {self._batch} cannot be shared equally by {n} processes: set a batch_size that is a "
                f"multiple of {n}."
            )
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
