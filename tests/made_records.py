"""Records made by hand, with what a test does not care for filled in."""

from teachwise.records import Rationale

FREE = ("failed", "unknown", "unpaid")
"""Verdicts on rationales that were not billed."""


def rationale(id, verdict="correct", stated="A", text="so A", prompt_tokens=5, completion_tokens=6, **changes):
    """What became of one example after one request; it is kept where it is correct."""
    kept, billed = changes.pop("kept", verdict == "correct"), verdict not in FREE
    fields = {
        "first": verdict,
        "stated": stated,
        "text": text if billed else "",
        "reasoning": "",
        "loops": False,
        "gold_shown": False,
        "requests": int(verdict != "unpaid"),
        "prompt_tokens": prompt_tokens * billed,
        "cached_tokens": 0,
        "completion_tokens": completion_tokens * billed,
        "kept_prompt_tokens": prompt_tokens * kept,
        "kept_cached_tokens": 0,
        "kept_completion_tokens": completion_tokens * kept,
    }
    return Rationale(id, verdict, kept=kept, **{**fields, **changes})
