"""The trained networks that ship with d3d in `data/networks`, listed in a manifest with checksums.

`d3d.shipping` writes `manifest.json`: names of the networks, sha256 of each file, and measured results.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

from pydantic import Field, field_validator

from d3d import io
from d3d.datasets.records import Record, parse, read_bytes
from d3d.errors import DataError

MANIFEST = "manifest.json"
FORMAT = 1
_NAME = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")
_RESTORE = "Restore data/networks from the repository, for example with `git checkout data/networks`."


class Shipped(Record):
    """Entry of a network in the manifest."""

    arch: str
    about: str  # one line
    sha256: str
    bytes: int
    stored_as: str  # one of `packing.STORED_AS`
    training: dict[str, Any]  # identity of the training, see `d3d.shipping`
    facts: dict[str, Any]  # content of the model card


class Manifest(Record):
    """Content of `manifest.json`."""

    format: int = FORMAT
    networks: dict[str, Shipped] = Field(default_factory=dict)

    @field_validator("format")
    @classmethod
    def _version(cls, value: int) -> int:
        if value != FORMAT:
            raise ValueError(f"it has format {value}; this version of d3d reads format {FORMAT}. Update d3d")
        return value

    @field_validator("networks")
    @classmethod
    def _names(cls, value: dict[str, Shipped]) -> dict[str, Shipped]:
        for name in value:
            if not is_name(name):
                raise ValueError(f"{name!r} is no name of a network: use lower-case letters, digits and '-'")
        return value


def is_name(text: str) -> bool:
    """Return whether a shipped network may have this name, which is also the name of its file."""
    return _NAME.fullmatch(text) is not None


def networks_folder() -> Path:
    """Return the folder of the networks: the environment variable `D3D_NETWORKS`, else `data/networks`."""
    given = os.environ.get("D3D_NETWORKS")
    return Path(given).expanduser() if given else io.project_root() / "data" / "networks"


def read_manifest(folder: Path | None = None) -> Manifest:
    """Read the manifest of a folder of networks. A missing manifest means that there is no network.

    Raises:
        DataError: the manifest cannot be read, or is damaged.
    """
    path = (folder or networks_folder()) / MANIFEST
    return parse(Manifest, read_bytes(path), str(path), _RESTORE) if path.exists() else Manifest()


def available() -> dict[str, str]:
    """Return the networks that `load_model` knows by name: name -> one line of description.

    Raises:
        DataError: the manifest of the networks is damaged.
    """
    return {name: entry.about for name, entry in sorted(read_manifest().networks.items())}


def shipped_file(name: str, folder: Path | None = None) -> Path:
    """Check the file of a network against the manifest and return its path.

    Raises:
        DataError: the file is missing, or its hash differs from the manifest.
    """
    folder = folder or networks_folder()
    entry, path = read_manifest(folder).networks[name], folder / f"{name}.safetensors"
    if not path.is_file():
        raise DataError(f"network {name!r}: {path} is missing. {_RESTORE}")
    if (found := io.sha256(path)) != entry.sha256:
        size = f"{path.stat().st_size} of {entry.bytes} bytes, "
        raise DataError(
            f"network {name!r}: {path} is damaged: {size}sha256 {found[:12]} instead of {entry.sha256[:12]}. {_RESTORE}"
        )
    return path


def read_card(name: str, folder: Path | None = None) -> str:
    """Read the model card of a network.

    Raises:
        DataError: the card is missing.
    """
    return read_bytes((folder or networks_folder()) / f"{name}.md", _RESTORE).decode()
