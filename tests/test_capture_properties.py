"""Every reader of captures: any file content is either read, or refused with an error of d3d."""

import contextlib
import shutil
import tempfile
import warnings
from pathlib import Path

import pytest
from capture_writer import (
    Room,
    colmap_binary,
    colmap_text,
    nice_slam,
    open3d_log,
    pose_list,
    record3d_exr,
    record3d_file,
    scannet_like,
    transforms,
    tum,
)
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_reader_properties import mutated, within_bounds

from d3d.datasets import open_dataset
from d3d.datasets.capture.formats import colmap
from d3d.errors import D3DError

pytest.importorskip("pycolmap")

# name -> (writer, the file that is changed)
FILES = {
    "transforms": (transforms, "transforms.json"),
    "pose list": (pose_list, "poses.txt"),
    "intrinsics": (pose_list, "K.txt"),
    "depth png": (pose_list, "depth/0000.png"),
    "nice-slam": (nice_slam, "traj.txt"),
    "camera of nice-slam": (nice_slam, "../cam_params.json"),
    "trajectory": (open3d_log, "trajectory.log"),
    "camera of open3d": (open3d_log, "camera_intrinsic.json"),
    "folders": (scannet_like, "extrinsics/frame_000000.txt"),
    "tum images": (tum, "rgb.txt"),
    "tum poses": (tum, "groundtruth.txt"),
    "record3d": (record3d_exr, "metadata"),
    "depth exr": (record3d_exr, "EXR_RGBD/depth/0.exr"),
    "r3d": (lambda room, folder: record3d_file(room, folder / "a.r3d"), ""),
    "depth lzfse": (None, "rgbd/0.depth"),
}
# a process of its own for each example
COLMAP = {
    "colmap cameras": (colmap_text, "sparse/0/cameras.txt"),
    "colmap images": (colmap_text, "sparse/0/images.txt"),
    "colmap binary images": (colmap_binary, "sparse/0/images.bin"),
    "colmap binary points": (colmap_binary, "sparse/0/points3D.bin"),
    "colmap frames": (colmap_binary, "sparse/0/frames.bin"),
}


@pytest.fixture(scope="module")
def room():
    return Room(12)


def read(root):
    scene = open_dataset("capture", root, metres_per_unit=1.0).scenes("all")[0]
    scene.image(0)
    scene.depth(0)
    assert scene.K(0).shape == (3, 3)


def written(name, room, folder):
    """Write a capture. Return its folder and the file to change."""
    writer, file = (FILES | COLMAP)[name]
    folder.mkdir()
    if writer is None:  # the folder of an unpacked .r3d
        root = folder / "unpacked"
        shutil.unpack_archive(record3d_file(room, folder / "a.r3d"), root, "zip")
    else:
        root = writer(room, folder)
    return root, root / file if file else root


def check(name, room, folder, data):
    folder = Path(tempfile.mkdtemp(dir=folder))
    root, path = written(name, room, folder / "capture")
    valid = path.read_bytes()
    read(root)  # else errors alone might be seen
    path.write_bytes(data.draw(st.one_of(st.binary(max_size=200), mutated(valid), mutated(valid))))
    with warnings.catch_warnings(action="ignore"), within_bounds(), contextlib.suppress(D3DError):
        read(root)
    shutil.rmtree(folder)


@pytest.mark.parametrize("name", FILES)
@settings(max_examples=12, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_whatever_is_in_a_file_it_is_read_or_told_of(name, room, tmp_path, data):
    check(name, room, tmp_path, data)


@pytest.mark.parametrize("name", COLMAP)
@settings(max_examples=4, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_pycolmap_never_ends_our_process(name, room, tmp_path, data):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(colmap, "_LONGEST_S", 8)
        check(name, room, tmp_path, data)
