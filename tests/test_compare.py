"""compare: every arm on the same questions, by hand where it can be."""

from dataclasses import replace
from types import MappingProxyType

import numpy as np
import pytest

from made_records import rationale
from teachwise.compare import (
    Answers,
    answers_of,
    arm_summary,
    chosen_mode,
    compare_arms,
    paired,
    sentence,
)
from teachwise.records import Prediction, Score
from teachwise.run_folder import Unit
from teachwise.stats import wilson
from teachwise.teacher.verify import FAILURE, REASONS

MODES = ("direct", "cot", "routed")
COUNTS = {
    "route": {"answers": 1, "rationales": 2, "dropped": 0},
    "teach": {
        **dict.fromkeys(REASONS, 0),
        "asked": 2,
        "requests": 3,
        "kept": 1,
        "correct": 1,
        "wrong": 1,
        "prompt_tokens": 100,
        "cached_tokens": 40,
        "completion_tokens": 50,
        "unusable_tokens": 75,
    },
    "train": {"updates": 7, "trained_tokens": 300},
}
BANDED = {"policy": "bands", "stages": [{"easy": "answer", "medium": "answer"}, {"hard": "rationale"}]}


def answers(correct, unreadable=None, tokens=None):
    correct = np.array(correct, dtype=bool)
    return Answers(
        correct,
        np.zeros_like(correct) if unreadable is None else np.array(unreadable, dtype=bool),
        np.ones(correct.shape, dtype=int) if tokens is None else np.array(tokens),
    )


def told(id, split, mode, stated, correct, tokens=1):
    return Prediction(id, split, mode, stated, correct, 0.5, tokens, stated or "hm")


# answers


def test_answers_are_gathered_by_question_whatever_their_order():
    first = [told("b", "test", "cot", "A", True, 9), told("a", "test", "cot", None, False, 3)]
    others = [told("a", "dev", "cot", "A", True), told("a", "test", "direct", "A", True)]
    second = [told("a", "test", "cot", "B", False, 5), told("b", "test", "cot", "C", False, 6)]
    found = answers_of([first + others, second], "test", "cot", ["a", "b"])
    assert found.correct.tolist() == [[False, True], [False, False]]
    assert found.unreadable.tolist() == [[True, False], [False, False]]
    assert found.tokens.tolist() == [[3, 9], [5, 6]]


def test_a_question_without_an_answer_is_never_left_out_of_the_denominator():
    with pytest.raises(KeyError):
        answers_of([[told("a", "test", "cot", "A", True)]], "test", "cot", ["a", "b"])


@pytest.mark.parametrize(
    ("dev", "wanted"),
    [
        ({"direct": [[1, 0, 0]], "cot": [[1, 1, 0]], "routed": [[1, 0, 0]]}, "cot"),
        ({"direct": [[1, 0, 0]], "cot": [[0, 1, 0]], "routed": [[1, 1, 0]]}, "routed"),
        ({"direct": [[1, 1, 0], [0, 0, 0]], "cot": [[1, 0, 0], [1, 1, 0]], "routed": [[0, 0, 0], [1, 1, 0]]}, "cot"),
    ],
)
def test_the_mode_with_the_best_dev_accuracy_over_all_seeds_is_chosen(dev, wanted):
    assert chosen_mode({mode: answers(grid) for mode, grid in dev.items()}) == wanted


@pytest.mark.parametrize(("tokens", "wanted"), [((1, 20, 8), "direct"), ((30, 20, 21), "cot"), ((9, 20, 8), "routed")])
def test_of_equally_good_modes_the_one_that_writes_least_is_chosen(tokens, wanted):
    dev = {
        mode: replace(answers([[1, 1, 0]]), tokens=np.full((1, 3), n))
        for mode, n in zip(("direct", "cot", "routed"), tokens, strict=True)
    }
    assert chosen_mode(dev) == wanted


def test_unparsable_outputs_stay_in_the_denominator_and_are_counted_apart():
    test = {"cot": answers([[1, 0, 0, 1, 0]], unreadable=[[0, 1, 0, 0, 1]], tokens=[[10, 20, 30, 40, 50]])}
    found = arm_summary(test, "cot", {})
    assert (found["accuracy"]["value"], found["accuracy"]["n"]) == (0.4, 5)
    assert found["modes"]["cot"]["unreadable"] == 0.4
    assert found["modes"]["cot"]["generated_tokens"] == 30


