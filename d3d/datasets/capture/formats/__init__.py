"""The formats of captures. Each format has one module and one line in `FORMATS`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from shlex import quote
from typing import NamedTuple

from d3d.datasets.capture.description import Capture, Given
from d3d.datasets.capture.files import images_in
from d3d.datasets.capture.formats import colmap, folders, poselist, record3d, trajectory, transforms, tum
from d3d.errors import DataError, unknown


class Format(NamedTuple):
    """A format: a description of its files for messages, a test whether a folder has them, and a reader."""

    files: str
    found: Callable[[Path], bool]
    read: Callable[[Path, Given], Capture]


FORMATS: dict[str, Format] = {
    "colmap": Format(colmap.FILES, colmap.found, colmap.read),
    "transforms": Format(transforms.FILES, transforms.found, transforms.read),
    "tum": Format(tum.FILES, tum.found, tum.read),
    "record3d": Format(record3d.FILES, record3d.found, record3d.read),
    "trajectory": Format(trajectory.FILES, trajectory.found, trajectory.read),
    "poselist": Format(poselist.FILES, poselist.found, poselist.read),
    "folders": Format(folders.FILES, folders.found, folders.read),
}


def find_format(root: Path, given: str | None = None) -> str:
    """Find the name of a capture's format.

    Raises:
        ConfigError: the user names an unknown format.
        DataError: no format fits, several fit, or the files of the given format are missing.
    """
    if given is not None:
        if given not in FORMATS:
            raise unknown("format of a capture", given, FORMATS)
        if not FORMATS[given].found(root):
            raise DataError(
                f"{root} has no files of format {given!r} ({FORMATS[given].files}). {_there_is(root)}"
            )
        return given
    fitting = [name for name, known in FORMATS.items() if known.found(root)]
    if len(fitting) == 1:
        return fitting[0]
    if fitting:
        raise DataError(
            f"{root} holds files of several formats: {', '.join(fitting)}. Choose one with --format, for example "
            f"--format {fitting[0]}."
        )
    unposed = (
        f"\nImages need no poses in `python -m d3d room {quote(str(root))}`: it finds them."
        if images_in(root)
        else ""
    )
    looked = "\n".join(f"  {name}: {known.files}" for name, known in FORMATS.items())
    raise DataError(
        f"{root} is not a capture in a known format. {_there_is(root)} Known formats:\n{looked}\n"
        f"docs/room.md shows how to export each of them.{unposed}"
    )


def _there_is(root: Path) -> str:
    names = sorted(f"{p.name}/" if p.is_dir() else p.name for p in root.iterdir())
    shown = ", ".join(names[:12]) + (f" and {len(names) - 12} more" if len(names) > 12 else "")
    return f"It holds {shown}." if names else "It is empty."
