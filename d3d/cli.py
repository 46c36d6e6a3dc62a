"""The command line: ``python -m d3d <command> [options]``."""

from __future__ import annotations

import argparse
import contextlib
import os
import re
import signal
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any, NoReturn

from d3d.commands import COMMANDS
from d3d.errors import ConfigError, D3DError, did_you_mean, flags, unknown
from d3d.models import ARCHITECTURES
from d3d.options import ALIASES, GROUPS, Call, Command
from d3d.pipeline.config import PARAMETERS, PROFILES, Config, make_config

# Exit codes
DONE, FAILED, USAGE, STOPPED, TERMINATED = 0, 1, 2, 130, 143

_LISTED = "\n".join(f"  {name:10} {command.help}" for name, command in COMMANDS.items())
_START = f"""Start with one of these:

  python -m d3d all --profile smoke     check the installation: a minute
  python -m d3d all --profile demo      train and evaluate on the rooms that ship: half an hour on two cores
  python -m d3d <command> --help        the options of one command

commands:
{_LISTED}

A command first computes missing results of earlier commands, and reuses finished results."""


class _Terminated(KeyboardInterrupt):
    """SIGTERM, for example from a cluster. It is handled like Ctrl-C."""


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        self.exit(USAGE, f"error: {message}\nSee `{self.prog} --help`.\n")


def parser(profile: str = "demo", arch: str = "monodepth2") -> argparse.ArgumentParser:
    """Build the parser; ``--help`` shows the defaults of the given profile and network."""
    raw = argparse.RawDescriptionHelpFormatter
    result = _Parser(
        prog="python -m d3d", usage="%(prog)s <command> [options]", description=_START, formatter_class=raw
    )
    commands = result.add_subparsers(
        prog="python -m d3d", dest="command", metavar="<command>", help=argparse.SUPPRESS
    )
    for name, command in COMMANDS.items():
        own = (command.profile, PROFILES[command.profile].arch) if command.profile else (profile, arch)
        note = f"{command.note}\n\n" if command.note else ""
        example = f"{note}example:\n  python -m d3d {name} {command.example}"
        sub = commands.add_parser(
            name, description=command.help, epilog=example, formatter_class=raw, allow_abbrev=False
        )
        given = command.options[command.positional][1] if command.positional else {}
        positional = f" {given['metavar']}{'...' if 'nargs' in given else ''}" if given else ""
        sub.usage = f"python -m d3d {name}{positional} [options]"
        taken = {g: [p for p in GROUPS[g] if p in command.parameters] for g in GROUPS if g in command.groups}
        groups = {g: sub.add_argument_group(g) for g, parameters in taken.items() if parameters}
        for group, options in groups.items():
            for parameter in taken[group]:
                _add(options, parameter, *own, group not in command.unlisted)
        for option, (group, how) in command.options.items():
            if group not in groups:
                groups[group] = sub.add_argument_group(group)
            flag = option if option == command.positional else f"--{option.replace('_', '-')}"
            groups[group].add_argument(flag, **how)
    return result


def _add(group: Any, name: str, profile: str, arch: str, listed: bool) -> None:
    """Add a parameter as an option, with its choices and its default for a profile and a network."""
    p, profile = PARAMETERS[name], profile if profile in PROFILES else "demo"
    config, default, text = PROFILES[profile], p.default(profile, arch), p.help
    if name == "ensemble":
        default = ",".join(default)
    if name == "precision":
        default = f"{default} in training, {config.predict_precision} in prediction"
    if p.choices is not None and not all(c in text for c in p.choices):
        text += ": " + (", ".join(p.choices) if len(p.choices) < 12 else f"{', '.join(p.choices[:8])}, ...")
    if name in ("epochs", "steps") and config.steps:
        text += " (default: docs/profiles.md has the steps of each network)"
    elif default not in (None, "") and not (name == "epochs" and config.pretrain.steps):
        text += f" (default: {default})"
    if name == "distance":
        how: dict[str, Any] = {"nargs": 3, "metavar": ("A", "B", "METRES")}
    elif p.type is bool:
        how = {"default": None, "action": argparse.BooleanOptionalAction}
    else:
        metavar = {int: "N", float: "X"}.get(p.type, name.rpartition("_")[2].upper())
        how = {"type": p.type, "metavar": metavar}
    names = [flags([n]) for n in (name, *ALIASES.get(name, ()))]
    shown = text.replace("%", "%%") if listed else argparse.SUPPRESS
    option = group.add_argument(*names, dest=name, help=shown, **how)
    # not `choices`: `make_config` reports a wrong value with its near misses
    option.completer = lambda **_: p.choices


