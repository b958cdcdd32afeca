"""What was asked of the teacher, what it answered, and what that used of the budget.

One SQLite file with one row per distinct request:

    planned  ->  reserved  ->  sent  ->  ok | truncated | refused        a result; never sent again
                                     ->  failed                          rejected; costs nothing, may be asked again
                                     ->  unknown                         nobody knows whether it was billed
                                     ->  planned                         turned away; costs nothing

A row is `sent` before the request leaves, and has its result once the whole reply is on the disk, so no kill loses a
reply that was paid for and came. `reserved` is money set aside for a request that is not known to have left: it waits
in a batch. Where a request timed out, or the process died while it was `sent`, it becomes `unknown`: its reservation
stays counted as spent, also when it is asked again.

Several processes may share a ledger. Each holds a lock file as long as it lives; what a dead one left `sent` or
`reserved` is set right by whoever comes next.

Only raw replies are kept here. Reading an answer out of one is done afterwards, and costs nothing.
"""

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from math import ceil
from pathlib import Path
from typing import Any

from teachwise.request import NOT_TAKEN, RESULTS, Reply, Request, counted, no_reply
from teachwise.teacher.ledger_file import opened, told, writing
from teachwise.teacher.ledger_schema import BY_MODEL, COLUMNS, HOLD, OVER, SPENT
from teachwise.teacher.lifeline import Lifeline
from teachwise.teacher.prices import Limits, Price, Spent

LEDGER = "ledger.sqlite"
"""Name of the ledger in a run folder."""

_TEXTS = ("reasoning", "logprobs", "served_model", "host", "raw")
_REPLY = f"text, finish_reason, prompt_tokens, completion_tokens, error, cached_tokens, {', '.join(_TEXTS)}"

_BATCH = "batch:"
"""How owners are named that are no process: a batch lives at the provider, so none of them is ever dead."""


def _bound(request: Request, over: Mapping[str, tuple[float, float]]) -> tuple[int, int]:
    read, written = over.get(request.model, (1, 1))
    return ceil(request.prompt_bound_tokens * read), ceil(request.max_tokens * written)


@dataclass
class Reserved:
    """What became of requests that somebody wants to send.

    Attributes:
        taken: Reserved now; the caller sends them.
        there: Replies that the ledger has already, by request key.
        elsewhere: Under way in another process.
        left: From the first on that the limits cannot bear.
        is_final: Nobody else has anything under way whose reservation may come free, so more cannot be had.
    """

    taken: list[Request] = field(default_factory=list)
    there: dict[str, Reply] = field(default_factory=dict)
    elsewhere: list[Request] = field(default_factory=list)
    left: list[Request] = field(default_factory=list)
    is_final: bool = True


