"""Tables 2 to 6 of the paper from stored scores: which rows and columns, beside whose figures (section 4)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pandas as pd

from d3d.datasets.scene import FrameList
from d3d.errors import DataError, unknown
from d3d.evaluation import arch_name, training_name
from d3d.metrics import METRICS
from d3d.pipeline.config import ENSEMBLE
from d3d.pipeline.runs import project_root
from d3d.tables.scores import Evaluation, Scores, over_seeds

# (data set, split) -> the paper's name of that split. Only these may stand beside the paper's figures.
# A list of images of a split is a split of the paper's: "Reflection" of "val" is "reflection_val".
PAPER_SPLITS = {
    ("scannet", "val"): "ScanNet Val Set",
    ("scannet", "test"): "ScanNet Test Set",
    ("scannet", "reflection_val"): "ScanNet-Reflection Val Set",
    ("scannet", "reflection_test"): "ScanNet-Reflection Test Set",
    ("scannet", "noreflection_val"): "ScanNet-NoReflection Val Set",
    ("7scenes", "test"): "7-Scenes",
}

# How many images the paper's own lists have (4.1). They are not public: a user's list of the same name is another one.
PAPER_IMAGES = {"reflection_val": 439, "reflection_test": 121, "noreflection_val": 1012}

# Lists of images that no other number may hide or be hidden by, and why
APART = {"Mirror": "images of mirrors, which the paper leaves unsolved"}

_DATASET_NAMES = {"scannet": "ScanNet", "7scenes": "7-Scenes", "glossyrooms": "GlossyRooms"}

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


@dataclass(frozen=True)
class Layout:
    """What a table of the paper shows.

    Attributes:
        title: what it is about, for the caption.
        sets: (split, list of frames; "" is the whole split) of each block.
        scale: "median" is relative depth.
        ablation: rows are the labels of one network, not the trainings of three.
    """

    title: str
    sets: tuple[tuple[str, str], ...]
    scale: str = "none"
    ablation: bool = False


LAYOUTS = {
    "2": Layout("main results", (("val", ""), ("test", ""))),
    "3": Layout("images that show reflections", (("val", "Reflection"), ("test", "Reflection"))),
    "4": Layout("images that show no reflection", (("val", "NoReflection"),)),
    "5": Layout("another data set", (("test", ""),), scale="median"),
    "6": Layout("ablation of the training labels", (("val", ""), ("val", "Reflection")), ablation=True),
    "mirror": Layout(APART["Mirror"], (("val", "Mirror"), ("test", "Mirror"))),
}

COLUMNS = [
    *("table", "set", "dataset", "split", "list", "scale", "architecture", "training", "beyond", "source"),
    *("trained_on", "profile", "seeds", "n", "images"),
    *METRICS,
    *(f"{m}_std" for m in METRICS),
]


@dataclass(frozen=True)
class Table:
    """One table, ready to be printed.

    Attributes:
        key: of `LAYOUTS`: "2" to "6" for the paper's, "mirror" for what stands apart.
        frame: one row a set of images, network, training and source ("ours", "paper"), with `COLUMNS`; where
            nothing of ours is there n is 0 and the metrics are NaN.
        caption: data set, images, profile, seeds, without a full stop at its end.
        missing: what is not there and the command that makes it, a line each.
    """

    key: str
    frame: pd.DataFrame
    caption: str
    missing: tuple[str, ...] = ()


def paper_tables(path: Path | None = None) -> pd.DataFrame:
    """The paper's Tables 2 to 6, transcribed: table, split, architecture, training, the seven metrics.

    Raises:
        DataError: the file is not there.
    """
    path = path or project_root() / "data" / "paper_tables.csv"
    if not path.is_file():
        raise DataError(f"{path} is missing: it ships with the repository, in data/.")
    return pd.read_csv(path)


def dataset_name(dataset: str) -> str:
    """The paper's spelling of a data set's name; any other's as it is."""
    return _DATASET_NAMES.get(dataset, dataset)


