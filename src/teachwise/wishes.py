"""Wishes: what the arms of a routed run want of the teacher, and what the ledger has of it; nothing is asked."""

import json
from collections.abc import Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import numpy as np

from teachwise.estimate import Ask, Basis, Judged, Seen
from teachwise.recipe import Recipe
from teachwise.records import Assignment, Example, Score, by_id, driving
from teachwise.request import RESULTS, Reply, Request
from teachwise.run_folder import Run, Unit
from teachwise.sampling import band_sizes, cut_bands
from teachwise.tasks import Task, load_task
from teachwise.teach import requests_for, wanted
from teachwise.teacher.ledger import Ledger
from teachwise.teacher.verify import Tries, is_kept, next_request, verdict_of

BUSY_SECONDS = 60.0
"""A longer silence between two replies is a pause, and is left out of the rate at which they came."""


@dataclass(frozen=True)
class Wish:
    """One example that gets a rationale.

    Attributes:
        example: The example.
        band: easy, medium or hard by its score, or "all" where there are too few examples for bands.
        score: Higher = less sure.
        arms: That want it, in the recipe's order.
        tries: Its requests with their replies so far; one without a reply stands last, and is to be sent.
        is_under_way: That one waits in a batch: it is sent, and set aside for.
    """

    example: Example
    band: str
    score: float
    arms: tuple[str, ...]
    tries: Tries
    is_under_way: bool = False

    @property
    def replies(self) -> list[Reply]:
        """What came so far."""
        return [reply for _, reply in self.tries if reply]

    @property
    def open(self) -> Request | None:
        """What is to be sent, or None where nothing is."""
        request, reply = self.tries[-1]
        return None if reply or self.is_under_way else request

    def ask(self, recipe: Recipe) -> Ask | None:
        """What is to be sent, as an estimate needs it."""
        if (request := self.open) is None:
            return None
        first, keep = self.tries[0][0], recipe.keep_rule
        return Ask(
            prompt_bytes=prompt_bytes(request.messages),
            prompt_words=request.prompt_words,
            prompt_bound=request.prompt_bound_tokens,
            max_tokens=request.max_tokens,
            band=self.band,
            retries=max(0, keep.samples - 1 - request.sample),
            may_grow=keep.longer and request.max_tokens == first.max_tokens,
            has_grown=request.max_tokens > first.max_tokens,
        )


def wishes(recipe: Recipe, run: Run, units: Iterable[Unit]) -> list[Wish]:
    """All that is wanted, each example once, in the order in which it is going to be bought.

    Args:
        recipe: The recipe.
        run: A run that is routed.
        units: The units of `teach`, in order.
    """
    arms: dict[str, dict[str, None]] = {}
    for unit in units:
        assignments = run.records(unit.of("route"), "assignments.parquet", Assignment)
        for one in wanted(assignments):
            arms.setdefault(one, {})[unit.arm] = None
    by = by_id(run.records(Unit("prepare"), "examples.parquet", Example))
    task = load_task(recipe.data.task, **recipe.data.task_options())
    examples, bands = [by[one] for one in arms], _bands(recipe, run, by)
    tries, waiting = tries_there(recipe, run, task, examples), _in_batches(recipe, run)
    return [Wish(e, *bands[e.id], tuple(arms[e.id]), tries[e.id], tries[e.id][-1][0].key in waiting) for e in examples]


def _in_batches(recipe: Recipe, run: Run) -> set[str]:
    """Keys of requests that a provider has in a batch."""
    path = recipe.ledger_at(run.root)
    if not path.exists():
        return set()
    with closing(Ledger(path)) as ledger:
        return {request.key for requests in ledger.in_batches().values() for request in requests}


def _bands(recipe: Recipe, run: Run, by: Mapping[str, Example]) -> dict[str, tuple[str, float]]:
    """Band and score of every train example."""
    scores = by_id(driving(run.records(Unit("score"), "scores.parquet", Score)))
    train = [one.id for one in by.values() if one.split == "train"]
    values = np.array([scores[one].value for one in train])
    if 0 in band_sizes(len(train), recipe.edges):
        return {one: ("all", float(value)) for one, value in zip(train, values, strict=True)}
    bands = cut_bands(train, values, recipe.edges)
    return {one: (band, float(value)) for one, band, value in zip(train, bands, values, strict=True)}


