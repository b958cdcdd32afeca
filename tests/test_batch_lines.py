"""The lines of batch files, in the forms in which providers and `vllm run-batch` write them."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batch_provider import ANSWER, completion
from teachwise.request import Request
from teachwise.teacher.batch_lines import read_line, reply_of, request_line

REQUEST = Request("big", ({"role": "user", "content": "question 0 ?"},), 64, 0.0, "1", options={"top_p": 0.5})
KEY = REQUEST.key


def outcome(content):
    return reply_of(read_line(json.dumps({"id": "1", "custom_id": KEY, **content})), REQUEST)


def test_a_request_reads_back_as_the_endpoint_would_get_it():
    line = json.loads(request_line(REQUEST, "max_completion_tokens"))
    assert line["custom_id"] == KEY
    assert line["body"]["max_completion_tokens"] == 64
    assert line["body"]["top_p"] == 0.5


def test_a_line_is_one_line_for_every_reader():
    strange = Request("big", ({"role": "user", "content": "a\u2028b\x85c 한국"},), 64, 0.0, "1")
    line = request_line(strange, "max_tokens")
    assert line.isascii()
    assert len(line.splitlines()) == 1


@pytest.mark.parametrize(
    "content",
    [
        {"response": {"status_code": 200, "request_id": "1", "body": completion()}, "error": None},  # OpenAI
        {"response": {"status_code": 200, "request_id": "vllm-batch-1", "body": completion()}, "error": None},  # vLLM
        {"response": {"body": completion()}},
        {"response": completion()},
    ],
)
def test_a_reply_is_found_wherever_it_stands(content):
    assert outcome(content).text == ANSWER


@pytest.mark.parametrize(
    ("content", "fault", "words"),
    [
        ({"response": {"status_code": 400, "request_id": "1"}, "error": "too long"}, "rejected", "400: too long"),
        (
            {"response": {"status_code": 400, "request_id": "1"}, "error": {"error": {"message": "m", "code": 400}}},
            "rejected",
            "400: m",
        ),
        ({"response": None, "error": {"code": "x", "message": "m"}}, "rejected", "no status: m"),
        ({"response": {"status_code": 400, "body": {"error": {"message": "m"}}}, "error": None}, "rejected", "400: m"),
        ({"response": {"status_code": 503, "body": {"error": {"message": "m"}}}}, "unavailable", "503: m"),
        ({"response": {"status_code": 200, "body": {}}}, "unanswered", "no chat completion"),
    ],
)
def test_a_failure_has_its_kind_and_its_words(content, fault, words):
    reply = outcome(content)
    assert reply.fault == fault
    assert words in reply.error


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (b"{", "is no JSON"),
        (b"\xff", "is no JSON"),
        (b"[" * 10_000, "is no JSON"),
        (b"[]", "has no custom_id"),
        (b'{"custom_id": 3}', "has no custom_id"),
        (b'{"custom_id": "k"}', "holds neither a reply nor an error"),
        (b'{"custom_id": "k", "response": {"status_code": 200}}', "holds neither a reply nor an error"),
    ],
)
def test_a_line_that_is_none_is_told(text, said):
    with pytest.raises(ValueError, match=said):
        read_line(text)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=2)
        | st.dictionaries(
            st.sampled_from(["custom_id", "response", "error", "body", "status_code", "choices", "message", "usage"]),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)


@given(JSON)
def test_whatever_a_line_holds_it_is_a_reply_or_told(content):
    try:
        line = read_line(json.dumps(content))
    except ValueError:
        return
    reply = reply_of(line, REQUEST)
    assert reply is None or reply.state
