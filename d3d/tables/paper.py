"""The paper's Tables 2 to 6 as printed, and the names that the paper gives to data sets, sets of images and labels."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from d3d.errors import DataError
from d3d.metrics import METRICS
from d3d.pipeline.runs import project_root

# (data set, split) -> the paper's name of that set of images. Only these may stand beside the paper's figures.
# A list of images of a split is a split of the paper: the list "Reflection" of "val" is "reflection_val".
PAPER_SPLITS = {
    ("scannet", "val"): "ScanNet Val Set",
    ("scannet", "test"): "ScanNet Test Set",
    ("scannet", "reflection_val"): "ScanNet-Reflection Val Set",
    ("scannet", "reflection_test"): "ScanNet-Reflection Test Set",
    ("scannet", "noreflection_val"): "ScanNet-NoReflection Val Set",
    ("7scenes", "test"): "7-Scenes",
}

# The length of the paper's own lists (4.1). They are not public: a user's list of another length is another list.
PAPER_IMAGES = {"reflection_val": 439, "reflection_test": 121, "noreflection_val": 1012}

# Trainings of Tables 2 to 5 and labels of Table 6, in the paper's order
TRAININGS = ("", "pred", "uncer")
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
    """The paper's spelling of a data set's name; any other data set's name as it is."""
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
    """Select the rows of `paper_tables` that may stand beside scores of a set of images.

    There are none where the set, the scale or the training data are not the paper's. Table 5 is of relative depth
    ("median") by networks trained on another data set, the others of absolute depth on the data set trained on.

    Args:
        frames: name of the list; "" is the whole split.
        images: how many images were scored. A list of another length than the paper's has no rows.
        ablation: Table 6; otherwise Tables 2 to 5.
    """
    own = f"{frames.lower()}_{split}" if frames else split
    name, relative = PAPER_SPLITS.get((dataset, own)), scale != "none"
    if name is None or relative == (trained_on == dataset) or PAPER_IMAGES.get(own, images) != images:
        return pd.DataFrame(columns=["architecture", "training", *METRICS])
    paper = paper_tables()
    numbers = (6,) if ablation else (5,) if relative else (2, 3, 4)
    return paper[paper["table"].isin(numbers) & (paper["split"] == name)]
