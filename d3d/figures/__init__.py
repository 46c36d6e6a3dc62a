"""The paper's figures as pure functions: arrays or tables in, a matplotlib Figure out."""

from d3d._lazy import submodules
from d3d.figures.charts import (
    camera_path,
    label_makeup,
    loss_curve,
    loss_curves,
    per_image,
    threshold_curve,
    truncation_curves,
)
from d3d.figures.files import png_bytes, save, save_csv, save_pdf, save_png
from d3d.figures.grids import (
    SIGNED_LIMIT_M,
    Frame,
    against_truth,
    before_after,
    contact_sheet,
    fusion_inputs,
    label,
    label_errors,
    over_estimation,
    signed_error,
    triple,
)
from d3d.figures.panels import (
    COLOURS,
    NAMES,
    PRINT_FONT_PT,
    PRINT_WIDTH_IN,
    UNITS,
    Panel,
    draw_outline,
    grid,
)
from d3d.figures.uncertainty import precision_recall, uncertainty_maps

__all__ = [
    "COLOURS",
    "NAMES",
    "PRINT_FONT_PT",
    "PRINT_WIDTH_IN",
    "SIGNED_LIMIT_M",
    "UNITS",
    "Frame",
    "Panel",
    "against_truth",
    "before_after",
    "camera_path",
    "contact_sheet",
    "draw_outline",
    "fusion_inputs",
    "grid",
    "label",
    "label_errors",
    "label_makeup",
    "loss_curve",
    "loss_curves",
    "over_estimation",
    "per_image",
    "png_bytes",
    "precision_recall",
    "save",
    "save_csv",
    "save_pdf",
    "save_png",
    "signed_error",
    "threshold_curve",
    "triple",
    "truncation_curves",
    "uncertainty_maps",
]

__getattr__ = submodules(__name__, __path__)
