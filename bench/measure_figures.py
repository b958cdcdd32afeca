"""The figures of `bench/measures.py`, from a run's tables: what each measure is worth, beside the controls and apart.

A measure has a role. `signal`: it may be had for a new question. `control`: it asks no model. `gold`: it looks at the
gold answer. `scripted`: it asks a teacher, and the toy's teacher is a program that knows the number of steps; of these
nothing is claimed.
"""

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from scipy.stats import rankdata

from teachwise.measures import Known, find_measure
from teachwise.records import Example, Score
from teachwise.run_folder import Run, Unit
from teachwise.stats import roc_auc
from teachwise.validate import auc_summary, beside, measure_summary

REAL = "mmlu_pro_qwen25_3b_entropy.parquet"
NEARLY = 0.999
"""Rank correlation from which two measures are named as nearly alike."""
Scores = Mapping[str, Score]


def values_of(run: Run) -> dict[str, dict[str, Score]]:
    """The scores of a run, by measure and example."""
    found: dict[str, dict[str, Score]] = {}
    for row in run.records(Unit("score"), "scores.parquet", Score):
        found.setdefault(row.measure, {})[row.id] = row
    return found


def figures(run: Run) -> list[dict[str, Any]]:
    """All that is said of every measure: on train as `validate` judged it, on test, and against each control."""
    judged = run.json(Unit("validate"), "validation.json")["measures"]
    examples = run.records(Unit("prepare"), "examples.parquet", Example)
    splits = {one: {example.id for example in examples if example.split == one} for one in ("train", "test")}
    scores = values_of(run)
    by_split = {
        split: {name: {key: row for key, row in rows.items() if key in ids} for name, rows in scores.items()}
        for split, ids in splits.items()
    }
    controls = [name for name in scores if role_of(name) == "control"]
    first = next(iter(scores))
    rows = []
    for name, found in judged.items():
        test = by_split["test"]
        against = {
            split: {one: beside(own[name], own[one]) for one in controls if one != name}
            for split, own in by_split.items()
        }
        summary = _auc(_summary(test[name]))
        behind = beside(test[first], test[name]) if name != first else None
        rows.append({**_told(name, found), "test": {"auc": summary, "behind": behind}, "against": against})
    return rows


def role_of(name: str) -> str:
    """`signal`, `control`, `gold` or `scripted`."""
    measure = find_measure(name)
    if measure.cost["teacher_calls"]:
        return "scripted"
    return {"controls": "control", "gold": "gold"}.get(measure.kind, "signal")


def _told(name: str, found: Mapping[str, Any]) -> dict[str, Any]:
    """What `validate` found of one measure, without what the page has no place for."""
    held, own = found["calibration"] or {}, found.get("own")
    auc = _auc(found)
    return {
        "name": name,
        "role": role_of(name),
        **{key: found[key] for key in ("kind", "unit", "asks", "verdict", "no_value", "within", "behind")},
        "cost": find_measure(name).cost,
        "auc": auc,
        "gini": _gini(auc),
        "ece": held.get("ece"),
        "brier": held.get("brier"),
        "confidently_wrong": found["confidently_wrong"],
        "own": {"source": own["source"], **_auc(own)} if own else None,
        "by": {subject: {**_auc(one), "accuracy": one["accuracy"]} for subject, one in found["by"].items()},
    }


def _auc(summary: Mapping[str, Any]) -> dict[str, Any]:
    return {"value": summary["auc"], "low": summary["auc_low"], "high": summary["auc_high"], "n": summary["n"]}


def _gini(auc: Mapping[str, Any]) -> dict[str, Any] | None:
    if auc["value"] is None:
        return None
    low, value, high = (2 * auc[one] - 1 for one in ("low", "value", "high"))
    return {"value": value, "low": low, "high": high, "n": auc["n"]}


def _summary(rows: Scores) -> dict[str, Any]:
    kept = [(row.value, not row.correct) for row in rows.values() if row.value is not None]
    return auc_summary([value for value, _ in kept], [wrong for _, wrong in kept])


# ------------------------------------------------------------------------------------------ alike


@dataclass(frozen=True)
class Reason:
    """Why two measures must rank alike.

    Attributes:
        names: The two.
        because: The proof, from a condition.
        holds: Whether the condition holds of what is known.
    """

    names: frozenset[str]
    because: str
    holds: Callable[[Known], bool]


def _one_spelling(known: Known) -> bool:
    pairs = [(one.letter_logprobs, one.option_logprobs) for one in known.answers]
    return all(np.allclose(letters, options, rtol=1e-9, atol=1e-12) for letters, options in pairs)


def _one_count(known: Known) -> bool:
    return len({len(one.letter_logprobs) for one in known.answers}) == 1


def _two_tokens(known: Known) -> bool:
    return all(abs(math.exp(one.top_logprob) + math.exp(one.second_logprob) - 1) < 1e-9 for one in known.answers)


