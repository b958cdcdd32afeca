"""ledger: every reply is paid once, no cap is passed, and no kill loses what was committed."""

import os
import signal
import sqlite3
import subprocess
import sys
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from teachwise.ledger import Ledger, Reply, Request

REQUEST = Request("big", ({"role": "user", "content": "1 + 1?"},), 100, 0.0, "mc-1")
REPLY = Reply("Two. [[B]]", "stop", 12, 30)
BOUND = REQUEST.upper_bound_tokens


def numbered(number):
    return replace(REQUEST, sample=number)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "run" / "ledger.sqlite"


@pytest.fixture
def ledger(path):
    opened = Ledger(path)
    yield opened
    opened.close()


# what makes two requests the same


@pytest.mark.parametrize(
    "change",
    [
        {"model": "bigger"},
        {"messages": ({"role": "user", "content": "1 + 1? "},)},
        {"messages": ({"role": "system", "content": "1 + 1?"},)},
        {"messages": (*REQUEST.messages, {"role": "user", "content": ""})},
        {"max_tokens": 101},
        {"temperature": 0.1},
        {"prompt_version": "mc-2"},
        {"sample": 1},
    ],
)
def test_everything_that_can_change_the_reply_is_in_the_key(change):
    assert replace(REQUEST, **change).key != REQUEST.key


def test_how_a_message_is_written_down_is_not_in_the_key():
    turned = replace(REQUEST, messages=({"content": "1 + 1?", "role": "user"},))
    assert turned.key == REQUEST.key
    assert set(vars(REQUEST)) == {"model", "messages", "max_tokens", "temperature", "prompt_version", "sample"}


def test_the_key_does_not_change_between_versions():
    assert REQUEST.key == "2f91475c43ad0d68"


@pytest.mark.parametrize(
    ("text", "tokens"), [("", 116), ("abc", 119), ("é", 118), ("漢字", 122)], ids=["empty", "ascii", "accent", "cjk"]
)
def test_the_upper_bound_counts_bytes_since_a_token_may_be_one(text, tokens):
    assert replace(REQUEST, messages=({"role": "user", "content": text},)).upper_bound_tokens == tokens


# the life of a request


def test_reserve_then_settle_then_the_reply_is_there(ledger, path):
    assert ledger.reply(REQUEST) is None
    assert ledger.reserve(REQUEST, None)
    assert ledger.reply(REQUEST) is None
    assert ledger.spent_tokens() == BOUND
    ledger.settle(REQUEST, REPLY)
    assert ledger.reply(REQUEST) == REPLY
    assert ledger.spent_tokens() == 42
    ledger.close()
    again = Ledger(path)
    assert again.reply(REQUEST) == REPLY
    assert again.totals() == {
        "requests": {"done": 1},
        "prompt_tokens": 12,
        "completion_tokens": 30,
        "lost_tokens": 0,
    }
    again.close()


def test_a_done_request_is_never_sent_again(ledger):
    ledger.reserve(REQUEST, None)
    ledger.settle(REQUEST, REPLY)
    with pytest.raises(ValueError, match="is done"):
        ledger.reserve(REQUEST, None)
    assert ledger.reply(REQUEST) == REPLY
    assert ledger.spent_tokens() == 42


def test_a_failed_request_has_no_reply_costs_nothing_and_is_asked_again(ledger, path):
    ledger.reserve(REQUEST, None)
    ledger.settle(REQUEST, Reply("", "error", 0, 0, error="BadRequestError: too long"))
    assert ledger.reply(REQUEST) is None
    assert ledger.spent_tokens() == 0
    assert ledger.totals()["requests"] == {"failed": 1}
    assert ledger.reserve(REQUEST, BOUND)
    ledger.settle(REQUEST, REPLY)
    assert ledger.reply(REQUEST) == REPLY
    assert ledger.totals()["lost_tokens"] == 0


