"""The table of one run, the gain of distillation, and means by kind of pixel."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import chain, product
from typing import Any

import pandas as pd

from d3d.datasets.scene import FrameList
from d3d.evaluation import summary, training_name
from d3d.metrics import PIXELS
from d3d.pipeline.config import Config
from d3d.pipeline.settings import UNTRAINED
from d3d.tables.scores import Evaluation, Scores
from d3d.tables.tables2to6 import APART, Layout, make_rows
from d3d.tables.text import markdown_line

UNKNOWN_DATA = "unknown training data"
_TRAINING = ["architecture", "training", "source"]


def table(
    results: Mapping[tuple[str, str], pd.DataFrame],
    dataset: str,
    split: str,
    lists: Mapping[str, FrameList] | None = None,
    pixels: str = "all",
    **about: Any,
) -> pd.DataFrame:
    """Make the table of one run: its evaluations on one split, for the whole split and each list.

    Args:
        results: (arch, labels) -> per-image metrics from `evaluation.score`; labels "" is self-supervised.
        lists: `Dataset.lists` of the split. A list without a scored image has no row.
        pixels: "all", "highlight" or "diffuse".
        **about: further fields of `Evaluation`: seed, profile, trained_on, scale, round, provenance.

    Returns:
        Rows as in `make_table`, the whole split first ("Val" or "Test" in the column ``list``).
    """
    about = {"seed": 0, "profile": "", "trained_on": dataset, "dataset": dataset, "split": split, **about}
    evaluations = tuple(
        # the self-supervised network belongs to round 1
        Evaluation(arch, labels, per_image=per_image, **(about if labels else about | {"round": 1}))
        for (arch, labels), per_image in results.items()
    )
    scores = Scores(evaluations, {(dataset, split): lists or {}})
    sets = tuple((split, name) for name in ("", *(lists or {})))
    frame = make_rows(scores, Layout("", sets, about.get("scale", "none"), grid=False), pixels=pixels)
    return frame.assign(table="", list=frame["list"].replace("", split.capitalize()))


def table_of_method(name: str, per_image: pd.DataFrame, **about: Any) -> pd.DataFrame:
    """Make the rows of another method's predictions as in `table`: unknown training data, and the alignment.

    Args:
        name: name of the method.
        **about: as for `table`; ``scale`` is the alignment, see `metrics.depth_metrics`.
    """
    frame = table({(name, ""): per_image}, **about | {"trained_on": UNKNOWN_DATA})
    ours = frame[frame["source"] == "ours"]  # the paper's networks may have the same name
    return with_alignment(ours.assign(architecture=name, training=UNKNOWN_DATA))


def with_alignment(frame: pd.DataFrame) -> pd.DataFrame:
    """Add the alignment to the column ``training`` of a table: "3D Distillation, aligned: median"."""
    words = (", aligned: " + frame["scale"]).where(frame["scale"] != "none", "")
    return frame.assign(training=frame["training"] + words)


def gains(frame: pd.DataFrame) -> pd.DataFrame:
    """Compute the relative change in Sq Rel of distilled students against the self-taught student (section 4.2).

    Args:
        frame: from `table`.

    Returns:
        architecture, training, source, list, change (-0.5: half the error of self-teaching). No row of a profile that
        does not learn.
    """
    key = ["list", "architecture", "source"]
    frame = frame[~frame["profile"].isin(UNTRAINED) & (frame["trained_on"] != UNKNOWN_DATA)]
    taught = frame[frame["training"] == training_name("pred")]
    students = frame[~frame["training"].isin([training_name("pred"), training_name("")])]
    both = students.merge(taught, on=key, suffixes=("", "_taught"))
    both["change"] = both["sq_rel"] / both["sq_rel_taught"] - 1
    return both[[*_TRAINING, "list", "change"]]


def by_pixels(results: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """Average each training over all, highlight and diffuse pixels; only over all pixels without masks.

    Args:
        results: labels ("" is self-supervised) -> per-image metrics from `evaluation.score`.

    Returns:
        pixels, training, the seven metrics, images.
    """
    rows = [
        {"pixels": kind, "training": training_name(labels), **summary(per_image, kind)}
        for kind, (labels, per_image) in product(PIXELS, results.items())
        if (per_image["pixels"] == kind).any()
    ]
    return pd.DataFrame(rows).astype({"images": int})


def improvement(config: Config, results: Mapping[str, pd.DataFrame]) -> str:
    """Say in one sentence a kind of pixels how the student's Sq Rel compares with its teacher's on unseen scenes.

    Args:
        results: labels ("" is the teacher) -> per-image metrics, as of `stages.results`.
    """
    if not config.learns:
        return f"Profile {config.profile} does not train long enough: its scores are not compared."
    teacher, student = results[""], results[config.labels]
    lines = []
    for kind in PIXELS:
        if not (teacher["pixels"] == kind).any():
            continue
        before, after = summary(teacher, kind), summary(student, kind)
        change = after["sq_rel"] / before["sq_rel"] - 1
        where = {"all": "all pixels", "highlight": "highlights"}.get(kind, f"{kind} pixels")
        lines.append(
            f"{where}: Sq Rel {before['sq_rel']:.3f} m (teacher) -> {after['sq_rel']:.3f} m (student), "
            f"{abs(change):.0%} {'lower' if change < 0 else 'higher'}"
        )
    scenes = teacher["scene"].nunique()
    head = f"On {int(summary(teacher)['images'])} images of {scenes} scenes that neither network has seen:"
    return "\n".join([head, *lines])


def printed(frame: pd.DataFrame) -> str:
    """Format the table of a run for a terminal: a row per training, three columns per list, the gains below."""
    names = frame["list"].unique()
    text = _side_by_side(frame, [n for n in names if n not in APART])
    changes = gains(frame[~frame["list"].isin(APART)])
    text += "\n" if len(changes) else ""
    for (arch, training, source), part in changes.groupby(_TRAINING, sort=False):
        values = ", ".join(f"{n} {100 * c:+.1f} %" for n, c in zip(part["list"], part["change"], strict=True))
        whose = "" if source == "ours" else f" ({source})"
        text += f"Sq Rel of {training} against {training_name('pred')}, {arch}{whose}: {values}\n"
    for name in names:
        if name in APART:
            text += f"\nApart: {APART[name]}\n\n{_side_by_side(frame, [name])}"
    return text


def _side_by_side(frame: pd.DataFrame, lists: Sequence[str]) -> str:
    """Three metrics of some lists side by side, as Markdown in aligned columns."""
    frame = frame[frame["list"].isin(lists)]
    count = frame[frame["source"] == "ours"].groupby("list")["images"].max()
    heads = [[f"{n} ({count[n]}): Abs Rel", "Sq Rel", "RMSE"] for n in lists]
    lines = [["architecture", "training", *chain.from_iterable(heads)]]
    for (arch, training, source), part in frame.groupby(_TRAINING, sort=False):
        values = part.set_index("list").reindex(lists)[["abs_rel", "sq_rel", "rmse"]].to_numpy().ravel()
        first = [arch, training if source == "ours" else f"{training} ({source})"]
        lines.append([*first, *("–" if pd.isna(v) else f"{v:.3f}" for v in values)])
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    lines.insert(1, ["-" * width if k < 2 else "-" * (width - 1) + ":" for k, width in enumerate(widths)])
    formats = [f"{'<' if k < 2 else '>'}{width}" for k, width in enumerate(widths)]
    return "".join(f"{markdown_line(map(format, line, formats))}\n" for line in lines)
