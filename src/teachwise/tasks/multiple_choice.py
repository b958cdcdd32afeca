"""Multiple-choice questions from any table.

How the answer column is read (`answer_is: auto`), decided once for the whole column:

    letter           "B", "b" or "(B)", within the options; or the option's own label, where the source has labels
    text             the exact text of an option
    index            a whole number from 0
    index_from_1     a whole number from 1

A way of reading is a candidate when it fits more than half of the answers; those that fit all of them come first.
Where candidates disagree about any row (options that are letters or numbers themselves; indexes that hold neither 0
nor K, or both), the user is asked to say which. A row that does not fit the way chosen is set apart, never guessed.

Where a table has an answer column and an index column too, the answer column wins; rows where they disagree are used
and listed in `notes`.
"""

import ast
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

from teachwise.errors import DataError
from teachwise.records import LETTERS, Example, Message, Split, Unusable
from teachwise.tasks import Row
from teachwise.tasks.columns import INDEX_NAMES, Columns, find_columns
from teachwise.tasks.letters import read_letter
from teachwise.tasks.table import Cells, column, column_names, read_table

SPLITS: dict[str, Split] = {
    "train": "train",
    "dev": "dev",
    "validation": "dev",
    "valid": "dev",
    "val": "dev",
    "test": "test",
}


NO_ANSWER = "the answer is missing"
"""The fault of a row that lacks nothing else; whoever wants answers only asks for the rest."""


@dataclass(frozen=True)
class Item:
    """A row of the table as far as it could be read.

    Attributes:
        question: "" where empty.
        options: The option texts; empty where they could not be read.
        labels: The source's own names of the options, or ().
        answer: The answer cell as text, "" where missing.
        fault: Why the row cannot be used, "" where it can.
    """

    question: str
    options: tuple[str, ...]
    labels: tuple[str, ...]
    answer: str
    fault: str


def as_text(cell: Any) -> str:
    """A cell as text; "" for none. Whole floats lose their ".0": a column of indexes with gaps is read as floats."""
    if cell is None or cell != cell:
        return ""
    return str(int(cell) if isinstance(cell, float) and cell.is_integer() else cell).strip()


def read_options(cell: Any) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The option texts and labels in a cell.

    Args:
        cell: A list; {"text": [...], "label": [...]}; {label: text, ...}; or any of these as a Python or JSON literal.

    Raises:
        ValueError: saying what the cell is instead.

    Example:
        >>> read_options("['yes', 'no']")
        (('yes', 'no'), ())
    """
    content = _literal(cell) if isinstance(cell, str) else cell
    labels: Sequence[Any] = ()
    if isinstance(content, Mapping):
        content, labels = _unpack(content)
    if not isinstance(content, list | tuple):
        raise ValueError(f"the options are no list: {str(cell)[:60]!r}")
    return tuple(map(as_text, content)), tuple(map(as_text, labels))


def _unpack(content: Mapping[Any, Any]) -> tuple[Any, Sequence[Any]]:
    """Texts and labels of a mapping; a table with a field per label leaves the last ones empty in shorter rows."""
    if "text" in content:
        return content["text"], content.get("label") or ()
    labels = list(content)
    while labels and not as_text(content[labels[-1]]):
        labels.pop()
    return [content[label] for label in labels], labels


def _literal(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        pass
    try:
        return ast.literal_eval(text.strip())
    except (ValueError, SyntaxError, RecursionError, MemoryError):
        return text


def _options_of(row: Cells, names: str | list[str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    if isinstance(names, str):
        return read_options(row.get(names))
    texts = [as_text(row.get(name)) for name in names]
    while texts and not texts[-1]:
        texts.pop()
    return tuple(texts), ()


def read_item(row: Cells, columns: Columns) -> Item:
    """One row of the table, with the first fault found in it; a missing answer is found last."""
    question, answer = (
        as_text(row.get(str(columns[role]))) if role in columns else "" for role in ("question", "answer")
    )
    try:
        options, labels = _options_of(row, columns["options"])
    except ValueError as error:
        return Item(question, (), (), answer, str(error))
    return Item(question, options, labels, answer, _fault(question, options, answer))


def _fault(question: str, options: tuple[str, ...], answer: str) -> str:
    if not question:
        return "the question is empty"
    if not 2 <= len(options) <= len(LETTERS):
        return f"the number of options is {len(options)}, wanted 2 to {len(LETTERS)}"
    if "" in options:
        return f"option {LETTERS[options.index('')]} is empty"
    return "" if answer else NO_ANSWER


def _letter(item: Item) -> int | None:
    if item.labels:
        return item.labels.index(item.answer) if item.answer in item.labels[: len(item.options)] else None
    match = re.fullmatch(r"[(\[]?([A-Za-z])[)\].:]?", item.answer)
    return _within(LETTERS.index(match[1].upper()), item) if match else None


def _text(item: Item) -> int | None:
    return item.options.index(item.answer) if item.answer in item.options else None


def _index(item: Item, first: int = 0) -> int | None:
    return _within(int(item.answer) - first, item) if re.fullmatch(r"[0-9]{1,3}", item.answer) else None


def _index_from_1(item: Item) -> int | None:
    return _index(item, first=1)


def _within(position: int, item: Item) -> int | None:
    return position if 0 <= position < len(item.options) else None


READINGS: dict[str, Callable[[Item], int | None]] = {
    "letter": _letter,
    "text": _text,
    "index": _index,
    "index_from_1": _index_from_1,
}
"""Each way of reading an answer: from a row to the gold option's position, or None where it does not fit."""


