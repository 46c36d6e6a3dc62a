"""What a notebook shows interactively: the label viewer, a mesh that turns, the review of a list."""

from d3d._lazy import submodules

__getattr__ = submodules(__name__, __path__)
