"""buying: what follows from each outcome, within the limits and at a bearable pace, and no reply is bought twice."""

import json
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections import Counter
from contextlib import closing, suppress
from dataclasses import replace
from functools import partial

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pytest_httpserver import HTTPServer
from werkzeug import Response

from stand_in_teacher import ScriptedTeacher, fine
from teachwise.errors import DataError, GateError, TeacherError
from teachwise.request import Reply, Request, no_reply
from teachwise.teacher import buying, interrupt, ledger_file, meter, pace
from teachwise.teacher.buying import ATTEMPTS, HOPELESS, PATIENCE_SECONDS, TRIES, Terms, buy
from teachwise.teacher.ledger import Ledger
from teachwise.teacher.openai import OpenAiTeacher
from teachwise.teacher.prices import Limits, Price

TIME_OUT = no_reply("no whole reply within 600 seconds", "unanswered")
BROKEN = no_reply("503: overloaded", "unavailable")
TOO_FAST = no_reply("429: slow down", "too_fast", 0.01)
REJECTED = no_reply("400: too long")
ABSENT = no_reply("the teacher does not answer", "absent")


def numbered(number):
    return Request("big", ({"role": "user", "content": f"question {number}"},), 40, 0.5, "v")


def batch(n):
    return [numbered(number) for number in range(n)]


BOUND = numbered(0).upper_bound_tokens


@pytest.fixture
def path(tmp_path):
    return tmp_path / "ledger.sqlite"


@pytest.fixture
def ledger(path):
    with closing(Ledger(path)) as opened:
        yield opened


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch):
    monkeypatch.setattr(buying, "pause_seconds", lambda attempt: 0.01)
    monkeypatch.setattr(buying, "POLL_SECONDS", 0.05)
    monkeypatch.setattr(ledger_file, "DISK_POLL_SECONDS", 0.01)
    monkeypatch.setattr(pace, "COOL_SECONDS", 0.02)


def in_turn(*replies):
    """For every request these outcomes one after the other, the last one for ever."""
    asked = Counter()

    def say(request):
        asked[request.key] += 1
        found = replies[min(asked[request.key], len(replies)) - 1]
        if isinstance(found, Exception):
            raise found
        return found

    return say


def states(ledger):
    return ledger.totals()["requests"]


# -------------------------------------------------------------------------------------- paid once


def test_every_request_is_asked_once_and_equal_ones_together(ledger):
    teacher = ScriptedTeacher(delay_seconds=0.002)
    replies = buy([*batch(30), *batch(20)], teacher, ledger, Terms(concurrency=8))
    assert sorted(one.key for one in teacher.asked) == sorted(one.key for one in batch(30))
    assert set(replies) == {one.key for one in batch(30)}
    assert states(ledger) == {"ok": 30}
    assert teacher.most <= 8


def test_what_the_ledger_holds_is_not_asked_again_and_counts_the_same(ledger, path):
    """The second time the tokens come from the ledger, the first time from the wire; the server reports too few."""
    say = partial(replace, Reply("so it is [[A]]", "stop", 1, 1))
    first = buy(batch(5), ScriptedTeacher(lambda request: say()), ledger, Terms())
    with closing(Ledger(path)) as again:
        second = buy(batch(5), ScriptedTeacher(in_turn(AssertionError("asked again"))), again, Terms())
    assert first == second
    assert {reply.completion_tokens for reply in first.values()} == {4}


def test_64_are_in_flight_and_the_disk_is_not_asked_for_each(ledger):
    """300 requests alone would be 600 commits."""
    commits = []
    ledger._db.set_trace_callback(lambda sql: commits.append(sql) if sql == "COMMIT" else None)
    teacher = ScriptedTeacher(delay_seconds=0.05)
    buy(batch(300), teacher, ledger, Terms(concurrency=64))
    assert 32 < teacher.most <= 64
    assert len(commits) < 200
    assert states(ledger) == {"ok": 300}


# ------------------------------------------------------------------------------------ what is asked again


def test_a_request_of_unknown_outcome_is_asked_again_and_every_try_is_counted(ledger):
    teacher = ScriptedTeacher(in_turn(TIME_OUT, TIME_OUT, Reply("so [[A]]", "stop", 5, 4)))
    replies = buy([numbered(0)], teacher, ledger, Terms())
    assert replies[numbered(0).key].text == "so [[A]]"
    assert ledger.spent().tokens == 9 + 2 * BOUND
    assert ledger.spent().requests == 3


