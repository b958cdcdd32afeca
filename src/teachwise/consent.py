"""Consent: before much is spent, a person says yes, or has said it."""

from rich.markup import escape

from teachwise.console import ask, can_ask, say
from teachwise.errors import GateError
from teachwise.judging import bound_of, judged_sources
from teachwise.plan import Plan
from teachwise.plan_text import summary
from teachwise.recipe import Recipe
from teachwise.records import Example
from teachwise.run_folder import Run, Unit
from teachwise.score import evidence_at
from teachwise.teacher.engine import check_key
from teachwise.teacher.prices import dollars, host_of

_LOOK = (
    "`teachwise plan` with the same arguments shows what is bought; go on with --yes (in Python: yes=True), or move {}"
)


def ask_before_buying(plan: Plan, recipe: Recipe, is_agreed: bool) -> None:
    """Ask on a terminal, where what may be bought is above the recipe's threshold.

    Args:
        plan: What is to be bought.
        recipe: The recipe.
        is_agreed: Somebody said yes beforehand.

    Raises:
        GateError: the answer is no, or there is no terminal to ask on.
    """
    above = None if is_agreed else threshold_passed(plan, recipe)
    if above is None:
        return
    what, field = above
    if not can_ask():
        raise GateError(f"teach: {what} would be spent, and nobody said yes", _LOOK.format(field))
    for told in summary(plan):
        say(escape(told))
    if not ask(f"spend {what}?"):
        raise GateError("teach: nothing is bought: you did not say yes", _LOOK.format(field))


def threshold_passed(plan: Plan, recipe: Recipe) -> tuple[str, str] | None:
    """What may be spent now, in words, and the field whose threshold it passes; None where it passes none.

    What counts is the high end of the estimate, as far as the budget lets it come.
    """
    if plan.is_free or not plan.open or recipe.teacher.delivery == "files":  # into files only: nothing is sent
        return None
    budget = recipe.budget
    if plan.most_usd is not None:
        passed = budget.ask_above_usd is not None and plan.most_usd > budget.ask_above_usd
        return (f"up to {dollars(plan.most_usd)}", "budget.ask_above_usd") if passed else None
    passed = budget.ask_above_tokens is not None and plan.most_tokens > budget.ask_above_tokens
    what = f"up to {round(plan.most_tokens):,} teacher tokens of unknown price"
    return (what, "budget.ask_above_tokens") if passed else None


_JUDGE_LOOK = "agree with `teachwise score RECIPE --yes` (in Python: yes=True), take other measures, or move {}"


def ask_before_judging(recipe: Recipe, run: Run, is_agreed: bool | None) -> None:
    """Say what the judge may come to before the first request to it, and ask where that is above the threshold.

    Args:
        recipe: The recipe; where none of its measures asks a judge, or all is there, nothing is said.
        run: A run that is prepared.
        is_agreed: Somebody said yes beforehand; None: nothing may be bought now, as for a plan.

    Raises:
        GateError: nothing may be bought, the answer is no, or there is no terminal to ask on.
        TeacherError: the judge's key is not set.
    """
    judge, budget = recipe.judge, recipe.budget
    missing = [one for one in judged_sources(recipe) if not evidence_at(recipe, run, one).exists()]
    if not missing:
        return
    bound = bound_of(recipe, run, missing, run.records(Unit("prepare"), "examples.parquet", Example))
    if not bound.requests:
        return
    money = "" if bound.usd is None else f", up to {dollars(bound.usd)}"
    what = f"up to {bound.requests:,} requests, up to {bound.tokens:,} teacher tokens{money}"
    place = "this machine" if judge.engine == "hf" else host_of(judge.base_url)
    say(escape(f"judge  {judge.model} at {place}: {what}, before the gate"))
    if is_agreed is None:
        hint = "a plan buys nothing: `teachwise score RECIPE` buys the verdicts, and then it can be planned"
        raise GateError(f"plan: the judge of `score` is not paid yet: {what}", hint)
    if judge.delivery != "files":
        check_key(judge.key_env)
    if is_agreed or judge.delivery == "files" or _is_free(recipe):
        return
    if bound.usd is not None:
        passed, field = budget.ask_above_usd is not None and bound.usd > budget.ask_above_usd, "budget.ask_above_usd"
    else:
        above = budget.ask_above_tokens
        passed, field = above is not None and bound.tokens > above, "budget.ask_above_tokens"
    if not passed:
        return
    if not can_ask():
        raise GateError(f"score: the judge may take {what}, and nobody said yes", _JUDGE_LOOK.format(field))
    if not ask(f"spend {what}?"):
        raise GateError("score: nothing is bought: you did not say yes", _JUDGE_LOOK.format(field))


def _is_free(recipe: Recipe) -> bool:
    from teachwise.teacher.openai import is_here  # not above: the SDK behind it is slow to load

    return (recipe.judge.engine == "hf" or is_here(recipe.judge.base_url)) and recipe.budget.prices is None
