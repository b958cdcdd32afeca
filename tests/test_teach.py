"""Teach: each distinct request is bought once, whatever the arms, the kills and the changes of mind."""

import json
import os
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections import Counter
from concurrent.futures import Future
from contextlib import closing
from dataclasses import replace

import pytest

from made_records import rationale
from teachwise import teach
from teachwise.errors import GateError, TeacherError
from teachwise.records import Assignment, Hit, Rationale, Score
from teachwise.request import Reply, no_reply
from teachwise.run_folder import Unit
from teachwise.tasks.toy import Toy
from teachwise.teacher import delivery
from teachwise.teacher.ledger import Ledger
from teachwise.toy import server as toy_server
from teachwise.toy.teacher import FLAWLESS, Habits

N_TRAIN = 60
SIZES = {"train": N_TRAIN, "dev": 2, "test": 2}


@pytest.fixture(scope="module")
def examples():
    return [row.example(row.split) for row in Toy(limit=SIZES).rows()]


@pytest.fixture
def asked(monkeypatch):
    """What the toy teacher was asked and answered, in order."""
    bodies, lock, complete = [], threading.Lock(), toy_server.complete

    def noted(body, **options):
        answer = complete(body, **options)
        with lock:
            bodies.append(body["messages"][-1]["content"])
        return answer

    monkeypatch.setattr(toy_server, "complete", noted)
    return bodies


@pytest.fixture
def recipe_at(recipe_with):
    """A recipe for the toy task and a teacher at an address."""

    def build(base_url, budget=None, more=None, **changes):
        return recipe_with(
            teacher={"model": "toy-teacher", "base_url": base_url, "max_tokens": 96, "concurrency": 2, **changes},
            data={"task": "toy", "limit": SIZES},
            **{"budget": {"teacher_tokens": budget}, **(more or {})},
        )

    return build


@pytest.fixture
def arm(put, examples):
    """Teach one arm rationales for the first `n` train examples (from `start`); gives its counts and rationales."""
    put(Unit("prepare"), examples=examples)
    put(Unit("score"), scores=[Score(e.id, "m", n / 100, "A", True, 0.5, 1.0, 1) for n, e in enumerate(examples)])

    def run_ids(recipe, ids, name="distill"):
        unit = Unit("teach", name)
        put(unit.of("route"), assignments=[Assignment(id, "all", "rationale", 0) for id in ids])
        put.run.begin(unit, "by-hand")
        counts = teach.teach_arm(recipe, put.run, unit)
        return counts, put.run.records(unit, "rationales.parquet", Rationale)

    def run(recipe, n, name="distill", start=0):
        return run_ids(recipe, [example.id for example in examples[start : start + n]], name)

    run.root, run.of = put.run.root, run_ids
    run.finish = lambda name: put.run.finish(Unit("teach", name), "by-hand", {}, 1.0)
    return run


class Scripted:
    """A teacher that gives what `say` gives, and remembers what it was asked."""

    def __init__(self, say):
        self.say, self.requests = say, []

    def ask(self, request):
        self.requests.append(request)
        future = Future()
        try:
            future.set_result(self.say(request))
        except TeacherError as error:
            future.set_exception(error)
        return future

    def close(self):
        pass


@pytest.fixture
def scripted(monkeypatch, recipe_at):
    """A teacher that says what a test tells it, and a recipe that asks it one request after another."""

    def install(say, **changes):
        engine = Scripted(say)
        monkeypatch.setattr(delivery, "load_teacher", lambda **_: engine)
        return engine, recipe_at(None, **{"engine": "hf", "concurrency": 1, **changes})

    return install


@pytest.fixture
def no_teacher(monkeypatch):
    def refuse(*_, **__):
        raise AssertionError("a teacher was started")

    return lambda: monkeypatch.setattr(teach, "deliver", refuse)


# ----------------------------------------------------------------------------------------- what is asked for


def test_only_rationales_are_wanted_each_once_in_a_fixed_order():
    assigned = [
        Assignment("b", "hard", "rationale", 0),
        Assignment("a", "easy", "answer", 0),
        Assignment("c", "hard", "drop", -1),
        Assignment("b", "hard", "rationale", 1),
        Assignment("a", "hard", "rationale", 1),
    ]
    assert teach.wanted(assigned) == teach.wanted(assigned[::-1]) == ["a", "b"]


