"""Plan: what teaching is going to ask for and cost, before the first paid call."""

from collections.abc import Iterable, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from typing import Any

from teachwise.estimate import Ask, Basis, Range, cost_of, requests_of
from teachwise.footprint import Footprint, footprint
from teachwise.recipe import Recipe
from teachwise.run_folder import Run, Unit, write_records
from teachwise.teach import terms_of
from teachwise.teacher.delivery import deliver
from teachwise.teacher.ledger import Ledger
from teachwise.teacher.prices import Limits, Price, Spent, host_of
from teachwise.wishes import Wish, basis_for, wishes

PILOT = 16
"""Requests of a pilot."""
PLANNED = "plan.parquet"
"""Every example that is wanted, in the run folder."""


@dataclass(frozen=True, slots=True)
class Planned:
    """One example that is to get a rationale.

    Attributes:
        id: The example.
        row: Row number in the source table, from 0.
        band: easy, medium or hard by its score; "all" where there are too few examples for bands.
        score: How unsure the student is; higher = less sure.
        arms: The arms that want it.
        replies: Replies that the ledger has for it.
        paid_tokens: What they came to.
        is_open: A request is to be sent.
        most_tokens: What that can come to at most, asked again included; 0 where none is.
        question: The question alone.
    """

    id: str
    row: int
    band: str
    score: float
    arms: tuple[str, ...]
    replies: int
    paid_tokens: int
    is_open: bool
    most_tokens: int
    question: str


@dataclass(frozen=True)
class ArmPlan:
    """What one arm asks for, with all its training seeds.

    Attributes:
        wanted: Its distinct rationales.
        open: Of these, to be bought.
        tokens: What it would pay alone, what is paid already included.
        usd: The same in dollars; None where the price is not known.
        borne: Of its rationales, those that are there or that the budget bears, in the order of buying.
    """

    wanted: int
    open: int
    tokens: Range
    usd: Range | None
    borne: int


@dataclass(frozen=True)
class Plan:
    """What teaching comes to.

    Attributes:
        teacher: Its name.
        place: Where it is: a host, or "this machine".
        is_free: It is on this machine, and the recipe names no price.
        basis: `ledger`, `pilot` or `bounds`.
        n_seen: Replies that the estimate rests on.
        thin: Bands to be bought that hardly any of them belongs to.
        wanted: Distinct rationales, of all arms.
        open: Of these, to be bought.
        under_way: Of these, in a batch: set aside for, and no part of what is to be bought.
        batches: Requests that wait in a batch, by its name, for the batches that hold nothing wanted.
        requests: Requests to be sent, those asked again included.
        tokens: What is to be bought, read and written.
        usd: The same in dollars; None where the price is not known.
        most_tokens: What a start may spend now: the high end of `tokens`, as far as the caps let it come.
        most_usd: The same in dollars; None where the price is not known.
        price: The teacher's.
        limits: The caps.
        spent: What counts against them already.
        borne: Of the open rationales, those that the budget bears: at the high end, as expected, at the low end.
        arms: By arm.
        seconds: How long it takes; None where nothing tells.
        training: What training the student takes; None where its files are not here.
        rows: Every example that is wanted, in the order of buying.
    """

    teacher: str
    place: str
    is_free: bool
    basis: str
    n_seen: int
    thin: list[str]
    wanted: int
    open: int
    under_way: int
    batches: dict[str, int]
    requests: Range
    tokens: Range
    usd: Range | None
    most_tokens: float
    most_usd: float | None
    price: Price | None
    limits: Limits
    spent: Spent
    borne: Range
    arms: dict[str, ArmPlan]
    seconds: Range | None
    training: Footprint | None
    rows: list[Planned]

    def plain(self) -> dict[str, Any]:
        """As plain JSON values."""
        return asdict(self)


def plan(recipe: Recipe, run: Run, units: Iterable[Unit], is_pilot: bool = False) -> Plan:
    """What teaching comes to; the ledger is read, nothing is asked.

    Args:
        recipe: The recipe.
        run: A run that is routed.
        units: The units of `teach`, in order.
        is_pilot: A pilot was just bought.
    """
    found = wishes(recipe, run, units)
    return _plan(recipe, run, found, {wish.example.id: ask for wish in found if (ask := wish.ask(recipe))}, is_pilot)


def plan_pilot(recipe: Recipe, run: Run, chosen: Sequence[Wish]) -> Plan:
    """What a pilot comes to, each of its requests sent once."""
    asks = {wish.example.id: ask for wish in chosen if (ask := wish.ask(recipe))}
    once = {id: replace(ask, retries=0, may_grow=False) for id, ask in asks.items()}
    return _plan(recipe, run, chosen, once, is_pilot=False)