def test_groups_by_hand():
    test = {"direct": answers([[1, 1, 0, 0], [1, 0, 0, 1]])}
    found = arm_summary(test, "direct", {"subject": ["law", "law", "art", "law"], "band": ["easy"] * 4})
    assert {name: (one["value"], one["n"]) for name, one in found["by_subject"].items()} == {
        "art": (0.0, 1),
        "law": (pytest.approx(4 / 6), 3),
    }
    assert found["by_band"]["easy"]["value"] == found["accuracy"]["value"] == 0.5
    assert found["per_seed"] == [0.5, 0.5]


def test_one_seed_has_wilsons_interval():
    found = arm_summary({"direct": answers([[1] * 8 + [0] * 2])}, "direct", {})["accuracy"]
    share = wilson(8, 10)
    assert found == {"value": 0.8, "low": share.low, "high": share.high, "n": 10}


# pairs


def test_a_pair_by_hand():
    found = paired(np.array([[1, 1, 1, 1, 0]], bool), np.array([[0, 0, 0, 1, 0]], bool))
    assert found["difference"]["value"] == pytest.approx(0.6)
    assert found["difference"]["n"] == 5
    assert found["mcnemar"] == [{"only_a": 3, "only_b": 0, "p": 0.25}]


@pytest.mark.parametrize(("seeds_a", "seeds_b"), [(1, 1), (3, 3), (1, 3), (3, 1)])
def test_a_difference_is_the_negative_of_the_one_the_other_way_round(seeds_a, seeds_b):
    rng = np.random.default_rng(0)
    a, b = rng.random((seeds_a, 60)) < 0.7, rng.random((seeds_b, 60)) < 0.5
    one, other = paired(a, b), paired(b, a)
    assert one["difference"]["value"] == pytest.approx(-other["difference"]["value"])
    assert one["difference"]["value"] == pytest.approx(a.mean() - b.mean())
    assert one["difference"]["low"] == pytest.approx(-other["difference"]["high"])
    assert one["difference"]["low"] < one["difference"]["value"] < one["difference"]["high"]
    assert len(one["mcnemar"]) == max(seeds_a, seeds_b)
    swapped = [{"only_a": m["only_b"], "only_b": m["only_a"], "p": m["p"]} for m in other["mcnemar"]]
    assert one["mcnemar"] == swapped


def test_an_arm_differs_from_itself_by_nothing_as_far_as_the_questions_can_tell():
    a = np.random.default_rng(0).random((2, 30)) < 0.5
    gap = paired(a, a)["difference"]
    assert gap["value"] == 0
    assert gap["low"] < 0 < gap["high"]


def test_the_untouched_base_meets_every_seed_of_the_other():
    base, tuned = np.array([[1, 0, 0, 0]], bool), np.array([[1, 1, 0, 0], [1, 0, 1, 1]], bool)
    found = paired(tuned, base)
    assert found["difference"]["value"] == pytest.approx(0.375)
    assert [(m["only_a"], m["only_b"]) for m in found["mcnemar"]] == [(1, 0), (2, 0)]


# sentences


@pytest.mark.parametrize(
    ("gap", "wanted"),
    [
        ((0.05, 0.01, 0.09), "better than random by 5.0 points (+1.0 to +9.0)."),
        ((-0.05, -0.09, -0.01), "worse than random by 5.0 points (-9.0 to -1.0)."),
        ((0.02, -0.01, 0.05), "tokens; not told apart from random."),
        ((0.02, 0.0, 0.05), "tokens; not told apart from random."),
        (None, "for 1,234 teacher tokens."),
    ],
)
def test_a_result_in_plain_words(gap, wanted):
    summary = {
        "mode": "routed",
        "accuracy": {"value": 0.6, "low": 0.55, "high": 0.65},
        "cost": {"teacher_tokens": 1234.0, "teacher_usd": None},
        "against": {"random": {"difference": dict(zip(("value", "low", "high"), gap or (0, 0, 0), strict=True))}},
    }
    found = sentence("banded", summary, ["random"] if gap else [])
    assert found.startswith("banded: 60.0% (55.0% to 65.0%) thinking only when unsure, for 1,234 teacher tokens")
    assert found.endswith(wanted)


