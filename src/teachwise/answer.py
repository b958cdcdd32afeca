"""Answer: put new questions to a tuned student, in the mode that dev chose for it.

in   RUN or PACK        the tuned student, how it is to be asked
in   TABLE              questions with their options; gold answers are welcome, not needed
out  OUT                every row of the table, in its order, with the student's answer and how it came about
"""

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, get_args

from teachwise.answering import answer_directly, answer_thinking, thinks
from teachwise.console import say
from teachwise.errors import DataError, StudentError
from teachwise.records import Example, Mode, Prediction, Unusable, by_id
from teachwise.run_folder import content_hash
from teachwise.stats import wilson
from teachwise.tasks import Row, Task, load_task
from teachwise.tasks.questions import question_columns, read_questions
from teachwise.tasks.table import Cells, column_names, read_table, write_table
from teachwise.tuned import Tuned, find_tuned

NEW_COLUMNS = (
    "student_answer",
    "student_answer_text",
    "student_mode",
    "answer_entropy",
    "student_text",
    "student_correct",
    "unreadable",
    "unusable",
)
"""What `answer_table` adds to a table; `student_correct` only where gold answers could be read."""
SUFFIXES = (".jsonl", ".csv", ".tsv", ".parquet")


def answer_questions(
    examples: Sequence[Example], engine: Any, task: Task, tuned: Tuned, mode: Mode, folder: Path
) -> list[Prediction]:
    """Answer every example in a mode, thinking only where the mode says so.

    Args:
        examples: N examples with distinct ids.
        engine: An `HfEngine`.
        task: The task that writes the prompts.
        tuned: Threshold and token limits.
        mode: How the student is asked.
        folder: Where finished batches are kept until the job is done.

    Returns:
        N predictions in the order of `examples`; each one's mode is `direct` or `cot`, whichever answered.
    """
    direct = answer_directly(examples, engine, task, tuned.batch_tokens, folder)
    hard = [n for n, row in enumerate(direct) if thinks(mode, row.score, tuned.threshold_nats)]
    scores = [direct[n].score for n in hard]
    limits = (tuned.max_new_tokens, tuned.batch_tokens)
    thought = by_id(answer_thinking([examples[n] for n in hard], scores, engine, task, *limits, folder))
    return [thought.get(row.id, row) for row in direct]


def unreadable(prediction: Prediction, max_new_tokens: int) -> str | None:
    """Why no letter could be read from an answer; None where one was."""
    if prediction.stated is not None:
        return None
    if prediction.mode == "direct":
        return "the first token is no option letter"
    if prediction.generated_tokens >= max_new_tokens:
        return f"no option letter is stated within {max_new_tokens:,} tokens"
    return "the text states no option letter"


def answer_columns(row: Row | Unusable, prediction: Prediction | None, max_new_tokens: int) -> dict[str, Any]:
    """The new cells of one row; empty where it could not be asked."""
    if isinstance(row, Unusable) or prediction is None:
        return {**dict.fromkeys(NEW_COLUMNS), "unusable": row.reason if isinstance(row, Unusable) else None}
    options = dict(zip(row.example("test").letters, row.options, strict=True))
    return {
        "student_answer": prediction.stated,
        "student_answer_text": options.get(prediction.stated or ""),
        "student_mode": prediction.mode,
        "answer_entropy": prediction.score,
        "student_text": prediction.text,
        "student_correct": prediction.stated == row.answer if row.answer else None,
        "unreadable": unreadable(prediction, max_new_tokens),
        "unusable": None,
    }


