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
    changed_at                 REAL NOT NULL,
    served_model               TEXT,
    host                       TEXT,
    raw                        TEXT,
    over_read                  REAL NOT NULL DEFAULT 1,
    over_written               REAL NOT NULL DEFAULT 1
)
"""
COLUMNS = re.findall(r"^    (\w+) ", SCHEMA, re.MULTILINE)
_COUNTED = "state, model, sends, reserved_prompt_tokens, reserved_completion_tokens, lost_requests, lost_tokens,"
_COUNTED += " lost_usd, input_usd, cached_usd, output_usd, prompt_tokens, cached_tokens, completion_tokens"
INDEX = f"CREATE INDEX IF NOT EXISTS spending ON request ({_COUNTED})"
"""Holds all that a sum needs, so that summing never reads the texts."""
OWNERS = "CREATE INDEX IF NOT EXISTS owners ON request (owner, state) WHERE owner IS NOT NULL"
"""Holds what is under way, so that looking for it never reads the rest."""
OVERS = "CREATE INDEX IF NOT EXISTS overs ON request (model, over_read, over_written)"
OVERS += " WHERE over_read > 1 OR over_written > 1"
"""Holds the replies that cost more than they could, so that looking for them never reads the rest."""
OVER = """
SELECT model, MAX(over_read), MAX(over_written) FROM request INDEXED BY overs
WHERE over_read > 1 OR over_written > 1 GROUP BY model"""
"""How many times its bound a reply of each model came to, in tokens read and in tokens written."""

_HELD = "state IN ('reserved', 'sent', 'unknown')"
_TOKENS = f"""lost_tokens + CASE WHEN {_HELD} THEN reserved_prompt_tokens + reserved_completion_tokens
    ELSE prompt_tokens + completion_tokens END"""
_USD = f"""lost_usd + CASE WHEN {_HELD}
    THEN reserved_prompt_tokens * COALESCE(input_usd, 0) + reserved_completion_tokens * COALESCE(output_usd, 0)
    ELSE (prompt_tokens - cached_tokens) * COALESCE(input_usd, 0) + cached_tokens * COALESCE(cached_usd, 0)
         + completion_tokens * COALESCE(output_usd, 0) END / 1e6"""
_UNPRICED_USD = f"""CASE WHEN input_usd IS NULL THEN lost_tokens * MAX(?1, ?2) + CASE WHEN {_HELD}
    THEN reserved_prompt_tokens * ?1 + reserved_completion_tokens * ?2
    ELSE prompt_tokens * ?1 + completion_tokens * ?2 END ELSE 0 END / 1e6"""
_SENT = "sends + (state = 'reserved')"
SPENT = f"""
SELECT COALESCE(SUM({_TOKENS}), 0), COALESCE(SUM({_SENT}), 0),
       COALESCE(SUM({_USD} + COALESCE({_UNPRICED_USD}, 0)), 0),
       COALESCE(SUM(?1 IS NULL AND input_usd IS NULL AND {_SENT} > 0), 0)
FROM request"""
"""Wants the prices of today, read and written, for requests that were sent when none was known; or twice NULL."""
_HELD_TOKENS = f"CASE WHEN {_HELD} THEN reserved_prompt_tokens + reserved_completion_tokens ELSE 0 END"
SUMS = f"""COUNT(*) AS requests, SUM(sends) AS sends, SUM(prompt_tokens) AS prompt_tokens,
       SUM(cached_tokens) AS cached_tokens, SUM(completion_tokens) AS completion_tokens,
       SUM({_HELD_TOKENS}) AS held_tokens, SUM(lost_requests) AS lost_requests, SUM(lost_tokens) AS lost_tokens,
       SUM({_USD}) AS usd, SUM(input_usd IS NULL AND {_SENT} > 0) AS unpriced"""
BY_MODEL = f"SELECT model, state, {SUMS} FROM request GROUP BY model, state ORDER BY model, state"
EACH = f"SELECT *, {_HELD} AS is_held, {_HELD_TOKENS} AS held_tokens, {_USD} AS usd FROM request ORDER BY key"
"""Every request with what it counts."""

HOLD = """
INSERT INTO request (key, model, body, state, owner, sends, reserved_prompt_tokens,
    reserved_completion_tokens, input_usd, cached_usd, output_usd, prices, changed_at)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
ON CONFLICT (key) DO UPDATE SET
    lost_requests = lost_requests + (state = 'unknown'),
    lost_tokens = lost_tokens + (state = 'unknown') * (reserved_prompt_tokens + reserved_completion_tokens),
    lost_usd = lost_usd + (state = 'unknown') * (reserved_prompt_tokens
             * COALESCE(request.input_usd, excluded.input_usd, 0) + reserved_completion_tokens
             * COALESCE(request.output_usd, excluded.output_usd, 0)) / 1e6,
    state = excluded.state, owner = excluded.owner, sends = sends + excluded.sends,
    reserved_prompt_tokens = excluded.reserved_prompt_tokens,
    reserved_completion_tokens = excluded.reserved_completion_tokens,
    input_usd = excluded.input_usd, cached_usd = excluded.cached_usd, output_usd = excluded.output_usd,
    prices = excluded.prices, error = NULL, changed_at = excluded.changed_at
"""
"""Reserves one request, also again: what was reserved for a try that nobody knows the outcome of is lost then."""

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
_NEW = ("served_model", "host", "raw", "over_read", "over_written")
"""The columns that the second version did not have."""
_COLUMNS_1 = [name for name in COLUMNS if name not in _NEW]


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
    if columns_of(db) == _COLUMNS_1:
        for line in SCHEMA.splitlines():
            if line.split()[:1] and line.split()[0] in _NEW:
                db.execute(f"ALTER TABLE request ADD COLUMN {line.strip().rstrip(',')}")
    db.execute(SCHEMA)
    for index in (INDEX, OWNERS, OVERS):
        db.execute(index)


def is_known(db: sqlite3.Connection) -> bool:
    """Whether a database is empty, or a ledger of this or an earlier version."""
    n_tables = db.execute("SELECT COUNT(*) FROM sqlite_master WHERE type = 'table'").fetchone()[0]
    return not n_tables or columns_of(db) in (COLUMNS, _COLUMNS_1, _COLUMNS_0.split())
