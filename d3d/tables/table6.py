"""Table 6, the ablation of section 4.3: label strategies compared by their labels and by their students."""

from __future__ import annotations

from dataclasses import replace

import pandas as pd
from matplotlib.figure import Figure

from d3d import fusion, tables
from d3d.analysis import labels
from d3d.figures import labels as label_figures
from d3d.pipeline import stages
from d3d.pipeline.config import Config


def strategies(config: Config) -> tuple[str, ...]:
    """List the label strategies to compare: the names in the parameter ``strategies``, "all" for the paper's six.

    Raises:
        ConfigError: unknown label strategy; names the near misses.
    """
    if config.strategies == "all":
        return tuple(tables.ABLATION)
    names = tuple(dict.fromkeys(n.strip() for n in config.strategies.split(",")))
    for name in names:
        fusion.find_strategy(name)
    return names


def students(config: Config) -> tuple[str, ...]:
    """List the strategies whose students are compared.

    These are all `strategies`. If the teachers ship with d3d and the user names no strategy, they are only those whose
    student the run has trained, and the run's own: a student is a training of minutes.
    """
    names = strategies(config)
    if config.teachers == "trained" or config.strategies != "all":
        return names
    finished = {n for n in names if stages.is_finished(config, "distill", config.arch, n)}
    return tuple(n for n in names if n in finished | {config.labels})


def label_quality(config: Config, arch: str = "") -> pd.DataFrame:
    """`analysis.labels.label_quality` of the strategies to compare, on training frames with ground truth."""
    return labels.label_quality(config, strategies(config), arch)


def label_pictures(config: Config, arch: str = "") -> Figure:
    """Show where each strategy takes the projected depth on one training frame, and the error of its label."""
    return label_figures.strategies(config, strategies(config), arch)


def table6(config: Config, arch: str = "") -> tables.Table:
    """Make Table 6 of `students` on the validation split. Missing ones are trained and evaluated first.

    Args:
        arch: the network, by default the run's. The paper's is Monodepth2.
    """
    on_val = replace(config.evaluation, dataset=None, root=None, options={}, split="val")
    config = replace(config, arch=arch or config.arch, evaluation=on_val)
    for name in students(config):
        stages.evaluate(config, labels=name)
    return tables.of_run(config, "6")
