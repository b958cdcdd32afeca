"""The table of the ledger, its sums, and how a ledger of an earlier version becomes one of this."""

import re
import sqlite3

SCHEMA = """
CREATE TABLE IF NOT EXISTS request (
    key                        TEXT PRIMARY KEY,
    model                      TEXT NOT NULL,
    body                       TEXT NOT NULL,
    state                      TEXT NOT NULL CHECK (state IN
                               ('planned', 'reserved', 'sent', 'ok', 'truncated', 'refused', 'failed', 'unknown')),
    owner                      TEXT,
    sends                      INTEGER NOT NULL DEFAULT 0,
    reserved_prompt_tokens     INTEGER NOT NULL DEFAULT 0,
    reserved_completion_tokens INTEGER NOT NULL DEFAULT 0,
    lost_requests              INTEGER NOT NULL DEFAULT 0,
    lost_tokens                INTEGER NOT NULL DEFAULT 0,
    lost_usd                   REAL NOT NULL DEFAULT 0,
    input_usd                  REAL,
    cached_usd                 REAL,
    output_usd                 REAL,
    prices                     TEXT,
    text                       TEXT,
    reasoning                  TEXT,
    logprobs                   TEXT,
    finish_reason              TEXT,
    prompt_tokens              INTEGER NOT NULL DEFAULT 0,
    cached_tokens              INTEGER NOT NULL DEFAULT 0,
    completion_tokens          INTEGER NOT NULL DEFAULT 0,
    error                      TEXT,
    changed_at                 REAL NOT NULL
)
"""
COLUMNS = re.findall(r"^    (\w+) ", SCHEMA, re.MULTILINE)
_COUNTED = "state, model, sends, reserved_prompt_tokens, reserved_completion_tokens, lost_requests, lost_tokens,"
_COUNTED += " lost_usd, input_usd, cached_usd, output_usd, prompt_tokens, cached_tokens, completion_tokens"
INDEX = f"CREATE INDEX IF NOT EXISTS spending ON request ({_COUNTED})"
"""Holds all that a sum needs, so that summing never reads the texts."""
OWNERS = "CREATE INDEX IF NOT EXISTS owners ON request (owner, state) WHERE owner IS NOT NULL"
"""Holds what is under way, so that looking for it never reads the rest."""

_HELD = "state IN ('reserved', 'sent', 'unknown')"
_TOKENS = f"""lost_tokens + CASE WHEN {_HELD} THEN reserved_prompt_tokens + reserved_completion_tokens
    ELSE prompt_tokens + completion_tokens END"""
_USD = f"""lost_usd + CASE WHEN {_HELD}
    THEN reserved_prompt_tokens * COALESCE(input_usd, 0) + reserved_completion_tokens * COALESCE(output_usd, 0)
    ELSE (prompt_tokens - cached_tokens) * COALESCE(input_usd, 0) + cached_tokens * COALESCE(cached_usd, 0)
         + completion_tokens * COALESCE(output_usd, 0) END / 1e6"""
_SENT = "sends + (state = 'reserved')"
SPENT = f"""
SELECT COALESCE(SUM({_TOKENS}), 0), COALESCE(SUM({_SENT}), 0), COALESCE(SUM({_USD}), 0),
       COALESCE(SUM(input_usd IS NULL AND {_SENT} > 0), 0)
FROM request"""
BY_MODEL = f"""
SELECT model, state, COUNT(*) AS requests, SUM(sends) AS sends, SUM(prompt_tokens) AS prompt_tokens,
       SUM(cached_tokens) AS cached_tokens, SUM(completion_tokens) AS completion_tokens,
       SUM(CASE WHEN {_HELD} THEN reserved_prompt_tokens + reserved_completion_tokens ELSE 0 END) AS held_tokens,
       SUM(lost_requests) AS lost_requests, SUM(lost_tokens) AS lost_tokens, SUM({_USD}) AS usd,
       SUM(input_usd IS NULL AND {_SENT} > 0) AS unpriced
FROM request GROUP BY model, state ORDER BY model, state"""


_COLUMNS_0 = "key model body state reserved_tokens lost_tokens text finish_reason prompt_tokens"
_COLUMNS_0 += " completion_tokens error changed_at"
"""The columns of the first version, which knew neither money nor more than four states."""
_FROM_0 = """
INSERT INTO request (key, model, body, state, sends, reserved_prompt_tokens, reserved_completion_tokens,
    lost_requests, lost_tokens, text, finish_reason, prompt_tokens, completion_tokens, error, changed_at)
SELECT key, model, body,
    CASE WHEN state = 'sent' THEN 'unknown' WHEN state <> 'done' THEN state WHEN finish_reason = 'length' THEN
        'truncated' WHEN finish_reason = 'content_filter' THEN 'refused' ELSE 'ok' END,
    1 + lost_tokens / MAX(reserved_tokens, 1), reserved_tokens - json_extract(body, '$.max_tokens'),
    json_extract(body, '$.max_tokens'), lost_tokens / MAX(reserved_tokens, 1), lost_tokens, text, finish_reason,
    COALESCE(prompt_tokens, 0), COALESCE(completion_tokens, 0), error, changed_at
FROM request_0"""


def columns_of(db: sqlite3.Connection) -> list[str]:
    """The columns of the table of requests; none where there is no such table."""
    return [name for _, name, *_ in db.execute("PRAGMA table_info(request)")]


def bring_up(db: sqlite3.Connection) -> None:
    """Make the table, or bring it up to this version; what was paid for stays, and so does what it counts as.

    To be called within a transaction: a kill leaves the ledger as it was.
    """
    if columns_of(db) == _COLUMNS_0.split():
        db.execute("ALTER TABLE request RENAME TO request_0")
        db.execute(SCHEMA)
        db.execute(_FROM_0)
        db.execute("DROP TABLE request_0")
    db.execute(SCHEMA)
    db.execute(INDEX)
    db.execute(OWNERS)


def is_known(db: sqlite3.Connection) -> bool:
    """Whether a database is empty, or a ledger of this or an earlier version."""
    n_tables = db.execute("SELECT COUNT(*) FROM sqlite_master WHERE type = 'table'").fetchone()[0]
    return not n_tables or columns_of(db) in (COLUMNS, _COLUMNS_0.split())
