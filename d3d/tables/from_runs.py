"""Collect the scores that finished runs have left."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from itertools import product
from pathlib import Path
from typing import Any

import pandas as pd

from d3d import fusion, io
from d3d.errors import ConfigError, DataError, RunError
from d3d.evaluation import SELF_SUPERVISED
from d3d.models import ARCHITECTURES
from d3d.pipeline import graph, runs, scenes, stages
from d3d.pipeline.config import Config, EvalConfig, keyframes_name
from d3d.pipeline.stages.trainings import trained
from d3d.tables.run import table
from d3d.tables.scores import Evaluation, Scores
from d3d.tables.tables2to6 import Table, missing, paper_table
from d3d.tables.text import to_markdown, write_text

# What runs of several seeds need not share: the seed, the place, and what each evaluation is found with
_OWN = {"seed", "run", "runs_dir", "device", "arch", "labels", "strategies", "round", "evaluation", "base"}
# The entries of a provenance that are stored: enough to repeat the run and to judge its cost
_KEPT = (
    *("command", "git", "dirty", "versions", "seed", "machine", "threads"),
    *("peak_memory_mb", "ground_truth", "in_part", "seconds", "time"),
)


def gather(configs: Sequence[Config]) -> Scores:
    """Collect everything that runs of several seeds have evaluated, on any split and data set. Nothing is computed.

    Raises:
        ConfigError: the configurations differ in more than the seed.
        RunError: an evaluation was made with another configuration, or is damaged.
        DataError: nothing was evaluated, or not everything on the same images.
    """
    if not configs:
        raise ConfigError("no run to gather scores from.")
    first, *others = ({k: v for k, v in asdict(c).items() if k not in _OWN} for c in configs)
    for config, values in zip(configs[1:], others, strict=True):
        if lines := runs.differences(values, first):
            both = f"runs of {_name(configs[0])} and {_name(config)}"
            why = f"{both} differ in more than the seed, so that their mean has no meaning:"
            raise ConfigError("\n  ".join([why, *lines[:6]]))
    evaluations = tuple(e for config in configs for e in _of_run(config))
    if not evaluations:
        folders = ", ".join(str(runs.run_folder(c)) for c in configs)
        raise DataError(f"no evaluation in {folders}: run `python -m d3d evaluate` first.")
    scores = Scores(evaluations)
    own = sorted({(e.dataset, e.split) for e in evaluations if e.dataset == e.trained_on})
    # the parameter `lists` belongs to the data set that is evaluated: here, if that is the one trained on
    same = configs[0].evaluation.dataset is None
    opened = scenes.evaluated_dataset(configs[0]) if same else scenes.dataset(configs[0])
    return replace(scores, lists={key: lists for key in own if (lists := opened.lists(key[1]))})


def of_run(config: Config, key: str) -> Table:
    """Make one of Tables 2 to 6 from what one run has evaluated; Table 6 is of the run's network.

    Raises:
        DataError: nothing of this table was evaluated; says by which commands to do it.
    """
    scores = gather([config])
    table = paper_table(scores, key, config.arch)
    if table is None:
        todo = "\n  ".join(missing(scores, key, config.arch))
        raise DataError(f"nothing of table {key} is in {runs.run_folder(config)}. It needs\n  {todo}")
    return table


def run_table(config: Config, trainings: Sequence[tuple[str, str]] | None = None) -> pd.DataFrame:
    """Make one table of all that a run has evaluated on its split, also as CSV and Markdown in the run's ``tables/``.

    It has the whole split and each list of its images; highlights and the other pixels have files of their own.

    Args:
        trainings: (arch, labels) to evaluate; by default every training that was evaluated.

    Raises:
        DataError: nothing was evaluated.
    """
    e = config.evaluation
    if trainings is None:
        every = product(ARCHITECTURES, ("", *fusion.LABELS))
        # other scores in this run's folder are no reason to pass them over: `evaluate` refuses them
        own = runs.run_folder(config) / "evaluate"
        trainings = [
            t
            for t in every
            if runs.is_done(own / stages.evaluated(config, *t)) or stages.is_finished(config, "evaluate", *t)
        ]
    if not trainings:
        run = runs.run_folder(config)
        raise DataError(f"{run} has no evaluation of split {e.split!r} yet: run `evaluate` first.")
    trainings = sorted(trainings, key=lambda t: ARCHITECTURES.index(t[0]))
    results = {(arch, labels): stages.evaluate(config, arch, labels) for arch, labels in trainings}
    lists = scenes.evaluated_dataset(config).lists(e.split)
    about = _about(config) | {"provenance": {"evaluation": {"in_part": not scenes.is_whole(config)}}}
    folder, made = stages.folder_of(config, "tables"), {}
    for pixels in sorted({p for r in results.values() for p in r["pixels"]}):
        made[pixels] = part = table(results, lists=lists, pixels=pixels, **about)
        name = scenes.evaluated_name(config) + ("" if pixels == "all" else f"-{pixels}")
        write_text(folder / f"{name}.csv", part.to_csv(index=False, float_format="%.6g"))
        write_text(folder / f"{name}.md", to_markdown(part))
    return made["all"]


def _about(config: Config) -> dict[str, Any]:
    """Which scores a run's evaluation makes, as fields of `Evaluation`."""
    e, trained_on = config.evaluation, config.data.dataset
    run = {"seed": config.seed, "profile": config.profile, "round": config.round, "trained_on": trained_on}
    return run | {"dataset": e.dataset or trained_on, "split": e.split, "scale": e.scale}


