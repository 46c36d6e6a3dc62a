"""Poses from structure from motion against the known poses of a sequence of 7-Scenes (E37).

    python -m benchmarks.poses path/to/7scenes/redkitchen/seq-01 --out poses/

Writes the colour frames as a video, finds poses without the known ones, aligns the camera centres by a similarity, and
prints their distances. Two measures need no known pose: the scale of each frame by the sensor's depth at the sparse
points, and the reprojection error of the same matches, triangulated with the found and with the known poses.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import numpy as np

from d3d.datasets.capture.lenses import pycolmap
from d3d.datasets.scene import Scene
from d3d.datasets.sevenscenes.dataset import SevenScenesSequence
from d3d.datasets.videos import Frame, video_writer
from d3d.progress import track
from d3d.room.motion import find_poses


def aligned_errors(found: np.ndarray, known: np.ndarray) -> tuple[np.ndarray, float]:
    """Distances (n,) of points (n, 3) from known points after the best similarity (Umeyama 1991), and its scale."""
    a, b = found - found.mean(axis=0), known - known.mean(axis=0)
    U, S, Vt = np.linalg.svd(b.T @ a)
    signs = np.array([1, 1, np.linalg.det(U @ Vt)])
    scale = (S * signs).sum() / (a**2).sum()
    return np.linalg.norm(scale * a @ (U * signs @ Vt).T - b, axis=1), scale


def write_video(scene: Scene, path: Path) -> None:
    """Write the frames of a scene as H.264, 30 frames a second."""
    with video_writer(path) as add:
        for i in track(range(len(scene)), "Write the video", unit="frame"):
            add(Frame(scene.image(i), i / 30))


def compare(scene: Scene, folder: Path) -> None:
    """Print the distances of the found camera centres from the known ones, and the scale by the sensor's depth."""
    model = pycolmap().Reconstruction(folder / "sparse" / "0")
    images = sorted((i for i in model.images.values() if i.has_pose), key=lambda i: i.name)
    numbers = [int(Path(i.name).stem.split("_")[-1]) for i in images]
    centres = np.array([i.projection_center() for i in images])
    known = scene.world_T_cams[numbers, :3, 3]
    errors, _ = aligned_errors(centres, known)
    print("distance from known centres, metres: " + _spread(errors))
    for length in (30, 60):
        starts = range(0, len(images) - length + 1, length)
        parts = [aligned_errors(centres[k : k + length], known[k : k + length])[0] for k in starts]
        print(f"the same, {length} neighbouring frames aligned at a time: " + _spread(np.concatenate(parts)))
    scales = []
    for number, image in zip(numbers[::6], images[::6], strict=True):
        depth, pose = scene.depth(number), image.cam_from_world().matrix()
        ratios = []
        for point in image.points2D:
            if point.has_point3D():
                z = pose[2, :3] @ model.points3D[point.point3D_id].xyz + pose[2, 3]
                x, y = np.clip((point.xy - 0.5).round().astype(int), 0, np.array(depth.shape)[::-1] - 1)
                if 0.5 < depth[y, x] < 3:  # where a Kinect is precise
                    ratios.append(depth[y, x] / z)
        if len(ratios) > 20:
            scales.append(np.median(ratios))
    ratio = np.array(scales) / np.median(scales)
    print(
        f"scale by the sensor's depth, {len(scales)} frames: standard deviation {ratio.std():.2%}, ", end=""
    )
    print(f"{ratio.min():.3f} to {ratio.max():.3f}")
    given = {image.name: scene.world_T_cams[number] for number, image in zip(numbers, images, strict=True)}
    errors = reprojection_error(folder), reprojection_error(folder, given)
    print("reprojection error, pixels: found poses {:.2f}, known poses {:.2f}".format(*errors))


def reprojection_error(folder: Path, world_T_cams: dict[str, np.ndarray] | None = None) -> float:
    """Mean reprojection error in pixels of all matches, triangulated with fixed poses; no error above 20 px counts.

    Args:
        world_T_cams: name of an image -> pose (4, 4); None for the found poses.
    """
    colmap = pycolmap()
    model = colmap.Reconstruction(folder / "sparse" / "0")
    model.delete_all_points2D_and_points3D()
    for image in list(model.images.values()):
        if world_T_cams is not None and image.has_pose:
            cam_T_world = colmap.Rigid3d(np.linalg.inv(world_T_cams[image.name])[:3])
            model.frame(image.frame_id).set_cam_from_world(image.camera_id, cam_T_world)
    options = colmap.IncrementalPipelineOptions()
    options.triangulation.merge_max_reproj_error = options.triangulation.complete_max_reproj_error = 20
    options.triangulation.create_max_angle_error = 4
    options.mapper.filter_max_reproj_error = 20
    with tempfile.TemporaryDirectory() as out:
        model = colmap.triangulate_points(
            model, folder / "database.db", folder / "images", out, options=options
        )
    return model.compute_mean_reprojection_error()


def _spread(errors: np.ndarray) -> str:
    return f"median {np.median(errors):.4f}, 90 % {np.percentile(errors, 90):.4f}, largest {errors.max():.4f}"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("sequence", type=Path, help="folder with frame-NNNNNN.color.*, .depth.png, .pose.txt")
    parser.add_argument("--out", type=Path, required=True, help="folder of the video and the poses")
    parser.add_argument("--frames", type=int, default=300, help="largest number of frames")
    given = parser.parse_args()
    scene = SevenScenesSequence(given.sequence, given.sequence.name)
    given.out.mkdir(parents=True, exist_ok=True)
    video = given.out / "video.mp4"
    if not video.is_file():
        write_video(scene, video)
    compare(scene, find_poses(video, given.out / "poses", given.frames))


if __name__ == "__main__":
    main()
