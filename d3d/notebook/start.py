"""Start a notebook: print its configuration, and mark the figures of untrained networks."""

from __future__ import annotations

from matplotlib.figure import Figure

from d3d.figures.files import mark_untrained
from d3d.pipeline.config import Config, describe


def begin(config: Config) -> None:
    """Print the configuration, and mark each figure of a profile that does not learn."""
    print(describe(config))
    if not config.learns:
        print(
            "The networks of this profile are not trained. It tests the code; its numbers and pictures mean nothing."
        )
    try:
        from IPython import get_ipython
    except ImportError:
        return
    if (shell := get_ipython()) is None:
        return
    shell.run_line_magic("matplotlib", "inline")  # registers the formatter of figures
    if not config.learns:
        formatter = shell.display_formatter.formatters["image/png"]
        draw = formatter.lookup_by_type(Figure)
        formatter.for_type(Figure, lambda figure: draw(mark_untrained(figure)))
