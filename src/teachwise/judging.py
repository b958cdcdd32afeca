"""Judging: how measures reach the judge, through the run's own ledger and under the recipe's budget, and at what price.

A judge is paid before the gate, so what it may come to is counted and bounded before the first request.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any

from teachwise.engines import weights_digest
from teachwise.errors import GateError, TeacherError
from teachwise.measures import SOURCES, Source, find_measure
from teachwise.measures.judge import VERSION, first_question, is_rated, ratable, second_question
from teachwise.recipe import Recipe
from teachwise.records import Example, Message
from teachwise.request import Reply, Request
from teachwise.run_folder import Run
from teachwise.teacher.buying import Terms
from teachwise.teacher.delivery import deliver
from teachwise.teacher.ledger import Ledger
from teachwise.teacher.prices import Spent

MOST_FAILED = 0.05
"""Share of requests that may fail for good, and stay as questions without a verdict, before scoring itself fails."""
_DEPENDS = {"model", "engine", "revision", "dtype", "max_tokens", "temperature", "options"}


def judged_sources(recipe: Recipe) -> list[Source]:
    """The sources of a recipe's measures that ask a judge, each once."""
    needed = dict.fromkeys(name for one in recipe.score.measures for name in find_measure(one).needs)
    return [SOURCES[name] for name in needed if SOURCES[name].calls]


def judge_settings(recipe: Recipe) -> dict[str, Any]:
    """What a verdict depends on."""
    judge = recipe.judge
    weights = weights_digest(judge.model) if judge.engine == "hf" else None
    return {"version": VERSION, "weights": weights, **judge.model_dump(mode="json", include=_DEPENDS)}


def asker(recipe: Recipe, run: Run) -> Callable[[Sequence[Sequence[Message]], str], list[Reply]]:
    """A function that asks the judge and gives the replies in order; what the ledger holds is not asked again.

    Raises:
        GateError: the budget cannot bear the next request.
        TeacherError: the judge fails, or too many of its replies never came.
    """

    def ask(conversations: Sequence[Sequence[Message]], prompt_version: str) -> list[Reply]:
        requests = [_request(recipe, one, prompt_version) for one in conversations]
        held: Mapping[str, Reply] = _held(recipe, run, requests)
        if len(held) < len({one.key for one in requests}):
            held = _bought(recipe, run, requests)
        found = [held[one.key] for one in requests]
        _check_failures(found)
        return found

    return ask


def _request(recipe: Recipe, conversation: Sequence[Message], prompt_version: str) -> Request:
    judge = recipe.judge
    return Request(
        model=judge.model,
        messages=tuple(conversation),
        max_tokens=judge.max_tokens,
        temperature=judge.temperature,
        prompt_version=prompt_version,
        options=judge.request_options,
        weights=judge.weights,
    )


def _held(recipe: Recipe, run: Run, requests: Sequence[Request]) -> dict[str, Reply]:
    path = recipe.ledger_at(run.root)
    if not requests or not path.exists():
        return {}
    with closing(Ledger(path)) as ledger:
        return ledger.replies(requests)


def _bought(recipe: Recipe, run: Run, requests: Sequence[Request]) -> Mapping[str, Reply]:
    judge = recipe.judge
    terms = Terms(
        limits=recipe.budget.limits,
        price=recipe.judge_price,
        on_unknown=judge.on_unknown,
        concurrency=judge.concurrency,
        requests_per_minute=judge.requests_per_minute,
        tokens_per_minute=judge.tokens_per_minute,
    )
    try:
        return deliver(requests, recipe.ledger_at(run.root), terms, judge.engine_options, judge.delivery, run.root)
    except (GateError, TeacherError) as error:  # the buyer speaks of what it mostly buys
        found = error.found.replace("teach: ", "score: ", 1).replace("rationales", "verdicts")
        raise type(error)(found, error.hint.partition("; or go on with")[0]) from error


def _check_failures(replies: Sequence[Reply]) -> None:
    failed = [one for one in replies if one.error is not None]
    if len(failed) > MOST_FAILED * len(replies):
        raise TeacherError(
            f"score: {len(failed):,} of {len(replies):,} requests to the judge failed, the first with"
            f" {failed[0].error}",
            "mend what it says and run again: what came back is kept, and only the failed ones are asked again",
        )


@dataclass(frozen=True)
class Bound:
    """What the judge can come to.

    Attributes:
        requests: To be sent, at most.
        tokens: Read and written, at most.
        usd: The same in dollars; None where the price is not known.
    """

    requests: int
    tokens: int
    usd: float | None


def bound_of(recipe: Recipe, run: Run, sources: Iterable[Source], examples: Iterable[Example]) -> Bound:
    """The most that judging can come to now: what the ledger holds is free, and the budget's caps hold.

    Each prompt counts a token a byte and each reply its full length; a verdict that a second judge rates is read again.
    """
    train = [one for one in examples if one.split == "train"]
    asks = [ask for source in sources for ask in _asks(recipe, run, source.name, train)]
    price, limits = recipe.judge_price, recipe.budget.limits
    if price and recipe.judge.delivery == "batch":
        price = price.in_batch
    spent = _spent(recipe, run)
    tokens = sum(read + written for read, written in asks)
    usd = price.usd(sum(read for read, _ in asks), sum(written for _, written in asks)) if price else None
    if limits.teacher_tokens is not None:
        tokens = min(tokens, max(0, limits.teacher_tokens - spent.tokens))
    if usd is not None and limits.usd is not None:
        usd = min(usd, max(0.0, limits.usd - spent.usd))
    return Bound(len(asks), tokens, usd)


def _asks(recipe: Recipe, run: Run, source: str, train: Sequence[Example]) -> list[tuple[int, int]]:
    """Tokens read and written, at most, of every request that is still to be sent for a source."""
    most = recipe.judge.max_tokens
    first = {one.id: _request(recipe, first_question(source, one), VERSION) for one in train}
    held = _held(recipe, run, list(first.values()))
    found = [(one.prompt_bound_tokens, most) for one in first.values() if one.key not in held]
    if not is_rated(source):
        return found
    unheard = [one for one in train if first[one.id].key not in held]
    blank = [_request(recipe, second_question(one, ""), VERSION) for one in unheard]
    found += [(one.prompt_bound_tokens + most, most) for one in blank]
    pairs = [(one, held.get(first[one.id].key)) for one in train]
    second = [
        _request(recipe, second_question(one, reply.text), VERSION)
        for one, reply in pairs
        if reply and ratable(source, reply)
    ]
    there = _held(recipe, run, second)
    return found + [(one.prompt_bound_tokens, most) for one in second if one.key not in there]


def _spent(recipe: Recipe, run: Run) -> Spent:
    path = recipe.ledger_at(run.root)
    if not path.exists():
        return Spent()
    with closing(Ledger(path)) as ledger:
        return ledger.spent()