def test_it_is_asked_so_often_and_no_more_and_once_at_the_next_start(ledger, path):
    teacher = ScriptedTeacher(in_turn(TIME_OUT))
    replies = buy([numbered(0)], teacher, ledger, Terms())
    assert replies[numbered(0).key].state == "unknown"
    assert len(teacher.asked) == TRIES
    assert ledger.spent().tokens == TRIES * BOUND
    with closing(Ledger(path)) as later:
        buy([numbered(0)], again := ScriptedTeacher(in_turn(TIME_OUT)), later, Terms())
        assert len(again.asked) == 1
        assert later.spent().tokens == (TRIES + 1) * BOUND


def test_it_is_kept_so_where_that_is_wished_also_after_a_restart(ledger, path):
    terms = Terms(on_unknown="keep")
    replies = buy(batch(2), teacher := ScriptedTeacher(in_turn(TIME_OUT)), ledger, terms)
    assert {reply.state for reply in replies.values()} == {"unknown"}
    assert len(teacher.asked) == 2
    with closing(Ledger(path)) as later:
        replies = buy(batch(2), again := ScriptedTeacher(), later, terms)
        assert {reply.state for reply in replies.values()} == {"unknown"}
        assert again.asked == []
        assert later.spent().tokens == 2 * BOUND


def test_a_server_that_stumbles_costs_nothing_and_is_asked_again(ledger):
    teacher = ScriptedTeacher(in_turn(*[BROKEN] * (ATTEMPTS - 1), fine(None)))
    replies = buy(batch(3), teacher, ledger, Terms())
    assert {reply.state for reply in replies.values()} == {"ok"}
    assert len(teacher.asked) == 3 * ATTEMPTS
    assert ledger.spent().tokens == 3 * 15


def test_a_server_that_never_recovers_is_a_failure_that_is_asked_again_at_the_next_start(ledger):
    teacher = ScriptedTeacher(lambda request: BROKEN if request == numbered(0) else fine(request))
    replies = buy(batch(3), teacher, ledger, Terms())
    assert replies[numbered(0).key].error == BROKEN.error
    assert states(ledger) == {"failed": 1, "ok": 2}
    assert teacher.asked.count(numbered(0)) == ATTEMPTS
    replies = buy(batch(3), again := ScriptedTeacher(), ledger, Terms())
    assert again.asked == [numbered(0)]
    assert {reply.state for reply in replies.values()} == {"ok"}


def test_a_server_that_names_a_wait_is_given_it(ledger):
    left = []

    def say(request):
        left.append(time.monotonic())
        return replace(BROKEN, wait_seconds=0.4) if len(left) == 1 else fine(request)

    buy([numbered(0)], ScriptedTeacher(say), ledger, Terms())
    assert left[1] - left[0] >= 0.4


def test_attempts_are_told_once_each_though_many_requests_wait(ledger, capsys):
    buy(batch(6), ScriptedTeacher(in_turn(BROKEN, BROKEN, fine(None))), ledger, Terms(concurrency=6))
    said = [line for line in capsys.readouterr().err.splitlines() if "trying again" in line]
    assert said == [f"{BROKEN.error}; trying again (2 of 5)", f"{BROKEN.error}; trying again (3 of 5)"]


def test_nobody_at_the_address_ends_the_step_and_nothing_counts_as_sent(ledger, capsys):
    teacher = ScriptedTeacher(in_turn(ABSENT))
    with pytest.raises(TeacherError, match="teach: the teacher does not answer") as error:
        buy(batch(3), teacher, ledger, Terms(Limits(requests=3)))
    assert "start the server" in error.value.hint
    said = [line for line in capsys.readouterr().err.splitlines() if "trying again" in line]
    assert [line.partition("again ")[2] for line in said] == [f"({n} of {ATTEMPTS})" for n in range(2, ATTEMPTS + 1)]
    assert states(ledger) == {"planned": 3}
    assert ledger.spent().requests == 0
    assert len(buy(batch(3), ScriptedTeacher(), ledger, Terms(Limits(requests=3)))) == 3


def test_a_truncated_or_refused_reply_is_a_result(ledger):
    ends = {0: "length", 1: "content_filter"}
    teacher = ScriptedTeacher(lambda request: replace(fine(request), finish_reason=ends[batch(2).index(request)]))
    buy(batch(2), teacher, ledger, Terms())
    buy(batch(2), again := ScriptedTeacher(), ledger, Terms())
    assert again.asked == []
    assert states(ledger) == {"refused": 1, "truncated": 1}


# -------------------------------------------------------------------------------------------- too fast


def test_a_storm_of_refusals_uses_up_no_attempt_and_no_budget(ledger):
    refused = Counter()

    def say(request):
        refused[request.key] += 1
        return TOO_FAST if refused[request.key] <= ATTEMPTS + 5 else fine(request)

    replies = buy(batch(12), ScriptedTeacher(say), ledger, Terms(Limits(12 * BOUND, None, 12), concurrency=12))
    assert {reply.state for reply in replies.values()} == {"ok"}
    assert ledger.spent().requests == 12
    assert ledger.spent().tokens == 12 * 15


