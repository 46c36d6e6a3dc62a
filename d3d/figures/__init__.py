"""The paper's figures as pure functions: arrays or tables in, a matplotlib Figure out."""

from d3d.figures.charts import (
    camera_path,
    loss_curve,
    loss_curves,
    per_image,
    threshold_curve,
)
from d3d.figures.files import png_bytes, save, save_csv, save_pdf, save_png
from d3d.figures.grids import (
    against_truth,
    before_after,
    contact_sheet,
    fusion_inputs,
    label,
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

__all__ = [
    "COLOURS",
    "NAMES",
    "PRINT_FONT_PT",
    "PRINT_WIDTH_IN",
    "UNITS",
    "Panel",
    "against_truth",
    "before_after",
    "camera_path",
    "contact_sheet",
    "draw_outline",
    "fusion_inputs",
    "grid",
    "label",
    "loss_curve",
    "loss_curves",
    "per_image",
    "png_bytes",
    "save",
    "save_csv",
    "save_pdf",
    "save_png",
    "threshold_curve",
    "triple",
]
