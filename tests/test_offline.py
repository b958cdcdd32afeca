"""Requests in files that are answered elsewhere, from the command to the file and back."""

import json
from contextlib import closing

import pytest

import batch_provider
from batch_provider import ANSWER, answered, completion, not_answered
from complaint import assert_told, teachwise, write_recipe
from teachwise.errors import GateError, RecipeError
from teachwise.recipe import load_recipe
from teachwise.request import Request
from teachwise.teacher.buying import Terms
from teachwise.teacher.ledger import Ledger
from teachwise.teacher.offline import buy_from_files
from teachwise.teacher.prices import Limits


def requests_of(n):
    return [Request("big", ({"role": "user", "content": f"question {i} ?"},), 64, 0.0, "1") for i in range(n)]


@pytest.fixture
def buy(tmp_path):
    """Buys n requests through files in `tmp_path / "offline"`."""

    def do(n=4, terms=None):
        with closing(Ledger(tmp_path / "ledger.sqlite")) as ledger:
            return buy_from_files(requests_of(n), "max_tokens", ledger, terms or Terms(), tmp_path / "offline")

    return do


@pytest.fixture
def totals(tmp_path):
    def find():
        with closing(Ledger(tmp_path / "ledger.sqlite")) as ledger:
            return ledger.totals()

    return find


def asked(folder):
    """Keys of the requests that wait in files, in order."""
    files = sorted(folder.glob("**/offline/requests-*.jsonl"))
    return [json.loads(line)["custom_id"] for file in files for line in file.read_text().splitlines()]


def put(folder, name, *lines):
    text = "".join((line if isinstance(line, str) else json.dumps(line)) + "\n" for line in lines)
    (folder / "offline" / f"replies-{name}.jsonl").write_text(text)


KEYS = [one.key for one in requests_of(9)]


def test_requests_are_written_and_the_gate_says_what_to_do(buy, totals, tmp_path):
    with pytest.raises(GateError, match=r"4 requests wait to be answered in .*requests-001\.jsonl") as caught:
        buy()
    assert "vllm run-batch -i" in caught.value.hint
    assert "replies-001.jsonl --model big" in caught.value.hint
    assert asked(tmp_path) == KEYS[:4]
    found = totals()
    assert found["requests"] == {"planned": 4}
    assert found["held_tokens"] == 0


def test_replies_are_read_and_only_the_rest_is_written_out_again(buy, totals, tmp_path, capfd):
    with pytest.raises(GateError):
        buy()
    put(tmp_path, "a", answered(KEYS[0]), "{garbage", answered("nobody"), answered(KEYS[2]))
    with pytest.raises(GateError, match="2 requests wait"):
        buy()
    err = " ".join(capfd.readouterr().err.split())
    assert "replies-a.jsonl: line 2 is no JSON; line 3 is for a request that nobody asked" in err
    assert asked(tmp_path) == [KEYS[1], KEYS[3]]
    assert totals()["requests"] == {"ok": 2, "planned": 2}
    put(tmp_path, "b", answered(KEYS[1]), answered(KEYS[3]))
    assert {reply.text for reply in buy().values()} == {ANSWER}
    assert asked(tmp_path) == []
    assert totals()["requests"] == {"ok": 4}
    assert sum(totals()[name] for name in ("lost_requests", "held_tokens")) == 0


def test_of_several_replies_the_first_counts_and_a_reply_comes_before_an_error(buy, tmp_path):
    with pytest.raises(GateError):
        buy(2)
    error = answered(KEYS[1], {"error": {"message": "too long"}}, 400)
    put(tmp_path, "1", answered(KEYS[0]), answered(KEYS[0], completion("the second")), error)
    put(tmp_path, "2", answered(KEYS[1], completion("at last [[A]]")), answered(KEYS[0], completion("the third")))
    replies = buy(2)
    assert [replies[key].text for key in KEYS[:2]] == [ANSWER, "at last [[A]]"]


def test_an_error_is_an_outcome_until_its_line_is_deleted(buy, totals, tmp_path, capfd):
    with pytest.raises(GateError):
        buy(2)
    put(tmp_path, "1", answered(KEYS[0]), {"custom_id": KEYS[1], "response": {"status_code": 400}, "error": "too long"})
    for _ in range(2):
        assert buy(2)[KEYS[1]].error == "400: too long"
        assert "line 2 has no reply: 400: too long (delete it to have it asked again)" in " ".join(
            capfd.readouterr().err.split()
        )
    assert totals()["requests"] == {"failed": 1, "ok": 1}
    put(tmp_path, "1", answered(KEYS[0]))
    with pytest.raises(GateError, match="1 requests wait"):
        buy(2)


@pytest.mark.parametrize(
    "line",
    [
        not_answered(KEYS[0], "batch_expired"),
        answered(KEYS[0], {"error": {"message": "slow"}}, 429),
        answered(KEYS[0], {"error": {"message": "late"}}, 504),
        answered(KEYS[0], {"what": "is this"}),
    ],
)
def test_a_line_that_says_nothing_final_is_told_and_its_request_written_out_again(buy, totals, tmp_path, capfd, line):
    with pytest.raises(GateError):
        buy(1)
    put(tmp_path, "1", line)
    with pytest.raises(GateError, match="1 requests wait"):
        buy(1)
    assert "line 1 has no reply: " in capfd.readouterr().err
    assert totals()["requests"] == {"planned": 1}


