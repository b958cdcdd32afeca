"""The OpenAI-compatible teacher, over real sockets on loopback."""

import json
import socket
import threading
import time
from types import SimpleNamespace

import pytest
from pytest_httpserver import HTTPServer
from werkzeug import Response

from teachwise.engines import load_teacher, openai
from teachwise.errors import TeacherError
from teachwise.ledger import Request

KEY = "sk-very-secret-1234567890"
PATH = "/v1/chat/completions"


@pytest.fixture(scope="module")
def running():
    with HTTPServer(host="127.0.0.1", threaded=True) as server:
        yield server


@pytest.fixture
def server(running):
    running.clear()
    return running


@pytest.fixture
def slept(monkeypatch):
    """The waits that the engine asked for, none of them waited out."""
    waits = []

    def sleep(seconds):
        assert seconds >= 0
        waits.append(seconds)

    monkeypatch.setattr(openai, "time", SimpleNamespace(sleep=sleep, monotonic=time.monotonic))
    return waits


@pytest.fixture
def teacher_of(monkeypatch):
    monkeypatch.setenv("TEST_TEACHER_KEY", KEY)

    def build(server, **options):
        options = {"concurrency": 1, "timeout_seconds": 20, "key_env": "TEST_TEACHER_KEY", **options}
        return load_teacher("openai", model="big", base_url=server.url_for("/v1"), **options)

    return build


def request_for(number=0, **fields):
    return Request("big", ({"role": "user", "content": f"question {number}"},), 64, 0.0, "1", **fields)


def completion(text="so [[B]]", finish="stop", **changes):
    return {
        "id": "1",
        "object": "chat.completion",
        "created": 0,
        "model": "big",
        "choices": [{"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": finish}],
        "usage": {"prompt_tokens": 11, "completion_tokens": 7, "total_tokens": 18},
        **changes,
    }


def answers(server, *responses):
    """The server gives these responses in turn, and the last one for ever."""
    left = list(responses)

    def handle(request):
        found = left.pop(0) if len(left) > 1 else left[0]
        found = found if isinstance(found, tuple) else (found, 200, {})
        body, status, headers = (*found, {}, {})[:3]
        text = body if isinstance(body, str) else json.dumps(body)
        return Response(text, status, {"Content-Type": "application/json", **headers})

    server.expect_request(PATH, method="POST").respond_with_handler(handle)


def ask(teacher, n=1):
    return [reply for _, reply in teacher.answer(request_for(number) for number in range(n))]


def sent(server):
    return [json.loads(request.data) for request, _ in server.log]


# ---------------------------------------------------------------------------------------- what goes well


def test_a_reply_comes_with_its_text_its_end_and_its_cost(server, teacher_of):
    answers(server, completion())
    ((request, reply),) = teacher_of(server).answer([request_for(3)])
    assert request == request_for(3)
    assert (reply.text, reply.finish_reason, reply.error) == ("so [[B]]", "stop", None)
    assert (reply.prompt_tokens, reply.completion_tokens) == (11, 7)
    assert sent(server) == [
        {
            "model": "big",
            "messages": [{"role": "user", "content": "question 3"}],
            "max_tokens": 64,
            "temperature": 0.0,
        }
    ]


def test_every_request_comes_back_once_with_its_own_reply(server, teacher_of):
    def echo(request):
        return Response(
            json.dumps(completion(request.json["messages"][0]["content"])), 200, mimetype="application/json"
        )

    server.expect_request(PATH).respond_with_handler(echo)
    asked = [request_for(number) for number in range(12)]
    got = list(teacher_of(server, concurrency=4).answer(iter(asked)))
    assert sorted(request.key for request, _ in got) == sorted(request.key for request in asked)
    assert all(reply.text == request.messages[0]["content"] for request, reply in got)
    assert len(server.log) == 12


def test_a_cut_reply_says_so(server, teacher_of):
    answers(server, completion("so the ans", finish="length"))
    (reply,) = ask(teacher_of(server))
    assert (reply.finish_reason, reply.text, reply.error) == ("length", "so the ans", None)


