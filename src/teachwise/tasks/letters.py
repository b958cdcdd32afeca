"""Reading the letter that a model's reply states as its final answer."""

import re
from collections.abc import Iterable, Sequence

from teachwise.records import LETTERS

# White space is bounded everywhere: a reply may be thousands of line breaks, and a pattern must not retry them all.
_LEAD = r"(?i:\b(?:answer|(?:correct|right|best)\s{1,9}(?:option|choice)))\**"
_LINK = r"(?:\s{1,9}(?i:is)\b\s{0,9}:?|\s{0,9}:|\s{0,9}\n)\**\s{0,9}"
_NOUN = r"(?i:(?:the\s)?(?:option|choice|letter)\s)?"
# "Which is the best answer:" and then all options, A and B and so on, states nothing.
_NO_LIST = r"(?!\(?A[.):\]*][^\n]*\n\s{0,9}[-(*]{0,3}B[.):\]*])"
_END = r"(?=\s{0,9}\Z|[ \t]{0,9}\n|[;!?)\]:]|\*\*|\.(?!\w)|,(?!\s?[A-Z]\b)|\s(?:because|since|as)\b)"
_BRACKETED = re.compile(r"\[\[\s*([A-Za-z])\s*\]\]")
_STATED = [
    # answer is (X); answer: [X]; answer is **(X)**
    re.compile(rf"{_LEAD}{_LINK}{_NOUN}{_NO_LIST}[(\[]\s?([A-Za-z])\s?[)\]]"),
    # answer is **X**; answer is **X. text**
    re.compile(rf"{_LEAD}{_LINK}{_NOUN}{_NO_LIST}(?<=\*\*)([A-Za-z])\s?(?=\*\*|[.:)])"),
    # answer is X. A bare lower-case "a" is an article here, so it needs the colon of the next form.
    re.compile(rf"{_LEAD}{_LINK}{_NOUN}{_NO_LIST}([A-Zb-z]){_END}"),
    re.compile(rf"{_LEAD}\s{{0,9}}:\**\s{{0,9}}{_NOUN}{_NO_LIST}([A-Za-z]){_END}"),
    re.compile(r"\\boxed\{\s?(?:\\(?:text|textbf|mathrm|mathbf)\{)?\s?\(?([A-Za-z])\)?\s?\}"),
    # **X** or **X. text**, at the very end
    re.compile(r"\*\*\s?\(?([A-Za-z])\)?(?:[.:)]?|[.:)]\s[^*\n]*)\*\*\W*\Z"),
]
_ALONE = re.compile(r"\W*([A-Za-z])\W*")
FORMS = (_BRACKETED.pattern, "|".join(form.pattern for form in _STATED), rf"\A{_ALONE.pattern}\Z")
"""For readers without this package: of the first pattern that is found, the last match holds the letter, in its one
group that took part. `read_letter` knows the options too: it also reads a letter with its option's text, and takes a
letter that names no option for none."""
_ECHO = re.compile(r"\(?([A-Za-z])[).:]\s*(\S.*)", re.DOTALL)


def read_letter(text: str, options: Sequence[str]) -> str | None:
    r"""The letter that a text states as its final answer.

    The last `[[X]]` decides. Without one, the last of: "the answer is (X)", "answer: X", "\\boxed{X}", or a bold
    letter at the very end. Without those, a text that is nothing but a letter, or a letter and that option's text.
    A capital in a sentence is never an answer, and an unfinished text that states none has none.

    Args:
        text: A model's reply, whole.
        options: K option texts.

    Returns:
        One of the first K letters, or None: also where the letter last stated names no option.

    Example:
        >>> read_letter("First I thought [[A]], but no: [[ b ]]", ["1", "2"])
        'B'
        >>> read_letter("A good question. The answer is a matter of taste", ["1", "2"]) is None
        True
    """
    found = _last(_BRACKETED.finditer(text)) or _last(match for form in _STATED for match in form.finditer(text))
    letter = (found or _short(text.strip(), options) or "").upper()
    return letter if letter and letter in LETTERS[: len(options)] else None


def _last(matches: Iterable[re.Match[str]]) -> str | None:
    last = max(matches, key=lambda match: match.start(1), default=None)
    return last[1] if last else None


def _short(text: str, options: Sequence[str]) -> str | None:
    if alone := _ALONE.fullmatch(text):
        return alone[1]
    echo = _ECHO.fullmatch(text)
    named = dict(zip(LETTERS, options, strict=False)).get(echo[1].upper()) if echo else None
    return echo[1] if echo and named is not None and named.casefold() == echo[2].casefold() else None
