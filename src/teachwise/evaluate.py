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
from pathlib import Path
from typing import Any, get_args

import numpy as np

from teachwise.engines import length_batches
from teachwise.engines.hf import HfEngine
from teachwise.recipe import Recipe
from teachwise.records import Example, Mode, Prediction
from teachwise.run import Run, Unit, content_hash, in_parts, write_json, write_records
from teachwise.tasks import Task, load_task


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
        if early.score > threshold
        else replace(early, mode="routed")
        for early, late, threshold in zip(direct, cot, thresholds, strict=True)
    ]


def answer_directly(
    examples: Sequence[Example], engine: HfEngine, task: Task, batch_tokens: int, folder: Path
) -> list[Prediction]:
    """One letter for each example, with the answer entropy, in the order of `examples`."""
    prompts = engine.chat.prompt_ids([task.messages(example, "direct") for example in examples])

    def work(batch: Sequence[int]) -> list[Prediction]:
        found = engine.answer_scores([prompts[i] for i in batch], [examples[i].letters for i in batch])
        return [
            _prediction(task, examples[i], "direct", one.token, one.entropy_nats, 1)
            for i, one in zip(batch, found, strict=True)
        ]

    batches = length_batches([len(prompt) for prompt in prompts], batch_tokens)
    return _ordered(in_parts(folder, Prediction, batches, work, "answering directly"), examples)


def answer_thinking(
    examples: Sequence[Example],
    scores: Sequence[float],
    engine: HfEngine,
    task: Task,
    max_new_tokens: int,
    batch_tokens: int,
    folder: Path,
) -> list[Prediction]:
    """A chain of thought for each example, in the order of `examples`; `scores` are taken over from the direct pass."""
    prompts = engine.chat.prompt_ids([task.messages(example, "cot") for example in examples])

    def work(batch: Sequence[int]) -> list[Prediction]:
        found = engine.generate([prompts[i] for i in batch], max_new_tokens)
        return [
            _prediction(task, examples[i], "cot", one.text, scores[i], one.tokens)
            for i, one in zip(batch, found, strict=True)
        ]

    batches = length_batches([len(prompt) + max_new_tokens for prompt in prompts], batch_tokens)
    return _ordered(in_parts(folder, Prediction, batches, work, "answering with thought"), examples)


def _prediction(task: Task, example: Example, mode: Mode, text: str, score: float, tokens: int) -> Prediction:
    stated = task.read_answer(example, text)
    return Prediction(example.id, example.split, mode, stated, stated == example.answer, score, tokens, text)


def _ordered(rows: Sequence[Prediction], examples: Sequence[Example]) -> list[Prediction]:
    place = {example.id: number for number, example in enumerate(examples)}
    return sorted(rows, key=lambda row: place[row.id])


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
    options = recipe.student.model_dump()
    n_stages = len(recipe.stages_of(unit.arm))
    if not n_stages:
        return HfEngine(**options)
    last = run.folder(unit.of("train")) / f"stage-{n_stages - 1}"
    if recipe.train.method == "lora":
        return HfEngine(**options, adapter=last)
    return HfEngine(**{**options, "model": str(last), "revision": None})


def _accuracy(predictions: Sequence[Prediction], split: str, mode: str) -> float:
    right = [row.correct for row in predictions if row.split == split and row.mode == mode]
    return sum(right) / len(right)
