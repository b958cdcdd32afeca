"""Wording: figures and results in plain words, for people who have not seen the run."""

from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup

from teachwise.figures import listed, number, percent, points
from teachwise.records import FAILING
from teachwise.teacher.verify import FAILURE
from teachwise.teacher_wording import lacks, priced, teacher_warnings, usable_of

FEW_QUESTIONS = 100
"""With fewer test questions the first lines say that the run proves nothing."""
FEW_KEPT = 0.2
"""Where a smaller share of an arm's rationales was kept, its result says nothing about rationales."""
MOST_UNREADABLE = 0.9
"""Where more of every arm's answers cannot be read, no accuracy is worth a verdict."""
WAYS = {"direct": "answering at once", "cot": "thinking first", "routed": "thinking only when unsure"}
"""The ways of answering, as every page, card and line of the terminal calls them in prose."""


def treatment(arm: Mapping[str, Any]) -> str:
    """What an arm of the recipe does, in a few words.

    Args:
        arm: The arm's section: `policy`, `give`, `like`, `stages`.

    Example:
        >>> treatment({"policy": "bands", "stages": [{"easy": "answer", "medium": "answer", "hard": "rationale"}]})
        'rationales for hard questions, answers for easy and medium ones'
    """
    if arm["policy"] == "none":
        return "the untouched student"
    if arm["policy"] == "random":
        return f"the treatments of {arm['like']}, given to questions picked by lot"
    if arm["policy"] == "all":
        return "a rationale for every question" if arm["give"] == "rationale" else "the answer to every question"
    return ", then ".join(_stage(stage) for stage in arm["stages"])


def _stage(stage: Mapping[str, Any]) -> str:
    shares = {give: [b for b in ("easy", "medium", "hard", "all") if stage.get(b) == give] for give in GIVEN}
    found = [f"{GIVEN[give]} for {listed(bands)}" for give, bands in shares.items() if bands]
    return f"{found[0]} questions" + "".join(f", {other} ones" for other in found[1:])


GIVEN = {"rationale": "rationales", "answer": "answers"}


def leading_arm(comparison: Mapping[str, Any], arms: Mapping[str, Any]) -> str:
    """The arm that the verdict is about: named by the recipe where it can be, not picked for its result.

    It is the arm that the random control copies; without a control the first that follows the score; else the one with
    the highest accuracy, which flatters it.

    Args:
        comparison: As `compare` wrote it.
        arms: The recipe's arms, as plain mappings.
    """
    found = comparison["arms"]
    in_recipe = {name: arms[one["arm"]] for name, one in found.items()}
    control = comparison["control"]
    for name in found:
        if control and in_recipe[control]["like"] == found[name]["arm"]:
            return str(name)
    banded = [name for name, arm in in_recipe.items() if arm["policy"] == "bands"]
    others = [name for name in found if name != comparison["base"]]
    return str(next(iter(banded), max(others or found, key=lambda name: float(found[name]["accuracy"]["value"]))))


def short_answer(comparison: Mapping[str, Any], lead: str) -> str:
    """Was it worth it? With no more certainty than the intervals, the questions and the rationales leave."""
    if unreadable := nothing_readable(comparison):
        return unreadable
    missing = lacking(comparison, lead)
    found, n_test = [f"No verdict: {missing}." if missing else _verdict(comparison, lead)], comparison["n_test"]
    if comparison["teacher"]["verdict"] == FAILURE:
        found.append(f"{FAILURE}: {usable_of(comparison['teacher'])}.")
    if _kept_few(comparison["arms"][lead]):
        found.append(f"But {lead} kept {kept_of(comparison['arms'][lead])}: this says nothing about rationales.")
    if n_test < FEW_QUESTIONS:
        them = f"{n_test} test question{'s' if n_test != 1 else ''}"
        found.append(f"With {them} this proves nothing; it shows that everything works.")
    return " ".join(found)


def lacking(comparison: Mapping[str, Any], lead: str) -> str:
    """That an arm or its control could not buy all its rationales, so that no verdict can be had; "" where both could.

    Arms buy one after the other, so that a spent budget leaves them with unequal shares.
    """
    roles = {lead: lead, comparison["control"]: f"the control, {comparison['control']},"}
    missing = {told: lacks(comparison["arms"][name]["cost"]) for name, told in roles.items() if name}
    each = [f"{told} lacks {n}" for told, n in missing.items() if n]
    return f"{listed(each)}, which the budget could not bear" if each else ""


def footnotes(arms: Mapping[str, Any]) -> list[str]:
    """What the star after an arm's name means, arm by arm."""
    return [f"{name}: {'; '.join(arm['marks'])}" for name, arm in arms.items() if arm["marks"]]


