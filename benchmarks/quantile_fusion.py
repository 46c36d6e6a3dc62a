"""Measure time and memory of the fusion of many views: the mean by Open3D and by d3d.tsdf, and a quantile.

    python benchmarks/quantile_fusion.py                 # one room
    python benchmarks/quantile_fusion.py --rooms 16      # a house of 4 x 4 rooms, about 20 x 20 m
    python benchmarks/quantile_fusion.py --size 384x288 --every 1 --device cuda

d3d.tsdf computes on the device. Open3D's methods are left out if open3d is not installed. Its tensor grid needs a build
with CUDA for a GPU. d3d does not use the grid (D97).

The rooms are GlossyRooms' training rooms with true depth, side by side. If there are not enough rooms, rooms are
repeated. Each fusion runs in its own process, and the peak memory of this process is printed.
"""

from __future__ import annotations

import argparse
import importlib.util
import multiprocessing
import resource
import time

import numpy as np

METHODS = {
    "mean, Open3D": "open3d",
    "mean, Open3D's tensor grid": "grid",
    "mean, d3d.tsdf": None,
    "quantile 0.35": 0.35,
    "quantile 0.5": 0.5,
}


def house(rooms: int, every: int, size_hw: tuple[int, int]):
    """Return depth maps, intrinsics and poses of rooms on a square grid, 5.5 m apart."""
    from d3d.datasets import open_dataset
    from d3d.geometry import nearest_depth

    found = [s for s in open_dataset("glossyrooms").scenes("train") if s.has_depth]
    side = int(np.ceil(np.sqrt(rooms)))
    depths, Ks, poses = [], [], []
    for k in range(rooms):
        scene = found[k % len(found)]
        for i in scene.every(every):
            depths.append(nearest_depth(scene.depth(i), size_hw))
            Ks.append(scene.K(i, size_hw))
            pose = scene.world_T_cams[i].copy()
            up = np.argmax(np.abs(scene.world_T_cams[:, :3, 1].mean(axis=0)))  # a camera's y axis points down
            across = [axis for axis in range(3) if axis != up]
            pose[across, 3] += 5.5 * np.array(divmod(k, side))
            poses.append(pose)
    return np.stack(depths).astype(np.float32), np.stack(Ks), np.stack(poses)


def grid(depths, Ks, poses, voxel_m: float, trunc_m: float, device: str, side: int = 16) -> int:
    """Fuse with Open3D's tensor grid (`VoxelBlockGrid`); return the number of triangles."""
    import open3d as o3d
    from open3d.core import Device, Tensor, float32

    device = Device("CUDA:0" if device == "cuda" else "CPU:0")
    names, kinds = ["tsdf", "weight"], [float32] * 2
    volume = o3d.t.geometry.VoxelBlockGrid(names, kinds, [1, 1], voxel_m, side, 10000, device)
    for depth, K, pose in zip(depths, Ks, poses, strict=True):
        image = o3d.t.geometry.Image(Tensor(depth[..., None], device=device))
        camera = Tensor(K), Tensor(np.linalg.inv(pose)), 1.0, 10.0, trunc_m / voxel_m
        volume.integrate(volume.compute_unique_block_coordinates(image, *camera), image, *camera)
    return len(volume.extract_triangle_mesh(0.0).triangle.indices)


def missing(method: str, device: str) -> str:
    """Return why a method cannot run here; "" if it can."""
    if "Open3D" not in method:
        return "" if importlib.util.find_spec("skimage") else "scikit-image is not installed"
    if importlib.util.find_spec("open3d") is None:
        return "open3d is not installed"
    import open3d

    no_cuda = "grid" in method and device == "cuda" and not open3d.core.cuda.is_available()
    return "this open3d has no CUDA" if no_cuda else ""


def measure(method: str, rooms: int, every: int, size_hw: tuple[int, int], device: str, results) -> None:
    import torch

    from d3d import tsdf
    from d3d.reconstruction import reconstruct

    depths, Ks, poses = house(rooms, every, size_hw)
    if device == "cuda":  # the start of CUDA does not count
        torch.zeros(1, device=device)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for _ in range(2 if device == "cuda" else 1):  # the first time, CUDA loads its kernels
        start, how = time.perf_counter(), METHODS[method]
        if how == "open3d":
            triangles = len(reconstruct(depths, Ks, poses, every=1).triangles)
        elif how == "grid":
            triangles = grid(depths, Ks, poses, 0.05, 1.0, device)
        else:
            triangles = len(tsdf.fuse_views(depths, Ks, poses, 0.05, 1.0, quantile=how, device=device)[1])
        seconds = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    results.put((len(depths), triangles, seconds, (peak - before) / 1024, torch.get_num_threads()))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--rooms", type=int, default=1)
    parser.add_argument("--every", type=int, default=3, help="every Nth frame of a room")
    parser.add_argument("--size", default="128x96", help="width x height of the depth maps")
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    options = parser.parse_args()
    width, height = map(int, options.size.split("x"))
    context = multiprocessing.get_context("spawn")
    for method in METHODS:
        if why := missing(method, options.device):
            print(f"{method:26} left out: {why}", flush=True)
            continue
        results = context.Queue()
        arguments = (method, options.rooms, options.every, (height, width), options.device, results)
        process = context.Process(target=measure, args=arguments)
        process.start()
        views, triangles, seconds, mb, threads = results.get()
        process.join()
        print(
            f"{method:26} {views} views, {triangles} triangles: {seconds:.2f} s, "
            f"{1e3 * seconds / views:.1f} ms a view, {mb:.0f} MB more memory, {threads} threads",
            flush=True,
        )


if __name__ == "__main__":
    main()