class Ledger:
    """The teacher's account.

    Args:
        path: The SQLite file; made if missing.

    Raises:
        DataError: here and in every method: the file is damaged, is no ledger, or the disk or its rights refuse.
    """

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._path = path
        self._life = Lifeline(path)
        self._db = opened(path)
        self.reconcile()
        self._life.sweep()

    def _told(self) -> AbstractContextManager[None]:
        return told(self._path)

    def _writing(self) -> AbstractContextManager[None]:
        return writing(self._db, self._path)

    def in_one_write(self) -> AbstractContextManager[None]:
        """What is changed within is on the disk all at once, or not at all."""
        return self._writing()

    def reconcile(self) -> int:
        """Set right what dead processes left: `sent` becomes `unknown`, `reserved` becomes `planned`.

        Returns:
            How many requests were.
        """
        with self._told():
            owners = [
                owner for (owner,) in self._db.execute("SELECT DISTINCT owner FROM request WHERE owner IS NOT NULL")
            ]
        dead = [one for one in owners if not one.startswith(_BATCH) and not self._life.lives(one)]
        if not dead:
            return 0
        with self._writing():
            changed = sum(
                self._db.execute(
                    "UPDATE request SET owner = NULL, state = CASE state WHEN 'sent' THEN 'unknown'"
                    " WHEN 'reserved' THEN 'planned' ELSE state END WHERE owner = ?",
                    (owner,),
                ).rowcount
                for owner in dead
            )
        self._life.sweep()
        return changed

    def reply(self, request: Request) -> Reply | None:
        """The committed reply, or None where there is none yet."""
        return self.replies([request]).get(request.key)

    def replies(self, requests: Iterable[Request]) -> dict[str, Reply]:
        """The committed replies by request key, as far as there are any."""
        with self._told():
            found = {request.key: self._row(request) for request in requests}
        return {key: row[1] for key, row in found.items() if row and row[0] in RESULTS}

    def _row(self, request: Request) -> tuple[str, Reply, str | None] | None:
        row = self._db.execute(f"SELECT state, owner, {_REPLY} FROM request WHERE key = ?", (request.key,)).fetchone()
        if row is None:
            return None
        state, owner, text, finish, read, written, error, cached, *texts = row
        more: dict[str, Any] = {name: found or "" for name, found in zip(_TEXTS, texts, strict=True)}
        return state, Reply(text or "", finish or "", read, written, error, cached_tokens=cached, **more), owner

    def plan(self, requests: Iterable[Request]) -> None:
        """Note what is wanted, so that the ledger also shows what is still to be bought."""
        with self._writing():
            self._db.executemany(
                "INSERT OR IGNORE INTO request (key, model, body, state, changed_at) VALUES (?, ?, ?, 'planned', ?)",
                ((request.key, request.model, request.body, time.time()) for request in requests),
            )

    def reserve(
        self,
        requests: Sequence[Request],
        limits: Limits = Limits(),  # noqa: B008 - it is frozen
        price: Price | None = None,
        is_batch: bool = False,
        asks_unknown: bool = True,
        holds: bool = True,
    ) -> Reserved:
        """Note that requests are about to be sent, as many as the limits can bear, all in one write to the disk.

        Args:
            requests: In the order in which they are to be sent.
            limits: What the ledger may come to, by the upper bound of every request.
            price: What they cost; None where nobody knows.
            is_batch: They wait in a batch, so they are `reserved`, not `sent`.
            asks_unknown: Ask requests again whose outcome nobody knows; else they stay without a reply.
            holds: Else nothing is changed: they are only what could be taken.

        Returns:
            Which of them the caller may send, and what is known of the others.

        Raises:
            ValueError: there is a cap in dollars, but no price.
        """
        if limits.usd is not None and price is None:
            raise ValueError("a cap in dollars needs a price")
        result = Reserved()
        if not requests:
            return result
        owner = self._life.begin()
        today, price = price, price.in_batch if price and is_batch else price
        with self._writing():
            spent, over = self._spent(today), self._over()
            for number, request in enumerate(requests):
                state, reply, holder = self._row(request) or ("planned", None, None)
                if reply and state in RESULTS:
                    result.there[request.key] = reply
                elif state == "unknown" and not asks_unknown:
                    result.there[request.key] = no_reply("nobody knows whether it was answered", "unanswered")
                elif state in ("sent", "reserved"):
                    result.elsewhere += [request] if holder != owner else []
                else:
                    bound = _bound(request, over)
                    after = spent.plus(sum(bound), price.usd(*bound) if price else 0.0)
                    if not limits.allow(after):
                        result.left = list(requests[number:])
                        result.is_final = self.n_elsewhere() == 0  # as it is now, since it changes any moment
                        break
                    spent = after
                    if holds:
                        self._hold(request, bound, owner, price, is_batch)
                    result.taken.append(request)
        return result

    def bound(self, request: Request) -> tuple[int, int]:
        """Tokens read and written to set aside for it: its bound, as many times as the model's replies ever came to."""
        with self._told():
            return _bound(request, self._over())

    def _over(self) -> dict[str, tuple[float, float]]:
        return {model: (read, written) for model, read, written in self._db.execute(OVER)}

    def has_reply_of(self, model: str) -> bool:
        """Whether the model has ever answered."""
        with self._told():
            rows = self._db.execute(f"SELECT 1 FROM request WHERE state IN {RESULTS} AND model = ? LIMIT 1", (model,))
            return rows.fetchone() is not None

    def _hold(self, request: Request, bound: tuple[int, int], owner: str, price: Price | None, is_batch: bool) -> None:
        self._db.execute(
            HOLD,
            (
                request.key,
                request.model,
                request.body,
                "reserved" if is_batch else "sent",
                owner,
                0 if is_batch else 1,
                *bound,
                price and price.input_usd,
                price and price.cached_usd,
                price and price.output_usd,
                price and price.version,
                time.time(),
            ),
        )

    def settle(self, pairs: Iterable[tuple[Request, Reply]]) -> None:
        """Commit replies (or why there are none), all in one write; after this returns they survive any kill.

        A reply counts with the larger of what the endpoint reports and what can be counted here. One that comes for a
        request that was given up meanwhile (a process that only slept was taken for dead) is kept like any other; where
        the request has been answered a second time by then, its cost is counted as lost.

        Raises:
            ValueError: a request was never reserved.
        """
        with self._writing():
            for request, reply in pairs:
                row = self._db.execute("SELECT state, sends FROM request WHERE key = ?", (request.key,)).fetchone()
                if row is None or row == ("planned", 0):
                    raise ValueError(f"request {request.key} was settled, but never reserved")
                if row[0] in RESULTS:
                    self._lose(request, reply)
                elif row[0] in ("sent", "reserved") or reply.error is None:
                    self._settle(request, reply)

    def _settle(self, request: Request, reply: Reply) -> None:
        read, written = (0, 0) if reply.error is not None else counted(reply, request)
        self._db.execute(
            f"UPDATE request SET state = ?, owner = NULL, sends = sends - ?, text = ?, {' = ?, '.join(_TEXTS)} = ?,"
            " finish_reason = ?, prompt_tokens = ?, cached_tokens = ?, completion_tokens = ?, error = ?,"
            " over_read = MAX(over_read, ?), over_written = MAX(over_written, ?), changed_at = ? WHERE key = ?",
            (
                reply.state,
                reply.error is not None and reply.fault in NOT_TAKEN,
                reply.text,
                *(getattr(reply, name) for name in _TEXTS),
                reply.finish_reason,
                read,
                min(reply.cached_tokens, read),
                written,
                reply.error,
                read / max(1, request.prompt_bound_tokens),
                written / max(1, request.max_tokens),
                time.time(),
                request.key,
            ),
        )

    def _lose(self, request: Request, reply: Reply) -> None:
        """A second outcome for a request that has its reply: its cost, all of it where nobody knows, is lost."""
        if reply.error is not None and reply.fault != "unanswered":
            return
        whole = _bound(request, self._over())
        read, written = counted(reply, request) if reply.error is None else whole
        self._db.execute(
            "UPDATE request SET lost_requests = lost_requests + 1, lost_tokens = lost_tokens + ?, lost_usd = lost_usd"
            " + (? * COALESCE(input_usd, 0) + ? * COALESCE(output_usd, 0)) / 1e6 WHERE key = ?",
            (read + written, read, written, request.key),
        )

    def release(self, requests: Iterable[Request]) -> None:
        """Requests under way were not executed: they cost nothing, and are wanted as before."""
        with self._writing():
            self._db.executemany(
                "UPDATE request SET sends = sends - (state = 'sent'), state = 'planned', owner = NULL, changed_at = ?"
                " WHERE key = ? AND state IN ('sent', 'reserved')",
                ((time.time(), request.key) for request in requests),
            )

    def hand_over(self, requests: Iterable[Request], batch: str) -> None:
        """Requests that we have reserved belong to a batch from now on, and stay reserved when we are gone."""
        with self._writing():
            self._db.executemany(
                "UPDATE request SET owner = ? WHERE key = ? AND state = 'reserved' AND owner = ?",
                ((_BATCH + batch, request.key, self._life.name) for request in requests),
            )

    def mark_sent(self, batch: str) -> None:
        """What a batch holds has left."""
        with self._writing():
            self._db.execute(
                "UPDATE request SET state = 'sent', sends = sends + 1 WHERE state = 'reserved' AND owner = ?",
                (_BATCH + batch,),
            )

    def in_batches(self, name: str = "%") -> dict[str, list[Request]]:
        """Requests that wait in batches, by the batch's name; those of one batch alone where it is named."""
        found: dict[str, list[Request]] = {}
        with self._told():
            for owner, body in self._db.execute(
                "SELECT owner, body FROM request WHERE owner LIKE ? ORDER BY key", (_BATCH + name,)
            ):
                found.setdefault(owner.removeprefix(_BATCH), []).append(Request.from_body(body))
        return found

    def knows(self, key: str) -> bool:
        """Whether a request with that key was ever wanted."""
        with self._told():
            return self._db.execute("SELECT 1 FROM request WHERE key = ?", (key,)).fetchone() is not None

    def n_unanswered(self) -> dict[str, int]:
        """How often nobody knew the outcome, by request key, for the requests of which that is so."""
        with self._told():
            return dict(
                self._db.execute(
                    "SELECT key, lost_requests + (state = 'unknown') FROM request"
                    " WHERE lost_requests > 0 OR state = 'unknown'"
                )
            )

    def n_elsewhere(self) -> int:
        """Requests under way in other processes; those in batches, which may take a day, are not counted."""
        with self._told():
            row = self._db.execute(
                "SELECT COUNT(*) FROM request WHERE owner IS NOT NULL AND state IN ('sent', 'reserved')"
                " AND owner IS NOT ? AND owner NOT LIKE ?",
                (self._life.name, _BATCH + "%"),
            )
            return int(row.fetchone()[0])

    def spent(self, price: Price | None = None) -> Spent:
        """What counts against the limits: billed, under way, and lost.

        Args:
            price: Of today, for requests that were sent when no price was known; without it they cost nothing.
        """
        with self._told():
            return self._spent(price)

    def _spent(self, price: Price | None) -> Spent:
        return Spent(*self._db.execute(SPENT, (price and price.input_usd, price and price.output_usd)).fetchone())

    def accounts(self) -> list[dict[str, Any]]:
        """Requests, tokens and dollars by model and state."""
        with self._told():
            rows = self._db.execute(BY_MODEL)
            names = [column[0] for column in rows.description]
            return [dict(zip(names, row, strict=True)) for row in rows]

    def totals(self) -> dict[str, Any]:
        """Requests by state, tokens read, written, held for requests without an outcome, and lost; dollars."""
        rows = self.accounts()
        states: dict[str, int] = {}
        for row in rows:
            states[row["state"]] = states.get(row["state"], 0) + row["requests"]
        names = ("prompt_tokens", "cached_tokens", "completion_tokens", "held_tokens", "lost_requests", "lost_tokens")
        sums = {name: sum(row[name] for row in rows) for name in (*names, "usd", "unpriced")}
        return {"requests": dict(sorted(states.items())), **sums}

    def rows(self) -> Iterator[Mapping[str, Any]]:
        """Every request with all that is known of it, in the order of keys."""
        with self._told():
            rows = self._db.execute(f"SELECT {', '.join(COLUMNS)} FROM request ORDER BY key")
            for row in rows:
                yield dict(zip(COLUMNS, row, strict=True))

    def close(self) -> None:
        """Close the file."""
        self._db.close()
        self._life.end()
