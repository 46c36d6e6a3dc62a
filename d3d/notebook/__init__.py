"""Interactive parts of the notebooks: the label viewer, a rotatable mesh, the review of a list."""

from d3d._lazy import submodules

__getattr__ = submodules(__name__, __path__)
