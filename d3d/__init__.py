"""3D Distillation: self-supervised monocular depth on reflective surfaces (Shi et al., ICCV 2023).

    model = d3d.create_model("monodepth2", pretrained=False)
    depth = d3d.predict(model, image)          # metres

Submodules are imported when first used, so that ``import d3d`` is fast and needs no torch.
"""

from __future__ import annotations

import importlib

__version__ = "0.1.0"

_FUNCTIONS = {"create_model": "d3d.models", "predict": "d3d.prediction"}
_MODULES = (
    "ablation",
    "config",
    "datasets",
    "dataview",
    "detection",
    "errors",
    "evaluation",
    "figures",
    "fusion",
    "gallery",
    "geometry",
    "lists",
    "losses",
    "metrics",
    "models",
    "prediction",
    "premise",
    "ranking",
    "reconstruction",
    "review",
    "runs",
    "showcase",
    "stages",
    "sweeps",
    "tables",
    "training",
    "uncertainty",
    "widgets",
)


def __getattr__(name: str) -> object:
    if name in _FUNCTIONS:
        return getattr(importlib.import_module(_FUNCTIONS[name]), name)
    if name in _MODULES:
        return importlib.import_module(f"d3d.{name}")
    raise AttributeError(f"module 'd3d' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(("__version__", *_FUNCTIONS, *_MODULES))
