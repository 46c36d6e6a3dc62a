"""Find the trained networks for a figure, and the command that trains missing networks. Figures train nothing."""

from __future__ import annotations

from collections.abc import Sequence

from d3d.errors import DataError
from d3d.models import ARCHITECTURES
from d3d.pipeline import stages
from d3d.pipeline.config import Config, make_config


def untrained(config: Config, arch: str, labels: Sequence[str]) -> list[str]:
    """Return the unfinished trainings of a network among ``labels``; "" is the self-supervised training."""
    return [t for t in labels if not stages.is_finished(config, "distill" if t else "pretrain", arch, t)]


def trained_students(config: Config) -> list[str]:
    """Return the networks with all trainings to compare."""
    return [arch for arch in ARCHITECTURES if not untrained(config, arch, config.compared)]


def default_run(config: Config) -> str:
    """Return the default name of a run with this profile, data set and seed."""
    return make_config(profile=config.profile, dataset=config.data.dataset, seed=config.seed).run


def command(config: Config, stage: str, archs: Sequence[str]) -> str:
    """Return the command that runs a stage of this run for some networks."""
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
    """Check that this run has pretrained the networks; by default the ensemble and the network of the run.

    Raises:
        DataError: a network is missing. The message contains the command that trains it.
    """
    missing = [a for a in archs or config.networks if untrained(config, a, ("",))]
    if missing:
        first = command(config, "pretrain", missing)
        raise DataError(f"{', '.join(missing)} not pretrained in run {config.run!r}. Run: {first}")
