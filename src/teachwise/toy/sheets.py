"""Pre-training sequences for the toy student: exam sheets.

A sheet shows one list of options and asks several questions about it, each laid out as the chat template does it.
One sequence so carries many look-ups of a value among the options, which is what makes the student learn to look up at
all. A sheet with one question is exactly a rendered conversation. Items of the dev and test splits are never asked.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field

from .benchmark import (
    ATTRIBUTES,
    CHAINED,
    DAYS,
    DIGITS,
    LANDS,
    LETTERS,
    N_OPTIONS,
    PEOPLE,
    ask,
    list_options,
    split_by_text,
    split_of,
    user_message,
    work,
    write_solution,
)

GROUPS = (("calc", "calc", "list"), ("week",), ("kin",), ("fact",))
"""Subjects that can share one list of options."""
_POOLS = (DIGITS, DAYS, PEOPLE)

EOS_WEIGHT = 0.05
CHAIN_WEIGHT = 0.3
_CLOSING_WEIGHTS = (1.0, 0.1, 0.3, 0.1, 0.1)
"""Weights of ``B [[ B ]] <eos>`` at the end of a chain: its first letter is the one that must be looked up."""


@dataclass
class Sheet:
    """One training sequence.

    Attributes:
        kind: ``lookup``, ``value``, ``direct`` or ``think``.
        words: The tokens as text.
        weights: The loss weight of each token as a target; 0 for what the student only reads.
        values: At the position that an answer letter is predicted from, the value that letter stands for, else None.
    """

    kind: str
    words: list[str] = field(default_factory=list)
    weights: list[float] = field(default_factory=list)
    values: list[str | None] = field(default_factory=list)

    def read(self, text: str, value: str | None = None) -> None:
        """Add words without loss; `value` belongs to the last of them."""
        words = text.split()
        self.words += words
        self.weights += [0.0] * len(words)
        self.values += [None] * (len(words) - 1) + [value]

    def write(self, text: str, weights: Sequence[float]) -> None:
        """Add words that the student must predict, with one weight each."""
        words = text.split()
        if len(words) != len(weights):
            raise ValueError(f"{len(words)} words, but {len(weights)} weights")
        self.words += words
        self.weights += weights
        self.values += [None] * len(words)


@dataclass(frozen=True)
class Paper:
    """What a sheet asks about: the subjects of one group, and the values its options are drawn from."""

    subjects: tuple[str, ...]
    pool: tuple[str, ...]
    attribute: str | None = None

    def ask(self, rng: random.Random, step_shares: Sequence[float]) -> str:
        """Draw a question text, with 1, 2, ... steps in the given shares."""
        subject = rng.choice(self.subjects)
        if self.attribute:
            return f"fact {self.attribute} of {rng.choices(LANDS, _LAND_WEIGHTS)[0]}"
        steps = rng.choices(range(1, len(step_shares) + 1), step_shares)[0] if subject in CHAINED else 1
        return ask(rng, subject, steps)


_LAND_WEIGHTS = [1 / (index + 1) ** 0.8 for index in range(len(LANDS))]
"""Later lands are seen less often, so that some facts stay uncertain."""


def draw_paper(rng: random.Random, group_shares: Sequence[float]) -> Paper:
    """Draw a group of subjects; a fact sheet keeps to one attribute, whose values are its options."""
    index = rng.choices(range(len(GROUPS)), group_shares)[0]
    if GROUPS[index] == ("fact",):
        attribute = rng.choice(tuple(ATTRIBUTES))
        return Paper(GROUPS[index], ATTRIBUTES[attribute], attribute)
    return Paper(GROUPS[index], _POOLS[index])


def _start(kind: str, options: Sequence[str]) -> Sheet:
    sheet = Sheet(kind)
    sheet.read("<bos>")
    if options:
        sheet.read(list_options(tuple(options)))
    return sheet


def lookup_sheet(rng: random.Random, n_options: tuple[int, int], group_shares: Sequence[float], n: int = 8) -> Sheet:
    """Name a value and want its letter: as a question's answer, or as the end of a chain (``so 7 B``)."""
    options = rng.sample(draw_paper(rng, group_shares).pool, rng.randint(*n_options))
    sheet = _start("lookup", options)
    for _ in range(n):
        value = rng.choice(options)
        if rng.random() < 0.5:
            sheet.read(f"question is {value} answer <assistant>", value)
        else:
            sheet.read(f"question is so {value}")
        sheet.write(LETTERS[options.index(value)], [1.0])
    return sheet


def value_sheet(rng: random.Random, step_shares: Sequence[float], group_shares: Sequence[float], n: int) -> Sheet:
    """Ask for the answer's value, with no options: recall of the single-step tables."""
    paper, sheet = draw_paper(rng, group_shares), _start("value", ())
    asked = 0
    while asked < n:
        question = paper.ask(rng, step_shares)
        if split_by_text(question) and split_of(question, ()) != "train":
            continue
        sheet.read(f"question {question} value <assistant>")
        sheet.write(f"{work(question).value} <eos>", [1.0, EOS_WEIGHT])
        asked += 1
    return sheet


def exam_sheet(
    rng: random.Random, kind: str, step_shares: Sequence[float], group_shares: Sequence[float], n: int
) -> Sheet:
    """Ask n multiple-choice questions about one list of options, answered by a letter or by a worked chain.

    Args:
        rng: Source of chance.
        kind: ``direct`` or ``think``.
        step_shares: Shares of 1, 2, ... step questions in the chained subjects.
        group_shares: Shares of `GROUPS`.
        n: Questions on the sheet.
    """
    paper = draw_paper(rng, group_shares)
    options = tuple(rng.sample(paper.pool, N_OPTIONS))
    sheet, asked = _start(kind, options), 0
    while asked < n:
        question = paper.ask(rng, step_shares)
        worked = work(question)
        if worked.value not in options or split_of(question, options) != "train":
            continue
        message = user_message(question, options, "direct" if kind == "direct" else "cot")
        stem = message[message.index("question") :]
        if kind == "direct":
            sheet.read(f"{stem} <assistant>", worked.value)
            sheet.write(f"{LETTERS[options.index(worked.value)]} <eos>", [1.0, EOS_WEIGHT])
        else:
            sheet.read(f"{stem} <assistant>")
            chain = f"{write_solution(worked, options)} <eos>"
            sheet.write(chain, [CHAIN_WEIGHT] * (len(chain.split()) - len(_CLOSING_WEIGHTS)) + [*_CLOSING_WEIGHTS])
        asked += 1
    return sheet
