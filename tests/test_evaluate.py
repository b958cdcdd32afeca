"""Evaluate: every question in every mode, a threshold from dev alone, and nothing unreadable lost."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from teachwise import evaluate
from teachwise.evaluate import dev_thresholds, routed, routing_threshold
from teachwise.records import Prediction
from teachwise.run_folder import Unit
from teachwise.tasks.toy import Toy

UNIT = Unit("evaluate", "base")
SIZES = {"train": 2, "dev": 12, "test": 18}


@pytest.fixture(scope="module")
def examples():
    return [row.example(row.split) for row in Toy(limit=SIZES).rows()]


@pytest.fixture
def recipe(recipe_with):
    return recipe_with(
        data={"task": "toy", "limit": SIZES}, arms={"base": {"policy": "none"}}, evaluate={"max_new_tokens": 60}
    )


@pytest.fixture
def evaluated(recipe, put, examples):
    """Evaluate the untouched student; gives the counts, the predictions and the JSON file."""

    def run(**changes):
        put(Unit("prepare"), examples=examples)
        put.run.begin(UNIT, "by-hand")
        fields = {**recipe.evaluate.model_dump(), **changes}
        changed = recipe.model_copy(update={"evaluate": type(recipe.evaluate)(**fields)})
        counts = evaluate.evaluate_arm(changed, put.run, UNIT)
        return counts, put.run.records(UNIT, "predictions.parquet", Prediction), put.run.json(UNIT, "evaluation.json")

    run.folder = put.run.folder(UNIT)
    return run


class Actor:
    """Stands in for the student: what it writes for each question is scripted, prompts are the questions' ids."""

    def __init__(self, direct, cot, scores):
        self.direct, self.cot, self.scores = direct, cot, scores
        self.chat = SimpleNamespace(prompt_ids=lambda conversations: [[self._name(m[-1])] for m in conversations])

    def _name(self, message):
        return " ".join(message["content"].split()[:-1])

    def answer_scores(self, prompts, letters):
        return [SimpleNamespace(entropy_nats=self.scores[p], token=self.direct[p]) for (p,) in prompts]

    def generate(self, prompts, max_new_tokens):
        return [SimpleNamespace(text=self.cot[p], tokens=len(self.cot[p].split())) for (p,) in prompts]


@pytest.fixture
def act(monkeypatch, examples, evaluated):
    """Evaluate a scripted student: for each example its score and whether it is right directly and after thought."""

    def wrong(example):
        return "B" if example.answer == "A" else "A"

    def run(plot, unreadable=()):
        direct, cot, scores = {}, {}, {}
        for example in (example for example in examples if example.split != "train"):
            prompt = Toy().messages(example, "direct")[0]["content"]
            name = " ".join(prompt.split()[:-1])
            scores[name], is_right, is_right_thinking = plot(example)
            direct[name] = example.answer if is_right else wrong(example)
            cot[name] = f"so it is [[ {example.answer if is_right_thinking else wrong(example)} ]]"
            if example.id in unreadable:
                direct[name], cot[name] = "so", "well well well"
        monkeypatch.setattr(evaluate, "tuned_student", lambda *_: Actor(direct, cot, scores))
        return evaluated()

    return run


def table(predictions):
    return {(one.id, one.mode): one for one in predictions}


# ------------------------------------------------------------------------------------ the routing threshold


@pytest.mark.parametrize(
    ("scores", "direct", "cot", "expected"),
    [
        ([0.1, 0.2, 0.8, 0.9], [1, 1, 0, 0], [0, 0, 1, 1], 0.2),
        ([0.9, 0.1, 0.8, 0.2], [0, 1, 0, 1], [1, 0, 1, 0], 0.2),
        ([0.1, 0.2, 0.8, 0.9], [1, 1, 1, 1], [0, 0, 0, 0], 0.9),
        ([0.1, 0.2, 0.8, 0.9], [0, 0, 0, 0], [1, 1, 1, 1], -1.0),
        ([0.1, 0.2, 0.8, 0.9], [1, 0, 1, 0], [1, 0, 1, 0], 0.9),
        ([0.0, 0.0, 0.0, 0.5], [0, 0, 0, 1], [1, 1, 0, 1], -1.0),
        ([0.5, 0.5, 0.5, 0.5], [1, 1, 0, 1], [1, 0, 0, 1], 0.5),
        ([0.3], [0], [1], -1.0),
        ([0.3], [1], [0], 0.3),
    ],
)
def test_the_threshold_thinks_where_it_pays_and_not_where_it_does_not(scores, direct, cot, expected):
    found = routing_threshold(np.array(scores), np.array(direct, bool), np.array(cot, bool))
    assert found == expected


