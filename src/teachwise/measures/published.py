"""Tables that others published, read into plain columns: one per measure, joined by question.

The tables of arXiv 2506.21220 come in five forms, each known by its columns, where M names a model (qwen2, phi3, ...):

    single token      entropy_value_M, entropy_ans_correct_M       the answer entropy; or M_entropy and M_ans_correct
    chain             M_entropies, M_ans_token_index, M_ans_correct    an entropy per token of a chain of thought
    reasoning model   the same, of a model that thinks first
    education level   masj_complexity, masj_rating                 a judge's level, and another judge's rating of it
    reasoning score   masj_num_reasoning_steps                     a judge's low, medium or high

"""

import csv
import io
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from teachwise.errors import DataError
from teachwise.tasks.table import Cells, column_names, read_table
from teachwise.text_file import read_text

EDUCATION = {"high_school_and_easier": 0.2, "undergraduate": 0.4, "graduate": 0.6, "postgraduate": 0.8}
"""A judge's level as a number, as the authors map it."""
STEPS = {"low": 0.25, "medium": 0.5, "high": 0.75}
"""A judge's number of reasoning steps, as the authors map it."""
LEAST_RATING = 9
"""A level that the second judge rated lower is not used."""
_SINGLE = (r"entropy_value_(.+)", "entropy_ans_correct_{}"), (r"(.+)_entropy", "{}_ans_correct")
_FORMS = "wanted one with entropy_value_M, M_entropies, masj_complexity or masj_num_reasoning_steps"


def join_published(paths: Sequence[str]) -> list[Cells]:
    """The rows of published tables, joined by their `question_id`.

    Args:
        paths: Tables of any of the five forms; the first that says what was answered right gives `correct`.

    Returns:
        A row per question: `question_id`, `correct`, and by form `answer_entropy`; `chain_answer`, `chain_max`,
        `chain_mean` and `chain_correct`; `education_level` and `education_rating`; `reasoning_steps`. None where a
        table has no value for a question. A column that comes twice is numbered, `answer_entropy_2`.

    Raises:
        DataError: a table of another form, without `question_id`, or none that says what was answered right.
    """
    joined: dict[str, Cells] = {}
    for path in paths:
        columns = read_published(path)
        taken = {name for row in joined.values() for name in row}
        for question, cells in columns.items():
            row = joined.setdefault(question, {"question_id": question})
            row |= {_free(name, taken): value for name, value in cells.items()}
    names = column_names(list(joined.values()))
    if "correct" not in names:
        raise DataError(f"{', '.join(paths)}: none says what the student answered right", _FORMS)
    return [{name: row.get(name) for name in names} for row in joined.values() if row.get("correct") is not None]


def _free(name: str, taken: set[str]) -> str:
    number = next(n for n in range(1, len(taken) + 2) if (name if n == 1 else f"{name}_{n}") not in taken)
    return name if number == 1 else f"{name}_{number}"


def read_published(path: str) -> dict[str, Cells]:
    """One published table: by question id, its measures and what was right.

    Raises:
        DataError: it is of another form, or has no `question_id`.
    """
    rows = _read(path)
    names = column_names(rows)
    if "question_id" not in names:
        raise DataError(f"{path}: no column 'question_id'", "published tables are joined by it")
    for form in (_chain, _single, _education, _reasoning):
        if (found := form(rows, names)) is not None:
            return {str(row["question_id"]): cells for row, cells in zip(rows, found, strict=True)}
    raise DataError(f"{path}: is no published table that is known here", _FORMS)


def _read(path: str) -> list[Cells]:
    """A table; one whose quotes are no quotes, but part of the text, is read as such."""
    try:
        return read_table(path)
    except DataError:
        if not path.endswith(".tsv"):
            raise
        reader = csv.DictReader(
            io.StringIO(read_text(Path(path)), newline=""), delimiter="\t", quoting=csv.QUOTE_NONE, escapechar="\\"
        )
        return list(reader)


def _single(rows: Sequence[Cells], names: Sequence[str]) -> list[Cells] | None:
    if {"entropy", "student_correct"} <= set(names):
        return [_answer(row["entropy"], row["student_correct"]) for row in rows]
    for pattern, correct in _SINGLE:
        for name in names:
            if (match := re.fullmatch(pattern, name)) and (right := correct.format(match[1])) in names:
                return [_answer(row[name], row[right]) for row in rows]
    return None


def _answer(entropy: Any, correct: Any) -> Cells:
    return {"correct": _truth(correct), "answer_entropy": _number(entropy)}


def _chain(rows: Sequence[Cells], names: Sequence[str]) -> list[Cells] | None:
    for name in names:
        model = name.removesuffix("entropies")
        if name != model and {f"{model}ans_token_index", f"{model}ans_correct"} <= set(names):
            return [_chain_cells(row, model) for row in rows]
    return None


def _chain_cells(row: Mapping[str, Any], model: str) -> Cells:
    """Where no answer token was found its index is -1 or missing: the answer has no entropy, the chain has."""
    stored = row[f"{model}entropies"]
    entropies = json.loads(stored) if isinstance(stored, str) and stored else list(stored or ())
    index = _number(row[f"{model}ans_token_index"])
    at = -1 if index is None else int(index)
    correct = _truth(row[f"{model}ans_correct"])
    return {
        "correct": correct,
        "chain_correct": correct,
        "chain_answer": float(entropies[at]) if 0 <= at < len(entropies) else None,
        "chain_max": max(entropies) if entropies else None,
        "chain_mean": sum(entropies) / len(entropies) if entropies else None,
    }


def _education(rows: Sequence[Cells], names: Sequence[str]) -> list[Cells] | None:
    if "masj_complexity" not in names:
        return None
    ratings = [_number(row.get("masj_rating")) for row in rows]
    is_rated = "masj_rating" in names
    return [
        {
            "education_level": EDUCATION.get(str(row["masj_complexity"]))
            if not is_rated or (rating or 0) >= LEAST_RATING
            else None,
            "education_rating": rating,
        }
        for row, rating in zip(rows, ratings, strict=True)
    ]


def _reasoning(rows: Sequence[Cells], names: Sequence[str]) -> list[Cells] | None:
    if "masj_num_reasoning_steps" not in names:
        return None
    return [{"reasoning_steps": STEPS.get(str(row["masj_num_reasoning_steps"]))} for row in rows]


def _number(cell: Any) -> float | None:
    try:
        number = float(cell)
    except (TypeError, ValueError):
        return None
    return number if number == number else None


def _truth(cell: Any) -> bool | None:
    return {"true": True, "1": True, "1.0": True, "false": False, "0": False, "0.0": False}.get(str(cell).lower())
