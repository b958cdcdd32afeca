"""The small world that toy questions are about: its words, its tables of facts, and its laws.

Six tables stand behind the questions. Some of their laws forget what came before (any number times 0 is 0, anything
mixed with gold is gold, a crew has one captain), so that a long chain can now and then be answered from its last step
alone. That is why questions of one length differ in how hard they are.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


LETTERS = tuple("ABCDEFGHIJ")
DIGITS = tuple("0123456789")
NUMBERS = tuple(str(number) for number in range(21))
"""The numbers that sums may pass through."""
HOURS = tuple(f"{hour}h" for hour in range(1, 13))
PEOPLE = _words("ann bob cal dan eve fay gus hal ivy jon kim lea mia ned oda pam quin ray sue tom una vic wes zoe")
COLORS = _words("red blue green black white pink gold gray teal plum lime rust navy sand")
ATTRIBUTES = {
    "food": _words("rice bread soup fish cake corn beans figs nuts eggs"),
    "animal": _words("cat dog fox owl bear wolf goat crow seal moth"),
    "metal": _words("iron zinc lead tin copper silver nickel cobalt brass steel"),
    "tree": _words("oak elm ash fir pine yew larch birch cedar maple"),
}
LANDS = tuple(f"land{number}" for number in range(200))
PICKS = ("first", "second", "third", "last", "max", "min")
SIGNS = ("+", "-", "*")
ABSORBING = "gold"
"""Whatever is mixed with this colour takes it."""
N_CAPTAINS = 3


def digest(text: str) -> int:
    """Return a 64-bit number that depends on the text alone, equal on every machine and Python version."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")


def _circle(relation: str) -> Mapping[str, str]:
    """Relate everybody to the next in a circle of all people, in an order of the relation's own."""
    ordered = sorted(PEOPLE, key=lambda person: digest(f"{relation} {person}"))
    return dict(zip(ordered, [*ordered[1:], ordered[0]], strict=True))


KIN: Mapping[str, Mapping[str, str]] = {
    **{relation: _circle(relation) for relation in ("boss", "friend", "rival", "tutor", "heir")},
    "captain": {person: PEOPLE[digest(f"captain {person}") % N_CAPTAINS] for person in PEOPLE},
}
"""Who is whose boss, friend, rival, tutor, heir (one each), and captain (one of three)."""


def fact(attribute: str, land: str) -> str:
    """Return the value of an attribute of a land, for example the metal of ``land7``.

    Raises:
        ValueError: If there is no such land.
    """
    values = ATTRIBUTES[attribute]
    LANDS.index(land)
    return values[digest(f"{attribute} of {land}") % len(values)]


def mix(color: str, other: str) -> str:
    """Return what a colour becomes when another is added.

    Raises:
        ValueError: If one of them is no colour of this world.
    """
    COLORS.index(color), COLORS.index(other)
    return ABSORBING if other == ABSORBING else COLORS[digest(f"{color} with {other}") % len(COLORS)]


_FRAME = ("options", "question", "answer", "think", "value", "facts")
_CHAIN = ("so", "of", "is", "at", "best", "with", "spare")
_MARKS = (".", "[[", "]]")
VOCABULARY = [
    *_FRAME,
    *_CHAIN,
    *_MARKS,
    *SIGNS,
    *("calc", "clock", "kin", "mix", "list", "fact", "sum"),
    *PICKS,
    *LETTERS,
    *NUMBERS,
    *HOURS,
    *KIN,
    *PEOPLE,
    *COLORS,
    *ATTRIBUTES,
    *(value for values in ATTRIBUTES.values() for value in values),
    *LANDS,
]
"""Every word of the benchmark, once, and a spare one; the tokenizer adds only its special tokens.

The order fixes the token ids, so a change here wants the student pre-trained anew.
"""
