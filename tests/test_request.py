"""request: what makes two requests the same, what one can cost at most, and what a reply counts as."""

from dataclasses import fields, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from teachwise.request import Reply, Request, as_counted, counted, no_reply, writable

REQUEST = Request("big", ({"role": "user", "content": "1 + 1?"},), 100, 0.0, "mc-1")


@pytest.mark.parametrize(
    "change",
    [
        {"model": "bigger"},
        {"messages": ({"role": "user", "content": "1 + 1? "},)},
        {"messages": ({"role": "system", "content": "1 + 1?"},)},
        {"messages": (*REQUEST.messages, {"role": "user", "content": ""})},
        {"max_tokens": 101},
        {"temperature": 0.1},
        {"temperature": None},
        {"prompt_version": "mc-2"},
        {"sample": 1},
        {"options": {"top_p": 0.9}},
        {"weights": "hf"},
        {"weights": "hf revision=v2"},
    ],
)
def test_everything_that_can_change_the_reply_is_in_the_key(change):
    assert replace(REQUEST, **change).key != REQUEST.key


def test_how_a_request_is_written_down_is_not_in_the_key():
    turned = replace(REQUEST, messages=({"content": "1 + 1?", "role": "user"},))
    assert turned.key == REQUEST.key
    one, other = replace(REQUEST, options={"a": 1, "b": 2}), replace(REQUEST, options={"b": 2, "a": 1})
    assert one.key == other.key
    known = {"model", "messages", "max_tokens", "temperature", "prompt_version", "sample", "options", "weights"}
    assert {field.name for field in fields(Request)} == known


def test_the_key_does_not_change_between_versions():
    """Else every reply that was paid for under an earlier version would be bought again."""
    assert REQUEST.key == "2f91475c43ad0d68"
    assert replace(REQUEST, options={}, weights="").key == "2f91475c43ad0d68"


@pytest.mark.parametrize(
    ("text", "tokens"), [("", 116), ("abc", 119), ("é", 118), ("漢字", 122)], ids=["empty", "ascii", "accent", "cjk"]
)
def test_the_upper_bound_counts_bytes_since_a_token_may_be_one(text, tokens):
    assert replace(REQUEST, messages=({"role": "user", "content": text},)).upper_bound_tokens == tokens


def test_options_may_be_read_as_part_of_the_prompt():
    """A schema or a list of tools is; so the bound holds them."""
    tools = {"tools": [{"type": "function", "function": {"name": "add", "description": "x" * 1000}}]}
    assert replace(REQUEST, options=tools).upper_bound_tokens > REQUEST.upper_bound_tokens + 1000


def test_a_body_leads_back_to_its_request():
    request = replace(REQUEST, temperature=None, sample=3, options={"top_p": 0.5})
    again = Request.from_body(request.body)
    assert again == request
    assert again.key == request.key


ENDINGS = [
    (Reply("so [[B]]", "stop", 1, 2), "ok"),
    (Reply("so", "length", 1, 2), "truncated"),
    (Reply("", "content_filter", 1, 2), "refused"),
    (Reply("so", "tool_calls", 1, 2), "ok"),
    (no_reply("429", "too_fast"), "planned"),
    (no_reply("503", "unavailable"), "planned"),
    (no_reply("nobody", "absent"), "planned"),
    (no_reply("time-out", "unanswered"), "unknown"),
    (no_reply("400", "rejected"), "failed"),
]


@pytest.mark.parametrize(("reply", "state"), ENDINGS)
def test_every_ending_leads_to_one_state(reply, state):
    assert reply.state == state


TEXT = st.text(max_size=80)
COUNT = st.integers(0, 10**7)


@given(text=TEXT, reasoning=TEXT, question=TEXT, read=COUNT, written=COUNT, cached=COUNT)
def test_a_reply_never_counts_as_less_than_is_seen_or_reported(text, reasoning, question, read, written, cached):
    request = replace(REQUEST, messages=({"role": "user", "content": question},))
    reply = Reply(text, "stop", read, written, cached_tokens=cached, reasoning=reasoning)
    found = as_counted(reply, request)
    assert (found.prompt_tokens, found.completion_tokens) == counted(reply, request)
    assert found.prompt_tokens >= max(read, len(question.split()))
    assert found.completion_tokens >= max(written, len(text.split()) + len(reasoning.split()))
    assert found.cached_tokens <= found.prompt_tokens
    assert as_counted(found, request) == found, "counted once is counted"


def test_what_is_no_reply_counts_as_nothing():
    failed = no_reply("400", "rejected")
    assert as_counted(failed, REQUEST) is failed


@given(st.text(alphabet=st.characters(codec=None), max_size=30))
def test_any_text_becomes_one_that_a_file_can_hold(text):
    writable(text).encode()
    try:
        text.encode()
    except UnicodeEncodeError:
        return
    assert writable(text) == text


def test_a_long_error_is_cut_and_can_be_written():
    assert len(no_reply("x" * 10_000).error) == 500
    no_reply("half a character \ud83d").error.encode()


@pytest.mark.parametrize(
    ("word", "state", "is_known"),
    [
        *((word, "ok", True) for word in ("stop", "tool_calls", "end_turn", "STOP", "unknown")),
        *((word, "truncated", True) for word in ("max_tokens", "MAX_TOKENS", "model_length", "error")),
        *((word, "truncated", True) for word in ("insufficient_system_resource", "repetition_truncation")),
        *((word, "refused", True) for word in ("safety", "SAFETY", "recitation")),
        ("fini", "ok", False),
    ],
)
def test_endpoints_have_many_words_for_the_end_of_a_reply(word, state, is_known):
    reply = Reply("so [[", word, 1, 1)
    assert (reply.state, reply.has_unknown_end) == (state, not is_known)


def test_no_sign_that_a_terminal_obeys_is_told():
    assert no_reply("\x1b]0;owned\x07\x1b[2J bad\u202e\nrequest").error == " ]0;owned  [2J bad  request"
