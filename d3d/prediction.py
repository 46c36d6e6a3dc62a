"""Stored depth, and trained networks over scenes (section 3.2.1)."""

from __future__ import annotations

import functools
import hashlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from d3d import io
from d3d.datasets.images import decode_image
from d3d.datasets.scene import Scene
from d3d.errors import DataError
from d3d.geometry import disp_to_depth
from d3d.io import atomic, read_json, write_json
from d3d.models import load_model
from d3d.models.base import DepthNetwork
from d3d.parallel.distributed import select_device
from d3d.parallel.tasks import advance, run_tasks

# 16-bit millimetres hold 0 .. 65.5 m with an error of at most 0.5 mm; float16 is off by up to 4 mm at 5 m
MM = 1000.0
# Frames that wait for the disk at most: two batches of views that are rendered at once, 14 MB at 384x288
AHEAD = 64


def write_depth(path: Path, depth_hw: np.ndarray) -> bytes:
    """Writes depth in metres as a 16-bit PNG in millimetres; returns the sha256 of the pixels.

    Raises:
        DataError: a value is not finite, negative or beyond 65.5 m.
    """
    return _write_png(path, _millimetres(path, depth_hw))


def _millimetres(path: Path, depth_hw: np.ndarray) -> np.ndarray:
    depth = np.asarray(depth_hw)
    if not np.isfinite(depth).all():
        raise DataError(f"{path}: {np.count_nonzero(~np.isfinite(depth))} depth values are not finite.")
    millimetres = np.rint(depth * MM)
    if millimetres.min() < 0 or millimetres.max() > 65535:
        raise DataError(
            f"{path}: depth {depth.min():.3g} to {depth.max():.3g} m does not fit 16-bit millimetres."
        )
    return millimetres.astype(np.uint16)


def _write_png(path: Path, millimetres: np.ndarray) -> bytes:
    # level 1: three times faster than the default for 15 % more bytes
    Image.fromarray(millimetres).save(path, format="PNG", compress_level=1)
    return hashlib.sha256(millimetres.tobytes()).digest()


def read_depth(path: Path) -> np.ndarray:
    """Depth (h, w) float32 in metres from a 16-bit PNG in millimetres.

    Raises:
        DataError: missing or damaged, with the file's name.
    """
    try:
        values = np.asarray(decode_image(path, ("PNG",)))
    except FileNotFoundError:
        raise DataError(f"{path} is missing: run the stage that makes it again.") from None
    except ValueError as error:
        raise DataError(
            f"{path}: not a readable depth PNG ({error}). Delete its folder and run again."
        ) from None
    if values.ndim != 2 or values.dtype not in (np.uint16, np.int32):
        raise DataError(f"{path}: not a 16-bit grey PNG but {values.dtype} of shape {values.shape}.")
    return values.astype(np.float32) / np.float32(MM)


