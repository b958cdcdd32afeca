"""measures: each against a hand computation, all of them finite, distinct and documented; your own by a file's name."""

import inspect
import math
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from teachwise.errors import RecipeError
from teachwise.evidence import AnswerEvidence
from teachwise.measures import BESIDE, MEASURES, SOURCES, Asking, Known, code_digest, find_measure
from teachwise.measures.answer import ASK, known_example
from teachwise.tasks.multiple_choice import MultipleChoice

LOG = math.log


def answer(id, probabilities, outside, gold=0, any_form=None, entropy=1.0):
    """Evidence of an answer whose options have these probabilities."""
    logs = tuple(map(LOG, probabilities))
    first, second = sorted(logs, reverse=True)[:2]
    forms = tuple(map(LOG, any_form or probabilities))
    return AnswerEvidence(id, "A", "A", entropy, 1.0, first, second, logs, forms, outside, -logs[gold], 9)


@pytest.fixture
def known(example_with):
    """Two questions, of two and of four options."""
    examples = [example_with("e0", options=("x", "yy")), example_with("e1", options=("1", "2", "3", "4"))]
    found = [answer("e0", [0.9, 0.05], 0.01, 1, [0.93, 0.06]), answer("e1", [0.25, 0.25, 0.25, 0.05], 0.2, entropy=2)]
    return Known(examples, np.array([True, False]), {"answer": found})


def entropy_of(*weights):
    shares = [one / sum(weights) for one in weights]
    return -sum(p * LOG(p) for p in shares)


BY_HAND = {
    "answer_entropy": [1.0, 2.0],
    "option_entropy": [entropy_of(0.9, 0.05), entropy_of(5, 5, 5, 1)],
    "option_entropy_any_form": [entropy_of(0.93, 0.06), entropy_of(5, 5, 5, 1)],
    "option_entropy_share": [entropy_of(0.9, 0.05) / LOG(2), entropy_of(5, 5, 5, 1) / LOG(4)],
    "margin": [1 - 0.85, 1.0],
    "max_probability": [0.1, 0.75],
    "outside_mass": [0.01, 0.2],
    "gold_cross_entropy": [-LOG(0.05), -LOG(0.25)],
    "question_length": [len("What is e0?") + 3, len("What is e1?") + 4],
    "option_count": [2, 4],
}


@pytest.mark.parametrize("name", BY_HAND)
def test_a_measure_is_what_a_hand_computes(known, name):
    np.testing.assert_allclose(find_measure(name)(known), BY_HAND[name], rtol=1e-12)


def test_a_gain_is_the_students_entropy_less_the_proxys(known):
    proxy = [replace(one, entropy_nats=0.5) for one in known.answers]
    both = replace(known, evidence={**known.evidence, "proxy": proxy})
    assert find_measure("gain")(both).tolist() == [0.5, 1.5]


def test_instruction_difficulty_is_the_log_of_the_ratio_of_perplexities(known):
    bare = [replace(one, gold_nats=LOG(4)) for one in known.answers]
    both = replace(known, evidence={**known.evidence, "bare": bare})
    ratio = [(1 / 0.05) / 4, (1 / 0.25) / 4]
    np.testing.assert_allclose(find_measure("instruction_difficulty")(both), np.log(ratio), rtol=1e-12)


def test_a_measure_at_another_source_reads_that_one(known):
    other = [replace(one, entropy_nats=7.0) for one in known.answers]
    both = replace(known, evidence={**known.evidence, "fallback": other})
    measure = find_measure("answer_entropy@fallback")
    assert measure(both).tolist() == [7.0, 7.0]
    assert (measure.needs, measure.name) == (("fallback",), "answer_entropy@fallback")
    assert find_measure("answer_entropy")(both).tolist() == [1.0, 2.0]