def test_the_gold_answer_is_not_in_the_request(recipe_at, examples):
    recipe = recipe_at("http://127.0.0.1:9/v1")
    for request, example in zip(teach.requests_for(recipe, Toy(), examples), examples, strict=True):
        twin = teach.requests_for(recipe, Toy(), [_with_other_gold(example)])[0]
        assert request == twin


def _with_other_gold(example):
    return replace(example, answer=next(letter for letter in example.letters if letter != example.answer))


def test_the_gold_answer_is_shown_only_where_the_recipe_says_so_and_that_is_another_request(recipe_at, examples):
    plain, shown = (
        teach.requests_for(recipe_at("http://127.0.0.1:9/v1", show_answer=show), Toy(), examples[:1])[0]
        for show in (False, True)
    )
    assert f"the answer is {examples[0].answer}" in shown.body
    assert "the answer is" not in plain.body
    assert shown.prompt_version != plain.prompt_version
    assert shown.key != plain.key


def test_what_changes_a_reply_is_in_the_request_and_nothing_else(recipe_at, examples):
    def key(**changes):
        return teach.requests_for(recipe_at("http://127.0.0.1:9/v1", **changes), Toy(), examples[:1])[0].key

    same = {"concurrency": 7, "timeout_seconds": 9, "requests_per_minute": 3, "on_unknown": "keep"}
    assert key(**same, on_truncated="ask_longer") == key()
    others = [
        {"temperature": 0.5},
        {"temperature": None},
        {"max_tokens": 7},
        {"options": {"top_p": 0.9}},
        {"logprobs": 2},
    ]
    assert len({key(), *(key(**change) for change in others)}) == 6


def test_what_runs_here_and_in_which_form_is_in_the_request(recipe_at, examples):
    """A local model's name does not say which weights it stands for; an endpoint's keys stay what they were."""

    def key(**changes):
        return teach.requests_for(recipe_at(None, **changes), Toy(), examples[:1])[0].key

    ways = [{}, {"revision": "a"}, {"revision": "b"}, {"dtype": "float16"}, {"revision": "a", "dtype": "float16"}]
    assert len({key(engine="openai"), *(key(engine="hf", **way) for way in ways)}) == 1 + len(ways)
    assert key(engine="hf", device="cpu") == key(engine="hf")


def test_replies_of_another_endpoint_are_used_and_it_is_said_once(recipe_at, arm, asked, capsys):
    with toy_server.serve(habits=FLAWLESS) as server:
        arm(recipe_at(server.base_url), 5)
        assert "were bought from" not in capsys.readouterr().err
        counts, _ = arm(recipe_at(server.base_url.replace("127.0.0.1", "localhost")), 5)
    assert (len(asked), counts["kept"]) == (5, 5)
    said = " ".join(capsys.readouterr().err.split())
    assert said.count("5 replies were bought from 127.0.0.1, before teacher.base_url was another one") == 1


# --------------------------------------------------------------------------------------- held-out questions

STEM = (
    "a miller in the northern valley grinds forty sacks of barley every morning and lends nine of them to his cousin"
    " whose bakery burned down last winter so how many remain for market"
)


@pytest.mark.parametrize("policy", ["drop", "warn", "fail"])
def test_a_rationale_that_recites_a_test_question_is_found_and_treated_as_the_recipe_says(
    put, scripted, example_with, capsys, policy
):
    train = [example_with(f"e{n}", question=f"what is {n} plus {n}", answer="A", split="train") for n in range(4)]
    put(Unit("prepare"), examples=[*train, example_with("held", question=STEM, answer="B", split="test")])
    put(Unit("score"), scores=[Score(one.id, "m", 0.5, "A", True, 0.5, 1.0, 1) for one in train])
    unit = Unit("teach", "distill")
    put(unit.of("route"), assignments=[Assignment(one.id, "all", "rationale", 0) for one in train])
    put.run.begin(unit, "by-hand")
    _, recipe = scripted(
        lambda request: Reply(
            f"{STEM} ? so [[A]]" if "what is 2" in str(request.messages) else "so [[A]]", "stop", 9, 9
        )
    )
    recipe = recipe.model_copy(update={"data": recipe.data.model_copy(update={"on_contamination": policy})})
    if policy == "fail":
        with pytest.raises(GateError, match="teach distill"):
            teach.teach_arm(recipe, put.run, unit)
    else:
        counts = teach.teach_arm(recipe, put.run, unit)
        assert (counts["kept"], counts["contaminated"]) == ((3, 1) if policy == "drop" else (4, 0))
        assert "recite" in capsys.readouterr().err
    (hit,) = put.run.records(unit, "contamination.parquet", Hit)
    assert (hit.id, hit.held_id, hit.held) == ("e2", "held", "test")