def tries_there(recipe: Recipe, run: Run, task: Task, examples: Sequence[Example]) -> dict[str, Tries]:
    """The tries of each example as far as the ledger has them, with the next one to send; by example id."""
    first = requests_for(recipe, task, examples)
    tries: dict[str, list[tuple[Request, Reply | None]]] = {one.id: [] for one in examples}
    path = recipe.ledger_at(run.root)
    if not path.exists():
        return {one.id: [(request, None)] for one, request in zip(examples, first, strict=True)}
    open_: dict[str, tuple[Example, Request]] = {
        one.id: (one, request) for one, request in zip(examples, first, strict=True)
    }
    with closing(Ledger(path)) as ledger:
        while open_:
            held = ledger.replies(request for _, request in open_.values())
            for id, (_, request) in open_.items():
                tries[id].append((request, held.get(request.key)))
            again = {
                id: (one, next_request(one, tries[id], task, recipe.keep_rule))
                for id, (one, _) in open_.items()
                if tries[id][-1][1]
            }
            open_ = {id: (one, request) for id, (one, request) in again.items() if request}
    return dict(tries)


def basis_for(recipe: Recipe, run: Run, found: Sequence[Wish]) -> tuple[Basis, float | None]:
    """The replies to judge by, and how many of them came in a second when they were bought.

    Replies count that the same model gave to the same prompt under the same limits, whichever run asked.
    """
    path = recipe.ledger_at(run.root)
    if not path.exists() or not any(wish.open for wish in found):
        return Basis(), None
    bands = {request.key: wish.band for wish in found for request, _ in wish.tries}
    kind = _kind(json.loads(found[0].tries[0][0].body))
    with closing(Ledger(path)) as ledger:
        rows = [row for row in ledger.rows() if row["state"] in RESULTS]
    seen, times = [], []
    for row in rows:
        body = json.loads(row["body"])
        if _kind(body) == kind:
            band = bands.get(row["key"], "")
            seen.append(Seen(prompt_bytes(body["messages"]), row["prompt_tokens"], row["completion_tokens"], band))
            times.append(row["changed_at"])
    return Basis(seen, _judged(recipe, found)), rate_of(times)


def prompt_bytes(messages: Iterable[Mapping[str, str]]) -> int:
    """Length of a prompt."""
    return sum(len(one["content"].encode()) for one in messages)


def _kind(body: Mapping[str, Any]) -> str:
    """What two requests share that differ in the question alone."""
    return json.dumps(
        {name: value for name, value in body.items() if name not in ("messages", "sample")}, sort_keys=True
    )


def _judged(recipe: Recipe, found: Sequence[Wish]) -> Judged:
    """What became of the first replies."""
    task, keep = load_task(recipe.data.task, **recipe.data.task_options()), recipe.keep_rule
    verdicts = [verdict_of(one.example, one.tries[0][1], task)[0] for one in found if one.tries[0][1]]
    cut = sum(verdict == "truncated" for verdict in verdicts)
    final = sum(verdict in ("refused", "failed", "unknown") or is_kept(verdict, keep) for verdict in verdicts)
    return Judged(len(verdicts), len(verdicts) - final - (cut if keep.longer else 0), cut)


def rate_of(times: Sequence[float]) -> float | None:
    """Replies per second while they came, pauses left out; None where there are too few to tell.

    Example:
        >>> rate_of([0.0, 1.0, 2.0, 3.0, 4.0, 1000.0, 1001.0, 1002.0, 1003.0])
        1.0
    """
    gaps = [later - sooner for sooner, later in zip(sorted(times), sorted(times)[1:], strict=False)]
    busy = [gap for gap in gaps if gap <= BUSY_SECONDS]
    return len(busy) / sum(busy) if len(busy) >= 7 and sum(busy) > 0 else None
