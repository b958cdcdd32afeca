"""The OpenAI-compatible teacher, over real sockets on loopback: one attempt, and every outcome has its name."""

import json
import socket
import threading
import time
from contextlib import closing, contextmanager, suppress
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from openai.types.chat import ChatCompletion
from pytest_httpserver import HTTPServer
from werkzeug import Response

from teachwise.errors import TeacherError
from teachwise.request import Request
from teachwise.teacher.engine import load_teacher
from teachwise.teacher.openai import read_completion, retry_after

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
def teacher_of(monkeypatch):
    """Builds teachers, and closes them when the test ends."""
    monkeypatch.setenv("TEST_TEACHER_KEY", KEY)
    built = []

    def build(server, **options):
        options = {"timeout_seconds": 20, "key_env": "TEST_TEACHER_KEY", **options}
        base_url = server if isinstance(server, str) else server.url_for("/v1")
        built.append(load_teacher("openai", model="big", base_url=base_url, **options))
        return built[-1]

    yield build
    for teacher in built:
        teacher.close()


def request_for(number=0, **fields):
    given = {"max_tokens": 64, "temperature": 0.0, "prompt_version": "1", **fields}
    return Request("big", ({"role": "user", "content": f"question {number}"},), **given)


def completion(text="so [[B]]", finish="stop", message=None, **changes):
    message = {"role": "assistant", "content": text, **(message or {})}
    return {
        "id": "1",
        "object": "chat.completion",
        "created": 0,
        "model": "big",
        "choices": [{"index": 0, "message": message, "finish_reason": finish}],
        "usage": {"prompt_tokens": 11, "completion_tokens": 7, "total_tokens": 18},
        **changes,
    }


def response(body, status=200, headers=None):
    text = body if isinstance(body, str | bytes) else json.dumps(body)
    return Response(text, status, {"Content-Type": "application/json", **(headers or {})})


def answers(server, *responses):
    """The server gives these responses in turn, and the last one for ever."""
    left = list(responses)

    def handle(request):
        found = left.pop(0) if len(left) > 1 else left[0]
        return response(*found) if isinstance(found, tuple) else response(found)

    server.expect_request(PATH, method="POST").respond_with_handler(handle)


def ask(teacher, request=None):
    return teacher.ask(request or request_for()).result(30)


def sent(server):
    return [json.loads(request.data) for request, _ in server.log]


# ---------------------------------------------------------------------------------------- what goes well


def test_a_reply_comes_with_its_text_its_end_and_its_cost(server, teacher_of):
    answers(server, completion())
    reply = ask(teacher_of(server), request_for(3))
    assert (reply.text, reply.finish_reason, reply.error, reply.state) == ("so [[B]]", "stop", None, "ok")
    assert (reply.prompt_tokens, reply.completion_tokens, reply.cached_tokens) == (11, 7, 0)
    assert sent(server) == [
        {
            "model": "big",
            "messages": [{"role": "user", "content": "question 3"}],
            "max_tokens": 64,
            "temperature": 0.0,
        }
    ]


def test_what_the_recipe_adds_is_in_the_body_that_is_sent(server, teacher_of):
    answers(server, completion())
    options = {"top_p": 0.9, "reasoning_effort": "low", "own_field": {"a": [1]}, "logprobs": True, "top_logprobs": 3}
    ask(teacher_of(server, limit_field="max_completion_tokens"), request_for(temperature=None, options=options))
    assert sent(server) == [
        {
            "model": "big",
            "messages": [{"role": "user", "content": "question 0"}],
            "max_completion_tokens": 64,
            **options,
        }
    ]


def test_every_request_comes_back_with_its_own_reply(server, teacher_of):
    def echo(request):
        return response(completion(request.json["messages"][0]["content"]))

    server.expect_request(PATH).respond_with_handler(echo)
    teacher = teacher_of(server)
    futures = {teacher.ask(request_for(number)): number for number in range(40)}
    assert [future.result(30).text for future in futures] == [f"question {number}" for number in range(40)]
    assert len(server.log) == 40