def nothing_readable(comparison: Mapping[str, Any]) -> str:
    """What to say first where (nearly) all answers of every arm are unreadable; "" where they are not."""
    shares = [arm["modes"][arm["mode"]]["unreadable"] for arm in comparison["arms"].values()]
    if min(shares) <= MOST_UNREADABLE:
        return ""
    found = "No arm wrote a readable answer" if min(shares) == 1 else "Hardly any answer could be read"
    return f"{found}: look at what they wrote first."


def _kept_few(arm: Mapping[str, Any]) -> bool:
    return bool(arm["cost"]["rationales_kept"] < FEW_KEPT * arm["cost"]["rationales_bought"])


def kept_of(arm: Mapping[str, Any]) -> str:
    """How many of an arm's rationales were kept: "none of its 4 rationales"."""
    kept, bought = number(arm["cost"]["rationales_kept"]), number(arm["cost"]["rationales_bought"])
    return f"none of its {bought} rationales" if kept == "0" else f"only {kept} of its {bought} rationales"


def treated(arm: Mapping[str, Any], in_recipe: Mapping[str, Any]) -> str:
    """What an arm does, in what it is not what the recipe says, and that (nearly) no rationale came of it.

    Args:
        arm: Its entry in the comparison.
        in_recipe: Its section of the recipe.
    """
    return "; ".join([treatment(in_recipe), *arm["marks"], *([f"it kept {kept_of(arm)}"] if _kept_few(arm) else [])])


def rejected_rationales(comparison: Mapping[str, Any], on_rejected: str) -> str:
    """Which arms wanted rationales that were not fit to learn from, and what came in their place; "" where none did."""
    costs = {name: arm["cost"] for name, arm in comparison["arms"].items()}
    each = [
        f"{name}: {number(cost['rationales_bought'] - cost['rationales_kept'])} of {number(cost['rationales_bought'])}"
        for name, cost in costs.items()
        if cost["rationales_kept"] < cost["rationales_bought"]
    ]
    if not each:
        return ""
    instead = "their answers were trained on instead" if on_rejected == "answer" else "they were left out"
    return f"{', '.join(each)} rationales were not fit to learn from; {instead}."


def _verdict(comparison: Mapping[str, Any], lead: str) -> str:
    base, control = (_outcome(comparison, lead, comparison[name]) for name in ("base", "control"))
    signs = {"the untouched student": base, "a random choice of the same size": control}
    found = [(VERBS[sign], whom) for whom, sign in signs.items() if sign is not None]
    if not found:
        return f"Not settled: there is nothing to set {lead} against."
    if base == control:
        text = f"{found[0][0]} both {found[0][1]} and {found[1][1]}" if base else NEITHER
    else:
        text = " but ".join(f"{verb} {whom}" for verb, whom in found)
    if -1 in (base, control):
        return f"No: {lead} {text}."
    if base == 1:
        return f"{'Partly' if control == 0 else 'Yes'}: {lead} {text}."
    return f"Not settled: {lead} {text}."


VERBS = {1: "did better than", 0: "is not told apart from", -1: "did worse than"}
NEITHER = "is told apart neither from the untouched student nor from a random choice of the same size"


def _outcome(comparison: Mapping[str, Any], lead: str, other: str | None) -> int | None:
    """1: better than the other arm. -1: worse. 0: not told apart. None: there is no such arm."""
    if other is None or other == lead:
        return None
    gap = comparison["arms"][lead]["against"][other]["difference"]
    return int(gap["low"] > 0) - int(gap["high"] < 0)


def findings(comparison: Mapping[str, Any], arms: Mapping[str, Any], lead: str, gate: str) -> list[Markup]:
    """The verdict: which arm, by how much, what it cost, and what is not settled; two to five sentences.

    Args:
        comparison: As `compare` wrote it.
        arms: The recipe's arms, as plain mappings.
        lead: The arm it is about.
        gate: The gate's verdict: PASS, WEAK, FAIL or NO SEPARATION.
    """
    found, base, control = comparison["arms"], comparison["base"], comparison["control"]
    if nothing_readable(comparison):
        return [_unreadable(found)]
    own = found[lead]
    said = [
        *_warned({name: arm for name, arm in found.items() if name != lead}),
        *teacher_warnings(comparison["teacher"]),
        Markup("<strong>{}</strong> ({}) answered {} of {} test questions right, {}, for {}.").format(
            lead,
            treated(own, arms[own["arm"]]),
            percent(own["accuracy"]["value"]),
            number(comparison["n_test"]),
            WAYS[own["mode"]],
            _price(own),
        ),
    ]
    gaps = [_gap(comparison, lead, other) for other in (base, control) if other not in (None, lead)]
    if gaps:
        said.append(Markup("T") + Markup("; ").join(gaps)[1:] + Markup("."))  # each gap begins with "the"
    rivals = [name for name in found if name not in (lead, base, control)]
    said += _best_other(comparison, arms, lead, rivals)
    return [*said, Markup("<strong>Not settled:</strong> {}.").format("; ".join(_open(comparison, lead, rivals, gate)))]


