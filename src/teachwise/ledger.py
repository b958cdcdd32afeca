"""What was asked of the teacher, what it answered, and what that used of the budget.

One SQLite file with one row per distinct request. A row is `sent` before the request leaves and `done` once its whole
reply is on the disk; a `done` request is never sent again, whatever is killed. Where nobody knows whether a request was
billed (it timed out, or the process died while it was `sent`) it becomes `unknown`: its reservation stays counted as
spent, and it is asked again. A `failed` request was refused and costs nothing.

Only raw replies are kept here. Reading an answer out of one is done afterwards, from the ledger, and costs nothing.
"""

import json
import re
import sqlite3
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from teachwise.errors import DataError
from teachwise.records import Message
from teachwise.run_folder import content_hash

LEDGER = "ledger.sqlite"
"""Name of the ledger in a run folder."""

_SCHEMA = """
CREATE TABLE IF NOT EXISTS request (
    key               TEXT PRIMARY KEY,
    model             TEXT NOT NULL,
    body              TEXT NOT NULL,
    state             TEXT NOT NULL CHECK (state IN ('sent', 'done', 'failed', 'unknown')),
    reserved_tokens   INTEGER NOT NULL,
    lost_tokens       INTEGER NOT NULL DEFAULT 0,
    text              TEXT,
    finish_reason     TEXT,
    prompt_tokens     INTEGER,
    completion_tokens INTEGER,
    error             TEXT,
    changed_at        REAL NOT NULL
)
"""

_COLUMNS = re.findall(r"^    (\w+)", _SCHEMA, re.MULTILINE)
_COPY = "keep a copy, it says what was paid for: `sqlite3 {} .recover` may save it; without it, all is bought again"
_REFUSALS = {
    sqlite3.SQLITE_FULL: "make room and run the same command again: what was paid for is kept",
    sqlite3.SQLITE_IOERR: "see that the disk has room and works, then run the same command again",
    sqlite3.SQLITE_READONLY: "see who may write there, or choose another run folder with --out",
    sqlite3.SQLITE_CANTOPEN: "it must be a file that you may write: move what stands there, or choose another --out",
    sqlite3.SQLITE_BUSY: "another program has it open: close that and run the same command again",
    sqlite3.SQLITE_CORRUPT: _COPY,
    sqlite3.SQLITE_NOTADB: _COPY,
}
"""What a user can do about a primary result code of SQLite."""

_SPENT = """
SELECT COALESCE(SUM(lost_tokens), 0)
     + COALESCE(SUM(CASE WHEN state = 'done' THEN prompt_tokens + completion_tokens
                         WHEN state IN ('sent', 'unknown') THEN reserved_tokens ELSE 0 END), 0)
FROM request
"""


@dataclass(frozen=True)
class Request:
    """One question to the teacher.

    Attributes:
        model: The teacher's name at its endpoint.
        messages: The chat so far.
        max_tokens: Most tokens it may write.
        temperature: 0 is greedy.
        prompt_version: Raised when the words of the prompt change.
        sample: Index among several samples of the same prompt.
    """

    model: str
    messages: tuple[Message, ...]
    max_tokens: int
    temperature: float
    prompt_version: str
    sample: int = 0

    @property
    def body(self) -> str:
        """The request as canonical JSON."""
        return json.dumps({**vars(self), "messages": list(self.messages)}, sort_keys=True, ensure_ascii=False)

    @property
    def key(self) -> str:
        """What makes two requests the same: everything that can change the reply, and nothing else."""
        return content_hash(self.body)

    @property
    def upper_bound_tokens(self) -> int:
        """More tokens than this request can cost: a token is at least one byte of the prompt, plus chat markup."""
        return sum(len(m["content"].encode()) + 16 for m in self.messages) + self.max_tokens


@dataclass(frozen=True)
class Reply:
    """What came back for a request.

    Attributes:
        text: The reply; "" when it failed.
        finish_reason: `stop`, `length`, or what the endpoint said.
        prompt_tokens: Tokens read, as billed.
        completion_tokens: Tokens written, as billed.
        error: Why there is no reply, or None.
        may_be_billed: There is no reply, but the request may have been answered and billed all the same: it timed out,
            or the connection broke. Its reservation then stays counted.
    """

    text: str
    finish_reason: str
    prompt_tokens: int
    completion_tokens: int
    error: str | None = None
    may_be_billed: bool = False


