"""Account: what a ledger was spent on, by state, model and arm. Nothing is asked of the teacher.

A copy is looked at, so that the ledger and its folder stay as they are, are read while a run goes on, and need not be
writable.

Requests without an outcome (`unknown`) and lost tries count with what was reserved for them, as they do against the
budget. An arm is shown with what it would have paid alone; what several arms wanted was paid once.
"""

import json
import sqlite3
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from dataclasses import asdict, dataclass, fields
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from filelock import FileLock

from teachwise.errors import DataError
from teachwise.plan_text import columns, waits_in_batch
from teachwise.recipe import Recipe, load_recipe
from teachwise.run_folder import RESOLVED, Run, Unit, atomic
from teachwise.teacher.ledger import Ledger
from teachwise.teacher.ledger_file import copied
from teachwise.teacher.ledger_file import told as told_of
from teachwise.teacher.ledger_schema import EACH, SUMS
from teachwise.teacher.lifeline import locks_held
from teachwise.teacher.prices import dollars
from teachwise.wishes import wishes


@dataclass(frozen=True)
class Sum:
    """What some requests came to.

    Attributes:
        requests: Distinct requests.
        sends: How often they were sent, as far as that counts.
        prompt_tokens: Tokens read.
        cached_tokens: Of these, from a cache.
        completion_tokens: Tokens written.
        held_tokens: Reserved for requests without an outcome.
        lost_tokens: Reserved for earlier tries whose outcome nobody knows.
        usd: Dollars, held and lost ones included, for the requests whose price is known.
        unpriced: Requests that were sent at a price nobody knows.
    """

    requests: int = 0
    sends: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    completion_tokens: int = 0
    held_tokens: int = 0
    lost_tokens: int = 0
    usd: float = 0.0
    unpriced: int = 0

    @property
    def tokens(self) -> int:
        """All that counts against the budget."""
        return self.prompt_tokens + self.completion_tokens + self.held_tokens + self.lost_tokens

    def plain(self) -> dict[str, Any]:
        """As plain JSON values."""
        return {**asdict(self), "tokens": self.tokens}


@dataclass(frozen=True)
class Account:
    """What a ledger was spent on.

    Attributes:
        path: The ledger.
        total: All of it, paid once.
        states: By state.
        models: By model.
        arms: What each arm of the run would have paid alone; empty for a ledger without a run.
        once: What the arms come to together, each request paid once.
        others: Requests that no arm of this run wants: of other runs, of other recipes, or of a pilot elsewhere.
        under_way: Requests that a living process has under way.
        batches: Requests that wait in a batch, by its name.
    """

    path: Path
    total: Sum
    states: dict[str, Sum]
    models: dict[str, Sum]
    arms: dict[str, Sum]
    once: Sum
    others: Sum
    under_way: int
    batches: dict[str, int]

    def plain(self) -> dict[str, Any]:
        """As plain JSON values."""
        groups = {name: {k: v.plain() for k, v in getattr(self, name).items()} for name in ("states", "models", "arms")}
        ends = {
            "once": self.once.plain(),
            "others": self.others.plain(),
            "under_way": self.under_way,
            "batches": self.batches,
        }
        return {"ledger": str(self.path), "total": self.total.plain(), **groups, **ends}


def account_of(source: str | Path) -> Account:
    """The account of a run, also one that was killed in the middle of `teach`, or of a ledger file.

    Raises:
        DataError: there is no ledger, or it is damaged.
    """
    path, recipe, run = find_ledger(source)
    with _copy_of(path) as copy:
        wanted = _wanted(recipe, run, copy) if recipe and run else {}
        with closing(Ledger(copy)) as ledger:
            under_way = ledger.n_elsewhere()
            batches = {name: len(rows) for name, rows in ledger.in_batches().items()}
        with told_of(path), closing(_rows_by_name(copy)) as db:
            db.execute("CREATE TEMP TABLE wanted (arm TEXT, key TEXT)")
            db.executemany("INSERT INTO wanted VALUES (?, ?)", ((arm, key) for arm in wanted for key in wanted[arm]))
            arms = _sums(db, "arm", "request JOIN wanted USING (key)")
            return Account(
                path,
                total=_sums(db, "NULL").get(None, Sum()),
                states=_sums(db, "state"),
                models=_sums(db, "model"),
                arms={arm: arms.get(arm, Sum()) for arm in wanted},
                once=_sums(db, "NULL", "request WHERE key IN (SELECT key FROM wanted)").get(None, Sum()),
                others=_sums(db, "NULL", "request WHERE key NOT IN (SELECT key FROM wanted)").get(None, Sum()),
                under_way=under_way,
                batches=batches,
            )


@contextmanager
def _copy_of(path: Path) -> Iterator[Path]:
    """A copy of a ledger, for as long as it is looked at, in which what dead processes left is set right.

    Who lives there lives in the copy too, by a lock file of the same name.
    """
    with TemporaryDirectory() as folder, ExitStack() as held:
        copy = Path(folder) / path.name
        for file in locks_held(path):
            held.enter_context(FileLock(copy.with_name(file.name)))
        copied(path, copy)
        Ledger(copy).close()
        yield copy


def _rows_by_name(copy: Path) -> sqlite3.Connection:
    db = sqlite3.connect(copy)
    db.row_factory = sqlite3.Row
    return db


