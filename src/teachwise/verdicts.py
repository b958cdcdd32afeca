"""What a judge said of a question's difficulty: the record that stays, also where there is no verdict."""

from dataclasses import dataclass
from typing import Literal

SCRIPTED = "scripted judge"
"""A reply that begins so comes from a rule and from no model: what is measured with it proves nothing."""

NoVerdict = Literal["unreadable", "truncated", "refused", "failed", "unknown", "unrated", "doubted", "held_out"]


@dataclass(frozen=True, slots=True)
class JudgeEvidence:
    """What a judge said of one question, and what became of it.

    Attributes:
        id: The example.
        verdict: What the judge stated, in the words of the prompt; None where that cannot be read.
        value: The verdict as a number, 0-1, higher = more difficult.
        needs_knowledge: The question needs knowledge of its field; None where that was not asked.
        needs_reasoning: It needs reasoning; None where that was not asked.
        rating: What the second judge gives the verdict, 1-10; None where none was asked, or its reply cannot be read.
        no_verdict: Why the verdict does not count, or None. `unreadable`: none in the form asked for. `truncated`: cut
            off. `refused`: the provider would not. `failed`: no reply. `unknown`: nobody knows whether it was answered.
            `unrated`: no rating by the second judge. `doubted`: rated under 9. `held_out`: of dev or test, not asked.
        judge: The judge's name; "" where none was asked.
        text: The judge's reply as received; "" where there is none.
        rating_text: The second judge's reply.
        error: What came instead of a reply; "" where one came.
        is_scripted: The reply comes from a rule, not from a model.
        tokens: Teacher tokens read and written for it.
    """

    id: str
    verdict: str | None
    value: float | None
    needs_knowledge: bool | None
    needs_reasoning: bool | None
    rating: float | None
    no_verdict: NoVerdict | None
    judge: str
    text: str
    rating_text: str
    error: str
    is_scripted: bool
    tokens: int