def test_what_has_no_options_has_no_value_by_them(known):
    open_one = replace(known.answers[0], letter_logprobs=(), option_logprobs=(), outside_mass=1.0)
    some = replace(known, evidence={"answer": [open_one, known.answers[1]]})
    for name in ("option_entropy", "option_entropy_any_form", "option_entropy_share", "outside_mass"):
        values = find_measure(name)(some)
        assert math.isnan(values[0]), name
        assert math.isfinite(values[1]), name
    assert find_measure("answer_entropy")(some).tolist() == [1.0, 2.0]


# controls


def test_the_subject_prior_never_looks_at_an_examples_own_answer(example_with):
    examples = [example_with(f"e{n}", subject="law" if n % 2 else "art") for n in range(200)]
    wrong = np.array([n % 2 == 1 for n in range(200)])
    prior = find_measure("subject_prior")
    values = prior(Known(examples, ~wrong))
    assert values[1::2].min() > 0.95
    assert values[::2].max() < 0.05
    for n in range(0, 200, 17):
        flipped = wrong.copy()
        flipped[n] = not flipped[n]
        assert prior(Known(examples, ~flipped))[n] == values[n]


def test_the_subject_prior_of_a_test_question_learns_from_train_alone(example_with):
    train = [example_with(f"e{n}", subject="law") for n in range(10)]
    test = [example_with(f"t{n}", "test", subject="law") for n in range(10)]
    values = find_measure("subject_prior")(Known([*train, *test], np.array([True] * 10 + [False] * 10)))
    assert set(values[10:]) == {1 / 12}


def test_the_lot_is_the_same_on_every_machine_and_evenly_spread(example_with):
    examples = [example_with(f"e{n}") for n in range(2000)]
    values = find_measure("random")(Known(examples, np.zeros(2000, bool)))
    assert values[0] == pytest.approx(0.14521, abs=1e-4)
    assert np.histogram(values, 4, (0, 1))[0].min() > 400


# the registry


@pytest.mark.parametrize("name", MEASURES)
def test_every_measure_says_what_it_is_shows_it_and_names_its_file(name):
    measure = MEASURES[name]
    module = __import__(f"teachwise.measures.{measure.kind}", fromlist=[name])
    text = inspect.getdoc(getattr(module, name))
    assert measure.about.endswith(".")
    assert ">>>" in text
    assert measure.unit
    assert set(measure.needs) <= set(SOURCES)
    assert measure.source == "ours" or "Source:" in text


def test_what_is_scored_beside_by_default_costs_no_further_pass():
    assert all(set(MEASURES[name].needs) <= {"answer"} for name in BESIDE)
    assert MEASURES["answer_entropy"].cost == {"forward_passes": 1, "texts_written": 0, "teacher_calls": 0}
    assert MEASURES["gain"].cost["forward_passes"] == 2
    assert MEASURES["random"].cost["forward_passes"] == 0


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("answer_entrpy", "did you mean 'answer_entropy'?"),
        ("answer_entropy@nowhere", "cannot be read from 'nowhere'"),
        ("random@fallback", "cannot be read from 'fallback'"),
        ("none_here:mine", "no file none_here.py here"),
    ],
)
def test_a_measure_that_is_not_there_is_told_with_what_is(name, said):
    with pytest.raises(RecipeError) as caught:
        find_measure(name)
    assert said in str(caught.value)


def test_your_own_measure_is_named_by_its_file(tmp_path, monkeypatch, known):
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "mine.py"
    file.write_text("def words(known):\n    return [len(one.question.split()) for one in known.examples]\n")
    measure = find_measure("mine:words")
    assert measure(known).tolist() == [3.0, 3.0]
    assert (measure.needs, measure.kind) == (("answer",), "own")
    before = code_digest("mine:words")
    file.write_text("def words(known):\n    return [1.0]\nwords.needs = ('fallback',)\n")
    assert code_digest("mine:words") != before
    assert find_measure("mine:words").needs == ("fallback",)
    with pytest.raises(RecipeError, match="measure mine:words gave 1 values, wanted 2"):
        find_measure("mine:words")(known)
    file.write_text("def words(known):\n    return [1.0, float('inf')]\nother = 1\nwords.needs = ('stars',)\n")
    with pytest.raises(RecipeError, match="needs 'stars'"):
        find_measure("mine:words")
    with pytest.raises(RecipeError, match="has no function 'other'"):
        find_measure("mine:other")
    assert code_digest("answer_entropy") is None


