"""Fixtures for all tests: one thread, no windows, fixed seeds, separate folders, and the development data."""

from __future__ import annotations

import os

# Before numpy, torch or OpenGL are imported. One thread: pytest-xdist runs a worker a core (see the Makefile)
for name, value in {
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "PYOPENGL_PLATFORM": "egl",
    "MPLBACKEND": "Agg",
    "JUPYTER_PLATFORM_DIRS": "1",
}.items():
    os.environ.setdefault(name, value)

import random
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import hypothesis
import numpy as np
import pytest
import torch
from filelock import FileLock
from unchanged_checkout import UnchangedCheckout

REPO = Path(__file__).resolve().parent.parent
SEED = 0
# Environment variable -> folder. The user's own runs and caches are neither read nor written
CACHES = {
    "D3D_CACHE": "d3d",
    "HF_HOME": "huggingface",
    "TORCH_HOME": "torch",
    "XDG_CACHE_HOME": "cache",
    "MPLCONFIGDIR": "matplotlib",
    "IPYTHONDIR": "ipython",
}

# The files that take longest, the longest first (measured in CPU seconds, 75 to 10). pytest-xdist hands out files in
# this order, so that no process is left alone with a long one at the end
LONGEST = (
    *("distributed", "glossyrooms_render", "faults", "uncertainty", "notebooks", "ablation", "cluster"),
    *(
        "room_motion",
        "viewer_browser",
        "frames",
        "models",
        "training",
        "glossyrooms",
        "stages",
        "glossyrooms_claims",
    ),
    *("site", "benchmarks", "models_public"),
)

torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
# The first example pays for imports and caches, and CI machines are busy: no deadline. Same examples each run.
hypothesis.settings.register_profile("d3d", deadline=None, derandomize=True)
hypothesis.settings.load_profile("d3d")


def pytest_configure(config: pytest.Config) -> None:
    """Set folders for runs and caches, which subprocesses and pytest-xdist's workers inherit; watch the checkout."""
    if hasattr(config, "workerinput"):
        return
    folder = Path(tempfile.mkdtemp(prefix="d3d-tests-"))
    config.add_cleanup(lambda: shutil.rmtree(folder, ignore_errors=True))
    for name, subfolder in CACHES.items():
        (folder / subfolder).mkdir()
        os.environ[name] = str(folder / subfolder)
    os.environ["D3D_RUNS"] = str(folder / "runs")
    config.pluginmanager.register(UnchangedCheckout(REPO))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run the longest files first. The order of the other files, and the order within a file, stay."""
    rank = {f"test_{name}": number for number, name in enumerate(LONGEST)}
    items.sort(key=lambda item: rank.get(item.path.stem, len(rank)))


@pytest.fixture(autouse=True, scope="module")
def _own_runs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Give each test module a folder for runs without a folder in their configuration."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("D3D_RUNS", str(tmp_path_factory.mktemp("runs-of-module")))
        yield


@pytest.fixture(autouse=True)
def _seeded() -> None:
    """Start each test from the same random state."""
    random.seed(SEED)
    np.random.seed(SEED)  # noqa: NPY002  (libraries that still draw from the global state)
    torch.manual_seed(SEED)


@pytest.fixture(scope="session")
def repo_dir() -> Path:
    """The checkout's root folder."""
    return REPO


@pytest.fixture(scope="session")
def shared_dir() -> Path:
    """Development data that is not part of the project: `D3D_SHARED`, or ../shared beside the checkout."""
    folder = Path(os.environ.get("D3D_SHARED", REPO.parent / "shared"))
    if not folder.is_dir():
        pytest.skip("needs the development data: no ../shared beside the checkout, D3D_SHARED not set")
    return folder


@pytest.fixture(scope="session")
def trained_run(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str | Path, str], None]:
    """Copy a run of profile smoke in which Monodepth2 is trained and its depth projected: ``copy(runs_dir, run)``.

    The run is computed once per session. The processes of pytest-xdist share it.
    """
    pytest.importorskip("open3d")
    base = tmp_path_factory.getbasetemp()
    shared = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    done = shared / "trained"
    with FileLock(shared / "trained.lock"):
        if not done.is_dir():
            from d3d.pipeline import stages
            from d3d.pipeline.config import make_config

            config = make_config(profile="smoke", runs_dir=str(shared / "training"), run="r")
            stages.project(config, "monodepth2")
            (shared / "training").rename(done)
    return lambda runs_dir, run: shutil.copytree(done / "r", Path(runs_dir) / run)
