"""What every test can count on: one thread, no window, fixed seeds, and the shared development data if there."""

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
from pathlib import Path

import hypothesis
import numpy as np
import pytest
import torch

REPO = Path(__file__).resolve().parent.parent
SEED = 0

torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
# The first example pays for imports and caches, and CI machines are busy: no deadline. Same examples each run.
hypothesis.settings.register_profile("d3d", deadline=None, derandomize=True)
hypothesis.settings.load_profile("d3d")


@pytest.fixture(autouse=True)
def _seeded() -> None:
    """Start each test from the same random state, whatever ran before it."""
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