OUTCOMES = st.lists(st.tuples(st.floats(0, 5), st.booleans(), st.booleans()), min_size=1, max_size=80)


@given(OUTCOMES, st.integers(1, 40))
def test_routing_is_never_worse_on_dev_than_one_mode_for_all(outcomes, grid):
    scores, direct, cot = (np.array(column) for column in zip(*outcomes, strict=True))
    threshold = routing_threshold(scores, direct, cot, grid)
    accuracy = np.where(scores > threshold, cot, direct).mean()
    assert accuracy >= max(direct.mean(), cot.mean())


@given(OUTCOMES)
def test_a_threshold_is_always_thinking_or_a_score_on_dev_and_blind_to_the_order_of_rows(outcomes):
    scores, direct, cot = (np.array(column) for column in zip(*outcomes, strict=True))
    threshold = routing_threshold(scores, direct, cot)
    assert threshold == -1.0 or threshold in scores
    assert threshold == routing_threshold(scores[::-1], direct[::-1], cot[::-1])


@given(OUTCOMES)
def test_a_fine_grid_finds_the_best_cut_there_is(outcomes):
    scores, direct, cot = (np.array(column) for column in zip(*outcomes, strict=True))
    threshold = routing_threshold(scores, direct, cot, grid=len(scores))
    best = max(np.where(scores > cut, cot, direct).mean() for cut in [-1.0, *scores])
    assert np.where(scores > threshold, cot, direct).mean() == best


def test_thinking_answers_are_taken_above_the_threshold_and_their_tokens_counted():
    direct = [
        Prediction(f"e{n}", "test", "direct", "A", n == 0, score, 1, "A") for n, score in enumerate((0.1, 0.5, 2))
    ]
    cot = [Prediction(f"e{n}", "test", "cot", "B", n == 2, 0.0, 30 + n, "so B") for n in range(3)]
    low, at, high = routed(direct, cot, [0.5] * 3)
    assert [one.mode for one in (low, at, high)] == ["routed"] * 3
    assert (low.stated, low.correct, low.generated_tokens) == ("A", True, 1)
    assert (at.stated, at.generated_tokens) == ("A", 1), "exactly at the threshold it does not think"
    assert (high.stated, high.correct, high.generated_tokens, high.text) == ("B", True, 1 + 32, "so B")
    assert [one.generated_tokens for one in routed(direct, cot, [-1.0] * 3)] == [31, 32, 33]


# ------------------------------------------------------------------------------------------ a whole arm


def test_every_dev_and_test_question_is_answered_in_every_mode_and_no_train_question(evaluated, examples):
    counts, predictions, found = evaluated()
    held_out = [example for example in examples if example.split != "train"]
    assert sorted((one.id, one.split, one.mode) for one in predictions) == sorted(
        (example.id, example.split, mode) for mode in ("direct", "cot", "routed") for example in held_out
    )
    gold = {example.id: example.answer for example in examples}
    assert all(one.correct == (one.stated == gold[one.id]) for one in predictions)
    for mode in ("direct", "cot", "routed"):
        right = [one.correct for one in predictions if (one.split, one.mode) == ("dev", mode)]
        assert found["dev_accuracy"][mode] == sum(right) / SIZES["dev"]
    assert counts == {f"{mode}_dev": round(found["dev_accuracy"][mode], 4) for mode in ("direct", "cot", "routed")}


def test_direct_answers_are_one_token_and_thoughts_are_thoughts(evaluated):
    """All questions fit into one batch here, so both modes have the same batches."""
    _, predictions, found = evaluated()
    rows = table(predictions)
    for one in predictions:
        if one.mode == "direct":
            assert (one.generated_tokens, len(one.text.split())) == (1, 1)
            thought, mixed = rows[one.id, "cot"], rows[one.id, "routed"]
            assert thought.score == mixed.score == one.score
            thinks = mixed.generated_tokens > 1
            assert mixed.stated == (thought if thinks else one).stated
            assert mixed.generated_tokens == (thought.generated_tokens + 1 if thinks else 1)
            if one.split == "test":
                assert thinks == (one.score > found["threshold_nats"])
    thoughts = [one for one in predictions if one.mode == "cot"]
    assert sum("so" in one.text.split() and one.generated_tokens > 5 for one in thoughts) > 0.7 * len(thoughts)


