"""Teach: buy the rationales an arm was assigned, each distinct request once for all arms, within the budget.

in   prepare/examples.parquet                            Example
in   route/ARM/seed-S/round-R/assignments.parquet        Assignment
in   score/scores.parquet                                Score: the band of each example, to judge the teacher by
out  ledger.sqlite                                       every request with its raw reply, shared by all arms
out  teach/ARM/seed-S/round-R/rationales.parquet         Rationale: one row per rationale asked for, with its verdict
out  teach/ARM/seed-S/round-R/rejected.jsonl             those that are not learnt from, with the reason in words
out  teach/ARM/seed-S/round-R/contamination.parquet      Hit: rationales that recite a question of dev or test
"""

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from itertools import takewhile
from pathlib import Path
from typing import Any

from rich.markup import escape

from teachwise.console import say
from teachwise.errors import TeacherError
from teachwise.guard import CONTAMINATION, recited, settle
from teachwise.recipe import Recipe
from teachwise.records import Assignment, Example, Hit, Rationale, Score, by_id, driving
from teachwise.request import Reply, Request
from teachwise.run_folder import Run, Unit, write_records, write_text
from teachwise.sampling import bands_of
from teachwise.tasks import Task, load_task
from teachwise.teacher.buying import Terms
from teachwise.teacher.delivery import deliver
from teachwise.teacher.ledger import Ledger
from teachwise.teacher.prices import host_of
from teachwise.teacher.verify import (
    FAILURE,
    REASONS,
    Tries,
    band_row,
    by_band,
    contaminated,
    judged,
    next_request,
    teacher_verdict,
    what_to_do,
)

FEW_KEPT = 0.2
"""Share of an arm's rationales below which `teach` warns that hardly any was kept."""
FEW_AGAIN = 5
"""Where so many questions or more were asked again and none of them was kept, `teach` warns."""
MOST_FAILED = 0.05
"""Share of requests that may fail for good before the step itself is called failed."""


def wanted(assignments: Sequence[Assignment]) -> list[str]:
    """Ids of the examples that get a rationale, each once, in a fixed order."""
    return sorted({one.id for one in assignments if one.give == "rationale"})


def requests_for(recipe: Recipe, task: Task, examples: Sequence[Example]) -> list[Request]:
    """The first request for each example, in the same order."""
    teacher = recipe.teacher
    shown = "+answer" if teacher.show_answer else ""
    return [
        Request(
            model=teacher.model,
            messages=tuple(task.teacher_messages(example, teacher.show_answer)),
            max_tokens=teacher.max_tokens,
            temperature=teacher.temperature,
            prompt_version=task.prompt_version + shown,
            options=teacher.request_options,
            weights=teacher.weights,
        )
        for example in examples
    ]


def teach_arm(recipe: Recipe, run: Run, unit: Unit) -> dict[str, Any]:
    """Buy and judge one arm's rationales; return the counts by verdict and the tokens they stand for."""
    task = load_task(recipe.data.task, **recipe.data.task_options())
    by = by_id(run.records(Unit("prepare"), "examples.parquet", Example))
    assignments = run.records(unit.of("route"), "assignments.parquet", Assignment)
    examples = [by[one] for one in wanted(assignments)]
    tries = ask_all(recipe, run, task, [by[one] for one in _asked_together(recipe, run, examples)])
    rationales = [judged(example, tries[example.id], task, recipe.keep_rule) for example in examples]
    _check_failures(recipe, rationales, tries)
    folder = run.folder(unit)
    rationales = _guarded(recipe, unit, folder / CONTAMINATION, rationales, by)
    write_records(folder / "rationales.parquet", Rationale, rationales)
    rejected = [_rejected_line(one, by[one.id]) for one in rationales if not one.kept]
    write_text(folder / "rejected.jsonl", "".join(rejected))
    if rationales:
        failed = failure(recipe, _before(recipe, run, unit), rationales, _bands(recipe, run, by))
        for warning in [*failed, *warnings(recipe, unit, rationales)]:
            say(warning)
    return _counts(rationales)


def _guarded(
    recipe: Recipe, unit: Unit, path: Path, rationales: Sequence[Rationale], by: Mapping[str, Example]
) -> list[Rationale]:
    """The rationales after a look for held-out questions in them; what was found is written before anything is said."""
    hits = recited({one.id: one.text for one in rationales if one.kept}, by)
    write_records(path, Hit, hits)
    settle(hits, recipe.data.on_contamination, f"teach {unit.arm}", path, len(rationales))
    bad = {hit.id for hit in hits if recipe.data.on_contamination == "drop"}
    return [contaminated(one) if one.id in bad else one for one in rationales]


