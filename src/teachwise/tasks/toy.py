"""The task in the box: endless questions from a generator, small enough for a student that trains on a laptop."""

import re
from collections.abc import Iterator, Mapping
from typing import Any, Literal

from teachwise.records import Example, Message, Split, Unusable
from teachwise.tasks import Row
from teachwise.tasks.letters import read_letter
from teachwise.toy.benchmark import draw, user_message

SIZES: dict[Split, int] = {"train": 2000, "dev": 600, "test": 2000}
"""Questions per split, where nobody says otherwise."""
_NUMBER = re.compile(r"\[\[ (\d+) \]\]|^\s*(\d+)\s*$")


class Toy:
    """Questions drawn from `teachwise.toy.benchmark`, which also decides their split.

    Args:
        kind: ``choice`` (options with letters) or ``open`` (the answer is a number).
        seed: Same seed, same questions.
        limit: Questions per split; a split that is not named keeps its size in `SIZES`.
    """

    prompt_version = "toy-2"

    def __init__(
        self,
        seed: int = 0,
        limit: Mapping[Split, int] | None = None,
        kind: Literal["choice", "open"] = "choice",
        **_: object,
    ) -> None:
        self.kind = kind
        self.seed = seed
        self.sizes: dict[Split, int] = {**SIZES, **(limit or {})}

    def rows(self) -> Iterator[Row | Unusable]:
        """Every question, split by split; its level is the number of reasoning steps."""
        drawn = [
            (split, item) for split, size in self.sizes.items() for item in draw(split, size, self.seed, self.kind)
        ]
        for number, (split, item) in enumerate(drawn):
            yield Row(number, item.question, item.options, item.answer, item.subject, item.steps, split)

    def messages(self, example: Example, mode: Literal["direct", "cot"]) -> tuple[Message, ...]:
        """One user message; the student knows no system message."""
        return ({"role": "user", "content": user_message(example.question, example.options, mode)},)

    def teacher_messages(self, example: Example, show_answer: bool = False) -> tuple[Message, ...]:
        """The request to work it out; a shown answer stands before it."""
        told = {"role": "system", "content": f"the answer is {example.answer}"}
        return (*([told] if show_answer else []), *self.messages(example, "cot"))

    def read_answer(self, example: Example, text: str) -> str | None:
        """The answer that a text states: a letter, as for any multiple choice, or the last number in brackets."""
        if example.options:
            return read_letter(text, example.options)
        stated = [bracketed or alone for bracketed, alone in _NUMBER.findall(text)]
        return stated[-1] if stated else None


def open_toy(**options: Any) -> Toy:
    """The toy's open questions, sums whose answer is a number."""
    return Toy(**options, kind="open")
