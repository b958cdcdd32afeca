"""The order of work. Read this first.

    prepare -> score -> validate -> [gate] -> route -> teach -> train -> evaluate -> compare -> report

Each step is a function `(recipe, run, unit) -> counts` that reads files, writes files and knows no other step. Here
stands what each one needs and which recipe sections its result depends on; from that follows the key of every unit,
and from the key what is done already.
"""

import hashlib
import time
from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from rich.markup import escape

from teachwise.changes import changes
from teachwise.consent import ask_before_buying
from teachwise.console import say, watching
from teachwise.engines import check_key, weights_digest
from teachwise.errors import DataError, GateError, RecipeError
from teachwise.ledger import Ledger
from teachwise.live_view import View
from teachwise.measures import code_digest
from teachwise.plan import Plan, buy_pilot, plan, write_plan
from teachwise.plan_text import line
from teachwise.policies import FOLLOW_SCORES
from teachwise.prices import Spent
from teachwise.recipe import Recipe, find_recipe, load_recipe
from teachwise.records import FAILING
from teachwise.run_folder import RESOLVED, Run, Unit, drop_parts, unit_key, write_text
from teachwise.run_log import LOG, logged, secret_values
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


BEFORE_TEACH = ("prepare", "score", "validate", "route")
"""Steps up to which a run needs no teacher."""
MOST_NAMED = 5
"""Changed fields that are named one by one."""
_NOT_CHOSEN = (
    "the scores failed their check: what is bought from here on goes to questions chosen no better than by lot, and"
    " arms that follow the scores prove nothing; Ctrl-C stops, and all that is done is kept"
)


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
    if step.name == "train" and not recipe.stages_of(unit.arm):
        reads = ("student",)  # nothing is trained: how training goes is all the same to it
    fields = {name: _section(recipe, name, unit.arm) for name in reads}
    if step.name == "prepare":
        fields["source_digest"] = _digest(recipe.data.source)
        fields["prompt_version"] = load_task(recipe.data.task, **recipe.data.task_options()).prompt_version
    if step.name in ("score", "train"):
        fields["student_digest"] = weights_digest(recipe.student.model)
    if step.name == "score":
        fields["measures"] = {name: code_digest(name) for name in recipe.score.measures}
        fields["proxy_digest"] = weights_digest(recipe.score.proxy) if recipe.score.proxy else None
    if step.name == "teach" and recipe.budget.on_spent == "partial":
        fields["budget"] = recipe.result_fields("budget")  # what can be bought is then part of the result
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


def run_recipe(recipe: Recipe, root: str | Path, until: str = "report", yes: bool = False) -> Run:
    """Carry a recipe out, up to and including a step; whatever is done already is kept.

    Args:
        recipe: The checked recipe.
        root: The run folder.
        until: The last step to do.
        yes: What the teacher costs is agreed to; else a person is asked where it may be much.

    Raises:
        GateError: the scores do not predict errors, nobody agreed to what the teacher may cost, or the budget is spent.
            Everything made so far is kept.
        DataError: another process works in the folder.
    """
    run = Run(root)
    steps = STEPS[: STEPS.index(step_named(until)) + 1]
    units = {step.name: len(list(units_of(step, recipe))) for step in steps}
    with run.locked(), logged(run.root / LOG, secret_values(recipe.teacher.key_env)):
        if until not in BEFORE_TEACH and recipe.teacher.delivery != "files" and _is_buying(recipe, run):
            check_key(recipe.teacher.key_env)  # now, and not after hours of scoring
        is_changed = _tell_changes(recipe, run)
        write_text(run.root / RESOLVED, recipe.yaml())
        _set_stale_aside(recipe, run, is_changed)
        with watching(units, _spent(recipe, run) if "teach" in units else "") as view:
            _do_steps(steps, recipe, run, view, yes)
    return run


