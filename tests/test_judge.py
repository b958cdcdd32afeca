"""Measures by a judge: verdicts are read or counted as none, every failure stays, and nothing is bought twice."""

import json
import math
import re
from collections import Counter
from contextlib import closing
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from werkzeug import Response

from teachwise import consent, pipeline, score
from teachwise.consent import ask_before_judging
from teachwise.errors import GateError, RecipeError, TeacherError
from teachwise.evidence import SCRIPTED, JudgeEvidence
from teachwise.judging import bound_of
from teachwise.measures import SOURCES, Known, find_measure
from teachwise.measures.judge import counts_of, first_question, read_rating, read_verdict, second_question
from teachwise.pipeline import make_plan, run_recipe
from teachwise.recipe import load_recipe
from teachwise.run_folder import Unit
from teachwise.steps import key_of, step_named
from teachwise.tasks.toy import Toy
from teachwise.teacher import buying
from teachwise.teacher.ledger import Ledger
from teachwise.toy.judge import judged
from teachwise.toy.server import serve

JUDGED = ("education", "difficulty", "steps")
N = 60
KEY = "sk-judge-secret-8125"

# reading


@pytest.mark.parametrize(
    ("source", "text", "value"),
    [
        ("education", "School is enough. [[high_school_and_easier]]", 0.2),
        ("education", "[[High School and easier]]", 0.2),
        ("education", "[[high-school]]", 0.2),
        ("education", "[[ undergraduate ]]", 0.4),
        ("education", "First [[postgraduate]], but on second thought [[graduate]]", 0.6),
        ("education", "[[post-graduate]]", 0.8),
        ("education", "undergraduate", None),
        ("education", "[[undergraduate or graduate]]", None),
        ("education", "[[graduate]] in the form [[level]]", None),
        ("education", "[[0.4]]", None),
        ("difficulty", "[[0.35]]", 0.35),
        ("difficulty", "[[.5]]", 0.5),
        ("difficulty", "[[0]]", 0.0),
        ("difficulty", "[[1.0]]", 1.0),
        ("difficulty", "[[1.01]]", None),
        ("difficulty", "[[-0.2]]", None),
        ("difficulty", "[[35%]]", None),
        ("difficulty", "[[nan]]", None),
        ("difficulty", "[[1e-1]]", None),
        ("difficulty", "[[]]", None),
        ("steps", "[[knowledge: yes; reasoning: no; steps: low]]", 0.25),
        ("steps", "[[Knowledge: no, Reasoning: yes, Steps: medium]]", 0.5),
        ("steps", "[[knowledge: no;\n reasoning: yes;\n steps: HIGH]]", 0.75),
        ("steps", "[[steps: high]]", None),
        ("steps", "[[knowledge: perhaps; reasoning: yes; steps: high]]", None),
        ("steps", "", None),
    ],
)
def test_a_verdict_is_read_in_the_form_asked_for_or_not_at_all(source, text, value):
    found = read_verdict(source, text)
    assert (found and found.value) == value


def test_both_flags_are_read():
    found = read_verdict("steps", "[[knowledge: yes; reasoning: no; steps: low]]")
    assert (found.needs_knowledge, found.needs_reasoning, found.stated) == (True, False, "low")


@pytest.mark.parametrize(
    ("text", "rating"),
    [("[[9]]", 9), ("so [[3]] no [[10]]", 10), ("[[ 8.5 ]]", 8.5), ("[[0]]", None), ("[[11]]", None), ("9", None)],
)
def test_a_rating_is_read_between_1_and_10(text, rating):
    assert read_rating(text) == rating


@given(st.lists(st.one_of(st.text(), st.sampled_from(["[[", "]]", "[", "0.", "1", ".", "graduate", "steps: low"]))))
def test_no_text_makes_reading_fail(words):
    text = "".join(words)
    for source in JUDGED:
        found = read_verdict(source, text)
        assert found is None or 0 <= found.value <= 1
    rating = read_rating(text)
    assert rating is None or 1 <= rating <= 10


def test_the_judge_is_not_shown_the_gold_answer(example_with):
    one, twin = (example_with("e", options=("4", "5"), answer=letter) for letter in "AB")
    assert all(first_question(source, one) == first_question(source, twin) for source in JUDGED)
    assert second_question(one, "[[graduate]]") == second_question(twin, "[[graduate]]")
    assert "A. 4\nB. 5" in first_question("steps", one)[1]["content"]


# values


