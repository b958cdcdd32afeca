"""The provider's batch mode, over real sockets on loopback: nothing is lost or paid twice, wherever it dies."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import closing, contextmanager
from dataclasses import replace
from weakref import WeakKeyDictionary

import pytest

import batch_provider
from batch_provider import ANSWER, TOKENS, answered, completion, not_answered
from teachwise.account import account_of, told
from teachwise.errors import GateError, TeacherError
from teachwise.request import Request
from teachwise.teacher import batch_calls, batch_note, batches
from teachwise.teacher.batch_note import batch_folder
from teachwise.teacher.batches import await_batches, buy_in_batches
from teachwise.teacher.buying import Terms
from teachwise.teacher.ledger import Ledger
from teachwise.teacher.openai import OpenAiTeacher
from teachwise.teacher.prices import Limits, Price

KEY = "sk-very-secret-1234567890"


@pytest.fixture
def provider():
    with batch_provider.served() as found:
        yield found


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    monkeypatch.setenv("TEST_TEACHER_KEY", KEY)
    monkeypatch.setattr(batches, "POLL_SECONDS", 0.01)
    monkeypatch.setattr(batch_calls, "LISTED_SECONDS", 0.0)
    monkeypatch.setattr(batch_calls, "pause_seconds", lambda attempt: 0.0)


def others_of(n):
    """What another recipe asks."""
    return [replace(one, max_tokens=32) for one in requests_of(n)]


def requests_of(n):
    return [Request("big", ({"role": "user", "content": f"question {i} ?"},), 64, 0.0, "1") for i in range(n)]


@contextmanager
def market(provider, path):
    """A teacher and a ledger, as one start of the command has them; making a teacher takes a while."""
    if provider not in TEACHERS:
        TEACHERS[provider] = OpenAiTeacher("big", provider.base_url, "TEST_TEACHER_KEY", timeout_seconds=20)
    with closing(Ledger(path / "ledger.sqlite")) as ledger:
        yield TEACHERS[provider], ledger


TEACHERS = WeakKeyDictionary()


def bought(provider, path, n=5, terms=None, requests=None):
    """The replies to n requests, and the ledger's totals."""
    terms, requests = terms or Terms(), requests or requests_of(n)
    with market(provider, path) as (teacher, ledger):
        replies = buy_in_batches(requests, teacher, ledger, terms, batch_folder(path / "ledger.sqlite"))
        return replies, ledger.totals()


def totals(path):
    with closing(Ledger(path / "ledger.sqlite")) as ledger:
        return ledger.totals()


def notes(path):
    return [json.loads(file.read_text()) for file in sorted(path.glob("ledger.batches/*.json"))]


# ---------------------------------------------------------------------------------------- what goes well


def test_replies_come_through_a_batch_and_are_paid_at_the_price_of_one(provider, tmp_path):
    terms = Terms(price=Price(10.0, 100.0, batch_share=0.5))
    replies, sums = bought(provider, tmp_path, 5, terms)
    assert {reply.text for reply in replies.values()} == {ANSWER}
    assert list(replies) == sorted(replies, key=list(replies).index)
    assert sums["requests"] == {"ok": 5}
    assert (sums["prompt_tokens"], sums["completion_tokens"]) == (5 * TOKENS[0], 5 * TOKENS[1])
    assert sums["usd"] == pytest.approx(0.5 * 5 * (TOKENS[0] * 10 + TOKENS[1] * 100) / 1e6)
    assert provider.calls.count("create") == 1


def test_the_file_holds_what_the_endpoint_would_have_been_sent(provider, tmp_path):
    bought(provider, tmp_path, 2)
    lines = [json.loads(line) for line in provider.files["file-1"].splitlines()]
    assert [line["custom_id"] for line in lines] == [one.key for one in requests_of(2)]
    assert lines[0]["method"] == "POST"
    assert lines[0]["url"] == "/v1/chat/completions"
    assert lines[0]["body"] == {
        "model": "big",
        "messages": [{"role": "user", "content": "question 0 ?"}],
        "max_tokens": 64,
        "temperature": 0.0,
    }


def test_what_the_ledger_holds_is_not_asked_again(provider, tmp_path):
    bought(provider, tmp_path, 3)
    bought(provider, tmp_path, 5)
    assert set(provider.billed.values()) == {1}
    assert len(provider.billed) == 5
    before = list(provider.calls)
    replies, _ = bought(provider, tmp_path, 5)
    assert len(replies) == 5
    assert provider.calls == before


