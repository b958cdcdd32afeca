"""The toy judge: a rule in place of a large model. It counts a toy question's steps, and is off now and then by chance.

Every reply begins with a mark, so that nobody takes a measure by it for one by a judge.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from teachwise.evidence import SCRIPTED

from .working import count_steps, work
from .world import digest

OFF = 0.3
"""Share of questions whose number of steps is told one too high or one too low."""
DOUBTED = 0.05
"""Share of verdicts that it rates under 9."""
UNREADABLE = 0.02
"""Share of replies that state no verdict."""
LEVELS = ("high_school_and_easier", "undergraduate", "graduate", "postgraduate")
KNOWN_BY_HEART = ("fact", "kin", "mix")
"""Subjects that take knowledge."""
_QUESTION = re.compile(r"^Question: (.+)$", re.MULTILINE)
_FORMS = {"rating": "[[rating]]", "education": "[[level]]", "difficulty": "[[number]]", "steps": "[[knowledge:"}
"""By what is asked, the form in which a prompt wants the verdict."""


def judged(messages: Sequence[Mapping[str, Any]], seed: int = 0) -> str | None:
    r"""Judge a toy question by its number of steps; None where the last message asks for no judgement.

    The same messages and seed always give the same reply.

    >>> judged([{"role": "user", "content": "Question: calc 6 - 1 - 9\nend in the form [[number]]"}])
    'scripted judge : 2 steps [[ 0.3 ]]'
    """
    content = messages[-1]["content"] if messages else None
    asked = content if isinstance(content, str) else ""
    found = _QUESTION.search(asked)
    kind = next((kind for kind, form in _FORMS.items() if form in asked), None)
    if not found or kind is None:
        return None
    question = found[1].strip()
    work(question)  # refuses what is no toy question
    lot = digest(f"judge {kind} {seed} {question}") / 2**64
    told = "no verdict" if lot < UNREADABLE else _verdict(kind, question, seed, lot)
    return f"{SCRIPTED} : {told}"


def _verdict(kind: str, question: str, seed: int, lot: float) -> str:
    if kind == "rating":
        return f"[[ {7 if lot < UNREADABLE + DOUBTED else 9} ]]"
    off = digest(f"off {kind} {seed} {question}") / 2**64
    shift = 0 if off >= OFF else 1 if off < OFF / 2 else -1
    steps = min(5, max(1, count_steps(question) + shift))
    if kind == "education":
        return f"{steps} steps [[ {LEVELS[min(steps, 4) - 1]} ]]"
    if kind == "difficulty":
        return f"{steps} steps [[ {0.1 + 0.2 * (steps - 1):.1f} ]]"
    knows, thinks = question.split()[0] in KNOWN_BY_HEART, steps > 1
    amount = "low" if steps == 1 else "medium" if steps < 4 else "high"
    named = f"knowledge: {'yes' if knows else 'no'}; reasoning: {'yes' if thinks else 'no'}; steps: {amount}"
    return f"{steps} steps [[ {named} ]]"
