"""Finding out what the columns of a table of questions hold.

Where the recipe does not name a column, it is found by the usual names, whatever their case. Where two columns could
each be it, nothing is guessed: the user is shown both, and the line to write. A column is switched off by naming it "".
"""

import difflib
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from teachwise.errors import DataError
from teachwise.records import LETTERS

NAMES: dict[str, tuple[str, ...]] = {
    "question": ("question", "prompt", "input", "query"),
    "options": ("options", "choices"),
    "answer": (
        *("answer", "label", "gold", "correct", "target", "cop"),
        *("answerkey", "answer_key", "correct_answer", "correct_option"),
    ),
    "subject": ("subject", "subject_name", "category", "topic"),
    "split": ("split",),
}
"""The usual names of each column, lower case."""
INDEX_NAMES = ("answer_index", "answer_idx", "label_index", "correct_index")
"""Columns that say the answer a second time, or alone."""

Columns = dict[str, str | list[str]]
"""What a column is for: its name, or one name per option."""


def find_columns(names: Sequence[str], given: Mapping[str, Any], source: str, is_answer_needed: bool = True) -> Columns:
    """Say which column holds what.

    Args:
        names: Every column of the table.
        given: What the recipe names; None is "find it", "" is "there is none".
        source: What messages call the table.
        is_answer_needed: False leaves the answer out where no column, or more than one, could be it.

    Raises:
        DataError: question, options or answer is not found, or two columns could each be it.
    """
    found: Columns = {role: name for role, name in given.items() if name}
    for role in NAMES:
        if given.get(role) is None:
            candidates = candidate_columns(role, names)
            if len(candidates) > 1 and (is_answer_needed or role != "answer"):
                raise _ambiguous(role, candidates, source)
            if len(candidates) == 1:
                found[role] = candidates[0]
    for role in ("question", "options", "answer"):
        if role not in found and (is_answer_needed or role != "answer"):
            close = difflib.get_close_matches(role, names, n=1) or ["NAME"]
            hint = f"write in the recipe:  data: {{columns: {{{role}: {close[0]}}}}}; or rename the column"
            raise DataError(f"{source}: no column for the {role} among: {', '.join(names)}", hint)
    return found


def candidate_columns(role: str, names: Sequence[str]) -> list[str | list[str]]:
    """Every column, or group of columns with one option each, whose name says that it could be the role."""
    by_name: list[str | list[str]] = [name for name in names if _plain(name) in NAMES[role]]
    if role == "options":
        return by_name + list(_option_families(names))
    if role == "answer" and not by_name:
        return [name for name in names if _plain(name) in INDEX_NAMES]
    return by_name


def _plain(name: str) -> str:
    """A column's name without case, and with one sign between its words."""
    return re.sub(r"[\s-]+", "_", name.strip().lower())


def _option_families(names: Sequence[str]) -> Iterator[list[str]]:
    """Groups of columns that hold one option each: A, B, C; option_a, option_b; choice1, choice2; and the like."""
    families: dict[str, dict[str, str]] = {}
    for name in names:
        match = re.fullmatch(r"((?:option|choice|opt|op|ending)?[ _]?)([a-z]|\d{1,2})", name.strip().lower())
        if match and (match[1] or match[2].isalpha()):
            families.setdefault(match[1], {})[match[2]] = name
    for members in families.values():
        runs = [list(LETTERS.lower()), [str(i) for i in range(27)], [str(i) for i in range(1, 27)]]
        longest = max((_run(members, keys) for keys in runs), key=len)
        if len(longest) > 1:
            yield longest


def _run(members: Mapping[str, str], keys: Sequence[str]) -> list[str]:
    count = next((i for i, key in enumerate(keys) if key not in members), len(keys))
    return [members[key] for key in keys[:count]]


def _ambiguous(role: str, candidates: Sequence[str | list[str]], source: str) -> DataError:
    shown = "; ".join(name if isinstance(name, str) else f"[{', '.join(name)}]" for name in candidates)
    first = candidates[0] if isinstance(candidates[0], str) else f"[{', '.join(candidates[0])}]"
    return DataError(
        f"{source}: several columns could each be the {role}: {shown}",
        f"write in the recipe the one you mean, for instance:  data: {{columns: {{{role}: {first}}}}}",
    )
