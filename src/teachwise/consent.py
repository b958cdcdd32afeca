"""Consent: before much is spent, a person says yes, or has said it."""

from rich.markup import escape

from teachwise.console import ask, can_ask, say
from teachwise.errors import GateError
from teachwise.plan import Plan
from teachwise.plan_text import summary
from teachwise.recipe import Recipe
from teachwise.teacher.prices import dollars

_LOOK = "`teachwise plan RECIPE` shows what is bought; go on with --yes (in Python: yes=True), or move {}"


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
