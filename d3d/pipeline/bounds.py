"""Bounds of a run's data that the user did not give: the paper's, or chosen for the capture."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

from d3d.datasets import Dataset
from d3d.datasets.bounds import Bounds, choose_bounds
from d3d.datasets.capture.sweep import median_depth
from d3d.errors import ConfigError, DataError, rounded
from d3d.pipeline.opened import open_kept
from d3d.pipeline.settings import Config, TrainConfig
from d3d.progress import say

_TRANSLATION = ("min_translation_m", "max_translation_m")
_LENGTHS = ("voxel_m", "trunc_m", "threshold_m")


def with_bounds(config: Config, given: Collection[str]) -> Config:
    """The configuration with the bounds of its data, chosen where ``bounds`` is auto; captures: unless it is paper.

    Args:
        given: names of the fields that the user has set; they stay.

    Raises:
        ConfigError: bounds in the wrong order.
        DataError: the data set cannot be opened, or its camera does not move.
    """
    d = config.data
    if d.bounds == "auto" or (d.bounds is None and d.dataset == "capture"):
        found = open_kept(d.dataset, d.root, config.options_of(d.dataset, d.options))
        chosen = bounds_of(found, d.every)
        say(describe(chosen, found.short_unit))
        data = {
            "min_translation_m": chosen.translation_m[0],
            "max_translation_m": chosen.translation_m[1],
            "max_rotation_deg": chosen.max_rotation_deg,
            "min_depth": chosen.min_depth,
            "max_depth": chosen.max_depth,
        }
        lengths = {name: getattr(config.fusion, name) * chosen.scale for name in _LENGTHS}
        config = replace(
            config,
            data=replace(d, **{k: v for k, v in data.items() if k not in given}),
            fusion=replace(config.fusion, **{k: v for k, v in lengths.items() if k not in given}),
            pretrain=_scaled(config.pretrain, chosen.scale),
            distill=_scaled(config.distill, chosen.scale),
        )
    d = config.data
    for low, high in (_TRANSLATION, ("min_depth", "max_depth")):
        if not getattr(d, low) < getattr(d, high):
            values = f"{low} = {getattr(d, low):g} and {high} = {getattr(d, high):g}"
            raise ConfigError(f"{values}: the first must be smaller.")
    return config


def _scaled(settings: TrainConfig, scale: float) -> TrainConfig:
    """A training whose untrained network predicts the depth of this scene instead of that of a room."""
    start = settings.init_depth_m
    return settings if start is None else replace(settings, init_depth_m=start * scale)


def bounds_of(found: Dataset, every: int) -> Bounds:
    """Bounds for a data set's first scene to train on; raises DataError as `choose_bounds`."""
    scene = found.scenes("train")[0]
    try:
        return choose_bounds(scene.world_T_cams, median_depth(scene), every, scene.every(every))
    except DataError as error:
        raise DataError(f"scene {scene.name!r}: {error}") from None


def describe(bounds: Bounds, unit: str) -> str:
    """The choice in a line."""
    low, high = (rounded(d, 4) for d in bounds.translation_m)
    nearest, farthest = rounded(bounds.min_depth, 4), rounded(bounds.max_depth, 4)
    return (
        f"bounds chosen for a median depth of {rounded(bounds.median_depth)} {unit}: sources {low} to {high} {unit} "
        f"and at most {bounds.max_rotation_deg:g} degrees from their target ({bounds.triples} of {bounds.targets} "
        f"targets have two), depth {nearest} to {farthest} {unit}"
    )
