"""The commands of the command line."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from d3d.errors import ConfigError, counted, flags
from d3d.options import DATA, EVALUATE, GROUPS, LABELS, OWN, PRETRAIN, Call, Command
from d3d.pipeline.config import Config

if TYPE_CHECKING:
    import pandas as pd


def _prepare(call: Call) -> None:
    from d3d.pipeline import stages

    scenes = stages.training_scenes(call.config)
    for s in scenes:
        found = f"{counted(len(s.triples), 'triple')} of {counted(s.triples.targets_tried, 'target')}"
        print(f"{s.scene.name}: {counted(len(s.scene), 'frame')}, {found}")
        for reason, count in s.triples.dropped.items():
            print(f"    dropped {count}: {reason}")
    print(f"{counted(len(scenes), 'scene')}, {counted(sum(len(s.triples) for s in scenes), 'triple')}")


def _check(call: Call) -> None:
    from d3d.datasets.capture.check import check_capture
    from d3d.errors import DataError
    from d3d.pipeline import bounds, posecheck, scenes

    report = check_capture(posecheck.captured(call.config))
    print("\n".join(report.lines))
    print(f"target, source, source warped, error: {posecheck.save_picture(report, Path(call.options.out))}")
    if report.problem:
        raise DataError("the poses do not explain the images: see above.")
    found = scenes.dataset(call.config)
    print(bounds.describe(bounds.bounds_of(found, call.config.data.every), found.short_unit))


def _stage(call: Call) -> None:
    """Compute the stage with the name of the command for each network, and print its folder."""
    from d3d.pipeline import stages

    for arch in call.archs:
        result = getattr(stages, call.options.command)(call.config, arch)
        print(getattr(result, "folder", result))


def _evaluate(call: Call) -> None:
    from d3d import tables
    from d3d.pipeline import stages

    if call.options.predictions or call.options.predictions_from:
        _evaluate_predictions(call)
        return
    if given := [f"--{name}" for name in ("name", "holds") if getattr(call.options, name)]:
        raise ConfigError(f"{', '.join(given)}: only with --predictions or --predictions-from.")
    for arch in call.archs:
        for labels in ("", call.config.labels):
            stages.evaluate(call.config, arch, labels)
    _print_table(call.config, tables.run_table(call.config))


def _evaluate_predictions(call: Call) -> None:
    """Score the depth files of another method, or a published network."""
    from d3d import tables
    from d3d.pipeline import stages

    o, config = call.options, call.config
    folder, name, holds = o.predictions, o.name or "", o.holds or ""
    if o.predictions and o.predictions_from:
        raise ConfigError("--predictions and --predictions-from: give one of them.")
    unused = ("archs", *(n for group in ("networks", "training", "fusion", "labels") for n in GROUPS[group]))
    if given := [name for name in unused if getattr(o, name) is not None]:
        raise ConfigError(f"{flags(given)}: leave this out, predictions are scored without a training.")
    if o.predictions_from:
        kind, _, place = o.predictions_from.partition(":")
        if kind != "hf" or not place:
            raise ConfigError(f"--predictions-from {o.predictions_from!r} must be hf:FOLDER.")
        name = name or Path(place).expanduser().resolve().name
        folder, holds = stages.predict_published(config, Path(place), name, holds)
        print(f"predictions: {folder}")
    stages.score_predictions(config, Path(folder), name, holds or "depth")
    _print_table(config, tables.predicted_table(config))


def _tables(call: Call) -> None:
    """Make Tables 2 to 6 from the runs of several seeds or from the scores in results/; or the table of one run."""
    from d3d import tables
    from d3d.pipeline import runs

    options, first, folder = call.options, call.config, tables.results_folder(call.config)
    if not (options.seeds or options.export or options.stored or options.readme):
        _print_table(first, tables.run_table(first))
        return
    if not options.export and (options.stored or options.readme):
        used = ("profile", "dataset", "arch", "loss", "triplet_margin")
        unused = [name for name in COMMANDS["tables"].parameters if name not in used]
        if given := [name for name in (*unused, "archs", "seeds") if getattr(options, name) is not None]:
            raise ConfigError(
                f"--stored and --readme make every table from all scores in results/: leave out {flags(given)}, or "
                "give --export to store the scores of runs first."
            )
    elif options.split and not options.lists:
        raise ConfigError(
            "--seeds and --export take the scores of every split: leave out --split, or evaluate only the splits "
            "that you need."
        )
    if options.export:
        written = tables.export(tables.gather(call.configs), folder)
        print(f"{len(written)} files, {sum(p.stat().st_size for p in written) / 1e6:.2f} MB, in {folder}")
    if options.export or options.stored or options.readme:
        scores, out = tables.read(folder), folder / "tables"
    else:
        seeds = "-".join(str(c.seed) for c in call.configs)
        scores, out = tables.gather(call.configs), runs.run_folder(first) / "tables" / f"seeds-{seeds}"
    paths = tables.write_tables(scores, out, first.arch)
    print(f"{counted(len(scores.evaluations), 'evaluation')}, seeds {', '.join(map(str, scores.seeds))}")
    print("\n".join(map(str, paths)))
    lines = [line for key in tables.LAYOUTS for line in tables.missing(scores, key, first.arch)]
    if todo := dict.fromkeys(line.split(": ", 1)[1] for line in lines):
        print("Some rows are missing. These commands make them:")
        print("\n".join(f"  {command}" for command in todo))
    if options.readme:
        print("\n".join(map(str, tables.write_pages(runs.project_root()))))


def _print_table(config: Config, table: pd.DataFrame) -> None:
    """Print the table of a run below a line about its data."""
    from d3d import tables
    from d3d.pipeline import stages

    e = config.evaluation
    found = stages.evaluated_dataset(config)
    truth, scales = found.truth(e.split), set(table["scale"])
    unit = found.unit if "none" in scales else "relative depth"
    if len(scales) > 1:
        unit += ", aligned to the truth of each image where a row says so"
    elif scales - {"none", "median"}:
        unit += f" ({', '.join(scales)})"
    print(
        f"\n{e.dataset or config.data.dataset}, {e.split}, profile {config.profile}, seed {config.seed}: {unit}, "
        f"means over images (number of images in brackets){f', against {truth}' if truth else ''}\n\n"
        f"{tables.printed(table)}\n"
        f"all metrics, also of highlights and other pixels: {stages.folder_of(config, 'tables')}"
    )


def _rank(call: Call) -> None:
    from d3d import figures
    from d3d.lists import ranking

    config = call.config
    ranked = ranking.rank_frames(config)
    print(ranked.head(20).round(3).to_string(index=False))
    known = ranking.found_known(config, ranked)
    if len(known):
        print(
            f"\naccuracy of each score on the frames known to be reflective\n\n{known.round(3).to_string()}\n"
        )
    sheet = ranking.folder_of(config) / "contact_sheet.png"
    print(f"all {len(ranked)} frames: {sheet.with_name('frames.csv')}")
    print(figures.save_png(ranking.contact_sheet(config, ranked), sheet))


def _figures(call: Call) -> None:
    from d3d.figures import all as all_figures
    from d3d.pipeline import runs

    for name, made in all_figures.make(call.config, runs.project_root() / "paper_figures"):
        shown = f"skipped, {made}" if isinstance(made, str) else ", ".join(map(str, made))
        print(f"{name}: {shown}", flush=True)


def _labels(call: Call) -> None:
    from d3d.analysis.thresholds import rule_sweep

    for arch in call.archs:
        print(f"\nSq Rel of the labels of {arch} on training frames with ground truth\n")
        print(rule_sweep(call.config, arch).round(3).to_string(index=False, na_rep="-"))


def _record(call: Call) -> None:
    from d3d.parallel.processes import end_with_parent
    from d3d.pipeline import record

    given = call.options.archs is not None or call.options.arch is not None
    jobs = record.plan(call.configs, call.archs if given else ())
    processes = call.options.processes
    if processes == 1:
        end_with_parent()
        record.work(jobs)
    else:
        record.work_in_processes(jobs, without(call.words, "--processes"), processes)


def _ship(call: Call) -> None:
    from d3d import shipping

    options = call.options
    if options.name and len(call.archs) > 1:
        raise ConfigError("--name names one network: leave it out, or give one --arch.")
    for arch in call.archs:
        labels = "" if options.teacher else call.config.labels
        print(shipping.ship(call.config, arch, labels, options.name or "", options.replace))


def _export(call: Call) -> None:
    from d3d.models import available, load_model
    from d3d.models.export import export

    o = call.options
    if (o.height is None) != (o.width is None):
        raise ConfigError("--height and --width: give both or neither.")
    model = load_model(o.model)
    size_hw = model.train_size if o.height is None else (o.height, o.width)
    difference = export(model, o.out, o.format, size_hw, o.model if o.model in available() else "")
    height, width = size_hw
    print(
        f"{o.out}: {height}x{width} (height x width), largest relative difference of depth to torch {difference:.1e}"
    )


def _all(call: Call) -> None:
    from d3d import tables
    from d3d.figures.all import run_figures
    from d3d.pipeline import runs, stages

    trainings = stages.train_all(call.config, call.archs)
    _print_table(call.config, tables.run_table(call.config, trainings))
    for path in run_figures(call.config, call.archs[0]):
        print(f"figure: {path}")
    print(f"all results are in {runs.run_folder(call.config)}")


def _predict(call: Call) -> None:
    from d3d.apply import predict_files

    options = vars(call.options)
    names = ("model", "out", "outputs", "size", "precision", "overwrite", "focal_px")
    predict_files(
        options["images"],
        fov_deg=options["fov"],
        device=call.config.device,
        **{name: options[name] for name in names},
    )


def _room(call: Call) -> None:
    from d3d import room

    options = vars(call.options)
    given = {name: options[name] for name in COMMANDS["room"].parameters}
    starts = {name: options[name] for name in ("start", "student_start")}
    folder = room.run_room(room.make_config(options["capture"], **starts, **given))
    print(room.printed(folder))


def without(words: Sequence[str], option: str) -> list[str]:
    """Remove an option and its value from the words of a command line."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument(option)
    return parser.parse_known_args(words)[1]


