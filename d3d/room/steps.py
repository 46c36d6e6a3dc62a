"""All steps of a room, one after the other, with the time left for the whole."""

from __future__ import annotations

from pathlib import Path

from d3d.pipeline import stages
from d3d.pipeline.settings import Config
from d3d.progress import say
from d3d.room.results import write_results


def run_room(config: Config) -> Path:
    """Train both networks of a room, and write its results; finished steps are reused.

    Args:
        config: of `d3d.room.make_config`.

    Returns:
        The folder of the results, ``runs/<run>/room``.
    """
    steps = {
        "train the first network without labels": stages.pretrain,
        "predict depth, fuse the mesh, make the labels": stages.fuse,
        "train the second network on the labels": stages.distill,
        "write depth, meshes, pictures and the page": write_results,
    }
    for number, (what, step) in enumerate(steps.items(), 1):
        say(f"step {number} of {len(steps)}: {what}")
        result = step(config)
    return result
