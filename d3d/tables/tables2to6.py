"""Tables 2 to 6 (section 4): rows, columns, captions, and missing cells."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import product
from typing import NamedTuple

import pandas as pd

from d3d.datasets.scene import FrameList
from d3d.errors import unknown
from d3d.evaluation import arch_name, summary, training_name
from d3d.metrics import METRICS
from d3d.pipeline.config import ENSEMBLE
from d3d.tables.paper import (
    ABLATION,
    PAPER_SPLITS,
    RECOMMENDED,
    TRAININGS,
    dataset_name,
    label_name,
    paper_rows,
    set_name,
)
from d3d.tables.scores import Evaluation, Scores, over_seeds

# Lists of images with a separate table, and the reason
APART = {"Mirror": "images of mirrors, which the paper leaves unsolved"}


@dataclass(frozen=True)
class Layout:
    """The layout of a table."""

    title: str  # for the caption
    sets: tuple[tuple[str, str], ...]  # (split, list of frames; "" for the whole split) of each block
    scale: str = "none"  # "median" for relative depth
    ablation: bool = False  # a row for each label of one network; otherwise for each network and training
    grid: bool = True  # rows for all trainings of the paper; otherwise only for evaluated trainings

    def training(self, labels: str, round: int) -> str:
        """The paper's words for a row's training."""
        return label_name(labels, round) if self.ablation else training_name(labels)


LAYOUTS = {
    "2": Layout("main results", (("val", ""), ("test", ""))),
    "3": Layout("images that show reflections", (("val", "Reflection"), ("test", "Reflection"))),
    "4": Layout("images that show no reflection", (("val", "NoReflection"),)),
    "5": Layout("another data set", (("test", ""),), scale="median"),
    "6": Layout("ablation of the training labels", (("val", ""), ("val", "Reflection")), ablation=True),
    "mirror": Layout(APART["Mirror"], (("val", "Mirror"), ("test", "Mirror"))),
}

_NUMBERS = [*METRICS, *(f"{m}_std" for m in METRICS)]
COLUMNS = [
    *("table", "set", "dataset", "split", "list", "scale", "architecture", "training", "beyond", "source"),
    *("trained_on", "profile", "seeds", "n", "images", *_NUMBERS),
]


@dataclass(frozen=True)
class Table:
    """One table, ready for printing."""

    key: str  # key of `LAYOUTS`: "2" to "6" for the paper's tables, "mirror" for images of mirrors
    frame: pd.DataFrame  # from `make_table`
    caption: str  # without a full stop at its end
    missing: tuple[str, ...] = ()  # from `missing`


class _Block(NamedTuple):
    """A set of images in a table."""

    dataset: str
    split: str
    list_name: str  # "" is the whole split
    evaluations: Sequence[Evaluation]
    frames: FrameList | None  # frames of the list, empty for an unknown list; None for the whole split
    images: int  # number of scored images, the same in all evaluations of a split

    @property
    def name(self) -> str:
        return set_name(self.dataset, self.split, self.list_name)


def make_table(scores: Scores, key: str, arch: str = "monodepth2") -> pd.DataFrame:
    """Make the rows of one table.

    Args:
        scores: all evaluations; evaluations of other tables are ignored.
        key: a key of `LAYOUTS`.
        arch: the network of Table 6. Only Monodepth2 has rows of the paper there.

    Returns:
        One row for each set of images, network, training and source ("ours", "paper"), with `COLUMNS`. In a missing
        row of ours, n is 0 and the metrics are NaN. Rows follow the paper's order; rows beyond the paper come last.
        The paper's row follows ours. Empty if nothing of this table was evaluated.

    Raises:
        ConfigError: the key is unknown.
    """
    if key not in LAYOUTS:
        raise unknown("table", key, LAYOUTS)
    return make_rows(scores, LAYOUTS[key], arch).assign(table=key)


def make_rows(scores: Scores, layout: Layout, arch: str = "monodepth2", pixels: str = "all") -> pd.DataFrame:
    """Make the rows of a layout with `COLUMNS`: a block for each of its sets with a scored image."""
    rows = []
    run = {"source": "ours", "trained_on": scores.trained_on, "profile": scores.profile}
    for block in _blocks(scores, layout, pixels):
        if not block.images:
            continue
        dataset, split, listed = block[:3]
        paper = paper_rows(*block[:3], block.images, layout.scale, scores.trained_on, layout.ablation)
        # Table 5 has another name for its split
        relative = layout.scale != "none" and scores.trained_on != dataset and not listed
        name = PAPER_SPLITS.get((dataset, split), block.name) if relative else block.name
        about = {"set": name, "dataset": dataset, "split": split, "list": listed, "scale": layout.scale}
        for (row_arch, labels, round), evaluations in _trainings(block, layout, arch).items():
            row = about | {"architecture": arch_name(row_arch), "training": layout.training(labels, round)}
            row["beyond"] = layout.ablation and (labels not in ABLATION or round > 1)
            rows.append({**row, **run, **over_seeds(evaluations, block.frames, pixels)})
            if pixels != "all" or round > 1 or scores.in_part(dataset, split):
                continue
            same = (paper[["architecture", "training"]] == [row["architecture"], row["training"]]).all(axis=1)
            rows += [{**row, "source": "paper", **p} for p in paper[same][[*METRICS]].to_dict("records")]
    types = {"n": "Int64", "images": "Int64", "beyond": bool, **dict.fromkeys(_NUMBERS, float)}
    return pd.DataFrame(rows, columns=COLUMNS).astype(types)


def _blocks(scores: Scores, layout: Layout, pixels: str = "all") -> Iterator[_Block]:
    """The sets of images of a table, including sets without an evaluation.

    They belong to the training data set. For relative depth they belong to every data set with such scores, the
    paper's first; without scores, to the paper's data set.
    """
    names = [scores.trained_on]
    if layout.scale != "none" or not layout.grid:
        there = {e.dataset for e in scores.evaluations if e.scale == layout.scale}
        names = sorted(there, key=lambda d: ((d, "test") not in PAPER_SPLITS, d)) or ["7scenes"]
    for dataset, (split, listed) in product(names, layout.sets):
        at = (dataset, split, layout.scale)
        evaluations = [e for e in scores.evaluations if (e.dataset, e.split, e.scale) == at]
        frames = scores.lists.get((dataset, split), {}).get(listed, frozenset()) if listed else None
        images = summary(evaluations[0].per_image, pixels, frames)["images"] if evaluations else 0
        yield _Block(dataset, split, listed, evaluations, frames, int(images))


def _trainings(block: _Block, layout: Layout, arch: str) -> dict[tuple[str, str, int], list[Evaluation]]:
    """Map (arch, labels, round) of each row to its evaluations, the paper's rows first, evaluated or not."""
    there: dict[tuple[str, str, int], list[Evaluation]] = {}
    for e in block.evaluations:
        there.setdefault((e.arch, e.labels, e.round), []).append(e)
    if not layout.grid:
        return there
    if layout.ablation:
        own = sorted((t for t in there if t[0] == arch and t[1]), key=lambda t: (t[2], t[1]))
        wanted = [*((arch, labels, 1) for labels in ABLATION), *own]
    else:
        archs = dict.fromkeys([*ENSEMBLE, *(a for a, _, _ in there)])
        rows = product(archs, (*TRAININGS, RECOMMENDED), (1,))
        wanted = (t for t in rows if t[1] in TRAININGS or t in there)
    return {training: there.get(training, []) for training in wanted}