def test_many_requests_are_several_files(provider, tmp_path, monkeypatch):
    monkeypatch.setattr("teachwise.teacher.batch_lines.MOST_LINES", 2)
    _, sums = bought(provider, tmp_path, 5)
    assert sums["requests"] == {"ok": 5}
    assert len(provider.batches) == 3
    assert [note["requests"] for note in notes(tmp_path)] == [2, 2, 1]


def test_a_file_stays_below_the_provider_s_size(provider, tmp_path, monkeypatch):
    monkeypatch.setattr("teachwise.teacher.batch_lines.MOST_BYTES", 450)
    bought(provider, tmp_path, 5)
    assert len(provider.batches) > 2
    assert all(len(provider.files[f"file-{i + 1}"]) <= 450 for i in range(len(provider.batches)))


def test_the_key_stands_in_no_file(provider, tmp_path, capfd):
    provider.line_of = lambda key, number: answered(key, completion(f"your key is {KEY} [[B]]"))
    provider.before["content"] = lambda: None
    replies, _ = bought(provider, tmp_path)
    assert provider.authorizations == {f"Bearer {KEY}"}
    assert {reply.text for reply in replies.values()} == {"your key is [key] [[B]]"}
    for file in tmp_path.rglob("*"):
        assert file.is_dir() or KEY.encode() not in file.read_bytes(), file
    assert KEY not in "".join(capfd.readouterr())


def test_a_key_of_one_sign_changes_no_custom_id_and_no_text(provider, tmp_path, monkeypatch):
    monkeypatch.setenv("TEST_TEACHER_KEY", "1")
    provider.line_of = lambda key, number: answered(key, completion("If 1 = 1 then [[B]]"))
    replies, sums = bought(provider, tmp_path, 9)
    assert sums["requests"] == {"ok": 9}
    assert {reply.text for reply in replies.values()} == {"If 1 = 1 then [[B]]"}


def test_no_error_tells_the_key_or_commands_the_terminal(provider, tmp_path, capfd):
    provider.line_of = lambda key, number: answered(key, {"error": {"message": f"{KEY}\x1b[2J is wrong"}}, 400)
    replies, _ = bought(provider, tmp_path, 1)
    assert [reply.error for reply in replies.values()] == ["400: [key] [2J is wrong"]
    provider.status, provider.why = "failed", f"{KEY}\x1b[2J is wrong"
    with pytest.raises(TeacherError, match=r"line 2: \[key\] \[2J is wrong"):
        bought(provider, tmp_path, 2)


# ---------------------------------------------------------------------------------------- limits


def test_the_cap_is_never_passed_and_what_reservations_free_is_used(provider, tmp_path):
    one = requests_of(1)[0].upper_bound_tokens
    seen = []
    terms = Terms(Limits(teacher_tokens=2 * one))
    provider.before["create"] = lambda: seen.append(totals(tmp_path)["held_tokens"])
    replies, sums = bought(provider, tmp_path, 3, terms)
    assert len(replies) == 3
    assert len(provider.batches) == 2  # two were all it could bear; their cost left room for the third
    assert seen[0] == 2 * one
    assert sums["prompt_tokens"] + sums["completion_tokens"] <= 2 * one


def test_the_cap_ends_it_and_the_rest_is_not_asked(provider, tmp_path):
    terms = Terms(Limits(teacher_tokens=2 * requests_of(1)[0].upper_bound_tokens))
    with pytest.raises(GateError, match=r"budget spent.*4 of 9 rationales are there") as caught:
        bought(provider, tmp_path, 9, terms)
    assert "raise budget.teacher_tokens" in caught.value.hint
    assert sum(provider.billed.values()) == 4
    assert totals(tmp_path)["requests"] == {"ok": 4, "planned": 5}


def test_a_cap_on_dollars_counts_the_price_of_a_batch(provider, tmp_path):
    request = requests_of(1)[0]
    price = Price(10.0, 10.0, batch_share=0.5)
    usd = price.usd(request.prompt_bound_tokens, request.max_tokens)
    provider.line_of = lambda key, number: answered(key, completion(usage=None))  # counted as all that was set aside
    replies, sums = bought(provider, tmp_path, 4, Terms(Limits(usd=1.5 * usd), price, is_partial=True))
    assert len(replies) == 3
    assert sums["usd"] == pytest.approx(1.5 * usd)


