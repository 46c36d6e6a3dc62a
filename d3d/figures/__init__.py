"""Figures of the paper, and the panels and charts in them.

The functions listed here are pure: arrays or tables in, a matplotlib Figure out. Functions that read a run are in the
modules (``figure4.make(config)``, ...). `d3d.figures.all` has every figure by name.
"""

from d3d._lazy import submodules
from d3d.figures.charts import (
    camera_path,
    label_makeup,
    loss_curves,
    per_image,
    threshold_curve,
    truncation_curves,
)
from d3d.figures.colours import SIGNED_LIMIT_M
from d3d.figures.files import FigureWithTable, png_bytes, save, save_png
from d3d.figures.panels import (
    PRINT_FONT_PT,
    PRINT_WIDTH_IN,
    Panel,
    contact_sheet,
    draw_outline,
    grid,
    signed_error,
)

__all__ = ["PRINT_FONT_PT", "PRINT_WIDTH_IN", "SIGNED_LIMIT_M", "FigureWithTable", "Panel", "camera_path"]
__all__ += ["contact_sheet", "draw_outline", "grid", "label_makeup", "loss_curves", "per_image"]
__all__ += ["png_bytes", "save", "save_png", "signed_error", "threshold_curve", "truncation_curves"]

_MOVED = {
    "COLOURS": "colours.COLOURS",
    "Frame": "frames.Frame",
    "NAMES": "colours.NAMES",
    "UNITS": "colours.UNITS",
    "against_truth": "labels.against_truth",
    "before_after": "figure5.draw",
    "fusion_inputs": "figure4.draw",
    "label": "labels.label",
    "loss_curve": "charts.loss_curves",
    "label_errors": "labels.draw_error_maps",
    "save_csv": "files.save",
    "save_pdf": "files.save",
    "over_estimation": "figure2.draw",
    "precision_recall": "uncertainty.precision_recall",
    "triple": "dataset.warped_sources",
    "uncertainty_maps": "uncertainty.maps",
}
_submodule = submodules(__name__, __path__)


def __getattr__(name: str) -> object:
    if name in _MOVED:
        raise ImportError(f"d3d.figures.{name} has moved: use d3d.figures.{_MOVED[name]}.")
    return _submodule(name)
