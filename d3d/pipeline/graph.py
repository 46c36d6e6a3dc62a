"""The stages as a graph: each is declared once, with the stages that it needs and what identifies its result.

`ensure` walks the needs of a stage: it computes what is missing and takes what is finished. A finished result is
taken only if its identity is the one that is asked for: the configuration that determines it, a digest of the data
that it reads, the weights that a network was initialised from, and the identities of the stages that it needs.
"""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

from d3d.errors import DataError, RunError, unknown
from d3d.pipeline import runs
from d3d.pipeline.runs import UNKNOWN, StageFolder, is_done
from d3d.pipeline.settings import Config
from d3d.progress import say


class Key(NamedTuple):
    """Which result of a run is meant."""

    stage: str
    arch: str = ""  # "" where the result is of several networks
    labels: str = ""  # the label strategy, or the uncertainty's name; "" where the stage has neither
    round: int = 1  # of distillation

    @property
    def name(self) -> str:
        """The folder below the run, as ``round2/fuse/monodepth2/uncer``; for messages and identities, too."""
        rounds = f"round{self.round}" if self.round > 1 else ""
        return "/".join(part for part in (rounds, self.stage, self.arch, self.labels) if part)


Compute = Callable[[Config, Key, StageFolder], None]


@dataclass(frozen=True)
class Stage:
    """The declaration of a stage. Every function takes the configuration and the key of the result.

    Attributes:
        name: the stage's name, and its folder's.
        settings: the part of the configuration that determines the result, without that of its needs.
        compute: writes the artefacts into the open folder and calls its `finish`.
        needs: the results that the stage reads.
        data: the identity of the data that the stage itself reads.
        initial: the identity of the weights that a training starts from.
        check: raises an error for what can be known to fail before the needs are computed.
        path: the result's folder below the run, where it is not `Key.name`.
        takes: how long the stage takes, in words.
    """

    name: str
    settings: Callable[[Config, Key], dict[str, Any]]
    compute: Compute
    needs: Callable[[Config, Key], Sequence[Key]] = lambda config, key: ()
    data: Callable[[Config, Key], dict[str, Any] | None] = lambda config, key: None
    initial: Callable[[Config, Key], dict[str, Any] | None] = lambda config, key: None
    check: Callable[[Config, Key], None] = lambda config, key: None
    path: Callable[[Config, Key], str] = lambda config, key: key.name
    takes: str = ""


_STAGES: dict[str, Stage] = {}


def stage(name: str, **declared: Any) -> Callable[[Compute], Compute]:
    """Declare a stage; decorates its `Stage.compute`. The arguments are the fields of `Stage`."""

    def register(compute: Compute) -> Compute:
        _STAGES[name] = Stage(name, compute=compute, **declared)
        return compute

    return register


def fields_of(part: Any, *left_out: str) -> dict[str, Any]:
    """A part of the configuration for the settings of a stage, without fields that do not change its result."""
    return {k: v for k, v in asdict(part).items() if k not in left_out}


def stage_of(key: Key) -> Stage:
    """The declaration of a key's stage; a `ConfigError` names all stages."""
    if key.stage not in _STAGES:
        raise unknown("stage", key.stage, _STAGES)
    return _STAGES[key.stage]


def identity(config: Config, key: Key, any_data: bool = False) -> dict[str, Any]:
    """What identifies a result, as plain JSON values.

    Args:
        any_data: data that cannot be opened are `UNKNOWN`, which equals all, instead of an error.
    """
    stage = stage_of(key)
    result = {"settings": stage.settings(config, key)}
    try:
        data = stage.data(config, key)
    except DataError:
        if not any_data:
            raise
        data = UNKNOWN
    result |= {
        part: v for part, v in (("data", data), ("initial", stage.initial(config, key))) if v is not None
    }
    # tuples become lists, so that an identity that is read back compares equal
    result = json.loads(json.dumps(result))
    if needs := stage.needs(config, key):
        result["needs"] = {need.name: identity(config, need, any_data) for need in needs}
    return result


