"""The stages without a notebook: ``python -m d3d <stage> --profile demo --arch hrdepth``."""

from __future__ import annotations

import argparse
import os
import sys
import time
from typing import TYPE_CHECKING

from d3d.errors import ConfigError, D3DError, unknown
from d3d.models import ARCHITECTURES
from d3d.pipeline.config import PARAMETERS, Config, make_config

if TYPE_CHECKING:
    import pandas as pd


def _prepare(config: Config, archs: tuple[str, ...]) -> None:
    from d3d.pipeline import stages

    scenes = stages.training_scenes(config)
    for s in scenes:
        print(
            f"{s.scene.name}: {len(s.scene)} frames, {len(s.triples)} triples of {s.triples.targets_tried} targets"
        )
        for reason, count in s.triples.dropped.items():
            print(f"    dropped {count}: {reason}")
    print(f"{len(scenes)} scenes, {sum(len(s.triples) for s in scenes)} triples")


def _pretrain(config: Config, archs: tuple[str, ...]) -> None:
    from d3d.pipeline import stages

    for arch in archs:
        print(stages.pretrain(config, arch))


def _project(config: Config, archs: tuple[str, ...]) -> None:
    from d3d.pipeline import stages

    for arch in archs:
        print(stages.project(config, arch).folder)


def _fuse(config: Config, archs: tuple[str, ...]) -> None:
    from d3d.pipeline import stages

    for arch in archs:
        print(stages.fuse(config, arch).folder)


def _distill(config: Config, archs: tuple[str, ...]) -> None:
    from d3d.pipeline import stages

    for arch in archs:
        print(stages.distill(config, arch))


def _evaluate(config: Config, archs: tuple[str, ...]) -> None:
    from d3d.pipeline import stages

    for arch in archs:
        for labels in ("", config.labels):
            stages.evaluate(config, arch, labels)
    _tables(config, archs)


def _tables(config: Config, archs: tuple[str, ...]) -> None:
    from d3d.pipeline import stages

    _print_table(config, stages.tables(config))


def _paper_tables(configs: list[Config], export: bool, stored: bool, readme: bool) -> None:
    """Tables 2 to 6 over several seeds' runs, or from what is kept of them in the repository."""
    from d3d import tables
    from d3d.pipeline import runs

    first, folder = configs[0], tables.results_folder(configs[0])
    if export:
        written = tables.export(tables.gather(configs), folder)
        print(f"{len(written)} files, {sum(p.stat().st_size for p in written) / 1e6:.2f} MB, in {folder}")
    if export or stored or readme:
        scores, out = tables.read(folder), folder / "tables"
    else:
        seeds = "-".join(str(c.seed) for c in configs)
        scores, out = tables.gather(configs), runs.run_folder(first) / "tables" / f"seeds-{seeds}"
    paths = tables.write_tables(scores, out, first.arch)
    print(f"{len(scores.evaluations)} evaluations, seeds {', '.join(map(str, scores.seeds))}")
    print("\n".join(map(str, paths)))
    lines = [line for key in tables.LAYOUTS for line in tables.missing(scores, key, first.arch)]
    todo = dict.fromkeys(line.split(": ", 1)[1] for line in lines)
    if todo:
        print("what the tables lack, and the command that makes it, is written under each; in all:")
        print("\n".join(f"  {what}" for what in todo))
    if readme:
        path = runs.project_root() / "README.md"
        tables.write_readme(path, tables.readme_block(out))
        print(path)


def _print_table(config: Config, table: pd.DataFrame) -> None:
    from d3d import tables
    from d3d.pipeline import stages

    e = config.evaluation
    truth = stages.evaluated_dataset(config).truth(e.split)
    unit = "metres" if e.scale == "none" else "relative depth"
    print(
        f"\n{e.dataset or config.data.dataset}, {e.split}, profile {config.profile}, seed {config.seed}: {unit}, "
        f"means over images (in brackets, how many){f', against {truth}' if truth else ''}\n\n"
        f"{tables.printed(table)}\n"
        f"all metrics, highlights and other pixels: {stages.folder_of(config, 'tables')}"
    )


