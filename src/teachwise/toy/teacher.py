"""The toy teacher: it works out a toy question from its text, and fails at known rates."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from teachwise.errors import DataError

from .benchmark import read_message
from .working import Worked, count_steps, value_pool, work, write_solution
from .world import LETTERS, digest

LOOPS = 100
"""How often a looping teacher says a sentence again, where nobody stops it."""


@dataclass(frozen=True)
class Habits:
    """How often a teacher fails, and in which way.

    Attributes:
        wrong: Share of wrong answers per number of steps. A wrong reply has one wrong step, carries it on, and ends in
            a wrong answer.
        loops: Share of worked replies that repeat their last sentence instead of concluding.
        breaks: Share of worked replies that break off half-way, as if a limit had been reached.
    """

    wrong: Mapping[int, float] = field(default_factory=dict)
    loops: float = 0.0
    breaks: float = 0.0


FLAWLESS = Habits()
USUAL = Habits({1: 0.01, 2: 0.03, 3: 0.07, 4: 0.09, 5: 0.12}, loops=0.01, breaks=0.01)
"""Wrong on about 5% of a drawn question set."""
WEAK = Habits({1: 0.10, 2: 0.20, 3: 0.30, 4: 0.40, 5: 0.50}, loops=0.03, breaks=0.03)
"""A teacher that fails where students do, at rates like those of a real one: wrong on 20% to 50% beyond one step."""
HABITS = {"flawless": FLAWLESS, "usual": USUAL, "weak": WEAK}


def habits_named(name: str) -> Habits:
    """Return the habits of that name.

    Raises:
        DataError: If there are none.
    """
    if name not in HABITS:
        raise DataError(f"no teacher has habits called {name!r}", f"choose one of {', '.join(HABITS)}")
    return HABITS[name]


_MESSAGE = re.compile(r"(?:\boptions\s+A\s.*?\s|\bquestion\s+sum\s.*?\s)is\s+(?:answer|think)(?!\S)", re.DOTALL)


# --------------------------------------------------------------------------------------------- replying


@dataclass(frozen=True)
class Reply:
    """What the teacher says, and whether it came to an end by itself."""

    text: str
    is_whole: bool = True


def _slips(question: str, right: str) -> tuple[str, ...]:
    """Return what could be written by mistake in place of a right result."""
    _, first, _, *rest = question.split()
    if first in ("first", "second", "third", "last"):
        return str(int(right) + 1), str(int(right) - 1)
    return tuple(rest) if first in ("max", "min") else value_pool(question)


def _results(question: str) -> list[str]:
    results: list[str] = []

    def say(index: int, right: str) -> str:
        results.append(right)
        return right

    work(question, say)
    return results


def _work_with_slip(question: str, place: int, slip: str) -> Worked | None:
    """Return the chain with one wrong step, carried on; None where a sum then leaves its range."""
    try:
        return work(question, lambda index, right: slip if index == place else right)
    except ValueError:
        return None


def _wrong_chains(question: str, options: Sequence[str]) -> Iterator[Worked]:
    """Yield every chain with one wrong step, carried on, that ends in a wrong answer."""
    right = work(question)
    for place, result in enumerate(_results(question)):
        for slip in _slips(question, result):
            worked = _work_with_slip(question, place, slip)
            if worked and worked.value != right.value and (not options or worked.value in options):
                yield worked


def _mistaken(question: str, options: tuple[str, ...], chance: int) -> Worked:
    """Return a wrong chain chosen by a number; where no step can go wrong, only its conclusion is wrong."""
    chains = list(_wrong_chains(question, options))
    if chains:
        return chains[chance % len(chains)]
    right = work(question)
    others = [option for option in options or value_pool(question) if option != right.value]
    return Worked(right.sentences, others[chance % len(others)])


def text_of(content: object) -> str:
    """Return a message's content as text; it may come as a list of parts."""
    if isinstance(content, str):
        return content
    if isinstance(content, list):
        return " ".join(part["text"] for part in content if part.get("type") == "text")
    raise ValueError("a message's content must be text")


def _find_question(messages: Sequence[Mapping[str, Any]]) -> tuple[str, tuple[str, ...], str]:
    """Read the toy message out of the last user message; other words may stand around it."""
    texts = [text_of(message["content"]) for message in messages if message["role"] == "user"]
    found = _MESSAGE.findall(texts[-1]) if texts else []
    if not found:
        raise ValueError("the last user message holds no toy question (options A .. question .. is answer|think)")
    return read_message(found[-1])


def reply(messages: Sequence[Mapping[str, Any]], *, seed: int = 0, habits: Habits = USUAL) -> Reply:
    """Answer the last user message of a conversation.

    Args:
        messages: Chat messages with ``role`` and ``content``.
        seed: Another seed fails on other questions.
        habits: How the teacher fails.

    Returns:
        The worked solution for a message ending in ``think``, the bare answer for one ending in ``answer``. The same
        question, options and seed always give the same reply.

    Raises:
        ValueError: If there is no toy question in the message.

    >>> message = {"role": "user", "content": "options A 8 B 6 C 2 D 7 E 9 question calc 6 - 1 - 9 is think"}
    >>> reply([message], habits=FLAWLESS).text
    '6 - 1 is 5 . 5 - 9 is 6 . so 6 B [[ B ]]'
    """
    question, options, mode = _find_question(messages)
    worked = work(question)
    if options and worked.value not in options:
        raise ValueError(f"the answer {worked.value} is not among the options {' '.join(options)}")
    key = f"{seed} {question} {' '.join(options)}"
    if _share(f"errs {key}") < habits.wrong.get(count_steps(question), 0.0):
        worked = _mistaken(question, options, digest(f"slip {key}"))
    if mode == "direct":
        return Reply(LETTERS[options.index(worked.value)] if options else worked.value)
    return _spoilt(worked, _share(f"stumbles {key}"), habits) or Reply(write_solution(worked, options))


def _share(text: str) -> float:
    """Return a number from 0 to 1 that depends on the text alone."""
    return digest(text) / 2**64


def _spoilt(worked: Worked, chance: float, habits: Habits) -> Reply | None:
    """Return a reply that never comes to its end, if chance has it so."""
    if chance < habits.loops:
        return Reply(" . ".join([*worked.sentences, *(worked.sentences[-1:] * LOOPS)]))
    if chance < habits.loops + habits.breaks:
        words = " . ".join(worked.sentences).split()
        return Reply(" ".join(words[: max(1, len(words) - 2)]), is_whole=False)
    return None
