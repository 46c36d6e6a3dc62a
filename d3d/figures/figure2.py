"""Figure 2: predicted depth over-estimates highlights more than the mesh of all views."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from d3d import reconstruction
from d3d.figures.files import FigureWithTable
from d3d.figures.frames import Frame, filled, notes, reflective_targets, scored_frame
from d3d.figures.labels import signed_error_panel
from d3d.figures.needs import require_pretrained
from d3d.figures.panels import PRINT, Panel, grid
from d3d.pipeline import stages
from d3d.pipeline.config import Config


def make(config: Config) -> FigureWithTable:
    """Make Figure 2 of a run on three images, with the errors of predicted and projected depth."""
    arch = config.arch
    require_pretrained(config, [arch])
    larger = tuple(2 * x for x in config.data.size_hw)
    frames, meshes, rows = [], [], []
    for scene, i in reflective_targets(config):
        pred = stages.predict(config, arch).read_of(scene, i)
        proj = stages.project(config, arch).read_of(scene, i)
        frame, scores = scored_frame(config, scene, i, {"predicted": pred, "projected": filled(pred, proj)})
        frames.append(replace(frame, depths={"predicted": pred, "projected": proj}))
        mesh = stages.read_mesh(config, arch, scene)
        meshes.append(reconstruction.render_shaded(mesh, scene.K(i, larger), scene.world_T_cams[i], larger))
        rows += scores
    return FigureWithTable(draw(frames, meshes), pd.DataFrame(rows))


def draw(frames: Sequence[Frame], meshes: Sequence[np.ndarray]) -> Figure:
    """Draw image, predicted depth, mesh and projected depth of each frame, and the errors of both depths.

    Args:
        frames: frames with ground truth and the depths "predicted" and "projected". Where the mesh has no surface,
            projected depth is replaced by predicted depth, as in a label.
        meshes: picture (h, w, 3) of the mesh from the camera of each frame.
    """
    rows = []
    for frame, mesh in zip(frames, meshes, strict=True):
        pred, proj = frame.depths["predicted"], frame.depths["projected"]
        predicted = [Panel("predicted D", pred, "depth"), signed_error_panel("D − truth", frame, "predicted")]
        error = signed_error_panel("P − truth", frame, "projected", filled(pred, proj))
        projected = [Panel("mesh of all views", mesh), Panel("projected P", proj, "depth"), error]
        rows.append([Panel("image", frame.image, outline=frame.highlight), *predicted, *projected])
    return grid(rows, names=[f.name for f in frames], notes=notes(frames), **PRINT)
