"""Overlap: does one text hold another? Questions that repeat held-out ones, and texts that recite them.

Two questions are copies of one another

    exact    when they have the same words and the same options, in whatever order the options stand;
    near     when they share at least half of their n-grams, name the same numbers and signs in the same order, and
             have the same gold answer.

Shared n-grams are how training sets are usually cleaned (GPT-3, Brown et al. 2020, appendix C: any run of 13 words;
PaLM, Chowdhery et al. 2022, section 8: 70% of the runs of 8). Those rules were made for web pages. Here train and test
hold questions of one kind, often of one template, and a template with other numbers or names is another question. So

    - n-grams that stand in more than `RARE` held-out questions are the template's and do not count;
    - a held-out question that is left with under `OWN` of its n-grams is of a template: only exact copies are told;
    - numbers, signs and the gold answer must agree.

How well this finds what it should, and what it misses: `bench/guard.py`.
"""

import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal

from teachwise.records import Example

GRAM = 3
"""Words in an n-gram. Few, so that a word replaced here and there breaks few of them."""
NEAR = 0.5
"""Share of n-grams from which a question is a near copy, or a text recites a question."""
RARE = 3
"""An n-gram, or a stem, that stands in more held-out questions than this tells nothing."""
OWN = 2 / 3
"""Share of its n-grams that a held-out question must have nearly to itself to be told from others of its template."""
FEWEST = (10, 5)
"""Fewer n-grams are no evidence: below `MANY` held-out questions, which seldom show what is a template; above it."""
MANY = 1000
"""Held-out questions from which the few n-grams of a short question are trusted."""
SAME_ANSWER = 2 / 3
"""Share of the longer gold answer's words that the other one must have."""

Kind = Literal["exact", "near", "recited"]


@dataclass(frozen=True, slots=True)
class Match:
    """A text that holds a held-out question.

    Attributes:
        other: Position of the text.
        held: Position of the held-out question.
        kind: `exact` or `near` for a question that repeats it, `recited` for a text that contains it.
        share: Share of n-grams in common, 0-1; 1.0 where all words are the same.
    """

    other: int
    held: int
    kind: Kind
    share: float


# words


_UNSPACED = re.compile(r"[\u0e00-\u0eff\u3040-\u30ff\u3400-\u9fff]")
"""Thai, Lao, Japanese and Chinese put no spaces between words: there each character stands for a word."""
_NO_POINT = re.compile(r"\.(?!\d)")
_THOUSANDS = re.compile(r"(?<=\d),(?=\d{3}(?!\d))")
_HYPHEN = re.compile(r"(?<=[^\W\d_])[-\u2010-\u2013](?=[^\W\d_])")
_MINUS = "-\u2010\u2011\u2012\u2013\N{MINUS SIGN}"
"""Hyphens and short dashes are written for a minus; a long dash never is."""


class _Plain(dict[int, str]):
    """What becomes of a character: letters, marks and digits stay, signs stand apart, all else is a space."""

    def __missing__(self, code: int) -> str:
        char = chr(code)
        category = unicodedata.category(char)
        if category[0] in "LMN" or char == ".":
            plain = f" {char} " if _UNSPACED.match(char) else char
        elif char in _MINUS:
            plain = " - "
        else:
            plain = f" {char} " if category in ("Sm", "So") or char in "*/%^" else " "
        self[code] = plain
        return plain


_PLAIN = _Plain()


def words(text: str) -> list[str]:
    """The words, numbers and signs of a text, without case, white space and punctuation.

    After NFKC and case folding. Signs that change a meaning (+ - * / ^ % = <) are words of their own; a hyphen within
    a word parts it. A number keeps its decimal point and loses its thousands commas.

    Example:
        >>> words("Is 1,000 - x well-known?  (YES.)")
        ['is', '1000', '-', 'x', 'well', 'known', 'yes']
    """
    text = unicodedata.normalize("NFKC", text).casefold()
    return _HYPHEN.sub(" ", _NO_POINT.sub(" ", _THOUSANDS.sub("", text))).translate(_PLAIN).split()


def _spoken(text: str) -> tuple[str, ...]:
    """The words of a text, or the text itself where it has none: "[]" is not "()"."""
    return tuple(words(text)) or (text,)


def grams(some: Sequence[str]) -> set[str]:
    """The distinct runs of `GRAM` words; none where there are fewer words.

    Example:
        >>> sorted(grams(["who", "is", "it", "now"]))
        ['is it now', 'who is it']
    """
    return {" ".join(some[i : i + GRAM]) for i in range(len(some) - GRAM + 1)}


def is_sign(word: str) -> bool:
    """Whether a word is a number, a variable or a sign: with another one a question is another question."""
    return (len(word) == 1 and word not in "ai" and not _UNSPACED.match(word)) or any(map(str.isdigit, word))


def in_order(few: Iterable[str], many: Iterable[str]) -> bool:
    """Whether all of `few` stand in `many`, in the same order, whatever stands between them.

    Example:
        >>> in_order("ac", "abc"), in_order("ca", "abc")
        (True, False)
    """
    rest = iter(many)
    return all(one in rest for one in few)


