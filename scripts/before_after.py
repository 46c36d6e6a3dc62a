"""Draw the picture on top of the README: the depth of one image before and after distillation.

    python scripts/before_after.py --out docs/before_after.png

Both networks ship with d3d. The image is from a room that no training has seen.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np

import d3d
from d3d.datasets import open_dataset
from d3d.figures.files import save_png
from d3d.figures.panels import Panel, grid

SPLIT, ROOM, FRAME = "val", "val-0001", "000028"
TITLES = {
    "monodepth2-selfsupervised": "depth before distillation",
    "monodepth2-distilled": "depth after distillation",
}


def draw(out: Path) -> dict[str, float]:
    """Write the picture as PNG; return each network's median error on highlights, metres."""
    scene = next(s for s in open_dataset("glossyrooms").scenes(SPLIT) if s.name == ROOM)
    i = scene.frame_ids.index(FRAME)
    image, highlight = scene.image(i), scene.highlight_mask(i)
    depths = {name: d3d.predict(d3d.load_model(name), image) for name in TITLES}
    errors = {name: float(np.median((depth - scene.depth(i))[highlight])) for name, depth in depths.items()}
    top = float(max(np.percentile(depth, 99.5) for depth in depths.values()))
    row = [Panel("image", image, outline=highlight)]
    for name, depth in depths.items():
        row.append(Panel(TITLES[name], depth, "depth", top, outline=highlight, note=f"{errors[name]:+.2f} m"))
    notes = "Outlined: reflections of windows and lamps. Numbers: median error of depth there."
    save_png(grid([row], notes=notes, width_in=9.0), out)
    return errors


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True, help="PNG to write")
    out = parser.parse_args(arguments).out
    for name, error in draw(out).items():
        print(f"{name}: {error:+.2f} m")
    print(out)


if __name__ == "__main__":
    main()
