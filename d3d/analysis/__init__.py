"""Labels compared with the ground truth: label rules, thresholds, truncation, uncertainty."""

from d3d._lazy import submodules

__getattr__ = submodules(__name__, __path__)
