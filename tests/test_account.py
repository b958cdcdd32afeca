"""account: what a ledger was spent on adds up to what counts against the budget, for live, killed and bare ledgers."""

import json
from contextlib import closing
from dataclasses import replace

import pytest

from teachwise import cli
from teachwise.account import Sum, account_of, export_requests, told
from teachwise.errors import DataError
from teachwise.request import Reply, Request, no_reply
from teachwise.run_folder import RESOLVED, write_text
from teachwise.tasks import load_task
from teachwise.teach import requests_for
from teachwise.teacher.ledger import Ledger
from teachwise.teacher.lifeline import locks_held
from teachwise.teacher.prices import Price
from test_plan import PRICES, UNITS, N, recipe, routed  # noqa: F401 - fixtures

REQUEST = Request("big", ({"role": "user", "content": "1 + 1?"},), 100, 0.0, "v")
PRICE = Price(1.0, 4.0, 0.25, version="the test")


@pytest.fixture
def bare(tmp_path):
    """A ledger with a request in every state."""
    path = tmp_path / "shared.sqlite"
    requests = [replace(REQUEST, sample=n) for n in range(8)]
    with closing(Ledger(path)) as ledger:
        ledger.plan(requests)
        ledger.reserve(requests[:5], price=PRICE)
        ledger.settle(
            [
                (requests[0], Reply("so [[A]]", "stop", 50, 30, cached_tokens=20, reasoning="hm", logprobs='{"a": 1}')),
                (requests[1], Reply("and so", "length", 50, 100)),
                (requests[2], Reply("", "content_filter", 10, 0)),
                (requests[3], no_reply("BadRequestError: too long")),
                (requests[4], no_reply("APITimeoutError", "unanswered")),
            ]
        )
        ledger.reserve([replace(REQUEST, model="other", sample=99)])  # and here the process dies

    with closing(Ledger(path)) as again:  # one of unknown outcome is asked again, and lost
        again.reserve([requests[4]], price=PRICE)
        again.settle([(requests[4], Reply("late [[A]]", "stop", 40, 20))])
    return path


def spent(path):
    with closing(Ledger(path)) as ledger:
        return ledger.spent()


def test_all_states_and_models_add_up_to_what_counts_against_the_budget(bare):
    found, counted = account_of(bare), spent(bare)
    assert (found.total.tokens, found.total.sends) == (counted.tokens, counted.requests)
    assert found.total.usd == pytest.approx(counted.usd)
    assert found.total.unpriced == counted.unpriced
    for sums in (found.states, found.models):
        assert sum(one.tokens for one in sums.values()) == counted.tokens
        assert sum(one.requests for one in sums.values()) == found.total.requests
    assert set(found.models) == {"big", "other"}
    assert {"ok", "truncated", "refused", "failed", "unknown", "planned"} == set(found.states)
    assert found.states["ok"].requests == 2


def test_unknown_and_lost_are_shown_apart(bare):
    found = account_of(bare)
    assert found.states["unknown"].held_tokens == REQUEST.upper_bound_tokens
    assert found.states["ok"].lost_tokens == REQUEST.upper_bound_tokens
    assert found.states["ok"].prompt_tokens == 90
    assert "nobody knows whether they were billed" in "\n".join(told(found))


def test_cached_tokens_are_priced_apart(bare):
    usd = (30 * 1.0 + 20 * 0.25 + 30 * 4.0 + 40 * 1.0 + 20 * 4.0) / 1e6
    lost = (REQUEST.prompt_bound_tokens * 1.0 + 100 * 4.0) / 1e6
    assert account_of(bare).states["ok"].usd == pytest.approx(usd + lost)


def test_a_bare_ledger_knows_no_arms_and_is_left_as_it_is(bare):
    found = account_of(bare)
    assert found.arms == {}
    assert found.others == found.total
    assert "arm" not in "\n".join(told(found))
    assert account_of(bare) == found


