"""Measures of how a student thinks, not of what it thinks: all from its chain of thought.

The thinking is what stands before `</think>` where a reasoning model writes that, the tag included; else what stands
before the answer; else the whole text.
"""

import numpy as np

from teachwise.measures import Known


def thinking_length(known: Known) -> list[int]:
    """Tokens of the student's thinking; at the limit, no more than it was allowed.

    Source:
        arXiv 2506.21220, what is recorded of reasoning models.

    Example:
        >>> from teachwise.measures.chain import chain_example
        >>> thinking_length(chain_example())
        [3]
    """
    return [one.thinking_tokens for one in known.evidence["chain"]]


def thinking_entropy(known: Known) -> list[float]:
    """Mean entropy of the tokens of the student's thinking, its answer's token left out.

    Where the student marks no end of its thoughts, the words that lead up to its answer count too. It has no value
    where the student answers without a thought.

    Source:
        arXiv 2506.21220, what is recorded of reasoning models.

    Example:
        >>> from teachwise.measures.chain import chain_example
        >>> thinking_entropy(chain_example())  # of 0, 2 and 1
        [1.0]
    """
    thoughts = [one.entropies[: one.thinking_tokens] for one in known.evidence["chain"]]
    return [float(np.mean(thought)) if thought else float("nan") for thought in thoughts]


def thinking_cut(known: Known) -> list[int]:
    """Whether the text met `score.max_new_tokens` before the student ended it: 1, or 0.

    Source:
        arXiv 2506.21220, what is recorded of reasoning models: 1,872 of 12,032 chains of one met their limit.

    Example:
        >>> from teachwise.measures.chain import chain_example
        >>> thinking_cut(chain_example())
        [0]
    """
    return [int(one.is_truncated) for one in known.evidence["chain"]]
