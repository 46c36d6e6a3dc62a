"""Write and check the archives of GlossyRooms, its manifest and its lists of frames.

`d3d.datasets.glossyrooms.format` describes the files. The same content gives the same bytes.
"""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from d3d.datasets.glossyrooms.format import (
    FORMAT,
    HIGHLIGHT,
    LISTED_SPLITS,
    LISTS,
    MATERIALS,
    MAX_DEPTH_M,
    NAME,
    SAFE_NAME,
    SPLITS,
    mask_is_valid,
)
from d3d.errors import DataError
from d3d.io import atomic, sha256, write_json

_EPOCH = (1980, 1, 1, 0, 0, 0)  # the earliest date that a zip archive can hold
_KEYS = frozenset({"name", "split", "seed", "size_hw", "frame_ids", "world_T_cam", "shares", "spec"})


def rule_text() -> str:
    """Describe in words which frames each list holds."""

    def bounds(kind: str, low: float, high: float) -> str:
        words = [f"at least {low:g} %"] * (low > 0) + [f"less than {high:g} %"] * (high < np.inf)
        return f"{kind} pixels {' and '.join(words)}"

    lists = (
        f"{name}: {', '.join(bounds(kind, *limits) for kind, limits in rule.items())}"
        for name, rule in LISTS.items()
    )
    return f"Share of a frame's pixels. {'; '.join(lists)}."


def lists_of(shares: Mapping[str, float]) -> list[str]:
    """Return the names of the lists that a frame belongs to.

    Args:
        shares: the share of the frame's pixels, from 0 to 1, of "highlight" and of "mirror" pixels.
    """
    return [
        name
        for name, rule in LISTS.items()
        if all(low <= 100 * shares[kind] < high for kind, (low, high) in rule.items())
    ]


def write_room(
    path: Path,
    *,
    name: str,
    split: str,
    seed: int,
    K: np.ndarray,
    frame_ids: Sequence[str],
    world_T_cams: np.ndarray,
    images: Sequence[np.ndarray],
    depths: Sequence[np.ndarray] | None = None,
    masks: Sequence[np.ndarray] | None = None,
    virtuals: Sequence[np.ndarray] | None = None,
    shares: Mapping[str, Sequence[float]],
    spec: Mapping[str, Any],
    versions: Mapping[str, str],
    jpeg_quality: int = 90,
) -> None:
    """Write one room's archive. An error leaves no partial file.

    Args:
        path: ``<root>/<split>/<name>.zip``.
        name: name of the room.
        split: one of `SPLITS`.
        seed: seed of the room.
        K: (3, 3) intrinsics of the images, pixel centres at integers.
        frame_ids: n names, in the order of time.
        world_T_cams: (n, 4, 4), OpenCV axes, metres; rounded to a tenth of a micrometre.
        images: n uint8 images (H, W, 3).
        depths: n maps (H, W) of z-depth in metres, 0 = invalid. Give ``depths``, ``masks`` and ``virtuals``
            together, or none of them.
        masks: n uint8 maps (H, W): the material's code, plus `HIGHLIGHT`.
        virtuals: n maps (H, W) of the z-depth of the mirror image in metres, 0 where there is none.
        shares: "highlight" and "mirror", each with n shares of a frame's pixels, from 0 to 1.
        spec: description of the room; must be valid JSON.
        versions: versions of the packages that made the room.
        jpeg_quality: quality of the images, from 1 to 95.

    Raises:
        DataError: the arrays do not fit together, a depth does not fit into 16 bits of millimetres, a mask has
            invalid values, or JSON cannot hold a value.
    """
    path = Path(path)
    where, n = f"room {name!r}", len(frame_ids)
    if path.name != f"{name}.zip" or split not in SPLITS or not SAFE_NAME.fullmatch(name):
        raise DataError(f"{where}: a room of split {split!r} cannot be written as {path}.")
    if not all(SAFE_NAME.fullmatch(frame) for frame in frame_ids):
        raise DataError(f"{where}: frame ids must be letters, digits, '_', '-' and '.'.")
    optional = {"depth": depths, "mask": masks, "virtual": virtuals}
    given = {kind: maps for kind, maps in optional.items() if maps is not None}
    if len(given) not in (0, len(optional)):
        raise DataError(f"{where}: {', '.join(given)} without the others of {', '.join(optional)}.")
    counts = {"world_T_cams": len(world_T_cams), "images": len(images)}
    counts |= {f"{kind}s": len(maps) for kind, maps in given.items()}
    counts |= {f"shares[{kind!r}]": len(shares[kind]) for kind in ("highlight", "mirror")}
    if n == 0 or len(set(frame_ids)) != n or set(counts.values()) != {n}:
        raise DataError(f"{where}: {n} frame ids ({len(set(frame_ids))} different), but {counts}.")
    size_hw = images[0].shape[:2]
    scene = {
        "format": FORMAT,
        "name": name,
        "split": split,
        "seed": int(seed),
        "size_hw": [int(x) for x in size_hw],
        "K": np.asarray(K, np.float64).tolist(),
        "frame_ids": list(frame_ids),
        "world_T_cam": np.round(np.asarray(world_T_cams, np.float64), 7).tolist(),
        "shares": {kind: np.round(np.asarray(x, np.float64), 5).tolist() for kind, x in shares.items()},
        "materials": list(MATERIALS),
        "spec": dict(spec),
        "generator": dict(versions),
    }
    members = {"scene.json": _scene_json(scene, where)}
    for i, frame in enumerate(frame_ids):
        at = f"{where}, frame {frame}"
        for kind, array in (("image", images[i]), *((kind, maps[i]) for kind, maps in given.items())):
            if array.shape[:2] != size_hw or array.ndim != (3 if kind == "image" else 2):
                raise DataError(f"{at}: {kind} of shape {array.shape}, but the first image is {size_hw}.")
        members[f"color/{frame}.jpg"] = _jpeg(images[i], jpeg_quality)
        if given:
            members |= _truth_members(frame, depths[i], masks[i], virtuals[i], at)
    _write_members(path, members)


