"""estimate: the interval of a cost holds the truth as often as it says, and never passes what can be."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from teachwise.estimate import FEWEST_SEEN, Ask, Basis, Judged, Range, Seen, cost_of, requests_of

ASK = Ask(prompt_bytes=400, prompt_words=60, prompt_bound=416, max_tokens=1000)


def some(n, seed=0, **more):
    """Prompts and skewed replies: N seen ones."""
    lot = np.random.default_rng(seed)
    sizes = lot.integers(200, 900, n)
    written = lot.lognormal(5, 0.6, n).astype(int)
    return [Seen(int(b), int(b / 4), int(w), **more) for b, w in zip(sizes, written, strict=True)]


def test_without_replies_there_are_bounds_and_no_expectation():
    assert cost_of([ASK] * 3, Basis()) == Range(180, None, 3 * 1416)
    assert cost_of([ASK] * 3, Basis(some(FEWEST_SEEN - 1))).expected is None
    assert cost_of([ASK] * 3, Basis(some(FEWEST_SEEN))).expected is not None
    assert cost_of([], Basis()) == Range(0, 0.0, 0)


def test_prompts_go_by_bytes_and_replies_by_their_mean():
    seen = [Seen(400, 100, 300)] * 10
    assert cost_of([ASK] * 5, Basis(seen)) == Range(2000, 2000, 2000)
    twice = Ask(800, 60, 816, 1000)
    assert cost_of([twice], Basis(seen)).expected == 200 + 300


def test_money_prices_what_is_read_and_written_apart():
    assert cost_of([ASK], Basis([Seen(400, 100, 300)] * 10), read=2.0, written=8.0).expected == 100 * 2 + 300 * 8


@pytest.mark.parametrize(("n_seen", "n"), [(16, 200), (16, 20), (60, 1000)])
def test_the_interval_of_a_total_holds_it_about_as_often_as_it_says(n_seen, n):
    lot, held = np.random.default_rng(1), 0
    for number in range(400):
        seen = some(n_seen, seed=number)
        sizes, written = lot.integers(200, 900, n), lot.lognormal(5, 0.6, n).astype(int)
        asks = [Ask(int(size), 1, int(size) + 16, 10**6) for size in sizes]
        found = cost_of(asks, Basis(seen))
        held += found.low <= sum(int(size / 4) for size in sizes) + written.sum() <= found.high
    assert 0.88 <= held / 400 <= 0.99


def uneven(lot, n):
    """Prompts of which a token has two to eight bytes, and replies that are all of one length."""
    sizes = lot.integers(200, 900, n)
    return [Seen(int(size), int(size / lot.uniform(2, 8)), 100) for size in sizes]


@pytest.mark.parametrize(("n_seen", "n"), [(16, 200), (16, 20), (60, 1000)])
def test_prompts_that_differ_in_tokens_per_byte_widen_the_interval_too(n_seen, n):
    lot, held = np.random.default_rng(2), 0
    for _ in range(400):
        came = uneven(lot, n)
        asks = [Ask(one.prompt_bytes, 1, one.prompt_bytes + 16, 10**6) for one in came]
        found = cost_of(asks, Basis(uneven(lot, n_seen)))
        held += found.low <= sum(one.prompt_tokens + one.completion_tokens for one in came) <= found.high
    assert 0.88 <= held / 400 <= 0.99


def test_longer_replies_of_hard_questions_are_respected_where_enough_were_seen():
    seen = [Seen(400, 100, 100, "easy")] * 8 + [Seen(400, 100, 500, "hard")] * 8
    hard, easy, medium = (cost_of([Ask(400, 60, 416, 1000, band)], Basis(seen)) for band in ("hard", "easy", "medium"))
    assert (hard.expected, easy.expected, medium.expected) == (600, 200, 400)
    assert Basis(seen).thin([Ask(1, 1, 1, 1, "medium"), Ask(1, 1, 1, 1, "hard")]) == ["medium"]


def test_rejected_ones_that_are_asked_again_are_in_it():
    asks, judged = [Ask(400, 60, 416, 1000, retries=2)] * 100, Judged(n=40, rejected=10)
    found = requests_of(asks, judged)
    assert found.expected == pytest.approx(100 * (1 + 0.25 + 0.0625))
    assert 100 < found.low < found.expected < found.high < 300
    cost = cost_of(asks, Basis([Seen(400, 100, 300)] * 10, judged))
    assert cost.expected == pytest.approx(400 * found.expected)
    unknown = requests_of(asks, Judged())
    assert (unknown.low, unknown.expected, unknown.high) == (100, None, 300)
    assert cost_of(asks, Basis([Seen(400, 100, 300)] * 10)).expected is None


def test_the_bound_holds_where_the_first_is_cut_off_and_all_further_samples_have_the_longer_limit():
    asks = Ask(400, 60, 416, 1000, retries=2, may_grow=True)
    assert asks.bound() == (416 + 1000) + 3 * (416 + 2000)
    assert Ask(400, 60, 416, 1000, retries=2).bound() == 3 * (416 + 1000)


def test_a_reply_that_was_cut_off_is_longer_than_it_was():
    grown = Ask(400, 60, 416, 2000, has_grown=True)
    assert cost_of([grown], Basis([Seen(400, 100, 300)] * 10)) == Range(1100, 1600, 2100)
    may = Ask(400, 60, 416, 1000, may_grow=True)
    found = cost_of([may] * 10, Basis([Seen(400, 100, 300)] * 10, Judged(n=10, cut=5)))
    assert found.expected == pytest.approx(10 * 400 + 0.5 * 10 * (100 + 1500))


@given(
    seen=st.lists(st.tuples(st.integers(0, 900), st.integers(0, 300), st.integers(0, 3000)), max_size=20),
    sizes=st.lists(st.tuples(st.integers(1, 900), st.integers(1, 2000), st.integers(0, 3), st.booleans()), max_size=8),
    judged=st.tuples(st.integers(0, 20), st.integers(0, 20), st.integers(0, 20)),
)
def test_ends_are_in_order_and_within_what_can_be(seen, sizes, judged):
    n, rejected, cut = judged[0], min(judged[1], judged[0]), min(judged[2], judged[0] - min(judged[1], judged[0]))
    asks = [Ask(size, size // 6, size + 16, most, "", retries, grow) for size, most, retries, grow in sizes]
    basis = Basis([Seen(*one) for one in seen], Judged(n, rejected, cut))
    for found in (cost_of(asks, basis), requests_of(asks, basis.judged)):
        assert found.low <= found.high
        assert found.expected is None or found.low <= found.expected + 0.5
        assert found.expected is None or found.expected <= found.high + 0.5
    assert cost_of(asks, basis).high <= sum(ask.bound() for ask in asks) + 1e-6