# --------------------------------------------------------------------------------- paid once, over real HTTP


def test_the_toy_server_teaches_over_http(recipe_at, arm, examples, asked):
    with toy_server.serve(habits=Habits(dict.fromkeys(range(1, 6), 0.3))) as server:
        counts, rationales = arm(recipe_at(server.base_url), N_TRAIN)
    assert counts["asked"] == counts["requests"] == len(rationales) == len(asked) == N_TRAIN
    assert counts["correct"] == counts["kept"] == N_TRAIN - counts["wrong"]
    assert 0 < counts["wrong"] < N_TRAIN / 2
    gold = {example.id: example.answer for example in examples}
    assert all((one.stated == gold[one.id]) == one.kept for one in rationales)
    assert counts["prompt_tokens"] == sum(len(text.split()) for text in asked)
    assert counts["completion_tokens"] == sum(len(one.text.split()) for one in rationales)
    assert counts["unusable_tokens"] == sum(one.tokens for one in rationales if not one.kept) > 0


def test_two_arms_pay_each_distinct_request_once(recipe_at, arm, asked):
    with toy_server.serve(habits=FLAWLESS) as server:
        recipe = recipe_at(server.base_url)
        first, _ = arm(recipe, 20, "distill")
        second, _ = arm(recipe, 20, "banded", start=10)
    assert len(asked) == len(set(asked)) == 30
    assert first["requests"] == second["requests"] == 20, "an arm's cost is what it would pay alone"
    assert second["prompt_tokens"] > 0


def test_one_more_example_costs_one_request(recipe_at, arm, asked):
    with toy_server.serve(habits=FLAWLESS) as server:
        arm(recipe_at(server.base_url), 20)
        arm(recipe_at(server.base_url), 21)
    assert len(asked) == len(set(asked)) == 21


def test_a_changed_reader_changes_verdicts_and_asks_nothing(recipe_at, arm, asked, monkeypatch, no_teacher):
    with toy_server.serve(habits=FLAWLESS) as server:
        recipe = recipe_at(server.base_url)
        before, texts = arm(recipe, 20)
    assert before["kept"] == 20
    no_teacher()
    monkeypatch.setattr(Toy, "read_answer", lambda self, example, text: None)
    after, same_texts = arm(recipe, 20)
    assert (after["kept"], after["unreadable"]) == (0, 20)
    assert [one.text for one in same_texts] == [one.text for one in texts]
    assert after["prompt_tokens"] == before["prompt_tokens"]
    assert len(asked) == 20


def test_other_words_or_another_limit_are_another_request(recipe_at, arm, asked, monkeypatch):
    with toy_server.serve(habits=FLAWLESS) as server:
        arm(recipe_at(server.base_url), 5)
        arm(recipe_at(server.base_url, max_tokens=3), 5)
        monkeypatch.setattr(Toy, "prompt_version", "toy-99")
        arm(recipe_at(server.base_url), 5)
        arm(recipe_at(server.base_url, concurrency=7, timeout_seconds=9), 5)
    assert len(asked) == 15


def test_a_cut_rationale_is_counted_apart(recipe_at, arm):
    with toy_server.serve(habits=FLAWLESS) as server:
        counts, _ = arm(recipe_at(server.base_url, max_tokens=3), 10)
    assert (counts["truncated"], counts["kept"]) == (10, 0)
    assert counts["completion_tokens"] == 30


