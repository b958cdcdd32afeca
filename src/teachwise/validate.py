"""Validate: do the scores predict the student's errors? A gate before any money is spent.

in   prepare/examples.parquet              Example
in   score/scores.parquet                  Score
in   score/own_answers.parquet             OwnAnswer
out  validate/validation.json              ROC AUC with interval on train rows, by subject, the verdict, every measure
out  validate/confidently_wrong.parquet    Confident: wrong answers among the surest quarter, by every measure
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from teachwise.auc import auc_difference, auc_within
from teachwise.calibration import calibration
from teachwise.errors import DataError, RecipeError
from teachwise.evidence import OwnAnswer
from teachwise.measures import Measure, cost_in_words, find_measure
from teachwise.recipe import Recipe
from teachwise.records import Confident, Driven, Example, Score, by_id, driving
from teachwise.run_folder import Run, Unit, write_json, write_records
from teachwise.stats import roc_auc, roc_curve_points, wilson
from teachwise.tasks.table import column, numbers, truths

OWN_ANSWERS = "own_answers.parquet"
"""Where `score` says whether the answers in texts are right."""
MIN_GROUP = 20
"""A group smaller than this is counted but gets no AUC: its interval would span nearly everything."""


def auc_summary(values: Sequence[float], wrong: Sequence[bool]) -> dict[str, Any]:
    """ROC AUC of scores against errors.

    Args:
        values: N scores, higher = less sure.
        wrong: N truth values: the student's answer was wrong or unreadable.

    Returns:
        `auc`, `auc_low`, `auc_high` (95%), each None where all answers are right or all are wrong, `n`, `accuracy`.
    """
    n, n_wrong = len(values), sum(wrong)
    found: dict[str, Any] = {"auc": None, "auc_low": None, "auc_high": None}
    if 0 < n_wrong < n:
        auc = roc_auc(np.asarray(values), np.asarray(wrong))
        found = {"auc": auc.value, "auc_low": auc.low, "auc_high": auc.high}
    return {**found, "n": n, "accuracy": (n - n_wrong) / n if n else None}


def auc_by_group(values: Sequence[float], wrong: Sequence[bool], groups: Sequence[str]) -> dict[str, dict[str, Any]]:
    """`auc_summary` within each group, by name."""
    rows: dict[str, list[int]] = {}
    for place, group in enumerate(groups):
        rows.setdefault(group, []).append(place)
    found = {}
    for group in sorted(rows):
        places = rows[group]
        inside = [values[i] for i in places], [wrong[i] for i in places]
        found[group] = auc_summary(*inside)
        if len(places) < MIN_GROUP:
            found[group] |= {"auc": None, "auc_low": None, "auc_high": None}
    return found


def verdict(summary: Mapping[str, Any], min_auc: float) -> str:
    """What an AUC with its interval is worth; see `FOLLOWS`.

    PASS: the whole interval is above the limit. WEAK: only the estimate is. Below the limit, NO SEPARATION: the
    interval holds 0.5, which is guessing. FAIL: all else, also where there is no AUC at all.
    """
    if summary["auc"] is None:
        return "FAIL"
    if summary["auc"] >= min_auc:
        return "PASS" if summary["auc_low"] >= min_auc else "WEAK"
    return "NO SEPARATION" if summary["auc_low"] <= 0.5 <= summary["auc_high"] else "FAIL"


FOLLOWS = {
    "PASS": "what is routed by it goes to questions that the student gets wrong more often",
    "WEAK": "it may be routed by, but it is not settled that it reaches the limit: look at the random control",
    "FAIL": "it is below the limit: bands by it choose hardly better than by lot, or worse, so do not route by it",
    "NO SEPARATION": "it is not told apart from guessing: bands by it may as well be drawn by lot",
}
"""What a verdict on a measure means for routing."""


def validate_table(
    rows: Sequence[dict[str, Any]], score: str, correct: str, by: str | None = None, source: str = "table"
) -> dict[str, Any]:
    """Validate any table's own score column.

    Args:
        rows: The table, a mapping per row.
        score: Column of scores, higher = less sure.
        correct: Column that says whether the student was right: true/false or 1/0.
        by: Column to group by, or None.
        source: The table's name in messages.

    Returns:
        `auc, auc_low, auc_high, n, accuracy, by`, and what `shape_summary` says.

    Raises:
        DataError: naming the row of a value that is no number or no truth value.
    """
    if not rows:
        raise DataError(f"{source}: no row can be used, see its column `unusable`", "score a table with usable rows")
    values = numbers(rows, score, source)
    wrong = [not right for right in truths(rows, correct, source)]
    groups = auc_by_group(values, wrong, [str(name) for name in column(rows, by, source)]) if by else {}
    return {**auc_summary(values, wrong), **shape_summary(np.array(values), np.array(wrong)), "by": groups}


def validate_columns(rows: Sequence[dict[str, Any]], correct: str = "correct") -> dict[str, dict[str, Any]]:
    """Every column of numbers of a table as a score, each on the rows where it has a value.

    Args:
        rows: The table; a cell that is None has no value.
        correct: Column of truth values.

    Returns:
        By column: `auc_summary`, `shape_summary`, `no_value`; and `behind`, the AUC of the first column less this
        one's, None for the first.
    """
    names = [name for name in rows[0] if any(_is_number(row[name]) for row in rows)] if rows else []
    columns = {name: {i: row[name] for i, row in enumerate(rows) if _is_number(row[name])} for name in names}
    found: dict[str, dict[str, Any]] = {}
    for name, cells in columns.items():
        wrong = [not rows[i][correct] for i in cells]
        shape = shape_summary(np.array(list(cells.values()), dtype=np.float64), np.array(wrong))
        first = columns[names[0]]
        pairs = [(first[i], value, not rows[i][correct]) for i, value in cells.items() if i in first]
        found[name] = {**auc_summary(list(cells.values()), wrong), **shape, "no_value": len(rows) - len(cells)}
        found[name]["behind"] = paired(pairs) if name != names[0] else None
    return found


def _is_number(cell: Any) -> bool:
    return isinstance(cell, int | float) and not isinstance(cell, bool)


def as_lines(found: Mapping[str, Any]) -> list[str]:
    """What `validate_table` found, as a table to read."""
    return auc_lines([("all", found), *found["by"].items()])


def auc_lines(rows: Sequence[tuple[str, Mapping[str, Any]]]) -> list[str]:
    """Names, each with its `auc_summary`, as a table to read."""
    width = max(len(name) for name, _ in rows)
    lines = [f"{'':{width}}  {'AUC':>6}  {'95% interval':^15}  {'n':>7}  accuracy"]
    for name, row in rows:
        auc = "   -  " if row["auc"] is None else f"{row['auc']:.4f}"
        span = "       -       " if row["auc"] is None else f"{row['auc_low']:.4f} - {row['auc_high']:.4f}"
        lines.append(f"{name:{width}}  {auc:>6}  {span}  {row['n']:>7,}  {row['accuracy']:.4f}")
    return lines


def measure_summary(
    values: Sequence[float], wrong: Sequence[bool], examples: Sequence[Example], min_auc: float
) -> dict[str, Any]:
    """All that is said of one measure on train rows.

    Args:
        values: N scores, higher = less sure.
        wrong: N truth values.
        examples: The N examples, for their subjects, levels and lengths.
        min_auc: The gate's limit.

    Returns:
        `auc_summary`, `gini`, `verdict`, `follows`, `by`, `by_level`, `deciles`, `calibration`, `within` (the AUC among
        questions of one subject and one quarter of lengths), `confidently_wrong`.
    """
    summary = auc_summary(values, wrong)
    found = verdict(summary, min_auc)
    levels = [str(one.level) for one in examples if one.level is not None]
    scores, errors = np.asarray(values, dtype=np.float64), np.asarray(wrong, dtype=bool)
    held = auc_within(scores, errors, subject_and_length(examples)) if summary["auc"] is not None else None
    return {
        **summary,
        **shape_summary(scores, errors),
        "verdict": found,
        "follows": FOLLOWS[found],
        "by": auc_by_group(values, wrong, [one.subject for one in examples]),
        "by_level": auc_by_group(values, wrong, levels) if len(levels) == len(examples) else {},
        "within": asdict(held) if held else None,
    }


def shape_summary(scores: np.ndarray, wrong: np.ndarray) -> dict[str, Any]:
    """What one figure cannot say of a score: `gini`, `deciles`, `calibration`, `confidently_wrong`; None where too few.

    Args:
        scores: (N,) finite, higher = less sure.
        wrong: (N,) bool.
    """
    is_measured, wrongly = 0 < wrong.sum() < len(wrong), wrong[surest_quarter(scores)]
    return {
        "gini": 2 * roc_auc(scores, wrong).value - 1 if is_measured else None,
        "deciles": deciles(scores, wrong),
        "calibration": asdict(calibration(scores, wrong)) if len(scores) >= MIN_GROUP else None,
        "confidently_wrong": asdict(wilson(int(wrongly.sum()), len(wrongly))) if len(wrongly) else None,
    }


def deciles(scores: np.ndarray, wrong: np.ndarray) -> list[dict[str, Any]]:
    """Accuracy in tenths of like number, from the surest up: `low` and `high` score, `n`, `accuracy`.

    Of equal scores those that come first stand in the lower tenth.

    Example:
        >>> [round(ten["accuracy"], 1) for ten in deciles(np.arange(20), np.arange(20) > 9)]
        [1.0, 1.0, 1.0, 1.0, 1.0, 0.0, 0.0, 0.0, 0.0, 0.0]
    """
    order = np.argsort(scores, kind="stable")
    parts = [rows for rows in np.array_split(order, 10) if len(rows)]
    return [
        {
            "low": float(scores[rows[0]]),
            "high": float(scores[rows[-1]]),
            "n": len(rows),
            "accuracy": float(1 - wrong[rows].mean()),
        }
        for rows in parts
    ]


def surest_quarter(scores: np.ndarray) -> np.ndarray:
    """Places of the quarter with the lowest scores, rounded up, surest first."""
    return np.argsort(scores, kind="stable")[: -(-len(scores) // 4)]


def subject_and_length(examples: Sequence[Example]) -> list[tuple[str, int]]:
    """The stratum of each example: its subject and the quarter of its length among all, options included."""
    lengths = np.array([len(one.question) + sum(map(len, one.options)) for one in examples])
    quarters = np.searchsorted(np.quantile(lengths, [0.25, 0.5, 0.75]), lengths) if len(lengths) else lengths
    return [(one.subject, int(quarter)) for one, quarter in zip(examples, quarters, strict=True)]


def beside(first: Mapping[str, Score], other: Mapping[str, Score]) -> dict[str, Any] | None:
    """How much better the driving measure predicts errors than another one, on the rows where both have a value.

    Args:
        first: Its scores by id.
        other: Those of the other measure.

    Returns:
        AUC of the driving measure less that of the other, `value`, `low`, `high`, `n`; None where no AUC can be had.
    """
    both = [(one.value, other[key].value, not one.correct) for key, one in first.items() if key in other]
    return paired([(a, b, is_wrong) for a, b, is_wrong in both if a is not None and b is not None])


def paired(rows: Sequence[tuple[float, float, bool]]) -> dict[str, Any] | None:
    """AUC of one score less that of another, from rows of both scores and whether the answer was wrong."""
    wrong = np.array([row[2] for row in rows], dtype=bool)
    if not rows or wrong.all() or not wrong.any():
        return None
    return asdict(auc_difference(np.array([row[0] for row in rows]), np.array([row[1] for row in rows]), wrong))


def validate_scores(recipe: Recipe, run: Run, unit: Unit) -> dict[str, Any]:
    """Judge the scores of the run by every measure; write the validation and return the driving measure's figures."""
    examples = run.records(Unit("prepare"), "examples.parquet", Example)
    scores, limit = run.records(Unit("score"), "scores.parquet", Score), recipe.validation.min_auc
    train = {example.id: example for example in examples if example.split == "train"}
    test = [example for example in examples if example.split == "test"]
    first = by_id(driving(scores))
    by_measure: dict[str, dict[str, Score]] = {}
    for row in scores:
        by_measure.setdefault(row.measure, {})[row.id] = row
    measures = {name: _judged(rows, train, limit) for name, rows in by_measure.items()}
    mark_scripted(measures, (run.manifest(Unit("score")) or {}).get("counts", {}))
    name, summary = next(iter(measures.items()))
    written = own_answers(run)
    for one, rows in by_measure.items():
        measures[one]["own"] = own_summary(one, rows, train, written)
    for other in list(measures)[1:]:
        own = [{key: row for key, row in by_measure[one].items() if key in train} for one in (name, other)]
        measures[other]["behind"] = beside(*own)
    values, wrong = _columns(list(train.values()), first)
    content = {
        **{key: summary[key] for key in ("auc", "auc_low", "auc_high", "n", "accuracy", "by", "by_level", "verdict")},
        "test": auc_summary(*_columns(test, first)),
        "curve": roc_curve_points(np.asarray(values), np.asarray(wrong)) if 0 < sum(wrong) < len(wrong) else [],
        "measure": name,
        "min_auc": limit,
        "on_fail": recipe.validation.on_fail,
        "measures": measures,
    }
    write_json(run.folder(unit) / "validation.json", content)
    confident = [one for rows in by_measure.values() for one in confidently_wrong(list(rows.values()), train)]
    write_records(run.folder(unit) / "confidently_wrong.parquet", Confident, confident)
    shown = {key: None if summary[key] is None else round(summary[key], 4) for key in ("auc", "auc_low", "auc_high")}
    return {"verdict": summary["verdict"], **shown, "n": summary["n"], "measures": len(measures)}


