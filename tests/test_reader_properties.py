"""Every reader of foreign files: any content is either read, or refused with an error of d3d.

Random bytes and mutations of a valid file, under a limit of memory: a crash of the process, another exception, an
allocation of what a file merely claims, or minutes of work fail the test. The .sens reader's are in `test_sens.py`,
ScanNet's in `test_scannet.py` and `test_prepare.py`, those of GlossyRooms in `test_glossyrooms.py`.
"""

import ast
import contextlib
import io
import json
import resource
import struct
import time
import warnings
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from d3d import tables
from d3d.datasets import archives, images, lists, open_dataset
from d3d.datasets.records import read_matrix
from d3d.datasets.sevenscenes import dataset as sevenscenes
from d3d.datasets.sevenscenes import files as sevenscenes_files
from d3d.errors import ConfigError, D3DError, DataError
from d3d.geometry import check_pose
from d3d.io import read_json
from d3d.lists import review
from d3d.models import create_model, load_model, load_public_checkpoint, load_weights, save_weights
from d3d.models.tensors import read_tensors
from d3d.pipeline import readable as frames
from d3d.pipeline.config import make_config
from d3d.prediction import DepthStore, read_depth, write_depth
from d3d.reconstruction import Mesh
from d3d.training import _resume

HW = (24, 32)
SPARE_MB = 300  # how much a reader may allocate for a file of some kilobytes; decoders keep buffers
SPARE_S = 20


@contextlib.contextmanager
def within_bounds():
    """Limit the memory to `SPARE_MB` and the processor time to `SPARE_S`."""
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    before = resource.getrlimit(resource.RLIMIT_AS)
    start = time.process_time()
    resource.setrlimit(resource.RLIMIT_AS, (used + SPARE_MB * 2**20, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)
    assert time.process_time() - start < SPARE_S


def small_network():
    class Network(torch.nn.Module):
        arch, min_depth, max_depth = "monodepth2", 0.1, 10.0

        def __init__(self):
            super().__init__()
            self.conv = torch.nn.Conv2d(2, 3, 1)

    torch.manual_seed(0)
    return Network()


def image_bytes(array, kind, **options):
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, kind, **options)
    return buffer.getvalue()


RNG = np.random.default_rng(0)
COLOR = RNG.integers(0, 255, (*HW, 3), dtype=np.uint8)
DEPTH = RNG.integers(1, 5000, HW, dtype=np.uint16)


def of_color(path):
    image = images.read_color(path, "here")
    assert (image.dtype, image.ndim, image.shape[2]) == (np.uint8, 3, 3)


def of_depth(path):
    assert images.read_depth_png(path, "here").dtype == np.uint16


def of_rendered(path):
    depth = sevenscenes.read_rendered(path, "here")
    assert depth.dtype == np.float32
    assert np.isfinite(depth).all()
    assert (depth >= 0).all()


def of_stored(path):
    assert read_depth(path).dtype == np.float32


def of_pose(path):
    assert np.isfinite(check_pose(read_matrix(path, "here"), "here")).all()


def of_index(path):
    folder = path.parent / "store" / "room"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "index.json").write_bytes(path.read_bytes())
    store = DepthStore(folder.parent)
    assert all(isinstance(frame, str) for frame in store.frames("room"))
    assert isinstance(store.sha256("room"), str)


def of_json(path):
    assert "config" in read_json(path, "config")


def of_mesh(path):
    mesh = Mesh.from_npz(path)
    assert not mesh.triangles.size or mesh.triangles.max() < len(mesh.vertices)


def of_zip(path):
    for name in archives.list_zip(path):
        archives.read_member(path, name)
    inside = path.parent / "inside"
    inside.mkdir(exist_ok=True)
    out = inside / "out"
    before = {p for p in path.parent.rglob("*") if inside not in p.parents}
    try:
        archives.unpack_zip(path, out)
    finally:
        assert {p for p in path.parent.rglob("*") if inside not in p.parents} == before
        assert not any(p.is_symlink() for p in inside.rglob("*"))
        for p in sorted(inside.rglob("*"), reverse=True):
            p.rmdir() if p.is_dir() else p.unlink()


def of_training_state(path):
    model = small_network()
    step, history = _resume(path, model, torch.optim.Adam(model.parameters()), torch.device("cpu"))
    assert isinstance(step, int)
    assert isinstance(history, list)


def of_results(path):
    folder = path.parent / "results"
    folder.mkdir(exist_ok=True)
    (folder / "index.json").write_bytes(path.read_bytes())
    tables.read(folder)


def saved(function, *arguments):
    """Return the bytes that a function writes to a path."""
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "file.safetensors"
        function(*arguments, path)
        return path.read_bytes()


def safetensors_file():
    return saved(save_weights, small_network())