def test_after_a_storm_it_goes_as_fast_as_before(ledger):
    """Fewer at once after the storm, and all of them again in the end."""
    storm = iter([TOO_FAST] * 40)
    teacher = ScriptedTeacher(lambda request: next(storm, None) or fine(request), delay_seconds=0.002)
    paces = []
    real = pace.Pace.replied

    def noted(self, *given):
        paces.append(self.most_now)
        real(self, *given)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pace.Pace, "replied", noted)
        buy(batch(400), teacher, ledger, Terms(concurrency=8))
    assert min(paces) < 8
    assert paces[-1] == 8


def test_nothing_leaves_before_the_wait_that_the_server_named_is_over(ledger):
    left = []

    def say(request):
        left.append(time.monotonic())
        return no_reply("429", "too_fast", 0.5) if len(left) == 1 else fine(request)

    buy(batch(4), ScriptedTeacher(say), ledger, Terms(concurrency=1))
    assert left[1] - left[0] >= 0.5


@pytest.mark.parametrize("fault", ["too_fast", "unavailable"])
def test_a_wait_beyond_patience_ends_the_step_and_says_when_to_come_back(ledger, fault):
    far = no_reply("come back tomorrow", fault, PATIENCE_SECONDS + 3600)
    started = time.monotonic()
    with pytest.raises(
        TeacherError, match=r"turns requests away until \d{4}-\d\d-\d\d \d\d:\d\d, for 1 h 10 min"
    ) as error:
        buy(batch(30), teacher := ScriptedTeacher(in_turn(far)), ledger, Terms(concurrency=2))
    assert "what was paid for is kept" in error.value.hint
    assert time.monotonic() - started < 30
    assert len(teacher.asked) == 2
    assert states(ledger) == {"planned": 30}


def test_a_wait_of_a_million_years_is_told_too(ledger):
    with pytest.raises(TeacherError, match="turns requests away until"):
        buy(batch(1), ScriptedTeacher(in_turn(no_reply("429", "too_fast", 1e300))), ledger, Terms())


def test_refusals_without_end_end(ledger, monkeypatch):
    monkeypatch.setattr(buying, "PATIENCE_SECONDS", 0.3)
    with pytest.raises(TeacherError, match="429"):
        buy(batch(5), ScriptedTeacher(in_turn(TOO_FAST)), ledger, Terms())
    assert states(ledger) == {"planned": 5}


# ------------------------------------------------------------------------------------------- giving up


def test_a_teacher_that_refuses_everything_is_not_asked_to_the_end(ledger):
    with pytest.raises(TeacherError, match=f"{HOPELESS} requests in a row failed, the last with 400: too long"):
        buy(batch(200), teacher := ScriptedTeacher(in_turn(REJECTED)), ledger, Terms(concurrency=1))
    assert len(teacher.asked) == HOPELESS


def test_failures_between_replies_are_not_hopeless(ledger):
    teacher = ScriptedTeacher(lambda request: REJECTED if batch(60).index(request) % 3 else fine(request))
    replies = buy(batch(60), teacher, ledger, Terms(concurrency=1))
    assert Counter(reply.state for reply in replies.values()) == {"ok": 20, "failed": 40}


def test_a_teacher_that_refuses_half_way_keeps_what_was_bought_and_what_is_under_way(ledger):
    def say(request):
        number = batch(50).index(request)
        if number == 8:
            raise TeacherError("teach: the teacher refuses (401)", "check the key")
        time.sleep(0.1 if number in (9, 10) else 0)
        return fine(request)

    with pytest.raises(TeacherError, match="401"):
        buy(batch(50), teacher := ScriptedTeacher(say), ledger, Terms(concurrency=3))
    n_asked = len(teacher.asked)
    assert 9 <= n_asked <= 12
    assert states(ledger) == {"ok": n_asked - 1, "failed": 1, "planned": 50 - n_asked}


def test_a_bug_of_an_engine_is_raised_once_what_is_under_way_is_in_the_ledger(ledger):
    def say(request):
        if request == numbered(0):
            raise ZeroDivisionError("a bug")
        time.sleep(0.1)
        return fine(request)

    with pytest.raises(ZeroDivisionError, match="a bug"):
        buy(batch(40), ScriptedTeacher(say), ledger, Terms(concurrency=4))
    found = states(ledger)
    assert (found["unknown"], found["ok"]) == (1, 3)
    assert "sent" not in found