def _counts(rationales: Sequence[Rationale]) -> dict[str, Any]:
    verdicts = Counter(one.verdict for one in rationales)
    tokens = ("prompt_tokens", "cached_tokens", "completion_tokens", "unusable_tokens")
    return {
        "asked": len(rationales),
        "requests": sum(one.requests for one in rationales),
        "kept": sum(one.kept for one in rationales),
        **{verdict: verdicts[verdict] for verdict in REASONS},
        **{name: sum(getattr(one, name) for one in rationales) for name in tokens},
    }


def _asked_together(recipe: Recipe, run: Run, examples: Sequence[Example]) -> list[str]:
    """Ids of an arm's examples and, where replies take hours, behind them those of all arms: these wait but once."""
    ids = [example.id for example in examples]
    if recipe.teacher.delivery != "live":
        units = [Unit("route", arm, seed) for arm in recipe.arms for seed in recipe.seeds_of(arm)]
        ids += [one for unit in units for one in wanted(run.records(unit, "assignments.parquet", Assignment))]
    return list(dict.fromkeys(ids))


def ask_all(recipe: Recipe, run: Run, task: Task, examples: Sequence[Example]) -> Mapping[str, Tries]:
    """Ask for every example, and again where the reply was rejected and the recipe says so; tries by example id."""
    keep = recipe.keep_rule
    open_ = dict(zip(examples, requests_for(recipe, task, examples), strict=True))
    tries: dict[str, list[tuple[Request, Reply | None]]] = {example.id: [] for example in examples}
    while open_:
        replies = _replies(recipe, run, list(open_.values()))
        for example, request in open_.items():
            tries[example.id].append((request, replies.get(request.key)))
        again = {example: next_request(example, tries[example.id], task, keep) for example in open_}
        open_ = {example: request for example, request in again.items() if request}
    _tell_hosts(recipe, tries.values())
    return tries


def _rejected_line(one: Rationale, example: Example) -> str:
    told = {
        "id": one.id,
        "row": example.row,
        "verdict": one.verdict,
        "reason": REASONS[one.verdict],
        "stated": one.stated,
        "gold": example.answer,
        "loops": one.loops,
        "tokens": one.tokens,
        "question": example.question,
        "text": one.text,
    }
    return json.dumps(told, ensure_ascii=False) + "\n"


def _bands(recipe: Recipe, run: Run, examples: Mapping[str, Example]) -> Mapping[str, str]:
    scores = by_id(driving(run.records(Unit("score"), "scores.parquet", Score)))
    train = [one.id for one in examples.values() if one.split == "train"]
    return bands_of({one: scores[one].value for one in train}, train, recipe.edges)


def _before(recipe: Recipe, run: Run, unit: Unit) -> list[Rationale]:
    """The rationales of the units that come before this one."""
    units = [Unit("teach", arm, seed) for arm in recipe.arms for seed in recipe.seeds_of(arm)]
    taught = [one for one in takewhile(lambda one: one != unit, units) if run.manifest(one)]
    return [row for one in taught for row in run.records(one, "rationales.parquet", Rationale)]


def failure(
    recipe: Recipe, before: Sequence[Rationale], rationales: Sequence[Rationale], bands: Mapping[str, str]
) -> Iterator[str]:
    """That the teacher fails on the hard questions, said once: by the first arm that shows it.

    Args:
        recipe: The recipe.
        before: What was bought for the arms before.
        rationales: What was bought for this one.
        bands: Band of each train example by its score; empty where there is none.
    """
    known, found = (
        teacher_verdict(by_band(rows, bands), recipe.min_usable) for rows in (before, [*before, *rationales])
    )
    if found["verdict"] == FAILURE and known["verdict"] != FAILURE:
        whose = "hard rationales" if found["band"] == "hard" else "rationales"
        what = f"{found['usable']:,} of {found['n']:,} {whose} state the gold answer, under min_usable"
        todo = what_to_do(recipe.keep_rule.samples, recipe.on_rejected)
        yield f"[bold red]{FAILURE}[/bold red] {what} {found['min_usable']:g}; {todo}"


