"""Write a rendered room, whose poses and depth are exact, as a capture in each format."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from PIL import Image

from d3d.datasets import open_dataset

OPENGL = np.diag([1.0, -1, -1, 1])


class Room:
    """Some frames of a room of GlossyRooms, with their true poses, intrinsics and depth."""

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
    """Write images as lossless files. Return the paths."""
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
    """Return points (n, 3) on the surfaces that frame i sees, in the world, and their pixels (n, 2)."""
    depth, (h, w) = room.depth(i), room.size_hw
    y, x = np.mgrid[0:h:every, 0:w:every].reshape(2, -1)
    z = depth[y, x]
    rays = np.linalg.inv(room.K) @ np.stack((x, y, np.ones_like(x)))
    points = room.poses[i] @ np.vstack((rays * z, np.ones_like(z)))
    return points[:3].T[z > 0], np.stack((x, y), 1)[z > 0]


def colmap_text(
    room, folder, unit=1.0, camera="PINHOLE", images="images", names=None, suffix=".png", points=True
):
    """Write a COLMAP text model: world-to-camera, centre of the first pixel at 0.5, images in random order."""
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


def colmap_binary(room, folder, **options):
    """Write the model as binary files with pycolmap, including the rigs and frames of COLMAP 3.12."""
    import pycolmap

    root = colmap_text(room, folder, **options)
    model = root / "sparse" / "0"
    pycolmap.Reconstruction(model).write(model)
    for path in model.glob("*.txt"):
        path.unlink()
    assert (model / "rigs.bin").is_file()
    return root


def tum(room, folder, per_metre=5000.0, intrinsics=True):
    """TUM RGB-D: poses at another rate than images; depth a few milliseconds later; one image without a pose."""
    root = Path(folder)
    times = 1305031102.1753 + np.arange(len(room)) / 30
    names = [f"{time:.6f}" for time in times]
    write_images(room, root / "rgb", names)
    write_depth(room, root / "depth", per_metre, names=names)
    rgb = [
        "# color images",
        "# timestamp filename",
        *(f"{t:.6f} rgb/{n}.png" for t, n in zip(times, names, strict=True)),
    ]
    depth = ["# depth maps", *(f"{t + 0.008:.6f} depth/{n}.png" for t, n in zip(times, names, strict=True))]
    poses = ["# timestamp tx ty tz qx qy qz qw"]
    for i, time in enumerate(times):
        if i != 4:
            w, x, y, z = quaternion_wxyz(room.poses[i][:3, :3])
            values = " ".join(repr(float(v)) for v in (*room.poses[i][:3, 3], x, y, z, w))
            poses.append(f"{time - 0.003:.6f} {values}")
    for name, lines in (("rgb", rgb), ("depth", depth), ("groundtruth", poses)):
        (root / f"{name}.txt").write_text("\n".join(lines) + "\n")
    if intrinsics:
        np.savetxt(root / "K.txt", room.K)
    return root


def record3d_metadata(room, depth_hw):
    (h, w), poses = room.size_hw, []
    for pose in room.poses:
        arkit = pose @ OPENGL
        qw, qx, qy, qz = quaternion_wxyz(arkit[:3, :3])
        poses.append([float(v) for v in (qx, qy, qz, qw, *arkit[:3, 3])])
    K = [float(v) for v in room.K.T.ravel()]
    return json.dumps(
        {"w": w, "h": h, "dw": depth_hw[1], "dh": depth_hw[0], "fps": 30, "K": K, "poses": poses}
    )


def small_depth(room, i, depth_hw):
    """Return every second pixel of the depth map."""
    step = room.size_hw[0] // depth_hw[0]
    return np.ascontiguousarray(room.depth(i)[step // 2 :: step, step // 2 :: step])


def record3d_exr(room, folder, missing=(3,)):
    """`EXR_RGBD/`: depth of half the size as EXR of half precision; some image numbers are missing."""
    import OpenEXR

    root, depth_hw = Path(folder), tuple(n // 2 for n in room.size_hw)
    kept = [i for i in range(len(room)) if i not in missing]
    for name in ("rgb", "depth"):
        (root / "EXR_RGBD" / name).mkdir(parents=True)
    (root / "metadata").write_text(record3d_metadata(room, depth_hw))
    for i in kept:
        Image.fromarray(room.image(i)).save(root / "EXR_RGBD" / "rgb" / f"{i}.png")
        channels = {"R": small_depth(room, i, depth_hw).astype(np.float16)}
        header = {"compression": OpenEXR.ZIP_COMPRESSION, "type": OpenEXR.scanlineimage}
        OpenEXR.File(header, channels).write(str(root / "EXR_RGBD" / "depth" / f"{i}.exr"))
    return root


def record3d_file(room, path):
    """A `.r3d` file: a zip of metadata, JPEG images and LZFSE depth."""
    import io
    import zipfile

    import lzfse

    depth_hw = tuple(n // 2 for n in room.size_hw)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("metadata", record3d_metadata(room, depth_hw))
        for i in range(len(room)):
            buffer = io.BytesIO()
            Image.fromarray(room.image(i)).save(buffer, "JPEG", quality=95)
            archive.writestr(f"rgbd/{i}.jpg", buffer.getvalue())
            archive.writestr(f"rgbd/{i}.depth", lzfse.compress(small_depth(room, i, depth_hw).tobytes()))
    return Path(path)


def open3d_log(room, folder):
    root = Path(folder)
    write_images(room, root / "color")
    write_depth(room, root / "depth")
    blocks = []
    for i, pose in enumerate(room.poses):
        matrix = "\n".join(" ".join(repr(float(v)) for v in row) for row in pose)
        blocks.append(f"{i} {i} {i + 1}\n{matrix}")
    (root / "trajectory.log").write_text("\n".join(blocks) + "\n")
    (h, w), K = room.size_hw, [float(v) for v in room.K.T.ravel()]
    (root / "camera_intrinsic.json").write_text(json.dumps({"width": w, "height": h, "intrinsic_matrix": K}))
    return root


def nice_slam(room, folder, per_metre=6553.5):
    """`traj.txt`, images and depth together in `results/`, `cam_params.json` one folder above."""
    root = Path(folder) / "room0"
    write_images(room, root / "results", [f"frame{i:06d}" for i in range(len(room))])
    write_depth(room, root / "results", per_metre, names=[f"depth{i:06d}" for i in range(len(room))])
    lines = [" ".join(repr(float(v)) for v in pose.ravel()) for pose in room.poses]
    (root / "traj.txt").write_text("\n".join(lines) + "\n")
    (h, w), K = room.size_hw, room.K
    camera = {"w": w, "h": h, "fx": K[0, 0], "fy": K[1, 1], "cx": K[0, 2], "cy": K[1, 2], "scale": per_metre}
    (root.parent / "cam_params.json").write_text(json.dumps({"camera": camera}))
    return root


def scannet_like(room, folder, images="my photos", poses="extrinsics"):
    """Write one pose file for each frame, with unusual names. One pose is lost, and one depth map is missing."""
    root = Path(folder)
    write_images(room, root / images, [f"IMG_{i:04d}" for i in range(len(room))], ".PNG")
    write_depth(room, root / "depth", names=[str(i) for i in range(len(room))])
    (root / "depth" / "6.png").unlink()
    (root / poses).mkdir()
    for i, pose in enumerate(room.poses):
        np.savetxt(root / poses / f"frame_{i:06d}.txt", np.full((4, 4), -np.inf) if i == 5 else pose)
    (root / "intrinsic").mkdir()
    K = np.eye(4)
    K[:3, :3] = room.K
    np.savetxt(root / "intrinsic" / "intrinsic_color.txt", K)
    return root