def _rank(config: Config, archs: tuple[str, ...]) -> None:
    from d3d import figures
    from d3d.lists import ranking

    ranked = ranking.rank_frames(config)
    print(ranked.head(20).round(3).to_string(index=False))
    known = ranking.found_known(config, ranked)
    if len(known):
        print(
            f"\nhow well each score finds the frames known to be reflective\n\n{known.round(3).to_string()}\n"
        )
    sheet = ranking.folder_of(config) / "contact_sheet.png"
    print(f"all {len(ranked)} frames: {sheet.with_name('frames.csv')}")
    print(figures.save_png(ranking.contact_sheet(config, ranked), sheet))


def _figures(config: Config, archs: tuple[str, ...]) -> None:
    from d3d.figures import all as all_figures
    from d3d.pipeline import runs

    for name, made in all_figures.make(config, runs.project_root() / "paper_figures"):
        if isinstance(made, str):
            print(f"{name}: skipped, {made}", flush=True)
        else:
            print(f"{name}: {', '.join(map(str, made))}", flush=True)


def _all(config: Config, archs: tuple[str, ...]) -> None:
    from d3d.figures.all import run_figures
    from d3d.pipeline import runs, stages

    table = stages.run_all(config, archs)
    _print_table(config, table)
    for path in run_figures(config, archs[0]):
        print(f"figure: {path}")
    print(f"everything is in {runs.run_folder(config)}")


def _labels(config: Config, archs: tuple[str, ...]) -> None:
    from d3d.analysis.thresholds import rule_sweep

    for arch in archs:
        print(f"\nSq Rel of {arch}'s labels on training frames with ground truth\n")
        print(rule_sweep(config, arch).round(3).to_string(index=False, na_rep="-"))


def _record(configs: list[Config], processes: int, arguments: list[str]) -> None:
    from d3d.parallel.processes import end_with_parent
    from d3d.pipeline import record

    jobs = record.plan(configs)
    if processes == 1:
        end_with_parent()
        record.work(jobs)
    else:
        record.work_in_processes(jobs, arguments, processes)


STAGES = {
    "prepare": (
        _prepare,
        "list the training triples, and why targets fell out; `prepare scannet --help`: make ScanNet small",
    ),
    "pretrain": (_pretrain, "self-supervised pretraining (3.1)"),
    "project": (_project, "predicted depth, TSDF mesh, projected depth (3.2.1, 3.2.2)"),
    "fuse": (_fuse, "uncertainty and pseudo-labels (3.2.3)"),
    "labels": (_labels, "how good labels are by rule and threshold, where training frames have ground truth"),
    "distill": (_distill, "train a student on the labels (3.2.4)"),
    "evaluate": (_evaluate, "score self-supervised network and student (4)"),
    "tables": (
        _tables,
        "the table of all that was evaluated; with --seeds or --stored the paper's Tables 2 to 6",
    ),
    "rank": (_rank, "the evaluated split's frames by how reflective they look: the start of a list (4.1)"),
    "figures": (_figures, "every figure that the run has what is needed for, into paper_figures/"),
    "record": (_record, "the recorded runs of several --seeds: every training behind the README's results"),
    "all": (_all, "all of it: three networks, self-taught and distilled students, table, figures"),
}


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> None:  # type: ignore[override]
        # argparse names no near misses; unknown options come here through `parse_known_args` below
        self.exit(2, f"error: {message}\n")


def parser() -> argparse.ArgumentParser:
    """The command line: a stage, then one option a parameter of the notebooks."""
    result = _Parser(prog="python -m d3d", description=__doc__, allow_abbrev=False)
    lines = "\n".join(f"  {name:10} {text}" for name, (_, text) in STAGES.items())
    result.epilog = (
        f"stages:\n{lines}\n\nA stage computes what an earlier one should have left, and skips what is done."
    )
    result.formatter_class = argparse.RawDescriptionHelpFormatter
    result.add_argument("stage", metavar="stage", help=", ".join(STAGES))
    for name, parameter in PARAMETERS.items():
        kind = parameter.type[0]
        options = {} if kind is bool else {"type": kind, "metavar": kind.__name__}
        action = {"action": argparse.BooleanOptionalAction} if kind is bool else {}
        flags = list(dict.fromkeys((f"--{name.replace('_', '-')}", f"--{name}")))
        result.add_argument(*flags, dest=name, default=None, help=parameter.help, **options, **action)
    result.add_argument("--seeds", default=None, help="several seeds, with commas: a run each")
    result.add_argument("--processes", default=None, type=int, help="of `record`, beside each other")
    flags = {
        "export": "of `tables`: keep the scores of the --seeds in results/",
        "stored": "of `tables`: from the scores in results/, no run needed",
        "readme": "of `tables`: put what is in results/ into README.md",
    }
    for name, text in flags.items():
        result.add_argument(f"--{name}", action="store_true", help=text)
    result.add_argument("--archs", default=None, help="several networks, with commas, or 'every'")
    return result


