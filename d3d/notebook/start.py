"""The start of a notebook: what it is about to use, and a mark on figures of untrained networks."""

from __future__ import annotations

from matplotlib.figure import Figure

from d3d.environment import check_environment
from d3d.figures.files import mark_untrained
from d3d.pipeline.config import Config, describe


def begin(config: Config) -> None:
    """Check the environment, print the configuration, and mark each figure of a profile that does not learn.

    Raises:
        ModuleNotFoundError: a package is missing.
    """
    check_environment()
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
    formatter = shell.display_formatter.formatters["image/png"]
    draw = formatter.lookup_by_type(Figure)
    if not config.learns:
        formatter.for_type(Figure, lambda figure: draw(mark_untrained(figure)))