def evidence(id, value=None, why=None, **fields):
    blank = JudgeEvidence(id, None, value, None, None, None, why, "big", "", "", "", False, 5)
    return replace(blank, **fields)


def test_values_are_what_a_hand_computes_and_what_does_not_count_has_none(example_with):
    examples = [example_with(f"e{n}") for n in range(4)]
    levels = [evidence("e0", 0.2), evidence("e1", 0.6, "doubted"), evidence("e2", 0.4, "unrated"), evidence("e3", 0.8)]
    steps = [
        evidence("e0", 0.25, needs_knowledge=True, needs_reasoning=False),
        evidence("e1", 0.75, needs_knowledge=False, needs_reasoning=True),
        evidence("e2", None, "unreadable"),
        evidence("e3", None, "held_out"),
    ]
    known = Known(examples, np.zeros(4, bool), {"education": levels, "difficulty": levels, "steps": steps})
    none = math.nan
    by_hand = {
        "education_level": [0.2, none, none, 0.8],
        "judged_difficulty": [0.2, none, none, 0.8],
        "reasoning_steps": [0.25, 0.75, none, none],
        "needs_knowledge": [1, 0, none, none],
        "needs_reasoning": [0, 1, none, none],
    }
    for name, values in by_hand.items():
        np.testing.assert_array_equal(find_measure(name)(known), values)


# a judge over HTTP


class Bench:
    """A judge's server that answers as its script says, and counts what it answered."""

    def __init__(self):
        self.script, self.bodies, self.answered = {}, [], Counter()

    def handle(self, request):
        body = request.get_json()
        asked = body["messages"][-1]["content"]
        kind = next(name for name, form in FORMS.items() if form in asked)
        self.bodies.append(body)
        id = re.search(r"Question: What is (\w+)\?", asked)[1]
        outcome = self.script.get((id, kind), [GOOD[kind]])
        what = outcome.pop(0) if len(outcome) > 1 else outcome[0]
        if isinstance(what, Response):
            return what
        if isinstance(what, int):
            return refusal(what)
        text, finish = what if isinstance(what, tuple) else (what, "stop")
        self.answered[json.dumps(body, sort_keys=True)] += 1
        return completion(text, finish)


FORMS = {"rating": "[[rating]]", "education": "[[level]]", "difficulty": "[[number]]", "steps": "[[knowledge:"}
GOOD = {
    "rating": "It fits. [[9]]",
    "education": "A degree. [[undergraduate]]",
    "difficulty": "Half know. [[0.5]]",
    "steps": "[[knowledge: yes; reasoning: yes; steps: high]]",
}


def completion(text, finish="stop"):
    choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": finish}
    usage = {"prompt_tokens": 200, "completion_tokens": 20, "total_tokens": 220}
    found = {"id": "c", "object": "chat.completion", "created": 1, "model": "m", "choices": [choice], "usage": usage}
    return Response(json.dumps(found), content_type="application/json")


def refusal(status, code=None, **headers):
    error = json.dumps({"error": {"message": f"said {status}", "type": "t", "code": code}})
    return Response(error, status, {"retry-after-ms": "1", **headers}, content_type="application/json")


@pytest.fixture
def bench(httpserver, monkeypatch):
    monkeypatch.setattr(buying, "pause_seconds", lambda attempt: 0.0)
    monkeypatch.setenv("JUDGE_KEY", KEY)
    found = Bench()
    httpserver.expect_request("/v1/chat/completions").respond_with_handler(found.handle)
    found.url = httpserver.url_for("/v1")
    return found


@pytest.fixture
def examples(example_with):
    return [example_with(f"e{n:02}", row=n) for n in range(N)] + [example_with("held", split="test", row=N)]


@pytest.fixture
def recipe(recipe_with, bench):
    """A recipe whose judge is another model than its teacher, on the server."""

    def build(budget=None, also=("education_level",), **judge):
        given = {"model": "judge-1", "base_url": bench.url, "key_env": "JUDGE_KEY", "max_tokens": 64, "concurrency": 4}
        return recipe_with(
            teacher={"model": "big", "base_url": "https://api.example.com/v1"},
            budget={"teacher_tokens": None, **(budget or {})},
            score={"also": list(also), "judge": {**given, **judge}},
        )

    return build


@pytest.fixture
def gather(put, examples):
    """Gathers a source's evidence as scoring does; gives its records by id."""
    put(Unit("prepare"), examples=examples)

    def run(recipe, source="education"):
        found = score.gathered(recipe, put.run, examples, {source: SOURCES[source]})[source]
        assert [one.id for one in found] == [one.id for one in examples]
        return {one.id: one for one in found}

    run.run = put.run
    return run