def test_so_many_are_in_flight_as_are_asked(server, teacher_of):
    """64 arrive before the first is answered, so nothing here makes them queue."""
    all_here = threading.Barrier(64)

    def handle(request):
        all_here.wait(20)
        return response(completion())

    server.expect_request(PATH).respond_with_handler(handle)
    teacher = teacher_of(server, concurrency=64)
    futures = [teacher.ask(request_for(number)) for number in range(64)]
    assert {future.result(30).state for future in futures} == {"ok"}


def test_a_cut_reply_says_so(server, teacher_of):
    answers(server, completion("so the ans", finish="length"))
    reply = ask(teacher_of(server))
    assert (reply.finish_reason, reply.text, reply.error, reply.state) == ("length", "so the ans", None, "truncated")


def test_a_reply_without_text_is_an_empty_text(server, teacher_of):
    answers(server, completion(None))
    reply = ask(teacher_of(server))
    assert (reply.text, reply.error, reply.completion_tokens) == ("", None, 7)


@pytest.mark.parametrize("name", ["reasoning_content", "reasoning"])
def test_what_a_model_thought_in_a_field_of_its_own_is_kept(server, teacher_of, name):
    answers(server, completion(message={name: "let me see"}))
    reply = ask(teacher_of(server))
    assert (reply.reasoning, reply.text) == ("let me see", "so [[B]]")


def test_log_probabilities_are_kept_as_they_came(server, teacher_of):
    given = {"content": [{"token": "so", "logprob": -0.25, "bytes": [115, 111], "top_logprobs": []}]}
    body = completion()
    body["choices"][0]["logprobs"] = given
    answers(server, body)
    assert json.loads(ask(teacher_of(server)).logprobs) == given


def test_tokens_from_a_cache_are_told_apart(server, teacher_of):
    usage = {"prompt_tokens": 11, "completion_tokens": 7, "prompt_tokens_details": {"cached_tokens": 8}}
    answers(server, completion(usage=usage))
    assert ask(teacher_of(server)).cached_tokens == 8


def test_half_a_character_is_replaced_since_no_file_can_hold_it(server, teacher_of):
    answers(server, json.dumps(completion("so \ud83d [[B]]", message={"reasoning": "\udc00"})))
    reply = ask(teacher_of(server))
    assert (reply.text, reply.reasoning) == ("so ? [[B]]", "?")


# ------------------------------------------------------------------------------------ what it counts as

HIDDEN = [
    None,
    {},
    [],
    "a lot",
    {"prompt_tokens": "many", "completion_tokens": 1},
    {"prompt_tokens": 11, "completion_tokens": None},
    {"prompt_tokens": 11, "completion_tokens": -7},
    {"prompt_tokens": -1, "completion_tokens": 7},
    {"prompt_tokens": 11, "completion_tokens": 10**12},
    {"prompt_tokens": 11, "completion_tokens": 7.5},
    {"prompt_tokens": True, "completion_tokens": 7},
    {"prompt_tokens": 0, "completion_tokens": 7},
    {"prompt_tokens": 11, "completion_tokens": 0},
]


@pytest.mark.parametrize("usage", HIDDEN, ids=str)
def test_a_reply_that_hides_its_cost_is_kept_and_charged_with_all_that_was_reserved(server, teacher_of, usage):
    answers(server, completion(usage=usage))
    request = request_for()
    reply = ask(teacher_of(server), request)
    assert (reply.text, reply.error) == ("so [[B]]", None)
    assert reply.prompt_tokens + reply.completion_tokens == request.upper_bound_tokens


def test_a_cost_above_what_was_reserved_is_believed(server, teacher_of):
    """It is what will be on the bill."""
    answers(server, completion(usage={"prompt_tokens": 5000, "completion_tokens": 900}))
    reply = ask(teacher_of(server))
    assert (reply.prompt_tokens, reply.completion_tokens) == (5000, 900)


