"""The file of the ledger: how it is opened, how it is written, and what is said where the disk refuses."""

import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from teachwise.duration import took
from teachwise.errors import DataError
from teachwise.teacher.ledger_schema import COLUMNS, bring_up, columns_of, is_known

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
BUSY_SECONDS = 30.0
"""How long to wait while another process writes."""
_BUSY_WAIT_SECONDS = 0.02
DISK_SECONDS = 60.0
"""How long paid replies wait in memory for a disk that is full or a ledger that is locked."""
DISK_POLL_SECONDS = 2.0
_PASSING = (sqlite3.SQLITE_FULL, sqlite3.SQLITE_BUSY, sqlite3.SQLITE_IOERR)
"""Refusals of a disk that somebody may mend while we wait."""


def opened(path: Path) -> sqlite3.Connection:
    """The database of a ledger; made if missing, brought up to this version if it is of an earlier one.

    Raises:
        DataError: it is damaged, no ledger, or the disk or its rights refuse. It is then left as it is.
    """
    with told(path):
        db = sqlite3.connect(path, isolation_level=None, timeout=BUSY_SECONDS)
        try:
            _check(db, path)
            _write_ahead(db)
            db.execute("PRAGMA synchronous = FULL")
            if columns_of(db) != COLUMNS:
                with writing(db, path):
                    bring_up(db)
        except BaseException:
            db.close()
            raise
    return db


def copied(path: Path, to: Path) -> None:
    """Copy a ledger as it is at this moment; neither it nor its folder is written, nor need they be writable.

    Raises:
        DataError: it is damaged, or no ledger.
    """
    is_in_use = path.with_name(f"{path.name}-wal").exists()  # else reading it would begin such a log
    name = f"{path.resolve().as_uri()}?mode=ro{'' if is_in_use else '&immutable=1'}"
    with told(path), closing(sqlite3.connect(name, uri=True, timeout=BUSY_SECONDS)) as db:
        _check(db, path)
        with closing(sqlite3.connect(to)) as copy:
            db.backup(copy)


def _check(db: sqlite3.Connection, path: Path) -> None:
    """Some other program's database is left as it is."""
    if not is_known(db):
        names = [name for (name,) in db.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        raise DataError(
            f"{path}: is a database with the tables {', '.join(names)}, wanted a ledger of this version",
            "move it elsewhere, or choose another run folder with --out",
        )


def _write_ahead(db: sqlite3.Connection) -> None:
    """Keep a log beside the file; of two processes that open a new ledger at once, one must wait for the other."""
    ends_at = time.monotonic() + BUSY_SECONDS
    while True:
        try:
            db.execute("PRAGMA journal_mode = WAL")
            return
        except sqlite3.OperationalError as error:  # SQLite itself does not wait here
            if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() > ends_at:
                raise
        time.sleep(_BUSY_WAIT_SECONDS)


@contextmanager
def told(path: Path) -> Iterator[None]:
    """Turn what the file or the disk refuses into a message; a mistake in our SQL stays what it is."""
    try:
        yield
    except sqlite3.DatabaseError as error:
        hint = _REFUSALS.get(getattr(error, "sqlite_errorcode", 0) & 0xFF)
        if hint is None:
            raise
        raise DataError(f"{path}: {error}", hint.format(path)) from error


@contextmanager
def writing(db: sqlite3.Connection, path: Path) -> Iterator[None]:
    """All or nothing, with the file to ourselves; within another such block, all or nothing together with that."""
    if db.in_transaction:
        yield
        return
    with told(path):
        db.execute("BEGIN IMMEDIATE")
        try:
            yield
            db.execute("COMMIT")
        except BaseException:
            if db.in_transaction:  # a full disk takes it back by itself
                db.execute("ROLLBACK")
            raise


def patiently(write: Callable[[], None], tell: Callable[[str], None]) -> None:
    """Write paid replies, which are in memory only until then: a disk that may recover is not given up at once.

    Args:
        write: Writes them, all or nothing.
        tell: Says what is waited for.

    Raises:
        DataError: the disk cannot recover, or has not within `DISK_SECONDS`.
    """
    ends_at = time.monotonic() + DISK_SECONDS
    while True:
        try:
            write()
            return
        except DataError as error:
            code = getattr(error.__cause__, "sqlite_errorcode", 0) & 0xFF
            if code not in _PASSING or time.monotonic() > ends_at:
                raise
            tell(f"{error.found}: paid replies wait in memory for {took(DISK_SECONDS)}")
        time.sleep(DISK_POLL_SECONDS)
