"""Verify: what a teacher's reply is worth. Pure functions of raw replies, so that changing them never buys anything."""

import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import median
from typing import Any

from teachwise.records import Example, Rationale, Verdict
from teachwise.request import Reply, Request
from teachwise.tasks import Task
from teachwise.teacher.prices import Price

REASONS: dict[Verdict, str] = {
    "correct": "it states the gold answer",
    "wrong": "it states another answer than the gold one",
    "unreadable": "it states no answer",
    "truncated": "it met the token limit before it came to its end",
    "contaminated": "it recites a question of dev or test",
    "refused": "the teacher's provider refused it",
    "failed": "no reply was to be had",
    "unknown": "nobody knows whether it was answered",
    "unpaid": "the budget could not bear it",
}
"""What a verdict means, in words."""
FAILURE = "TEACHER FAILURE"
"""The verdict on a teacher whose hard rationales are too seldom right."""
LOOP_SHARE = 0.2
"""What the end of a text shrinks to when it is compressed, where it says the same thing over and over."""
_END, _SHORT = 1000, 200
"""Characters that are looked at; with fewer than the second nothing is said."""


@dataclass(frozen=True)
class Keep:
    """Which replies are learnt from, and what is asked again.

    Attributes:
        wants_correct: Only those that state the gold answer; else all that came whole.
        samples: Most samples of one example, where the first was not kept.
        longer: Ask once more with twice the token limit where a reply was cut off; once for each example.
        gold_shown: The teacher was shown the gold answer, so that stating it proves nothing.
    """

    wants_correct: bool = True
    samples: int = 1
    longer: bool = False
    gold_shown: bool = False


def verdict_of(example: Example, reply: Reply | None, task: Task) -> tuple[Verdict, str | None]:
    """What became of a reply, and the answer that it states."""
    if reply is None:
        return "unpaid", None
    if reply.error is not None:
        return ("unknown" if reply.fault == "unanswered" else "failed"), None
    stated = task.read_answer(example, reply.text)
    if reply.state in ("truncated", "refused"):
        return ("truncated" if reply.state == "truncated" else "refused"), stated
    if stated is None:
        return "unreadable", None
    return ("correct" if stated == example.answer else "wrong"), stated


def is_kept(verdict: Verdict, keep: Keep) -> bool:
    """Whether a reply with this verdict is learnt from."""
    return verdict == "correct" or (not keep.wants_correct and verdict in ("wrong", "unreadable"))


Tries = Sequence[tuple[Request, Reply | None]]
"""The requests for one example in order, with their replies; None where the budget could not bear one."""


def next_request(example: Example, tries: Tries, task: Task, keep: Keep) -> Request | None:
    """What to ask after these tries of one example, or None: one is kept, or enough were made.

    The first truncated reply is asked for with twice the limit (`longer`), which then stays; every other rejected one
    as a new sample. So an example costs at most one request more than it may have samples.
    """
    request, reply = tries[-1]
    verdict, _ = verdict_of(example, reply, task)
    if is_kept(verdict, keep) or verdict in ("refused", "failed", "unknown", "unpaid"):
        return None
    if verdict == "truncated" and keep.longer and request.max_tokens == tries[0][0].max_tokens:
        return replace(request, max_tokens=2 * request.max_tokens)
    if request.sample + 1 < keep.samples:
        return replace(request, sample=request.sample + 1)
    return None


_NO_REPLY = Reply("", "", 0, 0)


def judged(example: Example, tries: Tries, task: Task, keep: Keep) -> Rationale:
    """One example's rationale: the first that is kept, else the last; its cost is that of all tries."""
    verdicts = [verdict_of(example, reply, task) for _, reply in tries]
    best = next((n for n, (verdict, _) in enumerate(verdicts) if is_kept(verdict, keep)), len(tries) - 1)
    verdict, stated = verdicts[best]
    replies = [reply for _, reply in tries if reply is not None]
    shown = tries[best][1] or (replies[-1] if replies else _NO_REPLY)
    is_learnt = is_kept(verdict, keep) and bool(shown.text.strip())  # from nothing nothing is learnt
    kept = shown if is_learnt else _NO_REPLY
    return Rationale(
        id=example.id,
        verdict=verdict,
        first=verdicts[0][0],
        kept=is_learnt,
        stated=stated,
        text=shown.text,
        reasoning=shown.reasoning,
        loops=is_loop(shown.text),
        gold_shown=keep.gold_shown,
        requests=len(replies),
        prompt_tokens=sum(reply.prompt_tokens for reply in replies),
        cached_tokens=sum(reply.cached_tokens for reply in replies),
        completion_tokens=sum(reply.completion_tokens for reply in replies),
        kept_prompt_tokens=kept.prompt_tokens,
        kept_cached_tokens=kept.cached_tokens,
        kept_completion_tokens=kept.completion_tokens,
    )


def contaminated(one: Rationale) -> Rationale:
    """The same rationale, rejected since it recites a held-out question."""
    return replace(
        one, verdict="contaminated", kept=False, kept_prompt_tokens=0, kept_cached_tokens=0, kept_completion_tokens=0
    )