class DepthStore:
    """Depth maps of many scenes in a folder: ``<scene>/<frame>.png``, with ``<scene>/index.json`` written last."""

    def __init__(self, folder: Path):
        self.folder = Path(folder)

    def scene_folder(self, scene: str) -> Path:
        """A scene's folder; a name with slashes ("redkitchen/seq-01") stays one level deep."""
        name = scene.replace("/", "__")
        if not name or name.startswith(".") or "\\" in name:
            raise DataError(f"scene name {scene!r} cannot be a folder's: it must not begin with a dot.")
        return self.folder / name

    def has(self, scene: str) -> bool:
        """Whether the scene is there, whole."""
        return (self.scene_folder(scene) / "index.json").is_file()

    def write_scene(self, scene: str, frames: Iterable[tuple[str, np.ndarray]], **files: bytes) -> None:
        """Writes a scene's (frame id, depth (h, w) in metres), all or nothing.

        Args:
            **files: more files by name with the dot as "__" ("mesh__ply"), as bytes.
        """
        with atomic(self.scene_folder(scene)) as temporary:
            temporary.mkdir()
            digest, ids = hashlib.sha256(), []
            for frame_id, pixels in _written(temporary, frames):
                digest.update(pixels)
                ids.append(frame_id)
            for name, content in files.items():
                (temporary / name.replace("__", ".")).write_bytes(content)
                digest.update(hashlib.sha256(content).digest())
            write_json(
                temporary / "index.json", {"scene": scene, "frames": ids, "sha256": digest.hexdigest()}
            )

    def frames(self, scene: str) -> list[str]:
        """Ids of the stored frames of a scene, in the order they were written."""
        return self._index(scene)["frames"]

    def sha256(self, scene: str) -> str:
        """Digest of all of a scene's depth."""
        return self._index(scene)["sha256"]

    def _index(self, scene: str) -> dict:
        path = self.scene_folder(scene) / "index.json"
        if not path.is_file():
            raise DataError(f"{self.folder} has no depth of scene {scene!r}: run the stage that makes it.")
        index = read_json(path, "frames", "sha256")
        frames = index["frames"]
        if not isinstance(frames, list) or not all(isinstance(f, str) for f in [*frames, index["sha256"]]):
            raise DataError(f"{path}: not an index of stored depth. Delete its folder and run again.")
        return index

    def read(self, scene: str, frame_id: str) -> np.ndarray:
        """Depth (h, w) float32 in metres, 0 where there is none."""
        return read_depth(self.scene_folder(scene) / _file_name(frame_id))

    def read_of(self, scene: Scene, i: int) -> np.ndarray:
        """As `read`, of frame i of a scene."""
        return self.read(scene.name, scene.frame_ids[i])


def _file_name(frame_id: str) -> str:
    """A frame's file; its id comes out of a data set that somebody else made."""
    if any(c in frame_id for c in "/\\\0") or not frame_id.strip("."):
        raise DataError(f"frame id {frame_id!r} cannot be a file's name.")
    return f"{frame_id}.png"


def _written(folder: Path, frames: Iterable[tuple[str, np.ndarray]]) -> Iterator[tuple[str, bytes]]:
    """Writes frames in threads while the next ones are made; frame ids and sha256 of the pixels, in order."""
    waiting: deque[tuple[str, Future[bytes]]] = deque()
    # Two: Open3D keeps Python's lock while it casts a view's rays, and writing a PNG needs that several times
    with ThreadPoolExecutor(2) as pool:
        for frame_id, depth in frames:
            path = folder / _file_name(frame_id)
            waiting.append((frame_id, pool.submit(_write_png, path, _millimetres(path, depth))))
            if len(waiting) > AHEAD:
                first, pixels = waiting.popleft()
                yield first, pixels.result()
        for frame_id, pixels in waiting:
            yield frame_id, pixels.result()


@torch.inference_mode()
def predict(model: DepthNetwork, image: Tensor | np.ndarray) -> Tensor | np.ndarray:
    """Depth in metres of one image or a batch.

    Args:
        model: from `d3d.create_model` or `d3d.models.load_model`; put in eval mode here.
        image: (B, 3, H, W) or (3, H, W) float in [0, 1], or a uint8 array (H, W, 3); H and W multiples of 32.

    Returns:
        depth (B, 1, H, W), (1, H, W), or for a uint8 array an array (H, W); float32, metres.
    """
    model.eval()
    parameter = next(model.parameters())
    if isinstance(image, np.ndarray):
        if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
            raise DataError(
                f"an image array must be uint8 (H, W, 3), this one is {image.dtype} {image.shape}."
            )
        batch = (
            torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1)))[None].to(parameter.device) / 255
        )
    else:
        if image.dim() not in (3, 4) or image.shape[-3] != 3:
            raise DataError(
                f"an image tensor must be (B, 3, H, W) or (3, H, W), this one is {tuple(image.shape)}."
            )
        batch = (image if image.dim() == 4 else image[None]).to(parameter.device)
    depth = disp_to_depth(model(batch.float(), scales=(0,))[0].float(), model.min_depth, model.max_depth)
    if isinstance(image, np.ndarray):
        return depth[0, 0].cpu().numpy()
    return depth if image.dim() == 4 else depth[0]