def _unreadable(found: Mapping[str, Any]) -> Markup:
    shares = [f"{name} {percent(arm['modes'][arm['mode']]['unreadable'])}" for name, arm in found.items()]
    return Markup(
        "So much of the test answers could not be read: {}. They count as not correct, so no figure on this page says "
        "what was learnt. What each arm wrote stands with <a href='#examples'>the questions</a>. An answer is lost "
        "when it is cut off before its letter, or when a student does not keep to the form it was asked for."
    ).format(listed(shares))


def _warned(found: Mapping[str, Any]) -> list[Markup]:
    """That arms learnt from no rationale, or from hardly any, where it is so."""
    few = [f"{name} kept {kept_of(arm)}" for name, arm in found.items() if _kept_few(arm)]
    form = Markup("<strong>Too few rationales:</strong> {}. What {} reached says nothing about rationales.")
    return [form.format(listed(few), "it" if len(few) == 1 else "they")] if few else []


def _best_other(
    comparison: Mapping[str, Any], arms: Mapping[str, Any], lead: str, rivals: Sequence[str]
) -> list[Markup]:
    """The best of the remaining arms; none is called so where several are level or none got a question right."""
    found = comparison["arms"]
    most = max((float(found[name]["accuracy"]["value"]) for name in rivals), default=0.0)
    best = [name for name in rivals if found[name]["accuracy"]["value"] == most]
    if len(rivals) > 1 and (most == 0 or len(best) > 1):
        them = listed([f"{name} ({_price(found[name])})" for name in best])
        return [Markup("{} reached {}{}.").format(them, "" if len(best) == 1 else "each ", percent(most))]
    more = "" if len(rivals) == 1 else " the best of the others,"
    return [
        Markup("<strong>{}</strong> ({}),{} reached {} for {}: {}.").format(
            rival,
            treated(found[rival], arms[found[rival]["arm"]]),
            more,
            percent(most),
            _price(found[rival]),
            _by_how_much(found[lead], lead, rival),
        )
        for rival in best
    ]


def _price(arm: Mapping[str, Any]) -> str:
    return priced(arm["cost"]) or "no teacher tokens"


def _gap(comparison: Mapping[str, Any], lead: str, other: str) -> Markup:
    who = "the untouched student" if other == comparison["base"] else "the same treatments given by lot"
    value = percent(comparison["arms"][other]["accuracy"]["value"])
    if other == comparison["control"] and lacking(comparison, lead):
        return Markup("{} (<strong>{}</strong>) reached {}, which shows nothing here").format(who, other, value)
    how = _by_how_much(comparison["arms"][lead], lead, other)
    return Markup("{} (<strong>{}</strong>) reached {}: {}").format(who, other, value, how)


def _by_how_much(own: Mapping[str, Any], lead: str, other: str) -> str:
    gap = own["against"][other]["difference"]
    span = f"{points(gap['low'])} to {points(gap['high'])}"
    if gap["low"] <= 0 <= gap["high"]:
        return f"not told apart ({span} points)"
    return f"{lead} is {'ahead' if gap['low'] > 0 else 'behind'} by {abs(100 * gap['value']):.1f} points ({span})"


def _open(comparison: Mapping[str, Any], lead: str, rivals: Sequence[str], gate: str) -> list[str]:
    """What this run does not settle, most important first."""
    others = [name for name in (comparison["base"], comparison["control"], *rivals) if name and name != lead]
    missing = lacking(comparison, lead)
    even = [name for name in others if _outcome(comparison, lead, name) == 0]
    even = [name for name in even if not (missing and name == comparison["control"])]
    n_seeds = len(comparison["seeds"])
    found = [f"whether {lead} is better or worse than {listed(even)}"] if even else []
    if comparison["control"] and missing:
        found.append("whether choosing by the score beats choosing by lot, since not all rationales were bought")
    if comparison["control"] is None:
        found.append("whether choosing by the score beats choosing by lot, since no arm is a random control")
    if gate in FAILING:
        found.append("whether the score is worth following at all, since it did not predict the student’s errors")
    luck = "with one training seed it is not measured" if n_seeds == 1 else f"{n_seeds} training seeds understate it"
    return [*found, f"how much of this is the luck of training ({luck})"]
