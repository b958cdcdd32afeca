"""Measures of a chain of thought: how sure the student was of its words while it reasoned in writing.

The student writes one chain for each question, greedily, and reads it again in one pass. H_t is the entropy over the
whole vocabulary where token t of its text was chosen, the token that ends the turn left out; p1 and p2 are the
probabilities of the two likeliest tokens there. An empty text has no value, and one that states no answer has none by
a measure that looks at the answer's token.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from teachwise.evidence import ChainEvidence
from teachwise.measures import Asking, Known
from teachwise.measures.writing import written
from teachwise.records import Example

TAIL = 5
"""Tokens at the end of a text that the tail measures look at; published were 1, 2, 3, 5 and 10."""
HIGH = 75
"""Percentile of the train tokens' entropies above which one is high."""
MIX = (0.05, 0.95)
"""Weights of the highest entropy and the answer's in their mix."""


def chain_answer(known: Known) -> list[float]:
    """Entropy where the answer begins that the chain states, H_a; of an open answer, of its first token.

    Source:
        arXiv 2506.21220, at the token after `[[`. Here it is where the text first states the answer that it ends with,
        in whatever form.

    Example:
        >>> chain_answer(chain_example())
        [0.5]
    """
    return [_answer(one) for one in _chains(known)]


def chain_max(known: Known) -> list[float]:
    """Highest entropy of a token, max H_t.

    Source:
        arXiv 2506.21220, aggregates of the chain-of-thought entropy.

    Example:
        >>> chain_max(chain_example())
        [2.0]
    """
    return [_of(one, np.max) for one in _chains(known)]


def chain_mean(known: Known) -> list[float]:
    """Mean entropy of the tokens.

    Source:
        arXiv 2506.21220, aggregates of the chain-of-thought entropy.

    Example:
        >>> chain_mean(chain_example())
        [0.875]
    """
    return [_of(one, np.mean) for one in _chains(known)]


def chain_gap(known: Known) -> list[float]:
    """How far the highest entropy lies from the answer's, abs(max H_t - H_a).

    Source:
        arXiv 2506.21220, aggregates of the chain-of-thought entropy.

    Example:
        >>> chain_gap(chain_example())
        [1.5]
    """
    return [abs(_of(one, np.max) - _answer(one)) for one in _chains(known)]


def chain_top_two(known: Known) -> list[float]:
    """Highest entropy of a token less the second highest; of a single token, its own.

    Source:
        arXiv 2506.21220, aggregates of the chain-of-thought entropy.

    Example:
        >>> chain_top_two(chain_example())
        [1.0]
    """
    return [_of(one, _top_two) for one in _chains(known)]


def chain_mix(known: Known) -> list[float]:
    """Highest entropy and the answer's, mixed: 0.05 max H_t + 0.95 H_a.

    Source:
        arXiv 2506.21220, aggregates of the chain-of-thought entropy.

    Example:
        >>> chain_mix(chain_example())
        [0.575]
    """
    return [MIX[0] * _of(one, np.max) + MIX[1] * _answer(one) for one in _chains(known)]


def chain_margin(known: Known) -> list[float]:
    """Mean over the tokens of one less the lead of the likeliest token over the second likeliest, 1 - (p1 - p2).

    Source:
        arXiv 2506.21220, aggregates of the chain-of-thought entropy, mean probability difference.

    Example:
        >>> chain_margin(chain_example())
        [0.375]
    """
    return [1 - _of(one, np.mean, one.leads) for one in _chains(known)]


def chain_surprise(known: Known) -> list[float]:
    """Mean over the tokens of -ln p of the token that the student wrote: the logarithm of its perplexity.

    Source:
        Malinin and Gales, arXiv 2002.07650, length-normalised likelihood of a sequence.

    Example:
        >>> chain_surprise(chain_example())
        [0.375]
    """
    return [-_of(one, np.mean, one.logprobs) for one in _chains(known)]


def chain_sequence(known: Known) -> list[float]:
    """Entropy of the whole chain, summed over its tokens; so long chains count as unsure.

    Source:
        Malinin and Gales, arXiv 2002.07650, entropy of a sequence by the chain rule, here along one text.

    Example:
        >>> chain_sequence(chain_example())
        [3.5]
    """
    return [_of(one, np.sum) for one in _chains(known)]


def chain_sentence_mean(known: Known) -> list[float]:
    """Mean of the sentences' mean entropies, so that a short one counts as much as a long one.

    A sentence ends at a line break, and at . ; ! ? or an ellipsis with a blank after it; the published windows end at a
    line break, a semicolon and an ellipsis alone.

    Source:
        arXiv 2506.21220, sentence windows, mean of means.

    Example:
        >>> chain_sentence_mean(chain_example())  # of 1 and 0.5
        [0.75]
    """
    return [_of_sentences(one, np.mean, np.mean) for one in _chains(known)]


def chain_sentence_max(known: Known) -> list[float]:
    """Mean entropy of the sentence whose mean is the highest.

    Source:
        arXiv 2506.21220, sentence windows, maximum of means.

    Example:
        >>> chain_sentence_max(chain_example())
        [1.0]
    """
    return [_of_sentences(one, np.mean, np.max) for one in _chains(known)]


