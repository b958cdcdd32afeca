"""Lessons: what an assignment means for training, the same for our own trainer and for every export."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from teachwise.records import Assignment, Example, Rationale


@dataclass(frozen=True)
class Skipped:
    """An assigned row that was not trained on.

    Attributes:
        id: The example.
        stage: Index of the training stage, from 0.
        reason: Its rationale was rejected, or it is longer than `train.max_length`.
    """

    id: str
    stage: int
    reason: str


@dataclass(frozen=True)
class Lesson:
    """What the student learns from one example: how it is asked, and what it should write."""

    id: str
    mode: Literal["direct", "cot"]
    completion: str


def lessons_of(
    assignments: Sequence[Assignment],
    stage: int,
    examples: Mapping[str, Example],
    rationales: Mapping[str, Rationale],
    on_rejected: str,
) -> tuple[list[Lesson], list[Skipped]]:
    """The lessons of one stage, in order of id, and the rows left out.

    Only kept rationales are learnt; an example whose rationale was rejected is left out or gets its answer
    (`on_rejected`), the same for all arms.
    """
    lessons, skipped = [], []
    for one in sorted((a for a in assignments if a.stage == stage), key=lambda a: a.id):
        answer = Lesson(one.id, "direct", examples[one.id].answer)
        if one.give == "answer":
            lessons.append(answer)
        elif rationales[one.id].kept:
            lessons.append(Lesson(one.id, "cot", rationales[one.id].text.strip()))
        elif on_rejected == "answer":
            lessons.append(answer)
        else:
            skipped.append(Skipped(one.id, stage, f"rationale {rationales[one.id].verdict}"))
    return lessons, skipped
