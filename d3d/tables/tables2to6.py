"""Tables 2 to 6 (section 4): which rows and columns they have, their captions, what they lack."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import pandas as pd

from d3d.datasets.scene import FrameList
from d3d.errors import unknown
from d3d.evaluation import arch_name, summary, training_name
from d3d.metrics import METRICS
from d3d.pipeline.config import ENSEMBLE
from d3d.tables.paper import (
    ABLATION,
    PAPER_SPLITS,
    TRAININGS,
    dataset_name,
    label_name,
    paper_rows,
    set_name,
)
from d3d.tables.scores import Evaluation, Scores, over_seeds

# Lists of images that have a table of their own, and why
APART = {"Mirror": "images of mirrors, which the paper leaves unsolved"}


@dataclass(frozen=True)
class Layout:
    """What a table shows.

    Attributes:
        title: what it is about, for the caption.
        sets: (split, list of frames; "" is the whole split) of each block.
        scale: "median" is relative depth.
        ablation: a row for each label of one network. Otherwise a row for each network and training.
        grid: rows for all trainings of the paper, evaluated or not. Otherwise for all that was evaluated.
    """

    title: str
    sets: tuple[tuple[str, str], ...]
    scale: str = "none"
    ablation: bool = False
    grid: bool = True


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
    *("trained_on", "profile", "seeds", "n", "images"),
    *_NUMBERS,
]


@dataclass(frozen=True)
class Table:
    """One table, ready to be printed.

    Attributes:
        key: a key of `LAYOUTS`: "2" to "6" for the paper's tables, "mirror" for the images that stand apart.
        frame: one row for each set of images, network, training and source ("ours", "paper"), with `COLUMNS`. In a
            row of ours that was not evaluated n is 0 and the metrics are NaN.
        caption: data set, images, profile, seeds; without a full stop at its end.
        missing: what was not evaluated, and the command that does it, a line each.
    """

    key: str
    frame: pd.DataFrame
    caption: str
    missing: tuple[str, ...] = ()


def make_table(scores: Scores, key: str, arch: str = "monodepth2") -> pd.DataFrame:
    """Make the rows of one table.

    Args:
        scores: everything that was evaluated; evaluations that have no place in this table are left out.
        key: a key of `LAYOUTS`.
        arch: the network of Table 6. The paper's ablation is of Monodepth2 and stands beside no other network.

    Returns:
        `COLUMNS`; empty if nothing of this table was evaluated. Within a set, networks and trainings have the paper's
        order and rows beyond the paper come last. The paper's row stands under ours.

    Raises:
        ConfigError: no such table.
    """
    if key not in LAYOUTS:
        raise unknown("table", key, LAYOUTS)
    return make_rows(scores, LAYOUTS[key], arch).assign(table=key)


def make_rows(scores: Scores, layout: Layout, arch: str = "monodepth2", pixels: str = "all") -> pd.DataFrame:
    """Make the rows of a layout: `COLUMNS`, a block for each of its sets of which an image was scored."""
    rows = []
    run = {"source": "ours", "trained_on": scores.trained_on, "profile": scores.profile}
    for dataset, split, frames, evaluations, listed, images in _sets(scores, layout, pixels):
        if not images:
            continue
        paper = paper_rows(dataset, split, frames, images, layout.scale, scores.trained_on, layout.ablation)
        name = set_name(dataset, split, frames)
        if layout.scale != "none" and scores.trained_on != dataset and not frames:
            # Table 5 has another name for its split
            name = PAPER_SPLITS.get((dataset, split), name)
        block = {"set": name, "dataset": dataset, "split": split, "list": frames, "scale": layout.scale}
        for row_arch, labels, round in _rows(evaluations, layout, arch):
            training = label_name(labels, round) if layout.ablation else training_name(labels)
            row = {**block, "architecture": arch_name(row_arch), "training": training}
            row["beyond"] = layout.ablation and (labels not in ABLATION or round > 1)
            ours = over_seeds(_of(evaluations, row_arch, labels, round), listed, pixels)
            rows.append({**row, **run, **ours})
            if pixels != "all" or round > 1 or scores.in_part(dataset, split):
                continue
            same = (paper["architecture"] == row["architecture"]) & (paper["training"] == training)
            rows += [{**row, "source": "paper", **p} for p in paper[same][list(METRICS)].to_dict("records")]
    types = {"n": "Int64", "images": "Int64", "beyond": bool, **dict.fromkeys(_NUMBERS, float)}
    return pd.DataFrame(rows, columns=COLUMNS).astype(types)


def _sets(
    scores: Scores, layout: Layout, pixels: str = "all"
) -> Iterator[tuple[str, str, str, list[Evaluation], FrameList | None, int]]:
    """Yield data set, split, list, evaluations, the list's (scene, frame) and the number of images of each block.

    The frames are None for the whole split and empty for an unknown list. The number of images is the same for all
    evaluations of a split, 0 if there is none. The data set is the one trained on; for relative depth it is every
    data set that was scored so, the paper's first, or the paper's alone if there is none.
    """
    names = [scores.trained_on]
    if layout.scale != "none" or not layout.grid:
        there = {e.dataset for e in scores.evaluations if e.scale == layout.scale}
        names = sorted(there, key=lambda d: ((d, "test") not in PAPER_SPLITS, d)) or ["7scenes"]
    for dataset in names:
        for split, frames in layout.sets:
            evaluations = scores.of(dataset, split, layout.scale)
            listed = scores.lists.get((dataset, split), {}).get(frames, frozenset()) if frames else None
            images = summary(evaluations[0].per_image, pixels, listed)["images"] if evaluations else 0
            yield dataset, split, frames, evaluations, listed, int(images)


def _rows(evaluations: Sequence[Evaluation], layout: Layout, arch: str) -> list[tuple[str, str, int]]:
    """(arch, labels, round) of a set's rows: the paper's, evaluated or not, then others of the same kind."""
    there = list(dict.fromkeys((e.arch, e.labels, e.round) for e in evaluations))
    if not layout.grid:
        return there
    if layout.ablation:
        own = sorted((t for t in there if t[0] == arch and t[1]), key=lambda t: (t[2], t[1]))
        return list(dict.fromkeys([*((arch, labels, 1) for labels in ABLATION), *own]))
    archs = dict.fromkeys([*ENSEMBLE, *(a for a, _, _ in there)])
    return [(a, labels, 1) for a in archs for labels in TRAININGS]


def _of(evaluations: Sequence[Evaluation], arch: str, labels: str, round: int) -> list[Evaluation]:
    """One training's evaluations, a seed each."""
    return [e for e in evaluations if (e.arch, e.labels, e.round) == (arch, labels, round)]


