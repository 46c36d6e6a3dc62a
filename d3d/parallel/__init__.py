"""Distribute scenes over processes and machines (dask), and a training over several GPUs (torchrun, accelerate)."""

from d3d._lazy import submodules

__getattr__ = submodules(__name__, __path__)