def test_a_reply_without_text_is_an_empty_text(server, teacher_of):
    answers(server, completion(None))
    (reply,) = ask(teacher_of(server))
    assert (reply.text, reply.error, reply.completion_tokens) == ("", None, 7)


# --------------------------------------------------------------------------------------- what is retried


def test_too_fast_waits_as_long_as_told_and_uses_no_attempt(server, teacher_of, slept):
    busy = ({"error": {"message": "slow down"}}, 429, {"Retry-After": "2.5"})
    n_refusals = openai.ATTEMPTS + 3
    answers(server, *[busy] * n_refusals, completion())
    (reply,) = ask(teacher_of(server))
    assert reply.text == "so [[B]]"
    assert slept == [2.5] * n_refusals


@pytest.mark.parametrize("told", ["-3", "nan", "inf", "Wed, 21 Oct 2015 07:28:00 GMT", "", "soon"])
def test_a_retry_after_that_is_no_length_of_time_is_not_followed(server, teacher_of, slept, told):
    answers(server, ({"error": {}}, 429, {"Retry-After": told}), completion())
    (reply,) = ask(teacher_of(server))
    assert reply.text == "so [[B]]"
    assert len(slept) == 1
    assert 1 <= slept[0] <= 3


def test_patience_with_refusals_ends(server, teacher_of, slept, monkeypatch):
    monkeypatch.setattr(openai, "PATIENCE_SECONDS", 0.0)
    answers(server, ({"error": {"message": "slow down"}}, 429, {}))
    (reply,) = ask(teacher_of(server))
    assert reply.error is not None
    assert "429" in reply.error


def test_nobody_waits_longer_than_their_patience(server, teacher_of, slept):
    answers(server, ({"error": {}}, 429, {"Retry-After": "86400"}), completion())
    ask(teacher_of(server))
    assert sum(slept) <= openai.PATIENCE_SECONDS


def test_an_empty_account_ends_the_step_at_once(server, teacher_of, slept):
    """It comes as a 429 too, but no waiting fills the account."""
    broke = {"error": {"message": "You exceeded your current quota", "code": "insufficient_quota"}}
    answers(server, (broke, 429, {}))
    with pytest.raises(TeacherError, match="quota"):
        ask(teacher_of(server), 5)
    assert slept == []
    assert len(server.log) == 1


def test_a_server_that_stumbles_is_asked_again(server, teacher_of, slept):
    answers(server, *[("oops", 500)] * (openai.ATTEMPTS - 1), completion())
    (reply,) = ask(teacher_of(server))
    assert (reply.text, reply.error) == ("so [[B]]", None)
    assert len(server.log) == openai.ATTEMPTS
    assert len(slept) == openai.ATTEMPTS - 1
    assert all(0 < wait <= 30 for wait in slept)


def test_tries_are_told_once_each_though_many_requests_wait(server, teacher_of, slept, capsys):
    answers(server, *[("oops", 500)] * 2, completion())
    ask(teacher_of(server))
    url = server.url_for("/v1")
    assert [line for line in capsys.readouterr().err.splitlines() if url in line] == [
        f"teacher answers 500 at {url}/, trying again (2 of 5)",
        f"teacher answers 500 at {url}/, trying again (3 of 5)",
    ]


def test_a_server_that_never_recovers_is_a_failed_reply_and_the_rest_goes_on(server, teacher_of, slept):
    answers(server, *[("oops", 503)] * openai.ATTEMPTS, completion())
    failed, fine = ask(teacher_of(server), 2)
    assert (failed.text, failed.prompt_tokens, failed.completion_tokens) == ("", 0, 0)
    assert failed.error is not None
    assert "503" in failed.error
    assert fine.error is None
    assert len(server.log) == openai.ATTEMPTS + 1


