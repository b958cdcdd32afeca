"""Tuned: a finished student, found in a run or in a pack: where its weights lie, and how it is to be asked."""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, get_args

from rich.markup import escape

from teachwise.console import say
from teachwise.errors import DataError
from teachwise.recipe import Recipe, load_recipe
from teachwise.records import Example, Mode, Split
from teachwise.run_folder import RESOLVED, Run, Unit
from teachwise.sections import Evaluate
from teachwise.tasks import TASKS, Task, load_task

PACKED = "teachwise.json"
"""The file that makes a folder a pack."""
FORMAT = 1
"""Raised when the meaning of a field of `teachwise.json` changes."""
TOY = "toy"
"""The student that ships with the package."""
OPEN = "toy_open"
"""The task whose questions have no options: neither a table of them nor a card about them can be read or written."""


@dataclass(frozen=True)
class Tuned:
    """A tuned student and how it is to be asked.

    Attributes:
        engine: Flat options of `HfEngine`.
        mode: The mode that served it best on dev.
        threshold_nats: For `routed`: answer at once where the entropy of the first token is at most this.
        max_new_tokens: Most tokens of one chain of thought.
        batch_tokens: Tokens per batch, prompt and answer together.
        task: Name of the task that writes its prompts.
        columns: Columns of the table it was trained on, as far as the recipe names them.
        answer_is: How that table's answer column names the option.
        has_subject: Its questions had subjects, and these stand in the prompts.
        prompt_version: Of the task's prompts.
        key: Hash of all that led to it; two students with one key are the same.
        seen: The split of every question, by id, that was there to train it or to choose its threshold; None for a
            pack, which keeps no question.
    """

    engine: Mapping[str, Any]
    mode: Mode
    threshold_nats: float
    max_new_tokens: int
    batch_tokens: int
    task: str
    columns: Mapping[str, Any]
    answer_is: str
    has_subject: bool
    prompt_version: str
    key: str
    seen: Mapping[str, Split] | None = None


def engine_options(recipe: Recipe, run: Run, unit: Unit) -> dict[str, Any]:
    """`HfEngine`'s options for the student after an arm's last stage; the untouched one where the arm has none."""
    options = recipe.student.model_dump()
    n_stages = len(recipe.stages_of(unit.arm))
    if not n_stages:
        return options
    last = run.folder(unit.of("train")) / f"stage-{n_stages - 1}"
    if recipe.train.method == "lora":
        return {**options, "adapter": last}
    return {**options, "model": str(last), "revision": None}


def open_arm(root: str | Path, arm: str | None, seed: int | None) -> tuple[Recipe, Run, Unit]:
    """A finished arm of a run.

    Args:
        root: The run folder.
        arm: The arm; there is no default.
        seed: Training seed; None is the recipe's first, never the one that served best on test.

    Returns:
        The recipe, the run, and the arm's unit of `evaluate`.

    Raises:
        DataError: no such run, arm or seed, the arm is not evaluated yet, or the run's questions have no options.
    """
    run = Run(root)
    if not (run.root / RESOLVED).exists():
        raise DataError(
            f"{root}: is neither a run folder nor a pack (it has no {RESOLVED} and no {PACKED})",
            "name the folder that `teachwise run` or `teachwise pack` made",
        )
    recipe = load_recipe(run.root / RESOLVED)
    _refuse_open(root, recipe.data.task)
    if arm not in recipe.arms:
        found = "no arm is named" if arm is None else f"the run has no arm {arm!r}"
        raise DataError(f"{root}: {found}", "wanted --arm with one of: " + ", ".join(recipe.arms))
    seeds = recipe.seeds_of(arm)
    if seed is not None and seed not in seeds:
        raise DataError(f"{root}: arm {arm!r} has no seed {seed}", f"seeds: {', '.join(map(str, seeds))}")
    if seed is None and len(seeds) > 1:
        say(f"[dim]seed {seeds[0]}, the first of {', '.join(map(str, seeds))}; --seed takes another[/dim]")
    unit = Unit("evaluate", arm, seeds[0] if seed is None else seed)
    if run.manifest(unit) is None:
        raise DataError(f"{root}: {unit} is not finished", "carry the recipe on: `teachwise run RECIPE`")
    return recipe, run, unit


def tuned_in_run(recipe: Recipe, run: Run, unit: Unit, student: str | None = None) -> Tuned:
    """The tuned student of a finished arm; `student` is where the untuned one lies now, if an adapter goes on it."""
    options = engine_options(recipe, run, unit)
    if "adapter" not in options:
        _refuse_student(run.root, student)
    if student:
        options |= {"model": student, "revision": None}
    evaluation = run.json(unit, "evaluation.json")
    task = load_task(recipe.data.task, **recipe.data.task_options())
    examples = run.records(Unit("prepare"), "examples.parquet", Example)
    return Tuned(
        engine=options,
        mode=_chosen_mode(run, unit, evaluation["dev_accuracy"]),
        threshold_nats=evaluation["threshold_nats"],
        max_new_tokens=recipe.evaluate.max_new_tokens,
        batch_tokens=recipe.evaluate.batch_tokens,
        task=recipe.data.task,
        columns=recipe.data.columns.model_dump(exclude_none=True),
        answer_is=recipe.data.answer_is,
        has_subject=any(_shows_subject(task, example) for example in examples),
        prompt_version=task.prompt_version,
        key=(run.manifest(unit) or {})["key"],
        seen=_seen(examples, is_trained=bool(recipe.stages_of(unit.arm))),
    )


