"""Score: how unsure is the student on every example, before a single rationale is bought?

in   prepare/examples.parquet          Example
out  evidence/SOURCE-KEY.parquet       what a model or a teacher said, one record per example; kept when measures change
out  score/scores.parquet              Score: one row per example and measure, those of the driving measure first
out  score/own_answers.parquet         OwnAnswer: where the student wrote a text, whether the answer in it is right
"""

import json
import math
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from teachwise.console import say
from teachwise.engines import weights_digest
from teachwise.errors import DataError
from teachwise.evidence import AnswerEvidence, ChainEvidence, OwnAnswer, VoteEvidence
from teachwise.measures import SOURCES, Asking, Known, Source, find_measure
from teachwise.recipe import Recipe
from teachwise.records import Example, Score, Unusable, by_id, driving, read_records
from teachwise.run_folder import Run, Unit, content_hash, write_records
from teachwise.tasks import Row, load_task
from teachwise.tasks.table import check_writable, column_names, numbers, read_table, truths, write_table

NEW_COLUMNS = {
    "answer_entropy": "value",
    "student_answer": "predicted",
    "student_correct": "correct",
    "gold_probability": "gold_probability",
    "option_mass": "option_mass",
}
"""What `score_table` adds to a table, and the field of `Score` it comes from."""
MOST_UNREADABLE = 0.1
"""Share of unreadable answers above which `score` warns."""
HOPELESS = 0.9
"""Share of unreadable answers above which the scores are good for nothing, and `score` says so loudly."""
EVIDENCE = "evidence"
"""Folder in the run; what lies there is named by all that it depends on, and outlives a change of measures."""


def measured_scores(
    examples: Sequence[Example], rows: Sequence[dict[str, Any]], column: str, correct: str, source: str
) -> list[Score]:
    """Scores that were measured elsewhere and stand in the user's own table.

    Raises:
        DataError: naming the row whose value is no finite number or no truth value.
    """
    places = [example.row for example in examples]
    values, right = numbers(rows, column, source, places), truths(rows, correct, source, places)
    return [
        Score(
            id=example.id,
            measure=column,
            value=value,
            predicted=None,
            correct=is_right,
            gold_probability=None,
            option_mass=None,
            prompt_tokens=0,
        )
        for example, value, is_right in zip(examples, values, right, strict=True)
    ]


def score_rows(measure: str, values: np.ndarray, known: Known) -> list[Score]:
    """The rows of one measure, in the order of the examples.

    Args:
        measure: Its name.
        values: (N,), NaN where it has none.
        known: N examples, with the answers at once where a student gave them.
    """
    answered: Sequence[AnswerEvidence | None] = known.evidence.get("answer") or [None] * len(known.examples)
    return [
        _row(measure, example, None if math.isnan(value) else value, bool(right), one)
        for example, value, right, one in zip(known.examples, values.tolist(), known.correct, answered, strict=True)
    ]


def _row(measure: str, example: Example, value: float | None, correct: bool, found: AnswerEvidence | None) -> Score:
    if found is None:
        return Score(example.id, measure, value, None, correct, None, None, 0)
    letters = [math.exp(one) for one in found.letter_logprobs]
    gold = letters[example.letters.index(example.answer)] if letters else None
    mass = math.fsum(letters) if letters else None
    return Score(example.id, measure, value, found.predicted, correct, gold, mass, found.prompt_tokens)


def answered(examples: Sequence[Example], evidence: Mapping[str, Sequence[Any]]) -> Known:
    """What measures may look at, where the student itself answered."""
    pairs = zip(examples, evidence["answer"], strict=True)
    return Known(examples, np.array([one.predicted == example.answer for example, one in pairs], dtype=bool), evidence)


def warn_unreadable(answers: Sequence[AnswerEvidence]) -> None:
    """Say so when the student often begins its answer with something else than a letter."""
    unreadable = [one for one in answers if one.predicted is None]
    if len(unreadable) > MOST_UNREADABLE * len(answers):
        mass = sum(math.exp(p) for one in answers for p in one.letter_logprobs) / len(answers)
        say(
            f"[yellow]warning[/yellow] score: {len(unreadable):,} of {len(answers):,} answers begin with no option"
            f" letter (mean mass on the letters {mass:.2f}); they count as wrong, and their entropy may say little"
        )
    if len(unreadable) > HOPELESS * len(answers):
        say(
            "[bold red]WARNING[/bold red] score: this student hardly ever answers with a letter, so its scores choose"
            " no better than chance and its accuracy means nothing; before anything is bought: take an instruct or chat"
            " model (a base model continues a question instead of answering it), or see that its chat template is there"
        )


