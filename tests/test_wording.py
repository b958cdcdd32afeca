"""A run's result in plain words."""

import math
import re

import pytest

from made_report import make
from teachwise.wording import findings, leading_arm, listed, number, percent, points, short_answer, took, treatment


def test_figures_in_words():
    assert [percent(0.8346), percent(None), percent(math.nan)] == ["83.5%", "–", "–"]
    assert [points(0.0004), points(-0.0004), points(-0.02)] == ["0.0", "0.0", "−2.0"]
    assert [number(1234567), number(-0.5, 1)] == ["1,234,567", "−0.5"]
    assert [took(59.94), took(60), took(3725)] == ["59.9 s", "1 min 0 s", "1 h 2 min"]


def test_the_verdict_is_about_the_arm_that_the_control_copies():
    data = make(names=("base", "sft", "banded", "random"))
    arms = data["recipe"]["arms"]
    arms["random"]["like"] = "sft"
    assert leading_arm(data["comparison"], arms) == "sft"
    data["comparison"]["control"] = None
    assert leading_arm(data["comparison"], arms) == "sft"
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


def test_arms_in_words():
    stages = [{"easy": "answer", "medium": "answer"}, {"hard": "rationale"}]
    arm = {"policy": "bands", "stages": stages}
    assert treatment(arm) == "answers for easy and medium questions, then rationales for hard questions"
    assert treatment({"policy": "all", "give": "rationale"}) == "a rationale for every question"
    assert "banded" in treatment({"policy": "random", "like": "banded"})
    assert [listed([]), listed(["a"]), listed(["a", "b"])] == ["", "a", "a and b"]