def decide_reading(items: Sequence[Item], source: str) -> str:
    """How a whole answer column names the options; the rules are in the module's docstring.

    Args:
        items: N rows; those with a fault do not count.
        source: What the message calls the table.

    Raises:
        DataError: no way of reading fits, or several do and disagree.
    """
    sound = [item for item in items if not item.fault]
    fits = {name: [READINGS[name](item) for item in sound] for name in READINGS}
    misses = {name: positions.count(None) for name, positions in fits.items()}
    if not sound or (all(item.labels for item in sound) and not misses["letter"]):
        return "letter"
    candidates = [name for name in READINGS if misses[name] * 2 < len(sound)]
    candidates = [name for name in candidates if not misses[name]] or candidates
    if candidates and all(fits[name] == fits[candidates[0]] for name in candidates):
        return candidates[0]
    shown = ", ".join(repr(answer) for answer in sorted({item.answer for item in sound})[:5])
    found = f"could be {' or '.join(candidates)}" if candidates else "fit no way of naming an option"
    raise DataError(
        f"{source}: the answers ({shown}) {found}",
        f"write in the recipe which it is:  data: {{answer_is: {[*candidates, *READINGS][0]}}}  "
        f"(one of {', '.join(candidates or READINGS)})",
    )


def find_gold(item: Item, reading: str) -> int:
    """Position of the gold option.

    Raises:
        ValueError: saying why the row cannot be used.
    """
    position = None if item.fault else READINGS[reading](item)
    if position is None:
        raise ValueError(item.fault or f"the answer {item.answer!r} is no {reading} of {len(item.options)} options")
    gold = item.options[position]
    if item.options.count(gold) > 1:
        raise ValueError(f"the gold option {gold[:60]!r} stands {item.options.count(gold)} times among the options")
    return position


def find_differences(items: Sequence[Item], again: Sequence[Item], reading: str, name: str) -> list[str]:
    """Rows that are used although a second answer column disagrees.

    Args:
        items: N rows, with the answer that counts.
        again: The same rows with the second column as their answer, read in whichever way agrees most often.
        reading: How the answer that counts is read.
        name: The second column.
    """
    golds = [None if item.fault else READINGS[reading](item) for item in items]
    differing = [
        [number for number, gold in enumerate(golds) if gold is not None and read(again[number]) != gold]
        for read in READINGS.values()
    ]
    return [
        f"row {number}: the answer is {items[number].answer!r}, but {name} is {again[number].answer!r}; "
        "the answer column counts"
        for number in min(differing, key=lambda numbers: len(numbers))
    ]


