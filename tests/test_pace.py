"""pace: how many may be asked at once, per minute, and after a refusal. The clock is given, nothing waits."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from teachwise.teacher.pace import COOL_SECONDS, MOST_COOL_SECONDS, REPLIES_FOR_MORE, Pace


def depart(pace, now, n=1, tokens=10):
    return [pace.left(now, tokens) for _ in range(n)]


def reply(pace, departures, tokens=10):
    for departure in departures:
        pace.replied(departure, tokens)


def test_never_more_than_the_most_are_in_flight():
    pace = Pace(3)
    assert pace.wait_seconds(0.0, 10) == 0
    flying = depart(pace, 0.0, 3)
    assert pace.wait_seconds(0.0, 10) == math.inf
    reply(pace, flying[:1])
    assert pace.wait_seconds(0.0, 10) == 0


def test_a_burst_of_refusals_takes_it_to_three_quarters_once():
    pace = Pace(64)
    for departure in depart(pace, 0.0, 64):
        pace.refused(departure, 1.0, None)
    assert (pace.most_now, pace.in_flight) == (48, 0)
    for departure in depart(pace, 10.0, 48):
        pace.refused(departure, 11.0, None)
    assert pace.most_now == 36


def test_at_least_one_stays_in_flight():
    pace = Pace(2)
    for now in range(0, 1000, 100):
        pace.refused(pace.left(now, 10), now + 1.0, 1.0)
    assert pace.most_now == 1
    assert pace.wait_seconds(5000.0, 10) == 0


def test_replies_in_a_row_raise_it_by_one_and_no_higher_than_the_most():
    pace = Pace(8)
    pace.refused(pace.left(0.0, 10), 1.0, None)
    assert pace.most_now == 6
    for _ in range(REPLIES_FOR_MORE - 1):
        reply(pace, depart(pace, 5.0))
    assert pace.most_now == 6
    reply(pace, depart(pace, 5.0))
    assert pace.most_now == 7
    for _ in range(REPLIES_FOR_MORE * 5):
        reply(pace, depart(pace, 5.0))
    assert pace.most_now == 8


def test_a_refusal_ends_the_row():
    pace = Pace(8)
    pace.refused(pace.left(0.0, 10), 1.0, None)
    late = depart(pace, 0.5)  # left before the refusal came: of the same burst
    for _ in range(REPLIES_FOR_MORE - 1):
        reply(pace, depart(pace, 5.0))
    pace.refused(late[0], 6.0, None)
    reply(pace, depart(pace, 9.0))
    assert pace.most_now == 6


@pytest.mark.parametrize("told", [0.2, 30.0, 3600.0])
def test_after_a_refusal_nothing_leaves_until_the_wait_that_was_named_is_over(told):
    pace = Pace(4)
    assert pace.refused(pace.left(0.0, 10), 1.0, told) == pytest.approx(told)
    assert pace.wait_seconds(1.0, 10) == pytest.approx(told)
    assert pace.wait_seconds(1.0 + told / 2, 10) == pytest.approx(told / 2)
    assert pace.wait_seconds(1.0 + told, 10) == 0


def test_of_several_waits_the_longest_holds():
    pace = Pace(4)
    first, second = depart(pace, 0.0, 2)
    pace.refused(first, 1.0, 30.0)
    assert pace.refused(second, 1.0, 5.0) == 30.0
    assert pace.wait_seconds(1.0, 10) == 30.0


def test_without_a_wait_that_is_named_it_doubles_up_to_a_minute_and_a_reply_ends_that():
    pace, waits = Pace(4), []
    for now in range(1, 9000, 1000):
        waits.append(pace.refused(pace.left(now, 10), now, None))
    assert waits[:3] == [COOL_SECONDS, COOL_SECONDS * 2, COOL_SECONDS * 4]
    assert waits[-1] == MOST_COOL_SECONDS
    reply(pace, depart(pace, 10_000.0))
    assert pace.refused(pace.left(11_000.0, 10), 11_000.0, None) == pytest.approx(COOL_SECONDS)


def test_a_minute_holds_no_more_requests_than_the_endpoint_allows():
    pace = Pace(100, requests_per_minute=3)
    for at in (0.0, 10.0, 20.0):
        assert pace.wait_seconds(at, 10) == 0
        reply(pace, depart(pace, at))
    assert pace.wait_seconds(20.0, 10) == pytest.approx(40.0)
    assert pace.wait_seconds(60.0, 10) == 0
    reply(pace, depart(pace, 60.0))
    assert pace.wait_seconds(60.0, 10) == pytest.approx(10.0)


def test_a_minute_holds_no_more_tokens_and_a_reply_gives_back_what_it_did_not_use():
    pace = Pace(100, tokens_per_minute=100)
    first = depart(pace, 0.0, tokens=80)
    assert pace.wait_seconds(1.0, 30) == pytest.approx(59.0)
    reply(pace, first, tokens=20)
    assert pace.wait_seconds(1.0, 30) == 0
    second = depart(pace, 1.0, tokens=30)
    reply(pace, second, tokens=90)  # it used more than it might
    assert pace.wait_seconds(2.0, 10) == pytest.approx(58.0), "when the first's 20 are out of the minute"


def test_a_request_that_alone_is_above_the_limit_is_sent_alone():
    pace = Pace(100, tokens_per_minute=100)
    assert pace.wait_seconds(0.0, 500) == 0
    depart(pace, 0.0, tokens=500)
    assert pace.wait_seconds(1.0, 500) == pytest.approx(59.0)


def test_a_late_reply_changes_no_minute_that_has_gone_by():
    pace = Pace(100, tokens_per_minute=100)
    slow = depart(pace, 0.0, tokens=90)
    assert pace.wait_seconds(61.0, 90) == 0
    other = depart(pace, 61.0, tokens=90)
    reply(pace, slow, tokens=5)
    assert pace.wait_seconds(62.0, 90) == pytest.approx(59.0), "the slow one's 85 tokens are not free in this minute"
    reply(pace, other, tokens=5)
    assert pace.wait_seconds(62.0, 90) == 0


def test_requests_that_stayed_leave_no_trace_wherever_they_stood():
    """They were drawn and then not sent, since the budget or another process had them."""
    pace = Pace(100, requests_per_minute=5, tokens_per_minute=1000)
    drawn = [pace.left(0.0, 100) for _ in range(5)]
    for one in drawn[1:]:
        pace.stayed(one)
    assert pace.in_flight == 1
    assert pace.wait_seconds(0.0, 900) == 0
    reply(pace, drawn[:1], tokens=40)
    assert pace.wait_seconds(0.0, 960) == 0
    assert pace.wait_seconds(0.0, 961) > 0


EVENTS = st.lists(
    st.tuples(st.floats(0, 30), st.integers(1, 400), st.sampled_from(["reply", "fail", "refuse", "stay"])), max_size=60
)


@given(EVENTS, st.integers(1, 6), st.integers(100, 500), st.integers(1, 5))
def test_whatever_happens_every_60_seconds_keep_to_the_limits(events, per_minute, tokens_per_minute, most):
    pace, now, left = Pace(most, per_minute, tokens_per_minute), 0.0, []
    for pause, tokens, end in events:
        now += pause
        wait = pace.wait_seconds(now, tokens)
        assert 0 <= wait < math.inf, "nothing is in flight"
        now += wait
        assert pace.wait_seconds(now, tokens) <= 1e-6
        departure = pace.left(now, tokens)
        if end == "stay":
            pace.stayed(departure)
            continue
        left.append((now, tokens))
        if end == "refuse":
            pace.refused(departure, now, 1.0)
        else:
            pace.replied(departure, tokens if end == "reply" else None)
        within = [tokens for at, tokens in left if at > now - 60.0 + 1e-6]
        assert len(within) <= per_minute
        assert sum(within) <= tokens_per_minute or len(within) == 1
    assert pace.in_flight == 0