def warnings(recipe: Recipe, unit: Unit, rationales: Sequence[Rationale]) -> Iterator[str]:
    """What makes an arm another than the recipe says, in lines to be said before it is trained.

    Args:
        recipe: The recipe.
        unit: The arm's unit.
        rationales: Its rationales, at least one.
    """
    file, row = f"{unit.path}/rejected.jsonl", band_row(rationales)
    if row["kept"] < FEW_KEPT * row["n"]:
        left = "answers instead" if recipe.on_rejected == "answer" else "fewer rows"
        yield f"{_WARNING} teach {unit.arm}: {_few_kept(row)}: it trains on {left}; read them in {file}"
    again = [one for one in rationales if one.requests > 1] if recipe.keep_rule.samples > 1 else []
    if len(again) >= FEW_AGAIN and not any(one.kept for one in again):
        why = "a teacher that writes the same text again gains nothing by it"
        yield f"{_WARNING} teach {unit.arm}: asking again kept 0 more of {len(again):,} rationales: {why}"
    if row["unpaid"]:
        yield (
            f"{_WARNING} teach {unit.arm}: {row['unpaid']:,} of {row['n']:,} rationales are not bought, the budget"
            " could not bear them; every table marks this arm as partial"
        )
    if row["unproven"]:
        why = "made with the answer shown" if recipe.teacher.show_answer else "that do not state the gold answer"
        yield f"{_WARNING} teach {unit.arm}: it learns from {row['unproven']:,} rationales {why}; every table says so"


_WARNING = "[yellow]warning[/yellow]"


def _few_kept(row: Mapping[str, Any]) -> str:
    found = f"none of its {row['n']:,}" if not row["kept"] else f"only {row['kept']:,} of its {row['n']:,}"
    why = ", ".join(f"{row[name]:,} {name}" for name in sorted(REASONS) if name != "correct" and row[name])
    return f"{found} rationales {'were' if row['kept'] else 'was'} kept ({why})"


def _replies(recipe: Recipe, run: Run, requests: Sequence[Request]) -> Mapping[str, Reply]:
    held, teacher = _held(recipe, run, requests), recipe.teacher
    if len(held) == len({request.key for request in requests}):
        return held
    ledger_at = recipe.ledger_at(run.root)
    return deliver(requests, ledger_at, terms_of(recipe), teacher.engine_options, teacher.delivery, run.root)


def _tell_hosts(recipe: Recipe, tries: Iterable[Tries]) -> None:
    """Two endpoints may serve two models by one name, so a reply from another one is used, but not silently."""
    hosts = Counter(reply.host for one in tries for _, reply in one if reply and reply.host)
    for host in hosts.keys() - {host_of(recipe.teacher.base_url)}:
        found = f"{hosts[host]:,} replies were bought from {host}, before teacher.base_url was another one"
        say(escape(f"{found}: they are used, and nothing shows that it is the same {recipe.teacher.model}"))


def terms_of(recipe: Recipe) -> Terms:
    """On what terms a recipe buys."""
    teacher, budget = recipe.teacher, recipe.budget
    return Terms(
        limits=budget.limits,
        price=recipe.price,
        on_unknown=teacher.on_unknown,
        concurrency=teacher.concurrency,
        requests_per_minute=teacher.requests_per_minute,
        tokens_per_minute=teacher.tokens_per_minute,
        is_partial=budget.on_spent == "partial",
    )


def _held(recipe: Recipe, run: Run, requests: Sequence[Request]) -> dict[str, Reply]:
    """Replies that the ledger has already."""
    path = recipe.ledger_at(run.root)
    if not requests or not path.exists():
        return {}
    with closing(Ledger(path)) as ledger:
        return ledger.replies(requests)


def _check_failures(recipe: Recipe, rationales: Sequence[Rationale], tries: Mapping[str, Tries]) -> None:
    """Too many replies that never came, and that another start could still get."""
    open_ = ("failed", "unknown") if recipe.teacher.on_unknown == "ask_again" else ("failed",)
    failed = [one.id for one in rationales if one.verdict in open_]
    if len(failed) > MOST_FAILED * len(rationales):
        reply = tries[failed[0]][-1][1]
        raise TeacherError(
            f"teach: {len(failed):,} of {len(rationales):,} requests failed, the first with {reply and reply.error}",
            "mend what it says and run again: what came back is kept, and only the failed ones are asked again",
        )
