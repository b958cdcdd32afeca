"""What is told while something long goes on: how fast it goes, and each trouble now and then."""

import time
from contextlib import suppress

from rich.markup import escape

from teachwise.console import say
from teachwise.duration import took

TELL_SECONDS = 60.0
"""How long the same trouble is not told again."""


class Told:
    """Requests in flight fail together, so each trouble is told once a minute."""

    def __init__(self) -> None:
        self._told: dict[str, float] = {}

    def once(self, what: str, text: str) -> None:
        """Say it, unless `what` was said within the last minute."""
        now = time.monotonic()
        if now >= self._told.get(what, 0.0):
            self._told[what] = now + TELL_SECONDS
            with suppress(OSError):  # the terminal may be gone, and what is under way is paid for
                say(escape(text))


class Meter:
    """How fast it goes."""

    def __init__(self, done_before: int) -> None:
        self.done_before, self._started = done_before, time.monotonic()

    def text(self, done: int, total: int) -> str:
        """The rate and the time left.

        Args:
            done: Requests that are done, those of earlier starts included.
            total: All.
        """
        seconds = time.monotonic() - self._started
        rate = (done - self.done_before) / seconds if seconds > 0 else 0.0
        if rate <= 0:
            return ""
        return f"{rate:,.1f}/s, {took((total - done) / rate, 0)} left"
