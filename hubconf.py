"""Entry points of torch.hub, for a clone of this repository:

model = torch.hub.load(REPOSITORY, "depth", "lite-distilled")        # "user/repository" on GitHub
model = torch.hub.load(FOLDER, "depth", "lite-distilled", source="local")
"""

from __future__ import annotations

from d3d.models import available as _available
from d3d.models import create_model as _create_model
from d3d.models import load_model as _load_model
from d3d.models.base import DepthNetwork as _DepthNetwork

dependencies = [
    "torch",
    "timm",
    "numpy",
    "scipy",
    "pydantic",
    "safetensors",
    "huggingface_hub",
    "PIL",
    "tqdm",
]


def networks() -> dict[str, str]:
    """List the trained networks by name, each with a description."""
    return _available()


def depth(name: str = "lite-distilled") -> _DepthNetwork:
    """Load a trained network by name, in eval mode; `d3d.predict(model, image)` returns depth in metres."""
    return _load_model(name)


def untrained(arch: str, **options: object) -> _DepthNetwork:
    """Create an untrained network: "monodepth2", "hrdepth", "monovit" or "lite"; options of `d3d.create_model`."""
    return _create_model(arch, **options)
