"""Write constraints.txt: the exact version, in this environment, of everything that d3d[all] needs.

    make constraints

The script follows the dependencies of d3d[all] through the installed packages, for both supported Pythons. Other
installed packages are left out. CONTRIBUTING.md says how to move to newer versions.
"""

from __future__ import annotations

import argparse
import platform
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from packaging.markers import default_environment
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

# The oldest release of each version: Debian 12 has 3.11.2, and some packages do not support releases before 3.11.5
PYTHONS = ("3.11.0", "3.12.0")
HEADER = """\
# Exact versions of everything that d3d[all] needs. Written by `make constraints`; do not edit.
# Made with Python {python} on {system}; holds for every Python 3.11 and 3.12.
"""


def needed(requirement: Requirement, extras: set[str]) -> bool:
    """Return whether the requirement applies to any supported Python and any of the given extras."""
    if requirement.marker is None:
        return True
    return any(
        requirement.marker.evaluate(
            {
                **default_environment(),
                "python_version": python.rpartition(".")[0],
                "python_full_version": python,
                "extra": extra,
            }
        )
        for python in PYTHONS
        for extra in extras
    )


def closure(root: str) -> dict[str, str]:
    """Return the versions of the installed packages that `root` ("d3d[all]") depends on, without `root` itself.

    Raises:
        ValueError: a package is not installed, or its version does not run on every supported Python.
    """
    start = Requirement(root)
    todo = [(start, "you")]
    done: set[tuple[str, frozenset[str]]] = set()
    versions = {}
    problems = []
    while todo:
        requirement, parent = todo.pop()
        name, extras = canonicalize_name(requirement.name), frozenset(requirement.extras)
        if (name, extras) in done:
            continue
        done.add((name, extras))
        try:
            package = distribution(name)
        except PackageNotFoundError:
            problems.append(f"{parent} asks for {requirement}, which is not installed")
            continue
        versions[name] = package.version
        runs_on = SpecifierSet(package.metadata.get("Requires-Python") or "")
        for python in PYTHONS:
            if python not in runs_on:
                problems.append(
                    f"{name} {package.version} needs Python {runs_on}, not {python}: install an older version"
                )
        children = [Requirement(line) for line in package.requires or []]
        todo += [(child, name) for child in children if needed(child, {"", *extras})]
    if problems:
        raise ValueError("this environment cannot be pinned for others:\n  " + "\n  ".join(sorted(problems)))
    versions.pop(canonicalize_name(start.name))
    return versions


def render(versions: dict[str, str]) -> str:
    """Return the text of constraints.txt.

    Raises:
        ValueError: a version is a local build (+cpu, +cu130), which the package index does not have.
    """
    local = [f"{name}=={version}" for name, version in versions.items() if "+" in version]
    if local:
        raise ValueError(
            f"local builds cannot be constraints, since others cannot install them: {', '.join(local)}"
        )
    header = HEADER.format(
        python=platform.python_version(), system=f"{platform.system()} {platform.machine()}"
    )
    return header + "".join(f"{name}=={version}\n" for name, version in sorted(versions.items()))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    default = Path(__file__).parent.parent / "constraints.txt"
    parser.add_argument("--output", type=Path, default=default, help="file to write")
    output = parser.parse_args().output
    try:
        versions = closure("d3d[all]")
        output.write_text(render(versions))
    except ValueError as error:
        parser.exit(1, f"{parser.prog}: {error}\n")
    print(f"{output.name}: {len(versions)} packages")