def located(config: Config, key: Key) -> tuple[Path, dict[str, Any]]:
    """The folder of a result, finished or not, and its identity.

    Where the run has a ``base`` which has finished the same result, it is the base's folder.

    Raises:
        ConfigError: there is no such base, or a parameter is wrong.
        DataError: the data or the initial weights cannot be had.
    """
    relative = stage_of(key).path(config, key)
    own = runs.run_folder(config) / relative
    theirs = runs.run_folder(config, config.base) / relative
    from_base = bool(config.base) and is_done(theirs) and not (own / "config.json").is_file()
    if config.base and not runs.run_folder(config, config.base).is_dir():
        there = [p.name for p in runs.run_folder(config).parent.glob("*") if p.is_dir()]
        raise unknown("run as base", config.base, there)
    wanted = identity(config, key)
    if from_base and not runs.differences(wanted, runs.stored_identity(theirs)):
        return theirs, wanted
    return own, wanted


def folder_of(config: Config, key: Key) -> Path:
    """The folder of a result, finished or not."""
    return located(config, key)[0]


def finished(config: Config, key: Key) -> Path | None:
    """The folder of a result with the identity that is asked for; None where it is not finished."""
    relative = stage_of(key).path(config, key)
    if not any(is_done(runs.run_folder(config, run) / relative) for run in ("", config.base)):
        return None
    folder, wanted = located(config, key)
    same = is_done(folder) and not runs.differences(wanted, runs.stored_identity(folder))
    return folder if same else None


def require_finished(config: Config, key: Key) -> Path:
    """The folder of a result; a `RunError` that names the command where it is not finished."""
    if folder := finished(config, key):
        return folder
    raise RunError(
        f"{key.name} of run {config.run!r} is not finished: run `python -m d3d {key.stage}` first."
    )


def _inputs(config: Config, key: Key) -> dict[str, str]:
    """Artefact -> sha256 of the results that a stage reads, as far as they are there."""
    return {
        f"{need.name}/{artefact}": sha256
        for need in stage_of(key).needs(config, key)
        if (folder := finished(config, need))
        for artefact, sha256 in runs.outputs(folder).items()
    }


def ensure(config: Config, key: Key) -> Path:
    """Compute a result, and first what it needs; return its folder. What is finished is taken, the rest resumes.

    Raises:
        RunError: the folder holds another result, or was made from other inputs.
        BusyError: another process is computing it.
        D3DError: as the stage raises it.
    """
    stage = stage_of(key)
    folder, wanted = located(config, key)
    if is_done(folder):
        StageFolder(folder, config, wanted, _inputs(config, key)).check()
        return folder
    stage.check(config, key)
    for need in stage.needs(config, key):
        missing, start, takes = not is_done(folder_of(config, need)), time.monotonic(), stage_of(need).takes
        if missing:
            say(f"[{need.name}] not there yet, computing it first{f' ({takes})' if takes else ''}")
        ensure(config, need)
        if missing:
            say(f"[{need.name}] took {time.monotonic() - start:.0f} s")
    with open_stage(config, key) as opened:
        if not opened.done:
            stage.compute(replace(config, round=key.round), key, opened)
        return opened.folder


@contextlib.contextmanager
def open_stage(config: Config, key: Key) -> Iterator[StageFolder]:
    """As `d3d.pipeline.runs.open_folder`, for a key. `ensure` calls it after what the stage needs."""
    folder, wanted = located(config, key)
    with runs.open_folder(folder, config, wanted, _inputs(config, key)) as opened:
        yield opened


def all_needs(config: Config, key: Key) -> list[Key]:
    """Every result that a result is made from, directly or not, each once."""
    needs = stage_of(key).needs(config, key)
    return list(dict.fromkeys(k for need in needs for k in (*all_needs(config, need), need)))
