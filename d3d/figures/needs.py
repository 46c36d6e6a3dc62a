"""The trained networks that a figure needs, and the command that trains them. Figures themselves train nothing."""

from __future__ import annotations

from collections.abc import Sequence

from d3d.errors import DataError
from d3d.models import ARCHITECTURES
from d3d.pipeline import stages
from d3d.pipeline.config import Config, make_config


def untrained(config: Config, arch: str, labels: Sequence[str]) -> list[str]:
    """Those of a network's trainings that this run has not finished; "" is the self-supervised one."""
    return [t for t in labels if not stages.is_finished(config, "distill" if t else "pretrain", arch, t)]


def trained_students(config: Config) -> list[str]:
    """The networks of which this run has all trainings to compare."""
    return [arch for arch in ARCHITECTURES if not untrained(config, arch, config.compared)]


def default_run(config: Config) -> str:
    """The name of a run with this profile, data set and seed if none is given."""
    return make_config(profile=config.profile, dataset=config.data.dataset, seed=config.seed).run


def command(config: Config, stage: str, archs: Sequence[str]) -> str:
    """The command that runs a stage of this run for some networks."""
    default = make_config(profile=config.profile)
    options = {
        "dataset": (config.data.dataset, default.data.dataset),
        "seed": (config.seed, default.seed),
        "run": (config.run, default_run(config)),
        "base": (config.base, default.base),
        "ensemble": (",".join(config.ensemble), ",".join(default.ensemble)),
    }
    if stage != "pretrain":
        options["labels"] = (config.labels, default.labels)
    changed = "".join(f" --{name} {value}" for name, (value, usual) in options.items() if value != usual)
    return f"python -m d3d {stage} --profile {config.profile} --archs {','.join(archs)}{changed}"


def require_pretrained(config: Config, archs: Sequence[str] = ()) -> None:
    """Check that this run has pretrained the networks, by default those of the ensemble and the run's own.

    Raises:
        DataError: one is missing; the message has the command that trains it.
    """
    missing = [a for a in archs or config.networks if untrained(config, a, ("",))]
    if missing:
        first = command(config, "pretrain", missing)
        raise DataError(f"{', '.join(missing)} not pretrained in run {config.run!r}. Run: {first}")
