"""Make all figures of a run by name (``python -m d3d figures``), and the figures that a finished run keeps.

Nothing is trained here. If networks are missing, a message names the command that trains them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from d3d.analysis import labels, thresholds, truncation
from d3d.errors import DataError
from d3d.figures import charts, figure1, figure2, figure4, figure5
from d3d.figures.files import FigureWithTable, mark_untrained, save, save_png
from d3d.figures.frames import example_frame
from d3d.figures.labels import error_maps, label
from d3d.figures.needs import default_run, require_pretrained
from d3d.figures.panels import PRINT_DPI
from d3d.pipeline import stages
from d3d.pipeline.config import Config
from d3d.progress import say


def label_makeup(config: Config) -> FigureWithTable:
    """Draw the share of projected depth and the error of the labels for each strategy of Table 6."""
    require_pretrained(config)
    table = labels.label_makeup(config)
    return FigureWithTable(charts.label_makeup(table), table)


def threshold_sweep(config: Config) -> FigureWithTable:
    """Draw the labels of Eq. 3 at several thresholds."""
    require_pretrained(config)
    table = thresholds.threshold_sweep(config)
    return FigureWithTable(charts.threshold_curve(table, stages.threshold(config, "uncer")), table)


def truncation_sweep(config: Config) -> FigureWithTable:
    """Draw the results of TSDF fusion at several truncations and voxel sizes."""
    require_pretrained(config)
    table = truncation.truncation_sweep(config)
    figure = charts.truncation_curves(table, config.fusion.trunc_m, config.fusion.voxel_m)
    return FigureWithTable(figure, table)


# figures of the paper in their order, then explanatory figures
FIGURES: dict[str, Callable[[Config], FigureWithTable]] = {
    "figure1a": figure1.make_a,
    "figure1b": figure1.make_b,
    "figure2": figure2.make,
    "figure4": figure4.make,
    "figure5": figure5.make,
    "error-maps": error_maps,
    "label-makeup": label_makeup,
    "threshold-sweep": threshold_sweep,
    "truncation-sweep": truncation_sweep,
}
# figures of the data only: their file names contain data set and image size
OF_DATA = ("figure1a",)


def make(
    config: Config, folder: Path, names: Sequence[str] = tuple(FIGURES)
) -> Iterator[tuple[str, list[Path] | str]]:
    """Make figures one by one, as PDF, PNG and CSV.

    Yields:
        Name of a figure, with its files or with the reason why it was skipped.
    """
    d = config.data
    for name in names:
        prefix = f"{d.dataset}_{d.width}x{d.height}" if name in OF_DATA else file_prefix(config)
        try:
            made = FIGURES[name](config)
            figure = made.figure if config.learns or name in OF_DATA else mark_untrained(made.figure)
            yield name, save(figure, made.table, folder, f"{prefix}_{name}")
        except DataError as error:
            yield name, str(error)


def file_prefix(config: Config) -> str:
    """Return the prefix of the figures' file names: data set, profile and seed, or the name of the run."""
    return config.run.replace("-", "_") if config.run == default_run(config) else config.run


def run_figures(config: Config, arch: str) -> list[Path]:
    """Write Figure 4, the label of its frame, and Figure 5 of a network as PNG to ``figures/`` of the run.

    Figure 4 and the label show the uncertainty of the ensemble. They are left out if its networks are not trained.
    """
    config = replace(config, arch=arch)
    made = {}
    try:
        require_pretrained(config)
    except DataError as lacking:
        say(f"figure4 and label show an ensemble, which this run does not need; {lacking}")
    else:
        example = example_frame(config)
        made["figure4"] = figure4.make(config, example).figure
        made["label"] = label(example, arch, stages.threshold(config, "uncer", arch))
    made["figure5"] = figure5.make(config, [arch], 4).figure
    folder = stages.folder_of(config, "figures")
    for figure in () if config.learns else made.values():
        mark_untrained(figure)
    return [save_png(figure, folder / f"{name}.png", PRINT_DPI) for name, figure in made.items()]