@dataclass(frozen=True)
class Asked:
    """A question in words.

    Attributes:
        stem: The question without its options.
        options: K options, in the order of the alphabet.
        gold: The gold answer: its option, or the answer itself where the question is open. It does not tell two
            questions with the same words apart.
    """

    stem: tuple[str, ...]
    options: tuple[tuple[str, ...], ...]
    gold: tuple[str, ...] = field(compare=False)

    @classmethod
    def of(cls, example: Example) -> "Asked":
        """The words of an example."""
        gold = example.options[example.letters.index(example.answer)] if example.options else example.answer
        return cls(_spoken(example.question), tuple(sorted(map(_spoken, example.options))), _spoken(gold))

    @cached_property
    def grams(self) -> set[str]:
        """The n-grams of the stem and of every option."""
        return set().union(*map(grams, (self.stem, *self.options)))

    @cached_property
    def signs(self) -> list[str]:
        """The stem's numbers and signs, in order."""
        return list(filter(is_sign, self.stem))


# what is looked for


class Wanted:
    """Held-out questions, ready to be looked for: an inverted index of the n-grams that tell them apart.

    Args:
        found: The n-grams of each held-out question.
    """

    def __init__(self, found: Sequence[set[str]]) -> None:
        where: dict[str, list[int]] = defaultdict(list)
        for row, some in enumerate(found):
            for one in some:
                where[one].append(row)
        self.common = {one for one, rows in where.items() if len(rows) > RARE}
        self._where = {one: rows for one, rows in where.items() if len(rows) <= RARE}
        self.rare = [some - self.common for some in found]
        self.fewest = FEWEST[len(found) >= MANY]
        self.is_own = [len(rare) >= OWN * len(some) for rare, some in zip(self.rare, found, strict=True)]

    def shared(self, some: Iterable[str]) -> Iterator[tuple[int, int]]:
        """Each held-out question that can be told by its n-grams, with how many of the given ones it has."""
        counts = Counter(row for one in some for row in self._where.get(one, ()))
        return ((row, n) for row, n in counts.items() if self.is_own[row])


def too_alike(held: Sequence[Example]) -> int:
    """How many held-out questions are of a template, so that only exact copies of them can be told."""
    return Wanted([Asked.of(one).grams for one in held]).is_own.count(False)


def copies(others: Sequence[Example], held: Sequence[Example]) -> list[Match]:
    """Which questions repeat a held-out one, word for word or nearly so.

    With G the n-grams of a question (of its stem and of each option) that are not common, two questions share

        |G1 & G2| / min(|G1|, |G2|)

    so that a sentence added to either of them changes nothing. Where all words of the stem are the same this is 1.

    Args:
        others: Questions to look through, for instance train.
        held: Questions that they must not repeat.

    Returns:
        One match per pair, by position in `others`. The time is linear in the number of words.
    """
    wanted = [Asked.of(one) for one in held]
    index = Wanted([one.grams for one in wanted])
    by_stem: dict[tuple[str, ...], list[int]] = defaultdict(list)
    by_all: dict[Asked, list[int]] = defaultdict(list)
    for row, one in enumerate(wanted):
        by_stem[one.stem].append(row)
        by_all[one].append(row)
    matches = []
    for number, other in enumerate(map(Asked.of, others)):
        same = by_stem.get(other.stem, [])
        shares = _shares(other, index) | dict.fromkeys(same if len(same) <= RARE else [], 1.0)
        exact = dict.fromkeys(by_all.get(other, []), 1.0)
        for row, share in sorted((shares | exact).items()):
            if row in exact or _is_near(other, wanted[row]):
                matches.append(Match(number, row, "exact" if row in exact else "near", share))
    return matches


def _shares(other: Asked, index: Wanted) -> dict[int, float]:
    """Held-out questions that share enough with a question, and how much."""
    n_other = len(other.grams - index.common)
    fewest = {row: (n, min(n_other, len(index.rare[row]))) for row, n in index.shared(other.grams)}
    return {row: n / few for row, (n, few) in fewest.items() if few >= index.fewest and n >= NEAR * few}


def _is_near(other: Asked, held: Asked) -> bool:
    """Whether two questions that share enough are the same: by their numbers and signs, and by the gold answer."""
    few, many = sorted((other.signs, held.signs), key=len)
    return in_order(few, many) and _is_same_answer(other.gold, held.gold)


def _is_same_answer(one: Sequence[str], other: Sequence[str]) -> bool:
    if list(filter(is_sign, one)) != list(filter(is_sign, other)):
        return False
    return (Counter(one) & Counter(other)).total() >= SAME_ANSWER * max(len(one), len(other))


def recitals(texts: Sequence[str], own: Sequence[Example], held: Sequence[Example]) -> list[Match]:
    """Which texts recite a held-out question.

    A text about a question may quote that question. What this has in common with a held-out one (a passage that both
    are about) therefore does not count: the share is taken over the held-out stem's other n-grams.

    Args:
        texts: N texts, for instance a teacher's rationales.
        own: The N questions that they are about.
        held: Questions that they must not recite.

    Returns:
        One match per pair, by position in `texts`.
    """
    wanted = [Asked.of(one) for one in held]
    index = Wanted([grams(one.stem) for one in wanted])
    matches = []
    for number, (text, about) in enumerate(zip(texts, own, strict=True)):
        said, known = words(text), Asked.of(about).grams
        for row, n in sorted(index.shared(grams(said) - known)):
            few = len(index.rare[row] - known)
            if few >= index.fewest and n >= NEAR * few and in_order(wanted[row].signs, said):
                matches.append(Match(number, row, "recited", n / few))
    return matches