def score_examples(recipe: Recipe, run: Run, unit: Unit) -> dict[str, Any]:
    """Score every example of every split by every measure; return counts and the base accuracy on train rows."""
    examples = run.records(Unit("prepare"), "examples.parquet", Example)
    folder, measures = run.folder(unit), [find_measure(name) for name in recipe.score.measures]
    rows: list[Score] = []
    if recipe.score.measure == "column":
        rows = table_scores(recipe, examples)
        known = Known(examples, np.array([row.correct for row in rows], dtype=bool))
    else:
        sources = {name: SOURCES[name] for one in measures for name in ("answer", *one.needs)}
        known = answered(examples, gathered(recipe, run, examples, sources))
        warn_unreadable(known.answers)
    for one in measures:
        rows += score_rows(one.name, one(known), known)
    driving(rows)  # refuses a measure that has no value for any example
    write_records(folder / "scores.parquet", Score, rows)
    write_records(folder / "own_answers.parquet", OwnAnswer, own_answers(known))
    return _counts(known, rows)


def own_answers(known: Known) -> list[OwnAnswer]:
    """Of every source that has answers of its own, whether they are right."""
    found = {name: SOURCES[name].correct(known) for name in known.evidence}
    return [
        OwnAnswer(example.id, name, bool(is_right))
        for name, right in found.items()
        if right is not None
        for example, is_right in zip(known.examples, right, strict=True)
    ]


def _counts(known: Known, rows: Sequence[Score]) -> dict[str, Any]:
    train = [right for example, right in zip(known.examples, known.correct, strict=True) if example.split == "train"]
    found: dict[str, Any] = {"scored": len(known.examples), "train_accuracy": round(float(np.mean(train)), 4)}
    found["unreadable"] = _unreadable(known.evidence.get("answer", ()))
    others = [
        name for name, rows in known.evidence.items() if name != "answer" and SOURCES[name].record is AnswerEvidence
    ]
    found |= {f"unreadable_{name}": _unreadable(known.evidence[name]) for name in others if name != "bare"}
    for name, rows_of in known.evidence.items():
        found |= _written_counts(name, rows_of)
    if missing := sum(row.value is None for row in rows):
        found["no_value"] = missing
    return found


def _written_counts(name: str, evidence: Sequence[Any]) -> dict[str, int]:
    """Of what the student wrote: how many texts state no answer, and how many met their limit."""
    if SOURCES[name].record is ChainEvidence:
        texts = [(one.stated, one.is_truncated) for one in evidence]
        unreadable, cut = sum(stated is None for stated, _ in texts), sum(is_cut for _, is_cut in texts)
    elif SOURCES[name].record is VoteEvidence:
        unreadable, cut = sum(one.votes.count("") for one in evidence), sum(one.n_truncated for one in evidence)
    else:
        return {}
    return {f"unreadable_{name}": unreadable, f"truncated_{name}": cut}


def _unreadable(answers: Sequence[AnswerEvidence]) -> int:
    return sum(one.predicted is None for one in answers)


def gathered(
    recipe: Recipe, run: Run, examples: Sequence[Example], sources: Mapping[str, Source]
) -> dict[str, list[Any]]:
    """The evidence of each source, out of the run's `evidence` folder where it lies there already.

    A file there is named by all that its content depends on, so it is asked for once however the measures change.
    """
    task = load_task(recipe.data.task, **recipe.data.task_options())
    prepared = (run.manifest(Unit("prepare")) or {}).get("key")
    settings, engines = source_settings(recipe), _engines(recipe)
    found: dict[str, list[Any]] = {}
    for name, source in sources.items():
        names = [one.name for one in fields(source.record)]
        depends = [prepared, task.prompt_version, name, names, [settings[one] for one in source.reads]]
        path = run.root / EVIDENCE / f"{name}-{content_hash(json.dumps(depends, sort_keys=True))}"
        asking = Asking(examples, task, *engines, path, recipe.score.batch_tokens, recipe.score.model_dump())
        found[name] = _kept(source, asking, path.with_suffix(".parquet"))
    return found