def pth_file():
    buffer = io.BytesIO()
    torch.save({"encoder.conv1.weight": torch.ones(2, 3), "height": 192, "use_stereo": False}, buffer)
    return buffer.getvalue()


def old_pth_file():
    buffer = io.BytesIO()
    torch.save({"a": torch.ones(2, 3)}, buffer, _use_new_zipfile_serialization=False)
    return buffer.getvalue()


def training_state():
    model = small_network()
    optimizer = torch.optim.Adam(model.parameters())
    model.conv(torch.ones(1, 2, 4, 4)).mean().backward()
    optimizer.step()
    buffer = io.BytesIO()
    state = {"step": 1, "history": [{"loss": 1.0}], "model": model.state_dict()}
    torch.save({**state, "optimizer": optimizer.state_dict()}, buffer)
    return buffer.getvalue()


def zip_file():
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as z:
        z.writestr("seq-01/frame-000000.pose.txt", b"1 0 0 0 " * 4)
        z.writestr("seq-01/frame-000000.color.png", image_bytes(COLOR, "PNG"))
        z.writestr("TrainSplit.txt", b"sequence1\n")
    return buffer.getvalue()


def mesh_file():
    corners = np.array([[0, 0, 1], [1, 0, 1], [0, 1, 1]], float)
    return Mesh(corners, np.array([[0, 1, 2]], np.int32), np.zeros((3, 3), np.uint8)).to_npz()


def results_index():
    entry = {
        "arch": "monodepth2", "labels": "", "seed": 0, "profile": "smoke", "trained_on": "glossyrooms",
        "dataset": "glossyrooms", "split": "val", "scale": "none", "round": 1, "settings": "",
        "sha256": "0" * 64, "provenance": {},
    }  # fmt: skip
    shared = {"a/images.csv.xz": "0" * 64, "lists.csv.xz": "0" * 64}
    return json.dumps({"version": 1, "evaluations": {"a/b.csv.xz": entry}, "shared": shared}).encode()


def listing(text):
    return ("# a list\n" + text).encode()


# name -> (suffix, a valid file, the reader)
READERS = {
    "colour jpeg": (".jpg", image_bytes(COLOR, "JPEG"), of_color),
    "colour png": (".png", image_bytes(COLOR, "PNG"), of_color),
    "depth png": (".png", image_bytes(DEPTH, "PNG"), of_depth),
    "rendered depth": (".tiff", image_bytes(DEPTH.astype(np.float32), "TIFF"), of_rendered),
    "packed rendered depth": (".tiff", image_bytes(DEPTH, "TIFF", compression="tiff_deflate"), of_rendered),
    "stored depth": (".png", saved(lambda path: write_depth(path, DEPTH / 1000)), of_stored),
    "index of stored depth": (".json", b'{"scene": "room", "frames": ["0", "1"], "sha256": "0"}', of_index),
    "pose": (".txt", b"1 0 0 0.5\n0 1 0 2e-1\n0 0 1 -3.25\n0 0 0 1\n", of_pose),
    "split": (".txt", b"sequence1\nsequence12\r\n", lambda p: sevenscenes_files.read_split(p.read_bytes(), "here")),
    "list of frames": (".txt", listing("room 000001\nroom 000002 # why\n"), lists.read_list),
    "list of bad frames": (".csv", b'scene,frame,reason\r\nroom,1,"truncated, perhaps"\r\n', frames.read_unreadable),
    "decisions of a review": (
        ".json",
        b'{"format": 1, "decisions": [["room", "0", "accept"]]}',
        lambda path: review.Review([("room", "0")], path),
    ),
    "json of a run": (".json", b'{"config": {"a": [1, 2.5, null]}, "inputs": {}}', of_json),
    "kept scores": (".json", results_index(), of_results),
    "mesh": (".npz", mesh_file(), of_mesh),
    "zip": (".zip", zip_file(), of_zip),
    "our weights": (".safetensors", safetensors_file(), lambda p: load_weights(small_network(), p)),
    "weights of others": (".safetensors", safetensors_file(), read_tensors),
    "public checkpoint": (".pth", pth_file(), read_tensors),
    "old public checkpoint": (".pth", old_pth_file(), read_tensors),
    "training state": (".pt", training_state(), of_training_state),
}  # fmt: skip

# numbers that sizes and offsets are replaced with
NUMBERS = (0, 1, 0x7F, 0xFF, 0x7FFF, 0xFFFF, 2**24, 2**31 - 1, 2**31, 2**32 - 1, 2**40, 2**63 - 1, 2**64 - 1)


