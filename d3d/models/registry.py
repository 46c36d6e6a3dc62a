"""The networks by name. A new network is one file with a `DepthNetwork` in it, and one line here."""

from __future__ import annotations

from d3d.models.base import DepthNetwork
from d3d.models.hrdepth import HRDepth
from d3d.models.monodepth2 import Monodepth2
from d3d.models.monovit import MonoViT

NETWORKS: dict[str, type[DepthNetwork]] = {
    "monodepth2": Monodepth2,
    "hrdepth": HRDepth,
    "monovit": MonoViT,
}

ARCHITECTURES = tuple(NETWORKS)