def contents(folder):
    """All files of a folder; SQLite marks in `-shm` who reads."""
    return {file.name: file.read_bytes() if file.suffix != ".sqlite-shm" else b"" for file in folder.iterdir()}


def test_a_ledger_that_a_kill_left_is_told_right_and_stays_as_it_is(bare, tmp_path):
    (tmp_path / "left").mkdir()
    with closing(Ledger(bare)) as ledger:
        ledger.reserve([replace(REQUEST, sample=50)])
        for file in tmp_path.glob("*shared.sqlite*"):
            (tmp_path / "left" / file.name).write_bytes(file.read_bytes())  # locks are not copied, so its owner is dead
    left = tmp_path / "left" / "shared.sqlite"
    before = contents(left.parent)
    assert {name.rpartition(".")[2] for name in before} == {"sqlite", "sqlite-wal", "sqlite-shm", "lock"}
    found = account_of(left)
    assert found.states["unknown"].requests == 2
    assert "sent" not in found.states
    assert export_requests(left, tmp_path / "out.jsonl") == 10
    assert contents(left.parent) == before


def test_what_is_closed_is_read_without_a_file_beside_it(bare):
    before = contents(bare.parent)
    account_of(bare)
    assert contents(bare.parent) == before


def test_what_a_living_process_has_under_way_is_told_as_such(bare):
    with closing(Ledger(bare)) as ledger:
        ledger.reserve([replace(REQUEST, sample=50)])
        found = account_of(bare)
        assert (found.under_way, found.states["sent"].requests) == (1, 1)
        assert "1 request is under way in another process" in "\n".join(told(found))
    found = account_of(bare)
    assert (found.under_way, found.states["unknown"].requests) == (0, 2)


def test_a_lock_that_may_not_be_tried_counts_as_held(bare, monkeypatch):
    def refuse(*given, **named):
        raise PermissionError(13, "Permission denied")

    lock = bare.with_name(".shared.sqlite.one.lock")
    lock.touch()
    assert locks_held(bare) == []
    monkeypatch.setattr("teachwise.teacher.lifeline.FileLock", refuse)
    assert locks_held(bare) == [lock]


@pytest.fixture
def taught(recipe, routed):  # noqa: F811
    """A run that was killed in the middle of `teach`: half of what it wants is there, one request is under way."""
    asked = recipe(budget={"prices": PRICES})
    write_text(routed.run.root / RESOLVED, asked.yaml())
    task = load_task(asked.data.task, **asked.data.task_options())
    requests = requests_for(asked, task, routed.train)
    with closing(Ledger(asked.ledger_at(routed.run.root))) as ledger:
        ledger.reserve(requests[20:], price=asked.price)
        ledger.settle((one, Reply("so [[A]]", "stop", 50, 30)) for one in requests[21:])
    return routed.run.root


def test_each_arm_is_shown_with_what_it_would_pay_alone_and_all_paid_once(taught):
    found = account_of(taught)
    assert {name: arm.requests for name, arm in found.arms.items()} == {"banded": 10, "distill": 20}
    assert found.arms["banded"].tokens == 10 * 80
    assert found.arms["banded"].usd == pytest.approx(0.8)
    assert found.once.usd == pytest.approx(found.arms["distill"].usd)
    assert replace(found.once, usd=0.0) == replace(found.arms["distill"], usd=0.0), "what banded wants was paid once"
    assert (found.total.requests, found.total.tokens) == (found.once.requests, found.once.tokens)
    assert found.states["unknown"].requests == 1, "the process died with one under way"
    assert found.others.requests == 0
    lines = told(found)
    assert any(line.startswith("paid once") for line in lines)


def test_requests_of_other_runs_in_the_same_ledger_are_told_apart(taught):
    with closing(Ledger(taught / "ledger.sqlite")) as ledger:
        ledger.reserve([REQUEST])
        ledger.settle([(REQUEST, Reply("so", "stop", 7, 3))])
    found = account_of(taught)
    assert (found.others.requests, found.others.tokens) == (1, 10)
    assert found.arms["distill"].requests == 20
    assert "wanted by no arm of this run: 1 request, 10 teacher tokens" in "\n".join(told(found))


