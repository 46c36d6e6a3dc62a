"""Write a rendered room, whose poses and depth are exact, as a capture in each format."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from PIL import Image

from d3d.datasets import open_dataset

OPENGL = np.diag([1.0, -1, -1, 1])


class Room:
    """Some frames of a room of GlossyRooms, and what is true of them."""

    def __init__(self, frames=24, start=0, split="train"):
        scene = open_dataset("glossyrooms", rooms=1).scenes(split)[0]
        self.scene = scene.subset(range(start, start + frames), "room")
        self.K, self.size_hw = self.scene.K(0), self.scene.size_hw
        self.poses = self.scene.world_T_cams
        self.names = [f"{i:04d}" for i in range(frames)]

    def __len__(self):
        return len(self.names)

    def image(self, i):
        return self.scene.image(i)

    def depth(self, i):
        return self.scene.depth(i)


def write_images(room, folder, names=None, suffix=".png", of=lambda image: image):
    """Images as files without loss; returns their paths."""
    paths = []
    for i, name in enumerate(names or room.names):
        path = Path(folder) / f"{name}{suffix}"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(of(room.image(i))).save(path)
        paths.append(path)
    return paths


def write_depth(room, folder, per_metre=1000.0, suffix=".png", names=None):
    for i, name in enumerate(names or room.names):
        path = Path(folder) / f"{name}{suffix}"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.rint(room.depth(i) * per_metre).astype(np.uint16)).save(path)


def camera_points(room, i, every=24):
    """Points (n, 3) of frame i's surfaces in the world, and their pixels (n, 2)."""
    depth, (h, w) = room.depth(i), room.size_hw
    y, x = np.mgrid[0:h:every, 0:w:every].reshape(2, -1)
    z = depth[y, x]
    rays = np.linalg.inv(room.K) @ np.stack((x, y, np.ones_like(x)))
    points = room.poses[i] @ np.vstack((rays * z, np.ones_like(z)))
    return points[:3].T[z > 0], np.stack((x, y), 1)[z > 0]


def colmap_text(
    room, folder, unit=1.0, camera="PINHOLE", images="images", names=None, suffix=".png", points=True
):
    """A COLMAP model as text: world-to-camera, centre of the first pixel at 0.5, images not in the order of names."""
    root, (h, w), K = Path(folder), room.size_hw, room.K
    names = names or room.names
    write_images(room, root / images, names, suffix)
    model = root / "sparse" / "0"
    model.mkdir(parents=True)
    numbers = [K[0, 0], K[1, 1], K[0, 2] + 0.5, K[1, 2] + 0.5]
    (model / "cameras.txt").write_text(
        f"# cameras\n1 {camera} {w} {h} {' '.join(map(repr, map(float, numbers)))}\n"
    )
    lines, all_points = ["# images"], ["# points"]
    order = np.random.default_rng(0).permutation(len(room))
    for image_id, i in enumerate(order, 1):
        world_to_camera = np.linalg.inv(room.poses[i])
        q = quaternion_wxyz(world_to_camera[:3, :3])
        t = world_to_camera[:3, 3] / unit
        lines.append(f"{image_id} {' '.join(map(repr, map(float, (*q, *t))))} 1 {names[i]}{suffix}")
        seen = []
        if points and image_id % 2:
            for k, (xyz, pixel) in enumerate(zip(*camera_points(room, i), strict=True)):
                number = image_id * 10000 + k
                seen.append(f"{pixel[0] + 0.5} {pixel[1] + 0.5} {number}")
                xyz = " ".join(repr(float(v)) for v in xyz / unit)
                all_points.append(f"{number} {xyz} 9 9 9 0.5 {image_id} {k}")
        lines.append(" ".join(seen))  # blank where an image sees no point
    (model / "images.txt").write_text("\n".join(lines) + "\n")
    (model / "points3D.txt").write_text("\n".join(all_points) + "\n")
    return root


def quaternion_wxyz(R):
    from scipy.spatial.transform import Rotation

    x, y, z, w = Rotation.from_matrix(R).as_quat()
    return np.array([w, x, y, z])


def transforms(room, folder, unit=1.0, **more):
    """`transforms.json`: camera-to-world, OpenGL axes, unsorted, paths without suffix, w and h as floats."""
    root, (h, w), K = Path(folder), room.size_hw, room.K
    write_images(room, root / "images")
    frames = []
    for i in np.random.default_rng(1).permutation(len(room)):
        pose = room.poses[i] @ OPENGL
        pose[:3, 3] /= unit
        frames.append({"file_path": f"./images/{room.names[i]}", "transform_matrix": pose.tolist()})
    about = {
        "w": float(w), "h": float(h), "fl_x": K[0, 0], "fl_y": K[1, 1], "cx": K[0, 2] + 0.5, "cy": K[1, 2] + 0.5,
        "frames": frames,
    }  # fmt: skip
    (root / "transforms.json").write_text(json.dumps(about | more))
    return root


def pose_list(room, folder, of=lambda pose: pose, depth=True, K=True):
    """`poses.txt`, `K.txt`, images and depth; ``of`` changes the convention of a pose."""
    root = Path(folder)
    write_images(room, root / "images")
    if depth:
        write_depth(room, root / "depth")
    lines = [" ".join(repr(float(v)) for v in of(pose).ravel()) for pose in room.poses]
    (root / "poses.txt").write_text("\n".join(lines) + "\n")
    if K:
        np.savetxt(root / "K.txt", room.K)
    return root