def test_a_cap_on_requests_counts_what_was_sent_and_not_what_came_back_unexecuted(provider, tmp_path):
    provider.status = "expired"
    provider.line_of = lambda key, number: answered(key) if number == 0 else not_answered(key)
    _, sums = bought(provider, tmp_path, 3, Terms(Limits(requests=3)))
    assert sums["requests"] == {"ok": 3}
    assert sum(row["sends"] for row in _rows(tmp_path)) == 3


def _rows(path):
    with closing(Ledger(path / "ledger.sqlite")) as ledger:
        return list(ledger.rows())


def test_where_usage_is_not_said_all_that_was_set_aside_counts(provider, tmp_path):
    provider.line_of = lambda key, number: answered(key, completion(usage=None))
    _, sums = bought(provider, tmp_path, 2)
    assert sums["prompt_tokens"] + sums["completion_tokens"] == 2 * requests_of(1)[0].upper_bound_tokens


# ---------------------------------------------------------------------------------------- how a batch may end


def test_of_an_expired_batch_the_finished_part_is_used_and_only_the_rest_asked_again(provider, tmp_path, capfd):
    expiring(provider)
    replies, sums = bought(provider, tmp_path, 5)
    assert {reply.text for reply in replies.values()} == {ANSWER}
    assert len(provider.files["file-2"].splitlines()) == 3
    assert set(provider.billed.values()) == {1}
    assert (sums["requests"], sums["lost_requests"], sums["held_tokens"]) == ({"ok": 5}, 0, 0)
    assert "3 of 5 without a reply, they cost nothing" in capfd.readouterr().err


def test_a_batch_that_expires_with_no_line_for_the_rest_costs_nothing_for_it(provider, tmp_path):
    provider.status = "expired"
    provider.line_of = lambda key, number: answered(key) if number == 0 else None
    replies, sums = bought(provider, tmp_path, 4)
    assert sums["requests"] == {"ok": 3, "planned": 1}  # three batches, and one request came back from each of them
    assert provider.calls.count("content") == 3  # nothing is missing of what was answered
    assert [reply.error for reply in replies.values() if reply.error] == ["came back from 3 batches without a reply"]


def test_a_batch_that_fails_its_check_is_told_and_costs_nothing(provider, tmp_path):
    provider.status = "failed"
    with pytest.raises(TeacherError, match="failed at the provider: line 2: no such model") as caught:
        bought(provider, tmp_path, 3)
    assert "run again" in caught.value.hint
    assert len(provider.batches) == 1
    found = totals(tmp_path)
    assert (found["requests"], found["held_tokens"], found["usd"]) == ({"planned": 3}, 0, 0)
    provider.status = "completed"
    assert bought(provider, tmp_path, 3)[1]["requests"] == {"ok": 3}


def test_a_batch_that_somebody_cancelled_is_not_started_anew_by_itself(provider, tmp_path):
    provider.status = "cancelled"
    provider.line_of = lambda key, number: answered(key) if number < 2 else not_answered(key, "batch_cancelled")
    with pytest.raises(TeacherError, match="cancelled at the provider"):
        bought(provider, tmp_path, 5)
    assert totals(tmp_path)["requests"] == {"ok": 2, "planned": 3}
    assert len(provider.batches) == 1


@pytest.mark.parametrize(
    ("line", "state", "asked"),
    [
        (lambda key: answered(key, {"error": {"message": "too long", "code": "bad"}}, 400), "failed", 1),
        (lambda key: answered(key, {"error": {"message": "no", "code": "content_filter"}}, 400), "refused", 1),
        (lambda key: answered(key, completion("", "content_filter")), "refused", 1),
        (lambda key: answered(key, completion("so", "length")), "truncated", 1),
        (lambda key: answered(key, {"error": {"message": "slow down"}}, 429), "planned", 3),
        (lambda key: answered(key, {"error": {"message": "oh"}}, 500), "planned", 3),
        (lambda key: answered(key, {"error": {"message": "late"}}, 504), "unknown", 3),
        (lambda key: not_answered(key, "request_timeout", "late"), "unknown", 3),
        (lambda key: answered(key, {"what": "is this"}), "unknown", 3),
    ],
)
def test_every_kind_of_line_has_its_outcome(provider, tmp_path, line, state, asked):
    provider.line_of = lambda key, number: line(key) if key == requests_of(1)[0].key else answered(key)
    replies, sums = bought(provider, tmp_path, 3)
    wanted = {"ok": 2} | {state: 1}
    assert sums["requests"] == wanted
    assert len(provider.batches) == asked
    assert (replies[requests_of(1)[0].key].error is None) == (state in ("refused", "truncated"))
    if state == "unknown":
        assert sums["lost_requests"] == 2
        assert sums["held_tokens"] == requests_of(1)[0].upper_bound_tokens


