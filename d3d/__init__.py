"""3D Distillation: self-supervised monocular depth on reflective surfaces (Shi et al., ICCV 2023).

    model = d3d.create_model("monodepth2", pretrained=False)
    depth = d3d.predict(model, image)          # metres

Submodules are imported on first use: ``import d3d`` is fast and does not import torch.
"""

from __future__ import annotations

import importlib
import importlib.abc
import os
import sys

from d3d._lazy import submodules

# Read by OpenMP when torch is imported. Passive: waiting threads give up their core; without it, a training on a busy
# machine takes up to five times longer (E5 in docs/experiments.md). A value of the user's own stays.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

__version__ = "0.1.0"

_FUNCTIONS = {
    "check_environment": "d3d.environment",
    "create_model": "d3d.models",
    "load_model": "d3d.models",
    "predict": "d3d.prediction",
}
# short names for the modules that notebooks call most
_ALIASES = {name: f"d3d.pipeline.{name}" for name in ("config", "runs", "stages")}
_MOVED_INTO = {
    "lists": ("ranking", "review"),
    "parallel": ("distributed", "launch", "processes"),
    "pipeline": ("config", "prepare", "profiles", "record", "runs", "scenes", "stages"),
}
# old module name -> new module name
_MOVED = {
    **{f"d3d.{name}": f"d3d.{into}.{name}" for into, names in _MOVED_INTO.items() for name in names},
    "d3d.ablation": "d3d.tables.table6",
    "d3d.cluster": "d3d.parallel.tasks",
    "d3d.datasets.scannet_lists": "d3d.datasets.scannet.lists",
    "d3d.datasets.scannet_prepared": "d3d.datasets.scannet.prepared",
    "d3d.datasets.sens": "d3d.datasets.scannet.sens",
    "d3d.datasets.sevenscenes_files": "d3d.datasets.sevenscenes.files",
    "d3d.dataview": "d3d.figures.dataset",
    "d3d.detection": "d3d.analysis.uncertainty",
    "d3d.gallery": "d3d.figures.all",
    "d3d.glossyrooms": "glossyrooms (a package beside d3d)",
    "d3d.labelquality": "d3d.analysis.thresholds",
    "d3d.meshview": "d3d.notebook.mesh",
    "d3d.optimizer": "d3d.kernels",
    "d3d.premise": "d3d.figures.figure1 and d3d.analysis.photometric",
    "d3d.prepare_scene": "d3d.datasets.scannet.prepare",
    "d3d.reprojection": "d3d.kernels",
    "d3d.showcase": "d3d.figures.frames and d3d.figures.all",
    "d3d.sweeps": "d3d.analysis.labels or d3d.analysis.thresholds or d3d.analysis.truncation",
    "d3d.viewer": "d3d.notebook.label_view",
    "d3d.widgets": "d3d.notebook.viewer and d3d.notebook.mesh",
}
_submodule = submodules(__name__, __path__)


class _Moved(importlib.abc.MetaPathFinder):
    """Raise an error with the new name when a moved module is imported by its old name."""

    def find_spec(self, name: str, path: object = None, target: object = None) -> None:
        if name in _MOVED:
            raise ModuleNotFoundError(f"{name} has moved: import {_MOVED[name]}.", name=name)


sys.meta_path.append(_Moved())  # last: only used for modules that no other finder finds


def __getattr__(name: str) -> object:
    if name in _FUNCTIONS:
        return getattr(importlib.import_module(_FUNCTIONS[name]), name)
    if name in _ALIASES:
        importlib.import_module("d3d.environment").check_environment()  # a notebook asks for these first
        return importlib.import_module(_ALIASES[name])
    if f"d3d.{name}" in _MOVED:
        raise ImportError(f"d3d.{name} has moved: import {_MOVED[f'd3d.{name}']}.")
    return _submodule(name)


def __dir__() -> list[str]:
    return sorted({"__version__", *_FUNCTIONS, *_ALIASES, *_submodule.names})
