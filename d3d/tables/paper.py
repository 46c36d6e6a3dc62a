"""The paper's Tables 2 to 6, and its names of data sets, sets of images and labels."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from d3d.errors import DataError
from d3d.metrics import METRICS
from d3d.pipeline.runs import project_root

# (data set, split) -> the paper's name of the set of images. Only these sets may show the paper's figures.
# The list "Reflection" of split "val" is the paper's split "reflection_val".
PAPER_SPLITS = {
    ("scannet", "val"): "ScanNet Val Set",
    ("scannet", "test"): "ScanNet Test Set",
    ("scannet", "reflection_val"): "ScanNet-Reflection Val Set",
    ("scannet", "reflection_test"): "ScanNet-Reflection Test Set",
    ("scannet", "noreflection_val"): "ScanNet-NoReflection Val Set",
    ("7scenes", "test"): "7-Scenes",
}

# Lengths of the paper's lists (4.1), which are not public. A list of another length is another list.
PAPER_IMAGES = {"reflection_val": 439, "reflection_test": 121, "noreflection_val": 1012}

# Trainings of Tables 2 to 5 and labels of Table 6, in the paper's order
TRAININGS = ("", "pred", "uncer")
# our recommended recipe (docs/robust.md): the fourth training of these tables, where it was evaluated
RECOMMENDED = "robust"
ABLATION = {
    "pred": "pred. depth",
    "proj": "proj. depth",
    "proj_lowres": "proj. depth with low-resolution training",
    "diff": "pred. depth + proj. depth with diff",
    "mv": "pred. depth + proj. depth with mv",
    "uncer": "pred. depth + proj. depth with uncer",
}

_DATASET_NAMES = {"scannet": "ScanNet", "7scenes": "7-Scenes", "glossyrooms": "GlossyRooms"}


def dataset_name(dataset: str) -> str:
    """Return the paper's spelling of a data set's name; other names are unchanged."""
    return _DATASET_NAMES.get(dataset, dataset)


def set_name(dataset: str, split: str, frames: str = "") -> str:
    """A set of images in the paper's manner: "ScanNet-Reflection Val Set", "GlossyRooms Test Set"."""
    return f"{dataset_name(dataset)}{'-' + frames if frames else ''} {split.capitalize()} Set"


def label_name(labels: str, round: int = 1) -> str:
    """The first cell of a row of Table 6: the paper's words for its own labels, and alike for other labels."""
    name = ABLATION.get(labels, f"pred. depth + proj. depth with {labels}")
    return f"{name}, round {round}" if round > 1 else name


def paper_tables(path: Path | None = None) -> pd.DataFrame:
    """Read the paper's Tables 2 to 6, transcribed: table, split, architecture, training, the seven metrics."""
    path = path or project_root() / "data" / "paper_tables.csv"
    if not path.is_file():
        raise DataError(f"{path} is missing: it ships with the repository, in data/.")
    return pd.read_csv(path)


def paper_rows(
    dataset: str, split: str, frames: str, images: int, scale: str, trained_on: str, ablation: bool
) -> pd.DataFrame:
    """Select the rows of `paper_tables` for a set of images; empty if set, scale or training data are not the paper's.

    Table 5 shows relative depth ("median") of networks trained on another data set. The other tables show absolute
    depth on the training data set.

    Args:
        frames: name of the list; "" for the whole split.
        images: number of scored images. A list with another length than the paper's has no rows.
        ablation: True for Table 6, False for Tables 2 to 5.
    """
    own = f"{frames.lower()}_{split}" if frames else split
    name, relative = PAPER_SPLITS.get((dataset, own)), scale != "none"
    if name is None or relative == (trained_on == dataset) or PAPER_IMAGES.get(own, images) != images:
        return pd.DataFrame(columns=["architecture", "training", *METRICS])
    paper = paper_tables()
    numbers = (6,) if ablation else (5,) if relative else (2, 3, 4)
    return paper[paper["table"].isin(numbers) & (paper["split"] == name)]