class Ledger:
    """The teacher's account. One writer at a time.

    Args:
        path: The SQLite file; made if missing.

    Raises:
        DataError: here and in every method: the file is damaged, is no ledger, or the disk or its rights refuse.
    """

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._path = path
        with self._told():
            self._db = sqlite3.connect(path, isolation_level=None)
            self._refuse_foreign()
            self._db.execute("PRAGMA journal_mode = WAL")
            self._db.execute("PRAGMA synchronous = FULL")
            self._db.execute(_SCHEMA)
            self._db.execute("UPDATE request SET state = 'unknown' WHERE state = 'sent'")

    @contextmanager
    def _told(self) -> Iterator[None]:
        """Turn what the file or the disk refuses into a message; a mistake in our SQL stays what it is."""
        try:
            yield
        except sqlite3.DatabaseError as error:
            hint = _REFUSALS.get(error.sqlite_errorcode & 0xFF)
            if hint is None:
                raise
            raise DataError(f"{self._path}: {error}", hint.format(self._path)) from error

    def _refuse_foreign(self) -> None:
        """Some other program's database is left as it is."""
        tables = [name for (name,) in self._db.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        columns = [name for _, name, *_ in self._db.execute("PRAGMA table_info(request)")]
        if tables and columns != _COLUMNS:
            raise DataError(
                f"{self._path}: is a database with the tables {', '.join(tables)}, wanted a ledger of teachwise",
                "move it elsewhere, or choose another run folder with --out",
            )

    def reply(self, request: Request) -> Reply | None:
        """The committed reply, or None where there is none yet."""
        with self._told():
            row = self._db.execute(
                "SELECT text, finish_reason, prompt_tokens, completion_tokens"
                " FROM request WHERE key = ? AND state = 'done'",
                (request.key,),
            ).fetchone()
        return Reply(*row) if row else None

    def reserve(self, request: Request, budget_tokens: int | None) -> bool:
        """Note that the request is about to be sent, if the budget can bear its upper bound.

        Returns:
            False, and nothing noted, when the budget might be passed.

        Raises:
            ValueError: the request is done; it is never sent again.
        """
        bound = request.upper_bound_tokens
        with self._told(), self._db:
            self._db.execute("BEGIN IMMEDIATE")
            if self.reply(request):
                raise ValueError(f"request {request.key} is done, wanted its reply to be used")
            if budget_tokens is not None and self.spent_tokens() + bound > budget_tokens:
                return False
            self._db.execute(
                "INSERT INTO request (key, model, body, state, reserved_tokens, changed_at)"
                " VALUES (?, ?, ?, 'sent', ?, ?)"
                " ON CONFLICT (key) DO UPDATE SET state = 'sent', changed_at = excluded.changed_at, lost_tokens ="
                " lost_tokens + CASE WHEN request.state = 'unknown' THEN request.reserved_tokens ELSE 0 END",
                (request.key, request.model, request.body, bound, time.time()),
            )
        return True

    def settle(self, request: Request, reply: Reply) -> None:
        """Commit a reply (or its failure); after this returns it survives any kill.

        Raises:
            ValueError: the request was never reserved.
        """
        with self._told():
            found = self._db.execute(
                "UPDATE request SET state = ?, text = ?, finish_reason = ?, prompt_tokens = ?, completion_tokens = ?,"
                " error = ?, changed_at = ? WHERE key = ?",
                (
                    "done" if reply.error is None else "unknown" if reply.may_be_billed else "failed",
                    reply.text,
                    reply.finish_reason,
                    reply.prompt_tokens,
                    reply.completion_tokens,
                    reply.error,
                    time.time(),
                    request.key,
                ),
            )
        if not found.rowcount:
            raise ValueError(f"request {request.key} was settled, but never reserved")

    def spent_tokens(self) -> int:
        """Tokens counted against the budget: billed ones, reservations in flight, and lost ones."""
        with self._told():
            return int(self._db.execute(_SPENT).fetchone()[0])

    def totals(self) -> dict[str, Any]:
        """Requests by state, and tokens read, written and lost."""
        with self._told():
            states: Sequence[tuple[str, int]] = self._db.execute(
                "SELECT state, COUNT(*) FROM request GROUP BY state"
            ).fetchall()
            read, written, lost = self._db.execute(
                "SELECT COALESCE(SUM(prompt_tokens), 0), COALESCE(SUM(completion_tokens), 0),"
                " COALESCE(SUM(lost_tokens), 0) FROM request"
            ).fetchone()
        return {"requests": dict(states), "prompt_tokens": read, "completion_tokens": written, "lost_tokens": lost}

    def close(self) -> None:
        """Close the file."""
        self._db.close()