def test_an_empty_reply_may_have_cost_no_tokens(server, teacher_of):
    answers(server, completion("", "content_filter", usage={"prompt_tokens": 11, "completion_tokens": 0}))
    reply = ask(teacher_of(server))
    assert (reply.prompt_tokens, reply.completion_tokens) == (11, 0)


# -------------------------------------------------------------------------------------- what is refused

FILTERED = {
    "finish_reason": completion("", finish="content_filter"),
    "refusal": completion(None, message={"refusal": "I cannot help with that."}),
    "a code": ({"error": {"message": "filtered", "code": "content_filter"}}, 400),
    "a flagged prompt": ({"error": {"message": "flagged", "code": "invalid_prompt"}}, 400),
    "words alone": ({"error": {"message": "Content Exists Risk", "code": "invalid_request_error"}}, 400),
    "moderation": (
        {"error": {"message": "your input was flagged", "code": 403, "metadata": {"flagged_input": "q..."}}},
        403,
    ),
}


@pytest.mark.parametrize("what", FILTERED)
def test_a_filter_is_a_result_and_the_next_request_is_asked(server, teacher_of, what):
    answers(server, FILTERED[what], completion())
    teacher = teacher_of(server)
    reply = ask(teacher)
    assert (reply.state, reply.error, reply.text) == ("refused", None, "")
    assert ask(teacher).state == "ok"


@pytest.mark.parametrize("status", [401, 402, 403, 404])
def test_a_refused_key_or_model_or_an_empty_account_fails_the_step(server, teacher_of, status):
    answers(server, ({"error": {"message": "no"}}, status))
    with pytest.raises(TeacherError, match=rf"refuses \({status}\)") as error:
        ask(teacher_of(server))
    words = {402: "the account has nothing left", 404: "check teacher.model, 'big'"}
    assert words.get(status, "check the key that teacher.key_env names") in error.value.hint


def test_an_empty_account_is_no_matter_of_pace(server, teacher_of):
    """It comes as a 429 too, but no waiting fills the account."""
    answers(server, ({"error": {"message": "You exceeded your current quota", "code": "insufficient_quota"}}, 429))
    with pytest.raises(TeacherError, match="quota"):
        ask(teacher_of(server))


def test_a_request_the_server_cannot_take_is_rejected(server, teacher_of):
    answers(server, ({"error": {"message": "context too long"}}, 400))
    reply = ask(teacher_of(server))
    assert (reply.state, reply.fault) == ("failed", "rejected")
    assert "context too long" in reply.error


# ---------------------------------------------------------------------------------------- what is faulty


@pytest.mark.parametrize(
    ("status", "fault"),
    [(429, "too_fast")]
    + [(status, "unavailable") for status in (500, 501, 503, 521, 529)]
    + [(status, "unanswered") for status in (408, 502, 504, 520, 524)]
    + [(status, "rejected") for status in (400, 405, 409, 413, 422)],
)
@pytest.mark.parametrize("told", [None, 2.5])
def test_every_status_has_its_outcome(server, teacher_of, status, fault, told):
    headers = {} if told is None else {"Retry-After": f"{told}"}
    answers(server, ("<html>oops</html>", status, headers))
    reply = ask(teacher_of(server))
    assert reply.fault == fault
    assert str(status) in reply.error
    assert (reply.prompt_tokens, reply.completion_tokens) == (0, 0)
    assert reply.wait_seconds == (told if fault in ("too_fast", "unavailable") else None)
    assert len(server.log) == 1, "one attempt: nothing is retried behind our back"


@pytest.mark.parametrize("told", ["-3", "0", "nan", "inf", "Wed, 21 Oct 2015 07:28:00 GMT", "", "soon", "1 hour"])
def test_a_retry_after_that_is_no_length_of_time_is_none(told):
    assert retry_after({"retry-after": told}) is None


