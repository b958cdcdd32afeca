"""Working toy questions out, step by step, from their texts alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from .world import ATTRIBUTES, COLORS, DIGITS, HOURS, KIN, LETTERS, NUMBERS, PEOPLE, fact, mix

CHAINED = ("calc", "clock", "kin", "mix", "sum")
"""Subjects that take 1 to 5 steps; the others take one."""

Say = Callable[[int, str], str]
"""What the writer puts down as the result of a step, given the step's number (from 0) and the right result."""


@dataclass(frozen=True)
class Worked:
    """A chain of reasoning: its sentences in order, and the value they lead to."""

    sentences: tuple[str, ...]
    value: str


def _right(index: int, result: str) -> str:
    return result


def calculate(left: str, sign: str, right: str) -> str:
    """Return the last digit of a sum, a difference or a product of two digits."""
    a, b = DIGITS.index(left), DIGITS.index(right)
    return str({"+": a + b, "-": a - b, "*": a * b}[sign] % 10)


def turn(hour: str, sign: str, count: str) -> str:
    """Return the hour that a twelve-hour clock shows some hours later or earlier."""
    return HOURS[(HOURS.index(hour) + int(sign + count)) % 12]


def add(left: str, sign: str, right: str) -> str:
    """Return a sum or a difference that stays within `NUMBERS`."""
    return NUMBERS[NUMBERS.index(str(int(left) + int(sign + right)))]


def _work_pairs(words: list[str], say: Say, apply: Callable[[str, str, str], str]) -> Worked:
    value, sentences = words[0], []
    for index, (sign, operand) in enumerate(zip(words[1::2], words[2::2], strict=True)):
        result = say(index, apply(value, sign, operand))
        sentences.append(f"{value} {sign} {operand} is {result}")
        value = result
    return Worked(tuple(sentences), value)


def _work_calc(words: list[str], say: Say) -> Worked:
    return _work_pairs(words, say, calculate)


def _work_clock(words: list[str], say: Say) -> Worked:
    return _work_pairs(words, say, turn)


def _work_mix(words: list[str], say: Say) -> Worked:
    return _work_pairs(words, say, lambda color, _, other: mix(color, other))


def _work_sum(words: list[str], say: Say) -> Worked:
    return _work_pairs(words, say, add)


def _work_kin(words: list[str], say: Say) -> Worked:
    person, sentences = words[-1], []
    for index, relation in enumerate(reversed(words[:-1:2])):
        relative = say(index, KIN[relation][person])
        sentences.append(f"{relation} of {person} is {relative}")
        person = relative
    return Worked(tuple(sentences), person)


def _work_fact(words: list[str], say: Say) -> Worked:
    attribute, land = words[0], words[2]
    value = say(0, fact(attribute, land))
    return Worked((f"{attribute} of {land} is {value}",), value)


def _work_list(words: list[str], say: Say) -> Worked:
    pick, values = words[0], words[2:]
    return _work_extreme(pick, values, say) if pick in ("max", "min") else _work_place(pick, values, say)


def _work_extreme(pick: str, values: list[str], say: Say) -> Worked:
    choose = max if pick == "max" else min
    best, sentences = values[0], []
    for index, value in enumerate(values):
        best = say(index, choose(best, value))
        sentences.append(f"{value} best {best}")
    return Worked(tuple(sentences), best)


def _work_place(pick: str, values: list[str], say: Say) -> Worked:
    found: dict[int, str] = {}
    place, sentences = 0, []
    for index, value in enumerate(values):
        place = int(say(index, str(place + 1)))
        sentences.append(f"{value} at {place}")
        found.setdefault(place, value)
    wanted = {"first": 1, "second": 2, "third": 3}.get(pick)
    return Worked(tuple(sentences), found.get(wanted, "") if wanted else values[-1])


_WORK = {
    "calc": _work_calc,
    "clock": _work_clock,
    "kin": _work_kin,
    "mix": _work_mix,
    "list": _work_list,
    "fact": _work_fact,
    "sum": _work_sum,
}


def work(question: str, say: Say = _right) -> Worked:
    """Work out a question from its text.

    Args:
        question: A stem such as ``kin boss of friend of ann``.
        say: Called at each sentence with its number and the right result; what it returns is written down and carried
            on. The default writes the right result.

    Raises:
        ValueError: If the text is not a question of this benchmark.

    >>> work("calc 6 - 1 - 9")
    Worked(sentences=('6 - 1 is 5', '5 - 9 is 6'), value='6')
    """
    subject, *words = question.split() or [""]
    try:
        return _WORK[subject](words, say)
    except (KeyError, IndexError, ValueError) as error:
        raise ValueError(f"not a question of the toy benchmark: {question!r}") from error


def write_solution(worked: Worked, options: Sequence[str]) -> str:
    """Write a chain down as the text that students learn from.

    With options, the value must be among them and the text ends with its letter; without any, with the value itself.
    """
    answer = LETTERS[options.index(worked.value)] if options else worked.value
    named = f"{worked.value} {answer}" if options else answer
    return f"{' . '.join(worked.sentences)} . so {named} [[ {answer} ]]"


def solve(question: str, options: Sequence[str]) -> str:
    """Return the right worked solution, computed from the texts alone.

    Raises:
        ValueError: If the text is not a question of this benchmark, or its answer is not among the options.

    >>> solve("calc 6 - 1 - 9", ("8", "6", "2", "7", "9"))
    '6 - 1 is 5 . 5 - 9 is 6 . so 6 B [[ B ]]'
    >>> solve("sum 9 + 4 - 2", ())
    '9 + 4 is 13 . 13 - 2 is 11 . so 11 [[ 11 ]]'
    """
    worked = work(question)
    if options and worked.value not in options:
        raise ValueError(f"the answer {worked.value} is not among the options {' '.join(options)}")
    return write_solution(worked, tuple(options))


def count_steps(question: str) -> int:
    """Return how many reasoning steps a question needs: its operations for a chained subject, else 1."""
    subject, *words = question.split()
    return len(words) // 2 if subject in CHAINED else 1


def value_pool(question: str) -> tuple[str, ...]:
    """Return every value that could be an option of this question."""
    subject, first = question.split()[:2]
    pools = {"clock": HOURS, "kin": PEOPLE, "mix": COLORS, "sum": NUMBERS}
    return ATTRIBUTES[first] if subject == "fact" else pools.get(subject, DIGITS)