def main(argv: list[str] | None = None) -> int:
    """Runs one stage; returns the exit status: 0, or 2 after one line that says what was wrong.

    Where torchrun started it as one of several processes, the first one runs the stage and all train.
    """
    if os.environ.get("WORLD_SIZE", "1") == "1":
        return _run(argv)
    from d3d.parallel import distributed

    try:
        return distributed.run(lambda: _run(argv), parser().parse_known_args(argv)[0].device or "auto")
    except D3DError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


def _run(argv: list[str] | None) -> int:
    start = time.monotonic()
    try:
        words = sys.argv[1:] if argv is None else argv
        if words[:2] == ["prepare", "scannet"]:  # options of its own, nothing of a run
            from d3d.pipeline import prepare

            prepare.run(words[2:])
            return _ended("prepare scannet", start)
        arguments, rest = parser().parse_known_args(argv)
        if rest:
            raise unknown("option", rest[0].split("=")[0].lstrip("-"), PARAMETERS)
        if arguments.stage not in STAGES:
            raise unknown("stage", arguments.stage, STAGES)
        values = vars(arguments)
        archs, seeds, processes = (values.pop(name) for name in ("archs", "seeds", "processes"))
        export, stored, readme = (values.pop(name) for name in ("export", "stored", "readme"))
        stage = values.pop("stage")
        if stage == "record":
            given = sys.argv[1:] if argv is None else argv
            _record(_configs(values, seeds), processes or 1, _without(given, "--processes"))
            return _ended(stage, start)
        if stage == "tables" and (seeds is not None or export or stored or readme):
            _paper_tables(_configs(values, seeds), export, stored, readme)
            return _ended(stage, start)
        for name, given in (("seeds", seeds), ("export", export), ("stored", stored), ("readme", readme)):
            if given:
                raise ConfigError(f"--{name} is no option of {stage}: the command is `python -m d3d tables`.")
        config = make_config(**values)
        if archs is not None:
            names = ARCHITECTURES if archs == "every" else tuple(archs.split(","))
        elif stage == "all" and values["arch"] is None:
            names = config.students
        else:
            names = (config.arch,)
        for name in names:
            if name not in ARCHITECTURES:
                raise unknown("arch", name, ARCHITECTURES)
        STAGES[stage][0](config, names)
    except D3DError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("stopped; the same command goes on from here", file=sys.stderr)
        return 130
    return _ended(stage, start)


def _configs(values: dict, seeds: str | None) -> list[Config]:
    """One configuration a seed; its run is named after the seed, or by "{seed}" in ``--run`` and ``--base``."""
    if seeds is None:
        return [make_config(**values)]
    if values.get("seed") is not None:
        raise ConfigError("--seeds and --seed: give one of them.")
    for name in ("run", "base"):
        if values.get(name) is not None and "{seed}" not in values[name]:
            raise ConfigError(
                f"--{name} {values[name]!r} must have {{seed}} in it: each seed has a run of its own."
            )
    try:
        numbers = [int(s) for s in seeds.split(",")]
    except ValueError:
        raise ConfigError(f"--seeds {seeds!r} must be whole numbers with commas, as 0,1,2.") from None

    def of(n: int) -> dict:
        return {
            k: v.replace("{seed}", str(n)) if k in ("run", "base") and v else v for k, v in values.items()
        }

    return [make_config(**{**of(n), "seed": n}) for n in numbers]


def _without(arguments: list[str], option: str) -> list[str]:
    """The arguments without an option and its value, in either spelling."""
    result, skip = [], False
    for argument in arguments:
        if not skip and argument != option and not argument.startswith(f"{option}="):
            result.append(argument)
        skip = argument == option
    return result


def _ended(stage: str, start: float) -> int:
    print(f"({stage}: {time.monotonic() - start:.0f} s)")
    return 0
