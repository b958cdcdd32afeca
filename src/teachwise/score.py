"""Score: how unsure is the student on every example, before a single rationale is bought?

in   prepare/examples.parquet   Example
out  score/scores.parquet       Score: one row per example of every split
"""

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from teachwise.console import say
from teachwise.engines import length_batches
from teachwise.errors import DataError
from teachwise.recipe import Recipe
from teachwise.records import Example, Score, Unusable, by_id
from teachwise.run_folder import Run, Unit, content_hash, in_parts, write_records
from teachwise.tasks import Row, Task, load_task
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


def student_scores(
    examples: Sequence[Example], engine: Any, task: Task, batch_tokens: int, folder: Path
) -> list[Score]:
    """Answer entropy of every example, batch by batch.

    Args:
        examples: N examples.
        engine: An `HfEngine`.
        task: The task that writes the prompts.
        batch_tokens: Tokens per forward pass, padding included.
        folder: Where finished batches are kept until the job is done.

    Returns:
        N scores, in the order of `examples`.
    """
    prompts = engine.chat.prompt_ids([task.messages(example, "direct") for example in examples])
    for letters in {example.letters for example in examples}:
        engine.chat.letter_ids(letters)

    def score(batch: Sequence[int]) -> list[Score]:
        found = engine.answer_scores([prompts[i] for i in batch], [examples[i].letters for i in batch])
        return [
            _score(examples[i], one, len(prompts[i]), task.read_answer(examples[i], one.token))
            for i, one in zip(batch, found, strict=True)
        ]

    batches = length_batches([len(prompt) for prompt in prompts], batch_tokens)
    rows = in_parts(folder, Score, batches, score, "scoring")
    _warn_unreadable(rows)
    order = {example.id: place for place, example in enumerate(examples)}
    return sorted(rows, key=lambda row: order[row.id])


def _warn_unreadable(scores: Sequence[Score]) -> None:
    """Say so when the student often begins its answer with something else than a letter."""
    unreadable = [score for score in scores if score.predicted is None]
    if len(unreadable) > MOST_UNREADABLE * len(scores):
        mass = sum(score.option_mass or 0.0 for score in scores) / len(scores)
        say(
            f"[yellow]warning[/yellow] score: {len(unreadable):,} of {len(scores):,} answers begin with no option"
            f" letter (mean mass on the letters {mass:.2f}); they count as wrong, and their entropy may say little"
        )
    if len(unreadable) > HOPELESS * len(scores):
        say(
            "[bold red]WARNING[/bold red] score: this student hardly ever answers with a letter, so its scores choose"
            " no better than chance and its accuracy means nothing; before anything is bought: take an instruct or chat"
            " model (a base model continues a question instead of answering it), or see that its chat template is there"
        )


def _score(example: Example, found: Any, prompt_tokens: int, predicted: str | None) -> Score:
    options = found.option_probabilities
    return Score(
        id=example.id,
        measure="answer_entropy",
        value=found.entropy_nats,
        predicted=predicted,
        correct=predicted == example.answer,
        gold_probability=options[example.letters.index(example.answer)] if options else None,
        option_mass=sum(options) if options else None,
        prompt_tokens=prompt_tokens,
    )


def score_examples(recipe: Recipe, run: Run, unit: Unit) -> dict[str, Any]:
    """Score every example of every split; return counts and the base accuracy on train rows."""
    examples = run.records(Unit("prepare"), "examples.parquet", Example)
    folder = run.folder(unit)
    if recipe.score.measure == "column":
        scores = table_scores(recipe, examples)
    else:
        scores = _from_student(recipe, examples, folder)
    write_records(folder / "scores.parquet", Score, scores)
    train = [score for example, score in zip(examples, scores, strict=True) if example.split == "train"]
    return {
        "scored": len(scores),
        "train_accuracy": round(sum(score.correct for score in train) / len(train), 4),
        "unreadable": sum(score.predicted is None for score in scores) if recipe.score.measure != "column" else 0,
    }


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


def _from_student(recipe: Recipe, examples: Sequence[Example], folder: Path) -> list[Score]:
    from teachwise.engines.hf import HfEngine

    engine = HfEngine(**recipe.student.model_dump())
    task = load_task(recipe.data.task, **recipe.data.task_options())
    return student_scores(examples, engine, task, recipe.score.batch_tokens, folder)


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
    scores = by_id(student_scores(examples, HfEngine(student), task, 16_384, work))
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
