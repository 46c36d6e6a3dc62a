"""Scores stored in the repository: what a fresh clone needs to make every table without a training.

``results/<data set>-<profile>/`` holds

    index.json       the evaluation that each file belongs to, its sha256 and its provenance
    lists.csv.xz     lists of frames: dataset, split, list, scene, frame
    <data set>-<split>[-median]/
        images.csv.xz                        the rows: scene, frame, pixels, count, and in_split where it is needed
        <arch>-<training>-seed<N>.csv.xz     the seven metrics of these rows
"""

from __future__ import annotations

import json
import lzma
from dataclasses import fields
from pathlib import Path
from typing import Any

import pandas as pd

from d3d import io
from d3d.datasets.scene import FrameList
from d3d.errors import DataError
from d3d.evaluation import SELF_SUPERVISED, in_split
from d3d.metrics import METRICS
from d3d.pipeline import runs
from d3d.pipeline.config import Config
from d3d.tables.scores import Evaluation, Scores

_IMAGES, _LISTS = "images.csv.xz", "lists.csv.xz"
_KEYS = ["scene", "frame", "pixels", "count"]
_NAMES = {"scene": str, "frame": str}


def results_folder(config: Config) -> Path:
    """``results/<data set>-<profile>`` in the checkout."""
    return runs.project_root() / "results" / f"{config.data.dataset}-{config.profile}"


def export(scores: Scores, folder: Path) -> list[Path]:
    """Add scores to a folder of stored scores, with four significant digits. The same scores give the same bytes.

    Args:
        scores: from `gather`. They replace stored scores of the same training, seed and split.
        folder: see `results_folder`; created if it does not exist.

    Returns:
        the files written, the index last.

    Raises:
        DataError: these and the stored scores do not belong in one table. Nothing is written.
    """
    stored = read(folder) if (folder / "index.json").is_file() else None
    if stored is not None:
        ours = {_file_name(e) for e in scores.evaluations}
        rest = (e for e in stored.evaluations if _file_name(e) not in ours)
        scores = Scores((*scores.evaluations, *rest), {**stored.lists, **scores.lists})
    entries: dict[str, Any] = {}
    images: dict[str, pd.DataFrame] = {}
    paths = []
    for e in sorted(scores.evaluations, key=_file_name):
        name = _file_name(e)
        # images and their number of pixels are the same for all evaluations of a split, and stored once
        keys = _KEYS if in_split(e.per_image).all() else [*_KEYS, "in_split"]
        first = images.setdefault(str(Path(name).parent / _IMAGES), e.per_image[keys])
        keys = _KEYS[:3]
        ordered = e.per_image.set_index(keys).loc[pd.MultiIndex.from_frame(first[keys])]
        paths.append(_write_csv(folder / name, ordered[list(METRICS)]))
        settings = {k: v for k, v in vars(e).items() if k not in ("per_image", "provenance")}
        entries[name] = {**settings, "sha256": io.sha256(folder / name), "provenance": dict(e.provenance)}
    paths += [_write_csv(folder / name, table) for name, table in images.items()]
    rows = [
        (*key, name, scene, frame)
        for key, lists in sorted(scores.lists.items())
        for name, frames in lists.items()
        for scene, frame in sorted(frames)
    ]
    lists = pd.DataFrame(rows, columns=["dataset", "split", "list", "scene", "frame"])
    paths.append(_write_csv(folder / _LISTS, lists))
    shared = {str(p.relative_to(folder)): io.sha256(p) for p in paths if p.name in (_IMAGES, _LISTS)}
    io.write_json(folder / "index.json", {"version": 1, "evaluations": entries, "shared": shared})
    return [*paths, folder / "index.json"]


def _write_csv(path: Path, table: pd.DataFrame) -> Path:
    text = table.to_csv(index=False, float_format="%.4g", lineterminator="\n")
    with io.atomic(path) as temporary:
        temporary.write_bytes(lzma.compress(text.encode(), preset=9 | lzma.PRESET_EXTREME))
    return path


def _file_name(e: Evaluation) -> str:
    rounds = f"-round{e.round}" if e.round > 1 else ""
    scale = "" if e.scale == "none" else f"-{e.scale}"
    return f"{e.dataset}-{e.split}{scale}/{e.arch}-{e.labels or SELF_SUPERVISED}{rounds}-seed{e.seed}.csv.xz"


def read(folder: Path) -> Scores:
    """Read the scores that `export` wrote; needs neither data set nor run.

    Raises:
        DataError: there are none, or a file is not the one that the index describes.
    """
    index = _index(folder)
    expected = {n: e["sha256"] for n, e in index["evaluations"].items()} | index["shared"]
    for name, digest in expected.items():
        if not (folder / name).is_file() or io.sha256(folder / name) != digest:
            raise DataError(
                f"{folder / name} is missing or not what {folder / 'index.json'} says. Restore it, or export again."
            )
    images = {
        str(Path(name).parent): pd.read_csv(folder / name, dtype=_NAMES)
        for name in index["shared"]
        if Path(name).name == _IMAGES
    }
    evaluations = []
    for name, entry in index["evaluations"].items():
        values = {k: v for k, v in entry.items() if k != "sha256"}
        per_image = pd.concat([images[str(Path(name).parent)], pd.read_csv(folder / name)], axis=1)
        evaluations.append(Evaluation(**values, per_image=per_image))
    lists: dict[tuple[str, str], dict[str, FrameList]] = {}
    table = pd.read_csv(folder / _LISTS, dtype=str)
    for (dataset, split, name), part in table.groupby(["dataset", "split", "list"], sort=False):
        lists.setdefault((dataset, split), {})[name] = frozenset(
            zip(part["scene"], part["frame"], strict=True)
        )
    return Scores(tuple(evaluations), lists)


def _index(folder: Path) -> dict[str, Any]:
    path = folder / "index.json"
    if not path.is_file():
        raise DataError(
            f"no stored scores in {folder}: `python -m d3d tables --seeds 0,1,2 --export` writes them."
        )
    try:
        index = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{path}: not readable as JSON ({error}). Restore it, or export again.") from error
    version = index.get("version") if isinstance(index, dict) else None
    if version != 1:
        raise DataError(f"{path} is of format {version!r}; this d3d reads format 1.")
    if not _is_index(index):
        raise DataError(f"{path}: not an index of stored scores, or damaged. Restore it, or export again.")
    return index


def _is_index(index: dict[str, Any]) -> bool:
    """Whether an index has every entry that `read` needs, and names no file outside its folder."""
    evaluations, shared = index.get("evaluations"), index.get("shared")
    if not isinstance(evaluations, dict) or not isinstance(shared, dict):
        return False
    # the fields of the class, except the scores, which are in a file
    kinds = {f.name: {"str": str, "int": int}.get(f.type, dict) for f in fields(Evaluation)}
    kinds = {name: kind for name, kind in kinds.items() if name != "per_image"} | {"sha256": str}
    images = {str(Path(name).parent) for name in shared if Path(name).name == _IMAGES}
    return (
        all(isinstance(entry, dict) and entry.keys() == kinds.keys() for entry in evaluations.values())
        and all(type(e[name]) is kind for e in evaluations.values() for name, kind in kinds.items())
        and all(isinstance(digest, str) for digest in shared.values())
        and all(str(Path(name).parent) in images for name in evaluations)
        and _LISTS in shared
        and not any(Path(n).is_absolute() or ".." in Path(n).parts for n in (*evaluations, *shared))
    )
