"""Data sets that were opened: kept, because a configuration and every stage ask for them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from d3d.datasets import Dataset, open_dataset

opened: dict[str, Dataset] = {}
_KEPT = 2


def open_kept(name: str, root: str | None, options: Mapping[str, Any]) -> Dataset:
    """As `open_dataset`; the two data sets opened last are kept."""
    key = repr((name, root, dict(options)))
    if key not in opened:
        while len(opened) >= _KEPT:
            del opened[next(iter(opened))]
        opened[key] = open_dataset(name, root, **options)
    return opened[key]
