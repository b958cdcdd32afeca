"""A plan in words: one line for a run, a page for `teachwise plan`, a paragraph for the question before buying."""

from collections.abc import Sequence

from teachwise.duration import took
from teachwise.estimate import Range
from teachwise.plan import PLANNED, Plan
from teachwise.teacher.prices import dollars

SHOWN = 5
"""Examples that are shown; all are in the table."""
_GIB = 2**30


def line(plan: Plan) -> str:
    """The plan in one line."""
    if not plan.wanted:
        return "no arm wants a rationale: nothing is asked of the teacher"
    there = plan.wanted - plan.open - plan.under_way
    text = f"{plan.wanted:,} distinct rationales are wanted by all arms, {there:,} of them are there"
    if plan.under_way:
        text += f", {plan.under_way:,} in a batch"
    if not plan.open:
        return f"{text}; nothing is to be bought"
    return f"{text}; the rest: {_amount(plan.tokens)} teacher tokens{_money(plan)} ({_basis(plan)}); {_budget(plan)}"


def summary(plan: Plan) -> list[str]:
    """What a person must know before money is spent."""
    return [
        f"teacher   {plan.teacher} at {plan.place}",
        f"to buy    {plan.open:,} of {plan.wanted:,} rationales, {_calls(plan)}{_under_way(plan)}",
        f"tokens    {_amount(plan.tokens)}: {_basis(plan)}",
        f"money     {_whole_money(plan)}",
        f"budget    {_budget(plan)}",
    ]


def page(plan: Plan, root: str) -> str:
    """The plan in full."""
    if not plan.wanted:
        return line(plan)
    parts = [*summary(plan), f"time      {_time(plan)}", f"training  {_training(plan)}", "", *_arms(plan)]
    if plan.rows:
        parts += ["", *_examples(plan), f"all {plan.wanted:,}: {root}/{PLANNED}"]
    if plan.basis == "bounds" and plan.open:
        parts += ["", "for an expectation: teachwise plan --pilot buys 16 of these rationales, which are kept"]
    parts += [waits_in_batch(name, n) for name, n in plan.batches.items()]
    return "\n".join(part.rstrip() for part in parts)


def _number(value: float) -> str:
    return f"{round(value):,}"


def _amount(found: Range) -> str:
    if found.expected is None:
        return f"{_number(found.low)} to {_number(found.high)}"
    if found.low == found.high:
        return _number(found.high)
    return f"about {_number(found.expected)} ({_number(found.low)} to {_number(found.high)})"


def _calls(plan: Plan) -> str:
    found = plan.requests
    return f"{_amount(found)} request{'s' if found.high > 1 else ''}"


def _under_way(plan: Plan) -> str:
    return f"; {plan.under_way:,} more are in a batch" if plan.under_way else ""


def _basis(plan: Plan) -> str:
    if not plan.open:
        return "nothing is to be bought"
    if plan.basis == "bounds":
        seen = f"only {plan.n_seen} replies" if plan.n_seen else "no reply"
        return f"bounds: a token a word to a token a byte of the prompts, replies up to full length; {seen} to judge by"
    where = "of the pilot and before" if plan.basis == "pilot" else "in the ledger"
    few = f", few of them to {' and '.join(plan.thin)} questions" if plan.thin and plan.thin != ["all"] else ""
    return f"95% interval, judged by {plan.n_seen:,} replies {where}{few}"


def _money(plan: Plan) -> str:
    return f", {_dollars(plan.usd)}" if plan.usd else ""


def _dollars(found: Range) -> str:
    if found.expected is None:
        return f"{dollars(found.low)} to {dollars(found.high)}"
    if found.low == found.high:
        return dollars(found.high)
    return f"about {dollars(found.expected)} ({dollars(found.low)} to {dollars(found.high)})"


def _whole_money(plan: Plan) -> str:
    if plan.usd is None or plan.price is None:
        return "none: the teacher is on this machine" if plan.is_free else "not known: name the price in budget.prices"
    rates = f"{dollars(plan.price.input_usd)} in and {dollars(plan.price.output_usd)} out per million"
    return f"{_dollars(plan.usd)}: {rates}, prices of {plan.price.version}"


def _budget(plan: Plan) -> str:
    limits, borne = plan.limits, plan.borne
    if (limits.teacher_tokens, limits.usd, limits.requests) == (None, None, None):
        return "without a cap"
    told = f"the budget ({limits.text(plan.spent)} spent)"
    if not plan.open or borne.low >= plan.open:
        return f"{told} bears all of it"
    if borne.high == 0:
        return f"{told} bears none of it"
    if borne.expected is not None:
        middle = f"about {_number(borne.expected)} of {plan.open:,}"
        return f"{told} bears {middle} ({_number(borne.low)} to {_number(borne.high)})"
    best = "all" if borne.high >= plan.open else _number(borne.high)
    return f"{told} bears {_number(borne.low)} of {plan.open:,} for sure, {best} at best"


def _time(plan: Plan) -> str:
    found = plan.seconds
    if not plan.open:
        return "none"
    if found is None:
        return "not known before replies came"
    if found.expected is None:
        return f"at least {took(found.low, 0)}, by the limits per minute"
    return f"about {took(max(1.0, found.expected), 0)}, as fast as replies came before"


def _training(plan: Plan) -> str:
    found = plan.training
    if found is None:
        return "memory not known: the student's files are not here"
    whole = found.trained == found.parameters
    what = "all trained" if whole else f"and adapters of {found.trained:,}"
    sizes = f"{_size(found.memory_bytes)} of memory and activations; all stages {_size(found.disk_bytes)} on disk"
    return f"{found.parameters:,} parameters, {what}: {sizes}"


def _size(n: int) -> str:
    return f"{n / _GIB:,.1f} GiB" if n >= _GIB / 10 else f"{n / 2**20:,.1f} MiB"


def _arms(plan: Plan) -> list[str]:
    rows = [("arm", "rationales", "to buy", "would pay alone, tokens", "money", "the budget bears")]
    for name, arm in plan.arms.items():
        if arm.wanted:
            money = _dollars(arm.usd) if arm.usd else "-"
            borne = "all" if arm.borne >= arm.wanted else f"{arm.borne:,} of {arm.wanted:,}"
            rows.append((name, f"{arm.wanted:,}", f"{arm.open:,}", _amount(arm.tokens), money, borne))
    return columns(rows)


def _examples(plan: Plan) -> list[str]:
    least = sorted(plan.rows, key=lambda row: (-row.score, row.id))[:SHOWN]
    rows = [("row", "score", "band", "arms", "question")]
    rows += [(f"{r.row}", f"{r.score:.3f}", r.band, ", ".join(r.arms), _short(r.question)) for r in least]
    return ["the least sure of them", *columns(rows)]


def _short(text: str) -> str:
    plain = " ".join(text.split())
    return plain if len(plain) <= 60 else f"{plain[:57]}..."


def waits_in_batch(name: str, n: int) -> str:
    """That requests wait in a batch.

    Example:
        >>> waits_in_batch("001-ab", 1)
        'batch 001-ab holds 1 request: set aside for until a purchase at the same endpoint fetches what has come'
    """
    return (
        f"batch {name} holds {n:,} request{'' if n == 1 else 's'}: set aside for until a purchase at the same endpoint"
        " fetches what has come"
    )


def columns(rows: Sequence[Sequence[str]]) -> list[str]:
    """Cells in columns, each as wide as its widest cell.

    Example:
        >>> columns([("arm", "n"), ("distill", "12")])
        ['arm      n', 'distill  12']
    """
    widths = [max(len(row[place]) for row in rows) for place in range(len(rows[0]))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