@st.composite
def mutated(draw, valid):
    """A valid file with a few changed places, as after a disk error or an attack."""
    content = bytearray(valid)
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.integers(0, max(0, len(content) - 1)))
        kind = draw(st.sampled_from(("byte", "number", "cut", "truncate", "insert", "repeat", "digit")))
        if kind == "byte" and content:
            content[at] = draw(st.integers(0, 255))
        elif kind == "number":
            size = draw(st.sampled_from((2, 4, 8)))
            number = draw(st.sampled_from(NUMBERS)) % 2 ** (8 * size)
            order = draw(st.sampled_from(("little", "big")))
            content[at : at + size] = number.to_bytes(size, order)
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
                content[i : i + 1] = draw(
                    st.sampled_from((b"-1", b"1e999", b"nan", b"1" * 30, b"null", b"[]", b"\xb2"))
                )
    return bytes(content)


@pytest.mark.parametrize("name", READERS)
@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_whatever_is_in_a_file_it_is_read_or_told_of(name, tmp_path, data):
    suffix, valid, read = READERS[name]
    path = tmp_path / f"file{suffix}"
    path.write_bytes(
        data.draw(st.one_of(st.binary(max_size=200), mutated(valid), mutated(valid), mutated(valid)))
    )
    with warnings.catch_warnings(action="ignore"), within_bounds(), contextlib.suppress(D3DError):
        read(path)


@pytest.mark.parametrize("name", READERS)
def test_the_valid_files_are_read(name, tmp_path):
    """Without this test, the test above could pass if every file gave an error."""
    suffix, valid, read = READERS[name]
    path = tmp_path / f"file{suffix}"
    path.write_bytes(valid)
    if name == "kept scores":  # what it lists is not there
        with pytest.raises(DataError, match=r"b\.csv\.xz is missing"):
            read(path)
    else:
        read(path)


GIVEN_CONTENT = {"index of stored depth", "kept scores", "split"}
BEGUN_ANEW = {"decisions of a review", "training state"}  # where there is none yet


@pytest.mark.parametrize("name", sorted(READERS.keys() - GIVEN_CONTENT))
def test_a_file_that_is_a_folder_or_missing(name, tmp_path):
    suffix, _, read = READERS[name]
    (tmp_path / f"folder{suffix}").mkdir()
    for path in (tmp_path / f"folder{suffix}", tmp_path / f"none{suffix}"):
        if name in BEGUN_ANEW:
            read(path)
        else:
            with pytest.raises(D3DError):
                read(path)


def png_of(width, height, depth=8, color=2):
    """A PNG of some bytes, valid up to its checksums, that claims a size."""

    def chunk(kind, content):
        checksum = zlib.crc32(kind + content)
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", checksum)

    header = struct.pack(">IIBBBBB", width, height, depth, color, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(b"\0" * 99))
        + chunk(b"IEND", b"")
    )


def jpeg_of(width, height):
    content = bytearray(image_bytes(COLOR, "JPEG"))
    at = content.index(b"\xff\xc0") + 5  # the start of a frame: height, width
    content[at : at + 4] = struct.pack(">HH", height, width)
    return bytes(content)


def tiff_of(width, height):
    content = bytearray(image_bytes(DEPTH.astype(np.float32), "TIFF"))
    (at,) = struct.unpack_from("<I", content, 4)
    for k in range(struct.unpack_from("<H", content, at)[0]):
        tag, _ = struct.unpack_from("<HH", content, at + 2 + 12 * k)
        if tag in (256, 257):  # width, height, as 32-bit numbers
            struct.pack_into("<HHII", content, at + 2 + 12 * k, tag, 4, 1, width if tag == 256 else height)
    return bytes(content)


@pytest.mark.parametrize(
    ("content", "read"),
    [
        (png_of(60000, 60000), of_color),
        (png_of(13000, 13000), of_color),
        (png_of(2**31 - 1, 1), of_color),
        (png_of(60000, 60000, 16, 0), of_depth),
        (png_of(60000, 60000, 16, 0), of_stored),
        (jpeg_of(60000, 60000), of_color),
        (jpeg_of(9000, 9000), of_color),
        (tiff_of(60000, 60000), of_rendered),
        (tiff_of(9000, 9000), of_rendered),
    ],
)
def test_an_image_that_claims_billions_of_pixels_is_not_allocated(tmp_path, content, read):
    path = tmp_path / "bomb"
    path.write_bytes(content)
    with (
        warnings.catch_warnings(action="ignore"),
        within_bounds(),
        pytest.raises(DataError, match=r"not an? |too large"),
    ):
        read(path)


def test_a_tensor_that_claims_terabytes_is_not_allocated(tmp_path):
    header = json.dumps({"a": {"dtype": "F32", "shape": [2**40], "data_offsets": [0, 2**42]}}).encode()
    path = tmp_path / "bomb.safetensors"
    path.write_bytes(struct.pack("<Q", len(header)) + header)
    with within_bounds(), pytest.raises(DataError, match="not a readable safetensors"):
        read_tensors(path)
    array = io.BytesIO()
    np.lib.format.write_array_header_1_0(array, {"descr": "<f4", "fortran_order": False, "shape": (2**40, 3)})
    with zipfile.ZipFile(tmp_path / "bomb.npz", "w") as z:
        z.writestr("vertices.npy", array.getvalue())
    with within_bounds(), pytest.raises(DataError, match=r"not readable as a numpy array.*claims"):
        Mesh.from_npz(tmp_path / "bomb.npz")


