"""The networks of the paper (3.1, 4.1): Monodepth2, HR-Depth and MonoViT, and the small network Lite.

`create_model(arch)` builds a network; `model(image_b3hw)` returns `{scale: disp_b1hw}`. To add a network, write a
subclass of `DepthNetwork` and one line in `registry.py`.
"""

from d3d.models.base import DepthNetwork
from d3d.models.checkpoints import load_weights, read_metadata, save_weights
from d3d.models.factory import create_model, load_model
from d3d.models.initial import InitialWeights, find_initial_weights
from d3d.models.public import convert_public_state, load_public_checkpoint
from d3d.models.registry import ARCHITECTURES
from d3d.models.shipped import available

__all__ = [
    "ARCHITECTURES",
    "DepthNetwork",
    "InitialWeights",
    "available",
    "convert_public_state",
    "create_model",
    "find_initial_weights",
    "load_model",
    "load_public_checkpoint",
    "load_weights",
    "read_metadata",
    "save_weights",
]