def test_an_engine_that_cannot_even_start_loses_nothing_that_is_under_way(ledger):
    class Full(ScriptedTeacher):
        def ask(self, request):
            if len(self.asked) >= 3:
                raise RuntimeError("can't start new thread")
            return super().ask(request)

    with pytest.raises(RuntimeError, match="thread"):
        buy(batch(4), Full(delay_seconds=0.1), ledger, Terms(concurrency=4))
    assert states(ledger) == {"ok": 3, "unknown": 1}


def test_nothing_spins_while_replies_are_awaited(ledger, monkeypatch):
    """Neither while the rest is awaited after a failure, nor while another process has the requests."""
    turns = Counter()
    real = buying._Buyer._arrived

    def counted(buyer):
        turns["wait"] += 1
        return real(buyer)

    def say(request):
        if request == numbered(0):
            raise TeacherError("teach: no", "no")
        time.sleep(0.6)
        return fine(request)

    monkeypatch.setattr(buying._Buyer, "_arrived", counted)
    with pytest.raises(TeacherError):
        buy(batch(50), ScriptedTeacher(say), ledger, Terms(concurrency=4))
    assert turns["wait"] < 40


# -------------------------------------------------------------------------------------------- the disk


def disk_says(code, n_times, real):
    left = [code] * n_times

    def settle(pairs):
        if left:
            cause = sqlite3.OperationalError("the disk says no")
            cause.sqlite_errorcode = left.pop()
            error = DataError("ledger.sqlite: the disk says no", "make room")
            raise error from cause
        real(pairs)

    return settle


def test_paid_replies_wait_in_memory_for_a_disk_that_is_full(ledger, monkeypatch, capsys):
    monkeypatch.setattr(ledger, "settle", disk_says(sqlite3.SQLITE_FULL, 3, ledger.settle))
    assert len(buy(batch(5), teacher := ScriptedTeacher(), ledger, Terms())) == 5
    assert len(teacher.asked) == 5
    assert "paid replies wait in memory" in capsys.readouterr().err


@pytest.mark.parametrize(("code", "patience"), [(sqlite3.SQLITE_CORRUPT, 60.0), (sqlite3.SQLITE_FULL, 0.1)])
def test_a_disk_that_cannot_recover_or_does_not_is_the_users_to_mend(ledger, monkeypatch, code, patience):
    monkeypatch.setattr(ledger_file, "DISK_SECONDS", patience)
    monkeypatch.setattr(ledger, "settle", disk_says(code, 10_000, ledger.settle))
    with pytest.raises(DataError, match="the disk says no"):
        buy(batch(5), ScriptedTeacher(), ledger, Terms())


@pytest.mark.parametrize("broken", ["reserve", "reconcile", "spent"])
def test_a_ledger_that_fails_while_replies_are_under_way_loses_none_of_them(ledger, path, monkeypatch, broken):
    """A lock held too long, or a full disk, meets whatever is written or read next."""
    calls, real = Counter(), getattr(ledger, broken)

    def fails(*given, **named):
        calls[broken] += 1
        if calls[broken] == (1 if broken == "reconcile" else 2):
            cause = sqlite3.OperationalError("database is locked")
            cause.sqlite_errorcode = sqlite3.SQLITE_BUSY
            error = DataError("ledger.sqlite: database is locked", "close the other program")
            raise error from cause
        return real(*given, **named)

    monkeypatch.setattr(ledger, broken, fails)
    if broken == "reconcile":
        other = Ledger(path)
        other.reserve([numbered(29)])
    teacher = ScriptedTeacher(delay_seconds=0.2)
    with pytest.raises(DataError, match="database is locked"):
        buy(batch(30), teacher, ledger, Terms(concurrency=6))
    found = states(ledger)
    assert found["ok"] == len(teacher.asked) > 0
    assert "unknown" not in found


# -------------------------------------------------------------------------------------------- the limits

PRICE = Price(2.0, 8.0)
BOUND_USD = PRICE.usd(numbered(0).prompt_bound_tokens, 40)
OUTCOMES = st.sampled_from(["ok", "dear", "silent", "length", "time-out", "503", "429", "400"])


def outcome(name, request, tokens):
    replies = {"time-out": TIME_OUT, "503": BROKEN, "429": TOO_FAST, "400": REJECTED}
    if name in replies:
        return replies[name]
    read, written = {"ok": (5, tokens), "dear": (request.prompt_bound_tokens, 40), "silent": (0, 0)}.get(name, (5, 40))
    return Reply("so", "length" if name == "length" else "stop", read, written)


