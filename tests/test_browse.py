"""The table of questions and the sample of it that the page holds."""

import re

import pytest

from made_report import make, questions
from teachwise import browse
from teachwise.report import page


def test_the_sample_holds_every_kind_by_turns_and_stays_within_its_room():
    rows, arms = questions(make(), per_split=300)
    common = sum(browse.kind_of(row, arms) == "train: the untouched student was wrong" for row in rows)
    rejected = {"rationale_verdict": "wrong", "rationale_kept": False}
    rows = [{**row, **rejected} if row["id"] in ("train7", "train8") else row for row in rows]
    found = browse.sample(rows, arms, room=60_000)
    assert 40 < len(found["rows"]) < 900
    assert sum(len(browse.as_json(one).encode()) + 1 for one in found["rows"]) <= 60_000
    assert found["kinds"]["train: the teacher’s rationale was not kept"] == [2, 2]
    held = [held for held, there in found["kinds"].values() if held < there]
    assert max(held) - min(held) <= 1
    assert sum(held for held, _ in found["kinds"].values()) == len(found["rows"])
    assert sum(there for _, there in found["kinds"].values()) == found["of"] == 900
    assert found["kinds"]["train: the untouched student was wrong"][1] in (common, common - 1, common - 2)
    assert browse.sample(rows[::-1], arms, room=60_000)["rows"] == found["rows"]


def test_no_arm_s_name_can_take_a_column_of_the_question_or_of_another_arm():
    names = ("student", "rationale", "sft", "sft_seeds", "sft_arm", "arm", "arm_sft", "x_gave")
    rows, arms = questions(make(names=names, control="rationale"))
    usual, usual_arms = questions(make())
    assert (len(arms), len(usual_arms)) == (8, 3)
    assert len(rows[0]) == len(usual[0]) + 5 * (8 - 3), "some columns took the place of others"
    own = [name for name in usual[0] if not name.startswith("arm_")]
    assert [[row[name] for name in own] for row in rows] == [[row[name] for name in own] for row in usual]
    for row in rows:
        for arm in arms:
            states = row[f"arm_{arm}_states"]
            assert row[f"arm_{arm}_correct"] == (None if row["split"] == "train" else states == "B")


@pytest.mark.parametrize(
    ("verdict", "on_rejected", "wanted"),
    [
        ("correct", "answer", "rationale"),
        ("wrong", "answer", "rationale, rejected as wrong; its answer was trained on"),
        ("truncated", "drop", "rationale, rejected as cut off; it was left out"),
        ("unreadable", "drop", "rationale, rejected as unreadable; it was left out"),
        ("refused", "drop", "rationale, which the provider refused; it was left out"),
        ("failed", "answer", "rationale, which never came; its answer was trained on"),
        ("unpaid", "drop", "rationale, which the budget could not bear; it was left out"),
    ],
)
def test_a_question_tells_what_was_learnt_in_place_of_a_rejected_rationale(verdict, on_rejected, wanted):
    rows, arms = questions(make(names=("base", "sft", "banded")))
    for row in rows:
        if row["rationale_verdict"]:
            row |= {"rationale_verdict": verdict, "rationale_kept": verdict == "correct"}
        for arm, gave in (("base", "nothing"), ("sft", "answer"), ("banded", "rationale")):
            row[browse.column(arm, "gave")] = gave
    held = browse.sample(rows, arms, on_rejected=on_rejected)["rows"]
    assert [one["gave"] for one in held if one["split"] == "train"] == [["nothing", "answer", wanted]] * 5


@pytest.mark.parametrize(
    ("split", "states", "kind"),
    [
        ("test", ("B", "A"), "some arms right, some wrong"),
        ("dev", ("B", None), "an answer was unreadable"),
        ("test", ("A", "C"), "every arm wrong"),
        ("test", ("B", "B"), "every arm right"),
    ],
)
def test_the_kind_of_a_question_that_arms_answered(split, states, kind):
    answers = {browse.column(arm, "states"): letter for arm, letter in zip("xy", states, strict=True)}
    right = {browse.column(arm, "correct"): letter == "B" for arm, letter in zip("xy", states, strict=True)}
    assert browse.kind_of({"split": split, **answers, **right}, ["x", "y"]) == f"{split}: {kind}"


def test_twelve_thousand_long_questions_stay_under_five_megabytes():
    data = make(names=("base", "sft", "banded", "random", "distill"))
    rows, arms = questions(data, per_split=4000)
    for row in rows:
        row["question"] *= 40
        for name in ("rationale", *(f"arm_{arm}_text" for arm in arms)):
            row[name] = row[name] and row[name] * 200
    some = browse.sample(rows, arms)
    assert some["of"] == 12_000
    assert 400 < len(some["rows"]) < 12_000
    assert 4_000_000 < len(page(data, some).encode()) < 5_000_000


def test_long_texts_keep_their_beginning_and_their_end():
    text = "start " + "x" * 5000 + " so B"
    assert re.fullmatch(r"start x+ \[…\] x+ so B", browse.cut_middle(text))
    assert len(browse.cut_middle(text)) < 1300
    assert browse.cut_middle("short") == "short"