def saved_network(path: Path, sha256: str, device: str, precision: str) -> Callable[[Tensor], Tensor]:
    """A trained network as a function for `map_scenes`.

    Args:
        path: the weights.
        sha256: of that file; what a process keeps of an earlier file at the same place is not this network.
        device: as the parameter ``device``; "auto" is decided where the function is made.
        precision: "float32" or "bf16".

    Raises:
        DataError: the file is another one, or not a checkpoint.
    """
    return partial(_predict_with, load_checked(path, sha256).to(select_device(device)), precision)


def load_checked(path: Path, sha256: str) -> DepthNetwork:
    """The network of a checkpoint that must have this content, on the CPU.

    Raises:
        DataError: the file is another one, or not a checkpoint.
    """
    found = io.sha256(path)
    if found != sha256:
        raise DataError(
            f"{path} has sha256 {found[:12]}, not {sha256[:12]}: it was trained anew, or this machine's view of the "
            f"folder is old. Run the same once more."
        )
    return load_model(path)


def _predict_with(model: DepthNetwork, precision: str, images_b3hw: Tensor) -> Tensor:
    with network_precision(model, precision):
        return predict(model, images_b3hw)


def network_precision(model: DepthNetwork, precision: str) -> torch.autocast:
    """A context in which the network computes in "float32", or with "bf16" as far as autocast has it."""
    device = next(model.parameters()).device.type
    return torch.autocast(device, torch.bfloat16, enabled=precision == "bf16")


def map_scenes(
    make: Callable[..., Callable[[Tensor], Tensor]],
    arguments: tuple,
    scenes: Sequence[Scene],
    frames: Sequence[Sequence[int]],
    store: DepthStore,
    size_hw: tuple[int, int],
    *,
    batch_size: int = 8,
    what: str = "predict",
    scheduler: str = "none",
    workers: int = 0,
) -> None:
    """Stores what a function makes of the given frames of each scene; scenes already there are left as they are.

    Args:
        make: makes the function, once in every process: from images (B, 3, h, w) float in [0, 1], on the CPU, to maps
            (B, 1, h, w) in metres. Of a module, where other processes are to find it.
        arguments: of ``make``, hashable; two functions made of equal ones are the same.
        scheduler, workers: as `d3d.parallel.tasks.run_tasks`.
    """
    wanted = {s.name: (s, list(f)) for s, f in zip(scenes, frames, strict=True) if not store.has(s.name)}
    try:
        run_tasks(
            _map_scene,
            {name: (make, arguments, *of, store, size_hw, batch_size) for name, of in wanted.items()},
            what=what,
            scheduler=scheduler,
            workers=workers,
            sizes={name: len(f) for name, (_, f) in wanted.items()},
            unit="frame",
        )
    finally:
        _made.cache_clear()  # a network must not stay in memory during the stages that follow


@functools.lru_cache(maxsize=1)
def _made(make: Callable[..., Callable[[Tensor], Tensor]], arguments: tuple) -> Callable[[Tensor], Tensor]:
    return make(*arguments)


def _map_scene(make, arguments, scene, wanted, store, size_hw, batch_size) -> None:
    if not store.has(scene.name):
        store.write_scene(scene.name, _mapped(_made(make, arguments), scene, wanted, size_hw, batch_size))


def _mapped(function, scene, wanted, size_hw, batch_size):
    for start in range(0, len(wanted), batch_size):
        part = wanted[start : start + batch_size]
        images = np.stack([scene.image(i, size_hw) for i in part]).transpose(0, 3, 1, 2)
        maps = function(torch.from_numpy(np.ascontiguousarray(images)).float() / 255)
        for i, d in zip(part, maps[:, 0].cpu().numpy(), strict=True):
            yield scene.frame_ids[i], d
        advance(len(part))
