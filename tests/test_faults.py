"""`bench/faults.py`: the client survives kills and faults, and the bench would notice if it did not."""

import json
import os
import signal
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from teachwise.request import Reply, Request
from teachwise.teacher.ledger import Ledger
from teachwise.teacher.openai import OpenAiTeacher

BENCH = Path(__file__).parents[1] / "bench"
MOST_SECONDS = 240
RIGHT = {"a": ("one", "stop"), "b": ("two", "stop")}


@pytest.fixture
def bench(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCH))
    import faults

    return faults


def play(tmp_path, *arguments):
    """The bench in processes of its own; what it said and its exit status."""
    process = subprocess.Popen(
        [sys.executable, str(BENCH / "faults.py"), *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "TMPDIR": str(tmp_path)},
        start_new_session=True,
    )
    try:
        said, _ = process.communicate(timeout=MOST_SECONDS)
    except subprocess.TimeoutExpired:
        pytest.fail(f"the client hangs, or the machine is very slow: not done in {MOST_SECONDS} seconds")
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    return said, process.returncode


@pytest.mark.slow
def test_kills_and_faults_lose_nothing_and_nothing_is_paid_twice(tmp_path):
    said, code = play(tmp_path, "--quick")
    found = json.loads(said.splitlines()[-1])
    assert code == 0, said
    assert found.pop("unknown") > 0
    assert found == {"kill_points": 12, "lost": 0, "resent": 0, "paid_twice": 0, "cap_exceeded": 0}


@pytest.mark.slow
@pytest.mark.parametrize(("broken", "harm"), [("commits_late", "paid_twice"), ("ignores_cap", "cap_exceeded")])
def test_the_bench_finds_a_client_that_is_wrong_on_purpose(tmp_path, broken, harm):
    said, code = play(tmp_path, "--kills", "5", "--requests", "160", "--broken", broken)
    assert code == 1, said
    assert json.loads(said.splitlines()[-1])[harm] > 0


def line(n, key, run=0, billed=True, whole=True, tokens=10):
    """An arrival and its outcome, as the server logs them."""
    facts = {"n": n, "round": "r", "run": str(run), "key": key}
    counts = {"prompt_tokens": tokens, "completion_tokens": 0} if billed else {}
    outcome = {"event": "outcome", **facts, "fault": "none", "billed": billed, "whole": whole, **counts}
    return [{"event": "arrival", **facts}, outcome]


def whole(bench, **fields):
    """A round that ended with all replies."""
    return bench.Round("r", 2, 1, 1000, end=bench.Committed(RIGHT), is_finished=True, is_whole=True, **fields)


def counts(bench, one, *lines):
    found = bench.audit(one, [row for pair in lines for row in pair], RIGHT)
    return {name: found[name] for name in bench.TOTALS if found[name]}


def test_each_request_once_is_no_harm(bench):
    assert counts(bench, whole(bench), line(1, "a"), line(2, "b")) == {}


def test_turned_away_and_asked_again_is_no_harm(bench):
    assert counts(bench, whole(bench), line(1, "a", billed=False, whole=False), line(2, "a"), line(3, "b")) == {}


def test_a_reply_that_never_came_is_asked_again_as_unknown(bench):
    assert counts(bench, whole(bench), line(1, "a", whole=False), line(2, "a"), line(3, "b")) == {"unknown": 1}


def test_a_reply_that_came_and_is_billed_again_is_paid_twice(bench):
    assert counts(bench, whole(bench), line(1, "a"), line(2, "a"), line(3, "b")) == {"paid_twice": 1}


def test_an_unknown_billing_before_excuses_no_later_one(bench):
    asked = (line(1, "a", whole=False), line(2, "a"), line(3, "a"))
    assert counts(bench, whole(bench), *asked) == {"unknown": 1, "paid_twice": 1}


def test_a_kill_excuses_what_the_ledger_says_is_under_way(bench):
    one = whole(bench, killed={0: bench.Committed({}, frozenset("a"))})
    assert counts(bench, one, line(1, "a"), line(2, "a", run=1), line(3, "b", run=1)) == {"unknown": 1}


def test_a_kill_does_not_excuse_what_the_ledger_forgot(bench):
    one = whole(bench, killed={0: bench.Committed()})
    assert counts(bench, one, line(1, "a"), line(2, "a", run=1), line(3, "b", run=1)) == {"paid_twice": 1}


