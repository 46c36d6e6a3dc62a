"""Show errors of widgets in the notebook. Jupyter itself only logs them."""

from __future__ import annotations

import contextlib
import html
import logging
from collections.abc import Iterator
from typing import Any

from d3d.errors import D3DError

_log = logging.getLogger(__name__)


@contextlib.contextmanager
def errors_shown_in(message: Any) -> Iterator[None]:
    """Show an error of the block in an `ipywidgets.HTML` instead of raising it. Without an error, clear the widget."""
    message.value = ""
    try:
        yield
    except Exception as error:
        text = str(error) if isinstance(error, D3DError) else f"{type(error).__name__}: {error}"
        message.value = f'<p role="alert" style="color: #b00020">{html.escape(text)}</p>'
        _log.debug("shown in the widget", exc_info=error)