def _plan(recipe: Recipe, run: Run, found: Sequence[Wish], asks: dict[str, Ask], is_pilot: bool) -> Plan:
    basis, rate = basis_for(recipe, run, found)
    to_buy = list(asks.values())
    price = recipe.price_as_delivered
    tokens, usd = cost_of(to_buy, basis), _usd(to_buy, basis, price)
    requests = requests_of(to_buy, basis.judged)
    spent = _spent(recipe, run)
    room = Room(recipe.budget.limits, spent, price)
    borne = Range(*(room.bears(to_buy, tokens, usd, requests, end) for end in ("high", "expected", "low")))  # type: ignore[arg-type]
    sure = borne.low if borne.expected is None else borne.expected
    known = "pilot" if is_pilot else "ledger"
    return Plan(
        teacher=recipe.teacher.model,
        place=place_of(recipe),
        is_free=recipe.is_free,
        basis=known if basis.is_known else "bounds",
        n_seen=len(basis.seen),
        thin=basis.thin(to_buy),
        wanted=len(found),
        open=len(to_buy),
        under_way=sum(wish.is_under_way for wish in found),
        batches=_other_batches(recipe, run, found),
        requests=requests,
        tokens=tokens,
        usd=usd,
        most_tokens=room.most_tokens(to_buy, tokens.high),
        most_usd=room.most_usd(to_buy, usd.high) if usd else None,
        price=price,
        limits=recipe.budget.limits,
        spent=spent,
        borne=borne,
        arms={arm: _arm(recipe, arm, found, asks, basis, int(sure)) for arm in recipe.arms},
        seconds=_seconds(recipe, requests, tokens, rate),
        training=footprint(recipe.student, recipe.train, _n_stages(recipe)),
        rows=[_planned(wish, asks.get(wish.example.id)) for wish in found],
    )


def place_of(recipe: Recipe) -> str:
    """Where the teacher is."""
    if recipe.teacher.engine == "hf":
        return "this machine"
    return host_of(recipe.teacher.base_url)


def _usd(asks: Sequence[Ask], basis: Basis, price: Price | None) -> Range | None:
    return cost_of(asks, basis, price.input_usd / 1e6, price.output_usd / 1e6) if price else None


def _spent(recipe: Recipe, run: Run) -> Spent:
    path = recipe.ledger_at(run.root)
    if not path.exists():
        return Spent()
    with closing(Ledger(path)) as ledger:
        return ledger.spent(recipe.price)


def _other_batches(recipe: Recipe, run: Run, found: Sequence[Wish]) -> dict[str, int]:
    path, keys = recipe.ledger_at(run.root), {request.key for wish in found for request, _ in wish.tries}
    if not path.exists():
        return {}
    with closing(Ledger(path)) as ledger:
        waiting = ledger.in_batches()
    return {name: len(rows) for name, rows in waiting.items() if keys.isdisjoint(row.key for row in rows)}


def _n_stages(recipe: Recipe) -> int:
    return sum(len(recipe.stages_of(arm)) * len(recipe.seeds_of(arm)) for arm in recipe.arms)


@dataclass(frozen=True)
class Room:
    """What the budget still has.

    Attributes:
        limits: The caps.
        spent: What counts against them already.
        price: The teacher's.
    """

    limits: Limits
    spent: Spent
    price: Price | None

    def bears(self, asks: Sequence[Ask], tokens: Range, usd: Range | None, requests: Range, end: str) -> int | None:
        """How many of the requests it bears in order, if they cost what this end of the estimate says.

        Before a request is sent, the budget must bear the most that it can cost.
        """
        sums = [getattr(one, end) if one else 0.0 for one in (tokens, usd, requests)]
        if any(one is None for one in sums):
            return None
        whole = sum(ask.bound() for ask in asks) or 1.0
        at = self.spent
        for number, ask in enumerate(asks):
            once = self.price.usd(ask.prompt_bound, ask.max_tokens) if self.price else 0.0
            if not self.limits.allow(at.plus(ask.prompt_bound + ask.max_tokens, once)):
                return number
            share = ask.bound() / whole
            at = Spent(at.tokens + sums[0] * share, at.requests + sums[2] / len(asks), at.usd + sums[1] * share)  # type: ignore[arg-type]
        return len(asks)

    def most_tokens(self, asks: Sequence[Ask], high: float) -> float:
        """What they can come to now: no more than the high end of the estimate, and than the caps let be sent."""
        if self.limits.teacher_tokens is not None:
            high = min(high, self.limits.teacher_tokens - self.spent.tokens)
        return max(0.0, min(high, self._dearest(asks, 1.0, 1.0)))

    def most_usd(self, asks: Sequence[Ask], high: float) -> float:
        """The same in dollars, where the price is known."""
        if self.price is None:
            return 0.0
        read, written = self.price.input_usd / 1e6, self.price.output_usd / 1e6
        if self.limits.usd is not None:
            high = min(high, self.limits.usd - self.spent.usd)
        if self.limits.teacher_tokens is not None:
            high = min(high, (self.limits.teacher_tokens - self.spent.tokens) * max(read, written))
        return max(0.0, min(high, self._dearest(asks, read, written)))

    def _dearest(self, asks: Sequence[Ask], read: float, written: float) -> float:
        """The most that so many requests can cost as may still be sent."""
        if self.limits.requests is None:
            return float("inf")
        grow = [2 if ask.may_grow else 1 for ask in asks]
        most = max(
            (a.prompt_bound * read + a.max_tokens * n * written for a, n in zip(asks, grow, strict=True)), default=0.0
        )
        return most * max(0, self.limits.requests - self.spent.requests)


