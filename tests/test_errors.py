"""The words of messages: numbers, plurals, and options as the reader writes them."""

from __future__ import annotations

import sys
from types import SimpleNamespace

import pytest

from d3d.errors import DataError, TasksError, counted, rounded
from d3d.progress import say


def test_a_number_with_its_noun():
    assert counted(1, "frame") == "1 frame"
    assert counted(0, "frame") == "0 frames"
    assert counted(1613, "scene is", "scenes are") == "1,613 scenes are"


@pytest.mark.parametrize(
    ("value", "text"),
    [(3071.4, "3,070"), (2.5, "2.5"), (0.000123, "0.000123"), (1e-7, "0.0000001"), (-12345678, "-12,300,000")],
)  # fmt: skip
def test_a_number_has_no_exponent(value, text):
    assert rounded(value) == text


def test_messages_name_parameters_in_a_notebook_and_options_elsewhere(monkeypatch, capsys):
    message = "Give --intrinsics or --min-depth-m, or add --no-check; see `python -m d3d room --help`."
    assert str(DataError(message)) == message
    monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(get_ipython=object))
    parameters = "Give intrinsics or min_depth_m, or add check = False; see `python -m d3d room --help`."
    assert str(DataError(message)) == parameters
    assert parameters in str(TasksError("fuse", 1, {"room": message}))
    say(message)
    assert capsys.readouterr().out == f"{parameters}\n"
