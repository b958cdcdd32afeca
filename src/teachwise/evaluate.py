"""Evaluate: answer the held-out questions, greedily, in every mode.

in   prepare/examples.parquet                            Example
in   train/ARM/seed-S/round-R/stage-N/                   the tuned student; the untouched one where an arm has no stage
out  evaluate/ARM/seed-S/round-R/predictions.parquet     Prediction: one row per dev or test question and mode
out  evaluate/ARM/seed-S/round-R/evaluation.json         the routing threshold chosen on dev, dev accuracy by mode

direct  one letter at once
cot     a chain of thought, then the letter
routed  direct when the student's own answer entropy is low, a chain of thought when it is high; on test with the
        threshold that served best on dev, on dev itself with the one that served best on its other half
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, get_args

import numpy as np

from teachwise.answering import answer_directly, answer_thinking, thinks
from teachwise.engines.hf import HfEngine
from teachwise.recipe import Recipe
from teachwise.records import Example, Mode, Prediction
from teachwise.run_folder import Run, Unit, content_hash, write_json, write_records
from teachwise.tasks import load_task
from teachwise.tuned import engine_options


def routing_threshold(scores: np.ndarray, direct: np.ndarray, cot: np.ndarray, grid: int = 20) -> float:
    """The score above which thinking pays, chosen on dev.

    Tries the quantiles of the scores in steps of 1/grid, from "never think" to "always think"; among equally accurate
    ones the highest wins, since it thinks least.

    Args:
        scores: (N,) the student's own scores on dev, higher = less sure.
        direct: (N,) bool, its direct answer is correct.
        cot: (N,) bool, its answer after a chain of thought is correct.
        grid: Number of steps.

    Returns:
        The threshold: think where score > threshold. The lowest possible is -1, which always thinks.

    Example:
        >>> routing_threshold(np.array([0.1, 2.0]), np.array([True, False]), np.array([False, True]))
        0.1
    """
    ordered = np.sort(scores)
    places = np.unique(np.round(np.linspace(0, len(scores), grid + 1)).astype(int))
    candidates = [-1.0 if place == 0 else float(ordered[place - 1]) for place in places]
    accuracy = [float(np.where(scores > at, cot, direct).mean()) for at in candidates]
    return max(zip(accuracy, candidates, strict=True))[1]


def fold_of(example_id: str) -> int:
    """Which half of dev an example belongs to, from its id alone."""
    return int(content_hash(example_id), 16) % 2


def dev_thresholds(direct: Sequence[Prediction], cot: Sequence[Prediction]) -> list[float]:
    """A threshold for every dev answer, chosen on the other half of dev.

    With one threshold chosen on all of dev, routing could never look worse there than always thinking or never
    thinking, and would always be the chosen mode. Judged on the half it was not chosen on, it has to earn that.
    """
    fitted = []
    for other in (1, 0):
        rows = [(early, late) for early, late in zip(direct, cot, strict=True) if fold_of(early.id) == other]
        fitted.append(_threshold(rows))
    return [fitted[fold_of(early.id)] for early in direct]


def _threshold(rows: Sequence[tuple[Prediction, Prediction]]) -> float:
    if not rows:
        return -1.0
    scores = np.array([early.score for early, _ in rows])
    right = np.array([(early.correct, late.correct) for early, late in rows])
    return routing_threshold(scores, right[:, 0], right[:, 1])


def routed(direct: Sequence[Prediction], cot: Sequence[Prediction], thresholds: Sequence[float]) -> list[Prediction]:
    """The routed answers; the first token that measured the score is counted also where the student then thinks."""
    return [
        replace(late, mode="routed", generated_tokens=late.generated_tokens + 1)
        if thinks("routed", early.score, threshold)
        else replace(early, mode="routed")
        for early, late, threshold in zip(direct, cot, thresholds, strict=True)
    ]


def evaluate_arm(recipe: Recipe, run: Run, unit: Unit) -> dict[str, Any]:
    """Answer dev and test with one tuned student; return its accuracies."""
    examples = [e for e in run.records(Unit("prepare"), "examples.parquet", Example) if e.split != "train"]
    task = load_task(recipe.data.task, **recipe.data.task_options())
    engine, folder, spec = tuned_student(recipe, run, unit), run.folder(unit), recipe.evaluate
    direct = answer_directly(examples, engine, task, spec.batch_tokens, folder)
    scores = [row.score for row in direct]
    cot = answer_thinking(examples, scores, engine, task, spec.max_new_tokens, spec.batch_tokens, folder)
    late = {row.id: row for row in cot}
    dev = [row for row in direct if row.split == "dev"]
    test = [row for row in direct if row.split == "test"]
    threshold = _threshold([(row, late[row.id]) for row in dev])
    predictions = [
        *direct,
        *cot,
        *routed(dev, [late[row.id] for row in dev], dev_thresholds(dev, [late[row.id] for row in dev])),
        *routed(test, [late[row.id] for row in test], [threshold] * len(test)),
    ]
    accuracy = {mode: _accuracy(predictions, "dev", mode) for mode in get_args(Mode)}
    write_records(folder / "predictions.parquet", Prediction, predictions)
    write_json(folder / "evaluation.json", {"threshold_nats": threshold, "dev_accuracy": accuracy})
    return {f"{mode}_dev": round(accuracy[mode], 4) for mode in get_args(Mode)}


def tuned_student(recipe: Recipe, run: Run, unit: Unit) -> HfEngine:
    """The student after an arm's last stage; the untouched one where the arm has none."""
    return HfEngine(**engine_options(recipe, run, unit))


def _accuracy(predictions: Sequence[Prediction], split: str, mode: str) -> float:
    right = [row.correct for row in predictions if row.split == split and row.mode == mode]
    return sum(right) / len(right)