def test_a_reply_that_never_comes_may_be_billed_and_is_not_asked_for_again_here(server, teacher_of, slept):
    released = threading.Event()
    server.expect_request(PATH).respond_with_handler(lambda request: released.wait(5) and Response("late"))
    (reply,) = ask(teacher_of(server, timeout_seconds=0.15))
    released.set()
    while not server.log:  # a late answer must not fall into the next test
        time.sleep(0.01)
    assert reply.error is not None
    assert "Timeout" in reply.error
    assert reply.may_be_billed
    assert slept == []
    assert len(server.log) == 1


# --------------------------------------------------------------------------------------- what is refused


@pytest.mark.parametrize("status", [401, 403, 404])
def test_a_refused_key_or_model_ends_the_step_at_the_first_request(server, teacher_of, slept, status):
    answers(server, ({"error": {"message": "no"}}, status, {}))
    with pytest.raises(TeacherError, match=rf"refuses \({status}\)") as error:
        ask(teacher_of(server), 50)
    assert "teacher.model" in error.value.hint
    assert len(server.log) <= 1  # the server notes a request after it has answered it
    assert slept == []


def test_replies_under_way_are_handed_over_before_a_refusal_ends_the_step(server, teacher_of):
    """Three are in flight; the first is refused while two are still being answered."""
    refused = threading.Event()

    def handle(request):
        if request.json["messages"][0]["content"] == "question 0":
            refused.set()
            return Response('{"error": {"message": "no"}}', 401, mimetype="application/json")
        refused.wait(5)
        time.sleep(0.15)
        return Response(json.dumps(completion()), 200, mimetype="application/json")

    server.expect_request(PATH).respond_with_handler(handle)
    got = []
    with pytest.raises(TeacherError, match="401"):
        got.extend(
            pair for pair in teacher_of(server, concurrency=3).answer(request_for(number) for number in range(50))
        )
    assert sorted(request.messages[0]["content"] for request, reply in got if not reply.error) == [
        "question 1",
        "question 2",
    ]
    assert [request.messages[0]["content"] for request, reply in got if reply.error] == ["question 0"]
    assert len(server.log) == 3


def test_nobody_at_the_address_is_the_users_mistake(slept, capsys):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        base_url = f"http://127.0.0.1:{free.getsockname()[1]}/v1"
    with pytest.raises(TeacherError, match="does not answer") as error:
        ask(load_teacher("openai", model="big", base_url=base_url, concurrency=2), 5)
    assert "start the server" in error.value.hint
    assert base_url in error.value.found
    assert capsys.readouterr().err.splitlines() == [
        f"teacher does not answer at {base_url}/, trying again ({attempt} of 5)" for attempt in (2, 3, 4, 5)
    ]


def test_a_key_that_is_not_set_is_the_users_mistake(monkeypatch):
    monkeypatch.delenv("NO_SUCH_KEY", raising=False)
    with pytest.raises(TeacherError, match="NO_SUCH_KEY is not set") as error:
        load_teacher("openai", model="big", key_env="NO_SUCH_KEY")
    assert "export NO_SUCH_KEY" in error.value.hint


# -------------------------------------------------------------------------------------- what is no reply

NO_REPLIES = {
    "broken JSON": '{"id": "1", "choices": [',
    "an array": "[]",
    "null": "null",
    "an error with status 200": {"error": {"message": "upstream is down"}},
    "no choices": completion(choices=[]),
    "choices null": completion(choices=None),
    "a choice without a message": completion(choices=[{"index": 0, "finish_reason": "stop"}]),
    "text that is no text": completion(text=[{"type": "text", "text": "so [[B]]"}]),
}


@pytest.mark.parametrize("what", NO_REPLIES)
def test_what_is_no_reply_is_a_failed_reply_and_the_rest_goes_on(server, teacher_of, slept, what):
    answers(server, NO_REPLIES[what], completion())
    failed, fine = ask(teacher_of(server), 2)
    assert failed.error
    assert (failed.text, failed.prompt_tokens, failed.completion_tokens) == ("", 0, 0)
    assert fine.error is None
    assert len(server.log) == 2