@given(
    script=st.lists(st.tuples(OUTCOMES, st.integers(0, 40)), min_size=1, max_size=60),
    caps=st.tuples(st.integers(0, 40), st.integers(0, 40), st.integers(0, 40)),
    concurrency=st.sampled_from([1, 5, 64]),
)
@settings(max_examples=40)
def test_no_cap_is_ever_passed_whatever_comes_back(tmp_path_factory, script, caps, concurrency):
    """Neither as the ledger counts, nor as the teacher would bill: all that it answered or may have answered."""
    tokens, usd, n_requests = caps[0] * BOUND // 2, caps[1] * BOUND_USD / 2, caps[2]
    limits = Limits(tokens, usd, n_requests)
    lock, turn, billed, answered = threading.Lock(), iter(script * 20), Counter(), Counter()

    def say(request):
        with lock:
            name, size = next(turn, ("ok", 1))
            reply = outcome(name, request, size)
            if reply.error is None:
                billed["tokens"] += max(reply.prompt_tokens, 2) + max(reply.completion_tokens, 1)
            if reply.fault == "unanswered":
                billed["tokens"] += BOUND
            billed["requests"] += name != "429"
            answered[request.key] += reply.error is None
        return reply

    most = Counter()
    with closing(Ledger(tmp_path_factory.mktemp("cap") / "l.sqlite")) as ledger:
        real = ledger.reserve

        def watched(*given, **named):
            found = real(*given, **named)
            spent = ledger.spent()
            most["tokens"], most["requests"] = max(most["tokens"], spent.tokens), max(most["requests"], spent.requests)
            assert spent.usd <= usd * (1 + 1e-9)
            return found

        ledger.reserve = watched
        with suppress(GateError, TeacherError):
            buy(batch(40), ScriptedTeacher(say), ledger, Terms(limits, PRICE, concurrency=concurrency))
        assert "sent" not in states(ledger)
        assert most["tokens"] <= tokens
        assert most["requests"] <= n_requests
        assert billed["tokens"] <= ledger.spent().tokens <= tokens
        assert billed["requests"] <= n_requests
        assert max(answered.values(), default=0) <= 1, "no reply is bought twice"


@pytest.mark.parametrize("concurrency", [1, 64])
def test_what_is_reserved_for_requests_in_flight_does_not_end_it_early(ledger, concurrency):
    """It stops only where one more request alone might pass the budget, however many are asked at once."""
    with pytest.raises(GateError, match="budget spent") as error:
        buy(batch(200), ScriptedTeacher(delay_seconds=0.001), ledger, Terms(Limits(1000), concurrency=concurrency))
    assert 1000 - BOUND < ledger.spent().tokens <= 1000
    n_there = states(ledger)["ok"]
    assert f"{n_there} of 200 rationales are there" in error.value.found
    assert "raise budget.teacher_tokens" in error.value.hint
    assert error.value.exit_code == 3


@pytest.mark.parametrize(
    ("limits", "name"),
    [(Limits(0), "teacher_tokens"), (Limits(requests=0), "requests"), (Limits(usd=0.0), "usd")],
)
def test_no_budget_sends_nothing_and_names_the_limit(ledger, limits, name):
    with pytest.raises(GateError) as error:
        buy(batch(5), teacher := ScriptedTeacher(), ledger, Terms(limits, PRICE))
    assert teacher.asked == []
    assert f"raise budget.{name} " in error.value.hint


def test_a_budget_that_others_spent_says_so(ledger):
    buy(batch(5), ScriptedTeacher(), ledger, Terms(Limits()))
    others = [replace(one, prompt_version="another") for one in batch(3)]
    with pytest.raises(GateError, match="by all runs that use this ledger; 0 of 3 rationales are there"):
        buy(others, ScriptedTeacher(), ledger, Terms(Limits(1)))


def test_a_partial_purchase_goes_on_with_what_there_is(ledger):
    terms = Terms(Limits(requests=7), is_partial=True, concurrency=4)
    replies = buy(batch(20), ScriptedTeacher(), ledger, terms)
    assert len(replies) == 7
    assert buy(batch(20), again := ScriptedTeacher(), ledger, terms) == replies
    assert again.asked == []


def test_what_is_there_already_needs_no_budget(ledger):
    buy(batch(10), ScriptedTeacher(), ledger, Terms())
    assert len(buy(batch(10), ScriptedTeacher(), ledger, Terms(Limits(0, 0.0, 0), PRICE))) == 10


def test_a_reply_larger_than_its_bound_counts_in_full_is_told_and_ends_the_purchase(ledger, capsys):
    dear = Reply("so [[A]]", "stop", 10, 5000)
    with pytest.raises(GateError):
        buy(batch(20), teacher := ScriptedTeacher(in_turn(dear)), ledger, Terms(Limits(1000), concurrency=1))
    assert len(teacher.asked) == 1
    assert ledger.spent().tokens == 5010
    assert (
        "the teacher reports 5,010 tokens for a request, more than it may use: the next ones" in capsys.readouterr().err
    )


