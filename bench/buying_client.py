"""The client that `bench/faults.py` kills: a process that buys what it is told to, through the real ledger and client.

It changes nothing of what it tests but the length of pauses. A byte in a shared file says which phase it is in, so that
its killer can see where a kill fell. `broken` in the order makes it wrong on purpose, to see that the bench notices.
"""

import json
import mmap
import os
import sys
from collections.abc import Iterable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from faulty_server import made_reply

from teachwise.errors import GateError, TeacherError
from teachwise.request import Reply, Request
from teachwise.teacher import buying, pace
from teachwise.teacher.ledger import Ledger, Reserved
from teachwise.teacher.openai import OpenAiTeacher
from teachwise.teacher.prices import Limits

PHASES = (
    "starting",
    "opening",
    "planning",
    "reserving",
    "sending",
    "waiting",
    "settling",
    "noting",
    "closing",
    "closed",
)
MAX_TOKENS = 48
TIMEOUT_SECONDS = 2.0
LATE_PAIRS = 100
"""So many replies the client that commits late keeps in memory only."""


@dataclass(frozen=True)
class Order:
    """What a client is told.

    Attributes:
        ledger: The ledger's file.
        address: The server's, with round and run in it.
        n_requests: How many distinct requests are wanted.
        concurrency: Most in flight.
        cap_tokens: The budget.
        phase: The file whose first byte says the phase.
        result: Where the replies go, as JSON, once `buy` has returned.
        broken: "" or a name in BROKEN.
    """

    ledger: str
    address: str
    n_requests: int
    concurrency: int
    cap_tokens: int
    phase: str
    result: str
    broken: str = ""


def wanted(n_requests: int) -> list[Request]:
    """The requests, always the same; every tenth is wanted twice."""
    messages = [({"role": "user", "content": f"question {n} on {n * 7919 % 1000} ?"},) for n in range(n_requests)]
    requests = [Request("faulty", one, MAX_TOKENS, 0.7, "1") for one in messages]
    return requests + requests[::10]


def needed_tokens(n_requests: int) -> int:
    """What the requests cost when each is bought once, as the server counts."""
    distinct = {request.key: request for request in wanted(n_requests)}.values()
    return sum(len(made_reply(one.messages, MAX_TOKENS)[0].split()) + one.prompt_words for one in distinct)


class Phase:
    """The phase this process is in, for others to see."""

    def __init__(self, path: str) -> None:
        with open(path, "r+b") as file:
            self._byte = mmap.mmap(file.fileno(), 1)

    def is_now(self, name: str) -> None:
        """From now on it is this one."""
        self._byte[0] = PHASES.index(name)


class MarkedLedger(Ledger):
    """The ledger, saying what it does."""

    def __init__(self, path: Path, phase: Phase) -> None:
        self._phase = phase
        phase.is_now("opening")
        super().__init__(path)
        phase.is_now("planning")

    def reserve(self, requests: Sequence[Request], *given: Any, **named: Any) -> Reserved:
        """See `Ledger`."""
        self._phase.is_now("reserving")
        result = super().reserve(requests, *given, **named)
        self._phase.is_now("sending")
        return result

    def settle(self, pairs: Iterable[tuple[Request, Reply]]) -> None:
        """See `Ledger`."""
        self._phase.is_now("settling")
        super().settle(pairs)
        self._phase.is_now("noting")

    def close(self) -> None:
        """See `Ledger`."""
        self._phase.is_now("closing")
        super().close()
        self._phase.is_now("closed")


class CommitsLate(MarkedLedger):
    """Calls a reply safe that is in memory only."""

    _kept: Sequence[tuple[Request, Reply]] = ()

    def settle(self, pairs: Iterable[tuple[Request, Reply]]) -> None:
        """Later."""
        self._kept = [*self._kept, *pairs]
        if len(self._kept) >= LATE_PAIRS:
            self._commit()

    def close(self) -> None:
        """At the latest now."""
        self._commit()
        super().close()

    def _commit(self) -> None:
        super().settle(self._kept)
        self._kept = ()


class ForgetsSent(MarkedLedger):
    """Does not note that a request leaves."""

    def reserve(self, requests: Sequence[Request], *given: Any, **named: Any) -> Reserved:
        """Take the note back."""
        result = super().reserve(requests, *given, **named)
        self._db.execute("UPDATE request SET state = 'planned', owner = NULL WHERE state = 'sent'")
        return result

    def settle(self, pairs: Iterable[tuple[Request, Reply]]) -> None:
        """As if it had been noted."""
        pairs = list(pairs)
        self._db.executemany("UPDATE request SET state = 'sent' WHERE key = ?", [(one.key,) for one, _ in pairs])
        super().settle(pairs)


class IgnoresCap(MarkedLedger):
    """Buys whatever is wanted."""

    def reserve(self, requests: Sequence[Request], *_: Any, **named: Any) -> Reserved:
        """Without limits."""
        return super().reserve(requests, **named)


BROKEN = {"": MarkedLedger, "commits_late": CommitsLate, "forgets_sent": ForgetsSent, "ignores_cap": IgnoresCap}


class MarkedTeacher(OpenAiTeacher):
    """The client, saying what it does."""

    phase: Phase

    def ask(self, request: Request) -> "Future[Reply]":
        """See `OpenAiTeacher`."""
        self.phase.is_now("sending")
        return super().ask(request)


def shorten_pauses(phase: Phase) -> None:
    """Pauses as short as the server's, and a mark while waiting for replies."""
    buying.pause_seconds = lambda attempt: 0.02 * attempt  # type: ignore[assignment]
    buying.POLL_SECONDS = 0.1
    pace.COOL_SECONDS = 0.1
    arrived = buying._Buyer._arrived

    def marked(buyer: buying._Buyer) -> Any:
        phase.is_now("waiting")
        found = arrived(buyer)
        phase.is_now("noting")
        return found

    buying._Buyer._arrived = marked  # type: ignore[method-assign]


def work(order: Order) -> int:
    """Buy, and write down what came.

    Returns:
        0 all bought; 3 the cap is reached; 4 something has no reply yet.
    """
    phase = Phase(order.phase)
    shorten_pauses(phase)
    limits = Limits(teacher_tokens=order.cap_tokens)
    ledger = BROKEN[order.broken](Path(order.ledger), phase)
    engine = MarkedTeacher("faulty", order.address, timeout_seconds=TIMEOUT_SECONDS)
    engine.phase = phase
    try:
        terms = buying.Terms(limits, concurrency=order.concurrency)
        replies = buying.buy(wanted(order.n_requests), engine, ledger, terms)
        shown = {key: [one.state, one.text, one.finish_reason] for key, one in replies.items() if one.error is None}
        Path(order.result).write_text(json.dumps(shown), encoding="utf-8")
        return 0 if len(shown) == order.n_requests else 4
    except GateError:
        return 3
    except TeacherError as error:
        print(error, file=sys.stderr)
        return 4
    finally:
        ledger.close()
        engine.close()


def begin(order: Order, said: str) -> None:
    """Work, in a process group of its own, and exit as `work` says; what it says goes to a file."""
    os.setsid()
    with open(said, "ab") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    sys.exit(work(order))
