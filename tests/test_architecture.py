"""The layers of the packages: allowed imports, the length of files, and the names of the interface."""

from __future__ import annotations

import ast
import graphlib
import importlib
import importlib.util
import json
import subprocess
import sys
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import NamedTuple

import pytest

import d3d

REPO = Path(__file__).resolve().parent.parent
MAX_LINES = 400

# From the bottom to the top. A module may import those of its own layer and of the layers below
LAYERS: tuple[tuple[str, ...], ...] = (
    ("d3d", "d3d._lazy", "d3d.environment", "d3d.errors", "d3d.io", "d3d.progress"),
    (
        *("d3d.geometry", "d3d.kernels", "d3d.losses", "d3d.fusion", "d3d.uncertainty"),
        *("d3d.reconstruction", "d3d.tsdf", "d3d.surface", "d3d.metrics", "d3d.models", "d3d.datasets"),
    ),
    ("d3d.parallel",),
    ("d3d.training", "d3d.prediction", "d3d.depth_files", "d3d.evaluation"),
    # pictures of arrays and tables; those of a run are above the pipeline
    (
        *("d3d.figures.beside", "d3d.figures.charts", "d3d.figures.colours", "d3d.figures.files"),
        "d3d.figures.panels",
    ),
    # a user's own files: no run, no configuration
    ("d3d.apply",),
    ("d3d.pipeline",),
    ("d3d.tables", "d3d.figures", "d3d.analysis", "d3d.lists", "d3d.shipping"),
    ("d3d.notebook",),
    ("d3d.room",),
    ("d3d.options", "d3d.commands", "d3d.cli", "d3d.__main__"),
)
# The generator of the rooms is a package of its own and uses little of d3d
GENERATOR_MAY_IMPORT = ("d3d.errors", "d3d.io", "d3d.progress", "d3d.datasets")
# The command line imports what a stage needs when the stage is asked for, so that --help is fast
MAY_IMPORT_LATE = ("d3d.commands", "d3d.cli")
# Optional or slow to import: only inside the functions that need them
HEAVY = frozenset(
    {
        "open3d",
        "pyrender",
        "pycolmap",
        "OpenEXR",
        "lzfse",
        "mitsuba",
        "drjit",
        "pyoidn",
        "transformers",
        "dask",
        "distributed",
        "av",
    }
)


class Import(NamedTuple):
    """The target of one import statement. ``late`` is true if the statement is inside a function."""

    importer: str
    imported: str
    late: bool


@cache
def modules() -> Mapping[str, Path]:
    """Every module of both packages by its dotted name."""
    found = {}
    for package in ("d3d", "glossyrooms"):
        for path in sorted((REPO / package).rglob("*.py")):
            name = ".".join(path.relative_to(REPO).with_suffix("").parts)
            found[name.removesuffix(".__init__")] = path
    return found


def imports_of(name: str, source: str, known: Mapping[str, object]) -> Iterator[Import]:
    """Every import in a module's source, also those inside functions.

    ``from package import name`` counts as an import of ``package.name`` where that is a module.
    """

    def visit(node: ast.AST, late: bool) -> Iterator[Import]:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.If) and ast.unparse(child.test).endswith("TYPE_CHECKING"):
                # names for annotations: nothing is imported when the program runs
                yield from visit(ast.Module(child.orelse, []), late)
                continue
            if isinstance(child, ast.Import):
                yield from (Import(name, alias.name, late) for alias in child.names)
            elif isinstance(child, ast.ImportFrom):
                assert child.level == 0, f"{name}: relative imports are not used here"
                for alias in child.names:
                    full = f"{child.module}.{alias.name}"
                    yield Import(name, full if full in known else child.module, late)
            inside = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
            yield from visit(child, late or inside)

    yield from visit(ast.parse(source), False)


@cache
def imports() -> frozenset[Import]:
    every = modules()
    return frozenset(i for name, path in every.items() for i in imports_of(name, path.read_text(), every))


def inside(name: str, packages: tuple[str, ...]) -> bool:
    return any(name == package or name.startswith(f"{package}.") for package in packages)


def layer_of(name: str) -> int:
    """The number of a module's layer, from the bottom."""
    if name == "d3d":
        return 0
    # the most specific entry counts
    found = [
        (len(m), k) for k, layer in enumerate(LAYERS) for m in layer if m != "d3d" and inside(name, (m,))
    ]
    assert found, f"{name} is in no layer"
    return max(found)[1]


def cycle_in(graph: Mapping[str, set[str]]) -> str:
    """Return a circle of modules that import each other; "" if there is none."""
    try:
        graphlib.TopologicalSorter(graph).prepare()
    except graphlib.CycleError as error:
        return " <- ".join(error.args[1])
    return ""