def test_the_arms_that_one_is_not_told_apart_from_are_named_once_and_last():
    gaps = {"base": (0.01, -0.1, 0.1), "random": (0.02, -0.1, 0.1), "sft": (-0.05, -0.09, -0.01)}
    against = {other: dict(zip(("value", "low", "high"), gap, strict=True)) for other, gap in gaps.items()}
    summary = {
        "mode": "cot",
        "accuracy": {"value": 0.5, "low": 0.4, "high": 0.6},
        "cost": {"teacher_tokens": 0.0, "teacher_usd": None},
        "against": {other: {"difference": gap} for other, gap in against.items()},
    }
    assert sentence("banded", summary, list(gaps)).endswith(
        "; worse than sft by 5.0 points (-9.0 to -1.0); not told apart from base and random."
    )


def test_an_arm_that_bought_nothing_says_so():
    summary = {
        "mode": "direct",
        "accuracy": {"value": 0.5, "low": 0.4, "high": 0.6},
        "cost": {"teacher_tokens": 0.0, "teacher_usd": 0.0},
    }
    found = sentence("sft", {**summary, "against": {}}, [])
    assert found == "sft: 50.0% (40.0% to 60.0%) answering at once, for no teacher token."


# the step

TEST = [f"t{n}" for n in range(4)]
DEV = [f"d{n}" for n in range(4)]
RIGHT = {  # (arm, split): per mode, which of the four questions are right
    ("base", "dev"): {"direct": "1000", "cot": "1100", "routed": "1000"},
    ("base", "test"): {"direct": "1111", "cot": "1000", "routed": "1110"},
    ("banded", "dev"): {"direct": "1110", "cot": "1000", "routed": "1110"},
    ("banded", "test"): {"direct": "1100", "cot": "1111", "routed": "1111"},
    ("random", "dev"): {"direct": "0000", "cot": "0000", "routed": "1000"},
    ("random", "test"): {"direct": "1111", "cot": "1111", "routed": "0-00"},
}


def predictions(arm):
    return [
        told(f"{split[0]}{n}", split, mode, None if mark == "-" else "A", mark == "1")
        for split in ("dev", "test")
        for mode in MODES
        for n, mark in enumerate(RIGHT[arm, split][mode])
    ]


@pytest.fixture
def compared(put, example_with, recipe_with):
    """Runs the step on a hand-made run of three arms whose best mode on test is never their best on dev."""

    def run(seeds=(0,), randomised=False, level=None, banded=BANDED, taught=MappingProxyType({}), **sections):
        train = [example_with(f"e{n}", row=n, level=level) for n in range(8)]
        held = [example_with(one, split, 10 + n, "law" if n % 2 else "art", level) for split, ids in
                (("dev", DEV), ("test", TEST)) for n, one in enumerate(ids)]  # fmt: skip
        value = {**{f"e{n}": n / 10 for n in range(8)}, **dict.fromkeys(DEV, 0.0), "t0": -1.0, "t1": 0.3, "t2": 0.5}
        value["t3"] = 9.0
        put(Unit("prepare"), examples=[*train, *held])
        put(
            Unit("score"),
            scores=[Score(e.id, "m", value[e.id], "A", True, 0.5, 1.0, 1) for e in [*train, *held]],
        )
        arms = {"base": {"policy": "none"}, "banded": banded, "random": {"policy": "random", "like": "banded"}}
        recipe = recipe_with(arms=arms, seeds=list(seeds), **sections)
        for arm in arms:
            for seed in recipe.seeds_of(arm):
                for step, counts in COUNTS.items():
                    more = {"randomised": True} if (step, arm) == ("route", "banded") and randomised else {}
                    tables = {"rationales": taught.get(arm, [])} if step == "teach" else {}
                    put(Unit(step, arm, seed), {**counts, **more}, **tables)
                put(Unit("evaluate", arm, seed), predictions=predictions(arm))
        unit = Unit("compare")
        put.run.begin(unit, "k")
        return compare_arms(recipe, put.run, unit), put.run.json(unit, "comparison.json")

    return run


