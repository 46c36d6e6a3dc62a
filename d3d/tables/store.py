"""Scores gathered from runs, and kept small: what a fresh clone needs to make every table without a training.

``results/<data set>-<profile>/`` holds

    index.json       what each file is of, its sha256, and what made it
    lists.csv.xz     lists of frames: dataset, split, list, scene, frame
    <data set>-<split>[-median]/
        images.csv.xz                        what was scored: scene, frame, pixels, count
        <arch>-<training>-seed<N>.csv.xz     its seven metrics, row by row
"""

from __future__ import annotations

import hashlib
import json
import lzma
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

import pandas as pd

from d3d import io
from d3d.datasets.scene import FrameList
from d3d.errors import ConfigError, DataError, RunError
from d3d.evaluation import SELF_SUPERVISED
from d3d.metrics import METRICS
from d3d.pipeline import runs, scenes
from d3d.pipeline.config import Config, EvalConfig, keyframes_name, stage_config
from d3d.tables.paper import Table, missing, paper_table
from d3d.tables.scores import Evaluation, Scores, check

_IMAGES, _LISTS = "images.csv.xz", "lists.csv.xz"
_KEYS = ["scene", "frame", "pixels", "count"]
_NAMES = {"scene": str, "frame": str}
# What of a provenance is kept: enough to do it again and to judge its cost
_KEPT = (
    "command",
    "git",
    "dirty",
    "versions",
    "seed",
    "machine",
    "threads",
    "peak_memory_mb",
    "ground_truth",
    "in_part",
    "seconds",
    "time",
)


def gather(configs: Sequence[Config]) -> Scores:
    """Everything that these runs have evaluated, on any split and data set; computes nothing.

    Args:
        configs: one a seed, alike otherwise.

    Raises:
        ConfigError: they differ in more than the seed.
        RunError: a run's evaluation was made with another configuration or is damaged.
        DataError: nothing was evaluated, or not everything on the same images.
    """
    if not configs:
        raise ConfigError("no run to gather scores from.")
    first = _but_seed(configs[0])
    for config in configs[1:]:
        lines = runs.differences(_but_seed(config), first)
        if lines:
            raise ConfigError(
                f"runs of {_name(configs[0])} and {_name(config)} differ in more than the seed, so that no mean "
                f"over them means anything:\n  " + "\n  ".join(lines[:6])
            )
    evaluations = [e for config in configs for e in _of_run(config)]
    if not evaluations:
        raise DataError(
            f"no evaluation in {', '.join(str(runs.run_folder(c)) for c in configs)}: run `python -m d3d evaluate` "
            f"first."
        )
    check(evaluations)
    own = sorted({(e.dataset, e.split) for e in evaluations if e.dataset == e.trained_on})
    # with the user's lists, where there are any and they are of the data set trained on
    same = configs[0].evaluation.dataset is None
    opened = scenes.evaluated_dataset(configs[0]) if same else scenes.dataset(configs[0])
    lists = {key: opened.lists(key[1]) for key in own}
    return Scores(tuple(evaluations), {key: value for key, value in lists.items() if value})


def of_run(config: Config, key: str) -> Table:
    """One table of the paper from what one run has evaluated; Table 6 of its network.

    Raises:
        DataError: nothing of this table was evaluated; with the commands that do it.
    """
    scores = gather([config])
    table = paper_table(scores, key, config.arch)
    if table is None:
        todo = "\n  ".join(missing(scores, key, config.arch))
        raise DataError(f"nothing of table {key} is in {runs.run_folder(config)}. It needs\n  {todo}")
    return table


def _name(config: Config) -> str:
    return f"profile {config.profile}, seed {config.seed}"


def _but_seed(config: Config) -> dict[str, Any]:
    """What runs of several seeds must share."""
    values = asdict(replace(config, seed=0, run="", runs_dir=None, device=""))
    # of each evaluation that is found, its own
    for name in ("arch", "labels", "strategies", "round", "evaluation", "base"):
        del values[name]
    return values


def _of_run(config: Config) -> list[Evaluation]:
    """The evaluations of one run and, where it has a base, those of the base that are this run's own."""
    own = runs.run_folder(config)
    bases = [runs.run_folder(replace(config, run=config.base))] if config.base else []
    found: dict[Path, Evaluation] = {}
    for run in (own, *bases):
        for done in sorted((run / "evaluate").glob("*/*/*/DONE")):
            path = done.parent.relative_to(run)
            if path in found or _keyframes(done.parent) != keyframes_name(config.evaluation):
                continue  # of other frames of the same split: they do not belong in one table
            evaluation, lines = _read(config, done.parent)
            if not lines:
                found[path] = evaluation
            elif run == own:
                raise RunError(
                    f"{done.parent} was evaluated with another configuration than {_name(config)} has:\n  "
                    + "\n  ".join(lines[:6])
                    + "\nGive the parameters of that run, or evaluate it again."
                )
    return list(found.values())