def add_truth(
    source: Path,
    path: Path,
    depths: Sequence[np.ndarray],
    masks: Sequence[np.ndarray],
    virtuals: Sequence[np.ndarray],
) -> None:
    """Copy a room's archive and add depth and masks. The images keep their bytes. An error leaves no partial file.

    Args:
        source: the room's archive.
        path: the new archive, ``<root>/<split>/<name>.zip``.
        depths: n maps, see `write_room`.
        masks: n maps, see `write_room`.
        virtuals: n maps, see `write_room`.

    Raises:
        DataError: the archive is not a room's, or the maps do not fit it.
    """
    scene, members = read_room(source, pictures=True)
    frames, size_hw = scene["frame_ids"], tuple(scene["size_hw"])
    scene["spec"]["with_depth"] = True
    shapes = {np.shape(a) for maps in (depths, masks, virtuals) for a in maps}
    if {len(depths), len(masks), len(virtuals)} != {len(frames)} or shapes != {size_hw}:
        raise DataError(
            f"{source} has {len(frames)} frames of {size_hw}, but the maps have {sorted(shapes)}."
        )
    members["scene.json"] = _scene_json(scene, str(source))
    for frame, depth, mask, virtual in zip(frames, depths, masks, virtuals, strict=True):
        members |= _truth_members(frame, depth, mask, virtual, f"{source}, frame {frame}")
    _write_members(path, members)