def _arm(recipe: Recipe, arm: str, found: Sequence[Wish], asks: dict[str, Ask], basis: Basis, n_borne: int) -> ArmPlan:
    own = [wish for wish in found if arm in wish.arms]
    to_buy = [asks[wish.example.id] for wish in own if wish.example.id in asks]
    replies = [reply for wish in own for reply in wish.replies]
    price = recipe.price_as_delivered
    usd = _usd(to_buy, basis, price)
    if price and usd:
        usd = usd.plus(sum(price.usd(one.prompt_tokens, one.completion_tokens, one.cached_tokens) for one in replies))
    left = set(list(asks)[n_borne:])
    return ArmPlan(
        wanted=len(own),
        open=len(to_buy),
        tokens=cost_of(to_buy, basis).plus(sum(one.prompt_tokens + one.completion_tokens for one in replies)),
        usd=usd,
        borne=sum(wish.example.id not in left for wish in own),
    )


def _seconds(recipe: Recipe, requests: Range, tokens: Range, rate: float | None) -> Range | None:
    """By the rate at which replies came before, and by the limits per minute; the slowest of them counts."""
    teacher = recipe.teacher

    def last(n: float | None, n_tokens: float | None) -> float | None:
        if n is None or n_tokens is None:
            return None
        by_limits = [n / limit * 60 for limit in [teacher.requests_per_minute] if limit]
        by_limits += [n_tokens / limit * 60 for limit in [teacher.tokens_per_minute] if limit]
        return max([n / rate if rate else 0.0, *by_limits])

    if not (rate or teacher.requests_per_minute or teacher.tokens_per_minute):
        return None
    middle = last(requests.expected, tokens.expected) if rate else None
    return Range(last(requests.low, tokens.low) or 0.0, middle, last(requests.high, tokens.high) or 0.0)


def _planned(wish: Wish, ask: Ask | None) -> Planned:
    replies = wish.replies
    return Planned(
        id=wish.example.id,
        row=wish.example.row,
        band=wish.band,
        score=wish.score,
        arms=wish.arms,
        replies=len(replies),
        paid_tokens=sum(one.prompt_tokens + one.completion_tokens for one in replies),
        is_open=ask is not None,
        most_tokens=int(ask.bound()) if ask else 0,
        question=wish.example.question,
    )


def write_plan(run: Run, made: Plan) -> None:
    """Write the examples of a plan into the run folder."""
    write_records(run.root / PLANNED, Planned, made.rows)


def pilot_of(recipe: Recipe, run: Run, units: Iterable[Unit]) -> list[Wish]:
    """A few of the wanted rationales, spread evenly over the scores; none where as many replies are there already."""
    found = wishes(recipe, run, units)
    basis, _ = basis_for(recipe, run, found)
    return [] if len(basis.seen) >= PILOT else spread([wish for wish in found if wish.open], PILOT)


def buy_pilot(recipe: Recipe, run: Run, chosen: Sequence[Wish]) -> int:
    """Ask the teacher for a few rationales, delivered as the recipe says; they are paid and kept.

    Returns:
        How many replies are there.

    Raises:
        TeacherError: the teacher refuses, or is not there.
        GateError: they wait in files that somebody else answers.
    """
    requests = [wish.open for wish in chosen if wish.open]
    teacher, terms = recipe.teacher, replace(terms_of(recipe), is_partial=True)
    ledger_at = recipe.ledger_at(run.root)
    return len(deliver(requests, ledger_at, terms, teacher.engine_options, teacher.delivery, run.root))


def spread(found: Sequence[Wish], n: int) -> list[Wish]:
    """So many of them, spread evenly over the scores."""
    ranked = sorted(found, key=lambda wish: (wish.score, wish.example.id))
    if len(ranked) <= n:
        return ranked
    return [ranked[round((place + 0.5) * len(ranked) / n - 0.5)] for place in range(n)]