def set_name(dataset: str, split: str, frames: str = "") -> str:
    """A set of images in the paper's manner: "ScanNet-Reflection Val Set", "GlossyRooms Test Set"."""
    return f"{dataset_name(dataset)}{'-' + frames if frames else ''} {split.capitalize()} Set"


def label_name(labels: str, round: int = 1) -> str:
    """A row of Table 6: the paper's words for its own labels, and for others in their manner."""
    name = ABLATION.get(labels, f"pred. depth + proj. depth with {labels}")
    return f"{name}, round {round}" if round > 1 else name


def layout_of(key: str) -> Layout:
    """The layout of a table; a `ConfigError` names all there are."""
    if key not in LAYOUTS:
        raise unknown("table", key, LAYOUTS)
    return LAYOUTS[key]


def make_table(scores: Scores, key: str, arch: str = "monodepth2") -> pd.DataFrame:
    """The tidy frame of one table.

    Args:
        scores: what was evaluated; what has no place in this table is left out.
        key: of `LAYOUTS`.
        arch: the network of Table 6; the paper's figures stand beside its own, Monodepth2, only.

    Returns:
        `COLUMNS`; no row where nothing of this table was evaluated. Within a set the networks and trainings have the
        paper's order, rows beyond the paper come last; the paper's row is under ours.

    Raises:
        ConfigError: no such table.
    """
    layout = layout_of(key)
    rows = []
    for dataset, split, frames, evaluations in _sets(scores, layout):
        lists = scores.lists.get((dataset, split), {})
        if not evaluations or (frames and not _scored(evaluations, lists.get(frames))):
            continue
        theirs = _paper_rows(scores, key, dataset, split, frames, _scored(evaluations, lists.get(frames)))
        name = set_name(dataset, split, frames)
        if layout.scale != "none" and scores.trained_on != dataset:  # Table 5 calls a split otherwise
            name = PAPER_SPLITS.get((dataset, split), name)
        block = {
            "table": key,
            "set": name,
            "dataset": dataset,
            "split": split,
            "list": frames,
            "scale": layout.scale,
        }
        run = {"source": "ours", "trained_on": scores.trained_on, "profile": scores.profile}
        for row_arch, labels, round in _rows(evaluations, layout, arch):
            where = {
                **block,
                "architecture": arch_name(row_arch),
                "training": label_name(labels, round) if layout.ablation else training_name(labels),
                "beyond": layout.ablation and (labels not in ABLATION or round > 1),
            }
            ours = over_seeds(_of(evaluations, row_arch, labels, round), lists[frames] if frames else None)
            rows.append({**where, **run, **ours})
            for _, row in theirs[["architecture", "training", *METRICS]].iterrows():
                if (row["architecture"], row["training"]) == (where["architecture"], where["training"]):
                    rows.append({**where, "source": "paper", **row[list(METRICS)]})
    kinds = {"n": "Int64", "images": "Int64", "beyond": bool, **dict.fromkeys(COLUMNS[15:], float)}
    return pd.DataFrame(rows, columns=COLUMNS).astype(kinds)


def _sets(scores: Scores, layout: Layout) -> Iterator[tuple[str, str, str, list[Evaluation]]]:
    """(data set, split, list, what was evaluated on it) of a table's blocks.

    The data set is the one trained on; for relative depth it is whatever was scored so, the paper's first, or the
    paper's alone where nothing was.
    """
    names = [scores.trained_on]
    if layout.scale != "none":
        there = {e.dataset for e in scores.evaluations if e.scale == layout.scale}
        names = sorted(there, key=lambda d: ((d, "test") not in PAPER_SPLITS, d)) or ["7scenes"]
    for dataset in names:
        for split, frames in layout.sets:
            yield dataset, split, frames, scores.of(dataset, split, layout.scale)


