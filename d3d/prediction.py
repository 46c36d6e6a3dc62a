"""Prediction of depth, for one image or all scenes, and the store that keeps it (section 3.2.1)."""

from __future__ import annotations

import functools
import hashlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from d3d import io
from d3d.datasets.images import HW, decode_image, resize_image
from d3d.datasets.photos import read_photo, rgb
from d3d.datasets.records import Record, parse, read_bytes
from d3d.datasets.scene import Scene
from d3d.errors import ConfigError, DataError, rounded
from d3d.geometry import disp_to_depth
from d3d.io import atomic, write_json
from d3d.models import load_model
from d3d.models.base import DepthNetwork, check_size
from d3d.models.sizes import network_size
from d3d.parallel.distributed import autocast, select_device
from d3d.parallel.tasks import advance, run_tasks

# 16-bit millimetres hold 0 to 65.5 m with an error of at most 0.5 mm; the error of float16 is up to 4 mm at 5 m
MM = 1000.0
AHEAD = 64  # largest number of frames waiting for the disk: 14 MB at 384x288


def write_depth(path: Path, depth_hw: np.ndarray) -> bytes:
    """Write depth in metres as a 16-bit PNG in millimetres; return the sha256 of the pixels.

    Raises:
        DataError: a value is not finite, is negative, or exceeds 65.5 m.
    """
    return _write_png(path, _millimetres(path, depth_hw))


def _millimetres(path: Path, depth_hw: np.ndarray) -> np.ndarray:
    depth = np.asarray(depth_hw)
    if unknown := np.count_nonzero(~np.isfinite(depth)):
        raise DataError(f"{path}: {unknown} depth values are not finite.")
    millimetres, low, high = np.rint(depth * MM), depth.min(), depth.max()
    if millimetres.min() < 0 or millimetres.max() > 65535:
        raise DataError(
            f"{path}: depth from {rounded(low)} to {rounded(high)} m does not fit 16-bit millimetres."
        )
    return millimetres.astype(np.uint16)


def _write_png(path: Path, millimetres: np.ndarray) -> bytes:
    # level 1 is three times as fast as the default and needs 15 % more bytes
    Image.fromarray(millimetres).save(path, format="PNG", compress_level=1)
    return hashlib.sha256(millimetres.tobytes()).digest()


def read_depth(path: Path) -> np.ndarray:
    """Read depth (h, w), float32 metres, from a 16-bit PNG in millimetres.

    Raises:
        DataError: the file is missing or damaged.
    """
    try:
        image = decode_image(path, ("PNG",), modes=("I;16", "I;16B", "I"))
    except FileNotFoundError:
        raise DataError(f"{path} is missing: run its stage again.") from None
    except ValueError as error:
        message = f"{path}: not a readable depth PNG ({error}). Delete its folder and run again."
        raise DataError(message) from None
    return np.asarray(image).astype(np.float32) / np.float32(MM)


class _Index(Record):
    frames: list[str]
    sha256: str


class DepthStore:
    """Store depth maps of many scenes as ``<scene>/<frame>.png``. ``<scene>/index.json`` marks a complete scene."""

    def __init__(self, folder: Path):
        self.folder = Path(folder)

    def scene_folder(self, scene: str) -> Path:
        """Return the folder of a scene. A slash in the name ("redkitchen/seq-01") becomes "__"."""
        name = scene.replace("/", "__")
        if not name or name.startswith(".") or "\\" in name:
            raise DataError(
                f"scene name {scene!r} cannot be a folder's name: it must not be empty, begin with a dot, or contain "
                f"a backslash."
            )
        return self.folder / name

    def has(self, scene: str) -> bool:
        """Return whether the scene is complete."""
        return (self.scene_folder(scene) / "index.json").is_file()

    def has_frame(self, scene: Scene, i: int) -> bool:
        """Return whether frame i of a complete scene is stored."""
        return (self.scene_folder(scene.name) / _file_name(scene.frame_ids[i])).is_file()

    def write_scene(self, scene: str, frames: Iterable[tuple[str, np.ndarray]], **files: bytes) -> None:
        """Write the depth maps of a scene atomically.

        Args:
            frames: pairs of frame id and depth (h, w), metres.
            **files: contents of further files; "__" in a name stands for the dot ("mesh__ply").
        """
        with atomic(self.scene_folder(scene)) as temporary:
            temporary.mkdir()
            written = list(_written(temporary, frames))
            digests = [pixels for _, pixels in written]
            for name, content in files.items():
                (temporary / name.replace("__", ".")).write_bytes(content)
                digests.append(hashlib.sha256(content).digest())
            index = {"scene": scene, "frames": [frame_id for frame_id, _ in written]}
            index["sha256"] = hashlib.sha256(b"".join(digests)).hexdigest()
            write_json(temporary / "index.json", index)

    def frames(self, scene: str) -> list[str]:
        """Return the ids of the stored frames of a scene, in the order of writing."""
        return self._index(scene).frames

    def sha256(self, scene: str) -> str:
        """Return the digest of all files of a scene."""
        return self._index(scene).sha256

    def _index(self, scene: str) -> _Index:
        path = self.scene_folder(scene) / "index.json"
        if not path.is_file():
            raise DataError(f"{self.folder} has no depth of scene {scene!r}: run its stage.")
        return parse(_Index, read_bytes(path), str(path), "Delete its folder and run again.")

    def read(self, scene: str, frame_id: str) -> np.ndarray:
        """Read depth (h, w), float32 metres, 0 where unknown."""
        return read_depth(self.scene_folder(scene) / _file_name(frame_id))

    def read_of(self, scene: Scene, i: int) -> np.ndarray:
        """Read the depth of frame i of a scene."""
        return self.read(scene.name, scene.frame_ids[i])