def test_a_request_of_unknown_outcome_is_kept_where_the_recipe_says_so(provider, tmp_path):
    provider.line_of = lambda key, number: not_answered(key, "request_timeout", "late")
    _, sums = bought(provider, tmp_path, 2, Terms(on_unknown="keep"))
    assert sums["requests"] == {"unknown": 2}
    assert len(provider.batches) == 1


def test_lines_that_nobody_asked_for_and_garbage_are_named_and_the_first_of_two_counts(provider, tmp_path, capfd):
    def raw(text):
        key = requests_of(1)[0].key
        stranger = json.dumps(answered("nobody"))
        return stranger + "\n\n" + text + json.dumps(answered(key, completion("the second [[C]]"))) + "\n"

    provider.raw = raw
    replies, sums = bought(provider, tmp_path, 3)
    assert {reply.text for reply in replies.values()} == {ANSWER}
    assert sums["requests"] == {"ok": 3}
    err = capfd.readouterr().err
    assert "line 1 is for a request that nobody asked" in err
    assert "fetching them again" not in err


def test_a_provider_that_changes_the_keys_is_billed_once_and_all_of_it_counts(provider, tmp_path):
    provider.line_of = lambda key, number: answered(key[:8])
    one = requests_of(1)[0].upper_bound_tokens
    with pytest.raises(TeacherError, match=r"no reply of batch .* bears the custom_id") as caught:
        bought(provider, tmp_path, 9, Terms(Limits(teacher_tokens=5 * one)))
    assert "teacher.delivery=live" in caught.value.hint
    assert sum(provider.billed.values()) == 5
    found = totals(tmp_path)
    assert (found["requests"], found["held_tokens"]) == ({"planned": 4, "unknown": 5}, 5 * one)


@pytest.mark.parametrize("has_counts", [True, False])
def test_a_reply_whose_key_was_changed_counts_as_spent(provider, tmp_path, capfd, has_counts):
    provider.has_counts = has_counts
    broken = requests_of(1)[0].key
    provider.line_of = lambda key, number: answered("nobody" if key == broken and len(provider.batches) == 1 else key)
    _, sums = bought(provider, tmp_path, 3)
    assert (sums["requests"], sums["lost_requests"]) == ({"ok": 3}, 1)
    assert "1 of 3 without a reply, they count as spent" in capfd.readouterr().err


@pytest.mark.parametrize(("is_whole_line", "has_counts"), [(True, True), (False, True), (False, False)])
def test_a_download_that_was_cut_without_a_word_is_fetched_again(provider, tmp_path, capfd, is_whole_line, has_counts):
    provider.has_counts = has_counts
    whole = {}

    def cut():
        name = next(one for one in provider.files if one.startswith("output"))
        if name in whole:
            provider.files[name] = whole[name]
            return
        whole[name] = provider.files[name]
        end = whole[name].index(b"\n") + 1
        provider.files[name] = whole[name][: end if is_whole_line else end + 50]

    provider.before["content"] = cut
    _, sums = bought(provider, tmp_path, 5)
    assert (sums["requests"], sums["lost_requests"], sums["held_tokens"]) == ({"ok": 5}, 0, 0)
    assert provider.calls.count("content") == 2
    assert capfd.readouterr().err.count("fetching them again") == 1


def test_a_reply_that_the_provider_counts_and_does_not_send_counts_as_spent(provider, tmp_path):
    provider.raw = lambda text: text if len(provider.batches) > 1 else "".join(text.splitlines(keepends=True)[:-1])
    _, sums = bought(provider, tmp_path, 3)
    assert (sums["requests"], sums["lost_requests"]) == ({"ok": 3}, 1)
    assert provider.calls.count("content") == batches.ATTEMPTS + 1


def test_a_reply_that_was_billed_and_cannot_be_read_counts_as_spent(provider, tmp_path, capfd):
    def raw(text):
        first, *others = text.splitlines(keepends=True)
        provider.raw = None  # the second batch is whole
        return first[:30] + "\n" + "".join(others)

    provider.raw = raw
    _, sums = bought(provider, tmp_path, 3)
    assert sums["requests"] == {"ok": 3}
    assert (sums["lost_requests"], sums["lost_tokens"]) == (1, requests_of(1)[0].upper_bound_tokens)
    err = capfd.readouterr().err
    assert "line 1 is no JSON" in err
    assert "1 of 3 without a reply, they count as spent" in err


