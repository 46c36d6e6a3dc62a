"""Valid files of every kind that d3d reads, each with its reader, and their mutations (`test_reader_properties`).

A new reader needs an entry in `READERS`. The names begin with the data set, or with the kind of files.
"""

from __future__ import annotations

import functools
import io
import json
import shutil
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import capture_writer
import numpy as np
import sens_writer
import torch
from hypothesis import strategies as st
from PIL import Image
from test_glossyrooms import accept, make_set, open_all, rewrite

from d3d import tables
from d3d.datasets import archives, images, lists, open_dataset, photos, videos
from d3d.datasets.capture.depth import read_depth as read_capture_depth
from d3d.datasets.records import read_matrix
from d3d.datasets.scannet.dataset import pose_fault, registration_px
from d3d.datasets.scannet.prepared import INDEX, MANIFEST, scene_folder
from d3d.datasets.scannet.sens import SensFile
from d3d.datasets.sevenscenes import dataset as sevenscenes
from d3d.datasets.sevenscenes import files as sevenscenes_files
from d3d.depth_files import read_array
from d3d.geometry import check_pose
from d3d.io import read_json
from d3d.lists import review
from d3d.models import load_weights, save_weights
from d3d.models.hf_depth import describe_folder
from d3d.models.tensors import read_tensors
from d3d.pipeline import readable as frames
from d3d.pipeline.prepare import prepare_scannet
from d3d.prediction import DepthStore, read_depth, write_depth
from d3d.reconstruction import Mesh
from d3d.training import _resume

HW = (24, 32)
RNG = np.random.default_rng(0)
COLOR = RNG.integers(0, 255, (*HW, 3), dtype=np.uint8)
DEPTH = RNG.integers(1, 5000, HW, dtype=np.uint16)


class Case(NamedTuple):
    """A valid file in a folder of its own.

    Attributes:
        folder: the folder; a reader writes nowhere else.
        valid: content of the file.
        put: replaces the content.
        read: reads the file.
        path: the file if ``read_path`` reads any path.
    """

    folder: Path
    valid: bytes
    put: Callable[[bytes], Any]
    read: Callable[[], Any]
    path: Path | None = None
    read_path: Callable[[Path], Any] | None = None


class Reader(NamedTuple):
    """A maker of a `Case` in an empty folder, and the number of mutations to try.

    ``of_path``: it reads a file at any path, else a file in a folder.
    """

    make: Callable[[Path], Case]
    examples: int = 25
    package: str = ""  # of an extra
    of_path: bool = False


def of_file(
    suffix: str, valid: bytes | Callable[[], bytes], read: Callable[[Path], Any], **more: Any
) -> Reader:
    """A file without a folder."""

    def make(folder: Path) -> Case:
        path, content = folder / f"file{suffix}", valid if isinstance(valid, bytes) else valid()
        path.write_bytes(content)
        return Case(folder, content, path.write_bytes, lambda: read(path), path, read)

    return Reader(make, of_path=True, **more)


def in_folder(write: Callable[[Path], Path], file: str, read: Callable[[Path], Any], **more: Any) -> Reader:
    """A file in a folder that a function writes and another reads."""

    def make(folder: Path) -> Case:
        root = write(folder)
        path = root / file if file else root
        return Case(folder, path.read_bytes(), path.write_bytes, lambda: read(root))

    return Reader(make, **more)