def _file_name(frame_id: str) -> str:
    # data sets choose the ids freely
    if any(c in frame_id for c in "/\\\0") or not frame_id.strip("."):
        raise DataError(f"frame id {frame_id!r} cannot be a file's name.")
    return f"{frame_id}.png"


def _written(folder: Path, frames: Iterable[tuple[str, np.ndarray]]) -> Iterator[tuple[str, bytes]]:
    """Write frames in threads while the next frames are computed; yield ids and hashes of the pixels in order."""
    waiting: deque[tuple[str, Future[bytes]]] = deque()
    # two threads: Open3D holds Python's lock while it casts rays, and writing a PNG needs the lock several times
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
def predict(
    model: DepthNetwork,
    image: Tensor | np.ndarray | Image.Image | str | Path,
    *,
    size_hw: HW | None = None,
    focal_px: float | None = None,
) -> Tensor | np.ndarray:
    """Predict the depth of an image or a batch, at the size of the image.

    The image is resized with antialiasing to the size that suits the network (`network_size`). The disparity is resized
    back bilinearly: the disparity of a plane is linear in the image, its depth is not. If the network does not know the
    size of its training, an image with suitable sides is not resized.

    Args:
        model: network of `d3d.create_model` or `d3d.load_model`. It is set to eval mode.
        image: float tensor (B, 3, H, W) or (3, H, W) in [0, 1], uint8 array (H, W, 3), PIL image, or path of an image
            file (read by `d3d.datasets.photos.read_photo`). Each side has at least 32 pixels.
        size_hw: height and width of the network's input, multiples of 32, instead of `network_size`.
        focal_px: focal length in pixels of the image. If given, the image is resized to the focal length of the
            training.

    Returns:
        Depth in metres, float32: a tensor (B, 1, H, W) or (1, H, W) for a tensor, otherwise an array (H, W).

    Raises:
        ConfigError: ``model`` is not a network.
        DataError: the image cannot be read, has a wrong type or shape, or `network_size` refuses it.
    """
    if not isinstance(model, torch.nn.Module):
        raise ConfigError(f"predict needs a network, not {model!r}: give d3d.load_model(...).")
    tensor = isinstance(image, Tensor)
    if tensor:
        _check_tensor(image)
    else:
        image = _array(image)
    image_hw = tuple(image.shape[-2:] if tensor else image.shape[:2])
    near_hw = tuple(size_hw or network_size(model, image_hw, focal_px))
    check_size(*near_hw)
    if not tensor:
        pixels = torch.from_numpy(np.ascontiguousarray(resize_image(image, near_hw).transpose(2, 0, 1)))
        pixels = pixels[None].to(next(model.parameters()).device) / 255
    else:
        pixels = image.reshape(-1, *image.shape[-3:])
        if near_hw != image_hw:
            # the filter of torch that is most similar to `resize_image`, which makes the training images
            pixels = F.interpolate(pixels.float(), near_hw, mode="bicubic", antialias=True).clamp(0, 1)
    disp = network_disparity(model, pixels)
    if near_hw != image_hw:
        disp = F.interpolate(disp, image_hw, mode="bilinear")
    depth = disp_to_depth(disp, model.min_depth, model.max_depth)
    if not tensor:
        return depth[0, 0].cpu().numpy()
    return depth if image.ndim == 4 else depth[0]


