"""The networks by name. To add a network, write a subclass of `DepthNetwork` and list it here."""

from __future__ import annotations

from d3d.models.base import DepthNetwork
from d3d.models.hrdepth import HRDepth
from d3d.models.lite import Lite
from d3d.models.monodepth2 import Monodepth2
from d3d.models.monovit import MonoViT

NETWORKS: dict[str, type[DepthNetwork]] = {n.arch: n for n in (Monodepth2, HRDepth, MonoViT, Lite)}
ARCHITECTURES = tuple(NETWORKS)
