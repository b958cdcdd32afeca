"""Tasks: where questions come from, how a model is asked, and how its answer is read.

One file per family of data sets. To add one, write a class with these attributes and methods and a line in `TASKS`.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from importlib import import_module
from typing import Literal, Protocol

from teachwise.records import Example, Message, Split, Unusable
from teachwise.run_folder import content_hash


@dataclass(frozen=True)
class Row:
    """One usable row of a source, before it has an id and a split.

    Attributes:
        row: Its number in the source, from 0.
        question: The question alone.
        options: K >= 2 option texts, in order.
        answer: The gold option's letter.
        subject: "" where the source has none.
        level: Known difficulty, or None.
        split: Where the source itself puts it, or None.
    """

    row: int
    question: str
    options: tuple[str, ...]
    answer: str
    subject: str = ""
    level: int | None = None
    split: Split | None = None

    @property
    def id(self) -> str:
        """Content hash of the question and its options, blind to white space.

        Example:
            >>> Row(0, "1 + 1?", ("2", "3"), "A").id == Row(7, " 1 +  1? ", ("2", "3"), "A").id
            True
        """
        return content_hash("\x1f".join(" ".join(text.split()) for text in (self.question, *self.options)))

    def example(self, split: Split) -> Example:
        """The row as an example of a split."""
        return Example(self.id, self.row, split, self.subject, self.level, self.question, self.options, self.answer)


class Task(Protocol):
    """A family of questions."""

    prompt_version: str
    """Raised whenever the words of a prompt change: scores and rationales then belong to another prompt."""

    def rows(self) -> Iterator[Row | Unusable]:
        """Every row of the source, in order; one that cannot be used comes with its reason."""
        ...

    def messages(self, example: Example, mode: Literal["direct", "cot"]) -> tuple[Message, ...]:
        """What the student is asked: for one letter at once, or to think first."""
        ...

    def teacher_messages(self, example: Example, show_answer: bool = False) -> tuple[Message, ...]:
        """What the teacher is asked; the gold answer is in it only where `show_answer` says so."""
        ...

    def read_answer(self, example: Example, text: str) -> str | None:
        """The letter that a text states as its final answer, or None where it states none."""
        ...


TASKS = {
    "multiple_choice": "teachwise.tasks.multiple_choice:MultipleChoice",
    "mmlu_pro": "teachwise.tasks.mmlu_pro:MmluPro",
    "toy": "teachwise.tasks.toy:Toy",
    "toy_open": "teachwise.tasks.toy:open_toy",
}


def load_task(name: str, **options: object) -> Task:
    """The task of that name; of `options`, the flat fields of the `data` section, each task takes its own."""
    module, _, attribute = TASKS[name].partition(":")
    task: Task = getattr(import_module(module), attribute)(**options)
    return task
