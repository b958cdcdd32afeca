"""Steps: what each verb of the pipeline needs, and the key of every unit of work.

Each step is a function `(recipe, run, unit) -> counts` that reads files, writes files and knows no other step. Here
stands what each one needs and which recipe sections its result depends on; from that follows the key of every unit,
and from the key what is done already.
"""

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from teachwise.engines import weights_digest
from teachwise.errors import DataError
from teachwise.measures import code_digest
from teachwise.policies import FOLLOW_SCORES
from teachwise.recipe import Recipe
from teachwise.run_folder import Run, Unit, content_hash, unit_key
from teachwise.tasks import load_task


@dataclass(frozen=True)
class Step:
    """One verb of the pipeline.

    Attributes:
        name: The verb; also its module, command, recipe section, folder and doc page.
        needs: Steps whose results it reads.
        reads: Recipe sections its result depends on; `arm` is the section of the arm at work.
        do: `module:function` with the signature `(recipe, run, unit) -> counts`.
        per_arm: Done for every arm and seed, not once.
    """

    name: str
    needs: tuple[str, ...]
    reads: tuple[str, ...]
    do: str
    per_arm: bool = False


STEPS = (
    Step("prepare", (), ("data",), "teachwise.prepare:prepare_examples"),
    Step("score", ("prepare",), ("student", "score"), "teachwise.score:score_examples"),
    Step("validate", ("prepare", "score"), ("validate",), "teachwise.validate:validate_scores"),
    Step("route", ("prepare", "score"), ("arm",), "teachwise.route:route_arm", per_arm=True),
    Step("teach", ("prepare", "route"), ("teacher", "keep"), "teachwise.teach:teach_arm", per_arm=True),
    Step("train", ("route", "teach"), ("student", "train", "on_rejected"), "teachwise.train:train_arm", per_arm=True),
    Step("evaluate", ("prepare", "train"), ("evaluate",), "teachwise.evaluate:evaluate_arm", per_arm=True),
    Step(
        "compare",
        ("score", "route", "teach", "train", "evaluate"),
        ("arms", "seeds", "budget", "min_usable"),
        "teachwise.compare:compare_arms",
    ),
    Step("report", ("validate", "compare"), ("note", "budget"), "teachwise.report:write_report"),
)


def step_named(name: str) -> Step:
    """The step of that name.

    Raises:
        DataError: there is none.
    """
    for step in STEPS:
        if step.name == name:
            return step
    raise DataError(f"no step is called {name!r}", "steps: " + ", ".join(step.name for step in STEPS))


def units_of(step: Step, recipe: Recipe) -> Iterator[Unit]:
    """The units of a step, in order: one, or one per arm and training seed."""
    if not step.per_arm:
        yield Unit(step.name)
        return
    for arm in recipe.arms:
        for seed in recipe.seeds_of(arm):
            yield Unit(step.name, arm, seed)


def key_of(step: Step, unit: Unit, recipe: Recipe, keys: Mapping[Unit, str], is_trusted: bool = True) -> str:
    """The key of a unit, from what it reads: recipe sections, the source file, other units' files.

    Args:
        step: The step.
        unit: The unit of that step.
        recipe: The recipe.
        keys: Keys of all units before it.
        is_trusted: False when the gate failed and arms that follow the scores are routed at random.
    """
    reads = step.reads
    if step.name == "teach" and not recipe.asks_teacher(unit.arm):
        reads = ()  # nothing is asked: who the teacher is and what may be spent is all the same to it
    if step.name == "train" and not recipe.asks_teacher(unit.arm):
        reads = ("student", "train") if recipe.stages_of(unit.arm) else ("student",)
    fields = {name: _section(recipe, name, unit.arm) for name in reads}
    if step.name == "prepare":
        fields["source_digest"] = _digest(recipe.data.source)
        fields["prompt_version"] = load_task(recipe.data.task, **recipe.data.task_options()).prompt_version
    if step.name in ("score", "train"):
        fields["student_digest"] = weights_digest(recipe.student.model)
    if step.name == "score":
        fields["measures"] = {name: code_digest(name) for name in recipe.score.measures}
        fields["proxy_digest"] = weights_digest(recipe.score.proxy) if recipe.score.proxy else None
    if step.name == "route" and not is_trusted and recipe.arms[unit.arm].policy in FOLLOW_SCORES:
        fields["is_trusted"] = False
    return unit_key(unit, fields, [_seen_key(step, other, recipe, keys) for other in keys if _reads(step, unit, other)])


def _seen_key(step: Step, other: Unit, recipe: Recipe, keys: Mapping[Unit, str]) -> str:
    """The key by which a step knows what it reads: only `validate` looks at measures beside the driving one.

    So a measure more, or one less, and a setting that it alone reads, redoes the scores, out of the evidence that is
    there, and no arm.
    """
    if other.step != "score" or step.name == "validate":
        return keys[other]
    return key_of(step_named("score"), other, recipe.as_driven(), keys)


def _reads(step: Step, unit: Unit, other: Unit) -> bool:
    """Whether a unit reads another's files: of an arm's steps only the same arm, seed and round."""
    if other.step not in step.needs:
        return False
    return not (step.per_arm and other.arm) or other == unit.of(other.step)


def _section(recipe: Recipe, name: str, arm: str) -> Any:
    if name != "arm":
        return recipe.result_fields(name)
    spec = recipe.arms[arm]
    return [one.model_dump(mode="json") for one in (spec, recipe.arms.get(spec.like or "")) if one]


def _digest(source: str | None) -> str | None:
    """Hash of the source file, so that an edited table is noticed; None for a hub name."""
    if not source or not Path(source).is_file():
        return None
    with open(source, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def partial_key(key: str, recipe: Recipe) -> str:
    """The key of a `teach` unit that the budget left gaps in: what could be bought is then part of the result."""
    return content_hash(f"{key} {recipe.budget.limits}")


def settled_key(step: Step, unit: Unit, key: str, recipe: Recipe, run: Run) -> str:
    """The key under which a unit's result is found: its own, or that of a partial one where the recipe allows it."""
    if step.name == "teach" and recipe.budget.on_spent == "partial" and not run.holds(unit, key):
        partial = partial_key(key, recipe)
        return partial if run.holds(unit, partial) else key
    return key
