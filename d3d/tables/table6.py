"""The ablation of section 4.3: labels of several strategies held against the truth, and their students' Table 6."""

from __future__ import annotations

from dataclasses import replace

import pandas as pd
from matplotlib.figure import Figure

from d3d import figures, fusion, tables
from d3d.analysis import sweeps
from d3d.figures import showcase
from d3d.figures.dataview import nearest_depth
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
    rows = []
    for name in strategies(config):
        if fusion.find_strategy(name).shrink > 1:
            continue
        scores = sweeps.label_scores(config, arch, name).reset_index()
        of = {"pred": "predicted D", "proj": "projected P"}.get(name, f"label L ({name})")
        rows.append(scores[scores["depth"] == of].drop(columns="depth").assign(labels=name))
    table = pd.concat(rows).pivot(index="labels", columns="pixels", values=["abs_rel", "sq_rel"])
    kinds = [k for k in ("all", "highlight", "diffuse") if k in table.columns.get_level_values("pixels")]
    return table.reindex(columns=kinds, level="pixels").loc[[r["labels"].iloc[0] for r in rows]]


def label_pictures(config: Config, arch: str = "") -> Figure:
    """Where each strategy takes the projected depth on one training frame, and how far its label is off.

    The frame is the one with most highlight of all that have truth.
    """
    arch = arch or config.arch
    names = [n for n in strategies(config) if fusion.find_strategy(n).shrink == 1]
    labels = {n: stages.fuse(config, arch, n) for n in names}
    ((scene, i),) = showcase.reflective_targets(config, frames=1)
    at, size_hw = (scene.name, scene.frame_ids[i]), config.data.size_hw
    pred = stages.predict(config, arch).read(*at)
    gt, highlight = nearest_depth(scene.depth(i), size_hw), scene.highlight_mask(i, size_hw)
    panel, depths = figures.Panel, {n: labels[n].read(*at) for n in names}
    taken = (panel(f"{n}: P taken", d != pred, "mask") for n, d in depths.items())
    errors = (
        panel("label − truth", figures.signed_error(d, gt), "signed", figures.SIGNED_LIMIT_M, highlight)
        for d in depths.values()
    )
    return figures.grid(
        [
            [panel("image, highlights", scene.image(i, size_hw), outline=highlight), *taken],
            [panel("truth", gt, "depth"), *errors],
        ],
        names=[f"{scene.name}, {scene.frame_ids[i]}", ""],
    )


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