def _rows(evaluations: Sequence[Evaluation], layout: Layout, arch: str) -> list[tuple[str, str, int]]:
    """(arch, labels, round) of a set's rows: the paper's, there or not, then what else there is of its kind."""
    there = list(dict.fromkeys((e.arch, e.labels, e.round) for e in evaluations))
    if layout.ablation:
        own = sorted((t for t in there if t[0] == arch and t[1]), key=lambda t: (t[2], t[1]))
        return list(dict.fromkeys([*((arch, labels, 1) for labels in ABLATION), *own]))
    archs = dict.fromkeys([*ENSEMBLE, *(a for a, _, _ in there)])
    return [(a, labels, 1) for a in archs for labels in TRAININGS]


def _scored(evaluations: Sequence[Evaluation], frames: FrameList | None) -> int:
    """How many images of a list are among those that were scored, the same for all of these evaluations."""
    return len({(scene, frame) for scene, frame, _ in evaluations[0].images} & (frames or frozenset()))


def _of(evaluations: Iterable[Evaluation], arch: str, labels: str, round: int) -> list[Evaluation]:
    """One training's evaluations, a seed each."""
    return [e for e in evaluations if (e.arch, e.labels, e.round) == (arch, labels, round)]


def _paper_rows(scores: Scores, key: str, dataset: str, split: str, frames: str, images: int) -> pd.DataFrame:
    """The paper's rows of a set; none unless data set and images are the paper's own."""
    where = dataset, f"{frames.lower()}_{split}" if frames else split
    # 7-Scenes is the paper's test of what was trained elsewhere
    other = where not in PAPER_SPLITS or not key.isdigit() or (key == "5" and scores.trained_on == dataset)
    if other or not of_the_paper(where[1], images) or _in_part(scores, dataset, split):
        return pd.DataFrame(columns=["split", "architecture", "training", *METRICS])
    paper = paper_tables()
    return paper[(paper["split"] == PAPER_SPLITS[where]) & (paper["table"] == int(key))]


def of_the_paper(split: str, images: int) -> bool:
    """Whether a list of this name has as many images as the paper's; of a whole split, where nobody knows, true."""
    return images == PAPER_IMAGES.get(split, images)


def _in_part(scores: Scores, dataset: str, split: str) -> bool:
    """Whether scenes of a split were not there when it was scored."""
    return any(e.in_part for e in scores.evaluations if (e.dataset, e.split) == (dataset, split))


def _caption(scores: Scores, key: str, frame: pd.DataFrame) -> str:
    """Whose images, how many, by which profile and seeds."""
    layout = layout_of(key)
    ours = frame[frame["source"] == "ours"]
    stand_in = layout.scale == "median" and scores.trained_on in set(ours["dataset"])
    sets = "; ".join(
        f"{name}: {count} images" for name, count in ours.groupby("set", sort=False)["images"].max().items()
    )
    title = (
        f"In the manner of the paper's Table {key}: {layout.title}"
        if key.isdigit()
        else f"Apart: {layout.title}"
    )
    depth = "relative depth (median scaling of each image)" if layout.scale == "median" else "depth in metres"
    network = f"{ours['architecture'].iloc[0]} trained" if layout.ablation else "Trained"
    seeds = ", ".join(map(str, scores.seeds))
    if len(scores.seeds) == 1:
        spread = f"one seed ({seeds})"
    else:
        spread = f"mean ± sample standard deviation over n = {len(scores.seeds)} seeds ({seeds})"
    where = f"{dataset_name(scores.trained_on)}, profile {scores.profile}"
    text = f"{title}. {sets}; {depth}. {network} on {where}; {spread}"
    if stand_in:
        text += f". {dataset_name(scores.trained_on)} is a stand-in: other rooms of the data set trained on"
    for dataset, split in dict.fromkeys(zip(ours["dataset"], ours["split"], strict=True)):
        if _in_part(scores, dataset, split):
            text += f". Not all scenes of {dataset_name(dataset)} {split} were there"
    for name, truth in _truths(scores, layout, set(ours["dataset"])):
        text += f". Ground truth of {name}: {truth}"
    if (frame["source"] == "paper").any():
        text += ". Rows (paper): its printed figures, over all its images of that set"
    return text