def test_a_retry_after_is_seconds_milliseconds_or_a_date():
    assert retry_after({"retry-after": "86400"}) == 86400
    assert retry_after({"retry-after": "1", "retry-after-ms": "1500"}) == 1.5
    at = format_datetime(datetime.now(UTC) + timedelta(hours=2), usegmt=True)
    assert 7190 < retry_after({"retry-after": at}) <= 7200
    dates = {"retry-after": "Wed, 21 Oct 2015 07:28:00 GMT", "date": "Wed, 21 Oct 2015 07:27:00 GMT"}
    assert retry_after(dates) == 60, "by the server's clock, whatever ours says"
    assert retry_after({**dates, "date": "yesterday"}) is None


NO_REPLIES = {
    "broken JSON": '{"id": "1", "choices": [',
    "nothing": "",
    "no UTF-8": b"\xff\xfe\x00",
    "nested without end": "[" * 100_000,
    "an array": "[]",
    "null": "null",
    "a number": "7",
    "a text": '"hello"',
    "an error with status 200": {"error": {"message": "upstream is down"}},
    "no choices": completion(choices=[]),
    "choices null": completion(choices=None),
}


@pytest.mark.parametrize("what", NO_REPLIES)
def test_what_is_no_reply_may_be_billed_all_the_same(server, teacher_of, what):
    answers(server, NO_REPLIES[what], completion())
    teacher = teacher_of(server)
    reply = ask(teacher)
    assert (reply.state, reply.text) == ("unknown", "")
    assert reply.error
    assert ask(teacher).state == "ok"


MADE = {
    "choices that are no list": completion(choices={"0": "so"}),
    "a choice that is a text": completion(choices=["so [[B]]"]),
    "a choice without a message": completion(choices=[{"index": 0, "finish_reason": "stop"}]),
    "a message that is a text": completion(choices=[{"index": 0, "message": "so [[B]]"}]),
    "parts without a text": completion(text=[{"type": "image_url", "image_url": "so"}]),
    "a number for a text": completion(text=7),
}


@pytest.mark.parametrize("what", MADE)
def test_what_was_written_and_billed_is_a_result_and_kept_as_it_came(server, teacher_of, what):
    answers(server, MADE[what])
    reply = ask(teacher_of(server))
    assert (reply.state, reply.text, reply.prompt_tokens, reply.completion_tokens) == ("ok", "", 11, 7)
    raw = json.loads(reply.raw)
    assert raw.get("choices") == MADE[what]["choices"]
    assert raw["usage"]["completion_tokens"] == 7


def test_a_text_in_parts_is_joined(server, teacher_of):
    parts = [{"type": "text", "text": "so "}, "it is ", {"type": "output_text", "text": "[[B]]"}]
    answers(server, completion(text=parts))
    reply = ask(teacher_of(server))
    assert (reply.text, reply.raw) == ("so it is [[B]]", "")


def test_a_raw_reply_is_kept_up_to_a_megabyte(server, teacher_of):
    answers(server, completion(text={"x": "y" * 1_100_000}))
    assert len(ask(teacher_of(server)).raw) == 1_000_000


def test_who_answered_is_kept(server, teacher_of):
    answers(server, completion(model="big-2026-11"))
    reply = ask(teacher_of(server))
    assert (reply.served_model, reply.host) == ("big-2026-11", server.host)


def test_a_web_page_in_place_of_an_api_is_told(server, teacher_of):
    """What a forgotten `/v1` gives."""
    answers(server, ("<html>welcome</html>", 200, {"Content-Type": "text/html"}))
    reply = ask(teacher_of(server))
    assert reply.error == (
        "the reply is no chat completion, but '<html>welcome</html>'; does teacher.base_url lead to the API?"
    )


def test_a_compressed_reply_that_is_none_is_no_reply(server, teacher_of):
    answers(server, (b"not gzip at all", 200, {"Content-Encoding": "gzip"}))
    assert ask(teacher_of(server)).state == "unknown"


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                ["message", "content", "finish_reason", "logprobs", "refusal", "reasoning", "cached_tokens"]
            ),
            inner,
            max_size=4,
        )
    ),
    max_leaves=8,
)