def read_room(path: Path, pictures: bool = False) -> tuple[dict[str, Any], dict[str, bytes]]:
    """Read the description and the members of a room's archive.

    Args:
        path: the archive.
        pictures: read the content of every member; otherwise the contents are empty.

    Returns:
        the content of ``scene.json``; name -> content of every member.

    Raises:
        DataError: the file is missing, damaged or not a room's archive.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            scene = json.loads(archive.read("scene.json"))
            members = {name: archive.read(name) if pictures else b"" for name in archive.namelist()}
        if missing := _KEYS - scene.keys():
            raise ValueError(f"scene.json has no {', '.join(sorted(missing))}")
    except (zipfile.BadZipFile, OSError, LookupError, ValueError, AttributeError) as error:
        raise DataError(f"{path} is not a room's archive ({error}). Delete it and make it again.") from error
    return scene, members


def _scene_json(scene: Mapping[str, Any], where: str) -> bytes:
    try:
        return json.dumps(scene, separators=(",", ":"), sort_keys=True, allow_nan=False).encode()
    except (TypeError, ValueError) as error:
        raise DataError(f"{where}: JSON cannot hold the description ({error}).") from error


def _truth_members(
    frame: str, depth: np.ndarray, mask: np.ndarray, virtual: np.ndarray, at: str
) -> dict[str, bytes]:
    return {
        f"depth/{frame}.png": _png(_millimetres(depth, f"{at}, depth")),
        f"mask/{frame}.png": _png(_checked_mask(mask, f"{at}, mask")),
        f"virtual/{frame}.png": _png(_millimetres(virtual, f"{at}, virtual depth")),
    }


def _write_members(path: Path, members: Mapping[str, bytes]) -> None:
    """Write an archive; the same members give the same bytes."""
    with atomic(path) as temporary, zipfile.ZipFile(temporary, "w", zipfile.ZIP_STORED) as archive:
        for member in sorted(members):
            info = zipfile.ZipInfo(member, _EPOCH)
            info.create_system, info.external_attr = 3, 0o644 << 16  # the same on every system
            if member == "scene.json":
                info.compress_type = zipfile.ZIP_DEFLATED  # numbers as text; pictures are compressed already
            archive.writestr(info, members[member])


def write_manifest(root: Path, command: str, versions: Mapping[str, str]) -> dict[str, Any]:
    """Write ``manifest.json`` and ``lists/`` for the archives under ``<root>/<split>/``.

    Args:
        root: folder of the set.
        command: the command that makes the same rooms.
        versions: versions of the packages that made the rooms.

    Returns:
        the manifest.

    Raises:
        DataError: an archive is not a room's, two rooms have the same name, or their sizes differ.
    """
    root = Path(root)
    rooms: list[dict[str, Any]] = []
    lists: dict[tuple[str, str], list[str]] = {(s, name): [] for s in LISTED_SPLITS for name in LISTS}
    sizes = set()
    for split in SPLITS:
        for path in _archives(root, split):
            scene, members = read_room(path)
            if (scene["name"], scene["split"]) != (path.stem, split):
                raise DataError(f"{path} holds room {scene['name']!r} of split {scene['split']!r}.")
            shares = scene["shares"]
            rooms.append(
                {
                    "name": scene["name"],
                    "split": split,
                    "file": f"{split}/{path.name}",
                    "bytes": path.stat().st_size,
                    "sha256": sha256(path),
                    "frames": len(scene["frame_ids"]),
                    "depth": any(member.startswith("depth/") for member in members),
                    **{kind: round(float(np.mean(shares[kind])), 5) for kind in ("highlight", "mirror")},
                }
            )
            sizes.add(tuple(scene["size_hw"]))
            if split in LISTED_SPLITS:
                for i, frame in enumerate(scene["frame_ids"]):
                    for name in lists_of({kind: values[i] for kind, values in shares.items()}):
                        lists[split, name].append(f"{scene['name']} {frame}")
    if len({room["name"] for room in rooms}) != len(rooms) or len(sizes) != 1:
        raise DataError(
            f"{root}: {len(rooms)} archives with {len({room['name'] for room in rooms})} different names and frames "
            f"of sizes {sorted(sizes)}. A data set needs rooms of different names and frames of one size."
        )
    manifest = {
        "format": FORMAT,
        "name": NAME,
        "size_hw": list(sizes.pop()),
        "command": command,
        "versions": dict(versions),
        "rooms": rooms,
        "lists": {"rule": rule_text()},
    }
    for (split, name), lines in lists.items():
        with atomic(root / "lists" / f"{split}_{name}.txt") as temporary:
            temporary.write_text("".join(f"{line}\n" for line in sorted(lines)))
    write_json(root / "manifest.json", manifest)
    return manifest


def verify(root: Path) -> list[str]:
    """Compare the archives with the manifest.

    Returns:
        one line for each file that is missing, damaged or not listed.
    """
    root = Path(root)
    rooms = json.loads((root / "manifest.json").read_text())["rooms"]
    problems = []
    for room in rooms:
        path = root / room["file"]
        if not path.is_file():
            problems.append(f"{room['file']} is missing")
        elif path.stat().st_size != room["bytes"]:
            problems.append(f"{room['file']} has {path.stat().st_size} bytes instead of {room['bytes']}")
        elif sha256(path) != room["sha256"]:
            problems.append(f"{room['file']} has another sha256 than the manifest says")
    listed = {room["file"] for room in rooms}
    there = {path.relative_to(root).as_posix() for split in SPLITS for path in _archives(root, split)}
    return problems + [f"{file} is not in the manifest" for file in sorted(there - listed)]


def _archives(root: Path, split: str) -> list[Path]:
    """Return the archives of a split, sorted by name. Files that are still being written are left out."""
    return sorted(path for path in (root / split).glob("*.zip") if not path.name.startswith("."))


def _jpeg(image: np.ndarray, quality: int) -> bytes:
    """Encode an image with colour at half the resolution: a fifth smaller, and not visible at 128x96."""
    data = io.BytesIO()
    Image.fromarray(image).save(data, "jpeg", quality=quality, subsampling=2, optimize=True)
    return data.getvalue()


def _png(array: np.ndarray) -> bytes:
    """Encode a uint8 or uint16 (H, W) array as a grey PNG."""
    data = io.BytesIO()
    Image.fromarray(array).save(data, "png", optimize=True)
    return data.getvalue()


def _millimetres(depth_m: np.ndarray, where: str) -> np.ndarray:
    depth_m = np.asarray(depth_m, np.float64)
    if not np.isfinite(depth_m).all() or depth_m.min() < 0 or depth_m.max() > MAX_DEPTH_M:
        raise DataError(f"{where}: not finite or outside 0 to {MAX_DEPTH_M} m.")
    return np.rint(depth_m * 1000).astype(np.uint16)


def _checked_mask(mask: np.ndarray, where: str) -> np.ndarray:
    if mask.dtype != np.uint8 or not mask_is_valid(mask):
        raise DataError(
            f"{where}: must be uint8 with codes 0 to {len(MATERIALS) - 1}, plus {HIGHLIGHT} at highlights."
        )
    return mask
