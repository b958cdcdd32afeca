"""Writing: the student's own text for each example, greedy, and what its tokens are.

Its tokens are never written down as text and cut anew: what was generated is what is read again.
"""

import re
from bisect import bisect_right
from collections.abc import Callable, Sequence
from itertools import accumulate
from typing import Any, Literal

from teachwise.engines import length_batches
from teachwise.evidence import ChainEvidence
from teachwise.measures import Asking
from teachwise.run_folder import in_parts

THOUGHT_END = "</think>"
"""What reasoning models write between their thoughts and their reply."""
_SENTENCE_END = re.compile(r"[.;!?…]+[\"')\]*]*(?=\s)|\n+")


def written(asking: Asking, mode: Literal["direct", "cot"], max_new_tokens: int, what: str) -> list[ChainEvidence]:
    """What the student writes for each example, and how sure it was of every token.

    Args:
        asking: Examples, task, student and where finished batches are kept.
        mode: How it is asked.
        max_new_tokens: Most tokens of one text.
        what: The name of the job on the progress bar.

    Returns:
        N records, in the order of the examples.
    """
    engine, examples = asking.student(), asking.examples
    prompts = engine.chat.prompt_ids([asking.task.messages(example, mode) for example in examples])

    def work(batch: Sequence[int]) -> list[ChainEvidence]:
        asked = [prompts[i] for i in batch]
        texts = engine.generate(asked, max_new_tokens)
        facts = engine.token_facts(asked, [one.ids for one in texts])
        return [
            _record(asking, i, len(prompts[i]), text, found) for i, text, found in zip(batch, texts, facts, strict=True)
        ]

    batches = length_batches([len(prompt) + max_new_tokens for prompt in prompts], asking.batch_tokens)
    place = {example.id: number for number, example in enumerate(examples)}
    return sorted(in_parts(asking.folder, ChainEvidence, batches, work, what), key=lambda row: place[row.id])


def _record(asking: Asking, i: int, n_prompt: int, text: Any, facts: Any) -> ChainEvidence:
    example, ids = asking.examples[i], text.ids
    pieces = asking.student().chat.pieces(ids if text.is_truncated else ids[:-1])
    stated = asking.task.read_answer(example, text.text)
    at = answer_token(pieces, stated, lambda start: asking.task.read_answer(example, start))
    return ChainEvidence(
        id=example.id,
        text=text.text,
        stated=stated,
        is_truncated=text.is_truncated,
        prompt_tokens=n_prompt,
        entropies=facts.entropies,
        leads=facts.leads,
        logprobs=facts.logprobs,
        sentences=sentence_starts(pieces),
        answer_at=at,
        thinking_tokens=thinking_tokens(pieces, at),
    )


def answer_token(pieces: Sequence[str], stated: str | None, read: Callable[[str], str | None]) -> int | None:
    """Number of the token where the answer begins that a text states.

    Of all places where the answer stands in the text, it is the last one before which the text does not state it yet.

    Args:
        pieces: T, what each token adds to the text.
        stated: The answer that the whole text states.
        read: From the beginning of a text to the answer that it states.

    Example:
        >>> answer_token(["A", " or", " B", "?", " [[", "B", "]]"], "B", lambda text: "B" if "[[B" in text else None)
        5
    """
    if stated is None:
        return None
    text, places = "".join(pieces), _places(pieces)
    pattern = rf"(?<!\w){re.escape(stated)}(?!\w)"
    for match in reversed(list(re.finditer(pattern, text, re.IGNORECASE))):
        if read(text[: match.start()]) != stated:
            return places(match.start())
    return None


def sentence_starts(pieces: Sequence[str]) -> tuple[int, ...]:
    """Number of the first token of each sentence; a token that holds an end and a beginning belongs to the former.

    Example:
        >>> sentence_starts(["It", " is", " 3", ".", "5", ".", " So", " A"])
        (0, 6)
    """
    text, places = "".join(pieces), _places(pieces)
    after = {places(match.end() - 1) + 1 for match in _SENTENCE_END.finditer(text)}
    return (0, *sorted(after - {len(pieces)})) if pieces else ()


def thinking_tokens(pieces: Sequence[str], answer_at: int | None) -> int:
    """How many tokens of a text are its thinking, the tag that ends it included.

    Example:
        >>> thinking_tokens(["Hm", "</think>", " It", " is", " B"], 4), thinking_tokens(["It", " is", " B"], 2)
        (2, 2)
    """
    end = "".join(pieces).rfind(THOUGHT_END)
    if end >= 0:
        return _places(pieces)(end + len(THOUGHT_END) - 1) + 1
    return len(pieces) if answer_at is None else answer_at


def _places(pieces: Sequence[str]) -> Callable[[int], int]:
    """From the number of a character in the text to that of the token it belongs to."""
    ends = list(accumulate(map(len, pieces)))
    return lambda character: bisect_right(ends, character)