def answer_table(
    source: str | Path,
    table: str,
    out: Path,
    arm: str | None = None,
    seed: int | None = None,
    mode: str | None = None,
    student: str | None = None,
) -> dict[str, Any]:
    """Answer every usable row of a table. A killed job goes on where it was when the same is asked again.

    Args:
        source: A run folder, or a pack.
        table: The questions: a file as for `teachwise score`, or a hub name.
        out: Where to write; the suffix says how.
        arm: The arm, for a run.
        seed: Training seed, for a run; None is the first.
        mode: direct, cot or routed; None is the one that dev chose.
        student: For an adapter: where the student lies that it goes on, if not where the recipe says.

    Returns:
        Counts: `rows`, `answered`, `direct`, `cot`, `unreadable`, `unusable`; the `mode`; and of the answered rows
        with a gold answer: how many are `judged`, how many of these the run had to train on (`trained_on`) or to
        choose the threshold (`chose_threshold`; both None for a pack, which keeps no question), and `accuracy`, an
        interval over all others, None where there are none. `no_gold` is the reason where none is judged.

    Raises:
        DataError: run, pack, table or a name in the command cannot be used. Nothing is written then.
    """
    if out.suffix not in SUFFIXES:
        raise DataError(f"{out}: unknown kind {out.suffix!r} to write", f"use {', '.join(SUFFIXES)}")
    if mode is not None and mode not in get_args(Mode):
        raise DataError(f"--mode {mode}: unknown", f"modes: {', '.join(get_args(Mode))}")
    tuned = find_tuned(source, arm, seed, student)
    cells = read_table(table)
    _check_new_columns(cells, table, out)
    task = _task(tuned, source, table)
    rows, no_gold = _questions(cells, tuned, task, table)
    asked: Mode = mode or tuned.mode  # type: ignore[assignment]
    work = out.parent / f".teachwise-answer-{_job(tuned, rows)}"
    rows, found = _answered(rows, tuned, task, asked, work)
    new = [answer_columns(row, found.get(str(row.row)), tuned.max_new_tokens) for row in rows]
    has_gold = any(one["student_correct"] is not None for one in new)
    kept = [name for name in NEW_COLUMNS if has_gold or name != "student_correct"]
    write_table(out, [{**old, **{name: one[name] for name in kept}} for old, one in zip(cells, new, strict=True)])
    shutil.rmtree(work, ignore_errors=True)
    judged = _judged(rows, new, tuned)
    no_gold = "" if has_gold else no_gold or "no row has a gold answer that fits"
    return {"mode": asked, **_counts(new), **judged, "no_gold": no_gold}


def _check_new_columns(cells: Sequence[Cells], table: str, out: Path) -> None:
    if Path(table).exists() and out.resolve() == Path(table).resolve():
        raise DataError(f"{out}: is the table itself, wanted another file to write", "choose another --out")
    if taken := [name for name in NEW_COLUMNS if name in column_names(cells)]:
        raise DataError(f"{table}: has a column {taken[0]!r} already", "it was answered or scored before; or rename it")


def _task(tuned: Tuned, source: str | Path, table: str) -> Task:
    """The task that writes the prompts; they must be those that the student was trained with."""
    task = load_task(tuned.task, source=table, columns=tuned.columns, answer_is=tuned.answer_is)
    if task.prompt_version != tuned.prompt_version:
        raise DataError(
            f"{source}: was trained with prompts {tuned.prompt_version!r}, and this version asks with "
            f"{task.prompt_version!r}",
            "answer with the version of teachwise that packed it (see its teachwise.json), or train anew",
        )
    return task


def _questions(cells: Sequence[Cells], tuned: Tuned, task: Task, table: str) -> tuple[list[Row | Unusable], str]:
    columns = question_columns(cells, tuned.columns, table)
    if tuned.has_subject and "subject" not in columns:
        say("[yellow]warning[/yellow] answer: the student was trained with subjects, but the table has none")
    return read_questions(cells, columns, getattr(task, "answer_is", tuned.answer_is), table)


def _job(tuned: Tuned, rows: Sequence[Row | Unusable]) -> str:
    """What tells a job from every other: the student, how long it may think, and what it is asked.

    The mode is not in it. Thinking is for the highest scores, so as many questions are the same questions.
    """
    student = [tuned.key, {name: str(value) for name, value in tuned.engine.items()}, tuned.prompt_version]
    asked = [[row.row, row.question, row.options, row.subject] for row in rows if isinstance(row, Row)]
    return content_hash(json.dumps([student, tuned.max_new_tokens, asked], ensure_ascii=False, sort_keys=True))


