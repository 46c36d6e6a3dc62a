"""Data sets of posed frames, training triples and samples.

To add a data set, write a function that returns a `Dataset` and one line in `DATASETS`.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path

from d3d.datasets.capture.dataset import open_capture
from d3d.datasets.dataset import Dataset
from d3d.datasets.glossyrooms.dataset import open_glossyrooms
from d3d.datasets.scannet.dataset import open_scannet
from d3d.datasets.scannet.sens import SensFile
from d3d.datasets.scene import Scene, digest_of
from d3d.datasets.sevenscenes.dataset import open_sevenscenes
from d3d.datasets.triples import Triples, find_triples
from d3d.errors import unknown

__all__ = ["DATASETS", "Dataset", "Scene", "SensFile", "Triples", "digest_of", "find_triples", "open_dataset"]

# name -> function(root, **options) -> Dataset
DATASETS: dict[str, Callable[..., Dataset]] = {
    "7scenes": open_sevenscenes,
    "capture": open_capture,
    "glossyrooms": open_glossyrooms,
    "scannet": open_scannet,
}


def open_dataset(name: str, root: str | Path | None = None, **options: object) -> Dataset:
    """Open a data set by name.

    Args:
        name: one of `DATASETS`.
        root: folder of the data set; not needed for glossyrooms, which ships with d3d.
        **options: options of the data set.

    Raises:
        ConfigError: the data set or an option is unknown.
        DataError: the folder is missing or holds another data set. The message says how to get the data.
    """
    if name not in DATASETS:
        raise unknown("data set", name, DATASETS)
    opener = DATASETS[name]
    known = [p for p in inspect.signature(opener).parameters if p != "root"]
    for option in options:
        if option not in known:
            raise unknown(f"option of data set {name!r}", option, known)
    return opener(root, **options)
