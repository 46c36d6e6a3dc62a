"""Interactive parts of the notebooks: the label viewer, a mesh to turn, the review of a list."""

from d3d._lazy import submodules

__getattr__ = submodules(__name__, __path__)
