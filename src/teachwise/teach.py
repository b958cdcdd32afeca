"""Teach: buy the rationales an arm was assigned, each distinct request once for all arms, within the budget.

in   prepare/examples.parquet                            Example
in   route/ARM/seed-S/round-R/assignments.parquet        Assignment
out  ledger.sqlite                                       every request with its raw reply, shared by all arms
out  teach/ARM/seed-S/round-R/rationales.parquet         Rationale: one row per rationale asked for, with its verdict
"""

import signal
import threading
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from itertools import takewhile
from typing import Any

from teachwise.console import progress, say
from teachwise.engines import TeacherEngine, load_teacher
from teachwise.errors import GateError, TeacherError
from teachwise.ledger import LEDGER, Ledger, Reply, Request
from teachwise.recipe import Recipe
from teachwise.records import Assignment, Example, Rationale, Verdict, by_id
from teachwise.run_folder import Run, Unit, write_records
from teachwise.tasks import Task, load_task

TRIES = 3
"""How often a request is asked whose outcome is unknown."""
HOPELESS = 20
"""After so many failures in a row nothing more is sent."""
FEW_KEPT = 0.2
"""Share of an arm's rationales below which `teach` warns that hardly any was kept."""
MOST_FAILED = 0.05
"""Share of requests that may fail for good before the step itself is called failed."""


def wanted(assignments: Sequence[Assignment]) -> list[str]:
    """Ids of the examples that get a rationale, each once, in a fixed order."""
    return sorted({one.id for one in assignments if one.give == "rationale"})


def requests_for(recipe: Recipe, task: Task, examples: Sequence[Example]) -> list[Request]:
    """One request per example, in the same order."""
    teacher = recipe.teacher
    return [
        Request(
            model=teacher.model,
            messages=tuple(task.teacher_messages(example)),
            max_tokens=teacher.max_tokens,
            temperature=teacher.temperature,
            prompt_version=task.prompt_version,
        )
        for example in examples
    ]


def judged(example: Example, reply: Reply, task: Task) -> Rationale:
    """What becomes of a reply: a pure function of the raw text, so changing it never buys anything again.

    A reply that states the gold answer is kept. One that states another, or none, is not trained on.
    """
    stated = task.read_answer(example, reply.text)
    verdict: Verdict = "kept" if stated == example.answer else "wrong"
    if reply.error:
        verdict = "failed"
    elif stated is None:
        verdict = "truncated" if reply.finish_reason == "length" else "unreadable"
    return Rationale(example.id, verdict, stated, reply.text, reply.prompt_tokens, reply.completion_tokens)


def buy(
    requests: Sequence[Request], engine: TeacherEngine, ledger: Ledger, budget_tokens: int | None
) -> dict[str, Reply]:
    """Replies to all requests by request key; those the ledger holds cost nothing.

    Each request is noted in the ledger before it leaves and its reply committed as it comes. A request in flight
    reserves more than it is going to cost, so where the budget could not bear the next one, those in flight are
    awaited and it is tried again.

    A request whose outcome is unknown is asked again, `TRIES` times in all, each try on its own reservation.

    Raises:
        GateError: the budget cannot bear the next request. Everything bought is in the ledger.
        TeacherError: `HOPELESS` requests in a row failed.
        KeyboardInterrupt: Ctrl-C, once all replies under way are in the ledger.
    """
    replies = {request.key: reply for request in requests if (reply := ledger.reply(request))}
    left = list({request.key: request for request in requests if request.key not in replies}.values())

    tries: Counter[str] = Counter()
    failed_in_a_row, last_error = 0, None

    def is_wanted(request: Request) -> bool:
        return not stopped and failed_in_a_row < HOPELESS and ledger.reserve(request, budget_tokens)

    with (
        _patient_interrupt() as stopped,
        progress("teaching", total=len(requests), done=len(requests) - len(left)) as bar,
    ):
        while left:
            n_before = tries.total()
            for request, reply in engine.answer(takewhile(is_wanted, left)):
                ledger.settle(request, reply)
                replies[request.key] = reply
                tries[request.key] += 1
                failed_in_a_row, last_error = (failed_in_a_row + 1, reply.error) if reply.error else (0, None)
                bar.advance(not reply.error, spent_tokens=ledger.spent_tokens())
            if stopped:
                raise KeyboardInterrupt
            if failed_in_a_row >= HOPELESS or tries.total() == n_before:
                break
            left = [r for r in left if r.key not in replies or _is_open(replies[r.key], tries[r.key])]
    if failed_in_a_row >= HOPELESS:
        raise TeacherError(
            f"teach: {failed_in_a_row} requests in a row failed, the last with {last_error}",
            "mend what it says and run again; what came back is kept",
        )
    if left:
        raise GateError(
            f"teach: budget spent, {ledger.spent_tokens():,} of {budget_tokens:,} teacher tokens; "
            f"{len(requests) - len(left):,} of {len(requests):,} "
            f"rationales are there and the next may cost {left[0].upper_bound_tokens:,}",
            "raise budget.teacher_tokens and run again; nothing is paid twice",
        )
    return replies


