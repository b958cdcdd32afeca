"""Measures of a whole answer at once, for open questions, whose answer may be several tokens.

The student answers without thinking, greedily, and reads its answer again in one pass. Counted is every token of the
answer and the one that ends the turn, since where a number ends is part of it.
"""

import numpy as np

from teachwise.evidence import ChainEvidence
from teachwise.measures import Asking, Known
from teachwise.measures.chain import chain_example
from teachwise.measures.writing import written

MOST_TOKENS = 32
"""Longest answer at once."""


def sequence_entropy(known: Known) -> list[float]:
    """Entropy of the whole answer, the sum of H_t over its tokens and the end of the turn.

    By the chain rule it is the entropy of the answer, where what the student would have written after other tokens is
    taken to be as unsure as what it wrote. Of one letter, nearly the same as `answer_entropy`.

    Source:
        Malinin and Gales, arXiv 2002.07650, entropy of a sequence, here along one text.

    Example:
        >>> sequence_entropy(reply_example())
        [3.625]
    """
    return [sum(one.entropies) for one in known.evidence["reply"]]


def sequence_surprise(known: Known) -> list[float]:
    """How unlikely the student's own answer is, the sum of -ln p over its tokens and the end of the turn.

    Source:
        Malinin and Gales, arXiv 2002.07650, likelihood of a sequence.

    Example:
        >>> sequence_surprise(reply_example())
        [1.5]
    """
    return [-sum(one.logprobs) for one in known.evidence["reply"]]


def reply_correct(known: Known) -> np.ndarray:
    """(N,) bool: the whole answer at once is right; `known.correct` looks at its first token alone.

    Example:
        >>> reply_correct(reply_example()).tolist()
        [True]
    """
    pairs = zip(known.examples, known.evidence["reply"], strict=True)
    return np.array([one.stated == example.answer for example, one in pairs], dtype=bool)


def reply_example() -> Known:
    """The example of the chain measures, taken for an answer at once."""
    one = chain_example()
    return Known(one.examples, one.correct, {"reply": one.evidence["chain"]})


def replies(asking: Asking) -> list[ChainEvidence]:
    """The student's whole answer at once to each example."""
    return written(asking, "direct", MOST_TOKENS, "writing answers")
