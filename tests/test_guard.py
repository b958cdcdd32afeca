"""guard: what is compared with what, and what follows from a hit."""

import pytest

from teachwise import guard
from teachwise.errors import GateError
from teachwise.guard import CONTAMINATION, as_read, in_words, recited, repeated, settle, summary, without
from teachwise.records import Hit

LONG = "The {} of the village meets on the last Monday of every month to talk about roads. Why does it meet at all?"
OTHER = "A traveller buys a ticket for the night train and finds that his seat is taken. Whom should he ask for help?"


@pytest.fixture
def three(example_with):
    """One question in all three splits, edited, and another one in each."""

    def one(id, split, question):
        return example_with(id, split, row=int(id[1:]), question=question)

    return [
        one("t0", "train", LONG.format("council")),
        one("t1", "train", "What is it?"),
        one("d2", "dev", LONG.format("committee")),
        one("d3", "dev", OTHER),
        one("x4", "test", LONG.format("board")),
        one("x5", "test", "Who was it?"),
    ]


def hit(place="train", id="t0", kind="near", held="test", share=0.7):
    return Hit(place, held, kind, share, id, "x4", "text", "held text")


def test_train_is_compared_with_dev_and_test_and_dev_with_test(three):
    pairs = {(one.place, one.held, one.id, one.held_id) for one in repeated(three)}
    assert pairs == {("train", "test", "t0", "x4"), ("train", "dev", "t0", "d2"), ("dev", "test", "d2", "x4")}


def test_a_hit_holds_both_texts_with_their_options(three):
    (one,) = (one for one in repeated(three) if one.place == "dev")
    assert one.text == LONG.format("committee") + "\nA. 1\nB. 2\nC. 3"
    assert one.held_text == as_read(three[4])


def test_the_strongest_reason_is_told_and_held_out_questions_stay(three):
    hits = [hit(held="dev", share=0.9), hit(), hit("dev", "d3", "exact")]
    left, apart = without(three, hits)
    assert [one.id for one in left] == ["t1", "d2", "x4", "x5"]
    assert {one.row: one.reason for one in apart} == {
        0: "nearly repeats a test question, row 4",
        3: "repeats a test question, row 4",
    }
    assert without(three, []) == (three, [])


def test_rationales_are_compared_with_dev_and_test_not_with_train(three):
    by = {one.id: one for one in three}
    texts = {
        "d3": "Nothing of the kind.",
        "t1": f"Consider: {LONG.format('board')} That is another question.",
        "t0": "Because of the roads.",
    }
    found = recited(texts, by)
    assert {(one.place, one.id, one.held_id) for one in found} == {("rationale", "t1", "x4"), ("rationale", "t1", "d2")}
    assert found[0].text == texts["t1"]
    assert recited({"t1": f"As for {OTHER} I do not know."}, {**by, "d3": by["t1"]}) == []
    assert recited({}, by) == []


def test_texts_are_counted_once_however_often_they_hit():
    hits = [
        hit(),
        hit(),
        hit(held="dev"),
        hit(id="t1", kind="exact"),
        hit("dev", "d2"),
        hit("rationale", "t1", "recited"),
    ]
    assert in_words(hits) == "2 train questions and 1 dev question and 1 rationale repeat held-out questions"
    assert in_words([hit("rationale", kind="recited")] * 2) == "1 rationale recites held-out questions"
    assert in_words([hit(), hit(held="dev")]) == "1 train question repeats held-out questions"
    assert in_words([]) == ""
    assert summary(hits, "warn", []) == {
        "too_alike": 0,
        "on_contamination": "warn",
        "found": [
            {"place": "train", "held": "test", "texts": 2, "near": 2, "exact": 1},
            {"place": "train", "held": "dev", "texts": 1, "near": 1},
            {"place": "dev", "held": "test", "texts": 1, "near": 1},
            {"place": "rationale", "held": "test", "texts": 1, "recited": 1},
        ],
    }


@pytest.mark.parametrize(
    ("policy", "done"), [("drop", ": left out;"), ("warn", ": kept, as data.on_contamination: warn says;")]
)
def test_what_was_found_and_done_is_said(tmp_path, capsys, policy, done):
    settle([hit(), hit(id="t1")], policy, "prepare", tmp_path / CONTAMINATION, 100)
    said = " ".join(capsys.readouterr().err.split())
    assert f"prepare: 2 train questions repeat held-out questions{done}" in said
    assert CONTAMINATION in said.replace(" ", "")
    assert "%" not in said


def test_a_large_share_is_called_large(tmp_path, capsys):
    settle([hit(), hit(id="t1")], "drop", "prepare", tmp_path, int(2 / guard.HEAVY))
    assert "that is 10% of them, so read some" in " ".join(capsys.readouterr().err.split())


def test_fail_stops_and_nothing_found_says_nothing(tmp_path, capsys):
    with pytest.raises(GateError, match="teach distill: 1 rationale recites held-out questions") as caught:
        settle([hit("rationale", kind="recited")], "fail", "teach distill", tmp_path / CONTAMINATION, 10)
    assert f"{tmp_path / CONTAMINATION} and ask another teacher" in caught.value.hint
    settle([], "fail", "prepare", tmp_path, 0)
    assert capsys.readouterr().err == ""