def test_the_mode_is_chosen_on_dev_and_never_on_test(compared):
    counts, found = compared()
    assert {name: arm["mode"] for name, arm in found["arms"].items()} == {
        "base": "cot",
        "banded": "direct",
        "random": "routed",
    }
    assert counts == {"base": 0.25, "banded": 0.5, "random": 0.0}
    assert found["arms"]["base"]["modes"]["direct"]["accuracy"]["value"] == 1.0
    assert found["arms"]["random"]["modes"]["routed"]["unreadable"] == 0.25
    assert found["arms"]["random"]["accuracy"]["n"] == 4


def test_one_seed_says_that_intervals_cover_questions_only(compared):
    assert compared((0,))[1]["intervals_cover"] == "questions only (one seed)"


def test_several_seeds_are_covered_and_the_base_is_judged_once(compared):
    _, found = compared((0, 1, 2))
    assert found["intervals_cover"].startswith("questions and training seeds; with 3 seeds")
    assert {name: len(arm["per_seed"]) for name, arm in found["arms"].items()} == {"base": 1, "banded": 3, "random": 3}
    gap = found["arms"]["banded"]["against"]["base"]
    assert gap["difference"]["value"] == 0.25
    assert len(gap["mcnemar"]) == 3
    assert found["arms"]["base"]["against"]["banded"]["difference"]["value"] == -0.25


def test_every_arm_is_set_against_every_other_and_the_sentences_against_the_control(compared):
    _, found = compared()
    assert {name: set(arm["against"]) for name, arm in found["arms"].items()} == {
        "base": {"banded", "random"},
        "banded": {"base", "random"},
        "random": {"base", "banded"},
    }
    assert found["control"] == "random"
    assert len(found["sentences"]) == 3
    assert "base" in found["sentences"][1]
    assert "random" in found["sentences"][1]
    assert found["sentences"][2].count("random") == 1, "no arm is set against itself"
    assert (found["n_test"], found["n_dev"]) == (4, 4)


def test_bands_of_test_questions_come_from_the_edges_of_train_rows(compared):
    _, found = compared()  # train scores 0.0 to 0.7: easy up to 0.1, medium up to 0.5
    by_band = found["arms"]["banded"]["by_band"]
    assert {band: (one["value"], one["n"]) for band, one in by_band.items()} == {
        "easy": (1.0, 1),
        "medium": (0.5, 2),
        "hard": (0.0, 1),
    }


def test_where_the_train_questions_are_too_few_for_three_bands_none_is_told(compared):
    for edges in ([0.01, 0.99], [0.01, 0.5], [0.5, 0.99]):  # of eight: 0 8 0, 0 4 4 and 4 4 0
        arm = compared(banded={**BANDED, "edges": edges})[1]["arms"]["banded"]
        assert "by_band" not in arm
        assert arm["by_subject"]


def test_the_first_arm_with_bands_says_where_they_begin(compared):
    by_band = compared(banded={**BANDED, "edges": [0.5, 0.75]})[1]["arms"]["base"]["by_band"]
    assert {band: one["n"] for band, one in by_band.items()} == {"easy": 2, "medium": 1, "hard": 1}


def test_levels_are_shown_where_every_question_has_one(compared):
    assert "by_level" not in compared()[1]["arms"]["base"]
    assert set(compared(level=2)[1]["arms"]["base"]["by_level"]) == {"2"}


def test_what_an_arm_would_pay_alone(compared):
    assert compared((0, 1))[1]["arms"]["banded"]["cost"] == {
        "teacher_tokens": 150,
        "teacher_prompt_tokens": 100,
        "teacher_completion_tokens": 50,
        "teacher_usd": None,
        "unusable_tokens": 75,
        "requests": 3,
        "rationales_asked": 2,
        "rationales_bought": 2,
        "rationales_kept": 1,
        "verdicts": {**dict.fromkeys(REASONS, 0), "correct": 1, "wrong": 1},
        "updates": 7,
        "trained_tokens": 300,
    }


def test_an_arm_that_was_routed_at_random_is_renamed_in_every_table(compared):
    _, found = compared(randomised=True)
    assert list(found["arms"]) == ["base", "banded*", "random"]
    assert found["arms"]["banded*"]["arm"] == "banded"
    assert found["arms"]["banded*"]["marks"] == ["routed at random, since the gate failed"]
    assert found["arms"]["random"]["marks"] == []
    assert "banded*" in found["arms"]["random"]["against"]
    assert found["sentences"][1].startswith("banded*: ")