# asking


class Writer:
    """An engine that remembers what it was asked; every answer is as long as its prompt says."""

    def __init__(self):
        self.chat, self.asked = self, []

    def prompt_ids(self, conversations):
        return [[len(messages[-1]["content"])] * 3 for messages in conversations]

    def option_ids(self, letters):
        return [[place] for place in range(len(letters))]

    def gold_id(self, answer):
        return "ABCD".index(answer)

    def decode(self, ids):
        return "A"

    def answer_facts(self, prompts, options, golds):
        from teachwise.engines.facts import AnswerFacts

        self.asked += [
            (tuple(prompt), len(own), gold) for prompt, own, gold in zip(prompts, options, golds, strict=True)
        ]
        return [
            AnswerFacts(0, p[0] / 100, 1.0, -0.1, -2.0, (), (), 0.1, g + 1.0)
            for p, g in zip(prompts, golds, strict=True)
        ]


@pytest.fixture
def asking(example_with, tmp_path):
    examples = [example_with(f"e{n}", question="?" * (n + 1), answer="AB"[n % 2]) for n in range(6)]
    student, proxy = Writer(), Writer()
    return Asking(examples, MultipleChoice("none.csv"), lambda: student, lambda: proxy, tmp_path / "parts", 6)


def test_a_variant_adds_one_sentence_to_the_same_prompt(asking):
    for name, sentence in ASK.items():
        plain, varied = (SOURCES[one].gather(asking) for one in ("answer", name))
        longer = [round(100 * (b.entropy_nats - a.entropy_nats)) for a, b in zip(plain, varied, strict=True)]
        assert longer == [len(sentence) + 1] * 6
        assert [one.id for one in varied] == [f"e{n}" for n in range(6)]


def test_the_bare_prompt_is_asked_once_for_each_gold_answer(asking):
    found = SOURCES["bare"].gather(asking)
    assert sorted(asking.student().asked) == [((0, 0, 0), 3, 0), ((0, 0, 0), 3, 1)]
    assert [one.gold_nats for one in found] == [1.0, 2.0] * 3
    assert [one.id for one in found] == [f"e{n}" for n in range(6)]


def test_equal_prompts_are_asked_once(asking):
    twice = replace(asking, examples=[*asking.examples, replace(asking.examples[2], id="again")])
    found = SOURCES["answer"].gather(twice)
    assert len(asking.student().asked) == 6
    assert replace(found[-1], id="e2") == found[2]


def test_the_proxy_is_asked_in_the_students_place(asking):
    SOURCES["proxy"].gather(asking)
    assert len(asking.proxy().asked) == 6
    assert asking.student().asked == []


def test_the_example_of_the_docstrings_adds_up_to_one():
    (one,) = known_example().answers
    assert sum(math.exp(p) for p in one.option_logprobs) + one.outside_mass == pytest.approx(1.0)


def test_the_examples_own_measure_runs_from_a_recipe_and_is_judged(tmp_path, monkeypatch):
    from teachwise.pipeline import run_recipe
    from teachwise.recipe import load_recipe

    monkeypatch.chdir(Path(__file__).parents[1])
    (line,) = re.findall(r'"(score\.also=.*)"', Path("examples/own_measure.py").read_text())
    sizes = ["data.limit={train: 120, dev: 20, test: 20}", "validate.on_fail=warn"]
    run = run_recipe(load_recipe("toy", [line, *sizes]), tmp_path / "run", until="validate")
    found = run.validation["measures"]["examples/own_measure:close_options"]
    assert found["kind"] == "own"
    assert found["unit"] == "nats"
    assert found["auc_low"] > run.validation["measures"]["random"]["auc"]