def test_answers_do_not_depend_on_the_batches(evaluated):
    _, large, _ = evaluated()
    _, small, _ = evaluated(batch_tokens=200)
    for one, other in zip(large, small, strict=True):
        assert other == replace(one, score=other.score)
        assert other.score == pytest.approx(one.score, abs=1e-4)


def test_the_threshold_is_chosen_on_dev_alone(act, examples):
    """Two students that agree on dev and differ on every test question."""
    rank = {example.id: place for place, example in enumerate(e for e in examples if e.split == "dev")}

    def thinking_pays_on_the_unsure_half(example):
        return 0.1 * (1 + rank[example.id]), rank[example.id] < 6, rank[example.id] >= 6

    def with_test(score, direct, cot):
        def plot(example):
            return thinking_pays_on_the_unsure_half(example) if example.split == "dev" else (score, direct, cot)

        return act(plot)

    _, first, found = with_test(5.0, True, False)
    _, second, same = with_test(0.0, False, True)
    assert found["threshold_nats"] == same["threshold_nats"] == pytest.approx(0.6)
    assert found["dev_accuracy"] == same["dev_accuracy"]
    assert (found["dev_accuracy"]["direct"], found["dev_accuracy"]["cot"]) == (0.5, 0.5)
    assert not any(one.correct for one in [*first, *second] if (one.split, one.mode) == ("test", "routed"))


def test_routing_on_dev_is_judged_on_the_half_that_did_not_choose_its_threshold():
    """Scores without any meaning: a threshold fitted on all of dev would always look at least as good as either."""
    rng = np.random.default_rng(3)
    worse = 0
    for draw in range(40):
        direct, cot = [], []
        for n in range(40):
            name, score = f"{draw}-{n}", float(rng.random())
            direct.append(Prediction(name, "dev", "direct", "A", bool(rng.random() < 0.5), score, 1, "A"))
            cot.append(Prediction(name, "dev", "cot", "A", bool(rng.random() < 0.5), score, 20, "so A"))
        mixed = routed(direct, cot, dev_thresholds(direct, cot))
        best = max(sum(one.correct for one in rows) for rows in (direct, cot))
        worse += sum(one.correct for one in mixed) < best
    assert worse > 20


def test_an_unreadable_answer_stays_in_the_table_and_in_the_denominator(act, examples):
    silent = {example.id for example in examples if example.split == "test"} - {examples[-1].id}
    _, predictions, _ = act(lambda example: (0.2, True, True), unreadable=silent)
    unread = [one for one in predictions if one.stated is None]
    assert len(predictions) == 3 * (SIZES["dev"] + SIZES["test"])
    assert {(one.id, one.mode) for one in unread} == {
        (id, mode) for id in silent for mode in ("direct", "cot", "routed")
    }
    assert not any(one.correct for one in unread)
    on_test = [one for one in predictions if one.split == "test"]
    assert sum(one.correct for one in on_test) == 3
    assert len(on_test) == 3 * SIZES["test"]
    assert {one.text for one in unread} == {"so", "well well well"}


def test_tokens_of_routed_answers_count_the_look_at_the_score(act, examples):
    hard = {example.id for example in examples[::2]}
    _, predictions, _ = act(lambda example: (2.0, False, True) if example.id in hard else (0.1, True, False))
    rows = table(predictions)
    for example in examples:
        if example.split != "train":
            mixed, thought = rows[example.id, "routed"], rows[example.id, "cot"]
            assert mixed.correct
            assert mixed.generated_tokens == (thought.generated_tokens + 1 if example.id in hard else 1)


def test_a_tuned_student_is_the_last_stage_and_an_untrained_arm_is_the_base(recipe_with, put, monkeypatch):
    loaded = []
    monkeypatch.setattr(evaluate, "HfEngine", lambda **options: loaded.append(options))
    arms = {
        "base": {"policy": "none"},
        "banded": {"policy": "bands", "stages": [{"easy": "answer"}, {"hard": "rationale"}]},
        "random": {"policy": "random", "like": "banded"},
    }
    for method in ("lora", "full"):
        recipe = recipe_with(student={"model": "toy", "revision": "v1"}, arms=arms, train={"method": method})
        for arm in arms:
            evaluate.tuned_student(recipe, put.run, Unit("evaluate", arm, 3))
    last = [put.run.root / f"train/{arm}/seed-3/round-0/stage-1" for arm in ("banded", "random")]
    assert [(one["model"], one.get("adapter"), one["revision"]) for one in loaded] == [
        ("toy", None, "v1"),
        ("toy", last[0], "v1"),
        ("toy", last[1], "v1"),
        ("toy", None, "v1"),
        (str(last[0]), None, None),
        (str(last[1]), None, None),
    ]
