"""Write available scenes as ScanNet's .sens files, for trials: `python tests/sens_from_scenes.py --out FOLDER`.

Rooms of GlossyRooms, or with --sequence a folder of 7-Scenes, become files of ScanNet's sizes, codecs and intrinsics:
colour 1296x968 (every third scene 640x480, as scene0704 and scene0705), depth 640x480, some poses lost.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
from PIL import Image
from sens_writer import SensWriter

from d3d.datasets import Scene, open_dataset
from d3d.datasets.sevenscenes.dataset import SevenScenesSequence
from d3d.geometry import nearest_depth, scale_intrinsics

COLOR_HW, SMALL_COLOR_HW, DEPTH_HW = (968, 1296), (480, 640), (480, 640)
FIRST = {"train": 0, "val": 700, "test": 720}
LOST = (np.full((4, 4), -np.inf), np.zeros((4, 4)), np.diag([2.0, 2, 2, 1]))


def write_scene(path: Path, scene: Scene, color_hw=COLOR_HW, lost=()) -> None:
    """Write a scene as a .sens file. Depth is resized by the nearest pixel.

    Args:
        lost: numbers of frames that get a pose of `LOST`, in turn.
    """
    poses = scene.world_T_cams.copy()
    for k, number in enumerate(lost):
        if number < len(poses):
            poses[number] = LOST[k % len(LOST)]
    Ks = (scale_intrinsics(scene.K(0), scene.size_hw, size_hw) for size_hw in (color_hw, DEPTH_HW))
    with SensWriter(path, color_hw, DEPTH_HW, *Ks) as file:
        for i, pose in enumerate(poses):
            image = Image.fromarray(scene.image(i)).resize(color_hw[::-1], Image.Resampling.BICUBIC)
            depth = scene.depth(i)
            metres = np.zeros(DEPTH_HW) if depth is None else nearest_depth(depth, DEPTH_HW)
            file.add(np.asarray(image), np.rint(metres * 1000).astype(np.uint16), pose)


def write_glossyrooms(out: Path, rooms: int = 2, frames: int = 80) -> None:
    """Write rooms of each split and the lists of splits, in the layout of ScanNet's release.

    Args:
        rooms: a split.
        frames: the first so many of each.
    """
    dataset = open_dataset("glossyrooms", rooms=rooms, frames=frames)
    k = 0
    for split in dataset.splits:
        names = []
        for j, room in enumerate(dataset.scenes(split)):
            name = f"scene{FIRST[split] + j:04d}_00"
            folder = out / ("scans_test" if split == "test" else "scans")
            size_hw, k = SMALL_COLOR_HW if k % 3 == 1 else COLOR_HW, k + 1
            write_scene(folder / name / f"{name}.sens", room, size_hw, lost=(3, 17, 20))
            names.append(name)
        (out / f"scannetv2_{split}.txt").write_text("".join(f"{name}\n" for name in names))


def write_sequence(out: Path, sequence: Path) -> None:
    """Write a folder of 7-Scenes as scene0000_00 of the train split and as scene0700_00 of val."""
    scene = SevenScenesSequence(sequence, "sequence")
    for name, split in (("scene0000_00", "train"), ("scene0700_00", "val")):
        path = out / "scans" / name / f"{name}.sens"
        if split == "train":
            write_scene(path, scene)
        else:
            path.parent.mkdir(parents=True)
            path.hardlink_to(out / "scans" / "scene0000_00" / "scene0000_00.sens")
        (out / f"scannetv2_{split}.txt").write_text(f"{name}\n")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--rooms", type=int, default=2, help="rooms a split")
    parser.add_argument("--frames", type=int, default=80, help="frames a room")
    parser.add_argument("--sequence", type=Path, help="a folder of 7-Scenes instead of rooms")
    a = parser.parse_args()
    if a.sequence is None:
        write_glossyrooms(a.out, a.rooms, a.frames)
    else:
        write_sequence(a.out, a.sequence)
    print(*(f"{p}: {p.stat().st_size / 1e6:.1f} MB" for p in sorted(a.out.rglob("*.sens"))), sep="\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
