"""What a teacher's tokens cost, in US dollars."""

import math
import os
from dataclasses import dataclass, replace
from decimal import Decimal
from urllib.parse import urlsplit


@dataclass(frozen=True)
class Price:
    """Prices in US dollars per million tokens.

    Attributes:
        input_usd: Tokens read.
        output_usd: Tokens written, reasoning included.
        cached_input_usd: Tokens read that the endpoint had in a cache; None is the price of any other.
        batch_share: What a request costs in the provider's batch mode, as a share of the price.
        version: Where the figures come from and when.
    """

    input_usd: float
    output_usd: float
    cached_input_usd: float | None = None
    batch_share: float = 1.0
    version: str = "the recipe"

    @property
    def cached_usd(self) -> float:
        """The price of a million tokens read from the cache."""
        return self.input_usd if self.cached_input_usd is None else self.cached_input_usd

    @property
    def in_batch(self) -> "Price":
        """The price in the provider's batch mode.

        Example:
            >>> Price(2.0, 8.0, batch_share=0.5).in_batch.output_usd
            4.0
        """
        share = self.batch_share
        cached = None if self.cached_input_usd is None else self.cached_input_usd * share
        return replace(
            self,
            input_usd=self.input_usd * share,
            output_usd=self.output_usd * share,
            cached_input_usd=cached,
            batch_share=1.0,
        )

    def usd(self, prompt_tokens: float, completion_tokens: float, cached_tokens: float = 0) -> float:
        """The cost of some tokens in dollars.

        Example:
            >>> Price(2.0, 8.0, 0.5).usd(1_000_000, 100_000, cached_tokens=400_000)
            2.2
        """
        fresh = prompt_tokens - cached_tokens
        return (fresh * self.input_usd + cached_tokens * self.cached_usd + completion_tokens * self.output_usd) / 1e6


@dataclass(frozen=True)
class Limits:
    """Caps on what a ledger may come to; None is no cap.

    Attributes:
        teacher_tokens: Tokens read and written.
        usd: Dollars.
        requests: Requests sent; one that was turned away for coming too fast does not count.
    """

    teacher_tokens: int | None = None
    usd: float | None = None
    requests: int | None = None

    def allow(self, spent: "Spent") -> bool:
        """Whether so much may be spent."""
        return (
            (self.teacher_tokens is None or spent.tokens <= self.teacher_tokens)
            and (self.usd is None or spent.usd <= self.usd * (1 + 1e-12))
            and (self.requests is None or spent.requests <= self.requests)
        )

    def name_of(self, spent: "Spent", tokens: int) -> str:
        """The limit that so many tokens more would pass."""
        if self.teacher_tokens is not None and spent.tokens + tokens > self.teacher_tokens:
            return "budget.teacher_tokens"
        return "budget.requests" if self.requests is not None and spent.requests >= self.requests else "budget.usd"

    def text(self, spent: "Spent") -> str:
        """What is spent of what is capped.

        Example:
            >>> Limits(teacher_tokens=1000, usd=2.5).text(Spent(400, 3, 0.125))
            '400 of 1,000 teacher tokens, $0.12 of $2.50'
        """
        shown = []
        if self.teacher_tokens is not None:
            shown.append(f"{spent.tokens:,} of {self.teacher_tokens:,} teacher tokens")
        if self.usd is not None:
            unknown = f" (besides {spent.unpriced:,} requests of unknown price)" if spent.unpriced else ""
            shown.append(f"{dollars(spent.usd)} of {cap_in_dollars(self.usd)}{unknown}")
        if self.requests is not None:
            shown.append(f"{spent.requests:,} of {self.requests:,} requests")
        return ", ".join(shown) or f"{spent.tokens:,} teacher tokens"


