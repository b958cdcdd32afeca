"""What the teacher did and what it cost, in plain words."""

from collections.abc import Iterable, Mapping
from typing import Any

from markupsafe import Markup

from teachwise.figures import number, percent
from teachwise.teacher.prices import dollars
from teachwise.teacher.verify import FAILURE

VERDICTS = {
    "wrong": "wrong",
    "unreadable": "unreadable",
    "truncated": "cut off",
    "contaminated": "recites",
    "refused": "refused",
    "failed": "failed",
    "unknown": "unknown",
    "unpaid": "not bought",
}
"""Verdicts on rationales that are not right, in the order of the tables, as the tables call them."""
TOLD = {
    "contaminated": "Recites: it repeats a question of dev or test.",
    "refused": "Refused: the provider would not.",
    "failed": "Failed: no reply was to be had.",
    "unknown": "Unknown: nobody knows whether it was answered.",
    "unpaid": "Not bought: the budget could not bear it.",
}
"""What the rarer of these mean."""


def verdicts_seen(rows: Iterable[Mapping[str, float]]) -> list[str]:
    """The verdicts that a table needs a column for: the three that are common, and of the others those that occur."""
    counts = list(rows)
    return [verdict for verdict in VERDICTS if verdict not in TOLD or any(row[verdict] for row in counts)]


_STATES = {
    "ok": "ok",
    "truncated": "cut off",
    "refused": "refused",
    "failed": "failed",
    "unknown": "unknown (counted as spent)",
    "sent": "under way",
    "reserved": "waiting in a batch",
    "planned": "not sent",
}
"""What the page calls the states of requests, in its order."""


def states(requests: Mapping[str, int]) -> str:
    """Requests by their state.

    Example:
        >>> states({"failed": 3, "ok": 1200, "truncated": 4})
        '1,200 ok, 4 cut off, 3 failed'
    """
    return ", ".join(f"{number(requests[state])} {said}" for state, said in _STATES.items() if requests.get(state))


def usd(value: float | None) -> str:
    """An amount of money, which may not be known."""
    return "not known" if value is None else dollars(value)


def money(ledger: Mapping[str, Any], price: Mapping[str, Any] | None, cap_usd: float | None, is_free: bool) -> str:
    """What was paid in money, as far as it is known.

    Args:
        ledger: Its totals.
        price: The teacher's price, as a plain mapping; None where nobody knows it.
        cap_usd: The budget's cap in dollars.
        is_free: The teacher is on this machine and has no price.
    """
    sent = sum(n for state, n in ledger["requests"].items() if state not in ("planned", "failed"))
    if is_free and not ledger["usd"]:
        return "free, on this machine"
    if not price and not ledger["usd"]:
        return "not known: budget.prices says what this teacher's tokens cost"
    found = dollars(ledger["usd"]) + (f" of {dollars(cap_usd)}" if cap_usd is not None else "")
    found += f", at prices from {price['version']}" if price else ""
    without = f"; without {number(ledger['unpriced'])} of {number(sent)} requests, sent before a price was known"
    return found + (without if ledger["unpriced"] else "")


def lacks(cost: Mapping[str, Any]) -> str:
    """How many rationales an arm lacks because the budget could not bear them; "" where it has all that it wants.

    Example:
        >>> lacks({"rationales_asked": 50.0, "rationales_bought": 7.0})
        '43 of 50 rationales'
    """
    asked, bought = cost["rationales_asked"], cost["rationales_bought"]
    return f"{number(asked - bought)} of {number(asked)} rationales" if bought < asked else ""


def priced(cost: Mapping[str, Any]) -> str:
    """What an arm would pay its teacher alone, in money where that is known; "" where it asks none.

    Example:
        >>> priced({"teacher_tokens": 12345.0, "teacher_usd": 0.25}), priced({"teacher_tokens": 0, "teacher_usd": 0})
        ('12,345 teacher tokens ($0.25)', '')
    """
    if not cost["teacher_tokens"]:
        return ""
    usd = "" if cost["teacher_usd"] is None else f" ({dollars(cost['teacher_usd'])})"
    return f"{number(cost['teacher_tokens'])} teacher tokens{usd}"


def usable_of(teacher: Mapping[str, Any]) -> str:
    """How many of the rationales that count for the teacher's verdict are usable."""
    whose = "rationales for hard questions" if teacher["band"] == "hard" else "rationales"
    return f"only {number(teacher['usable'])} of {number(teacher['n'])} {whose} state the right answer"


def teacher_warnings(teacher: Mapping[str, Any]) -> list[Markup]:
    """What must be known of the rationales before any figure is believed; most runs have none of it.

    Args:
        teacher: The comparison's part about the teacher.
    """
    if teacher["verdict"] != FAILURE:
        return unproven(teacher)
    form = Markup("<strong>{}:</strong> {}, {} ({} to {}); {} are wanted (min_usable). What to do: {}.")
    figures = [percent(teacher[name]) for name in ("share", "low", "high")]
    bound = percent(teacher["min_usable"], 0)
    return [form.format(FAILURE, usable_of(teacher), *figures, bound, teacher["advice"]), *unproven(teacher)]


def unproven(teacher: Mapping[str, Any]) -> list[Markup]:
    """That rationales were learnt from which do not prove themselves, where it is so."""
    n = sum(row["unproven"] for row in teacher["by_band"].values())
    return [(_SAW_ANSWERS if teacher["gold_shown"] else _LEARNT_WRONG).format(number(n))] if n else []


_SAW_ANSWERS = Markup(
    "<strong>The teacher saw the answers:</strong> {} rationales were written with the right answer in view. That they "
    "state it says nothing of the teacher, and their reasoning may be made up to fit."
)
_LEARNT_WRONG = Markup(
    "<strong>Wrong rationales were learnt from:</strong> {} that do not state the right answer were kept, since the "
    "recipe says keep: all."
)


def verdict_told(teacher: Mapping[str, Any]) -> str:
    """The verdict on the teacher; a PASS is not sure where the interval of the share reaches under the bound."""
    is_unsure = teacher["verdict"] == "PASS" and teacher["low"] < teacher["min_usable"]
    return "PASS, but not sure" if is_unsure else str(teacher["verdict"])


def teacher_judged(teacher: Mapping[str, Any]) -> Markup:
    """The verdict on the teacher, with the figures that it rests on."""
    if teacher["verdict"] == "NOT ASKED":
        return Markup("<span class='badge'>NOT ASKED</span> No rationale for a hard question was bought.")
    whose = "hard questions" if teacher["band"] == "hard" else "any question"
    form = Markup(
        "<span class='badge{}'>{}</span> Of {} rationales for {}, {} ({} to {}) state the right answer{}; the bound is "
        "{} (min_usable).{}"
    )
    figures = [percent(teacher[name]) for name in ("share", "low", "high")]
    shown = ", which the teacher was shown" if teacher["gold_shown"] else ""
    colour = {FAILURE: " bad", "PASS": " good"}.get(teacher["verdict"], "")
    bound = percent(teacher["min_usable"], 0)
    todo = f" What to do: {teacher['advice']}." if teacher["verdict"] == FAILURE else ""
    return form.format(colour, verdict_told(teacher), number(teacher["n"]), whose, *figures, shown, bound, todo)
