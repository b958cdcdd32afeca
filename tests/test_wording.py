"""A run's result in plain words."""

import math
import re

import pytest

from made_report import cut_short, make, teacher_data
from teachwise.duration import took
from teachwise.figures import listed, number, percent, points
from teachwise.teacher_wording import money, states, teacher_judged, verdict_told
from teachwise.wording import findings, footnotes, leading_arm, rejected_rationales, short_answer, treated, treatment


def test_figures_in_words():
    assert [percent(0.8346), percent(None), percent(math.nan)] == ["83.5%", "–", "–"]
    assert [points(0.0004), points(-0.0004), points(-0.02)] == ["0.0", "0.0", "−2.0"]
    assert [number(1234567), number(-0.5, 1)] == ["1,234,567", "−0.5"]
    assert [took(59.94), took(59.96), took(60), took(3725)] == ["59.9 s", "1 min 0 s", "1 min 0 s", "1 h 2 min"]
    assert [took(one, 0) for one in (0, 59.4, 59.6, 3600)] == ["0 s", "59 s", "1 min 0 s", "1 h 0 min"]


def test_the_verdict_is_about_the_arm_that_the_control_copies():
    data = make(names=("base", "sft", "banded", "random"))
    arms = data["recipe"]["arms"]
    for copied in ("sft", "banded"):
        arms["random"]["like"] = copied
        assert leading_arm(data["comparison"], arms) == copied
    data["comparison"]["control"] = None
    assert leading_arm(data["comparison"], arms) == "sft", "the first that follows the score"
    for arm in arms.values():
        arm["policy"] = "all"
    assert leading_arm(data["comparison"], arms) == "random", "the highest accuracy, where nothing else decides"


GAPS = {"+": (0.05, 0.02, 0.08), "0": (0.01, -0.02, 0.04), "-": (-0.05, -0.08, -0.02)}


@pytest.mark.parametrize(
    ("against", "answer"),
    [
        ("++", "Yes: banded did better than both the untouched student and a random choice of the same size."),
        ("+0", "Partly: banded did better than the untouched student but is not told apart from a random choice"),
        ("+-", "No: banded did better than the untouched student but did worse than a random choice"),
        ("0+", "Not settled: banded is not told apart from the untouched student but did better than a random"),
        ("00", "Not settled: banded is told apart neither from the untouched student nor from a random choice"),
        ("-+", "No: banded did worse than the untouched student but did better than a random choice"),
        ("+ ", "Yes: banded did better than the untouched student."),
        (" 0", "Not settled: banded is not told apart from a random choice of the same size."),
        ("  ", "Not settled: there is nothing to set banded against."),
    ],
)
def test_the_short_answer_is_no_surer_than_the_intervals(against, answer):
    comparison = make()["comparison"]
    for role, name, sign in zip(("base", "control"), ("base", "random"), against, strict=True):
        if sign == " ":
            comparison[role] = None
        else:
            gap = dict(zip(("value", "low", "high"), GAPS[sign], strict=True))
            comparison["arms"]["banded"]["against"][name] = {"difference": gap}
    assert short_answer(comparison, "banded").startswith(answer)


@pytest.mark.parametrize(
    ("lacks", "found"),
    [
        ({"random": 86}, "the control, random, lacks 86 of 200 rationales"),
        ({"banded": 14}, "banded lacks 14 of 100 rationales"),
        (
            {"banded": 14, "random": 86},
            "banded lacks 14 of 100 rationales and the control, random, lacks 86 of 200 rationales",
        ),
    ],
)
def test_arms_that_the_budget_cut_short_get_no_verdict(lacks, found):
    data = cut_short(make(names=("base", "banded", "random", "distill")), **lacks)
    even = {"value": 0.1, "low": -0.1, "high": 0.3}
    data["comparison"]["arms"]["banded"]["against"]["random"] = {"difference": even}
    wanted = f"No verdict: {found}, which the budget could not bear."
    assert short_answer(data["comparison"], "banded") == wanted
    said = " ".join(told(data))
    assert "(random) reached 73.5%, which shows nothing here." in said
    assert "Not settled: whether choosing by the score beats choosing by lot, since not all rationales" in said
    assert "better or worse than random" not in said
    assert said.count("partial, ") == len(lacks.keys() & {"banded"}), "where an arm is introduced it says what it is"


