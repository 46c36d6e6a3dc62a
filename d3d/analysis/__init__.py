"""Compare labels with the ground truth of training frames: strategies, thresholds, truncation, uncertainties."""

from d3d._lazy import submodules

__getattr__ = submodules(__name__, __path__)