# --- the layers -------------------------------------------------------------------------------------------


def test_every_module_has_a_layer():
    for name in modules():
        if name.startswith("d3d"):
            layer_of(name)


def test_nothing_imports_upwards():
    ours = [i for i in imports() if inside(i.importer, ("d3d",)) and inside(i.imported, ("d3d",))]
    assert [i for i in ours if layer_of(i.imported) > layer_of(i.importer)] == []


def test_no_modules_import_each_other_in_a_circle():
    graph: dict[str, set[str]] = {name: set() for name in modules()}
    for i in imports():
        if i.imported in graph:
            graph[i.importer].add(i.imported)
    assert cycle_in({"a": {"b"}, "b": {"a"}}) == "a <- b <- a"
    assert cycle_in(graph) == ""


def test_our_own_modules_are_imported_at_the_top():
    late = [i for i in imports() if i.late and i.imported in modules()]
    assert [i for i in late if not inside(i.importer, MAY_IMPORT_LATE)] == []


def test_optional_and_heavy_packages_are_imported_inside_functions():
    assert [i for i in imports() if not i.late and i.imported.split(".")[0] in HEAVY] == []


def test_the_generator_uses_little_of_d3d_and_d3d_nothing_of_it():
    for i in imports():
        if i.importer.startswith("glossyrooms") and i.imported.startswith("d3d"):
            assert inside(i.imported, GENERATOR_MAY_IMPORT), i
        if i.importer.startswith("d3d"):
            assert not i.imported.startswith("glossyrooms"), i


def test_no_file_is_longer_than_can_be_read_in_one_sitting():
    lines = {name: len(path.read_text().splitlines()) for name, path in modules().items()}
    assert {name: count for name, count in lines.items() if count > MAX_LINES} == {}


def test_imports_are_found_wherever_they_stand():
    source = (
        "import os\nfrom a import b, c\nimport a.b\nclass K:\n    import d\n"
        "    def f(self):\n        if True:\n            from a.b import e\n        return lambda: g\n"
        "if TYPE_CHECKING:\n    import h\nelse:\n    import k\n"
    )
    found = {(i.imported, i.late) for i in imports_of("m", source, {"a": 0, "a.b": 0})}
    assert found == {("os", False), ("a.b", False), ("a", False), ("d", False), ("a.b", True), ("k", False)}


# --- names ------------------------------------------------------------------------------------------------

# "Names that are the interface" of the design: notebooks, tests and users rely on them
INTERFACE = {
    "d3d": ("create_model", "load_model", "predict", "config", "stages", "runs"),
    "d3d.models": ("available", "create_model", "load_model"),
    "d3d.geometry": ("disp_to_depth", "warp"),
    "d3d.losses": ("photometric_error", "smoothness", "log_depth_loss"),
    "d3d.metrics": ("depth_metrics",),
    "d3d.reconstruction": ("reconstruct", "render_depth"),
    "d3d.fusion": ("ensemble_std", "fuse", "inconsistent", "STRATEGIES"),
    "d3d.datasets": ("open_dataset", "Dataset", "Scene", "find_triples", "SensFile"),
    "d3d.pipeline.config": ("make_config", "resolve", "describe", "PARAMETERS", "Config"),
    "d3d.pipeline.stages": (
        *("pretrain", "predict", "project", "uncertainty", "fuse", "distill", "evaluate", "results"),
        *("train_all", "training_scenes", "load_network"),
    ),
    "d3d.cli": ("main",),
}


def test_names_of_the_interface_can_be_imported():
    missing = {
        (module, name)
        for module, names in INTERFACE.items()
        for name in names
        if not hasattr(importlib.import_module(module), name)
    }
    assert missing == set()


@pytest.mark.parametrize("old", sorted(d3d._MOVED))
def test_an_old_name_raises_an_error_that_names_a_new_one_which_exists(old):
    said = f"{old} has moved: import "
    with pytest.raises(ModuleNotFoundError, match=said) as caught:
        importlib.import_module(old)
    new = str(caught.value).removeprefix(said).split()[0].rstrip(".")
    assert importlib.util.find_spec(new), new
    parent, _, name = old.rpartition(".")
    if parent == "d3d" and name not in d3d._ALIASES:
        with pytest.raises(ImportError, match=said):
            getattr(d3d, name)


def test_importing_d3d_imports_no_large_package():
    code = "import sys, json, d3d; d3d.__version__; print(json.dumps(sorted(sys.modules)))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"torch", "pydantic", "numpy", "pandas", "matplotlib", "timm"} & set(json.loads(result.stdout))