@pytest.mark.parametrize(
    ("n_kept", "on_rejected", "told"),
    [
        (0, "drop", "teach banded: none of its 10 rationales was kept (10 unreadable): it trains on fewer rows;"),
        (
            1,
            "answer",
            "teach banded: only 1 of its 10 rationales were kept (9 unreadable): it trains on answers instead",
        ),
        (2, "drop", ""),
    ],
)
def test_an_arm_that_keeps_hardly_any_rationale_is_warned_of(
    arm, scripted, examples, capsys, n_kept, on_rejected, told
):
    golds = [f"so [[ {example.answer} ]]" for example in sorted(examples[:10], key=lambda one: one.id)]
    texts = iter([*golds[:n_kept], *["hard to say"] * (10 - n_kept)])
    _, recipe = scripted(lambda request: Reply(next(texts), "stop", 5, 6), more={"on_rejected": on_rejected})
    counts, _ = arm(recipe, 10, "banded")
    assert counts["kept"] == n_kept
    said = " ".join(capsys.readouterr().err.split())
    assert told in said
    assert ("read them in teach/banded/seed-0/round-0/rejected.jsonl" in said) == bool(told)


# ------------------------------------------------------------------------------------- what is not learnt from


def test_rejected_rationales_stay_in_a_file_with_the_reason(arm, scripted, examples):
    by = {example.id: example for example in examples}
    texts = iter([f"so [[{by[one].answer}]]" for one in sorted(by) if by[one].split == "train"][:3])
    cut = Reply("and so " * 60, "length", 100, 130)
    replies = [*(Reply(text, "stop", 5, 6) for text in texts), cut, Reply("", "content_filter", 5, 0)]
    left = iter(replies)
    _, recipe = scripted(lambda request: next(left))
    ids = sorted(example.id for example in examples if example.split == "train")[:5]
    counts, rationales = arm.of(recipe, ids)
    assert [one.id for one in rationales] == ids
    path = arm.root / "teach/distill/seed-0/round-0/rejected.jsonl"
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    assert [line["id"] for line in lines] == ids[3:]
    assert lines[0] == {
        "id": ids[3],
        "row": by[ids[3]].row,
        "verdict": "truncated",
        "reason": "it met the token limit before it came to its end",
        "stated": None,
        "gold": by[ids[3]].answer,
        "loops": True,
        "tokens": 230,
        "question": by[ids[3]].question,
        "text": cut.text,
    }
    assert lines[1]["reason"] == "the teacher's provider refused it"
    assert (counts["truncated"], counts["refused"], counts["kept"]) == (1, 1, 3)


def test_a_rationale_that_was_cut_is_not_kept_even_where_it_states_the_answer(arm, scripted, examples):
    gold = {Toy().teacher_messages(one)[-1]["content"]: one.answer for one in examples}
    _, recipe = scripted(lambda one: Reply(f"[[{gold[one.messages[-1]['content']]}]] and", "length", 5, 96))
    counts, rationales = arm(recipe, 4)
    assert (counts["truncated"], counts["kept"]) == (4, 0)
    assert all(one.stated for one in rationales)


# --------------------------------------------------------------------------------------------- asking again


def right_at(examples, sample):
    """A teacher that is wrong until it is asked for this sample."""
    gold = {Toy().teacher_messages(one)[-1]["content"]: one for one in examples}

    def say(request):
        example = gold[request.messages[-1]["content"]]
        other = next(letter for letter in example.letters if letter != example.answer)
        return Reply(f"so [[{example.answer if request.sample >= sample else other}]]", "stop", 10, 5)

    return say


def test_what_is_wrong_is_asked_for_again_and_paid_for(arm, scripted, examples):
    engine, recipe = scripted(right_at(examples, 2), more={"keep": "correct_or_ask_again(3)"}, temperature=0.7)
    counts, rationales = arm(recipe, 5)
    assert Counter(one.sample for one in engine.requests) == {0: 5, 1: 5, 2: 5}
    assert (counts["asked"], counts["requests"], counts["kept"]) == (5, 15, 5)
    assert counts["prompt_tokens"] + counts["completion_tokens"] == 15 * counts["unusable_tokens"] // 10
    assert {(one.first, one.verdict) for one in rationales} == {("wrong", "correct")}
    again, recipe = scripted(right_at(examples, 2), more={"keep": "correct_or_ask_again(3)"}, temperature=0.7)
    arm(recipe, 5)
    assert again.requests == [], "the ledger has them"


