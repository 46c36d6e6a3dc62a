"""How good labels are, on training frames that have ground truth: each rule, at several thresholds, and oracles.

This is how a threshold or a rule is chosen without looking at an evaluated split. Nothing is trained or stored.
"""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from d3d import fusion
from d3d.analysis.sweeps import kinds, some, sq_rel
from d3d.errors import DataError
from d3d.pipeline import stages
from d3d.pipeline.config import Config
from d3d.pipeline.stages import label_inputs
from d3d.progress import track

THRESHOLDS_M = (0.05, 0.1, 0.15, 0.2, 0.25, 0.4)

_COLUMNS = {"all": "sq_rel", "highlight": "sq_rel_highlight", "diffuse": "sq_rel_diffuse"}


def rule_sweep(
    config: Config,
    arch: str = "",
    rules: Sequence[str] = ("pred", "proj", "diff", "mv", "uncer", "signed"),
    thresholds_m: Sequence[float] = (),
    frames: int = 26,
) -> pd.DataFrame:
    """Sq Rel of the labels of several rules on training frames with ground truth.

    Args:
        rules: names of labels; those that look at the uncertainty are tried at each threshold.
        thresholds_m: by default `THRESHOLDS_M` and the run's own, also where that is a quantile.
        frames: at most about so many frames of a scene, evenly spread.

    Returns:
        one row a rule and threshold: rule, threshold_m (missing where there is none), projected (share of pixels
        that are not D), sq_rel, and where masks are known sq_rel_highlight and sq_rel_diffuse; means over frames.
        Where masks are known, those of `d3d.fusion.ORACLES` follow.

    Raises:
        DataError: no training scene has ground truth.
    """
    arch = arch or config.arch
    scenes = [s for s in stages.training_scenes(config) if s.scene.has_depth]
    if not scenes:
        raise DataError(f"no training scene of {config.data.dataset!r} has ground truth to judge labels by.")
    stages.project(config, arch)
    for rule in rules:
        strategy = fusion.find_strategy(rule)
        if "uncertainty" in strategy.needs:
            stages.uncertainty(config, strategy.uncertainty, arch)
    tried = [(rule, t) for rule in rules for t in _thresholds(config, arch, rule, thresholds_m)]
    every = [(s.scene, row) for s in scenes for row in some(s.triples.indices, frames)]
    rows = []
    bar = track(what="labels", total=len(every), unit="frame")
    for scene, triple in every:
        target = int(triple[0])
        gt, highlight = scene.depth(target), scene.highlight_mask(target)
        bar.update()
        if gt is None:
            continue
        masks = {_COLUMNS[k]: mask for k, mask in kinds(gt, highlight).items()}
        for rule, t in tried + ([] if highlight is None else [(name, None) for name in fusion.ORACLES]):
            seen = label_inputs(config, arch, scene, triple, rule, 0.0 if t is None else t)
            label = fusion.make_label(rule, seen)
            scores = {name: sq_rel(config, label, gt, mask) for name, mask in masks.items()}
            share = (label != seen.pred).mean()
            rows.append({"rule": rule, "threshold_m": t, "projected": share, **scores})
    bar.close()
    result = pd.DataFrame(rows).astype({"threshold_m": float})
    return result.groupby(["rule", "threshold_m"], as_index=False, dropna=False, sort=False).mean()


def _thresholds(
    config: Config, arch: str, rule: str, thresholds_m: Sequence[float]
) -> Sequence[float | None]:
    if "uncertainty" not in fusion.find_strategy(rule).needs:
        return (None,)
    return thresholds_m or sorted({*THRESHOLDS_M, stages.threshold(config, rule, arch)})
