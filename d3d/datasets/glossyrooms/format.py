"""File format of GlossyRooms. The generator writes it, `dataset` reads it.

    <root>/manifest.json
    <root>/lists/<split>_<list>.txt     lines "room frame_id"
    <root>/<split>/<room>.zip           scene.json, color/<id>.jpg; with depth also depth/, mask/, virtual/<id>.png

This module must not import torch: the generator starts many processes, and torch takes 500 MB in each.
"""

from __future__ import annotations

import re

import numpy as np

FORMAT = 1
NAME = "glossyrooms"
SPLITS = ("train", "val", "test")
LISTED_SPLITS = ("val", "test")
MATERIALS = ("matt", "glossy", "mirror", "light")  # a mask holds the index in its low bits
MATERIAL_BITS = 7
HIGHLIGHT = 8  # added to the index at a mirror image of a light
MAX_DEPTH_M = 65.535  # 16 bits of millimetres
# A name becomes part of file names, also of results
SAFE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*", re.ASCII)

# Rule of the lists: smallest and largest share of a frame's pixels in per cent; the largest is excluded
_UNSEEN_MIRROR = (0.0, 0.5)
LISTS: dict[str, dict[str, tuple[float, float]]] = {
    "Reflection": {"highlight": (2.0, np.inf), "mirror": _UNSEEN_MIRROR},
    "NoReflection": {"highlight": (0.0, 0.3), "mirror": _UNSEEN_MIRROR},
    "Mirror": {"mirror": (2.0, np.inf)},
}


def mask_is_valid(mask: np.ndarray) -> bool:
    """Return whether every value of a uint8 mask is the index of a material, with or without `HIGHLIGHT`."""
    return bool(((mask & ~np.uint8(HIGHLIGHT)) < len(MATERIALS)).all())
