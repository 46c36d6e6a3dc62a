"""Parse and check the JSON files and number files of a data set."""

from __future__ import annotations

from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from pydantic import BaseModel, ConfigDict, ValidationError

from d3d.errors import DataError

_MAX_TEXT = 4096  # bytes of a file with a 4x4 matrix


class Record(BaseModel):
    """Base class of a JSON object. Types are strict ("3" and true are not numbers); unknown keys are ignored."""

    model_config = ConfigDict(strict=True, extra="ignore", frozen=True)


R = TypeVar("R", bound=Record)


def read_bytes(path: Path, advice: str = "", at_most: int | None = None) -> bytes:
    """Read a file.

    Raises:
        DataError: the file cannot be read, or has more than ``at_most`` bytes. ``advice`` ends the message.
    """
    try:
        if at_most is not None and (size := path.stat().st_size) > at_most:
            raise DataError(f"{path} has {size} bytes. {advice}".rstrip())
        return path.read_bytes()
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error}). {advice}".rstrip()) from error


def parse(kind: type[R], content: bytes, where: str, advice: str = "") -> R:
    """Parse a JSON object. ``where`` begins the message of an error, ``advice`` ends it.

    Raises:
        DataError: the content is not JSON, or a value is missing or has a wrong type. The message names the first.
    """
    try:
        return kind.model_validate_json(content)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        if first["type"] == "json_invalid":
            reason = f"not readable as JSON ({first['msg']})"
        elif first["type"] == "value_error":  # checks of d3d name the place themselves
            reason = str(first["ctx"]["error"])
        else:
            reason = ": ".join(filter(None, (".".join(map(str, first["loc"])), first["msg"])))
        raise DataError(f"{where}: {reason}. {advice}".rstrip()) from error


def numbers(value: Any, shape: tuple[int, ...], where: str) -> np.ndarray:
    """Convert nested lists to a float64 array of the given shape; raises DataError if they do not fit."""
    try:
        array = np.array(value, dtype=np.float64)
    except (ValueError, TypeError, OverflowError) as error:
        raise DataError(f"{where}: not numbers ({error}).") from error
    if array.shape != shape:
        raise DataError(f"{where}: numbers of shape {array.shape} instead of {shape}.")
    return array


def read_matrix(path: Path, where: str) -> np.ndarray:
    """Read a text file with a 4x4 matrix, float64, possibly not finite; raises DataError if it has no 16 numbers."""
    try:
        if path.stat().st_size > _MAX_TEXT:
            raise ValueError(f"{path.stat().st_size} bytes")
        return np.array(path.read_text(encoding="ascii").split(), dtype=np.float64).reshape(4, 4)
    except FileNotFoundError:
        raise DataError(f"{where}: {path} is missing.") from None
    except (OSError, ValueError) as error:
        raise DataError(f"{where}: {path} does not hold the 16 numbers of a 4x4 matrix ({error}).") from error