def test_asking_again_ends_where_the_rule_says(arm, scripted, examples):
    engine, recipe = scripted(right_at(examples, 9), more={"keep": "correct_or_ask_again(3)"}, temperature=0.7)
    counts, _ = arm(recipe, 5)
    assert len(engine.requests) == counts["requests"] == 15
    assert (counts["kept"], counts["wrong"]) == (0, 5)


def test_a_question_is_asked_longer_once_and_further_samples_keep_the_longer_limit(arm, scripted):
    more = {"keep": "correct_or_ask_again(3)"}
    cut = lambda request: Reply("it goes on", "length", 5, request.max_tokens)  # noqa: E731
    engine, recipe = scripted(cut, more=more, temperature=0.7, on_truncated="ask_longer")
    counts, _ = arm(recipe, 1)
    asked = [(request.sample, request.max_tokens) for request in engine.requests]
    assert asked == [(0, 96), (0, 192), (1, 192), (2, 192)]
    assert counts["requests"] == 4


def test_what_was_cut_is_asked_for_once_with_twice_the_limit(recipe_at, arm, asked):
    with toy_server.serve(habits=FLAWLESS) as server:
        counts, _ = arm(recipe_at(server.base_url, max_tokens=3, on_truncated="ask_longer"), 10)
    assert (counts["asked"], counts["requests"], counts["truncated"], counts["kept"]) == (10, 20, 10, 0)
    assert counts["completion_tokens"] == 10 * (3 + 6)


def test_all_is_kept_where_the_recipe_says_so_and_a_warning_says_what_that_means(arm, scripted, examples, capsys):
    _, recipe = scripted(right_at(examples, 9), more={"keep": "all"})
    counts, _ = arm(recipe, 5, start=N_TRAIN - 5)
    assert (counts["kept"], counts["wrong"], counts["unusable_tokens"]) == (5, 5, 0)
    said = " ".join(capsys.readouterr().err.split())
    assert "it learns from 5 rationales that do not state the gold answer; every table says so" in said
    assert "TEACHER FAILURE" in said, "they are kept, but the teacher is no better for it"


def test_from_a_reply_that_cannot_be_read_nothing_is_learnt(arm, scripted):
    _, recipe = scripted(lambda request: Reply("", "stop", 10, 5, raw='{"choices": [7]}'), more={"keep": "all"})
    counts, _ = arm(recipe, 5)
    assert (counts["kept"], counts["unreadable"], counts["unusable_tokens"] > 0) == (0, 5, True)


def test_rationales_made_with_the_answer_in_view_are_marked(recipe_at, arm, capsys):
    with toy_server.serve(habits=FLAWLESS) as server:
        _, rationales = arm(recipe_at(server.base_url, show_answer=True), 5)
    assert all(one.gold_shown and one.kept for one in rationales)
    assert "it learns from 5 rationales made with the answer shown" in " ".join(capsys.readouterr().err.split())


# ---------------------------------------------------------------------------------------------- what is said


def plain(lines):
    return [line.replace("[/", "[").split("]")[-1] for line in lines]


def told(recipe, verdicts, **changes):
    rows = [rationale(str(n), verdict, **changes) for n, verdict in enumerate(verdicts)]
    return plain(teach.warnings(recipe, Unit("teach", "x"), rows))


BANDS = {str(n): "easy" if n < 8 else "hard" for n in range(12)}


def failed(recipe, *arms):
    """What is said of the teacher when the last of some arms is taught; each is the verdicts on "0", "1", ..."""
    *before, last = ([rationale(str(n), verdict) for n, verdict in enumerate(verdicts)] for verdicts in arms)
    return plain(teach.failure(recipe, [row for rows in before for row in rows], last, BANDS))


