"""Account: what a ledger was spent on, by state, model and arm; read from the ledger, nothing is asked or changed.

Requests without an outcome (`unknown`) and lost tries count with what was reserved for them, as they do against the
budget. An arm is shown with what it would have paid alone; what several arms wanted was paid once.
"""

import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from teachwise.errors import DataError
from teachwise.ledger import Ledger
from teachwise.plan_text import columns
from teachwise.prices import dollars
from teachwise.recipe import Recipe, load_recipe
from teachwise.run_folder import RESOLVED, Run, Unit, atomic
from teachwise.wishes import wishes

HELD = ("reserved", "sent", "unknown")
"""States in which a reservation counts as spent."""


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

    def plus(self, row: Mapping[str, Any]) -> "Sum":
        """With one request of a ledger more."""
        is_sent = row["sends"] > 0 or row["state"] == "reserved"
        return Sum(
            self.requests + 1,
            self.sends + row["sends"],
            self.prompt_tokens + row["prompt_tokens"],
            self.cached_tokens + row["cached_tokens"],
            self.completion_tokens + row["completion_tokens"],
            self.held_tokens + held_tokens(row),
            self.lost_tokens + row["lost_tokens"],
            self.usd + usd_of(row),
            self.unpriced + (is_sent and row["input_usd"] is None),
        )

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
        others: Requests that no arm of this run wants: of other runs, of other recipes, or of a pilot elsewhere.
        under_way: Requests that a living process has under way.
    """

    path: Path
    total: Sum
    states: dict[str, Sum]
    models: dict[str, Sum]
    arms: dict[str, Sum]
    others: Sum
    under_way: int

    def plain(self) -> dict[str, Any]:
        """As plain JSON values."""
        groups = {name: {k: v.plain() for k, v in getattr(self, name).items()} for name in ("states", "models", "arms")}
        ends = {"others": self.others.plain(), "under_way": self.under_way}
        return {"ledger": str(self.path), "total": self.total.plain(), **groups, **ends}


def held_tokens(row: Mapping[str, Any]) -> int:
    """What is reserved for a request without an outcome."""
    return row["reserved_prompt_tokens"] + row["reserved_completion_tokens"] if row["state"] in HELD else 0


def usd_of(row: Mapping[str, Any]) -> float:
    """What one request of a ledger counts in dollars; 0 where its price is not known."""
    read, cached, written = (row[name] or 0.0 for name in ("input_usd", "cached_usd", "output_usd"))
    if row["state"] in HELD:
        now = row["reserved_prompt_tokens"] * read + row["reserved_completion_tokens"] * written
    else:
        fresh = row["prompt_tokens"] - row["cached_tokens"]
        now = fresh * read + row["cached_tokens"] * cached + row["completion_tokens"] * written
    return float(row["lost_usd"] + now / 1e6)


def account_of(source: str | Path) -> Account:
    """The account of a run, also one that was killed in the middle of `teach`, or of a ledger file.

    Raises:
        DataError: there is no ledger, or it is damaged.
    """
    path, recipe, run = find_ledger(source)
    wanted = _wanted(recipe, run) if recipe and run else {}
    names = {key for keys in wanted.values() for key in keys}
    total = others = Sum()
    states: dict[str, Sum] = {}
    models: dict[str, Sum] = {}
    arms = dict.fromkeys(wanted, Sum())
    with closing(Ledger(path)) as ledger:
        under_way = ledger.n_elsewhere()
        for row in ledger.rows():
            total = total.plus(row)
            states[row["state"]] = states.get(row["state"], Sum()).plus(row)
            models[row["model"]] = models.get(row["model"], Sum()).plus(row)
            others = others if row["key"] in names else others.plus(row)
            for arm in (arm for arm, keys in wanted.items() if row["key"] in keys):
                arms[arm] = arms[arm].plus(row)
    return Account(path, total, dict(sorted(states.items())), dict(sorted(models.items())), arms, others, under_way)


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


def _wanted(recipe: Recipe, run: Run) -> dict[str, set[str]]:
    """Keys of the requests that each arm wants, its next ones included; only arms that are routed."""
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
        lines += ["", *_table("arm, if it paid alone", {**found.arms, "paid once": _less(found.total, found.others)})]
        if found.others.requests:
            lines.append(f"besides, wanted by no arm of this run: {_words(found.others)}")
    if found.total.held_tokens or found.total.lost_tokens:
        lines += ["", _doubtful(found)]
    if found.under_way:
        lines.append(f"{found.under_way:,} requests are under way in another process")
    return lines


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


def _less(one: Sum, other: Sum) -> Sum:
    return replace(one, **{name: value - getattr(other, name) for name, value in asdict(one).items()})


def export_requests(source: str | Path, target: Path) -> int:
    """Write every request with its reply as one JSON object per line, all or nothing.

    Returns:
        How many there are.
    """
    path, _, _ = find_ledger(source)
    if target.exists() and target.samefile(path):
        raise DataError(f"{target}: is the ledger itself", "name another file, for instance replies.jsonl")
    n = 0
    with closing(Ledger(path)) as ledger, atomic(target) as part, part.open("w", encoding="utf-8") as file:
        for one in exported(ledger.rows()):
            file.write(json.dumps(one, ensure_ascii=False) + "\n")
            n += 1
    return n


def exported(rows: Iterable[Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
    """Rows of a ledger as an export has them."""
    for row in rows:
        has_reply = row["finish_reason"] is not None and row["error"] is None and row["state"] not in HELD
        yield {
            "key": row["key"],
            "state": row["state"],
            "request": json.loads(row["body"]),
            "reply": {name: row[name] or "" for name in ("text", "reasoning", "finish_reason")} if has_reply else None,
            "logprobs": json.loads(row["logprobs"]) if row["logprobs"] else None,
            "error": row["error"],
            "sends": row["sends"],
            **{name: row[name] for name in ("prompt_tokens", "cached_tokens", "completion_tokens")},
            "held_tokens": held_tokens(row),
            "lost_requests": row["lost_requests"],
            "lost_tokens": row["lost_tokens"],
            "usd": None if row["input_usd"] is None else usd_of(row),
            "prices": row["prices"],
            "changed_at": datetime.fromtimestamp(row["changed_at"], UTC).isoformat(),
        }