def _parsed(words: list[str]) -> tuple[argparse.Namespace, Command]:
    """Parse the command and its options; a `ConfigError` with near misses if one is unknown."""
    if words and not words[0].startswith("-") and words[0] not in COMMANDS:
        raise unknown("command", words[0], COMMANDS)
    spelled = _spelled(words)
    # for --help: the profile and the network on the same command line
    given = {before: word for before, word in pairwise(spelled) if before in ("--profile", "--arch")}
    shown = parser(given.get("--profile", "demo"), given.get("--arch", "monodepth2"))
    known, rest = shown.parse_known_args(spelled)
    if known.command is None:
        raise ConfigError(_START)
    command = COMMANDS[known.command]
    if rest:
        if command.positional and not rest[0].startswith("-"):
            raise ConfigError(
                f"{rest[0]!r} is separate from the other {command.positional}: "
                f"give all {command.positional} in one place."
            )
        option = rest[0].split("=")[0].lstrip("-").removeprefix("no-").replace("-", "_")
        if takers := [name for name, c in COMMANDS.items() if option in (*c.parameters, *c.options)]:
            raise ConfigError(
                f"{flags([option])} is not an option of {known.command}, but of: {', '.join(takers)}."
            )
        listed = {n: flags([n]) for n in (*command.parameters, *command.options) if n != command.positional}
        raise ConfigError(
            f"unknown option of {known.command}: {flags([option])}.{did_you_mean(option, listed)} "
            f"`python -m d3d {known.command} --help` lists all options."
        )
    return known, command


def _spelled(words: Sequence[str]) -> list[str]:
    """Write options with dashes: --threshold_m becomes --threshold-m."""
    return [re.sub("^--[^=]+", lambda flag: flag[0].replace("_", "-"), word) for word in words]


def main(argv: list[str] | None = None) -> int:
    """Run a command. Under torchrun the first process runs it, and all processes share the trainings.

    Returns:
        The exit code: 0 done, 1 failed, 2 wrong parameter or command line, 130 interrupted, 143 terminated.
    """
    words = sys.argv[1:] if argv is None else list(argv)
    if "_ARGCOMPLETE" in os.environ:
        import argcomplete

        argcomplete.autocomplete(parser())
    if os.environ.get("WORLD_SIZE", "1") == "1":
        with _stopped_by_sigterm():
            return _run(words)
    from d3d.parallel import distributed

    try:
        return distributed.run(lambda: _run(words), _parsed(words)[0].device or "auto")
    except D3DError as error:
        print(f"error: {error}", file=sys.stderr)
        return FAILED


@contextlib.contextmanager
def _stopped_by_sigterm() -> Iterator[None]:
    """Raise `_Terminated` at SIGTERM. A process forked in the block ends at once."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    process = os.getpid()

    def stop(*_: Any) -> NoReturn:
        if os.getpid() != process:
            os._exit(TERMINATED)
        raise _Terminated

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _run(words: list[str]) -> int:
    start = time.monotonic()
    if not words:
        print(_START)
        return DONE
    try:
        if words[0] == "prepare" and len(words) > 1 and not words[1].startswith("-"):
            from d3d.pipeline import prepare

            if words[1] != "scannet":
                raise unknown("data set to prepare", words[1], ("scannet",))
            name = "prepare scannet"  # has its own parser, and needs no run
            prepare.run(_spelled(words[2:]))
        else:
            options, command = _parsed(words)
            name = options.command
            command.run(_called(options, command, words))
    except D3DError as error:
        print(f"error: {error}", file=sys.stderr)
        return USAGE if isinstance(error, ConfigError) else FAILED
    except KeyboardInterrupt as error:
        print("Interrupted. Repeat the command to resume.", file=sys.stderr)
        return TERMINATED if isinstance(error, _Terminated) else STOPPED
    print(f"({name}: {time.monotonic() - start:.0f} s)")
    return DONE


def _called(options: argparse.Namespace, command: Command, words: Sequence[str]) -> Call:
    """Return the arguments of a command: configurations, networks, options."""
    values = {name: getattr(options, name) for name in command.parameters}
    if command.positional == "capture":  # its bounds are found after its poses are known to be right
        values |= {"dataset": "capture", "root": options.capture, "bounds": "paper"}
    configs = _configs(values, getattr(options, "seeds", None))
    config, given = configs[0], getattr(options, "archs", None)
    if given is not None:
        sets = {"every": ARCHITECTURES, "ensemble": config.ensemble}
        archs = sets.get(given) or tuple(given.split(","))
    elif options.command in ("all", "record") and values["arch"] is None:
        archs = config.students
    else:
        archs = (config.arch,)
    for arch in archs:
        if arch not in ARCHITECTURES:
            raise unknown("arch", arch, ARCHITECTURES)
    return Call(config, archs, configs, options, list(words))


def _configs(values: dict[str, Any], seeds: str | None) -> list[Config]:
    """Make a configuration for each seed; the seed replaces "{seed}" in ``--run`` and ``--base``."""
    if seeds is None:
        return [make_config(**values)]
    if values.get("seed") is not None:
        raise ConfigError("--seeds and --seed: give one of them.")
    named = {name: values[name] for name in ("run", "base") if values.get(name)}
    for name, value in named.items():
        if "{seed}" not in value:
            raise ConfigError(f"--{name} {value!r} must contain {{seed}}: each seed has its own run.")
    try:
        numbers = [int(s) for s in seeds.split(",")]
    except ValueError:
        raise ConfigError(
            f"--seeds {seeds!r} must be whole numbers separated by commas, such as 0,1,2."
        ) from None
    runs = [{name: value.replace("{seed}", str(n)) for name, value in named.items()} for n in numbers]
    return [make_config(**values | run | {"seed": n}) for n, run in zip(numbers, runs, strict=True)]