def test_a_teacher_that_fails_where_it_is_needed_is_named_with_what_to_do(recipe_at):
    recipe = recipe_at("http://127.0.0.1:9/v1")
    bad = ["correct"] * 9 + ["wrong"] * 3
    (said,) = failed(recipe, bad)
    assert "1 of 4 hard rationales state the gold answer, under min_usable 0.5; take a stronger teacher; or" in said
    assert failed(recipe, ["correct"] * 10 + ["wrong"] * 2) == []
    assert failed(recipe, ["wrong"] * 8) == failed(recipe, []) == [], "judged on hard ones alone"
    assert failed(recipe.model_copy(update={"min_usable": 0.2}), bad) == []


def test_a_failure_is_said_once_by_the_first_arm_that_shows_it(recipe_at):
    recipe = recipe_at("http://127.0.0.1:9/v1")
    bad, good = ["correct"] * 9 + ["wrong"] * 3, ["correct"] * 11 + ["wrong"]
    assert failed(recipe, bad, bad) == []
    assert len(failed(recipe, ["wrong"] * 8, bad)) == 1, "the arm before asked no hard question"
    assert failed(recipe, good, bad) == [], "a question counts once, as the first arm that asked it found it"


def test_the_advice_leaves_out_what_the_recipe_does_already(recipe_at):
    again = {"keep": "correct_or_ask_again(3)"}
    for more, wanted in (
        ({}, ["keep: correct_or_ask_again(3)", "on_rejected: answer"]),
        (again, ["on_rejected: answer"]),
        ({"on_rejected": "answer"}, ["keep: correct_or_ask_again(3)"]),
        ({**again, "on_rejected": "answer"}, []),
    ):
        (said,) = failed(recipe_at("http://127.0.0.1:9/v1", more=more, temperature=0.5), ["wrong"] * 12)
        found = [one for one in ("keep: correct_or_ask_again(3)", "on_rejected: answer") if one in said]
        assert found == wanted
        assert "take a stronger teacher" in said


def test_two_arms_of_a_run_judge_the_teacher_by_the_bands_of_the_scores_and_once(recipe_at, arm, capsys, examples):
    hard = [one.id for one in examples if one.split == "train"][-15:]  # of 60, those with the highest scores
    arms = {name: {"policy": "all", "give": "rationale"} for name in ("first", "second")}
    with toy_server.serve(habits=Habits(dict.fromkeys(range(1, 6), 1.0))) as server:
        recipe = recipe_at(server.base_url, more={"arms": arms})
        arm(recipe, 20, "first")
        assert "TEACHER FAILURE" not in capsys.readouterr().err, "no hard question was asked"
        arm.of(recipe, hard, "first")
        said = " ".join(capsys.readouterr().err.split())
        assert "TEACHER FAILURE 0 of 15 hard rationales state the gold answer" in said
        arm.finish("first")
        arm.of(recipe, hard, "second")
        assert "TEACHER FAILURE" not in capsys.readouterr().err, "said before"


def test_asking_again_in_vain_is_warned_of(recipe_at):
    once = recipe_at("http://127.0.0.1:9/v1", temperature=0.5)
    recipe = recipe_at("http://127.0.0.1:9/v1", more={"keep": "correct_or_ask_again(3)"}, temperature=0.5)
    mixed = ["correct"] * 9 + ["wrong"] * 5
    words = "asking again kept 0 more of 5 rationales: a teacher that writes the same text again gains nothing"
    rows = [rationale(str(n), one, requests=3 if one == "wrong" else 1) for n, one in enumerate(mixed)]
    (said,) = plain(teach.warnings(recipe, Unit("teach", "x"), rows))
    assert words in said
    assert plain(teach.warnings(once, Unit("teach", "x"), rows)) == [], "they were asked once more for their length"
    assert plain(teach.warnings(recipe, Unit("teach", "x"), rows[:-1])) == [], "four tell nothing"
    helped = [rationale("helped", requests=2), *rows]
    assert plain(teach.warnings(recipe, Unit("teach", "x"), helped)) == []


def test_what_the_budget_could_not_bear_is_said(recipe_at):
    (said,) = told(recipe_at("http://127.0.0.1:9/v1"), ["correct"] * 9 + ["unpaid"] * 3)
    assert "teach x: 3 of 12 rationales are not bought, the budget could not bear them" in said


def test_an_arm_without_rationales_needs_no_teacher(recipe_at, arm, no_teacher):
    no_teacher()
    counts, rationales = arm(recipe_at("http://127.0.0.1:9/v1"), 0)
    assert counts["asked"] == counts["requests"] == 0
    assert rationales == []
    assert not (arm.root / "ledger.sqlite").exists()


