"""The generated parts of `docs/results.md`: tables and sentences, all from `docs/results/measures.json`."""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from teachwise.measures import MEASURES

FIGURES = Path(__file__).parent / "results" / "measures.json"
Row = Mapping[str, Any]
ROLES = {"signal": "", "control": " (control)", "gold": " (looks at the gold answer)", "scripted": " (scripted judge)"}
_HOW = {
    "values": "the same values",
    "ranking": "the same ranking",
    "auc": "the same AUC by another ranking",
    "nearly": "nearly the same ranking",
}


def measures_results(figures: Row | None = None) -> str:
    """The whole comparison of measures.

    Args:
        figures: What `bench/measures.py` wrote; read from its file where left out.
    """
    found = json.loads(FIGURES.read_text(encoding="utf-8")) if figures is None else figures
    parts = [about(found), verdicts(found), main_table(found), alike_part(found), apart_table(found)]
    parts += [own_table(found), cost_table(found), toy_table(found), domains_part(found)]
    return "\n".join(part for part in parts if part)


# ------------------------------------------------------------------------------------------- words


def point(value: float | None, signed: bool = False) -> str:
    """A share as the log writes it: three digits without a leading nought.

    Example:
        >>> point(0.8794), point(-0.0014, signed=True), point(1.0), point(None)
        ('.879', '-.001', '1.000', '-')
    """
    if value is None:
        return "-"
    text = f"{value:+.3f}" if signed else f"{value:.3f}"
    return text.replace("0.", ".", 1) if text.lstrip("+-").startswith("0.") else text


def span(interval: Row | None, signed: bool = False) -> str:
    """An estimate with its interval; a dash where there is none."""
    if interval is None or interval["value"] is None:
        return "-"
    value, low, high = (point(interval[key], signed) for key in ("value", "low", "high"))
    return f"{value} ({low} to {high})"


def percent(interval: Row | None) -> str:
    """A share as a percentage with its interval."""
    if interval is None:
        return "-"
    value, low, high = (f"{100 * interval[key]:.1f}" for key in ("value", "low", "high"))
    return f"{value}% ({low} to {high})"


def listed(names: Sequence[str]) -> str:
    """Names as code, with commas; `none` where there are none."""
    return ", ".join(f"`{name}`" for name in names) or "none"


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines) + "\n"


def ordered(rows: Sequence[Row]) -> list[Row]:
    """Signals by AUC, best first; then what looks at the gold answer, scripted judges, controls."""
    roles = ("signal", "gold", "scripted", "control")
    return sorted(rows, key=lambda row: (roles.index(row["role"]), -(row["auc"]["value"] or 0.0)))


def _named(row: Row) -> str:
    return f"`{row['name']}`{ROLES[row['role']]}"


# ------------------------------------------------------------------------------------------- parts


def about(found: Row) -> str:
    """What was asked, when and of whom."""
    sizes, right = found["sizes"], found["accuracy"]
    took = "an unknown time" if found["seconds"] is None else f"{found['seconds']:.0f} seconds"
    return (
        f"Measured {found['date']} with version {found['version']}, Python {found['python']}, torch {found['torch']}:"
        f" {len(found['measures'])} measures, {sizes['train']:,} train and {sizes['test']:,} test questions of the toy"
        f" (`data.seed: {found['seed']}`), of which its student answers {100 * right['train']:.1f}% and"
        f" {100 * right['test']:.1f}% right at once. Errors are those of the answer at once, for every measure. There"
        " is one student, pre-trained with one seed: the intervals (95%, each by itself, not adjusted for their number)"
        " are about other questions, not about other students."
        f" Asking took {took} of the processor in all.{left_out(found)}\n"
    )


def left_out(found: Row) -> str:
    """The measures of the registry that have no figures, by the reason."""
    reasons: dict[str, list[str]] = {}
    for name, why in found["left_out"].items():
        reasons.setdefault(why, []).append(name)
    there = {row["name"] for row in found["measures"]} | set(found["left_out"])
    if later := [name for name in MEASURES if name not in there]:
        reasons["newer than these figures"] = later
    return "".join(f" Left out ({why}): {listed(names)}." for why, names in reasons.items())


def standing(row: Row, split: str) -> dict[str, list[str]]:
    """The controls by what the paired difference of the measure's AUC and theirs says: `beats`, `open`, `loses`."""
    kinds: dict[str, list[str]] = {"beats": [], "open": [], "loses": []}
    for name, lead in row["against"][split].items():
        if lead is None or lead["low"] <= 0 <= lead["high"]:
            kinds["open"].append(name)
        else:
            kinds["beats" if lead["low"] > 0 else "loses"].append(name)
    return kinds


def verdicts(found: Row) -> str:
    """What follows from the intervals, sentence by sentence."""
    signals = [row for row in ordered(found["measures"]) if row["role"] == "signal"]
    lines = [*_controls_lines(found, signals), *_entropy_lines(signals), *_own_lines(signals), *_unclaimed_lines(found)]
    return "\n".join(f"- {line}" for line in lines) + "\n"


