"""The graph of stages. Each stage declares its needs and the identity of its result.

`ensure` computes a result and, before it, every missing result that it needs. A finished result is reused only if its
identity matches. The identity consists of the relevant part of the configuration, a digest of the data, the initial
weights, and the identities of the needs.
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
    """The key of a result in a run."""

    stage: str
    arch: str = ""  # "" for a result of several networks
    labels: str = ""  # the label strategy or the uncertainty's name; "" for a stage without either
    round: int = 1  # of distillation

    @property
    def name(self) -> str:
        """The name in messages and identities, and usually the folder in the run: ``round2/fuse/monodepth2/uncer``."""
        rounds = f"round{self.round}" if self.round > 1 else ""
        return "/".join(part for part in (rounds, self.stage, self.arch, self.labels) if part)


Compute = Callable[[Config, Key, StageFolder], None]


@dataclass(frozen=True)
class Stage:
    """The declaration of a stage. Every function takes the configuration and the key of the result.

    Attributes:
        name: name of the stage and of its folder.
        settings: the settings that determine the result, without the settings of its needs.
        compute: writes the artefacts into the open folder and calls its `finish`.
        needs: keys of the results that the stage reads.
        data: the identity of the data that the stage itself reads.
        initial: the identity of the initial weights of a training.
        check: raises foreseeable errors before the needs are computed.
        path: the result's folder in the run; `Key.name` by default.
        takes: the duration of the stage, in words.
    """

    name: str
    settings: Callable[[Config, Key], dict[str, Any]]
    compute: Compute
    needs: Callable[[Config, Key], Sequence[Key]] = lambda config, key: ()
    data: Callable[[Config, Key], dict[str, Any] | None] = lambda config, key: None
    initial: Callable[[Config, Key], dict[str, Any] | None] = lambda config, key: None
    check: Callable[[Config, Key], None] = lambda config, key: None
    path: Callable[[Config, Key], str] = lambda config, key: key.name
    takes: Callable[[Config, Key], str] = lambda config, key: ""


_STAGES: dict[str, Stage] = {}


def stage(name: str, **declared: Any) -> Callable[[Compute], Compute]:
    """Declare a stage by decorating its `Stage.compute`. The arguments are the other fields of `Stage`."""

    def register(compute: Compute) -> Compute:
        _STAGES[name] = Stage(name, compute=compute, **declared)
        return compute

    return register


def fields_of(part: Any, *left_out: str) -> dict[str, Any]:
    """Return the fields of a part of the configuration as a dictionary, except ``left_out``."""
    return {k: v for k, v in asdict(part).items() if k not in left_out}


def stage_of(key: Key) -> Stage:
    """Return the declaration of a key's stage; a `ConfigError` for an unknown stage."""
    if key.stage not in _STAGES:
        raise unknown("stage", key.stage, _STAGES)
    return _STAGES[key.stage]


def identity(config: Config, key: Key, any_data: bool = False) -> dict[str, Any]:
    """Return the identity of a result as JSON values.

    Args:
        any_data: use `UNKNOWN`, which equals every value, for data that cannot be opened. By default an error.
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
    # tuples become lists, as in an identity read from a file
    result = json.loads(json.dumps(result))
    if needs := stage.needs(config, key):
        result["needs"] = {need.name: identity(config, need, any_data) for need in needs}
    return result


def located(config: Config, key: Key) -> tuple[Path, dict[str, Any]]:
    """Return the folder of a result, finished or not, and its identity.

    If the run's ``base`` has finished the same result, the folder is the base's.

    Raises:
        ConfigError: the base does not exist, or a parameter is wrong.
        DataError: the data or the initial weights are not available.
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
    """Return the folder of a result, finished or not."""
    return located(config, key)[0]


def finished(config: Config, key: Key) -> Path | None:
    """Return the folder of a finished result with the right identity; None if there is no such result."""
    relative = stage_of(key).path(config, key)
    if not any(is_done(runs.run_folder(config, run) / relative) for run in ("", config.base)):
        return None
    folder, wanted = located(config, key)
    same = is_done(folder) and not runs.differences(wanted, runs.stored_identity(folder))
    return folder if same else None


def require_finished(config: Config, key: Key) -> Path:
    """Return the folder of a finished result.

    Raises:
        RunError: the result is not finished; the message names the command that computes it.
    """
    if folder := finished(config, key):
        return folder
    raise RunError(
        f"{key.name} of run {config.run!r} is not finished: run `python -m d3d {key.stage}` first."
    )


def _inputs(config: Config, key: Key) -> dict[str, str]:
    """Map the artefacts that a stage reads to their sha256; artefacts of unfinished stages are left out."""
    return {
        f"{need.name}/{artefact}": sha256
        for need in stage_of(key).needs(config, key)
        if (folder := finished(config, need))
        for artefact, sha256 in runs.outputs(folder).items()
    }


def ensure(config: Config, key: Key) -> Path:
    """Compute a result and everything that it needs, and return its folder.

    Finished results are reused; interrupted results resume.

    Raises:
        RunError: the folder holds another result, or was made from other inputs.
        BusyError: another process is computing the result.
        D3DError: the stage failed.
    """
    stage = stage_of(key)
    folder, wanted = located(config, key)
    if is_done(folder):
        StageFolder(folder, config, wanted, _inputs(config, key)).check()
        return folder
    stage.check(config, key)
    for need in stage.needs(config, key):
        missing, start, takes = (
            not is_done(folder_of(config, need)),
            time.monotonic(),
            stage_of(need).takes(config, need),
        )
        if missing:
            say(f"[{need.name}] is missing: computing it first{f' ({takes})' if takes else ''}")
        ensure(config, need)
        if missing:
            say(f"[{need.name}] took {time.monotonic() - start:.0f} s")
    with open_stage(config, key) as opened:
        if not opened.done:
            stage.compute(replace(config, round=key.round), key, opened)
        return opened.folder


@contextlib.contextmanager
def open_stage(config: Config, key: Key) -> Iterator[StageFolder]:
    """Open the folder of a key with `d3d.pipeline.runs.open_folder`. The needs of the key must be finished."""
    folder, wanted = located(config, key)
    with runs.open_folder(folder, config, wanted, _inputs(config, key)) as opened:
        yield opened


def all_needs(config: Config, key: Key) -> list[Key]:
    """List every direct and indirect need of a result once, in the order of computation."""
    needs = stage_of(key).needs(config, key)
    return list(dict.fromkeys(k for need in needs for k in (*all_needs(config, need), need)))
