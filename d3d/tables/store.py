"""Scores stored in the repository. A fresh clone makes every table from them, without a training.

``results/<data set>-<profile>/`` holds

    index.json       for each file: the evaluation, its sha256 and its provenance
    lists.csv.xz     lists of frames: dataset, split, list, scene, frame
    <data set>-<split>[-median]/
        images.csv.xz                        the rows: scene, frame, pixels, count, and in_split if needed
        <arch>-<training>-seed<N>.csv.xz     the seven metrics of these rows
"""

from __future__ import annotations

import lzma
from pathlib import Path
from typing import Annotated, Any, get_type_hints

import pandas as pd
from pydantic import AfterValidator, ConfigDict, create_model, model_validator

from d3d import io
from d3d.datasets.records import Record, parse
from d3d.datasets.scene import FrameList
from d3d.errors import DataError
from d3d.evaluation import SELF_SUPERVISED, in_split
from d3d.metrics import METRICS
from d3d.pipeline import runs
from d3d.pipeline.config import Config
from d3d.tables.scores import Evaluation, Scores

_IMAGES, _LISTS = "images.csv.xz", "lists.csv.xz"
_KEYS = ["scene", "frame", "pixels"]
_FIELDS = {name: (hint, ...) for name, hint in get_type_hints(Evaluation).items() if name != "per_image"}
_CHECKS = ConfigDict(strict=True, extra="forbid")
_Entry = create_model("_Entry", __config__=_CHECKS, sha256=(str, ...), **_FIELDS)


def _of_version_1(version: int) -> int:
    if version != 1:
        raise ValueError(f"format {version!r} is unknown; this d3d reads format 1")
    return version


class _Index(Record):
    """The contents of ``index.json``. Every file is in the folder, and every evaluation has its images."""

    version: Annotated[Any, AfterValidator(_of_version_1)]
    evaluations: dict[str, _Entry]
    shared: dict[str, str]

    @model_validator(mode="after")
    def _complete(self) -> _Index:
        for name in (*self.evaluations, *self.shared):
            if Path(name).is_absolute() or ".." in Path(name).parts:
                raise ValueError(f"{name!r} is outside the folder")
        needed = {_LISTS, *(str(Path(name).parent / _IMAGES) for name in self.evaluations)}
        if lacking := needed - self.shared.keys():
            raise ValueError(f"it lacks {min(lacking)!r}")
        return self


def results_folder(config: Config) -> Path:
    """``results/<data set>-<profile>`` in the checkout; another loss than the paper's is part of the name."""
    return runs.project_root() / "results" / config.name


def export(scores: Scores, folder: Path) -> list[Path]:
    """Add scores to a folder of stored scores, with four significant digits. The same scores give the same bytes.

    Stored scores of the same training, seed and split are replaced.

    Returns:
        the files written, the index last.

    Raises:
        DataError: these and the stored scores do not belong in one table. Nothing is written.
    """
    index = folder / "index.json"
    if index.is_file():
        stored, ours = read(folder), {_file_name(e) for e in scores.evaluations}
        rest = (e for e in stored.evaluations if _file_name(e) not in ours)
        try:
            scores = Scores((*scores.evaluations, *rest), {**stored.lists, **scores.lists})
        except DataError as error:
            raise DataError(f"{error} To store only the new scores, delete {folder} first.") from error
    entries: dict[str, Any] = {}
    shared: dict[str, pd.DataFrame] = {}
    for e in sorted(scores.evaluations, key=_file_name):
        name = _file_name(e)
        # images and their number of pixels are the same for all evaluations of a split, and stored once
        columns = [*_KEYS, "count", *([] if in_split(e.per_image).all() else ["in_split"])]
        first = shared.setdefault(str(Path(name).parent / _IMAGES), e.per_image[columns])
        ordered = e.per_image.set_index(_KEYS).loc[pd.MultiIndex.from_frame(first[_KEYS])]
        sha256 = _write_csv(folder / name, ordered[list(METRICS)])
        entries[name] = {field: getattr(e, field) for field in _FIELDS} | {"sha256": sha256}
    rows = [
        (*key, name, *frame)
        for key, lists in sorted(scores.lists.items())
        for name, frames in lists.items()
        for frame in sorted(frames)
    ]
    shared[_LISTS] = pd.DataFrame(rows, columns=["dataset", "split", "list", "scene", "frame"])
    digests = {name: _write_csv(folder / name, table) for name, table in shared.items()}
    io.write_json(index, {"version": 1, "evaluations": entries, "shared": digests})
    return [*(folder / name for name in (*entries, *digests)), index]


def _write_csv(path: Path, table: pd.DataFrame) -> str:
    """Write a table, compressed, and return the file's sha256."""
    text = table.to_csv(index=False, float_format="%.4g", lineterminator="\n")
    with io.atomic(path) as temporary:
        temporary.write_bytes(lzma.compress(text.encode(), preset=9 | lzma.PRESET_EXTREME))
    return io.sha256(path)


def _file_name(e: Evaluation) -> str:
    rounds = f"-round{e.round}" if e.round > 1 else ""
    scale = "" if e.scale == "none" else f"-{e.scale}"
    return f"{e.dataset}-{e.split}{scale}/{e.arch}-{e.labels or SELF_SUPERVISED}{rounds}-seed{e.seed}.csv.xz"


def read(folder: Path) -> Scores:
    """Read the scores written by `export`, without a data set or a run.

    Raises:
        DataError: there are no scores, or a file differs from the index.
    """
    path = folder / "index.json"
    try:
        content = path.read_bytes()
    except OSError:
        dataset, _, profile = folder.name.rpartition("-")
        command = f"python -m d3d tables --profile {profile} --dataset {dataset} --seeds 0,1,2 --export"
        raise DataError(f"no stored scores in {folder}: `{command}` writes them.") from None
    index = parse(_Index, content, str(path), "Restore it, or export again.")
    digests = {name: entry.sha256 for name, entry in index.evaluations.items()} | index.shared
    for name, digest in digests.items():
        if not (folder / name).is_file() or io.sha256(folder / name) != digest:
            wrong = f"{folder / name} is missing or differs from {path}"
            raise DataError(f"{wrong}. Restore it, or export again.")
    splits = {Path(name).parent for name in index.evaluations}
    images = {
        split: pd.read_csv(folder / split / _IMAGES, dtype=dict.fromkeys(_KEYS, str)) for split in splits
    }
    evaluations = []
    for name, entry in index.evaluations.items():
        per_image = pd.concat([images[Path(name).parent], pd.read_csv(folder / name)], axis=1)
        evaluations.append(Evaluation(**entry.model_dump(exclude={"sha256"}), per_image=per_image))
    lists: dict[tuple[str, str], dict[str, FrameList]] = {}
    table = pd.read_csv(folder / _LISTS, dtype=str)
    for (dataset, split, name), part in table.groupby(["dataset", "split", "list"], sort=False):
        frames = zip(part["scene"], part["frame"], strict=True)
        lists.setdefault((dataset, split), {})[name] = frozenset(frames)
    return Scores(tuple(evaluations), lists)