def _sums(db: sqlite3.Connection, group: str, source: str = "request") -> dict[Any, Sum]:
    """What requests came to, by group."""
    names = [one.name for one in fields(Sum)]
    rows = db.execute(f"SELECT {group} AS name, {SUMS} FROM {source} GROUP BY 1 ORDER BY 1")
    return {row["name"]: Sum(**{name: row[name] for name in names}) for row in rows}


def find_ledger(source: str | Path) -> tuple[Path, Recipe | None, Run | None]:
    """The ledger behind a run folder or a file name.

    Raises:
        DataError: there is none.
    """
    place = Path(source)
    if place.is_file():
        return place, None, None
    if not (place / RESOLVED).is_file():
        raise DataError(f"{place}: is no run folder and no ledger", "give a run, for instance runs/demo, or its ledger")
    recipe, run = load_recipe(place / RESOLVED), Run(place)
    path = recipe.ledger_at(place)
    if not path.is_file():
        raise DataError(f"{path}: there is no ledger yet: nothing was asked of a teacher", "teachwise plan RECIPE")
    return path, recipe, run


def _wanted(recipe: Recipe, run: Run, ledger: Path) -> dict[str, set[str]]:
    """Keys of the requests that each arm wants, its next ones included; only arms that are routed."""
    recipe = recipe.model_copy(update={"teacher": recipe.teacher.model_copy(update={"ledger": str(ledger)})})
    units = [Unit("teach", arm, seed) for arm in recipe.arms for seed in recipe.seeds_of(arm)]
    routed = [unit for unit in units if run.manifest(unit.of("route"))]
    found: dict[str, set[str]] = {unit.arm: set() for unit in routed}
    if routed:
        for wish in wishes(recipe, run, routed):
            for arm in wish.arms:
                found[arm] |= {request.key for request, _ in wish.tries}
    return {arm: keys for arm, keys in found.items() if keys}


def told(found: Account) -> list[str]:
    """The account in words and columns."""
    lines = [
        f"{found.path}: {_words(found.total)}",
        "",
        *_table("state", found.states),
        "",
        *_table("model", found.models),
    ]
    if found.arms:
        lines += ["", *_table("arm, if it paid alone", {**found.arms, "paid once": found.once})]
        if found.others.requests:
            lines.append(f"besides, wanted by no arm of this run: {_words(found.others)}")
    if found.total.held_tokens or found.total.lost_tokens:
        lines += ["", _doubtful(found)]
    if found.under_way:
        is_one = found.under_way == 1
        lines.append(f"{found.under_way:,} request{' is' if is_one else 's are'} under way in another process")
    return lines + [waits_in_batch(name, n) for name, n in found.batches.items()]


def _words(one: Sum) -> str:
    money = f", {dollars(one.usd)}" if one.usd else ""
    return f"{one.requests:,} request{'' if one.requests == 1 else 's'}, {one.tokens:,} teacher tokens{money}"


def _doubtful(found: Account) -> str:
    return (
        f"of these tokens {found.total.held_tokens:,} are set aside for requests without an outcome and"
        f" {found.total.lost_tokens:,} for lost tries: nobody knows whether they were billed, so they count"
    )


def _table(title: str, sums: Mapping[str, Sum]) -> list[str]:
    rows: list[tuple[str, ...]] = [
        (title, "requests", "sent", "read", "from cache", "written", "unknown", "lost", "money")
    ]
    for name, one in sums.items():
        counts = (one.requests, one.sends, one.prompt_tokens, one.cached_tokens, one.completion_tokens)
        money = "price unknown" if one.unpriced and not one.usd else dollars(one.usd) if one.usd else "-"
        rows.append((name, *(f"{n:,}" for n in (*counts, one.held_tokens, one.lost_tokens)), money))
    return columns(rows)


def export_requests(source: str | Path, target: Path) -> int:
    """Write every request with its reply as one JSON object per line, all or nothing.

    Returns:
        How many there are.
    """
    path, _, _ = find_ledger(source)
    if target.exists() and target.samefile(path):
        raise DataError(f"{target}: is the ledger itself", "name another file, for instance replies.jsonl")
    n = 0
    with (
        _copy_of(path) as copy,
        told_of(path),
        closing(_rows_by_name(copy)) as db,
        atomic(target) as part,
        part.open("w", encoding="utf-8") as file,
    ):
        for one in exported(db.execute(EACH)):
            file.write(json.dumps(one, ensure_ascii=False) + "\n")
            n += 1
    return n


def exported(rows: Iterable[sqlite3.Row]) -> Iterator[dict[str, Any]]:
    """Rows of a ledger as an export has them."""
    for row in rows:
        has_reply = row["finish_reason"] is not None and row["error"] is None and not row["is_held"]
        yield {
            "key": row["key"],
            "state": row["state"],
            "request": json.loads(row["body"]),
            "reply": {name: row[name] or "" for name in ("text", "reasoning", "finish_reason")} if has_reply else None,
            "logprobs": json.loads(row["logprobs"]) if row["logprobs"] else None,
            "error": row["error"],
            "sends": row["sends"],
            **{name: row[name] for name in ("prompt_tokens", "cached_tokens", "completion_tokens")},
            "held_tokens": row["held_tokens"],
            "lost_requests": row["lost_requests"],
            "lost_tokens": row["lost_tokens"],
            "usd": None if row["input_usd"] is None else row["usd"],
            **{name: row[name] for name in ("prices", "served_model", "host", "raw")},
            "changed_at": datetime.fromtimestamp(row["changed_at"], UTC).isoformat(),
        }