def test_an_arm_that_is_not_in_the_verdict_may_lack_rationales():
    data = cut_short(make(names=("base", "banded", "random", "distill")), distill=3)
    assert short_answer(data["comparison"], "banded").startswith("No: banded did worse than both")
    assert footnotes(data["comparison"]["arms"]) == ["distill: partial, 3 of 300 rationales not bought"]


def test_the_verdict_says_what_it_cost_and_what_is_open():
    data = make(names=("base", "banded", "random", "distill"))
    even = {"value": 0.1, "low": -0.1, "high": 0.3}
    data["comparison"]["arms"]["banded"]["against"]["random"] = {"difference": even}
    said = findings(data["comparison"], data["recipe"]["arms"], "banded", "FAIL")
    assert 2 <= len(said) <= 4
    text = " ".join(re.sub(r"<.*?>", "", str(one)) for one in said)
    assert "banded (rationales for hard questions, answers for easy ones) answered 72.2% of 200" in text
    assert "12,345 teacher tokens" in text
    assert "The untouched student (base) reached 71.0%: banded is behind by 3.1 points (−5.0 to −1.0)" in text
    assert "(random) reached 73.5%: not told apart (−10.0 to +30.0 points)" in text
    assert "distill" in said[2]
    assert "37,035 teacher tokens" in said[2]
    assert "whether banded is better or worse than random;" in said[-1]
    assert "did not predict the student’s errors" in said[-1]
    assert "with one training seed it is not measured" in said[-1]


def with_kept(names=("base", "banded", "random", "distill"), **kept_of):
    """Data of a report whose arms kept so many of so many rationales."""
    data = make(names=names)
    for name in names:
        kept, bought = kept_of.get(name, (0, 0))
        data["comparison"]["arms"][name]["cost"] |= {"rationales_kept": kept, "rationales_bought": bought}
    return data


def told(data, lead="banded", gate="PASS"):
    said = findings(data["comparison"], data["recipe"]["arms"], lead, gate)
    return [re.sub(r"<.*?>", "", str(one)) for one in said]


def test_an_arm_that_kept_hardly_any_rationale_is_no_witness_for_rationales():
    data = with_kept(banded=(0, 4), random=(19, 100), distill=(3, 15))
    assert "But banded kept none of its 4 rationales: this says nothing" in short_answer(data["comparison"], "banded")
    said = told(data)
    assert said[0].startswith("Too few rationales: random kept only 19 of its 100 rationales. What it reached says")
    assert "answers for easy ones; it kept none of its 4 rationales) answered" in said[1]
    arms = data["comparison"]["arms"]
    assert treated(arms["distill"], data["recipe"]["arms"]["distill"]).endswith("for easy ones"), "one of five will do"
    said = told(with_kept(banded=(1, 4), random=(0, 4), distill=(0, 15)))
    assert "random kept none of its 4 rationales and distill kept none of its 15 rationales. What they" in said[0]
    enough = with_kept(banded=(1, 4), random=(4, 4))
    assert "kept" not in short_answer(enough["comparison"], "banded") + " ".join(told(enough))


def test_rationales_that_were_not_fit_to_learn_from_are_counted_by_arm():
    found = with_kept(banded=(0, 4), random=(1, 4), distill=(3, 15))["comparison"]
    rejected = "banded: 4 of 4, random: 3 of 4, distill: 12 of 15 rationales were not fit to learn from; "
    assert rejected_rationales(found, "answer") == rejected + "their answers were trained on instead."
    assert rejected_rationales(found, "drop") == rejected + "they were left out."
    assert rejected_rationales(with_kept(banded=(4, 4))["comparison"], "answer") == ""