@dataclass(frozen=True)
class Spent:
    """What counts against the limits: what was billed, what is set aside for requests under way, what was lost.

    Attributes:
        tokens: Read and written.
        requests: Sent.
        usd: Dollars, for the requests whose price is known.
        unpriced: Requests whose price is not known.
    """

    tokens: int = 0
    requests: int = 0
    usd: float = 0.0
    unpriced: int = 0

    def plus(self, tokens: int, usd: float) -> "Spent":
        """With one request more."""
        return Spent(self.tokens + tokens, self.requests + 1, self.usd + usd, self.unpriced)


def dollars(usd: float) -> str:
    """An amount of money.

    Example:
        >>> dollars(0.00042), dollars(0.0000042), dollars(12.5), dollars(0)
        ('$0.0004', '$0.000004', '$12.50', '$0.00')
    """
    return f"${usd:,.{_decimals(usd)}f}"


def cap_in_dollars(usd: float) -> str:
    """A cap on money, as exactly as it was written.

    Example:
        >>> cap_in_dollars(2.5), cap_in_dollars(0.015), cap_in_dollars(0.00001)
        ('$2.50', '$0.015', '$0.00001')
    """
    written = -int(Decimal(str(usd)).as_tuple().exponent)
    return f"${usd:,.{max(2, min(written, 12))}f}"


def _decimals(usd: float) -> int:
    """Digits after the point: two, four for less than a cent, more where those would all be zeros."""
    return max(4, -math.floor(math.log10(usd))) if 0 < usd < 0.01 else 2


PRICES_OF = "2026-11-20"
"""The version of the table below: the day on which its sources were looked at."""

_DEEPSEEK = "https://api-docs.deepseek.com/quick_start/pricing"
"""An undated copy of the page, with the figures that others dated 2026-10-27. Prices are those of the peak hours, twice
the others, so that a cap holds at any hour. No batch mode is named. `deepseek-v4-flash` is an old name that is billed
as `deepseek-flash`. `deepseek-v4-pro` is listed at this price; for a time its requests were billed as that one."""
_OPENAI = "https://developers.openai.com/api/docs/models/gpt-5-mini"
"""An undated copy of the page, from when the model was marked for deprecation. It says that batches cost less, not how
much, so nothing is taken off."""

_PUBLISHED: dict[tuple[str, str], tuple[float, float, float, str]] = {
    ("api.deepseek.com", "deepseek-flash"): (0.30, 1.20, 0.006, _DEEPSEEK),
    ("api.deepseek.com", "deepseek-v4-flash"): (0.30, 1.20, 0.006, _DEEPSEEK),
    ("api.deepseek.com", "deepseek-v4-pro"): (1.32, 3.96, 0.044, _DEEPSEEK),
    ("api.openai.com", "gpt-5-mini"): (0.25, 2.00, 0.025, _OPENAI),
}
"""Dollars per million tokens, read, written and read from the cache, by host and model, each with its source.

Few models are here, since only what a provider's own page says goes in; `budget.prices` names any other.
"""


def published_price(model: str, base_url: str | None) -> Price | None:
    """What a provider asks for a model; None where that is not known here.

    Args:
        model: The teacher's name at the endpoint.
        base_url: The endpoint, None for the SDK's own; a model of the same name on another server has another price.

    Example:
        >>> published_price("gpt-5-mini", None).output_usd
        2.0
        >>> published_price("gpt-5-mini", "http://127.0.0.1:8000/v1") is None
        True
    """
    if (found := _PUBLISHED.get((host_of(base_url), model))) is None:
        return None
    read, written, cached, source = found
    return Price(read, written, cached, version=f"{PRICES_OF}, {source}")


def host_of(base_url: str | None) -> str:
    """The host of an endpoint; None is where the openai SDK goes by itself.

    Example:
        >>> host_of("https://api.deepseek.com/v1")
        'api.deepseek.com'
    """
    return urlsplit(base_url or os.environ.get("OPENAI_BASE_URL") or "https://api.openai.com").hostname or ""