def _answered(
    rows: Sequence[Row | Unusable], tuned: Tuned, task: Task, mode: Mode, work: Path
) -> tuple[list[Row | Unusable], dict[str, Prediction]]:
    """The rows, those set apart whose letters the student does not know; and the predictions by row number."""
    from teachwise.engines.hf import HfEngine

    engine = HfEngine(**tuned.engine)
    rows = [_known_letters(row, engine.chat) for row in rows]
    # Named by row number: a question that stands in two rows, with two subjects, is asked twice.
    examples = [replace(row.example("test"), id=str(row.row)) for row in rows if isinstance(row, Row)]
    return rows, by_id(answer_questions(examples, engine, task, tuned, mode, work))


def _known_letters(row: Row | Unusable, chat: Any) -> Row | Unusable:
    if isinstance(row, Unusable):
        return row
    try:
        chat.letter_ids(row.example("test").letters)
    except StudentError as error:
        return Unusable(row.row, error.found, row.question)
    return row


def _counts(new: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    return {
        "rows": len(new),
        "answered": sum(one["student_mode"] is not None for one in new),
        "direct": sum(one["student_mode"] == "direct" for one in new),
        "cot": sum(one["student_mode"] == "cot" for one in new),
        "unreadable": sum(one["unreadable"] is not None for one in new),
        "unusable": sum(one["unusable"] is not None for one in new),
    }


def _judged(rows: Sequence[Row | Unusable], new: Sequence[Mapping[str, Any]], tuned: Tuned) -> dict[str, Any]:
    """How often the student is right on questions that were not there when it was made; and how many of them were."""
    right = [
        ((tuned.seen or {}).get(row.id), one["student_correct"])
        for row, one in zip(rows, new, strict=True)
        if isinstance(row, Row) and one["student_correct"] is not None
    ]
    unseen = [is_right for split, is_right in right if split is None]
    known = tuned.seen is not None
    return {
        "judged": len(right),
        "trained_on": sum(split == "train" for split, _ in right) if known else None,
        "chose_threshold": sum(split == "dev" for split, _ in right) if known else None,
        "accuracy": asdict(wilson(sum(unseen), len(unseen))) if unseen else None,
    }


def told(counts: Mapping[str, Any]) -> str:
    """What `answer_table` returns, in one line.

    Example:
        >>> told({"answered": 3, "direct": 2, "cot": 1, "unreadable": 0, "unusable": 1, "accuracy": None,
        ...       "no_gold": "the table has no answer column"})
        '3 answered: 2 at once, 1 thinking; 0 unreadable; 1 row unusable; no accuracy: the table has no answer column'
    """
    rows = "row" if counts["unusable"] == 1 else "rows"
    line = (
        f"{counts['answered']:,} answered: {counts['direct']:,} at once, {counts['cot']:,} thinking; "
        f"{counts['unreadable']:,} unreadable; {counts['unusable']:,} {rows} unusable"
    )
    return f"{line}; {_told_accuracy(counts)}"


def _told_accuracy(counts: Mapping[str, Any]) -> str:
    own = counts["accuracy"]
    if counts["no_gold"]:
        return f"no accuracy: {counts['no_gold']}"
    seen = _told_seen(counts)
    if own is None:
        return f"no accuracy: {seen}, and no other has a gold answer"
    span = f"{own['value']:.1%} ({own['low']:.1%} to {own['high']:.1%}, n={own['n']:,})"
    if counts["trained_on"] is None:
        return f"accuracy {span}; which of these it was trained on, a pack cannot tell: ask the run"
    return f"{seen}; accuracy on the other {own['n']:,}: {span}" if seen else f"accuracy {span}"


def _told_seen(counts: Mapping[str, Any]) -> str:
    """Which of the judged questions were there when the student was made; "" where none was."""
    found = {"to train on": counts["trained_on"], "to choose the threshold": counts["chose_threshold"]}
    parts = [f"{n:,} {what}" for what, n in found.items() if n]
    if not parts:
        return ""
    number, _, what = parts[0].partition(" ")
    be = "was" if number == "1" else "were"
    return " and ".join([f"{number} of these {counts['judged']:,} {be} there {what}", *parts[1:]])