def _controls_lines(found: Row, signals: Sequence[Row]) -> list[str]:
    held = {row["name"]: {split: standing(row, split) for split in ("train", "test")} for row in signals}
    both = [name for name, one in held.items() if not any(one[split]["open"] + one[split]["loses"] for split in one)]
    train = [
        name for name, one in held.items() if name not in both and not one["train"]["open"] + one["train"]["loses"]
    ]
    loses = [name for name, one in held.items() if one["train"]["loses"]]
    rest = [name for name in held if name not in (*both, *train, *loses)]
    told = [f"`{name}` (to {listed(held[name]['train']['loses'])})" for name in loses]
    unsettled = [f"`{name}` ({listed(held[name]['train']['open'])})" for name in rest]
    below = [row["name"] for row in signals if row["auc"]["value"] is not None and row["auc"]["high"] < 0.5]
    n_controls = sum(row["role"] == "control" for row in found["measures"])
    return [
        f"**Beat every one of the {n_controls} controls, on train and on test**: {listed(both)}.",
        f"**Beat every control on train, not all on test**: {listed(train)}.",
        f"**Not told apart from a control** (which): {', '.join(unsettled) or 'none'}.",
        f"**Beaten by a control** (which): {', '.join(told) or 'none'}.",
        *_within_lines(found, signals),
        f"**The wrong way round** (interval below .5): {listed(below)}.",
    ]


def _within_lines(found: Row, signals: Sequence[Row]) -> list[str]:
    """What is left once subject and length are held fixed, beside what is left of the controls."""
    held = [row["within"]["high"] for row in found["measures"] if row["role"] == "control" and row["within"]]
    above = [row["name"] for row in signals if row["within"] and row["within"]["low"] > 0.5]
    clear = [row["name"] for row in signals if row["name"] in above and row["within"]["low"] > max([0.5, *held])]
    rest = [row["name"] for row in signals if row["name"] not in above]
    unclear = [name for name in above if name not in clear]
    return [
        "**Tell errors among questions of one subject and one quarter of lengths**, with an interval above .5 and above"
        f" that of every control: {listed(clear)}; above .5 alone: {listed(unclear)}; not: {listed(rest)}."
    ]


def _entropy_lines(signals: Sequence[Row]) -> list[str]:
    paired = [row for row in signals if row["behind"] is not None]
    ahead = [row["name"] for row in paired if row["behind"]["low"] > 0]
    better = [row["name"] for row in paired if row["behind"]["high"] < 0]
    same = [row["name"] for row in paired if row["name"] not in (*ahead, *better)]
    return [
        f"**Answer entropy is better than** (paired, train): {listed(ahead)}.",
        f"**Answer entropy is not told apart from**: {listed(same)}.",
        f"**Answer entropy is worse than**: {listed(better)}.",
    ]


def _own_lines(signals: Sequence[Row]) -> list[str]:
    """Measures of a text that the student wrote, against the answer in that text; nothing where there are none."""
    rows = [row for row in signals if row["own"] and row["own"]["value"] is not None]
    tell = [row["name"] for row in rows if row["own"]["low"] > 0.5]
    rest = [row["name"] for row in rows if row["name"] not in tell]
    said = f"**Tell errors of the answer in their own text** (interval above .5): {listed(tell)}; not: {listed(rest)}."
    return [said] if rows else []


def _unclaimed_lines(found: Row) -> list[str]:
    gold, scripted = (
        [row["name"] for row in found["measures"] if row["role"] == role] for role in ("gold", "scripted")
    )
    lines = [
        f"**No claim, because they look at the gold answer** and cannot be had for a new question: {listed(gold)}."
    ]
    if scripted:
        lines.append(
            "**No claim, because the toy's judge is a program** that knows the number of steps; they show that the way"
            f" works, not what a judge is worth: {listed(scripted)}."
        )
    return lines


def verdict_of(row: Row) -> str:
    """The gate's verdict; a program's judgement gets none."""
    return "no claim" if row["role"] == "scripted" else str(row["verdict"])


def main_table(found: Row) -> str:
    """Every measure on train."""
    head = ("measure", "AUC (95%)", "n", "entropy's lead, paired", "within subject and length", "Gini", "ECE", "Brier")
    rows = [
        (
            *(_named(row), span(row["auc"]), f"{row['auc']['n']:,}"),
            *(span(row["behind"], signed=True), span(row["within"]), point((row["gini"] or {}).get("value"))),
            *(point(row["ece"]), point(row["brier"]), percent(row["confidently_wrong"]), verdict_of(row)),
        )
        for row in ordered(found["measures"])
    ]
    return f"### On train\n\n{table([*head, 'wrong in the surest quarter', 'verdict'], rows)}"


