"""Every reader of foreign files: any content is either read, or refused with an error of d3d.

Random bytes and mutations of the valid files in `foreign_files.READERS`. The test fails for another exception, a crash
of the process, minutes of work, a file written outside of the file's folder, or an allocation of what a file merely
claims: more than `FACTOR` times its size and `SPARE_MB` by Python and numpy, or `MOST_MB` of address space in all.
"""

import ast
import contextlib
import importlib.util
import io
import json
import os
import resource
import struct
import sys
import time
import tracemalloc
import warnings
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from foreign_files import (
    COLOR,
    DEPTH,
    READERS,
    contents,
    image_bytes,
    of_color,
    of_depth,
    of_rendered,
    of_training_state,
    small_network,
)
from hypothesis import given, settings

from d3d.datasets import DATASETS, lists, open_dataset
from d3d.datasets.capture.formats import FORMATS, colmap
from d3d.datasets.photos import FORMATS as PHOTOS
from d3d.depth_files import SUFFIXES
from d3d.errors import ConfigError, D3DError, DataError
from d3d.io import cache_folder
from d3d.lists import review
from d3d.models import create_model, load_model, load_public_checkpoint, save_weights
from d3d.models.tensors import read_tensors
from d3d.pipeline.config import make_config
from d3d.prediction import DepthStore, read_depth
from d3d.reconstruction import Mesh

FACTOR = (
    100  # deflate expands at most a thousandfold; d3d refuses archives that expand more than a hundredfold
)
SPARE_MB = 32
MOST_MB = 300  # decoders keep buffers, and an image of few bytes may have `images.MAX_PIXELS`
SPARE_S = 20

written: list[str] | None = None  # files that the present test opened for writing, made or moved


def _watch(event, arguments):
    if written is None or event not in (
        "open",
        "os.mkdir",
        "os.rename",
        "os.link",
        "os.symlink",
        "os.truncate",
    ):
        return
    if event == "open" and not (arguments[2] or 0) & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
        return
    paths = arguments[:2] if event in ("os.rename", "os.link", "os.symlink") else arguments[:1]
    written.extend(
        os.path.realpath(os.fsdecode(p)) for p in paths if isinstance(p, str | bytes | os.PathLike)
    )


sys.addaudithook(_watch)


@contextlib.contextmanager
def within_bounds(size=0):
    """Limit the memory and the processor time of reading a file with some bytes."""
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    before = resource.getrlimit(resource.RLIMIT_AS)
    start = time.process_time()
    resource.setrlimit(resource.RLIMIT_AS, (used + MOST_MB * 2**20, before[1]))
    tracemalloc.start()
    try:
        yield
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        resource.setrlimit(resource.RLIMIT_AS, before)
    assert peak < SPARE_MB * 2**20 + FACTOR * size
    assert time.process_time() - start < SPARE_S


@contextlib.contextmanager
def writing_only_in(*folders):
    """Fail if the block writes to a file elsewhere. Python and hypothesis keep files of their own."""
    global written
    written = []
    try:
        yield
    finally:
        found, written = written, None
    allowed = [Path(os.path.realpath(folder)) for folder in folders]
    outside = {Path(p) for p in found} - {Path(os.devnull)}
    outside = {p for p in outside if not {"__pycache__", ".hypothesis"} & {*p.parts}}
    assert {p for p in outside if not any(p.is_relative_to(folder) for folder in allowed)} == set()


@pytest.fixture(scope="module")
def case(tmp_path_factory):
    """Make the case of a name once."""
    made = {}

    def get(name):
        if name not in made:
            if (package := READERS[name].package) and importlib.util.find_spec(package) is None:
                pytest.skip(f"needs {package}")
            made[name] = READERS[name].make(tmp_path_factory.mktemp("case"))
        return made[name]

    return get


def test_every_registered_reader_is_tested():
    names = {f"capture {name}" for name in FORMATS} | {f"photo {kind}" for kind in PHOTOS}
    names |= {f"prediction {suffix}" for suffix in SUFFIXES} | DATASETS.keys()
    assert {name for name in names if not any(name in reader.split(":")[0] for reader in READERS)} == set()


@pytest.mark.parametrize("name", READERS)
def test_a_valid_file_is_read_and_any_other_is_read_or_refused(name, case, monkeypatch):
    this = case(name)
    monkeypatch.setattr(colmap, "_LONGEST_S", 8)

    @settings(max_examples=READERS[name].examples)
    @given(content=contents(this.valid))
    def survives(content):
        this.put(content)
        with contextlib.suppress(D3DError), within_bounds(len(content)):
            this.read()

    with warnings.catch_warnings(action="ignore"), writing_only_in(this.folder, cache_folder()):
        this.put(this.valid)
        if name == "kept scores":  # what it lists is not there
            with pytest.raises(DataError, match=r"b\.csv\.xz is missing"):
                this.read()
        else:
            this.read()  # else errors alone might be seen
        survives()


GIVEN_CONTENT = {"index of stored depth", "kept scores", "7scenes: split"}
BEGUN_ANEW = {"decisions of a review", "network: training state"}  # where there is none yet


@pytest.mark.parametrize("name", [n for n in READERS if READERS[n].of_path and n not in GIVEN_CONTENT])
def test_a_file_that_is_a_folder_or_missing(name, case, tmp_path):
    this = case(name)
    (tmp_path / f"folder{this.path.suffix}").mkdir()
    for path in (tmp_path / f"folder{this.path.suffix}", tmp_path / f"none{this.path.suffix}"):
        if name in BEGUN_ANEW:
            this.read_path(path)
        else:
            with pytest.raises(D3DError):
                this.read_path(path)


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
        (png_of(60000, 60000, 16, 0), read_depth),
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