# ----------------------------------------------------------------------------------------------- budget


def test_a_spent_budget_stops_with_code_3_and_a_raised_one_goes_on_without_buying_again(recipe_at, arm, asked):
    with toy_server.serve(habits=FLAWLESS) as server:
        with pytest.raises(GateError, match="budget spent") as error:
            arm(recipe_at(server.base_url, budget=600), 20)
        assert error.value.exit_code == 3
        assert "what has a reply is not bought again" in error.value.hint
        assert "--partial" in error.value.hint
        assert not (arm.root / "teach/distill/seed-0/round-0/rationales.parquet").exists()
        n_first = len(asked)
        assert 0 < n_first < 20
        assert f"{n_first} of 20" in error.value.found
        with closing(Ledger(arm.root / "ledger.sqlite")) as ledger:
            assert ledger.totals()["requests"] == {"ok": n_first, "planned": 20 - n_first}
            assert ledger.spent().tokens <= 600
        counts, _ = arm(recipe_at(server.base_url, budget=20_000), 20)
    assert counts["kept"] == 20
    assert len(asked) == len(set(asked)) == 20


@pytest.mark.parametrize("concurrency", [1, 16])
def test_what_is_reserved_for_requests_in_flight_does_not_end_the_step_early(recipe_at, arm, examples, concurrency):
    """It stops only where one more request alone might pass the budget, however many are asked at once."""
    with toy_server.serve(habits=FLAWLESS) as server:
        recipe = recipe_at(server.base_url, budget=1_000, concurrency=concurrency)
        with pytest.raises(GateError):
            arm(recipe, N_TRAIN)
    bound = max(request.upper_bound_tokens for request in teach.requests_for(recipe, Toy(), examples))
    with closing(Ledger(arm.root / "ledger.sqlite")) as ledger:
        assert 1_000 - bound < ledger.spent().tokens <= 1_000


def test_no_budget_buys_nothing_and_sends_nothing(recipe_at, arm, asked):
    with toy_server.serve() as server, pytest.raises(GateError):
        arm(recipe_at(server.base_url, budget=0), 5)
    assert asked == []


def test_what_is_there_already_needs_no_budget(recipe_at, arm, asked):
    with toy_server.serve(habits=FLAWLESS) as server:
        arm(recipe_at(server.base_url), 10)
        counts, _ = arm(recipe_at(server.base_url, budget=0), 10)
    assert counts["kept"] == 10
    assert len(asked) == 10


def test_a_partial_run_goes_on_with_what_the_budget_bought(recipe_at, arm, asked, capsys):
    with toy_server.serve(habits=FLAWLESS) as server:
        more = {"budget": {"teacher_tokens": 600, "on_spent": "partial"}}
        counts, rationales = arm(recipe_at(server.base_url, more=more), 20)
    assert 0 < counts["kept"] == len(asked) < 20
    assert counts["unpaid"] == 20 - len(asked)
    assert counts["requests"] == len(asked)
    assert {one.verdict for one in rationales} == {"correct", "unpaid"}
    assert "every table marks this arm as partial" in " ".join(capsys.readouterr().err.split())


# --------------------------------------------------------------------------------------------- failures


def answering(*first):
    """What a teacher says that begins with these replies."""
    left = iter(first)
    return lambda request: next(left, None) or Reply("so [[A]]", "stop", 10, 5)


def test_too_many_failures_fail_the_step_and_only_the_failed_are_asked_again(arm, scripted):
    first, recipe = scripted(answering(*[no_reply("BadRequestError: it burns")] * 3))
    with pytest.raises(TeacherError, match="3 of 20 requests failed, the first with BadRequestError") as error:
        arm(recipe, 20)
    assert "only the failed ones are asked again" in error.value.hint
    second, recipe = scripted(answering())
    counts, _ = arm(recipe, 20)
    assert {one.key for one in second.requests} == {one.key for one in first.requests[:3]}
    assert (counts["requests"], counts["failed"]) == (20, 0)