def paper_table(scores: Scores, key: str, arch: str = "monodepth2") -> Table | None:
    """Make a table with its caption and its missing cells; None if nothing of it was evaluated."""
    frame = make_table(scores, key, arch)
    if not (frame["n"].fillna(0) > 0).any():
        return None
    return Table(key, frame, _caption(scores, key, frame), missing(scores, key, arch))


def _caption(scores: Scores, key: str, frame: pd.DataFrame) -> str:
    """Data sets, number of images, profile, seeds and ground truth of a table."""
    layout, ours = LAYOUTS[key], frame[frame["source"] == "ours"]
    title = "Apart" if key == "mirror" else f"In the manner of the paper's Table {key}"
    counts = ours.groupby("set", sort=False)["images"].max().items()
    sets = "; ".join(f"{name}: {count} images" for name, count in counts)
    depth = "relative depth (median scaling of each image)" if layout.scale == "median" else "depth in metres"
    network = f"{ours['architecture'].iloc[0]} trained" if layout.ablation else "Trained"
    n, trained_on = len(scores.seeds), dataset_name(scores.trained_on)
    spread = f"mean ± sample standard deviation over n = {n} seeds" if n > 1 else "one seed"
    spread += f" ({', '.join(map(str, scores.seeds))})"
    sentences = [f"{title}: {layout.title}", f"{sets}; {depth}"]
    sentences.append(f"{network} on {trained_on}, profile {scores.profile}; {spread}")
    if layout.scale == "median" and scores.trained_on in set(ours["dataset"]):
        sentences.append(f"{trained_on} is a stand-in: other rooms of the data set trained on")
    for dataset, split in dict.fromkeys(zip(ours["dataset"], ours["split"], strict=True)):
        if scores.in_part(dataset, split):
            sentences.append(f"Not all images of {dataset_name(dataset)} {split} were scored")
    shown = [e for e in scores.evaluations if e.dataset in set(ours["dataset"]) and e.scale == layout.scale]
    truths = {
        (dataset_name(e.dataset), e.provenance.get("evaluation", {}).get("ground_truth")) for e in shown
    }
    sentences += sorted(f"Ground truth of {name}: {truth}" for name, truth in truths if truth)
    if (frame["source"] == "paper").any():
        sentences.append("Rows (paper): its printed figures, over all its images of that set")
    return ". ".join(sentences)