def run(
    recipe: str | Path, *overrides: str, out: str | Path | None = None, until: str = "report", yes: bool = False
) -> Run:
    """Carry a recipe file out; what is done already is kept, so the same call goes on after any stop.

    Args:
        recipe: A recipe file, or the name of a shipped one.
        overrides: Recipe fields to change, for instance `train.epochs=1`.
        out: The run folder; `runs/NAME` where left out.
        until: The last step to do.
        yes: What the teacher costs is agreed to; else a person is asked where it may be much.

    Returns:
        The run: its scores, predictions and other tables as data frames, its comparison, its report.

    Raises:
        TeachwiseError: something the user can mend; the message says what, and how.
    """
    loaded = load_recipe(recipe, overrides)
    return run_recipe(loaded, out or Path("runs") / find_recipe(recipe).stem, until, yes)


def make_plan(
    recipe: str | Path, *overrides: str, out: str | Path | None = None, pilot: bool = False
) -> tuple[Plan, Path]:
    """Carry a recipe file out up to `route`, and say what teaching comes to; the run folder keeps the examples.

    Args:
        recipe: A recipe file, or the name of a shipped one.
        overrides: Recipe fields to change.
        out: The run folder; `runs/NAME` where left out.
        pilot: Buy a few of the rationales first, to judge by; they are kept.

    Returns:
        The plan and the run folder.
    """
    loaded = load_recipe(recipe, overrides)
    if pilot:
        check_key(loaded.teacher.key_env)
    run = run_recipe(loaded, out or Path("runs") / find_recipe(recipe).stem, until="route")
    units, bought = list(units_of(step_named("teach"), loaded)), 0
    with run.locked(), logged(run.root / LOG, secret_values(loaded.teacher.key_env)):
        if pilot:
            bought = buy_pilot(loaded, run, units)
        made = plan(loaded, run, units, is_pilot=bought > 0)
        write_plan(run, made)
    return made, run.root


def _do_steps(steps: tuple[Step, ...], recipe: Recipe, run: Run, view: View, yes: bool) -> None:
    keys: dict[Unit, str] = {}
    is_trusted, is_failed = True, False
    for step in steps:
        for unit in units_of(step, recipe):
            keys[unit] = key_of(step, unit, recipe, keys, is_trusted)
        there = _found(step, keys, recipe, run)
        for unit in units_of(step, recipe):
            view.begin(step.name, str(unit))
            if unit not in there:
                _do(step, unit, keys[unit], recipe, run)
            view.end(step.name, is_new=unit not in there)
        if step.name == "validate":
            is_trusted = gate(recipe, run)
            is_failed = is_trusted and run.validation["verdict"] in FAILING
        if step.name == "route":
            made = plan(recipe, run, units_of(step_named("teach"), recipe))
            say(f"[bold]plan[/bold]  {escape(line(made))}")
            if is_failed and _is_buying(recipe, run):
                say(f"[bold red]WARNING[/bold red] {_NOT_CHOSEN}")
            if steps[-1].name not in BEFORE_TEACH:
                ask_before_buying(made, recipe, yes or not _is_buying(recipe, run))


def _found(step: Step, keys: Mapping[Unit, str], recipe: Recipe, run: Run) -> set[Unit]:
    """The units of a step that an earlier start did, fetched back where they were set aside; said before the rest."""
    units = list(units_of(step, recipe))
    kept = {unit for unit in units if (run.manifest(unit) or {}).get("key") == keys[unit]}
    back = {unit for unit in units if unit not in kept and run.is_done(unit, keys[unit])}
    if kept:
        say(f"[dim]kept  {step.name}: {len(kept)} of {len(units)} done before[/dim]")
    if back:
        say(f"[dim]back  {step.name}: {len(back)} of {len(units)} fetched from replaced/[/dim]")
    return kept | back


def _tell_changes(recipe: Recipe, run: Run) -> bool:
    """Say what the recipe changes since the last start of this run; whether it changes anything."""
    try:
        before = load_recipe(run.root / RESOLVED)
    except RecipeError:  # none yet, or of a version with other fields
        return False
    found = changes(before, recipe)
    if found:
        more = f" and {len(found) - MOST_NAMED:,} more" if len(found) > MOST_NAMED else ""
        say(escape(f"changed since the last start: {', '.join(found[:MOST_NAMED])}{more}"))
    return bool(found)


