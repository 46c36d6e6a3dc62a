"""Figures as files: PNG, vector PDF and the CSV behind them, with the same bytes whenever they are made again."""

from __future__ import annotations

import io
from pathlib import Path

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from PIL import Image

from d3d.figures.panels import PRINT_DPI
from d3d.io import atomic

# A repository that holds many figures should stay small to clone
MOST_BYTES = 550_000


def png_bytes(figure: Figure, dpi: int = PRINT_DPI, most_bytes: int = MOST_BYTES) -> bytes:
    """A figure as PNG: all its colours if that stays small, else 256 of them, dithered."""
    buffer = io.BytesIO()
    figure.savefig(buffer, dpi=dpi, format="png", metadata={"Software": None})
    with Image.open(buffer) as image:
        picture = image.convert("RGB")
    content = _packed(picture)
    if len(content) > most_bytes:
        # dithered, or the colour scales would show steps
        few = picture.quantize(256, palette=_palette(picture), dither=Image.Dither.FLOYDSTEINBERG)
        content = _packed(few)
    return content


def _palette(picture: Image.Image) -> Image.Image:
    """The 256 colours that fit a picture best, its paper's white among them."""
    result = picture.quantize(256, Image.Quantize.FASTOCTREE, kmeans=3)
    colours = np.array(result.getpalette()).reshape(-1, 3)
    colours[colours.sum(axis=1).argmax()] = 255
    result.putpalette(colours.ravel().tolist())
    return result


def _packed(picture: Image.Image) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, format="PNG", optimize=True)
    return buffer.getvalue()


def save_png(figure: Figure, path: Path, dpi: int = 110) -> Path:
    """Writes a figure as PNG, whole or not at all; makes the folder."""
    with atomic(Path(path)) as temporary:
        temporary.write_bytes(png_bytes(figure, dpi))
    return Path(path)


def save_pdf(figure: Figure, path: Path) -> Path:
    """Writes a figure as PDF with text as text and pictures at their own pixels; makes the folder."""
    # 42: TrueType, which conferences ask for and from which text can be copied
    with matplotlib.rc_context({"pdf.fonttype": 42}), atomic(Path(path)) as temporary:
        figure.savefig(temporary, dpi=PRINT_DPI, format="pdf", metadata={"CreationDate": None})
    return Path(path)


def save_csv(table: pd.DataFrame, path: Path) -> Path:
    """Writes the numbers behind a figure; makes the folder."""
    with atomic(Path(path)) as temporary:
        table.to_csv(temporary, index=False, float_format="%.5g", lineterminator="\n")
    return Path(path)


def save(figure: Figure, table: pd.DataFrame, folder: Path, name: str) -> list[Path]:
    """Writes ``<name>.pdf``, ``.png`` and ``.csv``: a figure for print and for the screen, and what it shows."""
    stem = Path(folder) / name
    return [
        save_pdf(figure, stem.with_name(f"{name}.pdf")),
        save_png(figure, stem.with_name(f"{name}.png"), PRINT_DPI),
        save_csv(table, stem.with_name(f"{name}.csv")),
    ]
