"""Check: look at all that a recipe names before it is started: its table, its models' folders, the teacher's key.

Nothing is loaded, sent or fetched, so this takes a second; what lies on the hub is not opened.
"""

import os

from teachwise.engines import find_model
from teachwise.guard import in_words
from teachwise.prepare import read_source
from teachwise.recipe import Recipe
from teachwise.score import table_scores
from teachwise.tasks import load_task
from teachwise.tasks.table import is_hub_name
from teachwise.teacher.engine import check_key


def look_over(recipe: Recipe) -> list[str]:
    """What a run would meet first, as lines to print.

    Raises:
        StudentError: a model's folder is not there.
        DataError: the table cannot be read or split; in the words of `prepare` and `score`.
        TeacherError: the key holds what no key holds. One that is not set yet is a line to print.
    """
    for model in filter(None, (recipe.student.model, recipe.score.proxy)):
        find_model(model)
    if recipe.teacher.engine == "hf":
        find_model(recipe.teacher.model)
    return [f"ok: {_questions(recipe)}", *_key_note(recipe)]


def _questions(recipe: Recipe) -> str:
    data = recipe.data
    source = getattr(load_task(data.task, **data.task_options()), "source", None)
    if source and is_hub_name(source):
        return f"every field; {source} is on the hub and was not opened, `teachwise prepare` does that"
    found = read_source(data)
    if recipe.score.measure == "column":
        table_scores(recipe, found.examples)
    sizes = ", ".join(f"{found.counts[split]:,} {split}" for split in ("train", "dev", "test"))
    done = {"drop": "left out", "fail": "a run would stop", "warn": "kept"}[data.on_contamination]
    copied = f"; {in_words(found.hits)}: {done}" if found.hits else ""
    return f"{sizes} questions{copied}"


def _key_note(recipe: Recipe) -> list[str]:
    name = recipe.teacher.key_env
    if not any("rationale" in stage.gives.values() for arm in recipe.arms for stage in recipe.stages_of(arm)):
        return []
    if name and not os.environ.get(name):
        return [f"note: {name} is not set yet; route needs no key, teach does"]
    check_key(name)
    return []
