"""Reading a table of questions that are to be answered: like one to train on, but the gold answers may be missing.

What the recipe or the pack calls a column is taken where the table has it; otherwise the column is found by its usual
names. Gold answers are read where they can be, never guessed, and no row is set apart for want of one.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from teachwise.errors import DataError
from teachwise.records import LETTERS, Unusable
from teachwise.tasks import Row
from teachwise.tasks.columns import Columns, candidate_columns, find_columns
from teachwise.tasks.multiple_choice import NO_ANSWER, Item, as_text, decide_reading, find_gold, read_item
from teachwise.tasks.table import Cells, column_names

OTHER_NAMES = (
    "a column of another name: call it in the table as in the recipe that trained, or question, options "
    "(or A, B, C ...), answer, subject"
)
"""What to do about columns that are not found: a table of new questions comes without a recipe."""


def question_columns(table: Sequence[Cells], known: Mapping[str, Any], source: str) -> Columns:
    """Which column holds what, in a table of new questions.

    Args:
        table: Its rows.
        known: The columns of the table that was trained on, as far as they were named.
        source: What messages call the table.

    Raises:
        DataError: the question or the options are not found, or two columns could each be them or the subject.
    """
    names = column_names(table)
    here = {role: name for role, name in known.items() if _is_here(name, names)}
    try:
        return find_columns(names, here, source, is_answer_needed=False)
    except DataError as error:
        raise DataError(error.found, OTHER_NAMES) from error


def _is_here(name: Any, names: Sequence[str]) -> bool:
    return not name or all(one in names for one in ([name] if isinstance(name, str) else name))


def read_questions(
    table: Sequence[Cells], columns: Columns, answer_is: str, source: str
) -> tuple[list[Row | Unusable], str]:
    """Every row as a question, in order; one that cannot be asked comes with its reason.

    Args:
        table: The rows.
        columns: What `question_columns` found.
        answer_is: letter, text, index, index_from_1 or auto, as for `MultipleChoice`.
        source: What messages call the table.

    Returns:
        The rows, whose `answer` is "" where no gold answer could be read; and why there is none at all, or "".
    """
    items = [read_item(cells, columns) for cells in table]
    could_be = [str(name) for name in candidate_columns("answer", column_names(table))]
    reading, why = _reading(items, columns, answer_is, source, could_be)
    rows = [
        _row(number, item, cells, columns, reading)
        for number, (item, cells) in enumerate(zip(items, table, strict=True))
    ]
    return rows, why


def _reading(
    items: Sequence[Item], columns: Columns, answer_is: str, source: str, could_be: Sequence[str]
) -> tuple[str, str]:
    """How the gold answers name their option, "" where they cannot be read; and then the reason."""
    if "answer" not in columns:
        several = f"several columns could each be the answer: {', '.join(could_be)}"
        return "", several if len(could_be) > 1 else "the table has no answer column"
    if answer_is != "auto":
        return answer_is, ""
    try:
        return decide_reading(items, source), ""
    except DataError as error:
        return "", error.found.removeprefix(f"{source}: ")


def _row(number: int, item: Item, cells: Cells, columns: Columns, reading: str) -> Row | Unusable:
    fault = "" if item.fault == NO_ANSWER else item.fault
    if fault:
        return Unusable(number, fault, item.question)
    subject = as_text(cells.get(str(columns["subject"]))) if "subject" in columns else ""
    return Row(number, item.question, item.options, _gold(item, reading), subject)


def _gold(item: Item, reading: str) -> str:
    try:
        return LETTERS[find_gold(item, reading)] if reading else ""
    except ValueError:
        return ""