# the teacher


def with_counts(monkeypatch, **counts):
    monkeypatch.setitem(COUNTS, "teach", {**COUNTS["teach"], **counts})


def test_an_arm_that_the_budget_cut_is_partial_in_every_table(compared, monkeypatch):
    with_counts(monkeypatch, asked=60, unpaid=15)
    _, found = compared((0, 1))
    assert found["arms"]["banded*"]["marks"] == ["partial, 30 of 120 rationales not bought"]
    assert found["arms"]["base*"]["marks"] == ["partial, 15 of 60 rationales not bought"]
    assert "banded*" in found["arms"]["base*"]["against"]
    assert found["arms"]["banded*"]["cost"]["rationales_bought"] == 45
    assert not any("random*" in sentence for sentence in found["sentences"][:2]), "none is set against such a control"


def test_an_arm_whose_teacher_saw_the_answers_or_that_learns_from_wrong_rationales_is_called_so(compared, monkeypatch):
    shown = {"teacher": {"model": "big", "show_answer": True}}
    assert compared(**shown)[1]["arms"]["banded*"]["marks"] == ["the teacher saw the answers"]
    with_counts(monkeypatch, kept=2)
    wanted = ["learns from 1 rationale without the gold answer"]
    assert compared()[1]["arms"]["banded*"]["marks"] == wanted
    with_counts(monkeypatch, asked=0, kept=0, correct=0)
    assert "banded" in compared(**shown)[1]["arms"], "an arm without rationales is what it was"


TAUGHT = {
    "banded": [rationale("e6"), rationale("e7", "wrong", prompt_tokens=100)],
    "random": [rationale("e0"), rationale("e6"), rationale("e3", "unpaid")],
}


def test_the_teacher_is_judged_by_band_over_the_distinct_rationales_of_all_arms(compared):
    teacher = compared(taught=TAUGHT)[1]["teacher"]  # easy: e0 e1, medium: e2 to e5, hard: e6 e7
    assert {band: (row["n"], row["correct"]) for band, row in teacher["by_band"].items()} == {
        "easy": (1, 1),
        "medium": (1, 0),
        "hard": (2, 1),
    }
    assert (teacher["verdict"], teacher["usable"], teacher["n"], teacher["gold_shown"]) == ("PASS", 1, 2, False)
    assert compared(taught=TAUGHT, min_usable=0.6)[1]["teacher"]["verdict"] == FAILURE
    unasked = compared()[1]["teacher"]
    assert unasked.pop("advice").startswith("take a stronger teacher; or keep: correct_or_ask_again(3)")
    assert unasked == {"verdict": "NOT ASKED", "min_usable": 0.5, "gold_shown": False, "by_band": {}}


def test_costs_are_told_in_money_where_the_prices_are_known(compared):
    prices = {"input": 2.0, "output": 8.0, "cached_input": 0.5}
    _, found = compared(taught=TAUGHT, budget={"teacher_tokens": None, "prices": prices})
    cost = found["arms"]["banded"]["cost"]
    assert cost["teacher_usd"] == pytest.approx((60 * 2.0 + 40 * 0.5 + 50 * 8.0) / 1e6)
    assert found["teacher"]["by_band"]["hard"]["unusable_usd"] == pytest.approx((100 * 2.0 + 6 * 8.0) / 1e6)
    assert "for 150 teacher tokens ($0.0005)" in found["sentences"][1]


def test_what_came_in_batches_is_told_at_the_price_of_batches(compared):
    batch = {"model": "big", "delivery": "batch"}
    prices = {"teacher_tokens": None, "prices": {"input": 2.0, "output": 8.0, "batch_share": 0.5}}
    _, found = compared(taught=TAUGHT, budget=prices, teacher=batch)
    assert found["arms"]["banded"]["cost"]["teacher_usd"] == pytest.approx((100 * 2.0 + 50 * 8.0) / 2 / 1e6)
    assert found["teacher"]["by_band"]["hard"]["unusable_usd"] == pytest.approx((100 * 2.0 + 6 * 8.0) / 2 / 1e6)
