"""Pre-training sequences for the toy student: exam sheets, and lists of facts.

A sheet shows one list of options and asks several questions about it, each laid out as the chat template does it.
One sequence so carries many look-ups of a value among the options, which is what makes the student learn to look up at
all. A sheet with one question is exactly a rendered conversation. Only stems of the split ``practice`` are ever asked.
A list of facts states single steps, asked or not, in the words that worked solutions use.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field

from .benchmark import ask, draw_n_options, list_options, split_of, user_message
from .working import CHAINED, work, write_solution
from .world import ATTRIBUTES, COLORS, DIGITS, HOURS, LANDS, LETTERS, PEOPLE

GROUPS = (("calc", "calc", "list"), ("clock",), ("kin",), ("mix",), ("fact",), ("sum",))
"""Subjects that can share one list of options; ``sum`` has none."""
_POOLS = (DIGITS, HOURS, PEOPLE, COLORS, (), ())
_FACT_SHARES = {"calc": 1.0, "clock": 0.8, "kin": 0.7, "mix": 0.9, "fact": 2.5, "sum": 1.0}
"""How often a list of facts takes one from each table, about as the tables are large."""

EOS_WEIGHT = 0.05
CHAIN_WEIGHT = 0.3
_CLOSING_WEIGHTS = (1.0, 0.1, 0.3, 0.1, 0.1)
"""Weights of ``B [[ B ]] <eos>`` at the end of a chain: its first letter is the one that must be looked up."""


@dataclass
class Sheet:
    """One training sequence.

    Attributes:
        kind: ``lookup``, ``facts``, ``value``, ``direct`` or ``think``.
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


_LAND_WEIGHTS = [1 / (index + 1) ** 0.6 for index in range(len(LANDS))]
"""Later lands are seen less often, so that some facts stay uncertain."""


@dataclass(frozen=True)
class Paper:
    """What a sheet asks about: the subjects of one group, and the values its options are drawn from."""

    subjects: tuple[str, ...]
    pool: tuple[str, ...]
    attribute: str | None = None

    def ask(self, rng: random.Random, step_shares: Sequence[float]) -> str:
        """Draw a stem that may be practised, with 1, 2, ... steps in the given shares."""
        while True:
            subject = rng.choice(self.subjects)
            steps = rng.choices(range(1, len(step_shares) + 1), step_shares)[0] if subject in CHAINED else 1
            stem = f"fact {self.attribute} of {draw_land(rng)}" if self.attribute else ask(rng, subject, steps)
            if split_of(stem) == "practice":
                return stem

    def draw_options(self, rng: random.Random) -> tuple[str, ...]:
        """Draw the options that a sheet's questions share; none for an open subject."""
        return tuple(rng.sample(self.pool, draw_n_options(rng, self.pool))) if self.pool else ()


def draw_land(rng: random.Random) -> str:
    """Draw a land, the early ones more often."""
    return rng.choices(LANDS, _LAND_WEIGHTS)[0]


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
        sheet.read(list_options(options))
    return sheet


def lookup_sheet(rng: random.Random, n_options: tuple[int, int], group_shares: Sequence[float], n: int = 8) -> Sheet:
    """Name a value and want its letter: as a question's answer, or as the end of a chain (``so 7 B``)."""
    paper = draw_paper(rng, group_shares)
    while not paper.pool:
        paper = draw_paper(rng, group_shares)
    options = rng.sample(paper.pool, min(rng.randint(*n_options), len(paper.pool)))
    sheet = _start("lookup", options)
    for _ in range(n):
        value = rng.choice(options)
        if rng.random() < 0.5:
            sheet.read(f"question so {value} answer <assistant>", value)
        else:
            sheet.read(f"so {value}")
        sheet.write(LETTERS[options.index(value)], [1.0])
    return sheet


def facts_sheet(rng: random.Random, n: int) -> Sheet:
    """State single steps of every table, whatever split their stems belong to; the last word of each is to be known."""
    sheet = _start("facts", ())
    sheet.read("facts")
    for _ in range(n):
        subject = rng.choices(list(_FACT_SHARES), list(_FACT_SHARES.values()))[0]
        stem = (
            f"fact {rng.choice(tuple(ATTRIBUTES))} of {draw_land(rng)}" if subject == "fact" else ask(rng, subject, 1)
        )
        *words, result = work(stem).sentences[0].split()
        sheet.read(" ".join(words))
        sheet.write(result, [1.0])
        sheet.read(".")
    return sheet


def value_sheet(rng: random.Random, step_shares: Sequence[float], group_shares: Sequence[float], n: int) -> Sheet:
    """Ask for the answer's value, with no options."""
    paper, sheet = draw_paper(rng, group_shares), _start("value", ())
    for _ in range(n):
        question = paper.ask(rng, step_shares)
        sheet.read(f"question {question} is value <assistant>")
        sheet.write(f"{work(question).value} <eos>", [1.0, EOS_WEIGHT])
    return sheet


def exam_sheet(
    rng: random.Random, kind: str, step_shares: Sequence[float], group_shares: Sequence[float], n: int
) -> Sheet:
    """Ask n questions about one list of options, answered at once or by a worked chain.

    Args:
        rng: Source of chance.
        kind: ``direct`` or ``think``.
        step_shares: Shares of 1, 2, ... step questions in the chained subjects.
        group_shares: Shares of `GROUPS`.
        n: Questions on the sheet.
    """
    paper = draw_paper(rng, group_shares)
    options = paper.draw_options(rng)
    sheet, asked = _start(kind, options), 0
    while asked < n:
        question = paper.ask(rng, step_shares)
        worked = work(question)
        if options and worked.value not in options:
            continue
        message = user_message(question, options, "direct" if kind == "direct" else "cot")
        stem = f"{message[message.index('question') :]} <assistant>"
        if kind == "direct":
            sheet.read(stem, worked.value if options else None)
            sheet.write(f"{LETTERS[options.index(worked.value)] if options else worked.value} <eos>", [1.0, EOS_WEIGHT])
        else:
            sheet.read(stem)
            chain = f"{write_solution(worked, options)} <eos>"
            closing = _CLOSING_WEIGHTS if options else _CLOSING_WEIGHTS[1:]
            sheet.write(chain, [CHAIN_WEIGHT] * (len(chain.split()) - len(closing)) + [*closing])
        asked += 1
    return sheet