def _truths(scores: Scores, layout: Layout, datasets: set[str]) -> list[tuple[str, str]]:
    """(data set, what its depth is) where a data set may come with one kind of depth or another."""
    return sorted(
        {
            (dataset_name(e.dataset), truth)
            for e in scores.evaluations
            if e.dataset in datasets and e.scale == layout.scale
            if (truth := e.provenance.get("evaluation", {}).get("ground_truth"))
        }
    )


def missing(scores: Scores, key: str, arch: str = "monodepth2") -> tuple[str, ...]:
    """What a table lacks, a line each with the command that makes it.

    A set that nobody has begun is one line, and what one command makes for several sets is named with the first.
    """
    layout = layout_of(key)
    lines: dict[str, str] = {}  # by what is to be done
    for dataset, split, frames, evaluations in _sets(scores, layout):
        name = set_name(dataset, split, frames)
        command = partial(_command, scores, layout, dataset, split)
        if not evaluations:
            labels = tuple(ABLATION) if layout.ablation else TRAININGS[1:]
            network = f"--arch {arch}" if layout.ablation else "--archs every"
            lines.setdefault(command(network, labels, 1, scores.seeds), name)
        elif frames and not _scored(evaluations, scores.lists.get((dataset, split), {}).get(frames)):
            lines[f"no image that was scored is on the list {frames} of {split}"] = name
        else:
            for row_arch, labels, round in _rows(evaluations, layout, arch):
                there = {e.seed for e in _of(evaluations, row_arch, labels, round)}
                seeds = [s for s in scores.seeds if s not in there]
                if seeds:
                    training = label_name(labels, round) if layout.ablation else training_name(labels)
                    # whatever the labels, `evaluate` scores the self-supervised network, too
                    what = command(f"--arch {row_arch}", [labels or TRAININGS[1]], round, seeds)
                    lines.setdefault(what, f"{name}, {arch_name(row_arch)}, {training}")
    return tuple(f"{name}: {what}" for what, name in lines.items())


def _command(
    scores: Scores,
    layout: Layout,
    dataset: str,
    split: str,
    network: str,
    labels: Sequence[str],
    round: int,
    seeds: Sequence[int],
) -> str:
    """The command that evaluates one training, and with which other labels and seeds to give it again."""
    words = ["python -m d3d evaluate", f"--profile {scores.profile}", f"--dataset {scores.trained_on}"]
    words += [network, f"--labels {labels[0]}", f"--round {round}" if round > 1 else ""]
    if layout.scale != "none":
        words += [f"--scale {layout.scale}", f"--eval-dataset {dataset}"]
        words.append("--eval-root FOLDER" if dataset != scores.trained_on else "")
    words += [f"--split {split}", f"--seed {seeds[0]}"]
    again = [f"{n} {', '.join(map(str, v[1:]))}" for n, v in (("labels", labels), ("seed", seeds)) if v[1:]]
    return f"`{' '.join(w for w in words if w)}`" + (f" (also {'; '.join(again)})" if again else "")


def paper_table(scores: Scores, key: str, arch: str = "monodepth2") -> Table | None:
    """One table with its caption and what it lacks; None where nothing of it was evaluated.

    Args:
        scores: all that was evaluated.
        key: "2" to "6" or "mirror".
        arch: the network of Table 6.
    """
    frame = make_table(scores, key, arch)
    if not (frame["n"].fillna(0) > 0).any():
        return None
    return Table(key, frame, _caption(scores, key, frame), missing(scores, key, arch))