def paper_table(scores: Scores, key: str, arch: str = "monodepth2") -> Table | None:
    """Make one table with its caption and what it lacks; None if nothing of it was evaluated.

    Args:
        scores: everything that was evaluated.
        key: "2" to "6" or "mirror".
        arch: the network of Table 6.
    """
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
    seeds, trained_on = ", ".join(map(str, scores.seeds)), dataset_name(scores.trained_on)
    if (n := len(scores.seeds)) > 1:
        spread = f"mean ± sample standard deviation over n = {n} seeds ({seeds})"
    else:
        spread = f"one seed ({seeds})"
    sentences = [f"{title}: {layout.title}", f"{sets}; {depth}"]
    sentences.append(f"{network} on {trained_on}, profile {scores.profile}; {spread}")
    if layout.scale == "median" and scores.trained_on in set(ours["dataset"]):
        sentences.append(f"{trained_on} is a stand-in: other rooms of the data set trained on")
    for dataset, split in dict.fromkeys(zip(ours["dataset"], ours["split"], strict=True)):
        if scores.in_part(dataset, split):
            sentences.append(f"Not all images of {dataset_name(dataset)} {split} were scored")
    truths = {
        f"Ground truth of {dataset_name(e.dataset)}: {truth}"
        for e in scores.evaluations
        if e.dataset in set(ours["dataset"]) and e.scale == layout.scale
        if (truth := e.provenance.get("evaluation", {}).get("ground_truth"))
    }
    sentences += sorted(truths)
    if (frame["source"] == "paper").any():
        sentences.append("Rows (paper): its printed figures, over all its images of that set")
    return ". ".join(sentences)


def missing(scores: Scores, key: str, arch: str = "monodepth2") -> tuple[str, ...]:
    """List what a table lacks, a line each with the command that makes it.

    A set without any evaluation is one line. A command that fills cells of several sets is given with the first.
    """
    layout = LAYOUTS[key]
    lines: dict[str, str] = {}  # what to do -> for which cell
    for dataset, split, frames, evaluations, _, images in _sets(scores, layout):
        name = set_name(dataset, split, frames)
        command = partial(_command, scores, layout, dataset, split)
        if not evaluations:
            labels = tuple(ABLATION) if layout.ablation else TRAININGS[1:]
            network = f"--arch {arch}" if layout.ablation else "--archs every"
            lines.setdefault(command(network, labels, 1, scores.seeds), name)
        elif frames and not images:
            lines[f"no image that was scored is on the list {frames} of {split}"] = name
        else:
            for row_arch, labels, round in _rows(evaluations, layout, arch):
                there = {e.seed for e in _of(evaluations, row_arch, labels, round)}
                if seeds := [s for s in scores.seeds if s not in there]:
                    training = label_name(labels, round) if layout.ablation else training_name(labels)
                    # with any labels, `evaluate` scores the self-supervised network, too
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
    """The command that evaluates one training, and the further labels and seeds to repeat it with."""
    words = ["python -m d3d evaluate", f"--profile {scores.profile}", f"--dataset {scores.trained_on}"]
    words += [network, f"--labels {labels[0]}", f"--round {round}" if round > 1 else ""]
    if layout.scale != "none":
        words += [f"--scale {layout.scale}", f"--eval-dataset {dataset}"]
        words.append("--eval-root FOLDER" if dataset != scores.trained_on else "")
    words += [f"--split {split}", f"--seed {seeds[0]}"]
    again = [f"{n} {', '.join(map(str, v[1:]))}" for n, v in (("labels", labels), ("seed", seeds)) if v[1:]]
    return f"`{' '.join(w for w in words if w)}`" + (f" (also {'; '.join(again)})" if again else "")