def forget(run):
    """Throw the evidence away; the ledger stays."""
    for path in (run.root / "evidence").glob("*.parquet"):
        path.unlink()


def test_every_failure_is_counted_and_kept_and_nothing_is_bought_twice(bench, recipe, gather):
    garbage = Response("<html>busy</html>", 200, content_type="text/html")
    bench.script = {
        ("e00", "education"): [429, GOOD["education"]],
        ("e01", "education"): [500, 503, GOOD["education"]],
        ("e02", "education"): [garbage],
        ("e03", "education"): [422],
        ("e04", "education"): [refusal(400, "content_filter")],
        ("e05", "education"): [("I was just about to", "length")],
        ("e06", "education"): ["It is hard to say."],
        ("e07", "rating"): ["It is hard to say."],
        ("e08", "rating"): ["I doubt it. [[7]]"],
        ("e09", "rating"): [("[[9]], or rather", "length")],
        ("e10", "education"): [f"your key is {KEY} [[graduate]]"],
        ("e11", "rating"): [422],
    }
    found = gather(recipe())
    why = {id: one.no_verdict for id, one in found.items() if one.no_verdict}
    assert why == {
        "e02": "unknown",
        "e03": "failed",
        "e04": "refused",
        "e05": "truncated",
        "e06": "unreadable",
        "e07": "unrated",
        "e08": "doubted",
        "e09": "unrated",
        "e11": "unrated",
        "held": "held_out",
    }
    counts = counts_of("education", list(found.values()))
    assert counts["judged_education"] == N - 9
    assert {counts[f"{name}_education"] for name in ("unknown", "failed", "refused", "truncated", "unreadable")} == {1}
    assert (counts["unrated_education"], counts["doubted_education"], counts["scripted_education"]) == (3, 1, 0)
    assert (found["e08"].verdict, found["e08"].value, found["e08"].rating) == ("undergraduate", 0.4, 7.0)
    assert found["e12"].tokens == 2 * 220
    assert "said 422" in found["e03"].error
    assert "said 422" in found["e11"].error
    assert found["e06"].text == "It is hard to say."
    assert set(bench.answered.values()) == {1}
    assert {body["model"] for body in bench.bodies} == {"judge-1"}
    assert not any("held" in body["messages"][-1]["content"] for body in bench.bodies)
    holding = [path for path in gather.run.root.rglob("*") if path.is_file() and KEY.encode() in path.read_bytes()]
    assert holding == []
    assert found["e10"].value == 0.6

    n = len(bench.bodies)
    assert gather(recipe()) == found
    assert len(bench.bodies) == n, "the evidence is there"
    forget(gather.run)
    bench.script = {}
    again = gather(recipe())
    asked = Counter(re.search(r"What is (\w+)\?", b["messages"][-1]["content"])[1] for b in bench.bodies[n:])
    assert asked == {"e02": 2, "e03": 2, "e11": 1}, "only what never came is asked again, and then rated"
    assert set(bench.answered.values()) == {1}
    assert again["e02"].no_verdict is again["e11"].no_verdict is None


def test_too_many_failures_are_no_result(bench, recipe, gather):
    bench.script = {(f"e{n:02}", "difficulty"): [422] for n in range(4)}
    with pytest.raises(TeacherError, match=r"score: 4 of 60 requests to the judge failed, the first with .*said 422"):
        gather(recipe(), "difficulty")
    assert not (gather.run.root / "evidence").exists()
    bench.script = {}
    before = len(bench.bodies)
    assert gather(recipe(), "difficulty")["e00"].value == 0.5
    assert len(bench.bodies) - before == 4


def test_the_budget_stops_the_judge_and_a_larger_one_goes_on(bench, recipe, gather):
    with pytest.raises(GateError, match=r"score: budget spent, .* of 60 verdicts are there") as caught:
        gather(recipe({"teacher_tokens": 8_000}), "steps")
    assert caught.value.exit_code == 3
    assert "--partial" not in caught.value.hint
    with closing(Ledger(gather.run.root / "ledger.sqlite")) as ledger:
        assert ledger.spent().tokens <= 8_000
    assert 0 < len(bench.bodies) < N
    found = gather(recipe(), "steps")
    assert {one.value for one in found.values()} == {0.75, None}
    assert len(bench.bodies) == N
    assert set(bench.answered.values()) == {1}


