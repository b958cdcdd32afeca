"""Measures of self-consistency: the student thinks S times, by lot, and its answers are votes.

An unreadable text is a vote that agrees with no other, not even with another unreadable one. As one answer of their
own, or left out, unreadable texts would make a student that never states an answer look perfectly sure.
"""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from teachwise.engines import length_batches
from teachwise.evidence import AnswerEvidence, VoteEvidence
from teachwise.measures import Asking, Known
from teachwise.measures.answer import known_example
from teachwise.records import Example
from teachwise.run_folder import content_hash, in_parts


def vote_entropy(known: Known) -> list[float]:
    """Entropy of the votes, -sum v ln v over the shares v of the answers, from 0 to ln S.

    Source:
        Self-consistency: Wang et al., arXiv 2203.11171, who take the commonest answer.

    Example:
        >>> [round(value, 4) for value in vote_entropy(votes_example())]  # of 2/4, 1/4 and 1/4
        [1.0397]
    """
    return [_entropy(shares(one.votes)) for one in known.evidence["votes"]]


def vote_agreement(known: Known) -> list[float]:
    """One less the share of the commonest answer among the votes; 1 where no text states an answer.

    Source:
        Self-consistency: Wang et al., arXiv 2203.11171, who find that this share predicts accuracy.

    Example:
        >>> vote_agreement(votes_example())
        [0.5]
    """
    return [1 - max(_readable(one.votes).values(), default=0) / len(one.votes) for one in known.evidence["votes"]]


def vote_conflict(known: Known) -> list[float]:
    """Share of the votes that are not for the student's answer at once; 1 where that cannot be read.

    Example:
        >>> vote_conflict(votes_example())  # it answers A at once, and once in four votes
        [0.75]
    """
    pairs = zip(known.answers, known.evidence["votes"], strict=True)
    return [1 - _readable(one.votes).get(at_once.predicted or "", 0) / len(one.votes) for at_once, one in pairs]


def vote_hybrid(known: Known) -> list[float]:
    """Entropy of the votes and the answer at once together, each counted half, against confident errors.

    It is low only where both are sure of the same answer: two sure ones that contradict each other make ln 2. Of the
    answer at once, the distribution over the options counts; of an open one, its likeliest token against all others
    as one.

    Example:
        >>> round(vote_hybrid(votes_example())[0], 4)  # A 7/16, B 6/16, C 1/16, unreadable 2/16
        1.1627
    """
    pairs = zip(known.examples, known.answers, known.evidence["votes"], strict=True)
    return [_entropy(_half_half(_at_once(e, at_once), shares(one.votes))) for e, at_once, one in pairs]


def vote_correct(known: Known) -> np.ndarray:
    """(N,) bool: the commonest answer among the votes is right; of equally common ones, the one that was first.

    Source:
        Self-consistency: Wang et al., arXiv 2203.11171.

    Example:
        >>> vote_correct(votes_example()).tolist()
        [True]
    """
    found = [max(readable, key=readable.__getitem__, default=None) for readable in _all_readable(known)]
    return np.array([one == example.answer for one, example in zip(found, known.examples, strict=True)], dtype=bool)


def shares(votes: Sequence[str]) -> dict[str, float]:
    """Share of each answer among the votes; each unreadable one is an answer of its own.

    Example:
        >>> shares(["B", "B", "", "A"])
        {'B': 0.5, 'A': 0.25, ' 0': 0.25}
    """
    readable = _readable(votes)
    alone = {f" {number}": 1 for number in range(len(votes) - sum(readable.values()))}  # no answer begins with a blank
    return {answer: n / len(votes) for answer, n in (readable | alone).items()}


def votes_example() -> Known:
    """One question with its answer at once and four votes, for the examples in docstrings."""
    one = known_example()
    votes = VoteEvidence("e", ("B", "B", "", "A"), ("[[B]]", "[[B]]", "hm", "[[A]]"), (4, 4, 2, 4), 0)
    return Known(one.examples, one.correct, {**one.evidence, "votes": [votes]})


def _all_readable(known: Known) -> list[dict[str, int]]:
    return [_readable(one.votes) for one in known.evidence["votes"]]


def _readable(votes: Sequence[str]) -> dict[str, int]:
    return dict(Counter(vote for vote in votes if vote))


def _entropy(shares: Mapping[str, float]) -> float:
    return -math.fsum(share * math.log(share) for share in shares.values() if share > 0)


def _half_half(one: Mapping[str, float], other: Mapping[str, float]) -> dict[str, float]:
    return {answer: (one.get(answer, 0.0) + other.get(answer, 0.0)) / 2 for answer in {**one, **other}}


def _at_once(example: Example, found: AnswerEvidence) -> dict[str, float]:
    """The student's belief over answers before it thinks."""
    if found.letter_logprobs:
        weights = np.exp(np.array(found.letter_logprobs) - max(found.letter_logprobs))
        return dict(zip(example.letters, (weights / weights.sum()).tolist(), strict=True))
    return {found.predicted or " else": math.exp(found.top_logprob), " others": -math.expm1(found.top_logprob)}


def votes(asking: Asking) -> list[VoteEvidence]:
    """S chains of thought for each example, drawn by lot.

    A text is drawn with numbers that come from its example's id and its own number alone. So it does not depend on the
    batch, beyond rounding, and of ten texts the first five are those that five would have been.
    """
    engine, examples, wanted = asking.student(), asking.examples, asking.settings
    n_votes, n_tokens = wanted["samples"], wanted["max_new_tokens"]
    prompts = engine.chat.prompt_ids([asking.task.messages(example, "cot") for example in examples])

    def work(batch: Sequence[int]) -> list[VoteEvidence]:
        lots = np.stack([numbers(examples[i].id, s, n_tokens) for i in batch for s in range(n_votes)])
        asked = [prompts[i] for i in batch for _ in range(n_votes)]
        found = engine.generate(asked, n_tokens, wanted["temperature"], lots)
        return [_record(asking, i, found[k * n_votes : (k + 1) * n_votes]) for k, i in enumerate(batch)]

    lengths = [(len(prompt) + n_tokens) * n_votes for prompt in prompts]
    place = {example.id: number for number, example in enumerate(examples)}
    batches = length_batches(lengths, asking.batch_tokens)
    return sorted(in_parts(asking.folder, VoteEvidence, batches, work, "voting"), key=lambda row: place[row.id])


def numbers(example_id: str, sample: int, n_tokens: int) -> np.ndarray:
    """(T,) numbers from 0 to 1 that the tokens of one text are drawn with, the same on every machine."""
    return np.random.default_rng(int(content_hash(f"vote {sample} of {example_id}"), 16)).random(n_tokens)


def _record(asking: Asking, i: int, texts: Sequence[Any]) -> VoteEvidence:
    example = asking.examples[i]
    stated = [asking.task.read_answer(example, one.text) or "" for one in texts]
    cut = sum(one.is_truncated for one in texts)
    return VoteEvidence(
        example.id, tuple(stated), tuple(one.text for one in texts), tuple(one.tokens for one in texts), cut
    )