@contextmanager
def _patient_interrupt() -> Iterator[list[int]]:
    """Ctrl-C ends the sending; replies under way are paid for, so they are awaited. A second Ctrl-C ends that too.

    Raised in the middle of the work, as Python does it, an interrupt would drop replies that have come already.
    """
    stopped: list[int] = []
    if threading.current_thread() is not threading.main_thread():  # only that one may handle signals
        yield stopped
        return
    before = signal.getsignal(signal.SIGINT) or signal.default_int_handler

    def note(number: int, frame: object) -> None:
        signal.signal(signal.SIGINT, before)
        stopped.append(number)
        say("[dim]awaiting the replies under way, which are paid for; Ctrl-C again ends at once[/dim]")

    signal.signal(signal.SIGINT, note)
    try:
        yield stopped
    finally:
        signal.signal(signal.SIGINT, before)


def _is_open(reply: Reply, tries: int) -> bool:
    return reply.may_be_billed and tries < TRIES


def plan(recipe: Recipe, run: Run, units: Sequence[Unit]) -> str:
    """What teaching is going to ask for, in one line, before anything is bought.

    Args:
        recipe: The recipe.
        run: A run that is routed.
        units: The units of `teach` to come.
    """
    by = by_id(run.records(Unit("prepare"), "examples.parquet", Example))
    rows = [one for unit in units for one in run.records(unit.of("route"), "assignments.parquet", Assignment)]
    task = load_task(recipe.data.task, **recipe.data.task_options())
    requests = requests_for(recipe, task, [by[one] for one in wanted(rows)])
    held = _held(run, requests)
    most = sum(request.upper_bound_tokens for request in requests if request.key not in held)
    budget = recipe.budget.teacher_tokens
    limit = "without a cap" if budget is None else f"the budget is {budget:,}"
    return (
        f"{len(requests):,} distinct rationales are wanted by all arms, {len(held):,} of them paid before; "
        f"the rest costs at most {most:,} teacher tokens (prompt bytes and full length), {limit}"
    )


def teach_arm(recipe: Recipe, run: Run, unit: Unit) -> dict[str, Any]:
    """Buy and judge one arm's rationales; return the counts by verdict and the tokens they stand for."""
    task = load_task(recipe.data.task, **recipe.data.task_options())
    by = by_id(run.records(Unit("prepare"), "examples.parquet", Example))
    ids = wanted(run.records(unit.of("route"), "assignments.parquet", Assignment))
    examples = [by[one] for one in ids]
    requests = requests_for(recipe, task, examples)
    replies = _replies(recipe, run, requests)
    rationales = [judged(example, replies[r.key], task) for example, r in zip(examples, requests, strict=True)]
    _check_failures(rationales, replies)
    write_records(run.folder(unit) / "rationales.parquet", Rationale, rationales)
    verdicts = Counter(rationale.verdict for rationale in rationales)
    _warn_few_kept(recipe, unit, verdicts)
    return {
        "bought": len(rationales),
        **{verdict: verdicts[verdict] for verdict in ("kept", "wrong", "unreadable", "truncated", "failed")},
        "prompt_tokens": sum(rationale.prompt_tokens for rationale in rationales),
        "completion_tokens": sum(rationale.completion_tokens for rationale in rationales),
    }


def _warn_few_kept(recipe: Recipe, unit: Unit, verdicts: Counter[Verdict]) -> None:
    """An arm whose rationales are mostly rejected is another arm than the recipe says; say so before it is trained."""
    total, kept = sum(verdicts.values()), verdicts["kept"]
    if total and kept < FEW_KEPT * total:
        found = f"none of its {total:,}" if not kept else f"only {kept:,} of its {total:,}"
        why = ", ".join(f"{n:,} {verdict}" for verdict, n in sorted(verdicts.items()) if n and verdict != "kept")
        left = "answers instead" if recipe.on_rejected == "answer" else "fewer rows"
        say(
            f"[yellow]warning[/yellow] teach {unit.arm}: {found} rationales {'were' if kept else 'was'} kept ({why}):"
            f" it trains on {left}; read them in {unit.path}/rationales.parquet"
        )


def _replies(recipe: Recipe, run: Run, requests: Sequence[Request]) -> Mapping[str, Reply]:
    held = _held(run, requests)
    if len(held) == len({request.key for request in requests}):
        return held
    with closing(Ledger(run.root / LEDGER)) as ledger:
        engine = load_teacher(**recipe.teacher.model_dump())
        return buy(requests, engine, ledger, recipe.budget.teacher_tokens)


def _held(run: Run, requests: Sequence[Request]) -> dict[str, Reply]:
    """Replies that the ledger has already."""
    if not requests or not (run.root / LEDGER).exists():
        return {}
    with closing(Ledger(run.root / LEDGER)) as ledger:
        return {request.key: reply for request in requests if (reply := ledger.reply(request))}


def _check_failures(rationales: Sequence[Rationale], replies: Mapping[str, Reply]) -> None:
    failed = sum(rationale.verdict == "failed" for rationale in rationales)
    if failed > MOST_FAILED * len(rationales):
        first = next(reply.error for reply in replies.values() if reply.error)
        raise TeacherError(
            f"teach: {failed:,} of {len(rationales):,} requests failed, the first with {first}",
            "mend what it says and run again: what came back is kept, and only the failed ones are asked again",
        )