def own_answers(run: Run) -> dict[str, dict[str, bool]]:
    """By source and example, whether the answer in the student's own text is right; nothing where it wrote none."""
    found: dict[str, dict[str, bool]] = {}
    if (run.folder(Unit("score")) / OWN_ANSWERS).exists():
        for row in run.records(Unit("score"), OWN_ANSWERS, OwnAnswer):
            found.setdefault(row.source, {})[row.id] = row.correct
    return found


def own_summary(
    name: str, rows: Mapping[str, Score], train: Mapping[str, Example], written: Mapping[str, Mapping[str, bool]]
) -> dict[str, Any] | None:
    """`auc_summary` of a measure against the answers in the texts that it measures, and their `source`.

    None where what it measures is the answer at once, as for most.
    """
    measure = _registered(name)
    source = measure.answers_in if measure else None
    if source is None or source not in written:
        return None
    kept = {key: row.value for key, row in rows.items() if key in train and row.value is not None}
    return {"source": source, **auc_summary(list(kept.values()), [not written[source][key] for key in kept])}


def _judged(rows: Mapping[str, Score], train: Mapping[str, Example], min_auc: float) -> dict[str, Any]:
    """One measure on the train rows for which it has a value, with what the registry says of it."""
    found = [(row.value, not row.correct, train[key]) for key, row in rows.items() if key in train]
    kept = [(value, wrong, example) for value, wrong, example in found if value is not None]
    values, wrong, examples = [row[0] for row in kept], [row[1] for row in kept], [row[2] for row in kept]
    told = described(next(iter(rows.values())).measure)
    return {
        **told,
        **measure_summary(values, wrong, examples, min_auc),
        "no_value": len(found) - len(kept),
        "behind": None,
    }