class MultipleChoice:
    """Multiple-choice questions from a file or a hub data set.

    Args:
        source: See `teachwise.tasks.table.read_table`.
        columns: Names for question, options, answer, subject, level, split; what is left out is found.
        answer_is: letter, text, index, index_from_1, or auto.
        hub_split: Split to load when the source is a hub name.

    Attributes:
        notes: After `rows`: one line for each row that is used although its index column says another answer.

    Raises:
        DataError: there is no source. The table itself is read when it is first needed.
    """

    prompt_version = "mc-1"

    def __init__(
        self,
        source: str | None = None,
        columns: Mapping[str, Any] | None = None,
        answer_is: str = "auto",
        hub_split: str = "test",
        **_: object,
    ) -> None:
        if not source:
            raise DataError(
                "data: no source, wanted a table of questions", "write in the recipe:  data: {source: FILE}"
            )
        self.source, self.answer_is, self.hub_split = source, answer_is, hub_split
        self.notes: list[str] = []
        self._given = dict(columns or {})

    @cached_property
    def _table(self) -> list[Cells]:
        return read_table(self.source, self.hub_split)

    @cached_property
    def columns(self) -> Columns:
        """What was understood: what each column is for."""
        found = find_columns(column_names(self._table), self._given, self.source)
        for names in found.values():
            for name in [names] if isinstance(names, str) else names:
                column(self._table, name, self.source)
        return found

    def rows(self) -> Iterator[Row | Unusable]:
        """Every row of the table, in order; one that cannot be used comes with its reason.

        Raises:
            DataError: the table or its columns cannot be understood.
        """
        items = [read_item(row, self.columns) for row in self._table]
        reading = decide_reading(items, self.source) if self.answer_is == "auto" else self.answer_is
        self.notes = self._disagreements(items, reading)
        for number, item in enumerate(items):
            try:
                gold = find_gold(item, reading)
            except ValueError as error:
                yield Unusable(number, str(error), item.question)
            else:
                yield self._row(number, item, gold)

    def _row(self, number: int, item: Item, gold: int) -> Row:
        subject, level, split = (self._cell(number, role) for role in ("subject", "level", "split"))
        return Row(
            number,
            item.question,
            item.options,
            LETTERS[gold],
            subject,
            self._level(level, number),
            self._split(split, number),
        )

    def _cell(self, number: int, role: str) -> str:
        return as_text(self._table[number].get(str(self.columns[role]))) if role in self.columns else ""

    def _level(self, cell: str, number: int) -> int | None:
        if cell and not re.fullmatch(r"-?[0-9]+", cell):
            raise DataError(
                f"{self.source}: row {number}: level {cell!r}, wanted a whole number",
                "leave `data.columns.level` out, or name another column",
            )
        return int(cell) if cell else None

    def _split(self, cell: str, number: int) -> Split | None:
        if cell and cell.lower() not in SPLITS:
            raise DataError(
                f"{self.source}: row {number}: split {cell!r}, wanted train, dev or test",
                "to split afresh, switch the column off:  data: {columns: {split: ''}}",
            )
        return SPLITS[cell.lower()] if cell else None

    def _disagreements(self, items: Sequence[Item], reading: str) -> list[str]:
        notes: list[str] = []
        for name in column_names(self._table):
            if name.strip().lower() in INDEX_NAMES and name != self.columns["answer"]:
                again = [read_item(row, {**self.columns, "answer": name}) for row in self._table]
                notes += find_differences(items, again, reading, name)
        return notes

    def messages(self, example: Example, mode: Literal["direct", "cot"]) -> tuple[Message, ...]:
        """A system message with the subject and the form of the answer, and the question with lettered options."""
        about = f" about {example.subject.replace('_', ' ')}" if example.subject else ""
        how, closing = _ASK[mode]
        options = [f"{letter}. {text}" for letter, text in zip(example.letters, example.options, strict=True)]
        return (
            {"role": "system", "content": f"You answer multiple-choice questions{about}. {how}"},
            {"role": "user", "content": "\n".join([example.question, "", *options, "", closing])},
        )

    def teacher_messages(self, example: Example, show_answer: bool = False) -> tuple[Message, ...]:
        """The same request to think step by step that the student gets, with the gold answer where it is shown."""
        system, user = self.messages(example, "cot")
        if show_answer:
            user = {**user, "content": f"{user['content']}\n\n{_SHOWN.format(example.answer)}"}
        return system, user

    def read_answer(self, example: Example, text: str) -> str | None:
        """The letter that a text states, or None; see `read_letter`."""
        return read_letter(text, example.options)


_ASK = {
    "direct": (
        "Reply with the letter of the correct option and nothing else.",
        "Which option is correct? Reply with its letter only.",
    ),
    "cot": (
        "Think step by step, then end your reply with the letter of the correct option in double square brackets.",
        "Which option is correct? Think step by step and end with [[X]], where X is its letter.",
    ),
}
"""Mode: the end of the system message, the end of the user's message."""
_SHOWN = "The correct option is {0}. Reason towards it from the question alone, as if it had not been told."