def test_a_teacher_that_passes_its_bounds_passes_the_cap_by_a_few_requests_at_most(ledger, path, capsys):
    """64 at once would have come to 64 times 5,010 before anybody knew."""
    dear, cap = Reply("so [[A]]", "stop", 10, 5000), 10_000
    teacher = ScriptedTeacher(in_turn(dear), delay_seconds=0.05)
    with pytest.raises(GateError, match="since a reply of this teacher passed its bound") as error:
        buy(batch(100), teacher, ledger, Terms(Limits(cap), concurrency=64))
    assert "the next may cost 5,0" in error.value.found
    assert len(teacher.asked) <= buying.FIRST_FEW
    with closing(Ledger(path)) as later, pytest.raises(GateError):
        buy(batch(100), again := ScriptedTeacher(in_turn(dear)), later, Terms(Limits(cap + 30_000), concurrency=64))
    assert len(again.asked) <= 6, "after a restart it is known how much one may come to"
    with closing(Ledger(path)) as later:
        assert later.spent().tokens <= cap + 30_000


def test_all_leave_at_once_where_there_is_no_cap_or_the_teacher_is_known(ledger):
    buy(batch(16), free := ScriptedTeacher(delay_seconds=0.2), ledger, Terms(concurrency=16))
    later = [numbered(number) for number in range(20, 36)]
    buy(later, known := ScriptedTeacher(delay_seconds=0.2), ledger, Terms(Limits(10**6), concurrency=16))
    assert (free.most, known.most) == (16, 16)


def test_money_that_was_spent_without_a_price_counts_against_a_cap_in_dollars(ledger):
    buy(batch(50), ScriptedTeacher(), ledger, Terms())
    limits = Limits(usd=50 * PRICE.usd(10, 5) + 3 * BOUND_USD)
    wanted = [*batch(50), *(numbered(number) for number in range(100, 160))]
    with pytest.raises(GateError) as error:
        buy(wanted, ScriptedTeacher(), ledger, Terms(limits, PRICE))
    assert ledger.spent(PRICE).usd <= limits.usd
    assert "unknown price" not in error.value.found


def test_replies_that_cannot_be_read_end_the_purchase_and_are_not_bought_again(ledger):
    """They are paid for, so each is asked for once, and a wrong endpoint does not spend the budget."""
    odd = Reply("", "stop", 10, 5, raw='{"choices": [7]}')
    with pytest.raises(TeacherError, match=f"{HOPELESS} requests in a row failed.* kept as `raw` in the ledger"):
        buy(batch(100), teacher := ScriptedTeacher(in_turn(odd)), ledger, Terms(concurrency=1))
    assert len(teacher.asked) == HOPELESS
    assert ledger.spent().tokens == HOPELESS * 15
    found = buy(batch(HOPELESS), again := ScriptedTeacher(), ledger, Terms())
    assert again.asked == []
    assert {reply.raw for reply in found.values()} == {odd.raw}


def test_an_end_that_nobody_knows_is_told(ledger, capsys):
    say = in_turn(Reply("so [[A]]", "fini", 10, 5))
    assert {one.state for one in buy(batch(3), ScriptedTeacher(say), ledger, Terms()).values()} == {"ok"}
    assert "a reply ended with 'fini': it is taken for a whole one" in capsys.readouterr().err


# ------------------------------------------------------------------------------------- with other processes


def test_what_another_has_under_way_is_awaited_and_not_asked_twice(ledger, path, monkeypatch, capsys):
    with closing(Ledger(path)) as other:
        other.reserve(batch(3))
        later = threading.Thread(target=_settle_later, args=(path, batch(3), 0.4))
        later.start()
        looks, real = [], ledger.reserve
        monkeypatch.setattr(ledger, "reserve", lambda *given, **named: looks.append(1) or real(*given, **named))
        replies = buy(batch(5), teacher := ScriptedTeacher(), ledger, Terms())
        later.join()
    assert sorted(one.key for one in teacher.asked) == sorted(one.key for one in batch(5)[3:])
    assert len(replies) == 5
    assert len(looks) < 40, "it looks now and then, and does not spin"
    assert "3 requests that another process has under way" in capsys.readouterr().err


def _settle_later(path, requests, seconds):
    """As the other process would; a second handle, since a connection belongs to one thread."""
    time.sleep(seconds)
    with closing(Ledger(path)) as ledger:
        ledger.settle((request, fine(request)) for request in requests)


def test_what_a_process_that_died_has_left_does_not_hold_others_up(ledger, path, monkeypatch):
    """It had the budget's rest under way, for requests that nobody here wants."""
    other = Ledger(path)
    other.reserve([numbered(99)])
    gone = threading.Timer(0.3, other._life.end)  # what the system does for a dead process
    gone.start()
    with pytest.raises(GateError):
        buy(batch(3), ScriptedTeacher(), ledger, Terms(Limits(BOUND + 20)))
    gone.join()
    assert states(ledger)["unknown"] == 1
    other.close()