def test_separators_of_unicode_within_a_reply_end_no_line(provider, tmp_path):
    text = "one\u2028two\x85three [[B]]"
    provider.line_of = lambda key, number: answered(key, completion(text))
    replies, _ = bought(provider, tmp_path, 2)
    assert {reply.text for reply in replies.values()} == {text}


def test_replies_that_come_later_than_the_end_are_awaited(provider, tmp_path, capfd):
    provider.late = 3
    assert bought(provider, tmp_path, 2)[1]["requests"] == {"ok": 2}
    assert len(provider.batches) == 1
    assert "it has ended, and its replies are not there; waiting on" in capfd.readouterr().err


# ---------------------------------------------------------------------------------------- calls that fail


@pytest.mark.parametrize("call", ["upload", "create", "retrieve", "content"])
@pytest.mark.parametrize("status", [429, 500, 503])
def test_a_provider_that_stumbles_is_asked_again(provider, tmp_path, call, status):
    left = [status, status, None, None]
    provider.before[call] = lambda: left.pop(0) if left else None
    assert bought(provider, tmp_path, 3)[1]["requests"] == {"ok": 3}
    assert set(provider.billed.values()) == {1}


@pytest.mark.parametrize("has_metadata", [True, False])
@pytest.mark.parametrize("fault", ["cut", "none"])
def test_a_batch_whose_creation_was_not_answered_is_found_again(provider, tmp_path, fault, has_metadata):
    provider.has_metadata = has_metadata
    for _ in range(3):  # strangers' batches, so that the list has pages
        provider.files["other"] = b""
        provider.create({"input_file_id": "other", "endpoint": "e", "completion_window": "24h"})
    if fault == "cut":
        provider.after["create"] = "cut"
    assert bought(provider, tmp_path, 3)[1]["requests"] == {"ok": 3}
    assert provider.calls.count("create") == 1
    assert set(provider.billed.values()) == {1}


def test_a_batch_that_was_perhaps_started_is_not_started_again_where_nobody_can_tell(provider, tmp_path):
    provider.after["create"] = "cut"
    provider.before["list"] = 404
    with pytest.raises(TeacherError, match=r"nobody knows whether batch .* was started") as caught:
        bought(provider, tmp_path, 3)
    assert provider.calls.count("create") == 1
    name = notes(tmp_path)[0]["name"]
    assert f"{name}.json is deleted" in caught.value.hint
    assert totals(tmp_path)["requests"] == {"reserved": 3}
    (tmp_path / "ledger.batches" / f"{name}.json").unlink()
    provider.after.clear()
    sums = bought(provider, tmp_path, 3)[1]
    assert (sums["requests"], sums["lost_requests"]) == ({"ok": 3}, 3)


def test_the_provider_s_list_is_looked_at_twice_and_a_clock_that_was_set_back_changes_nothing(
    provider, tmp_path, monkeypatch, capfd
):
    slept = []
    monkeypatch.setattr(batch_calls, "LISTED_SECONDS", 60.0)
    monkeypatch.setattr(batch_calls.time, "sleep", slept.append)
    with market(provider, tmp_path) as (teacher, _):
        find = batch_calls.Provider(teacher).find
        assert find("001", "file-1", time.time() + 9_999) is None
        assert (slept, provider.calls.count("list")) == ([60.0], 2)
        assert "looking once more in 60 s" in capfd.readouterr().err
        assert find("001", "file-1", time.time() - 61) is None
    assert (len(slept), provider.calls.count("list")) == (1, 3)


def test_the_search_in_the_provider_s_list_ends_at_batches_that_are_older(provider, tmp_path):
    provider.files["other"] = b""
    for _ in range(9):
        name = provider.create({"input_file_id": "other", "endpoint": "e", "completion_window": "24h"})["id"]
        provider.batches[name]["created_at"] -= 4 * 86_400
    with market(provider, tmp_path) as (teacher, _):
        assert batch_calls.Provider(teacher).find("001", "file-1", time.time()) is None
    assert provider.calls.count("list") == 1  # of five pages