def is_loop(text: str) -> bool:
    """Whether a text ends by saying the same thing over and over: compressed, its end is less than a fifth as long.

    On 12,030 recorded rationales of Llama-3.1-70B this holds for 174 of the 253 that state no answer, most of them
    endless, and for 8 of the others.

    Example:
        >>> is_loop("3 + 4 is 7 . " + "so 7 is prime . " * 40), is_loop("No, no, no! The answer is (B). " * 3)
        (True, False)
    """
    end = " ".join(text.split())[-_END:].encode()
    return len(end) >= _SHORT and len(zlib.compress(end)) < LOOP_SHARE * len(end)


def by_band(
    rationales: Iterable[Rationale], bands: Mapping[str, str], price: Price | None = None
) -> dict[str, dict[str, Any]]:
    """What became of the rationales of each band.

    Args:
        rationales: Of any arms. Of an example that occurs twice the first counts, a paid one before an unpaid one.
        bands: Band by example id; an example that is not in it is of the band `all`.
        price: Of the teacher's tokens; None where nobody knows.

    Returns:
        For each band that occurs, in the order easy, medium, hard, all, what `band_row` says.
    """
    distinct: dict[str, Rationale] = {}
    for one in sorted(rationales, key=lambda one: one.verdict == "unpaid"):
        distinct.setdefault(one.id, one)
    inside: dict[str, list[Rationale]] = {}
    for one in distinct.values():
        inside.setdefault(bands.get(one.id, "all"), []).append(one)
    return {name: band_row(inside[name], price) for name in ("easy", "medium", "hard", "all") if name in inside}


def band_row(rows: Sequence[Rationale], price: Price | None = None) -> dict[str, Any]:
    """What became of some rationales.

    Returns:
        `n`, a count for each verdict, `kept`, `unproven` (kept, but the gold answer is not stated or was shown),
        `gold_shown`, `loops`, `stated` (first replies that came whole and state an answer, where the gold one was not
        shown), `agreement` (share of these that state the gold one, or None), `tokens`, `unusable_tokens`,
        `unusable_usd`, and `median_tokens`, written for one reply.
    """
    verdicts, first = [one.verdict for one in rows], [one.first for one in rows if not one.gold_shown]
    stated = first.count("correct") + first.count("wrong")
    written = [one.completion_tokens / one.requests for one in rows if one.completion_tokens]
    return {
        "n": len(rows),
        "kept": sum(one.kept for one in rows),
        **{verdict: verdicts.count(verdict) for verdict in REASONS},
        "unproven": sum(one.kept and (one.gold_shown or one.verdict != "correct") for one in rows),
        "gold_shown": sum(one.gold_shown for one in rows),
        "loops": sum(one.loops for one in rows),
        "stated": stated,
        "agreement": first.count("correct") / stated if stated else None,
        "tokens": sum(one.tokens for one in rows),
        "unusable_tokens": sum(one.unusable_tokens for one in rows),
        "unusable_usd": price and _unusable_usd(rows, price),
        "median_tokens": median(written) if written else None,
    }


def _unusable_usd(rows: Sequence[Rationale], price: Price) -> float:
    kept = ("prompt_tokens", "completion_tokens", "cached_tokens")
    return price.usd(*(sum(getattr(one, name) - getattr(one, f"kept_{name}") for one in rows) for name in kept))


def what_to_do(samples: int, on_rejected: str) -> str:
    """What helps against a teacher that fails where it is needed, without what the recipe does already.

    Args:
        samples: How often an example may be asked for.
        on_rejected: What comes in the place of a rationale that is not kept.

    Example:
        >>> what_to_do(samples=3, on_rejected="answer")
        'take a stronger teacher'
    """
    again = ["keep: correct_or_ask_again(3) with teacher.temperature above 0"] if samples == 1 else []
    fill = ["on_rejected: answer, which fills the gaps and leaves this verdict"] if on_rejected != "answer" else []
    return "; or ".join(["take a stronger teacher", *again, *fill])


def teacher_verdict(bands: Mapping[str, Mapping[str, Any]], min_usable: float) -> dict[str, Any]:
    """Whether the teacher is good enough where it is needed: on the hardest questions.

    A rationale is usable where it states the gold answer, also under `keep: all`. The share itself decides, not its
    interval: a teacher is not called good enough because few questions were asked.

    Args:
        bands: From `by_band`.
        min_usable: Share of the hard rationales that must be usable.

    Returns:
        `verdict` ("PASS", `FAILURE`, "NOT ASKED" where no hard rationale was bought, or "NOT JUDGED" where enough
        state an answer that the teacher was shown), `band` that it is about, `n` rationales that were paid, `usable`
        among them, and their `share` with the ends of its 95% interval, `low` and `high`. Where bands are not known,
        all rationales count.
    """
    band = "hard" if "hard" in bands else "all"
    row = bands.get(band)
    n = row["n"] - row["unpaid"] if row else 0
    if not row or not n:
        return {"verdict": "NOT ASKED", "min_usable": min_usable}
    from teachwise.stats import wilson  # not above: scipy is slow to load, and every recipe is read with `Keep`

    share = wilson(row["correct"], n)
    enough = "NOT JUDGED" if row["gold_shown"] else "PASS"
    return {
        "verdict": enough if share.value >= min_usable else FAILURE,
        "min_usable": min_usable,
        "band": band,
        "n": n,
        "usable": row["correct"],
        "share": share.value,
        "low": share.low,
        "high": share.high,
    }