def test_no_more_is_written_than_the_limits_bear_and_what_is_there_counts_whatever_they_say(buy, totals, tmp_path):
    two = Terms(Limits(teacher_tokens=2 * requests_of(1)[0].upper_bound_tokens))
    with pytest.raises(GateError, match="2 requests wait"):
        buy(4, two)
    assert asked(tmp_path) == KEYS[:2]
    put(tmp_path, "1", answered(KEYS[0]), answered(KEYS[1]))
    tiny = Terms(Limits(teacher_tokens=10))
    with pytest.raises(GateError, match="budget spent"):
        buy(4, tiny)
    assert totals()["requests"] == {"ok": 2, "planned": 2}
    assert len(buy(4, Terms(Limits(teacher_tokens=10), is_partial=True))) == 2


def test_wherever_the_process_dies_no_request_becomes_unknown_and_no_reply_counts_twice(
    buy, totals, tmp_path, monkeypatch
):
    class Killed(BaseException):
        pass

    def dies_after(name):
        do = getattr(Ledger, name)

        def work(*args, **options):
            do(*args, **options)
            raise Killed

        return work

    for name in ("plan", "reserve", "settle"):
        with monkeypatch.context() as patch:
            patch.setattr(Ledger, name, dies_after(name))
            with pytest.raises(Killed):
                buy(2)
        assert totals()["requests"] == {"planned": 2}
    with pytest.raises(GateError):
        buy(2)
    put(tmp_path, "1", answered(KEYS[0]), answered(KEYS[1]))
    for name in ("reserve", "settle"):
        with monkeypatch.context() as patch:
            patch.setattr(Ledger, name, dies_after(name))
            with pytest.raises(Killed):
                buy(2)
        assert totals()["requests"] == {"planned": 2}
    buy(2)
    assert (totals()["requests"], totals()["lost_requests"]) == ({"ok": 2}, 0)


def test_usage_that_is_not_said_counts_as_all_that_may_have_been_used(buy, totals, tmp_path):
    with pytest.raises(GateError):
        buy(1)
    put(tmp_path, "1", answered(KEYS[0], completion(usage=None)))
    buy(1)
    assert totals()["prompt_tokens"] + totals()["completion_tokens"] == requests_of(1)[0].upper_bound_tokens


def test_many_requests_are_several_files_and_old_ones_go(buy, tmp_path, monkeypatch):
    monkeypatch.setattr("teachwise.teacher.batch_lines.MOST_LINES", 2)
    with pytest.raises(GateError, match=r"requests-001.jsonl and 2 more files"):
        buy(5)
    put(tmp_path, "1", *(answered(key) for key in KEYS[:4]))
    with pytest.raises(GateError, match="1 requests wait"):
        buy(5)
    assert [file.name for file in (tmp_path / "offline").glob("requests-*")] == ["requests-001.jsonl"]


# ---------------------------------------------------------------------------------------- the command

BATCH = "teacher.delivery=batch"


def test_the_command_writes_one_set_of_files_for_all_arms_and_goes_on_from_the_replies(tmp_path):
    recipe, out = write_recipe(tmp_path), tmp_path / "run"
    words = ("teach", recipe, "--offline", "--yes", "--out", out, "teacher.key_env=NO_SUCH_KEY")
    code, _, err = teachwise(*words)
    assert code == 3
    assert_told(err, "teach: ", "requests wait to be answered in", "vllm run-batch")
    keys = asked(tmp_path)
    assert len(keys) == len(set(keys)) == 50  # every train question: the arm `distill` wants them all
    lines = [answered(key) for key in keys]
    (out / "offline" / "replies-all.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    code, _, err = teachwise(*words)
    assert code == 0, err
    assert "done  teach distill" in err


def test_the_command_buys_in_one_batch_for_all_arms(tmp_path, monkeypatch):
    monkeypatch.setattr("teachwise.teacher.batches.POLL_SECONDS", 0.01)
    with batch_provider.served() as provider:
        recipe, out = write_recipe(tmp_path, url=provider.base_url), tmp_path / "run"
        code, _, err = teachwise("teach", recipe, BATCH, "--yes", "--out", out)
        assert code == 0, err
        assert len(provider.batches) == 1
        assert len(provider.billed) == 50
        assert sorted(file.suffix for file in (out / "ledger.batches").iterdir()) == [".json", ".jsonl"]


def test_a_recipe_that_was_changed_while_a_batch_ran_fetches_it_and_every_page_names_it(tmp_path, monkeypatch):
    monkeypatch.setattr("teachwise.teacher.batches.POLL_SECONDS", 0.01)

    def stop(*_):
        raise KeyboardInterrupt

    with batch_provider.served() as provider:
        recipe, out = write_recipe(tmp_path, url=provider.base_url), tmp_path / "run"
        with monkeypatch.context() as patch:
            patch.setattr("teachwise.teacher.batch_calls.Provider.look", stop)
            assert teachwise("teach", recipe, BATCH, "--yes", "--out", out)[0] == 130
        changed = ("teacher.max_tokens=321", "--out", out)
        for words in (("plan", recipe, *changed), ("ledger", out)):
            code, text, _ = teachwise(*words)
            assert code == 0
            assert "holds 50 requests: set aside for" in text
        code, _, err = teachwise("teach", recipe, "--offline", *changed)
        assert code == 3
        assert "holds 50 requests of another recipe, and is left as it is" in err
        code, _, err = teachwise("teach", recipe, BATCH, "--yes", *changed)
        assert code == 0, err
        assert (len(provider.batches), len(provider.billed)) == (2, 100)
        assert "holds 50 requests" not in teachwise("ledger", out)[1]


def test_batches_and_files_are_for_endpoints(tmp_path):
    with pytest.raises(RecipeError, match="is for `engine: openai`"):
        load_recipe(write_recipe(tmp_path), [BATCH, "teacher.engine=hf"])


def test_how_replies_are_delivered_is_no_part_of_the_result(tmp_path):
    live, batch = (load_recipe(write_recipe(tmp_path), more) for more in ([], [BATCH]))
    assert live.result_fields("teacher") == batch.result_fields("teacher")
