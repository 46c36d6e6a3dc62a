"""Figure 5: depth of unseen images before and after 3D distillation, for each network."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import pandas as pd
from matplotlib.figure import Figure

from d3d import evaluation
from d3d.errors import DataError
from d3d.figures.files import FigureWithTable
from d3d.figures.frames import Frame, notes, reflective_frames, scored_frame
from d3d.figures.labels import signed_error_panel
from d3d.figures.needs import command, trained_students
from d3d.figures.panels import PRINT, Panel, grid
from d3d.pipeline import stages
from d3d.pipeline.config import Config
from d3d.prediction import DepthStore
from d3d.progress import say


def make(config: Config, archs: Sequence[str] = (), count: int = 0) -> FigureWithTable:
    """Make Figure 5 of a run, with the errors of each training.

    It shows the images of the evaluated split with most highlight, one per room.

    Args:
        archs: networks; missing students are trained. By default all networks with trained students.
        count: number of images; 0 means four for one network, three for several.

    Raises:
        DataError: ``archs`` is empty and no network has trained students.
    """
    if not archs:
        archs = trained_students(config)
        if not archs:
            first = command(config, "all", config.students)
            raise DataError(f"no network of run {config.run!r} has its students. Run: {first}")
        if missing := [a for a in config.ensemble if a not in archs]:
            more = f"not distilled in this run. To add them, run: {command(config, 'all', missing)}"
            say(f"figure5: without {', '.join(missing)}, {more}")
    count = count or (4 if len(archs) == 1 else 3)
    scores = {(a, t): stages.evaluate(config, a, t) for a in archs for t in config.compared}
    data, split = stages.evaluated_dataset(config), config.evaluation.split
    scenes = {s.name: s for s in data.scenes(split)}
    chosen = reflective_frames(scores[archs[0], ""], data.lists(split).get("Reflection"), count)
    frames, rows = [], []
    for (name, frame_id), arch in itertools.product(chosen, archs):
        depths = {
            evaluation.training_name(t): evaluated_depth(config, arch, t).read(name, frame_id)
            for t in config.compared
        }
        i = scenes[name].frame_ids.index(frame_id)
        frame, scored = scored_frame(config, scenes[name], i, depths, evaluation.arch_name(arch))
        frames.append(frame)
        rows += scored
    return FigureWithTable(draw(frames), pd.DataFrame(rows))


def evaluated_depth(config: Config, arch: str, labels: str) -> DepthStore:
    """Return the depth of the evaluated split from `stages.evaluate`."""
    return DepthStore(stages.stage_folder(config, "evaluate", arch, labels) / "depth")


def draw(frames: Sequence[Frame]) -> Figure:
    """Draw one row per image and network: the depth of each training, and its error if ground truth is known."""
    rows = []
    for frame in frames:
        # columns are narrow: text in brackets gets its own line
        titles = {name: name.replace(" (", "\n(") for name in frame.depths}
        row = [
            Panel("image", frame.image, outline=frame.highlight),
            Panel("ground truth", frame.gt, "depth"),
            *(Panel(titles[name], depth, "depth") for name, depth in frame.depths.items()),
        ]
        if frame.gt is not None:
            row += [signed_error_panel(f"{titles[name]}\n− truth", frame, name) for name in frame.depths]
        rows.append(row)
    return grid(rows, names=[f.name for f in frames], notes=notes(frames), **PRINT)
