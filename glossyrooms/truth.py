"""Add depth and masks to the rooms that ship without them: ``python -m glossyrooms.truth --out FOLDER``.

Only every sixth training room ships with depth and masks, because no stage of the method reads them. An experiment with
oracle labels (``labels`` "oracle_truth") needs them in all rooms. This command computes them from the seed of each room
and copies the images byte for byte. It takes two minutes; rendering the rooms takes nineteen. The training data are the
same, so networks trained on one set are valid for the other.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from d3d.datasets.glossyrooms.format import HIGHLIGHT, SAFE_NAME, SPLITS
from d3d.errors import ConfigError, DataError
from d3d.io import atomic
from d3d.progress import say, track
from glossyrooms import command
from glossyrooms.archive import add_truth, read_room, verify, write_manifest
from glossyrooms.make import candidate
from glossyrooms.mitsuba_setup import load_mitsuba
from glossyrooms.render import Renderer

_TOLERANCE = 2e-5  # archives keep shares to five digits and poses to seven


def truth(mi: ModuleType, scene: dict[str, Any], where: str) -> dict[str, list[np.ndarray]]:
    """Compute depth, mask and virtual depth of every frame of a room.

    Args:
        mi: mitsuba.
        scene: the content of the room's ``scene.json``.
        where: name of the room for messages.

    Returns:
        "depths", "masks" and "virtuals", see `archive.add_truth`.

    Raises:
        DataError: this version of the generator makes a different room from the seed.
    """
    size_hw, seed = tuple(scene["size_hw"]), scene["seed"]
    variety = scene["spec"]["settings"].get("variety", "")
    room, poses, intrinsics = candidate(seed, scene["spec"]["floor"], len(scene["frame_ids"]), variety)
    same = np.allclose(poses, scene["world_T_cam"], rtol=0, atol=_TOLERANCE)
    if same:
        renderer, K = Renderer(mi, room.geometry, seed), intrinsics(size_hw)
        maps = [renderer.geometry_maps(pose, K, size_hw) for pose in poses]
        depths, kinds, highlights, virtuals = (list(m) for m in zip(*maps, strict=True))
        shares = [lit.mean() for lit in highlights]
        same = np.allclose(shares, scene["shares"]["highlight"], rtol=0, atol=_TOLERANCE)
    if not same:
        raise DataError(
            f"{where}: this version makes another room of seed {seed}, so its depth does not fit these images. "
            f"Make the rooms again with depth: python -m glossyrooms.make --depth-every 1 --out FOLDER"
        )
    masks = [k + HIGHLIGHT * lit.astype(np.uint8) for k, lit in zip(kinds, highlights, strict=True)]
    return {"depths": depths, "masks": masks, "virtuals": virtuals}


def complete(root: Path, out: Path, variant: str = "auto") -> dict[str, Any]:
    """Copy a set and add depth and masks to every room. Rooms that exist in ``out`` are kept.

    An interruption leaves no partial room: repeat the call to make the missing rooms.

    Args:
        root: folder of the set.
        out: folder of the new set.
        variant: mitsuba variant, see `load_mitsuba`.

    Returns:
        the manifest of the new set.

    Raises:
        ConfigError: ``root`` holds no GlossyRooms, or is the same folder as ``out``.
        DataError: a room is damaged, or this version of the generator makes a different room from its seed.
    """
    root, out = Path(root), Path(out)
    try:
        manifest = json.loads((root / "manifest.json").read_text())
        files = [(root / r["file"], out / r["file"], bool(r["depth"])) for r in manifest["rooms"]]
        named = [(str(r["split"]), str(r["name"]), r["file"]) for r in manifest["rooms"]]
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise ConfigError(f"{root} holds no GlossyRooms ({error}).") from error
    for split, name, file in named:  # names become paths: never outside ``out``
        if split not in SPLITS or not SAFE_NAME.fullmatch(name) or file != f"{split}/{name}.zip":
            raise DataError(f"{root / 'manifest.json'}: {str(file)[:80]!r} is no room's archive.")
    if root.resolve() == out.resolve():
        raise ConfigError(f"--out {out} is the set itself: choose another folder for the rooms with depth.")
    if problems := verify(root):  # otherwise the new manifest would hold the checksum of a damaged room
        raise DataError(f"{root} differs from its manifest: {'; '.join(problems[:5])}. Get the set again.")
    mi = load_mitsuba(variant)
    for source, path, has_truth in track(files, what="truth", unit="room"):
        if path.is_file():
            continue
        if has_truth:
            with atomic(path) as temporary:
                shutil.copyfile(source, temporary)
            continue
        scene, _ = read_room(source)
        add_truth(source, path, **truth(mi, scene, f"room {scene['name']}"))
    return write_manifest(out, f"{manifest['command']} --depth-every 1", manifest["versions"])


def parser() -> argparse.ArgumentParser:
    """Return the parser of this command's options."""
    result = argparse.ArgumentParser(prog="python -m glossyrooms.truth", description=__doc__)
    result.add_argument("--root", default="data/glossyrooms", help="folder of the set (default: %(default)s)")
    result.add_argument("--out", required=True, help="folder of the new set")
    result.add_argument(
        "--variant", default="auto", help="mitsuba variant: auto, llvm_ad_rgb, or scalar_rgb (slow)"
    )
    return result


def main(argv: list[str] | None = None) -> int:
    """Add depth and masks; return the exit status, see `command.run`."""
    a = parser().parse_args(argv)

    def work() -> None:
        made = complete(Path(a.root), Path(a.out), a.variant)["rooms"]
        size = sum(room["bytes"] for room in made) / 2**20
        say(f"{len(made)} rooms with depth and masks, {size:.1f} MB, in {a.out}")

    return command.run(work)


if __name__ == "__main__":
    sys.exit(main())