def score_key(recipe):
    return key_of(step_named("score"), Unit("score"), recipe, {})


def test_speed_asks_nothing_again_and_another_judge_does(bench, recipe, gather):
    gather(recipe(), "difficulty")
    faster = recipe(concurrency=1, timeout_seconds=9)
    gather(faster, "difficulty")
    assert len(bench.bodies) == N
    assert score_key(faster) == score_key(recipe()) != score_key(recipe(model="judge-2"))
    gather(recipe(model="judge-2"), "difficulty")
    assert len(bench.bodies) == 2 * N


def test_the_teacher_is_part_of_a_scores_key_only_where_it_judges(recipe_with):
    def key(model, measure):
        return score_key(recipe_with(teacher={"model": model}, score={"also": [measure]}))

    assert key("big", "reasoning_steps") != key("bigger", "reasoning_steps")
    assert key("big", "random") == key("bigger", "random")


# consent


@pytest.fixture
def nobody(monkeypatch):
    monkeypatch.setattr(consent, "can_ask", lambda: False)
    monkeypatch.setattr("teachwise.teacher.openai.is_here", lambda url: False)


def test_the_bound_holds_and_falls_to_nothing_once_all_is_there(bench, recipe, gather, examples):
    found = recipe()
    bound = bound_of(found, gather.run, [SOURCES["education"]], examples)
    assert (bound.requests, bound.usd) == (2 * N, None)
    gather(found)
    assert bound.tokens >= 2 * N * 220
    assert bound_of(found, gather.run, [SOURCES["education"]], examples).requests == 0


def test_a_verdict_that_is_not_rated_yet_is_one_request_more(bench, recipe, gather, examples):
    with pytest.raises(GateError):
        gather(recipe({"requests": N + 20}))
    assert bound_of(recipe(), gather.run, [SOURCES["education"]], examples).requests == N - 20


def test_nothing_is_asked_without_a_yes_above_the_threshold(bench, recipe, gather, nobody, monkeypatch):
    dear = recipe({"ask_above_tokens": 5_000})
    with pytest.raises(GateError, match=r"up to 120 requests, up to .* teacher tokens, and nobody said yes") as caught:
        ask_before_judging(dear, gather.run, False)
    assert "budget.ask_above_tokens" in caught.value.hint
    with pytest.raises(GateError, match="the judge of `score` is not paid yet: up to 120 requests"):
        ask_before_judging(dear, gather.run, None)
    ask_before_judging(dear, gather.run, True)
    ask_before_judging(recipe({"ask_above_tokens": None}), gather.run, False)
    monkeypatch.setattr(consent, "can_ask", lambda: True)
    monkeypatch.setattr(consent, "ask", lambda question: False)
    with pytest.raises(GateError, match="nothing is bought: you did not say yes"):
        ask_before_judging(dear, gather.run, False)
    assert bench.bodies == []
    gather(dear)
    ask_before_judging(dear, gather.run, None)
    forget(gather.run)
    ask_before_judging(dear, gather.run, None)


def test_what_the_ledger_holds_needs_neither_key_nor_judge(bench, recipe, gather, monkeypatch):
    found = gather(recipe())
    n = len(bench.bodies)
    forget(gather.run)
    monkeypatch.delenv("JUDGE_KEY")
    assert gather(recipe()) == found
    assert len(bench.bodies) == n