def test_a_web_page_in_place_of_an_api_is_a_failed_reply(server, teacher_of, slept):
    """What a forgotten `/v1` gives."""
    answers(server, ("<html>welcome</html>", 200, {"Content-Type": "text/html"}), completion())
    failed, fine = ask(teacher_of(server), 2)
    assert failed.error
    assert fine.error is None


def test_a_request_the_server_cannot_take_is_a_failed_reply(server, teacher_of, slept):
    answers(server, ({"error": {"message": "context too long"}}, 400, {}), completion())
    failed, fine = ask(teacher_of(server), 2)
    assert failed.error is not None
    assert "context too long" in failed.error
    assert fine.error is None
    assert slept == []


# ---------------------------------------------------------------------------------------------- the key


def test_the_key_travels_in_the_header_and_nowhere_else(server, teacher_of, slept, capfd, caplog):
    caplog.set_level("DEBUG")
    echoed = {"error": {"message": f"Incorrect API key provided: {KEY}"}}
    answers(server, completion(), (echoed, 400, {}), (echoed, 500, {}), (echoed, 401, {}))
    replies = []
    with pytest.raises(TeacherError) as error:
        replies.extend(reply for _, reply in teacher_of(server).answer(map(request_for, range(9))))
    for request, _ in server.log:
        assert request.headers["Authorization"] == f"Bearer {KEY}"
        assert KEY not in request.url
        assert KEY.encode() not in request.data
    shown = capfd.readouterr()
    assert KEY not in f"{shown.out}{shown.err}{error.value}"
    assert not any(KEY in f"{reply}" for reply in replies)
    assert not any(KEY in record.getMessage() for record in caplog.records if record.name.startswith("teachwise"))


def test_no_key_is_sent_where_none_is_asked_for(server, teacher_of, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    answers(server, completion())
    ask(teacher_of(server, key_env=None))
    assert KEY not in str(server.log[0][0].headers)


# ------------------------------------------------------------------------------------------ drawing ahead


@pytest.mark.parametrize("concurrency", [1, 3])
def test_requests_are_drawn_only_when_there_is_room_to_send_them(server, teacher_of, concurrency):
    answers(server, completion())
    n_drawn, n_back = 0, 0

    def drawing():
        nonlocal n_drawn
        for number in range(12):
            assert threading.current_thread() is threading.main_thread()
            n_drawn += 1
            yield request_for(number)

    for _ in teacher_of(server, concurrency=concurrency).answer(drawing()):
        n_back += 1
        assert n_drawn - n_back < concurrency
        assert len(server.log) <= n_drawn
    assert n_back == n_drawn == 12


def test_the_caller_ends_all_spending_by_ending_the_iterable(server, teacher_of):
    answers(server, completion())

    def affordable():
        yield request_for(0)
        yield request_for(1)

    assert len(list(teacher_of(server, concurrency=4).answer(affordable()))) == 2
    assert len(server.log) == 2


@pytest.mark.parametrize("usage", [None, {}, {"prompt_tokens": "many", "completion_tokens": 1}])
def test_a_reply_that_hides_its_cost_is_kept_and_charged_with_all_that_was_reserved(server, teacher_of, usage):
    answers(server, completion(usage=usage))
    ((request, reply),) = list(teacher_of(server).answer([request_for(0)]))
    assert reply.text == "so [[B]]"
    assert reply.error is None
    assert reply.prompt_tokens + reply.completion_tokens == request.upper_bound_tokens


def test_ctrl_c_sends_nothing_more_and_hands_over_what_is_under_way(server, teacher_of, monkeypatch):
    answers(server, completion(), completion(), completion(), completion())
    waits = iter([KeyboardInterrupt])
    real = openai.wait

    def interrupted(*args, **options):
        for stop in waits:
            raise stop
        return real(*args, **options)

    monkeypatch.setattr(openai, "wait", interrupted)
    got = []
    with pytest.raises(KeyboardInterrupt):
        got.extend(teacher_of(server, concurrency=2).answer(request_for(number) for number in range(50)))
    assert [reply.text for _, reply in got] == ["so [[B]]"] * 2
    assert len(server.log) == 2