def test_a_few_failures_are_counted_and_kept_apart(arm, scripted):
    _, recipe = scripted(answering(no_reply("BadRequestError: too long")))
    counts, rationales = arm(recipe, 20)
    assert (counts["requests"], counts["failed"], counts["completion_tokens"]) == (20, 1, 95)
    assert [one.verdict for one in rationales].count("failed") == 1


def test_what_is_lost_and_kept_so_does_not_fail_the_step(arm, scripted):
    lost = [no_reply("cut off", "unanswered")] * 4
    engine, recipe = scripted(answering(*lost), on_unknown="keep")
    counts, _ = arm(recipe, 20)
    assert (counts["unknown"], counts["requests"], len(engine.requests)) == (4, 20, 20)
    with closing(Ledger(arm.root / "ledger.sqlite")) as ledger:
        assert ledger.totals()["held_tokens"] == sum(one.upper_bound_tokens for one in engine.requests[:4])


def test_a_teacher_that_refuses_half_way_keeps_what_was_bought(arm, scripted):
    def say(request):
        if len(engine.requests) == 8:
            raise TeacherError("teach: the teacher refuses (401)", "check the key")
        return Reply("so [[A]]", "stop", 10, 5)

    engine, recipe = scripted(say)
    with pytest.raises(TeacherError, match="401"):
        arm(recipe, 20)
    again, recipe = scripted(answering())
    arm(recipe, 20)
    assert not {r.key for r in engine.requests[:7]} & {r.key for r in again.requests}
    assert len(again.requests) == 13


# ------------------------------------------------------------------------------------------------ kill -9

CHILD = """
import sys
from teachwise.recipe import Recipe
from teachwise.run_folder import Run, Unit
from teachwise.teach import teach_arm

teach_arm(Recipe.model_validate_json(sys.argv[1]), Run(sys.argv[2]), Unit("teach", "distill"))
"""


def committed(root):
    """The questions whose replies are in the ledger."""
    with sqlite3.connect(root / "ledger.sqlite") as database:
        rows = database.execute("SELECT body FROM request WHERE state = 'ok'").fetchall()
    return {json.loads(body)["messages"][-1]["content"] for (body,) in rows}


@pytest.mark.slow
def test_no_committed_request_is_sent_twice_when_teaching_is_killed(recipe_at, arm, examples, asked, put):
    """Killed twice in the middle, then finished; the server counts what it was asked."""
    with toy_server.serve(habits=FLAWLESS, delay_seconds=0.01) as server:
        recipe = recipe_at(server.base_url)
        unit = Unit("teach", "distill")
        put(unit.of("route"), assignments=[Assignment(e.id, "all", "rationale", 0) for e in examples[:N_TRAIN]])
        put.run.begin(unit, "by-hand")
        command = [sys.executable, "-c", CHILD, json.dumps(recipe.plain()), str(arm.root)]
        done = set()
        for target in (12, 30):
            n_before = len(asked)
            child = subprocess.Popen(command, stderr=subprocess.PIPE)
            waited = time.monotonic() + 60
            while len(asked) < target and child.poll() is None and time.monotonic() < waited:
                time.sleep(0.002)
            os.kill(child.pid, signal.SIGKILL)
            assert child.wait() == -signal.SIGKILL, child.stderr.read().decode()
            child.stderr.close()
            time.sleep(0.1)
            assert not done & set(asked[n_before:])
            assert done < committed(arm.root)
            done = committed(arm.root)
            assert target - 4 <= len(done) < N_TRAIN
        n_before = len(asked)
        counts, _ = arm(recipe, N_TRAIN)
    assert not done & set(asked[n_before:])
    assert set(asked[n_before:]) == set(_questions(examples)) - done
    assert counts["kept"] == N_TRAIN
    assert N_TRAIN <= len(asked) <= N_TRAIN + 2 * 2, "at most what was in flight at each kill is asked again"
    with closing(Ledger(arm.root / "ledger.sqlite")) as ledger:
        totals = ledger.totals()
    assert totals["requests"] == {"ok": N_TRAIN}
    assert totals["lost_tokens"] > 0 or len(asked) == N_TRAIN


def _questions(examples):
    return [Toy().teacher_messages(example)[-1]["content"] for example in examples[:N_TRAIN]]
