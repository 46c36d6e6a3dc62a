"""Figure 4: predicted and projected depth of the ensemble, its uncertainty and mask on one image."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from d3d import evaluation
from d3d.figures.colours import uncertainty_limit
from d3d.figures.files import FigureWithTable
from d3d.figures.frames import ExampleFrame, example_frame, filled, scored_frame
from d3d.figures.needs import require_pretrained
from d3d.figures.panels import PRINT, Panel, grid
from d3d.pipeline import stages
from d3d.pipeline.config import Config


def make(config: Config, example: ExampleFrame | None = None) -> FigureWithTable:
    """Make Figure 4 of a run with the errors of the depth maps; by default for the frame of `frames.example_frame`."""
    require_pretrained(config, config.ensemble)
    example = example or example_frame(config)
    preds, projs = (
        {evaluation.arch_name(a): depths[a] for a in config.ensemble}
        for depths in (example.preds, example.projs)
    )
    maps = preds, projs, example.uncertainty, stages.threshold(config, "uncer")
    figure = draw(example.image, *maps, example.gt, example.highlight)
    depths = {f"predicted, {n}": d for n, d in preds.items()}
    depths |= {f"projected, {n}": filled(preds[n], d) for n, d in projs.items()}
    _, rows = scored_frame(config, example.scene, example.index, depths)
    return FigureWithTable(figure, pd.DataFrame(rows))


def draw(
    image: np.ndarray,
    preds: Mapping[str, np.ndarray],
    projs: Mapping[str, np.ndarray],
    uncertainty: np.ndarray,
    threshold_m: float,
    gt: np.ndarray | None = None,
    highlight: np.ndarray | None = None,
) -> Figure:
    """Draw image, predicted depth and uncertainty above ground truth, projected depth and the mask of Eq. 3.

    Args:
        preds, projs: network -> depth (h, w), metres.
        highlight: bool map of any size, outlined in the image.
    """
    predicted = [Panel(f"predicted, {n}", d, "depth") for n, d in preds.items()]
    projected = [Panel(f"projected, {n}", d, "depth") for n, d in projs.items()]
    above = Panel("uncertainty", uncertainty, "uncertainty", uncertainty_limit(threshold_m))
    below = Panel(f"uncertainty ≥ {threshold_m:g} m", uncertainty >= threshold_m, "mask")
    rows = [
        [Panel("image", image, outline=highlight), *predicted, above],
        [Panel("ground truth", gt, "depth"), *projected, below],
    ]
    return grid(rows, **PRINT)
