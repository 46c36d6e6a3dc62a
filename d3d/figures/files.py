"""Write figures as PNG, vector PDF and CSV of their numbers. Equal figures give equal bytes."""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from PIL import Image

from d3d.figures.panels import PRINT_DPI
from d3d.io import atomic

NOT_TRAINED = "not trained: profile smoke"
MOST_BYTES = 550_000  # limit for a PNG, so that a repository with many figures stays small
SCREEN_DPI = 130  # for notebooks: figures have the width of a page and small text


@dataclass(frozen=True)
class FigureWithTable:
    """A figure and its numbers."""

    figure: Figure
    table: pd.DataFrame

    def __post_init__(self) -> None:
        self.figure.set_dpi(SCREEN_DPI)


def mark_untrained(figure: Figure) -> Figure:
    """Write `NOT_TRAINED` in the lower right corner of a figure, once, and return the figure."""
    if not any(text.get_text() == NOT_TRAINED for text in figure.texts):
        style = {"color": "#c02020", "fontsize": 8, "ha": "right", "va": "bottom", "weight": "bold"}
        figure.text(0.995, 0.005, NOT_TRAINED, **style)
    return figure


def png_bytes(figure: Figure, dpi: int = PRINT_DPI, most_bytes: int = MOST_BYTES) -> bytes:
    """Encode a figure as PNG: with all colours if the file is small enough, else with 256 dithered colours."""
    buffer = io.BytesIO()
    figure.savefig(buffer, dpi=dpi, format="png", metadata={"Software": None})
    with Image.open(buffer) as image:
        picture = image.convert("RGB")
    content = _packed(picture)
    if len(content) > most_bytes:
        palette = picture.quantize(256, Image.Quantize.FASTOCTREE, kmeans=3)
        colours = np.array(palette.getpalette()).reshape(-1, 3)
        colours[colours.sum(axis=1).argmax()] = 255  # the brightest becomes white
        palette.putpalette(colours.ravel().tolist())
        # without dithering, colour scales would show steps
        content = _packed(picture.quantize(256, palette=palette, dither=Image.Dither.FLOYDSTEINBERG))
    return content


def _packed(picture: Image.Image) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, format="PNG", optimize=True)
    return buffer.getvalue()


def save_png(figure: Figure, path: Path, dpi: int = 110) -> Path:
    """Write a figure as PNG atomically; creates the folder."""
    with atomic(path) as temporary:
        temporary.write_bytes(png_bytes(figure, dpi))
    return path


def save(figure: Figure, table: pd.DataFrame, folder: Path, name: str) -> list[Path]:
    """Write a figure and its numbers as ``<name>.pdf``, ``.png`` and ``.csv``, each atomically."""
    pdf, png, csv = (Path(folder) / f"{name}.{kind}" for kind in ("pdf", "png", "csv"))
    # 42: TrueType, which conferences require; its text can be copied
    with matplotlib.rc_context({"pdf.fonttype": 42}), atomic(pdf) as temporary:
        figure.savefig(temporary, dpi=PRINT_DPI, format="pdf", metadata={"CreationDate": None})
    save_png(figure, png, PRINT_DPI)
    with atomic(csv) as temporary:
        table.to_csv(temporary, index=False, float_format="%.5g", lineterminator="\n")
    return [pdf, png, csv]
