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
    """A format: a description of its files for messages, a test whether a folder has them, and a reader.

    ``signs`` are patterns of its files of poses. A folder of images that has such a file, but not the format, is a
    damaged capture, and not a folder of images without poses.
    """

    files: str
    found: Callable[[Path], bool]
    read: Callable[[Path, Given], Capture]
    signs: tuple[str, ...]


FORMATS: dict[str, Format] = {
    "colmap": Format(colmap.FILES, colmap.found, colmap.read, colmap.SIGNS),
    "transforms": Format(transforms.FILES, transforms.found, transforms.read, transforms.SIGNS),
    "tum": Format(tum.FILES, tum.found, tum.read, tum.SIGNS),
    "record3d": Format(record3d.FILES, record3d.found, record3d.read, record3d.SIGNS),
    "trajectory": Format(trajectory.FILES, trajectory.found, trajectory.read, trajectory.SIGNS),
    "poselist": Format(poselist.FILES, poselist.found, poselist.read, poselist.SIGNS),
    "folders": Format(folders.FILES, folders.found, folders.read, folders.SIGNS),
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
                f"{root} has no files of format {given!r} ({FORMATS[given].files}). {there_is(root)}"
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
        f"{root} is not a capture in a known format. {there_is(root)} Known formats:\n{looked}\n"
        f"docs/room.md shows how to export each of them.{unposed}"
    )


def refuse_damaged(root: Path) -> None:
    """Raise a DataError if a folder in no format has a file of poses."""
    for name, known in FORMATS.items():
        for sign in known.signs:
            if path := next((p for p in sorted(root.glob(sign)) if p.is_file()), None):
                raise DataError(
                    f"{root} is not a capture of format {name} ({known.files}), although it has {path}: this file is "
                    "damaged, or other files are missing. Export the capture again. To have the poses found from the "
                    "images instead, remove this file, or give a folder with the images alone."
                )


def there_is(root: Path) -> str:
    """Say what a folder holds."""
    names = sorted(f"{p.name}/" if p.is_dir() else p.name for p in root.iterdir())
    shown = ", ".join(names[:12]) + (f" and {len(names) - 12} more" if len(names) > 12 else "")
    return f"It holds {shown}." if names else "It is empty."
