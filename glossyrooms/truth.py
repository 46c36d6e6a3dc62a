"""Depth and masks for the rooms that ship without: ``python -m glossyrooms.truth --out FOLDER``.

Of the training rooms every sixth ships with its truth, as no stage of the method looks at it; an experiment with an
oracle's labels (``labels`` "oracle_truth") needs all of it. A room's geometry follows from its seed, and its images are
copied byte for byte: this takes two minutes where rendering takes nineteen, and networks trained on the rooms serve
both sets.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import zipfile
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from d3d.datasets.glossyrooms.format import HIGHLIGHT, SAFE_NAME, SPLITS
from d3d.errors import ConfigError, DataError
from d3d.progress import say, track
from glossyrooms.archive import add_truth, verify, write_manifest
from glossyrooms.make import exit_status

_TOLERANCE = 2e-5  # of shares, which archives have to five digits, and of poses, seven


def truth(mi: ModuleType, scene: dict[str, Any], where: str) -> dict[str, list[np.ndarray]]:
    """Depth, mask and virtual depth of every frame of a room, as `archive.add_truth` takes them.

    Args:
        mi: mitsuba.
        scene: the room's ``scene.json``.
        where: the room, for messages.

    Raises:
        DataError: the generator makes another room of this seed today.
    """
    from glossyrooms import camera, rooms
    from glossyrooms.render import Renderer

    size_hw, seed = tuple(scene["size_hw"]), scene["seed"]
    room = rooms.build(seed, scene["spec"]["floor"])
    poses = camera.walk(seed, len(scene["frame_ids"]), room.focus, room.radius)
    same = np.allclose(poses, scene["world_T_cam"], rtol=0, atol=_TOLERANCE)
    if same:
        renderer, K = Renderer(mi, room.geometry, seed), camera.intrinsics(size_hw)
        maps = [renderer.geometry_maps(pose, K, size_hw) for pose in poses]
        depths, kinds, highlights, virtuals = (list(m) for m in zip(*maps, strict=True))
        shares = [lit.mean() for lit in highlights]
        same = np.allclose(shares, scene["shares"]["highlight"], rtol=0, atol=_TOLERANCE)
    if not same:
        raise DataError(
            f"{where}: this version makes another room of seed {seed}, so its truth is not that of these images. "
            f"Make the rooms again with their depth: python -m glossyrooms.make --depth-every 1 --out FOLDER"
        )
    masks = [k + HIGHLIGHT * lit.astype(np.uint8) for k, lit in zip(kinds, highlights, strict=True)]
    return {"depths": depths, "masks": masks, "virtuals": virtuals}


def complete(root: Path, out: Path, variant: str = "auto") -> dict[str, Any]:
    """The set under ``root`` again under ``out``, every room with its truth; returns the new manifest.

    What is there already stays; a kill leaves no half room, and the same call goes on.

    Raises:
        ConfigError: ``root`` is no GlossyRooms, or is ``out``.
        DataError: a room is damaged, or the generator makes another room today.
    """
    from glossyrooms.mitsuba_setup import load_mitsuba

    root, out = Path(root), Path(out)
    try:
        manifest = json.loads((root / "manifest.json").read_text())
        rooms = [(root / r["file"], out / r["file"], bool(r["depth"])) for r in manifest["rooms"]]
        named = [(str(r["split"]), str(r["name"]), r["file"]) for r in manifest["rooms"]]
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise ConfigError(f"{root} holds no GlossyRooms ({error}).") from error
    for split, name, file in named:  # what the manifest names is written to: never outside of the folder
        if split not in SPLITS or not SAFE_NAME.fullmatch(name) or file != f"{split}/{name}.zip":
            raise DataError(f"{root / 'manifest.json'}: {str(file)[:80]!r} is no room's archive.")
    if root.resolve() == out.resolve():
        raise ConfigError(
            f"--out {out} is the set itself: its rooms with their truth go into another folder."
        )
    if problems := verify(root):  # the new manifest would have a damaged room's checksum for the right one
        raise DataError(f"{root} is not as it was written: {'; '.join(problems[:5])}. Get it again.")
    mi = load_mitsuba(variant)
    for source, path, has_truth in track(rooms, what="truth", unit="room"):
        if path.is_file():
            continue
        path.parent.mkdir(parents=True, exist_ok=True)
        if has_truth:
            partial = path.with_name(f".{path.name}.part")
            shutil.copyfile(source, partial)
            partial.replace(path)
            continue
        try:
            with zipfile.ZipFile(source) as archive:
                scene = json.loads(archive.read("scene.json"))
        except (zipfile.BadZipFile, OSError, LookupError, ValueError) as error:
            raise DataError(f"{source} is not a room's archive ({error}).") from error
        add_truth(source, path, **truth(mi, scene, f"room {scene['name']}"))
    return write_manifest(out, f"{manifest['command']} --depth-every 1", manifest["versions"])


def parser() -> argparse.ArgumentParser:
    result = argparse.ArgumentParser(prog="python -m glossyrooms.truth", description=__doc__)
    result.add_argument("--root", default="data/glossyrooms", help="folder of the set (default: %(default)s)")
    result.add_argument("--out", required=True, help="folder of the set with its truth")
    result.add_argument("--variant", default="auto", help="mitsuba's: auto, llvm_ad_rgb or scalar_rgb")
    return result


def main(argv: list[str] | None = None) -> int:
    """Returns the exit status: 0, or 2 after one line that says what was wrong."""
    a = parser().parse_args(argv)

    def work() -> None:
        rooms = complete(Path(a.root), Path(a.out), a.variant)["rooms"]
        size = sum(room["bytes"] for room in rooms) / 2**20
        say(f"{len(rooms)} rooms with their truth, {size:.1f} MB, in {a.out}")

    return exit_status(work)


if __name__ == "__main__":
    sys.exit(main())
