"""How fast a teacher may be asked: requests in flight, per minute, and tokens per minute.

The number in flight follows what the server bears: a refusal for coming too fast (429) takes it to three quarters,
once for each burst of them, and every 25 replies in a row raise it by one again. After a refusal nothing leaves until
the wait that the server named is over. Both limits per minute hold in every 60 seconds, not on average.

Time is an argument everywhere (seconds of any clock that only goes forward), so nothing here waits.
"""

import random
from collections import deque
from dataclasses import dataclass

LESS = 0.75
"""What a burst of refusals leaves of the requests in flight."""
REPLIES_FOR_MORE = 25
"""Replies in a row that raise them by one."""
COOL_SECONDS = 2.0
"""The wait after a refusal that names none; it doubles while they go on."""
MOST_COOL_SECONDS = 60.0
MINUTE = 60.0


@dataclass(eq=False)
class Departure:
    """A request that left.

    Attributes:
        at: When.
        tokens: What it costs: its upper bound until the reply tells.
    """

    at: float
    tokens: int


class Pace:
    """The pace of one client.

    Args:
        most: Most requests in flight.
        requests_per_minute: The endpoint's limit; None is none.
        tokens_per_minute: The endpoint's limit on tokens read and written; None is none.
    """

    def __init__(self, most: int, requests_per_minute: int | None = None, tokens_per_minute: int | None = None) -> None:
        self.most = most
        self.in_flight = 0
        self._share = float(most)
        self._requests_per_minute, self._tokens_per_minute = requests_per_minute, tokens_per_minute
        self._departures: deque[Departure] = deque()
        self._minute_tokens = 0
        self._resumes_at = 0.0
        self._cut_at = float("-inf")
        self._good, self._bursts = 0, 0

    @property
    def most_now(self) -> int:
        """Most requests in flight at present."""
        return max(1, int(self._share))

    @property
    def room(self) -> int:
        """How many more may be in flight; less than 0 where fewer are allowed now than are under way."""
        return self.most_now - self.in_flight

    def wait_seconds(self, now: float, tokens: int) -> float:
        """How long until a request of so many tokens may leave; 0 is now, infinite is when another has come back."""
        if self.room <= 0:
            return float("inf")
        while self._departures and self._departures[0].at <= now - MINUTE:
            self._minute_tokens -= self._departures.popleft().tokens
        return max(0.0, self._resumes_at - now, self._minute_wait(now, tokens))

    def _minute_wait(self, now: float, tokens: int) -> float:
        """Until enough of the last minute's departures have passed out of it."""
        n, sum_tokens = len(self._departures), self._minute_tokens
        for one in (None, *self._departures):
            if one is not None:
                n, sum_tokens = n - 1, sum_tokens - one.tokens
            few = self._requests_per_minute is None or n < self._requests_per_minute
            light = self._tokens_per_minute is None or sum_tokens + tokens <= self._tokens_per_minute
            if few and (light or n == 0):  # one that alone is above the limit is sent alone
                return 0.0 if one is None else one.at + MINUTE - now
        return 0.0

    def left(self, now: float, tokens: int) -> Departure:
        """A request leaves."""
        self.in_flight += 1
        departure = Departure(now, tokens)
        if self._requests_per_minute is not None or self._tokens_per_minute is not None:
            self._departures.append(departure)
            self._minute_tokens += tokens
        return departure

    def replied(self, departure: Departure, tokens: int | None = None) -> None:
        """It came back with a reply of so many tokens, or (None) without one."""
        self.in_flight -= 1
        if tokens is None:
            return
        if self._departures and departure.at >= self._departures[0].at:  # else the minute has gone by without it
            self._minute_tokens += tokens - departure.tokens
        departure.tokens = tokens
        self._good += 1
        self._bursts = 0
        if self._good >= REPLIES_FOR_MORE:
            self._good = 0
            self._share = min(float(self.most), self._share + 1)

    def stayed(self, departure: Departure) -> None:
        """It did not leave after all."""
        self.in_flight -= 1
        if departure in self._departures:
            self._departures.remove(departure)
            self._minute_tokens -= departure.tokens

    def refused(self, departure: Departure, now: float, wait_seconds: float | None) -> float:
        """It was turned away for coming too fast.

        Args:
            departure: The request.
            now: The time.
            wait_seconds: What the server asks for, honoured in full; None where it says nothing.

        Returns:
            Seconds from now until anything leaves again.
        """
        self.in_flight -= 1
        self._good = 0
        if departure.at > self._cut_at:  # not yet slowed down when it left: a new burst
            self._cut_at = now
            self._share = max(1.0, self._share * LESS)
            self._bursts += 1
        cool = min(COOL_SECONDS * 2 ** max(0, self._bursts - 1), MOST_COOL_SECONDS)
        self._resumes_at = max(self._resumes_at, now + (cool if wait_seconds is None else wait_seconds))
        return self._resumes_at - now


def pause_seconds(attempt: int) -> float:
    """The pause before the next attempt: twice as long each time, at most half a minute, no two alike."""
    return min(2.0 ** (attempt + 1), 30.0) * random.uniform(0.2, 0.5)
