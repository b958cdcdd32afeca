"""A multiple-choice benchmark that a 360 thousand parameter model can learn: five shuffled options, five subjects.

The subjects are ``calc`` (digits modulo ten), ``week`` (days), ``kin`` (a fixed family graph), ``list`` (a place or an
extreme in a list) and ``fact`` (a fixed table). The first three chain 1 to 5 reasoning steps; the last two take one.
Single steps are facts that a student can recall. Longer chains must be worked out, so they are where a rationale helps.

Every text is words joined by single spaces, so that one word is one token.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable
from dataclasses import dataclass

LETTERS = tuple("ABCDEFGHIJ")
N_OPTIONS = 5
SUBJECTS = ("calc", "week", "kin", "list", "fact")
CHAINED = ("calc", "week", "kin")
STEP_SHARES = (0.60, 0.10, 0.10, 0.10, 0.10)
"""Share of questions with 1, 2, ... 5 steps within a chained subject."""
MODE_WORDS = {"direct": "answer", "cot": "think"}
SPLITS = ("train", "dev", "test")

DIGITS = tuple("0123456789")
DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
PEOPLE = ("ann", "bob", "cal", "dan", "eve", "fay", "gus", "hal", "ivy", "jon")
KIN = {
    "boss": dict(zip(PEOPLE, ["dan", "hal", "ivy", "gus", "bob", "ann", "jon", "cal", "eve", "fay"], strict=True)),
    "friend": dict(zip(PEOPLE, ["fay", "jon", "eve", "ann", "hal", "ivy", "bob", "dan", "cal", "gus"], strict=True)),
    "rival": dict(zip(PEOPLE, ["ivy", "cal", "gus", "hal", "jon", "eve", "fay", "bob", "ann", "dan"], strict=True)),
    "tutor": dict(zip(PEOPLE, ["gus", "eve", "dan", "fay", "ivy", "jon", "cal", "ann", "bob", "hal"], strict=True)),
}
"""Who is whose boss, friend, rival, tutor: four permutations of the people, none with a fixed point."""
ATTRIBUTES = {
    "color": ("red", "blue", "green", "black", "white", "pink", "gold", "gray", "teal", "plum"),
    "food": ("rice", "bread", "soup", "fish", "cake", "corn", "beans", "figs", "nuts", "eggs"),
    "animal": ("cat", "dog", "fox", "owl", "bear", "wolf", "goat", "crow", "seal", "moth"),
    "metal": ("iron", "zinc", "lead", "tin", "copper", "silver", "nickel", "cobalt", "brass", "steel"),
}
LANDS = tuple(f"land{number}" for number in range(60))
PICKS = ("first", "second", "third", "last", "max", "min")

_FRAME = ("options", "question", "answer", "think", "value")
_CHAIN = ("so", "of", "is", "at", "best", "spare")
_SIGNS = ("=", "+", "-", "*", ".", "[[", "]]")
VOCABULARY = [
    *_FRAME,
    *_CHAIN,
    *_SIGNS,
    *SUBJECTS,
    *PICKS,
    *LETTERS,
    *DIGITS,
    *DAYS,
    *KIN,
    *PEOPLE,
    *ATTRIBUTES,
    *(value for values in ATTRIBUTES.values() for value in values),
    *LANDS,
]
"""Every word of the benchmark, once, and a spare one; the tokenizer adds only its special tokens.

The order fixes the token ids, so a change here wants the student pre-trained anew.
"""

Say = Callable[[int, str], str]
"""What the writer puts down as the result of a step, given the step's number (from 0) and the right result."""


@dataclass(frozen=True)
class ToyQuestion:
    """One multiple-choice question.

    Attributes:
        question: The stem, for example ``calc 6 - 1 - 9``.
        options: The option values in the order shown; option i has letter ``LETTERS[i]``.
        answer: Letter of the right option.
        subject: One of `SUBJECTS`.
        steps: Reasoning steps needed, 1 to 5.
        solution: The worked chain, ending with the letter in double brackets.
    """

    question: str
    options: tuple[str, ...]
    answer: str
    subject: str
    steps: int
    solution: str


@dataclass(frozen=True)
class Worked:
    """A chain of reasoning: its sentences in order, and the value they lead to."""

    sentences: tuple[str, ...]
    value: str