class Evil:
    """Writes a file when it is unpickled."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return (open, (self.path, "w"))


@pytest.mark.parametrize("new", [True, False])
def test_no_foreign_file_is_unpickled(tmp_path, new):
    trace = tmp_path / "was here"
    network = create_model("monodepth2", pretrained=False)
    for name in ("x.pth", "encoder.pth", "depth.pth", "state.pt"):
        torch.save({"a": Evil(trace)}, tmp_path / name, _use_new_zipfile_serialization=new)
    np.save(tmp_path / "x.npy", np.array([Evil(trace)], dtype=object), allow_pickle=True)
    with zipfile.ZipFile(tmp_path / "x.npz", "w") as z:
        for name in ("vertices", "triangles", "colors"):
            z.write(tmp_path / "x.npy", f"{name}.npy")
    for read in (
        lambda: read_tensors(tmp_path / "x.pth"),
        lambda: load_public_checkpoint(network, tmp_path),
        lambda: of_training_state(tmp_path / "state.pt"),
        lambda: Mesh.from_npz(tmp_path / "x.npz"),
        lambda: Mesh.from_npz(tmp_path / "x.npy"),
    ):
        with pytest.raises(DataError):
            read()
    assert not trace.exists()


# a training by several processes: its order goes from the one that starts them to these, in a folder of their own
PICKLES_FOR_ITS_OWN_PROCESSES = {"launch.py"}
PICKLING = {"pickle", "shelve", "marshal", "dill", "joblib", "cloudpickle"}


def test_nothing_in_the_package_could_unpickle(repo_dir):
    """Check the source: torch.load has weights_only=True, np.load has allow_pickle=False, no pickle is imported."""
    calls = []
    for path in sorted((repo_dir / "d3d").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if (
                isinstance(node, ast.Import | ast.ImportFrom)
                and path.name not in PICKLES_FOR_ITS_OWN_PROCESSES
            ):
                names = [a.name for a in node.names] + [getattr(node, "module", None) or ""]
                assert not {n.split(".")[0] for n in names} & PICKLING, path
            if isinstance(node, ast.Call) and ast.unparse(node.func) in (
                "torch.load",
                "np.load",
                "numpy.load",
            ):
                key, value = "allow_pickle", "False"
                if "torch" in ast.unparse(node.func):
                    key, value = "weights_only", "True"
                options = {k.arg: ast.unparse(k.value) for k in node.keywords}
                assert options.get(key) == value, f"{path}, line {node.lineno}"
                calls.append(path.name)
    assert {"tensors.py", "training.py"} <= set(calls)


@pytest.mark.parametrize("arch", ["hrdepth ", "../../x", ""])
def test_weights_of_a_network_that_is_none(tmp_path, arch):
    network = small_network()
    network.arch = arch
    path = save_weights(network, tmp_path / "x.safetensors")
    with pytest.raises(D3DError, match=r"arch|Choose from"):
        load_model(path)
    for name, value in (("min_depth", -1.0), ("max_depth", float("nan")), ("dropout", 7.0)):
        other = small_network()
        setattr(other, name, value)
        with pytest.raises(DataError, match="is impossible"):
            load_model(save_weights(other, tmp_path / "y.safetensors"))


@pytest.mark.parametrize("name", ["../../x", "/x", "..", ".", "", "a\\b", ".hidden"])
def test_names_in_lists_and_stores_do_not_leave_their_folder(tmp_path, name):
    """Names of scenes and runs become names of folders, and names of lists become names of tables."""
    store = DepthStore(tmp_path / "a" / "store")
    try:
        folder = store.scene_folder(name)
    except DataError:
        pass
    else:
        assert folder.resolve().parent == store.folder.resolve()
    if name != ".hidden":  # which is a file like any other
        for use in (store.read, lambda scene, frame: store.write_scene(scene, [(frame, DEPTH / 1000)])):
            with pytest.raises(DataError, match="cannot be a file's name"):
                use("room", name)
    with pytest.raises(ConfigError, match="cannot be a list's name"):
        review.list_path(make_config(profile="smoke"), name)
    with pytest.raises(D3DError):
        lists.given_files(f"{name}={tmp_path / 'x.txt'}", "test")
    with pytest.raises(D3DError):
        lists.read_list(
            _written(tmp_path / "l.txt", f"{name or 'x'} 1\n"),
            open_dataset("glossyrooms", rooms=1).scenes("val"),
        )


def _written(path, text):
    path.write_text(text)
    return path
