"""Compare label strategies and thresholds on training frames, to choose them without the test data."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from d3d import fusion
from d3d.analysis.labels import SQ_REL_COLUMNS, LabelRule, label_table, summary
from d3d.pipeline import stages
from d3d.pipeline.config import Config

MULTIPLES = (0, 0.25, 0.5, 0.75, 1, 1.5, 2, 4, np.inf)
RULES = ("pred", "proj", "diff", "mv", "uncer", "signed")
THRESHOLDS_M = (0.05, 0.1, 0.15, 0.2, 0.25, 0.4)


def threshold_sweep(config: Config, arch: str = "", frames: int = 30) -> pd.DataFrame:
    """Score Eq. 3 at `MULTIPLES` of the run's threshold. Threshold 0 gives the label "proj", infinity "pred".

    Returns:
        One row for each threshold: threshold_m, projected (share of pixels with P), sq_rel of the label if there is
        ground truth, and sq_rel_highlight and sq_rel_diffuse if there are masks.
    """
    used = stages.threshold(config, "uncer", arch)
    rules = [("uncer", k * used if k else 0.0) for k in MULTIPLES]
    table = _one_row_a_rule(label_table(config, arch, rules, frames))
    return table.drop(columns="labels").sort_values("threshold_m", ignore_index=True)


def rule_sweep(
    config: Config,
    arch: str = "",
    rules: Sequence[str] = RULES,
    thresholds_m: Sequence[float] = (),
    frames: int = 26,
) -> pd.DataFrame:
    """Score label strategies at several thresholds, and the oracles of `d3d.fusion.ORACLES` if there are masks.

    Args:
        rules: label strategies; the run's own is added. A strategy with uncertainty is scored at each threshold,
            unless it has its own threshold.
        thresholds_m: by default `THRESHOLDS_M` and the run's threshold.

    Returns:
        One row for each strategy and threshold: rule, threshold_m (NaN without a threshold), projected (share of
        pixels without D), sq_rel, and sq_rel_highlight and sq_rel_diffuse if there are masks.

    Raises:
        DataError: no training scene has ground truth.
    """
    tried: list[LabelRule] = []
    for rule in dict.fromkeys((*rules, config.labels)):
        used: Sequence[float | None] = [None]
        strategy = fusion.find_strategy(rule)
        if "uncertainty" in strategy.needs and strategy.threshold_quantile is None:
            used = thresholds_m or sorted({*THRESHOLDS_M, stages.threshold(config, rule, arch)})
        tried += [(rule, t) for t in used]
    tried += [(oracle, None) for oracle in fusion.ORACLES]
    table = label_table(config, arch, tried, frames, truth=True)
    return _one_row_a_rule(table).rename(columns={"labels": "rule"})


def _one_row_a_rule(table: pd.DataFrame) -> pd.DataFrame:
    """The `summary` of a `label_table`, with a column of Sq Rel for each kind of pixel."""
    means = summary(table)
    result = means.xs("all", level="pixels")[["labels", "threshold_m", "projected"]]
    sq_rel = means["sq_rel"].unstack("pixels").dropna(axis=1, how="all")
    return result.join(sq_rel.rename(columns=str).rename(columns=SQ_REL_COLUMNS)).reset_index(drop=True)