_SPELLING = "each letter is one token in one spelling, so both are the same function of the same probabilities q"
_COUNT = "all questions have the same number of options K, and dividing by the constant ln K keeps every order"
_TWO = "two tokens hold all the mass: p2 = 1 - p1, so 1 - (p1 - p2) = 2 (1 - p1), which orders as 1 - p1 does"
REASONS = (
    Reason(frozenset({"option_entropy", "option_entropy_any_form"}), _SPELLING, _one_spelling),
    Reason(frozenset({"option_entropy", "option_entropy_share"}), _COUNT, _one_count),
    Reason(
        frozenset({"option_entropy_any_form", "option_entropy_share"}),
        f"{_SPELLING}; {_COUNT}",
        lambda known: _one_spelling(known) and _one_count(known),
    ),
    Reason(frozenset({"margin", "max_probability"}), _TWO, _two_tokens),
)
"""What is proved. Two measures that rank alike without one of these are a fault of the registry, or of a proof."""


def alike(scores: Mapping[str, Scores], known: Known) -> list[dict[str, Any]]:
    """Pairs of measures that say the same, the strictest way first.

    Returns:
        For each pair `names`, `how` (`values`, `ranking`, `auc`: an equal AUC on train by another ranking, `nearly`),
        `rho`, the rank correlation, and `because`, the proof that it must be so, None where there is none.
    """
    train = np.array([one.split == "train" for one in known.examples])
    columns = {name: _column(rows, known) for name, rows in scores.items()}
    found = []
    for (one, a), (other, b) in itertools.combinations(columns.items(), 2):
        both = np.isfinite(a) & np.isfinite(b)
        if both.sum() < 2 or not np.array_equal(np.isfinite(a), np.isfinite(b)):
            continue
        how, rho = _likeness(a[both], b[both], ~known.correct[both], train[both])
        if how:
            proofs = [reason.because for reason in REASONS if reason.names == {one, other} and reason.holds(known)]
            found.append({"names": [one, other], "how": how, "rho": rho, "because": proofs[0] if proofs else None})
    order = ("values", "ranking", "auc", "nearly")
    return sorted(found, key=lambda pair: order.index(pair["how"]))


def _column(rows: Scores, known: Known) -> np.ndarray:
    values = [rows[one.id].value for one in known.examples]
    return np.array([math.nan if one is None else one for one in values], dtype=np.float64)


def _likeness(a: np.ndarray, b: np.ndarray, wrong: np.ndarray, train: np.ndarray) -> tuple[str | None, float]:
    """How two scores are alike, if they are, and their rank correlation (0 where one is the same everywhere)."""
    first, second = rankdata(a), rankdata(b)
    is_flat = not (first.std() and second.std())
    rho = 0.0 if is_flat else float(np.corrcoef(first, second)[0, 1])
    if np.allclose(a, b, rtol=1e-9, atol=1e-12):
        return "values", rho
    if np.array_equal(first, second):
        return "ranking", rho
    if 0 < wrong[train].sum() < train.sum():
        aucs = [roc_auc(one[train], wrong[train]).value for one in (a, b)]
        if abs(aucs[0] - aucs[1]) < 1e-12:
            return "auc", rho
    return ("nearly" if rho >= NEARLY else None), rho


# ---------------------------------------------------------------------------------------- domains


def domain_of(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The toy beside other tables: every measure that these have too, in all and by subject."""
    shared = [row for row in rows if row["role"] == "control" or row["name"] == "answer_entropy"]
    return {
        "measured": date.today().isoformat(),
        "measures": {row["name"]: {key: row[key] for key in ("auc", "within", "behind", "by")} for row in shared},
    }


def real_domain(data: Path) -> dict[str, Any] | None:
    """The same of the real table, Qwen2.5-3B-Instruct on MMLU-Pro, all rows; None where the data is absent."""
    if not (data / REAL).is_file():
        return None
    table = pq.read_table(data / REAL).to_pylist()
    examples = [
        Example(f"r{n}", n, "train", row["category"], None, row["question"], tuple(row["options"]), row["answer"])
        for n, row in enumerate(table)
    ]
    known = Known(examples, np.array([row["student_correct"] for row in table], dtype=bool))
    names = ("question_length", "option_count", "subject_prior", "random")
    columns = {"answer_entropy": np.array([row["entropy"] for row in table])}
    columns |= {name: find_measure(name)(known) for name in names}
    return {"measured": date.today().isoformat(), "measures": _judged(columns, known)}


def _judged(columns: Mapping[str, np.ndarray], known: Known) -> dict[str, Any]:
    wrong = (~known.correct).tolist()
    scores = {
        name: {
            one.id: Score(one.id, name, float(value), None, bool(right), None, None, 0)
            for one, value, right in zip(known.examples, values, known.correct, strict=True)
        }
        for name, values in columns.items()
    }
    first = next(iter(scores.values()))
    found = {}
    for name, values in columns.items():
        summary = measure_summary(values.tolist(), wrong, known.examples, 0.6)
        told = {subject: {**_auc(one), "accuracy": one["accuracy"]} for subject, one in summary["by"].items()}
        behind = beside(first, scores[name]) if scores[name] is not first else None
        found[name] = {"auc": _auc(summary), "within": summary["within"], "behind": behind, "by": told}
    return found
