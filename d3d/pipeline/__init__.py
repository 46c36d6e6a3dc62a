"""Runs: parameters, profiles, run folders and stages."""

from d3d._lazy import submodules

__getattr__ = submodules(__name__, __path__)
