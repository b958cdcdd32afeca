"""Estimate: what requests that were not asked yet are going to cost, judged by replies that came. Pure functions.

    prompts      tokens per byte of the prompts seen, times the bytes to come
    replies      the mean of the replies seen, band by band where a band has enough of them
    asked again  by the share of first replies that were rejected; of these, how many were cut off

A low and a high end hold the total with 95% confidence: they allow for how few replies were seen and for chance among
those to come. Where too few were seen there is no expectation, only what no bill can pass.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from scipy.stats import t as student_t

from teachwise.stats import Interval, wilson

FEWEST_SEEN = 8
"""Replies below which nothing is concluded from them."""
LONGER_SHARE = (1.0, 1.5, 2.0)
"""A reply that was cut off and is asked for with twice the room: low, middle and high length, in old lengths. The
middle is a guess; it is all that is known of a text that was never seen to its end."""


@dataclass(frozen=True)
class Range:
    """A quantity that is not known yet.

    Attributes:
        low: It is hardly less.
        expected: The best guess; None where there is nothing to judge by.
        high: It is hardly more.
    """

    low: float
    expected: float | None
    high: float

    def plus(self, amount: float) -> "Range":
        """With something known added."""
        middle = None if self.expected is None else self.expected + amount
        return Range(self.low + amount, middle, self.high + amount)


@dataclass(frozen=True)
class Seen:
    """A reply to judge by.

    Attributes:
        prompt_bytes: Length of what was asked.
        prompt_tokens: Tokens read.
        completion_tokens: Tokens written.
        band: Of its example; "" where that is not known.
    """

    prompt_bytes: int
    prompt_tokens: int
    completion_tokens: int
    band: str = ""


@dataclass(frozen=True)
class Ask:
    """A request to come.

    Attributes:
        prompt_bytes: Length of the prompt.
        prompt_words: Fewer tokens than the prompt can be.
        prompt_bound: More tokens than the prompt can be.
        max_tokens: Most tokens of the reply.
        band: Of its example.
        retries: How many more samples may be asked for if it is rejected.
        may_grow: Asked once more with twice `max_tokens` if it is cut off, which then is the limit of further samples.
        has_grown: It is such a one: the reply before was cut off at half of `max_tokens`.
    """

    prompt_bytes: int
    prompt_words: int
    prompt_bound: int
    max_tokens: int
    band: str = ""
    retries: int = 0
    may_grow: bool = False
    has_grown: bool = False

    def bound(self, read: float = 1.0, written: float = 1.0) -> float:
        """What it can cost at most, with all that it may lead to."""
        once = self.prompt_bound * read + self.max_tokens * written
        if not self.may_grow:
            return once * (1 + self.retries)
        return once + (1 + self.retries) * (once + self.max_tokens * written)


@dataclass(frozen=True)
class Judged:
    """What became of the first replies to questions that are wanted.

    Attributes:
        n: How many there are.
        rejected: Of these, not kept and asked again with another sample.
        cut: Of these, cut off by the limit.
    """

    n: int = 0
    rejected: int = 0
    cut: int = 0

    def share(self, count: int) -> Interval | None:
        """A share of them with its interval; None where there are too few."""
        return wilson(count, self.n) if self.n >= FEWEST_SEEN else None


@dataclass(frozen=True)
class Basis:
    """What an estimate rests on.

    Attributes:
        seen: Replies of the same model to the same prompt.
        judged: What became of them.
    """

    seen: Sequence[Seen] = field(default_factory=tuple)
    judged: Judged = field(default_factory=Judged)

    @property
    def is_known(self) -> bool:
        """Whether there is enough to expect anything."""
        return len(self.seen) >= FEWEST_SEEN

    def thin(self, asks: Sequence[Ask]) -> list[str]:
        """Bands of requests to come that hardly any reply was seen of: the others stand in for them."""
        seen = [one.band for one in self.seen]
        return sorted({ask.band for ask in asks if seen.count(ask.band) < FEWEST_SEEN}) if self.is_known else []


@dataclass(frozen=True)
class _Group:
    """Replies that are taken together: their mean length, its spread, how many."""

    mean: float
    variance: float
    n: int


def requests_of(asks: Sequence[Ask], judged: Judged) -> Range:
    """How many requests it comes to, those that are asked again included.

    Example:
        >>> requests_of([Ask(80, 10, 96, 100)] * 5, Judged())
        Range(low=5, expected=5.0, high=5)
    """
    low, middle, high = (
        sum(1 + _again(ask, judged, end) + _grown(ask, judged, end) for ask in asks) for end in range(3)
    )
    is_known = judged.n >= FEWEST_SEEN or not any(ask.retries or ask.may_grow for ask in asks)
    return Range(round(low), middle if is_known else None, round(high + 0.499))


def cost_of(asks: Sequence[Ask], basis: Basis, read: float = 1.0, written: float = 1.0) -> Range:
    """What requests are going to cost.

    Args:
        asks: N requests to come.
        basis: The replies to judge by.
        read: The price of a token read; 1 counts tokens.
        written: The price of a token written.

    Returns:
        Tokens, or money where prices are given. The prompt cache is left out: it can only make it cheaper.
    """
    floor = sum(ask.prompt_words * read for ask in asks)
    bound = sum(ask.bound(read, written) for ask in asks)
    if not asks or not basis.is_known:
        return Range(floor, None if asks else 0.0, bound)
    groups = _groups(basis.seen)
    spread = _deviation(asks, basis, groups, read, written)
    low, middle, high = (_total(asks, basis, groups, read, written, end) for end in range(3))
    doubtful = basis.judged.n < FEWEST_SEEN and any(ask.retries or ask.may_grow for ask in asks)
    return Range(
        min(max(low - spread, floor), bound),
        None if doubtful else min(max(middle, floor), bound),
        min(max(high + spread, floor), bound),
    )


def _again(ask: Ask, judged: Judged, end: int) -> float:
    """Further samples of a request; the expectation takes each one to be rejected as often as the first."""
    if not ask.retries:
        return 0.0
    share = judged.share(judged.rejected)
    if share is None:
        return (0.0, 0.0, float(ask.retries))[end]
    middle = sum(share.value**number for number in range(1, ask.retries + 1))
    return (share.low, middle, share.high * ask.retries)[end]


def _grown(ask: Ask, judged: Judged, end: int) -> float:
    """Requests with twice the room for one that may be cut off."""
    if not ask.may_grow:
        return 0.0
    share = judged.share(judged.cut)
    return (0.0, 0.0, 1.0)[end] if share is None else (share.low, share.value, share.high)[end]


def _groups(seen: Sequence[Seen]) -> Mapping[str, _Group]:
    """Replies by band where a band has enough of them; under "" all."""
    lengths: dict[str, list[int]] = {}
    for one in seen:
        lengths.setdefault(one.band, []).append(one.completion_tokens)
    enough = {band: found for band, found in lengths.items() if band and len(found) >= FEWEST_SEEN}
    enough[""] = [one.completion_tokens for one in seen]
    return {band: _Group(float(np.mean(x)), float(np.var(x, ddof=1)), len(x)) for band, x in enough.items()}


def _ratio(seen: Sequence[Seen]) -> float:
    """Tokens per byte of the prompts seen."""
    return sum(one.prompt_tokens for one in seen) / max(1, sum(one.prompt_bytes for one in seen))


def _total(
    asks: Sequence[Ask], basis: Basis, groups: Mapping[str, _Group], read: float, written: float, end: int
) -> float:
    ratio, total = _ratio(basis.seen), 0.0
    for ask in asks:
        usual = min(groups.get(ask.band, groups[""]).mean, ask.max_tokens)
        length = ask.max_tokens / 2 * LONGER_SHARE[end] if ask.has_grown else usual
        prompt = ask.prompt_bytes * ratio * read
        total += prompt + length * written + _again(ask, basis.judged, end) * (prompt + usual * written)
        total += _grown(ask, basis.judged, end) * (prompt + LONGER_SHARE[end] * ask.max_tokens * written)
    return total


def _deviation(asks: Sequence[Ask], basis: Basis, groups: Mapping[str, _Group], read: float, written: float) -> float:
    """Half the width of the interval of a total, by Student's t: chance in what was seen and in what is to come."""
    counts: dict[str, float] = {}
    for ask in asks:
        band = ask.band if ask.band in groups else ""
        counts[band] = counts.get(band, 0.0) + (not ask.has_grown) + _again(ask, basis.judged, 1)
    variance = sum(n * groups[band].variance * (n / groups[band].n + 1) for band, n in counts.items()) * written**2
    ratio, n_seen = _ratio(basis.seen), len(basis.seen)
    rest = float(np.var([one.prompt_tokens - ratio * one.prompt_bytes for one in basis.seen], ddof=1))
    n = sum(counts.values())
    scale = sum(ask.prompt_bytes for ask in asks) / len(asks) * n_seen / max(1, sum(s.prompt_bytes for s in basis.seen))
    variance += rest * n * (scale**2 * n / n_seen + 1) * read**2
    freedom = n_seen - len(counts)
    return float(student_t.ppf(0.975, max(1, freedom)) * variance**0.5)