@pytest.mark.parametrize(("call", "status"), [("upload", 404), ("upload", 401), ("create", 400)])
def test_a_provider_without_a_batch_mode_says_so_and_nothing_is_held(provider, tmp_path, call, status):
    provider.before[call] = status
    with pytest.raises(TeacherError) as caught:
        bought(provider, tmp_path, 3)
    assert "teacher.delivery=live" in caught.value.hint
    assert totals(tmp_path)["requests"] == {"planned": 3}
    assert totals(tmp_path)["held_tokens"] == 0


def test_a_server_that_is_gone_while_the_batch_runs_leaves_it_where_it_is(provider, tmp_path, monkeypatch):
    monkeypatch.setattr(batch_calls, "HOPELESS", 3)
    provider.before["retrieve"] = 500
    with pytest.raises(TeacherError, match="no word of batch") as caught:
        bought(provider, tmp_path, 3)
    assert "goes on waiting" in caught.value.hint
    assert totals(tmp_path)["requests"] == {"sent": 3}
    provider.before.clear()
    assert bought(provider, tmp_path, 3)[1]["requests"] == {"ok": 3}
    assert provider.calls.count("create") == 1


# ---------------------------------------------------------------------------------------- deaths and restarts


class Killed(BaseException):
    """The process is gone."""


STEPS = [
    *((Ledger, name) for name in ("plan", "reserve", "hand_over", "mark_sent", "settle", "release")),
    *((batch_calls.Provider, name) for name in ("upload", "create", "look", "content")),
    (batches, "write_text"),
    (batch_note, "write_json"),
]


def count_steps(monkeypatch, dies_at):
    """Let the process die before or after the step of that number; the list says which steps were taken."""
    taken = []

    def watched(owner, name, do):
        def work(*args, **options):
            for when in ("before", "after"):
                if when == "after":
                    result = do(*args, **options)
                taken.append(f"{when} {name}")
                if len(taken) == dies_at:
                    raise Killed(taken[-1])
            return result

        monkeypatch.setattr(owner, name, work)

    for owner, name in STEPS:
        watched(owner, name, getattr(owner, name))
    return taken


def expiring(provider):
    """The first batch expires after two replies, later ones are whole."""

    provider.status = lambda n: "expired" if n == 1 else "completed"
    provider.line_of = lambda key, number: (
        not_answered(key) if len(provider.batches) == 1 and number > 1 else answered(key)
    )


@pytest.mark.slow
def test_wherever_the_process_dies_each_request_is_billed_once_and_none_is_lost(provider, tmp_path, monkeypatch):
    monkeypatch.setattr(batches, "GROUP", 2)
    point, seen = 0, []
    while True:
        point += 1
        path = tmp_path / str(point)
        provider.forget()
        expiring(provider)
        with monkeypatch.context() as patch:
            count_steps(patch, point)
            try:
                bought(provider, path, 5)
            except Killed as where:
                seen.append(str(where))
            else:
                break
        replies, sums = bought(provider, path, 5)
        provider.finish()
        where = f"died {seen[-1]} ({point})"
        assert {reply.text for reply in replies.values()} == {ANSWER}, where
        assert set(provider.billed.values()) == {1}, where
        assert (sums["requests"], sums["lost_requests"], sums["held_tokens"]) == ({"ok": 5}, 0, 0), where
        assert sum(row["sends"] for row in _rows(path)) == 5, where
    assert len(seen) > 40
    assert {f"{when} {name}" for when in ("before", "after") for _, name in STEPS} == set(seen)