def _kept(source: Source, asking: Asking, path: Path) -> list[Any]:
    if not path.exists():
        write_records(path, source.record, source.gather(asking))
        shutil.rmtree(asking.folder, ignore_errors=True)
    return read_records(path, source.record)


def source_settings(recipe: Recipe) -> dict[str, Any]:
    """What evidence may depend on beside the examples, by the names that `Source.reads` has for it."""
    student, proxy = recipe.student, recipe.score.proxy
    return {
        **recipe.score.model_dump(mode="json"),
        "student": [recipe.result_fields("student"), weights_digest(student.model)],
        "proxy": [proxy, student.dtype, weights_digest(proxy)] if proxy else None,
    }


def _engines(recipe: Recipe) -> tuple[Callable[[], Any], Callable[[], Any] | None]:
    """How to load the student and the proxy, each once and only when it is asked."""

    @cache
    def load(name: str) -> Any:
        from teachwise.engines.hf import HfEngine

        if name == "student":
            return HfEngine(**recipe.student.model_dump())
        return HfEngine(recipe.score.proxy or "", dtype=recipe.student.dtype, device=recipe.student.device)

    return lambda: load("student"), (lambda: load("proxy")) if recipe.score.proxy else None


def table_scores(recipe: Recipe, examples: Sequence[Example]) -> list[Score]:
    """The scores of `measure: column`, out of the recipe's own table.

    Raises:
        DataError: the table or a column is missing, or a cell holds no score.
    """
    source, spec = recipe.data.source, recipe.score
    if not source or not spec.column or not spec.correct:
        raise DataError("score: `measure: column` wants a table", "set data.source to the file that holds the column")
    rows = read_table(source, recipe.data.hub_split)
    return measured_scores(examples, rows, spec.column, spec.correct, source)


def score_table(source: str, student: str, out: Path) -> dict[str, int]:
    """Score every usable row of a table and write it with the new columns, for `teachwise validate` and `route`.

    Args:
        source: A table of multiple-choice questions.
        student: Hub name or folder of the student.
        out: Where to write; the suffix says how.

    Returns:
        `scored` and `unusable` rows. Unusable rows are written too, with empty columns and the reason.
    """
    from teachwise.engines.hf import HfEngine

    check_writable(out)
    table = read_table(source)
    if taken := sorted({*NEW_COLUMNS, "unusable"} & set(column_names(table))):
        raise DataError(f"{source}: has a column {taken[0]!r} already", "it was scored before, or rename the column")
    task = load_task("multiple_choice", source=source)
    found = list(task.rows())
    examples = [row.example("train") for row in found if isinstance(row, Row)]
    if not examples:
        first = next(row for row in found if isinstance(row, Unusable))
        raise DataError(
            f"{source}: none of {len(found):,} rows can be used; row {first.row}: {first.reason}",
            "mend the rows, or score a recipe whose data.columns and data.answer_is say how to read them",
        )
    work = out.with_name(f".{out.name}-{content_hash(student + ''.join(example.id for example in examples))}")
    asking = Asking(examples, task, lambda: HfEngine(student), None, work, 16_384)
    known = answered(examples, {"answer": SOURCES["answer"].gather(asking)})
    warn_unreadable(known.answers)
    measure = find_measure("answer_entropy")
    scores = by_id(score_rows(measure.name, measure(known), known))
    by_row = {example.row: scores[example.id] for example in examples}
    reasons = {row.row: row.reason for row in found if isinstance(row, Unusable)}
    rows = [
        {**row, **_columns(by_row.get(number)), "unusable": reasons.get(number)} for number, row in enumerate(table)
    ]
    write_table(out, rows)
    shutil.rmtree(work, ignore_errors=True)
    return {"scored": len(by_row), "unusable": len(reasons)}


def _columns(score: Score | None) -> dict[str, Any]:
    return {new: getattr(score, name, None) for new, name in NEW_COLUMNS.items()}