def saved(function: Callable[..., Any], *arguments: Any, suffix: str = ".safetensors") -> bytes:
    """Return the bytes that a function writes to a path, its last argument."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"file{suffix}"
        function(*arguments, path)
        return path.read_bytes()


# --- images, depth, videos ----------------------------------------------------------------------------------


def image_bytes(array: np.ndarray, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, kind, **options)
    return buffer.getvalue()


def exif() -> Image.Exif:
    """A quarter turn, and a focal length."""
    result = Image.Exif()
    result[0x0112] = 6
    result.get_ifd(0x8769)[0xA405] = 26
    return result


def of_color(path: Path) -> None:
    image = images.read_color(path, "here")
    assert (image.dtype, image.ndim, image.shape[2]) == (np.uint8, 3, 3)


def of_photo(path: Path) -> None:
    image, focal_px = photos.read_photo(path)
    assert (image.dtype, image.ndim, image.shape[2]) == (np.uint8, 3, 3)
    assert focal_px is None or 0 < focal_px < np.inf


def of_depth(path: Path) -> None:
    assert images.read_depth_png(path, "here").dtype == np.uint16


def of_rendered(path: Path) -> None:
    of_metres(sevenscenes.read_rendered(path, "here"))


def of_metres(depth: np.ndarray) -> None:
    assert depth.dtype == np.float32
    assert np.isfinite(depth).all()
    assert (depth >= 0).all()


def of_capture_depth(path: Path) -> None:
    of_metres(read_capture_depth(path, 1000.0, HW, "here"))


def of_prediction(path: Path) -> None:
    array = read_array(path)
    assert array.ndim == 2
    assert array.size


def numpy_bytes(save: Callable[..., None], array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    save(buffer, array)
    return buffer.getvalue()


def exr(path: Path) -> None:
    import OpenEXR

    header = {"compression": OpenEXR.ZIP_COMPRESSION, "type": OpenEXR.scanlineimage}
    OpenEXR.File(header, {"R": (DEPTH / 1000).astype(np.float16)}).write(str(path))


def lzfse_bytes() -> bytes:
    import lzfse

    return lzfse.compress((DEPTH / 1000).astype(np.float32).tobytes())


def video(container: str, codec: str, path: Path) -> None:
    import av

    with av.open(str(path), "w", format=container) as file:
        stream = file.add_stream(codec, rate=10)
        stream.height, stream.width = HW[0] * 2, HW[1] * 2
        stream.pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
        for i in range(5):
            image = np.roll(np.kron(COLOR, np.ones((2, 2, 1), np.uint8)), i, axis=1)
            file.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        file.mux(stream.encode())


def of_video(path: Path) -> None:
    count = videos.frame_count(path)
    assert count is None or count >= 0
    for image, time_s in videos.read_video(path, longest=64):
        assert image.dtype == np.uint8
        assert max(image.shape) <= 64
        assert np.isfinite(time_s)


# --- numbers, lists, JSON, archives -------------------------------------------------------------------------


def of_matrix(path: Path) -> None:
    pose = read_matrix(path, "here")
    assert pose.shape == (4, 4)
    if pose_fault(pose) == "":
        assert np.isfinite(check_pose(pose, "here")).all()
    registration_px(pose[:3, :3], (968, 1296), pose[:3, :3], (480, 640), pose)


def of_split(path: Path) -> None:
    sevenscenes_files.read_split(path.read_bytes(), "here")


def of_index(path: Path) -> None:
    folder = path.parent / "store" / "room"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "index.json").write_bytes(path.read_bytes())
    store = DepthStore(folder.parent)
    assert all(isinstance(frame, str) for frame in store.frames("room"))
    assert isinstance(store.sha256("room"), str)


def of_json(path: Path) -> None:
    assert "config" in read_json(path, "config")


def of_zip(path: Path) -> None:
    for name in archives.list_zip(path):
        archives.read_member(path, name)
    out = path.parent / "out"
    try:
        archives.unpack_zip(path, out)
    finally:
        assert not any(p.is_symlink() for p in path.parent.rglob("*"))
        shutil.rmtree(out, ignore_errors=True)
        shutil.rmtree(path.parent / ".out.part", ignore_errors=True)


def zip_file() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as z:
        z.writestr("seq-01/frame-000000.pose.txt", b"1 0 0 0 " * 4)
        z.writestr("seq-01/frame-000000.color.png", image_bytes(COLOR, "PNG"))
        z.writestr("TrainSplit.txt", b"sequence1\n")
    return buffer.getvalue()


def of_results(path: Path) -> None:
    folder = path.parent / "results"
    folder.mkdir(exist_ok=True)
    (folder / "index.json").write_bytes(path.read_bytes())
    tables.read(folder)


def results_index() -> bytes:
    entry = {
        "arch": "monodepth2", "labels": "", "seed": 0, "profile": "smoke", "trained_on": "glossyrooms",
        "dataset": "glossyrooms", "split": "val", "scale": "none", "round": 1, "settings": "",
        "sha256": "0" * 64, "provenance": {},
    }  # fmt: skip
    shared = {"a/images.csv.xz": "0" * 64, "lists.csv.xz": "0" * 64}
    return json.dumps({"version": 1, "evaluations": {"a/b.csv.xz": entry}, "shared": shared}).encode()


def of_mesh(path: Path) -> None:
    mesh = Mesh.from_npz(path)
    assert not mesh.triangles.size or mesh.triangles.max() < len(mesh.vertices)


def mesh_file() -> bytes:
    corners = np.array([[0, 0, 1], [1, 0, 1], [0, 1, 1]], float)
    return Mesh(corners, np.array([[0, 1, 2]], np.int32), np.zeros((3, 3), np.uint8)).to_npz()


# --- networks -----------------------------------------------------------------------------------------------


def small_network() -> torch.nn.Module:
    class Network(torch.nn.Module):
        arch, min_depth, max_depth = "monodepth2", 0.1, 10.0

        def __init__(self):
            super().__init__()
            self.conv = torch.nn.Conv2d(2, 3, 1)

    torch.manual_seed(0)
    return Network()


def safetensors_file() -> bytes:
    return saved(save_weights, small_network())


def pth_file(new: bool = True) -> bytes:
    buffer = io.BytesIO()
    tensors = {"encoder.conv1.weight": torch.ones(2, 3), "height": 192, "use_stereo": False}
    torch.save(tensors, buffer, _use_new_zipfile_serialization=new)
    return buffer.getvalue()


def training_state() -> bytes:
    model = small_network()
    optimizer = torch.optim.Adam(model.parameters())
    model.conv(torch.ones(1, 2, 4, 4)).mean().backward()
    optimizer.step()
    buffer = io.BytesIO()
    state = {"step": 1, "history": [{"loss": 1.0}], "model": model.state_dict()}
    torch.save({**state, "optimizer": optimizer.state_dict()}, buffer)
    return buffer.getvalue()


def of_training_state(path: Path) -> None:
    model = small_network()
    step, history = _resume(path, model, torch.optim.Adam(model.parameters()), torch.device("cpu"))
    assert isinstance(step, int)
    assert isinstance(history, list)


def published(folder: Path) -> Path:
    """A folder of a depth network of transformers, whose weights are not read."""
    about = {"model_type": "depth_anything", "architectures": ["DepthAnythingForDepthEstimation"]}
    about |= {"depth_estimation_type": "metric", "max_depth": 20, "neck_hidden_sizes": [8, 8, 8, 8]}
    (folder / "config.json").write_text(json.dumps(about))
    (folder / "preprocessor_config.json").write_text('{"image_processor_type": "DPTImageProcessor"}')
    (folder / "model.safetensors").write_bytes(safetensors_file())
    return folder


# --- data sets ----------------------------------------------------------------------------------------------


@functools.cache
def room() -> capture_writer.Room:
    return capture_writer.Room(12)


def of_capture(root: Path) -> None:
    scene = open_dataset("capture", root, metres_per_unit=1.0).scenes("all")[0]
    scene.image(0)
    if (depth := scene.depth(0)) is not None:
        of_metres(depth)
    assert np.isfinite(scene.K(0)).all()
    assert np.isfinite(scene.world_T_cams).all()


def capture(write: Callable[..., Path], file: str, **more: Any) -> Reader:
    return in_folder(lambda folder: write(room(), folder / "capture"), file, of_capture, **more)


def with_lens(of_room: capture_writer.Room, folder: Path) -> Path:
    """Field of view and distortion instead of a focal length."""
    return capture_writer.transforms(
        of_room, folder, fl_x=None, fl_y=None, camera_angle_x=1.1, k1=0.01, p1=0.001
    )


def r3d(of_room: capture_writer.Room, folder: Path) -> Path:
    folder.mkdir()
    return capture_writer.record3d_file(of_room, folder / "a.r3d")


def of_glossyrooms(file: str) -> Reader:
    """The manifest of a set of rooms, an archive, or the description of a room in its archive."""

    def make(folder: Path) -> Case:
        root = make_set(folder / "set")
        zipped, manifest = root / "val" / "c.zip", root / "manifest.json"
        before = zipped.read_bytes(), manifest.read_bytes()

        def put(content: bytes) -> None:
            zipped.write_bytes(before[0])
            manifest.write_bytes(content if file == "manifest.json" else before[1])
            if file == "scene.json":
                rewrite(zipped, lambda members: members.update({file: content}))
            if file == "c.zip":
                zipped.write_bytes(content)
            if file != "manifest.json":
                accept(root, "c")

        valid = {"c.zip": before[0], "manifest.json": before[1]}.get(file)
        if valid is None:
            with zipfile.ZipFile(zipped) as archive:
                valid = archive.read(file)
        return Case(folder, valid, put, lambda: open_all(root))

    return Reader(make)


def of_prepared(file: str) -> Reader:
    """A file of a prepared ScanNet."""
    name = "scene0704_00"

    def write(folder: Path) -> Path:
        sens_writer.write_small(folder / "data" / f"{name}.sens", sens_writer.walk(32), (96, 128), (18, 24))
        (folder / "data" / "scannetv2_val.txt").write_text(f"{name}\n")
        prepare_scannet(folder / "data", folder / "out", scheduler="none")
        return folder / "out"

    def read(out: Path) -> None:
        for scene in open_dataset("scannet", out).scenes("val"):
            scene.image(0), scene.depth(0), scene.K(0), scene.every(5)

    folder = "" if file == MANIFEST else scene_folder(Path(), "val", name).as_posix() + "/"
    return in_folder(write, folder + file, read)


def of_sens(path: Path) -> None:
    file = SensFile(path)
    file.whole_frames()
    for frame in file:
        frame.image()
        frame.depth_m()
    file.poses()


def sens_file(color: str, depth: str) -> Callable[[], bytes]:
    def write(path: Path) -> None:
        sens_writer.write_small(
            path, sens_writer.walk(3), (12, 16), (6, 8), color_codec=color, depth_codec=depth
        )

    return lambda: saved(write, suffix=".sens")


def listing(text: str) -> bytes:
    return ("# a list\n" + text).encode()


MATRIX = b"1 0 0 0.5\n0 1 0 2e-1\n0 0 1 -3.25\n0 0 0 1\n"
PHOTOS = {
    "JPEG": image_bytes(COLOR, "JPEG", exif=exif()),
    **{kind: image_bytes(COLOR, kind) for kind in photos.FORMATS if kind != "JPEG"},
}
VIDEOS = {
    kind: functools.partial(video, kind, codec)
    for kind, codec in (("mp4", "libx264"), ("matroska", "mpeg4"), ("avi", "mjpeg"))
}
TIFF = image_bytes(DEPTH, "TIFF", compression="tiff_deflate")
W = capture_writer

READERS: dict[str, Reader] = {
    "colour jpeg": of_file(".jpg", image_bytes(COLOR, "JPEG"), of_color),
    "colour png": of_file(".png", image_bytes(COLOR, "PNG"), of_color),
    "depth png": of_file(".png", image_bytes(DEPTH, "PNG"), of_depth),
    "stored depth": of_file(".png", saved(lambda path: write_depth(path, DEPTH / 1000)), read_depth),
    **{f"photo {kind}": of_file(photos.FORMATS[kind][0], valid, of_photo) for kind, valid in PHOTOS.items()},
    **{
        f"video {kind}": of_file(".mp4", functools.partial(saved, write), of_video, package="av")
        for kind, write in VIDEOS.items()
    },
    "prediction .png": of_file(".png", image_bytes(DEPTH, "PNG"), of_prediction),
    "prediction .npy": of_file(".npy", numpy_bytes(np.save, DEPTH / 1000), of_prediction),
    "prediction .npz": of_file(".npz", numpy_bytes(np.savez_compressed, DEPTH / 1000), of_prediction),
    "depth of a capture .png": of_file(".png", image_bytes(DEPTH, "PNG"), of_capture_depth),
    "depth of a capture .tiff": of_file(".tiff", image_bytes(DEPTH, "TIFF"), of_capture_depth),
    "depth of a capture .npy": of_file(".npy", numpy_bytes(np.save, DEPTH), of_capture_depth),
    "depth of a capture .exr": of_file(".exr", lambda: saved(exr, suffix=".exr"), of_capture_depth, package="OpenEXR"),
    "depth of a capture .depth": of_file(".depth", lzfse_bytes, of_capture_depth, package="lzfse"),
    "7scenes: rendered depth": of_file(".tiff", image_bytes(DEPTH.astype(np.float32), "TIFF"), of_rendered),
    "7scenes: packed rendered depth": of_file(".tiff", TIFF, of_rendered),
    "7scenes: split": of_file(".txt", b"sequence1\nsequence12\r\n", of_split),
    "7scenes, scannet: matrix": of_file(".txt", MATRIX, of_matrix, examples=40),
    **{
        f"scannet: sens of {color} and {depth}": of_file(".sens", sens_file(color, depth), of_sens)
        for color, depth in (("raw", "raw"), ("png", "zlib"), ("jpeg", "zlib"))
    },
    "scannet: prepared index": of_prepared(INDEX),
    "scannet: prepared manifest": of_prepared(MANIFEST),
    "glossyrooms: manifest": of_glossyrooms("manifest.json"),
    "glossyrooms: scene": of_glossyrooms("scene.json"),
    "glossyrooms: archive": of_glossyrooms("c.zip"),
    "capture transforms: poses": capture(W.transforms, "transforms.json"),
    "capture transforms: lens": capture(with_lens, "transforms.json", package="pycolmap"),
    "capture poselist: poses": capture(W.pose_list, "poses.txt", examples=12),
    "capture poselist: K.txt": capture(W.pose_list, "K.txt", examples=12),
    "capture poselist: traj.txt": capture(W.nice_slam, "traj.txt", examples=12),
    "capture poselist: camera": capture(W.nice_slam, "../cam_params.json", examples=12),
    "capture trajectory: poses": capture(W.open3d_log, "trajectory.log", examples=12),
    "capture trajectory: camera": capture(W.open3d_log, "camera_intrinsic.json", examples=12),
    "capture folders: pose": capture(W.scannet_like, "extrinsics/frame_000000.txt", examples=12),
    "capture tum: images": capture(W.tum, "rgb.txt", examples=12),
    "capture tum: poses": capture(W.tum, "groundtruth.txt", examples=12),
    "capture record3d: metadata": capture(W.record3d_exr, "metadata", package="OpenEXR"),
    "capture record3d: r3d": capture(r3d, "", package="lzfse"),
    # a process for each example
    "capture colmap: cameras.txt": capture(W.colmap_text, "sparse/0/cameras.txt", examples=3, package="pycolmap"),
    "capture colmap: images.txt": capture(W.colmap_text, "sparse/0/images.txt", examples=3, package="pycolmap"),
    "capture colmap: images.bin": capture(W.colmap_binary, "sparse/0/images.bin", examples=3, package="pycolmap"),
    "capture colmap: points3D.bin": capture(W.colmap_binary, "sparse/0/points3D.bin", examples=3, package="pycolmap"),
    "capture colmap: frames.bin": capture(W.colmap_binary, "sparse/0/frames.bin", examples=3, package="pycolmap"),
    "index of stored depth": of_file(".json", b'{"scene": "room", "frames": ["0", "1"], "sha256": "0"}', of_index),
    "list of frames": of_file(".txt", listing("room 000001\nroom 000002 # why\n"), lists.read_list),
    "list of bad frames": of_file(".csv", b'scene,frame,reason\r\nroom,1,"cut, perhaps"\r\n', frames.read_unreadable),
    "decisions of a review": of_file(
        ".json",
        b'{"format": 1, "decisions": [["room", "0", "accept"]]}',
        lambda path: review.Review([("room", "0")], path),
    ),
    "json of a run": of_file(".json", b'{"config": {"a": [1, 2.5, null]}, "inputs": {}}', of_json),
    "kept scores": of_file(".json", results_index(), of_results),
    "mesh": of_file(".npz", mesh_file(), of_mesh),
    "zip": of_file(".zip", zip_file(), of_zip),
    "network: our weights": of_file(".safetensors", safetensors_file, lambda p: load_weights(small_network(), p)),
    "network: weights of others": of_file(".safetensors", safetensors_file, read_tensors),
    "network: public checkpoint": of_file(".pth", pth_file, read_tensors),
    "network: old public checkpoint": of_file(".pth", lambda: pth_file(False), read_tensors),
    "network: training state": of_file(".pt", training_state, of_training_state),
    "network: published": in_folder(published, "config.json", describe_folder, package="transformers"),
}  # fmt: skip

# --- mutations ----------------------------------------------------------------------------------------------

# numbers that sizes and offsets are replaced with
NUMBERS = (0, 1, 0x7F, 0xFF, 0x7FFF, 0xFFFF, 2**24, 2**31 - 1, 2**31, 2**32 - 1, 2**40, 2**63 - 1, 2**64 - 1)
DIGITS = (b"-1", b"1e999", b"nan", b"1" * 30, b"null", b"[]", b"\xb2", b"-inf", b"1e-320")
JUNK = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=5), st.lists(st.none(), max_size=3),
    st.just({}), st.just(10**400), st.just("../x"), st.just("/x"), st.just([[]]), st.just("\ud800"), st.just("\0"),
)  # fmt: skip


@st.composite
def mutated(draw: st.DrawFn, valid: bytes) -> bytes:
    """A valid file with a few changed places, as after a disk error or an attack."""
    content = bytearray(valid)
    for _ in range(draw(st.integers(1, 3))):
        at = draw(
            st.integers(0, max(0, len(content) - 1)) | st.integers(0, min(200, max(0, len(content) - 1)))
        )
        kind = draw(st.sampled_from(("byte", "number", "cut", "truncate", "insert", "repeat", "digit")))
        if kind == "byte" and content:
            content[at] = draw(st.integers(0, 255))
        elif kind == "number":
            size = draw(st.sampled_from((2, 4, 8)))
            number = draw(st.sampled_from(NUMBERS)) % 2 ** (8 * size)
            content[at : at + size] = number.to_bytes(size, draw(st.sampled_from(("little", "big"))))
        elif kind == "cut":
            del content[at : at + draw(st.integers(1, 64))]
        elif kind == "truncate":
            del content[at:]
        elif kind == "insert":
            content[at:at] = draw(st.binary(min_size=1, max_size=40))
        elif kind == "repeat":
            content[at:at] = content[at : at + 64]
        else:  # in text: another number, or what is none
            digits = [i for i, c in enumerate(content) if chr(c).isdigit()]
            if digits:
                i = digits[at % len(digits)]
                content[i : i + 1] = draw(st.sampled_from(DIGITS))
    return bytes(content)


@st.composite
def changed_json(draw: st.DrawFn, valid: bytes) -> bytes:
    """A JSON file in which one value, name or list is another."""
    whole = [json.loads(valid)]
    parent, key = whole, 0
    while isinstance(parent[key], dict | list) and parent[key] and draw(st.integers(0, 4)):
        parent = parent[key]
        key = draw(st.sampled_from(sorted(parent) if isinstance(parent, dict) else range(len(parent))))
    parent[key] = draw(JUNK)
    return json.dumps(whole[0]).encode()


def contents(valid: bytes) -> st.SearchStrategy[bytes]:
    """Random bytes, and mutations of a valid file."""
    kinds = [st.binary(max_size=200), mutated(valid), mutated(valid)]
    try:
        json.loads(valid)
    except ValueError:
        return st.one_of(*kinds, mutated(valid))
    return st.one_of(*kinds, changed_json(valid), changed_json(valid))
