"""Lessons: what is learnt for every kind of assignment."""

import pytest

from made_records import rationale
from teachwise.lessons import Lesson, Skipped, lessons_of
from teachwise.records import Assignment

VERDICTS = ("correct", "wrong", "unreadable", "truncated", "refused", "failed", "unknown", "unpaid")


@pytest.fixture
def examples(example_with):
    return {name: example_with(name, answer="C") for name in ("a", "b", "c", "d", *VERDICTS)}


@pytest.fixture
def rationales():
    return {verdict: rationale(verdict, verdict, None, f" because {verdict} [[C]] \n") for verdict in VERDICTS}


def gives(give, *ids, stage=0):
    return [Assignment(id, "all", give, stage) for id in ids]


def test_an_answer_is_learnt_as_the_bare_letter_asked_for_directly(examples):
    lessons, skipped = lessons_of(gives("answer", "a", "b"), 0, examples, {}, "drop")
    assert lessons == [Lesson("a", "direct", "C"), Lesson("b", "direct", "C")]
    assert skipped == []


def test_a_kept_rationale_is_learnt_as_it_came_asked_for_with_thought(examples, rationales):
    lessons, skipped = lessons_of(gives("rationale", "correct"), 0, examples, rationales, "drop")
    assert lessons == [Lesson("correct", "cot", "because correct [[C]]")]
    assert skipped == []


def test_a_rejected_rationale_is_left_out_with_its_reason(examples, rationales):
    lessons, skipped = lessons_of(gives("rationale", *VERDICTS), 0, examples, rationales, "drop")
    assert [one.id for one in lessons] == ["correct"]
    rejected = sorted(set(VERDICTS) - {"correct"})
    assert skipped == [Skipped(verdict, 0, f"rationale {verdict}") for verdict in rejected]


def test_a_rejected_rationale_may_give_its_answer_instead(examples, rationales):
    lessons, skipped = lessons_of(gives("rationale", *VERDICTS), 0, examples, rationales, "answer")
    assert skipped == []
    assert {one.id: (one.mode, one.completion) for one in lessons} == {
        "correct": ("cot", "because correct [[C]]"),
        **{verdict: ("direct", "C") for verdict in VERDICTS if verdict != "correct"},
    }


def test_no_text_of_a_rejected_rationale_is_ever_learnt(examples, rationales):
    for on_rejected in ("drop", "answer"):
        lessons, _ = lessons_of(gives("rationale", *VERDICTS), 0, examples, rationales, on_rejected)
        assert not any("because" in one.completion for one in lessons if one.id != "correct")


def test_a_stage_learns_its_own_rows_only_and_what_is_dropped_is_in_none(examples, rationales):
    assigned = [
        *gives("answer", "c", "a"),
        *gives("rationale", "correct", "wrong", stage=1),
        *gives("answer", "d", stage=1),
        *gives("drop", "b", stage=-1),
    ]
    stages = [lessons_of(assigned, stage, examples, rationales, "drop") for stage in (0, 1, 2)]
    assert [[one.id for one in lessons] for lessons, _ in stages] == [["a", "c"], ["correct", "d"], []]
    assert [[one.id for one in skipped] for _, skipped in stages] == [[], ["wrong"], []]
    assert stages[1][1] == [Skipped("wrong", 1, "rationale wrong")]


def test_lessons_come_in_the_order_of_their_ids_however_they_were_assigned(examples, rationales):
    assigned = [*gives("answer", "d", "a"), *gives("rationale", "correct", "failed"), *gives("answer", "c", "b")]
    forward = lessons_of(assigned, 0, examples, rationales, "answer")
    assert forward == lessons_of(assigned[::-1], 0, examples, rationales, "answer")
    assert [one.id for one in forward[0]] == ["a", "b", "c", "correct", "d", "failed"]


def test_one_example_may_be_learnt_in_two_stages(examples, rationales):
    assigned = [*gives("answer", "correct"), *gives("rationale", "correct", stage=1)]
    first, second = (lessons_of(assigned, stage, examples, rationales, "drop")[0] for stage in (0, 1))
    assert (first[0].mode, second[0].mode) == ("direct", "cot")


def test_what_is_kept_is_learnt_whatever_its_verdict(examples, rationales):
    rationales["wrong"] = rationale("wrong", "wrong", "B", "so [[B]]", kept=True)
    lessons, skipped = lessons_of(gives("rationale", "wrong"), 0, examples, rationales, "drop")
    assert (lessons, skipped) == ([Lesson("wrong", "cot", "so [[B]]")], [])