def _set_stale_aside(recipe: Recipe, run: Run, is_changed: bool) -> None:
    """Set every finished unit aside that the recipe and the source do not lead to any more, and say so in a line.

    Done before any work, so that what lies in a run belongs together also when this start is stopped or killed.
    """
    keys: dict[Unit, str] = {}
    is_trusted = True
    aside = []
    for step in STEPS:
        for unit in units_of(step, recipe):
            keys[unit] = key_of(step, unit, recipe, keys, is_trusted)
            if (run.manifest(unit) or {}).get("key", keys[unit]) != keys[unit] and run.set_aside(unit):
                aside.append(step.name)
        if step.name == "validate" and run.manifest(Unit("validate")):
            failed = run.json(Unit("validate"), "validation.json")["verdict"] in FAILING
            is_trusted = not failed or recipe.validation.on_fail == "warn"
    if aside:
        what = f"{len(aside)} unit{'s' if len(aside) > 1 else ''} of {', '.join(dict.fromkeys(aside))}"
        whose = "the earlier recipe" if is_changed else "other inputs"
        say(escape(f"aside: {what} (of {whose}), kept in {run.root / 'replaced'}"))


def _spent(recipe: Recipe, run: Run) -> str:
    path = recipe.ledger_at(run.root)
    if not path.exists():
        return recipe.budget.limits.text(Spent())
    with closing(Ledger(path)) as ledger:
        return recipe.budget.limits.text(ledger.spent())


def _is_buying(recipe: Recipe, run: Run) -> bool:
    """Whether an arm that gives rationales has not been taught yet."""
    return any(
        "rationale" in stage.gives.values() and run.manifest(unit) is None
        for unit in units_of(step_named("teach"), recipe)
        for stage in recipe.stages_of(unit.arm)
    )


def _do(step: Step, unit: Unit, key: str, recipe: Recipe, run: Run) -> None:
    """Do one unit and say so."""
    run.begin(unit, key)
    module, _, function = step.do.partition(":")
    started = time.monotonic()
    counts = getattr(import_module(module), function)(recipe, run, unit)
    run.finish(unit, key, counts, time.monotonic() - started)
    drop_parts(run.folder(unit))
    shown = "  ".join(f"{name} {_shown(value)}" for name, value in counts.items() if value or isinstance(value, float))
    say(f"[green]done[/green]  {unit}  [dim]{time.monotonic() - started:.1f} s[/dim]  {shown}")


def _shown(value: Any) -> str:
    return f"{value:,}" if isinstance(value, int) else str(value)


def gate(recipe: Recipe, run: Run) -> bool:
    """Stop before anything is bought when the scores do not predict errors.

    Returns:
        Whether arms may follow the scores; False when they are to be routed at random (`on_fail: random`).

    Raises:
        GateError: the verdict is FAIL or NO SEPARATION and the recipe says `on_fail: stop`.
    """
    found = run.json(Unit("validate"), "validation.json")
    if found["verdict"] not in FAILING:
        return True
    if found["auc"] is None:
        what = f"ROC AUC cannot be measured (accuracy {found['accuracy']:.2f}, n={found['n']:,})"
    else:
        interval = f"95% interval {found['auc_low']:.3f}-{found['auc_high']:.3f}, n={found['n']:,}"
        what = f"ROC AUC {found['auc']:.3f} ({interval}) is under min_auc {found['min_auc']:g}"
    message = f"validate: {what}: the score does not predict errors here"
    if recipe.validation.on_fail == "stop":
        raise GateError(message, "try another score.measure; or go on knowingly with validate.on_fail=warn or =random")
    if recipe.validation.on_fail == "warn":
        say(f"[bold red]WARNING[/bold red] {message}; going on, as validate.on_fail: warn says")
    else:
        say(f"[yellow]warning[/yellow] {message}; going on, as validate.on_fail: {recipe.validation.on_fail} says")
    return recipe.validation.on_fail == "warn"


def step_named(name: str) -> Step:
    """The step of that name.

    Raises:
        DataError: there is none.
    """
    for step in STEPS:
        if step.name == name:
            return step
    raise DataError(f"no step is called {name!r}", "steps: " + ", ".join(step.name for step in STEPS))
