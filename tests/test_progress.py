"""The progress bar of a resumed computation."""

from __future__ import annotations

import time

from d3d.progress import track


def test_what_was_done_before_is_shown_but_not_taken_for_speed(capsys):
    bar = track(what="training", total=1000, unit="step", first=600)
    bar.start_t = time.time() - 10  # ten seconds ago
    bar.update(20)
    line = str(bar)
    bar.close()
    assert "620/1000" in line
    assert "00:10<03:1" in line  # 380 steps at two a second: 3:10