COMMANDS = {
    "predict": Command(
        _predict,
        "predict depth, pictures, point clouds and meshes of your images and videos with a trained network",
        ("machine",),
        "kitchen.jpg holiday/ --model lite-distilled --out predicted",
        more=(*("images", "out", "outputs", "overwrite", "model", "size", "precision", "fov", "focal_px"),),
        without=tuple(name for name in GROUPS["machine"] if name != "device"),
        positional="images",
    ),
    "room": Command(
        _room,
        "depth, meshes and a page of your own room, from a video, images or a capture (docs/room.md)",
        (*PRETRAIN, "fusion"),
        "my_room/",
        more=("capture", "start", "student_start"),
        without=(
            *("profile", "base", "dataset", "root"),
            *("ensemble", "teachers", "epochs", "weights", "pretrained", "self_taught"),
            *(name for name in GROUPS["fusion"] if name not in ("voxel_m", "trunc_m")),
        ),
        profile="room",
        positional="capture",
    ),
    "check": Command(
        _check,
        "check that the poses of a capture explain its images (docs/room.md)",
        ("capture",),
        "my_room/ --axes opengl",
        more=("capture",),
        without=("check",),
        positional="capture",
        own=OWN["check"],
    ),
    "prepare": Command(
        _prepare,
        "list the training triples; `prepare scannet` extracts the needed frames (see `prepare scannet --help`)",
        ("run", *DATA, "fusion", "machine"),
        "--dataset 7scenes --root /data/7scenes",
        more=(),
        without=(
            *(name for name in GROUPS["fusion"] if name != "integrate_every"),
            "seed",
            *("device", "workers", "train_processes", "compile"),
        ),
    ),
    "pretrain": Command(
        _stage, "pretrain a network without labels (3.1)", PRETRAIN, "--profile demo --arch hrdepth"
    ),
    "project": Command(
        _stage,
        "predict depth, fuse TSDF meshes, render projected depth (3.2.1, 3.2.2)",
        LABELS,
        "--arch hrdepth --voxel-m 0.04",
    ),
    "fuse": Command(
        _stage,
        "compute uncertainty and pseudo-labels (3.2.3, Eq. 3)",
        LABELS,
        "--labels uncer --threshold-m 0.2",
    ),
    "labels": Command(
        _labels,
        "compare label strategies and thresholds on training frames with ground truth",
        LABELS,
        "--profile demo",
    ),
    "distill": Command(
        _stage, "train a student on the labels (3.2.4, Eq. 4)", LABELS, "--profile demo --arch hrdepth"
    ),
    "evaluate": Command(
        _evaluate,
        "score the self-supervised network and the student (4), or your own predictions",
        EVALUATE,
        "--split test",
        own=OWN["evaluate"],
    ),
    "record": Command(
        _record,
        "make the recorded runs: every training behind the results in the README",
        EVALUATE,
        "--profile laptop --seeds 0,1,2 --processes 2",
        more=("archs", "seeds", "processes"),
    ),
    "tables": Command(
        _tables,
        "make the table of a run; with --seeds or --stored: Tables 2 to 6",
        EVALUATE,
        "--profile laptop --stored",
        more=("archs", "seeds", "export", "stored", "readme"),
        without=GROUPS["machine"],
    ),
    "rank": Command(
        _rank,
        "rank the frames of a split by reflectiveness, to start a list (4.1)",
        (*PRETRAIN, "fusion", "evaluation"),
        "--split val",
    ),
    "figures": Command(
        _figures,
        "draw every figure that the run has data for, into paper_figures/",
        (*EVALUATE, "ablation"),
        "--profile demo",
    ),
    "ship": Command(
        _ship,
        "put the network of a finished training into data/networks, with its model card",
        LABELS,
        "--profile laptop --arch lite --labels uncer",
        without=("workers", "train_processes", "compile"),
        unlisted=("training", "fusion"),
        note="If the training had further options, repeat them here (see `distill --help`): they identify it.",
        own=OWN["ship"],
    ),
    "export": Command(
        _export,
        "export a trained network to ONNX, and check it against torch",
        (),
        "--model lite-distilled --format onnx --out lite.onnx",
        more=(),
        own=OWN["export"],
    ),
    "all": Command(
        _all,
        "run everything: pretraining, self-taught and distilled students, table, figures",
        EVALUATE,
        "--profile demo",
    ),
}