def missing(scores: Scores, key: str, arch: str = "monodepth2") -> tuple[str, ...]:
    """List the missing cells of a table with their commands. A set without an evaluation is one line."""
    layout = LAYOUTS[key]
    lines: dict[str, str] = {}  # what to do -> for which cell
    for block in _blocks(scores, layout):
        command = partial(_command, scores, layout.scale, block)
        if not block.evaluations:
            labels = tuple(ABLATION) if layout.ablation else TRAININGS[1:]
            network = f"--arch {arch}" if layout.ablation else f"--archs {','.join(ENSEMBLE)}"
            lines.setdefault(command(network, labels, 1, scores.seeds), block.name)
        elif block.list_name and not block.images:
            lines[f"no scored image is on the list {block.list_name} of {block.split}"] = block.name
        else:
            for (row_arch, labels, round), evaluations in _trainings(block, layout, arch).items():
                if seeds := sorted(set(scores.seeds) - {e.seed for e in evaluations}):
                    # for all labels, `evaluate` also scores the self-supervised network
                    what = command(f"--arch {row_arch}", [labels or TRAININGS[1]], round, seeds)
                    cell = f"{block.name}, {arch_name(row_arch)}, {layout.training(labels, round)}"
                    lines.setdefault(what, cell)
    return tuple(f"{name}: {what}" for what, name in lines.items())


def _command(
    scores: Scores,
    scale: str,
    block: _Block,
    network: str,
    labels: Sequence[str],
    round: int,
    seeds: Sequence[int],
) -> str:
    """The command that evaluates one training, with further labels and seeds in brackets."""
    words = ["python -m d3d evaluate", f"--profile {scores.profile}", f"--dataset {scores.trained_on}"]
    words += [network, f"--labels {labels[0]}", f"--round {round}" if round > 1 else ""]
    if scale != "none":
        words += [f"--scale {scale}", f"--eval-dataset {block.dataset}"]
        words.append("--eval-root FOLDER" if block.dataset != scores.trained_on else "")
    words += [f"--split {block.split}", f"--seed {seeds[0]}"]
    again = [f"{n} {', '.join(map(str, v[1:]))}" for n, v in (("labels", labels), ("seed", seeds)) if v[1:]]
    return f"`{' '.join(w for w in words if w)}`" + (f" (also {'; '.join(again)})" if again else "")