@given(choices=JSON | st.lists(JSON, min_size=1, max_size=2), usage=JSON)
@settings(max_examples=300)
def test_whatever_stands_in_a_completion_it_is_read_or_it_is_none(choices, usage):
    try:
        reply = read_completion(ChatCompletion.construct(choices=choices, usage=usage), request_for())
    except ValueError:
        return
    assert isinstance(reply.text, str)
    assert reply.cached_tokens >= 0
    assert 0 <= reply.prompt_tokens <= 10**7
    assert 0 <= reply.completion_tokens <= 10**7


# ------------------------------------------------------------------------------------------- connections


@contextmanager
def raw_server(handle):
    """A server of bare sockets; `handle` gets each connection, once its request was read."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve():
            while True:
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                threading.Thread(target=one, args=(connection,), daemon=True).start()

        def one(connection):
            with closing(connection):
                connection.settimeout(10)
                data = b""
                while b"\r\n\r\n" not in data:
                    data += connection.recv(65536)
                with suppress(OSError):
                    handle(connection)

        threading.Thread(target=serve, daemon=True).start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}/v1"
        listener.shutdown(socket.SHUT_RDWR)


HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 1000\r\n\r\n"
CUTS = {
    "before a word": b"",
    "in the status line": b"HTTP/1.1 20",
    "in the headers": HEAD[:40],
    "after the headers": HEAD,
    "in the body": HEAD + b'{"id": "1", "choi',
    "no HTTP": b"220 mail.example.org ESMTP\r\n",
}


@pytest.mark.parametrize("cut", CUTS)
def test_a_connection_that_breaks_off_leaves_the_outcome_unknown(teacher_of, cut):
    with raw_server(lambda connection: connection.sendall(CUTS[cut])) as base_url:
        reply = ask(teacher_of(base_url))
    assert (reply.state, reply.text) == ("unknown", "")
    assert reply.error


def trickle(*parts):
    """A server that sends a byte now and then, for ever: no read of it ever times out."""

    def handle(connection):
        for part in parts:
            connection.sendall(part)
        for _ in range(400):
            time.sleep(0.02)
            connection.sendall(b" ")

    return handle


@pytest.mark.parametrize(
    "parts", [(b"HTTP/1.1 200 ",), (b"HTTP/1.1 200 OK\r\nX-Slow: ",), (HEAD,)], ids=["status line", "headers", "body"]
)
def test_the_time_out_is_for_the_whole_reply_however_it_trickles(teacher_of, parts):
    with raw_server(trickle(*parts)) as base_url:
        started = time.monotonic()
        reply = ask(teacher_of(base_url, timeout_seconds=0.5))
    assert time.monotonic() - started < 5
    assert (reply.state, reply.error) == ("unknown", "no whole reply within 0.5 seconds (time-out)")


def test_a_server_that_says_nothing_is_not_waited_for_longer(teacher_of):
    with raw_server(drain) as base_url:
        reply = ask(teacher_of(base_url, timeout_seconds=0.3))
    assert (reply.state, reply.error) == ("unknown", "no whole reply within 0.3 seconds (time-out)")


def free_port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def test_a_request_that_found_no_server_never_left(teacher_of):
    base_url = f"http://127.0.0.1:{free_port()}/v1"
    reply = ask(teacher_of(base_url))
    assert (reply.state, reply.fault) == ("planned", "absent")
    assert f"the teacher at {base_url}/ does not answer" in reply.error
    assert "refused" in reply.error or "failed" in reply.error


def test_no_connection_is_used_twice(server, teacher_of):
    """What is left over of one reply could be read as the next one."""
    answers(server, completion())
    ask(teacher_of(server))
    assert server.log[0][0].headers["Connection"] == "close"


def test_a_proxy_is_not_asked_for_a_server_on_this_machine(server, teacher_of, monkeypatch):
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    answers(server, completion())
    assert ask(teacher_of(server)).state == "ok"


def test_a_name_that_nobody_has_is_an_absent_server(teacher_of, monkeypatch):
    def unknown(*_, **__):
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    reply = ask(teacher_of("http://nobody.invalid/v1"))
    assert reply.fault == "absent"
    assert "Name or service not known" in reply.error


def test_a_closed_teacher_gives_up_at_once_and_its_connections_are_closed(teacher_of):
    gone = threading.Event()

    with raw_server(lambda connection: (drain(connection), gone.set())) as base_url:
        teacher = teacher_of(base_url)
        future = teacher.ask(request_for())
        time.sleep(0.3)
        started = time.monotonic()
        teacher.close()
        assert time.monotonic() - started < 3
        assert gone.wait(5), "the server sees the connection end"
    assert future.cancelled()


def drain(connection):
    while connection.recv(65536):
        pass


# ---------------------------------------------------------------------------------------------- the key


@pytest.mark.parametrize("key", ["x", "1", "B", "EMPTY", "]]"])
def test_a_key_that_is_none_changes_no_text(server, teacher_of, monkeypatch, key):
    monkeypatch.setenv("TEST_TEACHER_KEY", key)
    answers(server, completion("If x = 1 the set is EMPTY, so [[B]]"))
    assert ask(teacher_of(server)).text == "If x = 1 the set is EMPTY, so [[B]]"


def test_a_key_that_is_not_set_is_the_users_mistake(monkeypatch):
    monkeypatch.delenv("NO_SUCH_KEY", raising=False)
    with pytest.raises(TeacherError, match="NO_SUCH_KEY is not set") as error:
        load_teacher("openai", model="big", key_env="NO_SUCH_KEY")
    assert "export NO_SUCH_KEY" in error.value.hint


def test_no_key_is_sent_where_none_is_asked_for(server, teacher_of, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    answers(server, completion())
    ask(teacher_of(server, key_env=None))
    assert KEY not in str(server.log[0][0].headers)


ECHOED = {"error": {"message": f"Incorrect API key provided: {KEY}", "code": KEY}}
LONG = {"error": {"message": "x" * 480 + KEY}}
ECHOES = {
    "a reply": completion(f"so {KEY} [[B]]", f"stop {KEY}", message={"reasoning_content": KEY}),
    "logprobs": completion(choices=[{"message": {"content": "so"}, "logprobs": {"content": [{"token": KEY}]}}]),
    "a header": (completion(), 200, {"X-Your-Key": KEY}),
    "no completion": f"<html>{'x' * 50}{KEY}</html>",
    "text that is no text": completion(text=[{"key": KEY}], model=f"big {KEY}"),
    "signs that a terminal obeys": ({"error": {"message": f"\x1b[2J{KEY}"}}, 400),
    **{f"status {status}": (ECHOED, status) for status in (400, 401, 404, 408, 429, 500, 503)},
    **{f"cut, status {status}": (LONG, status) for status in (400, 429, 500)},
}


@pytest.mark.parametrize("what", ECHOES)
def test_a_key_that_the_server_repeats_comes_no_further(server, teacher_of, capfd, caplog, what):
    caplog.set_level("DEBUG")
    answers(server, ECHOES[what])
    try:
        found = ask(teacher_of(server))
    except TeacherError as error:
        found = error
    assert "sk-very" not in f"{found} {vars(found)}"
    assert "\x1b" not in f"{found} {vars(found)}"
    shown = capfd.readouterr()
    assert "sk-very" not in f"{shown.out}{shown.err}"
    assert not any("sk-very" in record.getMessage() for record in caplog.records if record.name.startswith("teachwise"))
    ((asked, _),) = server.log
    assert asked.headers["Authorization"] == f"Bearer {KEY}"
    assert KEY not in asked.url
    assert KEY.encode() not in asked.data
