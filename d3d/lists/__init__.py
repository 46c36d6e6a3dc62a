"""Lists of reflective frames (section 4.1): rank frames, review them, write a list."""

from d3d._lazy import submodules

__getattr__ = submodules(__name__, __path__)