def described(name: str) -> dict[str, str]:
    """The family, unit and price of a measure, in words; a column of the user's table has none."""
    measure = _registered(name)
    if measure is None:
        return {"kind": "column", "unit": "", "asks": "measured elsewhere"}
    return {"kind": measure.kind, "unit": measure.unit, "asks": cost_in_words(measure)}


def mark_scripted(measures: Mapping[str, dict[str, Any]], counts: Mapping[str, Any]) -> None:
    """Say of each measure whether its verdicts come from a rule in place of a judge: such figures prove nothing.

    Args:
        measures: By name, what was found; `is_scripted` is added to each.
        counts: Of the step `score`.
    """
    for name, found in measures.items():
        needs = find_measure(name).needs if found["kind"] != "column" else ()
        found["is_scripted"] = any(counts.get(f"scripted_{source}") for source in needs)
        if found["is_scripted"]:
            found["asks"] += " to a scripted judge"


def _registered(name: str) -> Measure | None:
    """The measure of that name; None for a column of the user's table."""
    try:
        return find_measure(name)
    except RecipeError:
        return None


def confidently_wrong(rows: Sequence[Score], train: Mapping[str, Example]) -> list[Confident]:
    """The wrong answers among the surest quarter of the train rows, surest first."""
    kept = [(row.value, row) for row in rows if row.id in train and row.value is not None]
    surest = surest_quarter(np.array([value for value, _ in kept]))
    return [
        Confident(row.measure, row.id, value, row.predicted, train[row.id].answer, train[row.id].question)
        for value, row in (kept[place] for place in surest)
        if not row.correct
    ]


def _columns(examples: Sequence[Example], scores: Mapping[str, Driven]) -> tuple[list[float], list[bool]]:
    found = [scores[example.id] for example in examples]
    return [score.value for score in found], [not score.correct for score in found]
