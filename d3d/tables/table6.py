"""The ablation of section 4.3: labels of several strategies held against the truth, and their students' Table 6."""

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
    """The labels to compare, from the parameter ``strategies``: names with commas, or "all" for the paper's six.

    Raises:
        ConfigError: one of them is no label strategy, with the near misses.
    """
    if config.strategies == "all":
        return tuple(tables.ABLATION)
    names = tuple(dict.fromkeys(n.strip() for n in config.strategies.split(",")))
    for name in names:
        fusion.find_strategy(name)
    return names


def label_quality(config: Config, arch: str = "") -> pd.DataFrame:
    """Error of each strategy's label on training frames with truth, by kind of pixels: a row a strategy.

    A strategy that differs in the training only ("proj_lowres") has the label of another and no row.
    """
    return labels.label_quality(config, strategies(config), arch)


def label_pictures(config: Config, arch: str = "") -> Figure:
    """Where each strategy takes the projected depth on one training frame, and how far its label is off.

    The frame is the one with most highlight of all that have truth.
    """
    return label_figures.strategies(config, strategies(config), arch)


def table6(config: Config, arch: str = "") -> tables.Table:
    """Table 6 on the validation split: trains and evaluates what is not there.

    Args:
        arch: the network, by default the run's. The paper's is Monodepth2.
    """
    arch = arch or config.arch
    val = replace(
        config, evaluation=replace(config.evaluation, dataset=None, root=None, options={}, split="val")
    )
    for name in strategies(config):
        stages.evaluate(val, arch, name)
    return tables.of_run(replace(val, arch=arch), "6")
