"""What `python -m d3d` and the notebooks run: parameters, profiles, run folders, stages."""

from d3d._lazy import submodules

__getattr__ = submodules(__name__, __path__)
