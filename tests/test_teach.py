"""Teach: each distinct request is bought once, whatever the arms, the kills and the changes of mind."""

import json
import os
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from contextlib import closing
from dataclasses import replace

import pytest

from teachwise import teach
from teachwise.errors import GateError, TeacherError
from teachwise.ledger import Ledger, Reply, Request
from teachwise.records import Assignment, Rationale
from teachwise.run_folder import Unit
from teachwise.tasks.toy import Toy
from teachwise.teach import buy
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

    def build(base_url, budget=None, **changes):
        return recipe_with(
            teacher={"model": "toy-teacher", "base_url": base_url, "max_tokens": 96, "concurrency": 2, **changes},
            data={"task": "toy", "limit": SIZES},
            budget={"teacher_tokens": budget},
        )

    return build


@pytest.fixture
def arm(put, examples):
    """Teach one arm rationales for the first `n` train examples (from `start`); gives its counts and rationales."""
    put(Unit("prepare"), examples=examples)

    def run(recipe, n, name="distill", start=0):
        unit = Unit("teach", name)
        ids = [example.id for example in examples[start : start + n]]
        put(unit.of("route"), assignments=[Assignment(id, "all", "rationale", 0) for id in ids])
        put.run.begin(unit, "by-hand")
        counts = teach.teach_arm(recipe, put.run, unit)
        return counts, put.run.records(unit, "rationales.parquet", Rationale)

    run.root = put.run.root
    return run


class Scripted:
    """A teacher that gives what `say` gives, and remembers what it was asked."""

    def __init__(self, say):
        self.say, self.requests = say, []

    def answer(self, requests):
        for request in requests:
            self.requests.append(request)
            yield request, self.say(request)


@pytest.fixture
def scripted(monkeypatch):
    def install(say):
        engine = Scripted(say)
        monkeypatch.setattr(teach, "load_teacher", lambda **_: engine)
        return engine

    return install


@pytest.fixture
def no_teacher(monkeypatch):
    def refuse(**_):
        raise AssertionError("a teacher was started")

    return lambda: monkeypatch.setattr(teach, "load_teacher", refuse)


# --------------------------------------------------------------------------------------------- verdicts


@pytest.mark.parametrize(
    ("text", "finish", "error", "verdict", "stated"),
    [
        ("3 + 4 = 7 . so 7 C [[ C ]]", "stop", None, "kept", "C"),
        ("so 7 C [[ C ]] . and then some", "length", None, "kept", "C"),
        ("3 + 4 = 6 . so 6 B [[ B ]]", "stop", None, "wrong", "B"),
        ("3 + 4 = 6 . so 6 B [[ B ]]", "length", None, "wrong", "B"),
        ("it is hard to say", "stop", None, "unreadable", None),
        ("so 9 Z [[ Z ]]", "stop", None, "unreadable", None),
        ("", "stop", None, "unreadable", None),
        ("3 + 4 = 7 . so 7", "length", None, "truncated", None),
        ("", "length", None, "truncated", None),
        ("", "error", "InternalServerError: 500", "failed", None),
        ("", "content_filter", None, "unreadable", None),
    ],
)
def test_the_verdict_follows_from_the_raw_reply(example_with, text, finish, error, verdict, stated):
    example = example_with("e", options=("5", "6", "7", "8"), answer="C")
    found = teach.judged(example, Reply(text, finish, 10, 20, error), Toy())
    assert (found.id, found.verdict, found.stated, found.text) == ("e", verdict, stated, text)
    assert (found.prompt_tokens, found.completion_tokens) == (10, 20)


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


# --------------------------------------------------------------------------------- paid once, over real HTTP


def test_the_toy_server_teaches_over_http(recipe_at, arm, examples, asked):
    with toy_server.serve(habits=Habits(dict.fromkeys(range(1, 6), 0.3))) as server:
        counts, rationales = arm(recipe_at(server.base_url), N_TRAIN)
    assert counts["bought"] == len(rationales) == len(asked) == N_TRAIN
    assert counts["kept"] + counts["wrong"] == N_TRAIN
    assert 0 < counts["wrong"] < N_TRAIN / 2
    gold = {example.id: example.answer for example in examples}
    assert all((one.stated == gold[one.id]) == (one.verdict == "kept") for one in rationales)
    assert counts["prompt_tokens"] == sum(len(text.split()) for text in asked)
    assert counts["completion_tokens"] == sum(len(one.text.split()) for one in rationales)


def test_two_arms_pay_each_distinct_request_once(recipe_at, arm, asked):
    with toy_server.serve(habits=FLAWLESS) as server:
        recipe = recipe_at(server.base_url)
        first, _ = arm(recipe, 20, "distill")
        second, _ = arm(recipe, 20, "banded", start=10)
    assert len(asked) == len(set(asked)) == 30
    assert first["bought"] == second["bought"] == 20, "an arm's cost is what it would pay alone"
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
    recipe_at, arm, scripted, examples, capsys, n_kept, on_rejected, told
):
    golds = [f"so [[ {example.answer} ]]" for example in sorted(examples[:10], key=lambda one: one.id)]
    texts = iter([*golds[:n_kept], *["hard to say"] * (10 - n_kept)])
    scripted(lambda request: Reply(next(texts), "stop", 5, 6))
    recipe = recipe_at("http://127.0.0.1:9/v1").model_copy(update={"on_rejected": on_rejected})
    counts, _ = arm(recipe, 10, "banded")
    assert counts["kept"] == n_kept
    said = capsys.readouterr().err
    assert told in said
    assert ("read them in teach/banded/seed-0/round-0/rationales.parquet" in said) == bool(told)


