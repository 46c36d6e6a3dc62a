"""The review of a list: decisions are stored at once and can be undone; its keys, its controls and its list."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest

from d3d.datasets import Dataset, Scene, lists
from d3d.errors import ConfigError, DataError, RunError
from d3d.lists import review
from d3d.lists.ranking import Evidence
from d3d.notebook import review as controls
from d3d.pipeline.config import make_config

FRAMES = [("a", "0"), ("a", "1"), ("b", "0"), ("b", "1")]


@pytest.fixture
def path(tmp_path):
    return tmp_path / "lists" / "val_Reflection.json"


@pytest.fixture
def begun(path):
    return review.Review(FRAMES, path)


def test_decisions_lead_to_the_next_undecided_frame(begun):
    assert (begun.current, begun.left) == (FRAMES[0], 4)
    begun.accept()
    begun.reject()
    assert (begun.current, begun.left) == (FRAMES[2], 2)
    begun.go(0)
    begun.reject()  # another mind about the first
    assert begun.current == FRAMES[2], "the second is decided"
    begun.go(3)
    begun.accept()
    assert begun.current == FRAMES[2], "from the end to what is left"
    begun.accept()
    assert begun.left == 0
    assert begun.current == FRAMES[2], "nothing is left: it stays"
    assert begun.accepted == {FRAMES[2], FRAMES[3]}


def test_undo_at_both_ends(begun):
    assert begun.undo() is False
    assert begun.current == FRAMES[0]
    for _ in FRAMES:
        begun.accept()
    for frame in reversed(FRAMES):
        assert begun.undo() is True
        assert begun.current == frame
        assert frame not in begun.decisions
    assert begun.undo() is False
    assert (begun.left, begun.accepted) == (4, frozenset())


def test_undo_of_a_changed_decision_gives_the_first_one_back(begun):
    begun.accept()
    begun.go(0)
    begun.reject()
    begun.undo()
    assert begun.decisions == {FRAMES[0]: "accept"}


def test_there_is_no_way_beyond_the_ends(begun):
    begun.go(-1)
    assert begun.index == 0
    begun.go(4)
    assert begun.index == 3


def test_every_decision_is_in_the_file_before_the_next(begun, path):
    for count, decide in enumerate((begun.accept, begun.reject, begun.accept), 1):
        decide()
        assert len(json.loads(path.read_text())["decisions"]) == count
        assert not list(path.parent.glob(".*"))
    begun.undo()
    assert json.loads(path.read_text())["decisions"] == [["a", "0", "accept"], ["a", "1", "reject"]]


def test_it_goes_on_where_it_was(begun, path):
    begun.accept()
    begun.go(2)
    begun.reject()
    again = review.Review(FRAMES, path)
    assert again.current == FRAMES[3], "after the last that was decided"
    assert again.decisions == begun.decisions
    again.undo()
    assert again.current == FRAMES[2], "what was decided before can be undone"


def test_another_order_keeps_what_was_decided(begun, path):
    begun.accept()
    begun.reject()
    other = review.Review([("b", "1"), ("a", "1")], path)
    assert (other.current, other.left) == (("b", "1"), 1)
    assert other.accepted == {("a", "0")}, "a frame that is not shown any more"
    other.accept()
    assert review.Review(FRAMES, path).accepted == {("a", "0"), ("b", "1")}
    other.undo()
    other.undo()
    other.undo()
    assert review.Review(FRAMES, path).decisions == {}


def test_two_reviews_do_not_overwrite_each_other(begun, path):
    begun.accept()
    second = review.Review(FRAMES, path)
    second.accept()
    with pytest.raises(RunError, match="changed by another review"):
        begun.reject()
    assert review.Review(FRAMES, path).decisions == {FRAMES[0]: "accept", FRAMES[1]: "accept"}
    path.unlink()
    with pytest.raises(RunError, match="changed by another review"):
        second.reject()


@pytest.mark.parametrize(
    "content",
    [
        "{",
        "[]",
        '{"format": 2, "decisions": []}',
        '{"format": 1, "decisions": [["a", "0", "maybe"]]}',
        '{"format": 1, "decisions": [["a", "0"]]}',
    ],
)
def test_a_file_that_holds_no_decisions_is_left_alone(content, path):
    path.parent.mkdir()
    path.write_text(content)
    with pytest.raises(DataError, match=r"val_Reflection\.json: not readable as decisions"):
        review.Review(FRAMES, path)
    assert path.read_text() == content


def test_nothing_to_review(path):
    with pytest.raises(DataError, match="no frame"):
        review.Review([], path)
    with pytest.raises(DataError, match="twice"):
        review.Review([*FRAMES, FRAMES[0]], path)


@pytest.mark.parametrize(
    ("before", "after", "keys"),
    [
        ("", "y", "y"),
        ("y", "yn", "n"),
        ("yn", "ynyy", "yy"),  # typed while the kernel was busy
        ("yn", "y", "u"),  # Backspace
        ("yn", "", "u"),  # everything selected and deleted: one step, not many
        ("yn", "n", "u"),
        ("yn", "ynn", "n"),
        ("yyy", "yyyy", "y"),
        ("yn", "yun", "u"),  # the cursor was moved
        ("yn", "b", "b"),  # typed over a selection
        ("y", "y", ""),
    ],
)
def test_keys_are_what_a_text_field_gained(before, after, keys):
    assert controls.keys_typed(before, after) == keys


def test_keys_and_what_they_do(begun):
    for key in "ynY":
        controls.press(begun, key)
    assert list(begun.decisions.values()) == ["accept", "reject", "accept"]
    controls.press(begun, "b")
    assert begun.index == 2
    controls.press(begun, "s")
    controls.press(begun, "s")
    assert begun.index == 3
    controls.press(begun, "u")
    assert (begun.index, len(begun.decisions)) == (2, 2)
    with pytest.raises(DataError, match="no key 'q': y accept, n reject"):
        controls.press(begun, "q")
    for _ in range(2):
        controls.press(begun, "u")
    with pytest.raises(DataError, match="nothing to undo"):
        controls.press(begun, "u")


def test_the_line_tells_where_one_is(begun):
    assert controls.status(begun) == "frame 1 of 4: undecided. Accepted 0, rejected 0, left 4."
    for key in "yny":
        controls.press(begun, key)
    controls.press(begun, "b")
    assert controls.status(begun) == "frame 3 of 4: accepted. Accepted 2, rejected 1, left 1."
    begun.go(3)
    controls.press(begun, "n")
    assert controls.status(begun).endswith("left 0. All are decided: write the list.")


class Room(Scene):
    def __init__(self, name: str) -> None:
        super().__init__(name, ["0", "1"], np.tile(np.eye(4), (2, 1, 1)), (8, 12))


@pytest.fixture
def config(tmp_path, monkeypatch):
    """A run with artificial maps: the value of a frame's map is ten times its room's index plus its own index."""
    config = make_config(profile="smoke", runs_dir=str(tmp_path), run="r")
    rooms = [Room("a"), Room("b")]
    monkeypatch.setattr(review, "evaluated_dataset", lambda config: Dataset("rooms", {"val": lambda: rooms}))

    def evidence(config, scene, i):
        value = 10.0 * "ab".index(scene.name) + i
        if value == 11:
            raise DataError("its depth is missing.")
        maps = [np.full((8, 12), v) for v in (value, value + 1, value + 2)]
        return Evidence(np.full((8, 12, 3), int(value), np.uint8), *maps)

    monkeypatch.setattr(review, "evidence", evidence)
    return config


@pytest.fixture
def ranked():
    scores = {"rank": [1, 2, 3, 4], "score": [0.9, 0.5, 0.4, 0.1]}
    return pd.DataFrame({"scene": [s for s, _ in FRAMES], "frame": [f for _, f in FRAMES], **scores})


def parts(box) -> dict:
    line, buttons, keys, place, picture, message = box.children
    by_key = {b.description[-2]: b for b in buttons.children}
    return {
        "line": line, "buttons": by_key, "keys": keys, "place": place, "picture": picture, "message": message
    }  # fmt: skip


def test_buttons_keys_and_slider_move_one_review(config, ranked):
    state = review.open_review(config, ranked)
    p = parts(controls.show(config, state).widget)
    seen = [bytes(p["picture"].value)]
    assert seen[0].startswith(b"\x89PNG")
    p["buttons"]["y"].click()
    assert state.decisions == {FRAMES[0]: "accept"}
    assert "frame 2 of 4" in p["line"].value
    assert p["place"].value == 2
    seen.append(bytes(p["picture"].value))
    p["keys"].value = "n"
    p["keys"].value = ""  # Backspace
    assert state.decisions == {FRAMES[0]: "accept"}
    p["keys"].value = "n"
    p["keys"].value = "nb"
    assert (state.index, p["place"].value) == (1, 2)
    p["place"].value = 3
    assert state.index == 2
    seen.append(bytes(p["picture"].value))
    assert len(set(seen)) == 3
    p["place"].value = 1
    assert bytes(p["picture"].value) == seen[0]
    assert state.decisions == {FRAMES[0]: "accept", FRAMES[1]: "reject"}


def test_what_goes_wrong_is_told_and_nothing_is_lost(config, ranked):
    state = review.open_review(config, ranked)
    p = parts(controls.show(config, state).widget)
    p["keys"].value = "yq"
    assert "no key &#x27;q&#x27;" in p["message"].value
    assert "frame 2 of 4" in p["line"].value, "what was decided before the slip is shown"
    p["keys"].value = "yqnn"  # the fourth frame cannot be drawn
    assert "its depth is missing." in p["message"].value
    assert bytes(p["picture"].value) == b"", "not the picture of the frame before"
    assert len(review.open_review(config, ranked).decisions) == 3
    p["buttons"]["b"].click()
    assert p["message"].value == ""


def test_a_persons_list_says_so_and_can_be_given(config, ranked):
    state = review.open_review(config, ranked)
    with pytest.raises(DataError, match="no frame was chosen"):
        review.write(config, state)
    for key in "yny":
        controls.press(state, key)
    path = review.write(config, state)
    assert lists.given_files(str(path.parent), "val") == {"Reflection": path}
    assert lists.read_list(path) == {FRAMES[0], FRAMES[2]}
    assert (
        "# decided by: a person, frame by frame with d3d.lists.review; 3 looked at, 2 accepted"
        in path.read_text()
    )
    assert "run r (profile smoke, seed 0)" in path.read_text()


def test_an_automatic_list_never_passes_for_a_persons(config, ranked):
    state = review.open_review(config, ranked)
    controls.press(state, "y")
    by_hand = review.write(config, state)
    path = review.write_automatic(config, ranked, score_m=0.4)
    assert path.name == "val_Reflection-automatic.txt"
    assert lists.read_list(path) == set(FRAMES[:3])
    assert (
        "# decided by: an automatic rule, nobody has looked: score at least 0.4 m, 3 of 4" in path.read_text()
    )
    assert lists.read_list(by_hand) == {FRAMES[0]}
    assert lists.read_list(review.write_automatic(config, ranked, share=0.5)) == set(FRAMES[:2])
    assert "the best 50.0% by score" in path.read_text()
    with pytest.raises(DataError, match="no frame was chosen"):
        review.write_automatic(config, ranked, score_m=7)
    with pytest.raises(ConfigError, match="one of both"):
        review.write_automatic(config, ranked)


def test_the_scale_of_uncertainty_is_that_of_the_threshold_in_use(config, ranked, monkeypatch):
    asked = []
    monkeypatch.setattr(review.stages, "threshold", lambda config, labels: asked.append(labels) or 0.123)
    state = review.open_review(config, ranked)
    figure = review.picture(config, state)
    (axis,) = [a for a in figure.axes if a.get_title() == "uncertainty U, threshold 0.123 m"]
    assert axis.images[0].get_clim() == (0, 0.492)
    asked.clear()
    parts(controls.show(config, state).widget)["keys"].value = "yn"
    assert asked == ["uncer"], "a quantile goes over every training frame: once for a widget"