def digest(text: str) -> int:
    """Return a 64-bit number that depends on the text alone, equal on every machine and Python version."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")


def fact(attribute: str, land: str) -> str:
    """Return the value of an attribute of a land, for example the metal of ``land7``.

    Raises:
        ValueError: If there is no such land.
    """
    values = ATTRIBUTES[attribute]
    LANDS.index(land)
    return values[digest(f"{attribute} of {land}") % len(values)]


# ---------------------------------------------------------------------------------------------- solving


def _right(index: int, result: str) -> str:
    return result


def _calculate(left: str, sign: str, right: str) -> str:
    a, b = int(left), int(right)
    return str({"+": a + b, "-": a - b, "*": a * b}[sign] % 10)


def _shift_day(day: str, sign: str, count: str) -> str:
    return DAYS[(DAYS.index(day) + int(sign + count)) % 7]


def _work_operations(words: list[str], apply: Callable[[str, str, str], str], say: Say) -> Worked:
    value, sentences = words[0], []
    for index, (sign, operand) in enumerate(zip(words[1::2], words[2::2], strict=True)):
        result = say(index, apply(value, sign, operand))
        sentences.append(f"{value} {sign} {operand} = {result}")
        value = result
    return Worked(tuple(sentences), value)


def _work_calc(words: list[str], say: Say) -> Worked:
    return _work_operations(words, _calculate, say)


def _work_week(words: list[str], say: Say) -> Worked:
    return _work_operations(words, _shift_day, say)


def _work_kin(words: list[str], say: Say) -> Worked:
    person, sentences = words[-1], []
    for index, relation in enumerate(reversed(words[:-1:2])):
        relative = say(index, KIN[relation][person])
        sentences.append(f"{relation} of {person} is {relative}")
        person = relative
    return Worked(tuple(sentences), person)


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


def _work_fact(words: list[str], say: Say) -> Worked:
    asked, land = words[0], words[2]
    sheet = {name: say(index, fact(name, land)) for index, name in enumerate(ATTRIBUTES)}
    return Worked(tuple(f"{name} of {land} is {value}" for name, value in sheet.items()), sheet[asked])


_WORK = {"calc": _work_calc, "week": _work_week, "kin": _work_kin, "list": _work_list, "fact": _work_fact}


def work(question: str, say: Say = _right) -> Worked:
    """Work out a question from its text.

    Args:
        question: A stem such as ``kin boss of friend of ann``.
        say: Called at each sentence with its number and the right result; what it returns is written down and carried
            on. The default writes the right result.

    Raises:
        ValueError: If the text is not a question of this benchmark.

    >>> work("calc 6 - 1 - 9")
    Worked(sentences=('6 - 1 = 5', '5 - 9 = 6'), value='6')
    """
    subject, *words = question.split() or [""]
    try:
        return _WORK[subject](words, say)
    except (KeyError, IndexError, ValueError) as error:
        raise ValueError(f"not a question of the toy benchmark: {question!r}") from error


def write_solution(worked: Worked, options: tuple[str, ...]) -> str:
    """Write a chain down as the text that students learn from; the value must be among the options."""
    letter = LETTERS[options.index(worked.value)]
    return f"{' . '.join(worked.sentences)} . so {worked.value} {letter} [[ {letter} ]]"


def solve(question: str, options: tuple[str, ...]) -> str:
    """Return the right worked solution, computed from the texts alone.

    Raises:
        ValueError: If the text is not a question of this benchmark, or its answer is not among the options.

    >>> solve("calc 6 - 1 - 9", ("8", "6", "2", "7", "9"))
    '6 - 1 = 5 . 5 - 9 = 6 . so 6 B [[ B ]]'
    """
    worked = work(question)
    if worked.value not in options:
        raise ValueError(f"the answer {worked.value} is not among the options {' '.join(options)}")
    return write_solution(worked, tuple(options))


def count_steps(question: str) -> int:
    """Return how many reasoning steps a question needs: its operations for a chained subject, else 1."""
    subject, *words = question.split()
    return len(words) // 2 if subject in CHAINED else 1


def value_pool(question: str) -> tuple[str, ...]:
    """Return every value that could be an option of this question."""
    subject, first = question.split()[:2]
    return ATTRIBUTES[first] if subject == "fact" else {"week": DAYS, "kin": PEOPLE}.get(subject, DIGITS)


# --------------------------------------------------------------------------------------------- drawing


def _ask_calc(rng: random.Random, steps: int) -> str:
    words = [rng.choice(DIGITS)]
    for _ in range(steps):
        sign = rng.choice("++--*" if steps == 1 else "+-")
        words += [sign, str(rng.randrange(2 if sign == "*" else 1, 10))]
    return " ".join(words)


def _ask_week(rng: random.Random, steps: int) -> str:
    return " ".join([rng.choice(DAYS), *(f"{rng.choice('+-')} {rng.randrange(1, 7)}" for _ in range(steps))])


def _ask_kin(rng: random.Random, steps: int) -> str:
    return "".join(f"{rng.choice(tuple(KIN))} of " for _ in range(steps)) + rng.choice(PEOPLE)


def _ask_list(rng: random.Random, steps: int) -> str:
    return f"{rng.choice(PICKS)} of {' '.join(rng.sample(DIGITS, rng.randrange(4, 6)))}"


def _ask_fact(rng: random.Random, steps: int) -> str:
    return f"{rng.choice(tuple(ATTRIBUTES))} of {rng.choice(LANDS)}"


_ASK = {"calc": _ask_calc, "week": _ask_week, "kin": _ask_kin, "list": _ask_list, "fact": _ask_fact}


def ask(rng: random.Random, subject: str, steps: int) -> str:
    """Draw a question text; ``list`` and ``fact`` take one step whatever `steps` says."""
    return f"{subject} {_ASK[subject](rng, steps)}"


def split_by_text(question: str) -> bool:
    """Say whether the split depends on the question text alone.

    It does for chains of two or more steps and for lists: there a whole question is kept from pre-training. The
    single-step tables are finite and meant to be memorised, so there a question with its set of options is kept.
    """
    return question.startswith("list ") or count_steps(question) > 1


def split_of(question: str, options: tuple[str, ...]) -> str:
    """Return the split that an item belongs to for ever: 20% test, 10% dev, 70% train, by a hash of its content.

    The order of the options is left out of the hash, so that no split holds a reshuffled item of another.
    """
    key = question if split_by_text(question) else " ".join([question, *sorted(options)])
    fold = digest(key) % 10
    return "test" if fold < 2 else "dev" if fold == 2 else "train"


def _draw_item(rng: random.Random) -> tuple[str, tuple[str, ...]]:
    subject = rng.choice(SUBJECTS)
    steps = rng.choices(range(1, 6), STEP_SHARES)[0] if subject in CHAINED else 1
    question = ask(rng, subject, steps)
    value = work(question).value
    options = [value, *rng.sample([other for other in value_pool(question) if other != value], N_OPTIONS - 1)]
    rng.shuffle(options)
    return question, tuple(options)


def make_question(question: str, options: tuple[str, ...]) -> ToyQuestion:
    """Build a complete question from its text and its options."""
    solution = solve(question, options)
    return ToyQuestion(question, options, solution.split()[-2], question.split()[0], count_steps(question), solution)


def draw(split: str, n: int, seed: int) -> list[ToyQuestion]:
    """Draw questions of one split.

    Args:
        split: ``train``, ``dev`` or ``test``. Dev and test items never occur in pre-training.
        n: How many; their pairs of question and options are distinct.
        seed: Same split and seed, same questions; a larger n only adds to them.

    Raises:
        ValueError: If the split is unknown.

    >>> draw("test", 2, seed=0) == draw("test", 3, seed=0)[:2]
    True
    """
    if split not in SPLITS:
        raise ValueError(f"unknown split {split!r}, wanted one of {', '.join(SPLITS)}")
    rng = random.Random(f"{split} {seed}")
    items: dict[tuple[str, tuple[str, ...]], None] = {}
    while len(items) < n:
        item = _draw_item(rng)
        if split_of(*item) == split:
            items.setdefault(item)
    return [make_question(*item) for item in items]


# -------------------------------------------------------------------------------------------- messages


def user_message(question: str, options: tuple[str, ...], mode: str) -> str:
    """Return what a model is shown as the user's message; its last word tells the mode.

    Args:
        question: The stem.
        options: Option values in the order shown.
        mode: ``direct`` (answer with a letter) or ``cot`` (work it out first).

    >>> user_message("calc 6 - 1 - 9", ("8", "6", "2", "7", "9"), "direct")
    'options A 8 B 6 C 2 D 7 E 9 question calc 6 - 1 - 9 answer'
    """
    return f"{list_options(options)} question {question} {MODE_WORDS[mode]}"


def list_options(options: tuple[str, ...]) -> str:
    """Write the options with their letters, for example ``options A 8 B 6``."""
    return " ".join(["options", *(f"{letter} {value}" for letter, value in zip(LETTERS, options, strict=False))])


def read_message(text: str) -> tuple[str, tuple[str, ...], str]:
    """Read a user's message back into question, options and mode: the inverse of `user_message`.

    Raises:
        ValueError: If the text has not that form.
    """
    words = text.split()
    modes = {word: mode for mode, word in MODE_WORDS.items()}
    if not words or words[0] != "options" or "question" not in words or words[-1] not in modes:
        raise ValueError("not a toy message, wanted: options A .. B .. question .. answer|think")
    middle = words.index("question")
    letters, options = words[1:middle:2], tuple(words[2:middle:2])
    if tuple(letters) != LETTERS[: len(options)] or not options:
        raise ValueError("the options of a toy message are not lettered A, B, C, ... in order")
    return " ".join(words[middle + 1 : -1]), options, modes[words[-1]]
