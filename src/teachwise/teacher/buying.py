"""Buying: send requests, at a bearable pace and within the limits, until each has its outcome in the ledger.

One thread decides and writes the ledger; an engine's threads wait for the endpoint. In each turn all replies that came
are committed in one write, and all requests that may leave are reserved in another, before the first of them does.

    turned away for coming too fast      costs nothing and uses up no attempt; all wait as long as the server says
    the server stumbled or is not there  costs nothing; asked again after a pause, `ATTEMPTS` times in all
    nobody knows                         counts as spent; asked again, `TRIES` times in all and once at every later
                                         start, or kept so (`on_unknown`)
    rejected                             costs nothing; given up
"""

import heapq
import time
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from itertools import count
from queue import Empty, SimpleQueue

from teachwise.console import Bar, progress
from teachwise.duration import took
from teachwise.errors import GateError, TeacherError
from teachwise.request import Reply, Request, as_counted, no_reply
from teachwise.teacher.engine import TeacherEngine
from teachwise.teacher.interrupt import patient_interrupt
from teachwise.teacher.ledger import Ledger
from teachwise.teacher.ledger_file import patiently
from teachwise.teacher.meter import Meter, Told
from teachwise.teacher.pace import Departure, Pace, pause_seconds
from teachwise.teacher.prices import Limits, Price, dollars

ATTEMPTS = 5
"""How often a request is asked that a stumbling server did not take."""
TRIES = 3
"""How often a request is asked whose outcome is unknown."""
HOPELESS = 20
"""After so many failures in a row nothing more is sent."""
PATIENCE_SECONDS = 600.0
"""How long everything may go on being refused for coming too fast, and the longest wait that is sat out."""
POLL_SECONDS = 0.5
"""How often the ledger is looked into for what another process has under way."""
GATHER_SECONDS = 0.005
SHOW_SECONDS = 0.2
"""How often the progress bar moves."""
FIRST_FEW = 4
"""Requests in flight under a cap until the teacher has shown by a reply that it keeps to its bounds."""


@dataclass(frozen=True)
class Terms:
    """On what terms to buy.

    Attributes:
        limits: Caps on what the ledger may come to.
        price: Of the teacher's tokens; None where it is not known.
        on_unknown: `ask_again` or `keep`.
        concurrency: Most requests in flight.
        requests_per_minute: The endpoint's limit; None is none.
        tokens_per_minute: The endpoint's limit; None is none.
        is_partial: Where the limits are reached, go on with what there is.
    """

    limits: Limits = field(default_factory=Limits)
    price: Price | None = None
    on_unknown: str = "ask_again"
    concurrency: int = 8
    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    is_partial: bool = False


def buy(requests: Sequence[Request], engine: TeacherEngine, ledger: Ledger, terms: Terms) -> dict[str, Reply]:
    """Replies to all requests by request key; those the ledger holds cost nothing.

    Args:
        requests: N requests; equal ones are asked once.
        engine: The teacher.
        ledger: Where everything is noted before it is done.
        terms: Limits, prices and pace.

    Returns:
        A reply for every distinct request; with `is_partial` those that the limits could not bear are missing.

    Raises:
        GateError: the limits cannot bear the next request. Everything bought is in the ledger.
        TeacherError: `HOPELESS` requests in a row failed, the teacher refuses altogether, or it is not there.
        KeyboardInterrupt: Ctrl-C or another signal to end, once all replies under way are in the ledger.
    """
    distinct = list({request.key: request for request in requests}.values())
    there = ledger.replies(distinct)
    ledger.plan(request for request in distinct if request.key not in there)
    with patient_interrupt() as stopped, progress("teaching", total=len(distinct), done=len(there)) as bar:
        buyer = _Buyer(distinct, there, engine, ledger, terms, bar, stopped)
        buyer.work()
    return buyer.replies