def test_a_second_try_belongs_to_its_arm(recipe, routed):  # noqa: F811
    asked = recipe({"temperature": 0.7}, keep="correct_or_ask_again(2)")
    write_text(routed.run.root / RESOLVED, asked.yaml())
    task = load_task(asked.data.task, **asked.data.task_options())
    (first,) = requests_for(asked, task, routed.train[:1])
    with closing(Ledger(asked.ledger_at(routed.run.root))) as ledger:
        for request, text in ((first, "so [[B]]"), (replace(first, sample=1), "so [[A]]")):
            ledger.reserve([request])
            ledger.settle([(request, Reply(text, "stop", 50, 30))])
    found = account_of(routed.run.root)
    assert found.arms["distill"].requests == 2
    assert found.others.requests == 0


def test_a_run_before_route_has_no_arms_and_before_teach_no_ledger(recipe, put):  # noqa: F811
    write_text(put.run.root / RESOLVED, recipe().yaml())
    with pytest.raises(DataError, match="no ledger yet"):
        account_of(put.run.root)
    Ledger(put.run.root / "ledger.sqlite").close()
    assert account_of(put.run.root).total == Sum()
    with pytest.raises(DataError, match="no run folder and no ledger"):
        account_of(put.run.root / "nowhere")
    assert not (put.run.root / "nowhere").exists()


def test_the_export_has_every_request_with_its_reply(bare, tmp_path):
    assert export_requests(bare, tmp_path / "out.jsonl") == 9
    rows = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    by = {(row["request"]["model"], row["request"]["sample"]): row for row in rows}
    first = by["big", 0]
    assert first["reply"] == {"text": "so [[A]]", "reasoning": "hm", "finish_reason": "stop"}
    assert (first["logprobs"], first["prices"]) == ({"a": 1}, "the test")
    assert first["usd"] == pytest.approx((30 * 1.0 + 20 * 0.25 + 30 * 4.0) / 1e6)
    assert first["request"]["messages"] == list(REQUEST.messages)
    assert (by["big", 3]["reply"], by["big", 3]["error"]) == (None, "BadRequestError: too long")
    assert (by["other", 99]["state"], by["other", 99]["reply"], by["other", 99]["usd"]) == ("unknown", None, None)
    assert by["big", 7]["state"] == "planned"
    assert first["changed_at"].startswith("20")


def test_a_ledger_is_never_written_over_by_its_export(bare):
    with pytest.raises(DataError, match="is the ledger itself"):
        export_requests(bare, bare)
    assert account_of(bare).total.requests == 9


@pytest.mark.parametrize(
    "content", [b"no database at all, but a text of some length" * 40, b"SQLite format 3\0" + b"x" * 900]
)
def test_a_damaged_ledger_is_the_usual_message(tmp_path, content):
    path = tmp_path / "ledger.sqlite"
    path.write_bytes(content)
    with pytest.raises(DataError, match=str(path)):
        account_of(path)
    assert path.read_bytes() == content


def test_the_command_prints_columns_or_json(bare, capsys, monkeypatch, tmp_path):
    monkeypatch.setattr("sys.argv", ["teachwise", "ledger", str(bare)])
    cli.main()
    assert "truncated" in capsys.readouterr().out
    monkeypatch.setattr("sys.argv", ["teachwise", "ledger", str(bare), "--json"])
    cli.main()
    found = json.loads(capsys.readouterr().out)
    assert found["total"]["tokens"] == spent(bare).tokens
    assert found["states"]["ok"]["requests"] == 2
    monkeypatch.setattr("sys.argv", ["teachwise", "ledger", str(bare), "--export", str(tmp_path / "o.jsonl"), "--json"])
    cli.main()
    out, err = capsys.readouterr()
    assert json.loads(out) == found
    assert err == f"9 requests -> {tmp_path / 'o.jsonl'}\n"