def test_an_arm_without_rationales_needs_no_teacher(recipe_at, arm, no_teacher):
    no_teacher()
    counts, rationales = arm(recipe_at("http://127.0.0.1:9/v1"), 0)
    assert counts["bought"] == 0
    assert rationales == []
    assert not (arm.root / "ledger.sqlite").exists()


# ----------------------------------------------------------------------------------------------- budget


def test_a_spent_budget_stops_with_code_3_and_a_raised_one_goes_on_without_buying_again(recipe_at, arm, asked):
    with toy_server.serve(habits=FLAWLESS) as server:
        with pytest.raises(GateError, match="budget spent") as error:
            arm(recipe_at(server.base_url, budget=600), 20)
        assert error.value.exit_code == 3
        assert "nothing is paid twice" in error.value.hint
        assert not (arm.root / "teach/distill/seed-0/round-0/rationales.parquet").exists()
        n_first = len(asked)
        assert 0 < n_first < 20
        assert f"{n_first} of 20" in error.value.found
        ledger = Ledger(arm.root / "ledger.sqlite")
        assert ledger.totals()["requests"] == {"done": n_first}
        assert ledger.spent_tokens() <= 600
        ledger.close()
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
    ledger = Ledger(arm.root / "ledger.sqlite")
    assert 1_000 - bound < ledger.spent_tokens() <= 1_000
    ledger.close()


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


# --------------------------------------------------------------------------------------------- failures


def test_too_many_failures_fail_the_step_and_only_the_failed_are_asked_again(recipe_at, arm, scripted):

    def say(request):
        if len(first.requests) <= 3:
            return Reply("", "error", 0, 0, "InternalServerError: it burns")
        return Reply("so [[A]]", "stop", 10, 5)

    first = scripted(say)
    with pytest.raises(TeacherError, match="3 of 20 requests failed, the first with InternalServerError") as error:
        arm(recipe_at("http://127.0.0.1:9/v1"), 20)
    assert "only the failed ones are asked again" in error.value.hint
    failed = first.requests[:3]
    second = scripted(lambda request: Reply("so [[A]]", "stop", 10, 5))
    counts, _ = arm(recipe_at("http://127.0.0.1:9/v1"), 20)
    assert second.requests == failed
    assert (counts["bought"], counts["failed"]) == (20, 0)


def test_a_few_failures_are_counted_and_kept_apart(recipe_at, arm, scripted):

    def say(request):
        if len(engine.requests) == 1:
            return Reply("", "error", 0, 0, "BadRequestError: too long")
        return Reply("so [[A]]", "stop", 10, 5)

    engine = scripted(say)
    counts, rationales = arm(recipe_at("http://127.0.0.1:9/v1"), 20)
    assert (counts["bought"], counts["failed"], counts["prompt_tokens"]) == (20, 1, 190)
    assert [one.verdict for one in rationales].count("failed") == 1


def test_a_teacher_that_refuses_half_way_keeps_what_was_bought(recipe_at, arm, scripted):
    def say(request):
        if len(engine.requests) == 8:
            raise TeacherError("teach: the teacher refuses (401)", "check the key")
        return Reply("so [[A]]", "stop", 10, 5)

    engine = scripted(say)
    with pytest.raises(TeacherError, match="401"):
        arm(recipe_at("http://127.0.0.1:9/v1"), 20)
    again = scripted(lambda request: Reply("so [[A]]", "stop", 10, 5))
    arm(recipe_at("http://127.0.0.1:9/v1"), 20)
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
        rows = database.execute("SELECT body FROM request WHERE state = 'done'").fetchall()
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
    ledger = Ledger(arm.root / "ledger.sqlite")
    totals = ledger.totals()
    ledger.close()
    assert totals["requests"] == {"done": N_TRAIN}
    assert totals["lost_tokens"] > 0 or len(asked) == N_TRAIN


def _questions(examples):
    return [Toy().teacher_messages(example)[-1]["content"] for example in examples[:N_TRAIN]]


def test_a_teacher_that_refuses_everything_is_not_asked_to_the_end(tmp_path):
    requests = [Request("big", ({"role": "user", "content": f"{n}"},), 8, 0.0, "v") for n in range(200)]
    asked = []

    class Refusing:
        def answer(self, waiting):
            for request in waiting:
                asked.append(request)
                yield request, Reply("", "error", 0, 0, error="BadRequestError: no")

    with closing(Ledger(tmp_path / "l.sqlite")) as ledger, pytest.raises(TeacherError, match="20 requests in a row"):
        buy(requests, Refusing(), ledger, None)
    assert len(asked) == 20


def test_a_request_of_unknown_outcome_is_asked_again_and_every_try_is_counted(tmp_path):
    request = Request("big", ({"role": "user", "content": "?"},), 8, 0.0, "v")
    tries = []

    class Forgetful:
        def answer(self, waiting):
            for one in waiting:
                tries.append(one)
                if len(tries) < 3:
                    yield one, Reply("", "error", 0, 0, error="APITimeoutError", may_be_billed=True)
                else:
                    yield one, Reply("so [[A]]", "stop", 5, 4)

    with closing(Ledger(tmp_path / "l.sqlite")) as ledger:
        replies = buy([request], Forgetful(), ledger, None)
        assert replies[request.key].text == "so [[A]]"
        assert ledger.spent_tokens() == 9 + 2 * request.upper_bound_tokens