def test_the_judges_key_is_kept_out_of_the_log_whatever_its_name(tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(pipeline, "secret_values", lambda *names: seen.append(names) or {})
    judge = "score.judge={model: big, key_env: ODD_NAME}"
    run_recipe(load_recipe("toy", [SIZES, judge, "teacher.key_env=OTHER"]), tmp_path / "run", until="prepare")
    assert seen == [("OTHER", "ODD_NAME")]


def test_a_key_that_is_not_set_is_said_before_anything_is_asked(bench, recipe, gather, monkeypatch):
    monkeypatch.delenv("JUDGE_KEY")
    with pytest.raises(TeacherError, match="JUDGE_KEY is not set"):
        ask_before_judging(recipe(), gather.run, True)
    ask_before_judging(recipe(also=["random"]), gather.run, None)


def test_a_dollar_cap_wants_the_judges_price(recipe_with):
    judge = {"model": "nobody-knows-it", "base_url": "https://api.example.com/v1"}
    prices = {"input": 1.0, "output": 2.0}
    sections = {"budget": {"usd": 3.0, "prices": prices}, "score": {"also": ["reasoning_steps"], "judge": judge}}
    with pytest.raises(ValueError, match="no price is known for 'nobody-knows-it'"):
        recipe_with(**sections)
    sections["score"] = {"also": ["random"], "judge": judge}
    assert not recipe_with(**sections).asks_judge
    sections["score"] = {"also": ["reasoning_steps"]}
    assert recipe_with(**sections).judge_price.output_usd == 2.0


def test_what_only_a_teacher_can_do_is_a_mistake_for_a_judge(tmp_path):
    with pytest.raises(RecipeError, match=r"score\.judge\.show_answer: is for `teacher`"):
        load_recipe("toy", ["score.judge={model: big, show_answer: true}"])


# the toy's judge


@pytest.fixture(scope="module")
def toy_questions():
    return [row.example(row.split) for row in Toy(limit={"train": 400, "dev": 1, "test": 1}).rows()]


@pytest.mark.parametrize("source", JUDGED)
def test_the_toys_judge_reads_our_prompts_goes_by_the_steps_and_says_that_it_is_a_rule(toy_questions, source):
    texts = [judged(first_question(source, one)) for one in toy_questions]
    assert all(text.startswith(SCRIPTED) for text in texts)
    assert texts == [judged(first_question(source, one)) for one in toy_questions]
    assert texts != [judged(first_question(source, one), seed=1) for one in toy_questions]
    pairs = [(one.level, read_verdict(source, text)) for one, text in zip(toy_questions, texts, strict=True)]
    read = [(level, found.value) for level, found in pairs if found]
    assert 0.9 < len(read) / len(pairs) < 1
    assert 0.6 < np.corrcoef(*zip(*read, strict=True))[0, 1] < 0.99


def test_the_toys_second_judge_doubts_a_few(toy_questions):
    ratings = Counter(read_rating(judged(second_question(one, "[[graduate]]"))) for one in toy_questions)
    assert set(ratings) == {None, 7.0, 9.0}
    assert ratings[9.0] > 0.85 * len(toy_questions)


def test_no_other_prompt_is_taken_for_one_to_a_judge(toy_questions):
    assert not any(judged(Toy().teacher_messages(one)) for one in toy_questions)
    assert judged([]) is None


SIZES = "data.limit={train: 80, dev: 10, test: 10}"
ALSO = "score.also=[education_level, judged_difficulty, reasoning_steps, random]"


def test_a_run_with_a_scripted_judge_says_so_and_asks_once(tmp_path, nobody):
    with serve() as server:
        address = f"teacher.base_url={server.base_url}"
        with pytest.raises(GateError, match="the judge of `score` is not paid yet"):
            make_plan("toy", SIZES, ALSO, address, out=tmp_path / "run")
        assert server.n_completions == 0
        recipe = load_recipe("toy", [SIZES, ALSO, address, "budget.ask_above_tokens=10"])
        with pytest.raises(GateError, match="nobody said yes"):
            run_recipe(recipe, tmp_path / "run", until="validate")
        assert server.n_completions == 0
        run = run_recipe(recipe, tmp_path / "run", until="validate", yes=True)
        asked = server.n_completions
        assert 3 * 80 < asked <= 4 * 80
        measures = run.validation["measures"]
        scripted = {name for name, found in measures.items() if found["is_scripted"]}
        assert scripted == {"education_level", "judged_difficulty", "reasoning_steps"}
        assert measures["reasoning_steps"]["asks"] == "1 request to a scripted judge"
        assert measures["education_level"]["no_value"] > 0
        assert measures["reasoning_steps"]["n"] + measures["reasoning_steps"]["no_value"] == 80
        assert "judge  toy-teacher at 127.0.0.1: up to 320 requests" in (run.root / "run.log").read_text()
        run_recipe(load_recipe("toy", [SIZES, address]), tmp_path / "run", until="validate")
        run_recipe(recipe, tmp_path / "run", until="validate")
        assert server.n_completions == asked


def test_a_judges_word_can_drive_the_bands(tmp_path):
    with serve() as server:
        given = ["score.measure=reasoning_steps", "score.also=[]", f"teacher.base_url={server.base_url}"]
        recipe = load_recipe("toy", [SIZES, *given, "validate.on_fail=warn"])
        run = run_recipe(recipe, tmp_path / "run", until="route")
        assert run.validation["measure"] == "reasoning_steps"
        rows = run.scores
        assert rows["value"].notna().sum() <= 80
