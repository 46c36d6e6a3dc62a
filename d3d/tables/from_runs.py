"""Collect the scores of finished runs."""

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
from d3d.metrics import SCALES
from d3d.models import ARCHITECTURES
from d3d.pipeline import graph, runs, scenes, stages
from d3d.pipeline.config import Config, EvalConfig, keyframes_name
from d3d.pipeline.stages.trainings import trained
from d3d.tables.run import table, table_of_method, with_alignment
from d3d.tables.scores import Evaluation, Scores
from d3d.tables.tables2to6 import Table, missing, paper_table
from d3d.tables.text import to_markdown, write_text

# (arch, labels) of every possible training
_TRAININGS = tuple(product(ARCHITECTURES, ("", *fusion.LABELS)))
# fields that may differ between the runs of several seeds
_OWN = {"seed", "run", "runs_dir", "device", "arch", "labels", "strategies", "round", "evaluation", "base"}
# stored entries of a provenance: enough to repeat the run and to judge its cost
_KEPT = (
    *("command", "git", "dirty", "versions", "seed", "machine", "threads"),
    *("peak_memory_mb", "ground_truth", "in_part", "seconds", "time"),
)


def gather(configs: Sequence[Config]) -> Scores:
    """Collect all evaluations in the runs of several seeds, on any split and data set. Nothing is computed.

    Raises:
        ConfigError: the configurations differ in more than the seed.
        RunError: an evaluation was made with another configuration, or is damaged.
        DataError: nothing was evaluated, or evaluations of a split differ in their images.
    """
    if not configs:
        raise ConfigError("no run to gather scores from.")
    first, *others = ({k: v for k, v in asdict(c).items() if k not in _OWN} for c in configs)
    for config, values in zip(configs[1:], others, strict=True):
        if lines := runs.differences(values, first):
            both = f"runs of {_name(configs[0])} and {_name(config)}"
            why = f"{both} differ in more than the seed, and cannot be averaged:"
            raise ConfigError("\n  ".join([why, *lines[:6]]))
    evaluations = tuple(e for config in configs for e in _of_run(config))
    if not evaluations:
        folders = ", ".join(str(runs.run_folder(c)) for c in configs)
        raise DataError(f"no evaluation in {folders}: run `python -m d3d evaluate` first.")
    scores = Scores(evaluations)
    own = sorted({(e.dataset, e.split) for e in evaluations if e.dataset == e.trained_on})
    # the parameter `lists` applies to the evaluated data set
    same = configs[0].evaluation.dataset is None
    opened = scenes.evaluated_dataset(configs[0]) if same else scenes.dataset(configs[0])
    return replace(scores, lists={key: lists for key in own if (lists := opened.lists(key[1]))})


def of_run(config: Config, key: str) -> Table:
    """Make one of Tables 2 to 6 from the evaluations of one run; Table 6 shows the run's network.

    Raises:
        DataError: nothing of this table was evaluated. The message lists the missing commands.
    """
    scores = gather([config])
    table = paper_table(scores, key, config.arch)
    if table is None:
        todo = "\n  ".join(missing(scores, key, config.arch))
        raise DataError(f"{runs.run_folder(config)} has no scores for table {key}. Run\n  {todo}")
    return table


def run_table(config: Config, trainings: Sequence[tuple[str, str]] | None = None) -> pd.DataFrame:
    """Make a table of a run's evaluations on its split, and write it as CSV and Markdown into the run's ``tables/``.

    The table shows the whole split and each list of its images, and the scored predictions of other methods
    (`predicted_table`). Highlight and diffuse pixels have separate files.

    Args:
        trainings: (arch, labels) to evaluate; by default every evaluated training.

    Raises:
        DataError: nothing was evaluated.
    """
    e = config.evaluation
    if trainings is None:
        # include scores of another configuration in the run's folder: `evaluate` raises an error for them
        own = runs.run_folder(config) / "evaluate"
        trainings = [
            t
            for t in _TRAININGS
            if runs.is_done(own / stages.evaluated(config, *t)) or stages.is_finished(config, "evaluate", *t)
        ]
    if not trainings and not stages.stored_predictions(config):
        run = runs.run_folder(config)
        raise DataError(f"{run} has no evaluation of split {e.split!r} yet: run `evaluate` first.")
    trainings = sorted(trainings, key=lambda t: ARCHITECTURES.index(t[0]))
    return _write(config, {e.scale: {t: stages.evaluate(config, *t) for t in trainings}})


def predicted_table(config: Config) -> pd.DataFrame:
    """Make the table of `run_table` from finished scores only: predictions of other methods, and the run's networks.

    The networks may have another alignment than the configuration.
    """
    networks = {}
    for scale in SCALES:
        other = replace(config, evaluation=replace(config.evaluation, scale=scale))
        there = [t for t in _TRAININGS if stages.is_finished(other, "evaluate", *t)]
        networks[scale] = {t: stages.evaluate(other, *t) for t in there}
    return _write(config, networks)


