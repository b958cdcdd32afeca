"""The toy benchmark: endless questions that a model of a few hundred thousand parameters can learn to answer.

Six subjects are multiple choice, with 4 to 10 shuffled options: ``calc`` (last digits), ``clock`` (hours), ``kin``
(who is whose boss), ``mix`` (colours), ``list`` (a place or an extreme in a list) and ``fact`` (a table of lands). The
first four chain 1 to 5 steps; the last two take one. A seventh, ``sum``, is open: its answer is a number, and it chains
1 to 5 steps. A single step is a fact to recall, and a longer chain must be worked out: there a rationale helps.

Every stem (a question without its options) belongs to one of four splits for ever, by a hash of its text: 35% are
practised in pre-training, 30% are for fine-tuning, 10% for dev, 25% for test. So to an untrained student, train, dev
and test are equally new. Of stems that are not practised, pre-training shows at most the facts that they rest on.

Every text is words joined by single spaces, so that one word is one token.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from .working import count_steps, solve, value_pool, work
from .world import ATTRIBUTES, COLORS, DIGITS, HOURS, KIN, LANDS, LETTERS, NUMBERS, PEOPLE, PICKS, SIGNS, digest

SUBJECTS = ("calc", "clock", "kin", "mix", "list", "fact")
OPEN_SUBJECT = "sum"
N_OPTIONS = (4, 10)
"""The fewest and the most options of a question."""
SPLITS = ("practice", "train", "dev", "test")
_FOLDS = ("practice",) * 7 + ("train",) * 6 + ("dev",) * 2 + ("test",) * 5

_ONE_STEP = {"list": 0.26, "fact": 0.08, "calc": 0.03, "clock": 0.022, "mix": 0.02, "kin": 0.014}
_LONGER = {2: 0.154, 3: 0.14, 4: 0.14, 5: 0.14}
CHOICE_CELLS = {
    **{(subject, 1): share for subject, share in _ONE_STEP.items()},
    **{(subject, steps): share / 4 for steps, share in _LONGER.items() for subject in ("calc", "clock", "kin", "mix")},
}
"""Share of every subject and number of steps. The tables of single steps are finite, so their shares are small."""
OPEN_CELLS = {(OPEN_SUBJECT, 1): 0.1, **{(OPEN_SUBJECT, steps): 0.225 for steps in range(2, 6)}}
_TRIES = 300

MODE_WORDS = {"direct": "answer", "cot": "think"}


@dataclass(frozen=True)
class ToyQuestion:
    """One question.

    Attributes:
        question: The stem, for example ``calc 6 - 1 - 9``.
        options: The option values in the order shown; option i has letter ``LETTERS[i]``. None where it is open.
        answer: Letter of the right option, or the number itself where it is open.
        subject: One of `SUBJECTS`, or `OPEN_SUBJECT`.
        steps: Reasoning steps needed, 1 to 5.
        solution: The worked chain, ending with the answer in double brackets.
    """

    question: str
    options: tuple[str, ...]
    answer: str
    subject: str
    steps: int
    solution: str


# --------------------------------------------------------------------------------------------- drawing


def _ask_calc(rng: random.Random, steps: int) -> str:
    return " ".join([rng.choice(DIGITS), *(f"{rng.choice(SIGNS)} {rng.choice(DIGITS)}" for _ in range(steps))])


def _ask_clock(rng: random.Random, steps: int) -> str:
    return " ".join([rng.choice(HOURS), *(f"{rng.choice('+-')} {rng.randrange(1, 10)}" for _ in range(steps))])


def _ask_kin(rng: random.Random, steps: int) -> str:
    return "".join(f"{rng.choice(tuple(KIN))} of " for _ in range(steps)) + rng.choice(PEOPLE)


def _ask_mix(rng: random.Random, steps: int) -> str:
    return " with ".join(rng.choice(COLORS) for _ in range(steps + 1))


def _ask_list(rng: random.Random, steps: int) -> str:
    return f"{rng.choice(PICKS)} of {' '.join(rng.sample(DIGITS, rng.randrange(4, 6)))}"


def _ask_fact(rng: random.Random, steps: int) -> str:
    return f"{rng.choice(tuple(ATTRIBUTES))} of {rng.choice(LANDS)}"


def _ask_sum(rng: random.Random, steps: int) -> str:
    value = rng.randrange(len(NUMBERS))
    words = [str(value)]
    for _ in range(steps):
        change = rng.choice([n for n in range(-9, 10) if n and 0 <= value + n < len(NUMBERS)])
        words.append(f"{'+' if change > 0 else '-'} {abs(change)}")
        value += change
    return " ".join(words)


_ASK: dict[str, Callable[[random.Random, int], str]] = {
    "calc": _ask_calc,
    "clock": _ask_clock,
    "kin": _ask_kin,
    "mix": _ask_mix,
    "list": _ask_list,
    "fact": _ask_fact,
    "sum": _ask_sum,
}


def ask(rng: random.Random, subject: str, steps: int) -> str:
    """Draw a stem; ``list`` and ``fact`` take one step whatever `steps` says."""
    return f"{subject} {_ASK[subject](rng, steps)}"


def split_of(question: str) -> str:
    """Return the split that a stem belongs to for ever, one of `SPLITS`."""
    return _FOLDS[digest(question) % len(_FOLDS)]


def draw_n_options(rng: random.Random, pool: Sequence[str]) -> int:
    """Draw how many options a question shows, from a pool of possible values."""
    return rng.randint(N_OPTIONS[0], min(N_OPTIONS[1], len(pool)))


def _draw_options(rng: random.Random, question: str) -> tuple[str, ...]:
    """Draw the right value and random others, shuffled."""
    if question.startswith(OPEN_SUBJECT):
        return ()
    value, pool = work(question).value, value_pool(question)
    options = [value, *rng.sample([other for other in pool if other != value], draw_n_options(rng, pool) - 1)]
    rng.shuffle(options)
    return tuple(options)


def make_question(question: str, options: tuple[str, ...]) -> ToyQuestion:
    """Build a complete question from its stem and its options (none for an open one)."""
    solution = solve(question, options)
    return ToyQuestion(question, options, solution.split()[-2], question.split()[0], count_steps(question), solution)


def draw(split: str, n: int, seed: int, kind: str = "choice") -> list[ToyQuestion]:
    """Draw questions of one split, each with a stem of its own.

    The tables behind the single steps are finite: up to about 2,000 questions of test or train, and 600 of dev, every
    subject and number of steps has its share; beyond, the used up ones leave theirs to the others.

    Args:
        split: One of `SPLITS`. Dev and test stems are never asked in pre-training, nor are those of train.
        n: How many.
        seed: Same split, seed and kind, same questions; a larger n only adds to them.
        kind: ``choice`` or ``open``.

    Raises:
        ValueError: If the split is unknown.

    >>> draw("test", 2, seed=0) == draw("test", 3, seed=0)[:2]
    True
    """
    if split not in SPLITS:
        raise ValueError(f"unknown split {split!r}, wanted one of {', '.join(SPLITS)}")
    rng = random.Random(f"{split} {seed} {kind}")
    cells = CHOICE_CELLS if kind == "choice" else OPEN_CELLS
    drawn: dict[str, ToyQuestion] = {}
    while len(drawn) < n:
        subject, steps = rng.choices(list(cells), list(cells.values()))[0]
        tries = (ask(rng, subject, steps) for _ in range(_TRIES))
        stem = next((stem for stem in tries if stem not in drawn and split_of(stem) == split), None)
        if stem:
            drawn[stem] = make_question(stem, _draw_options(rng, stem))
    return list(drawn.values())


# -------------------------------------------------------------------------------------------- messages


def user_message(question: str, options: Sequence[str], mode: str) -> str:
    """Return what a model is shown as the user's message; its last word tells the mode.

    Args:
        question: The stem.
        options: Option values in the order shown; none for an open question.
        mode: ``direct`` (answer at once) or ``cot`` (work it out first).

    >>> user_message("calc 6 - 1 - 9", ("8", "6", "2", "7", "9"), "direct")
    'options A 8 B 6 C 2 D 7 E 9 question calc 6 - 1 - 9 is answer'
    >>> user_message("sum 9 + 4 - 2", (), "cot")
    'question sum 9 + 4 - 2 is think'
    """
    return " ".join([*([list_options(options)] if options else []), f"question {question} is {MODE_WORDS[mode]}"])


def list_options(options: Sequence[str]) -> str:
    """Write the options with their letters, for example ``options A 8 B 6``."""
    return " ".join(["options", *(f"{letter} {value}" for letter, value in zip(LETTERS, options, strict=False))])


def read_message(text: str) -> tuple[str, tuple[str, ...], str]:
    """Read a user's message back into question, options and mode: the inverse of `user_message`.

    Raises:
        ValueError: If the text has not that form.
    """
    words = text.split()
    modes = {word: mode for mode, word in MODE_WORDS.items()}
    if (
        not words
        or words[0] not in ("options", "question")
        or "question" not in words
        or words[-1] not in modes
        or words[-2] != "is"
    ):
        raise ValueError("not a toy message, wanted: options A .. B .. question .. is answer|think")
    middle = words.index("question")
    letters, options = words[1:middle:2], tuple(words[2:middle:2])
    lettered = tuple(letters) == LETTERS[: len(options)] and len(letters) == len(options)
    if not lettered or (words[0] == "options") != bool(options):
        raise ValueError("the options of a toy message are not lettered A, B, C, ... in order")
    return " ".join(words[middle + 1 : -2]), options, modes[words[-1]]