def _check_tensor(image: Tensor) -> None:
    if image.ndim not in (3, 4) or image.shape[-3] != 3:
        raise DataError(
            f"an image tensor must have shape (B, 3, H, W) or (3, H, W), not {tuple(image.shape)}."
        )
    if not image.is_floating_point():
        raise DataError(
            f"an image tensor must be floating point in [0, 1], not {image.dtype}: divide by 255."
        )
    if image.numel() and (top := float(image.max())) > 2:  # augmentation and filters may slightly exceed 1
        raise DataError(
            f"an image tensor must be in [0, 1], but has values up to {rounded(top, 4)}: divide by 255."
        )


def _array(image: np.ndarray | Image.Image | str | Path) -> np.ndarray:
    if isinstance(image, str | Path):
        return read_photo(image).image
    if isinstance(image, Image.Image):
        return rgb(image)
    if not isinstance(image, np.ndarray):
        raise DataError(
            f"an image must be an array, a tensor, a PIL image or a path, not {type(image).__name__}."
        )
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
        raise DataError(f"an image array must be uint8 (H, W, 3), not {image.dtype} {image.shape}.")
    return image


def network_disparity(model: DepthNetwork, image_b3hw: Tensor) -> Tensor:
    """Predict the finest disparity (B, 1, H, W), float32, of images at a size of the network; sets eval mode."""
    model.eval()
    return model(image_b3hw.to(next(model.parameters()).device).float(), scales=(0,))[0].float()


def network_depth(model: DepthNetwork, image_b3hw: Tensor) -> Tensor:
    """Predict depth (B, 1, H, W) in metres without resizing. Height and width must be multiples of 32."""
    with torch.inference_mode():
        return disp_to_depth(network_disparity(model, image_b3hw), model.min_depth, model.max_depth)


def saved_network(path: Path, sha256: str, device: str, precision: str) -> Callable[[Tensor], Tensor]:
    """Make a function for `map_scenes` from a trained network. Each process resolves the device "auto" itself.

    Errors are those of `load_checked`.
    """
    model = load_checked(path, sha256).to(select_device(device))

    def function(images_b3hw: Tensor) -> Tensor:
        with network_precision(model, precision):
            return network_depth(model, images_b3hw)

    return function


def load_checked(path: Path, sha256: str) -> DepthNetwork:
    """Load a checkpoint on the CPU and check its hash.

    Raises:
        DataError: the hash differs, or the file is not a checkpoint.
    """
    found = io.sha256(path)
    if found != sha256:
        raise DataError(
            f"{path} has sha256 {found[:12]}, not {sha256[:12]}: it was trained again, or this machine sees an old "
            f"state of the folder. Repeat the command."
        )
    return load_model(path)


def network_precision(model: DepthNetwork, precision: str) -> torch.autocast:
    """Return a context for the precision "float32" or "bf16" (autocast)."""
    return autocast(next(model.parameters()).device.type, precision)


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
    """Apply a function to frames of each scene and store the resulting maps. Complete scenes are skipped.

    Args:
        make: makes the function, once per process; a function of a module. The made function takes images (B, 3, h, w),
            float in [0, 1], on the CPU and returns maps (B, 1, h, w) in metres.
        arguments: hashable arguments of ``make``; equal arguments make equal functions.
        frames: frame indices of each scene.
        size_hw: size of the images.
        what, scheduler, workers: see `d3d.parallel.tasks.run_tasks`.
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
        _made.cache_clear()  # frees the memory of the network for the next stages


@functools.lru_cache(maxsize=1)
def _made(make: Callable[..., Callable[[Tensor], Tensor]], arguments: tuple) -> Callable[[Tensor], Tensor]:
    return make(*arguments)


def _map_scene(make, arguments, scene, wanted, store, size_hw, batch_size) -> None:
    if store.has(scene.name):
        return
    function = _made(make, arguments)

    def maps():
        for start in range(0, len(wanted), batch_size):
            part = wanted[start : start + batch_size]
            images = np.stack([scene.image(i, size_hw) for i in part]).transpose(0, 3, 1, 2)
            result = function(torch.from_numpy(np.ascontiguousarray(images)).float() / 255)
            yield from zip((scene.frame_ids[i] for i in part), result[:, 0].cpu().numpy(), strict=True)
            advance(len(part))

    store.write_scene(scene.name, maps())