def _seen(examples: Sequence[Example], is_trained: bool) -> dict[str, Split]:
    """By id. A train question counts as seen whatever the arm gave it; an arm that trains nothing saw none of them."""
    splits = ("train", "dev") if is_trained else ("dev",)
    return {example.id: example.split for example in examples if example.split in splits}


def _shows_subject(task: Task, example: Example) -> bool:
    return task.messages(example, "direct") != task.messages(replace(example, subject=""), "direct")


def _chosen_mode(run: Run, unit: Unit, dev_accuracy: Mapping[str, float]) -> Mode:
    """The mode that `compare` chose over all seeds; while it has not, the best of this seed, the cheaper of equals."""
    if run.manifest(Unit("compare")):
        for arm in run.json(Unit("compare"), "comparison.json")["arms"].values():
            if arm["arm"] == unit.arm:
                chosen: Mode = arm["mode"]
                return chosen
    cheapest_first: tuple[Mode, ...] = ("direct", "routed", "cot")
    return max(cheapest_first, key=lambda mode: dev_accuracy[mode])


def is_pack(folder: str | Path) -> bool:
    """Whether `teachwise pack` made the folder."""
    return (Path(folder) / PACKED).is_file()


def tuned_in_pack(folder: str | Path, student: str | None = None) -> Tuned:
    """The tuned student of a pack. Code that comes with a model is never run from here.

    Args:
        folder: The pack.
        student: For an adapter: where the student lies that it goes on; None is the recorded hub name, or the folder
            of the recorded name in the working directory.

    Raises:
        DataError: the pack is of another format or damaged, or wants to be told where its student lies.
    """
    place = Path(folder) / PACKED
    try:
        content = json.loads(place.read_text(encoding="utf-8"))
        if content["format"] != FORMAT:
            raise DataError(f"{place}: format {content['format']}, wanted {FORMAT}", "pack the run again")
        fields = {name: content[name] for name in PACKED_FIELDS}
        options = _options_in_pack(Path(folder), content["student"], content["weights"], student)
        numbers = float(fields["threshold_nats"]), int(fields["max_new_tokens"]), dict(fields["columns"])
        fields |= dict(zip(("threshold_nats", "max_new_tokens", "columns"), numbers, strict=True))
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"{place}: is damaged ({type(error).__name__}: {error})", "pack the run again") from error
    if fields["mode"] not in get_args(Mode) or fields["task"] not in TASKS:
        raise DataError(
            f"{place}: mode {fields['mode']!r} or task {fields['task']!r} is unknown",
            "pack the run again, or bring teachwise up to date",
        )
    _refuse_open(folder, fields["task"])
    return Tuned(engine=options, batch_tokens=Evaluate().batch_tokens, **fields)


PACKED_FIELDS = (
    *("mode", "threshold_nats", "max_new_tokens", "task", "columns", "answer_is"),
    *("has_subject", "prompt_version", "key"),
)
"""Fields of `Tuned` that stand in a pack under their own names."""


def _options_in_pack(
    folder: Path, packed: Mapping[str, Any], weights: str, student: str | None
) -> dict[str, str | Path | None]:
    if weights == "whole":
        _refuse_student(folder, student)
        return {"model": str(folder), "dtype": packed["dtype"]}
    if not student and packed["is_folder"]:
        student = _folder_here(folder, packed["model"])
    return {
        "model": student or packed["model"],
        "revision": None if student else packed["revision"],
        "dtype": packed["dtype"],
        "adapter": folder,
    }


def _folder_here(pack: Path, name: str) -> str:
    """The folder of an adapter's student, where PEFT looks for it too: in the working directory."""
    if not Path(name).is_dir():
        raise DataError(
            f"{pack}: is an adapter for a student that was a folder called {name!r}, and none is in this directory",
            "say where it lies with --student DIR, or pack the run with --merge",
        )
    say(f"[dim]student: the folder {escape(name)} in this directory; --student takes another[/dim]")
    return name


def _refuse_student(source: str | Path, student: str | None) -> None:
    """Where the whole model was tuned, there is no student that could lie elsewhere."""
    if student:
        raise DataError(
            f"{source}: holds no adapter, so --student {student} would do nothing",
            "leave --student out; it says where the student lies that an adapter goes on",
        )


def _refuse_open(source: str | Path, task: str) -> None:
    if task == OPEN:
        raise DataError(
            f"{source}: its questions are open (task {OPEN!r}), and pack and answer know multiple choice only",
            "use a run whose questions have options; of the toy's:  data: {task: toy}",
        )


def find_tuned(source: str | Path, arm: str | None, seed: int | None, student: str | None) -> Tuned:
    """The tuned student in a run or a pack.

    Args:
        source: A run folder or a pack.
        arm: The arm of a run.
        seed: Training seed of a run; None is the first.
        student: For an adapter: where the student lies that it goes on, if not where the recipe says.

    Raises:
        DataError: it is neither, or what is asked of it is not there.
    """
    if not is_pack(source):
        return tuned_in_run(*open_arm(source, arm, seed), student)
    if arm is not None or seed is not None:
        raise DataError(f"{source}: is a pack, which holds one arm and seed", "leave --arm and --seed out")
    return tuned_in_pack(source, student)


def public_student(model: str) -> tuple[str, bool]:
    """A student's name without any path, and whether it was a folder.

    Example:
        >>> public_student("Qwen/Qwen2.5-0.5B-Instruct"), public_student("/home/ann/models/mine/")
        (('Qwen/Qwen2.5-0.5B-Instruct', False), ('mine', True))
    """
    is_name = model == TOY or (re.fullmatch(r"[A-Za-z0-9][\w.-]*(/[\w.-]+)?", model) and not Path(model).is_dir())
    return (model, False) if is_name else (Path(model).resolve().name, True)