def test_few_test_questions_prove_nothing_and_the_first_lines_say_so():
    comparison = make()["comparison"]
    for n_test, wanted in ((99, "With 99 test questions this proves nothing; it shows"), (1, "With 1 test question ")):
        comparison["n_test"] = n_test
        assert wanted in short_answer(comparison, "banded")
    comparison["n_test"] = 100
    assert "proves" not in short_answer(comparison, "banded")


def with_unreadable(share):
    data = make(names=("base", "sft", "banded", "random"))
    for arm in data["comparison"]["arms"].values():
        arm["modes"][arm["mode"]]["unreadable"] = share
    return data


def test_where_no_answer_could_be_read_there_is_no_verdict():
    assert short_answer(with_unreadable(1.0)["comparison"], "banded") == (
        "No arm wrote a readable answer: look at what they wrote first."
    )
    assert short_answer(with_unreadable(0.91)["comparison"], "banded").startswith("Hardly any answer could be read:")
    (said,) = told(with_unreadable(0.91))
    assert "could not be read: base 91.0%, sft 91.0%, banded 91.0% and random 91.0%." in said
    data = with_unreadable(1.0)
    data["comparison"]["arms"]["random"]["modes"]["routed"]["unreadable"] = 0.9
    assert short_answer(data["comparison"], "banded").startswith("No: banded did worse"), "one arm can be read"
    assert len(told(data)) > 1


@pytest.mark.parametrize(
    ("sft", "distill", "wanted"),
    [
        (0.5, 0.6, "distill (rationales for hard questions, answers for easy ones), the best of the others,"),
        (0.6, 0.6, "sft (12,345 teacher tokens) and distill (49,380 teacher tokens) reached each 60.0%."),
        (0.0, 0.0, "sft (12,345 teacher tokens) and distill (49,380 teacher tokens) reached each 0.0%."),
    ],
)
def test_the_best_of_the_others_is_called_so_only_where_it_is(sft, distill, wanted):
    data = make(names=("base", "sft", "banded", "random", "distill"))
    for name, value in (("sft", sft), ("distill", distill)):
        data["comparison"]["arms"][name]["accuracy"]["value"] = value
    said = told(data)[2]
    assert said.startswith(wanted)
    assert ("best of the others" in said) == (sft < distill)


def test_arms_in_words():
    stages = [{"easy": "answer", "medium": "answer"}, {"hard": "rationale"}]
    arm = {"policy": "bands", "stages": stages}
    assert treatment(arm) == "answers for easy and medium questions, then rationales for hard questions"
    assert treatment({"policy": "all", "give": "rationale"}) == "a rationale for every question"
    assert "banded" in treatment({"policy": "random", "like": "banded"})
    assert [listed([]), listed(["a"]), listed(["a", "b"])] == ["", "a", "a and b"]


# ------------------------------------------------------------------------------------------------- the teacher


def with_teacher(bands, **changes):
    data = make()
    data["comparison"]["teacher"] = teacher_data(bands, **changes)
    return data


def plain(said):
    return re.sub(r"<.*?>", "", str(said))


def test_a_teacher_that_failed_is_named_first_with_what_to_do():
    data = with_teacher({"easy": {"correct": 99}, "hard": {"correct": 2, "wrong": 5, "unreadable": 1}})
    told_first = short_answer(data["comparison"], "banded")
    assert told_first.startswith("No: banded did worse than both")
    assert told_first.endswith("TEACHER FAILURE: only 2 of 8 rationales for hard questions state the right answer.")
    assert told(data)[0].startswith(
        "TEACHER FAILURE: only 2 of 8 rationales for hard questions state the right answer, 25.0% (7.1% to 59.1%);"
        " 50% are wanted (min_usable). What to do: take a stronger teacher; or keep: correct_or_ask_again(3)"
    )
    assert "TEACHER" not in short_answer(make()["comparison"], "banded") + " ".join(told(make()))


