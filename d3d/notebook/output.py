"""One output for every front end: something live in a running notebook, elsewhere a picture of the same."""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any


def live() -> bool:
    """Whether a front end that a person uses runs this cell: not papermill, nbconvert, nbval or plain Python.

    Such a front end can answer `input`, and says so in each request; nbclient and nbval say the opposite.
    """
    try:
        from IPython import get_ipython
    except ImportError:
        return False
    kernel = getattr(get_ipython(), "kernel", None)
    parent = kernel.get_parent("shell") if kernel is not None else {}
    return bool(parent.get("content", {}).get("allow_stdin"))


@dataclass(frozen=True)
class Shown:
    """A value that a cell shows: make it the last expression of the cell.

    A running notebook shows ``live``. Everything else shows the picture: a run without a front end, a page that is made
    of the notebook, and a notebook that is opened again but not trusted.

    Attributes:
        png: the picture.
        alt: a sentence that says what it shows.
        widget: the live version, or None.
        bundle: returns the representations of the live version by their MIME type.
    """

    png: bytes
    alt: str
    bundle: Callable[[], Mapping[str, Any]]
    widget: Any = None

    def _repr_mimebundle_(self, **_options: Any) -> dict[str, Any]:
        picture = {"text/plain": self.alt, "image/png": base64.b64encode(self.png).decode()}
        return {**self.bundle(), **picture} if live() else picture

    def __repr__(self) -> str:
        return self.alt