def test_a_kill_excuses_no_more_than_may_be_in_flight(bench):
    one = whole(bench, killed={0: bench.Committed({}, frozenset("ab"))})
    asked = (line(1, "a"), line(2, "b"), line(3, "a", run=1), line(4, "b", run=1))
    assert counts(bench, one, *asked) == {"unknown": 1, "paid_twice": 1}


def test_what_was_on_the_disk_and_arrives_again_is_resent_even_if_it_is_not_billed(bench):
    one = whole(bench, killed={0: bench.Committed({"a": RIGHT["a"]})})
    again = line(2, "a", run=1, billed=False, whole=False)
    assert counts(bench, one, line(1, "a"), again, line(3, "b", run=1)) == {"resent": 1}


@pytest.mark.parametrize("end", [{"a": RIGHT["a"]}, {**RIGHT, "b": ("one", "stop")}, {**RIGHT, "b": ("two", "length")}])
def test_what_is_missing_wrong_or_cut_at_the_end_is_lost(bench, end):
    one = whole(bench)
    one.end = bench.Committed(end)
    assert counts(bench, one, line(1, "a"), line(2, "b")) == {"lost": 1}


def test_a_round_that_ends_at_its_cap_loses_only_what_was_there_once(bench):
    one = bench.Round("r", 2, 1, 10, end=bench.Committed({"a": RIGHT["a"]}), is_finished=True)
    assert counts(bench, one, line(1, "a")) == {}
    one.killed = {0: bench.Committed({"b": RIGHT["b"]})}
    assert counts(bench, one, line(1, "a", run=1)) == {"lost": 1}


def test_every_completion_beyond_the_cap_counts(bench):
    one = whole(bench)
    one.cap_tokens = 15
    assert counts(bench, one, line(1, "a"), line(2, "b"), line(3, "c")) == {"cap_exceeded": 2}


def test_a_ledger_is_read_without_changing_it(bench, tmp_path):
    from faulty_server import key_of

    requests = bench.wanted(3)[:3]
    ledger = Ledger(tmp_path / "ledger.sqlite")
    ledger.reserve(requests[:2])
    ledger.settle([(requests[0], Reply("so", "stop", 1, 1))])
    files = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    found = bench.look(tmp_path / "ledger.sqlite", tmp_path / "copy")
    assert {name: (tmp_path / name).read_bytes() for name in files} == files
    ledger.close()
    assert found.results == {key_of(requests[0].messages): ("so", "stop")}
    assert found.sent == {key_of(requests[1].messages)}


class SendsTwice(BaseHTTPRequestHandler):
    """Answers with the question, twice in one go."""

    protocol_version = "HTTP/1.1"

    def do_POST(self):
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))["messages"][0]["content"]
        choice = {"index": 0, "message": {"role": "assistant", "content": f"to {asked}"}, "finish_reason": "stop"}
        usage = {"prompt_tokens": 1, "completion_tokens": 2}
        said = json.dumps({"id": "1", "object": "chat.completion", "created": 0, "choices": [choice], "usage": usage})
        head = f"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {len(said)}\r\n\r\n"
        self.wfile.write((head + said).encode() * 2)

    def log_message(self, *_):
        pass


def test_what_is_left_of_one_reply_is_never_taken_for_the_next():
    with ThreadingHTTPServer(("127.0.0.1", 0), SendsTwice) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        teacher = OpenAiTeacher("big", f"http://127.0.0.1:{server.server_port}/v1", timeout_seconds=10)
        asked = [Request("big", ({"role": "user", "content": text},), 9, 0.0, "1") for text in "abcd"]
        said = [teacher.ask(request).result().text for request in asked]  # one after the other
        teacher.close()
        server.shutdown()
    assert said == ["to a", "to b", "to c", "to d"]


def test_the_replay_says_so_where_the_recording_is_absent(tmp_path):
    command = [sys.executable, str(BENCH / "replay.py"), "--data", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "nothing measured" in done.stdout


def test_the_recording_has_a_rationale_for_every_question_of_the_top_quarter(bench, shared_data):
    import replay

    rows = replay.recorded(shared_data)
    assert len(rows) == 2975
    assert all(text for _, text in rows.values())
    assert {request.max_tokens for request, _ in rows.values()} == {4096}
