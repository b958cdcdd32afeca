"""Train: fine-tune the student on what an arm was given, stage after stage on the same weights.

in   prepare/examples.parquet                            Example
in   route/ARM/seed-S/round-R/assignments.parquet        Assignment
in   teach/ARM/seed-S/round-R/rationales.parquet         Rationale
out  train/ARM/seed-S/round-R/stage-N/                   adapter or whole model, tokenizer, stage.json
out  train/ARM/seed-S/round-R/stage-N.doctor.json        what was looked at before the stage's first update
out  train/ARM/seed-S/round-R/skipped.parquet            Skipped: rows not trained on, with the reason
"""

import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.markup import escape

from teachwise.console import progress, say
from teachwise.errors import DataError, damaged
from teachwise.lessons import Lesson, Skipped, lessons_of
from teachwise.recipe import Recipe
from teachwise.records import Assignment, Example, Rationale, by_id
from teachwise.run_folder import Run, Unit, write_json, write_records
from teachwise.sections import Stage, Train
from teachwise.tasks import Task, load_task

if TYPE_CHECKING:  # it loads torch and TRL, and the untouched student needs neither
    from teachwise.doctor import Diagnosis
    from teachwise.trainer import Ready, Row, Settings


def encoded(
    lessons: Sequence[Lesson], examples: Mapping[str, Example], task: Task, chat: Any, stage: int, max_length: int
) -> "tuple[list[Row], list[Skipped]]":
    """Lessons as token ids; one that is too long is left out, never cut: its end is where the answer stands."""
    from teachwise.trainer import Row

    prompts = chat.prompt_ids([task.messages(examples[one.id], one.mode) for one in lessons])
    completions = chat.completion_ids([one.completion for one in lessons])
    rows = [Row(prompt, completion) for prompt, completion in zip(prompts, completions, strict=True)]
    fits = [row.length <= max_length for row in rows]
    too_long = [
        Skipped(one.id, stage, f"{row.length:,} tokens, more than train.max_length")
        for one, row, fit in zip(lessons, rows, fits, strict=True)
        if not fit
    ]
    return [row for row, fit in zip(rows, fits, strict=True) if fit], too_long


def train_arm(recipe: Recipe, run: Run, unit: Unit) -> dict[str, Any]:
    """Train one arm with one seed; return updates, tokens and skipped rows."""
    stages = recipe.stages_of(unit.arm)
    assignments = run.records(unit.of("route"), "assignments.parquet", Assignment)
    examples = by_id(run.records(Unit("prepare"), "examples.parquet", Example))
    rationales = by_id(run.records(unit.of("teach"), "rationales.parquet", Rationale))
    task = load_task(recipe.data.task, **recipe.data.task_options())
    folder, start = run.folder(unit), None
    results: list[dict[str, Any]] = []
    skipped: list[Skipped] = []
    for number, stage in enumerate(stages):
        lessons, rejected = lessons_of(assignments, number, examples, rationales, recipe.on_rejected)
        rows, too_long = encoded_for(recipe, lessons, examples, task, number)
        skipped += rejected + too_long
        n_assigned = sum(one.stage == number for one in assignments)
        out = folder / f"stage-{number}"
        place, kept = f"train: {unit.arm}, {out.name}", without(lessons, too_long)
        doctor = partial(_look, out, partial(diagnosis, recipe, place, kept, rows, examples, task, start))
        results.append(_trained(recipe, unit, stage, rows, n_assigned, start, out, doctor))
        start = out
    write_records(folder / "skipped.parquet", Skipped, skipped)
    return {
        "stages": len(stages),
        "rows": sum(result["rows"] for result in results),
        "skipped": len(skipped),
        "updates": sum(result["updates"] for result in results),
        "trained_tokens": sum(result["trained_tokens"] for result in results),
    }


def encoded_for(
    recipe: Recipe, lessons: Sequence[Lesson], examples: Mapping[str, Example], task: Task, stage: int
) -> "tuple[list[Row], list[Skipped]]":
    """`encoded` for the recipe's student."""
    if not lessons:
        return [], []
    from teachwise.engines.hf import load_chat

    student = recipe.student
    chat = load_chat(student.model, student.revision, student.trust_remote_code)
    return encoded(lessons, examples, task, chat, stage, recipe.train.max_length)


def without(lessons: Sequence[Lesson], skipped: Sequence[Skipped]) -> list[Lesson]:
    """The lessons that were not skipped, in order."""
    gone = {one.id for one in skipped}
    return [one for one in lessons if one.id not in gone]