CLIENT = """
import sys, time
from contextlib import closing
from pathlib import Path
from teachwise.teacher.buying import Terms, buy
from teachwise.teacher.openai import OpenAiTeacher
from teachwise.errors import GateError
from teachwise.teacher.ledger import Ledger
from teachwise.teacher.prices import Limits
from teachwise.request import Request
path, url, first, last, concurrency, cap = sys.argv[1:7]
messages = [({"role": "user", "content": f"question {number}"},) for number in range(int(first), int(last))]
wanted = [Request("big", one, 40, 0.5, "v") for one in messages]
teacher = OpenAiTeacher("big", url, concurrency=int(concurrency), timeout_seconds=60)
with closing(Ledger(Path(path))) as ledger, closing(teacher):
    print("ready", flush=True)
    try:
        replies = buy(wanted, teacher, ledger, Terms(Limits(int(cap) or None), concurrency=int(concurrency)))
        print(len(replies), flush=True)
    except GateError:
        print("gate", flush=True)
"""


@pytest.fixture
def listening():
    with HTTPServer(host="127.0.0.1", threaded=True) as server:
        yield server


@pytest.fixture
def served(listening):
    """A server that answers after a little while; gives what it was asked, and what it answered."""
    asked, answered, lock = [], [], threading.Lock()

    def handle(request):
        text = request.json["messages"][0]["content"]
        with lock:
            asked.append(text)
        time.sleep(0.05)
        with lock:
            answered.append(text)
        message = {"role": "assistant", "content": "so [[A]]"}
        usage = {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15}
        body = {"object": "chat.completion", "choices": [{"index": 0, "finish_reason": "stop", "message": message}]}
        return Response(
            json.dumps({"id": "1", "created": 0, "model": "big", **body, "usage": usage}),
            200,
            mimetype="application/json",
        )

    listening.expect_request("/v1/chat/completions").respond_with_handler(handle)
    listening.asked, listening.answered = asked, answered
    return listening