def test_while_a_batch_runs_nobody_takes_its_requests_for_lost(provider, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(batch_calls.Provider, "look", lambda *_: (_ for _ in ()).throw(Killed))
        with pytest.raises(Killed):
            bought(provider, tmp_path, 3)
    with closing(Ledger(tmp_path / "ledger.sqlite")) as ledger:
        assert ledger.reconcile() == 0
        assert ledger.totals()["requests"] == {"sent": 3}
        assert ledger.spent().requests == 3
        assert ledger.n_elsewhere() == 0


def test_a_live_start_fetches_what_an_earlier_one_left_in_a_batch(provider, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(batch_calls.Provider, "look", lambda *_: (_ for _ in ()).throw(Killed))
        with pytest.raises(Killed):
            bought(provider, tmp_path, 3)
    with market(provider, tmp_path) as (teacher, ledger):
        await_batches(requests_of(5), teacher, ledger, Terms(), batch_folder(tmp_path / "ledger.sqlite"))
        assert ledger.totals()["requests"] == {"ok": 3}
    assert provider.calls.count("create") == 1


def test_a_live_start_takes_back_what_the_provider_was_never_asked_to_start(provider, tmp_path):
    provider.before["upload"] = 500
    with pytest.raises(TeacherError, match="the file of a batch is not taken"):
        bought(provider, tmp_path, 3)
    assert totals(tmp_path)["requests"] == {"reserved": 3}
    with market(provider, tmp_path) as (teacher, ledger):
        await_batches(requests_of(5), teacher, ledger, Terms(), batch_folder(tmp_path / "ledger.sqlite"))
        assert ledger.totals()["requests"] == {"planned": 3}
    assert "create" not in provider.calls


def test_a_batch_at_another_server_is_not_bought_again_here(provider, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(batch_calls.Provider, "look", lambda *_: (_ for _ in ()).throw(Killed))
        with pytest.raises(Killed):
            bought(provider, tmp_path, 3)
    with batch_provider.served() as other, pytest.raises(TeacherError, match="names another server") as caught:
        bought(other, tmp_path, 3)
    assert f"teacher.base_url={provider.base_url}" in caught.value.hint
    assert other.calls == []


def left_by_another_recipe(provider, tmp_path, monkeypatch, dies_in="look"):
    """A batch whose requests nobody wants any more; the start that made it is dead."""
    with monkeypatch.context() as patch:
        patch.setattr(batch_calls.Provider, dies_in, lambda *_: (_ for _ in ()).throw(Killed))
        with pytest.raises(Killed):
            bought(provider, tmp_path, requests=others_of(4))
    assert {row["state"] for row in _rows(tmp_path)} == {"sent" if dies_in == "look" else "reserved"}


def test_the_account_names_a_batch_that_waits(provider, tmp_path, monkeypatch):
    left_by_another_recipe(provider, tmp_path, monkeypatch)
    found = account_of(tmp_path / "ledger.sqlite")
    (name,) = found.batches
    assert told(found)[-1].startswith(f"batch {name} holds 4 requests: set aside for")
    assert found.plain()["batches"] == {name: 4}


@pytest.mark.parametrize("is_live", [True, False])
def test_what_another_recipe_left_in_a_batch_is_fetched_and_nobody_waits_for_it(
    provider, tmp_path, monkeypatch, capfd, is_live
):
    left_by_another_recipe(provider, tmp_path, monkeypatch)

    def start():
        with market(provider, tmp_path) as (teacher, ledger):
            do = await_batches if is_live else buy_in_batches
            do(requests_of(3), teacher, ledger, Terms(), batch_folder(tmp_path / "ledger.sqlite"))

    provider.polls = 2
    looks = provider.calls.count("retrieve")
    start()
    assert "of another recipe, is in_progress, and is not waited for" in capfd.readouterr().err
    assert provider.batches["batch-1"]["looks"] == (1 if is_live else 2)
    provider.finish()
    start()
    found = totals(tmp_path)
    assert (found["requests"]["ok"], found["held_tokens"]) == (4 if is_live else 7, 0)
    assert provider.calls.count("create") == (1 if is_live else 2)
    assert provider.calls.count("retrieve") > looks


def test_what_is_wrong_with_a_batch_of_another_recipe_is_told_and_stops_nothing(provider, tmp_path, monkeypatch, capfd):
    left_by_another_recipe(provider, tmp_path, monkeypatch)
    gone = [404]
    provider.before["retrieve"] = lambda: gone.pop() if gone else None
    assert len(bought(provider, tmp_path, 3)[0]) == 3
    assert "of another recipe, is left: teach: no word of batch" in capfd.readouterr().err
    with batch_provider.served() as other:
        assert len(bought(other, tmp_path, requests=requests_of(5))[0]) == 5
    assert f"run once with teacher.base_url={provider.base_url}" in capfd.readouterr().err
    assert totals(tmp_path)["requests"] == {"ok": 5, "sent": 4}


@pytest.mark.parametrize("is_lost", [True, False])
def test_what_another_recipe_never_started_is_taken_back(provider, tmp_path, monkeypatch, is_lost):
    left_by_another_recipe(provider, tmp_path, monkeypatch, "create" if is_lost else "upload")
    bought(provider, tmp_path, 3)
    found = totals(tmp_path)
    assert (found["requests"], found["held_tokens"]) == ({"ok": 3, "planned": 4}, 0)
    assert provider.calls.count("create") == 1


def test_a_batch_that_another_process_emptied_meanwhile_is_left_alone(provider, tmp_path, monkeypatch):
    left_by_another_recipe(provider, tmp_path, monkeypatch)

    class Late(batches.FileLock):
        def acquire(self, *args, **options):
            with closing(Ledger(tmp_path / "ledger.sqlite")) as ledger:
                ledger.release(others_of(4))
            return super().acquire(*args, **options)

    monkeypatch.setattr(batches, "FileLock", Late)
    looks = provider.calls.count("retrieve")
    with market(provider, tmp_path) as (teacher, ledger):
        await_batches(others_of(4), teacher, ledger, Terms(), batch_folder(tmp_path / "ledger.sqlite"))
    assert provider.calls.count("retrieve") == looks


def test_a_batch_whose_note_is_damaged_is_not_guessed_at(provider, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(batch_calls.Provider, "look", lambda *_: (_ for _ in ()).throw(Killed))
        with pytest.raises(Killed):
            bought(provider, tmp_path, 3)
    (note,) = (tmp_path / "ledger.batches").glob("*.json")
    note.write_text("{")
    with pytest.raises(Exception, match="is damaged") as caught:
        bought(provider, tmp_path, 3)
    assert "its requests count as lost" in caught.value.hint


def test_two_processes_that_share_a_ledger_make_one_batch_of_what_both_want(provider, tmp_path):
    provider.polls = 10
    results = []
    threads = [threading.Thread(target=lambda: results.append(bought(provider, tmp_path, 6))) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert [len(replies) for replies, _ in results] == [6, 6, 6]
    assert set(provider.billed.values()) == {1}
    assert totals(tmp_path)["requests"] == {"ok": 6}
    assert not list((tmp_path / "ledger.batches").glob(".*.lock"))


CHILD = """
import sys
from pathlib import Path
from teachwise.teacher import batch_calls, batches
from teachwise.teacher.batch_note import batch_folder
from teachwise.teacher.buying import Terms
from teachwise.teacher.openai import OpenAiTeacher
from teachwise.teacher.ledger import Ledger
from teachwise.request import Request

batches.POLL_SECONDS, batch_calls.LISTED_SECONDS = 0.02, 0.0
path = Path(sys.argv[2])
requests = [Request("big", ({"role": "user", "content": f"question {i} ?"},), 64, 0.0, "1") for i in range(5)]
teacher = OpenAiTeacher("big", sys.argv[1], "TEST_TEACHER_KEY")
try:
    batches.buy_in_batches(requests, teacher, Ledger(path), Terms(), batch_folder(path))
except KeyboardInterrupt:
    sys.exit(130)
"""


def start(provider, path):
    words = [sys.executable, "-c", CHILD, provider.base_url, str(path / "ledger.sqlite")]
    return subprocess.Popen(words, stderr=subprocess.PIPE, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})


@pytest.mark.parametrize("call", ["upload", "create", "retrieve", "content"])
def test_a_real_kill_in_the_middle_of_a_call_loses_nothing(provider, tmp_path, call):
    here, killed = threading.Event(), threading.Event()

    def hang():
        here.set()
        killed.wait(30)

    provider.after[call] = hang
    child = start(provider, tmp_path)
    try:
        assert here.wait(60)
        child.send_signal(signal.SIGKILL)
        child.wait(30)
    finally:
        child.kill()
        killed.set()
        child.communicate()
    provider.after.clear()
    replies, sums = bought(provider, tmp_path, 5)
    provider.finish()
    assert {reply.text for reply in replies.values()} == {ANSWER}
    assert provider.calls.count("create") == 1
    assert set(provider.billed.values()) == {1}
    assert (sums["requests"], sums["lost_requests"]) == ({"ok": 5}, 0)


def test_ctrl_c_while_waiting_says_that_the_batch_runs_on(provider, tmp_path):
    here = threading.Event()
    provider.polls = 10**6
    provider.before["retrieve"] = lambda: here.set()
    child = start(provider, tmp_path)
    try:
        assert here.wait(60)
        child.send_signal(signal.SIGINT)
        _, err = child.communicate(timeout=30)
    finally:
        child.kill()
    assert child.returncode == 130
    assert "runs on at the provider; the same command fetches what it brings" in err
    provider.polls = 0
    assert bought(provider, tmp_path, 5)[1]["requests"] == {"ok": 5}
    assert provider.calls.count("create") == 1