def _write(config: Config, networks: Mapping[str, Mapping[tuple[str, str], pd.DataFrame]]) -> pd.DataFrame:
    """Make and write the table of a run.

    Args:
        networks: alignment -> (arch, labels) -> per-image metrics.
    """
    e, methods = config.evaluation, stages.stored_predictions(config)
    about = _about(config) | {"provenance": {"evaluation": {"in_part": not scenes.is_whole(config)}}}
    about["lists"] = scenes.evaluated_dataset(config).lists(e.split)
    tables = {scale: results for scale, results in networks.items() if results}
    folder, made = stages.folder_of(config, "tables"), {}
    every = [r for results in tables.values() for r in results.values()] + list(methods.values())
    for pixels in sorted({p for r in every for p in r["pixels"]}):
        about["pixels"] = pixels
        parts = [table(results, **about | {"scale": scale}) for scale, results in tables.items()]
        if methods:  # other rows may have another alignment
            parts = [with_alignment(part) for part in parts]
        parts += [
            table_of_method(name, per_image, **about | {"scale": scale})
            for (name, scale), per_image in methods.items()
        ]
        made[pixels] = part = pd.concat(parts, ignore_index=True)
        name = scenes.evaluated_name(config) + ("" if pixels == "all" else f"-{pixels}")
        write_text(folder / f"{name}.csv", part.to_csv(index=False, float_format="%.6g"))
        write_text(folder / f"{name}.md", to_markdown(part))
    return made["all"]


def _about(config: Config) -> dict[str, Any]:
    """The fields of `Evaluation` that a configuration determines."""
    e, trained_on = config.evaluation, config.data.dataset
    run = {"seed": config.seed, "profile": config.variant, "round": config.round, "trained_on": trained_on}
    return run | {"dataset": e.dataset or trained_on, "split": e.split, "scale": e.scale}


def _name(config: Config) -> str:
    return f"profile {config.profile}, seed {config.seed}"


def _of_run(config: Config) -> list[Evaluation]:
    """The evaluations of one run, and matching evaluations of its base."""
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
            # any_data: another evaluated data set may not be available here
            expected = graph.identity(ours, stages.key_of(ours, "evaluate", arch, labels), any_data=True)
            lines = runs.differences(expected, stored)
            if not lines:
                found[path] = _read(ours, labels, folder, stored)
            elif run == own:
                other = f"{folder} was evaluated with another configuration than {_name(config)}"
                todo = "Give the parameters of the evaluation, or evaluate again."
                raise RunError("\n  ".join([f"{other}:", *lines[:6]]) + f"\n{todo}")
    return list(found.values())


def _teachers_labels(identity: dict[str, Any], config: Config) -> str:
    """The labels of the teachers of a later round; in the first round the configuration's labels."""
    before = f"round{config.round - 1}/" if config.round > 2 else ""
    for name, need in identity.get("needs", {}).items() if config.round > 1 else ():
        if name.startswith(f"{before}distill/{config.arch}/"):
            return name.rpartition("/")[2]
        if found := _teachers_labels(need, replace(config, labels="")):
            return found
    return config.labels


def _read(config: Config, labels: str, folder: Path, stored: dict[str, Any]) -> Evaluation:
    """Read a finished evaluation; a `RunError` if its file of scores has changed."""
    csv = folder / "per_image.csv"
    if not csv.is_file() or io.sha256(csv) != io.read_json(folder / "DONE")["outputs"].get(csv.name):
        raise RunError(f"{csv} was changed after the evaluation. Delete {folder} and evaluate again.")
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
    """Copy nested values without the entries named ``seed``."""
    if isinstance(identity, dict):
        return {name: without_seed(value) for name, value in identity.items() if name != "seed"}
    return [without_seed(value) for value in identity] if isinstance(identity, list) else identity


def kept_provenance(provenance: Mapping[str, Any]) -> dict[str, Any]:
    """Select the entries of a provenance to publish, without folders and the kernel of the machine."""
    kept = {name: provenance[name] for name in _KEPT if name in provenance}
    command = re.sub(r"^\S*__main__\.py", "python -m d3d", kept.get("command", ""))
    # a folder may contain blanks: match up to the next option
    command = re.sub(
        r" --(runs-dir|runs_dir|root|eval-root|eval_root|weights)[ =](?:(?! --).)*", r" --\1 FOLDER", command
    )
    kept["command"] = re.sub(r"(?<![\w.~-])[/~][^\s=]*/", "", command)
    if "machine" in kept:
        system = str(kept["machine"].get("system", "")).split("-")[0]
        kept["machine"] = {**kept["machine"], "system": system}
    return kept