def test_what_was_in_flight_when_a_process_died_stays_counted_and_is_lost_when_asked_again(path):
    first = Ledger(path)
    first.reserve(REQUEST, None)  # and here the process dies
    first.close()
    second = Ledger(path)
    assert second.totals()["requests"] == {"unknown": 1}
    assert second.spent_tokens() == BOUND
    assert second.reply(REQUEST) is None
    assert not second.reserve(REQUEST, 2 * BOUND - 1)
    assert second.spent_tokens() == BOUND
    assert second.reserve(REQUEST, 2 * BOUND)
    assert second.spent_tokens() == 2 * BOUND
    second.settle(REQUEST, REPLY)
    assert second.spent_tokens() == BOUND + 42
    assert second.totals()["lost_tokens"] == BOUND
    second.close()


def test_a_request_that_dies_twice_is_lost_twice(path):
    for _ in range(3):
        ledger = Ledger(path)
        assert ledger.reserve(REQUEST, None)
        ledger.close()
    ledger = Ledger(path)
    assert ledger.spent_tokens() == 3 * BOUND
    assert ledger.totals()["lost_tokens"] == 2 * BOUND
    ledger.close()


# the cap


@pytest.mark.parametrize(("cap", "sent"), [(None, True), (0, False), (BOUND - 1, False), (BOUND, True)])
def test_a_request_is_sent_only_if_its_upper_bound_fits(ledger, cap, sent):
    assert ledger.reserve(REQUEST, cap) is sent
    assert ledger.totals()["requests"] == ({"sent": 1} if sent else {})


@given(
    cap=st.integers(0, 12 * BOUND),
    events=st.lists(
        st.tuples(st.integers(0, 7), st.integers(0, BOUND), st.sampled_from(["done", "failed", "died"])), max_size=12
    ),
)
@settings(max_examples=25)
def test_the_cap_is_never_passed_whatever_comes_back(tmp_path_factory, cap, events):
    path = tmp_path_factory.mktemp("cap") / "ledger.sqlite"
    ledger = Ledger(path)
    for number, tokens, end in events:
        request = numbered(number)
        if ledger.reply(request) is None and ledger.reserve(request, cap):
            assert ledger.spent_tokens() <= cap
            if end == "died":
                ledger.close()
                ledger = Ledger(path)
            else:
                ledger.settle(request, Reply("", "stop", tokens, 0, error=None if end == "done" else "refused"))
        assert ledger.spent_tokens() <= cap
    ledger.close()


# a real kill

WRITER = """
import sys
from dataclasses import replace
from pathlib import Path
from teachwise.ledger import Ledger, Reply, Request
request = Request("big", ({"role": "user", "content": "1 + 1?"},), 100, 0.0, "mc-1")
ledger = Ledger(Path(sys.argv[1]))
for number in range(1, 1_000_000):
    one = replace(request, sample=number)
    ledger.reserve(one, None)
    ledger.settle(one, Reply(f"reply {number} " + "x" * 3000, "stop", 12, 30))
    print(number, flush=True)
"""


@pytest.mark.parametrize("wanted", [1, 7, 40])
def test_kill_9_loses_no_committed_reply(path, wanted):
    writer = subprocess.Popen([sys.executable, "-c", WRITER, str(path)], stdout=subprocess.PIPE, text=True)
    for _ in range(wanted):
        writer.stdout.readline()
    os.kill(writer.pid, signal.SIGKILL)
    said = wanted + sum(line.endswith("\n") for line in writer.communicate()[0].splitlines(keepends=True))
    assert writer.returncode == -signal.SIGKILL
    ledger = Ledger(path)
    for number in range(1, said + 1):
        assert ledger.reply(numbered(number)).text.startswith(f"reply {number} xxx")
    states = ledger.totals()["requests"]
    assert said <= states["done"] <= said + 1
    assert states.get("unknown", 0) <= 1
    assert ledger.spent_tokens() == 42 * states["done"] + BOUND * states.get("unknown", 0)
    ledger.close()
    assert sqlite3.connect(path).execute("PRAGMA integrity_check").fetchone() == ("ok",)