def _name(config: Config) -> str:
    return f"profile {config.profile}, seed {config.seed}"


def _of_run(config: Config) -> list[Evaluation]:
    """The evaluations of one run and, if it has a base, those of the base that are this run's own."""
    own = runs.run_folder(config)
    bases = [runs.run_folder(config, config.base)] if config.base else []
    found: dict[Path, Evaluation] = {}
    for run in (own, *bases):
        for done in sorted((run / "evaluate").glob("*/*/*/DONE")):
            folder, stored = done.parent, runs.stored_identity(done.parent)
            path, settings = folder.relative_to(run), stored["settings"]["evaluation"]
            if path in found or settings.get("keyframes", "") != keyframes_name(config.evaluation):
                continue  # other frames of the same split do not belong in one table
            arch, training, _ = folder.parts[-3:]
            labels, _, number = re.fullmatch(r"(.+?)(-round(\d+))?", training).groups()
            labels = "" if labels == SELF_SUPERVISED else labels
            ours = replace(config, arch=arch, round=int(number or 1), evaluation=EvalConfig(**settings))
            ours = replace(ours, labels=_teachers_labels(stored, ours))
            # another data set that was evaluated need not be at hand
            expected = graph.identity(ours, stages.key_of(ours, "evaluate", arch, labels), any_data=True)
            lines = runs.differences(expected, stored)
            if not lines:
                found[path] = _read(ours, labels, folder, stored)
            elif run == own:
                other = f"{folder} was evaluated with another configuration than {_name(config)} has"
                todo = "Give the parameters of that run, or evaluate it again."
                raise RunError("\n  ".join([f"{other}:", *lines[:6]]) + f"\n{todo}")
    return list(found.values())


def _teachers_labels(identity: dict[str, Any], config: Config) -> str:
    """The labels that the teachers of a later round were trained with; the configuration's in the first round."""
    before = f"round{config.round - 1}/" if config.round > 2 else ""
    for name, need in identity.get("needs", {}).items() if config.round > 1 else ():
        if name.startswith(f"{before}distill/{config.arch}/"):
            return name.rpartition("/")[2]
        if found := _teachers_labels(need, replace(config, labels="")):
            return found
    return config.labels


def _read(config: Config, labels: str, folder: Path, stored: dict[str, Any]) -> Evaluation:
    """A finished evaluation; a `RunError` says that its file of scores has changed."""
    csv = folder / "per_image.csv"
    if not csv.is_file() or io.sha256(csv) != io.read_json(folder / "DONE")["outputs"].get(csv.name):
        raise RunError(f"{csv} is not what its evaluation left there. Delete {folder} and evaluate again.")
    network = graph.folder_of(config, trained(config, config.arch, labels))
    provenances = {"training": network / "provenance.json", "evaluation": folder / "provenance.json"}
    return Evaluation(
        config.arch,
        labels,
        **_about(config),
        settings=hashlib.sha256(json.dumps(without_seed(stored), sort_keys=True).encode()).hexdigest(),
        per_image=pd.read_csv(csv, dtype={"scene": str, "frame": str}),
        provenance={
            kind: kept_provenance(io.read_json(path)) for kind, path in provenances.items() if path.is_file()
        },
    )


def without_seed(identity: Any) -> Any:
    """A copy of nested values without the entries called ``seed``, at any depth."""
    if isinstance(identity, dict):
        return {name: without_seed(value) for name, value in identity.items() if name != "seed"}
    return [without_seed(value) for value in identity] if isinstance(identity, list) else identity


def kept_provenance(provenance: Mapping[str, Any]) -> dict[str, Any]:
    """The entries of a provenance that help a reader elsewhere: no folder of this machine, nor its kernel."""
    kept = {name: provenance[name] for name in _KEPT if name in provenance}
    command = re.sub(r"^\S*__main__\.py", "python -m d3d", kept.get("command", ""))
    # the words of a command are recorded with blanks between them, and a folder may contain blanks
    command = re.sub(
        r" --(runs-dir|runs_dir|root|eval-root|eval_root|weights)[ =](?:(?! --).)*", r" --\1 FOLDER", command
    )
    kept["command"] = re.sub(r"(?<![\w.~-])[/~][^\s=]*/", "", command)
    if "machine" in kept:
        system = str(kept["machine"].get("system", "")).split("-")[0]
        kept["machine"] = {**kept["machine"], "system": system}
    return kept