def apart_table(found: Row) -> str:
    """Every measure on test, and what it says of the controls there."""
    rows = []
    for row in ordered(found["measures"]):
        held = standing(row, "test")
        beaten = (
            "-" if row["role"] in ("control", "scripted") else f"{len(held['beats'])} of {sum(map(len, held.values()))}"
        )
        rows.append((_named(row), span(row["test"]["auc"]), f"{row['test']['auc']['n']:,}",
                     span(row["test"]["behind"], signed=True), beaten))  # fmt: skip
    head = ("measure", "AUC (95%)", "n", "entropy's lead, paired", "controls beaten")
    return f"### On test, which chose nothing\n\n{table(head, rows)}"


def alike_part(found: Row) -> str:
    """The pairs of measures that say the same, and why they must."""
    lines = []
    for pair in found["alike"]:
        why = f"must be: {pair['because']}" if pair["because"] else _unproved(pair["how"])
        lines.append(f"- {listed(pair['names'])}: {_HOW[pair['how']]} (rank correlation {pair['rho']:.4f}); {why}.")
    return "### Measures that say the same\n\n" + ("\n".join(lines) or "None.") + "\n"


def _unproved(how: str) -> str:
    return {"auc": "the rankings differ, so by chance", "nearly": "not the same, and need not be"}.get(
        how, "**NOT PROVED, so a fault**"
    )


def own_table(found: Row) -> str:
    """Measures of a text that the student wrote, against the answer in that text."""
    rows = [row for row in ordered(found["measures"]) if row["own"]]
    if not rows:
        return ""
    cells = [
        (_named(row), row["own"]["source"], span(row["own"]), f"{row['own']['n']:,}", span(row["auc"])) for row in rows
    ]
    head = ("measure", "text", "AUC against its own answer", "n", "AUC against the answer at once")
    return f"### Of the answer in the text itself\n\n{table(head, cells)}"


def cost_table(found: Row) -> str:
    """What every measure asks for, and the processor time that it took."""
    rows = []
    for row in ordered(found["measures"]):
        cost, seconds = row["cost"], row["seconds"]
        asking = "not measured" if seconds["asking"] is None else f"{seconds['asking']:.2f}"
        counts = [f"{cost[key]:g}" for key in ("forward_passes", "texts_written", "teacher_calls")]
        rows.append((_named(row), *counts, asking, f"{seconds['computing']:.2f}"))
    head = ("measure", "passes", "texts", "requests", "asking, s", "computing, s")
    text = (
        "Passes, texts and requests are for one question; measures of the same evidence share them. Seconds are of the"
        f" processor, for 1,000 questions of the toy, measured over {found['asked']:,}, loading of models left out;"
        " computing is from the evidence to the value."
    )
    return f"### What each costs\n\n{text}\n\n{table(head, rows)}"


def toy_table(found: Row) -> str:
    """Every measure in every family of the toy."""
    rows = ordered(found["measures"])
    subjects = list(rows[0]["by"])
    facts = rows[0]["by"]
    head = (
        "measure",
        *(f"{one}, n {facts[one]['n']:,}, {100 * facts[one]['accuracy']:.0f}% right" for one in subjects),
    )
    cells = [(_named(row), *(point(row["by"].get(one, {}).get("value")) for one in subjects)) for row in rows]
    return f"### AUC in every family of the toy, on train\n\n{table(head, cells)}"


TITLES = {"toy": "toy", "mmlu_pro": "MMLU-Pro, Qwen2.5-3B-Instruct"}


def domains_part(found: Row) -> str:
    """Answer entropy and the controls, in all and by subject, of the toy and of the real table."""
    entropy, length, others = "answer_entropy", "question_length", ("question_length", "subject_prior", "option_count")
    whole, rows, dates = [], [], []
    for name, domain in found["domains"].items():
        measures, title = domain["measures"], TITLES[name]
        dates.append(f"{title}: {domain['measured']}")
        for one in (entropy, *others, "random"):
            row = measures[one]
            whole.append((title, f"`{one}`", span(row["auc"]), f"{row['auc']['n']:,}", span(row["behind"], signed=True),
                          span(row["within"])))  # fmt: skip
        for subject, row in measures[entropy]["by"].items():
            rest = point(measures[length]["by"][subject]["value"])
            rows.append((title, subject, f"{row['n']:,}", f"{100 * row['accuracy']:.1f}%", span(row), rest))
    head = ("table", "measure", "AUC (95%)", "n", "entropy's lead, paired", "within subject and length")
    by = ("table", "subject", "n", "right", "AUC of `answer_entropy` (95%)", "AUC of `question_length`")
    missing = "" if "mmlu_pro" in found["domains"] else " The real table was never there."
    return (
        f"### Across domains\n\nMeasured {'; '.join(dates)}; where the real data is absent, its figures stay those of"
        f" that day.{missing} A subject with fewer than 20 questions, or without errors, has no AUC.\n\n"
        f"{table(head, whole)}\n{table(by, rows)}"
    )


PARTS: dict[str, Callable[[], str]] = {"measures": measures_results}


def results_part(name: str) -> str:
    """The part of that name."""
    return PARTS[name]()
