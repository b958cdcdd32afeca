"""Answering: how a student is asked and its answers are kept, the same when it is judged and when it is used.

direct  one letter at once; the entropy of that first token tells how sure the student is
cot     a chain of thought, then the letter
routed  direct where that entropy is at most a threshold, a chain of thought where it is above
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from teachwise.engines import length_batches
from teachwise.records import Example, Mode, Prediction
from teachwise.run_folder import in_parts
from teachwise.tasks import Task

if TYPE_CHECKING:
    from teachwise.engines.hf import HfEngine


def thinks(mode: Mode, score: float, threshold: float) -> bool:
    """Whether a question is answered with a chain of thought.

    Args:
        mode: How the student is asked.
        score: Its answer entropy on this question, nats.
        threshold: For `routed`: at most this is answered at once, nats.

    Example:
        >>> thinks("routed", 0.5, 0.5), thinks("routed", 0.6, 0.5), thinks("direct", 9.9, 0.5)
        (False, True, False)
    """
    return mode == "cot" or (mode == "routed" and score > threshold)


def answer_directly(
    examples: Sequence[Example], engine: "HfEngine", task: Task, batch_tokens: int, folder: Path
) -> list[Prediction]:
    """One letter for each example, with the answer entropy, in the order of `examples`."""
    if not examples:
        return []
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
    engine: "HfEngine",
    task: Task,
    max_new_tokens: int,
    batch_tokens: int,
    folder: Path,
) -> list[Prediction]:
    """A chain of thought for each example, in the order of `examples`; `scores` are taken over from the direct pass."""
    if not examples:
        return []
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
