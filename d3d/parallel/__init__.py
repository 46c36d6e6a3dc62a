"""Scenes over processes and machines (dask); one training over several processes (torchrun, accelerate)."""

from d3d._lazy import submodules

__getattr__ = submodules(__name__, __path__)
