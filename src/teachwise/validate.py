"""Validate: do the scores predict the student's errors? A gate before any money is spent.

in   prepare/examples.parquet    Example
in   score/scores.parquet        Score
out  validate/validation.json    ROC AUC with interval on train rows, by subject, the verdict; AUC on test apart
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from teachwise.errors import DataError
from teachwise.recipe import Recipe
from teachwise.records import Driven, Example, Score, by_id, driving
from teachwise.run_folder import Run, Unit, write_json
from teachwise.stats import roc_auc, roc_curve_points
from teachwise.tasks.table import column, numbers, truths

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
    """PASS: the whole interval is above the limit. WEAK: only the estimate is. FAIL: neither, or no AUC at all."""
    if summary["auc"] is None or summary["auc"] < min_auc:
        return "FAIL"
    return "PASS" if summary["auc_low"] >= min_auc else "WEAK"


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
        `auc, auc_low, auc_high, n, accuracy, by`.

    Raises:
        DataError: naming the row of a value that is no number or no truth value.
    """
    if not rows:
        raise DataError(f"{source}: no row can be used, see its column `unusable`", "score a table with usable rows")
    values = numbers(rows, score, source)
    wrong = [not right for right in truths(rows, correct, source)]
    groups = auc_by_group(values, wrong, [str(name) for name in column(rows, by, source)]) if by else {}
    return {**auc_summary(values, wrong), "by": groups}


def as_lines(found: Mapping[str, Any]) -> list[str]:
    """What `validate_table` found, as a table to read."""
    rows = [("all", found), *found["by"].items()]
    width = max(len(name) for name, _ in rows)
    lines = [f"{'':{width}}  {'AUC':>6}  {'95% interval':^15}  {'n':>7}  accuracy"]
    for name, row in rows:
        auc = "   -  " if row["auc"] is None else f"{row['auc']:.4f}"
        span = "       -       " if row["auc"] is None else f"{row['auc_low']:.4f} - {row['auc_high']:.4f}"
        lines.append(f"{name:{width}}  {auc:>6}  {span}  {row['n']:>7,}  {row['accuracy']:.4f}")
    return lines


def validate_scores(recipe: Recipe, run: Run, unit: Unit) -> dict[str, Any]:
    """Judge the scores of the run; write the validation and return its figures."""
    examples = run.records(Unit("prepare"), "examples.parquet", Example)
    scores = by_id(driving(run.records(Unit("score"), "scores.parquet", Score)))
    train = [example for example in examples if example.split == "train"]
    test = [example for example in examples if example.split == "test"]
    values, wrong = _columns(train, scores)
    summary = auc_summary(values, wrong)
    decision = verdict(summary, recipe.validation.min_auc)
    levels = [str(example.level) for example in train if example.level is not None]
    content = {
        **summary,
        "by": auc_by_group(values, wrong, [example.subject for example in train]),
        "by_level": auc_by_group(values, wrong, levels) if len(levels) == len(train) else {},
        "test": auc_summary(*_columns(test, scores)),
        "curve": roc_curve_points(np.asarray(values), np.asarray(wrong)) if summary["auc"] is not None else [],
        "measure": next(iter(scores.values())).measure,
        "min_auc": recipe.validation.min_auc,
        "verdict": decision,
        "on_fail": recipe.validation.on_fail,
    }
    write_json(run.folder(unit) / "validation.json", content)
    shown = {
        name: None if summary[name] is None else round(summary[name], 4) for name in ("auc", "auc_low", "auc_high")
    }
    return {"verdict": decision, **shown, "n": summary["n"]}


def _columns(examples: Sequence[Example], scores: Mapping[str, Driven]) -> tuple[list[float], list[bool]]:
    found = [scores[example.id] for example in examples]
    return [score.value for score in found], [not score.correct for score in found]
