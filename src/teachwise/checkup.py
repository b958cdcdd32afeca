"""Checkup: the doctor asked for a recipe, before anything is scored or bought, or for a run."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from teachwise.doctor import Diagnosis, Finding, examine_reload
from teachwise.errors import DataError
from teachwise.lessons import Lesson, lessons_of
from teachwise.pipeline import run_recipe
from teachwise.recipe import Recipe, load_recipe
from teachwise.records import Assignment, Example, Rationale, by_id
from teachwise.run_folder import RESOLVED, Run, Unit
from teachwise.sections import Stage
from teachwise.tasks import Task, load_task
from teachwise.train import diagnosis, encoded_for, settings_of, without
from teachwise.trainer import load_reload, ready_stage

STAND_IN = "[[ {answer} ]]"
"""In place of a rationale that is not bought yet: the form that every task reads its final answer from."""


def check_up(source: str | Path, overrides: Sequence[str] = ()) -> Iterator[Diagnosis]:
    """Look at what would be trained on; nothing is trained, bought or written.

    Args:
        source: A recipe, or a run folder. A recipe's questions are prepared in a folder that is thrown away. A run is
            looked at arm by arm, with its first training seed and its own rationales.
        overrides: Recipe fields to change, for a recipe.

    Yields:
        One diagnosis per stage; one for all, with stand-ins for the rationales, where nothing is taught yet.

    Raises:
        DataError: a run that is not prepared, or fields to change in a run.
    """
    if not (Path(source) / RESOLVED).is_file():
        recipe = load_recipe(source, overrides)
        with TemporaryDirectory() as folder:
            yield from _untaught(recipe, run_recipe(recipe, folder, until="prepare"), str(source))
        return
    if overrides:
        raise DataError(f"{source}: KEY=VALUE cannot be used with a run", "give the recipe, or leave them out")
    recipe, run = load_recipe(Path(source) / RESOLVED), Run(source)
    units = [Unit("train", arm, recipe.seeds_of(arm)[0]) for arm in recipe.arms if recipe.stages_of(arm)]
    taught = [unit for unit in units if run.manifest(unit.of("teach")) and run.manifest(unit.of("route"))]
    for unit in taught:
        yield from _taught(recipe, run, unit)
    if not taught:
        yield from _untaught(recipe, run, str(source))


def _untaught(recipe: Recipe, run: Run, place: str) -> Iterator[Diagnosis]:
    """Half of the train questions with their answer, half with a stand-in, if the arms give both."""
    examples = [one for one in run.records(Unit("prepare"), "examples.parquet", Example) if one.split == "train"]
    gives = sorted({give for arm in recipe.arms for stage in recipe.stages_of(arm) for give in stage.gives.values()})
    if not gives or not examples:
        raise DataError(f"{place}: no arm trains the student", "name an arm with policy all, bands or random")
    lessons = [
        Lesson(one.id, "direct", one.answer)
        if gives[number % len(gives)] == "answer"
        else Lesson(one.id, "cot", STAND_IN.format(answer=one.answer))
        for number, one in enumerate(examples)
    ]
    task = load_task(recipe.data.task, **recipe.data.task_options())
    told = f"{place}, stand-ins for rationales" if "rationale" in gives else place
    yield _diagnosis(recipe, told, lessons, by_id(examples), task, 0, Stage(all=gives[0]), None)


def _taught(recipe: Recipe, run: Run, unit: Unit) -> Iterator[Diagnosis]:
    examples = by_id(run.records(Unit("prepare"), "examples.parquet", Example))
    assignments = run.records(unit.of("route"), "assignments.parquet", Assignment)
    rationales = by_id(run.records(unit.of("teach"), "rationales.parquet", Rationale))
    task = load_task(recipe.data.task, **recipe.data.task_options())
    start = None
    for number, stage in enumerate(recipe.stages_of(unit.arm)):
        lessons, _ = lessons_of(assignments, number, examples, rationales, recipe.on_rejected)
        out = run.folder(unit) / f"stage-{number}"
        yield _diagnosis(recipe, f"{unit.arm}, {out.name}", lessons, examples, task, number, stage, start)
        start = out if (out / "stage.json").exists() else None
    if start:
        settings = settings_of(recipe.train, Stage(all="answer"), 1, unit.seed)
        found: Finding = examine_reload(load_reload(recipe.student.model_dump(), start, settings))
        yield Diagnosis(f"{unit.arm}, {start.name} as it was saved", 0, [found], {}, {})


def _diagnosis(
    recipe: Recipe,
    place: str,
    lessons: Sequence[Lesson],
    examples: Mapping[str, Example],
    task: Task,
    number: int,
    stage: Stage,
    start: Path | None,
) -> Diagnosis:
    rows, too_long = encoded_for(recipe, lessons, examples, task, number)
    if not rows:
        raise DataError(f"{place}: no row is left to train on", "rationales were rejected, or train.max_length is low")
    settings = settings_of(recipe.train, stage, len(rows), recipe.seeds[0])
    student: dict[str, Any] = recipe.student.model_dump()
    ready = ready_stage(student, start, rows, settings)
    return diagnosis(recipe, place, without(lessons, too_long), rows, examples, task, start, ready)
