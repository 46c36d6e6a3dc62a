"""Measure time and memory of the fusion of many views: the mean by Open3D and by d3d.tsdf, and a quantile.

    python benchmarks/quantile_fusion.py                 # one room
    python benchmarks/quantile_fusion.py --rooms 16      # a house of 4 x 4 rooms, about 20 x 20 m

The rooms are GlossyRooms' training rooms with true depth, side by side. If there are not enough rooms, rooms are
repeated. Each fusion runs in its own process, and the peak memory of this process is printed.
"""

from __future__ import annotations

import argparse
import multiprocessing
import resource
import time

import numpy as np

METHODS = {"mean, Open3D": None, "mean, d3d.tsdf": "mean", "quantile 0.35": 0.35, "quantile 0.5": 0.5}


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


def measure(method: str, rooms: int, every: int, device: str, results) -> None:
    import torch

    from d3d import tsdf
    from d3d.reconstruction import reconstruct

    depths, Ks, poses = house(rooms, every, (96, 128))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start, quantile = time.perf_counter(), METHODS[method]
    if quantile is None:
        triangles = len(reconstruct(depths, Ks, poses, every=1).triangles)
    else:
        q = None if quantile == "mean" else quantile
        _, triangles, _ = tsdf.fuse_views(depths, Ks, poses, 0.05, 1.0, quantile=q, device=device)
        triangles = len(triangles)
    seconds = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    results.put((len(depths), triangles, seconds, (peak - before) / 1024, torch.get_num_threads()))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--rooms", type=int, default=1)
    parser.add_argument("--every", type=int, default=3, help="every Nth frame of a room")
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    context = multiprocessing.get_context("spawn")
    for method in METHODS:
        results = context.Queue()
        arguments = (method, options.rooms, options.every, options.device, results)
        process = context.Process(target=measure, args=arguments)
        process.start()
        views, triangles, seconds, mb, threads = results.get()
        process.join()
        print(
            f"{method:15} {views} views, {triangles} triangles: {seconds:.1f} s, {mb:.0f} MB more memory, "
            f"{threads} threads",
            flush=True,
        )


if __name__ == "__main__":
    main()