def chain_sentence_peak(known: Known) -> list[float]:
    """Mean of the sentences' highest entropies.

    Source:
        arXiv 2506.21220, sentence windows, mean of maxima.

    Example:
        >>> chain_sentence_peak(chain_example())  # of 2 and 0.5
        [1.25]
    """
    return [_of_sentences(one, np.max, np.mean) for one in _chains(known)]


def chain_tail(known: Known) -> list[float]:
    """Mean entropy of the last 5 tokens.

    Source:
        The attention study in the later code of the authors of arXiv 2506.21220.

    Example:
        >>> chain_tail(chain_example())  # of all four
        [0.875]
    """
    return [_of(one, np.mean, one.entropies, TAIL) for one in _chains(known)]


def chain_tail_max(known: Known) -> list[float]:
    """Highest entropy of the last 5 tokens.

    Source:
        The attention study in the later code of the authors of arXiv 2506.21220.

    Example:
        >>> chain_tail_max(chain_example())
        [2.0]
    """
    return [_of(one, np.max, one.entropies, TAIL) for one in _chains(known)]


def chain_tail_median(known: Known) -> list[float]:
    """Median entropy of the last 5 tokens.

    Source:
        The attention study in the later code of the authors of arXiv 2506.21220.

    Example:
        >>> chain_tail_median(chain_example())  # of 0, 0.5, 1 and 2
        [0.75]
    """
    return [_of(one, np.median, one.entropies, TAIL) for one in _chains(known)]


def chain_high_share(known: Known) -> list[float]:
    """Share of the tokens whose entropy is high: above the 75th percentile of all tokens of the train examples' chains.

    Source:
        The attention study in the later code of the authors of arXiv 2506.21220. The percentile is taken over train
        examples alone here, so that no test question has a say in another's score.

    Example:
        >>> chain_high_share(chain_example())  # of 0, 2, 1 and 0.5 the percentile is 1.25
        [0.25]
    """
    pairs = list(zip(known.examples, _chains(known), strict=True))
    train = [_text(one) for example, one in pairs if example.split == "train"] or [_text(one) for _, one in pairs]
    limit = np.percentile(tokens, HIGH) if len(tokens := np.concatenate(train)) else 0.0
    return [_of(one, lambda h: np.mean(h > limit)) for _, one in pairs]


def chain_correct(known: Known) -> np.ndarray:
    """(N,) bool: the answer that a chain states is right; `known.correct` is of the answer at once.

    It is the answer at the end of their chains against which the published measures of chains were judged.

    Example:
        >>> chain_correct(chain_example()).tolist()
        [True]
    """
    pairs = zip(known.examples, _chains(known), strict=True)
    return np.array([one.stated == example.answer for example, one in pairs], dtype=bool)


def chain_example() -> Known:
    """One question and its chain of four tokens in two sentences, for the examples in docstrings."""
    example = Example("e", 0, "train", "sums", 1, "1 + 1?", ("2", "3", "4"), "B")
    chain = ChainEvidence(
        id="e",
        text="Let's see. B",
        stated="B",
        is_truncated=False,
        prompt_tokens=12,
        entropies=(0.0, 2.0, 1.0, 0.5, 0.125),
        leads=(1.0, 0.25, 0.5, 0.75, 1.0),
        logprobs=(0.0, -1.0, -0.25, -0.25, 0.0),
        sentences=(0, 3),
        answer_at=3,
        thinking_tokens=3,
    )
    return Known([example], np.array([False]), {"chain": [chain]})


def _chains(known: Known) -> Sequence[ChainEvidence]:
    return known.evidence["chain"]


def _text(one: ChainEvidence) -> np.ndarray:
    """(T,) entropies of the text alone."""
    return np.array(one.entropies[: one.text_tokens])


def _answer(one: ChainEvidence) -> float:
    return float("nan") if one.answer_at is None else one.entropies[one.answer_at]


def _of(
    one: ChainEvidence, aggregate: Callable[..., Any], values: Sequence[float] | None = None, last: int = 0
) -> float:
    """An aggregate of a text's tokens, of their entropies where no other values are given; NaN where it has none."""
    kept = (one.entropies if values is None else values)[: one.text_tokens][-last:]
    return float(aggregate(np.array(kept))) if kept else float("nan")


def _top_two(entropies: np.ndarray) -> float:
    second, first = np.sort([0.0, *entropies])[-2:]
    return float(first - second)


def _of_sentences(one: ChainEvidence, inside: Callable[..., Any], over: Callable[..., Any]) -> float:
    """An aggregate over the sentences of an aggregate inside each; NaN where there is none."""
    parts = [part for part in np.split(_text(one), one.sentences[1:]) if len(part)]
    return float(over([inside(part) for part in parts])) if parts else float("nan")


def chains(asking: Asking) -> list[ChainEvidence]:
    """One chain of thought for each example, greedy, with the facts of every token."""
    return written(asking, "cot", asking.settings["max_new_tokens"], "writing chains")
