"""Measure the speed of projected depth (section 3.2.2), from a scene's stored depth to its stored mesh and projection.

    python benchmarks/projection.py [--repeats 5] [--renderer pyrender] [--scenes 5,50] [--json FILE]

The scene is a room of GlossyRooms at 384x288. Its true depth is fused finely, rendered from every frame and stored like
predicted depth. The benchmark times `stages.depth.project_scene`, which `python -m d3d project` runs once for each
scene. It uses all cores that this process may use (OMP_NUM_THREADS, taskset). The ways to fuse take turns, so a busy
machine slows all of them equally: quote the last column.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from d3d import io, reconstruction
from d3d.datasets import Scene, Triples, open_dataset
from d3d.parallel import tasks
from d3d.pipeline import runs
from d3d.pipeline.config import Config, make_config
from d3d.pipeline.scenes import TrainingScene
from d3d.pipeline.stages import depth
from d3d.prediction import DepthStore
from d3d.reconstruction import FUSION_BACKENDS

SIZE_HW = (288, 384)
WANTED = 60  # target frames a second


def room(store: DepthStore, size_hw: tuple[int, int] = SIZE_HW) -> Scene:
    """Open a room that ships, and write the depth of all its frames to ``store``."""
    scene = open_dataset("glossyrooms").scenes("train")[0]
    every = range(len(scene))
    truth = np.stack([scene.depth(i) for i in every])
    mesh = reconstruction.reconstruct(
        truth, np.stack([scene.K(i) for i in every]), scene.world_T_cams, 0.02, 0.1, every=1
    )
    seen = reconstruction.render_depth(
        mesh, np.stack([scene.K(i, size_hw) for i in every]), scene.world_T_cams, size_hw
    )
    store.write_scene(scene.name, zip(scene.frame_ids, seen, strict=True))
    return scene


def training_scene(scene: Scene, targets: Sequence[int]) -> TrainingScene:
    """Make a training scene with these targets. A projection ignores the sources, so each target is its own source."""
    return TrainingScene(scene, Triples(np.repeat(np.asarray(targets)[:, None], 3, axis=1), len(targets), {}))


def scene_seconds(
    config: Config, scene: Scene, targets: list[int], predicted: DepthStore
) -> tuple[float, float]:
    """Time a projection of a scene: seconds, and seconds of processor time of all threads."""
    training = training_scene(scene, targets)
    with tempfile.TemporaryDirectory(prefix="d3d-projection-") as folder:
        start, cpu = time.perf_counter(), time.process_time()
        depth.project_scene(config, training, predicted, None, DepthStore(Path(folder)))
        return time.perf_counter() - start, time.process_time() - cpu


@contextmanager
def _timed(spent: dict[str, float], part: str) -> Iterator[None]:
    start = time.perf_counter()
    yield
    spent[part] = spent.get(part, 0.0) + time.perf_counter() - start


def parts(config: Config, scene: Scene, targets: list[int], predicted: DepthStore) -> dict[str, float]:
    """Time each part of a projection, one after the other, in milliseconds for each frame of that part."""
    spent: dict[str, float] = {}
    size_hw, used = config.data.size_hw, scene.every(config.fusion.integrate_every)
    poses = scene.world_T_cams
    Ks = np.stack([scene.K(i, size_hw) for i in range(len(scene))])
    with _timed(spent, "read depth"):
        depths = np.stack([predicted.read_of(scene, i) for i in used])
    with _timed(spent, "read image"):
        images = np.stack([scene.image(i, size_hw) for i in used])
    for backend in reconstruction.FUSION_BACKENDS:
        with _timed(spent, f"fuse, {backend}"):
            mesh = reconstruction.reconstruct(
                depths, Ks[used], poses[used], every=1, images=images, backend=backend
            )
    with _timed(spent, "render"):
        projected = reconstruction.render_depth(
            mesh, Ks[targets], poses[targets], size_hw, config.fusion.renderer
        )
    with tempfile.TemporaryDirectory(prefix="d3d-projection-") as folder, _timed(spent, "write depth"):
        DepthStore(Path(folder)).write_scene("x", zip(map(str, targets), projected, strict=True))
    with _timed(spent, "pack mesh"):
        mesh.to_npz()
    frames = {"render": len(targets), "write depth": len(targets), "pack mesh": 1}
    return {part: 1e3 * s / frames.get(part, len(used)) for part, s in spent.items()}


def memory(scene: Scene, predicted: DepthStore, numbers: list[int], folder: Path) -> list[dict[str, Any]]:
    """Measure the memory of this process, and the peak memory of two workers, after growing numbers of scenes."""
    size_hw = SIZE_HW
    rows = []
    for number in sorted(numbers):
        made_up = [scene.subset(range(12), f"{number}-{k}") for k in range(number)]
        depths, projected = DepthStore(folder / f"depth{number}"), DepthStore(folder / f"projected{number}")
        for s in made_up:
            depths.write_scene(s.name, ((f, predicted.read(scene.name, f)) for f in s.frame_ids))
        config = make_config(profile="paper", height=size_hw[0], width=size_hw[1])
        start = time.perf_counter()
        tasks.run_tasks(
            depth.project_scene,
            {s.name: (config, training_scene(s, range(12)), depths, None, projected) for s in made_up},
            what=f"{number} scenes",
            workers=2,
        )
        client = tasks.local_client(2)
        rows.append(
            {
                "scenes": number,
                "seconds": round(time.perf_counter() - start, 1),
                "this process, MB": _memory_mb("VmRSS"),
                "workers, MB": sorted(client.run(_memory_mb, "VmHWM").values()),
            }
        )
        shutil.rmtree(folder / f"depth{number}")
    tasks.close()
    return rows


def _memory_mb(line: str) -> int:
    # not getrusage: a process starts with the peak of its parent
    status = Path("/proc/self/status").read_text()
    return round(int(status.split(f"{line}:")[1].split()[0]) / 2**10)


SHAPES = {  # every Nth frame a target, every Nth frame integrated
    "every frame a target, every 10th integrated": (1, 10),
    "ScanNet's shape: a target for four that are integrated": (4, 1),
}
WAYS = {f"{backend}, passes {n}": (backend, n) for n in (1, 2) for backend in FUSION_BACKENDS}


def measure(
    repeats: int, renderer: str, size_hw: tuple[int, int] = SIZE_HW, say: Callable[..., None] = print
) -> dict[str, Any]:
    """Measure all times. ``say`` receives the lines of the tables. The ways to fuse take turns."""
    with tempfile.TemporaryDirectory(prefix="d3d-projection-") as folder:
        predicted = DepthStore(Path(folder))
        scene = room(predicted, size_hw)
        every = list(range(len(scene)))
        rows = []
        anchor = next(iter(WAYS))
        head = f"| scene | fusion | s (least to most) | processor s | target frames a second | speed / {anchor} |"
        say(f"{head}\n" + "| --- " * 6 + "|")
        for what, (each, step) in SHAPES.items():
            common = {"profile": "paper", "height": size_hw[0], "width": size_hw[1], "renderer": renderer}
            configs = {
                way: make_config(**common, integrate_every=step, fusion_backend=backend, fusion_passes=n)
                for way, (backend, n) in WAYS.items()
            }
            turns = [
                {way: scene_seconds(c, scene, every[::each], predicted) for way, c in configs.items()}
                for _ in range(repeats + 1)
            ][1:]
            for way in WAYS:
                seconds, cpu = zip(*(turn[way] for turn in turns), strict=True)
                row = {
                    "scene": what,
                    "fusion": way,
                    "integrated": len(scene.every(step)),
                    "targets": len(every[::each]),
                    "seconds": seconds,
                    "processor_seconds": cpu,
                    "frames_per_s": len(every[::each]) / statistics.median(seconds),
                    "times_anchor": statistics.median(t[anchor][0] / t[way][0] for t in turns),
                }
                rows.append(row)
                say(
                    f"| {what} | {way} | {statistics.median(seconds):.2f} ({min(seconds):.2f} to {max(seconds):.2f}) "
                    f"| {statistics.median(cpu):.2f} | {row['frames_per_s']:.0f} | {row['times_anchor']:.2f} |"
                )
        milliseconds = parts(configs[anchor], scene, every, predicted)
        say("\n| part, one after the other | ms a frame |\n| --- | --- |")
        for part, ms in milliseconds.items():
            say(f"| {part} | {ms:.1f} |")
    return {"rows": rows, "parts_ms": milliseconds, "wanted_per_s": WANTED, "cores": tasks.own_cores()}


def main() -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--renderer", default="open3d", choices=reconstruction.BACKENDS)
    parser.add_argument(
        "--scenes", help="measure the memory for these numbers of scenes, separated by commas"
    )
    parser.add_argument("--json", type=Path)
    a = parser.parse_args()
    result = measure(a.repeats, a.renderer)
    if a.scenes:
        with tempfile.TemporaryDirectory(prefix="d3d-projection-") as folder:
            predicted = DepthStore(Path(folder) / "room")
            scene = room(predicted)
            result["memory"] = memory(scene, predicted, [int(n) for n in a.scenes.split(",")], Path(folder))
        print("\n| scenes | s | this process, MB | its two workers, MB at most |\n| --- | --- | --- | --- |")
        for row in result["memory"]:
            workers = " and ".join(map(str, row["workers, MB"]))
            print(f"| {row['scenes']} | {row['seconds']} | {row['this process, MB']} | {workers} |")
    if a.json:
        io.write_json(a.json, {**runs.provenance(make_config(profile="paper")), **result})
    return 0


if __name__ == "__main__":
    sys.exit(main())