def client(path, server, first, last, concurrency=8, cap=0):
    words = [str(word) for word in (path, server.url_for("/v1"), first, last, concurrency, cap)]
    return subprocess.Popen(
        [sys.executable, "-c", CLIENT, *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def wait_until(is_so, seconds=60.0):
    ends_at = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < ends_at, "it took too long"
        time.sleep(0.005)


def both_at_work(path, one):
    """Whether both have requests under way; then `one` is left stopped, so that it stays so."""
    one.send_signal(signal.SIGSTOP)
    with closing(sqlite3.connect(path)) as db:
        (n,) = db.execute("SELECT COUNT(DISTINCT owner) FROM request WHERE state = 'sent'").fetchone()
    if n < 2:
        one.send_signal(signal.SIGCONT)
    return n == 2


def locks(path):
    return [file.name for file in path.parent.iterdir() if file.suffix == ".lock"]


def test_two_processes_that_want_the_same_pay_each_request_once(path, served):
    first, second = client(path, served, 0, 60), client(path, served, 30, 90)
    assert [one.communicate(timeout=100)[0] for one in (first, second)] == ["ready\n60\n"] * 2
    assert (first.returncode, second.returncode) == (0, 0)
    assert sorted(served.asked) == sorted(f"question {number}" for number in range(90))
    with closing(Ledger(path)) as ledger:
        assert states(ledger) == {"ok": 90}
        assert ledger.spent().tokens == 90 * 15
        assert ledger.spent().requests == 90
    assert locks(path) == []


def test_two_processes_are_held_to_one_budget(path, served):
    most = numbered(119).upper_bound_tokens  # the largest: its number has the most digits
    cap = 40 * 15 + most
    both = [client(path, served, 0, 60, cap=cap), client(path, served, 60, 120, cap=cap)]
    for one in both:
        assert "gate" in one.communicate(timeout=100)[0]
    with closing(Ledger(path)) as ledger:
        assert cap - most < ledger.spent().tokens <= cap
        assert ledger.spent().tokens == 15 * len(served.answered)


def test_the_other_picks_up_what_a_killed_process_had_under_way(path, served):
    first, second = client(path, served, 0, 80), client(path, served, 0, 80)
    wait_until(lambda: len(served.answered) >= 8 and both_at_work(path, first))
    first.kill()
    first.communicate()
    said, errors = second.communicate(timeout=100)
    assert (said, second.returncode) == ("ready\n80\n", 0), errors
    with closing(Ledger(path)) as ledger:
        totals = ledger.totals()
        assert totals["requests"] == {"ok": 80}
        assert 0 < totals["lost_requests"] <= 8
        assert ledger.spent().tokens == 80 * 15 + totals["lost_tokens"]
        lost = set(ledger.n_unanswered())
    times = Counter(served.asked)
    again = {text for text, n in times.items() if n > 1}
    assert set(times.values()) <= {1, 2}
    assert again <= {one.messages[0]["content"] for one in batch(80) if one.key in lost}
    assert locks(path) == []


# ----------------------------------------------------------------------------------------------- Ctrl-C


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_to_end_sends_nothing_more_and_leaves_nothing_on_its_way(path, served, number):
    """Ctrl-C, what a scheduler sends, and what a terminal sends that is closed."""
    one = client(path, served, 0, 400, concurrency=16)
    wait_until(lambda: len(served.answered) >= 20)
    one.send_signal(number)
    _, errors = one.communicate(timeout=60)
    assert "KeyboardInterrupt" in errors
    assert "awaiting the replies under way" in errors
    assert len(served.asked) < 400
    with closing(Ledger(path)) as ledger:
        assert states(ledger) == {"ok": len(served.answered), "planned": 400 - len(served.answered)}
        assert len(served.asked) == len(served.answered)
    assert locks(path) == []


def test_a_signal_that_is_ignored_stays_so():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with interrupt.patient_interrupt() as stopped:
            signal.raise_signal(signal.SIGHUP)
        assert stopped == []
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_terminal_that_is_gone_ends_nothing(ledger, monkeypatch):
    """What a closed window leaves: nobody can be told, and the replies under way are still paid for."""

    def gone(text):
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(interrupt, "say", gone)
    monkeypatch.setattr(meter, "say", gone)

    def say(request):
        if request == numbered(0):
            signal.raise_signal(signal.SIGHUP)
        time.sleep(0.1)
        return replace(fine(request), finish_reason="fini")

    with pytest.raises(KeyboardInterrupt):
        buy(batch(40), teacher := ScriptedTeacher(say), ledger, Terms(concurrency=4))
    assert states(ledger) == {"ok": len(teacher.asked), "planned": 40 - len(teacher.asked)}


def test_a_second_ctrl_c_ends_at_once_and_what_was_under_way_is_unknown(path, listening):
    released, asked = threading.Event(), []

    def never(request):
        asked.append(1)
        released.wait(60)
        return Response("late", 500)

    listening.expect_request("/v1/chat/completions").respond_with_handler(never)
    one = client(path, listening, 0, 10, concurrency=4)
    wait_until(lambda: len(asked) == 4)
    one.send_signal(signal.SIGINT)
    assert "awaiting" in one.stderr.readline()
    one.send_signal(signal.SIGINT)
    started = time.monotonic()
    one.communicate(timeout=60)
    assert time.monotonic() - started < 10, "it does not wait for its time-out"
    released.set()
    with closing(Ledger(path)) as ledger:
        assert states(ledger) == {"planned": 6, "unknown": 4}
    assert locks(path) == []


def test_an_interrupt_in_another_thread_is_left_to_the_main_one(path):
    found = []

    def work():
        with closing(Ledger(path)) as ledger:
            found.append(len(buy(batch(5), ScriptedTeacher(), ledger, Terms())))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join(30)
    assert found == [5]


# ------------------------------------------------------------------------------------------- what is told


def test_progress_tells_money_so_far_and_in_all(ledger):
    bar = []
    engine, price = ScriptedTeacher(), Price(1e6, 0.0)  # a dollar a token read
    buyer = buying._Buyer(batch(4), {}, engine, ledger, Terms(price=price), None, [])
    buyer._bar = type("Bar", (), {"at": lambda self, *given: bar.append(given)})()
    buyer.work()
    done, note, spent = bar[-1]
    assert (done, spent) == (4, "60 teacher tokens")
    assert "$40.00 so far, about $40.00 in all" in note


def test_money_of_others_in_the_same_ledger_is_not_projected(ledger):
    price = Price(1e6, 0.0)
    buy([numbered(100 + number) for number in range(50)], ScriptedTeacher(), ledger, Terms(price=price))
    buyer = buying._Buyer(batch(4), {}, ScriptedTeacher(), ledger, Terms(price=price), None, [])
    buyer._done, buyer._usd = 2, 20.0
    assert "$520.00 so far, about $540.00 in all" in buyer._projected()


def test_the_real_engine_over_real_sockets(path, served):
    teacher = OpenAiTeacher("big", served.url_for("/v1"), timeout_seconds=20)
    with closing(Ledger(path)) as ledger, closing(teacher):
        replies = buy(batch(20), teacher, ledger, Terms(concurrency=10))
    assert {reply.text for reply in replies.values()} == {"so [[A]]"}
    assert len(served.asked) == 20