class _Buyer:
    """The state of one purchase."""

    def __init__(
        self,
        requests: Sequence[Request],
        there: dict[str, Reply],
        engine: TeacherEngine,
        ledger: Ledger,
        terms: Terms,
        bar: Bar,
        stopped: list[int],
    ) -> None:
        self.replies = dict(there)
        self._total = len(requests)
        self._waiting = deque(request for request in requests if request.key not in there)
        self._later: list[tuple[float, int, Request]] = []  # a heap: when, in which order, what
        self._order = count()
        self._elsewhere: list[Request] = []  # under way in another process
        self._look_at = 0.0
        self._flying: dict[Future[Reply], tuple[Request, Departure]] = {}
        self._came: SimpleQueue[Future[Reply]] = SimpleQueue()
        self._engine, self._ledger, self._terms, self._bar, self._stopped = engine, ledger, terms, bar, stopped
        self._pace = Pace(terms.concurrency, terms.requests_per_minute, terms.tokens_per_minute)
        self._attempts: Counter[str] = Counter()
        unanswered = ledger.n_unanswered()
        self._tries = Counter({r.key: min(unanswered.get(r.key, 0), TRIES - 1) for r in self._waiting})
        self._failed_in_a_row, self._last_error = 0, ""
        self._failure: Exception | None = None
        self._refused: Request | None = None
        self._is_final = True
        self._turned_away_since: float | None = None
        self._done, self._show_at, self._usd = len(there), 0.0, 0.0
        self._usd_before = ledger.spent(terms.price).usd
        has_cap = terms.limits.teacher_tokens is not None or terms.limits.usd is not None
        self._is_new = has_cap and bool(requests) and not ledger.has_reply_of(requests[0].model)
        self._meter = Meter(len(there))
        self._told = Told()

    def work(self) -> None:
        """Until every request has its outcome, or nothing more may be sent."""
        while True:
            sent = 0
            with self._failing_later():
                self._fetch_due()
                sent = self._send()
            if not self._flying and not sent and self._is_over():
                break
            self._collect()
        if self._failure:
            raise self._failure
        if self._stopped:
            raise KeyboardInterrupt
        if self._failed_in_a_row >= HOPELESS:
            found = f"teach: {self._failed_in_a_row} requests in a row failed, the last with {self._last_error}"
            raise TeacherError(found, "mend what it says and run again; what came back is kept")
        if self._refused and not self._terms.is_partial:
            raise spent_gate(self._refused, self._ledger, self._terms, len(self.replies), self._total)

    @contextmanager
    def _failing_later(self) -> Iterator[None]:
        """What fails in here, such as a locked ledger, ends the purchase once the replies under way are in."""
        try:
            yield
        except Exception as error:
            self._fail(error)

    def _fail(self, error: Exception) -> None:
        self._failure = self._failure or error  # the first one tells most

    def _may_send(self) -> bool:
        return not (self._stopped or self._failure or self._failed_in_a_row >= HOPELESS)

    def _is_over(self) -> bool:
        """Whether nothing is left that could still be sent; the limits are final only once nothing is under way."""
        left = self._waiting or self._later or self._elsewhere
        if not self._may_send() or not left:
            return True
        return self._refused is not None and self._is_final

    def _fetch_due(self) -> None:
        """Put back into the row what has waited long enough, or what another process has not finished."""
        now = time.monotonic()
        while self._later and self._later[0][0] <= now:
            self._waiting.appendleft(heapq.heappop(self._later)[2])
        if (self._elsewhere or self._refused) and self._look_at <= now:
            self._look_at = now + POLL_SECONDS
            self._ledger.reconcile()
            if n := len(self._elsewhere):
                self._told.once("elsewhere", f"waiting for {n:,} requests that another process has under way")
            self._waiting.extend(self._elsewhere)  # reserving them tells whether they are still under way
            self._elsewhere = []

    def _send(self) -> int:
        """Reserve and send as many as may leave now."""
        if not self._may_send() or not self._waiting:
            return 0
        now, wanted, departures = time.monotonic(), [], []
        while self._waiting and self._wait_seconds(now) <= 0:
            request = self._waiting.popleft()
            wanted.append(request)
            departures.append(self._pace.left(now, request.upper_bound_tokens))
        result = self._ledger.reserve(
            wanted, self._terms.limits, self._terms.price, asks_unknown=self._terms.on_unknown == "ask_again"
        )
        taken = {request.key for request in result.taken}
        for request, departure in zip(wanted, departures, strict=True):
            if request.key in taken:
                future = self._started(request)
                self._flying[future] = request, departure
                future.add_done_callback(self._came.put)
            else:
                self._pace.stayed(departure)
        self.replies |= result.there  # bought by another process meanwhile
        self._elsewhere += result.elsewhere
        self._waiting.extendleft(reversed(result.left))
        self._refused, self._is_final = (result.left[0] if result.left else None), result.is_final
        return len(taken)

    def _collect(self) -> None:
        """Wait for what comes first: a reply, or the time when the next request may leave."""
        if not self._flying:
            time.sleep(self._pause())
            return
        settled = []
        for future in self._arrived():
            request, departure = self._flying.pop(future)
            settled.append((request, self._judged(request, departure, self._outcome(future))))
        if settled:
            patiently(lambda: self._ledger.settle(settled), lambda text: self._told.once("disk", text))
            self._refused = None  # what it had reserved beyond its cost is free again
            for request, reply in settled:
                self._note(request, reply)
            with self._failing_later():
                self._show()

    def _arrived(self) -> "list[Future[Reply]]":
        """All that came back, once something has."""
        try:
            found = [self._came.get(timeout=self._pause())]
        except Empty:
            return []
        if len(self._flying) > 1:
            time.sleep(GATHER_SECONDS)  # those that come with it share a write to the disk
        return found + [self._came.get_nowait() for _ in range(self._came.qsize())]

    def _pause(self) -> float:
        """How long nothing can happen but that a reply comes."""
        now, pause = time.monotonic(), POLL_SECONDS
        if not self._may_send():
            return pause
        if self._waiting and self._refused is None:
            pause = min(pause, self._wait_seconds(now))
        if self._later:
            pause = min(pause, max(0.0, self._later[0][0] - now))
        return pause

    def _wait_seconds(self, now: float) -> float:
        """Until the first that waits may leave; infinite is when another has come back."""
        if self._is_new and self._pace.in_flight >= FIRST_FEW:
            return float("inf")
        return self._pace.wait_seconds(now, self._waiting[0].upper_bound_tokens)

    def _started(self, request: Request) -> "Future[Reply]":
        try:
            return self._engine.ask(request)
        except Exception as error:  # what others have under way is paid for and comes first
            failed: Future[Reply] = Future()
            failed.set_exception(error)
            return failed

    def _outcome(self, future: "Future[Reply]") -> Reply:
        try:
            return future.result()
        except TeacherError as error:
            self._fail(error)
            return no_reply(f"TeacherError: {error.found}")
        except Exception as error:  # raised in the end, once all that is under way is in the ledger
            self._fail(error)
            return no_reply(f"{type(error).__name__}: {error}", "unanswered")

    def _judged(self, request: Request, departure: Departure, reply: Reply) -> Reply:
        """The reply as it goes into the ledger; the last attempt with a server that stumbles is a failure."""
        if reply.error is None:
            reply = as_counted(reply, request)
            self._pace.replied(departure, reply.prompt_tokens + reply.completion_tokens)
            return reply
        if reply.fault == "too_fast":
            self._slow_down(reply, self._pace.refused(departure, time.monotonic(), reply.wait_seconds))
            return reply
        self._pace.replied(departure)
        if reply.fault not in ("unavailable", "absent"):
            return reply
        self._attempts[request.key] += 1
        if (reply.wait_seconds or 0.0) > PATIENCE_SECONDS:
            self._come_back(reply, reply.wait_seconds or 0.0)
        if self._attempts[request.key] < ATTEMPTS:
            return reply
        if reply.fault == "absent":
            hint = "start the server, or correct teacher.base_url; what was paid for is kept"
            self._failure = self._failure or TeacherError(f"teach: {reply.error}", hint)
            return reply
        return replace(reply, fault="rejected")

    def _slow_down(self, reply: Reply, wait_seconds: float) -> None:
        now = time.monotonic()
        self._turned_away_since = self._turned_away_since or now
        if now + wait_seconds - self._turned_away_since > PATIENCE_SECONDS:
            self._come_back(reply, wait_seconds)
            return
        self._told.once(
            "too fast",
            f"the teacher is asked too fast: waiting {took(wait_seconds)}, then {self._pace.most_now} at a time",
        )

    def _come_back(self, reply: Reply, wait_seconds: float) -> None:
        """Give up for now, and say when to come back."""
        at = datetime.now().astimezone() + timedelta(seconds=(seconds := min(wait_seconds, 1e9)))
        self._failure = self._failure or TeacherError(
            f"teach: the teacher turns requests away until {at:%Y-%m-%d %H:%M}, for {took(seconds)} ({reply.error})",
            "run the same command again then, or lower teacher.concurrency; what was paid for is kept",
        )

    def _note(self, request: Request, reply: Reply) -> None:
        """What follows from an outcome that is in the ledger."""
        now = time.monotonic()
        if reply.error is None:
            self.replies[request.key] = reply
            self._done += 1
            if price := self._terms.price:
                self._usd += price.usd(reply.prompt_tokens, reply.completion_tokens, reply.cached_tokens)
            self._failed_in_a_row = self._failed_in_a_row + 1 if reply.raw else 0
            self._last_error = "a reply without a text that can be read; it is kept as `raw` in the ledger"
            self._turned_away_since, self._is_new = None, False
            if (tokens := reply.prompt_tokens + reply.completion_tokens) > request.upper_bound_tokens:
                text = "more than it may use: the next ones are taken to cost as many times as much"
                self._told.once("more", f"the teacher reports {tokens:,} tokens for a request, {text}")
            if reply.has_unknown_end:
                self._told.once("end", f"a reply ended with {reply.finish_reason!r}: it is taken for a whole one")
            return
        if reply.fault == "too_fast":
            heapq.heappush(self._later, (now, next(self._order), request))
            return
        if reply.fault in ("unavailable", "absent"):
            if (attempt := self._attempts[request.key]) >= ATTEMPTS:
                return
            self._told.once(f"attempt {attempt}", f"{reply.error}; trying again ({attempt + 1} of {ATTEMPTS})")
            pause = max(pause_seconds(attempt), min(reply.wait_seconds or 0.0, PATIENCE_SECONDS))
            heapq.heappush(self._later, (now + pause, next(self._order), request))
            return
        self.replies[request.key] = reply
        self._failed_in_a_row += 1
        self._last_error = reply.error
        if reply.fault == "unanswered" and self._terms.on_unknown == "ask_again":
            self._tries[request.key] += 1
            if self._tries[request.key] < TRIES:
                del self.replies[request.key]
                pause = pause_seconds(self._tries[request.key])
                heapq.heappush(self._later, (now + pause, next(self._order), request))

    def _show(self) -> None:
        now = time.monotonic()
        if now >= self._show_at or not self._flying:
            self._show_at = now + SHOW_SECONDS
            spent = self._ledger.spent(self._terms.price)
            self._bar.at(self._done, self._projected(), self._terms.limits.text(spent))

    def _projected(self) -> str:
        """How fast it goes, and what all will have cost."""
        text, n_new = self._meter.text(self._done, self._total), self._done - self._meter.done_before
        if self._terms.price is None or not n_new:
            return text
        so_far = self._usd_before + self._usd
        in_all = so_far + self._usd / n_new * (self._total - self._done)
        return f"{dollars(so_far)} so far, about {dollars(in_all)} in all  {text}".strip()


def spent_gate(refused: Request, ledger: Ledger, terms: Terms, there: int, total: int) -> GateError:
    """Why nothing more may be bought.

    Args:
        refused: The request that the limits cannot bear.
        ledger: What is spent.
        terms: The limits.
        there: Replies that are there.
        total: Replies that are wanted.
    """
    limits, price, bound = terms.limits, terms.price, ledger.bound(refused)
    spent, tokens = ledger.spent(price), sum(bound)
    usd = f" ({dollars(price.usd(*bound))})" if price else ""
    if tokens > refused.upper_bound_tokens:
        usd += f", not {refused.upper_bound_tokens:,}, since a reply of this teacher passed its bound"
    by = " by all runs that use this ledger" if spent.requests and not there else ""
    return GateError(
        f"teach: budget spent, {limits.text(spent)}{by}; {there:,} of {total:,} rationales are there"
        f" and the next may cost {tokens:,} tokens{usd}",
        f"raise {limits.name_of(spent, tokens)} and run again: what has a reply is not bought again;"
        " or go on with what there is: --partial",
    )
