"""The configuration of notebook 11: a room at a size that shows a result within minutes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from d3d.datasets.capture.scene import scene_name
from d3d.errors import ConfigError, unknown
from d3d.io import project_root
from d3d.models.shipped import available
from d3d.pipeline.config import parameters_in
from d3d.pipeline.profiles import PROFILES
from d3d.pipeline.settings import Config
from d3d.room.settings import IMAGENET, PROFILE, make_config

# Profiles with a size of their own. The others compute what `python -m d3d room` computes
SIZES: dict[str, dict[str, Any]] = {
    "ready": {"height": 96, "width": 128, "steps": 200},
    "smoke": {"height": 64, "width": 96, "steps": 6, "batch_size": 2},
}


def shipped_capture() -> Path:
    """Return the folder of the capture that ships with the repository."""
    return project_root() / "data" / "capture"


def resolve(namespace: Mapping[str, Any]) -> Config:
    """Return the configuration of a notebook about a user's own room: ``cfg = d3d.room.resolve(globals())``.

    Without a root it opens the capture that ships. Profile ready, the default, has small images and few steps. Both
    trainings start from a network that ships: the student if there is one of this architecture, else the teacher.

    Args:
        namespace: ``globals()``; `d3d.pipeline.config.parameters_in` says which of its names are parameters.

    Raises:
        ConfigError: a parameter is unknown or wrong.
        DataError: as `d3d.room.make_config`.
    """
    given = {name: value for name, value in parameters_in(namespace).items() if value is not None}
    profile, root = given.pop("profile"), Path(given.pop("root", shipped_capture()))
    if profile not in PROFILES:
        raise unknown("profile", profile, PROFILES)
    if (dataset := given.pop("dataset", "capture")) != "capture":
        raise ConfigError(
            f"dataset = {dataset!r}: this notebook opens captures. Set root to a capture's folder."
        )
    given.setdefault("run", f"room-{scene_name(root)}-{profile}-seed{given.get('seed', 0)}")
    arch, size, start = given.get("arch", PROFILES[PROFILE].arch), SIZES.get(profile, {}), IMAGENET
    if size and "weights" not in given:
        ships = available()
        start = next((n for k in ("distilled", "selfsupervised") if (n := f"{arch}-{k}") in ships), IMAGENET)
    if "height" in given or "width" in given:  # the other one follows from the shape of the images
        size = {name: value for name, value in size.items() if name not in ("height", "width")}
    config = make_config(root, start=start, **{**size, **given})
    # figures of profile smoke say that nothing is trained; the trainings of other profiles are those of a room
    return replace(config, profile=profile) if profile in SIZES else config
