"""The order of work. Read this first.

    prepare -> score -> validate -> [gate] -> route -> teach -> train -> evaluate -> compare -> report

What each step needs, and the key by which its result is known to be done, stands in `steps`; here a recipe is carried
out: what is done already is kept, what belongs to another recipe is set aside, the gate and the budget may say no.
"""

import time
from collections.abc import Mapping
from contextlib import closing
from importlib import import_module
from pathlib import Path
from typing import Any

from rich.markup import escape

from teachwise.changes import changes
from teachwise.consent import ask_before_buying
from teachwise.console import say, watching
from teachwise.errors import GateError, RecipeError
from teachwise.live_view import View
from teachwise.plan import Plan, buy_pilot, pilot_of, plan, plan_pilot, write_plan
from teachwise.plan_text import line
from teachwise.recipe import Recipe, find_recipe, load_recipe
from teachwise.records import FAILING
from teachwise.run_folder import RESOLVED, Run, Unit, drop_parts, write_text
from teachwise.run_log import LOG, logged, secret_values
from teachwise.steps import STEPS, Step, key_of, partial_key, settled_key, step_named, units_of
from teachwise.teacher.engine import check_key
from teachwise.teacher.ledger import Ledger
from teachwise.teacher.prices import Spent

BEFORE_TEACH = ("prepare", "score", "validate", "route")
"""Steps up to which a run needs no teacher."""
MOST_NAMED = 5
"""Changed fields that are named one by one."""


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
    recipe: str | Path, *overrides: str, out: str | Path | None = None, pilot: bool = False, yes: bool = False
) -> tuple[Plan, Path]:
    """Carry a recipe file out up to `route`, and say what teaching comes to; the run folder keeps the examples.

    Args:
        recipe: A recipe file, or the name of a shipped one.
        overrides: Recipe fields to change.
        out: The run folder; `runs/NAME` where left out.
        pilot: Buy a few of the rationales first, to judge by; they are kept.
        yes: What the pilot costs is agreed to; else a person is asked where it may be much.

    Returns:
        The plan and the run folder.

    Raises:
        GateError: nobody agreed to what the pilot may cost, or its requests wait in files. All that was made is kept.
    """
    loaded = load_recipe(recipe, overrides)
    if pilot and loaded.teacher.delivery != "files":
        check_key(loaded.teacher.key_env)
    run = run_recipe(loaded, out or Path("runs") / find_recipe(recipe).stem, until="route")
    units, bought = list(units_of(step_named("teach"), loaded)), 0
    with run.locked(), logged(run.root / LOG, secret_values(loaded.teacher.key_env)):
        if pilot and (chosen := pilot_of(loaded, run, units)):
            ask_before_buying(plan_pilot(loaded, run, chosen), loaded, yes)
            bought = buy_pilot(loaded, run, chosen)
        made = plan(loaded, run, units, is_pilot=bought > 0)
        write_plan(run, made)
    return made, run.root


def _do_steps(steps: tuple[Step, ...], recipe: Recipe, run: Run, view: View, yes: bool) -> None:
    keys: dict[Unit, str] = {}
    is_trusted = True
    for step in steps:
        for unit in units_of(step, recipe):
            keys[unit] = settled_key(step, unit, key_of(step, unit, recipe, keys, is_trusted), recipe, run)
        there = _found(step, keys, recipe, run)
        for unit in units_of(step, recipe):
            view.begin(step.name, str(unit))
            if unit not in there:
                keys[unit] = _do(step, unit, keys[unit], recipe, run)
            view.end(step.name, is_new=unit not in there)
        if step.name == "validate":
            is_trusted = gate(recipe, run)
        if step.name == "route":
            made = plan(recipe, run, units_of(step_named("teach"), recipe))
            say(f"[bold]plan[/bold]  {escape(line(made))}")
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
            keys[unit] = settled_key(step, unit, key_of(step, unit, recipe, keys, is_trusted), recipe, run)
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
        return recipe.budget.limits.text(ledger.spent(recipe.price))


def _is_buying(recipe: Recipe, run: Run) -> bool:
    """Whether an arm that gives rationales has not been taught yet."""
    units = units_of(step_named("teach"), recipe)
    return any(recipe.asks_teacher(unit.arm) and run.manifest(unit) is None for unit in units)


def _do(step: Step, unit: Unit, key: str, recipe: Recipe, run: Run) -> str:
    """Do one unit and say so; the key under which its result stands."""
    run.begin(unit, key)
    module, _, function = step.do.partition(":")
    started = time.monotonic()
    counts = getattr(import_module(module), function)(recipe, run, unit)
    key = partial_key(key, recipe) if counts.get("unpaid") else key
    run.finish(unit, key, counts, time.monotonic() - started)
    drop_parts(run.folder(unit))
    shown = "  ".join(f"{name} {_shown(value)}" for name, value in counts.items() if value or isinstance(value, float))
    say(f"[green]done[/green]  {unit}  [dim]{time.monotonic() - started:.1f} s[/dim]  {shown}")
    return key


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
        so = "arms that follow it choose no better than by lot, whatever is bought for them, and prove nothing"
        say(f"[bold red]WARNING[/bold red] {message}: {so}; going on, as validate.on_fail: warn says")
    else:
        say(f"[yellow]warning[/yellow] {message}; going on, as validate.on_fail: {recipe.validation.on_fail} says")
    return recipe.validation.on_fail == "warn"