@pytest.mark.parametrize(
    ("bands", "changes", "words"),
    [
        (
            {"hard": {"correct": 8, "wrong": 2}},
            {},
            "PASS, but not sure Of 10 rationales for hard questions, 80.0% (49.0% to 94.3%) state",
        ),
        ({"all": {"correct": 1, "wrong": 2}}, {}, "TEACHER FAILURE Of 3 rationales for any question, 33.3%"),
        ({"easy": {"correct": 3}}, {}, "NOT ASKED No rationale for a hard question was bought."),
        ({"hard": {"unpaid": 3}}, {}, "NOT ASKED"),
        ({"hard": {"correct": 4}}, {"gold_shown": True}, "NOT JUDGED Of 4 rationales for hard questions, 100.0%"),
    ],
)
def test_the_verdict_on_the_teacher_in_words(bands, changes, words):
    assert plain(teacher_judged(teacher_data(bands, **changes))).startswith(words)


@pytest.mark.parametrize(
    ("correct", "wrong", "wanted"),
    [(80, 20, "PASS"), (54, 46, "PASS, but not sure"), (49, 51, "TEACHER FAILURE"), (0, 0, "NOT ASKED")],
)
def test_a_teacher_whose_share_might_lie_under_the_bound_passes_without_being_sure(correct, wrong, wanted):
    assert verdict_told(teacher_data({"hard": {"correct": correct, "wrong": wrong}} if wrong else {})) == wanted


def test_rationales_that_prove_nothing_are_told_loudly():
    shown = with_teacher({"hard": {"correct": 1200}}, gold_shown=True)
    assert told(shown)[0].startswith(
        "The teacher saw the answers: 1,200 rationales were written with the right answer in"
    )
    wrong = with_teacher({"hard": {"correct": 8, "wrong": 2}}, kept=True)
    assert told(wrong)[0].startswith(
        "Wrong rationales were learnt from: 2 that do not state the right answer were kept"
    )
    assert told(with_teacher({"hard": {"correct": 8, "wrong": 2}}))[0].startswith("banded (")


def test_money_is_told_as_far_as_it_is_known():
    price = {"version": "the recipe"}
    ledger = {"usd": 1.5, "unpriced": 0, "requests": {"ok": 8, "planned": 4}}
    assert money(ledger, price, None, is_free=False) == "$1.50, at prices from the recipe"
    assert money(ledger, price, 20, is_free=False) == "$1.50 of $20.00, at prices from the recipe"
    unpriced = {**ledger, "unpriced": 3}
    assert money(unpriced, price, None, is_free=False).endswith(
        "; without 3 of 8 requests, sent before a price was known"
    )
    nothing = {**ledger, "usd": 0.0, "unpriced": 8}
    assert money(nothing, None, None, is_free=False).startswith("not known: budget.prices says")
    assert money(nothing, None, None, is_free=True) == "free, on this machine"
    assert money(unpriced, None, None, is_free=True).startswith("$1.50; without 3"), "what was paid elsewhere, before"


def test_what_an_arm_costs_is_told_in_money_where_that_is_known():
    data = make()
    for arm, usd in zip(data["comparison"]["arms"].values(), (0.0, 0.25, 0.001), strict=True):
        arm["cost"]["teacher_usd"] = usd
    assert "for 12,345 teacher tokens ($0.25)." in told(data)[0]


def test_lost_requests_count_as_spent_and_states_come_in_one_order():
    found = states({"unknown": 2, "failed": 3, "ok": 1200, "planned": 7, "truncated": 0})
    assert found == "1,200 ok, 3 failed, 2 unknown (counted as spent), 7 not sent"