def _keyframes(folder: Path) -> str:
    """The list whose frames alone were evaluated, by its name; "" where all were."""
    return io.read_json(folder / "config.json")["config"]["evaluation"].get("keyframes", "")


def _read(config: Config, folder: Path) -> tuple[Evaluation, list[str]]:
    """A finished evaluation, and in what its configuration differs from the one it should have."""
    arch, training, _ = folder.parts[-3:]
    labels, _, number = re.fullmatch(r"(.+?)(-round(\d+))?", training).groups()
    labels = "" if labels == SELF_SUPERVISED else labels
    stored = io.read_json(folder / "config.json")["config"]
    ours = replace(
        config,
        round=int(number or 1),
        # those of the round before, which were this round's teachers
        labels=stored["teacher"]["labels"] if "teacher" in stored else config.labels,
        evaluation=EvalConfig(**stored["evaluation"]),
    )
    expected = stage_config(ours, "evaluate", arch, labels)
    lines = runs.differences(expected, stored)
    csv = folder / "per_image.csv"
    if not csv.is_file() or io.sha256(csv) != io.read_json(folder / "DONE")["outputs"].get(csv.name):
        raise RunError(f"{csv} is not what its evaluation left there. Delete {folder} and evaluate again.")
    trained = runs.stage_folder(ours, "distill" if labels else "pretrain", arch, labels)
    evaluation = Evaluation(
        arch=arch,
        labels=labels,
        seed=config.seed,
        profile=config.profile,
        trained_on=config.data.dataset,
        dataset=ours.evaluation.dataset or config.data.dataset,
        split=ours.evaluation.split,
        scale=ours.evaluation.scale,
        round=ours.round,
        settings=_digest(_without_seed(expected)),
        per_image=pd.read_csv(csv, dtype=_NAMES),
        provenance={
            kind: _kept(io.read_json(f / "provenance.json"))
            for kind, f in (("training", trained), ("evaluation", folder))
            if (f / "provenance.json").is_file()
        },
    )
    return evaluation, lines


def _without_seed(value: Any) -> Any:
    """A stage's configuration but for its seeds; that of an ensemble has one a network."""
    return (
        {k: _without_seed(v) for k, v in value.items() if k != "seed"} if isinstance(value, dict) else value
    )


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def _kept(provenance: Mapping[str, Any]) -> dict[str, Any]:
    """What a reader elsewhere can use: no folder of this machine, nor its kernel."""
    kept = {name: provenance[name] for name in _KEPT if name in provenance}
    command = re.sub(r"^\S*__main__\.py", "python -m d3d", kept.get("command", ""))
    # a folder may hold a blank, but what is recorded is joined with blanks: up to the next option
    command = re.sub(
        r" --(runs-dir|runs_dir|root|eval-root|eval_root|weights)[ =](?:(?! --).)*", r" --\1 FOLDER", command
    )
    kept["command"] = re.sub(r"(?<![\w.~-])[/~][^\s=]*/", "", command)
    if "machine" in kept:
        system = str(kept["machine"].get("system", "")).split("-")[0]
        kept["machine"] = {**kept["machine"], "system": system}
    return kept


def results_folder(config: Config) -> Path:
    """``results/<data set>-<profile>`` in the checkout."""
    return runs.project_root() / "results" / f"{config.data.dataset}-{config.profile}"


def export(scores: Scores, folder: Path) -> list[Path]:
    """Adds scores to a folder of stored ones, with four significant digits; the same scores give the same bytes.

    Args:
        scores: from `gather`; what is stored of the same training, seed and split is replaced.
        folder: see `results_folder`; made where it is not there.

    Returns:
        the files written, the index last.

    Raises:
        DataError: these and what is stored there do not belong in one table; nothing is written then.
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
        # the images and their number of pixels are the same for all: once a split is enough
        first = images.setdefault(str(Path(name).parent / _IMAGES), e.per_image[_KEYS])
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
    """The scores that `export` wrote; needs neither data set nor run.

    Raises:
        DataError: there are none, or a file is not what the index says.
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
    """Whether everything that `read` takes out of an index is there, and every file is in its folder."""
    evaluations, shared = index.get("evaluations"), index.get("shared")
    if not isinstance(evaluations, dict) or not isinstance(shared, dict):
        return False
    # as the class has them, but for the scores, which are in a file
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
