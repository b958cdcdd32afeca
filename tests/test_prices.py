"""prices: what tokens cost, and what the caps allow."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from teachwise.sections import Prices
from teachwise.teacher.prices import _PUBLISHED, PRICES_OF, Limits, Price, Spent, dollars, published_price


def test_input_cached_input_and_output_are_priced_apart():
    price = Price(2.0, 8.0, 0.5)
    assert price.usd(1_000_000, 0) == 2.0
    assert price.usd(0, 1_000_000) == 8.0
    assert price.usd(1_000_000, 0, cached_tokens=1_000_000) == 0.5
    assert price.usd(1_000_000, 100_000, cached_tokens=400_000) == pytest.approx(0.6 * 2 + 0.4 * 0.5 + 0.8)


def test_without_a_price_for_the_cache_it_costs_as_any_other():
    assert Price(2.0, 8.0).usd(1_000_000, 0, cached_tokens=500_000) == 2.0


def test_a_batch_costs_its_share_once():
    half = Price(2.0, 8.0, 1.0, batch_share=0.5).in_batch
    assert (half.input_usd, half.output_usd, half.cached_usd) == (1.0, 4.0, 0.5)
    assert half.in_batch == half


def test_each_cap_alone_refuses_and_names_itself():
    spent = Spent(tokens=100, requests=10, usd=1.0)
    for limits, name in (
        (Limits(teacher_tokens=149), "budget.teacher_tokens"),
        (Limits(requests=10), "budget.requests"),
        (Limits(usd=1.2), "budget.usd"),
    ):
        assert limits.allow(spent)
        assert not limits.allow(spent.plus(50, 0.25))
        assert limits.name_of(spent, 50) == name
    assert Limits().allow(Spent(10**12, 10**12, 1e12))


@pytest.mark.parametrize(
    ("limits", "after"),
    [(Limits(teacher_tokens=5), Spent(5)), (Limits(requests=1), Spent(0, 1)), (Limits(usd=0.3), Spent(0, 0, 0.1 * 3))],
)
def test_a_cap_may_be_reached_exactly(limits, after):
    assert limits.allow(after)


@given(st.lists(st.tuples(st.integers(0, 10**6), st.floats(0, 100)), max_size=30), st.integers(0, 10**7))
def test_what_is_allowed_one_by_one_is_never_above_the_cap(parts, cap):
    limits, spent = Limits(teacher_tokens=cap, usd=cap / 1e5, requests=cap // 10**6), Spent()
    for tokens, usd in parts:
        if limits.allow(after := spent.plus(tokens, usd)):
            spent = after
    assert spent.tokens <= cap
    assert spent.usd <= cap / 1e5 * (1 + 1e-9)
    assert spent.requests <= cap // 10**6


def test_what_is_spent_is_told_with_what_is_not_known():
    assert (
        Limits(1000, 2.5, 7).text(Spent(400, 3, 0.125))
        == "400 of 1,000 teacher tokens, $0.12 of $2.50, 3 of 7 requests"
    )
    assert "$0.12 of $2.50 (besides 3 requests of unknown price)" in Limits(usd=2.5).text(Spent(400, 3, 0.12, 3))
    assert Limits().text(Spent(400)) == "400 teacher tokens"


def test_a_cache_that_costs_more_than_reading_anew_is_a_slip():
    """What is set aside for a request would not cover it."""
    with pytest.raises(ValidationError, match="is above `input`"):
        Prices(input=1.0, output=2.0, cached_input=1.5)


def test_small_amounts_are_not_rounded_away():
    assert [dollars(one) for one in (0.0, 0.00042, 0.02, 1234.5)] == ["$0.00", "$0.0004", "$0.02", "$1,234.50"]
    assert dollars(0.000012) == "$0.00001"


@pytest.mark.parametrize(
    ("cap", "shown"),
    [
        (0.00001, "$0.00001"),
        (1.5e-07, "$0.00000015"),
        (0.015, "$0.015"),
        (2.5, "$2.50"),
        (0, "$0.00"),
        (5000, "$5,000.00"),
    ],
)
def test_a_cap_is_told_as_exactly_as_it_was_written(cap, shown):
    assert Limits(usd=cap).text(Spent()) == f"$0.00 of {shown}"


@given(st.floats(0, 1e9))
def test_no_amount_above_nothing_looks_like_nothing(usd):
    assert (float(dollars(usd).strip("$").replace(",", "")) > 0) == (usd > 0)


# the published prices


def test_a_price_belongs_to_a_model_at_a_host_and_names_its_source():
    price = published_price("deepseek-flash", "https://api.deepseek.com/v1")
    assert (price.input_usd, price.cached_usd, price.output_usd) == (0.30, 0.006, 1.20)
    assert price.version == f"{PRICES_OF}, https://api-docs.deepseek.com/quick_start/pricing"
    assert published_price("deepseek-flash", "http://127.0.0.1:8000/v1") is None
    assert published_price("deepseek-flash", "https://api.deepseek.com.example.org/v1") is None
    assert published_price("deepseek-flash", None) is None
    assert published_price("nobody-knows", "https://api.deepseek.com/v1") is None


def test_without_an_address_it_is_where_the_sdk_goes(monkeypatch):
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    assert published_price("gpt-5-mini", None).input_usd == 0.25
    monkeypatch.setenv("OPENAI_BASE_URL", "https://gateway.example.org/v1")
    assert published_price("gpt-5-mini", None) is None


@pytest.mark.parametrize(("host", "model"), _PUBLISHED)
def test_every_published_price_is_plausible_and_has_its_page(host, model):
    price = published_price(model, f"https://{host}/v1")
    assert 0 < price.cached_usd <= price.input_usd <= price.output_usd < 200
    assert re.fullmatch(r"20\d\d-\d\d-\d\d, https://\S+", price.version)