def diagnosis(
    recipe: Recipe,
    place: str,
    lessons: Sequence[Lesson],
    rows: "Sequence[Row]",
    examples: Mapping[str, Example],
    task: Task,
    start: Path | None,
    ready: "Ready",
) -> "Diagnosis":
    """Look at a stage before its first update.

    Args:
        recipe: The recipe.
        place: The stage, in messages.
        lessons: Of the stage, in order, those that were too long left out.
        rows: The same as token ids.
        examples: By id.
        task: Writes prompts and reads answers.
        start: The stage before, or None.
        ready: What the trainer has.
    """
    from teachwise.doctor import Diagnosis, Rendered, chosen, examine, examine_stage, marked, typed_marks
    from teachwise.engines.hf import load_chat

    student = recipe.student
    chat = load_chat(student.model, student.revision, student.trust_remote_code)
    if start and recipe.train.method == "full":
        chat = load_chat(str(start))  # a whole model is served with the tokenizer that lies beside it
    numbers = chosen([row.length for row in rows])
    asked = chat.prompt_ids([task.messages(examples[lessons[n].id], lessons[n].mode) for n in numbers])
    looked_at = [
        Rendered(examples[lessons[n].id], lessons[n].mode, ids, labels, prompt)
        for n, (ids, labels), prompt in zip(numbers, ready.feed(numbers), asked, strict=True)
    ]
    findings = examine(looked_at, chat, task)
    findings += examine_stage(ready.trainable, ready.rows_per_update, recipe.train.batch_size, ready.reload)
    texts = {one.id: _texts(one, examples[one.id], task) for one in lessons}
    firsts = {one.mode: one for one in reversed(looked_at)}
    shown = {str(mode): marked(firsts[mode].ids, firsts[mode].labels, chat) for mode in sorted(firsts, reverse=True)}
    return Diagnosis(place, len(rows), findings, typed_marks(texts, chat), shown)


def _texts(lesson: Lesson, example: Example, task: Task) -> str:
    return "\n".join([*(message["content"] for message in task.messages(example, lesson.mode)), lesson.completion])


def _look(out: Path, diagnose: "Callable[[Ready], Diagnosis]", ready: "Ready") -> None:
    """Let the doctor look, keep what it saw beside the stage, and stop where something is wrong."""
    found = diagnose(ready)
    write_json(out.with_name(f"{out.name}.doctor.json"), asdict(found))
    if warning := found.warning():
        say(f"[yellow]warning[/yellow] {escape(warning)}")
    found.refuse()


def _trained(
    recipe: Recipe,
    unit: Unit,
    stage: Stage,
    rows: "Sequence[Row]",
    n_assigned: int,
    start: Path | None,
    out: Path,
    doctor: "Callable[[Ready], None]",
) -> dict[str, Any]:
    """The stage's result; trained now, unless an earlier start of this unit finished the stage."""
    result = out / "stage.json"
    if not result.exists():
        if not rows:
            raise DataError(
                f"train: {unit.arm}, {out.name}: no row is left to train on ({n_assigned:,} were assigned)",
                "skipped rows: too long for train.max_length, or their rationales were rejected (see teach/)",
            )
        from teachwise.trainer import train_stage

        settings = settings_of(recipe.train, stage, n_assigned, unit.seed)
        with progress(f"training {unit.arm}, {out.name}", total=settings.updates) as bar:
            train_stage(recipe.student.model_dump(), start, rows, out, settings, bar.at, doctor)
    shutil.rmtree(out.with_name(out.name + ".work"), ignore_errors=True)  # left by a kill after the last rename
    try:
        content: dict[str, Any] = json.loads(result.read_text(encoding="utf-8"))
    except ValueError as error:
        raise damaged(result, error) from error
    return content


def settings_of(train: Train, stage: Stage, n_assigned: int, seed: int) -> "Settings":
    """How a stage is trained."""
    from teachwise.trainer import Lora, Settings, updates_for

    updates = updates_for(n_assigned, train.batch_size, stage.epochs or train.epochs)
    lora = Lora(train.lora_r, train.lora_alpha, train.lora_dropout) if train.method == "lora" else None
    return Settings(
        lora=lora,
        updates=updates,
        learning_rate=stage.learning_rate or train.learning_rate,
        schedule=train.schedule,
        warmup_updates=round(train.warmup_share * updates),
        weight_decay=train.weight_decay,
        batch_size=train.batch_size,
        micro_batch_size=train.micro_batch_size or train.batch_size,
        gradient_checkpointing=train.gradient_checkpointing,
        save_every=train.save_every,
        seed=seed,
    )
